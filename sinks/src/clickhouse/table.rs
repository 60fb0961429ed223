//! Which stream goes to which table, and its rows as an Arrow stream that ClickHouse reads.
//!
//! Invariant: the same rows always make the same bytes.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, DictionaryArray, Int8Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int8Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use operators::batch::{DELETED, INTERNAL, OFFSET, PARTITION, TICK, bools, u64s};
use operators::record::output;

use crate::run::Route;

/// Columns that hold milliseconds since the epoch.
const TIMES: [&str; 4] = ["ts", "server_time", "since", "window_start"];

/// A stream and the table that keeps it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pub(super) route: Route,
    pub(super) name: &'static str,
    pub(super) schema: fn() -> SchemaRef,
}

/// Every table that rows are written to.
pub(super) const TABLES: [Table; 4] = [
    Table {
        route: Route { stream: "telemetry_enriched", keys: &[] },
        name: "telemetry_history",
        schema: output::enriched,
    },
    Table {
        route: Route { stream: "vehicle_events", keys: &[] },
        name: "vehicle_events",
        schema: output::vehicle_events,
    },
    Table {
        route: Route { stream: "company_minute", keys: &["company_id", "window_start"] },
        name: "company_minute",
        schema: output::company_minute,
    },
    Table {
        route: Route { stream: "vehicle_links", keys: &["vehicle_id"] },
        name: "vehicle_links",
        schema: output::links,
    },
];

impl Table {
    pub(super) fn of(stream: &str) -> Option<&'static Table> {
        TABLES.iter().find(|table| table.route.stream == stream)
    }

    /// Columns that an insert names.
    pub(super) fn columns(&self) -> Vec<String> {
        target_schema(&(self.schema)()).fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The statement that rows follow.
    pub(super) fn insert(&self) -> String {
        // Names are our own and hold nothing to escape.
        format!("INSERT INTO `{}` (`{}`) FORMAT ArrowStream", self.name, self.columns().join("`, `"))
    }
}

/// Writes batches of one stream as Arrow streams.
pub(super) struct Encoder {
    schema: SchemaRef,
    topic: ArrayRef,
    writer: Option<StreamWriter<Vec<u8>>>,
}

impl Encoder {
    pub(super) fn new(source: &SchemaRef, topic: &str) -> Self {
        let topic = Arc::new(StringArray::from_iter_values([topic]));
        Self { schema: target_schema(source), topic, writer: None }
    }

    /// Adds rows; returns the bytes of the stream so far.
    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<usize, ArrowError> {
        let columns = self.schema.fields().iter().map(|field| column(rows, field, &self.topic));
        let rows = RecordBatch::try_new(self.schema.clone(), columns.collect::<Result<_, _>>()?)?;
        if self.writer.is_none() {
            self.writer = Some(StreamWriter::try_new(Vec::new(), &self.schema)?);
        }
        let writer = self.writer.as_mut().expect("there is one now");
        writer.write(&rows)?;
        Ok(writer.get_ref().len())
    }

    /// The finished stream, or `None` if nothing was added since the last.
    pub(super) fn finish(&mut self) -> Result<Option<Vec<u8>>, ArrowError> {
        self.writer.take().map(StreamWriter::into_inner).transpose()
    }
}

/// The columns of the table for a stream of these columns.
fn target_schema(source: &SchemaRef) -> SchemaRef {
    let is_table = source.field_with_name(DELETED).is_ok();
    let mut fields = Vec::with_capacity(source.fields().len() + 1);
    for field in source.fields() {
        let target = match field.name().as_str() {
            name if INTERNAL.contains(&name) => continue,
            DELETED => Field::new("is_deleted", DataType::UInt8, false),
            TICK if is_table => Field::new("version", DataType::UInt64, false),
            TICK => Field::new("tick", DataType::UInt64, false),
            PARTITION => {
                fields.push(Field::new_dictionary("topic", DataType::Int8, DataType::Utf8, false));
                Field::new("partition", DataType::Int32, false)
            }
            OFFSET => Field::new("offset", DataType::Int64, false),
            name if TIMES.contains(&name) => {
                Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), field.is_nullable())
            }
            name if *field.data_type() == DataType::Utf8View => Field::new(name, DataType::Utf8, field.is_nullable()),
            name => Field::new(name, field.data_type().clone(), field.is_nullable()),
        };
        fields.push(target);
    }
    Arc::new(Schema::new(fields))
}

fn column(rows: &RecordBatch, target: &Field, topic: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let source = match target.name().as_str() {
        "topic" => {
            let keys = Int8Array::from_value(0, rows.num_rows());
            return Ok(Arc::new(DictionaryArray::<Int8Type>::try_new(keys, topic.clone())?));
        }
        "version" => {
            let (ticks, deleted) = (u64s(rows, TICK).values(), bools(rows, DELETED).values());
            let versions = ticks.iter().zip(deleted).map(|(tick, deleted)| tick * 2 + u64::from(!deleted));
            return Ok(Arc::new(UInt64Array::from_iter_values(versions)));
        }
        "is_deleted" => DELETED,
        "tick" => TICK,
        "partition" => PARTITION,
        "offset" => OFFSET,
        name => name,
    };
    let missing = || ArrowError::SchemaError(format!("the rows have no column {source}"));
    let source = rows.column_by_name(source).ok_or_else(missing)?;
    match target.data_type() {
        DataType::Timestamp(..) => {
            let times = source.as_primitive_opt::<Int64Type>();
            let times = times.ok_or_else(|| ArrowError::SchemaError(format!("{} is no Int64", target.name())))?;
            Ok(Arc::new(times.reinterpret_cast::<TimestampMillisecondType>().with_timezone("UTC")))
        }
        wanted if wanted == source.data_type() => Ok(source.clone()),
        wanted => cast(source, wanted),
    }
}
