//! The large run: simulated events with late, repeated and broken ones among them go to Kafka, and the program takes them from
//! there to ClickHouse, Redis and the dead letters. What has come out must equal what the generator says it made, and the same
//! log must give the same history with any number of workers.
//!
//! ```text
//! cargo bench -p pipeline --bench ten_million                      ten million events of ten thousand vehicles
//! cargo bench -p pipeline --bench ten_million -- --events 200000 --vehicles 2000
//! ```
//!
//! It starts its own servers, prints all figures and the differences, and exits with 1 if there is any.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has to end")]

mod dead_letters;
mod figures;
mod replay;
mod topics;

/// The servers and the program's start, of the integration tests.
#[path = "../../tests/it"]
#[allow(dead_code, reason = "the tests use the rest")]
mod it {
    pub mod program;
    pub mod services;
}

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use figures::Figures;
use replay::Replay;
use topics::Topics;

/// Workers of the runs: the first is the one that is measured against the generator, all are compared with each other.
const WORKERS: [u32; 3] = [2, 1, 4];

/// How much is simulated.
struct Scale {
    events: u64,
    vehicles: u64,
    seed: u64,
}

impl Scale {
    /// Reads the command line.
    fn asked() -> Result<Self, String> {
        let mut scale = Self { events: 10_000_000, vehicles: 10_000, seed: 42 };
        let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(name) = given.next() {
            let place = match name.as_str() {
                "--events" => &mut scale.events,
                "--vehicles" => &mut scale.vehicles,
                "--seed" => &mut scale.seed,
                _ => return Err(format!("{name} is not known: [--events N] [--vehicles N] [--seed N]")),
            };
            let value = given.next().unwrap_or_default();
            *place = value.parse().map_err(|_| format!("{name} \"{value}\" is not a whole number"))?;
        }
        Ok(scale)
    }
}

fn main() -> ExitCode {
    let scale = match Scale::asked() {
        Ok(scale) => scale,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    let topics = Topics::new();
    let begin = Instant::now();
    let made = topics.simulate(&scale);
    let records = topics.records();
    let seconds = begin.elapsed().as_secs_f64();
    println!("made: {made:#}");
    println!("in the log: {records} messages after {seconds:.1} s, {:.0}/s\n", records as f64 / seconds);

    let mut runs: Vec<(u32, Figures)> = Vec::new();
    for workers in WORKERS {
        let figures = Replay::new(&topics, workers).run();
        eprintln!("{workers} workers: done");
        runs.push((workers, figures));
    }
    print_table(&runs);
    let mut differences = runs[0].1.differ_from(&figures::of_generator(&made), "the generator's");
    for (workers, figures) in &runs[1..] {
        let first = runs[0].1.results();
        differences.extend(figures.differ_from(&first, &format!("{workers} workers against {}:", runs[0].0)));
    }
    if differences.is_empty() {
        println!("\nno difference");
        return ExitCode::SUCCESS;
    }
    println!("\n{} differences:\n{}", differences.len(), differences.join("\n"));
    ExitCode::FAILURE
}

fn print_table(runs: &[(u32, Figures)]) {
    let names: BTreeMap<&String, ()> = runs.iter().flat_map(|(_, figures)| figures.names()).map(|n| (n, ())).collect();
    print!("{:<36}", "workers");
    runs.iter().for_each(|(workers, _)| print!("{workers:>22}"));
    println!();
    for name in names.keys() {
        print!("{name:<36}");
        runs.iter().for_each(|(_, figures)| print!("{:>22}", figures.shown(name)));
        println!();
    }
}
