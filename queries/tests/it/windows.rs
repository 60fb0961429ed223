//! Hopping windows and sessions, over tables and over events that may be late, against the same written with joins and
//! window functions. Catches: a window that a row is missing from, a session that is not put together or cut in two when
//! rows come and go in between, a late event that is taken or one that is not, state that stays after its time.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use operators::row::Codec;

use crate::compare::{Restart, same_as};
use crate::generate::{Random, tables};
use crate::harness::{Changing, Output, planned, planned_over_events, run, ticks};

const WORKERS: [usize; 3] = [1, 2, 4];
/// Retention of all views of events here, in milliseconds.
const RETENTION_MS: i64 = 50;

/// Sessions of these rows with a gap of 6 milliseconds, by lag and a running sum: `{rows}` has id, f and ts.
const SESSIONS: &str = "SELECT id, min(ts) AS began, count(*), sum(f), max(ts), min(f), count(DISTINCT f) FROM (SELECT id, f, ts, sum(CASE \
     WHEN before IS NULL OR ts - before > interval '6 milliseconds' THEN 1 ELSE 0 END) OVER (PARTITION BY id ORDER BY ts) AS \
     n FROM (SELECT id, f, ts, lag(ts) OVER (PARTITION BY id ORDER BY ts) AS before FROM {rows} WHERE ts IS NOT NULL)) GROUP \
     BY id, n";

/// Windows of 30 milliseconds every 10: `{rows}` has id, f, ts and arrived.
const HOPS: &str = "SELECT id, w, count(*), sum(f) FROM (SELECT id, f, ts, arrived, date_bin(interval '10 milliseconds', ts) - \
     back AS w FROM {rows} CROSS JOIN (VALUES (interval '0 milliseconds'), (interval '10 milliseconds'), (interval '20 \
     milliseconds')) AS o(back)) WHERE ts < w + interval '30 milliseconds'";

#[track_caller]
fn check_tables(sql: &str, batch: &str) {
    for seed in 0..6 {
        let tables = tables(&mut Random::new(seed), 60);
        let plan = planned(&tables, sql).unwrap_or_else(|why| panic!("{why}"));
        if let Err(why) = same_as(&tables, sql, &plan, batch, &WORKERS, Restart::InTheMiddle) {
            panic!("seed {seed}: {why:?}");
        }
    }
}

/// Events `e` of four ids; some are late, some from long ago, some have no time.
fn events(random: &mut Random) -> Vec<Changing> {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("ts", time.clone(), true),
        Field::new("arrived", time, true),
    ]));
    let codec = Codec::new(schema.clone()).expect("types with a row format");
    let mut changes = Vec::new();
    for round in 0..24u64 {
        let tick = 1_000 + round * 10;
        for _ in 0..random.below(8) {
            let late = match random.below(10) {
                0..=5 => random.below(10),
                6..=8 => random.below(45),
                _ => random.below(120),
            };
            let ts = (!random.chance(5)).then_some(tick as i64 - late as i64);
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(vec![random.below(4) as i64])),
                Arc::new(Float64Array::from(vec![(!random.chance(10)).then(|| random.below(9) as f64 * 0.5)])),
                Arc::new(TimestampMillisecondArray::from(vec![ts])),
                Arc::new(TimestampMillisecondArray::from(vec![tick as i64])),
            ];
            let row = codec.encode(&columns, 1).expect("the columns").pop().expect("one row");
            changes.push((tick, row, 1));
        }
    }
    vec![Changing { name: "e".to_owned(), schema, changes }]
}

/// Compares a view of events at every tick, also after the last, when everything leaves.
#[track_caller]
fn check_events(sql: &str, batch: &str) {
    for seed in 0..8 {
        let tables = events(&mut Random::new(seed));
        let plan = planned_over_events(&tables, sql, RETENTION_MS).unwrap_or_else(|why| panic!("{why}"));
        if let Err(why) = same_as(&tables, sql, &plan, batch, &WORKERS, Restart::Never) {
            panic!("seed {seed}: {why:?}");
        }
    }
}

#[test]
fn hops_over_tables() {
    let batch = HOPS.replace("{rows}", "(SELECT a AS id, f, ts, ts AS arrived FROM t)");
    check_tables(
        "SELECT a, hop(ts, interval '10 milliseconds', interval '30 milliseconds') AS w, count(*), sum(f) FROM t GROUP BY 1, 2",
        &format!("{batch} GROUP BY id, w"),
    );
    check_tables(
        "SELECT a, f, hop(ts, interval '10 milliseconds', interval '25 milliseconds') AS w FROM t WHERE f > 1.0",
        &format!(
            "SELECT id, f, w FROM ({} AND ts < w + interval '25 milliseconds' AND f > 1.0) AS x",
            batch.replace("id, w, count(*), sum(f)", "id, f, w")
        ),
    );
}

#[test]
fn hops_over_events() {
    let batch = HOPS.replace("{rows}", "e");
    check_events(
        "SELECT id, hop(ts, interval '10 milliseconds', interval '30 milliseconds') AS w, count(*), sum(f) FROM e GROUP BY 1, 2",
        &format!(
            "{batch} AND w + interval '50 milliseconds' > arrived AND w + interval '50 milliseconds' > now() GROUP BY id, w"
        ),
    );
}

#[test]
fn sessions_over_tables() {
    check_tables(
        "SELECT a, session(ts, interval '6 milliseconds') AS began, count(*), sum(f), max(ts), min(f), count(DISTINCT f) FROM t \
         GROUP BY 1, 2",
        &SESSIONS.replace("{rows}", "(SELECT a AS id, f, ts FROM t)"),
    );
    check_tables(
        "SELECT count(*), session(ts, interval '2 milliseconds') AS began FROM t WHERE b GROUP BY session(ts, interval '2 \
         milliseconds') HAVING count(*) > 1",
        "SELECT count(*), min(ts) FROM (SELECT ts, sum(CASE WHEN before IS NULL OR ts - before > interval '2 milliseconds' THEN \
         1 ELSE 0 END) OVER (ORDER BY ts) AS n FROM (SELECT ts, lag(ts) OVER (ORDER BY ts) AS before FROM t WHERE b AND ts IS \
         NOT NULL)) GROUP BY n HAVING count(*) > 1",
    );
}

#[test]
fn sessions_over_events() {
    let batch = SESSIONS.replace(", count(DISTINCT f)", "");
    let taken = "(SELECT id, f, ts FROM e WHERE ts + interval '50 milliseconds' > arrived)";
    check_events(
        "SELECT id, session(ts, interval '6 milliseconds') AS began, count(*), sum(f), max(ts), min(f) FROM e GROUP BY 1, 2",
        &format!("{} HAVING max(ts) + interval '56 milliseconds' > now()", batch.replace("{rows}", taken)),
    );
}

/// How many late rows there are at the end.
fn late(output: &Output) -> i64 {
    let faults = output.faults_at(u64::MAX).into_iter();
    faults.filter(|(fault, _)| fault.operator == "Late").map(|(_, count)| count).sum()
}

#[test]
fn late_events_are_counted() {
    let tables = events(&mut Random::new(3));
    let sql = "SELECT id, session(ts, interval '6 milliseconds') AS began, count(*) FROM e GROUP BY 1, 2";
    let plan = planned_over_events(&tables, sql, RETENTION_MS).expect("a plan");
    let batch = tables[0].at(*ticks(&tables).last().expect("changes"));
    let (ts, arrived) = (batch.column(2).clone(), batch.column(3).clone());
    let milliseconds = |column: ArrayRef| {
        let column = column.as_any().downcast_ref::<TimestampMillisecondArray>().expect("times").clone();
        column.iter().collect::<Vec<_>>()
    };
    let pairs = milliseconds(ts).into_iter().zip(milliseconds(arrived));
    let wanted =
        pairs.filter_map(|(ts, arrived)| Some((ts?, arrived?))).filter(|(ts, arrived)| ts + RETENTION_MS <= *arrived);
    let wanted = wanted.count() as i64;
    assert!(wanted > 0, "nothing is late");
    for workers in WORKERS {
        let output = run(&tables, std::slice::from_ref(&plan), workers).pop().expect("one plan");
        assert_eq!(late(&output), wanted, "{workers} workers");
    }
}
