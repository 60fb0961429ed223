//! One run of the program over the whole log, into a ClickHouse database, a Redis database and dead letters of its own.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::figures::Figures;
use crate::it::program::Program;
use crate::it::services::{self, clickhouse, http, wait_until};
use crate::topics::{OFFLINE_AFTER_S, Topics, dead_letters};

/// A run that stands still for longer has failed.
const DEADLINE: Duration = Duration::from_secs(3_600);
/// Looks at the program's figures that one after the other have to say that nothing is left, and the time between two.
const LOOKS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// A run to be made.
pub struct Replay {
    workers: u32,
    name: String,
    configuration: PathBuf,
    /// Of Redis.
    redis: String,
    /// Of ClickHouse.
    database: String,
    /// The log has ended before this time, in milliseconds since the epoch.
    log_end_ms: f64,
}

impl Replay {
    /// Makes what the run writes into.
    pub fn new(topics: &Topics, workers: u32) -> Self {
        let name = format!("w{workers}");
        let (redis, database) = (services::redis().database(), format!("ten_million_{name}"));
        let more = format!(
            "[redis]\nenabled = true\nurl = \"{redis}\"\n[clickhouse]\nenabled = true\nurl = \"{}\"\ndatabase = \"{database}\"\n",
            clickhouse().url()
        );
        let configuration = topics.configuration(&name, &more);
        topics.apply(&configuration);
        let log_end_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as f64;
        Self { workers, name, configuration, redis, database, log_end_ms }
    }

    /// Runs the program until everything is written, and reads what it wrote.
    pub fn run(self) -> Figures {
        let begin = Instant::now();
        let workers = self.workers.to_string();
        let program = Program::start(&["--config", self.configuration.to_str().unwrap(), "--workers", &workers]);
        let port = program.url.rsplit(':').next().unwrap().parse().unwrap();
        let seconds = (self.until(port, self.log_end_ms) - begin).as_secs_f64();
        // Then every device has gone silent, and every window is written.
        self.until(port, self.log_end_ms + (OFFLINE_AFTER_S * 1_000 + 5_000) as f64);
        let metrics = Metrics::of(port);
        let mut figures = Figures::read(&self.database, &self.redis, &dead_letters(&self.name));
        figures.result("duplicates removed", metrics.sum("haulstream_deduplicate_duplicates_total") as u64);
        figures.result("ticks given by the clock", metrics.sum("haulstream_source_time_exceptions_total") as u64);
        figures.measured("seconds", format!("{seconds:.1}"));
        figures.measured("events/s", format!("{:.0}", metrics.sum("haulstream_worker_rows_total") / seconds));
        figures.measured("peak memory, MB", program.memory_kb_max().map_or(0, |kb| kb / 1_024).to_string());
        assert_eq!(program.stop(), Some(0), "the program ended badly");
        clickhouse().query(&format!("DROP DATABASE {} SYNC", self.database));
        figures
    }

    /// Waits until all workers have passed this time and all sinks have written what they were given; since when it is so.
    fn until(&self, port: u16, end_ms: f64) -> Instant {
        let (mut looks, mut since) = (0, Instant::now());
        wait_until(DEADLINE, "the whole log is read and written", || {
            std::thread::park_timeout(PAUSE);
            let metrics = Metrics::of(port);
            let frontier = metrics.least("haulstream_worker_frontier_seconds", self.workers as usize);
            let done = frontier * 1_000.0 >= end_ms && metrics.sum("haulstream_sink_queue_rows") == 0.0;
            if looks == 0 || !done {
                (looks, since) = (0, Instant::now());
            }
            looks += u32::from(done);
            looks >= LOOKS
        });
        since
    }
}

/// What the program says of itself.
struct Metrics(String);

impl Metrics {
    fn of(port: u16) -> Self {
        match http::request(port, "GET", "/metrics", "") {
            Ok((200, text)) => Self(text),
            other => panic!("the program's figures cannot be read: {other:?}"),
        }
    }

    fn values(&self, name: &str) -> impl Iterator<Item = f64> {
        let lines = self.0.lines().filter_map(move |line| line.strip_prefix(name));
        let lines = lines.filter(|rest| rest.starts_with(['{', ' ']));
        lines.filter_map(|rest| rest.rsplit(' ').next().and_then(|value| value.parse().ok()))
    }

    fn sum(&self, name: &str) -> f64 {
        self.values(name).sum()
    }

    /// The least of `count` values; nothing is known before there are as many.
    fn least(&self, name: &str, count: usize) -> f64 {
        if self.values(name).count() < count {
            return 0.0;
        }
        self.values(name).fold(f64::MAX, f64::min)
    }
}
