//! The log: topics of this run, filled by `haulstream simulate`, and the configuration that reads them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tempfile::TempDir;

use crate::Scale;
use crate::it::services::kafka;

/// Shares of the messages, in per cent.
const LATE: &str = "1";
const DUPLICATE: &str = "0.1";
const GARBAGE: &str = "0.1";
const TELEMETRY: &str = "ten-million.telemetry";
const WAIT: Duration = Duration::from_secs(10);
/// Seconds without a message after which a device is offline, whatever its company says: all are when the log has ended.
pub const OFFLINE_AFTER_S: u64 = 60;

/// The topics that all runs read.
pub struct Topics {
    folder: TempDir,
}

impl Topics {
    /// Names the topics and makes them.
    pub fn new() -> Self {
        let topics = Self { folder: TempDir::new().unwrap() };
        topics.apply(&topics.configuration("log", ""));
        topics
    }

    /// A configuration file that reads the topics and writes dead letters of its own; `more` are further sections.
    pub fn configuration(&self, name: &str, more: &str) -> PathBuf {
        let mut text = String::from("[run]\nsource = \"kafka\"\n[topics]\n");
        for reference in ["vehicle", "driver", "company", "tariff"] {
            text += &format!("{reference} = \"ten-million.{reference}\"\n");
        }
        text += &format!(
            "telemetry = \"{TELEMETRY}\"\ndead_letters = \"{}\"\n[kafka]\nbrokers = \"{}\"\ngroup = \"{name}\"\n\
             [simulator]\nenabled = false\n[parquet]\nenabled = false\n[kafka_sink]\nenabled = true\n\
             [silence]\noffline_after_s = {OFFLINE_AFTER_S}\n[logging]\nlevel = \"warn\"\n\
             # Each run reads the whole log.\n[checkpoint]\nenabled = false\n\
             # The generator's time does not pass as ours: it may be days ahead.\n[window]\nahead_ms_max = 604800000\n{more}",
            dead_letters(name),
            kafka().bootstrap(),
        );
        let path = self.folder.path().join(format!("{name}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Makes the topics of a configuration.
    pub fn apply(&self, configuration: &Path) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
        let done = command.args(["topics", "apply", "--config"]).arg(configuration).stdout(Stdio::null()).status();
        assert!(done.unwrap().success(), "the topics could not be made: see above");
    }

    /// Fills the topics; what the generator counted.
    pub fn simulate(&self, scale: &Scale) -> Value {
        let number = |number: u64| number.to_string();
        let (events, vehicles, seed) = (number(scale.events), number(scale.vehicles), number(scale.seed));
        let output = Command::new(env!("CARGO_BIN_EXE_haulstream"))
            .args(["simulate", "--to", "kafka", "--rate", "0", "--count", &events, "--vehicles", &vehicles])
            .args(["--seed", &seed, "--late-pct", LATE, "--duplicate-pct", DUPLICATE, "--garbage-pct", GARBAGE])
            .arg("--config")
            .arg(self.folder.path().join("log.toml"))
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "the simulation failed: see above");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Telemetry records in the log.
    pub fn records(&self) -> u64 {
        records(TELEMETRY)
    }
}

/// The topic of the dead letters of the configuration `name`.
pub fn dead_letters(name: &str) -> String {
    format!("ten-million.dead-letters.{name}")
}

/// Records of a topic.
pub fn records(topic: &str) -> u64 {
    let consumer: BaseConsumer = kafka().client().create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), WAIT).unwrap();
    let partitions = metadata.topics()[0].partitions().iter();
    let count = |partition| {
        let (low, high) = consumer.fetch_watermarks(topic, partition, WAIT).unwrap();
        (high - low) as u64
    };
    partitions.map(|partition| count(partition.id())).sum()
}
