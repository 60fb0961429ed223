//! Expressions over many rows at once.
//!
//! Invariant: a row that fails is alone in failing: the batch is halved until it is found. A row that becomes too large fails.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::arrow::compute::{concat, filter_record_batch};
use datafusion::arrow::datatypes::DataType;
use datafusion::error::{DataFusionError, Result};

use crate::plan::Expression;

/// Bytes of texts and lists that a row may have: texts that are put together again and again would fill the memory.
const ROW_BYTES_MAX: usize = 1 << 20;

/// A filter, and columns over what it leaves.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Rows for which it is true stay.
    pub filter: Option<Expression>,
    /// The columns.
    pub columns: Vec<Expression>,
}

/// Columns of the rows that stayed, and which those are.
pub struct Evaluated {
    /// The columns.
    pub columns: Vec<ArrayRef>,
    /// Which row of the input each of theirs is, ascending.
    pub rows: Vec<u32>,
    /// Rows that failed, and why.
    pub failed: Vec<(u32, String)>,
}

impl Stage {
    /// Columns without a filter.
    pub fn columns(columns: &[Expression]) -> Self {
        Stage { filter: None, columns: columns.to_vec() }
    }

    /// Evaluates over all rows.
    pub fn evaluate(&self, batch: &RecordBatch) -> Result<Evaluated> {
        let mut failed = Vec::new();
        let mut parts = Vec::new();
        self.part(batch, 0, &mut parts, &mut failed);
        let rows = parts.iter().flat_map(|(_, rows)| rows.iter().copied()).collect();
        let columns = match parts.as_slice() {
            [] => Vec::new(),
            [(columns, _)] => columns.clone(),
            _ => (0..self.columns.len())
                .map(|index| {
                    let pieces: Vec<&dyn Array> = parts.iter().map(|(columns, _)| columns[index].as_ref()).collect();
                    Ok(concat(&pieces)?)
                })
                .collect::<Result<Vec<_>>>()?,
        };
        Ok(Evaluated { columns, rows, failed })
    }

    fn part(
        &self,
        batch: &RecordBatch,
        first: u32,
        parts: &mut Vec<(Vec<ArrayRef>, Vec<u32>)>,
        failed: &mut Vec<(u32, String)>,
    ) {
        let rows = batch.num_rows();
        if rows == 0 {
            return;
        }
        match self.try_all(batch) {
            Ok((columns, kept)) => {
                let kept: Vec<u32> = match kept {
                    Some(kept) => kept.into_iter().map(|row| row + first).collect(),
                    None => (first..first + rows as u32).collect(),
                };
                if !kept.is_empty() {
                    parts.push((columns, kept));
                }
            }
            Err(why) if rows == 1 => failed.push((first, why.strip_backtrace())),
            Err(_) => {
                let half = rows / 2;
                self.part(&batch.slice(0, half), first, parts, failed);
                self.part(&batch.slice(half, rows - half), first + half as u32, parts, failed);
            }
        }
    }

    fn try_all(&self, batch: &RecordBatch) -> Result<(Vec<ArrayRef>, Option<Vec<u32>>)> {
        let Some(filter) = &self.filter else { return Ok((bearable(all(&self.columns, batch)?)?, None)) };
        let chosen = filter.evaluate(batch)?.into_array(batch.num_rows())?;
        let chosen = chosen.as_boolean();
        let kept: Vec<u32> =
            (0..chosen.len()).filter(|row| chosen.is_valid(*row) && chosen.value(*row)).map(|row| row as u32).collect();
        // Over no rows at all an expression without columns fails as ever.
        if kept.is_empty() {
            return Ok((Vec::new(), Some(kept)));
        }
        let left = if kept.len() == batch.num_rows() { batch.clone() } else { filter_record_batch(batch, chosen)? };
        Ok((bearable(all(&self.columns, &left)?)?, Some(kept)))
    }
}

/// The columns, if no row is too large.
fn bearable(columns: Vec<ArrayRef>) -> Result<Vec<ArrayRef>> {
    let all: usize = columns.iter().map(|column| column.get_array_memory_size()).sum();
    if all <= ROW_BYTES_MAX {
        return Ok(columns);
    }
    let rows = columns.first().map_or(0, |column| column.len());
    let mut bytes = vec![0usize; rows];
    columns.iter().for_each(|column| add_bytes(column.as_ref(), &mut bytes));
    match bytes.iter().max().filter(|most| **most > ROW_BYTES_MAX) {
        None => Ok(columns),
        Some(most) => {
            let message = format!("a row of {most} bytes; it may have {ROW_BYTES_MAX} in texts and lists");
            Err(DataFusionError::ResourcesExhausted(message))
        }
    }
}

/// Adds the bytes of a column's texts and lists to those of each row.
fn add_bytes(column: &dyn Array, bytes: &mut [usize]) {
    match column.data_type() {
        DataType::Utf8View => {
            bytes.iter_mut().zip(column.as_string_view().lengths()).for_each(|(sum, length)| *sum += length as usize);
        }
        DataType::BinaryView => {
            bytes.iter_mut().zip(column.as_binary_view().lengths()).for_each(|(sum, length)| *sum += length as usize);
        }
        DataType::Utf8 => add_lengths(column.as_string::<i32>().value_offsets(), bytes),
        DataType::LargeUtf8 => add_lengths(column.as_string::<i64>().value_offsets(), bytes),
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let mut values = vec![size_of::<u64>(); list.values().len()];
            add_bytes(list.values().as_ref(), &mut values);
            for (sum, ends) in bytes.iter_mut().zip(list.value_offsets().windows(2)) {
                *sum += values[ends[0] as usize..ends[1] as usize].iter().sum::<usize>();
            }
        }
        _ => {}
    }
}

fn add_lengths<T: Copy + Into<i64>>(offsets: &[T], bytes: &mut [usize]) {
    let lengths = offsets.windows(2).map(|ends| ends[1].into() - ends[0].into());
    bytes.iter_mut().zip(lengths).for_each(|(sum, length)| *sum += usize::try_from(length).unwrap_or(0));
}

/// The expressions over all rows.
pub fn all(expressions: &[Expression], batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
    let rows = batch.num_rows();
    expressions.iter().map(|expression| expression.evaluate(batch)?.into_array(rows)).collect()
}
