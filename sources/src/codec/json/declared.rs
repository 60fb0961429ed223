//! Records of declared relations from JSON: the members that are columns, whatever else there is.

use std::borrow::Cow;
use std::fmt;

use operators::error::{Refusal, excerpt};
use operators::record::declared::{COLUMNS_MAX, Column, Declared, TEXT_BYTES_MAX, Type, Value};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::explain::{Field, Kind, explain};
use super::scalar;
use super::telemetry::{Raw, Text};

/// The member that tells that a table's row goes: for senders that cannot write a null value.
pub const GONE: &str = operators::batch::DELETED;

#[derive(Clone, Debug, Default)]
enum Slot<'a> {
    #[default]
    Null,
    Boolean(bool),
    Whole(i64),
    Double(f64),
    Text(Cow<'a, str>),
    Decimal(i128),
}

/// A parsed record.
#[derive(Clone, Debug)]
pub struct Parsed<'a> {
    slots: Vec<Slot<'a>>,
    gone: bool,
}

impl<'a> Parsed<'a> {
    /// Reads one record of this relation.
    ///
    /// # Errors
    /// What is wrong with the document, with the column or the place.
    pub fn parse(declared: &'static Declared, bytes: &'a [u8]) -> Result<Self, Refusal> {
        let text = super::check(bytes)?;
        let mut parsed = Parsed { slots: vec![Slot::default(); declared.columns.len()], gone: false };
        let mut deserializer = sonic_rs::Deserializer::from_str(text);
        Walk { declared, parsed: &mut parsed }
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|error| explain(text, &fields(declared), &error))?;
        parsed.checked(declared)
    }

    fn checked(self, declared: &'static Declared) -> Result<Self, Refusal> {
        for (place, (column, slot)) in declared.columns.iter().zip(&self.slots).enumerate() {
            let Column { name, kind, required } = column;
            match (kind, slot) {
                (_, Slot::Null) if *required && (place < declared.keys || !self.gone) => {
                    return Err(Refusal::new("field_missing", format!("{name} is missing or null")).at(name));
                }
                (Type::Int, Slot::Whole(number)) => kind_of(*kind).check(name, &number.to_string())?,
                (Type::Text, Slot::Text(text)) if text.len() > TEXT_BYTES_MAX => {
                    let bytes = text.len();
                    let message = format!("{name} has {bytes} bytes, the limit is {TEXT_BYTES_MAX}");
                    return Err(Refusal::new("field_out_of_range", message).at(name));
                }
                (_, Slot::Double(number)) if !number.is_finite() => {
                    let message = format!("{name} is not a finite number of 64 bits");
                    return Err(Refusal::new("field_out_of_range", message).at(name));
                }
                _ => {}
            }
        }
        Ok(self)
    }

    /// Whether the row of the key goes.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// A value for each column.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        self.slots.iter().map(|slot| match slot {
            Slot::Null => Value::Null,
            Slot::Boolean(flag) => Value::Boolean(*flag),
            Slot::Whole(number) => Value::Whole(*number),
            Slot::Double(number) => Value::Double(*number),
            Slot::Text(text) => Value::Text(text),
            Slot::Decimal(digits) => Value::Decimal(*digits),
        })
    }
}

fn kind_of(kind: Type) -> Kind {
    match kind {
        Type::Boolean => Kind::Flag,
        Type::Int => Kind::Whole(i64::from(i32::MIN), i64::from(i32::MAX)),
        Type::BigInt => Kind::Whole(i64::MIN, i64::MAX),
        Type::Double => Kind::Number,
        Type::Text => Kind::Text,
        Type::Timestamp => Kind::Time,
        Type::Date => Kind::Day,
        Type::Decimal(precision, scale) => Kind::Decimal(precision, scale),
    }
}

/// What a document must be, to say why one is not. What is missing is told by who knows whether the row goes.
fn fields(declared: &'static Declared) -> Vec<Field> {
    let field = |column: &'static Column| Field { name: &column.name, kind: kind_of(column.kind), required: false };
    let gone = declared.table.then_some(Field { name: GONE, kind: Kind::Flag, required: false });
    declared.columns.iter().map(field).chain(gone).collect()
}

struct Walk<'s, 'de> {
    declared: &'static Declared,
    parsed: &'s mut Parsed<'de>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        const { assert!(COLUMNS_MAX < 128, "a bit for each column, and one for the row that goes") };
        let Walk { declared, parsed } = self;
        let mut seen = 0u128;
        while let Some(Text(name)) = map.next_key()? {
            let place = declared.columns.iter().position(|column| column.name == name);
            let (bit, known) = match place {
                Some(place) => (place, &*declared.columns[place].name),
                None if declared.table && name == GONE => (COLUMNS_MAX, GONE),
                None => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            if seen & (1 << bit) != 0 {
                return Err(A::Error::duplicate_field(known));
            }
            seen |= 1 << bit;
            match place {
                Some(place) => parsed.slots[place] = read(&mut map, declared.columns[place].kind)?.unwrap_or_default(),
                None => parsed.gone = map.next_value::<Option<bool>>()?.unwrap_or(false),
            }
        }
        Ok(())
    }
}

fn read<'de, A: MapAccess<'de>>(map: &mut A, kind: Type) -> Result<Option<Slot<'de>>, A::Error> {
    Ok(match kind {
        Type::Boolean => map.next_value::<Option<bool>>()?.map(Slot::Boolean),
        Type::Int | Type::BigInt => map.next_value::<Option<i64>>()?.map(Slot::Whole),
        Type::Double => map.next_value::<Option<f64>>()?.map(Slot::Double),
        Type::Text => map.next_value::<Option<Text<'de>>>()?.map(|text| Slot::Text(text.0)),
        Type::Timestamp => raw(map, |raw| scalar::time(raw).map(Slot::Whole))?,
        Type::Date => raw(map, |raw| scalar::day(raw).map(Slot::Whole))?,
        Type::Decimal(precision, scale) => {
            raw(map, |raw| scalar::decimal(raw, precision, scale).ok().map(Slot::Decimal))?
        }
    })
}

/// Reads a value by its raw text; why it cannot be is found out by a second reading.
fn raw<'de, A: MapAccess<'de>>(
    map: &mut A,
    read: impl FnOnce(&str) -> Option<Slot<'de>>,
) -> Result<Option<Slot<'de>>, A::Error> {
    let Some(raw) = map.next_value::<Option<Raw<'de>>>()? else { return Ok(None) };
    read(&raw.text()).map(Some).ok_or_else(|| A::Error::custom("another form"))
}

/// A key's part from the text of a record's key.
///
/// # Errors
/// It is not of the column's type.
pub(in crate::codec) fn key_value<'a>(column: &'static Column, text: &'a str) -> Result<Value<'a>, Refusal> {
    let value = match column.kind {
        Type::Boolean => text.parse().ok().map(Value::Boolean),
        Type::Int => text.parse::<i32>().ok().map(|number| Value::Whole(i64::from(number))),
        Type::BigInt => text.parse().ok().map(Value::Whole),
        Type::Text => (text.len() <= TEXT_BYTES_MAX).then_some(Value::Text(text)),
        Type::Timestamp => scalar::time_of_text(text).map(Value::Whole),
        Type::Date => scalar::day_of_text(text).map(Value::Whole),
        Type::Double | Type::Decimal(..) => None,
    };
    value.ok_or_else(|| {
        let message =
            format!("the record's key has \"{}\" for {}, which is of another type", excerpt(text), column.name);
        Refusal::new("key_mismatch", message).at(&column.name)
    })
}
