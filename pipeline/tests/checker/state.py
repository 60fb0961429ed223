"""Checks of the current state: the topic vehicle_state, hashes and geo sets in Redis, the table vehicle_links."""

import json

import expected

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


class State:
    """Checks of one dump, after what happened to the devices is known: (kind, since, tick) of each, in order."""

    def __init__(self, dump, model, report, happened):
        self.dump, self.model, self.report, self.happened = dump, model, report, happened

    def offline_since(self, device):
        of = self.happened.get(device, ())
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
        low, high = self.model.references_around(version)
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
        if self.model.is_near(wanted.get("offline_since") or 0, found.get("offline_since") or 0):
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


def score(lat, lon):
    """The score of a position in a geo set: the bits of both, interleaved, latitude in the even places."""
    cells = [int((value + most) / (2 * most) * CELLS) for value, most in ((lat, LATITUDE_MAX), (lon, LONGITUDE_MAX))]
    return sum((cells[0] >> bit & 1) << 2 * bit | (cells[1] >> bit & 1) << 2 * bit + 1 for bit in range(26))
