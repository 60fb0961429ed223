//! Functions in FROM over events that may be late, on any number of workers. Catches: a timer that is missed, a row that is
//! not taken back when a late position changes what was found, a vehicle that is looked at on two workers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use operators::journeys::{self, Fix, Found, Rules};
use operators::row::Codec;
use operators::time::Tick;

use crate::compare::{Restart, same_as};
use crate::generate::Random;
use crate::harness::{Changing, planned_over_events, run, texts, ticks, with_quiet_ticks};

const WORKERS: [usize; 3] = [1, 2, 4];
const RETENTION_MS: i64 = 60;
const RULES: Rules = Rules { speed_kmh: 5.0, radius_m: 100.0, lasting_ms: 12 };

/// A position of a vehicle, and when it arrived.
type Arrived = (Tick, Option<&'static str>, Fix);

/// Positions of three vehicles that drive and stand by turns; some arrive late, some too late, some are of no vehicle.
fn story(random: &mut Random) -> Vec<Arrived> {
    let mut all = Vec::new();
    for vehicle in [Some("v1"), Some("v2"), Some("v3"), None] {
        let (mut ts, mut lat, mut moving) = (1_000, 50.0, false);
        for seq in 0..40 {
            moving ^= random.chance(20);
            ts += random.below(9) as i64;
            lat += if moving { random.below(200) as f64 } else { random.below(30) as f64 } / 111_195.0;
            let speed = if moving { 5 + random.below(90) } else { random.below(5) } as f64;
            let late = if random.chance(30) { random.below(90) } else { random.below(5) };
            let tick = (ts as u64 + late as u64).next_multiple_of(10);
            let speed_kmh = (!random.chance(10)).then_some(speed);
            all.push((tick, vehicle, Fix { ts, seq, lat, lon: 8.0, speed_kmh }));
        }
    }
    all.sort_by_key(|(tick, ..)| *tick);
    all
}

/// The same as events.
fn events(story: &[Arrived]) -> Vec<Changing> {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    let schema = Arc::new(Schema::new(vec![
        Field::new("vehicle_id", DataType::Utf8View, true),
        Field::new("ts", time.clone(), true),
        Field::new("seq", DataType::Int64, true),
        float("lat"),
        float("lon"),
        float("speed_kmh"),
        Field::new("arrived_at", time, true),
    ]));
    let codec = Codec::new(schema.clone()).expect("types with a row format");
    let columns: Vec<ArrayRef> = vec![
        Arc::new(story.iter().map(|(_, vehicle, _)| *vehicle).collect::<StringViewArray>()),
        Arc::new(TimestampMillisecondArray::from_iter_values(story.iter().map(|(.., fix)| fix.ts))),
        Arc::new(Int64Array::from_iter_values(story.iter().map(|(.., fix)| fix.seq))),
        Arc::new(Float64Array::from_iter_values(story.iter().map(|(.., fix)| fix.lat))),
        Arc::new(Float64Array::from_iter_values(story.iter().map(|(.., fix)| fix.lon))),
        Arc::new(story.iter().map(|(.., fix)| fix.speed_kmh).collect::<Float64Array>()),
        Arc::new(TimestampMillisecondArray::from_iter_values(story.iter().map(|(tick, ..)| *tick as i64))),
    ];
    let rows = codec.encode(&columns, story.len()).expect("the columns");
    let changes = story.iter().zip(rows).map(|((tick, ..), row)| (*tick, row, 1)).collect();
    vec![Changing { name: "telemetry_enriched".to_owned(), schema, changes }]
}

/// What each vehicle did, of the positions that were in time at a tick.
fn found(story: &[Arrived], tick: Tick) -> BTreeMap<&'static str, Found> {
    let mut fixes: BTreeMap<&str, BTreeSet<Fix>> = BTreeMap::new();
    let in_time = |(at, _, fix): &&Arrived| *at <= tick && fix.ts + RETENTION_MS > *at as i64;
    for (_, vehicle, fix) in story.iter().filter(in_time) {
        if let Some(vehicle) = vehicle {
            fixes.entry(vehicle).or_default().insert(*fix);
        }
    }
    let of = |(vehicle, fixes): (&'static str, BTreeSet<Fix>)| {
        let mut found = journeys::of(&fixes, &RULES);
        found.stops.retain(|stop| stop.ended_at + RETENTION_MS > tick as i64);
        found.trips.retain(|trip| trip.to.ts + RETENTION_MS > tick as i64);
        (vehicle, found)
    };
    fixes.into_iter().map(of).collect()
}

type Told = (&'static str, i64, i64, f64, bool);

/// Vehicle, start, end, a number, and whether it is over, as text.
fn told(rows: &[Told]) -> Vec<String> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("vehicle", Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| row.0)))),
        ("start", Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ("end", Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.2)))),
        ("number", Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3)))),
        ("over", Arc::new(rows.iter().map(|row| Some(row.4)).collect::<BooleanArray>())),
    ];
    texts(&[RecordBatch::try_from_iter(columns).expect("columns of one length")])
}

#[track_caller]
fn check(sql: &str, rows: impl Fn(&'static str, &Found) -> Vec<Told>) {
    for seed in 0..6 {
        let story = story(&mut Random::new(seed));
        let tables = events(&story);
        let plan = planned_over_events(&tables, sql, RETENTION_MS).unwrap_or_else(|why| panic!("{why}"));
        let at = with_quiet_ticks(&ticks(&tables));
        let mut seen = 0;
        for workers in WORKERS {
            let output = run(&tables, std::slice::from_ref(&plan), workers).pop().expect("one plan");
            for tick in &at {
                let all: Vec<Told> =
                    found(&story, *tick).iter().flat_map(|(vehicle, found)| rows(vehicle, found)).collect();
                seen += all.len();
                assert_eq!(output.at(&plan, *tick), told(&all), "seed {seed} at {tick}, {workers} workers");
            }
        }
        assert!(seen > 100, "only {seen} rows");
    }
}

#[test]
fn stops_of_vehicles() {
    check(
        "SELECT vehicle_id, started_at, ended_at, CAST(fixes AS DOUBLE), finished FROM stops(lasting => interval '12 \
         milliseconds')",
        |vehicle, found| {
            let stops = found.stops.iter();
            stops.map(|stop| (vehicle, stop.first.ts, stop.ended_at, stop.fixes as f64, stop.over)).collect()
        },
    );
}

#[test]
fn trips_of_vehicles() {
    check(
        "SELECT vehicle_id, started_at, ended_at, distance_km, finished FROM trips(speed_kmh => 5, radius_m => 100.0, lasting => \
         interval '12 milliseconds')",
        |vehicle, found| {
            let trips = found.trips.iter();
            trips.map(|trip| (vehicle, trip.from.ts, trip.to.ts, trip.distance_m / 1_000.0, trip.over)).collect()
        },
    );
}

#[test]
fn elements_of_lists_of_events() {
    let sql = "SELECT vehicle_id, max(e) AS most, sum(e) AS sum, count(e) AS elements FROM (SELECT vehicle_id, unnest(CASE WHEN seq \
               > 9 THEN make_array(lat, speed_kmh) WHEN seq > 4 THEN make_array(ts::bigint::double) END) AS e FROM \
               telemetry_enriched) GROUP BY vehicle_id";
    for seed in 0..6 {
        let tables = events(&story(&mut Random::new(seed)));
        let plan = planned_over_events(&tables, sql, RETENTION_MS).unwrap_or_else(|why| panic!("{why}"));
        same_as(&tables, sql, &plan, sql, &WORKERS, Restart::Never)
            .unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
    }
}

#[test]
fn silence_of_vehicles() {
    let batch = "SELECT vehicle_id, max(arrived_at) AS since FROM telemetry_enriched WHERE vehicle_id IS NOT NULL GROUP BY \
                 vehicle_id HAVING max(arrived_at) + interval '20 milliseconds' <= now()";
    for seed in 0..6 {
        let tables = events(&story(&mut Random::new(seed)));
        let sql = "SELECT * FROM silence(lasting => interval '20 milliseconds')";
        let plan = planned_over_events(&tables, sql, RETENTION_MS).unwrap_or_else(|why| panic!("{why}"));
        same_as(&tables, sql, &plan, batch, &WORKERS, Restart::Never)
            .unwrap_or_else(|why| panic!("seed {seed}: {why:?}"));
    }
}
