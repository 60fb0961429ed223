//! Rows of tables as bytes: comparable, hashable, and converted to and from columns in bulk (Arrow's row format).
//!
//! Invariant: two rows of one schema are equal exactly if their bytes are; the bytes of two rows one after the other are
//! the row of the two schemas one after the other, so that a join has nothing to decode.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::arity::unary;
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use serde::{Deserialize, Serialize};

/// How often a row is there; negative where it leaves.
pub type Diff = i64;

/// Adds to how often a key is there; one that is there no more is not kept. Tells by how many the kept keys are more now: one,
/// none, or one less.
pub fn count<K: Ord>(counts: &mut BTreeMap<K, Diff>, key: K, diff: Diff) -> Diff {
    match counts.entry(key) {
        Entry::Vacant(entry) if diff != 0 => {
            entry.insert(diff);
            1
        }
        Entry::Vacant(_) => 0,
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += diff;
            if *entry.get() != 0 {
                return 0;
            }
            entry.remove();
            -1
        }
    }
}

/// Each key as often as it is there.
pub fn repeated<K>(counts: &BTreeMap<K, Diff>) -> impl Iterator<Item = &K> {
    counts.iter().flat_map(|(key, count)| std::iter::repeat_n(key, usize::try_from(*count).unwrap_or(0)))
}

/// One row, cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Row(Arc<[u8]>);

impl Default for Row {
    fn default() -> Self {
        Row(Arc::from([]))
    }
}

impl Row {
    /// The row with these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Row(bytes.into())
    }

    /// The bytes of the row.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// This row's columns followed by those of `other`.
    #[must_use]
    pub fn and(&self, other: &Row) -> Row {
        let mut bytes = Vec::with_capacity(self.0.len() + other.0.len());
        bytes.extend_from_slice(&self.0);
        bytes.extend_from_slice(&other.0);
        Row(bytes.into())
    }

    /// A hash that is the same in every process.
    #[must_use]
    pub fn spread(&self) -> u64 {
        crate::batch::key_hash(&self.0)
    }
}

/// So that a map of rows can be asked by bytes.
impl std::borrow::Borrow<[u8]> for Row {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Row {
    fn from(bytes: &[u8]) -> Self {
        Row::new(bytes)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({} bytes, {:016x})", self.0.len(), self.spread())
    }
}

/// Converts between columns of one schema and rows.
#[derive(Debug)]
pub struct Codec {
    schema: SchemaRef,
    converter: RowConverter,
}

impl Codec {
    /// The codec of a schema.
    ///
    /// # Errors
    /// A column's type has no row format.
    pub fn new(schema: SchemaRef) -> Result<Self, ArrowError> {
        let fields = schema.fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
        Ok(Self { converter: RowConverter::new(fields)?, schema })
    }

    /// The columns' schema.
    #[must_use]
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The rows of these columns, which must be those of the schema.
    ///
    /// # Errors
    /// The columns are others.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<Row>, ArrowError> {
        if columns.is_empty() {
            return Ok(vec![Row::default(); rows]);
        }
        let encoded = self.converter.convert_columns(columns)?;
        Ok(encoded.iter().map(|row| Row::new(row.data())).collect())
    }

    /// The same without a row of its own for each: all bytes lie in one buffer.
    ///
    /// # Errors
    /// The columns are others.
    pub fn encode_together(&self, columns: &[ArrayRef]) -> Result<arrow::row::Rows, ArrowError> {
        self.converter.convert_columns(columns)
    }

    /// The columns of these rows.
    ///
    /// # Errors
    /// The bytes are no rows of the schema.
    pub fn decode<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Result<RecordBatch, ArrowError> {
        let parser = self.converter.parser();
        let mut count = 0;
        let parsed = rows.into_iter().inspect(|_| count += 1).map(|row| parser.parse(&row.0));
        if self.schema.fields().is_empty() {
            let count = parsed.count();
            let options = RecordBatchOptions::new().with_row_count(Some(count));
            return RecordBatch::try_new_with_options(self.schema.clone(), Vec::new(), &options);
        }
        let columns = self.converter.convert_rows(parsed)?;
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)
    }

    /// A row of nulls.
    ///
    /// # Errors
    /// None that a schema of this codec can cause.
    pub fn nulls(&self) -> Result<Row, ArrowError> {
        let columns: Vec<ArrayRef> =
            self.schema.fields().iter().map(|field| arrow::array::new_null_array(field.data_type(), 1)).collect();
        Ok(self.encode(&columns, 1)?.pop().unwrap_or_default())
    }
}

/// The column as part of a key: −0.0 is 0.0, and every NaN is the same.
#[must_use]
pub fn as_key(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(unary::<_, _, Float64Type>(column.as_primitive::<Float64Type>(), |value| {
            if value.is_nan() { f64::NAN } else { value + 0.0 }
        })),
        DataType::Float32 => Arc::new(unary::<_, _, Float32Type>(column.as_primitive::<Float32Type>(), |value| {
            if value.is_nan() { f32::NAN } else { value + 0.0 }
        })),
        _ => column.clone(),
    }
}

/// Whether any of the columns is null in this row.
#[must_use]
pub fn any_null(columns: &[ArrayRef], row: usize) -> bool {
    columns.iter().any(|column| column.is_null(row))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, Int64Array, StringViewArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    fn codec(fields: &[(&str, DataType)]) -> Codec {
        let fields: Vec<Field> = fields.iter().map(|(name, kind)| Field::new(*name, kind.clone(), true)).collect();
        Codec::new(Arc::new(Schema::new(fields))).unwrap()
    }

    #[test]
    fn rows_one_after_the_other_are_the_row_of_both() {
        let left = codec(&[("a", DataType::Int64), ("b", DataType::Utf8View)]);
        let right = codec(&[("c", DataType::Float64)]);
        let both = codec(&[("a", DataType::Int64), ("b", DataType::Utf8View), ("c", DataType::Float64)]);
        let a: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None]));
        let b: ArrayRef = Arc::new(StringViewArray::from_iter([Some("x"), Some("a text of more than twelve bytes")]));
        let c: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(-0.5)]));
        let l = left.encode(&[a.clone(), b.clone()], 2).unwrap();
        let r = right.encode(std::slice::from_ref(&c), 2).unwrap();
        let joined: Vec<Row> = l.iter().zip(&r).map(|(l, r)| l.and(r)).collect();
        assert_eq!(joined, both.encode(&[a.clone(), b.clone(), c.clone()], 2).unwrap());
        let decoded = both.decode(&joined).unwrap();
        assert_eq!(decoded.columns(), [a, b, c]);
        assert_eq!(left.nulls().unwrap().and(&right.nulls().unwrap()), both.nulls().unwrap());
    }

    #[test]
    fn a_schema_without_columns_has_rows_too() {
        let none = codec(&[]);
        let rows = none.encode(&[], 3).unwrap();
        assert_eq!((rows.len(), none.decode(&rows).unwrap().num_rows()), (3, 3));
    }

    #[test]
    fn as_keys_all_zeros_and_all_nans_are_one() {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![0.0, -0.0, f64::NAN, -f64::NAN, 1.5]));
        let key = codec(&[("k", DataType::Float64)]);
        let rows = key.encode(&[as_key(&column)], 5).unwrap();
        assert!(rows[0] == rows[1] && rows[2] == rows[3] && rows[4] != rows[0]);
    }
}
