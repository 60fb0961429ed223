//! Streams of rows as records in Kafka topics: JSON values, tombstones for deletes, dead letters as they came.
//!
//! Invariant: a step counts as written once the brokers have acknowledged every record of it. While the process lives each
//! record is produced once, however long the brokers are away: a step that is tried again goes on where it stopped. Records
//! of a partition stand in the order of the steps, also if some were refused at first: the producer gives up whatever was
//! behind a refused one, and a new producer goes on from there. After a start from a checkpoint rows come again: those whose records
//! are in the topics, by the header `hs-id`, are not produced again.

mod delivery;
mod flight;
mod id;
mod known;
mod record;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use operators::connection;
use operators::time::Tick;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{Producer, PurgeConfig, ThreadedProducer};
use serde::Deserialize;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use crate::json::Nulls;
use crate::metrics::Metric;
use crate::step::{Sink, SinkError, Step};
use delivery::{Delivery, Goal, Patience, Reports, Stalled};
use flight::{Flights, Which, weightier};
use known::Known;
use record::Formats;

/// Records produced between two chances for other tasks of the runtime.
const RECORDS_A_TURN: usize = 256;
/// How long the brokers may take to list their topics when the sink is opened.
const METADATA_WAIT: Duration = Duration::from_secs(5);
/// How often a producer that is given up is looked at.
const RETIRE_PAUSE: Duration = Duration::from_millis(5);

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
    patience: Patience,
    flights: Flights,
    /// Tick from which rows may come again, until it was looked what the topics have of them; then that.
    again_from: Option<Tick>,
    known: Option<Known>,
}

type Producing = ThreadedProducer<Delivery>;

impl KafkaSink {
    /// A sink that produces the streams of `topics`. Rows from tick `again_from` on may have been produced by an earlier start; none
    /// if there was no earlier one.
    #[must_use]
    pub fn new(connection: connection::Kafka, options: Options, topics: Vec<Topic>, again_from: Option<Tick>) -> Self {
        let formats = Formats::new(options.identity, options.record_bytes_max);
        let reports = Arc::new(Reports::default());
        let (patience, flights) = (reports.patience(), Flights::default());
        let again_from = again_from.filter(|_| options.identity);
        let (producer, known) = (None, None);
        Self { connection, options, topics, formats, producer, reports, patience, flights, again_from, known }
    }

    fn configuration(&self) -> ClientConfig {
        let (connection, options) = (&self.connection, &self.options);
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &connection.brokers)
            .set("client.id", "haulstream")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // A refused record ends the producer; else those behind it would be written before it is tried again.
            .set("enable.gapless.guarantee", "true")
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
    async fn ready_producer(&mut self) -> Result<Arc<Producing>, SinkError> {
        self.retire_broken().await;
        if let Some(producer) = &self.producer {
            return Ok(producer.clone());
        }
        let delivery = Delivery::new(self.reports.clone());
        let made: Result<Producing, KafkaError> = self.configuration().create_with_context(delivery);
        let made = Arc::new(made.map_err(|error| self.refused(format!("cannot make a producer: {error}")))?);
        self.producer = Some(made.clone());
        Ok(made)
    }

    /// Gives the producer up if it is broken. Afterwards every record that it had is reported.
    async fn retire_broken(&mut self) {
        let Some(producer) = self.producer.as_ref().filter(|producer| broken(producer)) else { return };
        // What is under way may be written: to report it as failed before the broker has spoken might double it.
        let end = Instant::now() + Duration::from_millis(self.options.stall_ms_max);
        while producer.in_flight_count() > 0 && Instant::now() < end {
            producer.purge(PurgeConfig::default().queue());
            sleep(RETIRE_PAUSE).await;
        }
        let (code, reason) = producer.client().fatal_error().unwrap_or((RDKafkaErrorCode::Fatal, String::new()));
        warn!(%code, reason, "Kafka producer is replaced");
        // Its end reports every record that it still holds as failed; they are produced again by the next one.
        self.producer = None;
    }

    /// Topics whose names do not depend on the data.
    fn known_topics(&self) -> Vec<String> {
        let names = self.topics.iter().flat_map(|topic| match &topic.target {
            Target::Topic(name) | Target::DeadLetters(name) => vec![name.clone()],
            Target::ByColumn(_, names) => names.iter().map(|(_, name)| name.clone()).collect(),
        });
        names.filter(|name| !name.contains("{topic}")).collect()
    }

    /// Hands over what the flight of these steps still has to produce; counts on the flight so that it can be cut off anywhere.
    async fn produce(&mut self, producer: &Arc<Producing>, steps: &[Step], which: Which) -> Result<(), SinkError> {
        let mut end = 0;
        let parts: Vec<_> =
            steps.iter().flat_map(|step| step.rows.iter().map(move |rows| (step.stream, rows))).collect();
        for (stream, rows) in parts {
            let start = end;
            end += rows.batch().num_rows();
            if !self.flights.boarding(which).wants(start..end) {
                continue;
            }
            let topic = self.topics.iter().find(|topic| topic.stream == stream);
            let topic = topic.ok_or_else(|| refused(&self.connection, format!("no topic for stream {stream}")))?;
            self.formats.prepare(topic, rows).map_err(|error| refused(&self.connection, error.to_string()))?;
            let mut batch = self.formats.batch(topic, rows);
            let mut turn = 0;
            while let Some(index) = self.flights.boarding(which).next_in(start..end) {
                let record = batch.record(index - start).map_err(|why| refused(&self.connection, why))?;
                let (topic, id) = record.identity();
                if self.known.as_ref().is_some_and(|known| known.has(topic, id)) {
                    counter!(Metric::RowsKnown.name(), "sink" => "kafka", "stream" => stream).increment(1);
                    self.flights.found(which, index);
                    continue;
                }
                let mut record = record.opaque(self.flights.boarding(which).id(index));
                while let Err((error, back)) = producer.send(record) {
                    record = back;
                    match error.rdkafka_error_code() {
                        Some(RDKafkaErrorCode::QueueFull) => {}
                        // A record before this one was refused, and its report says why.
                        Some(RDKafkaErrorCode::Fatal) => return Err(unavailable(&self.connection, error.to_string())),
                        _ => {
                            let why = format!("a record of stream {stream} is not taken: {error}");
                            return Err(refused(&self.connection, why));
                        }
                    }
                    let handed = self.flights.handed_over();
                    let outstanding = self.reports.outstanding(handed);
                    if outstanding == 0 {
                        let why = "a record is larger than produce_bytes_max".to_owned();
                        return Err(refused(&self.connection, why));
                    }
                    let half = Goal::All(handed - outstanding / 2);
                    let lost = || broken(producer);
                    let waited = self.reports.wait(half, &mut self.patience, self.options.stall_ms_max, lost).await;
                    waited.map_err(|waited| away(&self.connection, waited))?;
                }
                self.flights.handed(which, index);
                turn += 1;
                if turn % RECORDS_A_TURN == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        self.flights.boarding(which).tally.append(&mut self.formats.take_tally());
        Ok(())
    }

    /// Waits until every record of the oldest flight is acknowledged.
    async fn land(&mut self) -> Result<(), SinkError> {
        while let Some(oldest) = self.flights.oldest() {
            let (goal, producer) = (oldest.goal(), self.producer.as_ref());
            let lost = || producer.is_some_and(broken);
            let waited = self.reports.wait(goal, &mut self.patience, self.options.stall_ms_max, lost).await;
            waited.map_err(|waited| away(&self.connection, waited))?;
            self.retire_broken().await;
            if let Some(code) = self.flights.oldest_mut().and_then(|oldest| oldest.take_failed(&self.reports)) {
                return Err(self.failed(code));
            }
            // Not so if it was a later flight's record that failed.
            if self.reports.is_reached(goal) {
                break;
            }
        }
        for (topic, records) in self.flights.land().into_iter().flat_map(|flight| flight.tally) {
            counter!(Metric::KafkaRecords.name(), "topic" => topic).increment(records);
        }
        Ok(())
    }

    /// What a question to the brokers gives, asked beside the runtime.
    async fn asked<T: Send + 'static>(
        &self,
        ask: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, SinkError> {
        match tokio::task::spawn_blocking(ask).await {
            Ok(answer) => answer.map_err(|error| unavailable(&self.connection, error.to_string())),
            Err(error) => Err(unavailable(&self.connection, error.to_string())),
        }
    }

    /// Forgets what the topics have once these steps, and with them all later ones, can be none of it.
    fn forget_known(&mut self, steps: &[Step]) {
        let first = steps.iter().map(|step| step.from).min().unwrap_or(0);
        if self.known.as_ref().is_some_and(|known| known.is_over(first)) {
            self.known = None;
        }
    }

    fn failed(&self, code: RDKafkaErrorCode) -> SinkError {
        let why = format!("{code}{}", advice(code));
        if is_refusal(code) { self.refused(why) } else { unavailable(&self.connection, why) }
    }

    fn refused(&self, why: String) -> SinkError {
        refused(&self.connection, why)
    }
}

const _: () = assert!(KafkaSink::FLIGHTS_MAX <= id::SLOTS);

impl Sink for KafkaSink {
    /// Acknowledgements of a step of 10 ms are there after 4 ms as a rule, and of one of 1 ms before the eighth follows.
    const FLIGHTS_MAX: usize = 8;

    fn name(&self) -> &'static str {
        "kafka"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        let producer = self.ready_producer().await?;
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
        let missing = self.asked(look).await?;
        if !missing.is_empty() {
            let why = format!("no topic {}: make it with `haulstream topics apply`", missing.join(", "));
            return Err(self.refused(why));
        }
        if let Some(since) = self.again_from {
            let (brokers, topics) = (self.connection.brokers.clone(), self.known_topics());
            let known = self.asked(move || Known::read(&brokers, &topics, since)).await?;
            info!(records = known.len(), since, "the topics have these of the rows that come again");
            (self.again_from, self.known) = (None, Some(known));
        }
        Ok(())
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        self.apply_all(std::slice::from_ref(step)).await
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        self.forget_known(steps);
        self.flights.resume(steps, &self.reports);
        self.patience = self.reports.patience();
        // What became of a broken producer's records must be known before the first of them is tried again.
        let producer = self.ready_producer().await?;
        self.flights.boarding(Which::Oldest).take_failed(&self.reports);
        self.produce(&producer, steps, Which::Oldest).await?;
        drop(producer); // else it could not be given up while it is waited for
        self.land().await
    }

    async fn launch(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        self.forget_known(steps);
        let producer = if self.flights.is_empty() {
            self.patience = self.reports.patience();
            self.ready_producer().await?
        } else {
            // Nothing may overtake what has to be tried again. So no other producer either: a broken one takes no record.
            let why = self.reports.why_failed().into_iter().fold(None, |why, code| Some(weightier(why, code)));
            let producer = self.producer.as_ref().filter(|_| why.is_none()).cloned();
            producer.ok_or_else(|| self.failed(why.unwrap_or(RDKafkaErrorCode::Fatal)))?
        };
        self.flights.board(steps, &self.reports);
        self.produce(&producer, steps, Which::Newest).await
    }

    async fn landed(&mut self) -> Result<(), SinkError> {
        self.land().await
    }
}

/// Whether a producer has met an error that it cannot live with.
fn broken(producer: &Arc<Producing>) -> bool {
    producer.client().fatal_error().is_some()
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
