//! Queries that once were answered wrong, or brought a worker down, each reduced to what it takes.

use operators::time::Tick;
use queries::plan::Id;

use crate::generate::{Random, tables};
use crate::harness::{Changing, planned, run, ticks};
use crate::incremental::check;
use crate::oracle::Oracle;

fn id(tables: &[Changing], sql: &str) -> Id {
    planned(tables, sql).expect("a plan").id
}

/// The rows of the view are those of the query that leaves out what fails; as many faults are there as it leaves out.
#[track_caller]
fn check_faults(sql: &str, without: &str, faulty: &str) {
    let tables = tables(&mut Random::new(5), 40);
    let plan = planned(&tables, sql).expect("a plan");
    let at = ticks(&tables);
    let oracle = Oracle::new(&tables);
    let wanted = oracle.answers(without, &at).expect("an answer");
    let faulty = oracle.answers(faulty, &at).expect("an answer");
    let output = run(&tables, std::slice::from_ref(&plan), 2).pop().expect("one plan");
    let mut most = 0;
    for (tick, (wanted, faulty)) in at.iter().zip(wanted.iter().zip(&faulty)) {
        assert_eq!(output.at(&plan, *tick), *wanted, "at {tick}");
        let faults: i64 = output.faults_at(*tick).iter().map(|(_, count)| *count).sum();
        assert_eq!(faults.to_string(), faulty[0], "faults at {tick}");
        most = most.max(faults);
    }
    assert!(most > 0, "nothing failed");
}

#[test]
fn different_window_functions_are_different_work() {
    check("SELECT rank() OVER (ORDER BY a) AS x FROM u UNION ALL SELECT dense_rank() OVER (ORDER BY a) AS x FROM u");
    check(
        "SELECT lag(a, 1) OVER (ORDER BY a, n) AS x FROM u UNION ALL SELECT lag(a, 2) OVER (ORDER BY a, n) AS x FROM u",
    );
    check(
        "SELECT sum(n) OVER (PARTITION BY a ORDER BY n) AS x FROM u UNION ALL \
         SELECT max(n) OVER (PARTITION BY a ORDER BY n) AS x FROM u",
    );
}

#[test]
fn lists_that_differ_in_the_middle_are_different_work() {
    let tables = tables(&mut Random::new(0), 4);
    let list = |middle: i64| {
        let rows: Vec<String> = (0..40).map(|n| format!("({})", if n == 20 { middle } else { n })).collect();
        format!("SELECT * FROM (VALUES {}) AS l(n)", rows.join(", "))
    };
    assert_ne!(id(&tables, &list(20)), id(&tables, &list(1_000)));
    assert_eq!(id(&tables, &list(20)), id(&tables, &list(20)));
}

#[test]
fn rows_without_a_place_in_the_order_are_faults() {
    check_faults(
        "SELECT a, n, row_number() OVER (ORDER BY 10 / a, a, n) FROM u",
        "SELECT a, n, row_number() OVER (ORDER BY 10 / a, a, n) FROM u WHERE a IS DISTINCT FROM 0",
        "SELECT count(*) FROM u WHERE a = 0",
    );
    check_faults(
        "SELECT a, n FROM u ORDER BY 10 / a, a, n LIMIT 3",
        "SELECT a, n FROM u WHERE a IS DISTINCT FROM 0 ORDER BY 10 / a, a, n LIMIT 3",
        "SELECT count(*) FROM u WHERE a = 0",
    );
}

#[test]
fn what_fails_always_fails_for_the_rows_of_the_filter_only() {
    check_faults(
        "SELECT 1 / 0 FROM u WHERE a = 3",
        "SELECT a FROM u WHERE false",
        "SELECT count(*) FROM u WHERE a = 3",
    );
}

#[test]
fn a_column_named_twice_in_the_order_of_an_aggregate() {
    // The library's own answer is a panic.
    let tables = tables(&mut Random::new(1), 40);
    let last: Tick = *ticks(&tables).last().expect("changes");
    let (twice, once) = ("first_value(n ORDER BY n DESC, n)", "first_value(n ORDER BY n DESC)");
    let plans =
        [twice, once].map(|call| planned(&tables, &format!("SELECT a, {call} FROM u GROUP BY a")).expect("a plan"));
    let outputs = run(&tables, &plans, 1);
    assert_eq!(outputs[0].at(&plans[0], last), outputs[1].at(&plans[1], last));
    assert!(!outputs[0].at(&plans[0], last).is_empty());
}

#[test]
fn offsets_without_a_limit() {
    check("(SELECT a, n FROM u ORDER BY a, n OFFSET 2) UNION ALL (SELECT a, n FROM u ORDER BY a, n OFFSET 1)");
}

#[test]
fn a_condition_that_never_holds_leaves_no_group() {
    check(
        "WITH c AS (SELECT count(f) AS g, max(s) AS h FROM t) SELECT l.g, l.h, r.g AS k, r.h AS i FROM c AS l JOIN c AS r ON \
         l.h = r.h AND l.g IS NULL",
    );
}

#[test]
fn conditions_stay_above_distinct_on() {
    check("SELECT n, m FROM (SELECT DISTINCT ON (n) n, m FROM v ORDER BY n, m DESC) AS x WHERE m NOT LIKE '%p%'");
}

#[test]
fn the_group_of_everything_is_there_without_rows_and_aggregates() {
    check(
        "SELECT 3 AS x FROM (SELECT a, s, count(*) AS c FROM t WHERE a = 77 GROUP BY GROUPING SETS ((a), (s), ())) AS g",
    );
    check("SELECT grouping(a) AS g FROM t WHERE a > 3 GROUP BY GROUPING SETS ((a), (s), ())");
    check("SELECT 1 AS one FROM (SELECT count(*) AS c FROM t WHERE a = 77) AS g");
}

#[test]
fn window_functions_of_several_orders_in_one_step() {
    check(
        "SELECT a, n, last_value(a) OVER (PARTITION BY a ORDER BY n, a DESC) AS x, dense_rank() OVER (PARTITION BY a ORDER \
         BY a DESC, n) AS y, first_value(n) OVER (PARTITION BY a ORDER BY a, n) AS z FROM (SELECT DISTINCT a, n FROM u) AS d",
    );
}

#[test]
fn one_row_for_a_time_is_one_row() {
    check("SELECT u.a, x.m FROM u CROSS JOIN (SELECT max(ts) AS m FROM t) AS x WHERE x.m <= now()");
}

#[test]
fn frames_of_more_rows_than_there_are_numbers() {
    let tables = tables(&mut Random::new(0), 4);
    let sql = "SELECT sum(a) OVER (ORDER BY a, n ROWS BETWEEN CURRENT ROW AND 18446744073709551615 FOLLOWING) FROM u";
    let why = planned(&tables, sql).expect_err("a refusal");
    assert!(why.contains("write UNBOUNDED"), "{why}");
}

#[test]
fn rows_without_a_key_lie_on_all_workers() {
    check("SELECT * FROM u CROSS JOIN (SELECT max(n) AS m, count(*) AS c FROM v) AS x");
    check("SELECT * FROM (SELECT max(n) AS m FROM v) AS x LEFT JOIN u ON u.n < x.m");
    check("SELECT * FROM u FULL JOIN (VALUES (1.0), (2.0)) AS l(k) ON u.n > l.k");
    check("SELECT * FROM u WHERE EXISTS (SELECT 1 FROM v WHERE n > 4)");
    check("SELECT * FROM u WHERE NOT EXISTS (SELECT 1 FROM v WHERE n > 4)");
    check("SELECT * FROM u WHERE n NOT IN (SELECT n FROM v)");
    check("SELECT * FROM u WHERE n NOT IN (SELECT n FROM v WHERE n IS NOT NULL AND n < 1.0)");
}
