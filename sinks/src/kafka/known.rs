//! What the topics of the results have already of the rows that come again after a start.
//!
//! Invariant: a record counts as known only by its topic and its whole identity, so nothing is left out that is not there. Bounded
//! by the records written since the checkpoint; forgotten once rows come that none of them can be.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use operators::time::Tick;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::record::IDENTITY;

/// How long a question to the brokers may take, and how long no record may come while there are some.
const REQUEST: Duration = Duration::from_secs(10);
/// Records are looked for that were written from so many milliseconds before the checkpoint's tick on: a topic may have the clock of
/// the producer's machine.
const BEFORE_MS: u64 = 5_000;
/// No row of a record has a tick so many milliseconds after the record's own time.
const AFTER_MS: u64 = 5_000;

/// Identities of records, by topic.
#[derive(Debug)]
pub(super) struct Known {
    records: HashSet<(u64, Box<[u8]>)>,
    /// No row from this tick on is one of them.
    until: Tick,
}

/// A number for each topic that its records are kept under.
fn number(topic: &str) -> u64 {
    operators::batch::key_hash(topic.as_bytes())
}

impl Known {
    /// Reads what was written to these topics since a tick. Waits for the brokers.
    ///
    /// # Errors
    /// They are away.
    pub fn read(brokers: &str, topics: &[String], since: Tick) -> KafkaResult<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("client.id", "haulstream-known")
            .set("group.id", "haulstream-known")
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false")
            .set("enable.partition.eof", "true")
            .create()?;
        let mut known = Self { records: HashSet::new(), until: since };
        let from = i64::try_from(since.saturating_sub(BEFORE_MS)).unwrap_or(i64::MAX);
        let mut wanted = TopicPartitionList::new();
        for topic in topics {
            let metadata = consumer.fetch_metadata(Some(topic), REQUEST)?;
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                wanted.add_partition_offset(topic, partition.id(), Offset::Offset(from))?;
            }
        }
        let mut ends = Vec::new();
        let mut assigned = TopicPartitionList::new();
        for found in consumer.offsets_for_times(wanted, REQUEST)?.elements() {
            let (topic, partition) = (found.topic(), found.partition());
            // None is so new where the offset is the end.
            if let Offset::Offset(first) = found.offset() {
                let (_, end) = consumer.fetch_watermarks(topic, partition, REQUEST)?;
                if first < end {
                    assigned.add_partition_offset(topic, partition, Offset::Offset(first))?;
                    ends.push((topic.to_owned(), partition, end));
                }
            }
        }
        consumer.assign(&assigned)?;
        known.read_to(&consumer, ends)?;
        Ok(known)
    }

    fn read_to(&mut self, consumer: &BaseConsumer, mut ends: Vec<(String, i32, i64)>) -> KafkaResult<()> {
        let mut last = Instant::now();
        // Each partition tells once when its end is seen, also where the last offsets before it are no records.
        let (partitions, mut seen) = (ends.len(), 0);
        while !ends.is_empty() && seen < partitions {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => {
                    last = Instant::now();
                    let id = record.headers().and_then(|headers| headers.iter().find(|header| header.key == IDENTITY));
                    if let Some(id) = id.and_then(|header| header.value) {
                        self.records.insert((number(record.topic()), id.into()));
                    }
                    let written = record.timestamp().to_millis().and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
                    self.until = self.until.max(written + AFTER_MS);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => seen += 1,
                Some(Err(why)) if last.elapsed() > REQUEST => return Err(why),
                None if last.elapsed() > REQUEST => {
                    return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut));
                }
                Some(Err(_)) | None => {}
            }
            // Offsets may have gaps: the position tells, not the last record.
            let position = consumer.position()?;
            ends.retain(|(topic, partition, end)| {
                let at = position.find_partition(topic, *partition).map(|found| found.offset());
                !matches!(at, Some(Offset::Offset(at)) if at >= *end)
            });
        }
        Ok(())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether no row from this tick on is one of them.
    pub fn is_over(&self, from: Tick) -> bool {
        self.records.is_empty() || from >= self.until
    }

    /// Whether the topic has the record of this identity.
    pub fn has(&self, topic: &str, id: &[u8]) -> bool {
        !id.is_empty() && self.records.contains(&(number(topic), id.into()))
    }
}
