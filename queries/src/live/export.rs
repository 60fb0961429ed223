//! The streams of the main job as SQL sees them, handed to ports and to the keeper.
//!
//! Invariant: an event that nobody wants costs nothing; a table is kept, for who comes later needs its content.

use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, SchemaRef, UInt64Type};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use operators::batch::{Batch, DELETED, TICK, key_hash};
use operators::newest::{newest, newest_of_first};
use operators::record::declared::Declared;
use operators::row::{Codec, Row};
use operators::time::{Tick, closed_before};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::{ProbeHandle, Stream};
use timely::progress::frontier::AntichainRef;

use super::keep::{Held, Keeper};
use super::port::{Parcel, Port, Updates};
use crate::catalog::{Core, seen};
use crate::render::event_schema;

/// What a stream goes to.
pub(super) struct Exit {
    pub port: Rc<Port>,
    pub held: Arc<Held>,
    pub keeper: Keeper,
    pub worker: usize,
    /// The frontier that was told last.
    pub told: Tick,
}

impl Exit {
    pub(super) fn put(&self, updates: Updates) {
        if updates.is_empty() {
            return;
        }
        self.port.seen(updates.iter().map(|(_, tick, _)| *tick).max().unwrap_or(0));
        if self.port.is_wanted() {
            self.port.put(&Parcel::Updates(updates.clone()));
        }
        self.held.put(updates);
    }

    /// Tells how far the stream is, if it has come further.
    pub(super) fn follow(&mut self, frontier: AntichainRef<'_, Tick>) {
        let upto = closed_before(frontier);
        if upto > self.told {
            self.told = upto;
            self.port.advance(upto);
            self.held.advance(self.worker, upto);
            self.keeper.wake();
        }
    }
}

/// Hands a stream of events over.
pub(super) fn exit_events<'s>(events: Stream<'s, Tick, Batch>, mut exit: Exit) -> Stream<'s, Tick, Batch> {
    let codec = Codec::new(exit.held.schema.clone()).expect("a schema of rows");
    events.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "ExitEvents", move |_, _| {
        move |(input, frontier), _output| {
            input.for_each(|_, batch| {
                let Some(rows) = batch.take() else { return };
                let ticks = rows.column(rows.num_columns() - 1).as_primitive::<UInt64Type>().values().clone();
                exit.port.seen(ticks.iter().copied().max().unwrap_or(0));
                if exit.held.is_wanted() {
                    let own = &rows.columns()[..rows.num_columns() - 1];
                    let encoded = codec.encode(own, rows.num_rows()).expect("columns of the stream");
                    exit.held.put(encoded.into_iter().zip(&ticks).map(|(row, tick)| (row, *tick, 1)).collect());
                }
                if exit.port.is_wanted() {
                    exit.port.put(&Parcel::Events(rows));
                }
            });
            exit.follow(frontier.frontier());
        }
    })
}

/// Makes a stream of events of the main job readable.
pub fn export_events(events: Stream<'_, Tick, Batch>, core: &Core, live: &super::Live, probe: &ProbeHandle<Tick>) {
    if let Some(exit) = live.exit(core.name) {
        put_events(events, core.seen(), exit, probe);
    }
}

/// Makes a source or table that is declared over a topic readable, from its records.
pub fn export_declared(
    records: Stream<'_, Tick, Batch>,
    declared: &Declared,
    live: &super::Live,
    probe: &ProbeHandle<Tick>,
) {
    let Some(exit) = live.exit(&declared.name) else { return };
    if declared.table {
        put_table(newest_of_first(records, declared.keys), seen(declared), declared.keys, exit, probe);
    } else {
        put_events(records, seen(declared), exit, probe);
    }
}

/// What SQL sees of a stream: its columns, and their places among those of the dataflow.
type Seen = (SchemaRef, Vec<usize>);

fn put_events(events: Stream<'_, Tick, Batch>, (schema, places): Seen, exit: Exit, probe: &ProbeHandle<Tick>) {
    let out = event_schema(&schema);
    let port = exit.port.clone();
    let held = exit.held.clone();
    let seen = events.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Seen", move |_, _| {
        move |input, output| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                held.note(&rows);
                if !port.is_wanted() && !held.is_wanted() {
                    // Who subscribes later has to know that it missed them.
                    port.seen(newest_tick(&rows));
                    return;
                }
                let mut columns = columns(&rows, &places, &out);
                columns.push(tick_column(&rows));
                let rows = RecordBatch::try_new(out.clone(), columns).expect("columns of the stream");
                output.session(&time).give_container(&mut rows.into());
            });
        }
    });
    exit_events(seen, exit).probe_with(probe);
}

fn tick_column(rows: &RecordBatch) -> ArrayRef {
    rows.column_by_name(TICK).expect("every stream has ticks").clone()
}

fn newest_tick(rows: &RecordBatch) -> Tick {
    let ticks = tick_column(rows);
    ticks.as_primitive::<UInt64Type>().values().iter().copied().max().unwrap_or(0)
}

/// The columns that SQL sees.
fn columns(rows: &RecordBatch, places: &[usize], schema: &SchemaRef) -> Vec<ArrayRef> {
    let column = |(place, field): (&usize, &Arc<datafusion::arrow::datatypes::Field>)| {
        let column = rows.column(*place);
        if column.data_type() == field.data_type() {
            return column.clone();
        }
        let whole = cast(column, &DataType::Int64).expect("milliseconds are whole numbers");
        cast(&whole, field.data_type()).expect("milliseconds are a time")
    };
    places.iter().zip(schema.fields()).map(column).collect()
}

/// Makes a table of the main job readable, from its raw changelog.
pub fn export_table(changelog: Stream<'_, Tick, Batch>, core: &Core, live: &super::Live, probe: &ProbeHandle<Tick>) {
    let Some(exit) = live.exit(core.name) else { return };
    let key = *core.key.first().expect("a table has a key");
    assert_eq!(core.seen().0.index_of(key).ok(), Some(0), "rows begin with their key");
    put_table(newest(changelog, key), core.seen(), 1, exit, probe);
}

/// Keeps the rows of a table of which the first columns are the key, and hands its changes over.
fn put_table(
    changes: Stream<'_, Tick, Batch>,
    (schema, places): Seen,
    key_columns: usize,
    mut exit: Exit,
    probe: &ProbeHandle<Tick>,
) {
    let end = changes.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Table", move |_, _| {
        let codec = Codec::new(schema.clone()).expect("a schema of rows");
        let first: Vec<usize> = (0..key_columns).collect();
        let keys = Codec::new(Arc::new(schema.project(&first).expect("the key's columns"))).expect("a key");
        let mut kept = Kept::default();
        move |(input, frontier), _output| {
            input.for_each(|_, batch| {
                let Some(rows) = batch.take() else { return };
                if exit.held.is_exceeded() {
                    kept = Kept::default();
                    return;
                }
                let seen = columns(&rows, &places, &schema);
                let by = keys.encode_together(&seen[..key_columns]).expect("the key");
                let encoded = codec.encode(&seen, rows.num_rows()).expect("columns of the table");
                let deleted = rows.column_by_name(DELETED).expect("tables tell deletes").as_boolean().clone();
                let ticks: UInt64Array = tick_column(&rows).as_primitive::<UInt64Type>().clone();
                let mut updates = Vec::new();
                for (index, row) in encoded.into_iter().enumerate() {
                    let tick = ticks.value(index);
                    let new = (!(deleted.is_valid(index) && deleted.value(index))).then_some(row);
                    let old = kept.set(by.row(index).data(), new.clone());
                    updates.extend(old.map(|old| (old, tick, -1)));
                    updates.extend(new.map(|new| (new, tick, 1)));
                }
                exit.put(updates);
            });
            // What reads a table that is kept no more is to see nothing after it.
            if !exit.held.is_exceeded() {
                exit.follow(frontier.frontier());
            }
        }
    });
    end.probe_with(probe);
}

/// The rows of a table by their key, which is their first columns: the bytes of no key begin those of another. Each row with
/// its key's hash.
#[derive(Default)]
struct Kept(HashTable<(u64, Row)>);

impl Kept {
    /// Sets the row of this key, or takes it away; the row that was there.
    fn set(&mut self, key: &[u8], row: Option<Row>) -> Option<Row> {
        let hash = key_hash(key);
        match (self.0.entry(hash, |(_, held)| held.bytes().starts_with(key), |(hash, _)| *hash), row) {
            (Entry::Occupied(mut held), Some(row)) => Some(std::mem::replace(&mut held.get_mut().1, row)),
            (Entry::Occupied(held), None) => Some(held.remove().0.1),
            (Entry::Vacant(place), Some(row)) => {
                place.insert((hash, row));
                None
            }
            (Entry::Vacant(_), None) => None,
        }
    }
}

impl super::Live {
    fn exit(&self, name: &str) -> Option<Exit> {
        let held = self.base(name)?;
        Some(Exit { port: self.ports().open(name), held, keeper: self.keeper().clone(), worker: self.index(), told: 0 })
    }
}
