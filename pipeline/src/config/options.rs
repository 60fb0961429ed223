//! The options as the program uses them: one struct for each section of `default.toml`, made of the components' own structs.
//!
//! Invariant: no field has a default here. A field that `default.toml` lacks, or an option that no field takes, fails a test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use operators::connection;
use operators::record::Stream;
use serde::Deserialize;

pub use super::users::{Companies, User};

/// All of them.
#[derive(Clone, Debug, Deserialize)]
pub struct Config {
    /// What the process does.
    pub run: Run,
    /// How append times become ticks.
    pub time: Time,
    /// How partitions are read.
    pub reader: Reader,
    /// The embedded log.
    pub log: Log,
    /// Duplicates.
    pub deduplicate: Deduplicate,
    /// When a device is offline.
    pub silence: Silence,
    /// The windows of `company_minute`.
    pub window: Window,
    /// Changes on their way to the edge and to Kafka.
    pub conflate: Conflate,
    /// What is remembered over a restart.
    pub checkpoint: Checkpoint,
    /// Names of the topics.
    pub topics: Topics,
    /// How topics are made in Kafka.
    pub kafka_topics: KafkaTopics,
    /// The Kafka cluster.
    pub kafka: connection::Kafka,
    /// The ingestion gate.
    pub ingest: Ingest,
    /// The live edge.
    pub edge: Edge,
    /// Simulated vehicles.
    pub simulator: Simulator,
    /// How sinks are fed.
    pub sinks: Sinks,
    /// Results in Kafka.
    pub kafka_sink: KafkaSink,
    /// History as Parquet files.
    pub parquet: Parquet,
    /// What one question to the history may take.
    pub history: queries::history::Options,
    /// Derived streams.
    pub sql: Sql,
    /// Reading live views.
    pub reads: Reads,
    /// Who reads, by name.
    pub users: BTreeMap<String, User>,
    /// Current state in Redis.
    pub redis: Redis,
    /// History in ClickHouse.
    pub clickhouse: ClickHouse,
    /// The program's own log lines.
    pub logging: crate::logging::Options,
}

/// Section `run`.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// Where records come from.
    pub source: Source,
    /// Directory for everything that the process keeps on disk.
    pub data: PathBuf,
    /// Worker threads.
    pub workers: usize,
    /// Rows in a worker's dataflow before it takes in no more.
    pub in_flight_rows_max: usize,
    /// Rows that may wait between a reader and its worker.
    pub channel_rows_max: usize,
    /// Bytes that may wait between a reader and its worker.
    pub channel_bytes_max: usize,
    /// Milliseconds that the sinks may take to write what is left when the process stops.
    pub drain_ms_max: u64,
    /// Milliseconds after which a dataflow that hangs ends the process.
    pub stuck_ms_max: u64,
}

/// Section `sql`.
#[derive(Clone, Debug, Deserialize)]
pub struct Sql {
    /// Whether there can be derived streams.
    pub enabled: bool,
    /// Directory with their files; empty: none.
    pub streams: String,
    /// Directory with the files of sources and tables that they may read; empty: none.
    pub schema: String,
    /// Rows that one of these tables may hold.
    pub table_rows_max: usize,
    /// Rows that one may hold.
    pub stream_rows_max: usize,
    /// Bytes that one may take.
    pub bytes_max: u64,
    /// Percent of a worker's time that one may take.
    pub time_pct_max: u32,
    /// Milliseconds over which that is measured.
    pub time_window_ms: u64,
    /// How many there may be.
    pub streams_max: usize,
    /// Milliseconds that one may take to catch up.
    pub catch_up_ms_max: u64,
    /// What the names of topics begin with that streams are sent to.
    pub topic_prefix: String,
    /// Messages of the log a second that are read again for a new one.
    pub build_rows_per_s: u64,
    /// Milliseconds that following one key may take.
    pub why_ms_max: u64,
}

/// Section `reader`.
#[derive(Clone, Debug, Deserialize)]
pub struct Reader {
    /// How far a partition may be ahead of the slowest one, in milliseconds.
    pub ahead_ms_max: u64,
    /// Most rows of one batch.
    pub batch_rows_max: usize,
    /// Most bytes of records that go into one batch.
    pub batch_bytes_max: usize,
    /// Least time between two rounds, in milliseconds.
    pub pace_ms: u64,
}

/// Section `log`.
#[derive(Clone, Debug, Deserialize)]
pub struct Log {
    /// Bytes after which a partition begins a new segment.
    pub segment_bytes_max: u64,
    /// Milliseconds after which a partition begins a new segment.
    pub segment_ms_max: u64,
    /// Bytes that each partition keeps.
    pub retention_bytes_max: u64,
    /// Milliseconds after which a segment is dropped.
    pub retention_ms_max: u64,
    /// Bytes of records that are stored under one key.
    pub block_bytes_max: usize,
    /// Bytes of one record.
    pub record_bytes_max: usize,
    /// Bytes of appends that may wait.
    pub queue_bytes_max: usize,
    /// Bytes of a partition's newest blocks in memory.
    pub memtable_bytes_max: u64,
    /// Bytes of write-ahead journals.
    pub journal_bytes_max: u64,
    /// Bytes of cached blocks.
    pub cache_bytes_max: u64,
    /// Partitions of the telemetry topic.
    pub partitions: i32,
    /// Partitions of the reference topics.
    pub reference_partitions: i32,
}

/// Section `deduplicate`.
#[derive(Clone, Debug, Deserialize)]
pub struct Deduplicate {
    /// Milliseconds for which a silent device's last events are remembered.
    pub horizon_ms: u64,
}

/// Section `silence`.
#[derive(Clone, Debug, Deserialize)]
pub struct Silence {
    /// Seconds without a message after which a device is offline.
    pub offline_after_s: u64,
    /// Messages in a row after which it is back.
    pub online_after_messages: u32,
}

/// Section `window`.
#[derive(Clone, Debug, Deserialize)]
pub struct Window {
    /// Length of a window, in milliseconds.
    pub size_ms: i64,
    /// Milliseconds for which late data corrects a window.
    pub retention_ms: i64,
    /// How far ahead a message's own time may lie, in milliseconds.
    pub ahead_ms_max: i64,
    /// Milliseconds between two outputs of a changed window.
    pub emit_ms: u64,
}

/// Section `conflate`.
#[derive(Clone, Debug, Deserialize)]
pub struct Conflate {
    /// Milliseconds over which the changes of a vehicle become one.
    pub window_ms: u64,
}

/// Section `checkpoint`.
#[derive(Clone, Debug, Deserialize)]
pub struct Checkpoint {
    /// Whether there are any.
    pub enabled: bool,
    /// Directory for them, within that of the process.
    pub directory: PathBuf,
    /// Milliseconds from one to the next.
    pub every_ms: u64,
    /// How many are kept.
    pub keep: usize,
}

/// Section `edge`.
#[derive(Clone, Debug, Deserialize)]
pub struct Edge {
    /// Address to listen on.
    pub listen: String,
    /// What a client may do.
    #[serde(flatten)]
    pub options: sinks::edge::Options,
}

/// Section `simulator`.
#[derive(Clone, Debug, Deserialize)]
pub struct Simulator {
    /// Whether vehicles are simulated.
    pub enabled: bool,
    /// Number of vehicles.
    pub vehicles: u32,
    /// Messages a second of all vehicles together.
    pub rate_per_s: f64,
    /// Seed of the fleet and its journeys.
    pub seed: u64,
    /// Changes of reference records a second.
    pub changes_per_s: f64,
    /// Per cent of vehicles that lose their link for a while.
    pub lost_link_pct: f64,
}

/// Sections of `sinks`.
#[derive(Clone, Debug, Deserialize)]
pub struct Sinks {
    /// Sinks that want changes at once.
    pub live: sinks::run::Options,
    /// Sinks that want few, large steps.
    pub history: sinks::run::Options,
}

/// Section `kafka_sink`.
#[derive(Clone, Debug, Deserialize)]
pub struct KafkaSink {
    /// Whether the sink runs.
    pub enabled: bool,
    /// Whether enriched messages are written as well.
    pub enriched: bool,
    /// How records are produced.
    #[serde(flatten)]
    pub options: sinks::kafka::Options,
}

/// Section `parquet`.
#[derive(Clone, Debug, Deserialize)]
pub struct Parquet {
    /// Whether the sink runs.
    pub enabled: bool,
    /// Milliseconds for which rows are gathered into one file.
    pub flush_ms: u64,
    /// How files are written and kept.
    #[serde(flatten)]
    pub options: sinks::parquet::Options,
}

/// Section `kafka_topics`.
#[derive(Clone, Debug, Deserialize)]
pub struct KafkaTopics {
    /// Partitions of topics of events.
    pub partitions: i32,
    /// Partitions of the reference topics.
    pub reference_partitions: i32,
    /// Copies of each partition; 0 for the cluster's default.
    pub replication: i32,
    /// How long topics of events keep records, in milliseconds.
    pub retention_ms: i64,
}

/// Section `ingest`.
#[derive(Clone, Debug, Deserialize)]
pub struct Ingest {
    /// Address that a gate of its own listens on.
    pub listen: String,
    /// Connections at a time.
    pub connections_max: usize,
    /// Milliseconds for the head of a request.
    pub head_ms_max: u64,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub head_fields_max: usize,
    /// Milliseconds for requests under way when the process is stopped.
    pub stop_ms_max: u64,
    /// What the gate accepts.
    #[serde(flatten)]
    pub gate: sources::listen::GateOptions,
}

impl Ingest {
    /// Limits of the server of a gate of its own.
    #[must_use]
    pub fn serve(&self) -> sources::listen::ServeOptions {
        sources::listen::ServeOptions {
            connections_max: self.connections_max,
            head_ms_max: self.head_ms_max,
            head_bytes_max: self.head_bytes_max,
            head_fields_max: self.head_fields_max,
            stop_ms_max: self.stop_ms_max,
        }
    }
}

/// Where records come from.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The embedded log.
    Log,
    /// Kafka.
    Kafka,
}

/// Section `time`.
#[derive(Clone, Debug, Deserialize)]
pub struct Time {
    /// Length of a tick, in milliseconds.
    pub tick_ms: u64,
    /// How far ahead of the log's clock an append time may lie, in milliseconds.
    pub future_ms_max: u64,
    /// Least time that an idle partition's frontier stays behind, in milliseconds.
    pub slack_ms_min: u64,
    /// Most time that an idle partition's frontier stays behind, in milliseconds.
    pub slack_ms_max: u64,
}

/// Section `topics`.
#[derive(Clone, Debug, Deserialize)]
pub struct Topics {
    /// Telemetry of the trackers.
    pub telemetry: String,
    /// Records that were refused.
    pub dead_letters: String,
    /// Changelog of vehicles.
    pub vehicle: String,
    /// Changelog of drivers.
    pub driver: String,
    /// Changelog of companies.
    pub company: String,
    /// Changelog of tariffs.
    pub tariff: String,
    /// Current state of each vehicle.
    pub vehicle_state: String,
    /// Devices that have come back.
    pub online: String,
    /// Devices that have fallen silent.
    pub offline: String,
    /// Every message with its references.
    pub enriched: String,
}

impl Topics {
    /// All of them, with the option that names each.
    #[must_use]
    pub fn named(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("topics.telemetry", &self.telemetry),
            ("topics.dead_letters", &self.dead_letters),
            ("topics.vehicle", &self.vehicle),
            ("topics.driver", &self.driver),
            ("topics.company", &self.company),
            ("topics.tariff", &self.tariff),
            ("topics.vehicle_state", &self.vehicle_state),
            ("topics.online", &self.online),
            ("topics.offline", &self.offline),
            ("topics.enriched", &self.enriched),
        ]
    }

    /// The topic of a stream.
    #[must_use]
    pub fn of(&self, stream: Stream) -> &str {
        match stream {
            Stream::Telemetry => &self.telemetry,
            Stream::Vehicle => &self.vehicle,
            Stream::Driver => &self.driver,
            Stream::Company => &self.company,
            Stream::Tariff => &self.tariff,
            Stream::Declared(declared) => &declared.topic,
        }
    }
}

/// Section `reads`.
#[derive(Clone, Debug, Deserialize)]
pub struct Reads {
    /// Address that Postgres clients connect to; empty for none.
    pub postgres_listen: String,
    /// What Postgres clients may take.
    #[serde(flatten)]
    pub wire: queries::reads::wire::Options,
    /// What reading may take.
    #[serde(flatten)]
    pub options: queries::reads::Options,
}

/// Section `redis`.
#[derive(Clone, Debug, Deserialize)]
pub struct Redis {
    /// Whether the sink runs.
    pub enabled: bool,
    /// The server.
    #[serde(flatten)]
    pub connection: connection::Redis,
    /// How it is written.
    #[serde(flatten)]
    pub options: sinks::redis::Options,
}

/// Section `clickhouse`.
#[derive(Clone, Debug, Deserialize)]
pub struct ClickHouse {
    /// Whether the sink runs.
    pub enabled: bool,
    /// The server.
    #[serde(flatten)]
    pub connection: connection::ClickHouse,
    /// How it is written.
    #[serde(flatten)]
    pub options: sinks::clickhouse::Options,
}

impl Config {
    /// The directory of the checkpoints.
    #[must_use]
    pub fn checkpoints(&self) -> PathBuf {
        self.run.data.join(&self.checkpoint.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    #[test]
    fn every_default_is_taken_and_nothing_else_is_asked_for() {
        let all = schema::with_a_user();
        Config::deserialize(all.clone()).expect("the embedded defaults are a whole configuration");
        for entry in schema::entries() {
            let mut without = all.clone();
            let mut parts: Vec<&str> = entry.key.split('.').collect();
            let name = parts.pop().expect("a key has a name");
            let section = parts.iter().fold(&mut without, |at, part| {
                at.get_mut(*part).and_then(toml::Value::as_table_mut).expect("sections are tables")
            });
            section.remove(name).expect("the option is there");
            assert!(Config::deserialize(without).is_err(), "nothing reads {}: take it out of default.toml", entry.key);
        }
    }
}
