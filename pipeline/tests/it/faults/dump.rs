//! Everything that a run was given and has put out, as files that the checker reads (`tests/checker/dump.py` says which).

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};
use redis::Commands;
use serde_json::{Map, Value, json};

use super::place::Place;
use crate::services::{Kafka, wait_until};

const DEADLINE: Duration = Duration::from_secs(120);

/// Writes the dump of a run whose program has ended, and whose broker stood still from and to these times.
pub fn write(place: &Place, folder: &Path, stalls: &[(u64, u64)]) {
    for folder_in in ["topics", "clickhouse"] {
        std::fs::create_dir_all(folder.join(folder_in)).expect("a directory");
    }
    for (stream, topic) in place.topics() {
        write_topic(place.kafka(), topic, &folder.join(format!("topics/{stream}.ndjson")));
    }
    write_redis(&place.redis, &folder.join("redis.ndjson"));
    for table in ["telemetry_history", "vehicle_events", "company_minute", "vehicle_links"] {
        for (modifier, name) in [("FINAL", table.to_owned()), ("", format!("{table}.raw"))] {
            let sql = format!(
                "SELECT * FROM {}.{table} {modifier} SETTINGS output_format_json_quote_64bit_integers = 0, session_timezone = 'UTC' \
                 FORMAT JSONEachRow",
                place.database
            );
            let mut rows = place.servers.clickhouse.query(&sql);
            rows.push('\n');
            std::fs::write(folder.join(format!("clickhouse/{name}.ndjson")), rows.trim_start()).expect("room for it");
        }
    }
    let moment = place.manifest().expect("a checkpoint")["moment"].take();
    let facts = json!({
        "topics": place.topics(), "redis_prefix": "hs:1", "offline_after_ms": 3_600_000, "online_after_messages": 2,
        "deduplicate_horizon_ms": 3_600_000, "window_ms": 60_000, "stalls": stalls,
        "end_tick": moment["tick"], "positions": moment["positions"],
    });
    std::fs::write(folder.join("facts.json"), facts.to_string()).expect("room for it");
}

fn line(out: &mut impl Write, value: &Value) {
    writeln!(out, "{value}").expect("room for it");
}

fn write_topic(broker: &Kafka, topic: &str, file: &Path) {
    let mut config = broker.client();
    config.set("group.id", "dump").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().expect("a consumer");
    let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata");
    let mut assigned = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), DEADLINE).expect("its ends");
        left += high - low;
        assigned.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("a partition");
    }
    consumer.assign(&assigned).expect("an assignment");
    let mut out = BufWriter::new(File::create(file).expect("a file"));
    wait_until(DEADLINE, &format!("all records of {topic}"), || {
        while left > 0 {
            let Some(record) = consumer.poll(Duration::from_millis(100)) else { return false };
            line(&mut out, &record_line(&record.expect("a record")));
            left -= 1;
        }
        true
    });
    out.flush().expect("room for it");
}

fn record_line(record: &BorrowedMessage<'_>) -> Value {
    let base64 = |bytes: Option<&[u8]>| bytes.map(|bytes| BASE64_STANDARD.encode(bytes));
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let text = |bytes: Option<&[u8]>| Value::from(String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned());
    let headers: Map<String, Value> = headers.map(|header| (header.key.to_owned(), text(header.value))).collect();
    json!({
        "topic": record.topic(), "partition": record.partition(), "offset": record.offset(),
        "time": record.timestamp().to_millis(), "key": base64(record.key()), "value": base64(record.payload()),
        "headers": headers,
    })
}

fn write_redis(url: &str, file: &Path) {
    let client = redis::Client::open(url).expect("an address");
    let mut connection = client.get_connection().expect("Redis answers");
    let keys: Vec<String> = connection.keys("*").expect("Redis answers");
    let mut out = BufWriter::new(File::create(file).expect("a file"));
    for key in keys {
        let kind: String = redis::cmd("TYPE").arg(&key).query(&mut connection).expect("Redis answers");
        let content = match kind.as_str() {
            "hash" => json!(connection.hgetall::<_, HashMap<String, String>>(&key).expect("a hash")),
            "zset" => {
                let members: Vec<(String, f64)> = connection.zrange_withscores(&key, 0, -1).expect("a set");
                json!(members.into_iter().map(|(of, score)| (of, score as u64)).collect::<HashMap<_, _>>())
            }
            _ => json!(connection.get::<_, String>(&key).expect("a text")),
        };
        line(&mut out, &json!({"key": key, "type": kind, "content": content}));
    }
    out.flush().expect("room for it");
}
