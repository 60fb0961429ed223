//! The main job's composition against the oracle, one test family for each kind of trouble. Which bug each would catch stands
//! at the family.

use std::collections::BTreeMap;

use operators::time::Tick;
use operators::{silence, window};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::cell::{Cell, Change, History, Row, history, key_of, sorted};
use crate::drive::{Options, Output, Plan, run};
use crate::log::{Log, START, Step, TICK_MS, Weights, log, steps};
use crate::oracle::{Answer, answer};

pub const OPTIONS: Options = Options {
    horizon_ms: 800,
    silence: silence::Options { offline_after_ms: 295, online_after_messages: 2, tick_ms: TICK_MS },
    window: window::Options { size_ms: 200, retention_ms: 300, ahead_ms_max: 100, emit_ms: 50 },
    conflate_ms: 100,
    catching_up: false,
};

/// Every silence and every window of a log is over by then.
pub fn end_of(log: &Log) -> Tick {
    let multiple = 1_000;
    (log.last() + 5_000).div_ceil(multiple) * multiple + 1
}

fn check(steps: &[Step], options: Options, seed: u64) -> Result<(), TestCaseError> {
    let log = log(steps);
    let end = end_of(&log);
    let expected = answer(&log, options, end);
    let mut first: Option<BTreeMap<&str, Vec<Change>>> = None;
    for workers in [1, 2, 4] {
        let plan = Plan { workers, seed: seed.wrapping_mul(workers as u64), rows_max: 1 + seed as usize % 9 };
        let mut output = run(&log, options, plan, end);
        compare(&output, &expected, options)?;
        // Not only does each amount to the right answer: the changes themselves are the same.
        output.retain(|_, changes| !changes.is_empty());
        let output: BTreeMap<&str, Vec<Change>> =
            output.into_iter().map(|(name, changes)| (name, sorted(changes))).collect();
        match &first {
            None => first = Some(output),
            Some(first) => {
                prop_assert_eq!(first.keys().collect::<Vec<_>>(), output.keys().collect::<Vec<_>>());
                for (name, changes) in &output {
                    same(&format!("{name} with {workers} workers"), changes, &first[name])?;
                }
            }
        }
    }
    Ok(())
}

/// The first difference only: whole outputs are too long to read.
fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: &[T], expected: &[T]) -> Result<(), TestCaseError> {
    let at = (0..found.len().max(expected.len())).find(|&at| found.get(at) != expected.get(at));
    let first = at.map(|at| (found.get(at), expected.get(at)));
    prop_assert!(first.is_none(), "{what}: found and expected are {first:#?}");
    Ok(())
}

fn same_history(what: &str, found: &History, expected: &History) -> Result<(), TestCaseError> {
    let rows = |history: &History| -> Vec<(Tick, String, Row)> {
        let all = history.iter().flat_map(|(tick, rows)| {
            // An empty table is a row of its own, or its tick would not be compared.
            let none = rows.is_empty().then(|| (*tick, String::new(), Row::new()));
            rows.iter().map(|(key, row)| (*tick, key.clone(), row.clone())).chain(none).collect::<Vec<_>>()
        });
        all.collect()
    };
    same(what, &rows(found), &rows(expected))
}

fn compare(output: &Output, expected: &Answer, options: Options) -> Result<(), TestCaseError> {
    let changes = |name: &str| output.get(name).map_or(&[][..], Vec::as_slice);
    let mut distinct: Vec<(i32, i64)> = changes("events").iter().map(|change| position(&change.cells)).collect();
    let mut wanted = expected.distinct.clone();
    distinct.sort_unstable();
    wanted.sort_unstable();
    same("deduplicate", &distinct, &wanted)?;
    same_history("link", &history(changes("links"), &["vehicle_id"]), &expected.links)?;

    let enriched = changes("enriched");
    prop_assert_eq!(enriched.len(), expected.enriched.len(), "every event once");
    for change in enriched {
        let added = operators::record::output::ENRICHMENT.map(|name| (name.to_owned(), change.cells[name].clone()));
        let at = position(&change.cells);
        prop_assert_eq!(Some(&Row::from(added)), expected.enriched.get(&at), "enrich {:?} at {}", at, change.tick);
    }
    let late: BTreeMap<(i32, i64), String> = changes("late").iter().map(|change| refused(&change.cells)).collect();
    prop_assert_eq!(changes("late").len(), late.len(), "a late row is told of once");
    prop_assert_eq!(&late, &expected.late, "ledger of late rows");
    let minutes = history(changes("company_minute"), &["company_id", "window_start"]);
    same_history("window", &minutes, &expected.company_minute)?;

    let happened = sorted(changes("vehicle_events").to_vec());
    same("silence", &happened, &sorted(expected.vehicle_events.clone()))?;
    same_history("connectivity", &history(changes("connectivity"), &["device_id"]), &expected.connectivity)?;
    same_history("vehicle_state", &history(changes("vehicle_state"), &["vehicle_id"]), &expected.vehicle_state)?;
    let conflated = sorted(changes("conflated").to_vec());
    same("conflate", &conflated, &newest_per_window(changes("vehicle_state"), options.conflate_ms))
}

fn position(cells: &Row) -> (i32, i64) {
    match (&cells["__partition"], &cells["__offset"]) {
        (Cell::Int(partition), Cell::Int(offset)) => (*partition as i32, *offset),
        other => panic!("{other:?} is no position"),
    }
}

fn refused(cells: &Row) -> ((i32, i64), String) {
    match (&cells["partition"], &cells["offset"], &cells["code"]) {
        (Cell::Int(partition), Cell::Int(offset), Cell::Text(code)) => ((*partition as i32, *offset), code.clone()),
        other => panic!("{other:?} is no refused record"),
    }
}

/// Of each vehicle and window the change with the greatest tick, an upsert before a delete of the same tick; its tick is the
/// window's end.
fn newest_per_window(changes: &[Change], window_ms: u64) -> Vec<Change> {
    let mut newest: BTreeMap<(u64, String), Change> = BTreeMap::new();
    for change in changes {
        let at = (change.tick.div_ceil(window_ms), key_of(&change.cells, &["vehicle_id"]));
        let held = newest.entry(at).or_insert_with(|| change.clone());
        if (change.tick, change.upsert) > (held.tick, held.upsert) {
            *held = change.clone();
        }
    }
    sorted(
        newest.into_values().map(|change| Change { tick: change.tick.next_multiple_of(window_ms), ..change }).collect(),
    )
}

pub const EVENTS: Weights = Weights { events: 60, repeats: 0, vehicles: 20, references: 20, silences: 5 };

pub fn cases(count: u32) -> ProptestConfig {
    ProptestConfig { cases: count, failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(64))]

    /// Everything in equal parts. Catches an event that sees a change of its own tick, output that depends on how far one
    /// input is ahead of another, rows of one tick worked on in order of arrival, a capability given up too early.
    #[test]
    fn any_log(steps in steps(EVENTS, 120), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }

    /// Mostly duplicates, in other partitions and ticks too. Catches a duplicate that beats the first of canonical order,
    /// devices forgotten when a frontier moves rather than at a tick, a ring that forgets too early or too late.
    #[test]
    fn duplicates(steps in steps(Weights { events: 50, repeats: 50, vehicles: 2, references: 2, silences: 5 }, 160), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }

    /// Mostly references. Catches a reverse index that loses or keeps a vehicle, a reassigned device that both or none of
    /// two vehicles hold, a delete that overtakes the upsert of its tick, empty names taken for names.
    #[test]
    fn reference_churn(steps in steps(Weights { events: 15, repeats: 0, vehicles: 60, references: 60, silences: 2 }, 160), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }

    /// Much silence, thresholds that change meanwhile. Catches timers lost, late or fired twice, a threshold that counts
    /// before its tick, the vehicle of a later moment in an event, hysteresis that counts across a gap.
    #[test]
    fn silences(
        steps in steps(Weights { events: 60, repeats: 0, vehicles: 20, references: 20, silences: 40 }, 80),
        messages in 1u32..4,
        offline_after_ms in prop_oneof![Just(10u64), 20u64..600],
        seed in any::<u64>(),
    ) {
        let silence = silence::Options { offline_after_ms, online_after_messages: messages, tick_ms: TICK_MS };
        check(&steps, Options { silence, ..OPTIONS }, seed)?;
    }

    /// Much late data. Catches sums that depend on order, windows sealed by progress rather than by tick, rows that vanish
    /// between a sealed window and the ledger.
    #[test]
    fn late_data(
        steps in steps(Weights { events: 90, repeats: 0, vehicles: 8, references: 4, silences: 10 }, 160),
        size in 1i64..40, retention in 0i64..60, emit in 1u64..20,
        seed in any::<u64>(),
    ) {
        let window = window::Options { size_ms: size * 10, retention_ms: retention * 10, ahead_ms_max: 100, emit_ms: emit * 10 };
        check(&steps, Options { window, ..OPTIONS }, seed)?;
    }
}

/// What a job that is told to catch up puts out: every row as the table stood at the row's tick, and all together the table.
fn check_hurried(changes: &[Change], expected: &History, what: &str) -> Result<(), TestCaseError> {
    for change in changes.iter().filter(|change| change.upsert) {
        let (_, table) = expected.range(..=change.tick).next_back().expect("the table had a row by then");
        let row = table.get(&key_of(&change.cells, &["vehicle_id"]));
        prop_assert_eq!(Some(&change.cells), row, "{} at {}", what, change.tick);
    }
    let last = |history: &History| history.last_key_value().map(|(_, table)| table.clone()).unwrap_or_default();
    prop_assert_eq!(last(&history(changes, &["vehicle_id"])), last(expected), "{} at the end", what);
    Ok(())
}

proptest! {
    #![proptest_config(cases(64))]

    /// Catches a version put out with another's tick, a change that is never put out, a frontier that does not wait for it,
    /// a delete that outlives the vehicle's return.
    #[test]
    fn catching_up(steps in steps(Weights { vehicles: 40, ..EVENTS }, 160), seed in any::<u64>()) {
        let (log, options) = (log(&steps), Options { catching_up: true, ..OPTIONS });
        let end = end_of(&log);
        let expected = answer(&log, options, end).vehicle_state;
        for workers in [1, 2] {
            let plan = Plan { workers, seed, rows_max: 1 + seed as usize % 9 };
            let output = run(&log, options, plan, end);
            let changes = |name: &str| output.get(name).map_or(&[][..], Vec::as_slice);
            check_hurried(changes("vehicle_state"), &expected, "vehicle_state")?;
            check_hurried(changes("conflated"), &expected, "conflated")?;
        }
    }
}

/// An empty log, and one whose every record lies in a single tick.
#[test]
fn logs_without_extent() {
    check(&[], OPTIONS, 1).unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(cases(16));
    let all_at_once = steps(EVENTS, 100).prop_map(|mut steps| {
        steps.iter_mut().for_each(|step| step.gap = 0);
        steps
    });
    runner.run(&(all_at_once, any::<u64>()), |(steps, seed)| check(&steps, OPTIONS, seed)).unwrap();
    assert_eq!(log(&[]).last(), START);
}
