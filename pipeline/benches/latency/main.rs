//! How late results are: from the moment a message is given to the producer to the Redis message that tells of it, and to the
//! WebSocket frame with it, less the time for which the edge gathers changes. The real program on a real Kafka and Redis, all on
//! this machine; first with references that change ten times a second, then with reference topics that are silent.
//!
//! `cargo bench -p pipeline --bench latency [-- rate=20000 seconds=60 vehicles=100000]`
//!
//! With `to=kafka` the program writes to Kafka instead of Redis, and the time is that to the enriched message there; beside it
//! stands how late another consumer has the message itself. Options of the program are given as `time.tick_ms=1`.
//!
//! With `session=yes` it is what an analyst does meanwhile that is measured, step by step.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has to end")]

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../../tests/it"]
mod it {
    pub mod program;
    pub mod services;
}
use it::{program, services};

mod fleet;
mod listen;
mod session;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use program::Program;
use services::Redis;
use tempfile::TempDir;

use fleet::Fleet;
use listen::Latencies;

/// Time before anything is measured.
const WARM: Duration = Duration::from_secs(20);

fn main() {
    let text = |name: &str| {
        std::env::args().find_map(|argument| Some(argument.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
    };
    let number = |name: &str, default: u64| text(name).and_then(|text| text.parse().ok()).unwrap_or(default);
    let (rate, vehicles) = (number("rate", 20_000), number("vehicles", 100_000));
    let time = Duration::from_secs(number("seconds", 60));
    let to = text("to").unwrap_or_default();
    let fleet = Fleet::new(vehicles);
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("fleet.toml");
    // A state that the log brings back needs no file: writing one anew holds Redis up for a third of a second.
    let redis_server = Redis::private("--appendonly no");
    let redis_url = redis_server.database();
    std::fs::write(&file, fleet.configuration(&redis_url, &to)).unwrap();
    let program = Program::start(&[
        "--config",
        file.to_str().unwrap(),
        "--data",
        directory.path().join("data").to_str().unwrap(),
    ]);
    let stop = Arc::new(AtomicBool::new(false));
    let (rows, edge) = (Arc::new(Latencies::default()), Arc::new(Latencies::default()));
    let log = Arc::new(Latencies::default());
    let what_rows = if to.is_empty() {
        listen::to_redis(&redis_url, &rows, &stop);
        listen::to_edge(&program.url, &edge, &stop);
        "producer to Redis message"
    } else {
        listen::to_kafka(fleet.topic("enriched"), &rows);
        listen::to_kafka(fleet.topic("telemetry"), &log);
        "producer to Kafka record"
    };
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| fleet.send(rate, &stop));
        if text("session").is_some() {
            wait(WARM);
            let session = session::Session { program: &program, directory: directory.path(), rows: &rows, edge: &edge };
            // A step that fails ends the sending too.
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| session.run(&fleet, time)));
            stop.store(true, Ordering::Relaxed);
            println!("producer: at most {:.1} ms behind its plan", sending.join().unwrap());
            return done.unwrap();
        }
        for (what, changes_per_s) in [("references change 10 times a second", 10), ("references silent", 0)] {
            let changing = Arc::new(AtomicBool::new(true));
            let handle = scope.spawn({
                let (fleet, changing) = (&fleet, changing.clone());
                move || fleet.change(changes_per_s, &changing)
            });
            wait(WARM);
            rows.clear();
            edge.clear();
            log.clear();
            let cpu_s = cpu_s(program.pid());
            wait(time);
            let cores = (self::cpu_s(program.pid()) - cpu_s) / time.as_secs_f64();
            println!("{rate} messages a second, {vehicles} vehicles, {what}; the program takes {cores:.2} cores:");
            rows.print(what_rows, time);
            if to.is_empty() {
                edge.print("end of the edge's window to frame", time);
            } else {
                log.print("of it, producer to message in Kafka", time);
            }
            println!("  resident memory of the program: {} MB", resident_mb(program.pid()));
            changing.store(false, Ordering::Relaxed);
            handle.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        println!("producer: at most {:.1} ms behind its plan", sending.join().unwrap());
    });
    assert_eq!(program.stop(), Some(0));
}

#[expect(clippy::disallowed_methods, reason = "a measurement lasts as long as it is told to")]
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Microseconds since the epoch.
fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

fn resident_mb(pid: u32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4_096 / 1_000_000
}

/// Waits until `at` on the clock that does not jump.
fn until(at: Instant) {
    if let Some(left) = at.checked_duration_since(Instant::now()) {
        wait(left);
    }
}
