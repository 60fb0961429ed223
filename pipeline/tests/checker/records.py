"""Input records as an outsider reads them: which are accepted, what they say, and why the others are not.

Written from pipeline/docs and the specification, not from the program: strict JSON, nothing twice, ranges, ids of a safe set.
"""

import base64
import json
import math
import re

TELEMETRY = {
    "device_id": "text", "ts": "whole", "server_time": "whole", "seq": "whole", "lat": "number", "lon": "number",
    "altitude_m": "number", "speed_kmh": "number", "heading_deg": "number", "satellites": "whole", "hdop": "number",
    "ignition": "flag", "fuel_level_pct": "number", "engine_temp_c": "number", "odometer_km": "number",
    "battery_v": "number", "events": "list", "attributes": "object",
}
REFERENCES = {
    "vehicle": {"vehicle_id": "id", "device_id": "id", "plate": "text", "model": "text", "group_ids": "list",
                "company_id": "id", "driver_id": "id", "status": "text"},
    "driver": {"driver_id": "id", "name": "text", "phone": "text", "licence": "text", "company_id": "id"},
    "company": {"company_id": "id", "name": "text", "tariff_id": "id", "time_zone": "text", "offline_after_s": "whole"},
    "tariff": {"tariff_id": "id", "name": "text", "limits": "object"},
}
RANGES = {"lat": (-90, 90), "lon": (-180, 180), "speed_kmh": (0, 1000), "heading_deg": (0, 360)}
SAFE = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
TELEMETRY_BYTES_MAX, REFERENCE_BYTES_MAX, KEY_BYTES_MAX, DEPTH_MAX = 64 << 10, 1 << 20, 1 << 10, 64
DAY_MS = 86_400_000


class Refused(Exception):
    """The record belongs in the dead letters; the code says why."""


def refuse(code):
    raise Refused(code)


def decoded(text):
    return None if text is None else base64.b64decode(text)


def depth(text):
    nested, most, quoted, escaped = 0, 0, False, False
    for letter in text:
        if escaped:
            escaped = False
        elif quoted and letter == "\\":
            escaped = True
        elif letter == '"':
            quoted = not quoted
        elif not quoted and letter in "{[":
            nested += 1
            most = max(most, nested)
        elif not quoted and letter in "}]":
            nested -= 1
    return most


def document(value, fields):
    """The known fields of a JSON object, null ones left out."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        refuse("utf8_invalid")
    if text.count("{") + text.count("[") > DEPTH_MAX and depth(text) > DEPTH_MAX:
        refuse("json_too_deep")
    if "\0" in text or text.startswith("\ufeff"):
        refuse("utf8_invalid")
    repeated = []

    def pairs(items):
        names = [name for name, _ in items]
        repeated.append({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set())
        return dict(items)

    def constant(name):
        refuse("field_type")

    try:
        read = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except (ValueError, RecursionError):
        refuse("json_invalid")
    if "\\u" in text and re.search(r"[\ud800-\udfff]", json.dumps(read, ensure_ascii=False)):
        refuse("utf8_invalid")
    if not isinstance(read, dict):
        refuse("field_type")
    # The outermost object is finished last.
    if repeated[-1] & fields.keys():
        refuse("json_duplicate_key")
    return {name: typed(read[name], kind) for name, kind in fields.items() if read.get(name) is not None}


def typed(value, kind):
    whole = isinstance(value, int) and not isinstance(value, bool)
    if kind in ("text", "id"):
        fits = isinstance(value, str)
    elif kind == "flag":
        fits = isinstance(value, bool)
    elif kind == "list":
        fits = isinstance(value, list)
    elif kind == "object":
        fits = isinstance(value, dict)
    elif kind == "whole":
        fits = whole
        if fits and not -(1 << 63) <= value < 1 << 63:
            refuse("field_out_of_range")
    else:
        fits = whole or isinstance(value, float)
        if fits and not math.isfinite(value):
            refuse("field_out_of_range")
    return value if fits else refuse("field_type")


def key_of(record):
    key = record["key"]
    if not key:
        refuse("key_missing")
    return refuse("key_mismatch") if len(key) > KEY_BYTES_MAX else key


def telemetry(record):
    """A message, if the record is a good one."""
    value = record["value"]
    if value is None:
        refuse("unexpected_tombstone")
    if len(value) > TELEMETRY_BYTES_MAX:
        refuse("record_too_large")
    key = key_of(record)
    message = document(value, TELEMETRY)
    if "device_id" not in message or "ts" not in message or message["device_id"] == "":
        refuse("field_missing")
    if not SAFE.match(message["device_id"]):
        refuse("id_invalid")
    if "satellites" in message and not -(1 << 31) <= message["satellites"] < 1 << 31:
        refuse("field_out_of_range")
    for name, (least, most) in RANGES.items():
        if name in message and not least <= message[name] <= most:
            refuse("field_out_of_range")
    if ("lat" in message) != ("lon" in message):
        refuse("field_missing")
    if message.get("lat") == 0 and message.get("lon") == 0 and message.get("satellites", 0) < 3:
        refuse("position_implausible")
    if message["ts"] > record["time"] + DAY_MS:
        refuse("event_time_implausible")
    if key != message["device_id"].encode():
        refuse("key_mismatch")
    message.setdefault("seq", 0)
    return message


def reference(stream, record):
    """Key and row of a reference record; the row of a tombstone is None."""
    key = key_of(record)
    fields = REFERENCES[stream]
    of = next(iter(fields))
    if record["value"] is None:
        text = key.decode("utf-8", "replace")
        return (text, None) if SAFE.match(text) else refuse("id_invalid")
    if len(record["value"]) > REFERENCE_BYTES_MAX:
        refuse("record_too_large")
    row = document(record["value"], fields)
    for name, kind in fields.items():
        if kind == "id" and row.get(name) == "":
            del row[name]
        if kind == "id" and name in row and not SAFE.match(row[name]):
            refuse("id_invalid")
    if not 1 <= row.get("offline_after_s", 1) <= 366 * 86_400:
        refuse("field_out_of_range")
    if of not in row:
        refuse("field_missing")
    keys = [row[of]] + ([row["device_id"]] if stream == "vehicle" and "device_id" in row else [])
    if key not in [text.encode() for text in keys]:
        refuse("key_mismatch")
    return row[of], row
