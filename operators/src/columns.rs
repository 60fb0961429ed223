//! Columns put together in plain vectors, with a value that stands for null where one is free. A column without nulls gets no
//! map of them, and costs nothing for it further on.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, PrimitiveArray};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::ArrowPrimitiveType;

/// A column's values; room for as many stays behind.
pub fn taken<T>(column: &mut Vec<T>) -> Vec<T> {
    let room = column.len();
    std::mem::replace(column, Vec::with_capacity(room))
}

/// The column of these values, null where one is not known.
#[must_use]
pub fn nullable<T: ArrowPrimitiveType>(values: Vec<T::Native>, is_known: fn(&T::Native) -> bool) -> ArrayRef {
    let nulls = known(&values, is_known);
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
}

/// The column of these flags.
#[must_use]
pub fn flags(values: &[Option<bool>]) -> ArrayRef {
    let set = BooleanBuffer::collect_bool(values.len(), |row| values[row] == Some(true));
    Arc::new(BooleanArray::new(set, known(values, Option::is_some)))
}

fn known<T>(values: &[T], is_known: fn(&T) -> bool) -> Option<NullBuffer> {
    (!values.iter().all(is_known))
        .then(|| NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| is_known(&values[row]))))
}
