"""A dump of everything that a run was given and has put out, read from a directory.

    facts.json                 settings of the run: names of topics, the tick up to which all was done, positions; when the
                               broker stood still (from, to)
    sent.ndjson                what the generator sent, and what became of it: stream, partition, offset, outcome
    topics/STREAM.ndjson       topic, partition, offset, time (append time), key and value (base64 or null), headers
    redis.ndjson               key, type, content
    clickhouse/TABLE.ndjson    as read with FINAL; TABLE.raw.ndjson without
    clients/NAME.ndjson        messages that a WebSocket client got, each with the number of its connection; may be missing
"""

import json
import pathlib
from datetime import datetime, timezone

import records

OUTPUTS = ["dead_letters", "vehicle_state", "online", "offline", "enriched"]


def milliseconds(text):
    """ClickHouse's DateTime64(3) as milliseconds."""
    if text is None:
        return None
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=timezone.utc)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 1000 + moment.microsecond // 1000


class Dump:
    """The contents of a directory, in memory."""

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.facts = json.loads((self.directory / "facts.json").read_text())
        self.sent = list(self.lines("sent.ndjson"))
        streams = ["telemetry", *records.REFERENCES, *OUTPUTS]
        self.topics = {stream: self.records(stream) for stream in streams}
        self.redis = {line["key"]: line for line in self.lines("redis.ndjson")}
        tables = ["telemetry_history", "vehicle_events", "company_minute", "vehicle_links"]
        self.tables = {table: list(self.lines(f"clickhouse/{table}.ndjson")) for table in tables}
        self.raw = {table: list(self.lines(f"clickhouse/{table}.raw.ndjson")) for table in tables}
        for row in self.tables["telemetry_history"]:
            row |= {"ts": milliseconds(row["ts"]), "server_time": milliseconds(row["server_time"]), "seq": int(row["seq"])}
        self.clients = {path.stem: list(self.lines(path.relative_to(self.directory)))
                        for path in sorted(self.directory.glob("clients/*.ndjson"))}

    def lines(self, name):
        with open(self.directory / name, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def records(self, stream):
        found = list(self.lines(f"topics/{stream}.ndjson"))
        for record in found:
            record["key"], record["value"] = records.decoded(record["key"]), records.decoded(record["value"])
        found.sort(key=lambda record: (record["partition"], record["offset"]))
        return found

    def topic(self, stream):
        """The stream's records, each partition in its order."""
        return self.topics[stream]
