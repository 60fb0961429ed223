//! Speed and memory of the main job's operators beside a hand-written loop over the same decoded batches, in one run: 100,000
//! vehicles, one event in twenty late, a changed reference each tick, every output. Prints ratios; both sides' row counts have
//! to be equal.
//!
//! `cargo bench -p operators --bench main_job [-- compare|alone|memory|load] [vehicles=N] [ticks=N] [passes=N]`
#![allow(missing_docs, reason = "a program, not an interface")]
#![allow(dead_code, reason = "the hand-written loop makes rows that nobody reads")]

mod alone;
mod drive;
mod fleet;
mod hand_written;
mod machine;
mod options;

use std::ops::AddAssign;

use fleet::Fleet;
use machine::{Clock, resident_bytes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How large a run is.
#[derive(Clone, Copy)]
pub struct Shape {
    pub vehicles: u64,
    pub events_per_tick: u64,
    /// Ticks of a pass.
    pub ticks: usize,
    pub passes: usize,
}

/// One measured pass.
pub struct Pass {
    pub events: u64,
    pub cpu_s: f64,
    pub wall_s: f64,
    pub resident_bytes: u64,
}

/// Rows of output since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub links: u64,
    pub enriched: u64,
    pub states: u64,
    pub conflated: u64,
    pub minutes: u64,
    pub happened: u64,
    pub duplicates: u64,
}

impl Totals {
    pub fn add(&mut self, stream: &str, rows: u64) {
        match stream {
            "links" => self.links += rows,
            "enriched" => self.enriched += rows,
            "states" => self.states += rows,
            "conflated" => self.conflated += rows,
            "minutes" => self.minutes += rows,
            "happened" => self.happened += rows,
            _ => {}
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Self) {
        self.links += other.links;
        self.enriched += other.enriched;
        self.states += other.states;
        self.conflated += other.conflated;
        self.minutes += other.minutes;
        self.happened += other.happened;
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str, default: u64| {
        let given = arguments.iter().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('='));
        given.map_or(default, |text| text.parse().expect("a number"))
    };
    let wanted = |part: &str| arguments.iter().any(|argument| argument == part);
    let everything = !["compare", "alone", "memory", "load"].iter().any(|part| wanted(part));
    let vehicles = number("vehicles", 100_000);
    let (ticks, passes) = (number("ticks", 50) as usize, number("passes", 8) as usize);
    if everything || wanted("compare") {
        compare(Shape { vehicles, events_per_tick: 10_000, ticks, passes });
        compare(Shape { vehicles, events_per_tick: 300, ticks: ticks * 10, passes });
    }
    if everything || wanted("alone") {
        for events_per_tick in [10_000, 300] {
            let ticks = if events_per_tick == 300 { ticks * 10 } else { ticks };
            println!("each operator alone, {vehicles} vehicles, {events_per_tick} events a tick:");
            alone::all(Shape { vehicles, events_per_tick, ticks: ticks * 2, passes: 1 });
        }
    }
    if wanted("memory") {
        memory(Shape { vehicles, events_per_tick: 10_000, ticks: 10, passes: number("passes", 100) as usize });
    } else if everything {
        // Of a process of its own each, so that nothing before counts.
        for vehicles in [100_000, 1_000_000] {
            let program = std::env::current_exe().expect("this program has a path");
            let status = std::process::Command::new(program).args(["memory", &format!("vehicles={vehicles}")]).status();
            assert!(status.expect("this program can be started").success(), "measuring memory");
        }
    }
    if everything || wanted("load") {
        load(number("references", 1_000_000));
    }
}

/// Events a second of one core (median of the passes, the first left out).
fn rate(passes: &[Pass]) -> f64 {
    let mut rates: Vec<f64> = passes[1..].iter().map(|pass| pass.events as f64 / pass.cpu_s).collect();
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn compare(shape: Shape) {
    let Shape { vehicles, events_per_tick, .. } = shape;
    let (hand, totals) = hand_written(shape);
    let one = drive::run(1, shape, false);
    let two = drive::run(2, shape, false);
    for (workers, run) in [(1, &one), (2, &two)] {
        let expected = Totals { duplicates: 0, ..totals };
        assert_eq!(run.totals, expected, "rows of {workers} workers beside those of the hand-written loop");
    }
    let (hand, one_rate, two_rate) = (rate(&hand), rate(&one.passes), rate(&two.passes));
    println!("{vehicles} vehicles, {events_per_tick} events a tick, all outputs, M events a second of core time:");
    println!("  hand-written loop  {:6.2}", hand / 1e6);
    println!("  one worker         {:6.2}   {:3.0} % of the loop (goal 25)", one_rate / 1e6, 100.0 * one_rate / hand);
    println!("  two workers        {:6.2}   {:4.2} x one worker (goal 1.6)", two_rate / 1e6, two_rate / one_rate);
    println!("  rows: {totals:?}");
}

fn hand_written(shape: Shape) -> (Vec<Pass>, Totals) {
    let mut fleet = Fleet::new(shape.vehicles, shape.events_per_tick);
    let mut all = hand_written::Loop::default();
    for (topic, rows) in fleet.references() {
        all.references(topic, &rows);
    }
    all.end(fleet::START);
    let mut passes = Vec::new();
    for _ in 0..shape.passes {
        let input = fleet.next(shape.ticks);
        let clock = Clock::start();
        let mut events = 0;
        for tick in input {
            events += tick.telemetry.iter().map(|rows| rows.num_rows() as u64).sum::<u64>();
            all.tick(&tick);
        }
        passes.push(Pass { events, cpu_s: clock.cpu_s(), wall_s: clock.wall_s(), resident_bytes: resident_bytes() });
    }
    (passes, all.totals)
}

/// Resident memory with so many vehicles, and how it grows with events once every device has been heard of.
fn memory(shape: Shape) {
    let run = drive::run(1, shape, false);
    let settled = shape.passes / 2;
    let (first, last) = (&run.passes[settled], &run.passes[shape.passes - 1]);
    let events: u64 = run.passes[settled + 1..].iter().map(|pass| pass.events).sum();
    let growth = (last.resident_bytes as f64 - first.resident_bytes as f64) / events as f64;
    let megabytes = last.resident_bytes as f64 / 1e6;
    println!(
        "{} vehicles: {megabytes:.0} MB resident, {growth:.2} bytes more an event over {events} events",
        shape.vehicles
    );
}

/// Loading references in one tick, and a few in each of many.
fn load(references: u64) {
    let run = drive::run(1, Shape { vehicles: references, events_per_tick: 1, ticks: 1, passes: 1 }, false);
    println!("{references} vehicles and as many drivers loaded in one tick: {:.1} s", run.load_s);
}
