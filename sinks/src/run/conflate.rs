//! Of many changes of a table's keys, the one of each that stands: what catching up writes instead of every version.
//!
//! Invariant: the result has each key once, with the row of its highest tick; within a tick an upsert stands over a delete,
//! and of two alike the one that came later.

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave_record_batch;
use arrow::row::{RowConverter, Rows as KeyRows, SortField};
use hashbrown::HashTable;
use operators::batch::{DELETED, bools, compact, key_hash};

use super::ticks;

/// The row that stands for a key so far.
struct Standing {
    hash: u64,
    batch: u32,
    row: u32,
    /// Tick, and of one tick upserts above deletes.
    order: (u64, bool),
}

/// The changes that stand, in the order in which they came; `batches` share one schema, which has the columns `keys`.
/// Returns the batches as they are if each key occurs once.
pub(super) fn newest(batches: Vec<RecordBatch>, keys: &[&str]) -> Vec<RecordBatch> {
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    if rows < 2 || keys.is_empty() {
        return batches;
    }
    let encoded = encode_keys(&batches, keys);
    let mut standing: HashTable<Standing> = HashTable::with_capacity(rows);
    for (batch, rows) in batches.iter().enumerate() {
        let (ticks, deleted) = (ticks(rows).values(), bools(rows, DELETED));
        for row in 0..rows.num_rows() {
            let key = encoded[batch].row(row).data();
            let candidate = Standing {
                hash: key_hash(key),
                batch: batch as u32,
                row: row as u32,
                order: (ticks[row], !deleted.value(row)),
            };
            let same = |other: &Standing| {
                other.hash == candidate.hash && encoded[other.batch as usize].row(other.row as usize).data() == key
            };
            match standing.find_mut(candidate.hash, same) {
                Some(present) if present.order <= candidate.order => *present = candidate,
                Some(_) => {}
                None => {
                    standing.insert_unique(candidate.hash, candidate, |other| other.hash);
                }
            }
        }
    }
    if standing.len() == rows {
        return batches;
    }
    let mut chosen: Vec<(usize, usize)> =
        standing.iter().map(|standing| (standing.batch as usize, standing.row as usize)).collect();
    chosen.sort_unstable(); // as they came: the result must not depend on hashes
    let sources: Vec<&RecordBatch> = batches.iter().collect();
    let newest = interleave_record_batch(&sources, &chosen).expect("one schema, indices within the batches");
    // The strings of the rows left out would otherwise be held as long as those that stand.
    vec![compact(&newest)]
}

fn encode_keys(batches: &[RecordBatch], keys: &[&str]) -> Vec<KeyRows> {
    let columns = |rows: &RecordBatch| -> Vec<ArrayRef> {
        let column =
            |key: &&str| rows.column_by_name(key).unwrap_or_else(|| panic!("the stream has no key column {key}"));
        keys.iter().map(|key| column(key).clone()).collect()
    };
    let fields = columns(&batches[0]).iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let converter = RowConverter::new(fields).expect("keys are of plain types");
    let encode = |rows| converter.convert_columns(&columns(rows)).expect("one schema");
    batches.iter().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Int64Array, StringViewArray, UInt64Array};
    use arrow::datatypes::{DataType, Field};
    use operators::batch::{i64s, strings, table_schema};
    use proptest::prelude::*;

    use super::*;

    /// Key in two columns, value, deleted, tick.
    type Change = (u8, i64, i64, bool, u64);

    fn batch(changes: &[Change]) -> RecordBatch {
        let schema = table_schema(vec![
            Field::new("company_id", DataType::Utf8View, false),
            Field::new("window_start", DataType::Int64, false),
            Field::new("value", DataType::Int64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(changes.iter().map(|c| format!("a company named {}", c.0)))),
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.1))),
            Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.2))),
            Arc::new(BooleanArray::from(changes.iter().map(|c| c.3).collect::<Vec<_>>())),
            Arc::new(UInt64Array::from_iter_values(changes.iter().map(|c| c.4))),
        ];
        RecordBatch::try_new(schema, columns).unwrap()
    }

    fn listed(rows: &RecordBatch) -> Vec<(String, i64, i64, bool, u64)> {
        let row = |row: usize| {
            let company = strings(rows, "company_id").value(row).to_owned();
            let (start, value) = (i64s(rows, "window_start").value(row), i64s(rows, "value").value(row));
            (company, start, value, bools(rows, DELETED).value(row), ticks(rows).value(row))
        };
        (0..rows.num_rows()).map(row).collect()
    }

    #[test]
    fn keys_that_occur_once_are_left_as_they_are() {
        let one = batch(&[(1, 60, 7, false, 10), (2, 60, 8, true, 10)]);
        let kept = newest(vec![one.clone()], &["company_id", "window_start"]);
        assert_eq!(kept, vec![one]);
    }

    proptest! {
        #[test]
        fn the_newest_of_each_key_stands(
            changes in prop::collection::vec((0u8..4, 0i64..3, 0i64..1000, any::<bool>(), 0u64..5), 0..60),
            cuts in prop::collection::vec(0usize..60, 0..4),
        ) {
            let mut wanted: BTreeMap<(u8, i64), Change> = BTreeMap::new();
            for change in &changes {
                let present = wanted.entry((change.0, change.1)).or_insert(*change);
                if (present.4, !present.3) <= (change.4, !change.3) {
                    *present = *change;
                }
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(changes.len())).collect();
            cuts.extend([0, changes.len()]);
            cuts.sort_unstable();
            let batches = cuts.windows(2).map(|cut| batch(&changes[cut[0]..cut[1]])).collect();
            let mut got: Vec<_> = newest(batches, &["company_id", "window_start"]).iter().flat_map(listed).collect();
            got.sort();
            let mut wanted: Vec<_> = wanted.into_values()
                .map(|c| (format!("a company named {}", c.0), c.1, c.2, c.3, c.4)).collect();
            wanted.sort();
            prop_assert_eq!(got, wanted);
        }
    }
}
