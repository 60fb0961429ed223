"""Checks of what was put out against what was expected: topics of results, Redis, ClickHouse."""

import json
from collections import Counter, defaultdict

import expected
from dump import milliseconds

MESSAGE = ["server_time", "lat", "lon", "altitude_m", "speed_kmh", "heading_deg", "satellites", "hdop", "ignition",
           "fuel_level_pct", "engine_temp_c", "odometer_km", "battery_v", "events", "attributes"]
NESTED = ("events", "attributes", "group_ids")
REFERENCES = ["vehicle_id", "plate", "model", "company_id", "company_name", "tariff_id", "driver_id", "driver_name",
              "driver_phone"]
LATITUDE_MAX, LONGITUDE_MAX, CELLS = 85.05112878, 180.0, 1 << 26


def place(record):
    return f"{record['partition']}/{record['offset']}"


def plain(name, value):
    """A value as the input has it: lists and objects are kept as their text."""
    return json.loads(value) if name in NESTED and isinstance(value, str) else value


def differing(found, wanted, names):
    """The first of these fields that differs, in words."""
    for name in names:
        if plain(name, found.get(name)) != wanted.get(name):
            return f"{name} is {found.get(name)!r}, not {wanted.get(name)!r}"
    return None


class Outputs:
    """All checks; what they find goes to the report."""

    def __init__(self, dump, model, report):
        self.dump, self.model, self.report = dump, model, report
        self.window, self.back_ms = model.window, dump.facts["slack_ms"]

    def everything(self):
        self.inputs()
        self.dead_letters()
        self.history()
        self.enriched()
        self.happened = self.events()
        self.vehicle_state()
        self.redis()
        self.links()
        self.minutes()
        self.positions()
        self.clients()

    # I1, I2

    def inputs(self):
        there = {(stream, r["partition"], r["offset"]) for stream in expected.records.REFERENCES | {"telemetry": 0}
                 for r in self.dump.topic(stream)}
        acked = [line for line in self.dump.sent if line["outcome"] == "ok"]
        for line in acked:
            if (line["stream"], line["partition"], line["offset"]) not in there:
                self.report.fault("I1", "lost", f"acknowledged {line['stream']} {place(line)}")
        self.report.checked("I1", "acknowledged records are in Kafka", len(acked))

    def dead_letters(self):
        names = {topic: stream for stream, topic in self.dump.facts["topics"].items()}
        seen = Counter()
        for record in self.dump.topic("dead_letters"):
            headers = record["headers"]
            origin = (names.get(headers.get("topic")), int(headers.get("partition", -1)), int(headers.get("offset", -1)))
            seen[origin] += 1
            what = f"dead letter of {origin[0]} {origin[1]}/{origin[2]}"
            if seen[origin] > 1:
                self.report.fault("I3", "doubled", what)
            if origin not in self.model.refused:
                self.report.fault("I5", "phantom", f"{what} ({headers.get('code')}): the record is good, or is none")
                continue
            code, source = self.model.refused[origin]
            if headers.get("code") != code or not headers.get("message"):
                self.report.fault("I2", "wrong value", f"{what}: reason {headers.get('code')}, expected {code}")
            if (record["key"], record["value"]) != (source["key"], source["value"]) and "value-bytes" not in headers:
                self.report.fault("I2", "wrong value", f"{what}: not as it came")
        for origin in self.model.refused.keys() - seen.keys():
            self.report.fault("I2", "lost", f"no dead letter of {origin[0]} {origin[1]}/{origin[2]}")
        self.report.checked("I2", "refused records are in the dead letters once, with their reason", len(self.model.refused))

    def message(self, found, message, what):
        fault = differing(found, message, ["device_id", "ts", "seq", *MESSAGE])
        if fault:
            self.report.fault("I2", "wrong value", f"{what}: {fault}")
        low, high = message["time"] - self.window, message["time"] + self.window
        fault = self.model.judge(found, message["device_id"], low, high)
        if fault:
            self.report.fault("I6" if fault[0] == "crossed company" else "I2", fault[0], f"{what}: {fault[1]}")

    def history(self):
        seen = {}
        for row in self.dump.tables["telemetry_history"]:
            at, what = (int(row["partition"]), int(row["offset"])), f"history {place(row)}"
            if at in seen:
                self.report.fault("I3", "doubled", what)
            seen[at] = row
            message = self.model.messages.get(at)
            if message is None or row["topic"] != self.dump.facts["topics"]["telemetry"]:
                self.report.fault("I5", "phantom", f"{what}: no accepted message stands there")
                continue
            self.message(row, message, what)
        for at in self.model.messages.keys() - seen.keys():
            self.report.fault("I2", "lost", f"history {at[0]}/{at[1]}")
        raw = Counter()
        for row in self.dump.raw["telemetry_history"]:
            at = (int(row["partition"]), int(row["offset"]))
            raw[at] += 1
            message = self.model.messages.get(at)
            event = (row["device_id"], milliseconds(row["ts"]), int(row["seq"]))
            if message is None or event != (message["device_id"], message["ts"], message["seq"]):
                self.report.fault("I5", "phantom", f"history {place(row)} (without FINAL)")
        self.history_rows = seen
        self.report.checked("I2", "accepted messages are in the history once (FINAL)", len(self.model.messages))
        self.report.counted("rows of the history written again and replaced", sum(raw.values()) - len(raw))

    def enriched(self):
        seen, newest, other = set(), {}, 0
        for record in self.dump.topic("enriched"):
            name = record["headers"].get("hs-id", "")
            what = f"enriched {name} at {place(record)}"
            parts = name.split("/")
            at = (int(parts[1]), int(parts[2])) if len(parts) == 3 and parts[0] == "telemetry_enriched" else None
            message = self.model.messages.get(at)
            if message is None:
                self.report.fault("I5", "phantom", what)
                continue
            if at in seen:
                self.report.fault("I3", "doubled", what)
                continue
            seen.add(at)
            if newest.get(record["key"], at) > at:
                self.report.fault("I4", "wrong order", f"{what}: after {newest[record['key']]} of its device")
            newest[record["key"]] = at
            value = json.loads(record["value"])
            self.message(value, message, what)
            row = self.history_rows.get(at, {})
            other += any(value.get(name) != row.get(name) for name in REFERENCES)
        for at in self.model.messages.keys() - seen:
            self.report.fault("I2", "lost", f"enriched {at[0]}/{at[1]}")
        self.report.checked("I3", "accepted messages are in telemetry_enriched once, in their order", len(seen))
        self.report.counted("messages again with another tick: other references in Kafka than in the history", other)

    # Events

    def events(self):
        """Of each device what happened to it, by the history: (kind, since, tick)."""
        happened, rows = defaultdict(list), set()
        for row in self.dump.tables["vehicle_events"]:
            event = (row["device_id"], int(row["tick"]), row["kind"], milliseconds(row["since"]))
            if event[:3] in rows:
                self.report.fault("I3", "doubled", f"event {event}")
            rows.add(event[:3])
            happened[row["device_id"]].append((row["kind"], event[3], event[1]))
        topics = Counter()
        for stream in ("online", "offline"):
            for record in self.dump.topic(stream):
                value = json.loads(record["value"])
                event = (value["device_id"], value["version"] if "version" in value else None, value["kind"])
                topics[event] += 1
                if topics[event] > 1:
                    self.report.fault("I3", "doubled", f"event {event} at {stream} {place(record)}")
                if event not in rows:
                    self.report.fault("I2", "lost", f"event {event} of topic {stream} is not in the history")
        for event in rows - topics.keys():
            self.report.fault("I2", "lost", f"event {event} is in no topic")
        certain = sum(self.device(device, sorted(of, key=lambda event: event[2])) for device, of in happened.items())
        for device in self.model.arrivals.keys() - happened.keys():
            self.report.fault("I2", "lost", f"events of {device}")
        self.report.checked("I2", "devices went and came as their arrivals say", certain)
        self.report.counted("devices of which that hangs on milliseconds", len(happened) - certain)
        return happened

    def device(self, device, found):
        facts = self.dump.facts
        wanted, certain = self.model.silences(
            device, facts["offline_after_ms"], facts["online_after_messages"], facts["end_tick"])
        if not wanted:
            self.report.fault("I5", "phantom", f"events of {device}, of which nothing came")
            return False
        merged, again = [], 0
        for event in found:
            near = [old for old in merged[-2:] if old[0] == event[0] and abs(old[1] - event[1]) <= self.window]
            again += bool(near)
            if not near:
                merged.append(event)
        self.report.counted("events again with another tick", again)
        kinds = [kind for kind, _, _ in merged]
        if any(a == b for a, b in zip(kinds, kinds[1:])) or kinds[:1] == ["device.offline"]:
            self.report.fault("I3", "doubled", f"events of {device} do not alternate: {merged[:6]}")
        if not certain:
            return False
        for (kind, since), (found_kind, found_since, _) in zip(wanted, merged):
            if kind != found_kind or abs(since - found_since) > self.window:
                self.report.fault("I2", "wrong value", f"{device}: {found_kind} since {found_since}, not {kind} since {since}")
                return True
        if len(merged) != len(wanted):
            fault = "lost" if len(merged) < len(wanted) else "phantom"
            one = (wanted if fault == "lost" else merged)[min(len(merged), len(wanted))]
            self.report.fault("I2" if fault == "lost" else "I5", fault, f"event {one} of {device}")
        return True

    # State

    def offline_since(self, device):
        of = sorted(self.happened.get(device, ()), key=lambda event: event[2])
        return of[-1][1] if of and of[-1][0] == "device.offline" else None

    def final_state(self, vehicle):
        """The row that vehicle_state must have in the end, or None."""
        links = self.model.links(vehicle)
        latest = self.model.latest.get((links or {}).get("device_id"))
        if latest is None or latest.order is None:
            return None
        links = {name: value for name, value in links.items() if name not in ("time_zone", "offline_after_s")}
        since = self.offline_since(links["device_id"])
        of = {"status": expected.status(latest.values)} if since is None else {"status": "offline", "offline_since": since}
        return links | latest.values | of

    def vehicles(self):
        return list(self.model.tables["vehicle"].versions)

    def vehicle_state(self):
        newest, again, tombstones, records, seen = {}, 0, 0, 0, set()
        for record in self.dump.topic("vehicle_state"):
            records += 1
            vehicle = record["key"].decode()
            name = record["headers"].get("hs-id", "")
            version = int(name.rsplit("/", 1)[-1])
            what = f"vehicle_state {vehicle} version {version} at {place(record)}"
            value = json.loads(record["value"]) if record["value"] is not None else None
            old = newest.get(vehicle)
            if (vehicle, version) in seen:
                self.report.fault("I3", "doubled", what)
            elif old and version < old[0]:
                self.report.fault("I4", "wrong order", f"{what}: after version {old[0]}")
            if value is None:
                tombstones += 1
            else:
                self.state(vehicle, version, value, what)
                if old and old[1] and old[1]["device_id"] == value.get("device_id"):
                    if (old[1]["ts"], old[1]["seq"]) > (value.get("ts"), value.get("seq")):
                        self.report.fault("I4", "wrong order", f"{what}: an older message than the record before")
                    again += {**old[1], "version": 0} == {**value, "version": 0}
            seen.add((vehicle, version))
            newest[vehicle] = (version, value)
        for vehicle in self.vehicles():
            wanted, (version, found) = self.final_state(vehicle), newest.get(vehicle, (0, None))
            self.compare_final(f"vehicle_state {vehicle} (version {version})", found, wanted)
        for vehicle in newest.keys() - set(self.vehicles()):
            self.report.fault("I5", "phantom", f"vehicle_state {vehicle}")
        self.newest = {vehicle: version for vehicle, (version, _) in newest.items()}
        self.report.checked("I4", "records of vehicle_state, each of a state that was, none older than the one before", records)
        self.report.counted("records of vehicle_state again with another tick (same content)", again)
        self.report.counted("tombstones in vehicle_state", tombstones)

    def state(self, vehicle, version, value, what):
        device = value.get("device_id")
        latest = self.model.latest.get(device)
        values = latest.chain.get((value.get("ts"), value.get("seq"))) if latest else None
        if values is None or value.get("vehicle_id") != vehicle:
            self.report.fault("I5", "phantom", f"{what}: {device} never had ts {value.get('ts')} seq {value.get('seq')} as its newest")
            return
        fault = differing(value, values, expected.MEASUREMENTS)
        offline = value.get("status") == "offline"
        if not fault and not offline and value.get("status") != expected.status(values):
            fault = f"status is {value.get('status')}, not {expected.status(values)}"
        if not fault and offline != ("offline_since" in value):
            fault = f"status {value.get('status')}, offline_since {value.get('offline_since')}"
        if fault:
            self.report.fault("I2", "wrong value", f"{what}: {fault}")
        low, high = version - self.window, version + self.window
        fault = self.model.judge({"tariff_name": None, **value}, device, low, high, may_carry=[vehicle])
        if fault:
            self.report.fault("I6" if fault[0] == "crossed company" else "I2", fault[0], f"{what}: {fault[1]}")

    def compare_final(self, what, found, wanted):
        if wanted is None:
            if found is not None:
                self.report.fault("I5", "forgotten tombstone", f"{what}: it should be gone")
            return
        if found is None:
            self.report.fault("I2", "lost", f"{what}: it should be there")
            return
        found = {name: plain(name, value) for name, value in found.items() if name not in ("version", "digest")}
        if abs((found.get("offline_since") or 0) - (wanted.get("offline_since") or 0)) <= self.window:
            wanted = {**wanted, **{name: found[name] for name in ("offline_since",) if name in found and name in wanted}}
        fault = differing(found, wanted, wanted.keys() | found.keys())
        if not fault:
            return
        kind = self.why(found, wanted)
        self.report.fault("I6" if kind == "crossed company" else "I2", kind, f"{what}: {fault}")

    def why(self, found, wanted):
        """The name of the fault in a final row."""
        if any(found.get(name) != wanted.get(name) for name in ("ts", "seq")):
            older = (found.get("ts") or 0, found.get("seq") or 0) < (wanted["ts"], wanted["seq"])
            return "lost" if older else "phantom"
        names = {"tariff_name", "vehicle_id", "device_id", "group_ids", *REFERENCES}
        if all(found.get(name) == wanted.get(name) for name in names):
            return "wrong value"
        end = 1 << 61
        row = {"tariff_name": None, **found}
        fault = self.model.judge(row, found.get("device_id"), end, end, may_carry=[found.get("vehicle_id")])
        return fault[0] if fault else "wrong value"

    # Redis

    def redis(self):
        prefix = self.dump.facts["redis_prefix"]
        states, links, geo = {}, {}, {}
        for key, line in self.dump.redis.items():
            kind, _, of = key.removeprefix(prefix + ":").partition(":")
            if kind == "vehicle" and of:
                states[of] = line["content"]
            elif kind == "links" and of:
                links[of] = line["content"]
            elif kind == "geo" and of:
                geo |= {(of, vehicle): int(score) for vehicle, score in line["content"].items()}
            elif kind not in ("epoch", "server"):
                self.report.fault("I5", "phantom", f"Redis key {key}")
        wanted_geo = {}
        for vehicle in self.vehicles():
            wanted = self.final_state(vehicle)
            self.hash(f"Redis vehicle {vehicle}", states.pop(vehicle, None), wanted)
            self.hash(f"Redis links {vehicle}", links.pop(vehicle, None), self.model.links(vehicle))
            if wanted and "lat" in wanted and abs(wanted["lat"]) <= LATITUDE_MAX:
                wanted_geo[(wanted.get("company_id", "%none"), vehicle)] = score(wanted["lat"], wanted["lon"])
        for of in [*states, *links]:
            self.report.fault("I5", "phantom", f"Redis {of}")
        for of in geo.keys() - wanted_geo.keys():
            elsewhere = any(vehicle == of[1] for _, vehicle in wanted_geo)
            kind = "crossed company" if elsewhere else "forgotten tombstone"
            self.report.fault("I6" if elsewhere else "I5", kind, f"Redis geo set of {of[0]} has {of[1]}")
        for of, wanted in wanted_geo.items():
            if of not in geo:
                self.report.fault("I2", "lost", f"Redis geo set of {of[0]} lacks {of[1]}")
            elif abs(geo[of] - wanted) > 0:
                self.report.fault("I2", "wrong value", f"Redis geo set of {of[0]}: {of[1]} at {geo[of]}, not {wanted}")
        self.report.checked("I2", "vehicles in Redis: state, links, geo sets", len(self.vehicles()))

    def hash(self, what, found, wanted):
        if found is not None and "deleted" in found:
            found = None
        if found is None or wanted is None:
            return self.compare_final(what, found, wanted)
        values = {}
        for name, text in found.items():
            like = wanted.get(name)
            if isinstance(like, bool):
                values[name] = {"true": True, "false": False}.get(text, text)
            elif isinstance(like, (int, float)):
                values[name] = float(text)
            else:
                values[name] = text
        self.compare_final(what, values, wanted)

    # ClickHouse's tables

    def links(self):
        rows = {}
        for row in self.dump.tables["vehicle_links"]:
            if row["vehicle_id"] in rows:
                self.report.fault("I3", "doubled", f"vehicle_links {row['vehicle_id']}")
            rows[row["vehicle_id"]] = {name: value for name, value in row.items() if value is not None and name != "is_deleted"}
            if row["offline_after_s"] is not None:
                rows[row["vehicle_id"]]["offline_after_s"] = int(row["offline_after_s"])
        for vehicle in self.vehicles():
            wanted = self.model.links(vehicle)
            found = rows.pop(vehicle, None)
            self.compare_final(f"ClickHouse vehicle_links {vehicle}", found, wanted)
        for vehicle in rows:
            self.report.fault("I5", "phantom", f"vehicle_links {vehicle}")

    def minutes(self):
        size = self.dump.facts["window_ms"]
        sure, maybe, by_history = defaultdict(list), defaultdict(int), defaultdict(list)
        for at, message in self.model.messages.items():
            low, high = message["time"] - self.window, message["time"] + self.window
            companies, start = self.model.companies(message["device_id"], low, high), message["ts"] - message["ts"] % size
            for company in companies - {None}:
                maybe[(company, start)] += 1
                if len(companies) == 1:
                    sure[(company, start)].append(message.get("speed_kmh"))
            company = self.history_rows.get(at, {}).get("company_id")
            if company is not None:
                by_history[(company, start)].append(message.get("speed_kmh"))
        seen, again = set(), 0
        for row in self.dump.tables["company_minute"]:
            key, fixes = (row["company_id"], milliseconds(row["window_start"])), int(row["fixes"])
            what = f"company_minute {key[0]} {key[1]}"
            if key in seen:
                self.report.fault("I3", "doubled", what)
            seen.add(key)
            if not maybe[key]:
                self.report.fault("I5", "phantom", what)
            elif not len(sure[key]) <= fixes <= maybe[key]:
                kind = "lost" if fixes < len(sure[key]) else "doubled"
                self.report.fault("I2", kind, f"{what}: {fixes} fixes, expected {len(sure[key])} to {maybe[key]}")
            elif fixes == maybe[key] == len(sure[key]) or fixes == len(by_history[key]):
                self.speeds(what, row, sure[key] if fixes == len(sure[key]) == maybe[key] else by_history[key])
            else:
                again += 1
        for key in sure.keys() - seen:
            if sure[key]:
                self.report.fault("I2", "lost", f"company_minute {key[0]} {key[1]}")
        self.report.checked("I2", "company minutes: count, average, top", len(seen))
        self.report.counted("company minutes with messages that are of another company at another tick", again)

    def speeds(self, what, row, speeds):
        milli = [round_half_up(speed * 1_000) for speed in speeds if speed is not None]
        average = sum(milli) / len(milli) / 1_000 if milli else None
        top = max(milli) / 1_000 if milli else None
        for name, found, wanted in [("average", row["average_speed_kmh"], average), ("top", row["top_speed_kmh"], top)]:
            if (found is None) != (wanted is None) or (wanted is not None and abs(found - wanted) > 1e-6):
                self.report.fault("I2", "wrong value", f"{what}: {name} {found}, not {wanted}")

    # I7, clients

    def positions(self):
        ends = {}
        for stream in ["telemetry", *expected.records.REFERENCES]:
            for record in self.dump.topic(stream):
                ends[(self.dump.facts["topics"][stream], record["partition"])] = record["offset"] + 1
        positions = {(of["topic"], of["partition"]): of["offset"] for of in self.dump.facts["positions"]}
        for of, end in ends.items():
            if positions.get(of, 0) > end:
                self.report.fault("I7", "phantom", f"the checkpoint stands at {positions[of]} of {of}, which ends at {end}")
            elif positions.get(of, 0) < end:
                self.report.fault("I7", "lost", f"the checkpoint stands at {positions.get(of, 0)} of {of}, all was done to {end}")
        self.report.checked("I7", "positions of the last checkpoint (what an earlier one skipped too soon is lost above)", len(ends))

    def clients(self):
        messages = 0
        for name, log in self.dump.clients.items():
            newest = {}
            for line in log:
                messages += 1
                of = (line["connection"], line["vehicle_id"])
                if newest.get(of, 0) > line["version"]:
                    self.report.fault("I4", "wrong order", f"client {name}: {of[1]} went back to version {line['version']}")
                newest[of] = max(newest.get(of, 0), line["version"])
        if self.dump.clients:
            self.report.checked("I4", "rows that WebSocket clients got, none older than before", messages)


def round_half_up(number):
    """As Rust rounds: half away from zero."""
    whole = int(number)
    return whole + (1 if number - whole >= 0.5 else 0)


def score(lat, lon):
    """The score of a position in a geo set: the bits of both, interleaved, latitude in the even places."""
    cells = [int((value + most) / (2 * most) * CELLS) for value, most in ((lat, LATITUDE_MAX), (lon, LONGITUDE_MAX))]
    return sum((cells[0] >> bit & 1) << 2 * bit | (cells[1] >> bit & 1) << 2 * bit + 1 for bit in range(26))
