//! Relations that a file of the schema declares over a topic of one's own: what their records hold, and a builder for their
//! batches.
//!
//! Invariant: a declaration is made once, at the start, and stands as long as the process: it is told apart by its topic, of
//! which there is one declaration.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanBuilder, Date32Builder, Decimal128Builder, Float64Builder, Int32Builder, Int64Builder,
    RecordBatch, StringViewBuilder, TimestampMillisecondBuilder, UInt64Builder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use super::places::{self, Places};
use crate::batch::{DELETED, HASH};
use crate::error::Position;

/// Most columns of a relation.
pub const COLUMNS_MAX: usize = 100;
/// Longest text of a column, in bytes.
pub const TEXT_BYTES_MAX: usize = 64 << 10;

/// What a value of a column is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `BOOLEAN`.
    Boolean,
    /// `INT`: 32 bits.
    Int,
    /// `BIGINT`: 64 bits.
    BigInt,
    /// `DOUBLE`.
    Double,
    /// `TEXT`.
    Text,
    /// `TIMESTAMP`: milliseconds since the epoch.
    Timestamp,
    /// `DATE`: days since the epoch.
    Date,
    /// `DECIMAL(precision, scale)`.
    Decimal(u8, u8),
}

impl Type {
    /// The type of its column.
    #[must_use]
    pub fn arrow(self) -> DataType {
        match self {
            Type::Boolean => DataType::Boolean,
            Type::Int => DataType::Int32,
            Type::BigInt => DataType::Int64,
            Type::Double => DataType::Float64,
            Type::Text => DataType::Utf8View,
            Type::Timestamp => DataType::Timestamp(TimeUnit::Millisecond, None),
            Type::Date => DataType::Date32,
            Type::Decimal(precision, scale) => DataType::Decimal128(precision, scale.cast_signed()),
        }
    }
}

/// One column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, and that of the record's member.
    pub name: String,
    /// What its values are.
    pub kind: Type,
    /// Whether a record without it is refused.
    pub required: bool,
}

/// Where a declaration says that its topic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Log {
    /// In Kafka, whatever else the process could read.
    Kafka,
    /// In the log that the process reads.
    Any,
}

/// A declared relation.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Its name in SQL.
    pub name: String,
    /// The topic of its records.
    pub topic: String,
    /// Where that is.
    pub log: Log,
    /// Whether records replace each other by their key, or only come.
    pub table: bool,
    /// The columns, those of the key first.
    pub columns: Vec<Column>,
    /// How many of them are the key.
    pub keys: usize,
    /// Which of them is the time of an event.
    pub time: Option<usize>,
    /// Name of the column that says whose a row is.
    pub access: Option<String>,
    /// What was declared.
    pub text: String,
}

impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        self.topic == other.topic
    }
}

impl Eq for Declared {}

impl PartialOrd for Declared {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Declared {
    fn cmp(&self, other: &Self) -> Ordering {
        self.topic.cmp(&other.topic)
    }
}

impl Hash for Declared {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.hash(state);
    }
}

impl Declared {
    /// The columns of its key.
    #[must_use]
    pub fn key(&self) -> &[Column] {
        &self.columns[..self.keys]
    }

    /// Columns of its batches: its own, of a table `__deleted` and `__hash`, then `__partition`, `__offset`, `__tick`.
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        let own = self.columns.iter().map(|column| Field::new(&column.name, column.kind.arrow(), true));
        let mut all: Vec<Field> = own.collect();
        if self.table {
            all.push(Field::new(DELETED, DataType::Boolean, false));
            all.push(Field::new(HASH, DataType::UInt64, false));
        }
        all.extend(places::fields());
        Arc::new(Schema::new(all))
    }
}

/// Value of one column of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Absent or null.
    Null,
    /// `true` or `false`.
    Boolean(bool),
    /// A whole number, milliseconds, or days.
    Whole(i64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    Text(&'a str),
    /// The digits of a decimal number, without its point.
    Decimal(i128),
}

#[derive(Debug)]
enum Builder {
    Boolean(BooleanBuilder),
    Int(Int32Builder),
    BigInt(Int64Builder),
    Double(Float64Builder),
    Text(StringViewBuilder),
    Timestamp(TimestampMillisecondBuilder),
    Date(Date32Builder),
    Decimal(Decimal128Builder),
}

impl Builder {
    fn new(kind: Type) -> Self {
        match kind {
            Type::Boolean => Self::Boolean(BooleanBuilder::new()),
            Type::Int => Self::Int(Int32Builder::new()),
            Type::BigInt => Self::BigInt(Int64Builder::new()),
            Type::Double => Self::Double(Float64Builder::new()),
            Type::Text => Self::Text(StringViewBuilder::new()),
            Type::Timestamp => Self::Timestamp(TimestampMillisecondBuilder::new()),
            Type::Date => Self::Date(Date32Builder::new()),
            Type::Decimal(..) => Self::Decimal(Decimal128Builder::new().with_data_type(kind.arrow())),
        }
    }

    fn push(&mut self, value: Value<'_>) {
        let days = |number: i64| i32::try_from(number).expect("the decoder has looked at the range");
        match (self, value) {
            (Self::Boolean(column), Value::Boolean(flag)) => column.append_value(flag),
            (Self::Boolean(column), Value::Null) => column.append_null(),
            (Self::Int(column), Value::Whole(number)) => column.append_value(days(number)),
            (Self::Int(column), Value::Null) => column.append_null(),
            (Self::BigInt(column), Value::Whole(number)) => column.append_value(number),
            (Self::BigInt(column), Value::Null) => column.append_null(),
            (Self::Double(column), Value::Double(number)) => column.append_value(number),
            (Self::Double(column), Value::Null) => column.append_null(),
            (Self::Text(column), Value::Text(text)) => column.append_value(text),
            (Self::Text(column), Value::Null) => column.append_null(),
            (Self::Timestamp(column), Value::Whole(number)) => column.append_value(number),
            (Self::Timestamp(column), Value::Null) => column.append_null(),
            (Self::Date(column), Value::Whole(number)) => column.append_value(days(number)),
            (Self::Date(column), Value::Null) => column.append_null(),
            (Self::Decimal(column), Value::Decimal(digits)) => column.append_value(digits),
            (Self::Decimal(column), Value::Null) => column.append_null(),
            (column, value) => panic!("{value:?} does not fit {column:?}"),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Boolean(column) => Arc::new(column.finish()),
            Self::Int(column) => Arc::new(column.finish()),
            Self::BigInt(column) => Arc::new(column.finish()),
            Self::Double(column) => Arc::new(column.finish()),
            Self::Text(column) => Arc::new(column.finish()),
            Self::Timestamp(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Decimal(column) => Arc::new(column.finish()),
        }
    }
}

/// Builds batches of a declared relation.
#[derive(Debug)]
pub struct DeclaredBuilder {
    schema: SchemaRef,
    values: Vec<Builder>,
    /// Of a table.
    changes: Option<(BooleanBuilder, UInt64Builder)>,
    places: Places,
}

impl DeclaredBuilder {
    /// A builder for this relation.
    #[must_use]
    pub fn new(declared: &Declared) -> Self {
        Self {
            schema: declared.schema(),
            values: declared.columns.iter().map(|column| Builder::new(column.kind)).collect(),
            changes: declared.table.then(Default::default),
            places: Places::default(),
        }
    }

    /// Adds a row with a value for each column. Of a table `hash` is that of its key, by which rows are spread over workers,
    /// and `deleted` tells that the row of the key goes.
    ///
    /// # Panics
    /// If the values are not of the columns' types.
    pub fn push<'a>(&mut self, values: impl IntoIterator<Item = Value<'a>>, hash: u64, deleted: bool, at: Position) {
        let mut values = values.into_iter();
        for column in &mut self.values {
            column.push(values.next().expect("one value a column"));
        }
        if let Some((gone, hashes)) = &mut self.changes {
            gone.append_value(deleted);
            hashes.append_value(hash);
        }
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
        let mut columns: Vec<ArrayRef> = self.values.iter_mut().map(Builder::finish).collect();
        if let Some((gone, hashes)) = &mut self.changes {
            columns.push(Arc::new(gone.finish()));
            columns.push(Arc::new(hashes.finish()));
        }
        columns.extend(self.places.finish());
        RecordBatch::try_new(self.schema.clone(), columns).expect("builders match the schema")
    }
}
