//! Relations as a reader of some companies sees them: which there are, and of each the rows of these companies.
//!
//! Invariant: rows that are not to be seen are taken out before anything else looks at a row, so that nothing that a question
//! does (an expression that fails, a count, what it takes) tells of them; what does not say whose a row is, is not there.

use std::path::Path;
use std::sync::Arc;

use datafusion::arrow::array::{Array as _, BooleanArray};
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::record_batch::RecordBatch;
use operators::error::Refusal;

use super::{Name, Relation, Relations, SYSTEM, Snapshot};
use crate::readers::{Companies, Sieve};

/// The table of the process that everybody sees a part of: that derived streams are there which say whose their rows are.
const STREAMS: &str = "streams";
/// The columns of it that tell of no rows.
const TOLD: [&str; 6] = ["name", "state", "kind", "key", "access", "as_of"];
/// The one of these that says that rows are somebody's.
const ACCESS: &str = "access";

/// What is there for these companies.
pub(super) struct Allowed {
    all: Arc<dyn Relations>,
    companies: Companies,
}

impl Allowed {
    /// Of `all`, what is there for these companies.
    pub fn new(all: Arc<dyn Relations>, companies: Companies) -> Self {
        Self { all, companies }
    }

    fn shown(&self, relation: Relation) -> Option<Relation> {
        if is_streams(&relation.name) {
            let schema = relation.schema.project(&told(&relation.schema)?).ok()?;
            return Some(Relation { schema: Arc::new(schema), ..relation });
        }
        Sieve::new(&self.companies, &relation.schema, relation.access.as_deref())?;
        Some(relation)
    }

    fn seen(&self, name: &Name, snapshot: Snapshot) -> Option<Snapshot> {
        let Snapshot { as_of, access, batches } = snapshot;
        let sieved = |batch: RecordBatch| {
            if is_streams(name) {
                return streams(&batch);
            }
            // As the version says that the rows are of, not the list of a moment before.
            Sieve::new(&self.companies, &batch.schema(), access.as_deref())?.rows(batch).ok()
        };
        let batches = batches.into_iter().map(sieved).collect::<Option<Vec<_>>>()?;
        Some(Snapshot { as_of, access, batches })
    }
}

impl Relations for Allowed {
    fn list(&self) -> Vec<Relation> {
        self.all.list().into_iter().filter_map(|relation| self.shown(relation)).collect()
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let snapshots = self.all.snapshot_all(names);
        names.iter().zip(snapshots).map(|(name, snapshot)| self.seen(name, snapshot?)).collect()
    }

    fn history(&self) -> Option<&Path> {
        self.all.history()
    }

    fn companies(&self) -> &Companies {
        &self.companies
    }

    fn why_not(&self, name: &Name) -> Option<Refusal> {
        let there = self.list().into_iter().any(|relation| relation.name == *name);
        let why = self.all.why_not(name).filter(|_| there)?;
        if why.code != "sql_stream_suspended" {
            return Some(why);
        }
        // The reason has figures of all rows.
        Some(Refusal::new(why.code, format!("{} is suspended", name.name)))
    }
}

fn is_streams(name: &Name) -> bool {
    name.namespace == SYSTEM && name.name == STREAMS
}

/// Places of the columns that are told; none if the table does not say whose rows are.
fn told(schema: &Schema) -> Option<Vec<usize>> {
    schema.index_of(ACCESS).ok()?;
    Some(TOLD.iter().filter_map(|column| schema.index_of(column).ok()).collect())
}

/// The streams whose rows are somebody's.
fn streams(all: &RecordBatch) -> Option<RecordBatch> {
    let access = all.column(all.schema().index_of(ACCESS).ok()?);
    let somebodys: BooleanArray = (0..access.len()).map(|row| Some(access.is_valid(row))).collect();
    let told = all.project(&told(&all.schema())?).ok()?;
    filter_record_batch(&told, &somebodys).ok()
}
