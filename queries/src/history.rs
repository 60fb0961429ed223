//! The embedded history, asked in SQL: DataFusion over the Parquet files that the sink writes.
//!
//! Invariant: a question only reads, only what is below the history's directory, and never takes more memory, rows or time
//! than it was given; whatever it asks, the process that answers lives on.

mod bound;
mod files;
mod limits;
mod refuse;
mod statement;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures_util::StreamExt as _;
use operators::error::Refusal;
use serde::Deserialize;
use tokio::runtime::Runtime;

use crate::answer::Answer;

pub use refuse::refusal;
pub use statement::bearable;
pub use tables::{TABLES, Table};

/// Stack of the threads that plan and compute: expressions are walked recursively, and may be as deep as
/// [`SQL_TOKENS_MAX`] can nest them.
const STACK_BYTES: usize = 64 << 20;
/// Longest text of a question, in bytes.
pub const SQL_BYTES_MAX: usize = 64 << 10;
/// Most words, numbers and signs of a question. Planning takes time with their square, and cannot be interrupted.
pub const SQL_TOKENS_MAX: usize = 2_000;

/// How often a question is asked whose files were replaced meanwhile.
const ATTEMPTS: usize = 4;

/// What one question may take.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Bytes of memory that sorts, joins, aggregates and the answer may take.
    pub memory_bytes_max: usize,
    /// Rows of the answer; further ones are left out, and the answer says so.
    pub rows_max: usize,
    /// Milliseconds until the question is given up.
    pub time_ms_max: u64,
    /// Threads that compute.
    pub threads: usize,
}

/// The history below one directory.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    options: Options,
    /// Its own threads: a heavy question slows other questions, not the process.
    runtime: Option<Runtime>,
}

impl Drop for History {
    fn drop(&mut self) {
        // Not the plain drop, which must not happen inside of another runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl History {
    /// The history below `directory`, one directory a table. What is written later is found by later questions.
    ///
    /// # Errors
    /// There is no such directory, or threads cannot be started.
    pub fn open(directory: &Path, options: Options) -> Result<History, Refusal> {
        let unreadable = |why: &dyn std::fmt::Display| {
            Refusal::new("history_unreadable", format!("cannot read the history in {}: {why}", directory.display()))
        };
        let directory_found = directory.canonicalize().map_err(|e| unreadable(&e))?;
        if !directory_found.is_dir() {
            return Err(unreadable(&"it is not a directory"));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(options.threads)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .build()
            .map_err(|e| unreadable(&e))?;
        Ok(History { directory: directory_found, options, runtime: Some(runtime) })
    }

    /// Answers one SELECT.
    ///
    /// # Errors
    /// Why the question is not answered: its text, what it asks for, or what it would take.
    pub async fn query(&self, sql: &str) -> Result<Answer, Refusal> {
        statement::check(sql)?;
        let (directory, options, sql) = (self.directory.clone(), self.options.clone(), sql.to_owned());
        let limit = Duration::from_millis(options.time_ms_max);
        let runtime = self.runtime.as_ref().expect("taken only by drop");
        let work = runtime.spawn(async move {
            let late = || {
                Refusal::new("sql_time_limit", format!("not answered within {} ms", limit.as_millis()))
                    .hint("ask for less: a shorter time, fewer vehicles, an aggregate")
            };
            tokio::time::timeout(limit, ask_again(&directory, &options, &sql)).await.unwrap_or_else(|_| Err(late()))
        });
        // A caller that gives up ends the work.
        let _abort = AbortOnDrop(work.abort_handle());
        work.await.unwrap_or_else(|e| Err(Refusal::new("sql_failed", format!("the query ended abruptly: {e}"))))
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Asks anew when files were replaced meanwhile.
async fn ask_again(directory: &Path, options: &Options, sql: &str) -> Result<Answer, Refusal> {
    for _ in 1..ATTEMPTS {
        match ask(directory, options, sql).await {
            Err(refusal) if refusal.code == refuse::CHANGED => {}
            answer => return answer,
        }
    }
    ask(directory, options, sql).await
}

async fn ask(directory: &Path, options: &Options, sql: &str) -> Result<Answer, Refusal> {
    let refuse = |e| refuse::refusal(&e);
    let context = limits::session(options).map_err(refuse)?;
    tables::register(&context, directory).await?;
    let plan = context.state().create_logical_plan(sql).await.map_err(refuse)?;
    // What the text does not show: SELECT INTO and the like.
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan).map_err(|e| statement::not_allowed(&e.strip_backtrace()))?;
    let plan = context.state().create_physical_plan(&plan).await.map_err(refuse)?;
    let plan = bound::bound(plan)?;
    collect(&context, plan, options).await
}

async fn collect(context: &SessionContext, plan: Arc<dyn ExecutionPlan>, options: &Options) -> Result<Answer, Refusal> {
    let schema = plan.schema();
    let mut stream = execute_stream(plan, context.task_ctx()).map_err(|e| refuse::refusal(&e))?;
    let (mut batches, mut rows, mut bytes): (Vec<RecordBatch>, usize, usize) = (Vec::new(), 0, 0);
    let mut truncated = false;
    while let Some(batch) = stream.next().await {
        let mut batch = batch.map_err(|e| refuse::refusal(&e))?;
        let room = options.rows_max - rows;
        if batch.num_rows() > room {
            batch = batch.slice(0, room);
            truncated = true;
        }
        rows += batch.num_rows();
        bytes += batch.get_array_memory_size();
        if bytes > options.memory_bytes_max {
            return Err(refuse::too_much(&format!("the answer is larger than {} bytes", options.memory_bytes_max)));
        }
        batches.push(batch);
        if truncated {
            break;
        }
    }
    Ok(Answer { schema, batches, truncated })
}

#[cfg(test)]
mod tests;
