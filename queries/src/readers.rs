//! Who reads, and the rows of which companies they see.
//!
//! Invariant: what a reader may see follows from who they have shown to be, and from nothing that they ask; a row without a
//! company is seen by readers of all companies alone.

mod scram;
mod users;

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, ArrayRef, AsArray as _, BooleanArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use operators::error::{Refusal, excerpt};

pub(crate) use scram::Exchange;
pub use users::{User, Users};

/// Code of what a reader may not see, or not do.
pub const DENIED: &str = "access_denied";

/// Companies whose rows somebody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Companies {
    /// All, and rows without a company.
    All,
    /// Those with these ids.
    Only(Arc<BTreeSet<String>>),
}

impl Companies {
    /// Those with these ids.
    #[must_use]
    pub fn only<'a>(ids: impl IntoIterator<Item = &'a str>) -> Companies {
        Companies::Only(Arc::new(ids.into_iter().map(str::to_owned).collect()))
    }
}

/// Somebody who has shown who they are. What comes with a token later is made into one too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Their name; none where nobody is asked for one.
    pub name: Option<String>,
    /// Whose rows they see.
    pub companies: Companies,
    /// Whether they may add, replace and drop streams.
    pub may_change: bool,
}

impl Reader {
    /// Whoever reaches a process without users: sees and may do everything.
    #[must_use]
    pub fn anybody() -> Reader {
        Reader { name: None, companies: Companies::All, may_change: true }
    }

    /// Whether there are rows that they do not see.
    #[must_use]
    pub fn is_restricted(&self) -> bool {
        self.companies != Companies::All
    }

    /// Whether they may change what streams there are.
    ///
    /// # Errors
    /// They may not.
    pub fn changes(&self) -> Result<(), Refusal> {
        if self.may_change {
            return Ok(());
        }
        let name = excerpt(self.name.as_deref().unwrap_or_default());
        Err(Refusal::new(DENIED, format!("{name} may read, and not add, replace or drop streams"))
            .hint("a user with may_change = true and all companies may"))
    }

    /// Whether they see all there is, as is needed for what belongs to no company.
    ///
    /// # Errors
    /// They see the rows of some companies.
    pub fn sees_all(&self, what: &str) -> Result<(), Refusal> {
        if !self.is_restricted() {
            return Ok(());
        }
        Err(Refusal::new(DENIED, format!("{what} are shown to readers of all companies"))
            .hint("ask for what has a column that says whose a row is"))
    }

    /// What lets through the rows that they see of a relation with these columns, of which `access` says whose a row is.
    ///
    /// # Errors
    /// They see no row of such a relation, whichever there are.
    pub fn sieve(&self, name: &str, schema: &Schema, access: Option<&str>) -> Result<Sieve, Refusal> {
        Sieve::new(&self.companies, schema, access).ok_or_else(|| denied(name))
    }
}

/// The refusal of a name that a reader of some companies may not read. It is the same whether there is such a thing or not, so
/// it tells nobody what there is.
#[must_use]
pub fn denied(name: &str) -> Refusal {
    Refusal::new(DENIED, format!("you may read nothing called {}", excerpt(name)))
        .hint("/v1/views, or \\d in psql, lists what you may read")
}

/// Lets through the rows of one relation that somebody sees.
#[derive(Clone, Debug)]
pub struct Sieve(Option<Own>);

#[derive(Clone, Debug)]
struct Own {
    ids: Arc<BTreeSet<String>>,
    /// Place of the column that says whose a row is.
    column: usize,
}

impl Sieve {
    /// For a relation with these columns; none if no row of it may be seen.
    #[must_use]
    pub fn new(companies: &Companies, schema: &Schema, access: Option<&str>) -> Option<Sieve> {
        let Companies::Only(ids) = companies else { return Some(Sieve(None)) };
        let column = schema.index_of(access?).ok()?;
        is_text(schema.field(column).data_type()).then(|| Sieve(Some(Own { ids: ids.clone(), column })))
    }

    /// Whether there can be rows that are not seen.
    #[must_use]
    pub fn keeps_back(&self) -> bool {
        self.0.is_some()
    }

    /// Which rows are seen; none if all are.
    #[must_use]
    pub fn seen(&self, rows: &RecordBatch) -> Option<BooleanArray> {
        let Own { ids, column } = self.0.as_ref()?;
        Some(theirs(rows.column(*column), ids))
    }

    /// The rows that are seen.
    ///
    /// # Errors
    /// None that rows of the relation can cause.
    pub fn rows(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some(seen) = self.seen(&rows) else { return Ok(rows) };
        let own = filter_record_batch(&rows, &seen)?;
        // Texts share buffers with rows that are not theirs: what a question takes may not tell of those.
        let columns = own.columns().iter().map(alone).collect();
        let options = datafusion::arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(own.num_rows()));
        RecordBatch::try_new_with_options(own.schema(), columns, &options)
    }
}

/// Whether a column of this type can say whose a row is.
pub(crate) fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn theirs(column: &ArrayRef, ids: &BTreeSet<String>) -> BooleanArray {
    let theirs = |id: Option<&str>| Some(id.is_some_and(|id| ids.contains(id)));
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().iter().map(theirs).collect(),
        DataType::LargeUtf8 => column.as_string::<i64>().iter().map(theirs).collect(),
        DataType::Utf8View => column.as_string_view().iter().map(theirs).collect(),
        _ => BooleanArray::from(vec![false; column.len()]),
    }
}

/// The column without bytes that no row of it has.
fn alone(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => column.clone(),
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{Int64Array, StringViewArray};
    use datafusion::arrow::datatypes::Field;

    use super::*;

    fn rows(ids: &[Option<&str>]) -> RecordBatch {
        let fields = vec![Field::new("n", DataType::Int64, true), Field::new("company", DataType::Utf8View, true)];
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..ids.len() as i64));
        let companies: ArrayRef = Arc::new(ids.iter().copied().collect::<StringViewArray>());
        RecordBatch::try_new(Arc::new(Schema::new(fields)), vec![numbers, companies]).unwrap()
    }

    #[test]
    fn rows_of_others_and_of_nobody_are_kept_back() {
        let long = "a company whose id is longer than twelve bytes";
        let batch = rows(&[Some("c1"), Some(long), None, Some("c1 "), Some(""), Some("C1"), Some("c1")]);
        let seen = |companies: &Companies| {
            let sieve = Sieve::new(companies, &batch.schema(), Some("company")).unwrap();
            let rows = sieve.rows(batch.clone()).unwrap();
            let numbers = rows.column(0).as_primitive::<datafusion::arrow::datatypes::Int64Type>().values().to_vec();
            (numbers, rows.column(1).as_string_view().total_buffer_bytes_used())
        };
        assert_eq!(seen(&Companies::only(["c1"])), (vec![0, 6], 0), "nor is room taken for what is kept back");
        assert_eq!(seen(&Companies::only([long, "c2"])), (vec![1], long.len()));
        assert_eq!(seen(&Companies::only([])).0, Vec::<i64>::new());
        assert_eq!(seen(&Companies::All).0.len(), 7);
    }

    #[test]
    fn what_says_nothing_of_companies_is_kept_back_whole() {
        let schema = rows(&[]).schema();
        let some = Companies::only(["c1", "0"]);
        for access in [None, Some("nothing"), Some("n")] {
            assert!(Sieve::new(&some, &schema, access).is_none(), "{access:?}");
            assert!(Sieve::new(&Companies::All, &schema, access).is_some(), "{access:?}");
        }
    }
}
