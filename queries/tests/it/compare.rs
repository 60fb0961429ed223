//! Views against the batch answer, at every tick, also after a restart in the middle.

use std::sync::Arc;

use operators::time::Tick;
use queries::plan::Node;

use crate::harness::{Changing, planned, run, ticks, with_quiet_ticks};
use crate::oracle::Oracle;

/// Why a view and the batch answer are not the same.
#[derive(Debug)]
pub enum Failure {
    /// Not planned.
    Plan(String),
    /// DataFusion itself has no answer.
    Batch(String),
    /// They differ.
    Differs(String),
}

/// Whether the view comes up after a restart too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    Never,
    InTheMiddle,
}

/// The view equals the batch answer at every tick, on each of these numbers of workers.
pub fn same(tables: &[Changing], sql: &str, workers: &[usize], restart: Restart) -> Result<(), Failure> {
    let plan = planned(tables, sql).map_err(|why| Failure::Plan(format!("{why}\n{sql}")))?;
    same_as(tables, sql, &plan, sql, workers, restart)
}

/// The view of this plan equals the answer to another text, in which what the library does not know is written otherwise.
pub fn same_as(
    tables: &[Changing],
    sql: &str,
    plan: &Arc<Node>,
    batch: &str,
    workers: &[usize],
    restart: Restart,
) -> Result<(), Failure> {
    let mut at = ticks(tables);
    if batch.contains("now()") {
        at = with_quiet_ticks(&at);
    }
    let answers = Oracle::new(tables).answers(batch, &at).map_err(|why| Failure::Batch(format!("{why}\n{batch}")))?;
    let wanted: Vec<(Tick, &[String])> = at.iter().copied().zip(answers.iter().map(Vec::as_slice)).collect();
    for workers in workers {
        compare(tables, sql, plan, *workers, &wanted)?;
    }
    if restart == Restart::InTheMiddle {
        let middle = at[at.len() / 2];
        let tables: Vec<Changing> = tables.iter().map(|table| table.restarted(middle)).collect();
        let workers = workers.iter().max().copied().unwrap_or(1);
        compare(&tables, sql, plan, workers, &wanted[at.len() / 2..])
            .map_err(|why| Failure::Differs(format!("restarted at {middle}: {why:?}")))?;
    }
    Ok(())
}

fn compare(
    tables: &[Changing],
    sql: &str,
    plan: &Arc<Node>,
    workers: usize,
    answers: &[(Tick, &[String])],
) -> Result<(), Failure> {
    let output = run(tables, std::slice::from_ref(plan), workers).pop().expect("one plan");
    for (tick, wanted) in answers {
        let found = output.at(plan, *tick);
        if found != *wanted {
            let faults = output.faults_at(*tick);
            return Err(Failure::Differs(format!(
                "at tick {tick}, {workers} workers:\n{sql}\nincremental {found:#?}\nbatch {wanted:#?}\nfaults {faults:?}"
            )));
        }
    }
    Ok(())
}
