//! Puts a table's changes together over a window of ticks: of each key only the newest change within the window goes on. What
//! the edge's deltas and bulk writes are made of. What is held is in proportion to the keys that change, not to the changes.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{interleave_record_batch, take_record_batch};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, DELETED, TICK, bools, by_key, strings, u64s};
use crate::keyed::{Key, Keyed};
use crate::time::{Tick, closed_before, round_up, take_before};

/// The newest change of each key per window, put out when the window of `window_ms` (milliseconds of ticks) has ended, spread
/// by key; `key` is the name of the text column that tells rows apart.
/// Rows keep the ticks of their changes.
pub fn conflate<'s>(changes: Stream<'s, Tick, Batch>, key: &'static str, window_ms: u64) -> Stream<'s, Tick, Batch> {
    changes.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(by_key(key), "Conflate", move |capability, _| {
        let mut capability = Some(capability);
        let mut open: BTreeMap<Tick, Window> = BTreeMap::new();
        // Of a window that has ended: the next one has about as many keys.
        let mut spare = Keyed::default();
        move |(input, frontier), output| {
            input.for_each(|_, batch| {
                for (end, rows) in batch.take().into_iter().flat_map(|rows| by_window(rows, window_ms)) {
                    open.entry(end).or_insert_with(|| Window::new(std::mem::take(&mut spare))).add(rows, key);
                }
            });
            let Some(held) = &mut capability else { return };
            let upto = closed_before(frontier.frontier());
            for (_, mut window) in take_before(&mut open, upto) {
                let mut session = output.session(held);
                window.take().into_iter().for_each(|rows| session.give_container(&mut rows.into()));
                window.newest.clear();
                spare = window.newest;
            }
            // Held rows keep their ticks, which lie before their window's end.
            let from = open.values().map(|window| window.first).min().unwrap_or(upto).min(upto);
            if from == Tick::MAX {
                capability = None;
            } else if from > *held.time() {
                held.downgrade(&from);
            }
        }
    })
}

/// The rows of a batch by the end of their window.
fn by_window(rows: RecordBatch, window_ms: u64) -> Vec<(Tick, RecordBatch)> {
    let ticks = u64s(&rows, TICK).values();
    let mut indices: BTreeMap<Tick, Vec<u32>> = BTreeMap::new();
    for (row, &tick) in ticks.iter().enumerate() {
        indices.entry(round_up(tick, window_ms)).or_default().push(row as u32);
    }
    if let [(&end, _)] = indices.iter().collect::<Vec<_>>()[..] {
        return vec![(end, rows)];
    }
    let part = |indices: Vec<u32>| {
        take_record_batch(&rows, &UInt32Array::from(indices)).expect("indices lie within the batch")
    };
    indices.into_iter().map(|(end, indices)| (end, part(indices))).collect()
}

/// Rows held beyond twice the number of keys before the outdated ones are let go.
const OUTDATED_ROWS_MAX: usize = 32_768;

/// Changes within one window.
struct Window {
    /// The least tick of its rows.
    first: Tick,
    batches: Vec<RecordBatch>,
    rows: usize,
    newest: Keyed<Newest>,
}

/// The newest change of a key, and where its row stands.
#[derive(Clone, Copy)]
struct Newest {
    tick: Tick,
    upsert: bool,
    batch: u32,
    row: u32,
}

impl Window {
    fn new(newest: Keyed<Newest>) -> Self {
        Self { first: Tick::MAX, batches: Vec::new(), rows: 0, newest }
    }

    fn add(&mut self, rows: RecordBatch, key: &str) {
        let (keys, ticks, deleted) = (strings(&rows, key), u64s(&rows, TICK).values(), bools(&rows, DELETED));
        let batch = self.batches.len() as u32;
        for (row, &tick) in ticks.iter().enumerate() {
            self.first = self.first.min(tick);
            let new = Newest { tick, upsert: !deleted.value(row), batch, row: row as u32 };
            let slot = self.newest.slot(&Key::new(keys.value(row)), || new);
            let held = self.newest.get_mut(slot);
            if (new.tick, new.upsert) >= (held.tick, held.upsert) {
                *held = new;
            }
        }
        self.rows += rows.num_rows();
        self.batches.push(rows);
        if self.rows > 2 * self.newest.len() + OUTDATED_ROWS_MAX {
            self.let_go();
        }
    }

    /// What the window amounts to: the batches as they came if no key has two rows.
    fn take(&mut self) -> Vec<RecordBatch> {
        if self.rows == self.newest.len() { std::mem::take(&mut self.batches) } else { vec![self.newest_rows()] }
    }

    /// Keeps only the rows that are the newest of their key.
    fn let_go(&mut self) {
        let rows = self.newest_rows();
        let slots = self.order();
        for (row, slot) in slots.into_iter().enumerate() {
            let newest = self.newest.get_mut(slot);
            (newest.batch, newest.row) = (0, row as u32);
        }
        self.rows = rows.num_rows();
        self.batches = vec![rows];
    }

    /// Slots in an order that depends on the keys alone.
    fn order(&self) -> Vec<u32> {
        let mut slots: Vec<(u64, u32)> = self.newest.iter().map(|(slot, _)| (self.newest.hash(slot), slot)).collect();
        slots.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| self.newest.text(a.1).cmp(self.newest.text(b.1))));
        slots.into_iter().map(|(_, slot)| slot).collect()
    }

    fn newest_rows(&self) -> RecordBatch {
        let place = |slot: u32| (self.newest.get(slot).batch as usize, self.newest.get(slot).row as usize);
        let places: Vec<(usize, usize)> = self.order().into_iter().map(place).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        interleave_record_batch(&batches, &places).expect("batches of one stream")
    }
}
