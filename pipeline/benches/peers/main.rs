//! One query of the comparison with other engines, on the same Kafka topics and with the same output as theirs: decoded (q1),
//! enriched (q2), last state (q3), windows by company (q4), offline devices (q5). `run.py` beside this file runs the others too
//! and says what the topics hold.
//!
//! `peers prepare BROKERS` copies the vehicles into a topic keyed by their id. `peers run BROKERS QUERY WORKERS none|kafka TOPIC
//! [live]` prints `START ms`, `P ms events` every 100 ms and `END ms events`, milliseconds since the epoch; `live` goes on
//! until it is ended.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has to end")]
#![expect(clippy::disallowed_methods, reason = "the end of the process is what the measuring script waits for")]

mod discard;
mod prepare;
mod renamed;

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use operators::record::Stream;
use pipeline::config::{self, Config, Override};
use pipeline::job::{Job, Origin, Settings};
use pipeline::origin::{From, Kafka};
use pipeline::run::settings;
use pipeline::topology::{Output, routes};
use sinks::kafka::{self, KafkaSink, Target, Topic};
use sinks::run::{Feed, Options, Running, start};
use sources::Delivery;
use sources::delivery::{Nothing, Receiver, channel};

use discard::Discard;
use renamed::Renamed;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long the last rows may take to be written.
const DRAIN: Duration = Duration::from_secs(120);
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_millis(100);

fn main() {
    let given: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match given.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["prepare", brokers] => prepare::vehicles_by_id(brokers),
        ["run", brokers, query, workers, sink, topic, ref rest @ ..] => {
            let live = rest == ["live"];
            let workers = workers.parse().unwrap();
            let work = Work { config: configuration(brokers, live), query, workers, sink, topic, live };
            if query == "q1" { work.decode() } else { work.compute() }
        }
        // `cargo bench --workspace` comes here: without brokers there is nothing to measure.
        _ => {
            eprintln!(
                "usage: peers prepare BROKERS | peers run BROKERS QUERY WORKERS none|kafka TOPIC [live]; see run.py"
            );
            exit(0);
        }
    }
}

/// One measurement.
struct Work<'a> {
    config: Config,
    query: &'a str,
    workers: usize,
    sink: &'a str,
    topic: &'a str,
    live: bool,
}

impl Work<'_> {
    fn input(&self) -> String {
        let given = std::env::var("IN_TOPIC").ok();
        given.unwrap_or_else(|| if self.live { "telemetry.live" } else { "telemetry.raw" }.to_owned())
    }

    fn origin(&self, streams: &[Stream]) -> Kafka {
        let topic = |stream: &Stream| match stream {
            Stream::Telemetry => self.input(),
            Stream::Vehicle => prepare::VEHICLES.to_owned(),
            Stream::Driver => "driver.updated".to_owned(),
            _ => "company.updated".to_owned(),
        };
        let topics = streams.iter().map(|stream| (*stream, topic(stream).into())).collect();
        let (connection, options) = (self.config.kafka.clone(), settings::reader(&self.config));
        Kafka { connection, topics, options, from: From::default(), bounded: !self.live }
    }

    /// Readers alone, each with a thread that takes and counts what it has decoded.
    fn decode(&self) {
        let origin = Arc::new(self.origin(&[Stream::Telemetry]));
        let rows = Arc::new(AtomicU64::new(0));
        show_progress({
            let rows = rows.clone();
            move || rows.load(Ordering::Relaxed)
        });
        let capacity = settings::job(&self.config).capacity;
        let readers: Vec<_> = (0..self.workers)
            .map(|worker| {
                let (origin, rows, workers) = (origin.clone(), rows.clone(), self.workers);
                std::thread::spawn(move || {
                    let this = std::thread::current();
                    let (sender, mut receiver) = channel(capacity, move || this.unpark());
                    let stop = Arc::new(AtomicBool::new(false));
                    let reader = std::thread::spawn(move || origin.read(worker, workers, sender, stop));
                    count(&mut receiver, &rows);
                    reader.join().unwrap()
                })
            })
            .collect();
        readers.into_iter().for_each(|reader| reader.join().unwrap().unwrap());
        end(rows.load(Ordering::Relaxed));
    }

    /// The part of the main job that makes the query's stream.
    fn compute(&self) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let stream = match self.query {
            "q2" => "telemetry_enriched",
            "q3" => "vehicle_state",
            "q4" => "company_minute",
            "q5" => "vehicle_events",
            other => panic!("no query {other}: q1 to q5"),
        };
        let (feed, running) = self.start(stream);
        let origin = self.origin(&[Stream::Telemetry, Stream::Vehicle, Stream::Driver, Stream::Company]);
        let output = Output { feed, conflated: false };
        let settings = Settings { workers: self.workers, ..self.settings() };
        let job = Job::start(settings, origin, vec![output], None, None, |_, _, _| {}).unwrap();
        let workers = job.progress().to_vec();
        let rows = move || workers.iter().map(|worker| worker.rows.load(Ordering::Relaxed)).sum();
        show_progress(rows.clone());
        job.join().unwrap();
        let left = runtime.block_on(running.drain(DRAIN));
        assert_eq!(left, 0, "rows were not written");
        end(rows());
    }

    fn settings(&self) -> Settings {
        let mut settings = settings::job(&self.config);
        // As the workload has it: duplicates are counted, and a minute without a message is offline.
        settings.topology.deduplicate_ms = None;
        settings
    }

    fn start(&self, stream: &'static str) -> (Feed, Running) {
        // Tables: the newest of each key once a second, which the workload allows.
        let flush_ms = if matches!(self.query, "q3" | "q4") { 1_000 } else { 0 };
        let feeding = Options { flush_ms, ..self.config.sinks.live.clone() };
        let (tell, mut refused) = tokio::sync::mpsc::channel::<sinks::run::Fatal>(1);
        tokio::spawn(async move {
            if let Some(fatal) = refused.recv().await {
                eprintln!("sink {}: {}", fatal.sink, fatal.error);
                exit(1);
            }
        });
        let routes = routes(&[stream]);
        match self.sink {
            "none" => start(Discard::default(), feeding, routes, self.workers, 0, tell),
            "kafka" => start(Renamed::new(self.kafka(stream)), feeding, routes, self.workers, 0, tell),
            other => panic!("no sink {other}: none or kafka"),
        }
    }

    fn kafka(&self, stream: &'static str) -> KafkaSink {
        // Other engines' records carry no identity.
        let options = kafka::Options { identity: false, ..self.config.kafka_sink.options.clone() };
        let (keys, target): (&[&str], _) = match self.query {
            "q3" => (&["vehicle_id"], Target::Topic(self.topic.to_owned())),
            "q4" => (&["company_id", "window_start"], Target::Topic(self.topic.to_owned())),
            "q5" => {
                (&["device_id"], Target::ByColumn("kind", vec![("device.offline".to_owned(), self.topic.to_owned())]))
            }
            _ => (&["device_id"], Target::Topic(self.topic.to_owned())),
        };
        let topic = Topic { stream, target, keys, meta: &[], nulls: sinks::json::Nulls::Omitted };
        KafkaSink::new(self.config.kafka.clone(), options, vec![topic], None)
    }
}

/// The defaults of the program, but for what the workload says of outputs.
fn configuration(brokers: &str, live: bool) -> Config {
    let set = |key, value| Override { key, flag: "--bench", value };
    let mut overrides = vec![set("kafka.brokers", toml::Value::String(brokers.to_owned()))];
    overrides.push(set("kafka.linger_ms", toml::Value::Integer(if live { 1 } else { 50 })));
    config::load(None, overrides).unwrap().config
}

fn count(receiver: &mut Receiver, rows: &AtomicU64) {
    loop {
        match receiver.try_recv() {
            Ok(Delivery::Rows(_, batch)) => {
                rows.fetch_add(std::hint::black_box(batch).num_rows() as u64, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(Nothing::Yet) => std::thread::park_timeout(Duration::from_millis(2)),
            Err(Nothing::Ever) => return,
        }
    }
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// Prints from now on how far the work is, on a thread of its own.
fn show_progress(rows: impl Fn() -> u64 + Send + 'static) {
    std::thread::spawn(move || {
        let mut started = false;
        loop {
            let count = rows();
            if count > 0 && !started {
                started = true;
                println!("START {}", now_ms());
            }
            if count > 0 {
                println!("P {} {count}", now_ms());
            }
            // The first record is when the clock starts: it must not be seen late.
            std::thread::park_timeout(if started { PROGRESS } else { Duration::from_millis(2) });
        }
    });
}

/// Prints that the work is done, and ends the process.
fn end(rows: u64) -> ! {
    println!("END {} {rows}", now_ms());
    exit(0);
}
