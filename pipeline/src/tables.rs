//! Rows of the tables that come from topics, as a checkpoint has them: the newest of each key, which a start sends into the
//! dataflow again.
//!
//! Invariant: rows of one key are put in the order of their ticks, then partitions, then offsets, as the dataflow sees them.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use operators::batch::{DELETED, OFFSET, PARTITION, TICK, bools, fnv1a, i32s, i64s, u64s};
use operators::durable::write_key;
use operators::record::{Stream, registry};
use operators::row::{Codec, Row};
use operators::time::Tick;

use crate::checkpoint::{Changes, NodeId, NodeState};

/// Columns that say where a row came from, not what it is.
const OF_PLACE: [&str; 4] = [DELETED, PARTITION, OFFSET, TICK];
/// What the form of the rows is called: Arrow's row format, of which no version is known that reads another's otherwise.
const FORM: &[u8] = b"table/1";

/// The rows of one table.
pub struct TableRows {
    /// The stream of its changes.
    pub stream: Stream,
    /// The state that they are in a checkpoint.
    pub node: NodeState,
    schema: SchemaRef,
    keys: Codec,
    values: Codec,
}

impl TableRows {
    /// Of the stream of a table's changes.
    ///
    /// # Panics
    /// If the stream is no table.
    #[must_use]
    pub fn of(stream: Stream) -> Self {
        let (schema, keys) = match stream {
            Stream::Declared(declared) => (declared.schema(), declared.keys),
            _ => (registry::schema(stream), 1),
        };
        let own = |field: &&Arc<arrow::datatypes::Field>| !OF_PLACE.contains(&field.name().as_str());
        let own = Schema::new(schema.fields().iter().filter(own).cloned().collect::<Vec<_>>());
        let key = Schema::new(schema.fields()[..keys].to_vec());
        let codec = |schema: Schema| Codec::new(Arc::new(schema)).expect("columns of records have a row format");
        let meaning = format!("{own:?} {keys}");
        let plan = u128::from(fnv1a(&[FORM, meaning.as_bytes()]));
        let node = NodeState { name: format!("table {}", stream.topic()), plan, anew: false };
        Self { stream, node, schema, keys: codec(key), values: codec(own) }
    }

    /// Puts the rows that came, from all workers.
    ///
    /// # Errors
    /// They are not the table's: a bug.
    pub fn put(&self, batches: &[RecordBatch], changes: &mut Changes) -> Result<(), ArrowError> {
        let all = concat_batches(&self.schema, batches)?;
        let columns = |of: &SchemaRef| -> Vec<ArrayRef> {
            of.fields().iter().filter_map(|field| all.column_by_name(field.name())).cloned().collect()
        };
        let keys = self.keys.encode_together(&columns(self.keys.schema()))?;
        let values = self.values.encode_together(&columns(self.values.schema()))?;
        let (ticks, partitions) = (u64s(&all, TICK).values(), i32s(&all, PARTITION).values());
        let (offsets, deleted) = (i64s(&all, OFFSET).values(), bools(&all, DELETED));
        let mut order: Vec<usize> = (0..all.num_rows()).collect();
        order.sort_by_key(|&row| (ticks[row], partitions[row], offsets[row]));
        let id = NodeId::of(&self.node.name, self.node.plan);
        let mut key = Vec::new();
        for row in order {
            write_key(&mut key, keys.row(row).data(), &[]);
            let value = values.row(row);
            changes.put(id, 0, &key, (!deleted.value(row)).then(|| value.data()));
        }
        Ok(())
    }

    /// Rows that were put, as changes of the table at one tick.
    ///
    /// # Errors
    /// They are no rows of this table.
    pub fn changes(&self, rows: &[Row], tick: Tick) -> Result<RecordBatch, ArrowError> {
        let values = self.values.decode(rows)?;
        let count = values.num_rows();
        let column = |field: &Arc<arrow::datatypes::Field>| -> ArrayRef {
            match field.name().as_str() {
                DELETED => Arc::new(BooleanArray::from(vec![false; count])),
                PARTITION => Arc::new(Int32Array::from(vec![0; count])),
                OFFSET => Arc::new(Int64Array::from(vec![0; count])),
                TICK => Arc::new(UInt64Array::from(vec![tick; count])),
                name => values.column_by_name(name).expect("every other column is in the values").clone(),
            }
        };
        RecordBatch::try_new(self.schema.clone(), self.schema.fields().iter().map(column).collect())
    }
}

#[cfg(test)]
mod tests {
    use operators::error::Position;
    use operators::record::registry::{RegistryBuilder, Value};

    use super::*;
    use crate::checkpoint::{LogIdentity, Moment, Options, Store};

    /// Catches an older row that wins because of the worker it came from, a deleted one that comes again, and a column that is lost.
    #[test]
    fn the_newest_row_of_each_key_comes_again() {
        let table = TableRows::of(Stream::Tariff);
        let batch = |partition, rows: &[(&str, Option<&str>, Tick, i64)]| {
            let mut builder = RegistryBuilder::new(Stream::Tariff);
            for &(key, name, tick, offset) in rows {
                let at = Position { partition, offset, tick };
                match name {
                    Some(name) => builder.upsert(&[Value::Text(key), Value::Text(name), Value::Null], at),
                    None => builder.delete(key, at),
                }
            }
            builder.finish()
        };
        let first = batch(1, &[("a", Some("old"), 10, 0), ("b", Some("kept"), 20, 1), ("c", Some("gone"), 30, 2)]);
        let second = batch(0, &[("c", None, 40, 0), ("a", Some("new"), 40, 1)]);
        let mut changes = Changes::new();
        table.put(&[second, first], &mut changes).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::open(directory.path(), Options { keep: 3, compact_beside: false }).unwrap();
        let moment = Moment { tick: 101, workers: 1, log: LogIdentity::default(), ..Moment::default() };
        store.save(moment, std::slice::from_ref(&table.node), vec![changes]).unwrap();
        let mut rows = Vec::new();
        let manifest = store.newest().manifest.clone().unwrap();
        store
            .archive()
            .load(&manifest, |record| {
                rows.push(Row::new(record.value.expect("a row")));
                Ok(())
            })
            .unwrap();
        let again = table.changes(&rows, 100).unwrap();
        let expected = batch(0, &[("a", Some("new"), 100, 0), ("b", Some("kept"), 100, 0)]);
        assert_eq!(again, expected);
    }
}
