//! Events that wait for the row that they met none of, against the batch join with the rows that were there when each met its
//! first.

use operators::row::Row;
use operators::time::Tick;
use queries::plan::Kind;

use super::play::play;
use super::{Events, ROUNDS, row, schema, table, tick, versions, versions_table, view};
use crate::generate::Random;
use crate::harness::{Changing, with_quiet_ticks};
use crate::oracle::Oracle;

const HORIZON_MS: Tick = 60;

/// The events, each with the tick as of which it meets the table: one before all times until there is one.
fn with_moments(events: &Events, table: &Changing, condition: fn(i64, i64) -> bool) -> (Changing, usize) {
    let schema = schema(&["id", "k", "ts", "x", "m"]);
    let rows: Vec<([i64; 2], Tick, Tick)> = versions(table).into_iter().map(decoded(table)).collect();
    let (mut changes, mut repaired) = (Vec::new(), 0);
    for ((arrived, ..), values) in events.changing.changes.iter().zip(&events.values) {
        let [id, key, time, number] = *values;
        let with = |moment: Tick| row(&schema, &[id, key, time, number, Some(moment as i64)]);
        let meets = |(columns, since, until): &([i64; 2], Tick, Tick)| {
            let fits = Some(columns[0]) == key && condition(number.unwrap_or_default(), columns[1]);
            let first = (*since).max(*arrived);
            (fits && first < *until && first < arrived + HORIZON_MS).then_some(first)
        };
        let first = rows.iter().filter_map(meets).min();
        changes.push((*arrived, with(first.filter(|first| first == arrived).unwrap_or(0)), 1));
        if let Some(first) = first.filter(|first| first > arrived) {
            repaired += 1;
            changes.push((first, with(0), -1));
            changes.push((first, with(first), 1));
        }
    }
    changes.sort_by_key(|(tick, ..)| *tick);
    (Changing { name: "e".to_owned(), schema, changes }, repaired)
}

fn decoded(table: &Changing) -> impl FnMut((Row, Tick, Tick)) -> ([i64; 2], Tick, Tick) {
    use datafusion::arrow::array::AsArray;
    use datafusion::arrow::datatypes::Int64Type;
    let codec = table.codec();
    move |(row, since, until)| {
        let batch = codec.decode([&row]).expect("a row of the table");
        ([0, 1].map(|column| batch.column(column).as_primitive::<Int64Type>().value(0)), since, until)
    }
}

/// `on` is what the view joins by, between `select` and `rest`; `condition` says the same of numbers.
#[track_caller]
fn check(options: &str, select: &str, on: &str, rest: &str, condition: fn(i64, i64) -> bool) {
    let mut all = 0;
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let e = Events::new(&mut random, "e", &["id", "k", "ts", "x"]);
        let v = table(&mut random, "v", 4);
        let inputs = [(&e.changing, Kind::Events), (&v, Kind::Table)];
        let options = format!("WITH (correct_for = '{HORIZON_MS} ms'{options})");
        let view = view(&inputs, &format!("CREATE MATERIALIZED VIEW p {options} AS {select} {on} {rest}"));
        assert_eq!(view.relation.kind, Kind::Table);
        let changes: Vec<_> = (0..ROUNDS).map(tick).collect();
        let at = with_quiet_ticks(&changes);
        let at: Vec<_> = at.into_iter().filter(|at| *at < tick(ROUNDS)).collect();
        let (moments, repaired) = with_moments(&e, &v, condition);
        let batch = format!("{select} {on} AND v.since <= e.m AND e.m < v.until {rest}");
        let wanted = Oracle::new(&[moments, versions_table(&v)]).answers(&batch, &at).expect("an answer");
        for (workers, rounds) in [(1, 1), (1, 3), (2, 1), (4, 3)] {
            let output = play(&inputs, &view.node, workers, rounds);
            assert_eq!(output.faults_at(tick(ROUNDS)), []);
            for (tick, wanted) in at.iter().zip(&wanted) {
                let found = output.at(&view.node, *tick);
                assert_eq!(found, *wanted, "at {tick}, seed {seed}, {workers} workers, {rounds} at once\n{batch}");
            }
        }
        all += repaired;
    }
    assert!(all > 10, "{all} events are repaired: {select}");
}

/// A bound in time of the view, so that it does not hold every event for ever; it is longer than the test.
const BOUND: &str = "ts > now() - interval '1 day'";

#[test]
fn events_before_their_row_are_repaired() {
    let rest = format!("WHERE e.{BOUND}");
    check("", "SELECT e.id, e.x, v.n FROM e LEFT JOIN v", "ON e.k = v.k", &rest, |_, _| true);
    check("", "SELECT e.id, e.x, v.n FROM e JOIN v", "ON e.k = v.k", &rest, |_, _| true);
    check("", "SELECT e.id, e.x, v.n FROM v RIGHT JOIN e", "ON e.k = v.k AND e.x < v.n", &rest, |x, n| x < n);
}

#[test]
fn what_is_made_of_them_is_repaired_too() {
    check(
        ", retention = '1 day'",
        "SELECT date_bin(interval '50 ms', e.ts) AS w, count(*) AS n, count(v.n) AS met, sum(v.n) AS s, max(v.n) AS top FROM e \
         LEFT JOIN v",
        "ON e.k = v.k",
        "GROUP BY 1",
        |_, _| true,
    );
    check("", "SELECT count(*) AS n, sum(v.n) AS s FROM e JOIN v", "ON e.k = v.k", "WHERE e.x + v.n > 5", |_, _| true);
}
