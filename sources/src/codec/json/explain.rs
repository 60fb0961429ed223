//! Why a document was refused. It is read again by the strict and slow parser, which keeps the place and each field's raw
//! text, so that all readers of JSON give the same code for the same fault.

use std::borrow::Cow;
use std::fmt;

use operators::error::{Refusal, excerpt};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::scalar::{self, Misfit};

/// A field that a document may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub name: &'static str,
    pub kind: Kind,
    pub required: bool,
}

/// What a field's value must be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    /// A string.
    Text,
    /// A string, 1 to 64 of a safe set; an empty one is null.
    Id,
    /// A whole number between the two.
    Whole(i64, i64),
    /// A finite number.
    Number,
    /// `true` or `false`.
    Flag,
    /// An array.
    List,
    /// An object.
    Object,
    /// A time: RFC 3339, or milliseconds since the epoch.
    Time,
    /// A day: `2026-01-31`.
    Day,
    /// A number of so many digits, so many of them behind the point.
    Decimal(u8, u8),
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Kind::Text | Kind::Id => "a string",
            Kind::Whole(..) => "a whole number",
            Kind::Number => "a number",
            Kind::Flag => "true or false",
            Kind::List => "an array",
            Kind::Object => "an object",
            Kind::Time => "a time such as \"2026-01-31T12:00:00Z\", or milliseconds since 1970",
            Kind::Day => "a day such as \"2026-01-31\"",
            Kind::Decimal(..) => "a number without an exponent",
        }
    }

    pub(super) fn check(self, name: &'static str, raw: &str) -> Result<(), Refusal> {
        let out_of_range = |rule: String| {
            Err(Refusal::new("field_out_of_range", format!("{name} {} is not {rule}", excerpt(raw))).at(name))
        };
        let first = raw.as_bytes().first().copied().unwrap_or(b' ');
        let numeric = first == b'-' || first.is_ascii_digit();
        let fits = match self {
            Kind::Text | Kind::Id => first == b'"',
            Kind::Flag => matches!(first, b't' | b'f'),
            Kind::List => first == b'[',
            Kind::Object => first == b'{',
            Kind::Number if numeric => match raw.parse::<f64>() {
                Ok(number) if number.is_finite() => true,
                _ => return out_of_range("a finite number of 64 bits".into()),
            },
            Kind::Whole(low, high) if numeric && !raw.contains(['.', 'e', 'E']) => match raw.parse::<i64>() {
                Ok(number) if (low..=high).contains(&number) => true,
                _ => return out_of_range(format!("{low}…{high}")),
            },
            Kind::Time => scalar::time(raw).is_some(),
            Kind::Day => scalar::day(raw).is_some(),
            Kind::Decimal(precision, scale) => match scalar::decimal(raw, precision, scale) {
                Ok(_) => true,
                Err(Misfit::Range) => {
                    return out_of_range(format!("a number of {precision} digits, {scale} of them behind the point"));
                }
                Err(Misfit::Form) => false,
            },
            Kind::Number | Kind::Whole(..) => false,
        };
        if fits {
            return Ok(());
        }
        Err(Refusal::new("field_type", format!("{name} is {}, not {}", excerpt(raw), self.expected())).at(name))
    }
}

/// The refusal for a document that the fast parser gave `error` for.
#[cold]
pub(super) fn explain(text: &str, fields: &[Field], error: &sonic_rs::Error) -> Refusal {
    if let Some(at) = text.bytes().position(|b| b == 0) {
        return super::utf8_invalid(at, "a NUL");
    }
    if text.starts_with('\u{feff}') {
        return super::utf8_invalid(0, "a byte order mark");
    }
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let first = match deserializer.deserialize_map(Walk { fields, seen: Vec::new(), first: None }) {
        Ok(first) => deserializer.end().map(|()| first),
        Err(error) => Err(error),
    };
    match first {
        Ok(Some(refusal)) => refusal,
        Ok(None) => {
            let message = error.to_string();
            let message = message.lines().next().unwrap_or("not valid JSON");
            Refusal::new("json_invalid", excerpt(message)).at(format!("{}:{}", error.line(), error.column()))
        }
        Err(error) if error.is_data() => {
            let start = text.trim_start();
            Refusal::new("field_type", format!("the document is {}, not an object", excerpt(start)))
        }
        Err(error) => not_a_number(text, &error).unwrap_or_else(|| syntax(&error)),
    }
}

/// The refusal for text that `serde_json` does not take for JSON.
#[must_use]
pub fn syntax(error: &serde_json::Error) -> Refusal {
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    Refusal::new("json_invalid", message).at(format!("{}:{}", error.line(), error.column()))
}

/// `NaN` and `Infinity` are no JSON, but their senders mean a field's value: the refusal names the field.
fn not_a_number(text: &str, error: &serde_json::Error) -> Option<Refusal> {
    let line = text.lines().nth(error.line().checked_sub(1)?)?;
    let at = error.column().checked_sub(1)?;
    // The error stands on the token's first letter, or behind the minus.
    let word: String = line.get(at..)?.chars().take_while(char::is_ascii_alphabetic).collect();
    if word != "NaN" && word != "Infinity" {
        return None;
    }
    let before = line.get(..at)?.trim_end_matches('-').trim_end().strip_suffix(':')?.trim_end().strip_suffix('"')?;
    let name = before.rsplit('"').next()?;
    let message = format!("{} is {word}, not a finite number", excerpt(name));
    Some(Refusal::new("field_type", message).at(excerpt(name)).hint("leave the field out when there is no value"))
}

/// Goes through an object's fields and keeps the first fault, while the rest is still checked to be JSON.
struct Walk<'f> {
    fields: &'f [Field],
    seen: Vec<&'static str>,
    first: Option<Refusal>,
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<Refusal>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut present = Vec::new();
        while let Some((name, raw)) = map.next_entry::<Cow<'de, str>, &'de RawValue>()? {
            let Some(field) = self.fields.iter().find(|field| field.name == name) else { continue };
            let raw = raw.get();
            if self.seen.contains(&field.name) {
                let message = format!("{} is there twice", field.name);
                self.first.get_or_insert(Refusal::new("json_duplicate_key", message).at(field.name));
                continue;
            }
            self.seen.push(field.name);
            if raw == "null" {
                continue;
            }
            present.push(field.name);
            if let Err(refusal) = field.kind.check(field.name, raw) {
                self.first.get_or_insert(refusal);
            }
        }
        for field in self.fields.iter().filter(|field| field.required && !present.contains(&field.name)) {
            let message = format!("{} is missing", field.name);
            self.first.get_or_insert(Refusal::new("field_missing", message).at(field.name));
        }
        Ok(self.first)
    }
}
