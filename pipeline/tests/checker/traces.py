#!/usr/bin/env python3
"""What must come of recorded drives: the history of each device and the final state of each vehicle, as JSON.

Written apart from the program under test: it shares no code with it, reads CSV, GPX and reference records itself, and
needs Python's standard library only.

    traces.py <<< '{"csv": FILE, "columns": {"device": COLUMN, ...}, "gpx": FILE,
                    "references": [[STREAM, KEY, RECORD or null], ...]}'
"""

import csv
import json
import math
import pathlib
import sys
import xml.etree.ElementTree
from datetime import datetime, timezone

MEASUREMENTS = ["lat", "lon", "altitude_m", "speed_kmh", "heading_deg"]
# From this speed on a vehicle is moving.
MOVING_KMH = 3.0


def milliseconds(text):
    moment = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return round(moment.timestamp() * 1000)


def number(text):
    """A number, or None where nothing is written."""
    text = (text or "").strip()
    return float(text) if text else None


def is_sound(message):
    """Whether a gate would take it."""
    limits = {"lat": (-90, 90), "lon": (-180, 180), "speed_kmh": (0, 1000)}
    for name, (least, most) in limits.items():
        value = message[name]
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            return False
    return message["lat"] is not None and message["lon"] is not None


def csv_messages(path, columns):
    def field(row, name):
        return row.get(columns[name]) if name in columns else None

    with open(path, newline="", encoding="utf-8-sig") as lines:
        for row in csv.DictReader(lines):
            try:
                yield {
                    "device_id": field(row, "device").strip(),
                    "ts": milliseconds(field(row, "time")),
                    "lat": number(field(row, "lat")),
                    "lon": number(field(row, "lon")),
                    "altitude_m": None,
                    "speed_kmh": number(field(row, "speed")),
                    "heading_deg": number(field(row, "heading")),
                }
            except (ValueError, AttributeError):
                continue  # no position


def gpx_messages(path):
    device = pathlib.Path(path).stem
    for point in xml.etree.ElementTree.parse(path).getroot().iter():
        if point.tag.rpartition("}")[2] != "trkpt":
            continue
        below = {child.tag.rpartition("}")[2]: child.text for child in point}
        speed = number(below.get("speed"))
        try:
            yield {
                "device_id": device,
                "ts": milliseconds(below["time"]),
                "lat": number(point.get("lat")),
                "lon": number(point.get("lon")),
                "altitude_m": number(below.get("ele")),
                "speed_kmh": None if speed is None else speed * 3.6,  # metres per second
                "heading_deg": number(below.get("course")),
            }
        except (ValueError, KeyError):
            continue  # no position


def histories(messages):
    """The messages of each device in order of time, numbered from 1; of one time in the order of the file."""
    devices = {}
    for message in sorted(filter(is_sound, messages), key=lambda message: message["ts"]):
        history = devices.setdefault(message["device_id"], [])
        history.append({**message, "seq": len(history) + 1})
    return devices


def last_values(history):
    """The newest message, with what it lacks from the newest one that has it."""
    state = {}
    for message in history:
        state.update((name, value) for name, value in message.items() if value is not None)
    state["status"] = "moving" if state.get("speed_kmh", 0) >= MOVING_KMH else "parked"
    return state


def vehicle_states(devices, references):
    tables = {"vehicle": {}, "driver": {}, "company": {}, "tariff": {}}
    for stream, key, record in references:
        if record is None:
            tables[stream].pop(key, None)
        else:
            tables[stream][key] = record
    states = {}
    for vehicle_id, vehicle in tables["vehicle"].items():
        if vehicle.get("device_id") not in devices:
            continue
        driver = tables["driver"].get(vehicle.get("driver_id"), {})
        company = tables["company"].get(vehicle.get("company_id"), {})
        tariff = tables["tariff"].get(company.get("tariff_id"), {})
        linked = {
            "vehicle_id": vehicle_id,
            "plate": vehicle.get("plate"),
            "company_id": vehicle.get("company_id"),
            "company_name": company.get("name"),
            "tariff_id": company.get("tariff_id"),
            "tariff_name": tariff.get("name"),
            "driver_id": vehicle.get("driver_id"),
            "driver_name": driver.get("name"),
            "driver_phone": driver.get("phone"),
        }
        linked = {name: value for name, value in linked.items() if value is not None}
        states[vehicle_id] = {**linked, **last_values(devices[vehicle["device_id"]])}
    return states


def main():
    asked = json.load(sys.stdin)
    buses = histories(csv_messages(asked["csv"], asked["columns"]))
    cars = histories(gpx_messages(asked["gpx"]))
    devices = {**buses, **cars}

    def row(message):
        return [message["ts"], message["seq"], *(message[name] for name in MEASUREMENTS)]

    answer = {
        # In the order in which they set out.
        "csv_devices": list(buses),
        "gpx_devices": list(cars),
        "columns": ["ts", "seq", *MEASUREMENTS],
        "histories": {device: [row(message) for message in history] for device, history in devices.items()},
        "vehicles": vehicle_states(devices, asked["references"]),
    }
    json.dump(answer, sys.stdout)


main()
