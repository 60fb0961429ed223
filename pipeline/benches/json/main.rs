//! From JSON bytes in memory to every output of the main job, on one worker's thread: decoding, all operators, and the handing
//! over to sinks that drop what they get. Prints events a second of that thread's core time, and of decoding alone.
//!
//! `cargo bench -p pipeline --bench json [-- vehicles=100000 events=3000000]`

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on has to end")]

use std::fmt::Write;
use std::time::Instant;

use operators::counters::Counters;
use operators::durable::States;
use operators::record::Stream;
use operators::time::Tick;
use pipeline::config;
use pipeline::run::settings;
use pipeline::topology::{self, Inputs, Output, ROUTES};
use sinks::run::{Feed, Options, start};
use sinks::{Sink, SinkError, Step};
use sources::codec::{Decoder, Record};
use timely::dataflow::ProbeHandle;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const START: Tick = 1_767_225_600_000;
const TICK_MS: Tick = 10;
const EVENTS_PER_TICK: u64 = 10_000;
const PARTITIONS: u64 = 4;
const COMPANIES: u64 = 1_000;
/// Share of the ticks that only warms up.
const WARM: f64 = 0.3;

/// A sink that drops every row.
struct Dropping;

impl Sink for Dropping {
    fn name(&self) -> &'static str {
        "dropping"
    }
    async fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }
    async fn apply(&mut self, _: &Step) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Values and where each begins, of one tick and partition.
#[derive(Default)]
struct Values {
    keys: Vec<String>,
    bytes: String,
    ends: Vec<usize>,
}

impl Values {
    fn push(&mut self, key: String, write: impl FnOnce(&mut String)) {
        self.keys.push(key);
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    fn decode(&self, decoder: &mut Decoder, offset: &mut i64, tick: Tick) {
        let mut start = 0;
        for (key, &end) in self.keys.iter().zip(&self.ends) {
            let value = Some(&self.bytes.as_bytes()[start..end]);
            let record = Record { offset: *offset, append_ms: tick as i64, key: Some(key.as_bytes()), value };
            decoder.push(&record, tick).unwrap();
            (start, *offset) = (end, *offset + 1);
        }
    }
}

/// A small fixed random sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn main() {
    let number = |name: &str, default: u64| {
        let given = std::env::args().find_map(|argument| argument.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        given.unwrap_or(default)
    };
    let (vehicles, events) = (number("vehicles", 100_000), number("events", 3_000_000));
    let ticks: Vec<Vec<Values>> = telemetry(vehicles, events / EVENTS_PER_TICK);
    let bytes: usize = ticks.iter().flatten().map(|values| values.bytes.len()).sum();
    println!("{events} events of {} bytes on average, {vehicles} vehicles", bytes as u64 / events);
    decode_alone(&ticks);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let (tell, _refused) = tokio::sync::mpsc::channel(1);
    let sink = |conflated: bool, streams: &[&str]| {
        let (feed, running): (Feed, _) = start(Dropping, feeding(), topology::routes(streams), 1, 0, tell.clone());
        std::mem::forget(running);
        Output { feed, conflated }
    };
    let all = ROUTES.map(|route| route.stream);
    let outputs = vec![sink(false, &all), sink(true, &["vehicle_state"])];
    timely::execute_directly(move |worker| {
        let options = settings::job(&config::load(None, Vec::new()).unwrap().config).topology;
        let counters = Counters::default();
        let (mut inputs, probes) = topology::build(worker, options, &outputs, &counters, None, &States::default());
        run(worker, &mut inputs, &probes.handed_over, vehicles, &ticks);
    });
}

fn feeding() -> Options {
    Options {
        rows_max: 200_000,
        bytes_max: 64 << 20,
        flush_ms: 0,
        conflate_rows_max: 1_000_000,
        queue_bytes_max: 1 << 30,
        retry_ms_min: 100,
        retry_ms_max: 10_000,
        apply_ms_max: 60_000,
    }
}

fn telemetry(vehicles: u64, ticks: u64) -> Vec<Vec<Values>> {
    let mut dice = Dice(42);
    let tick = |number: u64| {
        let mut partitions: Vec<Values> = (0..PARTITIONS).map(|_| Values::default()).collect();
        for event in 0..EVENTS_PER_TICK {
            let device = dice.below(vehicles);
            // One in twenty is late.
            let late = if dice.below(20) == 0 { dice.below(30_000) } else { 0 };
            let (ts, seq) = (START + number * TICK_MS - late, number * EVENTS_PER_TICK + event);
            let values = &mut partitions[(device % PARTITIONS) as usize];
            let (lat, lon) = (45.0 + dice.below(10_000_000) as f64 / 1e6, 5.0 + dice.below(10_000_000) as f64 / 1e6);
            let (speed, heading, fuel) = (dice.below(1_300), dice.below(3_600), dice.below(1_000));
            let (temperature, odometer, satellites) = (dice.below(400), dice.below(3_000_000), dice.below(12));
            values.push(format!("d{device:07}"), |text| {
                write!(
                    text,
                    r#"{{"device_id":"d{device:07}","ts":{ts},"seq":{seq},"lat":{lat:.6},"lon":{lon:.6},"speed_kmh":{}.{},"heading_deg":{}.{},"fuel_level_pct":{}.{},"engine_temp_c":{}.{},"odometer_km":{}.{},"ignition":true,"satellites":{satellites}}}"#,
                    speed / 10, speed % 10, heading / 10, heading % 10, fuel / 10, fuel % 10, temperature / 10,
                    temperature % 10, odometer / 10, odometer % 10,
                )
                .unwrap();
            });
        }
        partitions
    };
    (0..ticks).map(tick).collect()
}

fn decoders() -> Vec<Decoder> {
    let decoder = |partition| Decoder::new(Stream::Telemetry, Stream::Telemetry.topic().into(), partition as i32);
    (0..PARTITIONS).map(decoder).collect()
}

fn decode_alone(ticks: &[Vec<Values>]) {
    let (mut decoders, mut offset) = (decoders(), 0);
    let (clock, mut rows) = (Clock::start(), 0);
    for (number, partitions) in ticks.iter().enumerate() {
        for (values, decoder) in partitions.iter().zip(&mut decoders) {
            values.decode(decoder, &mut offset, START + number as Tick * TICK_MS);
            rows += std::hint::black_box(decoder.finish()).rows.map_or(0, |rows| rows.num_rows());
        }
    }
    clock.print("JSON to record batches", rows);
}

fn run(
    worker: &mut timely::worker::Worker,
    inputs: &mut Inputs,
    probe: &ProbeHandle<Tick>,
    vehicles: u64,
    ticks: &[Vec<Values>],
) {
    for stream in Stream::ALL {
        inputs.want(stream, Some(START - 10_000));
    }
    inputs.pass(Tick::MAX);
    references(inputs, vehicles);
    let advance = |inputs: &mut Inputs, upto: Tick| {
        Stream::ALL.iter().for_each(|stream| inputs.want(*stream, Some(upto)));
        inputs.pass(Tick::MAX);
    };
    advance(inputs, START);
    while probe.less_than(&(START - 1_000)) {
        worker.step();
    }
    let (mut decoders, mut offset) = (decoders(), 0);
    let mut driver = Decoder::new(Stream::Driver, Stream::Driver.topic().into(), 0);
    let warm = (ticks.len() as f64 * WARM) as usize;
    let (mut clock, mut rows) = (Clock::start(), 0);
    for (number, partitions) in ticks.iter().enumerate() {
        if number == warm {
            (clock, rows) = (Clock::start(), 0);
        }
        let tick = START + number as Tick * TICK_MS;
        for (values, decoder) in partitions.iter().zip(&mut decoders) {
            values.decode(decoder, &mut offset, tick);
            let batch = decoder.finish().rows.unwrap();
            rows += batch.num_rows();
            inputs.send(Stream::Telemetry, batch);
        }
        let renamed = number as u64 * 7 % vehicles;
        let value = format!(r#"{{"driver_id":"r{renamed:07}","name":"Driver {number}","phone":"+49170{renamed:07}"}}"#);
        reference(inputs, &mut driver, &format!("r{renamed:07}"), &value, tick);
        advance(inputs, tick + TICK_MS);
        worker.step();
    }
    while worker.step() && probe.less_than(&(START + (ticks.len() as Tick - 1) * TICK_MS - 2_000)) {}
    clock.print("JSON to all outputs", rows);
}

fn references(inputs: &mut Inputs, vehicles: u64) {
    let at = START - 5_000;
    let decoder = |stream: Stream| Decoder::new(stream, stream.topic().into(), 0);
    let (mut companies, mut drivers, mut cars) =
        (decoder(Stream::Company), decoder(Stream::Driver), decoder(Stream::Vehicle));
    let mut tariffs = decoder(Stream::Tariff);
    reference(inputs, &mut tariffs, "t1", r#"{"tariff_id":"t1","name":"Standard"}"#, at);
    for company in 0..COMPANIES {
        let (key, name) = (format!("c{company:04}"), format!("Company {company} GmbH"));
        let value = format!(r#"{{"company_id":"{key}","name":"{name}","tariff_id":"t1"}}"#);
        reference(inputs, &mut companies, &key, &value, at);
    }
    for number in 0..vehicles {
        let key = format!("r{number:07}");
        let value = format!(r#"{{"driver_id":"{key}","name":"Driver Number {number}","phone":"+49170{number:07}"}}"#);
        push(&mut drivers, &key, &value, at);
        let (key, company) = (format!("v{number:07}"), number % COMPANIES);
        let value = format!(
            r#"{{"vehicle_id":"{key}","device_id":"d{number:07}","plate":"FL-{number}","model":"Model {}","company_id":"c{company:04}","driver_id":"r{number:07}"}}"#,
            number % 37
        );
        push(&mut cars, &key, &value, at);
    }
    inputs.send(Stream::Driver, drivers.finish().rows.unwrap());
    inputs.send(Stream::Vehicle, cars.finish().rows.unwrap());
}

fn push(decoder: &mut Decoder, key: &str, value: &str, at: Tick) {
    let (key, value) = (Some(key.as_bytes()), Some(value.as_bytes()));
    decoder.push(&Record { offset: 0, append_ms: at as i64, key, value }, at).unwrap();
}

fn reference(inputs: &mut Inputs, decoder: &mut Decoder, key: &str, value: &str, at: Tick) {
    let stream = if key.starts_with('r') {
        Stream::Driver
    } else if key.starts_with('c') {
        Stream::Company
    } else {
        Stream::Tariff
    };
    push(decoder, key, value, at);
    inputs.send(stream, decoder.finish().rows.unwrap());
}

/// Core time of the calling thread.
struct Clock {
    wall: Instant,
    cpu_s: f64,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu_s: Self::thread_cpu_s() }
    }

    fn thread_cpu_s() -> f64 {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        stat.split_whitespace().next().unwrap().parse::<f64>().unwrap() / 1e9
    }

    fn print(&self, what: &str, rows: usize) {
        let (cpu_s, wall_s) = (Self::thread_cpu_s() - self.cpu_s, self.wall.elapsed().as_secs_f64());
        let (per_core, per_second) = (rows as f64 / cpu_s / 1e6, rows as f64 / wall_s / 1e6);
        println!("{what:<24} {per_core:5.2} M events a second of core time, {per_second:5.2} M/s by the clock");
    }
}
