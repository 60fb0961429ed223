//! DataFusion's errors in the one shape of all errors: a stable code, what is wrong, and what to do.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::sql::sqlparser::parser::ParserError;
use operators::error::Refusal;

use super::tables;

/// Code of [`changed`].
pub const CHANGED: &str = "history_changed";
/// Longest message that is passed on, in characters: a plan in full helps nobody.
const MESSAGE_CHARS_MAX: usize = 400;

/// The error as a refusal.
pub fn refusal(error: &DataFusionError) -> Refusal {
    match error.find_root() {
        DataFusionError::SQL(error, _) => syntax(error),
        DataFusionError::SchemaError(error, _) => column(error),
        DataFusionError::ResourcesExhausted(why) => too_much(why.lines().next().unwrap_or_default()),
        DataFusionError::ParquetError(why) => unreadable(&why.to_string()),
        DataFusionError::ObjectStore(why) if matches!(**why, object_store::Error::NotFound { .. }) => changed(),
        DataFusionError::ObjectStore(why) => unreadable(&why.to_string()),
        DataFusionError::IoError(why) => unreadable(&why.to_string()),
        DataFusionError::Plan(why) if why.starts_with("table '") => {
            let name = why.split('\'').nth(1).unwrap_or_default();
            let message = format!("there is no table {}; there are {}", shorten(last_part(name)), tables::names());
            Refusal::new("sql_unknown_table", message)
        }
        DataFusionError::Plan(why) if why.starts_with("Invalid function") => {
            Refusal::new("sql_unknown_function", shorten(why))
        }
        DataFusionError::Plan(why) => Refusal::new("sql_invalid", shorten(why)),
        DataFusionError::NotImplemented(why) => Refusal::new("sql_invalid", shorten(why)),
        other => Refusal::new("sql_failed", shorten(&other.strip_backtrace())),
    }
}

/// The refusal of what would take too much.
pub fn too_much(why: &str) -> Refusal {
    Refusal::new("sql_resource_exceeded", shorten(why))
        .hint("ask for less: a shorter time, fewer vehicles, an aggregate")
}

/// The refusal when files cannot be read.
pub fn unreadable(why: &str) -> Refusal {
    Refusal::new("history_unreadable", shorten(why)).hint("a damaged file has to be removed; its rows are lost")
}

/// The refusal when a file was put together with others, or removed, while the question was answered.
pub fn changed() -> Refusal {
    Refusal::new("history_changed", "files of the history were replaced while the question was answered")
        .hint("ask again")
}

fn syntax(error: &ParserError) -> Refusal {
    let text = match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => {
            return Refusal::new("sql_too_complex", "expressions are nested too deeply");
        }
    };
    // The position stands at the end: "… at Line: 1, Column: 8".
    let Some((what, position)) = text.rsplit_once(" at Line: ") else {
        return Refusal::new("sql_syntax", shorten(text));
    };
    Refusal::new("sql_syntax", shorten(what)).at(position.replace(", Column: ", ":"))
}

fn column(error: &SchemaError) -> Refusal {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let mut known: Vec<&str> = valid_fields.iter().map(|field| field.name()).collect();
            // What only few ask for stands last.
            known.sort_unstable_by_key(|name| (name.starts_with("__"), *name));
            known.dedup();
            let message = format!("there is no column {}; there are {}", shorten(&field.name), known.join(", "));
            Refusal::new("sql_unknown_column", shorten(&message))
        }
        SchemaError::AmbiguousReference { field } => {
            Refusal::new("sql_ambiguous_column", format!("several tables have a column {}", shorten(&field.name)))
                .hint("write TABLE.COLUMN")
        }
        other => Refusal::new("sql_invalid", shorten(&other.to_string())),
    }
}

fn last_part(name: &str) -> &str {
    name.strip_prefix("datafusion.public.").unwrap_or(name)
}

fn shorten(text: &str) -> String {
    let mut short: String =
        text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}
