"""Checks of what was put out against what was expected: topics of results, history, windows, positions, clients."""

import json
from collections import Counter, defaultdict

import expected
from dump import milliseconds
from state import REFERENCES, State, differing, place

MESSAGE = ["server_time", "lat", "lon", "altitude_m", "speed_kmh", "heading_deg", "satellites", "hdop", "ignition",
           "fuel_level_pct", "engine_temp_c", "odometer_km", "battery_v", "events", "attributes"]


class Outputs:
    """All checks; what they find goes to the report."""

    def __init__(self, dump, model, report):
        self.dump, self.model, self.report = dump, model, report
        self.window = model.window

    def everything(self):
        self.inputs()
        self.dead_letters()
        self.history()
        self.enriched()
        state = State(self.dump, self.model, self.report, self.events())
        state.vehicle_state()
        state.redis()
        state.links()
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
        low, high = self.model.references_around(message["time"])
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
            if int(row["tick"]) < message["time"]:
                self.report.fault("I4", "wrong order", f"{what}: tick {row['tick']} before its append time {message['time']}")
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
        late, stalls = self.model.late, self.model.stalls
        most = max((tick - time for time, tick in late), default=0)
        self.report.counted(f"messages with a tick more than {self.window} ms after their append time (at most {most} ms)", len(late))
        self.report.counted("milliseconds in which that was so", sum(end - start for start, end in stalls))
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
                event = (value["device_id"], value["version"], value["kind"])
                topics[event] += 1
                if topics[event] > 1:
                    self.report.fault("I3", "doubled", f"event {event} at {stream} {place(record)}")
                happened[event[0]].append((event[2], value["since"], event[1]))
        again = 0
        for event, where in [(e, "history") for e in topics.keys() - rows] + [(e, "topic") for e in rows - topics.keys()]:
            other = (rows if where == "history" else topics.keys()) - {event}
            near = any(o[0] == event[0] and o[2] == event[2] and self.model.is_near(o[1], event[1]) for o in other)
            again += near
            if not near:
                self.report.fault("I2", "lost", f"event {event} is not in the {where}")
        self.report.counted("events again with another tick: one in Kafka, another in the history", again)
        happened = {device: sorted(set(of), key=lambda event: (event[2], event[1])) for device, of in happened.items()}
        certain = sum(self.device(device, of) for device, of in happened.items())
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
            if kind != found_kind or not self.model.is_near(since, found_since):
                self.report.fault("I2", "wrong value", f"{device}: {found_kind} since {found_since}, not {kind} since {since}")
                return True
        if len(merged) != len(wanted):
            fault = "lost" if len(merged) < len(wanted) else "phantom"
            one = (wanted if fault == "lost" else merged)[min(len(merged), len(wanted))]
            self.report.fault("I2" if fault == "lost" else "I5", fault, f"event {one} of {device}")
        return True

    # ClickHouse's tables

    def minutes(self):
        size = self.dump.facts["window_ms"]
        sure, maybe, by_history = defaultdict(list), defaultdict(int), defaultdict(list)
        for at, message in self.model.messages.items():
            low, high = self.model.references_around(message["time"])
            companies, start = self.model.companies(message["device_id"], low, high), message["ts"] - message["ts"] % size
            for company in companies - {None}:
                maybe[(company, start)] += 1
                if len(companies) == 1:
                    sure[(company, start)].append(message.get("speed_kmh"))
            company = self.history_rows.get(at, {}).get("company_id")
            if company is not None:
                by_history[(company, start)].append(message.get("speed_kmh"))
        seen = set()
        for row in self.dump.tables["company_minute"]:
            key, fixes = (row["company_id"], milliseconds(row["window_start"])), int(row["fixes"])
            what = f"company_minute {key[0]} {key[1]}"
            if key in seen:
                self.report.fault("I3", "doubled", what)
            seen.add(key)
            least, most, shown = len(sure[key]), maybe[key], len(by_history[key])
            if not most:
                self.report.fault("I5", "phantom", what)
            elif fixes != shown or not least <= fixes <= most:
                kind = "lost" if fixes < max(least, shown) else "doubled"
                self.report.fault("I2", kind, f"{what}: {fixes} fixes, {shown} in the history, expected {least} to {most}")
            else:
                self.speeds(what, row, sure[key] if least == most else by_history[key])
        for key in {key for key, of in [*sure.items(), *by_history.items()] if of} - seen:
            self.report.fault("I2", "lost", f"company_minute {key[0]} {key[1]}")
        self.report.checked("I2", "company minutes: count, average, top", len(seen))

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
