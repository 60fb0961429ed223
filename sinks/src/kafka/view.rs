//! A derived stream as a topic: the newest row under each key, nothing under a key that is gone; or events, one after the other.
//!
//! Invariant: the topic is this stream's alone. What stands in it of an earlier life of the process and not in the view is
//! taken away by tombstones with the first step.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt64Array, new_null_array};
use operators::batch::{DELETED, TICK};
use operators::connection;
use operators::time::Tick;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaSink, METADATA_WAIT, Options, Target, Topic, refused, target, unavailable};
use crate::json::Nulls;
use crate::step::{Rows, Sink, SinkError, Step};
use crate::view::{self, KEY};

/// How long the cluster may take to make a topic, or to give a record that it says it has.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// How long one look for records may take.
const POLL: Duration = Duration::from_millis(100);

/// How the topic is made if it is not there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Whether it keeps the newest record of each key, or records for a time.
    pub is_table: bool,
    /// Partitions.
    pub partitions: i32,
    /// Copies of each partition; none for the cluster's default.
    pub replication: Option<i32>,
    /// How long events are kept, in milliseconds.
    pub retention_ms: i64,
}

/// The sink of one derived stream.
pub struct ViewTopic {
    connection: connection::Kafka,
    wanted: Wanted,
    inner: KafkaSink,
    /// The first step with the tombstones that belong to it, until it is written.
    first: Option<Step>,
}

impl ViewTopic {
    /// A sink of the stream that is called `stream` in its steps.
    #[must_use]
    pub fn new(connection: connection::Kafka, options: Options, stream: &'static str, wanted: Wanted) -> Self {
        let topic = Topic {
            stream,
            target: Target::Topic(wanted.name.clone()),
            keys: if wanted.is_table { &[KEY] } else { &[] },
            meta: &[],
            nulls: Nulls::Omitted,
        };
        let inner = KafkaSink::new(connection.clone(), options, vec![topic], None);
        Self { connection, wanted, inner, first: None }
    }

    async fn make(&self) -> Result<(), SinkError> {
        let Wanted { name, is_table, partitions, replication, retention_ms } = &self.wanted;
        let retention = if *is_table { "-1".to_owned() } else { retention_ms.to_string() };
        let new = NewTopic::new(name, *partitions, TopicReplication::Fixed(replication.unwrap_or(-1)))
            .set("cleanup.policy", if *is_table { "compact" } else { "delete" })
            .set("retention.ms", &retention);
        let done = admin(&self.connection)?.create_topics([&new], &answer_in_time()).await;
        check(&self.connection, &format!("making topic {name}"), done, RDKafkaErrorCode::TopicAlreadyExists)
    }

    /// The step with tombstones of what stands in the topic and not in it.
    async fn with_tombstones(&self, step: &Step) -> Result<Step, SinkError> {
        let (connection, name) = (self.connection.clone(), self.wanted.name.clone());
        let found = tokio::task::spawn_blocking(move || standing(&connection, &name)).await;
        let mut stale = found.unwrap_or_else(|why| Err(unavailable(&self.connection, why.to_string())))?;
        for rows in &step.rows {
            let keys = rows.batch().column_by_name(KEY).map(|keys| keys.as_string::<i32>());
            for key in keys.into_iter().flatten().flatten() {
                stale.remove(key);
            }
        }
        let mut step = step.clone();
        if let (Some(first), false) = (step.rows.first(), stale.is_empty()) {
            tracing::info!(topic = self.wanted.name, keys = stale.len(), "keys of an earlier life are taken away");
            let gone = tombstones(first.batch(), &stale, step.from);
            step.rows.push(Rows::Upsert(gone));
        }
        Ok(step)
    }
}

fn tombstones(like: &RecordBatch, keys: &BTreeSet<String>, tick: Tick) -> RecordBatch {
    let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
        match field.name().as_str() {
            KEY => Arc::new(StringArray::from_iter_values(keys)),
            view::JSON => Arc::new(StringArray::from_iter_values(keys.iter().map(|_| ""))),
            DELETED => Arc::new(BooleanArray::from(vec![true; keys.len()])),
            TICK => Arc::new(UInt64Array::from(vec![tick; keys.len()])),
            _ => new_null_array(field.data_type(), keys.len()),
        }
    };
    let columns = like.schema_ref().fields().iter().map(column).collect();
    RecordBatch::try_new(like.schema(), columns).expect("the columns of the other rows")
}

/// The keys that have a value in the topic.
fn standing(connection: &connection::Kafka, topic: &str) -> Result<BTreeSet<String>, SinkError> {
    let failed = |why: rdkafka::error::KafkaError| unavailable(connection, format!("reading topic {topic}: {why}"));
    let consumer: BaseConsumer = client(connection)
        .set("group.id", "haulstream-views")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "false")
        .create()
        .map_err(failed)?;
    let metadata = consumer.fetch_metadata(Some(topic), METADATA_WAIT).map_err(failed)?;
    let partitions = metadata.topics().iter().flat_map(|found| found.partitions()).map(|partition| partition.id());
    let (mut assigned, mut ends) = (TopicPartitionList::new(), Vec::new());
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition, METADATA_WAIT).map_err(failed)?;
        if high > low {
            assigned.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(failed)?;
            ends.push((partition, high));
        }
    }
    consumer.assign(&assigned).map_err(failed)?;
    let mut keys = BTreeSet::new();
    let mut heard = Instant::now();
    while !ends.is_empty() {
        if let Some(record) = consumer.poll(POLL) {
            let record = record.map_err(failed)?;
            heard = Instant::now();
            if let Some(key) = record.key().and_then(|key| std::str::from_utf8(key).ok()) {
                match record.payload() {
                    Some(_) => drop(keys.insert(key.to_owned())),
                    None => drop(keys.remove(key)),
                }
            }
        }
        // The last records of a compacted topic may be gone, so the position says where the end is.
        let at = consumer.position().map_err(failed)?;
        ends.retain(|(partition, high)| {
            let at = at.find_partition(topic, *partition).map(|found| found.offset());
            !matches!(at, Some(Offset::Offset(at)) if at >= *high)
        });
        if heard.elapsed() > ANSWER_WAIT {
            return Err(unavailable(connection, format!("topic {topic} is not given to its end")));
        }
    }
    Ok(keys)
}

/// Deletes the topic of a stream; nothing happens if it is not there.
///
/// # Errors
/// The cluster does not let us, or is not to be reached.
pub async fn purge(connection: &connection::Kafka, topic: &str) -> Result<(), SinkError> {
    let done = admin(connection)?.delete_topics(&[topic], &answer_in_time()).await;
    check(connection, &format!("deleting topic {topic}"), done, RDKafkaErrorCode::UnknownTopicOrPartition)
}

fn client(connection: &connection::Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &connection.brokers).set("client.id", "haulstream-views");
    config
}

fn admin(connection: &connection::Kafka) -> Result<AdminClient<DefaultClientContext>, SinkError> {
    client(connection).create().map_err(|why| refused(connection, format!("cannot make a client: {why}")))
}

fn answer_in_time() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(ANSWER_WAIT)).request_timeout(Some(ANSWER_WAIT))
}

/// What came of it; `settled` says that it was so already.
fn check(
    connection: &connection::Kafka,
    doing: &str,
    done: rdkafka::error::KafkaResult<Vec<rdkafka::admin::TopicResult>>,
    settled: RDKafkaErrorCode,
) -> Result<(), SinkError> {
    use RDKafkaErrorCode as Code;
    let done = done.map_err(|why| unavailable(connection, format!("{doing}: {why}")))?;
    let failed = done.into_iter().filter_map(Result::err).find(|(_, code)| *code != settled);
    match failed {
        None => Ok(()),
        Some((_, code)) => {
            let why = format!("{doing}: {code}");
            let for_good = [
                Code::TopicAuthorizationFailed,
                Code::ClusterAuthorizationFailed,
                Code::PolicyViolation,
                Code::InvalidTopic,
                Code::InvalidReplicationFactor,
                Code::InvalidPartitions,
                Code::TopicDeletionDisabled,
            ];
            Err(if for_good.contains(&code) { refused(connection, why) } else { unavailable(connection, why) })
        }
    }
}

impl Sink for ViewTopic {
    fn name(&self) -> &'static str {
        "kafka"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.make().await?;
        // A topic that was just made may not be known everywhere yet; that is no refusal.
        self.inner.open().await.map_err(|why| match why {
            SinkError::Refused { why, .. } if why.starts_with("no topic") => {
                SinkError::Unavailable { target: target(&self.connection), why: "the topic is being made".to_owned() }
            }
            why => why,
        })
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        if !(self.wanted.is_table && view::is_first(step)) {
            self.first = None;
            return self.inner.apply(step).await;
        }
        // Tried again it has to be the same: what was produced of it is counted by its place.
        let first = match &self.first {
            Some(first) => first.clone(),
            None => self.first.insert(self.with_tombstones(step).await?).clone(),
        };
        self.inner.apply(&first).await?;
        self.first = None;
        Ok(())
    }
}
