"""What must come of the input topics: deduplicated messages, last known values, references as they stood, silences.

Times. The program orders by ticks: a record's append time, or later if the record came behind the frontier of its partition.
From outside only the append time is seen, so references may be those that stood at any time within a small window around it, and
who fell silent is only said where it does not hang on milliseconds. A broker that stalls between stamping a record and showing it
makes ticks lie further off: where the history says so of any message, the window spans from its append time to its tick, for
everything that happened then, and so where the run says that it stopped the broker. How often, and how far, is in the report. Ticks
of references are not seen: their window is wider.
"""

from bisect import bisect_right
from collections import defaultdict

import records

REMEMBERED = 16
MEASUREMENTS = ["lat", "lon", "altitude_m", "speed_kmh", "heading_deg", "satellites", "ignition", "fuel_level_pct",
                "engine_temp_c", "odometer_km", "battery_v"]
MOVING_KMH = 3.0


class Timeline:
    """The versions of each key of a changelog, in order: (append time, row), None for a deleted one."""

    def __init__(self):
        self.versions = defaultdict(list)

    def add(self, key, time, row):
        versions = self.versions[key]
        # Append times go back at times; ticks never do.
        versions.append((max(time, versions[-1][0]) if versions else time, row))

    def between(self, key, low, high):
        """Every row that stood at some time from low to high."""
        versions = self.versions.get(key, [])
        times = [time for time, _ in versions]
        first, end = bisect_right(times, low), bisect_right(times, high)
        before = [versions[first - 1][1]] if first else [None]
        return before + [row for _, row in versions[first:end]]

    def before(self, key, high):
        return [row for time, row in self.versions.get(key, []) if time <= high]

    def last(self, key):
        versions = self.versions.get(key)
        return versions[-1][1] if versions else None


class Latest:
    """The last known values of a device, and every state they went through."""

    def __init__(self):
        self.order, self.values, self.chain = None, {}, {}

    def take(self, message, place):
        order = (message["ts"], message["seq"], *place)
        if self.order is not None and order <= self.order:
            return
        self.order = order
        sent = {name: message[name] for name in MEASUREMENTS if name in message}
        self.values = {**self.values, **sent, "ts": message["ts"], "seq": message["seq"]}
        self.chain[order[:2]] = self.values


def status(values):
    if values.get("speed_kmh") is not None and values["speed_kmh"] >= MOVING_KMH:
        return "moving"
    return "idle" if values.get("ignition") is True else "parked"


class Expected:
    """Everything that follows from the inputs alone."""

    def __init__(self, dump, window_ms, references_ms):
        self.window, self.references = window_ms, references_ms
        self.tables = {stream: Timeline() for stream in records.REFERENCES}
        self.refused, self.messages, self.repeated = {}, {}, 0
        self.latest = defaultdict(Latest)
        self.arrivals = defaultdict(list)
        self.claims = defaultdict(set)
        for stream in records.REFERENCES:
            for record in dump.topic(stream):
                self.take_reference(stream, record)
        self.take_telemetry(dump.topic("telemetry"), dump.facts["deduplicate_horizon_ms"])
        self.late, self.stalls = [], []
        self.find_stalls(dump.tables["telemetry_history"], dump.facts["stalls"])

    def take_reference(self, stream, record):
        try:
            key, row = records.reference(stream, record)
        except records.Refused as why:
            self.refused[(stream, record["partition"], record["offset"])] = (str(why), record)
            return
        self.tables[stream].add(key, record["time"], row)
        if stream == "vehicle" and row and "device_id" in row:
            self.claims[row["device_id"]].add(key)

    def take_telemetry(self, topic, horizon_ms):
        seen, clock = {}, defaultdict(int)
        for record in topic:
            place = (record["partition"], record["offset"])
            try:
                message = records.telemetry(record)
            except records.Refused as why:
                self.refused[("telemetry", *place)] = (str(why), record)
                continue
            device, event = message["device_id"], (message["ts"], message["seq"])
            # Where append times go back, ticks do not.
            time = clock[record["partition"]] = max(clock[record["partition"]], record["time"])
            last, ring = seen.get(device, (time, []))
            ring = [] if time - last >= horizon_ms else ring
            if event in ring:
                seen[device] = (time, ring)
                self.repeated += 1
                continue
            seen[device] = (time, (ring + [event])[-REMEMBERED:])
            message["time"] = time
            self.messages[place] = message
            self.latest[device].take(message, place)
            self.arrivals[device].append(time)

    # Times

    def find_stalls(self, history, told):
        for row in history:
            message = self.messages.get((int(row["partition"]), int(row["offset"])))
            if message and int(row["tick"]) - message["time"] > self.window:
                self.late.append((message["time"], int(row["tick"])))
        for start, end in sorted(self.late + [tuple(stall) for stall in told]):
            if self.stalls and start <= self.stalls[-1][1] + self.window:
                self.stalls[-1] = (self.stalls[-1][0], max(self.stalls[-1][1], end))
            else:
                self.stalls.append((start, end))

    def around(self, time):
        """From when to when something may have counted that was appended then."""
        low, high = time - self.window, time + self.window
        for start, end in self.stalls:
            if start - self.window <= time <= end + self.window:
                low, high = min(low, start - self.window), max(high, end + self.window)
        return low, high

    def references_around(self, time):
        """From when to when references may have stood that something shows which counted then. Of theirs no tick is seen."""
        low, high = self.around(time)
        return min(low, time - self.references), max(high, time + self.references)

    def is_near(self, time, other):
        low, high = self.around(time)
        return low <= other <= high

    # References

    def carriers(self, device, low, high):
        """The vehicles that a message of the device may belong to; None among them where there may be none."""
        some, always = [], False
        for vehicle in sorted(self.claims.get(device, ())):
            rows = self.tables["vehicle"].between(vehicle, low, high)
            claims = [row is not None and row.get("device_id") == device for row in rows]
            if any(claims):
                some.append(vehicle)
            if all(claims):
                always = True
                break
        return some if always else some + [None]

    def judge(self, row, device, low, high, may_carry=None):
        """None if these references stood together about then, else the name of the fault and what it is about."""
        vehicle = row.get("vehicle_id")
        allowed = self.carriers(device, low, high) if may_carry is None else may_carry
        if vehicle is None:
            others = [name for name in ("company_id", "driver_id", "plate", "company_name") if row.get(name) is not None]
            if others:
                return "phantom", f"{others[0]} without a vehicle"
            return None if None in allowed else ("stale reference", f"no vehicle, expected {allowed}")
        own = ("plate", "model", "company_id", "driver_id")
        fault = self.compare("vehicle", vehicle, row, {name: name for name in own}, low, high, {"device_id": device})
        if fault:
            return fault
        if vehicle not in allowed:
            return "stale reference", f"vehicle {vehicle}, expected {allowed}"
        taken = [("company", "company_id", {"company_name": "name", "tariff_id": "tariff_id"}),
                 ("driver", "driver_id", {"driver_name": "name", "driver_phone": "phone"})]
        if "tariff_name" in row:
            taken.append(("tariff", "tariff_id", {"tariff_name": "name"}))
        for stream, by, columns in taken:
            key = row.get(by)
            fault = self.compare(stream, key, row, columns, low, high)
            if fault:
                return fault
        return None

    def compare(self, stream, key, row, columns, low, high, more=None):
        said = {of: row.get(name) for name, of in columns.items()} | (more or {})

        def says(version):
            return all((version or {}).get(of) == value for of, value in said.items())

        standing = self.tables[stream].between(key, low, high) if key is not None else [None]
        if any(says(version) for version in standing):
            return None
        what = f"{stream} {key} says {said}, stood {standing[-1]}"
        ever = [version for version in self.tables[stream].before(key, 1 << 62) if version]
        if stream == "vehicle" and not ever:
            return "phantom", what
        company = said.get("company_id")
        if stream == "vehicle" and company and company not in [version.get("company_id") for version in ever]:
            return "crossed company", what
        now, older = standing[-1] or {}, [version for version in self.tables[stream].before(key, high) if version]
        wrong = {of: value for of, value in said.items() if value != now.get(of)}
        if all(value is not None and any(v.get(of) == value for v in older) for of, value in wrong.items()):
            return ("forgotten tombstone" if standing[-1] is None else "stale reference"), what
        if stream == "company" and said.get("name"):
            others = self.tables["company"].versions.items()
            if any(key != other and any(v and v.get("name") == said["name"] for _, v in vs) for other, vs in others):
                return "crossed company", what
        return "wrong value", what

    def companies(self, device, low, high):
        """The companies that a message may count for."""
        some = set()
        for vehicle in self.carriers(device, low, high):
            rows = self.tables["vehicle"].between(vehicle, low, high) if vehicle else [{}]
            some |= {row.get("company_id") for row in rows if row is not None and (not vehicle or row.get("device_id") == device)}
        return some

    def links(self, vehicle):
        """The row of vehicle_links as it is in the end, or None."""
        row = self.tables["vehicle"].last(vehicle)
        if row is None:
            return None
        names = ("vehicle_id", "device_id", "plate", "model", "group_ids", "company_id", "driver_id")
        links = {name: row.get(name) for name in names}
        company = self.tables["company"].last(row.get("company_id")) or {}
        driver = self.tables["driver"].last(row.get("driver_id")) or {}
        tariff = self.tables["tariff"].last(company.get("tariff_id")) or {}
        links |= {"company_name": company.get("name"), "time_zone": company.get("time_zone"),
                  "offline_after_s": company.get("offline_after_s"), "tariff_id": company.get("tariff_id"),
                  "tariff_name": tariff.get("name"), "driver_name": driver.get("name"), "driver_phone": driver.get("phone")}
        return {name: value for name, value in links.items() if value is not None}

    # Silence

    def thresholds(self, device, default_ms):
        """When the device's threshold changed, and to what: (time, milliseconds)."""
        vehicles, companies = self.tables["vehicle"].versions, self.tables["company"].versions
        times, named = {0}, set()
        for vehicle in self.claims.get(device, ()):
            times |= {time for time, _ in vehicles[vehicle]}
            named |= {row.get("company_id") for _, row in vehicles[vehicle] if row}
        times |= {time for company in named for time, _ in companies.get(company, [])}
        changes = []
        for time in sorted(times):
            carrier = next((vehicle for vehicle in self.carriers(device, time, time)), None)
            row = self.tables["vehicle"].between(carrier, time, time)[-1] if carrier else None
            company = self.tables["company"].between(row.get("company_id"), time, time)[-1] if row else None
            seconds = (company or {}).get("offline_after_s")
            threshold = default_ms if seconds is None else seconds * 1_000
            if not changes or changes[-1][1] != threshold:
                changes.append((time, threshold))
        return changes

    def silences(self, device, default_ms, messages_back, end):
        """The device's events (kind, since), and whether each of them is certain."""
        changes, happened, certain = self.thresholds(device, default_ms), [], True
        last, online, streak, at = 0, False, 0, 0
        since, threshold = changes[0]
        steps = [(time, 1, 0) for time in self.arrivals[device]] + [(time, 0, ms) for time, ms in changes[1:]]
        for time, is_arrival, ms in sorted(steps + [(end, 2, 0)]):
            due = max(last + threshold, since)
            certain = certain and not (last and self.is_near(time, due))
            if online and due < time:
                online, streak = False, 0
                happened.append(("device.offline", last))
            if is_arrival == 0:
                since, threshold = time, ms
                # Whether it counted for an arrival just beside it is not seen from outside.
                low, high = self.around(time)
                near = bisect_right(self.arrivals[device], high) > bisect_right(self.arrivals[device], low)
                certain = certain and (online or not near)
            elif is_arrival == 1:
                if not online:
                    streak = streak + 1 if streak and time <= due else 1
                    if last == 0 or streak >= messages_back:
                        online, streak = True, 0
                        happened.append(("device.online", time))
                last = time
        return happened, certain
