//! Events that met no row of a table wait for one: the first that comes within the horizon takes the place of nothing.
//!
//! Invariant: what an event has met is final. Only events that met none are kept, and those for the horizon.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::common::JoinType;
use datafusion::error::Result;
use differential_dataflow::AsCollection;
use hashbrown::HashMap;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row, count};
use operators::time::{Tick, all_closed_before, take_before};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use super::group::Closing;
use super::lookup::{Look, Waiting, prepared, size_of};
use super::map::{self, in_order, ticks};
use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::{Builder, Keyed, Rendered, Table};
use crate::plan::{Join, Kind, Node};

/// Builds the join of events with a table that corrects.
pub fn correct<'s>(builder: &mut Builder<'s>, node: &Arc<Node>, join: &Join, horizon_ms: i64) -> Result<Rendered<'s>> {
    let (events, table, look) = prepared(builder, node, join)?;
    let input = if join.left.kind == Kind::Events { &join.left } else { &join.right };
    let correcting = Correcting {
        look,
        codec: Codec::new(input.schema.clone())?,
        schema: map::event_schema(&input.schema),
        outer: join.kind != JoinType::Inner,
        horizon: horizon_ms.max(0) as Tick,
        waiting: HashMap::default(),
        leaving: BTreeMap::new(),
        size: Size::default(),
    };
    let (rows, faults) = run(events, table, correcting, builder.usage.gauge("Correct"));
    builder.faults.push(faults);
    Ok(Rendered::Table(rows))
}

fn run<'s>(
    events: Stream<'s, Tick, Batch>,
    table: Keyed<'s>,
    mut correcting: Correcting,
    gauge: Arc<Gauge>,
) -> (Table<'s>, Table<'s>) {
    let mut builder = OperatorBuilder::new("Correct".into(), events.scope());
    let mut events_input = builder.new_input(events, Pipeline);
    let mut table_input = builder.new_input(table.inner.broadcast(), Pipeline);
    let (outputs, rows, faults) = Outputs::<Updates>::add(&mut builder);
    builder.build(move |capabilities| {
        let mut closing = Closing::new(outputs, capabilities);
        let mut arrived = Waiting::default();
        let mut changes: BTreeMap<Tick, Vec<((Row, Row), Diff)>> = BTreeMap::new();
        move |frontiers| {
            events_input.for_each(|_, batch| {
                batch.take().map(in_order).into_iter().for_each(|rows| arrived.add(rows));
            });
            table_input.for_each(|_, updates| {
                for (data, tick, diff) in updates.drain(..) {
                    changes.entry(tick).or_default().push((data, diff));
                }
            });
            let upto = all_closed_before(frontiers);
            let (mut out, mut failed): (Updates, Updates) = (Vec::new(), Vec::new());
            for (tick, changes) in take_before(&mut changes, upto) {
                arrived.before(tick).iter().for_each(|rows| correcting.arrive(rows, &mut out, &mut failed));
                correcting.change(tick, changes, &mut out, &mut failed);
            }
            arrived.before(upto).iter().for_each(|rows| correcting.arrive(rows, &mut out, &mut failed));
            closing.add(out, failed);
            closing.close(upto);
            if upto != Tick::MAX {
                correcting.forget(upto);
            }
            gauge.set(correcting.look.size() + correcting.size + size_of(&arrived, &changes));
        }
    });
    (rows.as_collection(), faults)
}

struct Correcting {
    look: Look,
    /// Of the events' own columns.
    codec: Codec,
    /// The same, and the tick.
    schema: SchemaRef,
    /// Whether an event that meets no row comes out with nulls.
    outer: bool,
    horizon: Tick,
    /// Events that met no row, by their key and the tick at which they leave.
    waiting: HashMap<Row, BTreeMap<(Tick, Row), Diff>, foldhash::fast::FixedState>,
    /// What leaves at which tick.
    leaving: BTreeMap<Tick, Vec<(Row, Row)>>,
    /// Of the events that wait.
    size: Size,
}

/// Of an event's place among those that leave.
const LEAVING: Size = Size { rows: 0, bytes: 48 };

impl Correcting {
    /// Events come and meet the table as it is.
    fn arrive(&mut self, rows: &RecordBatch, out: &mut Updates, failed: &mut Updates) {
        let at = ticks(rows).values();
        let found = self.look.pairs(rows, failed);
        let own = &rows.columns()[..rows.num_columns() - 1];
        let events = self.codec.encode(own, rows.num_rows()).expect("columns of the plan");
        let mut met = vec![false; rows.num_rows()];
        for (row, other) in found.events.iter().zip(&found.rows) {
            met[*row as usize] = true;
            out.push((self.look.pair_of(&events[*row as usize], other), at[*row as usize], 1));
        }
        for (row, key) in found.keys.into_iter().filter(|(row, _)| !met[*row as usize]) {
            let (event, tick) = (&events[row as usize], at[row as usize]);
            if self.outer {
                out.push((self.look.pair_of(event, &self.look.absent), tick, 1));
            }
            let Some(key) = key else { continue };
            let leaves = tick.saturating_add(self.horizon);
            let size = Size::of_pair(&key, event);
            let waiting = self.waiting.entry(key.clone()).or_default();
            self.size += size * count(waiting, (leaves, event.clone()), 1) + LEAVING;
            self.leaving.entry(leaves).or_default().push((key, event.clone()));
        }
    }

    /// The table changes, and events that waited for its rows meet them.
    fn change(&mut self, tick: Tick, changes: Vec<((Row, Row), Diff)>, out: &mut Updates, failed: &mut Updates) {
        self.forget(tick);
        let keys: BTreeSet<Row> = changes.iter().map(|((key, _), _)| key.clone()).collect();
        self.look.change(tick, changes);
        for key in keys {
            let Some(waiting) = self.waiting.get(&key) else { continue };
            let own = self.codec.decode(waiting.keys().map(|(_, event)| event)).expect("rows of the plan");
            let mut columns = own.columns().to_vec();
            columns.push(Arc::new(UInt64Array::from(vec![tick; waiting.len()])) as ArrayRef);
            let rows = RecordBatch::try_new(self.schema.clone(), columns).expect("columns of the plan");
            let found = self.look.pairs(&rows, failed);
            let waiting: Vec<(&(Tick, Row), &Diff)> = waiting.iter().collect();
            let mut met = BTreeSet::new();
            for (row, other) in found.events.iter().zip(&found.rows) {
                let (place, times) = waiting[*row as usize];
                if met.insert(place.clone()) && self.outer {
                    out.push((self.look.pair_of(&place.1, &self.look.absent), tick, -times));
                }
                out.push((self.look.pair_of(&place.1, other), tick, *times));
            }
            met.iter().for_each(|place| self.take(&key, place));
        }
    }

    /// An event waits no more.
    fn take(&mut self, key: &Row, place: &(Tick, Row)) {
        let Some(waiting) = self.waiting.get_mut(key) else { return };
        if waiting.remove(place).is_some() {
            self.size -= Size::of_pair(key, &place.1);
        }
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
    }

    /// Events that waited for the horizon leave.
    fn forget(&mut self, tick: Tick) {
        for (leaves, events) in take_before(&mut self.leaving, tick.saturating_add(1)) {
            self.size -= LEAVING * events.len() as Diff;
            events.into_iter().for_each(|(key, event)| self.take(&key, &(leaves, event)));
        }
    }
}
