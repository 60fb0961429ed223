//! The Kafka sink on real brokers: what the records look like, and that none is lost or doubled while brokers come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::RecordBatch;
use operators::connection;
use operators::error::{Position, Refusal, RejectedBuilder};
use operators::record::{output, telemetry};
use operators::time::Tick;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde_json::{Value, json};
use sinks::json::Nulls;
use sinks::kafka::{KafkaSink, Options, Target, Topic};
use sinks::run;
use sinks::{Rows, Sink, SinkError, Step};

use crate::rows::{batch, changes, events};
use crate::services::{self, Kafka, unique, wait_until};

pub const DEADLINE: Duration = Duration::from_secs(60);

pub fn options() -> Options {
    Options {
        compression: "none".to_owned(),
        batch_bytes_max: 262_144,
        record_bytes_max: 1_000_000,
        stall_ms_max: 2_000,
        identity: true,
    }
}

pub fn connection(broker: &Kafka) -> connection::Kafka {
    connection::Kafka {
        brokers: broker.bootstrap(),
        group: "unused".to_owned(),
        prefetch_bytes_max: 1 << 20,
        fetch_wait_ms: 10,
        linger_ms: 1,
        produce_bytes_max: 64 << 20,
    }
}

/// How a sink is fed that is to take a lot at once.
pub fn feeding() -> run::Options {
    run::Options {
        rows_max: 5_000,
        bytes_max: 4 << 20,
        flush_ms: 0,
        conflate_rows_max: 5_000,
        queue_bytes_max: 8 << 20,
        retry_ms_min: 50,
        retry_ms_max: 500,
        apply_ms_max: 5_000,
    }
}

fn state_topic(name: &str) -> Topic {
    Topic {
        stream: "vehicle_state",
        target: Target::Topic(name.to_owned()),
        keys: &["vehicle_id"],
        meta: &[("__tick", "version")],
        nulls: Nulls::Omitted,
    }
}

pub fn telemetry_topic(name: &str) -> Topic {
    let target = Target::Topic(name.to_owned());
    Topic { stream: "telemetry_enriched", target, keys: &["device_id"], meta: &[], nulls: Nulls::Omitted }
}

pub async fn sink(broker: &Kafka, topics: Vec<Topic>) -> KafkaSink {
    let mut sink = KafkaSink::new(connection(broker), options(), topics, None);
    sink.open().await.expect("the topics are there");
    sink
}

/// A record as another client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    fn of(message: &BorrowedMessage<'_>) -> Seen {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        Seen {
            partition: message.partition(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.map(|header| (header.key.to_owned(), text(header.value))).collect(),
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(self.value.as_ref().expect("not a tombstone")).expect("JSON")
    }

    pub fn id(&self) -> &str {
        &self.headers["hs-id"]
    }
}

/// Everything in a topic, each partition in its order.
pub fn read(broker: &Kafka, topic: &str) -> Vec<Seen> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker.bootstrap())
        .set("group.id", "reads-without-a-group")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    // A broker tells of a topic that was just made before each of its partitions has a leader.
    let mut bounds: Vec<(i32, i64)> = Vec::new();
    wait_until(DEADLINE, "the topic's partitions have leaders", || {
        let metadata = consumer.fetch_metadata(Some(topic), DEADLINE).expect("metadata");
        let partitions = metadata.topics()[0].partitions().iter().map(|partition| partition.id());
        let found = partitions.map(|id| {
            let (low, high) = consumer.fetch_watermarks(topic, id, DEADLINE).ok()?;
            Some((id, high - low))
        });
        bounds = found.collect::<Option<Vec<_>>>().unwrap_or_default();
        !bounds.is_empty()
    });
    let mut assigned = TopicPartitionList::new();
    let left: i64 = bounds.iter().map(|(_, records)| records).sum();
    for (partition, _) in bounds {
        assigned.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition of the topic");
    }
    consumer.assign(&assigned).expect("an assignment");
    let mut seen = Vec::new();
    wait_until(DEADLINE, "all records are read", || {
        while seen.len() < left as usize {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { return false };
            seen.push(Seen::of(&message.expect("a record")));
        }
        true
    });
    seen
}

fn state(vehicle: &str, tick: Tick, speed: f64) -> Value {
    json!({"vehicle_id": vehicle, "speed_kmh": speed, "__tick": tick, "group_ids": "[\"a\"]", "status": "moving"})
}

#[tokio::test]
async fn a_table_becomes_json_and_tombstones() {
    let broker = services::kafka();
    let topic = broker.topic("state", 3);
    let mut sink = sink(broker, vec![state_topic(&topic)]).await;
    let gone = json!({"vehicle_id": "v-2", "__tick": 20, "__deleted": true});
    let rows = [state("v-1", 10, 12.5), state("v-2", 10, f64::NAN), gone];
    let apply = |rows| changes("vehicle_state", output::vehicle_state(), rows);
    sink.apply(&apply(&rows[..2])).await.expect("applied");
    sink.apply(&apply(&rows[2..])).await.expect("applied");
    let mut seen = read(broker, &topic);
    seen.sort_by_key(|record| record.id().to_owned());
    let ids: Vec<&str> = seen.iter().map(Seen::id).collect();
    assert_eq!(ids, ["vehicle_state/v-1/10", "vehicle_state/v-2/10", "vehicle_state/v-2/20"]);
    let wanted = json!({"vehicle_id": "v-1", "speed_kmh": 12.5, "group_ids": ["a"], "status": "moving", "version": 10});
    assert_eq!(seen[0].json(), wanted);
    assert_eq!(seen[0].key.as_deref(), Some(&b"v-1"[..]));
    assert_eq!((seen[2].key.as_deref(), seen[2].value.as_ref()), (Some(&b"v-2"[..]), None));
    assert_eq!(seen[1].partition, seen[2].partition, "a key stays in its partition");
}

#[tokio::test]
async fn an_events_kind_chooses_its_topic() {
    let broker = services::kafka();
    let (online, offline) = (broker.topic("online", 1), broker.topic("offline", 1));
    let kinds = [("device.online", &online), ("device.offline", &offline)];
    let target = kinds.map(|(kind, topic)| (kind.to_owned(), topic.clone())).to_vec();
    let topic = Topic {
        stream: "vehicle_events",
        target: Target::ByColumn("kind", target),
        keys: &["device_id"],
        meta: &[],
        nulls: Nulls::Written,
    };
    let mut sink = sink(broker, vec![topic]).await;
    let event = |kind: &str, tick: u64| json!({"kind": kind, "device_id": "d-1", "since": 5, "__tick": tick});
    let rows = [event("device.offline", 10), event("device.online", 20), event("device.offline", 30)];
    sink.apply(&events("vehicle_events", output::vehicle_events(), &rows)).await.expect("applied");
    let ids = |topic: &str| read(broker, topic).iter().map(|record| record.id().to_owned()).collect::<Vec<_>>();
    assert_eq!(ids(&offline), ["vehicle_events/d-1/10", "vehicle_events/d-1/30"]);
    assert_eq!(ids(&online), ["vehicle_events/d-1/20"]);
    let wanted =
        json!({"kind": "device.online", "device_id": "d-1", "since": 5, "vehicle_id": null, "company_id": null});
    assert_eq!(read(broker, &online)[0].json(), wanted);
    let odd = events("vehicle_events", output::vehicle_events(), &[event("device.stolen", 40)]);
    let error = sink.apply(&odd).await.expect_err("no such topic");
    assert!(matches!(error, SinkError::Refused { .. }) && error.to_string().contains("device.stolen"), "{error}");
}

#[tokio::test]
async fn dead_letters_come_as_they_came_with_the_reason() {
    let broker = services::kafka();
    let origin = unique("origin");
    let dead = format!("{origin}.dlq");
    broker.create_topic(&dead, 2, &[]);
    let topic = Topic {
        stream: "rejected",
        target: Target::DeadLetters("{topic}.dlq".to_owned()),
        keys: &[],
        meta: &[],
        nulls: Nulls::Omitted,
    };
    let mut sink = sink(broker, vec![topic]).await;
    let mut rejected = RejectedBuilder::default();
    let why = Refusal::new("json_invalid", "no value at 1:3").at("1:3").hint("send JSON");
    let at = |offset| Position { partition: 3, offset, tick: 40 };
    rejected.push(&origin, at(7), Some(b"d-\xff"), Some(b"{\"\x00\xff"), &why);
    rejected.push(&origin, at(8), None, None, &Refusal::new("key_missing", "the record has no key"));
    rejected.push(&origin, at(9), Some(b"d-9"), Some(&vec![b'x'; 2_000_000]), &Refusal::new("too_long", "2 MB"));
    let rows = vec![Rows::Append(rejected.finish())];
    sink.apply(&Step { stream: "rejected", worker: 0, from: 0, upto: 50, rows }).await.expect("applied");
    let mut seen = read(broker, &dead);
    seen.sort_by_key(|record| record.id().to_owned());
    let headers = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let (first, second) = (format!("{origin}/3/7"), format!("{origin}/3/8"));
    let wanted = headers(&[
        ("hs-id", &first),
        ("topic", &origin),
        ("partition", "3"),
        ("offset", "7"),
        ("tick", "40"),
        ("code", "json_invalid"),
        ("message", "no value at 1:3"),
        ("field", "1:3"),
        ("hint", "send JSON"),
    ]);
    assert_eq!(seen[0].headers, wanted);
    assert_eq!((seen[0].key.as_deref(), seen[0].value.as_deref()), (Some(&b"d-\xff"[..]), Some(&b"{\"\x00\xff"[..])));
    assert_eq!((seen[1].id(), seen[1].key.as_ref(), seen[1].value.as_ref()), (second.as_str(), None, None));
    assert!(!seen[1].headers.contains_key("field"));
    let cut = seen[2].value.as_ref().expect("a value").len();
    assert!((900_000..1_000_000).contains(&cut), "{cut}");
    assert_eq!(seen[2].headers["value-bytes"], "2000000");
}

#[tokio::test]
async fn a_missing_topic_is_named_when_the_sink_is_opened() {
    let broker = services::kafka();
    let name = unique("missing");
    let error = KafkaSink::new(connection(broker), options(), vec![state_topic(&name)], None).open().await;
    let error = error.expect_err("there is no such topic");
    assert!(matches!(error, SinkError::Refused { .. }), "{error}");
    assert!(
        error.to_string().ends_with(&format!("no topic {name}: make it with `haulstream topics apply`")),
        "{error}"
    );
}

#[tokio::test]
async fn a_record_that_the_broker_refuses_is_kept_and_the_others_are_not_doubled() {
    let broker = services::kafka();
    let name = unique("narrow");
    broker.create_topic(&name, 1, &[("max.message.bytes", "2000")]);
    let mut sink = sink(broker, vec![state_topic(&name)]).await;
    let mut long = state("v-2", 10, 1.0);
    long["model"] = json!("m".repeat(5_000));
    let rows = [state("v-1", 10, 1.0), long, state("v-3", 10, 1.0)];
    let step = changes("vehicle_state", output::vehicle_state(), &rows);
    for _ in 0..2 {
        let error = sink.apply(&step).await.expect_err("too large for the topic");
        assert!(matches!(error, SinkError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("max.message.bytes"), "{error}");
        sink.open().await.expect("the topic is there");
    }
    let admin: AdminClient<DefaultClientContext> = broker.client().create().expect("a client");
    let wider = AlterConfig::new(ResourceSpecifier::Topic(&name)).set("max.message.bytes", "100000");
    admin.alter_configs([&wider], &AdminOptions::new()).await.expect("altered")[0].as_ref().expect("altered");
    let mut applied = sink.apply(&step).await;
    // The broker takes up the new limit a moment after it has said yes.
    for _ in 0..100 {
        if applied.is_ok() {
            break;
        }
        applied = sink.apply(&step).await;
    }
    applied.expect("within the limit now");
    let mut ids: Vec<String> = read(broker, &name).iter().map(|record| record.id().to_owned()).collect();
    ids.sort();
    assert_eq!(ids, ["vehicle_state/v-1/10", "vehicle_state/v-2/10", "vehicle_state/v-3/10"]);
}

/// An enriched message of one of 50 devices.
pub fn message(seq: i64, tick: Tick) -> Value {
    json!({"device_id": format!("d-{}", seq % 50), "ts": seq, "seq": seq, "lat": 1.5, "lon": 2.5, "plate": "HS 1",
        "__partition": seq % 4, "__offset": seq, "__device": 1, "__tick": tick})
}

/// Messages, `seq` counting on.
pub fn messages(first: i64, count: i64, tick: Tick) -> RecordBatch {
    batch(output::enriched(), &(first..first + count).map(|seq| message(seq, tick)).collect::<Vec<_>>())
}

pub fn step_of(first: i64, count: i64, tick: Tick) -> Step {
    let rows = (0..count / 500).map(|part| Rows::Append(messages(first + part * 500, 500, tick))).collect();
    Step { stream: "telemetry_enriched", worker: 0, from: tick, upto: tick + 1, rows }
}

/// Each message once, and each device's messages in their order.
pub fn check(seen: &[Seen], count: i64) {
    let ids: BTreeSet<&str> = seen.iter().map(Seen::id).collect();
    assert_eq!((ids.len(), seen.len()), (count as usize, count as usize));
    let mut newest: BTreeMap<Vec<u8>, i64> = BTreeMap::new();
    for record in seen {
        let seq = record.json()["seq"].as_i64().expect("a number");
        let before = newest.insert(record.key.clone().expect("a key"), seq).unwrap_or(-1);
        assert!(before < seq, "seq {seq} of {:?} comes after {before}", record.key);
    }
}

#[tokio::test]
async fn a_step_larger_than_the_producer_holds_arrives_whole() {
    let broker = services::kafka();
    let topic = broker.topic("large", 4);
    let small = connection::Kafka { produce_bytes_max: 1 << 20, ..connection(broker) };
    let mut sink = KafkaSink::new(small, options(), vec![telemetry_topic(&topic)], None);
    sink.open().await.expect("the topic is there");
    sink.apply(&step_of(0, 20_000, 10)).await.expect("applied");
    check(&read(broker, &topic), 20_000);
    assert_eq!(telemetry::schema().fields().len(), 22, "the columns that messages() fills are those of a message");
}

#[tokio::test]
async fn a_step_that_is_cut_off_goes_on_where_it_was() {
    let mut broker = Kafka::private("");
    let topic = broker.topic("paused", 4);
    let mut sink = sink(&broker, vec![telemetry_topic(&topic)]).await;
    sink.apply(&step_of(0, 1_000, 10)).await.expect("applied");
    broker.server.pause();
    let next = step_of(1_000, 4_000, 20);
    let error = sink.apply(&next).await.expect_err("nobody answers");
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("records wait, none acknowledged for 2000 ms"), "{error}");
    // Given up from outside this time, in the middle.
    assert!(tokio::time::timeout(Duration::from_millis(50), sink.apply(&next)).await.is_err());
    broker.server.resume();
    sink.apply(&next).await.expect("applied");
    check(&read(&broker, &topic), 5_000);
}
