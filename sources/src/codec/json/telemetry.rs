//! A telemetry message from JSON, its text borrowed from the document: nothing is allocated unless the device id holds an
//! escape. Simple messages take a short cut that reads them to the same values.

use std::borrow::Cow;
use std::fmt;

use operators::error::Refusal;
use operators::record::telemetry::Telemetry;
use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use sonic_rs::LazyValue;

use super::explain::{Field, Kind, explain};
use super::fast::{self, Order};

/// What a message may hold, for the explanation of what is wrong with one.
pub(super) const FIELDS: &[Field] = &[
    Field { name: "device_id", kind: Kind::Text, required: true },
    Field { name: "ts", kind: Kind::Whole(i64::MIN, i64::MAX), required: true },
    Field { name: "server_time", kind: Kind::Whole(i64::MIN, i64::MAX), required: false },
    Field { name: "seq", kind: Kind::Whole(i64::MIN, i64::MAX), required: false },
    Field { name: "lat", kind: Kind::Number, required: false },
    Field { name: "lon", kind: Kind::Number, required: false },
    Field { name: "altitude_m", kind: Kind::Number, required: false },
    Field { name: "speed_kmh", kind: Kind::Number, required: false },
    Field { name: "heading_deg", kind: Kind::Number, required: false },
    Field { name: "satellites", kind: Kind::Whole(i32::MIN as i64, i32::MAX as i64), required: false },
    Field { name: "hdop", kind: Kind::Number, required: false },
    Field { name: "ignition", kind: Kind::Flag, required: false },
    Field { name: "fuel_level_pct", kind: Kind::Number, required: false },
    Field { name: "engine_temp_c", kind: Kind::Number, required: false },
    Field { name: "odometer_km", kind: Kind::Number, required: false },
    Field { name: "battery_v", kind: Kind::Number, required: false },
    Field { name: "events", kind: Kind::List, required: false },
    Field { name: "attributes", kind: Kind::Object, required: false },
];

/// A parsed telemetry message.
///
/// ```
/// let text = br#"{"device_id":"d-1","ts":1700000000000,"attributes":{"di1":true},"more":[1]}"#;
/// let message = sources::codec::json::Message::parse(text).expect("a good message");
/// assert_eq!(message.telemetry().attributes, Some(r#"{"di1":true}"#));
/// let why = sources::codec::json::Message::parse(br#"{"device_id":"d-1","ts":"now"}"#).expect_err("not a number");
/// assert_eq!((why.code, why.field.as_deref()), ("field_type", Some("ts")));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Message<'a> {
    fields: Telemetry<'a>,
    /// The device id where it was written with escapes.
    unescaped: Option<Box<str>>,
}

/// Parses messages one after the other, a little faster than one by one: it remembers the order of their fields.
#[derive(Clone, Debug, Default)]
pub struct Parser(Order);

impl Parser {
    /// Reads one message. Only its form is checked; what the values may be is for [`Telemetry::validate`].
    ///
    /// # Errors
    /// What is wrong with the document, with the field or the place.
    pub fn parse<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, Refusal> {
        match fast::parse(bytes, &mut self.0) {
            Some(fields) => Ok(Message { fields, unescaped: None }),
            None => general(bytes),
        }
    }
}

/// Reads any message.
pub(super) fn general(bytes: &[u8]) -> Result<Message<'_>, Refusal> {
    let text = super::check(bytes)?;
    sonic_rs::from_str(text).map_err(|error| explain(text, FIELDS, &error))
}

impl<'a> Message<'a> {
    /// [`Parser::parse`] of a single message.
    ///
    /// # Errors
    /// What is wrong with the document, with the field or the place.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        Parser::default().parse(bytes)
    }

    /// The fields.
    #[must_use]
    pub fn telemetry(&self) -> Telemetry<'_> {
        match &self.unescaped {
            Some(device_id) => Telemetry { device_id, ..self.fields },
            None => self.fields,
        }
    }
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MessageVisitor)
    }
}

struct MessageVisitor;

/// Reads `$slot`'s value unless the field was there before.
macro_rules! once {
    ($map:ident, $seen:ident, $bit:literal, $slot:expr) => {{
        if $seen & (1u32 << $bit) != 0 {
            return Err(A::Error::duplicate_field("of telemetry"));
        }
        $seen |= 1u32 << $bit;
        $slot = $map.next_value()?;
    }};
}

impl<'de> Visitor<'de> for MessageVisitor {
    type Value = Message<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a telemetry object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut message = Message::default();
        let fields = &mut message.fields;
        let mut seen = 0u32;
        let (mut id, mut ts, mut seq) = (None::<Text<'de>>, None, None);
        let (mut events, mut attributes) = (None::<Raw<'de>>, None::<Raw<'de>>);
        while let Some(Text(name)) = map.next_key()? {
            match &*name {
                "device_id" => once!(map, seen, 0, id),
                "ts" => once!(map, seen, 1, ts),
                "server_time" => once!(map, seen, 2, fields.server_time),
                "seq" => once!(map, seen, 3, seq),
                "lat" => once!(map, seen, 4, fields.lat),
                "lon" => once!(map, seen, 5, fields.lon),
                "altitude_m" => once!(map, seen, 6, fields.altitude_m),
                "speed_kmh" => once!(map, seen, 7, fields.speed_kmh),
                "heading_deg" => once!(map, seen, 8, fields.heading_deg),
                "satellites" => once!(map, seen, 9, fields.satellites),
                "hdop" => once!(map, seen, 10, fields.hdop),
                "ignition" => once!(map, seen, 11, fields.ignition),
                "fuel_level_pct" => once!(map, seen, 12, fields.fuel_level_pct),
                "engine_temp_c" => once!(map, seen, 13, fields.engine_temp_c),
                "odometer_km" => once!(map, seen, 14, fields.odometer_km),
                "battery_v" => once!(map, seen, 15, fields.battery_v),
                "events" => once!(map, seen, 16, events),
                "attributes" => once!(map, seen, 17, attributes),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        match id.ok_or_else(|| A::Error::missing_field("device_id"))?.0 {
            Cow::Borrowed(id) => fields.device_id = id,
            Cow::Owned(id) => message.unescaped = Some(id.into()),
        }
        fields.ts = ts.ok_or_else(|| A::Error::missing_field("ts"))?;
        fields.seq = seq.unwrap_or(0);
        fields.events = events.map(|raw| raw.opened_by(b'[')).transpose()?;
        fields.attributes = attributes.map(|raw| raw.opened_by(b'{')).transpose()?;
        Ok(message)
    }
}

/// Text that is borrowed unless it was written with escapes (`Cow` itself always copies).
pub(super) struct Text<'de>(pub Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(TextVisitor)
    }
}

/// A value kept as its JSON text.
pub(super) struct Raw<'de>(LazyValue<'de>);

impl<'de> Deserialize<'de> for Raw<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        LazyValue::deserialize(deserializer).map(Raw)
    }
}

impl<'de> Raw<'de> {
    /// The text.
    pub(super) fn text(&self) -> Cow<'_, str> {
        self.0.as_raw_cow()
    }

    /// The text, which must begin with `bracket`.
    pub(super) fn opened_by<E: Error>(self, bracket: u8) -> Result<&'de str, E> {
        match self.0.as_raw_cow() {
            Cow::Borrowed(text) if text.as_bytes().first() == Some(&bracket) => Ok(text),
            _ => Err(E::custom("another bracket")),
        }
    }
}
