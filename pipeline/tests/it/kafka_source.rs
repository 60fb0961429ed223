//! The Kafka source against real brokers. Would catch: a record lost or read twice between readers, across a resume or a
//! broker's crash; garbage that takes its neighbours along; a silent topic that stalls the others; offsets that are reset
//! silently; a reader that takes in more than it was given room for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::{AsArray, RecordBatch};
use operators::batch::{OFFSET, PARTITION, TICK, i32s, i64s, u64s};
use operators::connection;
use operators::record::Stream;
use operators::time::Tick;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use sources::delivery::{Capacity, Nothing, Receiver, channel};
use sources::kafka::KafkaLog;
use sources::kafka::topics::{self, Change, Cleanup, Topic};
use sources::reader::{Options, Reader};
use sources::{Cursor, Delivery, SourceError};

use super::services::{self, Kafka, unique, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

fn connection(kafka: &Kafka) -> connection::Kafka {
    connection::Kafka {
        brokers: kafka.bootstrap(),
        group: unique("source"),
        prefetch_bytes_max: 8 << 20,
        fetch_wait_ms: 10,
        linger_ms: 5,
        produce_bytes_max: 8 << 20,
    }
}

fn options() -> Options {
    Options {
        tick_ms: 10,
        future_ms_max: 60_000,
        slack_ms_min: 2,
        slack_ms_max: 100,
        ahead_ms_max: 10_000,
        batch_rows_max: 1_000,
        batch_bytes_max: 1 << 20,
        pace_ms: 1,
    }
}

const ROOM: Capacity = Capacity { rows_max: 100_000, bytes_max: 64 << 20 };

type At = (Stream, i32, i64);

/// What a reader has delivered.
#[derive(Debug, Default)]
struct Seen {
    rows: BTreeMap<At, Tick>,
    rejected: BTreeMap<At, (String, Tick)>,
    frontiers: BTreeMap<Stream, Option<Tick>>,
}

impl Seen {
    fn take(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Rows(stream, rows) => {
                let ticks = u64s(&rows, TICK);
                for (row, at) in positions(stream, &rows, PARTITION, OFFSET).enumerate() {
                    self.check(stream, ticks.value(row));
                    assert!(self.rows.insert(at, ticks.value(row)).is_none(), "{at:?} twice");
                }
            }
            Delivery::Rejected(stream, rows) => {
                let codes = rows.column_by_name("code").expect("a column").as_string::<i32>().clone();
                let ticks = u64s(&rows, TICK);
                for (row, at) in positions(stream, &rows, "partition", "offset").enumerate() {
                    self.check(stream, ticks.value(row));
                    let refusal = (codes.value(row).to_owned(), ticks.value(row));
                    assert!(self.rejected.insert(at, refusal).is_none(), "{at:?} twice");
                }
            }
            Delivery::Frontier(stream, tick) => {
                let before = self.frontiers.insert(stream, tick).unwrap_or(Some(0));
                assert!(before.is_some() && tick.is_none_or(|tick| Some(tick) > before), "{before:?} then {tick:?}");
            }
        }
    }

    fn check(&self, stream: Stream, tick: Tick) {
        let frontier = self.frontiers.get(&stream).copied().unwrap_or(Some(0));
        assert!(frontier.is_some_and(|frontier| tick >= frontier), "a row at {tick} behind {frontier:?}");
    }

    /// Positions of both kinds.
    fn all(&self) -> BTreeSet<At> {
        self.rows.keys().chain(self.rejected.keys()).copied().collect()
    }

    fn frontier(&self, stream: Stream) -> Tick {
        self.frontiers.get(&stream).copied().flatten().unwrap_or(0)
    }
}

fn positions(stream: Stream, rows: &RecordBatch, partition: &str, offset: &str) -> impl Iterator<Item = At> + use<> {
    let (partitions, offsets) = (i32s(rows, partition).clone(), i64s(rows, offset).clone());
    (0..rows.num_rows()).map(move |row| (stream, partitions.value(row), offsets.value(row)))
}

/// A reader on its own thread.
struct Running {
    receiver: Receiver,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), SourceError>>,
    seen: Seen,
}

impl Running {
    fn start(log: KafkaLog, until: Option<&[Cursor]>, room: Capacity) -> Self {
        let (outlet, receiver) = channel(room, || {});
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader::new(log, outlet, options(), stop.clone());
        let reader = match until {
            Some(ends) => reader.until(ends),
            None => reader,
        };
        let thread = std::thread::Builder::new().name("reader".into()).spawn(|| reader.run()).expect("a thread");
        Running { receiver, stop, thread, seen: Seen::default() }
    }

    /// Takes deliveries until `enough`.
    fn until(&mut self, what: &str, mut enough: impl FnMut(&Seen) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !enough(&self.seen) {
            assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}; frontiers {:?}", self.seen.frontiers);
            match self.receiver.recv_timeout(Duration::from_millis(100)) {
                Ok(delivery) => self.seen.take(delivery),
                Err(Nothing::Yet) => {}
                Err(Nothing::Ever) => break,
            }
        }
    }

    fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.until("the reader ends", |_| false);
        self.thread.join().expect("no panic").expect("a reader that is stopped has no error");
        self.seen
    }
}

/// Reads what is there now by `workers` readers, from `resume`.
fn read_all(kafka: &Kafka, topics: &[(Stream, Arc<str>)], workers: usize, resume: &[Cursor]) -> Seen {
    let mut all = Seen::default();
    for worker in 0..workers {
        let mut log =
            KafkaLog::connect(&connection(kafka), topics, worker, workers, resume).expect("the topics are there");
        let ends = log.ends().expect("the broker answers");
        let mut running = Running::start(log, Some(&ends), ROOM);
        running.until("the reader comes to its end", |_| false);
        running.thread.join().expect("no panic").expect("the end is reached");
        assert!(running.seen.frontiers.len() == Stream::ALL.len(), "each stream is told of");
        assert!(running.seen.frontiers.values().all(Option::is_none), "each stream has ended");
        for (at, tick) in running.seen.rows {
            assert!(all.rows.insert(at, tick).is_none(), "{at:?} was read by two readers");
        }
        for (at, refusal) in running.seen.rejected {
            assert!(all.rejected.insert(at, refusal).is_none(), "{at:?} was read by two readers");
        }
    }
    all
}

type Client = ThreadedProducer<DefaultProducerContext>;

fn producer(kafka: &Kafka) -> Client {
    kafka
        .client()
        .set("acks", "all")
        .set("linger.ms", "5")
        .set("enable.idempotence", "true")
        .create()
        .expect("a client")
}

fn send(client: &Client, topic: &str, partition: i32, key: Option<&str>, value: Option<&[u8]>) {
    let mut record = BaseRecord::<str, [u8]>::to(topic).partition(partition);
    record = key.into_iter().fold(record, BaseRecord::key);
    record = value.into_iter().fold(record, BaseRecord::payload);
    let deadline = Instant::now() + DEADLINE;
    while let Err((why, back)) = client.send(record) {
        assert!(Instant::now() < deadline, "{why}");
        client.flush(Duration::from_millis(100)).ok();
        record = back;
    }
}

fn message(device: &str, seq: i64) -> Vec<u8> {
    format!(r#"{{"device_id":"{device}","ts":1700000000000,"seq":{seq},"lat":54.1,"lon":11.2}}"#).into_bytes()
}

/// `count` good messages over all partitions.
fn send_messages(client: &Client, topic: &str, partitions: i32, from: i64, count: i64) {
    for seq in from..from + count {
        let device = format!("d-{}", seq % 17);
        send(client, topic, (seq % i64::from(partitions)) as i32, Some(&device), Some(&message(&device, seq)));
    }
    client.flush(DEADLINE).expect("the broker takes the records");
}

#[test]
fn every_record_is_read_once_by_one_reader_and_by_two() {
    let kafka = services::kafka();
    let (telemetry, vehicles) = (kafka.topic("telemetry", 4), kafka.topic("vehicles", 3));
    let client = producer(kafka);
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for seq in 0..12_000i64 {
        let (partition, key) = ((seq % 4) as i32, Some("d-1"));
        let good = message("d-1", seq);
        let code = match seq % 100 {
            7 => (send(&client, &telemetry, partition, key, Some(b"{garbage")), "json_invalid").1,
            17 => (send(&client, &telemetry, partition, key, None), "unexpected_tombstone").1,
            27 => (send(&client, &telemetry, partition, None, Some(&good)), "key_missing").1,
            37 => (send(&client, &telemetry, partition, Some("d-2"), Some(&good)), "key_mismatch").1,
            47 => (send(&client, &telemetry, partition, key, Some(&[0xff; 40])), "utf8_invalid").1,
            57 => (send(&client, &telemetry, partition, key, Some(&[b' '; 70_000])), "record_too_large").1,
            67 => (send(&client, &telemetry, partition, key, Some(b"")), "json_invalid").1,
            _ => (send(&client, &telemetry, partition, key, Some(&good)), "").1,
        };
        *codes.entry(code).or_default() += 1;
    }
    for number in 0..300 {
        let key = format!("v-{}", number % 50);
        let value = format!(r#"{{"vehicle_id":"{key}","device_id":"d-1"}}"#);
        let value = (number % 10 != 3).then_some(value.as_bytes());
        send(&client, &vehicles, number % 3, Some(&key), value);
    }
    client.flush(DEADLINE).expect("the broker takes the records");

    let topics = [(Stream::Telemetry, Arc::from(telemetry)), (Stream::Vehicle, Arc::from(vehicles))];
    let one = read_all(kafka, &topics, 1, &[]);
    assert_eq!(one.all().len(), 12_300);
    assert_eq!(one.rows.keys().filter(|at| at.0 == Stream::Vehicle).count(), 300, "tombstones of references are rows");
    let mut counted: BTreeMap<&str, usize> = BTreeMap::new();
    for (code, _) in one.rejected.values() {
        *counted.entry(code).or_default() += 1;
    }
    codes.remove("");
    assert_eq!(counted, codes);

    let two = read_all(kafka, &topics, 2, &[]);
    assert_eq!(two.rows, one.rows, "the same rows with the same ticks");
    assert_eq!(two.rejected, one.rejected);
}

#[test]
fn a_reader_resumes_where_it_is_told_to() {
    let kafka = services::kafka();
    let topic = kafka.topic("resumed", 2);
    send_messages(&producer(kafka), &topic, 2, 0, 1_000);
    let topics = [(Stream::Telemetry, Arc::from(topic.as_str()))];
    let resume =
        [Cursor { topic: topic.clone(), partition: 0, offset: 400 }, Cursor { topic, partition: 1, offset: 500 }];
    let rest = read_all(kafka, &topics, 1, &resume);
    let expected: BTreeSet<At> = (400..500).map(|offset| (Stream::Telemetry, 0, offset)).collect();
    assert_eq!(rest.all(), expected);
}

#[test]
fn a_log_that_lacks_the_wanted_offset_is_an_error_with_numbers() {
    let kafka = services::kafka();
    let topic = kafka.topic("truncated", 1);
    send_messages(&producer(kafka), &topic, 1, 0, 1_000);
    let mut kept = TopicPartitionList::new();
    kept.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(600)).expect("a valid offset");
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.delete_records(&kept, &AdminOptions::new())).expect("the broker deletes records");

    let topics = [(Stream::Telemetry, Arc::from(topic.as_str()))];
    let connect = |offset| {
        let resume = [Cursor { topic: topic.clone(), partition: 0, offset }];
        KafkaLog::connect(&connection(kafka), &topics, 0, 1, &resume).map(drop)
    };
    let why = connect(400).expect_err("records 400 to 599 are gone").to_string();
    assert_eq!(why, format!("{topic}[0]: offset 400 is outside the log's 600..1000"));
    let why = connect(1_001).expect_err("there is no record 1000").to_string();
    assert_eq!(why, format!("{topic}[0]: offset 1001 is outside the log's 600..1000"));
    connect(600).expect("the first record that is there");
    connect(1_000).expect("the end");
    // Without a cursor the log's first record is meant.
    assert_eq!(read_all(kafka, &topics, 1, &[]).all().len(), 400);
}

#[test]
fn records_that_are_deleted_before_they_are_read_are_an_error() {
    let kafka = services::kafka();
    let topic = kafka.topic("overtaken", 1);
    // More than is fetched ahead, and a reader that is held up at once.
    send_messages(&producer(kafka), &topic, 1, 0, 60_000);
    let topics = [(Stream::Telemetry, Arc::from(topic.as_str()))];
    let settings = connection::Kafka { prefetch_bytes_max: 100_000, ..connection(kafka) };
    let log = KafkaLog::connect(&settings, &topics, 0, 1, &[]).expect("the topic is there");
    let mut running = Running::start(log, None, Capacity { rows_max: 1_000, bytes_max: 1 << 20 });
    running.until("a first batch", |seen| !seen.rows.is_empty());
    let mut kept = TopicPartitionList::new();
    kept.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(59_999)).expect("a valid offset");
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().expect("a client");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(admin.delete_records(&kept, &AdminOptions::new())).expect("the broker deletes records");
    running.until("the reader ends", |_| false);
    let why = running.thread.join().expect("no panic").expect_err("records were lost").to_string();
    let next = running.seen.rows.len();
    assert_eq!(why, format!("{topic}[0]: offset {next} is outside the log's 59999..60000"));
}

#[test]
fn what_is_not_there_is_told_with_what_to_do() {
    let kafka = services::kafka();
    let there = kafka.topic("there", 1);
    let topics = [
        (Stream::Telemetry, Arc::from(there.as_str())),
        (Stream::Driver, Arc::from("no.such.topic")),
        (Stream::Tariff, Arc::from("nor.this.one")),
    ];
    let why = KafkaLog::connect(&connection(kafka), &topics, 0, 1, &[]).map(drop).expect_err("no such topics");
    assert!(matches!(why, SourceError::Configuration(_)), "{why:?}");
    let why = why.to_string();
    assert!(why.contains("no topic no.such.topic, nor.this.one") && why.contains("haulstream topics apply"), "{why}");

    let resume = [Cursor { topic: there, partition: 7, offset: 0 }];
    let why = KafkaLog::connect(&connection(kafka), &topics[..1], 0, 1, &resume).map(drop).expect_err("no partition 7");
    assert!(why.to_string().contains("has no partition 7"), "{why}");

    let away = connection::Kafka { brokers: "127.0.0.1:1".into(), ..connection(kafka) };
    let why = KafkaLog::connect(&away, &topics, 0, 1, &[]).map(drop).expect_err("nobody listens there");
    assert!(matches!(why, SourceError::Unavailable { .. }), "{why:?}");
    assert!(why.to_string().contains("127.0.0.1:1"), "{why}");
}

#[test]
fn silent_topics_hold_nothing_up() {
    let kafka = services::kafka();
    let (telemetry, drivers, tariffs) = (kafka.topic("loud", 2), kafka.topic("quiet", 2), kafka.topic("empty", 1));
    let client = producer(kafka);
    send(&client, &drivers, 0, Some("p-1"), Some(br#"{"driver_id":"p-1"}"#));
    client.flush(DEADLINE).expect("the broker takes the record");
    let topics = [
        (Stream::Telemetry, Arc::from(telemetry.as_str())),
        (Stream::Driver, Arc::from(drivers)),
        (Stream::Tariff, Arc::from(tariffs)),
    ];
    let settings = connection(kafka);
    let log = KafkaLog::connect(&settings, &topics, 0, 1, &[]).expect("the topics are there");
    let mut running = Running::start(log, None, ROOM);
    let live = [Stream::Telemetry, Stream::Driver, Stream::Tariff];
    running.until("all frontiers are there", |seen| live.iter().all(|stream| seen.frontier(*stream) > 0));
    assert_eq!(running.seen.frontiers[&Stream::Vehicle], None, "a stream without a topic here");

    // Each record's tick is passed by all three.
    for seq in 0..20 {
        send_messages(&client, &telemetry, 2, seq, 1);
        let expected = seq as usize + 1;
        running.until("the record comes and is passed", |seen| {
            let telemetry: Vec<Tick> =
                seen.rows.iter().filter(|(at, _)| at.0 == Stream::Telemetry).map(|(_, tick)| *tick).collect();
            telemetry.len() == expected && live.iter().all(|s| telemetry.iter().all(|tick| seen.frontier(*s) > *tick))
        });
    }
    // And when nothing at all comes.
    let before = running.seen.frontier(Stream::Tariff);
    running.until("time passes", |seen| live.iter().all(|stream| seen.frontier(*stream) > before + 1_000));

    // The group shows how far it was read, for lag tools.
    let tool: BaseConsumer = kafka.client().set("group.id", &settings.group).create().expect("a client");
    let mut asked = TopicPartitionList::new();
    asked.add_partition(&telemetry, 0);
    wait_until(DEADLINE, "the group's offset is that of the last record", || {
        while running.receiver.try_recv().is_ok() {}
        let told = tool.committed_offsets(asked.clone(), Duration::from_secs(5)).expect("the broker answers");
        told.elements()[0].offset() == rdkafka::Offset::Offset(10)
    });
    running.stop();
}

#[test]
fn a_reader_takes_in_no_more_than_it_has_room_for() {
    let kafka = services::kafka();
    let topic = kafka.topic("pressed", 4);
    send_messages(&producer(kafka), &topic, 4, 0, 50_000);
    let topics = [(Stream::Telemetry, Arc::from(topic.as_str()))];
    let mut log = KafkaLog::connect(&connection(kafka), &topics, 0, 1, &[]).expect("the topic is there");
    let ends = log.ends().expect("the broker answers");
    let room = Capacity { rows_max: 3_000, bytes_max: 64 << 20 };
    let mut running = Running::start(log, Some(&ends), room);
    wait_until(DEADLINE, "the channel is full", || running.receiver.waiting().0 >= 2_000);
    running.until("a half", |seen| {
        assert!(seen.rows.len() < 50_000);
        seen.rows.len() >= 25_000
    });
    assert!(running.receiver.waiting().0 <= 3_000, "{:?}", running.receiver.waiting());
    running.until("all", |_| false);
    running.thread.join().expect("no panic").expect("the end is reached");
    assert_eq!(running.seen.rows.len(), 50_000);
}

#[test]
fn a_broker_that_crashes_and_returns_loses_nothing() {
    let mut kafka = Kafka::private("");
    let topic = kafka.topic("crashing", 2);
    let client = producer(&kafka);
    send_messages(&client, &topic, 2, 0, 2_000);
    let topics = [(Stream::Telemetry, Arc::from(topic.as_str()))];
    let log = KafkaLog::connect(&connection(&kafka), &topics, 0, 1, &[]).expect("the topic is there");
    let mut running = Running::start(log, None, ROOM);
    running.until("the first records", |seen| seen.rows.len() == 2_000);
    for round in 1..=2 {
        kafka.server.kill9();
        // While the broker is away nobody can tell that nothing was appended.
        let at = Instant::now();
        running.until("the loss is noticed", |_| at.elapsed() > Duration::from_secs(2));
        let before = running.seen.frontier(Stream::Telemetry);
        running.until("nothing happens", |_| at.elapsed() > Duration::from_secs(4));
        assert_eq!(running.seen.frontier(Stream::Telemetry), before, "a frontier follows the clock of a dead broker");
        kafka.server.start();
        send_messages(&client, &topic, 2, round * 2_000, 2_000);
        let expected = (round as usize + 1) * 2_000;
        running.until("the records after the crash", |seen| seen.rows.len() == expected);
        let now = running.seen.rows.values().max().copied().unwrap_or(0);
        running.until("the frontier passes them", |seen| seen.frontier(Stream::Telemetry) > now + 1_000);
    }
    let seen = running.stop();
    assert_eq!((seen.rows.len(), seen.rejected.len()), (6_000, 0));
}

#[tokio::test]
async fn topics_are_made_and_grown_as_planned_and_never_shrunk() {
    let kafka = services::kafka();
    let cluster = connection(kafka);
    let topic = |name: &str, partitions| Topic {
        name: name.to_owned(),
        partitions,
        replication: None,
        retention_ms: Some(86_400_000),
        cleanup: Cleanup::Delete,
    };
    let (new, small, large) = (unique("new"), unique("small"), unique("large"));
    let made = {
        let (small, large) = (small.clone(), large.clone());
        tokio::task::spawn_blocking(move || {
            // One of other settings, one of which is none of our business.
            services::kafka().create_topic(&small, 2, &[("retention.ms", "1000"), ("segment.ms", "600000")]);
            services::kafka().create_topic(&large, 6, &[("message.timestamp.type", "LogAppendTime")]);
        })
    };
    made.await.expect("the topics are made");
    let wanted = [
        Topic { cleanup: Cleanup::Compact, retention_ms: None, ..topic(&new, 3) },
        topic(&small, 4),
        Topic { retention_ms: Some(604_800_000), ..topic(&large, 4) },
    ];
    let plan = topics::plan(&cluster, &wanted).await.expect("the broker answers");
    let set = |topic: &str, name, from: &str, to: &str| Change::Set {
        topic: topic.to_owned(),
        name,
        from: from.to_owned(),
        to: to.to_owned(),
    };
    let expected = [
        Change::Create(wanted[0].clone()),
        Change::Grow { topic: small.clone(), from: 2, to: 4 },
        set(&small, "message.timestamp.type", "CreateTime", "LogAppendTime"),
        set(&small, "retention.ms", "1000", "86400000"),
        Change::Larger { topic: large.clone(), has: 6, wanted: 4 },
    ];
    assert_eq!(plan.changes, expected);
    let text = plan.to_string();
    assert!(text.contains(&format!("+ {new}: 3 partitions, message.timestamp.type=LogAppendTime")), "{text}");
    assert!(text.contains(&format!("{large}: has 6 partitions, more than 4; left as it is")), "{text}");

    topics::apply(&cluster, &plan).await.expect("the broker does it");
    // The broker's own view follows in a moment.
    let deadline = Instant::now() + DEADLINE;
    let rest = loop {
        let rest = topics::plan(&cluster, &wanted).await.expect("the broker answers");
        if rest.is_empty() || Instant::now() > deadline {
            break rest;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(rest.changes, [Change::Larger { topic: large, has: 6, wanted: 4 }]);
    assert!(rest.to_string().contains("as they should be"));
    // Applied again, it changes nothing and fails at nothing that is done.
    topics::apply(&cluster, &topics::Plan { changes: vec![expected[0].clone()] }).await.expect("it is there already");
    let other = [Topic { cleanup: Cleanup::Compact, ..wanted[1].clone() }];
    let plan = topics::plan(&cluster, &other).await.expect("the broker answers");
    topics::apply(&cluster, &plan).await.expect("the broker does it");
    let admin: AdminClient<DefaultClientContext> = kafka.client().create().expect("a client");
    let of = rdkafka::admin::ResourceSpecifier::Topic(&small);
    let settings = admin.describe_configs([&of], &AdminOptions::new()).await.expect("the broker answers");
    let settings = settings[0].as_ref().expect("the topic is there").entry_map();
    assert_eq!(settings["segment.ms"].value.as_deref(), Some("600000"), "a setting that is not ours stays");
    assert_eq!(settings["cleanup.policy"].value.as_deref(), Some("compact"));
}
