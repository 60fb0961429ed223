//! The target that fails on order, and the sink that writes to it; with several flights it wants what the contract says of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use operators::batch::{DELETED, bools, i64s, strings};
use operators::time::Tick;

use super::super::{Feed, ticks};
use crate::step::{Rows, Sink, SinkError, Step};

/// What the next attempt to write comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    /// Everything is written.
    Written,
    /// Nothing is written.
    Away,
    /// The first half of the rows is written, then the target goes away.
    Half,
    /// Everything is written, the answer is lost.
    AnswerLost,
    /// Nothing is written, and trying again is said not to help.
    Refused,
    /// Neither success nor failure.
    Silent,
}

/// What the target holds, kept over restarts of the sink.
#[derive(Default)]
pub(super) struct Target {
    pub(super) outcomes: Vec<Outcome>,
    /// How often each event was in a step that succeeded.
    pub(super) events: BTreeMap<i64, u32>,
    /// The newest version of each key that any attempt wrote, with its value or none if it is deleted.
    pub(super) table: BTreeMap<String, (Tick, Option<i64>)>,
    /// Ticks of the last step that succeeded, by lane.
    pub(super) applied: HashMap<(&'static str, usize), (Tick, Tick)>,
    pub(super) opened: u32,
    pub(super) steps: Vec<(&'static str, usize, usize)>,
    pub(super) feed: Arc<OnceLock<Feed>>,
    /// Steps that were launched and have not landed.
    pub(super) air: VecDeque<Vec<Step>>,
    /// Most flights that there were at once.
    pub(super) air_max: usize,
    /// Whether flights give no answer, for now or until the oldest is applied.
    pub(super) grounded: bool,
    /// Whether a flight failed, so that all have to be applied before the next is launched.
    pub(super) fallen: bool,
}

impl Target {
    fn write(&mut self, rows: &Rows, count: usize) {
        let Rows::Upsert(batch) = rows else { return };
        let mut seen = HashMap::new();
        for row in 0..batch.num_rows() {
            let key = strings(batch, "key").value(row).to_owned();
            assert_eq!(seen.insert(key.clone(), row), None, "a key stands once in a step");
            if row >= count {
                continue;
            }
            let tick = ticks(batch).value(row);
            let value = (!bools(batch, DELETED).value(row)).then(|| i64s(batch, "value").value(row));
            let present = self.table.entry(key).or_insert((0, None));
            if tick >= present.0 {
                *present = (tick, value);
            }
        }
    }

    fn apply(&mut self, step: &Step, outcome: Outcome) {
        let written = match outcome {
            Outcome::Written | Outcome::AnswerLost => usize::MAX,
            Outcome::Half => step.len() / 2,
            Outcome::Away | Outcome::Refused | Outcome::Silent => 0,
        };
        let last = self.applied.get(&(step.stream, step.worker)).copied().unwrap_or((0, 0));
        // A step comes again when one that was written together with it failed.
        let known = last.1 != 0 && last == (step.from, step.upto);
        assert!(known || step.from == last.1, "{}..{} follows on {last:?}", step.from, step.upto);
        assert!(step.upto > step.from);
        assert!(!step.is_empty(), "there are no empty steps");
        for rows in &step.rows {
            let durable = self.feed.get().map_or(0, |feed| feed.durable(step.stream, step.worker));
            for &tick in ticks(rows.batch()).values() {
                assert!((step.from..step.upto).contains(&tick), "{tick} in {}..{}", step.from, step.upto);
                assert!(tick >= durable, "{tick} is not written, but all before {durable} is said to be");
            }
            self.write(rows, written);
        }
    }

    fn done(&mut self, step: &Step) {
        if self.applied.insert((step.stream, step.worker), (step.from, step.upto)) == Some((step.from, step.upto)) {
            return;
        }
        self.steps.push((step.stream, step.worker, step.len()));
        for rows in &step.rows {
            if let Rows::Append(batch) = rows {
                for &id in i64s(batch, "id").values() {
                    *self.events.entry(id).or_default() += 1;
                }
            }
        }
    }
}

/// Which steps, whatever is in them.
fn numbers(steps: &[Step]) -> Vec<(&'static str, usize, Tick, Tick)> {
    steps.iter().map(|step| (step.stream, step.worker, step.from, step.upto)).collect()
}

fn came_to(outcome: Outcome) -> Result<(), SinkError> {
    let (target, why) = ("the test's target".to_owned(), format!("{outcome:?}"));
    match outcome {
        Outcome::Written => Ok(()),
        Outcome::Refused => Err(SinkError::Refused { target, why }),
        _ => Err(SinkError::Unavailable { target, why }),
    }
}

pub(super) struct Failing<const FLIGHTS: usize>(Arc<Mutex<Target>>);

impl<const FLIGHTS: usize> Failing<FLIGHTS> {
    /// A sink as a process has that comes up: with nothing under way.
    pub(super) fn new(target: Arc<Mutex<Target>>) -> Self {
        {
            let mut target = target.lock().unwrap();
            target.air.clear();
            target.fallen = false;
        }
        Self(target)
    }

    fn target(&self) -> MutexGuard<'_, Target> {
        self.0.lock().unwrap()
    }
}

impl<const FLIGHTS: usize> Sink for Failing<FLIGHTS> {
    const FLIGHTS_MAX: usize = FLIGHTS;

    fn name(&self) -> &'static str {
        "failing"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.target().opened += 1;
        Ok(())
    }

    async fn applied(&mut self, stream: &'static str, worker: usize) -> Result<Option<Tick>, SinkError> {
        Ok(self.target().applied.get(&(stream, worker)).map(|step| step.1))
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        tokio::task::yield_now().await;
        let outcome = {
            let mut target = self.target();
            let outcome = target.outcomes.pop().unwrap_or(Outcome::Written);
            target.apply(step, outcome);
            if matches!(outcome, Outcome::Written) {
                target.done(step);
            }
            outcome
        };
        if matches!(outcome, Outcome::Silent) {
            std::future::pending::<()>().await;
        }
        came_to(outcome)
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        {
            let target = self.target();
            let flight = target.air.front();
            assert!(
                flight.is_none() || target.fallen || target.grounded,
                "nothing is applied while all goes well with flights"
            );
            assert!(flight.is_none_or(|flight| numbers(flight) == numbers(steps)), "the oldest flight comes first");
        }
        for step in steps {
            self.apply(step).await?;
        }
        let mut target = self.target();
        target.air.pop_front();
        target.fallen |= std::mem::take(&mut target.grounded);
        target.fallen &= !target.air.is_empty();
        Ok(())
    }

    async fn launch(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        tokio::task::yield_now().await;
        let outcome = {
            let mut target = self.target();
            assert!(FLIGHTS > 1 && target.air.len() < FLIGHTS && !target.fallen);
            assert!(steps.iter().flat_map(|step| &step.rows).all(|rows| matches!(rows, Rows::Append(_))));
            let outcome = target.outcomes.pop().unwrap_or(Outcome::Written);
            // One that could not be launched is there or not, as with a sink that is cut off before or after.
            if !matches!(outcome, Outcome::Away) {
                target.air.push_back(steps.to_vec());
                target.air_max = target.air_max.max(target.air.len());
            }
            target.fallen = !matches!(outcome, Outcome::Written) && !target.air.is_empty();
            outcome
        };
        if matches!(outcome, Outcome::Silent) {
            std::future::pending::<()>().await;
        }
        came_to(outcome)
    }

    async fn landed(&mut self) -> Result<(), SinkError> {
        // Cut off here, nothing has happened.
        tokio::task::yield_now().await;
        while self.target().grounded {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut target = self.target();
        assert!(!target.fallen, "after an error flights are applied");
        let Some(steps) = target.air.front().cloned() else { return Ok(()) };
        let outcome = target.outcomes.pop().unwrap_or(Outcome::Written);
        steps.iter().for_each(|step| target.apply(step, outcome));
        if matches!(outcome, Outcome::Written) {
            steps.iter().for_each(|step| target.done(step));
            target.air.pop_front();
        }
        target.fallen = !matches!(outcome, Outcome::Written);
        came_to(outcome)
    }
}
