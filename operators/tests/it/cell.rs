//! Rows as plain values, in which what a dataflow gave and what an oracle expects are compared. A row is its named cells;
//! a table's history is its contents after every tick at which they changed.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, UInt64Type};
use operators::batch::{DELETED, INTERNAL, TICK};
use operators::time::Tick;

/// One value.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub enum Cell {
    Null,
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
}

/// Values by column.
pub type Row = BTreeMap<String, Cell>;

/// A row as it left the dataflow.
#[derive(Clone, Debug, PartialEq, PartialOrd)]
pub struct Change {
    pub tick: Tick,
    /// Sorts deletes of a tick before its upserts.
    pub upsert: bool,
    pub cells: Row,
}

pub fn text(value: &str) -> Cell {
    Cell::Text(value.to_owned())
}

pub fn or_null<T>(value: Option<T>, cell: impl Fn(T) -> Cell) -> Cell {
    value.map_or(Cell::Null, cell)
}

/// A row of these cells.
pub fn row<const N: usize>(cells: [(&str, Cell); N]) -> Row {
    cells.into_iter().map(|(name, cell)| (name.to_owned(), cell)).collect()
}

/// The rows of a batch. Its tick column is [`TICK`], or `tick` for refused records.
pub fn changes_of(rows: &RecordBatch) -> Vec<Change> {
    let tick_name = if rows.column_by_name(TICK).is_some() { TICK } else { "tick" };
    let change = |at: usize| {
        let cell = |name: &str| rows.column_by_name(name).map(|column| cell_of(column.as_ref(), at));
        let Some(Cell::Int(tick)) = cell(tick_name) else { panic!("every stream has ticks") };
        let deleted = cell(DELETED) == Some(Cell::Bool(true));
        let schema = rows.schema();
        let names = schema.fields().iter().map(|field| field.name());
        let names = names.filter(|&name| name != tick_name && name != DELETED && !INTERNAL.contains(&name.as_str()));
        let cells = names.map(|name| (name.clone(), cell(name).expect("a name of the schema"))).collect();
        Change { tick: tick as Tick, upsert: !deleted, cells }
    };
    (0..rows.num_rows()).map(change).collect()
}

fn cell_of(column: &dyn Array, row: usize) -> Cell {
    if column.is_null(row) {
        return Cell::Null;
    }
    match column.data_type() {
        DataType::Utf8View => text(column.as_string_view().value(row)),
        DataType::Utf8 => text(column.as_string::<i32>().value(row)),
        DataType::Binary => text(std::str::from_utf8(column.as_binary::<i32>().value(row)).unwrap()),
        DataType::Int64 => Cell::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => Cell::Int(i64::from(column.as_primitive::<Int32Type>().value(row))),
        DataType::UInt64 => Cell::Int(column.as_primitive::<UInt64Type>().value(row) as i64),
        DataType::Float64 => Cell::Float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => Cell::Bool(column.as_boolean().value(row)),
        other => panic!("no stream has a column of {other}"),
    }
}

/// Contents of a table after each tick at which they changed, by key.
pub type History = BTreeMap<Tick, BTreeMap<String, Row>>;

/// What a table's changes amount to at each tick: deletes of a tick count before its upserts.
pub fn history(changes: &[Change], keys: &[&str]) -> History {
    let mut by_tick: BTreeMap<Tick, Vec<&Change>> = BTreeMap::new();
    for change in changes {
        by_tick.entry(change.tick).or_default().push(change);
    }
    let mut contents = BTreeMap::new();
    let mut history = History::new();
    for (tick, mut changes) in by_tick {
        changes.sort_by_key(|change| change.upsert);
        for change in changes {
            let key = key_of(&change.cells, keys);
            if change.upsert {
                contents.insert(key, change.cells.clone());
            } else {
                contents.remove(&key);
            }
        }
        note(&mut history, tick, &contents);
    }
    history
}

/// Adds a table's contents at `tick` to its history, if they differ from the last ones.
pub fn note(history: &mut History, tick: Tick, contents: &BTreeMap<String, Row>) {
    let changed = match history.last_key_value() {
        None => !contents.is_empty(),
        Some((_, last)) => last != contents,
    };
    if changed {
        history.insert(tick, contents.clone());
    }
}

pub fn key_of(cells: &Row, keys: &[&str]) -> String {
    keys.iter().map(|key| format!("{:?}", cells[*key])).collect::<Vec<_>>().join("/")
}

/// Changes in an order of their own, so that those of several workers compare.
pub fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    changes.sort_by(|a, b| a.partial_cmp(b).expect("no stream has a NaN"));
    changes
}
