//! The program on real Kafka, Redis and ClickHouse while it, and they, are killed and stopped under load. What must be there in the
//! end is computed by a program that shares no code with ours, `tests/checker/check.py`, which is proven here, too. Would catch a
//! record lost, doubled, made up, altered, out of order or with another's references, wherever an end of a process falls.
//!
//! A schedule follows from a seed and is printed. `HAULSTREAM_FAULTS=SEED+KILLS` makes it another seed and another number of kills.

mod dump;
mod fleet;
mod messages;
mod place;
mod references;
mod schedule;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::restart::Dice;
use crate::services::{unique, wait_until};
use fleet::{Fleet, RATE_PER_S};
use place::{Place, Process, Servers};
use schedule::Fault;

const DEVICES: usize = 200;
/// Ticks until the end of whatever follows from silence: companies set two seconds.
const AFTERWARDS_MS: u64 = 4_000;

/// Seed and number of kills of the random schedule.
fn asked() -> (u64, usize) {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the program")]
    let asked = std::env::var("HAULSTREAM_FAULTS").unwrap_or_else(|_| "20261125+8".to_owned());
    let numbers = asked.split_once('+').and_then(|(seed, kills)| Some((seed.parse().ok()?, kills.parse().ok()?)));
    numbers.unwrap_or_else(|| panic!("HAULSTREAM_FAULTS is SEED+KILLS, such as 42+500, not {asked}"))
}

/// Runs `check.py` with these arguments; panics with what it says if it finds a fault.
fn check(arguments: &[&str], dump: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/check.py");
    let output = Command::new("python3").arg("-B").arg(script).args(arguments).arg(dump).output();
    let output = output
        .unwrap_or_else(|why| panic!("python3 is needed for the checker (Debian: apt-get install python3): {why}"));
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{errors}");
    if !output.status.success() {
        panic!("the checker found faults (see above) in {}", kept(dump).display());
    }
}

/// A copy of the dump that stays.
fn kept(dump: &Path) -> std::path::PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{}", unique("faults"), std::process::id()));
    let copied = Command::new("cp").arg("-r").arg(dump).arg(&to).status();
    assert!(copied.is_ok_and(|status| status.success()), "the dump cannot be kept");
    to
}

/// A run under a schedule.
struct Run {
    place: Place,
    fleet: Fleet,
    dice: Dice,
    /// From a fault to the next checkpoint.
    checkpoints_ms: Vec<u128>,
    ends: usize,
    /// From when to when the broker stood still.
    stalls: Vec<(u64, u64)>,
}

impl Run {
    fn new(servers: Servers, seed: u64) -> Self {
        let place = Place::new(servers);
        let fleet = Fleet::start(&place, seed, DEVICES);
        Self { place, fleet, dice: Dice(seed), checkpoints_ms: Vec::new(), ends: 0, stalls: Vec::new() }
    }

    fn start(&mut self) -> Process {
        self.place.start(1 + self.dice.below(3))
    }

    /// Waits until so many messages more were sent: a time under load.
    fn under_load(&self, process: &mut Process, messages: u64) {
        let until = self.fleet.sent() + messages;
        process.wait(120, "the fleet drives", || self.fleet.sent() >= until);
    }

    /// A random time under load, mostly with some checkpoints in it.
    fn let_run(&mut self, process: &mut Process) {
        let (started, before, more) = (Instant::now(), self.place.checkpoint().0, self.dice.below(4));
        let place = &self.place;
        if more > 0 {
            process.wait(120, "a checkpoint", || place.checkpoint().0 > before);
            self.checkpoints_ms.push(started.elapsed().as_millis());
        }
        process.wait(120, "checkpoints", || place.checkpoint().0 >= before + more);
        let messages = self.dice.below(RATE_PER_S);
        self.under_load(process, messages);
    }

    fn follow(&mut self, schedule: &[Fault]) -> Process {
        let mut process = self.start();
        for (number, fault) in schedule.iter().enumerate() {
            self.let_run(&mut process);
            println!("fault {number} at {} messages: {fault:?}", self.fleet.sent());
            process = self.fault(process, fault);
        }
        self.let_run(&mut process);
        process
    }

    fn fault(&mut self, mut process: Process, fault: &Fault) -> Process {
        match *fault {
            Fault::Kill => {
                self.ends += 1;
                process.kill9();
                self.start()
            }
            Fault::Stop => {
                self.ends += 1;
                process.stop();
                self.start()
            }
            Fault::KillAtStart(times) => {
                process.kill9();
                for _ in 0..times {
                    self.ends += 1;
                    let mut starting = self.start();
                    // Up to two seconds.
                    let messages = self.dice.below(2 * RATE_PER_S);
                    self.under_load(&mut starting, messages);
                    starting.kill9();
                }
                self.start()
            }
            Fault::EmptyRedis => {
                self.ends += 1;
                process.kill9();
                self.place.empty_redis();
                self.start()
            }
            Fault::KillRedis => {
                self.place.servers.redis.own().server.kill9();
                self.under_load(&mut process, RATE_PER_S / 2);
                self.place.servers.redis.own().server.start();
                process
            }
            Fault::KillClickHouse => {
                self.place.servers.clickhouse.own().server.kill9();
                self.under_load(&mut process, RATE_PER_S / 2);
                self.place.servers.clickhouse.own().server.start();
                process
            }
            Fault::StopBroker { ms } => {
                let from = fleet::now_ms();
                self.place.servers.kafka.own().server.pause();
                let (paused, time) = (Instant::now(), Duration::from_millis(ms));
                wait_until(time * 2, "a while", || paused.elapsed() >= time);
                self.place.servers.kafka.own().server.resume();
                self.stalls.push((from, fleet::now_ms()));
                process
            }
        }
    }

    /// Ends the load, waits until everything is worked off, and has it checked.
    fn end(mut self, mut process: Process, controls: bool) {
        let folder = self.place.folder("dump");
        let (sent, end) = self.fleet.finish(&folder.join("sent.ndjson"));
        let (place, healing) = (&self.place, Instant::now());
        process.wait(180, "everything is worked off", || place.checkpoint().1 > end + AFTERWARDS_MS);
        let healed = healing.elapsed();
        process.stop();
        dump::write(&self.place, &folder, &self.stalls);
        self.checkpoints_ms.sort_unstable();
        let (middle, most) = (self.checkpoints_ms.get(self.checkpoints_ms.len() / 2), self.checkpoints_ms.last());
        println!(
            "{sent} records, {} ends of the program, worked off after {healed:?}; from a fault to a checkpoint: {} ms, at most {}",
            self.ends,
            middle.unwrap_or(&0),
            most.unwrap_or(&0)
        );
        check(&[], &folder);
        if controls {
            check(&["--controls"], &folder);
        }
    }
}

fn run(servers: Servers, seed: u64, schedule: &[Fault]) {
    println!("HAULSTREAM_FAULTS={seed}+{}: {schedule:?}", schedule.len());
    let mut run = Run::new(servers, seed);
    let process = run.follow(schedule);
    run.end(process, false);
}

#[test]
fn a_killed_program_loses_and_doubles_nothing() {
    let (seed, kills) = asked();
    run(Servers::shared(), seed, &vec![Fault::Kill; kills]);
}

/// A run without faults is good, and each fault that is planted into it is flagged by its name.
#[test]
fn the_checker_flags_every_planted_fault() {
    let mut run = Run::new(Servers::shared(), 7);
    let mut process = run.start();
    run.under_load(&mut process, 15 * RATE_PER_S);
    run.end(process, true);
}

#[test]
fn servers_and_starts_that_fail_lose_and_double_nothing() {
    let (seed, kills) = asked();
    run(Servers::private(), seed, &schedule::mixed(seed, kills));
}
