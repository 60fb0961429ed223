//! The workload's vehicles once more, keyed by vehicle: it keys them by device, which spares other engines a repartition and
//! which our changelogs do not allow.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Message, Offset, TopicPartitionList};

/// The copy.
pub const VEHICLES: &str = "vehicle.by_id";
const ORIGINAL: &str = "vehicle.updated";
const PARTITIONS: i32 = 4;
const WAIT: Duration = Duration::from_secs(10);

/// Makes the copy, unless it is there.
pub fn vehicles_by_id(brokers: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "prepare").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let known = consumer.fetch_metadata(None, WAIT).unwrap();
    if known.topics().iter().any(|topic| topic.name() == VEHICLES) {
        println!("{VEHICLES} is there");
        return;
    }
    let admin: AdminClient<DefaultClientContext> = config.create().unwrap();
    let topic = NewTopic::new(VEHICLES, PARTITIONS, TopicReplication::Fixed(1)).set("cleanup.policy", "compact");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for partition in 0..PARTITIONS {
        let (low, high) = consumer.fetch_watermarks(ORIGINAL, partition, WAIT).unwrap();
        left += high - low;
        list.add_partition_offset(ORIGINAL, partition, Offset::Beginning).unwrap();
    }
    let count = left;
    consumer.assign(&list).unwrap();
    let producer: BaseProducer = config.create().unwrap();
    while left > 0 {
        let Some(message) = consumer.poll(WAIT) else { panic!("no record of {ORIGINAL} within {WAIT:?}") };
        let message = message.unwrap();
        let value = message.payload().unwrap();
        let vehicle: serde_json::Value = serde_json::from_slice(value).unwrap();
        let key = vehicle["vehicle_id"].as_str().unwrap().to_owned();
        let at = message.timestamp().to_millis().unwrap();
        let mut record = BaseRecord::to(VEHICLES).key(&key).payload(value).timestamp(at);
        while let Err((_, back)) = producer.send(record) {
            record = back;
            producer.poll(Duration::from_millis(5));
        }
        left -= 1;
    }
    producer.flush(WAIT).unwrap();
    println!("{VEHICLES}: {count} vehicles");
}
