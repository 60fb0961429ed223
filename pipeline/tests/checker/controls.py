"""Proof of the checker: into a good dump one fault at a time is planted, and each has to be flagged by its name.

A fault changes as little as the fault of a program would: one row, one record, one field.
"""

import copy
import json
import random

# Further back than any window of the checker.
LONG_AGO_MS = 4_000


def pick(dice, rows, fits=lambda row: True):
    """A row that fits, any."""
    found = [row for row in rows if fits(row)]
    if not found:
        raise LookupError("the dump has nothing to plant this into: make it larger")
    return dice.choice(found)


def drop(rows):
    return lambda dump, dice: rows(dump).remove(pick(dice, rows(dump)))


def double(rows):
    return lambda dump, dice: rows(dump).append(copy.deepcopy(pick(dice, rows(dump))))


def history(dump):
    return dump.tables["telemetry_history"]


def topic(name):
    return lambda dump: dump.topics[name]


def again(name):
    """The same record a second time, at the end of its partition."""

    def plant(dump, dice):
        record = copy.deepcopy(pick(dice, dump.topics[name]))
        record["offset"] = max(r["offset"] for r in dump.topics[name]) + 1
        dump.topics[name].append(record)

    return plant


def swap(name, fits=lambda record: True):
    """Two records of one key change places."""

    def plant(dump, dice):
        records = [record for record in dump.topics[name] if fits(record)]
        first = pick(dice, records, lambda a: sum(a["key"] == b["key"] and a["partition"] == b["partition"] for b in records) > 1)
        other = pick(dice, records, lambda b: b is not first and b["key"] == first["key"] and b["partition"] == first["partition"])
        first["offset"], other["offset"] = other["offset"], first["offset"]
        dump.topics[name].sort(key=lambda record: (record["partition"], record["offset"]))

    return plant


def edit(record, **changes):
    record["value"] = json.dumps({**json.loads(record["value"]), **changes}).encode()


def altered_history(dump, dice):
    pick(dice, history(dump), lambda row: row["speed_kmh"] is not None)["speed_kmh"] += 0.125


def altered_enriched(dump, dice):
    record = pick(dice, dump.topics["enriched"], lambda r: "fuel_level_pct" in json.loads(r["value"]))
    edit(record, fuel_level_pct=json.loads(record["value"])["fuel_level_pct"] + 0.125)


def altered_redis(dump, dice):
    state = pick(dice, states(dump), lambda s: "fuel_level_pct" in s)
    state["fuel_level_pct"] = str(float(state["fuel_level_pct"]) + 0.125)


def states(dump):
    prefix = dump.facts["redis_prefix"] + ":vehicle:"
    return [line["content"] for key, line in dump.redis.items() if key.startswith(prefix) and "deleted" not in line["content"]]


def versions(dump, stream):
    """The rows of each key of a changelog, as JSON; None for a deleted one."""
    found = {}
    for record in dump.topics[stream]:
        try:
            row = None if record["value"] is None else json.loads(record["value"])
        except ValueError:
            continue
        found.setdefault(record["key"].decode("utf-8", "replace"), []).append((record["time"], row))
    return found


def stale_driver(rows):
    """A row keeps the driver's name of an earlier version."""

    def plant(dump, dice):
        drivers = versions(dump, "driver")

        def older(row):
            versions_of = drivers.get(row.get("driver_id"), [])
            replaced = zip(versions_of, versions_of[1:])
            names = [v["name"] for (_, v), (time, _) in replaced if v and "name" in v and time + LONG_AGO_MS < when(dump, row)]
            return names[0] if names and row.get("driver_name") not in (None, names[0]) else None

        row = pick(dice, rows(dump), older)
        row["driver_name"] = older(row)

    return plant


def when(dump, row):
    """When the message of a history row counted; a row of Redis is of the end."""
    return int(row["tick"]) if "tick" in row else 1 << 61


def crossed(rows):
    """A row gets the company of a vehicle that never was its own."""

    def plant(dump, dice):
        vehicles = versions(dump, "vehicle")
        row = pick(dice, rows(dump), lambda row: row.get("company_id"))
        own = {v.get("company_id") for _, v in vehicles[row["vehicle_id"]] if v}
        row["company_id"] = pick(dice, sorted(versions(dump, "company")), lambda company: company not in own)

    return plant


def crossed_geo(dump, dice):
    prefix = dump.facts["redis_prefix"] + ":geo:"
    sets = [line["content"] for key, line in dump.redis.items() if key.startswith(prefix)]
    first = pick(dice, sets, len)
    other = pick(dice, sets, lambda content: content is not first)
    member = dice.choice(sorted(first))
    other[member] = first[member]


def forgotten_tombstone_redis(dump, dice):
    gone = pick(dice, [k for k, vs in versions(dump, "vehicle").items() if vs[-1][1] is None])
    state = copy.deepcopy(pick(dice, states(dump)))
    dump.redis[f"{dump.facts['redis_prefix']}:vehicle:{gone}"] = {"key": gone, "type": "hash", "content": state}


def forgotten_tombstone_topic(dump, dice):
    """The last record of a deleted vehicle is missing."""
    gone = [k for k, vs in versions(dump, "vehicle").items() if vs[-1][1] is None]
    last = {record["key"].decode(): record for record in dump.topics["vehicle_state"]}
    record = pick(dice, [last[of] for of in gone if of in last and last[of]["value"] is None])
    dump.topics["vehicle_state"].remove(record)


def forgotten_driver(dump, dice):
    """A state still has the name of a driver who was deleted."""
    drivers = versions(dump, "driver")
    named = {of: next(v["name"] for _, v in reversed(vs) if v) for of, vs in drivers.items() if vs[-1][1] is None and any(v for _, v in vs)}
    state = pick(dice, states(dump), lambda s: s.get("driver_id") in named)
    state["driver_name"] = named[state["driver_id"]]


def phantom_history(dump, dice):
    row = copy.deepcopy(pick(dice, history(dump)))
    row["offset"] = 1 + max(r["offset"] for r in dump.topics["telemetry"])
    history(dump).append(row)


def phantom_enriched(dump, dice):
    record = copy.deepcopy(pick(dice, dump.topics["enriched"]))
    record["headers"]["hs-id"] = "telemetry_enriched/0/99999999"
    dump.topics["enriched"].append(record)


def phantom_redis(dump, dice):
    state = {**pick(dice, states(dump)), "vehicle_id": "v-nobody"}
    dump.redis[f"{dump.facts['redis_prefix']}:vehicle:v-nobody"] = {"key": "", "type": "hash", "content": state}


def lost_update_redis(dump, dice):
    """A vehicle's last message did not come to Redis."""
    state = pick(dice, states(dump))
    state["ts"], state["seq"] = str(int(state["ts"]) - 1), str(int(state["seq"]) - 1)


def lost_update_topic(dump, dice):
    """The last record of a vehicle's state is missing, and it was another than the one before."""
    last, before = {}, {}
    for record in dump.topics["vehicle_state"]:
        before[record["key"]], last[record["key"]] = last.get(record["key"]), record
    def differs(key):
        a, b = before[key], last[key]
        if not (a and a["value"] and b["value"]):
            return False
        a, b = json.loads(a["value"]), json.loads(b["value"])
        return (a["ts"], a["seq"]) != (b["ts"], b["seq"])
    dump.topics["vehicle_state"].remove(last[pick(dice, sorted(last), differs)])


def minute(name, by):
    def plant(dump, dice):
        row = pick(dice, dump.tables["company_minute"], lambda row: row[name] is not None)
        row[name] = type(by)(row[name]) + by

    return plant


def refused_without_reason(dump, dice):
    pick(dice, dump.topics["dead_letters"])["headers"]["code"] = "because"


def good_record_refused(dump, dice):
    record = copy.deepcopy(pick(dice, dump.topics["dead_letters"]))
    good = pick(dice, history(dump))
    record["headers"] |= {"topic": dump.facts["topics"]["telemetry"], "partition": str(good["partition"]), "offset": str(good["offset"])}
    dump.topics["dead_letters"].append(record)


def not_in_kafka(dump, dice):
    sent = pick(dice, dump.sent, lambda line: line["outcome"] == "ok" and line["stream"] == "telemetry")
    dump.sent.append({**sent, "offset": 99_999_999})


def ahead_of_sinks(dump, dice):
    pick(dice, dump.facts["positions"])["offset"] -= 1


PLANTED = [
    ("drop a row of the history", "lost", drop(history)),
    ("drop an enriched message", "lost", drop(topic("enriched"))),
    ("drop a dead letter", "lost", drop(topic("dead_letters"))),
    ("drop an event of a device", "lost", drop(lambda dump: dump.tables["vehicle_events"])),
    ("drop a record of device.online", "lost", drop(topic("online"))),
    ("drop a row of company_minute", "lost", drop(lambda dump: dump.tables["company_minute"])),
    ("drop the last record of a vehicle's state", "lost", lost_update_topic),
    ("leave a vehicle's last message out in Redis", "lost", lost_update_redis),
    ("lose an acknowledged record", "lost", not_in_kafka),
    ("a position that is behind", "lost", ahead_of_sinks),
    ("double a row of the history", "doubled", double(history)),
    ("double an enriched message", "doubled", again("enriched")),
    ("double a dead letter", "doubled", again("dead_letters")),
    ("double a record of vehicle_state", "doubled", double(topic("vehicle_state"))),
    ("double an event of a device", "doubled", double(lambda dump: dump.tables["vehicle_events"])),
    ("double a record of device.online", "doubled", again("online")),
    ("count a message twice in a minute", "doubled", minute("fixes", 1)),
    ("swap two enriched messages of a device", "wrong order", swap("enriched")),
    ("swap two records of a vehicle's state", "wrong order", swap("vehicle_state")),
    ("an old driver's name in the history", "stale reference", stale_driver(history)),
    ("an old driver's name in Redis", "stale reference", stale_driver(states)),
    ("a company of others in the history", "crossed company", crossed(history)),
    ("a company of others in Redis", "crossed company", crossed(states)),
    ("a vehicle in the geo set of others", "crossed company", crossed_geo),
    ("a deleted vehicle in Redis", "forgotten tombstone", forgotten_tombstone_redis),
    ("a deleted vehicle in vehicle_state", "forgotten tombstone", forgotten_tombstone_topic),
    ("a deleted driver's name in Redis", "forgotten tombstone", forgotten_driver),
    ("a row of the history of no message", "phantom", phantom_history),
    ("an enriched message of no message", "phantom", phantom_enriched),
    ("a vehicle that nobody knows in Redis", "phantom", phantom_redis),
    ("a good record among the dead letters", "phantom", good_record_refused),
    ("another speed in the history", "wrong value", altered_history),
    ("another fuel level in an enriched message", "wrong value", altered_enriched),
    ("another fuel level in Redis", "wrong value", altered_redis),
    ("another average in a minute", "wrong value", minute("average_speed_kmh", 0.01)),
    ("another reason for a dead letter", "wrong value", refused_without_reason),
]


def run(good, seed, judge):
    """Judges the dump as it is, then with each fault; 0 if it is good and each was flagged."""
    faults = judge(copy.deepcopy(good)).faults
    if faults:
        print(f"the dump is not good in itself: {faults}")
        return 1
    missed = 0
    for number, (what, name, plant) in enumerate(PLANTED):
        changed, dice = copy.deepcopy(good), random.Random(seed * 1_000 + number)
        plant(changed, dice)
        flagged = judge(changed).names()
        missed += name not in flagged
        print(f"{'flagged' if name in flagged else 'MISSED '}  {name}: {what}  ({', '.join(sorted(flagged)) or 'nothing'})")
    print(f"{len(PLANTED) - missed} of {len(PLANTED)} planted faults were flagged by their names (seed {seed})")
    return 1 if missed else 0
