//! The dead letters of a run, counted by the code of the refusal.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Headers as _;
use rdkafka::{Message, Offset, TopicPartitionList};

use crate::it::services::kafka;
use crate::topics::records;

const WAIT: Duration = Duration::from_secs(30);

/// What was refused.
pub struct DeadLetters {
    /// Records by code.
    pub by_code: BTreeMap<String, u64>,
    /// Different places in the log that they name.
    pub distinct: u64,
}

/// Reads the whole topic.
pub fn read(topic: &str) -> DeadLetters {
    let mut config = kafka().client();
    let consumer: BaseConsumer = config.set("group.id", topic).set("enable.auto.commit", "false").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).unwrap();
    let mut all = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        all.add_partition_offset(topic, partition.id(), Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let (mut by_code, mut places) = (BTreeMap::new(), BTreeSet::new());
    for _ in 0..records(topic) {
        let message = consumer.poll(WAIT).expect("a record comes within the time").unwrap();
        let headers = message.headers().expect("dead letters have headers");
        let text = |name: &str| {
            let header = headers.iter().find(|header| header.key == name);
            String::from_utf8_lossy(header.and_then(|header| header.value).unwrap_or_default()).into_owned()
        };
        *by_code.entry(text("code")).or_default() += 1;
        places.insert((text("topic"), text("partition"), text("offset")));
    }
    DeadLetters { by_code, distinct: places.len() as u64 }
}
