//! A table whose rows come, change and go by a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::ScalarValue;
use operators::row::{Codec, Row};
use operators::time::Tick;

use crate::harness::Changing;

/// What became of a table.
pub struct Story {
    table: Changing,
    codec: Codec,
    there: BTreeMap<i64, Row>,
}

impl Story {
    /// An empty table with these columns: `name kind`, by commas.
    pub fn new(name: &str, columns: &str) -> Self {
        let fields = columns.split(',').map(|column| {
            let (name, kind) = column.trim().split_once(' ').expect("a name and a kind");
            Field::new(name, kind_of(kind), true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let codec = Codec::new(schema.clone()).expect("types with a row format");
        let table = Changing { name: name.to_owned(), schema, changes: Vec::new() };
        Story { table, codec, there: BTreeMap::new() }
    }

    /// The row of this key is these values from now on.
    pub fn put(&mut self, tick: Tick, key: i64, values: Vec<ScalarValue>) {
        let columns = values.into_iter().map(|value| value.to_array().expect("a value")).collect::<Vec<ArrayRef>>();
        let row = self.codec.encode(&columns, 1).expect("values of the columns").pop().expect("one row");
        self.remove(tick, key);
        self.there.insert(key, row.clone());
        self.table.changes.push((tick, row, 1));
    }

    /// There is no row of this key any more.
    pub fn remove(&mut self, tick: Tick, key: i64) {
        if let Some(row) = self.there.remove(&key) {
            self.table.changes.push((tick, row, -1));
        }
    }

    pub fn has(&self, key: i64) -> bool {
        self.there.contains_key(&key)
    }

    pub fn told(self) -> Changing {
        self.table
    }
}

fn kind_of(kind: &str) -> DataType {
    match kind {
        "int" => DataType::Int64,
        "money" => DataType::Decimal128(15, 2),
        "date" => DataType::Date32,
        "time" => DataType::Timestamp(TimeUnit::Millisecond, None),
        "text" => DataType::Utf8View,
        other => panic!("no kind of column: {other}"),
    }
}

pub fn int(value: i64) -> ScalarValue {
    ScalarValue::Int64(Some(value))
}

/// So many hundredths.
pub fn money(value: i64) -> ScalarValue {
    ScalarValue::Decimal128(Some(value.into()), 15, 2)
}

/// So many days since 1970.
pub fn date(days: i64) -> ScalarValue {
    ScalarValue::Date32(Some(days as i32))
}

/// So many milliseconds since 1970.
pub fn time(millis: i64) -> ScalarValue {
    ScalarValue::TimestampMillisecond(Some(millis), None)
}

pub fn text(value: impl Into<String>) -> ScalarValue {
    ScalarValue::Utf8View(Some(value.into()))
}
