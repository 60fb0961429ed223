//! Batches for the tests of sinks, written as JSON objects.
//!
//! Invariant: a field that the object leaves out is null; one that the schema lacks fails the test.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt32Array,
    UInt64Array,
};
use arrow::datatypes::{DataType, SchemaRef};
use operators::batch::{DELETED, TICK};
use serde_json::Value;
use sinks::{Rows, Step};

/// The batch that holds these rows.
#[track_caller]
pub fn batch(schema: SchemaRef, rows: &[Value]) -> RecordBatch {
    for row in rows {
        for name in row.as_object().expect("a row is an object").keys() {
            assert!(schema.field_with_name(name).is_ok(), "the schema has no column {name}");
        }
    }
    let columns = schema.fields().iter().map(|field| {
        let values = rows.iter().map(|row| &row[field.name()]);
        let column: ArrayRef = match field.data_type() {
            DataType::Utf8View => Arc::new(values.map(Value::as_str).collect::<StringViewArray>()),
            DataType::Float64 => Arc::new(values.map(Value::as_f64).collect::<Float64Array>()),
            DataType::Int64 => Arc::new(values.map(Value::as_i64).collect::<Int64Array>()),
            DataType::Int32 => Arc::new(values.map(|v| v.as_i64().map(|v| v as i32)).collect::<Int32Array>()),
            DataType::UInt32 => Arc::new(values.map(|v| v.as_u64().map(|v| v as u32)).collect::<UInt32Array>()),
            DataType::UInt64 => Arc::new(values.map(Value::as_u64).collect::<UInt64Array>()),
            DataType::Boolean if field.name() == DELETED => {
                Arc::new(values.map(|v| Some(v.as_bool().unwrap_or(false))).collect::<BooleanArray>())
            }
            DataType::Boolean => Arc::new(values.map(Value::as_bool).collect::<BooleanArray>()),
            other => panic!("no test has needed {other} yet"),
        };
        column
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("the object has all that must not be null")
}

/// A step of a table's changes, numbered by their highest tick.
#[track_caller]
pub fn changes(stream: &'static str, schema: SchemaRef, rows: &[Value]) -> Step {
    step(stream, Rows::Upsert(batch(schema, rows)), rows)
}

/// A step of events, numbered by their highest tick.
#[track_caller]
pub fn events(stream: &'static str, schema: SchemaRef, rows: &[Value]) -> Step {
    step(stream, Rows::Append(batch(schema, rows)), rows)
}

fn step(stream: &'static str, batch: Rows, rows: &[Value]) -> Step {
    let ticks = || rows.iter().map(|row| row[TICK].as_u64().expect("a row has a tick"));
    let (from, upto) = (ticks().min().unwrap_or(0), ticks().max().unwrap_or(0) + 1);
    Step { stream, worker: 0, from, upto, rows: vec![batch] }
}
