//! Where the program runs while it is faulted: servers, topics, databases, a directory, and the program itself, started and ended
//! as often as wanted.
//!
//! Invariant: a process is gone when its handle is dropped, and nothing is asked of a process that has ended without being told to.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::services::{self, ClickHouse, Kafka, Redis, unique, wait_until};

/// Inputs, then outputs.
const STREAMS: [&str; 10] = [
    "telemetry",
    "vehicle",
    "driver",
    "company",
    "tariff",
    "dead_letters",
    "vehicle_state",
    "online",
    "offline",
    "enriched",
];
/// How long the program may take to end in an orderly way.
const STOP: Duration = Duration::from_secs(30);
const LOG_TAIL_LINES: usize = 30;

/// A server that all tests share, or one of this test's own, which may be killed.
pub enum Lent<T: 'static> {
    /// Everybody's.
    Shared(&'static T),
    /// This test's.
    Own(Box<T>),
}

impl<T> Deref for Lent<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Lent::Shared(server) => server,
            Lent::Own(server) => server,
        }
    }
}

impl<T> Lent<T> {
    /// The test's own server.
    pub fn own(&mut self) -> &mut T {
        match self {
            Lent::Shared(_) => panic!("a server that all tests share is not faulted"),
            Lent::Own(server) => server,
        }
    }
}

/// The servers.
pub struct Servers {
    pub kafka: Lent<Kafka>,
    pub redis: Lent<Redis>,
    pub clickhouse: Lent<ClickHouse>,
}

impl Servers {
    /// Those that all tests share.
    pub fn shared() -> Self {
        let (kafka, redis) = (Lent::Shared(services::kafka()), Lent::Shared(services::redis()));
        Self { kafka, redis, clickhouse: Lent::Shared(services::clickhouse()) }
    }

    /// Servers that may be killed and stopped.
    pub fn private() -> Self {
        let (kafka, redis) = (Box::new(Kafka::private("")), Box::new(Redis::private("")));
        Self {
            kafka: Lent::Own(kafka),
            redis: Lent::Own(redis),
            clickhouse: Lent::Own(Box::new(ClickHouse::private())),
        }
    }
}

/// Everything of one run.
pub struct Place {
    /// The servers.
    pub servers: Servers,
    topics: BTreeMap<&'static str, String>,
    /// URL of the Redis database.
    pub redis: String,
    /// Name of the ClickHouse database.
    pub database: String,
    folder: TempDir,
}

impl Place {
    /// Topics and databases of its own.
    pub fn new(servers: Servers) -> Self {
        let topics = STREAMS.map(|stream| (stream, servers.kafka.topic(&format!("faults_{stream}"), 3))).into();
        let (redis, database) = (servers.redis.database(), unique("faults"));
        Self { servers, topics, redis, database, folder: TempDir::new().expect("a directory") }
    }

    /// The broker.
    pub fn kafka(&self) -> &Kafka {
        &self.servers.kafka
    }

    /// Names of the topics, by stream.
    pub fn topics(&self) -> &BTreeMap<&'static str, String> {
        &self.topics
    }

    /// A directory in the run's own.
    pub fn folder(&self, name: &str) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).expect("a directory");
        folder
    }

    /// Starts the program.
    pub fn start(&self, workers: u64) -> Process {
        let mut text = format!(
            "[run]\nsource = \"kafka\"\nworkers = {workers}\n[kafka]\nbrokers = \"{}\"\n[kafka_sink]\nenabled = true\nenriched = true\n\
             [checkpoint]\nevery_ms = 300\n[parquet]\nenabled = false\n[redis]\nenabled = true\nurl = \"{}\"\n\
             [clickhouse]\nenabled = true\nurl = \"{}\"\ndatabase = \"{}\"\n[sinks.history]\nflush_ms = 200\n\
             [silence]\noffline_after_s = 3600\n[reads]\npostgres_listen = \"\"\n[simulator]\nenabled = false\n[topics]\n",
            self.kafka().bootstrap(),
            self.redis,
            self.servers.clickhouse.url(),
            self.database
        );
        self.topics.iter().for_each(|(stream, topic)| text += &format!("{stream} = \"{topic}\"\n"));
        let (file, log) = (self.folder.path().join("fleet.toml"), self.folder.path().join("program.log"));
        std::fs::write(&file, text).expect("a file");
        let lines = OpenOptions::new().create(true).append(true).open(&log).expect("a file");
        let from = lines.metadata().expect("a file").len() as usize;
        let child = Command::new(env!("CARGO_BIN_EXE_haulstream"))
            .args(["run", "--listen", "127.0.0.1:0", "--config"])
            .arg(file)
            .arg("--data")
            .arg(self.folder("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(lines)
            .spawn()
            .expect("the program starts");
        Process { child, log, from }
    }

    /// Removes everything from the run's Redis database.
    pub fn empty_redis(&self) {
        let client = redis::Client::open(self.redis.as_str()).expect("an address");
        let mut connection = client.get_connection().expect("Redis answers");
        let () = redis::cmd("FLUSHDB").query(&mut connection).expect("Redis answers");
    }

    /// The newest checkpoint's manifest.
    pub fn manifest(&self) -> Option<Value> {
        let manifests = std::fs::read_dir(self.folder("data").join("checkpoints/manifests")).ok()?;
        let newest = manifests.filter_map(|entry| Some(entry.ok()?.path())).max()?;
        let text = std::fs::read_to_string(newest).ok()?;
        Some(serde_json::from_str::<Value>(&text).ok()?["manifest"].take())
    }

    /// Its number, 0 if there is none, and the tick up to which everything is done.
    pub fn checkpoint(&self) -> (u64, u64) {
        let manifest = self.manifest().unwrap_or_default();
        (manifest["sequence"].as_u64().unwrap_or(0), manifest["moment"]["tick"].as_u64().unwrap_or(0))
    }
}

/// The program.
pub struct Process {
    child: Child,
    log: PathBuf,
    from: usize,
}

impl Process {
    /// What it has said.
    pub fn said(&self) -> String {
        let all = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&all[self.from.min(all.len())..]).into_owned()
    }

    /// Fails with its last words if it has ended.
    pub fn expect_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("the program has ended with {status}:\n{}", self.tail());
        }
    }

    fn tail(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Waits until a condition holds, as long as it runs.
    pub fn wait(&mut self, seconds: u64, what: &str, mut condition: impl FnMut() -> bool) {
        let end = std::time::Instant::now() + Duration::from_secs(seconds);
        wait_until(Duration::from_secs(seconds + 1), what, || {
            self.expect_running();
            let holds = condition();
            assert!(holds || std::time::Instant::now() < end, "not within {seconds} s: {what}\n{}", self.tail());
            holds
        });
    }

    /// Ends it as a crash does.
    pub fn kill9(mut self) {
        self.expect_running();
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// Asks it to end; it has to, with 0.
    pub fn stop(mut self) {
        self.expect_running();
        let told = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().expect("kill is there");
        assert!(told.success());
        let mut status = None;
        wait_until(STOP, "the program ends", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", self.tail());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
