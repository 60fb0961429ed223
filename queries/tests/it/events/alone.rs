//! Events that meet none or that have met one, in outer joins, EXISTS and NOT EXISTS, against the batch answer over those that
//! were not late. Catches: a row with nulls that stays when its partner comes, or that is taken back twice; one that is not
//! there because its time or key is null; an event that is put out for each of its partners; a late event that is taken.

use queries::plan::Kind;

use super::play::{late, play, play_again};
use super::{Events, ROUNDS, tick, view};
use crate::generate::Random;
use crate::harness::with_quiet_ticks;
use crate::incremental::chosen;
use crate::oracle::Oracle;

const RETENTION_MS: i64 = 100;
/// Bounds what changes, so that the view does not hold every event for ever; it is longer than the test.
const STAYS: &str = "coalesce(l.ts, timestamp '1970-01-01T00:00:10') > now() - interval '1 day'";
const NEAR: &str = "l.k = r.k AND r.ts BETWEEN l.ts - interval '50 ms' AND l.ts + interval '10 ms'";

/// Both streams, as many different ones as there are seeds.
fn streams(random: &mut Random) -> (Events, Events) {
    let left = Events::new(random, "l", &["id", "k", "ts", "x"]);
    (left, Events::new(random, "r", &["id", "k", "ts", "y"]))
}

/// Compares at every tick with something in it, and in between; tells how many rows there were, and how many were taken back.
#[track_caller]
fn compared(
    (l, r): &(Events, Events),
    select: &str,
    retention_ms: i64,
    runs: &[(usize, u64, u64)],
) -> (Kind, usize, usize) {
    let inputs = [(&l.changing, Kind::Events), (&r.changing, Kind::Events)];
    let text = format!("CREATE MATERIALIZED VIEW p WITH (retention = '{retention_ms} ms') AS {select}");
    let view = view(&inputs, &text);
    let changes: Vec<_> = (0..ROUNDS).map(tick).collect();
    let at: Vec<_> = with_quiet_ticks(&changes).into_iter().filter(|at| *at < tick(ROUNDS)).collect();
    let (l_there, r_there) = (l.in_time(retention_ms).0, r.in_time(retention_ms).0);
    let wanted = Oracle::new(&[l_there, r_there]).answers(select, &at).unwrap_or_else(|why| panic!("{why}\n{select}"));
    let mut gone = 0;
    for (workers, first, rounds) in runs {
        let output = play_again(&inputs, &view.node, *workers, *first, *rounds);
        for (tick, wanted) in at.iter().zip(&wanted) {
            let found = output.at(&view.node, *tick);
            assert_eq!(found, *wanted, "at {tick}, {workers} workers, {first} and then {rounds} at once\n{select}");
        }
        assert_eq!(late(&output, tick(ROUNDS)).1, 0, "{select}");
        gone = output.rows.iter().filter(|(_, _, diff)| *diff < 0).count();
        assert!(view.relation.kind == Kind::Table || gone == 0, "events only come: {select}");
    }
    (view.relation.kind, wanted.iter().map(Vec::len).max().unwrap_or_default(), gone)
}

/// One view, on 1, 2 and 4 workers, cut into batches of one tick and of three, and after a restart in the middle.
#[track_caller]
fn check(select: &str, kind: Kind) {
    let (mut all, mut taken_back) = (0, 0);
    for seed in 0..4 {
        let runs = [(1, 1, 1), (1, 3, 3), (2, 1, 1), (4, 3, 3), (2, ROUNDS / 2, 1)];
        let (found, most, gone) = compared(&streams(&mut Random::new(seed)), select, RETENTION_MS, &runs);
        assert_eq!(found, kind, "{select}");
        all += most;
        taken_back += gone;
    }
    assert!(all > 20, "{all} rows say little: {select}");
    assert!(kind == Kind::Events || taken_back > 5, "{taken_back} rows are taken back: {select}");
}

#[test]
fn what_met_none_is_there_until_it_meets_one() {
    for kind in ["LEFT", "RIGHT", "FULL"] {
        let stays = STAYS.replace("coalesce(l.ts", "coalesce(l.ts, r.ts");
        let select = format!("SELECT l.id, l.x, r.id AS other, r.y FROM l {kind} JOIN r");
        check(&format!("{select} ON {NEAR} WHERE {stays}"), Kind::Table);
        check(&format!("{select} ON {NEAR} AND l.x <= r.y AND r.y > 2 AND l.x < 6 WHERE {stays}"), Kind::Table);
    }
    check(&format!("SELECT l.id, l.ts FROM l LEFT ANTI JOIN r ON {NEAR} WHERE {STAYS}"), Kind::Table);
    let stays = STAYS.replace("l.ts", "r.ts");
    check(&format!("SELECT r.id, r.y FROM l RIGHT ANTI JOIN r ON {NEAR} WHERE {stays} AND r.y > 1"), Kind::Table);
    check(&format!("SELECT l.id, l.x FROM l LEFT JOIN r ON {NEAR} WHERE r.id IS NULL AND {STAYS}"), Kind::Table);
}

#[test]
fn whether_there_is_any_is_said_once() {
    check(&format!("SELECT l.id, l.ts, l.x FROM l WHERE EXISTS (SELECT 1 FROM r WHERE {NEAR})"), Kind::Events);
    check(
        &format!("SELECT l.id FROM l WHERE l.x > 1 AND EXISTS (SELECT 1 FROM r WHERE {NEAR} AND r.y > l.x)"),
        Kind::Events,
    );
    check(&format!("SELECT r.id, r.y FROM l RIGHT SEMI JOIN r ON {NEAR} WHERE r.y > 1"), Kind::Events);
    check("SELECT l.id FROM l WHERE l.ts IN (SELECT ts FROM r)", Kind::Events);
    check(&format!("SELECT l.id FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE {NEAR}) AND {STAYS}"), Kind::Table);
    check(
        &format!("SELECT l.id FROM l WHERE (l.x > 5 OR EXISTS (SELECT 1 FROM r WHERE {NEAR})) AND {STAYS}"),
        Kind::Table,
    );
}

/// Events that are equal and come at different times, some after the others have met one.
#[test]
fn equal_events_are_each_there() {
    let of = |from: &str| format!("(SELECT k, {from} % 2 AS x, date_bin(interval '20 ms', ts) AS ts FROM");
    let (l, r) = (format!("{} l) AS l", of("x")), format!("{} r) AS r", of("y")));
    let exists = format!("EXISTS (SELECT 1 FROM {r} WHERE {NEAR} AND l.x <= r.x)");
    let stays = STAYS.replace("coalesce(l.ts", "coalesce(l.ts, r.ts");
    let joined = |kind: &str| {
        format!(
            "SELECT l.k, l.x, r.k AS other, r.x AS y FROM {l} {kind} JOIN {r} ON {NEAR} AND l.x <= r.x WHERE {stays}"
        )
    };
    let views = [
        joined("LEFT"),
        joined("RIGHT"),
        joined("FULL"),
        format!("SELECT l.k, l.x, l.ts FROM {l} WHERE {exists}"),
        format!("SELECT l.k, l.x, l.ts FROM {l} WHERE NOT {exists} AND {STAYS}"),
        format!("SELECT l.k, l.x, l.ts FROM {l} WHERE (l.x > 0 OR {exists}) AND {STAYS}"),
    ];
    for select in views {
        for seed in 0..3 {
            let runs = [(1, 1, 1), (2, 3, 3), (4, ROUNDS / 2, 1)];
            // So long that none is late, by its time or by the window that it is in.
            let (_, most, _) = compared(&streams(&mut Random::new(seed)), &select, 1_000, &runs);
            assert!(most > 10, "{most} rows say little: {select}");
        }
    }
}

#[test]
fn what_met_none_for_long_enough_comes_then() {
    let bound = "l.ts < now() - interval '15 ms' AND l.ts > now() - interval '350 ms'";
    check(
        &format!("SELECT l.id, l.ts FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE {NEAR}) AND {bound}"),
        Kind::Table,
    );
}

#[test]
fn what_is_made_of_them_follows() {
    let grouped = format!(
        "SELECT l.k AS k_id, date_bin(interval '50 ms', l.ts) AS w, count(*) AS n, count(r.id) AS met, sum(r.y) AS s, max(r.y) AS \
         top FROM l LEFT JOIN r ON {NEAR} GROUP BY 1, 2"
    );
    for seed in 0..4 {
        let runs = [(1, 1, 1), (2, 3, 3), (4, ROUNDS / 2, 1)];
        // Of events that are not late; windows end after the test.
        let (kind, most, gone) = compared(&streams(&mut Random::new(seed)), &grouped, 1_000, &runs);
        assert!(kind == Kind::Table && most > 5 && gone > 5, "{most} groups, {gone} taken back");
    }
}

#[test]
fn a_window_that_is_over_is_not_late_for_what_is_taken_back() {
    let (l, r) = streams(&mut Random::new(3));
    let inputs = [(&l.changing, Kind::Events), (&r.changing, Kind::Events)];
    let text = "CREATE MATERIALIZED VIEW p WITH (retention = '60 ms') AS SELECT date_bin(interval '20 ms', l.ts) AS w, count(*) AS n \
         FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE l.k = r.k AND r.ts BETWEEN l.ts AND l.ts + interval '90 ms') GROUP BY 1";
    let output = play(&inputs, &view(&inputs, text).node, 2, 1);
    let mut before = 0;
    for at in (0..ROUNDS).map(tick) {
        let (now, _) = late(&output, at);
        assert!(now >= before, "{before} late, and then {now}");
        before = now;
    }
    assert!(before > 10);
}

/// A random view of both streams that joins them within a bound of their times.
fn random_view(random: &mut Random) -> String {
    let (from, until) =
        [("- interval '50 ms'", "+ interval '10 ms'"), ("", "+ interval '80 ms'"), ("- interval '30 ms'", "")]
            [random.below(3)];
    let mut on = match random.below(5) {
        0 => "l.ts = r.ts".to_owned(),
        1 => "l.k = r.k AND l.ts > r.ts AND l.ts <= r.ts + interval '40 ms'".to_owned(),
        2 => format!("l.k = r.k AND l.x = r.y AND r.ts BETWEEN l.ts {from} AND l.ts {until}"),
        _ => format!("l.k = r.k AND r.ts BETWEEN l.ts {from} AND l.ts {until}"),
    };
    for condition in ["l.x < r.y", "l.x > 2", "r.y < 6", "l.x + r.y <> 5", "r.y IS NOT NULL"] {
        if random.chance(20) {
            on = format!("{on} AND {condition}");
        }
    }
    let mut rest = vec![STAYS.replace("coalesce(l.ts", "coalesce(l.ts, r.ts")];
    rest.extend(
        random.chance(20).then(|| (*random.of(&["l.x > 1", "r.y IS NULL", "l.id IS NULL", "r.y > 3"])).to_owned()),
    );
    let not = if random.chance(60) { "NOT " } else { "" };
    match random.below(7) {
        0..=3 => {
            let kind = random.of(&["LEFT", "RIGHT", "FULL", "INNER"]);
            format!("SELECT l.id, r.id AS other, l.x, r.y FROM l {kind} JOIN r ON {on} WHERE {}", rest.join(" AND "))
        }
        4 => format!("SELECT l.id, l.x FROM l WHERE {not}EXISTS (SELECT 1 FROM r WHERE {on}) AND {STAYS}"),
        5 => format!("SELECT l.id FROM l WHERE (l.x > 4 OR {not}EXISTS (SELECT 1 FROM r WHERE {on})) AND {STAYS}"),
        _ => format!(
            "SELECT l.x, count(*) AS n, count(other) AS met, sum(other) AS others FROM (SELECT l.x, r.id AS other FROM l LEFT JOIN r \
             ON {on} WHERE {STAYS}) AS l GROUP BY l.x"
        ),
    }
}

#[test]
fn random_views() {
    let (first, count) = chosen(60);
    for seed in first..first + count {
        let mut random = Random::new(seed);
        let streams = streams(&mut random);
        let select = random_view(&mut random);
        let workers = [1, 2, 4][seed as usize % 3];
        let middle = 1 + random.below(ROUNDS as usize - 1) as u64;
        let retention_ms = [20, 100, 400][random.below(3)];
        println!("seed {seed}: {select}");
        compared(&streams, &select, retention_ms, &[(workers, 1, 1), (workers, middle, 1 + seed % 3)]);
    }
}
