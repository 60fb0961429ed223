//! GROUP BY over events: whole batches go to the groups, and no row of an event is ever made.
//!
//! Invariant: as for every group, each closed tick is put out by itself; nothing is kept of an event once its tick is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::compute::take_record_batch;
use datafusion::arrow::row::Rows;
use datafusion::error::Result;
use differential_dataflow::AsCollection;
use differential_dataflow::consolidation::consolidate;
use operators::batch::{Batch, key_hash};
use operators::row::{Codec, Diff, Row, as_key};
use operators::time::{Tick, all_closed_before};
use timely::communication::Push;
use timely::dataflow::Stream;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{DistributorPact, Pipeline};
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use super::group::{Closing, Out, next};
use super::map::{in_order, ticks};
use super::outputs::Outputs;
use super::usage::{Gauge, Size};
use super::{Keyed, Table};
use crate::question::bytes_of;

/// Groups that take events in.
pub(super) trait Absorb: 'static {
    /// The columns of a batch, ready for reading.
    type Columns: 'static;

    /// Readies the columns after the keys, and tells what they take beside the batch.
    fn columns(&self, values: &RecordBatch) -> Result<(Self::Columns, Size)>;

    /// What is there before any event came; asked on the worker that has the empty key.
    fn start(&mut self, _out: &mut Out) {}

    /// The next tick at which something changes by itself.
    fn due(&self) -> Option<Tick>;

    /// What a tick ends leaves.
    fn end(&mut self, tick: Tick, out: &mut Out);

    /// Takes the changes of one tick of the table beside the events in, ordered by key and then row, before the events of the tick.
    fn change(&mut self, _tick: Tick, _changes: &[((Row, Row), Diff)], _out: &mut Out) {}

    /// Takes a row of a batch in. The key goes to `dirty` when it changes for the first time since it was put out.
    fn absorb(
        &mut self,
        tick: Tick,
        key: &[u8],
        columns: &Self::Columns,
        at: usize,
        dirty: &mut Vec<Row>,
        out: &mut Out,
    );

    /// The rows of these keys as they are now.
    fn put_out(&mut self, tick: Tick, dirty: &[Row], out: &mut Out);

    /// What is kept.
    fn size(&self) -> Size;
}

/// The first columns of a batch, as keys.
fn keys_of(rows: &RecordBatch, keys: &Codec) -> Vec<ArrayRef> {
    rows.columns()[..keys.schema().fields().len()].iter().map(as_key).collect()
}

/// Sends each row to the worker of its key, a batch a worker at a time.
struct ByKey {
    keys: Codec,
}

impl Distributor<Batch> for ByKey {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(&mut self, container: &mut Batch, time: &T, pushers: &mut [P]) {
        let Some(rows) = container.take() else { return };
        if let [only] = pushers {
            Message::push_at(&mut rows.into(), time.clone(), only);
            return;
        }
        let mut routes: Vec<Vec<u32>> = vec![Vec::new(); pushers.len()];
        let columns = keys_of(&rows, &self.keys);
        if columns.is_empty() {
            let all = (key_hash(&[]) % routes.len() as u64) as usize;
            routes[all] = (0..rows.num_rows() as u32).collect();
        } else {
            let encoded = self.keys.encode_together(&columns).expect("columns of the plan");
            for (row, key) in encoded.iter().enumerate() {
                routes[(key_hash(key.data()) % pushers.len() as u64) as usize].push(row as u32);
            }
        }
        for (route, pusher) in routes.into_iter().zip(pushers) {
            if !route.is_empty() {
                let part = take_record_batch(&rows, &UInt32Array::from(route)).expect("rows of the batch");
                Message::push_at(&mut part.into(), time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &T, _: &mut [P]) {}
}

/// Batches by the next tick of each: many may wait while many ticks are closed.
type ByTick<C> = BTreeMap<Tick, Vec<Waiting<C>>>;

/// A batch whose ticks are not all closed.
struct Waiting<C> {
    ticks: UInt64Array,
    /// None without key columns: all rows are of one group.
    keys: Option<Rows>,
    columns: C,
    /// The next row.
    at: usize,
    size: Size,
}

impl<C> Waiting<C> {
    fn new(rows: RecordBatch, codec: &Codec, groups: &impl Absorb<Columns = C>) -> Self {
        let rows = in_order(rows);
        let columns = keys_of(&rows, codec);
        let keys = (!columns.is_empty()).then(|| codec.encode_together(&columns).expect("columns of the plan"));
        let values: Vec<usize> = (columns.len()..rows.num_columns() - 1).collect();
        let values = rows.project(&values).expect("columns of the batch");
        let bytes = bytes_of(&rows) + keys.as_ref().map_or(0, Rows::size);
        let size = Size { rows: rows.num_rows() as i64, bytes: bytes as i64 };
        let (columns, taken) = groups.columns(&values).expect("columns of the plan");
        Self { ticks: ticks(&rows).clone(), keys, columns, at: 0, size: size + taken }
    }

    /// Goes to where it waits, unless it is done.
    fn wait(self, all: &mut ByTick<C>) {
        if let Some(tick) = self.ticks.values().get(self.at) {
            all.entry(*tick).or_default().push(self);
        }
    }

    /// Gives the rows of a tick to their groups.
    fn absorb(&mut self, tick: Tick, groups: &mut impl Absorb<Columns = C>, dirty: &mut Vec<Row>, out: &mut Out) {
        let end = self.at + self.ticks.values()[self.at..].partition_point(|at| *at <= tick);
        for row in self.at..end {
            match &self.keys {
                Some(keys) => groups.absorb(tick, keys.row(row).data(), &self.columns, row, dirty, out),
                None => groups.absorb(tick, &[], &self.columns, row, dirty, out),
            }
        }
        self.at = end;
    }
}

/// Groups of events: first the columns of `keys`, then what the groups take, then the tick.
pub(super) fn reduce_events<'s, G: Absorb>(
    events: Stream<'s, Tick, Batch>,
    name: &str,
    keys: Codec,
    groups: G,
    gauge: Arc<Gauge>,
) -> (Table<'s>, Table<'s>) {
    reduce_beside(events, None, name, keys, groups, gauge)
}

/// The same beside a table, which all groups see whole: every worker has it.
pub(super) fn reduce_beside<'s, G: Absorb>(
    events: Stream<'s, Tick, Batch>,
    table: Option<Keyed<'s>>,
    name: &str,
    keys: Codec,
    mut groups: G,
    gauge: Arc<Gauge>,
) -> (Table<'s>, Table<'s>) {
    let scope = events.scope();
    let (index, peers) = (scope.index() as u64, scope.peers() as u64);
    let mut builder = OperatorBuilder::new(name.into(), scope);
    let same = Codec::new(Arc::clone(keys.schema())).expect("the schema of a codec");
    let mut input = builder.new_input(events, DistributorPact(move |_| ByKey { keys: same }));
    let mut table = table.map(|table| builder.new_input(table.inner.broadcast(), Pipeline));
    let (outputs, rows, faults) = Outputs::add(&mut builder);
    builder.build(move |capabilities| {
        let mut starting = key_hash(&[]) % peers == index;
        let mut closing = Closing::new(outputs, capabilities);
        let mut waiting: ByTick<G::Columns> = BTreeMap::new();
        let mut beside: BTreeMap<Tick, Vec<((Row, Row), Diff)>> = BTreeMap::new();
        move |frontiers| {
            input.for_each(|_, batch| {
                if let Some(rows) = batch.take() {
                    Waiting::new(rows, &keys, &groups).wait(&mut waiting);
                }
            });
            table.iter_mut().for_each(|table| {
                table.for_each(|_, updates| {
                    updates.drain(..).for_each(|(data, tick, diff)| beside.entry(tick).or_default().push((data, diff)));
                });
            });
            let upto = all_closed_before(frontiers);
            let mut out = Out::default();
            if starting && upto > 0 {
                starting = false;
                groups.start(&mut out);
                closing.take(0, &mut out);
            }
            let mut dirty = Vec::new();
            let first = |waiting: &ByTick<G::Columns>, beside: &BTreeMap<Tick, _>| {
                waiting.keys().next().into_iter().chain(beside.keys().next()).min().copied()
            };
            while let Some(tick) = next(first(&waiting, &beside), groups.due(), upto) {
                groups.end(tick, &mut out);
                if let Some(mut changes) = beside.remove(&tick) {
                    consolidate(&mut changes);
                    groups.change(tick, &changes, &mut out);
                }
                for mut batch in waiting.remove(&tick).into_iter().flatten() {
                    batch.absorb(tick, &mut groups, &mut dirty, &mut out);
                    batch.wait(&mut waiting);
                }
                groups.put_out(tick, &dirty, &mut out);
                dirty.clear();
                closing.take(tick, &mut out);
            }
            let size = waiting.values().flatten().fold(groups.size(), |sum, batch| sum + batch.size);
            let changes = beside.values().flatten().map(|((key, row), _)| Size::of_pair(key, row));
            gauge.set(changes.fold(size, |sum, size| sum + size));
            closing.close(upto);
        }
    });
    (rows.as_collection(), faults)
}
