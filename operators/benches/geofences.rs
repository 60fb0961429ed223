//! What it costs to ask fences: `cargo bench -p operators --bench geofences`. Vehicles drive through a country of 800 by 800 km in which
//! there are 100, 10,000 and 100,000 fences of one company, or of a hundred; four in five lie within twenty cities.
//!
//! `ask` is the index and the shapes alone; `take` the whole way of a position through its vehicle, in order, and with one in
//! twenty that comes late.

use std::hint::black_box;
use std::time::Instant;

use operators::geofences::{At, Changes, Fences, Point, Position, Rules, Says, Shape, Vehicle};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const POSITIONS: usize = 1_000_000;
const VEHICLES: usize = 1_000;
const RULES: Rules = Rules { margin_m: 25.0, dwell_ms: 600_000, late_ms: 3_600_000, retention_ms: 86_400_000 };

/// Numbers that follow from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.below(1 << 30) as f64 / f64::from(1 << 30) * (most - least)
    }

    /// Four in five in a city of 20 km, the others anywhere.
    fn place(&mut self, cities: &[Point]) -> Point {
        let Point { lat, lon } = cities[self.below(cities.len())];
        match self.below(5) {
            0 => Point { lat: self.between(47.0, 54.0), lon: self.between(6.0, 17.0) },
            _ => Point { lat: lat + self.between(-0.09, 0.09), lon: lon + self.between(-0.14, 0.14) },
        }
    }
}

fn cities(random: &mut Random) -> Vec<Point> {
    (0..20).map(|_| Point { lat: random.between(47.5, 53.5), lon: random.between(6.5, 16.5) }).collect()
}

/// Circles of 50 to 500 m, polygons of 12 corners of that size, and corridors of 40 points along 10 km.
fn shape(random: &mut Random, cities: &[Point]) -> Shape {
    let Point { lat, lon } = random.place(cities);
    let metres = random.between(50.0, 500.0);
    let around = |turn: f64| {
        let (north, east) = (metres * turn.sin() / 111_195.0, metres * turn.cos() / 71_000.0);
        format!("{} {}", lon + east, lat + north)
    };
    let read = |kind, text: &str, radius_m| Shape::read(Some(kind), Some(text), radius_m).expect("a shape");
    match random.below(10) {
        0..6 => read("circle", &format!("POINT ({lon} {lat})"), Some(metres)),
        6..9 => {
            let ring: Vec<String> =
                (0..=12).map(|corner| around(f64::from(corner % 12) / 12.0 * std::f64::consts::TAU)).collect();
            read("polygon", &format!("POLYGON (({}))", ring.join(", ")), None)
        }
        _ => {
            let point = |at: i32| format!("{} {}", lon + f64::from(at) * 0.0035, lat + f64::from(at % 3) * 0.001);
            read("corridor", &format!("LINESTRING ({})", (0..40).map(point).collect::<Vec<_>>().join(", ")), Some(60.0))
        }
    }
}

fn filled(random: &mut Random, cities: &[Point], fences: usize, companies: usize) -> Fences {
    let mut all = Fences::new(RULES.margin_m);
    for number in 0..fences {
        let shape = shape(random, cities);
        all.put(1, &company(number % companies), &format!("f-{number}"), Some("a fence"), shape);
    }
    all
}

fn company(number: usize) -> String {
    format!("c-{number:05}")
}

/// Nanoseconds for each of the positions.
fn per_position(begun: Instant) -> f64 {
    begun.elapsed().as_nanos() as f64 / POSITIONS as f64
}

/// Positions of vehicles by turns, ten seconds and up to 250 m apart.
fn drives(random: &mut Random, cities: &[Point]) -> Vec<At> {
    let mut places: Vec<Point> = (0..VEHICLES).map(|_| random.place(cities)).collect();
    let positions = (0..POSITIONS).map(|number| {
        let place = &mut places[number % VEHICLES];
        place.lat += random.between(-0.002, 0.002);
        place.lon += random.between(-0.003, 0.003);
        let round = (number / VEHICLES) as i64;
        At { ts: 10_000_000 + round * 10_000, seq: round, lat: place.lat, lon: place.lon }
    });
    positions.collect()
}

fn take(fences: &Fences, drives: &[At], companies: &[String], late_pct: usize) -> (f64, usize, usize) {
    let mut random = Random(5);
    let mut vehicles: Vec<Vehicle> = (0..VEHICLES).map(|_| Vehicle::default()).collect();
    let (mut said, mut changes, mut events): (Vec<Says>, Changes, usize) = (Vec::new(), Changes::new(), 0);
    let begun = Instant::now();
    for (number, at) in drives.iter().enumerate() {
        let (mut at, arrived) = (*at, at.ts as u64 + 1_000);
        at.ts -= if random.below(100) < late_pct { random.below(600_000) as i64 } else { 0 };
        let company = &companies[number % VEHICLES % companies.len()];
        fences.ask(Some(company), Point { lat: at.lat, lon: at.lon }, &mut said).expect("not so many");
        let position = Position { at, arrived, says: said.drain(..).collect() };
        let vehicle = &mut vehicles[number % VEHICLES];
        vehicle.take(position, &RULES, &mut changes);
        vehicle.settle(&RULES, &mut changes);
        events += changes.len();
        changes.clear();
    }
    let spent = per_position(begun);
    (spent, events, vehicles.iter().map(Vehicle::bytes).sum::<usize>() / VEHICLES)
}

fn main() {
    let mut random = Random(0x9E37_79B9);
    let cities = cities(&mut random);
    let drives = drives(&mut random, &cities);
    println!("fences  companies | build, MB | ask: ns, hits | take: ns, events | 5 % late: ns | KB a vehicle");
    for (fences, companies) in [(100, 1), (10_000, 1), (10_000, 100), (100_000, 1), (100_000, 100)] {
        let begun = Instant::now();
        let all = filled(&mut random, &cities, fences, companies);
        let built = begun.elapsed();
        let names: Vec<String> = (0..companies).map(company).collect();
        let (mut said, mut hits) = (Vec::new(), 0);
        let begun = Instant::now();
        for (number, at) in drives.iter().enumerate() {
            let company = &names[number % VEHICLES % companies];
            all.ask(Some(company), Point { lat: at.lat, lon: at.lon }, &mut said).expect("not so many");
            hits += black_box(&said).len();
        }
        let ask = per_position(begun);
        let (in_order, events, bytes) = take(&all, &drives, &names, 0);
        let (late, ..) = take(&all, &drives, &names, 5);
        println!(
            "{fences:>7} {companies:>9} | {built:>7.1?} {:>5.1} | {ask:>6.0} {:>6.2} | {in_order:>6.0} {events:>8} | {late:>6.0} | {:>6.1}",
            all.bytes() as f64 / 1e6,
            hits as f64 / POSITIONS as f64,
            bytes as f64 / 1e3,
        );
    }
}
