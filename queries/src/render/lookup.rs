//! Events that look a table up: each meets the table as it stood at the event's tick, or at the event's own time, and later
//! changes do not touch it.
//!
//! Invariant: an event is kept only while the table's frontier has not passed its tick. The table is kept whole on every
//! worker, so events stay where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, BooleanArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::error::Result;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row, any_null, as_key};
use operators::time::{Tick, all_closed_before, take_before};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use super::evaluate::Stage;
use super::history::History;
use super::map::{self, Nulls, in_order, ticks};
use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::within::milliseconds;
use super::{Builder, Fault, Keyed, Rendered, Table};
use crate::plan::{Expression, Join, Kind, Meets, Node, canonical, types};
use crate::question::bytes_of;

/// Builds the join of events with a table.
pub fn lookup<'s>(builder: &mut Builder<'s>, node: &Arc<Node>, join: &Join) -> Result<Rendered<'s>> {
    let (stream, keyed, look) = prepared(builder, node, join)?;
    let (events, faults) = run(stream, keyed, look, builder.usage.gauge("Lookup"));
    builder.faults.push(faults);
    Ok(Rendered::Events(events))
}

/// The events, the rows of the table by their keys, and how they meet.
pub(super) fn prepared<'s>(
    builder: &mut Builder<'s>,
    node: &Node,
    join: &Join,
) -> Result<(Stream<'s, Tick, Batch>, Keyed<'s>, Look)> {
    let events_left = join.left.kind == Kind::Events;
    let (events, table) = if events_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
    let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
    let (events_by, table_by) = if events_left { (left_by, right_by) } else { (right_by, left_by) };
    let nulls = if join.nulls_equal { Nulls::Stay } else { Nulls::Go };
    let keyed = builder.keyed(table, &table_by, nulls)?;
    let Rendered::Events(stream) = builder.render(events)? else {
        return Err(datafusion::error::DataFusionError::Internal("events became a table".into()));
    };
    let kinds = events_by.iter().map(|by| by.data_type(&events.schema)).collect::<Result<Vec<_>>>()?;
    let both: Vec<_> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
    let as_of = match join.meets {
        Meets::AsOf { time, horizon_ms } => Some((time, horizon_ms)),
        _ => None,
    };
    let look = Look {
        events_left,
        kind: join.kind,
        by: Stage::columns(&events_by),
        keys: Codec::new(canonical(&kinds))?,
        nulls,
        table: Codec::new(table.schema.clone())?,
        absent: Codec::new(table.schema.clone())?.nulls()?,
        both: canonical(&both),
        filter: join.filter.clone().map(|filter| Stage { filter: Some(filter), columns: Vec::new() }),
        out: map::event_schema(&node.schema),
        as_of,
        history: History::new(as_of.map(|(_, horizon_ms)| horizon_ms)),
    };
    Ok((stream, keyed, look))
}

/// How events look a table up.
pub(super) struct Look {
    events_left: bool,
    kind: JoinType,
    by: Stage,
    keys: Codec,
    nulls: Nulls,
    table: Codec,
    /// A row of nulls.
    pub absent: Row,
    both: SchemaRef,
    filter: Option<Stage>,
    out: SchemaRef,
    /// Which column is the time at which the table is looked up, and how long ago that is at most.
    as_of: Option<(usize, i64)>,
    history: History,
}

/// Which event meets which row.
pub(super) struct Found<'a> {
    /// All events whose key could be computed; none is the key of those that can meet nothing.
    pub keys: Vec<(u32, Option<Row>)>,
    /// The events of the pairs.
    pub events: Vec<u32>,
    /// Their rows.
    pub rows: Vec<&'a Row>,
}

/// Batches of events by the first tick of each: many may wait while many ticks are closed.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<Tick, Vec<RecordBatch>>);

impl Waiting {
    /// Has events wait, which are in the order of their ticks.
    pub fn add(&mut self, rows: RecordBatch) {
        if let Some(first) = ticks(&rows).values().first() {
            self.0.entry(*first).or_default().push(rows);
        }
    }

    /// The first tick of all.
    pub fn first(&self) -> Option<Tick> {
        self.0.keys().next().copied()
    }

    /// Takes the events before a tick.
    pub fn before(&mut self, tick: Tick) -> Vec<RecordBatch> {
        let mut out = Vec::new();
        for rows in take_before(&mut self.0, tick).into_values().flatten() {
            let cut = ticks(&rows).values().partition_point(|at| *at < tick);
            out.push(rows.slice(0, cut));
            self.add(rows.slice(cut, rows.num_rows() - cut));
        }
        out
    }
}

fn run<'s>(
    events: Stream<'s, Tick, Batch>,
    table: Keyed<'s>,
    mut look: Look,
    gauge: Arc<Gauge>,
) -> (Stream<'s, Tick, Batch>, Table<'s>) {
    let mut builder = OperatorBuilder::new("Lookup".into(), events.scope());
    let mut events_input = builder.new_input(events, Pipeline);
    let mut table_input = builder.new_input(table.inner.broadcast(), Pipeline);
    let (mut outputs, rows, faults) = Outputs::add(&mut builder);
    builder.build(move |_| {
        let mut held: Option<[Capability<Tick>; 2]> = None;
        let mut waiting = Waiting::default();
        let mut changes: BTreeMap<Tick, Vec<((Row, Row), Diff)>> = BTreeMap::new();
        move |frontiers| {
            events_input.for_each(|time, batch| {
                batch.take().map(in_order).into_iter().for_each(|rows| waiting.add(rows));
                if held.as_ref().is_none_or(|held| time.time() < held[0].time()) {
                    held = Some([time.retain(0), time.retain(1)]);
                }
            });
            table_input.for_each(|_, updates| {
                for (data, tick, diff) in updates.drain(..) {
                    changes.entry(tick).or_default().push((data, diff));
                }
            });
            let upto = all_closed_before(frontiers);
            let mut failed: Updates = Vec::new();
            let due = take_before(&mut changes, upto);
            let mut put = |batches: Vec<RecordBatch>, held: &Option<[Capability<Tick>; 2]>| {
                if let Some(held) = held {
                    batches.into_iter().for_each(|batch| outputs.rows(&held[0], Batch::from(batch)));
                }
            };
            for (tick, changes) in due {
                put(look.work(&mut waiting, tick, &mut failed), &held);
                look.change(tick, changes);
            }
            put(look.work(&mut waiting, upto, &mut failed), &held);
            if upto != Tick::MAX {
                look.history.settle(upto);
            }
            gauge.set(look.size() + size_of(&waiting, &changes));
            if let Some(held) = &held {
                outputs.faults(&held[1], failed);
            }
            match waiting.first() {
                None => held = None,
                Some(first) => held.iter_mut().flatten().for_each(|held| held.downgrade(&first.max(*held.time()))),
            }
        }
    });
    (rows, faults)
}

/// Of what waits for its tick.
pub(super) fn size_of(events: &Waiting, changes: &BTreeMap<Tick, Vec<((Row, Row), Diff)>>) -> Size {
    let events =
        events.0.values().flatten().map(|rows| Size { rows: rows.num_rows() as i64, bytes: bytes_of(rows) as i64 });
    let changes = changes.values().flatten().map(|((key, row), _)| Size::of_pair(key, row));
    events.chain(changes).fold(Size::default(), |sum, size| sum + size)
}

impl Look {
    /// Of the table's rows.
    pub fn size(&self) -> Size {
        self.history.size()
    }

    /// Rows of the table come and go; ticks ascend.
    pub fn change(&mut self, tick: Tick, changes: Vec<((Row, Row), Diff)>) {
        self.history.settle(tick);
        for ((key, row), diff) in changes {
            self.history.change(tick, key, row, diff);
        }
    }

    /// As of which ticks these events look the table up.
    fn moments(&self, rows: &RecordBatch) -> Vec<Tick> {
        let arrived = ticks(rows).values();
        let Some((time, horizon_ms)) = self.as_of else { return arrived.to_vec() };
        let times = milliseconds(rows.column(time));
        let moment = |(at, time): (&Tick, Option<i64>)| {
            let at = *at as i64;
            time.unwrap_or(at).clamp(at.saturating_sub(horizon_ms), at).max(0) as Tick
        };
        arrived.iter().zip(times).map(moment).collect()
    }

    /// The row of an event and what it met.
    pub fn pair_of(&self, event: &Row, row: &Row) -> Row {
        if self.events_left { event.and(row) } else { row.and(event) }
    }

    /// Joins the waiting events before this tick.
    fn work(&self, waiting: &mut Waiting, before: Tick, failed: &mut Updates) -> Vec<RecordBatch> {
        let due = waiting.before(before);
        let joined = due.iter().filter_map(|rows| {
            let found = self.pairs(rows, failed);
            self.give(rows, found)
        });
        joined.collect()
    }

    /// What these events meet; all changes of the table up to their ticks have been made.
    pub fn pairs(&self, rows: &RecordBatch, failed: &mut Updates) -> Found<'_> {
        let moments = self.moments(rows);
        let at = ticks(rows).values();
        let done = self.by.evaluate(rows).expect("columns of the plan");
        failed.extend(Fault::rows("Lookup", &done.failed, |row| (at[row as usize], 1)));
        let columns: Vec<ArrayRef> = done.columns.iter().map(as_key).collect();
        let keys = self.keys.encode(&columns, done.rows.len()).expect("columns of the plan");
        // Which event meets which row.
        let (mut left, mut right): (Vec<u32>, Vec<&Row>) = (Vec::new(), Vec::new());
        let known = |index: usize| self.nulls == Nulls::Stay || !any_null(&columns, index);
        let keys = done.rows.iter().zip(keys).enumerate();
        let keys: Vec<_> = keys.map(|(index, (row, key))| (*row, known(index).then_some(key))).collect();
        for (row, key) in &keys {
            let Some(key) = key else { continue };
            for (found, count) in self.history.at(key, moments[*row as usize]) {
                for _ in 0..count {
                    left.push(*row);
                    right.push(found);
                }
            }
        }
        if let Some(filter) = &self.filter {
            let both = self.pair(rows, &left, &right);
            let done = filter.evaluate(&both).expect("columns of the plan");
            failed.extend(Fault::rows("Lookup", &done.failed, |pair| (at[left[pair as usize] as usize], 1)));
            left = done.rows.iter().map(|pair| left[*pair as usize]).collect();
            right = done.rows.iter().map(|pair| right[*pair as usize]).collect();
        }
        Found { keys, events: left, rows: right }
    }

    /// What comes out of the pairs that are left, of all events that have a key.
    fn give<'a>(&'a self, rows: &RecordBatch, found: Found<'a>) -> Option<RecordBatch> {
        let Found { keys, events: mut left, rows: mut right } = found;
        let all: Vec<u32> = keys.iter().map(|(row, _)| *row).collect();
        let mut met = vec![false; rows.num_rows()];
        left.iter().for_each(|row| met[*row as usize] = true);
        let chosen =
            |wanted: bool| all.iter().copied().filter(|row| met[*row as usize] == wanted).collect::<Vec<u32>>();
        let columns = match self.kind {
            JoinType::LeftSemi | JoinType::RightSemi => {
                left = chosen(true);
                taken(rows, &left)
            }
            JoinType::LeftAnti | JoinType::RightAnti => {
                left = chosen(false);
                taken(rows, &left)
            }
            JoinType::LeftMark | JoinType::RightMark => {
                left = all.to_vec();
                let mut columns = taken(rows, &left);
                let marks: BooleanArray = left.iter().map(|row| Some(met[*row as usize])).collect();
                columns.push(Arc::new(marks));
                columns
            }
            kind => {
                if kind != JoinType::Inner {
                    let alone = chosen(false);
                    right.extend(std::iter::repeat_n(&self.absent, alone.len()));
                    left.extend(alone);
                    let mut order: Vec<usize> = (0..left.len()).collect();
                    order.sort_by_key(|index| left[*index]);
                    right = order.iter().map(|index| right[*index]).collect();
                    left.sort_unstable();
                }
                self.pair(rows, &left, &right).columns().to_vec()
            }
        };
        if left.is_empty() {
            return None;
        }
        let mut columns = columns;
        columns.push(take(ticks(rows), &UInt32Array::from(left), None).expect("rows of the batch"));
        Some(RecordBatch::try_new(self.out.clone(), columns).expect("columns of the plan"))
    }

    /// Columns of these pairs.
    fn pair(&self, rows: &RecordBatch, left: &[u32], right: &[&Row]) -> RecordBatch {
        let events = taken(rows, left);
        let table = self.table.decode(right.iter().copied()).expect("rows of the plan").columns().to_vec();
        let columns: Vec<ArrayRef> = match self.events_left {
            true => events.into_iter().chain(table).collect(),
            false => table.into_iter().chain(events).collect(),
        };
        let options = datafusion::arrow::array::RecordBatchOptions::new().with_row_count(Some(left.len()));
        RecordBatch::try_new_with_options(self.both.clone(), columns, &options).expect("columns of the plan")
    }
}

/// The events' own columns of these rows.
fn taken(rows: &RecordBatch, which: &[u32]) -> Vec<ArrayRef> {
    let which = UInt32Array::from(which.to_vec());
    let own = rows.num_columns() - 1;
    rows.columns()[..own].iter().map(|column| take(column, &which, None).expect("rows of the batch")).collect()
}
