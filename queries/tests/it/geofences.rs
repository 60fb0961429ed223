//! `geofence_events()` against its definition, read out plainly over all fences, on any number of workers: vehicles that wander
//! in and out, positions that come late or too late, fences that come, change, move to another company and go. Catches: a fence
//! that the index misses, an event that is not taken back when a late position changes it, a fence that is asked as it stood
//! at another time, a vehicle that stays in a fence that is gone, and an event that outlives its retention.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use operators::geofences::{At, Point, Shape};
use operators::row::{Codec, Diff};
use operators::time::Tick;
use queries::plan::{Columns, Inputs, Kind, Node, Times, bounded, lower, plan_sql};

use crate::generate::Random;
use crate::harness::{Changing, run, texts, ticks, with_quiet_ticks};

const WORKERS: [usize; 3] = [1, 2, 4];
const RETENTION_MS: i64 = 200;
const LATE_MS: i64 = 60;
const DWELL_MS: i64 = 25;
const MARGIN_M: f64 = 30.0;
const COMPANIES: [&str; 2] = ["c1", "c2"];

/// A position of a vehicle, when it arrived, and whose the vehicle was then.
#[derive(Clone, Debug)]
struct Arrived {
    tick: Tick,
    vehicle: Option<&'static str>,
    company: Option<&'static str>,
    at: At,
}

/// A row of the table of fences.
#[derive(Clone, Debug, PartialEq)]
struct Fence {
    company: Option<&'static str>,
    id: String,
    name: String,
    kind: &'static str,
    shape: String,
    radius_m: Option<f64>,
}

/// A fence comes or goes.
type Change = (Tick, Fence, Diff);

/// Three vehicles that wander about one place; some positions arrive late, some too late, some are of no vehicle.
fn drives(random: &mut Random) -> Vec<Arrived> {
    let mut all = Vec::new();
    for (number, vehicle) in [Some("v1"), Some("v2"), Some("v3"), None].into_iter().enumerate() {
        let (mut ts, mut lat, mut lon) = (1_000, 50.0, 8.0);
        let mut company = Some(COMPANIES[number % 2]);
        for seq in 0..60 {
            ts += random.below(8) as i64;
            let step = |random: &mut Random| (random.below(401) as f64 - 200.0) / 111_195.0;
            // It is drawn back to the middle, so that it comes by again.
            (lat, lon) = (lat + step(random) - (lat - 50.0) / 8.0, lon + step(random) - (lon - 8.0) / 8.0);
            if random.chance(4) {
                company = *random.of(&[Some("c1"), Some("c2"), None]);
            }
            let late = if random.chance(25) { random.below(90) } else { random.below(5) };
            let tick = (ts as u64 + late as u64).next_multiple_of(10);
            all.push(Arrived { tick, vehicle, company, at: At { ts, seq: seq % 7, lat, lon } });
            if random.chance(5) {
                // The same a second time, a little later.
                all.push(Arrived { tick: tick + 10, ..all[all.len() - 1].clone() });
            }
        }
    }
    all.sort_by_key(|arrived| arrived.tick);
    all
}

fn shape(random: &mut Random) -> (&'static str, String, Option<f64>) {
    let mut near = |size: usize| {
        let degrees = |random: &mut Random| (random.below(2 * size + 1) as f64 - size as f64) / 111_195.0;
        (8.0 + degrees(random), 50.0 + degrees(random))
    };
    let (a, b, c) = (near(400), near(400), near(400));
    match random.below(10) {
        0..4 => ("circle", format!("POINT ({} {})", a.0, a.1), Some(50.0 + random.below(300) as f64)),
        4..7 => {
            let ring = format!("{} {}, {} {}, {} {}, {} {}", a.0, a.1, b.0, b.1, c.0, c.1, a.0, a.1);
            ("polygon", format!("POLYGON (({ring}))"), None)
        }
        7..9 => ("corridor", format!("LINESTRING ({} {}, {} {})", a.0, a.1, b.0, b.1), Some(60.0)),
        // Of no use: it has no radius, or is not to be read.
        _ => ("circle", (*random.of(&["POINT (8 50)", "POINT (8 500)"])).to_owned(), None),
    }
}

/// Fences that come, change and go while the vehicles drive.
fn fences(random: &mut Random) -> Vec<Change> {
    let mut now: BTreeMap<String, Fence> = BTreeMap::new();
    let mut changes = Vec::new();
    let mut tick = 900;
    while tick < 1_300 {
        let id = format!("f{}", random.below(6));
        let old = now.remove(&id);
        changes.extend(old.clone().map(|fence| (tick, fence, -1)));
        let (kind, text, radius_m) = shape(random);
        let company = if random.chance(4) { None } else { Some(*random.of(&COMPANIES)) };
        let name = format!("{id} since {tick}");
        let new = match old {
            // Another name, or another shape; else it is gone.
            Some(old) if random.chance(35) => Some(Fence { name, ..old }),
            Some(old) if random.chance(50) => Some(Fence { kind, shape: text, radius_m, ..old }),
            Some(_) => None,
            None => Some(Fence { company, id: id.clone(), name, kind, shape: text, radius_m }),
        };
        if let Some(fence) = new {
            changes.push((tick, fence.clone(), 1));
            now.insert(id, fence);
        }
        tick += if tick < 1_000 { 10 } else { 10 * random.below(4) as Tick };
    }
    changes
}

fn time() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

fn schema(fields: &[(&str, DataType)]) -> SchemaRef {
    let field = |(name, kind): &(&str, DataType)| Field::new(*name, kind.clone(), true);
    Arc::new(Schema::new(fields.iter().map(field).collect::<Vec<_>>()))
}

fn as_events(drives: &[Arrived]) -> Changing {
    let (text, float) = (DataType::Utf8View, DataType::Float64);
    let schema = schema(&[
        ("vehicle_id", text.clone()),
        ("company_id", text),
        ("ts", time()),
        ("seq", DataType::Int64),
        ("lat", float.clone()),
        ("lon", float),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(drives.iter().map(|one| one.vehicle).collect::<StringViewArray>()),
        Arc::new(drives.iter().map(|one| one.company).collect::<StringViewArray>()),
        Arc::new(TimestampMillisecondArray::from_iter_values(drives.iter().map(|one| one.at.ts))),
        Arc::new(Int64Array::from_iter_values(drives.iter().map(|one| one.at.seq))),
        Arc::new(Float64Array::from_iter_values(drives.iter().map(|one| one.at.lat))),
        Arc::new(Float64Array::from_iter_values(drives.iter().map(|one| one.at.lon))),
    ];
    let rows = Codec::new(schema.clone()).and_then(|codec| codec.encode(&columns, drives.len())).expect("the columns");
    let changes = drives.iter().zip(rows).map(|(one, row)| (one.tick, row, 1)).collect();
    Changing { name: "telemetry_enriched".to_owned(), schema, changes }
}

fn as_table(fences: &[Change]) -> Changing {
    let text = DataType::Utf8View;
    let texts = ["fence_id", "company_id", "name", "kind", "shape"].map(|name| (name, text.clone()));
    let fields: Vec<(&str, DataType)> = texts.into_iter().chain([("radius_m", DataType::Float64)]).collect();
    let schema = schema(&fields);
    let of = |value: fn(&Fence) -> Option<&str>| -> ArrayRef {
        Arc::new(fences.iter().map(|(_, fence, _)| value(fence)).collect::<StringViewArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        of(|fence| Some(&fence.id)),
        of(|fence| fence.company),
        of(|fence| Some(&fence.name)),
        of(|fence| Some(fence.kind)),
        of(|fence| Some(&fence.shape)),
        Arc::new(fences.iter().map(|(_, fence, _)| fence.radius_m).collect::<Float64Array>()),
    ];
    let rows = Codec::new(schema.clone()).and_then(|codec| codec.encode(&columns, fences.len())).expect("the columns");
    let changes = fences.iter().zip(rows).map(|((tick, _, diff), row)| (*tick, row, *diff)).collect();
    Changing { name: "geofences".to_owned(), schema, changes }
}

/// A fence from when it can be used until it cannot, and as it stood in between.
struct Life {
    company: &'static str,
    id: String,
    until: Option<Tick>,
    stood: BTreeMap<Tick, (Fence, Shape)>,
}

impl Life {
    fn at(&self, tick: Tick) -> Option<&(Fence, Shape)> {
        let there = self.until.is_none_or(|until| tick < until);
        self.stood.range(..=tick).next_back().map(|(_, fence)| fence).filter(|_| there)
    }
}

/// The lives of all fences up to a tick. A change takes the old row away and brings the new one at one tick.
fn lives(changes: &[Change], upto: Tick) -> Vec<Life> {
    let mut all: Vec<Life> = Vec::new();
    let seen: BTreeSet<(Tick, String)> =
        changes.iter().filter(|(tick, ..)| *tick <= upto).map(|(tick, fence, _)| (*tick, fence.id.clone())).collect();
    for (tick, id) in seen {
        let mut rows: Vec<&Fence> = Vec::new();
        for (_, fence, diff) in changes.iter().filter(|(at, fence, _)| *at <= tick && fence.id == id) {
            match diff {
                1 => rows.push(fence),
                _ => drop(rows.remove(rows.iter().position(|row| *row == fence).expect("it was there"))),
            }
        }
        assert!(rows.len() <= 1, "one row of a fence");
        let usable = rows.first().and_then(|fence| {
            let shape = Shape::read(Some(fence.kind), Some(&fence.shape), fence.radius_m).ok()?;
            Some((fence.company?, (*fence).clone(), shape))
        });
        let company = usable.as_ref().map(|(company, ..)| *company);
        for life in all.iter_mut().filter(|life| life.id == id && life.until.is_none()) {
            life.until = (company != Some(life.company)).then_some(tick);
        }
        let Some((company, fence, shape)) = usable else { continue };
        match all.iter_mut().find(|life| life.id == id && life.until.is_none()) {
            Some(life) => drop(life.stood.insert(tick, (fence, shape))),
            None => all.push(Life { company, id, until: None, stood: BTreeMap::from([(tick, (fence, shape))]) }),
        }
    }
    all
}

/// Vehicle, company, fence, its name, what, when, number, since when, for how long, why.
type Told =
    (&'static str, &'static str, String, String, &'static str, i64, i64, i64, Option<f64>, Option<&'static str>);

/// The definition: each vehicle against each fence by itself.
fn found(drives: &[Arrived], changes: &[Change], tick: Tick) -> Vec<Told> {
    let mut all = Vec::new();
    for life in lives(changes, tick) {
        for vehicle in ["v1", "v2", "v3"] {
            let in_time = |one: &&Arrived| one.tick <= tick && one.at.ts + LATE_MS > one.tick as i64;
            let own = drives.iter().filter(in_time).filter(|one| one.vehicle == Some(vehicle));
            let mut own: Vec<&Arrived> = own.filter(|one| life.at(one.tick).is_some()).collect();
            own.sort_by_key(|one| (one.at.ts, one.at.seq, one.at.lat.to_bits(), one.at.lon.to_bits(), one.tick));
            let mut inside: Option<(i64, At, String, bool)> = None;
            let mut tell = |kind, at: At, name: &str, since: i64, why| {
                let lasted = (kind != "enter").then_some((at.ts - since) as f64 / 1_000.0);
                let name = name.to_owned();
                all.push((vehicle, life.company, life.id.clone(), name, kind, at.ts, at.seq, since, lasted, why));
            };
            for one in own {
                let (fence, shape) = life.at(one.tick).expect("it is there");
                let (at, place) = (one.at, Point { lat: one.at.lat, lon: one.at.lon });
                let says = shape.locate(place, MARGIN_M).filter(|_| one.company == Some(life.company));
                match (says, inside.take()) {
                    (None, Some((since, _, name, _))) => tell("leave", at, &name, since, None),
                    (Some(true), None) => {
                        tell("enter", at, &fence.name, at.ts, None);
                        inside = Some((at.ts, at, fence.name.clone(), false));
                    }
                    (Some(_), Some((since, _, _, dwelt))) => {
                        let dwells = at.ts - since >= DWELL_MS;
                        if dwells && !dwelt {
                            tell("dwell", at, &fence.name, since, None);
                        }
                        inside = Some((since, at, fence.name.clone(), dwelt || dwells));
                    }
                    (_, None) => {}
                }
            }
            if let (Some(until), Some((since, last, name, _))) = (life.until, inside) {
                let at = At { ts: last.ts.max(until as i64), ..last };
                tell("leave", at, &name, since, Some("fence removed"));
            }
        }
    }
    all.retain(|told| told.5 + RETENTION_MS > tick as i64);
    all
}

fn told(rows: &[Told]) -> Vec<String> {
    let text =
        |of: fn(&Told) -> Option<&str>| -> ArrayRef { Arc::new(rows.iter().map(of).collect::<StringViewArray>()) };
    let time = |of: fn(&Told) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(rows.iter().map(of)))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("vehicle", text(|row| Some(row.0))),
        ("company", text(|row| Some(row.1))),
        ("fence", text(|row| Some(&row.2))),
        ("name", text(|row| Some(&row.3))),
        ("kind", text(|row| Some(row.4))),
        ("ts", time(|row| row.5)),
        ("seq", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.6)))),
        ("since", time(|row| row.7)),
        ("lasted", Arc::new(rows.iter().map(|row| row.8).collect::<Float64Array>())),
        ("why", text(|row| row.9)),
    ];
    texts(&[RecordBatch::try_from_iter(columns).expect("columns of one length")])
}

fn planned(tables: &[Changing]) -> Arc<Node> {
    let kinds = [Kind::Events, Kind::Table];
    let with = |inputs: Inputs, (table, kind): (&Changing, Kind)| inputs.with(&table.name, table.schema.clone(), kind);
    let inputs = tables.iter().zip(kinds).fold(Inputs::default(), with);
    let sql = "SELECT vehicle_id, company_id, fence_id, fence_name, kind, ts, seq, entered_at, inside_s, reason FROM \
               geofence_events(dwell => interval '25 milliseconds', margin_m => 30, late => interval '60 milliseconds')";
    let node = plan_sql(&inputs, sql).and_then(|plan| lower(&plan, &inputs)).expect("a plan");
    let names = |_: &str| Columns::default();
    bounded(&node, Times { retention: Some(RETENTION_MS), ..Times::default() }, &names).expect("a bound")
}

#[test]
fn events_of_fences() {
    let (mut seen, mut kinds) = (0, BTreeMap::new());
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let (drives, fences) = (drives(&mut random), fences(&mut random));
        let tables = [as_events(&drives), as_table(&fences)];
        let plan = planned(&tables);
        let at = with_quiet_ticks(&ticks(&tables));
        let wanted: Vec<Vec<Told>> = at.iter().map(|tick| found(&drives, &fences, *tick)).collect();
        for row in wanted.iter().flatten() {
            *kinds.entry((row.4, row.9)).or_insert(0) += 1;
        }
        for workers in WORKERS {
            let output = run(&tables, std::slice::from_ref(&plan), workers).pop().expect("one plan");
            for (tick, wanted) in at.iter().zip(&wanted) {
                seen += wanted.len();
                assert_eq!(output.at(&plan, *tick), told(wanted), "seed {seed} at {tick}, {workers} workers");
            }
            assert!(output.at(&plan, *at.last().expect("ticks")).is_empty(), "everything leaves in the end");
            let taken_back = output.rows.iter().filter(|(_, _, diff)| *diff < 0).count();
            let came = output.rows.iter().filter(|(_, _, diff)| *diff > 0).count();
            assert_eq!(came, taken_back);
            check_faults(&output, &fences, &at, seed);
        }
    }
    println!("{seen} rows: {kinds:?}");
    assert!(kinds.len() == 4 && kinds.values().all(|count| *count > 100), "{kinds:?}");
}

/// A fence that is of no use is a fault while its row is there.
fn check_faults(output: &crate::harness::Output, fences: &[Change], at: &[Tick], seed: u64) {
    for tick in at {
        let mut wrong = 0;
        for (_, fence, diff) in fences.iter().filter(|(at, ..)| at <= tick) {
            let usable = Shape::read(Some(fence.kind), Some(&fence.shape), fence.radius_m).is_ok();
            wrong += if usable && fence.company.is_some() { 0 } else { *diff };
        }
        let told = output.faults_at(*tick);
        let told = told.iter().filter(|(fault, _)| fault.operator == "Geofences");
        let told: Diff =
            told.inspect(|(fault, _)| assert!(fault.message.starts_with("fence f"))).map(|(_, count)| count).sum();
        assert_eq!(told, wrong, "faults of seed {seed} at {tick}");
    }
}
