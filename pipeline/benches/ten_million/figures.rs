//! What came of a run, in numbers that can be compared: counts, and hashes of whole tables that do not depend on the order of
//! their rows.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use redis::Commands;
use serde_json::Value;

use crate::dead_letters;
use crate::it::services::clickhouse;

/// Tables of the history, and in how many parts each is read: a question has to be answered within the harness's time.
const TABLES: [(&str, &str, u64); 4] = [
    ("telemetry_history", "device_id", 8),
    ("vehicle_events", "device_id", 1),
    ("company_minute", "company_id", 1),
    ("vehicle_links", "vehicle_id", 1),
];
/// Keys read from Redis at a time.
const CHUNK: usize = 1_000;

/// Figures by name.
#[derive(Debug, Default)]
pub struct Figures {
    /// What has to be equal whenever it runs.
    results: BTreeMap<String, u64>,
    /// What is only shown.
    measured: BTreeMap<String, String>,
}

/// What the generator says must come out.
pub fn of_generator(made: &Value) -> BTreeMap<String, u64> {
    let count = |name: &str| made[name].as_u64().unwrap_or_else(|| panic!("no {name} in {made}"));
    let mut all: BTreeMap<String, u64> = [
        ("telemetry_history rows", "distinct"),
        ("telemetry_history distinct events", "distinct"),
        ("telemetry_history devices", "devices"),
        ("vehicles in Redis", "devices"),
        ("duplicates removed", "duplicates"),
        ("dead letters", "garbage"),
        ("dead letters, distinct", "garbage"),
    ]
    .map(|(name, of)| (name.to_owned(), count(of)))
    .into();
    let codes = made["garbage_by_code"].as_object().expect("counts by code");
    all.extend(codes.iter().map(|(code, count)| (format!("dead letters, {code}"), count.as_u64().unwrap())));
    all
}

impl Figures {
    /// Reads the results of a run.
    pub fn read(database: &str, redis: &str, dead_letters: &str) -> Self {
        let mut figures = Self::default();
        figures.history(database);
        figures.current_state(redis);
        let refused = dead_letters::read(dead_letters);
        figures.result("dead letters", refused.by_code.values().sum());
        figures.result("dead letters, distinct", refused.distinct);
        for (code, count) in refused.by_code {
            figures.result(&format!("dead letters, {code}"), count);
        }
        figures
    }

    fn history(&mut self, database: &str) {
        let answer = |sql: &str| -> Vec<u64> {
            let answer = clickhouse().query(sql);
            answer.split('\t').map(|number| number.parse().unwrap_or_else(|_| panic!("{answer}\nto {sql}"))).collect()
        };
        for (table, key, parts) in TABLES {
            let (mut rows, mut hash, mut keys) = (0, 0_u64, 0);
            for part in 0..parts {
                // Within a tuple null is a value of its own; otherwise it would make the whole hash null.
                let sql = format!(
                    "SELECT count(), sum(cityHash64(tuple(*))), uniqExact({key}) FROM {database}.{table} FINAL \
                     WHERE cityHash64({key}) % {parts} = {part}"
                );
                let found = answer(&sql);
                (rows, hash, keys) = (rows + found[0], hash.wrapping_add(found[1]), keys + found[2]);
            }
            self.result(&format!("{table} rows"), rows);
            self.result(&format!("{table} hash"), hash);
            if table == "telemetry_history" {
                self.result("telemetry_history devices", keys);
            }
        }
        let distinct = (0..8).map(|part| {
            answer(&format!(
                "SELECT uniqExact(device_id, ts, seq) FROM {database}.telemetry_history WHERE cityHash64(device_id) % 8 = {part}"
            ))[0]
        });
        self.result("telemetry_history distinct events", distinct.sum());
        for kind in ["device.online", "device.offline"] {
            let sql = format!("SELECT count() FROM {database}.vehicle_events FINAL WHERE kind = '{kind}'");
            self.result(kind, answer(&sql)[0]);
        }
    }

    fn current_state(&mut self, url: &str) {
        let mut redis = redis::Client::open(url).unwrap().get_connection().unwrap();
        let keys: Vec<String> = redis.keys("hs:1:vehicle:*").unwrap();
        let (mut rows, mut sum) = (0, 0_u64);
        for chunk in keys.chunks(CHUNK) {
            let mut all = redis::pipe();
            for key in chunk {
                all.hgetall(key);
            }
            let hashes: Vec<BTreeMap<String, String>> = all.query(&mut redis).unwrap();
            for (key, hash) in chunk.iter().zip(hashes) {
                let mut hasher = DefaultHasher::new();
                (key, hash).hash(&mut hasher);
                (rows, sum) = (rows + 1, sum.wrapping_add(hasher.finish()));
            }
        }
        self.result("vehicles in Redis", rows);
        self.result("vehicles in Redis hash", sum);
    }

    /// Adds a figure that has to be equal whenever it runs.
    pub fn result(&mut self, name: &str, value: u64) {
        self.results.insert(name.to_owned(), value);
    }

    /// Adds a figure that is only shown.
    pub fn measured(&mut self, name: &str, value: String) {
        self.measured.insert(name.to_owned(), value);
    }

    /// What has to be equal whenever it runs.
    pub fn results(&self) -> BTreeMap<String, u64> {
        self.results.clone()
    }

    /// Names of all figures.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.results.keys().chain(self.measured.keys())
    }

    /// A figure as text.
    pub fn shown(&self, name: &str) -> String {
        let result = self.results.get(name).map(|value| value.to_string());
        result.or_else(|| self.measured.get(name).cloned()).unwrap_or_else(|| "-".to_owned())
    }

    /// Where it differs from what is expected, one line each.
    pub fn differ_from(&self, expected: &BTreeMap<String, u64>, whose: &str) -> Vec<String> {
        let different = expected.iter().filter(|(name, value)| self.results.get(*name) != Some(value));
        different.map(|(name, value)| format!("{whose} {name}: {value}, here {}", self.shown(name))).collect()
    }
}
