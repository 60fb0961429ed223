//! The key that is asked for: values of columns, as one text.
//!
//! Invariant: values are only ever compared, never part of a text that is parsed as SQL; the text is the one under which sinks
//! know a row, so it can be taken from there.

use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use operators::error::{Refusal, excerpt};
use operators::key_text::{NULL, SEPARATOR};
use operators::row::as_key;

use crate::catalog::Relation;
use crate::plan::lineage::{Condition, Is};
use crate::plan::{place, unknown_name};
use crate::trial::cells::{Cell, column};

/// Longest text of a key.
const KEY_BYTES_MAX: usize = 4 << 10;

/// The values of a key by the places of their columns.
#[derive(Clone, Debug)]
pub struct Key(pub Vec<(usize, ScalarValue)>);

impl Key {
    /// What holds for rows of the stream that have it.
    pub fn conditions(&self) -> Vec<Condition> {
        let condition = |(at, value): &(usize, ScalarValue)| Condition { of: place(*at), is: Is::Value(value.clone()) };
        self.0.iter().map(condition).collect()
    }
}

/// The key that a text says, of these columns (names with commas between), or else of the columns of the stream's key.
///
/// # Errors
/// There is no such column, there are too few or too many values, or one cannot be a value of its column.
pub fn parsed(relation: &Relation, text: &str, by: Option<&str>) -> Result<Key, Refusal> {
    if text.len() > KEY_BYTES_MAX {
        return Err(invalid(format!("a key of {} bytes; it may have {KEY_BYTES_MAX}", text.len())));
    }
    let columns = columns(relation, by)?;
    let parts: Vec<Cell> = text.split(SEPARATOR).map(decoded).collect::<Result<_, _>>()?;
    if parts.len() != columns.len() {
        let names = columns.iter().map(|at| relation.schema.field(*at).name().as_str()).collect::<Vec<_>>().join("|");
        let (wanted, given, name) = (columns.len(), parts.len(), &relation.name);
        let message =
            format!("the key of {name} is {names}: values wanted {wanted}, given {given}: \"{}\"", excerpt(text));
        return Err(
            invalid(message).hint("write a value for each column with | between, %7C for a | in a value, %N for null")
        );
    }
    columns
        .into_iter()
        .zip(parts)
        .map(|(at, part)| Ok((at, value(relation, at, &part)?)))
        .collect::<Result<_, _>>()
        .map(Key)
}

fn invalid(message: String) -> Refusal {
    Refusal::new("key_invalid", message)
}

/// The places of the key's columns.
fn columns(relation: &Relation, by: Option<&str>) -> Result<Vec<usize>, Refusal> {
    let known = || relation.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
    let names: Vec<&str> = match by {
        Some(by) => by.split(',').map(str::trim).collect(),
        None => relation.key.iter().map(String::as_str).collect(),
    };
    if names.is_empty() {
        let message = format!("{} has no key; its columns are {}", relation.name, known().join(", "));
        return Err(
            Refusal::new("key_unknown", message).hint("say of which columns the values are: ?by=a,b or --by a,b")
        );
    }
    let mut places: Vec<usize> = Vec::with_capacity(names.len());
    for name in names {
        let at = relation.schema.index_of(name).map_err(|_| unknown_name("column", name, &known()))?;
        if places.contains(&at) {
            return Err(invalid(format!("column {} is named twice", excerpt(name))).at("by"));
        }
        places.push(at);
    }
    Ok(places)
}

/// A part of a key without its encoding; none for null.
fn decoded(part: &str) -> Result<Cell, Refusal> {
    if part == NULL {
        return Ok(None);
    }
    let (mut out, mut rest) = (String::with_capacity(part.len()), part);
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let (c, length) = match after.get(..2) {
            Some("25") => ('%', 2),
            Some("7C" | "7c") => ('|', 2),
            _ => {
                let message = format!("a % that is none of %25, %7C and %N alone: \"{}\"", excerpt(part));
                return Err(invalid(message).hint("write %25 for a % in a value"));
            }
        };
        out.push(c);
        rest = &after[length..];
    }
    out.push_str(rest);
    Ok(Some(out))
}

fn value(relation: &Relation, at: usize, part: &Cell) -> Result<ScalarValue, Refusal> {
    let field = relation.schema.field(at);
    let kind = field.data_type();
    // A list would be taken for one of a single value.
    let read = if kind.is_nested() { Err(String::new()) } else { column(std::slice::from_ref(part), kind) };
    let read = read.map(|values| as_key(&values));
    let read = read.and_then(|values| ScalarValue::try_from_array(&values, 0).map_err(|why| why.strip_backtrace()));
    read.map_err(|_| {
        let name = field.name();
        let text = excerpt(part.as_deref().unwrap_or_default());
        invalid(format!("{name} is {}, got \"{text}\"", said(kind))).at(name.as_str())
    })
}

/// A type as people write it.
fn said(kind: &DataType) -> String {
    match kind {
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            "a time, as 2026-01-31T10:05:00, or milliseconds since 1970".to_owned()
        }
        DataType::Timestamp(..) => "a time, as 2026-01-31T10:05:00".to_owned(),
        DataType::Boolean => "true or false".to_owned(),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "a text".to_owned(),
        kind if kind.is_numeric() => format!("a number ({kind})"),
        kind => format!("of type {kind}, of which no value can be written"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::datatypes::{Field, Schema};

    use super::*;
    use crate::plan::Kind;

    fn relation(key: &[&str]) -> Relation {
        let fields = [
            ("company_id", DataType::Utf8View),
            ("window_start", DataType::Timestamp(TimeUnit::Millisecond, None)),
            ("n", DataType::Int64),
            ("km", DataType::Float64),
            ("places", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)))),
        ];
        let fields: Vec<Field> = fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
        let key = key.iter().map(|name| (*name).to_owned()).collect();
        Relation { name: "s".into(), schema: Arc::new(Schema::new(fields)), kind: Kind::Table, key, access: None }
    }

    fn values(text: &str, by: Option<&str>) -> Result<Vec<String>, String> {
        let key = parsed(&relation(&["company_id", "window_start"]), text, by);
        key.map(|key| key.0.into_iter().map(|(at, value)| format!("{at}:{value}")).collect())
            .map_err(|why| why.to_string())
    }

    #[test]
    fn keys_are_typed() {
        assert_eq!(
            values("c|1|5", None).unwrap_err(),
            "key_invalid: the key of s is company_id|window_start: values wanted 2, given 3: \"c|1|5\""
        );
        assert_eq!(values("c%7C1%25|1970-01-01T00:00:01", None).unwrap(), ["0:c|1%", "1:1000"]);
        assert_eq!(values("|1000", None).unwrap(), ["0:", "1:1000"]);
        assert_eq!(values("%N|%N", None).unwrap(), ["0:NULL", "1:NULL"]);
        assert_eq!(values("-7|-0", Some("n, km")).unwrap(), ["2:-7", "3:0"]);
    }

    #[test]
    fn keys_that_are_none_are_refused_with_what_to_write() {
        let long = "x".repeat(KEY_BYTES_MAX + 1);
        for (text, by, part) in [
            ("c1", None, "company_id|window_start"),
            ("c1|soon", None, "window_start is a time, as 2026-01-31T10:05:00"),
            ("c1|", None, "got \"\""),
            ("c1%|1", None, "none of %25, %7C"),
            ("c1%é|1", None, "none of %25, %7C"),
            ("%N1|1", None, "none of %25, %7C"),
            ("1e99", Some("n"), "n is a number"),
            ("a", Some("places"), "places is of type"),
            ("a", Some("compony_id"), "did you mean company_id"),
            ("a|b", Some("n,n"), "twice"),
            ("a", Some(""), "there is no column"),
            ("'; DROP TABLE s; --|x", None, "window_start is a time"),
            ("\u{1b}[2J|\u{1b}[2J", None, "got \"\\u{1b}[2J\""),
            (long.as_str(), None, "it may have 4096"),
        ] {
            let why = values(text, by).unwrap_err();
            assert!(why.contains(part), "{text}: {why}");
        }
        let none = parsed(&relation(&[]), "a", None).unwrap_err();
        assert!(none.code == "key_unknown" && none.hint.is_some(), "{none}");
    }
}
