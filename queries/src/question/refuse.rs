//! DataFusion's errors in the one shape of all errors: a stable code, what is wrong, and what to do.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use datafusion::object_store;
use datafusion::parquet::errors::ParquetError;
use datafusion::sql::sqlparser::parser::ParserError;
use operators::error::Refusal;

/// Code of [`changed`].
pub const CHANGED: &str = "history_changed";
/// Code of [`unknown_table`].
pub const UNKNOWN_TABLE: &str = "sql_unknown_table";
/// How its message begins.
pub const NO_TABLE: &str = "there is no table";
/// Longest message that is passed on, in characters: a plan in full helps nobody.
const MESSAGE_CHARS_MAX: usize = 400;

/// Catalog of the live views, with the dot behind it.
const CATALOG_DOT: &str = "haulstream.";
/// How alike a name and a known one have to be for the latter to be suggested, from 0 to 1.
const LIKENESS_MIN: f64 = 0.6;

/// The error as a refusal. `tables` are those that there are.
pub fn refusal(error: &DataFusionError, tables: &[String]) -> Refusal {
    match error.find_root() {
        DataFusionError::SQL(error, _) => syntax(error),
        DataFusionError::SchemaError(error, _) => column(error),
        DataFusionError::ResourcesExhausted(why) => too_much(why.lines().next().unwrap_or_default()),
        DataFusionError::ParquetError(why) if is_gone(why) => changed(),
        DataFusionError::ParquetError(why) => unreadable(&why.to_string()),
        DataFusionError::ObjectStore(why) if matches!(**why, object_store::Error::NotFound { .. }) => changed(),
        DataFusionError::ObjectStore(why) => unreadable(&why.to_string()),
        DataFusionError::IoError(why) => unreadable(&why.to_string()),
        DataFusionError::Plan(why) if why.starts_with("table '") => {
            unknown_table(last_part(why.split('\'').nth(1).unwrap_or_default()), tables)
        }
        DataFusionError::Plan(why) if why.starts_with("Invalid function") => {
            Refusal::new("sql_unknown_function", shorten(why))
        }
        DataFusionError::Plan(why) => Refusal::new("sql_invalid", shorten(why)),
        DataFusionError::NotImplemented(why) => Refusal::new("sql_invalid", shorten(why)),
        other => Refusal::new("sql_failed", shorten(&other.strip_backtrace())),
    }
}

/// Whether a file was there when it was looked for, and not any more when it was read.
fn is_gone(error: &ParquetError) -> bool {
    let ParquetError::External(why) = error else { return false };
    matches!(why.downcast_ref(), Some(object_store::Error::NotFound { .. }))
}

/// The refusal of a table that there is not.
pub fn unknown_table(name: &str, tables: &[String]) -> Refusal {
    let known = if tables.is_empty() { "there is none".to_owned() } else { format!("there are {}", tables.join(", ")) };
    let message = format!("{NO_TABLE} {}; {}{known}", shorten(name), meant(name, tables));
    Refusal::new(UNKNOWN_TABLE, shorten(&message))
}

/// Asks whether the most alike of the known names was meant, if one is alike.
fn meant<T: AsRef<str>>(name: &str, known: &[T]) -> String {
    nearest(name, known).map(|known| format!("did you mean {known}? ")).unwrap_or_default()
}

/// The known name that is most like this one, if one is alike.
pub fn nearest<'a, T: AsRef<str>>(name: &str, known: &'a [T]) -> Option<&'a str> {
    let name = name.to_lowercase();
    let alike = |known: &str| strsim::normalized_damerau_levenshtein(&name, &known.to_lowercase());
    let names = known.iter().map(AsRef::as_ref).map(|known| (alike(known), known));
    let best = names.filter(|(likeness, _)| *likeness >= LIKENESS_MIN).max_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, known)| known)
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
            let (name, meant) = (shorten(&field.name), meant(&field.name, &known));
            let message = format!("there is no column {name}; {meant}there are {}", known.join(", "));
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
    // A name in full is CATALOG.SCHEMA.NAME; of these a question needs the first never, and the second mostly not.
    let own = ["datafusion.", CATALOG_DOT].iter().find_map(|catalog| name.strip_prefix(catalog)).unwrap_or(name);
    own.strip_prefix("public.").unwrap_or(own)
}

fn shorten(text: &str) -> String {
    let mut short: String =
        text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MESSAGE_CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}
