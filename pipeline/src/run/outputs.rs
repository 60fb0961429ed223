//! The sinks of the process: each configured one with a task of its own, fed by every worker.

use std::time::Duration;

use sinks::edge::EdgeSink;
use sinks::run::{Fatal, Feed, Options, Running, start};
use sinks::{Sink, clickhouse, kafka, parquet, redis};
use tokio::sync::mpsc;

use crate::admin::Readiness;
use crate::config::Config;
use crate::topology::{Output, routes};

/// The running sinks.
#[derive(Default)]
pub struct Outputs {
    ends: Vec<Output>,
    running: Vec<Running>,
}

/// How a sink is fed that wants changes at once.
const LIVE: Options = Options {
    rows_max: 20_000,
    bytes_max: 16 << 20,
    flush_ms: 0,
    conflate_rows_max: 1_000_000,
    queue_bytes_max: 128 << 20,
    retry_ms_min: 100,
    retry_ms_max: 10_000,
    apply_ms_max: 60_000,
};

/// How a sink is fed that wants few, large steps.
const fn history(flush_ms: u64) -> Options {
    Options { rows_max: 200_000, bytes_max: 64 << 20, flush_ms, queue_bytes_max: 256 << 20, ..LIVE }
}

/// Streams of the history.
const HISTORY: [&str; 4] = ["telemetry_enriched", "vehicle_events", "company_minute", "vehicle_links"];

/// Streams that are kept as files, and what tells their rows apart.
const PARQUET: [parquet::Table; 4] = [
    parquet::Table { stream: "telemetry_enriched", identity: &["__partition", "__offset"] },
    parquet::Table { stream: "vehicle_events", identity: &["kind", "device_id", "__tick"] },
    parquet::Table { stream: "company_minute", identity: &[] },
    parquet::Table { stream: "rejected", identity: &["topic", "partition", "offset", "code"] },
];

impl Outputs {
    /// Starts the configured sinks on the current runtime.
    ///
    /// # Errors
    /// A sink's configuration cannot work.
    pub fn start(
        config: &Config,
        edge: EdgeSink,
        readiness: &Readiness,
        fatal: mpsc::Sender<Fatal>,
    ) -> Result<Self, String> {
        let mut starting = Starting { outputs: Self::default(), workers: config.run.workers, readiness, fatal };
        starting.sink(edge, LIVE, &["vehicle_state"], true);
        if config.redis.enabled {
            let sink =
                redis::RedisSink::new(&config.redis.connection, redis_options()).map_err(|why| why.to_string())?;
            starting.sink(sink, LIVE, &["vehicle_state", "vehicle_links"], false);
        }
        if config.kafka_sink.enabled {
            let mut streams = vec!["vehicle_state", "vehicle_events", "rejected"];
            if config.kafka_sink.enriched {
                streams.push("telemetry_enriched");
            }
            let mut topics = kafka_topics(config);
            topics.retain(|topic| streams.contains(&topic.stream));
            let sink = kafka::KafkaSink::new(config.kafka.clone(), kafka_options(config), topics);
            starting.sink(sink, LIVE, &streams, true);
        }
        if config.clickhouse.enabled {
            let options = clickhouse_options(config);
            let sink = clickhouse::ClickHouseSink::new(&config.clickhouse.connection, options);
            starting.sink(sink.map_err(|why| why.to_string())?, history(1_000), &HISTORY, false);
        }
        if config.parquet.enabled {
            let sink = parquet::ParquetSink::new(parquet_options(config), config.run.workers, PARQUET.to_vec());
            let streams = PARQUET.map(|table| table.stream);
            starting.sink(sink, history(config.parquet.flush_ms), &streams, false);
        }
        Ok(starting.outputs)
    }

    /// The workers' ends.
    pub fn ends(&self) -> Vec<Output> {
        self.ends.clone()
    }

    /// Names of the sinks.
    pub fn names(&self) -> String {
        self.ends.iter().map(|end| end.feed.sink()).collect::<Vec<_>>().join(", ")
    }

    /// Lets every sink write what is left; returns the rows that none could.
    pub async fn drain(self, deadline: Duration) -> u64 {
        let drains = self.running.into_iter().map(|running| running.drain(deadline));
        futures_util::future::join_all(drains).await.into_iter().sum()
    }
}

struct Starting<'a> {
    outputs: Outputs,
    workers: usize,
    readiness: &'a Readiness,
    fatal: mpsc::Sender<Fatal>,
}

impl Starting<'_> {
    fn sink<S: Sink>(&mut self, sink: S, options: Options, streams: &[&str], conflated: bool) {
        let condition = self.readiness.condition(format!("sink {}", sink.name()), "not opened yet");
        let (feed, running): (Feed, Running) = start(sink, options, routes(streams), self.workers, self.fatal.clone());
        let mut opened = running.opening();
        tokio::spawn(async move {
            // An error is a task that has ended: the process is ending.
            if opened.wait_for(|opened| *opened).await.is_ok() {
                condition.met();
            }
        });
        self.outputs.ends.push(Output { feed, conflated });
        self.outputs.running.push(running);
    }
}

fn redis_options() -> redis::Options {
    redis::Options {
        script_vehicles_max: 500,
        pipeline_bytes_max: 4 << 20,
        tombstone_ttl_ms: 24 * 3_600_000,
        timeout_ms: 10_000,
    }
}

fn clickhouse_options(config: &Config) -> clickhouse::Options {
    clickhouse::Options {
        topic: config.topics.telemetry.clone(),
        insert_bytes_max: 64 << 20,
        compress: false,
        timeout_ms: 60_000,
    }
}

fn parquet_options(config: &Config) -> parquet::Options {
    parquet::Options {
        directory: config.run.data.join("history"),
        merge_files: 16,
        file_bytes_max: 64 << 20,
        retention_bytes_max: 10 << 30,
        row_group_rows_max: 100_000,
    }
}

fn kafka_options(config: &Config) -> kafka::Options {
    kafka::Options {
        compression: config.kafka_sink.compression.clone(),
        batch_bytes_max: 256 << 10,
        record_bytes_max: 1 << 20,
        stall_ms_max: 10_000,
        identity: true,
    }
}

fn kafka_topics(config: &Config) -> Vec<kafka::Topic> {
    let topic = |stream, target, keys| kafka::Topic {
        stream,
        target,
        keys,
        meta: &[("__tick", "version")],
        nulls: sinks::json::Nulls::Omitted,
    };
    let named = |name: &str| kafka::Target::Topic(name.to_owned());
    let events = ["device.online", "device.offline"].map(|kind| (kind.to_owned(), kind.to_owned()));
    vec![
        topic("vehicle_state", named("vehicle_state_updated"), &["vehicle_id"]),
        topic("vehicle_events", kafka::Target::ByColumn("kind", events.to_vec()), &["device_id"]),
        topic("telemetry_enriched", named("telemetry_enriched"), &["device_id"]),
        topic("rejected", kafka::Target::DeadLetters(config.topics.dead_letters.clone()), &[]),
    ]
}
