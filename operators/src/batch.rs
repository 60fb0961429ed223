//! The container in which rows travel through the dataflow: Arrow record batches, exchanged by key hash, and the names of
//! the columns that every batch carries beside its data.
//!
//! A message's timely time is a lower bound of the ticks in its rows; the rows' own ticks stand in [`TICK`].

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef, UInt64Type};
use arrow::ipc::{reader::StreamReader, writer::StreamWriter};
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};

/// Column of a row's tick (`UInt64`): when an event arrived, or since when a table's row stands.
pub const TICK: &str = "__tick";
/// Column of a record's partition (`Int32`).
pub const PARTITION: &str = "__partition";
/// Column of a record's offset (`Int64`).
pub const OFFSET: &str = "__offset";
/// Column of the hash of an event's key (`UInt64`), as [`key_hash`] makes it.
pub const HASH: &str = "__hash";
/// Column of the number that an event's device has on the worker that owns it (`UInt32`), in the place of [`HASH`]: see
/// [`crate::devices`].
pub const DEVICE: &str = "__device";
/// Columns that mean nothing outside of the dataflow.
pub const INTERNAL: [&str; 2] = [HASH, DEVICE];
/// Column of a table's change (`Boolean`): the key is gone, its value columns mean nothing.
/// Of one tick, deletes count before upserts.
pub const DELETED: &str = "__deleted";

/// Hash by which keys are spread over workers and looked up. The same in every process of one build.
#[must_use]
pub fn key_hash(key: &[u8]) -> u64 {
    use std::hash::BuildHasher;
    foldhash::fast::FixedState::with_seed(0x9E37_79B9_7F4A_7C15).hash_one(key)
}

/// FNV-1a of these bytes, one after the other (Fowler, Noll, Vo; 64 bits): the same in every build, for numbers that are kept.
#[must_use]
pub fn fnv1a(parts: &[&[u8]]) -> u64 {
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    parts.iter().copied().flatten().fold(0xcbf2_9ce4_8422_2325, hash)
}

/// One record batch, or nothing; the container of every stream of rows.
#[derive(Clone, Debug, Default)]
pub struct Batch(pub Option<RecordBatch>);

impl Batch {
    /// The rows, or `None` of an empty container.
    pub fn take(&mut self) -> Option<RecordBatch> {
        self.0.take().filter(|rows| rows.num_rows() > 0)
    }
}

impl From<RecordBatch> for Batch {
    fn from(rows: RecordBatch) -> Self {
        Batch(Some(rows))
    }
}

impl Accountable for Batch {
    fn record_count(&self) -> i64 {
        self.0.as_ref().map_or(0, |rows| rows.num_rows() as i64)
    }
}

/// Between processes a batch is an Arrow IPC stream; an empty container is no bytes.
impl ContainerBytes for Batch {
    fn from_bytes(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            return Batch(None);
        }
        let mut reader = StreamReader::try_new(&bytes[..], None).expect("a peer of this build wrote the stream");
        Batch(reader.next().map(|rows| rows.expect("a peer of this build wrote the batch")))
    }

    fn length_in_bytes(&self) -> usize {
        let mut count = Counting(0);
        self.into_bytes(&mut count);
        count.0
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let Some(rows) = &self.0 else { return };
        let rows = compact(rows);
        let mut stream = StreamWriter::try_new(writer, &rows.schema()).expect("the schema has an IPC form");
        stream.write(&rows).expect("memory takes the bytes");
        stream.finish().expect("memory takes the bytes");
    }
}

struct Counting(usize);

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The same rows without the unused parts of shared string buffers: needed before a batch is written out by its buffers
/// (IPC), where a view column would drag whole tables of strings along.
#[must_use]
pub fn compact(rows: &RecordBatch) -> RecordBatch {
    let columns = rows.columns().iter().map(|column| match column.as_string_view_opt() {
        Some(views) => Arc::new(views.gc()) as ArrayRef,
        None => column.clone(),
    });
    RecordBatch::try_new(rows.schema(), columns.collect()).expect("same types, same length")
}

/// Sends each row to the worker that owns its key, a whole batch a worker at a time.
pub struct Shuffle {
    peers: u64,
    column: &'static str,
}

/// Exchange by the named column: [`HASH`] as it stands, a string column by its [`key_hash`].
pub fn by_key(column: &'static str) -> DistributorPact<impl FnOnce(usize) -> Shuffle> {
    DistributorPact(move |peers| Shuffle { peers: peers as u64, column })
}

impl Distributor<Batch> for Shuffle {
    fn partition<T: Clone, P: Push<Message<T, Batch>>>(&mut self, container: &mut Batch, time: &T, pushers: &mut [P]) {
        let Some(rows) = container.take() else { return };
        if pushers.len() == 1 {
            Message::push_at(&mut rows.into(), time.clone(), &mut pushers[0]);
            return;
        }
        let mut routes: Vec<Vec<u32>> = vec![Vec::new(); pushers.len()];
        let column = rows.column_by_name(self.column).expect("the exchanged stream has the key column");
        match column.data_type() {
            DataType::UInt64 => {
                for (row, hash) in column.as_primitive::<UInt64Type>().values().iter().enumerate() {
                    routes[(hash % self.peers) as usize].push(row as u32);
                }
            }
            _ => {
                let keys = column.as_string_view();
                for row in 0..keys.len() {
                    let key = if keys.is_valid(row) { keys.value(row) } else { "" };
                    routes[(key_hash(key.as_bytes()) % self.peers) as usize].push(row as u32);
                }
            }
        }
        for (route, pusher) in routes.into_iter().zip(pushers) {
            if route.len() == rows.num_rows() {
                Message::push_at(&mut rows.clone().into(), time.clone(), pusher);
            } else if !route.is_empty() {
                let part = take_record_batch(&rows, &UInt32Array::from(route)).expect("indices lie within the batch");
                Message::push_at(&mut part.into(), time.clone(), pusher);
            }
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Batch>>>(&mut self, _: &T, _: &mut [P]) {}
}

/// The named `UInt64` column's values. Panics if the batch has no such column: schemas are fixed when the dataflow is built.
#[must_use]
pub fn u64s<'a>(rows: &'a RecordBatch, name: &str) -> &'a UInt64Array {
    named(rows, name).as_primitive::<UInt64Type>()
}

/// The named `Int64` column. Panics if there is none.
#[must_use]
pub fn i64s<'a>(rows: &'a RecordBatch, name: &str) -> &'a Int64Array {
    named(rows, name).as_primitive::<Int64Type>()
}

/// The named `Int32` column. Panics if there is none.
#[must_use]
pub fn i32s<'a>(rows: &'a RecordBatch, name: &str) -> &'a Int32Array {
    named(rows, name).as_primitive::<Int32Type>()
}

/// The named string column. Panics if there is none.
#[must_use]
pub fn strings<'a>(rows: &'a RecordBatch, name: &str) -> &'a StringViewArray {
    named(rows, name).as_string_view()
}

/// The named `Boolean` column. Panics if there is none.
#[must_use]
pub fn bools<'a>(rows: &'a RecordBatch, name: &str) -> &'a BooleanArray {
    named(rows, name).as_boolean()
}

fn named<'a>(rows: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    rows.column_by_name(name).unwrap_or_else(|| panic!("the stream has no column {name}"))
}

/// `fields` followed by [`DELETED`] and [`TICK`]: the schema of a table's changes.
#[must_use]
pub fn table_schema(mut fields: Vec<Field>) -> SchemaRef {
    fields.push(Field::new(DELETED, DataType::Boolean, false));
    fields.push(Field::new(TICK, DataType::UInt64, false));
    Arc::new(Schema::new(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_survives_the_way_between_processes() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("device_id", DataType::Utf8View, false),
            Field::new(TICK, DataType::UInt64, false),
        ]));
        let names: ArrayRef = Arc::new(StringViewArray::from_iter_values(["short", "a name longer than twelve bytes"]));
        let ticks: ArrayRef = Arc::new(UInt64Array::from(vec![10, 20]));
        let rows = RecordBatch::try_new(schema, vec![names, ticks]).expect("columns match");
        let mut bytes = Vec::new();
        let batch = Batch(Some(rows.clone()));
        batch.into_bytes(&mut bytes);
        assert_eq!(bytes.len(), batch.length_in_bytes());
        let mut region = timely::bytes::arc::BytesMut::from(bytes);
        let length = region.len();
        assert_eq!(Batch::from_bytes(region.extract_to(length)).0, Some(rows));
    }
}
