//! What one worker gives to a checkpoint: how far its partitions are, the rows of tables that came, and what its operators keep.
//!
//! Invariant: a cut at tick T holds everything of ticks before T since the cut before, and nothing of T and later.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::{Int64Array, RecordBatch, UInt64Array};
use operators::batch::{OFFSET, PARTITION, TICK, i32s, i64s, u64s};
use operators::durable::States;
use operators::record::Stream;
use operators::time::Tick;

use crate::checkpoint::{Changes, NodeId};

/// A partition of a stream's topic.
pub type Lane = (Stream, i32);

/// What a worker has for a checkpoint.
#[derive(Debug)]
pub struct Cut {
    /// Everything before this tick is in it.
    pub tick: Tick,
    /// Offset of the first record that is not, by partition.
    pub positions: BTreeMap<Lane, i64>,
    /// Rows of tables, by stream, as they came.
    pub tables: BTreeMap<Stream, Vec<RecordBatch>>,
    /// What operators keep that changed.
    pub changes: Changes,
}

/// Collects it while a worker takes records in.
pub struct Cutter {
    states: States,
    /// Hash of the plan by the state's name.
    plans: BTreeMap<&'static str, u128>,
    lanes: BTreeMap<Lane, Standing>,
    tables: BTreeMap<Stream, Vec<RecordBatch>>,
}

/// Where a partition stands.
#[derive(Default)]
struct Standing {
    /// Offset after the last record before the frontier.
    next: i64,
    /// Ticks and offsets of records, batch by batch, those of either decoded or refused ones in order.
    waiting: VecDeque<(UInt64Array, Int64Array)>,
}

impl Standing {
    /// The offset of the first record that is not before `tick`.
    fn before(&mut self, tick: Tick) -> i64 {
        let mut first = None;
        for (ticks, offsets) in &self.waiting {
            let at = ticks.values().partition_point(|&of| of < tick);
            if at > 0 {
                self.next = self.next.max(offsets.value(at - 1) + 1);
            }
            if at < ticks.len() {
                first = Some(first.map_or(offsets.value(at), |first: i64| first.min(offsets.value(at))));
            }
        }
        self.waiting.retain(|(ticks, _)| ticks.values().last().is_some_and(|&last| last >= tick));
        first.unwrap_or(self.next)
    }
}

impl Cutter {
    /// Of a worker whose partitions stand at these offsets.
    #[must_use]
    pub fn new(
        states: States,
        plans: BTreeMap<&'static str, u128>,
        positions: impl IntoIterator<Item = (Lane, i64)>,
    ) -> Self {
        let standing = |(lane, next)| (lane, Standing { next, waiting: VecDeque::new() });
        let lanes = positions.into_iter().map(standing).collect();
        Self { states, plans, lanes, tables: BTreeMap::new() }
    }

    /// Rows are taken in.
    pub fn rows(&mut self, stream: Stream, rows: &RecordBatch) {
        if rows.num_rows() == 0 {
            return;
        }
        let lane = (stream, i32s(rows, PARTITION).value(0));
        self.note(lane, u64s(rows, TICK).clone(), i64s(rows, OFFSET).clone());
        if stream.is_table() {
            self.tables.entry(stream).or_default().push(rows.clone());
        }
    }

    /// Refused records are taken in.
    pub fn rejected(&mut self, stream: Stream, rows: &RecordBatch) {
        if rows.num_rows() > 0 {
            let lane = (stream, i32s(rows, "partition").value(0));
            self.note(lane, u64s(rows, TICK).clone(), i64s(rows, "offset").clone());
        }
    }

    fn note(&mut self, lane: Lane, ticks: UInt64Array, offsets: Int64Array) {
        self.lanes.entry(lane).or_default().waiting.push_back((ticks, offsets));
    }

    /// Lets go of what is only needed for a cut before this tick.
    pub fn passed(&mut self, frontier: Tick) {
        for standing in self.lanes.values_mut() {
            while let Some((ticks, offsets)) = standing.waiting.front()
                && ticks.values().last().is_none_or(|&last| last < frontier)
            {
                standing.next = standing.next.max(offsets.values().last().map_or(0, |last| last + 1));
                standing.waiting.pop_front();
            }
        }
    }

    /// Cuts at a tick, when operators have worked off everything before it and nothing else.
    pub fn cut(&mut self, tick: Tick) -> Cut {
        let mut changes = Changes::new();
        let plans = &self.plans;
        self.states.changed(|node, key, value| {
            let plan = plans.get(node).copied().expect("every state of the main job has a plan");
            changes.put(NodeId::of(node, plan), 0, key, value);
        });
        let mut tables: BTreeMap<Stream, Vec<RecordBatch>> = BTreeMap::new();
        for (stream, batches) in &mut self.tables {
            let all = std::mem::take(batches);
            for rows in all {
                let at = u64s(&rows, TICK).values().partition_point(|&of| of < tick);
                if at > 0 {
                    tables.entry(*stream).or_default().push(rows.slice(0, at));
                }
                if at < rows.num_rows() {
                    batches.push(rows.slice(at, rows.num_rows() - at));
                }
            }
        }
        let positions = self.lanes.iter_mut().map(|(&lane, standing)| (lane, standing.before(tick))).collect();
        Cut { tick, positions, tables, changes }
    }
}
