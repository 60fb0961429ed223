//! Streams of rows as records in Kafka topics: JSON values, tombstones for deletes, dead letters as they came.
//!
//! Invariant: a step counts as written once the brokers have acknowledged every record of it. While the process lives each
//! record is produced once, however long the brokers are away: a step that is tried again goes on where it stopped. After a
//! restart records may come again; the header `hs-id` is the same each time.

mod delivery;
mod flight;
mod record;

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use operators::connection;
use operators::time::Tick;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, ThreadedProducer};
use serde::Deserialize;
use tracing::warn;

use crate::json::Nulls;
use crate::metrics::Metric;
use crate::step::{Sink, SinkError, Step};
use delivery::{Delivery, Reports, Stalled};
use flight::Flight;
use record::Formats;

/// Records produced between two chances for other tasks of the runtime.
const RECORDS_A_TURN: usize = 256;
/// How long the brokers may take to list their topics when the sink is opened.
const METADATA_WAIT: Duration = Duration::from_secs(5);

/// How records are produced.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// `none`, `lz4`, `zstd`, `gzip` or `snappy`.
    pub compression: String,
    /// Bytes of records that the producer sends in one batch to a partition.
    pub batch_bytes_max: usize,
    /// Bytes of one record. The value of a larger dead letter is cut; the headers tell its length.
    pub record_bytes_max: usize,
    /// Milliseconds without any acknowledgement after which the brokers are reported as away. Nothing is given up by it.
    pub stall_ms_max: u64,
    /// Whether each record carries its identity in the header `hs-id`.
    pub identity: bool,
}

/// Where the records of a stream go.
#[derive(Clone, Debug)]
pub enum Target {
    /// All into one topic.
    Topic(String),
    /// By the value of a text column, such as the kind of an event.
    ByColumn(&'static str, Vec<(String, String)>),
    /// Refused records (columns of [`rejected_schema`](operators::error::rejected_schema)) with their own key and value
    /// and the reason in headers. `{topic}` in the name stands for the topic that a record came from.
    DeadLetters(String),
}

/// A stream, and the topic that its rows become records of.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Name of the stream.
    pub stream: &'static str,
    /// Where the records go.
    pub target: Target,
    /// Columns that make the record's key, joined by `|`.
    pub keys: &'static [&'static str],
    /// Meta columns that the value has, and their names there: (`__tick`, `version`).
    pub meta: &'static [(&'static str, &'static str)],
    /// What becomes of missing values.
    pub nulls: Nulls,
}

/// The sink.
pub struct KafkaSink {
    connection: connection::Kafka,
    options: Options,
    topics: Vec<Topic>,
    formats: Formats,
    producer: Option<Arc<Producing>>,
    reports: Arc<Reports>,
    flight: Flight,
}

type Producing = ThreadedProducer<Delivery>;

impl KafkaSink {
    /// A sink that produces the streams of `topics`.
    #[must_use]
    pub fn new(connection: connection::Kafka, options: Options, topics: Vec<Topic>) -> Self {
        let formats = Formats::new(options.identity, options.record_bytes_max);
        let reports = Arc::new(Reports::default());
        Self { connection, options, topics, formats, producer: None, reports, flight: Flight::default() }
    }

    fn configuration(&self) -> ClientConfig {
        let (connection, options) = (&self.connection, &self.options);
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &connection.brokers)
            .set("client.id", "haulstream")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A record stays in the producer until it is acknowledged: giving up would leave a gap or a double.
            .set("message.timeout.ms", "0")
            .set("partitioner", "murmur2_random")
            .set("linger.ms", connection.linger_ms.to_string())
            .set("compression.type", &options.compression)
            .set("batch.size", options.batch_bytes_max.to_string())
            .set("batch.num.messages", "20000")
            .set("message.max.bytes", options.record_bytes_max.max(options.batch_bytes_max).to_string())
            .set("queue.buffering.max.kbytes", (connection.produce_bytes_max / 1_024).max(1).to_string())
            .set("queue.buffering.max.messages", "1000000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true");
        config
    }

    /// The producer, a new one if there is none or it has met an error that it cannot live with.
    fn ready_producer(&mut self) -> Result<Arc<Producing>, SinkError> {
        if let Some(producer) = &self.producer {
            let Some((code, reason)) = producer.client().fatal_error() else { return Ok(producer.clone()) };
            warn!(%code, reason, "Kafka producer is replaced");
            // Its end reports every record that it still holds as failed; they are produced again by the next one.
            self.producer = None;
        }
        let delivery = Delivery::new(self.reports.clone());
        let made: Result<Producing, KafkaError> = self.configuration().create_with_context(delivery);
        let made = Arc::new(made.map_err(|error| self.refused(format!("cannot make a producer: {error}")))?);
        self.producer = Some(made.clone());
        Ok(made)
    }

    /// Topics whose names do not depend on the data.
    fn known_topics(&self) -> Vec<String> {
        let names = self.topics.iter().flat_map(|topic| match &topic.target {
            Target::Topic(name) | Target::DeadLetters(name) => vec![name.clone()],
            Target::ByColumn(_, names) => names.iter().map(|(_, name)| name.clone()).collect(),
        });
        names.filter(|name| !name.contains("{topic}")).collect()
    }

    /// Hands over what the flight still has to produce; counts on the flight so that it can be cut off anywhere.
    async fn produce(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        let producer = self.ready_producer()?;
        let mut end = 0;
        let parts: Vec<_> =
            steps.iter().flat_map(|step| step.rows.iter().map(move |rows| (step.stream, rows))).collect();
        for (stream, rows) in parts {
            let start = end;
            end += rows.batch().num_rows();
            if !self.flight.wants(start..end) {
                continue;
            }
            let topic = self.topics.iter().find(|topic| topic.stream == stream);
            let topic = topic.ok_or_else(|| refused(&self.connection, format!("no topic for stream {stream}")))?;
            self.formats.prepare(topic, rows).map_err(|error| refused(&self.connection, error.to_string()))?;
            let mut batch = self.formats.batch(topic, rows);
            let mut turn = 0;
            while let Some(index) = self.flight.next_in(start..end) {
                let record = batch.record(index - start).map_err(|why| refused(&self.connection, why))?;
                let mut record = record.opaque(self.flight.id(index));
                while let Err((error, back)) = producer.send(record) {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                        let why = format!("a record of stream {stream} is not taken: {error}");
                        return Err(refused(&self.connection, why));
                    }
                    record = back;
                    if self.reports.outstanding(self.flight.handed_over()) == 0 {
                        let why = "a record is larger than produce_bytes_max".to_owned();
                        return Err(refused(&self.connection, why));
                    }
                    let half = self.flight.handed_over() - self.reports.outstanding(self.flight.handed_over()) / 2;
                    self.reports.wait(half, self.options.stall_ms_max).await.map_err(|w| away(&self.connection, w))?;
                }
                self.flight.handed(index);
                turn += 1;
                if turn % RECORDS_A_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    fn refused(&self, why: String) -> SinkError {
        refused(&self.connection, why)
    }
}

impl Sink for KafkaSink {
    fn name(&self) -> &'static str {
        "kafka"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        let producer = self.ready_producer()?;
        let topics = self.known_topics();
        let look = move || -> Result<Vec<String>, KafkaError> {
            let mut missing = Vec::new();
            for topic in topics {
                // Asking for a topic by name makes it on brokers that are set to do so.
                let metadata = producer.client().fetch_metadata(Some(&topic), METADATA_WAIT)?;
                let found = metadata.topics().iter().any(|t| t.name() == topic && !t.partitions().is_empty());
                if !found {
                    missing.push(topic);
                }
            }
            Ok(missing)
        };
        let missing = match tokio::task::spawn_blocking(look).await {
            Ok(missing) => missing.map_err(|error| unavailable(&self.connection, error.to_string()))?,
            Err(error) => return Err(unavailable(&self.connection, error.to_string())),
        };
        if missing.is_empty() {
            return Ok(());
        }
        Err(self.refused(format!("no topic {}: make it with `haulstream topics apply`", missing.join(", "))))
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        self.apply_all(std::slice::from_ref(step)).await
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        self.flight.board(steps);
        self.flight.take_failed(&self.reports);
        self.produce(steps).await?;
        let waited = self.reports.wait(self.flight.handed_over(), self.options.stall_ms_max).await;
        waited.map_err(|waited| away(&self.connection, waited))?;
        if let Some(code) = self.flight.take_failed(&self.reports) {
            let why = format!("{code}{}", advice(code));
            return Err(if is_refusal(code) { self.refused(why) } else { unavailable(&self.connection, why) });
        }
        for (topic, records) in self.formats.take_tally() {
            counter!(Metric::KafkaRecords.name(), "topic" => topic).increment(records);
        }
        self.flight.land();
        Ok(())
    }
}

fn target(connection: &connection::Kafka) -> String {
    format!("Kafka at {}", connection.brokers)
}

fn refused(connection: &connection::Kafka, why: String) -> SinkError {
    SinkError::Refused { target: target(connection), why }
}

fn unavailable(connection: &connection::Kafka, why: String) -> SinkError {
    SinkError::Unavailable { target: target(connection), why }
}

fn away(connection: &connection::Kafka, stalled: Stalled) -> SinkError {
    unavailable(connection, stalled.to_string())
}

/// Whether the broker will say the same to the same record again.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PolicyViolation
    )
}

fn advice(code: RDKafkaErrorCode) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code {
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            ": keep record_bytes_max below max.message.bytes of the topic"
        }
        Code::UnknownTopic | Code::UnknownTopicOrPartition => ": make the topic with `haulstream topics apply`",
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => ": allow the user to write to the topic",
        _ => "",
    }
}
