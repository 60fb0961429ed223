//! Records of declared relations, of a log or of a request: their key, their value, and what the two have to do with each
//! other.
//!
//! The columns say what the key is. The key of a record is the same as text, its parts joined by `|`: it is all that a null
//! value has, and a table refuses one that names another row.

use std::borrow::Cow;

use jiff::Timestamp;
use operators::batch::key_hash;
use operators::error::{Position, Refusal, excerpt};
use operators::key_text::{self, NULL, SEPARATOR};
use operators::record::declared::{Declared, DeclaredBuilder, Type, Value};

use super::json::{Parsed, key_value};
use super::{AHEAD_MS_MAX, APPEND_MS_MIN, KEY_BYTES_MAX, Record, guard, sized};

/// Largest value of a record of a declared relation, in bytes.
pub const DECLARED_BYTES_MAX: usize = 256 << 10;

pub(super) fn push(
    declared: &'static Declared,
    builder: &mut DeclaredBuilder,
    record: &Record<'_>,
    at: Position,
) -> Result<(), Refusal> {
    let Some(value) = record.value else {
        if !declared.table {
            let why = Refusal::new("unexpected_tombstone", "a null value on a stream of events");
            return Err(why.hint("events are never deleted; what is belongs into a TABLE"));
        }
        let key = record.key.filter(|key| !key.is_empty()).ok_or_else(|| {
            Refusal::new("key_missing", "a null value without a key deletes nothing").hint("key each record by its KEY")
        })?;
        let parts = parts(declared, key)?;
        let values = values(declared, &parts)?;
        let rest = declared.columns[declared.keys..].iter().map(|_| Value::Null);
        let hash = key_hash(key_text(declared, values.iter().copied()).as_bytes());
        builder.push(values.iter().copied().chain(rest), hash, true, at);
        return Ok(());
    };
    sized(value, DECLARED_BYTES_MAX)?;
    let parsed = guard(|| Parsed::parse(declared, value))?;
    plausible(declared, &parsed, record.append_ms)?;
    if !declared.table {
        builder.push(parsed.values(), 0, false, at);
        return Ok(());
    }
    if let Some(key) = record.key.filter(|key| !key.is_empty()) {
        let parts = parts(declared, key)?;
        let named = values(declared, &parts)?;
        if !named.iter().copied().eq(parsed.values().take(declared.keys)) {
            let named = excerpt(&String::from_utf8_lossy(key));
            let of_value = key_text(declared, parsed.values());
            let message = format!("key \"{named}\" is not the \"{}\" of the value", excerpt(&of_value));
            return Err(Refusal::new("key_mismatch", message).at(&declared.columns[0].name));
        }
    }
    let hash = key_hash(text(declared, &parsed)?.as_bytes());
    if parsed.is_gone() {
        let rest = declared.columns[declared.keys..].iter().map(|_| Value::Null);
        builder.push(parsed.values().take(declared.keys).chain(rest), hash, true, at);
    } else {
        builder.push(parsed.values(), hash, false, at);
    }
    Ok(())
}

/// Refuses an event that is of more than a day after `now_ms`: its windows would stay open for as long.
pub(crate) fn plausible(declared: &Declared, parsed: &Parsed<'_>, now_ms: i64) -> Result<(), Refusal> {
    let time = declared.time.and_then(|place| parsed.values().nth(place).map(|value| (place, value)));
    match time {
        Some((place, Value::Whole(ms))) if now_ms >= APPEND_MS_MIN && ms > now_ms.saturating_add(AHEAD_MS_MAX) => {
            let name = &declared.columns[place].name;
            let why = format!("{name} {ms} is more than a day ahead of {now_ms}, when the log took it");
            let why = Refusal::new("event_time_implausible", why).at(name);
            Err(why.hint("send milliseconds since 1970-01-01 UTC, or a time with its offset"))
        }
        _ => Ok(()),
    }
}

/// The key of a record as text.
///
/// # Errors
/// It is too long: no null value could delete its row.
pub(crate) fn text(declared: &Declared, parsed: &Parsed<'_>) -> Result<String, Refusal> {
    let key = key_text(declared, parsed.values());
    if key.len() > KEY_BYTES_MAX {
        let message = format!("a key of {} bytes is over the limit of {KEY_BYTES_MAX}", key.len());
        return Err(Refusal::new("field_out_of_range", message).at(&declared.columns[0].name));
    }
    Ok(key)
}

fn key_text<'a>(declared: &Declared, values: impl Iterator<Item = Value<'a>>) -> String {
    let mut out = String::new();
    for (place, (column, value)) in declared.key().iter().zip(values).enumerate() {
        if place > 0 {
            out.push(SEPARATOR);
        }
        let part: Cow<'_, str> = match value {
            Value::Text(text) => text.into(),
            Value::Boolean(flag) => flag.to_string().into(),
            Value::Whole(number) => shown(column.kind, number).into(),
            Value::Null | Value::Double(_) | Value::Decimal(_) => unreachable!("no key has such a part"),
        };
        key_text::push(Some(&part), &mut out);
    }
    out
}

fn shown(kind: Type, number: i64) -> String {
    match kind {
        Type::Timestamp => Timestamp::from_millisecond(number).map_or_else(|_| number.to_string(), |at| at.to_string()),
        Type::Date => {
            let day =
                jiff::Span::new().try_days(number).and_then(|days| jiff::civil::date(1970, 1, 1).checked_add(days));
            day.map_or_else(|_| number.to_string(), |day| day.to_string())
        }
        _ => number.to_string(),
    }
}

/// The parts of a record's key.
fn parts<'a>(declared: &Declared, key: &'a [u8]) -> Result<Vec<Cow<'a, str>>, Refusal> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Refusal::new(
            "key_mismatch",
            format!("a key of {} bytes is over the limit of {KEY_BYTES_MAX}", key.len()),
        ));
    }
    let text = std::str::from_utf8(key).map_err(|why| {
        Refusal::new("utf8_invalid", format!("the record's key is not UTF-8 at byte {}", why.valid_up_to()))
    })?;
    let parts: Vec<&str> = if declared.keys == 1 { vec![text] } else { text.split(SEPARATOR).collect() };
    if parts.len() != declared.keys || parts.contains(&NULL) {
        let names: Vec<&str> = declared.key().iter().map(|column| column.name.as_str()).collect();
        let message = format!("key \"{}\" does not name {}", excerpt(text), names.join(", "));
        return Err(Refusal::new("key_mismatch", message).hint("join the parts by |, with % as %25 and | as %7C"));
    }
    Ok(parts.into_iter().map(decoded).collect())
}

fn decoded(part: &str) -> Cow<'_, str> {
    if part.contains('%') { part.replace("%7C", "|").replace("%25", "%").into() } else { part.into() }
}

fn values<'a>(declared: &'static Declared, parts: &'a [Cow<'_, str>]) -> Result<Vec<Value<'a>>, Refusal> {
    declared.key().iter().zip(parts).map(|(column, part)| key_value(column, part)).collect()
}

#[cfg(test)]
mod tests;
