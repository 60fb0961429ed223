//! Publishing to real brokers: what is acknowledged is there, in the partition and the order of its key, also when the broker
//! is killed in between.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::connection;
use operators::record::Stream;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message, Offset, TopicPartitionList};
use sources::codec::json;
use sources::log::system_clock;
use sources::publish::{FeedOptions, KafkaPublisher, Publish, PublishError, Records, feed, partition_of};
use sources::simulator::{self, Simulator};

use crate::services::{self, Kafka, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;

fn connection(broker: &Kafka, produce_bytes_max: usize) -> connection::Kafka {
    connection::Kafka {
        brokers: broker.bootstrap(),
        group: "unused".to_owned(),
        prefetch_bytes_max: 1 << 20,
        fetch_wait_ms: 10,
        linger_ms: 2,
        produce_bytes_max,
    }
}

/// Keys and values of each partition, as another client sees them.
fn read(broker: &Kafka, topic: &str) -> BTreeMap<i32, Vec<(String, Vec<u8>)>> {
    let consumer: BaseConsumer =
        broker.client().set("group.id", "none").set("enable.auto.commit", "false").create().expect("a consumer");
    let (mut assigned, mut left) = (TopicPartitionList::new(), 0);
    for partition in 0..PARTITIONS {
        let (low, high) = consumer.fetch_watermarks(topic, partition, DEADLINE).expect("watermarks");
        left += high - low;
        assigned.add_partition_offset(topic, partition, Offset::Beginning).expect("a partition of the topic");
    }
    consumer.assign(&assigned).expect("an assignment");
    let (mut seen, mut count) = (BTreeMap::<i32, Vec<_>>::new(), 0);
    wait_until(DEADLINE, "all records are read", || {
        while count < left {
            let Some(message) = consumer.poll(Duration::from_millis(100)) else { return false };
            let message = message.expect("a record");
            let key = String::from_utf8(message.key().unwrap_or_default().to_vec()).expect("keys are ids");
            let value = message.payload().unwrap_or_default().to_vec();
            seen.entry(message.partition()).or_default().push((key, value));
            count += 1;
        }
        true
    });
    seen
}

#[test]
fn records_go_to_the_partition_of_their_key_in_order() {
    let broker = services::kafka();
    let topic = broker.topic("publish", PARTITIONS);
    let publisher = KafkaPublisher::new(&connection(broker, 1 << 20), 30_000).expect("a producer");
    let mut acks = Vec::new();
    for round in 0..20 {
        let mut records = Records::default();
        for device in 0..50 {
            records.push(Some(format!("device-{device}").as_bytes()), Some(format!("{round}").as_bytes()));
        }
        acks.push(publisher.publish(&topic, &records));
    }
    for ack in acks {
        ack.wait().expect("the broker acknowledges");
    }
    let seen = read(broker, &topic);
    let mut rounds: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (partition, records) in &seen {
        for (key, value) in records {
            assert_eq!(*partition, partition_of(key.as_bytes(), PARTITIONS), "{key}");
            rounds.entry(key).or_default().push(value);
        }
    }
    let expected: Vec<String> = (0..20).map(|round| round.to_string()).collect();
    assert_eq!(rounds.len(), 50);
    assert!(
        rounds.values().all(|found| found.iter().zip(&expected).all(|(a, b)| *a == b.as_bytes()) && found.len() == 20)
    );
}

#[test]
fn what_cannot_be_written_is_told() {
    let broker = services::kafka();
    let topic = broker.topic("publish", PARTITIONS);
    let publisher = KafkaPublisher::new(&connection(broker, 10_000), 5_000).expect("a producer");
    let with = |bytes: usize| {
        let mut records = Records::default();
        records.push(Some(b"k"), Some(&vec![b'x'; bytes]));
        records
    };
    let nowhere = publisher.publish("no-such-topic", &with(10)).wait();
    assert!(matches!(nowhere, Err(PublishError::Refused(_) | PublishError::Unavailable(_))), "{nowhere:?}");
    let large = publisher.publish(&topic, &with(2_000_000)).wait();
    assert!(matches!(large, Err(PublishError::TooLarge { .. })), "{large:?}");
    let first = publisher.publish(&topic, &with(6_000));
    let second = publisher.publish(&topic, &with(6_000)).wait();
    first.wait().expect("the broker acknowledges");
    assert!(second.is_ok() || matches!(second, Err(PublishError::Full { bytes_max: 10_000, .. })), "{second:?}");
    publisher.publish(&topic, &with(6_000)).wait().expect("there is room again");
}

/// The broker is killed and comes back while a simulation is fed: nothing that it counts is missing.
#[test]
fn a_killed_broker_costs_nothing() {
    let mut broker = Kafka::private("");
    let topic = broker.topic("publish", PARTITIONS);
    let publisher = KafkaPublisher::new(&connection(&broker, 1 << 20), 60_000).expect("a producer");
    let options = simulator::Options {
        rate_per_s: 2_000.0,
        messages_max: 10_000,
        stamp_server_time: true,
        ..simulator::Options::undisturbed(100, 3)
    };
    let clock = system_clock();
    let mut simulator = Simulator::new(options, clock() as i64).expect("good options");
    let feeding = FeedOptions { batch_bytes_max: 50_000, in_flight_bytes_max: 500_000, pace_ms: 5, retry_ms_max: 500 };
    let name = |stream: Stream| (!stream.is_table()).then(|| topic.clone());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let feeder = scope.spawn(|| {
            let fed = feed(&mut simulator, &publisher, name, &feeding, &clock, &AtomicBool::new(false));
            done.store(true, Ordering::SeqCst);
            fed
        });
        for _ in 0..2 {
            let written = || read(&broker, &topic).values().map(Vec::len).sum::<usize>();
            let before = written();
            wait_until(DEADLINE, "more is written", || written() > before + 500 || done.load(Ordering::SeqCst));
            broker.server.kill9();
            broker.server.start();
        }
        feeder.join().expect("the feeder does not panic").expect("everything is acknowledged in the end");
    });
    let counts = simulator.counts();
    let (mut distinct, mut total) = (HashSet::new(), 0);
    for (_, value) in read(&broker, &topic).values().flatten() {
        let message = json::Message::parse(value).expect("a good message");
        let telemetry = message.telemetry();
        distinct.insert((telemetry.device_id.to_owned(), telemetry.seq));
        total += 1;
    }
    assert_eq!((distinct.len() as u64, counts.messages), (10_000, 10_000));
    assert_eq!(total, 10_000, "an idempotent producer doubles nothing that it was given once");
}
