//! The embedded history, asked in SQL: DataFusion over the Parquet files that the sink writes.
//!
//! Invariant: a question only reads, only what is below the history's directory, and never takes more memory, rows or time
//! than it was given; whatever it asks, the process that answers lives on.

mod files;
mod own;
mod tables;

use std::path::{Path, PathBuf};
use std::time::Duration;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use operators::error::Refusal;

use crate::answer::Answer;
use crate::question::{self, Threads, refuse, statement};

pub use crate::question::{Options, SQL_BYTES_MAX, SQL_TOKENS_MAX};
pub(crate) use tables::register_as;
pub use tables::{TABLES, Table};

/// How often a question is asked whose files were replaced meanwhile.
pub(crate) const ATTEMPTS: usize = 4;

/// The history below one directory.
#[derive(Debug)]
pub struct History {
    directory: PathBuf,
    options: Options,
    threads: Threads,
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
        let threads = Threads::start("query", options.threads).map_err(|e| unreadable(&e))?;
        Ok(History { directory: directory_found, options, threads })
    }

    /// Answers one SELECT.
    ///
    /// # Errors
    /// Why the question is not answered: its text, what it asks for, or what it would take.
    pub async fn query(&self, sql: &str) -> Result<Answer, Refusal> {
        let statement = statement::query(sql, &GenericDialect {})?;
        let (directory, options) = (self.directory.clone(), self.options.clone());
        let limit = Duration::from_millis(options.time_ms_max);
        self.threads.run(limit, async move { ask_again(&directory, &options, &statement).await }).await
    }
}

/// Asks anew when files were replaced meanwhile.
async fn ask_again(directory: &Path, options: &Options, statement: &Statement) -> Result<Answer, Refusal> {
    for _ in 1..ATTEMPTS {
        match ask(directory, options, statement).await {
            Err(refusal) if refusal.code == refuse::CHANGED => {}
            answer => return answer,
        }
    }
    ask(directory, options, statement).await
}

async fn ask(directory: &Path, options: &Options, statement: &Statement) -> Result<Answer, Refusal> {
    let refuse = |e| refuse::refusal(&e, &tables::names());
    let context = question::session(options, "datafusion").map_err(refuse)?;
    tables::register(&context, directory).await?;
    let plan = context.state().statement_to_plan(statement.clone()).await.map_err(refuse)?;
    question::answer(&context, &plan, options).await
}

#[cfg(test)]
mod tests;
