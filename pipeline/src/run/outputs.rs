//! The sinks of the process: each configured one with a task of its own, fed by every worker.

use std::time::Duration;

use operators::time::Tick;
use sinks::edge::EdgeSink;
use sinks::run::{Fatal, Feed, Options, Running, start};
use sinks::{Sink, SinkError, clickhouse, kafka, parquet, redis};
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
    /// Starts the configured sinks on the current runtime. They had everything before tick `done`, and may have rows from tick
    /// `again_from` on.
    ///
    /// # Errors
    /// A sink's configuration cannot work.
    pub fn start(
        config: &Config,
        edge: EdgeSink,
        done: Tick,
        again_from: Option<Tick>,
        readiness: &Readiness,
        fatal: mpsc::Sender<Fatal>,
    ) -> Result<Self, String> {
        let mut starting = Starting { outputs: Self::default(), workers: config.run.workers, done, readiness, fatal };
        let (live, history) = (&config.sinks.live, &config.sinks.history);
        starting.sink(edge, live.clone(), &["vehicle_state"], true);
        if config.redis.enabled {
            let sink = redis_sink(config).map_err(|why| why.to_string())?;
            starting.sink(sink, live.clone(), &["vehicle_state", "vehicle_links"], false);
        }
        if config.kafka_sink.enabled {
            let mut streams = vec!["vehicle_state", "vehicle_events", "rejected"];
            if config.kafka_sink.enriched {
                streams.push("telemetry_enriched");
            }
            let mut topics = kafka_topics(config);
            topics.retain(|topic| streams.contains(&topic.stream));
            let (connection, options) = (config.kafka.clone(), config.kafka_sink.options.clone());
            let sink = kafka::KafkaSink::new(connection, options, topics, again_from);
            starting.sink(sink, live.clone(), &streams, true);
        }
        if config.clickhouse.enabled {
            let sink = clickhouse_sink(config).map_err(|why| why.to_string())?;
            starting.sink(sink, history.clone(), &HISTORY, false);
        }
        if config.parquet.enabled {
            let directory = config.run.data.join("history");
            let options = parquet::Options { directory, ..config.parquet.options.clone() };
            let sink = parquet::ParquetSink::new(options, config.run.workers, PARQUET.to_vec());
            let streams = PARQUET.map(|table| table.stream);
            let fed = Options { flush_ms: config.parquet.flush_ms, ..history.clone() };
            starting.sink(sink, fed, &streams, false);
        }
        Ok(starting.outputs)
    }

    /// The workers' ends.
    pub fn ends(&self) -> Vec<Output> {
        self.ends.clone()
    }

    /// What tells how far each sink is.
    pub fn feeds(&self) -> Vec<Feed> {
        self.ends.iter().map(|end| end.feed.clone()).collect()
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
    done: Tick,
    readiness: &'a Readiness,
    fatal: mpsc::Sender<Fatal>,
}

impl Starting<'_> {
    fn sink<S: Sink>(&mut self, sink: S, options: Options, streams: &[&str], conflated: bool) {
        let condition = self.readiness.condition(format!("sink {}", sink.name()), "not opened yet");
        let (feed, running): (Feed, Running) =
            start(sink, options, routes(streams), self.workers, self.done, self.fatal.clone());
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

/// The Redis sink, not connected yet.
///
/// # Errors
/// What is configured cannot work.
pub fn redis_sink(config: &Config) -> Result<redis::RedisSink, SinkError> {
    redis::RedisSink::new(&config.redis.connection, config.redis.options.clone())
}

/// The ClickHouse sink, not connected yet.
///
/// # Errors
/// What is configured cannot work.
pub fn clickhouse_sink(config: &Config) -> Result<clickhouse::ClickHouseSink, SinkError> {
    let topic = config.topics.telemetry.clone();
    let options = clickhouse::Options { topic, ..config.clickhouse.options.clone() };
    clickhouse::ClickHouseSink::new(&config.clickhouse.connection, options)
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
    let names = &config.topics;
    let events = [("device.online", &names.online), ("device.offline", &names.offline)];
    let events = events.map(|(kind, name)| (kind.to_owned(), name.clone()));
    vec![
        topic("vehicle_state", named(&names.vehicle_state), &["vehicle_id"]),
        topic("vehicle_events", kafka::Target::ByColumn("kind", events.to_vec()), &["device_id"]),
        topic("telemetry_enriched", named(&names.enriched), &["device_id"]),
        topic("rejected", kafka::Target::DeadLetters(names.dead_letters.clone()), &[]),
    ]
}
