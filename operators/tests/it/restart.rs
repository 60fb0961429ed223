//! A job that ends and begins again from what its operators kept gives what one that never ended gives, with any number of
//! workers before and after. Catches state that is not kept, kept too late or under another's key, a table's rows that count as
//! changes when they come again, timers that fire twice or never after a start.

use std::collections::BTreeMap;

use operators::error::Position;
use operators::record::Stream as Topic;
use operators::time::Tick;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::cell::{Change, Row, sorted};
use crate::drive::{Dice, Kept, Options, Output, Plan, resume, run};
use crate::log::{Body, Log, Record, START, Step, Weights, log, steps};
use crate::main_job::{EVENTS, OPTIONS, cases, end_of};

/// Conflation and windows have nothing open at multiples of this.
const BOUNDARY_MS: u64 = 100;

/// The part of a log from one start to the next: before it, the tables as they stood.
fn part(log: &Log, from: Tick, upto: Tick) -> Log {
    let mut part = Log::default();
    for topic in Topic::ALL.into_iter().filter(|topic| topic.is_table() && from > 0) {
        let mut newest: BTreeMap<&str, &Row> = BTreeMap::new();
        for record in log.canonical(topic).into_iter().filter(|record| record.at.tick < from) {
            let Body::Reference(key, row) = &record.body else { panic!("a changelog holds references") };
            match row {
                Some(row) => newest.insert(key, row),
                None => newest.remove(&**key),
            };
        }
        let at = Position { partition: 0, offset: 0, tick: from - 1 };
        let again = |(key, row): (&str, &Row)| Record { at, body: Body::Reference(key.to_owned(), Some(row.clone())) };
        let again: Vec<Record> = newest.into_iter().map(again).collect();
        if !again.is_empty() {
            part.lanes.insert((topic, 0), again);
        }
    }
    for (&lane, records) in &log.lanes {
        let records: Vec<Record> =
            records.iter().filter(|record| (from..upto).contains(&record.at.tick)).cloned().collect();
        if !records.is_empty() {
            part.lanes.entry(lane).or_default().extend(records);
        }
    }
    part
}

fn check(steps: &[Step], options: Options, seed: u64) -> Result<(), TestCaseError> {
    let log = log(steps);
    let mut dice = Dice(seed);
    let (first, end) = (START / BOUNDARY_MS, end_of(&log));
    let span = (end / BOUNDARY_MS - first) as usize;
    let mut cuts: Vec<Tick> =
        (0..3).map(|_| (first + dice.below(span) as u64) * BOUNDARY_MS + 1).chain([end]).collect();
    cuts.sort_unstable();
    let expected = run(&log, options, Plan { workers: 1, seed, rows_max: 5 }, end);
    let (mut output, mut kept, mut from) = (Output::new(), Kept::new(), 0);
    for upto in cuts.iter().copied() {
        let plan = Plan { workers: [1, 2, 4][dice.below(3)], seed: seed ^ upto, rows_max: 1 + dice.below(9) };
        for (name, changes) in resume(&part(&log, from, upto), options, plan, upto, &mut kept) {
            output.entry(name).or_default().extend(changes.into_iter().filter(|change| change.tick >= from));
        }
        from = upto;
    }
    for (name, expected) in expected {
        let found: Vec<Change> = sorted(output.remove(name).unwrap_or_default());
        let expected = sorted(expected);
        let at = (0..found.len().max(expected.len())).find(|&at| found.get(at) != expected.get(at));
        let first = at.map(|at| (found.get(at), expected.get(at)));
        prop_assert!(first.is_none(), "{} with starts at {:?}: found and expected are {:#?}", name, cuts, first);
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(96))]

    /// Everything in equal parts.
    #[test]
    fn any_log(steps in steps(EVENTS, 140), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }

    /// Duplicates across a start.
    #[test]
    fn duplicates(steps in steps(Weights { events: 50, repeats: 50, vehicles: 2, references: 2, silences: 5 }, 160), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }

    /// Silence and thresholds across a start.
    #[test]
    fn silences(steps in steps(Weights { events: 60, repeats: 0, vehicles: 20, references: 30, silences: 40 }, 100), seed in any::<u64>()) {
        check(&steps, OPTIONS, seed)?;
    }
}
