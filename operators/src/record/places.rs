//! The columns that say where the rows of a batch stand in their log, which come last in it.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Builder, Int64Builder, UInt64Builder};
use arrow::datatypes::{DataType, Field};

use crate::batch::{OFFSET, PARTITION, TICK};
use crate::error::Position;

/// The columns.
pub(super) fn fields() -> [Field; 3] {
    [
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(TICK, DataType::UInt64, false),
    ]
}

/// Builds them.
#[derive(Debug, Default)]
pub(super) struct Places {
    partition: Int32Builder,
    offset: Int64Builder,
    tick: UInt64Builder,
}

impl Places {
    pub fn push(&mut self, at: Position) {
        self.partition.append_value(at.partition);
        self.offset.append_value(at.offset);
        self.tick.append_value(at.tick);
    }

    /// Rows since the last [`finish`](Self::finish).
    pub fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.tick)
    }

    /// The columns so far, in the order of [`fields`]; the builder is empty again.
    pub fn finish(&mut self) -> [ArrayRef; 3] {
        [Arc::new(self.partition.finish()), Arc::new(self.offset.finish()), Arc::new(self.tick.finish())]
    }
}
