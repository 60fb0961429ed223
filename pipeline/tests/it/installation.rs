//! All that a `haulstream run` on Kafka, Redis and ClickHouse needs, of one test alone: topics, a Redis database, a ClickHouse
//! database and the configuration file that names them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use redis::Commands;
use serde_json::Value;
use tempfile::TempDir;

use crate::program::Program;
use crate::services::{clickhouse, kafka, redis as redis_server, unique, wait_until_async};

/// Made before the program starts.
pub struct Installation {
    topics: BTreeMap<&'static str, String>,
    redis: String,
    database: String,
    folder: TempDir,
}

impl Installation {
    /// `name` is the beginning of what is made; `more` are further sections of the configuration file.
    pub fn new(name: &str, more: &str) -> Self {
        let inputs = ["telemetry", "vehicle", "driver", "company", "tariff"];
        let outputs = ["dead_letters", "vehicle_state", "online", "offline", "enriched"];
        let names = inputs.into_iter().chain(outputs);
        let topics: BTreeMap<&str, String> = names.map(|name| (name, kafka().topic(name, 3))).collect();
        let (redis, database) = (redis_server().database(), unique(name).replace(['-', '.'], "_"));
        let folder = TempDir::new().expect("a directory");
        let mut text = String::from("[run]\nsource = \"kafka\"\n[topics]\n");
        for (name, topic) in &topics {
            text += &format!("{name} = \"{topic}\"\n");
        }
        text += &format!(
            "[kafka]\nbrokers = \"{}\"\n[kafka_sink]\nenabled = true\n[parquet]\nenabled = false\n[redis]\nenabled = true\n\
             url = \"{redis}\"\n[clickhouse]\nenabled = true\nurl = \"{}\"\ndatabase = \"{database}\"\n[simulator]\nenabled = false\n\
             {more}",
            kafka().bootstrap(),
            clickhouse().url(),
        );
        let made = Self { topics, redis, database, folder };
        std::fs::write(made.file(), text).expect("a configuration file");
        made
    }

    /// A folder of the test's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The configuration file.
    pub fn file(&self) -> PathBuf {
        self.folder().join("fleet.toml")
    }

    /// Starts the program.
    pub fn started(&self) -> Program {
        let data = self.folder().join("data");
        let arguments = [&self.file(), &data].map(|path| path.to_str().expect("a plain path").to_owned());
        Program::start(&["--config", &arguments[0], "--data", &arguments[1]])
    }

    /// Starts the program and waits until it is ready.
    pub async fn start(&self) -> Program {
        let program = self.started();
        let ready = format!("{}/readyz", program.url);
        wait_until_async(Duration::from_secs(60), "readiness", async || {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
        program
    }

    /// Writes a reference record; a null value deletes it.
    pub fn reference(&self, stream: &str, key: &str, value: &Value) {
        let producer: BaseProducer = kafka().client().create().expect("a producer");
        let text = value.to_string();
        let record = BaseRecord::to(&self.topics[stream]).key(key);
        let record = if value.is_null() { record } else { record.payload(&text) };
        producer.send(record).map_err(|(why, _)| why).expect("the producer takes it");
        producer.flush(Duration::from_secs(10)).expect("the broker takes it");
    }

    /// ClickHouse's answer; `DB` stands for the database.
    pub fn query(&self, sql: &str) -> String {
        clickhouse().query(&sql.replace("DB", &self.database))
    }

    /// ClickHouse's answer if it is one number.
    pub fn count(&self, sql: &str) -> u64 {
        self.query(sql).trim().parse().unwrap_or(0)
    }

    /// The hash of a vehicle in Redis; empty if there is none.
    pub fn vehicle_hash(&self, vehicle: &str) -> BTreeMap<String, String> {
        self.redis().hgetall(format!("hs:1:vehicle:{vehicle}")).expect("Redis answers")
    }

    /// The vehicles that have a hash in Redis.
    pub fn vehicles(&self) -> Vec<String> {
        let keys: Vec<String> = self.redis().keys("hs:1:vehicle:*").expect("Redis answers");
        let mut names: Vec<String> = keys.iter().map(|key| key["hs:1:vehicle:".len()..].to_owned()).collect();
        names.sort_unstable();
        names
    }

    /// The URL of the Redis database.
    pub fn redis_url(&self) -> &str {
        &self.redis
    }

    /// A client of the Redis database.
    pub fn redis(&self) -> redis::Connection {
        let client = redis::Client::open(self.redis.as_str()).expect("an address");
        client.get_connection().expect("Redis answers")
    }
}
