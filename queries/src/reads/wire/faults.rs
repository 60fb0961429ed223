//! Our refusals as Postgres tells errors: with its codes, and the place as a number of characters.

use operators::error::Refusal;
use pgwire::error::{ErrorInfo, PgWireError};

/// Postgres' code for ours.
fn code(refusal: &str) -> &'static str {
    match refusal {
        "sql_syntax" => "42601",
        "sql_unknown_table" => "42P01",
        "access_denied" => "42501",
        "sql_unknown_column" => "42703",
        "sql_ambiguous_column" => "42702",
        "sql_unknown_function" => "42883",
        "sql_statement_not_allowed" => "25006",
        "sql_too_complex" => "54001",
        "sql_resource_exceeded" => "53200",
        "sql_time_limit" => "57014",
        "sql_parameter" => "22023",
        "sql_too_many" => "53400",
        "sql_failed" => "22000",
        _ => "42000",
    }
}

/// The refusal of a text, as an error of Postgres.
pub fn info(why: &Refusal, sql: &str) -> ErrorInfo {
    let mut info = ErrorInfo::new("ERROR".to_owned(), code(why.code).to_owned(), why.message.clone());
    info.severity_nonlocalized = Some("ERROR".to_owned());
    info.hint = why.hint.map(str::to_owned);
    info.detail = Some(why.code.to_owned());
    info.position = why.field.as_deref().and_then(|place| position(place, sql)).map(|at| at.to_string());
    info
}

/// The refusal as what a handler fails with.
pub fn fault(why: &Refusal, sql: &str) -> PgWireError {
    PgWireError::UserError(Box::new(info(why, sql)))
}

/// The number, from 1, of the character at `line:column`.
fn position(place: &str, sql: &str) -> Option<usize> {
    let (line, column) = place.split_once(':')?;
    let (line, column): (usize, usize) = (line.parse().ok()?, column.parse().ok()?);
    let before: usize = sql.split('\n').take(line.checked_sub(1)?).map(|line| line.chars().count() + 1).sum();
    Some(before + column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters() {
        assert_eq!(position("1:1", "x"), Some(1));
        assert_eq!(position("2:3", "é\n  )"), Some(5));
        assert_eq!(position("0:3", "x"), None);
        assert_eq!(position("speed_kmh", "x"), None);
    }
}
