//! Which sink a view's `sinks` names, made of the configuration; and how what it wrote is taken away.
//!
//! Invariant: a view writes under names that are made of its own, and never where the main job writes.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use queries::live::{Sending, Tap};
use queries::plan::Kind;
use sinks::run::{Options, Route, start};
use sinks::view::{ID, KEY, Named, lasting};
use sinks::{Sink, SinkError, clickhouse, kafka, parquet, redis};
use tokio::sync::mpsc;

use super::sender::{Start, Version};
use super::standing::{Form, Standing};
use crate::config::Config;

/// What is to be opened.
pub struct Opening<'a> {
    pub config: &'a Config,
    pub sending: &'a Sending,
    pub life: &'a str,
}

impl Opening<'_> {
    /// Opens one of the view's sinks.
    pub fn open(&self, sink: &str, tap: Arc<Tap>) -> Result<Start, String> {
        let Opening { config, sending, .. } = self;
        let stream = lasting(&sending.name);
        let table = sending.kind == Kind::Table;
        let lost = Arc::new(AtomicBool::new(false));
        let off = |option: &str| format!("{option}.enabled is false: this process does not write there");
        let told = |why: SinkError| why.to_string();
        match sink {
            "kafka" if !config.kafka_sink.enabled => Err(off("kafka_sink")),
            "kafka" => {
                let topic = kafka::view::ViewTopic::new(
                    config.kafka.clone(),
                    config.kafka_sink.options.clone(),
                    stream,
                    self.topic(),
                );
                self.started(sink, Form::Json, topic, config.sinks.live.clone(), lost, tap)
            }
            "redis" if !config.redis.enabled => Err(off("redis")),
            "redis" => {
                let keys = redis::view::ViewKeys::new(
                    &config.redis.connection,
                    config.redis.options.clone(),
                    &sending.name,
                    table,
                    self.life.to_owned(),
                    lost.clone(),
                );
                self.started(sink, Form::Json, keys.map_err(told)?, config.sinks.live.clone(), lost, tap)
            }
            "clickhouse" if !config.clickhouse.enabled => Err(off("clickhouse")),
            "clickhouse" => {
                let view = clickhouse::view::ViewTable::new(
                    &config.clickhouse.connection,
                    config.clickhouse.options.clone(),
                    &sending.name,
                    &sending.schema,
                    table,
                    &sending.key,
                );
                self.started(sink, Form::Columns, view.map_err(told)?, config.sinks.history.clone(), lost, tap)
            }
            "parquet" if !config.parquet.enabled => Err(off("parquet")),
            "parquet" => {
                let directory = directory(config, &sending.name).join(self.shape());
                let options = parquet::Options { directory, ..config.parquet.options.clone() };
                let identity: &[&str] = if table { &[] } else { &[ID] };
                let files = parquet::ParquetSink::new(options, 1, vec![parquet::Table { stream, identity }]);
                let fed = Options { flush_ms: config.parquet.flush_ms, ..config.sinks.history.clone() };
                let form = if table { Form::Changelog } else { Form::Columns };
                self.started(sink, form, files, fed, lost, tap)
            }
            other => Err(format!("there is no sink {other}")),
        }
    }

    fn topic(&self) -> kafka::view::Wanted {
        let options = &self.config.kafka_topics;
        kafka::view::Wanted {
            name: topic(self.config, &self.sending.name),
            is_table: self.sending.kind == Kind::Table,
            partitions: options.partitions,
            replication: (options.replication > 0).then_some(options.replication),
            retention_ms: options.retention_ms,
        }
    }

    /// A name for the view's columns: files of others lie elsewhere.
    fn shape(&self) -> String {
        let columns: Vec<String> = self
            .sending
            .schema
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        let text = format!("{:?} {}", self.sending.kind, columns.join(", "));
        let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        format!("columns-{:08x}", text.bytes().fold(0x811c_9dc5, hash))
    }

    fn started<S: Sink>(
        &self,
        kind: &str,
        form: Form,
        sink: S,
        fed: Options,
        lost: Arc<AtomicBool>,
        tap: Arc<Tap>,
    ) -> Result<Start, String> {
        let sending = self.sending;
        let stream = lasting(&sending.name);
        let table = sending.kind == Kind::Table;
        let standing = Standing::new(sending.schema.clone(), &sending.key, form).map_err(|why| why.to_string())?;
        let keys: &'static [&'static str] = if table && form != Form::Changelog { &[KEY] } else { &[] };
        // What a target refuses is shown with the view, and tried again; it does not end the process.
        let (fatal, _) = mpsc::channel(1);
        let (feed, running) = start(Named::new(kind, stream, sink), fed, vec![Route { stream, keys }], 1, 0, fatal);
        let version = Version { sending: sending.clone(), tap };
        Ok(Start { version, sink: kind.to_owned(), standing, feed, running, lost })
    }
}

fn topic(config: &Config, name: &str) -> String {
    format!("{}{name}", config.sql.topic_prefix)
}

/// Where the files of a view lie.
fn directory(config: &Config, name: &str) -> PathBuf {
    config.run.data.join("views").join(name)
}

/// Takes away what a view has written to a sink.
pub async fn purge(config: &Config, name: &str, sink: &str) -> Result<(), String> {
    let told = |why: SinkError| why.to_string();
    match sink {
        "kafka" if config.kafka_sink.enabled => {
            kafka::view::purge(&config.kafka, &topic(config, name)).await.map_err(told)
        }
        "redis" if config.redis.enabled => {
            let timeout_ms = config.redis.options.timeout_ms;
            redis::view::purge(&config.redis.connection, timeout_ms, name).await.map_err(told)
        }
        "clickhouse" if config.clickhouse.enabled => {
            let options = config.clickhouse.options.clone();
            clickhouse::view::purge(&config.clickhouse.connection, options, name).await.map_err(told)
        }
        "parquet" if config.parquet.enabled => {
            let directory = directory(config, name);
            let removed = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(directory)).await;
            match removed.map_err(|why| why.to_string())? {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => Err(why.to_string()),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
