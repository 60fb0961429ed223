//! Rows of one relation without SQL: the first ones, or the one with a key.
//!
//! Invariant: values of a key are only ever compared, never part of a text that is parsed.

use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, BooleanArray, Scalar, StringArray};
use datafusion::arrow::compute::kernels::boolean::and;
use datafusion::arrow::compute::kernels::cmp::eq;
use datafusion::arrow::compute::{cast, filter_record_batch};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use operators::error::{Refusal, excerpt};

use super::directory::Directory;
use super::{Name, Relation, Relations, Snapshot};
use crate::answer::Answer;
use crate::question::{Options, bytes_of, refuse};

/// Between so many batches others get their turn.
const BATCHES_AT_ONCE: usize = 64;

/// The first rows, as many as one answer may have.
pub async fn rows(relations: &dyn Relations, name: &Name, options: &Options) -> Result<Answer, Refusal> {
    let (relation, snapshot) = read(relations, name)?;
    let mut found = Found::new(options);
    for (n, batch) in snapshot.batches.iter().enumerate() {
        if !found.take(batch.clone())? {
            break;
        }
        if n % BATCHES_AT_ONCE == BATCHES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(found.answer(&relation, &snapshot))
}

/// The row with this key; none if there is none.
pub async fn row(relations: &dyn Relations, name: &Name, key: &[String], options: &Options) -> Result<Answer, Refusal> {
    let (relation, snapshot) = read(relations, name)?;
    let key = typed(&relation, key)?;
    let mut found = Found::new(options);
    for (n, batch) in snapshot.batches.iter().enumerate() {
        let rows = matching(batch, &key).map_err(|why| Refusal::new("sql_failed", why.to_string()))?;
        if rows.num_rows() > 0 && !found.take(rows)? {
            break;
        }
        if n % BATCHES_AT_ONCE == BATCHES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(found.answer(&relation, &snapshot))
}

fn read(relations: &dyn Relations, name: &Name) -> Result<(Relation, Snapshot), Refusal> {
    let directory = Directory::new(relations.list());
    let found = directory.get(name).and_then(|relation| {
        let snapshot = relations.snapshot(&name.namespace, &name.name)?;
        Some((relation.clone(), snapshot))
    });
    let why = || relations.why_not(name).unwrap_or_else(|| refuse::unknown_table(&name.name, &directory.known()));
    found.ok_or_else(why)
}

/// The key's values in the types of their columns, each with the column's place.
fn typed(relation: &Relation, key: &[String]) -> Result<Vec<(usize, ArrayRef)>, Refusal> {
    let columns = &relation.key;
    if columns.is_empty() {
        return Err(Refusal::new("key_unknown", format!("{} has no key", relation.name.name)));
    }
    if columns.len() != key.len() {
        let (names, given) = (columns.join("|"), key.len());
        let message = format!("the key of {} is {names}, and {given} values were given", relation.name.name);
        return Err(Refusal::new("key_invalid", message));
    }
    let values = columns.iter().zip(key).map(|(column, text)| {
        let at = relation.schema.index_of(column).map_err(|_| {
            Refusal::new("key_unknown", format!("{} has no column {column} of its key", relation.name.name))
        })?;
        let wanted = relation.schema.field(at).data_type();
        let text_array: ArrayRef = Arc::new(StringArray::from(vec![text.as_str()]));
        let value = cast(&text_array, wanted).ok().filter(|value| value.is_valid(0));
        let value = value.ok_or_else(|| {
            Refusal::new("key_invalid", format!("{column} is {wanted}, got \"{}\"", excerpt(text))).at(column.as_str())
        })?;
        Ok((at, value))
    });
    values.collect()
}

fn matching(batch: &RecordBatch, key: &[(usize, ArrayRef)]) -> Result<RecordBatch, ArrowError> {
    let mut chosen: Option<BooleanArray> = None;
    for (at, value) in key {
        let equal = eq(batch.column(*at), &Scalar::new(value.clone()))?;
        chosen = Some(match chosen {
            None => equal,
            Some(chosen) => and(&chosen, &equal)?,
        });
    }
    chosen.map_or_else(|| Ok(batch.slice(0, 0)), |chosen| filter_record_batch(batch, &chosen))
}

/// Rows that were found, within the limits of an answer.
struct Found<'a> {
    options: &'a Options,
    batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
    truncated: bool,
}

impl<'a> Found<'a> {
    fn new(options: &'a Options) -> Self {
        Found { options, batches: Vec::new(), rows: 0, bytes: 0, truncated: false }
    }

    /// Takes rows; whether there is room for more.
    fn take(&mut self, rows: RecordBatch) -> Result<bool, Refusal> {
        let room = self.options.rows_max - self.rows;
        self.truncated = rows.num_rows() > room;
        let rows = if self.truncated { rows.slice(0, room) } else { rows };
        self.rows += rows.num_rows();
        self.bytes += bytes_of(&rows);
        if self.bytes > self.options.memory_bytes_max {
            let most = self.options.memory_bytes_max;
            return Err(refuse::too_much(&format!("the answer is larger than {most} bytes")));
        }
        self.batches.push(rows);
        Ok(!self.truncated)
    }

    fn answer(self, relation: &Relation, snapshot: &Snapshot) -> Answer {
        let (batches, truncated) = (self.batches, self.truncated);
        Answer { schema: relation.schema.clone(), batches, truncated, as_of: Some(snapshot.as_of) }
    }
}
