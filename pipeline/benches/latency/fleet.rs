//! The vehicles, their references and their messages.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::services::kafka;
use crate::{now_us, until};

const COMPANIES: u64 = 1_000;
/// Between two looks at how many messages are due.
const PACE: Duration = Duration::from_micros(500);

/// Topics of a fleet, filled with its references.
pub struct Fleet {
    vehicles: u64,
    topics: BTreeMap<&'static str, String>,
    producer: BaseProducer,
}

impl Fleet {
    /// Makes the topics and writes the references.
    pub fn new(vehicles: u64) -> Fleet {
        let results = [("dead_letters", 1), ("enriched", 4), ("vehicle_state", 4), ("online", 1), ("offline", 1)];
        let names = [("telemetry", 4), ("vehicle", 4), ("driver", 4), ("company", 1), ("tariff", 1)];
        let topics = names
            .into_iter()
            .chain(results)
            .map(|(name, partitions)| (name, kafka().topic(name, partitions)))
            .collect();
        let producer = kafka().client().set("linger.ms", "1").set("queue.buffering.max.messages", "1000000").create();
        let fleet = Fleet { vehicles, topics, producer: producer.unwrap() };
        fleet.put("tariff", "t1", r#"{"tariff_id":"t1","name":"Standard"}"#);
        for company in 0..COMPANIES {
            let key = format!("c{company:04}");
            fleet.put(
                "company",
                &key,
                &format!(r#"{{"company_id":"{key}","name":"Company {company}","tariff_id":"t1"}}"#),
            );
        }
        for number in 0..vehicles {
            fleet.driver(number, 0);
            let key = format!("v{number:07}");
            let value = format!(
                r#"{{"vehicle_id":"{key}","device_id":"d{number:07}","plate":"FL-{number}","model":"Model {}","company_id":"c{:04}","driver_id":"r{number:07}"}}"#,
                number % 37,
                number % COMPANIES
            );
            fleet.put("vehicle", &key, &value);
        }
        fleet.producer.flush(Duration::from_secs(60)).unwrap();
        fleet
    }

    /// What the program is told.
    pub fn configuration(&self, redis_url: &str, to: &str) -> String {
        let mut options = toml::Table::new();
        let mut set = |key: &str, value: toml::Value| {
            let (table, name) = key.split_once('.').unwrap();
            let table = options.entry(table).or_insert_with(|| toml::Table::new().into());
            table.as_table_mut().unwrap().insert(name.to_owned(), value);
        };
        set("run.source", "kafka".into());
        self.topics.iter().for_each(|(name, topic)| set(&format!("topics.{name}"), topic.as_str().into()));
        set("kafka.brokers", kafka().bootstrap().into());
        set("parquet.enabled", false.into());
        set("simulator.enabled", false.into());
        set("redis.enabled", to.is_empty().into());
        set("redis.url", redis_url.into());
        set("kafka_sink.enabled", (!to.is_empty()).into());
        set("kafka_sink.enriched", true.into());
        for argument in std::env::args() {
            if let Some((key, value)) = argument.split_once('=').filter(|(key, _)| key.contains('.')) {
                let literal =
                    format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut all| all.remove("value"));
                set(key, literal.unwrap_or_else(|| value.into()));
            }
        }
        options.to_string()
    }

    /// The topic's name.
    pub fn topic(&self, of: &str) -> &str {
        &self.topics[of]
    }

    fn put(&self, topic: &str, key: &str, value: &str) {
        let mut record = BaseRecord::to(&self.topics[topic]).key(key).payload(value);
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            self.producer.poll(Duration::from_millis(1));
        }
    }

    fn driver(&self, number: u64, version: u64) {
        let key = format!("r{number:07}");
        let value =
            format!(r#"{{"driver_id":"{key}","name":"Driver {number}, {version}","phone":"+49170{number:07}"}}"#);
        self.put("driver", &key, &value);
    }

    /// Renames so many drivers a second.
    pub fn change(&self, per_s: u64, go_on: &AtomicBool) {
        let (start, mut sent) = (Instant::now(), 0);
        while go_on.load(Ordering::Relaxed) {
            if sent < (start.elapsed().as_secs_f64() * per_s as f64) as u64 {
                sent += 1;
                self.driver(sent * 7_919 % self.vehicles, now_us());
            }
            until(Instant::now() + Duration::from_millis(20));
        }
    }

    /// A message of the first vehicle with this time.
    pub fn late(&self, ts: u64) {
        let value =
            format!(r#"{{"device_id":"d0000000","ts":{ts},"seq":{},"lat":45.1,"lon":5.1,"speed_kmh":77.5}}"#, now_us());
        self.put("telemetry", "d0000000", &value);
    }

    /// Sends messages at a rate, each with the moment of its sending in `seq`; the most milliseconds behind its plan.
    pub fn send(&self, rate: u64, stop: &AtomicBool) -> f64 {
        let start = Instant::now();
        let (mut sent, mut value, mut behind) = (0u64, String::new(), 0.0f64);
        while !stop.load(Ordering::Relaxed) {
            let due = (start.elapsed().as_secs_f64() * rate as f64) as u64;
            behind = behind.max((due - sent) as f64 / rate as f64 * 1e3);
            while sent < due {
                let (device, now) = (sent * 7_919 % self.vehicles, now_us());
                let (lat, lon) = (45.0 + (sent % 10_000) as f64 / 1e3, 5.0 + (sent / 7 % 10_000) as f64 / 1e3);
                value.clear();
                write!(
                    value,
                    r#"{{"device_id":"d{device:07}","ts":{},"seq":{now},"lat":{lat:.6},"lon":{lon:.6},"speed_kmh":{}.5,"heading_deg":{}.1,"fuel_level_pct":69.1,"engine_temp_c":67.1,"odometer_km":{}.3,"ignition":true,"satellites":8}}"#,
                    now / 1_000,
                    sent % 120,
                    sent % 360,
                    sent % 100_000,
                )
                .unwrap();
                self.put("telemetry", &format!("d{device:07}"), &value);
                sent += 1;
            }
            self.producer.poll(Duration::ZERO);
            until(Instant::now() + PACE);
        }
        behind
    }
}
