//! What a client said: a question, or one of the phrases that clients begin and end with.
//!
//! Invariant: a phrase changes nothing but how the connection itself looks to its client.

use datafusion::sql::parser::{ResetStatement, Statement};
use datafusion::sql::sqlparser::ast::Statement as Sql;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use operators::error::{Refusal, excerpt};

use super::SETTINGS;
use crate::question::statement;

/// One statement.
#[derive(Clone, Debug)]
pub enum Said {
    /// A query.
    Question(Box<Statement>),
    /// `SHOW`: the setting's name and value.
    Show(String, String),
    /// A transaction begins; each question in it has a tick of its own all the same.
    Begin,
    /// A transaction ends: the word that did it.
    End(&'static str),
    /// Anything else that is taken and does nothing: what is answered.
    Nothing(&'static str),
}

/// The statements of a text.
///
/// # Errors
/// It is no SQL, or has a statement that is not taken.
pub fn read(sql: &str) -> Result<Vec<Said>, Refusal> {
    let statements = match statement::parse(sql, &PostgreSqlDialect {}) {
        Ok(statements) => statements,
        // SET has more forms than the parser knows; none of them matters.
        Err(_) if is_lone_set(sql) => return Ok(vec![Said::Nothing("SET")]),
        Err(why) => return Err(why),
    };
    statements.into_iter().map(said).collect()
}

fn is_lone_set(sql: &str) -> bool {
    let text = sql.trim();
    let word = text.get(..4).unwrap_or_default();
    word.trim_end().eq_ignore_ascii_case("set") && !text.trim_end_matches(';').contains(';')
}

fn said(statement: Statement) -> Result<Said, Refusal> {
    if statement::is_query(&statement) {
        return Ok(Said::Question(Box::new(statement)));
    }
    let sql = match &statement {
        Statement::Statement(sql) => sql.as_ref(),
        Statement::Reset(ResetStatement::Variable(_)) => return Ok(Said::Nothing("RESET")),
        other => return Err(statement::not_allowed(statement::name(other))),
    };
    Ok(match sql {
        Sql::Set(_) => Said::Nothing("SET"),
        Sql::Reset(_) => Said::Nothing("RESET"),
        Sql::Discard { .. } => Said::Nothing("DISCARD ALL"),
        Sql::Deallocate { .. } => Said::Nothing("DEALLOCATE"),
        Sql::Savepoint { .. } => Said::Nothing("SAVEPOINT"),
        Sql::ReleaseSavepoint { .. } => Said::Nothing("RELEASE"),
        Sql::StartTransaction { .. } => Said::Begin,
        Sql::Commit { .. } => Said::End("COMMIT"),
        Sql::Rollback { savepoint: Some(_), .. } => Said::Nothing("ROLLBACK"),
        Sql::Rollback { .. } => Said::End("ROLLBACK"),
        Sql::ShowVariable { variable } => {
            let name = variable.iter().map(|part| part.value.to_lowercase()).collect::<Vec<_>>().join("_");
            show(&name)?
        }
        _ => return Err(statement::not_allowed(statement::name(&statement))),
    })
}

fn show(name: &str) -> Result<Said, Refusal> {
    // What has names of several words.
    let name = match name {
        "time_zone" => "timezone",
        "transaction_isolation_level" => "transaction_isolation",
        name => name,
    };
    let value = SETTINGS.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
    value.map(|value| Said::Show(name.to_owned(), value)).ok_or_else(|| {
        let message = format!("there is no setting {}", excerpt(name));
        Refusal::new("sql_parameter", message).hint("SELECT name FROM pg_settings lists them")
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn phrases_of_clients_are_taken() {
        for (sql, answer) in [
            ("SET extra_float_digits = 3", "SET"),
            ("set client_encoding to 'UTF8';", "SET"),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SET"),
            ("SET TIME ZONE 'Europe/Zagreb'", "SET"),
            ("SET DateStyle=ISO", "SET"),
            ("SET a.b.c FROM CURRENT", "SET"),
            ("RESET ALL", "RESET"),
            ("DISCARD ALL", "DISCARD ALL"),
            ("DEALLOCATE ALL", "DEALLOCATE"),
            ("SAVEPOINT a", "SAVEPOINT"),
        ] {
            let said = read(sql).unwrap_or_else(|why| panic!("{sql}: {why}"));
            assert!(matches!(said.as_slice(), [Said::Nothing(got)] if *got == answer), "{sql}: {said:?}");
        }
        let said = read("BEGIN; SELECT 1; COMMIT").unwrap();
        assert!(matches!(said.as_slice(), [Said::Begin, Said::Question(_), Said::End("COMMIT")]), "{said:?}");
        let said = read("BEGIN READ ONLY").unwrap();
        assert!(matches!(said.as_slice(), [Said::Begin]), "{said:?}");
        let said = read("SHOW transaction isolation level").unwrap();
        assert!(matches!(said.as_slice(), [Said::Show(_, value)] if value == "read committed"), "{said:?}");
        assert_eq!(read("SHOW nothing").unwrap_err().code, "sql_parameter");
        for sql in ["INSERT INTO t VALUES (1)", "SET a = 1; DROP TABLE t", "EXPLAIN SELECT 1"] {
            assert_eq!(read(sql).unwrap_err().code, "sql_statement_not_allowed", "{sql}");
        }
        assert_eq!(read("SELEC 1").unwrap_err().code, "sql_syntax");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            if let Err(why) = read(&text) {
                prop_assert!(why.code.starts_with("sql_"), "{}", why);
            }
        }
    }
}
