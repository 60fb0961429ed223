//! `haulstream history`: one question to the Parquet history, answered on the terminal.
//!
//! Invariant: nothing is written but the answer; a process that writes the history meanwhile is not disturbed.

use std::fmt::Write as _;
use std::io::Write as _;

use clap::{Args, ValueEnum};
use operators::error::Refusal;
use queries::History;
use queries::history::TABLES;

use super::{ConfigFile, Failure, block_on, print};
use crate::config::Override;

/// What `history` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The question: SELECT … or WITH … SELECT …
    #[arg(value_name = "SQL")]
    sql: Option<String>,
    #[command(flatten)]
    file: ConfigFile,
    /// Data directory of the process that wrote the history; goes before the file's `run.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// How the answer is written.
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Rows between lines, for people.
    Table,
    /// Comma-separated values with a line of names.
    Csv,
    /// One array of objects; null is left out.
    Json,
}

/// Answers the question.
///
/// # Errors
/// A wrong configuration or question, or what kept it from being answered.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let data = Override::text("--data", "run.data", arguments.data.as_deref());
    let config = arguments.file.load([data])?.config;
    let Some(sql) = &arguments.sql else { return print(&tables()) };
    let answer = block_on(&config, async {
        let history = History::open(&config.run.data.join("history"), config.history.clone())
            .map_err(|why| Failure::Runtime(shown(&why, "")))?;
        history.query(sql).await.map_err(|why| refused(&why, sql))
    })?;
    let text = match arguments.format {
        Format::Table => answer.to_table(),
        Format::Csv => answer.to_csv(),
        Format::Json => answer.to_json(),
    };
    print(&text.map_err(|why| Failure::Runtime(format!("the answer cannot be written so: {why}")))?)?;
    if answer.truncated {
        let _ = writeln!(
            std::io::stderr(),
            "only the first {} rows: raise history.rows_max, or ask for fewer with LIMIT",
            answer.rows()
        );
    }
    Ok(())
}

/// A question that can't be asked is a mistake of who asks; one that took too much, or could not be read, is not.
fn refused(why: &Refusal, sql: &str) -> Failure {
    let text = shown(why, sql);
    match why.code {
        "sql_time_limit" | "sql_resource_exceeded" | "sql_failed" | "history_unreadable" | "history_changed" => {
            Failure::Runtime(text)
        }
        _ => Failure::Usage(text),
    }
}

/// The refusal with its hint, and a caret where the text of the question is wrong.
fn shown(why: &Refusal, sql: &str) -> String {
    let mut out = format!("{}: {}", why.code, why.message);
    let place = why.field.as_deref().and_then(|place| place.split_once(':'));
    if let Some((Ok(line), Ok(column))) = place.map(|(l, c)| (l.parse::<usize>(), c.parse::<usize>()))
        && let Some(text) = sql.lines().nth(line.saturating_sub(1))
    {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let _ = write!(out, "\n{line}:{column}\n  {text}\n  {}^", " ".repeat(column.saturating_sub(1)));
    }
    if let Some(hint) = why.hint {
        let _ = write!(out, "\n  = help: {hint}");
    }
    out
}

/// Names, meanings and columns of the tables.
fn tables() -> String {
    let mut out = String::new();
    for table in TABLES {
        let _ = writeln!(out, "{}: {}", table.name, table.meaning);
        for (name, kind) in table.columns() {
            let _ = writeln!(out, "  {name:<20} {kind}");
        }
    }
    out
}
