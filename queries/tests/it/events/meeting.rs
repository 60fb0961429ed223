//! Events that meet events, against the batch answer over those that were not late.

use queries::plan::Kind;

use super::play::{late, play};
use super::{Events, ROUNDS, tick, view};
use crate::generate::Random;
use crate::oracle::Oracle;

const RETENTION_MS: i64 = 100;

/// The join, at every tick, on 1, 2 and 4 workers, in batches of one tick and of three.
#[track_caller]
fn check(select: &str) {
    let mut all = 0;
    for seed in 0..4 {
        let mut random = Random::new(seed);
        let l = Events::new(&mut random, "l", &["id", "k", "ts", "x"]);
        let r = Events::new(&mut random, "r", &["id", "k", "ts", "y"]);
        let inputs = [(&l.changing, Kind::Events), (&r.changing, Kind::Events)];
        let text = format!("CREATE MATERIALIZED VIEW p WITH (retention = '{RETENTION_MS} ms') AS {select}");
        let view = view(&inputs, &text);
        assert_eq!(view.relation.kind, Kind::Events);
        let at: Vec<_> = (0..ROUNDS).map(tick).collect();
        let ((l_there, mut late_ticks), (r_there, r_late)) = (l.in_time(RETENTION_MS), r.in_time(RETENTION_MS));
        assert!(!late_ticks.is_empty() && !r_late.is_empty(), "nothing is late");
        late_ticks.extend(r_late);
        let wanted = Oracle::new(&[l_there, r_there]).answers(select, &at).expect("an answer");
        for (workers, rounds) in [(1, 1), (1, 3), (2, 1), (4, 3)] {
            let output = play(&inputs, &view.node, workers, rounds);
            for (tick, wanted) in at.iter().zip(&wanted) {
                let found = output.at(&view.node, *tick);
                assert_eq!(
                    found, *wanted,
                    "at {tick}, seed {seed}, {workers} workers, {rounds} ticks at once\n{select}"
                );
                let expected = late_ticks.iter().filter(|late| *late <= tick).count() as i64;
                let (late, failed) = late(&output, *tick);
                // What a filter leaves out is not late either.
                let filtered = select.contains("l.x > 1");
                assert!(late == expected || filtered && late < expected, "{late} late at {tick}, not {expected}");
                assert_eq!(failed, 0);
            }
            assert!(output.rows.iter().all(|(_, _, diff)| *diff > 0), "events only come");
        }
        all += wanted.last().map_or(0, Vec::len);
    }
    assert!(all > 20, "{all} pairs say little: {select}");
}

#[test]
fn events_meet_those_before_and_after() {
    check(
        "SELECT l.id, r.id AS other, l.x, r.y FROM l JOIN r ON l.k = r.k \
         AND r.ts BETWEEN l.ts - interval '50 milliseconds' AND l.ts + interval '10 milliseconds'",
    );
}

#[test]
fn the_bound_may_stand_in_where_and_on_either_side() {
    check(
        "SELECT l.id, r.id AS other, l.ts FROM l, r WHERE l.k = r.k AND l.ts >= r.ts AND l.ts < r.ts + interval '40 ms' \
         AND l.x > 1",
    );
    check(
        "SELECT l.id, r.id AS other FROM l JOIN r ON l.k = r.k WHERE r.ts - interval '70 ms' < l.ts AND r.ts > l.ts AND \
         l.x + r.y > 4",
    );
}

#[test]
fn a_bound_far_from_both_times_is_one_too() {
    // The left events wait, the right ones need not be kept at all, and the other way round.
    check(
        "SELECT l.id, r.id AS other FROM l JOIN r ON l.k = r.k AND r.ts BETWEEN \
           l.ts - interval '250 ms' AND l.ts - interval '150 ms'",
    );
    check(
        "SELECT l.id, r.id AS other FROM l JOIN r ON l.k = r.k AND r.ts BETWEEN l.ts + interval '150 ms' AND \
           l.ts + interval '250 ms'",
    );
}

#[test]
fn equal_times_are_a_bound() {
    check("SELECT l.id, r.id AS other FROM l JOIN r ON l.ts = r.ts");
}

#[test]
fn a_stream_meets_itself() {
    let mut random = Random::new(7);
    let l = Events::new(&mut random, "l", &["id", "k", "ts", "x"]);
    let inputs = [(&l.changing, Kind::Events)];
    let select = "SELECT a.id, b.id AS other FROM l a JOIN l b ON a.k = b.k AND a.id <> b.id AND b.ts BETWEEN a.ts AND \
                  a.ts + interval '30 ms'";
    let view = view(&inputs, &format!("CREATE MATERIALIZED VIEW p WITH (retention = '100 ms') AS {select}"));
    let (there, late_ticks) = l.in_time(100);
    let at = [tick(10), tick(ROUNDS)];
    let wanted = Oracle::new(&[there]).answers(select, &at).expect("an answer");
    let output = play(&inputs, &view.node, 2, 1);
    for (tick, wanted) in at.iter().zip(&wanted) {
        assert_eq!(output.at(&view.node, *tick), *wanted);
    }
    assert!(wanted[1].len() > 20);
    assert_eq!(late(&output, tick(ROUNDS)), (late_ticks.len() as i64, 0), "each late event counts once");
}

#[test]
fn pairs_are_grouped_and_look_tables_up() {
    let mut random = Random::new(9);
    let l = Events::new(&mut random, "l", &["id", "k_id", "ts", "x"]);
    let r = Events::new(&mut random, "r", &["id", "k_id", "ts", "y"]);
    let inputs = [(&l.changing, Kind::Events), (&r.changing, Kind::Events)];
    let select = "SELECT l.k_id, count(*) AS n, max(r.y) AS y FROM l JOIN r ON l.k_id = r.k_id AND r.ts BETWEEN l.ts - \
                  interval '50 ms' AND l.ts GROUP BY l.k_id";
    let view = view(&inputs, &format!("CREATE MATERIALIZED VIEW p WITH (retention = '100 ms') AS {select}"));
    let at: Vec<_> = (0..ROUNDS).map(tick).collect();
    let wanted = Oracle::new(&[l.in_time(100).0, r.in_time(100).0]).answers(select, &at).expect("an answer");
    let output = play(&inputs, &view.node, 2, 3);
    for (tick, wanted) in at.iter().zip(&wanted) {
        assert_eq!(output.at(&view.node, *tick), *wanted, "at {tick}");
    }
}

/// Nexmark's queries 8 and 20 over events: new people who sell within the same ten seconds, and bids with their auctions while
/// these last.
#[test]
fn nexmark_joins_over_events() {
    let tables = crate::sets::nexmark::tables(1);
    let inputs: Vec<_> = tables.iter().map(|table| (table, Kind::Events)).collect();
    let at = crate::harness::ticks(&tables);
    let windows = ["p", "a"].map(|side| format!("date_bin(interval '10 seconds', {side}.ts)"));
    let [person, auction] = &windows;
    let q8 = format!(
        "SELECT p.id, p.name, {person} AS window_start FROM person p JOIN auction a ON p.id = a.seller AND {person} = {auction}"
    );
    let q20 = "SELECT b.auction, b.bidder, b.price, b.ts, a.item, a.seller FROM bid b JOIN auction a ON b.auction = a.id \
               WHERE a.category = 10 AND b.ts >= a.ts AND b.ts < a.expires AND b.ts < a.ts + interval '24 seconds'";
    for select in [q8.as_str(), q20] {
        let view = view(&inputs, &format!("CREATE MATERIALIZED VIEW p WITH (retention = '1 hour') AS {select}"));
        assert_eq!(view.relation.kind, Kind::Events);
        let wanted = Oracle::new(&tables).answers(select, &at).expect("an answer");
        assert!(wanted.last().is_some_and(|rows| rows.len() > 5), "{wanted:?}");
        for workers in [1, 2, 4] {
            let output = play(&inputs, &view.node, workers, 1);
            for (tick, wanted) in at.iter().zip(&wanted) {
                assert_eq!(output.at(&view.node, *tick), *wanted, "at {tick}, {workers} workers: {select}");
            }
        }
    }
}
