//! The reference tables: vehicles, drivers, companies, tariffs. Their changelogs are batches of these columns; a tombstone
//! is a row with only its key and [`DELETED`](crate::batch::DELETED).

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, Int64Builder, RecordBatch, StringViewBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::Stream;
use super::places::{self, Places};
use crate::batch::DELETED;
use crate::error::Position;

/// Value of one field of a reference record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Absent or null.
    Null,
    /// Text; lists and objects as JSON text.
    Text(&'a str),
    /// A whole number.
    Int(i64),
}

/// Name and type of each field of a reference stream, the key first.
///
/// # Panics
/// For a stream that is none of the reference tables.
#[must_use]
pub fn fields(stream: Stream) -> Vec<Field> {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    let key = |name: &str| Field::new(name, DataType::Utf8View, false);
    match stream {
        Stream::Vehicle => vec![
            key("vehicle_id"),
            text("device_id"),
            text("plate"),
            text("model"),
            text("group_ids"), // JSON array of strings
            text("company_id"),
            text("driver_id"),
            text("status"),
        ],
        Stream::Driver => vec![key("driver_id"), text("name"), text("phone"), text("licence"), text("company_id")],
        Stream::Company => vec![
            key("company_id"),
            text("name"),
            text("tariff_id"),
            text("time_zone"),
            Field::new("offline_after_s", DataType::Int64, true),
        ],
        Stream::Tariff => vec![key("tariff_id"), text("name"), text("limits")], // limits: JSON object
        Stream::Telemetry | Stream::Declared(_) => panic!("{stream} is no reference table"),
    }
}

/// Columns of a reference changelog: its [`fields`], `__deleted`, `__partition`, `__offset`, `__tick`.
#[must_use]
pub fn schema(stream: Stream) -> SchemaRef {
    let mut all = fields(stream);
    all.push(Field::new(DELETED, DataType::Boolean, false));
    all.extend(places::fields());
    Arc::new(Schema::new(all))
}

#[derive(Debug)]
enum Column {
    Text(StringViewBuilder),
    Int(Int64Builder),
}

/// Builds batches of a reference changelog.
#[derive(Debug)]
pub struct RegistryBuilder {
    schema: SchemaRef,
    values: Vec<Column>,
    deleted: BooleanBuilder,
    places: Places,
}

impl RegistryBuilder {
    /// A builder for the changelog of `stream`, which must be a table.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        let values = fields(stream).into_iter().map(|field| match field.data_type() {
            DataType::Int64 => Column::Int(Int64Builder::new()),
            _ => Column::Text(StringViewBuilder::new()),
        });
        Self {
            schema: schema(stream),
            values: values.collect(),
            deleted: BooleanBuilder::new(),
            places: Places::default(),
        }
    }

    /// Adds an upsert with one value for each of the stream's [`fields`], in their order.
    ///
    /// # Panics
    /// If the number or type of the values is not that of the fields.
    pub fn upsert(&mut self, values: &[Value<'_>], at: Position) {
        assert_eq!(values.len(), self.values.len(), "one value a field");
        for (column, value) in self.values.iter_mut().zip(values) {
            match (column, value) {
                (Column::Text(column), Value::Text(text)) => column.append_value(text),
                (Column::Text(column), Value::Null) => column.append_null(),
                (Column::Int(column), Value::Int(number)) => column.append_value(*number),
                (Column::Int(column), Value::Null) => column.append_null(),
                (column, value) => panic!("{value:?} does not fit {column:?}"),
            }
        }
        self.at(false, at);
    }

    /// Adds a tombstone of `key`.
    pub fn delete(&mut self, key: &str, at: Position) {
        for (index, column) in self.values.iter_mut().enumerate() {
            match column {
                Column::Text(column) if index == 0 => column.append_value(key),
                Column::Text(column) => column.append_null(),
                Column::Int(column) => column.append_null(),
            }
        }
        self.at(true, at);
    }

    fn at(&mut self, deleted: bool, at: Position) {
        self.deleted.append_value(deleted);
        self.places.push(at);
    }

    /// Rows added since the last [`finish`](Self::finish).
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether no row was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch so far; the builder is empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let mut columns: Vec<ArrayRef> = self
            .values
            .iter_mut()
            .map(|column| match column {
                Column::Text(column) => Arc::new(column.finish()) as ArrayRef,
                Column::Int(column) => Arc::new(column.finish()),
            })
            .collect();
        columns.push(Arc::new(self.deleted.finish()));
        columns.extend(self.places.finish());
        RecordBatch::try_new(self.schema.clone(), columns).expect("builders match the schema")
    }
}
