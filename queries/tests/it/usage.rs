//! What operators say that they keep. Catches: an operator that forgets to count what it keeps, or what has left, so that a
//! budget of memory is never passed, or is passed by a stream that keeps nothing.

use std::collections::BTreeMap;

use operators::row::{Diff, Row};
use queries::render::Size;

use crate::generate::{Random, tables};
use crate::harness::{Changing, measured, planned, run, ticks};

const VIEWS: [&str; 21] = [
    "SELECT a, count(*), count(s), sum(f), avg(f), min(s), max(f), sum(a) FROM t GROUP BY a",
    "SELECT count(*), sum(f), max(ts) FROM t",
    "SELECT s, count(DISTINCT a), bool_and(b), stddev(f) FROM t GROUP BY s HAVING count(*) > 1",
    "SELECT a, sum(f) FILTER (WHERE b) AS x, array_agg(DISTINCT s ORDER BY s) AS y FROM t GROUP BY a",
    "SELECT a, string_agg(s, ',' ORDER BY s, f) FROM t WHERE s IS NOT NULL GROUP BY a",
    "SELECT DISTINCT a, b FROM t",
    "SELECT t.a, t.s, u.n FROM t JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.n FROM t LEFT JOIN u ON t.a = u.a",
    "SELECT t.a, t.s, u.n FROM t FULL JOIN u ON t.a = u.a AND t.f > u.n",
    "SELECT t.a, u.n, v.m FROM t JOIN u ON t.a = u.a JOIN v ON u.n = v.n",
    "SELECT * FROM t WHERE a IN (SELECT a FROM u)",
    "SELECT * FROM t WHERE a NOT IN (SELECT a FROM u WHERE n > 2)",
    "SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a AND u.n > t.f)",
    "SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u)",
    "SELECT * FROM t WHERE a IN (SELECT a FROM u) OR f > 2.0",
    "SELECT * FROM t WHERE f > (SELECT avg(n) FROM u)",
    "SELECT a FROM t EXCEPT SELECT a FROM u",
    "SELECT a, s, f FROM t ORDER BY f DESC NULLS LAST, a, s, b, ts LIMIT 3",
    "SELECT DISTINCT ON (a) a, s, f FROM t ORDER BY a, ts DESC, s, f, b",
    "SELECT a, f, sum(f) OVER (PARTITION BY a ORDER BY ts, f, s, b) AS running FROM t",
    "SELECT a, f, lag(f) OVER (PARTITION BY a ORDER BY ts, f, s, b) AS before FROM t",
];

/// The table with another tick, at which all that is there leaves.
fn emptied(table: &Changing) -> Changing {
    let mut there: BTreeMap<&Row, Diff> = BTreeMap::new();
    for (_, row, diff) in &table.changes {
        *there.entry(row).or_default() += diff;
    }
    let last = ticks(std::slice::from_ref(table)).last().copied().unwrap_or_default();
    let leave = there.into_iter().filter(|(_, count)| *count != 0).map(|(row, count)| (last + 10, row.clone(), -count));
    let changes = table.changes.iter().cloned().chain(leave).collect();
    Changing { changes, ..table.clone() }
}

fn kept(tables: &[Changing], sql: &str, workers: usize) -> Size {
    let plan = planned(tables, sql).expect("a plan");
    measured(tables, &[plan], workers).1
}

#[test]
fn what_is_kept_leaves_with_its_rows() {
    for sql in VIEWS {
        for (seed, workers) in [(0, 1), (1, 2), (2, 4)] {
            let full = tables(&mut Random::new(seed), 60);
            let none: Vec<Changing> =
                full.iter().map(|table| Changing { changes: Vec::new(), ..table.clone() }).collect();
            let empty: Vec<Changing> = full.iter().map(emptied).collect();
            let (without, with, after) =
                (kept(&none, sql, workers), kept(&full, sql, workers), kept(&empty, sql, workers));
            assert_eq!(after, without, "{workers} workers: {sql}");
            // An empty text costs as much; a row that waits for its time may have none.
            assert!(with.bytes > without.bytes, "{with:?} with rows, {without:?} without: {sql}");
        }
    }
}

#[test]
fn what_waits_for_its_time_is_kept_until_then() {
    let all = tables(&mut Random::new(3), 60);
    let view = |interval: &str| format!("SELECT a, s FROM t WHERE ts > now() - interval '{interval}'");
    let later = kept(&all, &view("2 seconds"), 2);
    assert!(later.rows > 0 && later.bytes > 64 * later.rows, "{later:?}");
    assert_eq!(kept(&all, &view("100 milliseconds"), 2), Size::default(), "their time is over");
}

#[test]
fn twice_as_many_rows_are_twice_as_much() {
    for (sql, least, most) in [
        ("SELECT v.m, u.n FROM v JOIN u ON v.n = u.n AND v.m = 'none'", 1.9, 2.1),
        // Numbers only: it does not depend on how many rows there are.
        ("SELECT count(*) AS n, sum(f) AS s FROM t", 0.9, 1.1),
    ] {
        let came = |table: &Changing, later: u64| {
            let rows = table.changes.iter().filter(|(_, _, diff)| *diff > 0);
            rows.map(|(tick, row, diff)| (tick + later, row.clone(), *diff)).collect::<Vec<_>>()
        };
        let all = tables(&mut Random::new(3), 2_000);
        let once: Vec<Changing> =
            all.iter().map(|table| Changing { changes: came(table, 0), ..table.clone() }).collect();
        let again = |table: &Changing| came(table, 0).into_iter().chain(came(table, 1_000)).collect();
        let twice: Vec<Changing> =
            all.iter().map(|table| Changing { changes: again(table), ..table.clone() }).collect();
        let ratio = kept(&twice, sql, 2).bytes as f64 / kept(&once, sql, 2).bytes as f64;
        assert!((least..most).contains(&ratio), "{ratio} times as much: {sql}");
    }
}

/// A text that doubles at every step would be larger than any memory.
#[test]
fn a_row_that_becomes_too_large_is_a_fault() {
    let tables = tables(&mut Random::new(4), 20);
    let mut sql = "SELECT a, coalesce(s, 'x') || 'y' AS s FROM t".to_owned();
    for _ in 0..9 {
        sql = format!("SELECT a, s || s || s || s || s || s || s || s || s || s AS s FROM ({sql})");
    }
    let plan = planned(&tables, &format!("SELECT a, length(s) AS n FROM ({sql})")).expect("a plan");
    let at = ticks(&tables).last().copied().expect("changes");
    let there = tables[0].at(at).num_rows() as i64;
    for workers in [1, 2] {
        let output = run(&tables, std::slice::from_ref(&plan), workers).pop().expect("one plan");
        assert!(output.at(&plan, at).is_empty());
        let faults = output.faults_at(at);
        assert!(faults.iter().all(|(fault, _)| fault.message.contains("it may have 1048576")), "{faults:?}");
        assert_eq!(faults.iter().map(|(_, count)| *count).sum::<i64>(), there);
    }
}

/// Patterns are matched in time that grows with the text only, and those that are too large are faults or refused.
#[test]
fn patterns_cost_little_or_fail() {
    let tables = tables(&mut Random::new(4), 20);
    let at = ticks(&tables).last().copied().expect("changes");
    for pattern in ["(a+)+$", "(a|aa)*b", "((((x*)*)*)*)*y"] {
        let text = "a".repeat(60);
        let sql = format!("SELECT a FROM t WHERE regexp_like(coalesce(s, '') || '{text}!', '{pattern}')");
        let plan = planned(&tables, &sql).expect("a plan");
        let output = run(&tables, std::slice::from_ref(&plan), 1).pop().expect("one plan");
        assert!(output.faults_at(at).is_empty(), "{pattern}");
    }
    let sql = "SELECT a FROM t WHERE regexp_like(s, 'a{1000}{1000}{1000}')";
    if let Ok(plan) = planned(&tables, sql) {
        let output = run(&tables, std::slice::from_ref(&plan), 1).pop().expect("one plan");
        assert!(!output.faults_at(at).is_empty(), "too large a pattern is no pattern");
    }
}
