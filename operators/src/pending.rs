//! Rows that wait until the frontier has passed their ticks, and the canonical order in which they are then worked on:
//! by tick, within a tick by partition, within a partition as they came. Output that follows this order depends on the log
//! alone, not on batching, interleaving or the number of workers.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::RecordBatch;

use crate::batch::{PARTITION, TICK, i32s, u64s};
use crate::time::Tick;

/// Rows of one portion that follow each other in canonical order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Index into [`Closed::portions`].
    pub portion: usize,
    /// First row of the run.
    pub start: usize,
    /// Row after the last one.
    pub end: usize,
}

/// Rows whose ticks the frontier has passed.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// Parts of the batches as they came, cut at the frontier, none copied.
    pub portions: Vec<RecordBatch>,
    /// The canonical order over all portions.
    pub runs: Vec<Run>,
}

/// Batches held back until their ticks are closed. Batches of one partition must be pushed in offset order with
/// non-decreasing ticks, as readers deliver them; a batch holds rows of one partition.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// By partition, so that lanes are merged in a fixed order.
    lanes: BTreeMap<i32, VecDeque<RecordBatch>>,
    rows: usize,
}

impl Pending {
    /// Holds a batch back.
    pub fn push(&mut self, rows: RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        let lane = if rows.column_by_name(PARTITION).is_some() { i32s(&rows, PARTITION).value(0) } else { 0 };
        self.rows += rows.num_rows();
        self.lanes.entry(lane).or_default().push_back(rows);
    }

    /// Holds batches back.
    pub fn extend(&mut self, batches: impl IntoIterator<Item = RecordBatch>) {
        batches.into_iter().for_each(|rows| self.push(rows));
    }

    /// Rows held back.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Takes every row with a tick before `upto`.
    pub fn close(&mut self, upto: Tick) -> Closed {
        let mut closed = Closed::default();
        let mut lanes = Vec::new();
        for queue in self.lanes.values_mut() {
            let first = closed.portions.len();
            while let Some(rows) = queue.front() {
                let ticks = u64s(rows, TICK).values();
                let cut = ticks.partition_point(|&tick| tick < upto);
                if cut == ticks.len() {
                    closed.portions.extend(queue.pop_front());
                    continue;
                }
                if cut > 0 {
                    let rest = rows.slice(cut, ticks.len() - cut);
                    closed.portions.push(rows.slice(0, cut));
                    queue[0] = rest;
                }
                break;
            }
            if closed.portions.len() > first {
                lanes.push((first, closed.portions.len()));
            }
        }
        self.lanes.retain(|_, queue| !queue.is_empty());
        self.rows -= closed.portions.iter().map(RecordBatch::num_rows).sum::<usize>();
        closed.runs = merge(&closed.portions, &lanes);
        closed
    }
}

/// Merges lanes of portions (ranges of portion indices) by tick; of equal ticks the earlier lane comes first.
fn merge(portions: &[RecordBatch], lanes: &[(usize, usize)]) -> Vec<Run> {
    let whole = |portion: usize| Run { portion, start: 0, end: portions[portion].num_rows() };
    if let [(first, last)] = lanes {
        return (*first..*last).map(whole).collect();
    }
    let ticks: Vec<&[u64]> = portions.iter().map(|rows| &u64s(rows, TICK).values()[..]).collect();
    // Where each lane stands: portion, row, end of the lane.
    let mut heads: Vec<(usize, usize, usize)> = lanes.iter().map(|&(first, last)| (first, 0, last)).collect();
    let mut runs = Vec::new();
    while !heads.is_empty() {
        let tick_of = |&(portion, row, _): &(usize, usize, usize)| ticks[portion][row];
        let lane = (0..heads.len()).min_by_key(|&lane| (tick_of(&heads[lane]), lane)).expect("there is a lane");
        // The run goes on until another lane's head comes first.
        let before = heads[..lane].iter().map(tick_of).min().unwrap_or(Tick::MAX);
        let after = heads[lane + 1..].iter().map(tick_of).min().map_or(Tick::MAX, |tick| tick.saturating_add(1));
        let bound = before.min(after);
        let (portion, start, last) = heads[lane];
        let end = start + ticks[portion][start..].partition_point(|&tick| tick < bound);
        runs.push(Run { portion, start, end });
        if end < ticks[portion].len() {
            heads[lane].1 = end;
        } else if portion + 1 < last {
            heads[lane] = (portion + 1, 0, last);
        } else {
            heads.remove(lane);
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int32Array, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn batch(partition: i32, ticks: &[u64]) -> RecordBatch {
        let fields = vec![Field::new(PARTITION, DataType::Int32, false), Field::new(TICK, DataType::UInt64, false)];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(Int32Array::from(vec![partition; ticks.len()])), Arc::new(UInt64Array::from(ticks.to_vec()))];
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("columns match")
    }

    proptest! {
        /// Catches rows lost or doubled at a cut, and any order that depends on how the log was cut into batches.
        #[test]
        fn order_is_that_of_one_sort(
            lanes in proptest::collection::vec(proptest::collection::vec(0u64..50, 0..40), 1..5),
            cuts in proptest::collection::vec(1usize..9, 1..20),
            closes in proptest::collection::vec(0u64..60, 1..6),
        ) {
            let mut pending = Pending::default();
            let mut expected = Vec::new();
            for (partition, ticks) in lanes.iter().enumerate() {
                let mut ticks = ticks.clone();
                ticks.sort_unstable();
                expected.extend(ticks.iter().map(|&tick| (tick, partition as i32)));
                let mut rest = &ticks[..];
                for &cut in cuts.iter().cycle() {
                    if rest.is_empty() { break; }
                    let (head, tail) = rest.split_at(cut.min(rest.len()));
                    pending.push(batch(partition as i32, head));
                    rest = tail;
                }
            }
            expected.sort_unstable();
            let mut bounds = closes;
            bounds.sort_unstable();
            bounds.push(u64::MAX);
            let mut seen = Vec::new();
            for upto in bounds {
                let closed = pending.close(upto);
                for run in &closed.runs {
                    let rows = &closed.portions[run.portion];
                    for row in run.start..run.end {
                        let tick = u64s(rows, TICK).value(row);
                        prop_assert!(tick < upto);
                        seen.push((tick, i32s(rows, PARTITION).value(row)));
                    }
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(pending.rows(), 0);
        }
    }
}
