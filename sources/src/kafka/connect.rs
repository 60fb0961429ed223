//! Making the consumer, and finding out what the cluster has before anything is read from it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use operators::connection::Kafka;
use operators::record::Stream;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{ClientConfig, Offset};

use super::REQUEST;
use super::context::{Context, STATISTICS_MS};
use crate::delivery::{Cursor, SourceError};
use crate::reader::Assigned;

/// Most bytes of one partition in one answer to a fetch; what a partition's share of the prefetch may be overshot by.
const FETCH_BYTES_MAX: usize = 1 << 20;
/// Pause before a partition that has not begun yet is asked again to.
const BEGUN_AGAIN: Duration = Duration::from_millis(1);

pub(super) fn config(connection: &Kafka, client: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &connection.brokers)
        .set("client.id", client)
        .set("allow.auto.create.topics", "false")
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("topic.metadata.refresh.interval.ms", "60000")
        .set_log_level(RDKafkaLogLevel::Warning);
    config
}

pub(super) fn consumer(
    connection: &Kafka,
    partitions: usize,
    worker: usize,
) -> Result<BaseConsumer<Context>, SourceError> {
    let share = connection.prefetch_bytes_max / partitions.max(1);
    config(connection, &format!("haulstream-reader-{worker}"))
        .set("group.id", &connection.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", connection.fetch_wait_ms.to_string())
        .set("fetch.message.max.bytes", share.clamp(4_096, FETCH_BYTES_MAX).to_string())
        // The default of a second would be a second without records for a reader that is faster than its queue.
        .set("fetch.queue.backoff.ms", "2")
        // Fetch as far as the bytes allow, whatever the number of records.
        .set("queued.min.messages", "1000000")
        .set("queued.max.messages.kbytes", (share / 1_024).clamp(1, 2_097_151).to_string())
        .set("statistics.interval.ms", STATISTICS_MS.to_string())
        .create_with_context(Context::default())
        .map_err(|why| SourceError::Configuration(format!("Kafka consumer for {}: {why}", connection.brokers)))
}

/// Names what is not there with what to do about it; anything else may heal.
pub(super) fn unavailable(brokers: &str, what: &str, why: &KafkaError) -> SourceError {
    SourceError::Unavailable { what: format!("Kafka at {brokers}, {what}"), why: why.to_string() }
}

/// Finds the partitions of this worker and where each starts.
pub(super) fn assign(
    connection: &Kafka,
    topics: &[(Stream, Arc<str>)],
    worker: usize,
    workers: usize,
    resume: &[Cursor],
) -> Result<Vec<Assigned>, SourceError> {
    let brokers = &connection.brokers;
    // Without a group, and gone when this function returns.
    let probe: BaseConsumer = config(connection, &format!("haulstream-probe-{worker}"))
        .create()
        .map_err(|why| SourceError::Configuration(format!("Kafka consumer for {brokers}: {why}")))?;
    let mut missing = Vec::new();
    let mut assigned = Vec::new();
    for (stream, topic) in topics {
        let Some(partitions) = partitions(&probe, brokers, topic)? else {
            missing.push(&**topic);
            continue;
        };
        let known = |cursor: &&Cursor| *cursor.topic == **topic && !partitions.contains(&cursor.partition);
        if let Some(cursor) = resume.iter().find(known) {
            let message = format!("{topic} has no partition {} any more: was it made anew?", cursor.partition);
            return Err(SourceError::Configuration(message));
        }
        for partition in partitions.into_iter().filter(|p| *p as usize % workers.max(1) == worker) {
            let (start, end) = offsets(&probe, brokers, topic, partition)?;
            let cursor = resume.iter().find(|c| *c.topic == **topic && c.partition == partition);
            let offset = cursor.map_or(start, |cursor| cursor.offset);
            check_range(topic, partition, offset, start, end)?;
            assigned.push(Assigned { stream: *stream, topic: topic.clone(), partition, offset, floor: 0 });
        }
    }
    if !missing.is_empty() {
        let missing = missing.join(", ");
        let message = format!("Kafka at {brokers} has no topic {missing}: make it with `haulstream topics apply`");
        return Err(SourceError::Configuration(message));
    }
    Ok(assigned)
}

/// The partitions of a topic, or `None` if there is no such topic.
pub(super) fn partitions(probe: &BaseConsumer, brokers: &str, topic: &str) -> Result<Option<Vec<i32>>, SourceError> {
    let what = || format!("metadata of {topic}");
    let metadata = probe.fetch_metadata(Some(topic), REQUEST).map_err(|why| unavailable(brokers, &what(), &why))?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => {}
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => return Ok(None),
        Some(code @ (RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::InvalidTopic)) => {
            return Err(SourceError::Configuration(format!("Kafka at {brokers}, {}: {code}", what())));
        }
        Some(code) => return Err(unavailable(brokers, &what(), &KafkaError::MetadataFetch(code))),
    }
    let mut partitions: Vec<i32> = found.partitions().iter().map(|p| p.id()).collect();
    partitions.sort_unstable();
    Ok(Some(partitions))
}

/// First offset of a partition, and the one after its last record.
pub(super) fn offsets<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    brokers: &str,
    topic: &str,
    partition: i32,
) -> Result<(i64, i64), SourceError> {
    let found = consumer.fetch_watermarks(topic, partition, REQUEST);
    found.map_err(|why| unavailable(brokers, &format!("offsets of {topic}[{partition}]"), &why))
}

/// Begins the assigned partitions at their offsets, anew if they have begun: what was fetched before is dropped.
pub(super) fn begin<C: rdkafka::consumer::ConsumerContext>(
    consumer: &BaseConsumer<C>,
    brokers: &str,
    assigned: &[Assigned],
) -> Result<(), SourceError> {
    let until = Instant::now() + REQUEST;
    for Assigned { topic, partition, offset, .. } in assigned {
        // The client takes a moment from the assignment to the first fetch.
        while let Err(why) = consumer.seek(topic, *partition, Offset::Offset(*offset), REQUEST) {
            if Instant::now() >= until {
                return Err(unavailable(brokers, &format!("{topic}[{partition}] from offset {offset}"), &why));
            }
            std::thread::park_timeout(BEGUN_AGAIN);
        }
    }
    Ok(())
}

/// An offset outside of the log is an error with the real numbers, never a reason to start elsewhere.
pub(super) fn check_range(topic: &str, partition: i32, wanted: i64, start: i64, end: i64) -> Result<(), SourceError> {
    if (start..=end).contains(&wanted) {
        return Ok(());
    }
    Err(SourceError::OffsetOutOfRange { topic: topic.to_owned(), partition, wanted, start, end })
}
