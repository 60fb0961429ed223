//! Rows that an expression could not be computed for, as rows of their own.
//!
//! Invariant: a fault leaves when its row does.

use std::sync::{Arc, LazyLock};

use datafusion::arrow::array::{ArrayRef, AsArray, StringViewArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use operators::error::excerpt;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;

use super::outputs::Updates;

static CODEC: LazyLock<Codec> = LazyLock::new(|| {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    Codec::new(Arc::new(Schema::new(vec![text("operator"), text("message")]))).expect("text has a row format")
});

/// The columns of faults.
#[must_use]
pub fn fault_codec() -> &'static Codec {
    &CODEC
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Which operator met it.
    pub operator: String,
    /// Why the row has no result.
    pub message: String,
}

impl Fault {
    /// The fault as a row.
    #[must_use]
    pub fn row(operator: &str, message: &str) -> Row {
        // The library's messages may end with a trace or a hint of many lines.
        Fault::own_row(operator, &excerpt(message.lines().next().unwrap_or_default()))
    }

    /// The same with a message that was made here, of parts that are cut already.
    #[must_use]
    pub(super) fn own_row(operator: &str, message: &str) -> Row {
        let columns: [ArrayRef; 2] = [
            Arc::new(StringViewArray::from_iter_values([operator])),
            Arc::new(StringViewArray::from_iter_values([message])),
        ];
        CODEC.encode(&columns, 1).expect("the columns of the codec").pop().unwrap_or_default()
    }

    /// The faults of rows that failed, and why; `at` tells the tick of a row and how often it is there.
    pub fn rows(operator: &str, failed: &[(u32, String)], at: impl Fn(u32) -> (Tick, Diff)) -> Updates {
        let fault = |(row, why): &(u32, String)| {
            let (tick, diff) = at(*row);
            (Fault::row(operator, why), tick, diff)
        };
        failed.iter().map(fault).collect()
    }

    /// The fault that a row stands for.
    #[must_use]
    pub fn of(row: &Row) -> Fault {
        let columns = CODEC.decode([row]).expect("a row of the codec");
        let text = |index: usize| columns.column(index).as_string_view().value(0).to_owned();
        Fault { operator: text(0), message: text(1) }
    }
}
