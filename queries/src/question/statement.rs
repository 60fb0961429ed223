//! What a question may say: one SELECT.
//!
//! Invariant: nothing that is not a query is planned, so nothing can be created, changed, copied or set.

use std::collections::VecDeque;

use datafusion::sql::parser::{DFParserBuilder, Statement};
use datafusion::sql::sqlparser::ast::Statement as Sql;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use operators::error::{Refusal, excerpt};

use super::{SQL_BYTES_MAX, SQL_TOKENS_MAX, refuse};

/// The statements of a text of bearable length.
pub fn parse(sql: &str, dialect: &dyn Dialect) -> Result<VecDeque<Statement>, Refusal> {
    if sql.len() > SQL_BYTES_MAX {
        let message = format!("the text has {} bytes, the limit is {SQL_BYTES_MAX}", sql.len());
        return Err(Refusal::new("sql_too_complex", message));
    }
    // What is no token is told by the parser, with its place.
    let tokens = Tokenizer::new(dialect, sql).tokenize().unwrap_or_default();
    let tokens = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).count();
    if tokens > SQL_TOKENS_MAX {
        let message = format!("the text has {tokens} words and signs, the limit is {SQL_TOKENS_MAX}");
        return Err(Refusal::new("sql_too_complex", message));
    }
    DFParserBuilder::new(sql)
        .with_dialect(dialect)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(|e| refuse::refusal(&e, &[]))
}

/// The one query that the text is.
pub fn query(sql: &str, dialect: &dyn Dialect) -> Result<Statement, Refusal> {
    let mut statements = parse(sql, dialect)?;
    match (statements.pop_front(), statements.pop_front()) {
        (None, _) => Err(Refusal::new("sql_syntax", "there is no statement in the text").hint(HINT)),
        (Some(_), Some(_)) => {
            Err(Refusal::new("sql_syntax", "there is more than one statement in the text").hint(HINT))
        }
        (Some(statement), None) if is_query(&statement) => Ok(statement),
        (Some(other), None) => Err(not_allowed(name(&other))),
    }
}

/// Whether the statement asks.
pub fn is_query(statement: &Statement) -> bool {
    matches!(statement, Statement::Statement(statement) if matches!(**statement, Sql::Query(_)))
}

const HINT: &str = "ask one question: SELECT … or WITH … SELECT …";

/// The refusal of anything but a query. `what` is its name.
pub fn not_allowed(what: &str) -> Refusal {
    Refusal::new("sql_statement_not_allowed", excerpt(what)).hint("here is only read: SELECT … or WITH … SELECT …")
}

/// What the statement is called.
pub fn name(statement: &Statement) -> &'static str {
    match statement {
        Statement::CreateExternalTable(_) => "CREATE EXTERNAL TABLE",
        Statement::CopyTo(_) => "COPY",
        Statement::Explain(_) => "EXPLAIN",
        Statement::Reset(_) => "RESET",
        Statement::Statement(statement) => sql_name(statement),
    }
}

fn sql_name(statement: &Sql) -> &'static str {
    match statement {
        Sql::Insert(_) => "INSERT",
        Sql::Update(_) => "UPDATE",
        Sql::Delete(_) => "DELETE",
        Sql::Copy { .. } => "COPY",
        Sql::CreateTable(_) => "CREATE TABLE",
        Sql::CreateView(_) => "CREATE VIEW",
        Sql::CreateFunction(_) => "CREATE FUNCTION",
        Sql::CreateSchema { .. } => "CREATE SCHEMA",
        Sql::CreateDatabase { .. } => "CREATE DATABASE",
        Sql::Drop { .. } | Sql::DropFunction(_) => "DROP",
        Sql::Set(_) => "SET",
        Sql::Explain { .. } | Sql::ExplainTable { .. } => "EXPLAIN",
        Sql::Prepare { .. } => "PREPARE",
        Sql::Execute { .. } => "EXECUTE",
        Sql::Deallocate { .. } => "DEALLOCATE",
        Sql::Truncate(_) => "TRUNCATE",
        Sql::StartTransaction { .. } | Sql::Commit { .. } | Sql::Rollback { .. } => "a transaction",
        Sql::ShowTables { .. }
        | Sql::ShowColumns { .. }
        | Sql::ShowVariable { .. }
        | Sql::ShowFunctions { .. }
        | Sql::ShowCreate { .. } => "SHOW",
        _ => "anything but a query",
    }
}
