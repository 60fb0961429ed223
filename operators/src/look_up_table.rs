//! The left outer join of a table with other tables by their keys, kept up incrementally: a change on either side changes
//! exactly the rows it concerns, through a reverse index from each looked-up key to the rows that name it.
//!
//! Rows are Arrow row-format bytes. The left table is spread by its key, so each of its rows has one owner and its changes
//! stay in order; the looked-up tables are sent to every worker.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringViewArray, UInt64Array, new_null_array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::row::{RowConverter, SortField};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::vec::Broadcast;

use crate::batch::{Batch, DELETED, TICK, bools, strings, u64s};
use crate::changes::{Changes, Part};
use crate::keyed::{Key, Keyed};
use crate::string_table::NO_SLOT;
use crate::time::{Tick, all_closed_before};

/// A row in Arrow row format, shared between state and output.
type Row = Rc<[u8]>;

/// A table to look up, and what to take from it.
pub struct LookUp<'s> {
    /// Changes of the table, on any worker.
    pub changes: Stream<'s, Tick, Batch>,
    /// Its key column, first of its columns.
    pub key: &'static str,
    /// The left table's column that names the key.
    pub by: &'static str,
    /// Columns to take: the column's name in the looked-up table, and the field it becomes.
    pub take: Vec<(&'static str, Field)>,
}

/// What the joined table looks like.
pub struct Shape {
    /// Key column of the left table.
    pub key: &'static str,
    /// Columns to keep of the left table, the key first.
    pub keep: Vec<Field>,
    /// A column of the left table by which consumers find rows: when it changes, the old row is deleted before the
    /// new one appears, and the delete carries the old values.
    pub route: Option<&'static str>,
}

/// Joins the changes of a table (spread by `shape.key`) with the tables it refers to. The output has the kept columns, then
/// those taken, then `__deleted` and `__tick`; a key that is not found gives nulls until it appears.
pub fn look_up_table<'s>(
    left: Stream<'s, Tick, Batch>,
    shape: Shape,
    tables: Vec<LookUp<'s>>,
) -> Stream<'s, Tick, Batch> {
    let mut builder = OperatorBuilder::new("LookUpTable".into(), left.scope());
    let mut left = builder.new_input(left, Pipeline);
    let mut join = Join::new(&shape, &tables);
    let mut inputs = Vec::new();
    for table in tables {
        inputs.push(builder.new_input(broadcast(table.changes), Pipeline));
    }
    let (output, joined) = builder.new_output();
    let mut output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(output);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        move |frontiers| {
            left.for_each(|_, batch| join.stash(batch));
            for (input, table) in inputs.iter_mut().zip(&mut join.tables) {
                input.for_each(|_, batch| table.stash(batch));
            }
            let Some(held) = &mut capability else { return };
            let upto = all_closed_before(frontiers);
            if upto > *held.time() {
                join.close(upto);
                if !join.out.is_empty() {
                    let mut output = output.activate();
                    let mut session = output.session(held);
                    join.finish(|rows| session.give_container(&mut rows.into()));
                }
                if upto == Tick::MAX { capability = None } else { held.downgrade(&upto) }
            }
        }
    });
    joined
}

/// Every worker gets every change, so that each can look up any key.
fn broadcast<'s>(changes: Stream<'s, Tick, Batch>) -> Stream<'s, Tick, Batch> {
    use timely::dataflow::operators::generic::operator::Operator;
    // Timely broadcasts vectors of items; a batch is one item.
    let items = changes.unary::<CapacityContainerBuilder<Vec<Sent>>, _, _, _>(Pipeline, "Wrap", |_, _| {
        move |input, output| {
            input.for_each(|time, batch| output.session(&time).give_iterator(batch.take().map(Sent).into_iter()))
        }
    });
    items.broadcast().unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Unwrap", |_, _| {
        move |input, output| {
            input.for_each(|time, items| {
                let mut session = output.session(&time);
                items.drain(..).for_each(|Sent(rows)| session.give_container(&mut rows.into()));
            });
        }
    })
}

/// A batch as one item of a vector, for [`broadcast`].
#[derive(Clone, Debug)]
struct Sent(RecordBatch);

impl serde::Serialize for Sent {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use timely::dataflow::channels::ContainerBytes;
        let mut bytes = Vec::new();
        Batch(Some(self.0.clone())).into_bytes(&mut bytes);
        serializer.serialize_bytes(&bytes)
    }
}

impl<'de> serde::Deserialize<'de> for Sent {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Vec::<u8>::deserialize(deserializer)?;
        let mut reader =
            arrow::ipc::reader::StreamReader::try_new(&bytes[..], None).map_err(serde::de::Error::custom)?;
        let rows = reader.next().ok_or_else(|| serde::de::Error::custom("an empty stream"))?;
        rows.map(Sent).map_err(serde::de::Error::custom)
    }
}

/// Row-format conversion of some columns of a batch.
struct Rows {
    names: Vec<String>,
    types: Vec<DataType>,
    converter: RowConverter,
}

impl Rows {
    fn new(columns: &[(&str, Field)]) -> Self {
        let sort = columns.iter().map(|(_, field)| SortField::new(field.data_type().clone())).collect();
        let names = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let types = columns.iter().map(|(_, field)| field.data_type().clone()).collect();
        Self { names, types, converter: RowConverter::new(sort).expect("text and numbers have a row format") }
    }

    fn encode(&self, rows: &RecordBatch) -> Vec<Row> {
        let columns: Vec<ArrayRef> = self
            .names
            .iter()
            .map(|name| rows.column_by_name(name).unwrap_or_else(|| panic!("the table has no column {name}")).clone())
            .collect();
        let encoded = self.converter.convert_columns(&columns).expect("columns of the declared types");
        encoded.iter().map(|row| Row::from(row.as_ref())).collect()
    }

    /// The row of a key that is not there.
    fn null(&self) -> Row {
        let columns: Vec<ArrayRef> = self.types.iter().map(|kind| new_null_array(kind, 1)).collect();
        let encoded = self.converter.convert_columns(&columns).expect("columns of the declared types");
        Row::from(encoded.row(0).as_ref())
    }

    fn decode<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Vec<ArrayRef> {
        let parser = self.converter.parser();
        self.converter.convert_rows(rows.map(|row| parser.parse(row))).expect("rows that this converter made")
    }
}

/// A row of the left table and the keys it names.
struct Left {
    row: Row,
    route: Option<Box<str>>,
    /// Slots in [`Table::rows_by_key`], a table each; [`NO_SLOT`] where the row names none.
    names: Box<[u32]>,
}

/// A batch of the left table's changes, ready to be applied.
struct LeftBatch {
    rows: Vec<Row>,
    keys: StringViewArray,
    deleted: BooleanArray,
    route: Option<StringViewArray>,
    names: Vec<StringViewArray>,
}

/// A batch of a looked-up table's changes, ready to be applied.
struct TableBatch {
    rows: Vec<Row>,
    keys: StringViewArray,
    deleted: BooleanArray,
}

/// A looked-up table.
struct Table {
    key: &'static str,
    by: &'static str,
    rows: Rows,
    missing: Row,
    /// Every key that has a row or is named by one of the left table.
    rows_by_key: Keyed<LookedUp>,
    pending: Changes<TableBatch>,
}

#[derive(Default)]
struct LookedUp {
    row: Option<Row>,
    named_by: Names,
}

/// Slots of the left rows that name a key.
#[derive(Default)]
enum Names {
    #[default]
    None,
    One(u32),
    #[expect(clippy::box_collection, reason = "the other variants are what nearly every key has: they stay small")]
    Many(Box<BTreeSet<u32>>),
}

struct Join {
    key: &'static str,
    route: Option<&'static str>,
    rows: Rows,
    left: Keyed<Option<Left>>,
    pending: Changes<LeftBatch>,
    tables: Vec<Table>,
    schema: SchemaRef,
    out: Vec<Out>,
    /// What [`Out::row`]s are joined with, a row each of every table.
    found: Vec<Row>,
}

/// One row of output: the left row, whether it is a delete, its tick.
struct Out {
    row: Row,
    deleted: bool,
    tick: Tick,
}

/// Rows of a batch that is put out: a million rows that change at once leave in pieces.
const OUT_ROWS_MAX: usize = 8_192;

impl Join {
    fn new(shape: &Shape, tables: &[LookUp<'_>]) -> Self {
        let mut fields = shape.keep.clone();
        fields.extend(tables.iter().flat_map(|table| table.take.iter().map(|(_, field)| field.clone())));
        Self {
            key: shape.key,
            route: shape.route,
            rows: Rows::new(&shape.keep.iter().map(|field| (field.name().as_str(), field.clone())).collect::<Vec<_>>()),
            left: Keyed::default(),
            pending: Changes::default(),
            tables: tables.iter().map(Table::new).collect(),
            schema: crate::batch::table_schema(fields),
            out: Vec::new(),
            found: Vec::new(),
        }
    }

    fn stash(&mut self, batch: &mut Batch) {
        let Some(rows) = batch.take() else { return };
        let left = LeftBatch {
            rows: self.rows.encode(&rows),
            keys: strings(&rows, self.key).clone(),
            deleted: bools(&rows, DELETED).clone(),
            route: self.route.map(|name| strings(&rows, name).clone()),
            names: self.tables.iter().map(|table| strings(&rows, table.by).clone()).collect(),
        };
        self.pending.push(left, u64s(&rows, TICK).values());
    }

    /// Works off every tick before `upto`; what changed stands in `out`.
    fn close(&mut self, upto: Tick) {
        loop {
            let firsts = self.tables.iter().map(|table| table.pending.first()).chain([self.pending.first()]);
            let Some(tick) = firsts.flatten().min().filter(|&tick| tick < upto) else { return };
            let mut touched = BTreeSet::new();
            for table in &mut self.tables {
                table.apply(tick, &mut touched);
            }
            for part in self.pending.take(tick) {
                self.apply(part, tick, &mut touched);
            }
            for slot in touched {
                let Some(left) = self.left.get(slot) else {
                    self.left.remove(slot);
                    continue;
                };
                let found = self.tables.iter().zip(&left.names).map(|(table, &name)| table.find(name));
                self.found.extend(found);
                self.out.push(Out { row: left.row.clone(), deleted: false, tick });
            }
        }
    }

    /// Applies changes of the left table; deletes go straight to `out`, what has to be looked up to `touched`.
    fn apply(&mut self, part: Part<LeftBatch>, tick: Tick, touched: &mut BTreeSet<u32>) {
        let batch = &*part.batch;
        for row in part.rows {
            let slot = self.left.slot(&Key::new(batch.keys.value(row)), || None);
            let new = (!batch.deleted.value(row)).then(|| Left {
                row: batch.rows[row].clone(),
                route: batch.route.as_ref().and_then(|route| text(route, row)).map(Box::from),
                names: self
                    .tables
                    .iter_mut()
                    .zip(&batch.names)
                    .map(|(table, names)| table.name(text(names, row), slot))
                    .collect(),
            });
            let old = self.left.get_mut(slot).take();
            if let Some(old) = &old
                && new.as_ref().is_none_or(|new| new.route != old.route)
            {
                self.found.extend(self.tables.iter().map(|table| table.missing.clone()));
                self.out.push(Out { row: old.row.clone(), deleted: true, tick });
            }
            let kept = new.as_ref().map_or(&[][..], |new| &new.names);
            for (index, &name) in old.iter().flat_map(|old| old.names.iter().enumerate()) {
                if kept.get(index) != Some(&name) {
                    self.tables[index].unname(name, slot);
                }
            }
            if !matches!((&old, &new), (Some(old), Some(new)) if old.row == new.row) {
                touched.insert(slot);
            }
            *self.left.get_mut(slot) = new;
        }
    }

    /// Gives away what is in `out`.
    fn finish(&mut self, mut give: impl FnMut(RecordBatch)) {
        let tables = self.tables.len();
        for (index, out) in self.out.chunks(OUT_ROWS_MAX).enumerate() {
            let found = &self.found[index * OUT_ROWS_MAX * tables..];
            let mut columns = self.rows.decode(out.iter().map(|row| &row.row));
            for (at, table) in self.tables.iter().enumerate() {
                columns.extend(table.rows.decode((0..out.len()).map(|row| &found[row * tables + at])));
            }
            columns.push(Arc::new(BooleanArray::from_iter(out.iter().map(|row| Some(row.deleted)))));
            columns.push(Arc::new(UInt64Array::from_iter_values(out.iter().map(|row| row.tick))));
            give(RecordBatch::try_new(self.schema.clone(), columns).expect("the declared columns"));
        }
        // After a bulk load nothing of its size stays behind.
        (self.out, self.found) = (Vec::new(), Vec::new());
    }
}

/// The name that a row gives; an empty one is none.
fn text(column: &StringViewArray, row: usize) -> Option<&str> {
    (column.is_valid(row) && !column.value(row).is_empty()).then(|| column.value(row))
}

impl Table {
    fn new(table: &LookUp<'_>) -> Self {
        let rows = Rows::new(&table.take);
        Self {
            key: table.key,
            by: table.by,
            missing: rows.null(),
            rows,
            rows_by_key: Keyed::default(),
            pending: Changes::default(),
        }
    }

    fn stash(&mut self, batch: &mut Batch) {
        let Some(rows) = batch.take() else { return };
        let table = TableBatch {
            rows: self.rows.encode(&rows),
            keys: strings(&rows, self.key).clone(),
            deleted: bools(&rows, DELETED).clone(),
        };
        self.pending.push(table, u64s(&rows, TICK).values());
    }

    /// Applies one tick's changes; the left rows that they concern go to `touched`.
    fn apply(&mut self, tick: Tick, touched: &mut BTreeSet<u32>) {
        for part in self.pending.take(tick) {
            let batch = &*part.batch;
            for row in part.rows {
                let slot = self.rows_by_key.slot(&Key::new(batch.keys.value(row)), LookedUp::default);
                let entry = self.rows_by_key.get_mut(slot);
                let new = (!batch.deleted.value(row)).then(|| batch.rows[row].clone());
                if entry.row != new {
                    entry.row = new;
                    entry.named_by.add_to(touched);
                }
                self.drop_if_unused(slot);
            }
        }
    }

    fn find(&self, name: u32) -> Row {
        let row = if name == NO_SLOT { None } else { self.rows_by_key.get(name).row.as_ref() };
        row.unwrap_or(&self.missing).clone()
    }

    /// Notes that a left row names this key; gives the key's slot.
    fn name(&mut self, key: Option<&str>, left: u32) -> u32 {
        let Some(key) = key else { return NO_SLOT };
        let slot = self.rows_by_key.slot(&Key::new(key), LookedUp::default);
        self.rows_by_key.get_mut(slot).named_by.insert(left);
        slot
    }

    fn unname(&mut self, slot: u32, left: u32) {
        if slot != NO_SLOT {
            self.rows_by_key.get_mut(slot).named_by.remove(left);
            self.drop_if_unused(slot);
        }
    }

    fn drop_if_unused(&mut self, slot: u32) {
        let entry = self.rows_by_key.get(slot);
        if entry.row.is_none() && matches!(entry.named_by, Names::None) {
            self.rows_by_key.remove(slot);
        }
    }
}

impl Names {
    fn insert(&mut self, slot: u32) {
        match self {
            Names::None => *self = Names::One(slot),
            Names::One(one) if *one == slot => {}
            Names::One(one) => *self = Names::Many(Box::new(BTreeSet::from([*one, slot]))),
            Names::Many(many) => drop(many.insert(slot)),
        }
    }

    fn remove(&mut self, slot: u32) {
        match self {
            Names::One(one) if *one == slot => *self = Names::None,
            Names::None | Names::One(_) => {}
            Names::Many(many) => {
                many.remove(&slot);
                if many.is_empty() {
                    *self = Names::None;
                }
            }
        }
    }

    fn add_to(&self, touched: &mut BTreeSet<u32>) {
        match self {
            Names::None => {}
            Names::One(one) => drop(touched.insert(*one)),
            Names::Many(many) => touched.extend(many.iter()),
        }
    }
}
