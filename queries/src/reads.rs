//! Live tables, asked in SQL: what the views of the dataflow hold, as of one tick.
//!
//! Invariant: a question never blocks the dataflow: it reads what was there at one tick, on threads of its own, within limits.
//! All tables of a question are read as of the same tick.

mod allowed;
mod directory;
mod functions;
mod lookup;
mod pg_catalog;
mod session;
mod translate;
pub mod wire;
mod with_history;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use operators::error::Refusal;
use operators::time::Tick;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::answer::Answer;
use crate::metrics::{self, Interface};
use crate::question::{self, Threads, refuse, statement};
use crate::readers::{Companies, DENIED, Reader};

/// The namespace of views and tables.
pub const PUBLIC: &str = "public";
/// The namespace of tables about the process itself.
pub const SYSTEM: &str = "haulstream";
/// The namespace of what was written as files.
pub const HISTORY: &str = "history";

/// Name of a relation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Such as [`PUBLIC`].
    pub namespace: String,
    /// Within the namespace.
    pub name: String,
}

impl Name {
    /// `namespace.name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Name {
        Name { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A derived stream that is kept up to date.
    View,
    /// An input table.
    Table,
    /// Tells of the process itself.
    System,
    /// Rows that were written as files.
    History,
}

/// A table about the process itself, made when it is asked for.
pub struct SystemTable {
    /// Its name within [`SYSTEM`].
    pub name: &'static str,
    /// Its columns.
    pub schema: SchemaRef,
    /// The rows as they are now.
    pub rows: Box<dyn Fn() -> RecordBatch + Send + Sync>,
}

impl Kind {
    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::View => "view",
            Kind::Table => "table",
            Kind::System => "system",
            Kind::History => "history",
        }
    }
}

/// Something that can be asked for.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its name.
    pub name: Name,
    /// Its columns.
    pub schema: SchemaRef,
    /// Columns that tell its rows apart; none if rows may be equal.
    pub key: Vec<String>,
    /// The column that says whose a row is; without one, readers of some companies do not see the relation.
    pub access: Option<String>,
    /// What it is.
    pub kind: Kind,
}

/// The rows of a relation at a tick.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The tick: everything up to and with it is in, nothing after it.
    pub as_of: Tick,
    /// The column of these rows that says whose each is: another version of a relation may have another.
    pub access: Option<String>,
    /// The rows, in the columns of [`Relation::schema`]. Best in batches of a few thousand: who sorts or joins part of a batch
    /// is charged for all of it.
    pub batches: Vec<RecordBatch>,
}

/// Where the rows come from.
pub trait Relations: Send + Sync {
    /// All that can be asked for now.
    fn list(&self) -> Vec<Relation>;

    /// The rows of these, all as of one tick; `None` in the place of one that is not there. Cheap, and never waits for the
    /// dataflow.
    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>>;

    /// Those whose rows there are.
    fn companies(&self) -> &Companies {
        &Companies::All
    }

    /// Where the files of the relations of [`HISTORY`] lie, if there are such relations.
    fn history(&self) -> Option<&Path> {
        None
    }

    /// Why there are no rows of a relation that is in the list.
    fn why_not(&self, _name: &Name) -> Option<Refusal> {
        None
    }

    /// The rows of one.
    fn snapshot(&self, namespace: &str, name: &str) -> Option<Snapshot> {
        self.snapshot_all(&[Name::new(namespace, name)]).pop().flatten()
    }
}

/// What reading may take.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    /// What one question may take.
    #[serde(flatten)]
    pub question: question::Options,
    /// Questions that are answered at a time; more wait, within their time.
    pub questions_max: usize,
}

/// Answers questions about relations.
#[derive(Clone)]
pub struct Reads {
    relations: Arc<dyn Relations>,
    options: Options,
    threads: Arc<Threads>,
    /// A permit for each question under way.
    turns: Arc<Semaphore>,
}

/// A question's columns and parameters, before it is asked.
pub(crate) struct Described {
    /// Its columns.
    pub schema: SchemaRef,
    /// What they are called on the wire.
    pub names: Vec<String>,
    /// Types of `$1`, `$2` and so on, as far as the text tells them.
    pub parameters: Vec<Option<DataType>>,
}

/// An answer, and what its columns are called on the wire.
pub(crate) struct Told {
    pub answer: Answer,
    pub names: Vec<String>,
}

impl Reads {
    /// Answers questions about `relations`, on threads of its own.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn new(relations: Arc<dyn Relations>, options: Options) -> Result<Reads, Refusal> {
        let threads = Threads::start("reads", options.question.threads)
            .map_err(|why| Refusal::new("reads_unusable", format!("cannot start threads to read on: {why}")))?;
        let turns = Arc::new(Semaphore::new(options.questions_max));
        Ok(Reads { relations, options, threads: Arc::new(threads), turns })
    }

    /// The same with the history below `directory` beside them.
    #[must_use]
    pub fn with_history(mut self, directory: PathBuf) -> Reads {
        self.relations = Arc::new(with_history::WithHistory::new(self.relations, directory));
        self
    }

    /// The same for one reader, who sees the rows of some companies or all. Both answer on the same threads, within the same
    /// limits.
    #[must_use]
    pub fn seen_by(&self, reader: &Reader) -> Reads {
        let mut reads = self.clone();
        if reader.is_restricted() {
            reads.relations = Arc::new(allowed::Allowed::new(self.relations.clone(), reader.companies.clone()));
        }
        reads
    }

    /// What can be asked for.
    #[must_use]
    pub fn list(&self) -> Vec<Relation> {
        self.relations.list()
    }

    /// Answers one SELECT.
    ///
    /// # Errors
    /// Why the question is not answered: its text, what it asks for, or what it would take.
    pub async fn query(&self, sql: &str) -> Result<Answer, Refusal> {
        let statement = statement::query(sql, &PostgreSqlDialect {})?;
        self.ask(statement, Vec::new(), Interface::Process).await.map(|told| told.answer)
    }

    /// The first rows of a relation, at most `limit`.
    ///
    /// # Errors
    /// There is no such relation, or what reading it would take.
    pub async fn rows(&self, name: &Name, limit: usize) -> Result<Answer, Refusal> {
        let (relations, name) = (self.relations.clone(), name.clone());
        let options = question::Options { rows_max: limit.min(self.options.question.rows_max), ..self.question() };
        self.take_turn(Interface::Http, async move { lookup::rows(relations.as_ref(), &name, &options).await }).await
    }

    /// The row with this key, one text for each key column in their order.
    ///
    /// # Errors
    /// There is no such relation, it has no key, this cannot be one, or what reading it would take.
    pub async fn row(&self, name: &Name, key: &[String]) -> Result<Answer, Refusal> {
        let (relations, name, key, options) = (self.relations.clone(), name.clone(), key.to_vec(), self.question());
        self.take_turn(Interface::Http, async move { lookup::row(relations.as_ref(), &name, &key, &options).await })
            .await
    }

    fn question(&self) -> question::Options {
        self.options.question.clone()
    }

    /// Answers a query with these values for `$1`, `$2` and so on.
    pub(crate) async fn ask(
        &self,
        statement: Statement,
        parameters: Vec<ScalarValue>,
        interface: Interface,
    ) -> Result<Told, Refusal> {
        let (relations, options) = (self.relations.clone(), self.question());
        let work = async move { session::ask(relations.as_ref(), &options, statement, parameters).await };
        self.take_turn(interface, work).await
    }

    /// Columns and parameters of a query.
    pub(crate) async fn describe(&self, statement: Statement) -> Result<Described, Refusal> {
        let (relations, options) = (self.relations.clone(), self.question());
        let work = async move { session::describe(relations.as_ref(), &options, statement).await };
        self.threads.run(self.time_max(), work).await.map_err(|why| self.told(why))
    }

    /// The refusal as this reader is told it: one of some companies does not learn what there is for others.
    fn told(&self, why: Refusal) -> Refusal {
        if *self.relations.companies() == Companies::All || why.code != refuse::UNKNOWN_TABLE {
            return why;
        }
        // The same whether there is such a table or not.
        let message = why.message.replacen(refuse::NO_TABLE, "you may read no table", 1);
        Refusal { code: DENIED, message, ..why }
    }

    fn time_max(&self) -> Duration {
        Duration::from_millis(self.options.question.time_ms_max)
    }

    /// Does the work when fewer than the most questions are under way, and counts it.
    async fn take_turn<T: Send + 'static>(
        &self,
        interface: Interface,
        work: impl Future<Output = Result<T, Refusal>> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (turns, start) = (self.turns.clone(), Instant::now());
        let waited = async move {
            let _turn = turns.acquire_owned().await.expect("never closed");
            work.await
        };
        let outcome = self.threads.run(self.time_max(), waited).await.map_err(|why| self.told(why));
        metrics::question(interface, outcome.as_ref().err().map_or("answered", |why| why.code), start.elapsed());
        outcome
    }
}

impl std::fmt::Debug for Reads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reads").field("options", &self.options).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod tests;
