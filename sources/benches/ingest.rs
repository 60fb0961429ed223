//! Speed of what stands before the dataflow: the simulator, the embedded log, the ingestion gate. Prints figures; run with
//! `cargo bench -p sources --bench ingest [-- MESSAGES]`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use operators::record::Stream;
use sources::codec::{Decoder, Record};
use sources::listen::{Gate, GateOptions, ServeOptions, not_found, routes, serve};
use sources::log::{EmbeddedLog, Options, system_clock};
use sources::publish::{FeedOptions, HttpOptions, HttpPublisher, Publish, Records, feed};
use sources::simulator::{self, Simulator};
use warp::Filter;

const TOPIC: &str = "telemetry.raw";
const PARTITIONS: i32 = 4;

fn main() {
    let given = std::env::args().skip(1).find_map(|argument| argument.parse::<u64>().ok());
    let messages = given.unwrap_or(2_000_000);
    let directory = tempfile::tempdir().expect("a directory for the log");
    simulate(messages);
    let log = Arc::new(EmbeddedLog::open(options(directory.path()), system_clock()).expect("a new log"));
    log.create_topic(TOPIC, PARTITIONS).expect("a new topic");
    append(&log, messages);
    read(&log);
    small_appends(&log);
    gate(&log, messages / 10);
}

/// Wall clock and processor time since the beginning of a measurement.
struct Watch {
    started: Instant,
    cpu_s: f64,
}

impl Watch {
    fn start() -> Self {
        Self { started: Instant::now(), cpu_s: cpu_s() }
    }

    fn report(&self, what: &str, count: u64) {
        let (seconds, cpu_s) = (self.started.elapsed().as_secs_f64(), (cpu_s() - self.cpu_s).max(0.01));
        let (rate, cpu_rate) = (count as f64 / seconds, count as f64 / cpu_s);
        println!("{what:<58} {count:>10} in {seconds:>7.3} s: {rate:>11.0} /s, {cpu_rate:>11.0} a CPU-second");
    }
}

/// Processor time of this process, all threads, in seconds (Linux; 0 elsewhere).
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

fn simulation(messages: u64) -> Simulator {
    let options = simulator::Options {
        messages_max: messages,
        late_pct: 1.0,
        late_ms_max: 10_000,
        duplicate_pct: 0.1,
        garbage_pct: 0.1,
        stamp_server_time: true,
        ..simulator::Options::undisturbed(100_000, 1)
    };
    Simulator::new(options, system_clock()() as i64).expect("good options")
}

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        segment_bytes_max: 256 << 20,
        segment_ms_max: 3_600_000,
        retention_bytes_max: 8 << 30,
        retention_ms_max: u64::MAX,
        block_bytes_max: 256 << 10,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 64 << 20,
        memtable_bytes_max: 16 << 20,
        journal_bytes_max: 256 << 20,
        cache_bytes_max: 32 << 20,
    }
}

fn simulate(messages: u64) {
    let mut simulator = simulation(messages);
    while simulator.counts().messages == 0 {
        simulator.next();
    }
    let (watch, mut bytes) = (Watch::start(), 0);
    while let Some(message) = simulator.next() {
        bytes += message.value.map_or(0, <[u8]>::len) as u64;
    }
    watch.report("simulator, one thread", simulator.counts().messages);
    println!("{:<58} {:>10.1} bytes", "  mean message", bytes as f64 / simulator.counts().messages as f64);
}

fn append(log: &EmbeddedLog, messages: u64) {
    let mut simulator = simulation(messages);
    let feeding =
        FeedOptions { batch_bytes_max: 1 << 20, in_flight_bytes_max: 32 << 20, pace_ms: 1, retry_ms_max: 100 };
    let topic = |stream: Stream| (!stream.is_table()).then(|| TOPIC.to_owned());
    let watch = Watch::start();
    feed(&mut simulator, log, topic, &feeding, &system_clock(), &AtomicBool::new(false)).expect("the log takes all");
    watch.report("simulator -> embedded log, durable", simulator.counts().messages);
    let kept: u64 = (0..PARTITIONS).map(|partition| log.kept_bytes(TOPIC, partition).expect("a partition")).sum();
    let disk = log.disk_bytes().expect("a directory");
    println!("{:<58} {:>10} MB of records, {} MB on disk", "  size", kept >> 20, disk >> 20);
}

fn read(log: &EmbeddedLog) {
    for (what, decode) in [("embedded log, read", false), ("embedded log, read and decoded to Arrow", true)] {
        let (watch, mut records, mut bytes) = (Watch::start(), 0, 0);
        for partition in 0..PARTITIONS {
            let mut reader = log.reader(TOPIC, partition, 0).expect("the log's beginning");
            let mut decoder = Decoder::new(Stream::Telemetry, TOPIC.into(), partition);
            loop {
                let mut each = |record: Record<'_>| {
                    records += 1;
                    bytes += record.value.map_or(0, <[u8]>::len);
                    if decode {
                        let _ = decoder.push(&record, 10); // garbage is refused
                    }
                    ControlFlow::Continue(())
                };
                if reader.read(8_192, &mut each).expect("the log is sound") == 0 {
                    break;
                }
                if decode {
                    decoder.finish();
                }
            }
        }
        watch.report(what, records);
        println!("{:<58} {:>10} MB", "  values", bytes >> 20);
    }
}

/// One record an append: what syncing costs, alone and shared.
fn small_appends(log: &EmbeddedLog) {
    for threads in [1, 16] {
        let watch = Watch::start();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for i in 0..500 {
                        let mut records = Records::default();
                        records.push(Some(format!("d-{i}").as_bytes()), Some(b"{}"));
                        log.publish(TOPIC, &records).wait().expect("the log takes all");
                    }
                });
            }
        });
        watch.report(&format!("embedded log, single appends each synced, {threads} writers"), 500 * threads);
    }
}

fn gate(log: &Arc<EmbeddedLog>, messages: u64) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let gate_options = GateOptions {
        body_bytes_max: 1 << 20,
        unpacked_bytes_max: 8 << 20,
        body_ms_max: 10_000,
        held_bytes_max: 64 << 20,
        items_max: 1_000,
        uri_bytes_max: 8_192,
        ack_ms_max: 10_000,
        retry_after_s: 1,
        past_ms_max: 30 * 24 * 3_600_000,
        future_ms_max: 24 * 3_600_000,
    };
    let limits = ServeOptions {
        connections_max: 100,
        head_ms_max: 10_000,
        head_bytes_max: 65_536,
        head_fields_max: 100,
        stop_ms_max: 1_000,
    };
    let gate = Gate::new(log.clone(), TOPIC.to_owned(), Vec::new(), gate_options, system_clock());
    runtime.spawn(serve(listener, routes(gate).or(not_found()).unify(), limits, std::future::pending()));
    let http = HttpOptions {
        url,
        items_max: 1_000,
        body_bytes_max: 1 << 20,
        queue_bytes_max: 8 << 20,
        request_ms_max: 10_000,
    };
    let publisher = HttpPublisher::new(http, TOPIC.to_owned(), runtime.handle()).expect("a good address");
    let mut simulator = simulation(messages);
    let feeding = FeedOptions { batch_bytes_max: 250_000, in_flight_bytes_max: 4 << 20, pace_ms: 1, retry_ms_max: 100 };
    let topic = |stream: Stream| (!stream.is_table()).then(|| TOPIC.to_owned());
    let watch = Watch::start();
    feed(&mut simulator, &publisher, topic, &feeding, &system_clock(), &AtomicBool::new(false))
        .expect("the gate takes all");
    watch.report("simulator -> HTTP, one connection -> embedded log", simulator.counts().messages);
    let counts = publisher.counts();
    println!("{:<58} {:>10} accepted, {} refused", "  gate", counts.accepted(), counts.rejected());
}
