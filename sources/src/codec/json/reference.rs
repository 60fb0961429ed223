//! Records of the reference changelogs from JSON: one table of fields a stream, in the order of the stream's schema.

use std::borrow::Cow;
use std::fmt;

use operators::error::{Refusal, excerpt};
use operators::record::Stream;
use operators::record::registry::Value;
use operators::record::telemetry::validate_device_id;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::explain::{Field, Kind, explain};
use super::telemetry::{Raw, Text};

/// Longest `offline_after_s` of a company: a year.
const OFFLINE_AFTER_S_MAX: i64 = 366 * 24 * 3_600;
/// Fields of the widest stream.
const FIELDS_MAX: usize = 8;

const fn key(name: &'static str) -> Field {
    Field { name, kind: Kind::Id, required: true }
}
const fn id(name: &'static str) -> Field {
    Field { name, kind: Kind::Id, required: false }
}
const fn text(name: &'static str) -> Field {
    Field { name, kind: Kind::Text, required: false }
}

const VEHICLE: &[Field] = &[
    key("vehicle_id"),
    id("device_id"),
    text("plate"),
    text("model"),
    Field { name: "group_ids", kind: Kind::List, required: false },
    id("company_id"),
    id("driver_id"),
    text("status"),
];
const DRIVER: &[Field] = &[key("driver_id"), text("name"), text("phone"), text("licence"), id("company_id")];
const COMPANY: &[Field] = &[
    key("company_id"),
    text("name"),
    id("tariff_id"),
    text("time_zone"),
    Field { name: "offline_after_s", kind: Kind::Whole(1, OFFLINE_AFTER_S_MAX), required: false },
];
const TARIFF: &[Field] =
    &[key("tariff_id"), text("name"), Field { name: "limits", kind: Kind::Object, required: false }];

/// Fields of a stream, the key first, as in `operators::record::registry::fields`.
pub(super) fn fields(stream: Stream) -> &'static [Field] {
    match stream {
        Stream::Vehicle => VEHICLE,
        Stream::Driver => DRIVER,
        Stream::Company => COMPANY,
        Stream::Tariff => TARIFF,
        Stream::Telemetry | Stream::Declared(_) => unreachable!("{stream} is no reference table"),
    }
}

/// The id that a tombstone of a reference stream deletes: its key.
///
/// # Errors
/// The key is no id.
pub fn tombstone_id(stream: Stream, key: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(key).map_err(|e| super::utf8_invalid(e.valid_up_to(), "key not UTF-8"))?;
    valid_id(fields(stream)[0].name, text)?;
    Ok(text)
}

/// Ids are all of the same safe set as a device's, so that they may stand in keys, paths and queries.
fn valid_id(name: &'static str, text: &str) -> Result<(), Refusal> {
    validate_device_id(text).map_err(|_| {
        let message = format!("{name} \"{}\" is not 1 to 64 of A-Z a-z 0-9 . _ : -", excerpt(text));
        Refusal::new("id_invalid", message).at(name)
    })
}

#[derive(Clone, Debug, Default)]
enum Slot<'a> {
    #[default]
    Null,
    Text(Cow<'a, str>),
    Int(i64),
}

/// A parsed upsert of a reference stream.
///
/// ```
/// use operators::record::Stream;
/// use operators::record::registry::Value;
/// use sources::codec::json::Reference;
/// let text = br#"{"driver_id":"p-1","name":"Ada","company_id":""}"#;
/// let driver = Reference::parse(Stream::Driver, text).expect("a good record");
/// driver.with_values(|values| assert_eq!(values[..2], [Value::Text("p-1"), Value::Text("Ada")]));
/// driver.with_values(|values| assert_eq!(values[4], Value::Null)); // an empty id is none
/// ```
#[derive(Clone, Debug)]
pub struct Reference<'a> {
    stream: Stream,
    slots: [Slot<'a>; FIELDS_MAX],
}

impl<'a> Reference<'a> {
    /// Reads one record of `stream`, which must be a table.
    ///
    /// # Errors
    /// What is wrong with the document, with the field or the place.
    pub fn parse(stream: Stream, bytes: &'a [u8]) -> Result<Self, Refusal> {
        let text = super::check(bytes)?;
        let fields = fields(stream);
        let mut reference = Reference { stream, slots: Default::default() };
        let mut deserializer = sonic_rs::Deserializer::from_str(text);
        Walk { fields, slots: &mut reference.slots }
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|error| explain(text, fields, &error))?;
        reference.finish(fields)
    }

    fn finish(mut self, fields: &'static [Field]) -> Result<Self, Refusal> {
        for (field, slot) in fields.iter().zip(&mut self.slots) {
            match (field.kind, &*slot) {
                (Kind::Id, Slot::Text(text)) if text.is_empty() => *slot = Slot::Null,
                (Kind::Id, Slot::Text(text)) => valid_id(field.name, text)?,
                (kind @ Kind::Whole(..), Slot::Int(number)) => kind.check(field.name, &number.to_string())?,
                _ => {}
            }
            if field.required && matches!(slot, Slot::Null) {
                return Err(Refusal::new("field_missing", format!("{} is empty", field.name)).at(field.name));
            }
        }
        Ok(self)
    }

    fn text(&self, index: usize) -> &str {
        match &self.slots[index] {
            Slot::Text(text) => text,
            _ => "",
        }
    }

    /// The id of the record.
    #[must_use]
    pub fn key(&self) -> &str {
        self.text(0)
    }

    /// Name of the field that is the id.
    #[must_use]
    pub fn key_name(&self) -> &'static str {
        fields(self.stream)[0].name
    }

    /// Whether a record with this key may carry this value: the key is the id. Vehicles may be keyed by their device
    /// instead, which keeps a vehicle in the partition of its telemetry; a vehicle that changes its device then changes
    /// its key, too.
    #[must_use]
    pub fn is_keyed_by(&self, key: &[u8]) -> bool {
        key == self.key().as_bytes() || (self.stream == Stream::Vehicle && key == self.text(1).as_bytes())
    }

    /// Calls `take` with a value for each field of the stream, in the order of its schema.
    pub fn with_values<R>(&self, take: impl FnOnce(&[Value<'_>]) -> R) -> R {
        let mut values = [Value::Null; FIELDS_MAX];
        for (value, slot) in values.iter_mut().zip(&self.slots) {
            *value = match slot {
                Slot::Null => Value::Null,
                Slot::Text(text) => Value::Text(text),
                Slot::Int(number) => Value::Int(*number),
            };
        }
        take(&values[..fields(self.stream).len()])
    }
}

struct Walk<'s, 'de> {
    fields: &'static [Field],
    slots: &'s mut [Slot<'de>; FIELDS_MAX],
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
        let mut seen = 0u32;
        while let Some(Text(name)) = map.next_key()? {
            let Some(index) = self.fields.iter().position(|field| field.name == name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << index) != 0 {
                return Err(A::Error::duplicate_field(self.fields[index].name));
            }
            seen |= 1 << index;
            self.slots[index] = match self.fields[index].kind {
                Kind::Text | Kind::Id => map.next_value::<Option<Text<'de>>>()?.map(|text| Slot::Text(text.0)),
                Kind::Whole(..) => map.next_value::<Option<i64>>()?.map(Slot::Int),
                Kind::List => raw(&mut map, b'[')?,
                Kind::Object => raw(&mut map, b'{')?,
                Kind::Number | Kind::Flag | Kind::Time | Kind::Day | Kind::Decimal(..) => {
                    unreachable!("no reference record has such a field")
                }
            }
            .unwrap_or_default();
        }
        Ok(())
    }
}

fn raw<'de, A: MapAccess<'de>>(map: &mut A, bracket: u8) -> Result<Option<Slot<'de>>, A::Error> {
    let Some(raw) = map.next_value::<Option<Raw<'de>>>()? else { return Ok(None) };
    Ok(Some(Slot::Text(Cow::Borrowed(raw.opened_by(bracket)?))))
}
