//! Events that meet a table as of their own time, against the batch join with the intervals in which its rows were there.

use queries::catalog::View;
use queries::plan::Kind;

use super::play::play;
use super::{Events, ROUNDS, row, schema, table, tick, versions_table, view};
use crate::generate::Random;
use crate::harness::Changing;
use crate::oracle::Oracle;

const HORIZON_MS: i64 = 80;

fn as_of(inputs: &[(&Changing, Kind)], select: &str) -> View {
    let options = format!("WITH (as_of = 'event time', horizon = '{HORIZON_MS} ms')");
    view(inputs, &format!("CREATE MATERIALIZED VIEW p {options} AS {select}"))
}

/// The events with the tick as of which each meets the table.
fn with_moments(events: &Events) -> Changing {
    let schema = schema(&["id", "k", "ts", "x", "m"]);
    let changes = events.changing.changes.iter().zip(&events.values).map(|((at, _, diff), values)| {
        let arrived = *at as i64;
        let moment = values[2].map_or(arrived, |time| time.max(arrived - HORIZON_MS).min(arrived));
        let [id, key, time, number] = *values;
        (*at, row(&schema, &[id, key, time, number, Some(moment)]), *diff)
    });
    Changing { name: "e".to_owned(), changes: changes.collect(), schema: schema.clone() }
}

/// `on` is what the view joins by, between `select` and `rest`.
#[track_caller]
fn check(select: &str, on: &str, rest: &str) {
    let mut other_than_now = 0;
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let e = Events::new(&mut random, "e", &["id", "k", "ts", "x"]);
        let v = table(&mut random, "v", 4);
        let inputs = [(&e.changing, Kind::Events), (&v, Kind::Table)];
        let view = as_of(&inputs, &format!("{select} {on} {rest}"));
        assert_eq!(view.relation.kind, Kind::Events);
        let at: Vec<_> = (0..ROUNDS).map(tick).collect();
        let batch = format!("{select} {on} AND v.since <= e.m AND e.m < v.until {rest}");
        let oracle = Oracle::new(&[with_moments(&e), versions_table(&v)]);
        let wanted = oracle.answers(&batch, &at).expect("an answer");
        for (workers, rounds) in [(1, 1), (1, 3), (2, 1), (4, 3)] {
            let output = play(&inputs, &view.node, workers, rounds);
            assert!(output.faults.is_empty());
            for (tick, wanted) in at.iter().zip(&wanted) {
                let found = output.at(&view.node, *tick);
                assert_eq!(found, *wanted, "at {tick}, seed {seed}, {workers} workers, {rounds} at once\n{batch}");
            }
        }
        let now = view_as_of_arrival(&inputs, &format!("{select} {on} {rest}"));
        let arrival = play(&inputs, &now.node, 1, 1).at(&now.node, tick(ROUNDS));
        other_than_now += arrival.iter().filter(|row| !wanted[wanted.len() - 1].contains(row)).count();
    }
    assert!(other_than_now > 10, "{other_than_now} rows differ from those as of arrival: {select}");
}

fn view_as_of_arrival(inputs: &[(&Changing, Kind)], select: &str) -> View {
    view(inputs, &format!("CREATE MATERIALIZED VIEW p AS {select}"))
}

#[test]
fn events_meet_what_was_there_at_their_time() {
    check("SELECT e.id, e.x, v.n FROM e JOIN v", "ON e.k = v.k", "");
    check("SELECT e.id, e.x, v.n FROM e LEFT JOIN v", "ON e.k = v.k AND e.x < v.n", "");
    check("SELECT e.id, v.n FROM v RIGHT JOIN e", "ON e.k = v.k", "WHERE e.x > 1");
}

#[test]
fn whether_there_was_any_is_asked_of_their_time_too() {
    let batch = |which: &str| format!("SELECT e.id FROM e WHERE {which} EXISTS (SELECT 1 FROM v");
    for which in ["", "NOT"] {
        check(&batch(which), "WHERE v.k = e.k", ")");
    }
}
