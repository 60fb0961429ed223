//! What a sink has been handed of a view, and from changes of rows to changes of keys.
//!
//! Invariant: of a key that several rows have, the greatest stands, so what is handed over does not depend on the order in which
//! rows come. A content that is compared with what stands gives exactly the difference.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, StringArray, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use operators::batch::{DELETED, TICK, fnv1a};
use operators::key_text;
use operators::row::{Codec, Diff, Row, count};
use operators::time::Tick;
use queries::answer::json_rows;
use sinks::view::{ID, JSON, KEY};

/// Rows of one batch.
const BATCH_ROWS: usize = 8_192;

/// In which form a sink takes rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As JSON objects.
    Json,
    /// In the view's columns.
    Columns,
    /// In the view's columns, with a word that says what became of the row.
    Changelog,
}

/// Column with that word.
const CHANGE: &str = "_change";

/// The rows of one view as one of its sinks takes them.
pub struct Standing {
    codec: Codec,
    form: Form,
    /// Places of the key's columns; events may have none.
    key: Vec<usize>,
    rows: BTreeMap<Box<str>, BTreeMap<Row, Diff>>,
}

/// What becomes of a key: its row, or the one that it had.
struct Turned {
    key: Box<str>,
    row: Row,
    gone: bool,
}

impl Standing {
    /// Nothing has been handed over.
    ///
    /// # Errors
    /// A column's type has no form in rows, or a key is none of the columns.
    pub fn new(schema: SchemaRef, key: &[String], form: Form) -> Result<Self, ArrowError> {
        let key = key.iter().map(|name| schema.index_of(name)).collect::<Result<_, _>>()?;
        Ok(Self { codec: Codec::new(schema)?, form, key, rows: BTreeMap::new() })
    }

    /// Forgets what was handed over: the target has lost it.
    pub fn forget(&mut self) {
        self.rows.clear();
    }

    /// What has to be handed over when these rows come and go at a tick.
    ///
    /// # Errors
    /// A value has no form in which the sink could take it.
    pub fn turn(&mut self, changes: &[(Row, Diff)], tick: Tick) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut touched: BTreeMap<Box<str>, Option<Row>> = BTreeMap::new();
        for changes in changes.chunks(BATCH_ROWS) {
            for (key, (row, diff)) in self.keys(changes.iter().map(|(row, _)| row))?.into_iter().zip(changes) {
                let rows = self.rows.entry(key.clone()).or_default();
                touched.entry(key).or_insert_with(|| greatest(rows));
                count(rows, row.clone(), *diff);
            }
        }
        let mut turned = Vec::new();
        for (key, before) in touched {
            let after = self.rows.get(&key).and_then(greatest);
            if self.rows.get(&key).is_some_and(BTreeMap::is_empty) {
                self.rows.remove(&key);
            }
            turned.extend(difference(key, before, after));
        }
        self.batches(&turned, tick)
    }

    /// What has to be handed over so that exactly these rows stand.
    ///
    /// # Errors
    /// As for [`turn`](Self::turn).
    pub fn become_content(&mut self, content: &[Row], tick: Tick) -> Result<Vec<RecordBatch>, ArrowError> {
        let mut rows: BTreeMap<Box<str>, BTreeMap<Row, Diff>> = BTreeMap::new();
        for content in content.chunks(BATCH_ROWS) {
            for (key, row) in self.keys(content.iter())?.into_iter().zip(content) {
                count(rows.entry(key).or_default(), row.clone(), 1);
            }
        }
        let mut before = std::mem::replace(&mut self.rows, rows);
        let mut turned = Vec::new();
        for (key, after) in &self.rows {
            let before = before.remove(key).and_then(|rows| greatest(&rows));
            turned.extend(difference(key.clone(), before, greatest(after)));
        }
        turned.extend(before.into_iter().filter_map(|(key, rows)| difference(key, greatest(&rows), None)));
        self.batches(&turned, tick)
    }

    /// These events, each with the number by which it is known again: that of its key, or else of its tick and all of it.
    ///
    /// # Errors
    /// As for [`turn`](Self::turn).
    pub fn events(&self, changes: &[(Row, Diff)], tick: Tick) -> Result<Vec<RecordBatch>, ArrowError> {
        let each = |(row, diff): &(Row, Diff)| {
            let row = row.clone();
            (0..u64::try_from(*diff).unwrap_or(0)).map(move |nth| (row.clone(), nth))
        };
        let all: Vec<(Row, u64)> = changes.iter().flat_map(each).collect();
        let batch = |some: &[(Row, u64)]| {
            let rows = self.codec.decode(some.iter().map(|(row, _)| row))?;
            let ids: Vec<u64> = if self.key.is_empty() {
                some.iter().map(|(row, nth)| fnv1a(&[row.bytes(), &tick.to_le_bytes(), &nth.to_le_bytes()])).collect()
            } else {
                let keys = self.keys(some.iter().map(|(row, _)| row))?;
                keys.iter().map(|key| fnv1a(&[key.as_bytes()])).collect()
            };
            let ids: ArrayRef = Arc::new(UInt64Array::from(ids));
            self.formed(&rows, vec![(Field::new(ID, DataType::UInt64, false), ids)], tick)
        };
        all.chunks(BATCH_ROWS).map(batch).collect()
    }

    fn batches(&self, turned: &[Turned], tick: Tick) -> Result<Vec<RecordBatch>, ArrowError> {
        let batch = |some: &[Turned]| {
            let rows = self.codec.decode(some.iter().map(|turned| &turned.row))?;
            let keys: ArrayRef = Arc::new(StringArray::from_iter_values(some.iter().map(|turned| &turned.key)));
            let gone: Vec<bool> = some.iter().map(|turned| turned.gone).collect();
            let ours = match self.form {
                Form::Changelog => {
                    let words = gone.iter().map(|gone| if *gone { "delete" } else { "upsert" });
                    let words: ArrayRef = Arc::new(StringArray::from_iter_values(words));
                    vec![(Field::new(CHANGE, DataType::Utf8, false), words)]
                }
                _ => vec![
                    (Field::new(KEY, DataType::Utf8, false), keys),
                    (Field::new(DELETED, DataType::Boolean, false), Arc::new(BooleanArray::from(gone)) as ArrayRef),
                ],
            };
            self.formed(&rows, ours, tick)
        };
        turned.chunks(BATCH_ROWS).map(batch).collect()
    }

    /// The rows in the form that the sink takes, with columns of ours.
    fn formed(&self, rows: &RecordBatch, ours: Vec<(Field, ArrayRef)>, tick: Tick) -> Result<RecordBatch, ArrowError> {
        let (mut fields, mut columns): (Vec<Field>, Vec<ArrayRef>) = (Vec::new(), Vec::new());
        match self.form {
            Form::Json => {
                fields.push(Field::new(JSON, DataType::Utf8, false));
                columns.push(Arc::new(StringArray::from(json_rows(rows)?)));
            }
            Form::Columns | Form::Changelog => {
                fields.extend(rows.schema_ref().fields().iter().map(|field| field.as_ref().clone()));
                columns.extend_from_slice(rows.columns());
            }
        }
        for (field, column) in ours {
            fields.push(field);
            columns.push(column);
        }
        fields.push(Field::new(TICK, DataType::UInt64, false));
        columns.push(Arc::new(UInt64Array::from(vec![tick; rows.num_rows()])));
        RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
    }

    /// The keys of rows, each as one text.
    fn keys<'a>(&self, rows: impl Iterator<Item = &'a Row>) -> Result<Vec<Box<str>>, ArrowError> {
        let rows = self.codec.decode(rows)?;
        let texts = self.key.iter().map(|place| cast(rows.column(*place), &DataType::Utf8));
        let texts = texts.collect::<Result<Vec<_>, _>>()?;
        let key = |row: usize| {
            let mut key = String::new();
            for (index, column) in texts.iter().enumerate() {
                if index > 0 {
                    key.push(key_text::SEPARATOR);
                }
                let column = column.as_string::<i32>();
                key_text::push(column.is_valid(row).then(|| column.value(row)), &mut key);
            }
            key.into_boxed_str()
        };
        Ok((0..rows.num_rows()).map(key).collect())
    }
}

fn greatest(rows: &BTreeMap<Row, Diff>) -> Option<Row> {
    rows.iter().rev().find(|(_, count)| **count > 0).map(|(row, _)| row.clone())
}

fn difference(key: Box<str>, before: Option<Row>, after: Option<Row>) -> Option<Turned> {
    match (before, after) {
        (before, Some(row)) => (before.as_ref() != Some(&row)).then_some(Turned { key, row, gone: false }),
        (Some(row), None) => Some(Turned { key, row, gone: true }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn standing() -> Standing {
        by(&["k"])
    }

    fn by(key: &[&str]) -> Standing {
        let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
        let fields = vec![Field::new("k", DataType::Utf8, true), Field::new("n", DataType::Int64, true)];
        Standing::new(Arc::new(Schema::new(fields)), &key, Form::Json).unwrap()
    }

    fn rows(standing: &Standing, rows: &[(&str, i64)]) -> Vec<Row> {
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0)));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
        standing.codec.encode(&[keys, numbers], rows.len()).unwrap()
    }

    /// Key, value or none, of all batches.
    fn told(batches: &[RecordBatch]) -> Vec<(String, Option<String>)> {
        let mut all = Vec::new();
        for batch in batches {
            let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
            let (keys, values, gone) =
                (text(KEY), text(JSON), batch.column_by_name(DELETED).unwrap().as_boolean().clone());
            for row in 0..batch.num_rows() {
                all.push((keys.value(row).to_owned(), (!gone.value(row)).then(|| values.value(row).to_owned())));
            }
        }
        all
    }

    fn upsert(key: &str, n: i64) -> (String, Option<String>) {
        (key.to_owned(), Some(format!("{{\"k\":\"{key}\",\"n\":{n}}}")))
    }

    #[test]
    fn a_row_that_goes_while_another_comes_is_a_change_of_its_key() {
        let mut standing = standing();
        let all = rows(&standing, &[("a", 1), ("b", 1), ("a", 2)]);
        let first = standing.turn(&[(all[0].clone(), 1), (all[1].clone(), 1)], 1).unwrap();
        assert_eq!(told(&first), [upsert("a", 1), upsert("b", 1)]);
        let second = standing.turn(&[(all[0].clone(), -1), (all[2].clone(), 1), (all[1].clone(), -1)], 2).unwrap();
        assert_eq!(told(&second), [upsert("a", 2), ("b".to_owned(), None)]);
        assert_eq!(standing.rows.len(), 1, "what is gone is not kept");
        let nothing = standing.turn(&[(all[1].clone(), 1), (all[1].clone(), -1)], 3).unwrap();
        assert_eq!(told(&nothing), []);
    }

    #[test]
    fn of_several_rows_under_a_key_the_greatest_stands_in_any_order() {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut standing = standing();
            let all = rows(&standing, &[("a", 1), ("a", 2), ("a", 3)]);
            for index in order {
                standing.turn(&[(all[index].clone(), 1)], 1).unwrap();
            }
            let less = standing.turn(&[(all[2].clone(), -1)], 2).unwrap();
            assert_eq!(told(&less), [upsert("a", 2)]);
        }
    }

    #[test]
    fn a_content_gives_the_difference_to_what_stands() {
        let mut standing = standing();
        let all = rows(&standing, &[("a", 1), ("b", 1), ("c", 1), ("b", 2), ("d", 1)]);
        standing.become_content(&all[..3], 1).unwrap();
        let content = [all[0].clone(), all[3].clone(), all[4].clone()];
        let told_of = told(&standing.become_content(&content, 2).unwrap());
        assert_eq!(told_of, [upsert("b", 2), upsert("d", 1), ("c".to_owned(), None)]);
        assert_eq!(told(&standing.become_content(&content, 3).unwrap()), []);
        standing.forget();
        assert_eq!(told(&standing.become_content(&content, 4).unwrap()).len(), 3);
    }

    #[test]
    fn equal_events_of_one_tick_have_numbers_of_their_own_and_the_same_ones_each_time() {
        let standing = by(&[]);
        let all = rows(&standing, &[("a", 1), ("b", 1)]);
        let events = [(all[0].clone(), 2), (all[1].clone(), 1)];
        let ids = |batches: Vec<RecordBatch>| -> Vec<u64> {
            let column = |batch: &RecordBatch| batch.column_by_name(ID).unwrap().clone();
            let values = batches.iter().map(column);
            values.flat_map(|ids| ids.as_primitive::<arrow::datatypes::UInt64Type>().values().to_vec()).collect()
        };
        let first = ids(standing.events(&events, 5).unwrap());
        assert_eq!(first.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        assert_eq!(first, ids(standing.events(&events, 5).unwrap()));
        assert_ne!(first, ids(standing.events(&events, 6).unwrap()), "another tick, another event");
        let keyed = by(&["k"]);
        assert_eq!(ids(keyed.events(&events[1..], 5).unwrap()), ids(keyed.events(&events[1..], 6).unwrap()));
    }
}
