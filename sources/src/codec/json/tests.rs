//! JSON records against another parser: every refusal by its code, random values, random and mutated bytes.

use operators::record::Stream;
use operators::record::telemetry::Telemetry;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::*;

fn refused(text: &str) -> (&'static str, Option<String>) {
    let refusal = Message::parse(text.as_bytes()).expect_err(text);
    assert!(!refusal.message.is_empty() && refusal.message.len() < 400, "{refusal}");
    (refusal.code, refusal.field)
}

fn at(code: &'static str, place: &str) -> (&'static str, Option<String>) {
    (code, Some(place.to_owned()))
}

#[test]
fn a_document_that_is_no_json_says_where() {
    assert_eq!(refused("{\"device_id\":\"d\",\n \"ts\":1"), at("json_invalid", "2:7"));
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1} x"), at("json_invalid", "1:26"));
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1}{}"), at("json_invalid", "1:25"));
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1,}").0, "json_invalid");
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":01}").0, "json_invalid");
    assert_eq!(refused("{\"device_id\":\"d\" \"ts\":1}").0, "json_invalid");
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1,\"x\":\"a\nb\"}").0, "json_invalid");
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1,\"x\":\"\\q\"}").0, "json_invalid");
    assert_eq!(refused("{\"device_id\":\"d\",\"ts\":1,\"x\":\"\\u12\"}").0, "json_invalid");
    assert_eq!(refused("").0, "json_invalid");
    assert_eq!(refused("nul").0, "json_invalid");
    assert_eq!(refused("[1]").0, "field_type");
    assert_eq!(refused("null").0, "field_type");
}

#[test]
fn text_must_be_utf8() {
    let parse = |bytes: &[u8]| Message::parse(bytes).map(drop).expect_err("not UTF-8");
    assert_eq!(parse(b"{\"device_id\":\"\xff\",\"ts\":1}").code, "utf8_invalid");
    assert!(parse(b"{\"device_id\":\"\xff\",\"ts\":1}").message.contains("byte 14"));
    for (what, text) in [
        ("BOM", "\u{feff}{\"device_id\":\"d\",\"ts\":1}"),
        ("NUL", "{\"device_id\":\"d\0\",\"ts\":1}"),
        ("lone high", r#"{"device_id":"d","ts":1,"x":"\ud800"}"#),
        ("high and text", r#"{"device_id":"d","ts":1,"x":"\ud800abcdef"}"#),
        ("two highs", r#"{"device_id":"d","ts":1,"attributes":{"x":"\ud800\ud800"}}"#),
        ("lone low", r#"{"device_id":"\udc00","ts":1}"#),
    ] {
        assert_eq!(refused(text).0, "utf8_invalid", "{what}");
    }
    let text = r#"{"device_id":"\u0064-1","ts":1,"x":"\ud83d\ude00 \\ud800"}"#;
    assert_eq!(Message::parse(text.as_bytes()).expect("sound escapes").telemetry().device_id, "d-1");
}

#[test]
fn nesting_is_limited() {
    let nested = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"device_id":"d","ts":1,"x":{open}{close}}}"#)
    };
    assert!(Message::parse(nested(DEPTH_MAX).as_bytes()).is_ok());
    assert_eq!(refused(&nested(DEPTH_MAX + 1)), at("json_too_deep", "1:92"));
    assert_eq!(refused(&nested(10_000)).0, "json_too_deep");
    assert_eq!(refused(&"[".repeat(60_000)).0, "json_too_deep");
    assert_eq!(refused(&"{\"a\":".repeat(10_000)).0, "json_too_deep");
    // Many brackets side by side, or inside of a string, are not deep.
    let wide = format!(r#"{{"device_id":"d","ts":1,"x":"{}\"[","y":[{}[]]}}"#, "[{".repeat(100), "[],".repeat(100));
    assert!(Message::parse(wide.as_bytes()).is_ok());
}

#[test]
fn fields_have_their_type_and_range() {
    let with = |rest: &str| refused(&format!("{{\"device_id\":\"d\",\"ts\":1,{rest}}}"));
    for (rest, code, field) in [
        ("\"lat\":\"1\"", "field_type", "lat"),
        ("\"lat\":true", "field_type", "lat"),
        ("\"lat\":[]", "field_type", "lat"),
        ("\"lat\":NaN", "field_type", "lat"),
        ("\"lon\" : -Infinity", "field_type", "lon"),
        ("\"lat\":1e400", "field_out_of_range", "lat"),
        ("\"seq\":9223372036854775808", "field_out_of_range", "seq"),
        ("\"seq\":-9223372036854775809", "field_out_of_range", "seq"),
        ("\"seq\":99999999999999999999999", "field_out_of_range", "seq"),
        ("\"seq\":1.5", "field_type", "seq"),
        ("\"seq\":1e3", "field_type", "seq"),
        ("\"satellites\":2147483648", "field_out_of_range", "satellites"),
        ("\"ignition\":1", "field_type", "ignition"),
        ("\"ignition\":\"true\"", "field_type", "ignition"),
        ("\"events\":{}", "field_type", "events"),
        ("\"events\":\"[]\"", "field_type", "events"),
        ("\"attributes\":[]", "field_type", "attributes"),
        ("\"attributes\":\"{\\\"}\"", "field_type", "attributes"),
        ("\"ts\":2", "json_duplicate_key", "ts"),
        ("\"seq\":1,\"seq\":1", "json_duplicate_key", "seq"),
        ("\"lat\":null,\"lat\":1", "json_duplicate_key", "lat"),
        ("\"l\\u0061t\":1,\"lat\":1", "json_duplicate_key", "lat"),
    ] {
        assert_eq!(with(rest), at(code, field), "{rest}");
    }
    assert_eq!(refused(r#"{"ts":1}"#), at("field_missing", "device_id"));
    assert_eq!(refused(r#"{"device_id":"d"}"#), at("field_missing", "ts"));
    assert_eq!(refused(r#"{"device_id":null,"ts":1}"#), at("field_missing", "device_id"));
    assert_eq!(refused(r#"{"device_id":"d","ts":null}"#), at("field_missing", "ts"));
    assert_eq!(refused(r#"{"device_id":"d","ts":"1"}"#), at("field_type", "ts"));
    assert_eq!(refused(r#"{"device_id":5,"ts":1}"#), at("field_type", "device_id"));
    assert!(refused(&format!(r#"{{"device_id":{},"ts":1}}"#, "7".repeat(60_000))).1.is_some());
}

#[test]
fn null_is_absent_and_the_unknown_is_skipped() {
    let text = r#" {"unknown":{"device_id":"no","ts":"x"},"device_id":"d","ts":-5,"seq":null,"lat":null,"lon":-0,
        "speed_kmh":9007199254740993,"satellites":12,"ignition":false,"events":[ 1, "a" ],"attributes":{ }} "#;
    let message = Message::parse(text.as_bytes()).expect("a good message");
    let expected = Telemetry {
        device_id: "d",
        ts: -5,
        lon: Some(0.0),
        speed_kmh: Some(9_007_199_254_740_992.0),
        satellites: Some(12),
        ignition: Some(false),
        events: Some("[ 1, \"a\" ]"),
        attributes: Some("{ }"),
        ..Default::default()
    };
    assert_eq!(message.telemetry(), expected);
}

#[test]
fn fields_of_references_are_those_of_the_tables() {
    for stream in Stream::ALL.into_iter().filter(|stream| stream.is_table()) {
        let ours: Vec<_> = super::reference::fields(stream).iter().map(|field| field.name.to_owned()).collect();
        let theirs = operators::record::registry::fields(stream);
        assert_eq!(ours, theirs.iter().map(|field| field.name().clone()).collect::<Vec<_>>());
    }
}

/// What a message means by the rules of this module, from a tree that another parser has read.
fn meaning(object: &Map<String, Value>) -> Option<[Value; 18]> {
    let get = |name: &str| object.get(name).cloned().unwrap_or(Value::Null);
    let number = |name| match get(name) {
        Value::Null => Some(Value::Null),
        value => value.as_f64().map(Value::from),
    };
    let whole = |name, low: i64, high: i64| match get(name) {
        Value::Null => Some(Value::Null),
        value => value.as_i64().filter(|n| (low..=high).contains(n)).map(Value::from),
    };
    let kind = |name, fits: fn(&Value) -> bool| Some(get(name)).filter(|value| value.is_null() || fits(value));
    let (low, high) = (i64::MIN, i64::MAX);
    Some([
        kind("device_id", Value::is_string).filter(Value::is_string)?,
        whole("ts", low, high).filter(Value::is_i64)?,
        whole("server_time", low, high)?,
        whole("seq", low, high).map(|seq| if seq.is_null() { 0.into() } else { seq })?,
        number("lat")?,
        number("lon")?,
        number("altitude_m")?,
        number("speed_kmh")?,
        number("heading_deg")?,
        whole("satellites", i32::MIN.into(), i32::MAX.into())?,
        number("hdop")?,
        kind("ignition", Value::is_boolean)?,
        number("fuel_level_pct")?,
        number("engine_temp_c")?,
        number("odometer_km")?,
        number("battery_v")?,
        kind("events", Value::is_array)?,
        kind("attributes", Value::is_object)?,
    ])
}

fn as_values(t: &Telemetry<'_>) -> [Value; 18] {
    let json = |raw: Option<&str>| raw.map_or(Value::Null, |raw| serde_json::from_str(raw).expect("kept text is JSON"));
    [
        t.device_id.into(),
        t.ts.into(),
        t.server_time.into(),
        t.seq.into(),
        t.lat.into(),
        t.lon.into(),
        t.altitude_m.into(),
        t.speed_kmh.into(),
        t.heading_deg.into(),
        t.satellites.into(),
        t.hdop.into(),
        t.ignition.into(),
        t.fuel_level_pct.into(),
        t.engine_temp_c.into(),
        t.odometer_km.into(),
        t.battery_v.into(),
        json(t.events),
        json(t.attributes),
    ]
}

/// An object whose fields are read in order, so that a field that is there twice can be seen.
struct Pairs(Vec<(String, Value)>);

impl<'de> serde::Deserialize<'de> for Pairs {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;
        impl<'de> serde::de::Visitor<'de> for PairsVisitor {
            type Value = Pairs;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(PairsVisitor)
    }
}

/// The other parser is not exact in the last binary digit of a float; ours is, as `what_is_written_reads_back` shows.
fn same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= a.abs() * 4.0 * f64::EPSILON
        }
        _ => ours == theirs,
    }
}

/// The parsers agree on this input.
fn agrees(bytes: &[u8]) {
    let ours = Message::parse(bytes);
    short_cut_agrees(bytes);
    for stream in [Stream::Vehicle, Stream::Tariff] {
        let _ = Reference::parse(stream, bytes);
    }
    let theirs = serde_json::from_slice::<Pairs>(bytes).ok().and_then(|Pairs(pairs)| {
        let known = |name: &str| super::telemetry::FIELDS.iter().any(|field| field.name == name);
        let mut names: Vec<&str> = pairs.iter().map(|pair| &*pair.0).filter(|name| known(name)).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        (names.len() == count).then(|| meaning(&pairs.into_iter().collect()))?
    });
    let text = String::from_utf8_lossy(bytes);
    match (&ours, &theirs) {
        (Ok(ours), Some(theirs)) => {
            for (ours, theirs) in as_values(&ours.telemetry()).iter().zip(theirs) {
                assert!(same(ours, theirs), "{ours} is not {theirs}: {text}");
            }
        }
        (Err(why), None) => assert!(!why.code.is_empty()),
        (Ok(_), None) => {
            // Numbers beyond 64 bits in values that are skipped or kept as text: we do not look at them.
            assert!(serde_json::from_slice::<Value>(bytes).expect_err(&text).to_string().contains("number"), "{text}");
        }
        (Err(why), Some(_)) => assert!(matches!(why.code, "json_too_deep" | "utf8_invalid"), "{why}: {text}"),
    }
}

/// The short cut gives what the general parser gives, to the bit, whatever order it has got used to. Tells whether it took
/// the message.
fn short_cut_agrees(bytes: &[u8]) -> bool {
    let mut order = super::fast::Order::default();
    let mut taken = false;
    for _ in 0..2 {
        let Some(fast) = super::fast::parse(bytes, &mut order) else { continue };
        let text = String::from_utf8_lossy(bytes);
        let general = super::telemetry::general(bytes).unwrap_or_else(|why| panic!("{why}: {text}"));
        // The debug form tells -0.0 from 0.0.
        assert_eq!(format!("{fast:?}"), format!("{:?}", general.telemetry()), "{text}");
        taken = true;
    }
    taken
}

#[test]
fn the_short_cut_takes_what_trackers_send() {
    let names: Vec<_> = super::telemetry::FIELDS.iter().map(|field| format!("\"{}\":", field.name)).collect();
    assert_eq!(names, super::fast::NAMES.map(|name| String::from_utf8_lossy(name).into_owned()));
    for (takes, text) in [
        (
            true,
            r#"{"device_id":"d0000001","ts":1767225600048,"seq":1,"lat":54.071066,"lon":11.039281,"ignition":true}"#,
        ),
        (true, r#" { "ts": -5 , "device_id": "a b" , "lat": null, "satellites": 8 , "lon": -0.5 } "#),
        (true, r#"{"device_id":"d","ts":1,"lat":0,"lon":0.0,"hdop":123456789012345,"battery_v":1.23456789012345}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":1234567890123456}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":1.234567890123456}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":-0}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":-0.0}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":1e3}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":01}"#),
        (false, r#"{"device_id":"d","ts":1,"hdop":1.}"#),
        (false, r#"{"device_id":"d","ts":1,"satellites":2147483648}"#),
        (false, r#"{"device_id":"d","ts":1,"ts":1}"#),
        (false, r#"{"device_id":"d","ts":1,"lat":null,"lat":1}"#),
        (false, r#"{"device_id":"\u0064","ts":1}"#),
        (false, r#"{"device_id":"é","ts":1}"#),
        (false, r#"{"device_id":"d","ts":1,}"#),
        (false, r#"{"device_id":"d","ts":1}}"#),
        (false, r#"{"device_id":"d","ts":1"#),
        (false, r#"{"device_id":"d""#),
        (false, r#"{"device_id":"d"}"#),
        (false, r#"{"device_id":"d","ts":null}"#),
        (false, r#"{"device_id":"d","ts":1,"more":1}"#),
        (false, r#"{"device_id":"d","ts":1,"events":[]}"#),
        (false, "{}"),
        (false, ""),
    ] {
        assert_eq!(short_cut_agrees(text.as_bytes()), takes, "{text}");
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-200.0..200.0f64).prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[a-z0-9-]{1,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[a-z_\"\\\\é]{1,8}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Documents that are mostly good messages, with fields of any type among them.
fn document() -> impl Strategy<Value = String> {
    let names: Vec<&'static str> = super::telemetry::FIELDS.iter().map(|field| field.name).collect();
    let likely = (0..names.len(), any::<i32>(), -100.0..100.0f64, "[a-z\\\\\"😀\n]{0,12}");
    let likely = likely.prop_map(move |(index, whole, float, text)| {
        let value: Value = match super::telemetry::FIELDS[index].kind {
            super::explain::Kind::Text | super::explain::Kind::Id => text.into(),
            super::explain::Kind::Whole(..) => whole.into(),
            super::explain::Kind::Number => float.into(),
            super::explain::Kind::Flag => (whole % 2 == 0).into(),
            super::explain::Kind::List => vec![Value::from(whole), Value::from(text)].into(),
            super::explain::Kind::Object => serde_json::json!({ text: float }),
            other => unreachable!("telemetry has no {other:?}"),
        };
        (names[index].to_owned(), value)
    });
    let strange = ("[a-z_]{1,10}", value());
    let fields = prop::collection::vec(prop_oneof![8 => likely, 1 => strange], 0..12);
    (fields, any::<bool>(), any::<bool>()).prop_map(|(fields, base, pretty)| {
        let mut parts: Vec<String> = Vec::new();
        if base {
            parts.push(r#""device_id":"d-1""#.into());
            parts.push(r#""ts":1700000000000"#.into());
        }
        let fields = fields.into_iter().filter(|(name, _)| !base || (name != "device_id" && name != "ts"));
        parts.extend(fields.map(|(name, value)| format!("{}:{value}", Value::from(name))));
        format!("{{{}}}", parts.join(if pretty { " ,\n\t" } else { "," }))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        agrees(&bytes);
    }

    #[test]
    fn json_like_bytes_are_read_or_refused(text in "[{}\\[\\]\",:\\\\ud8cC0-9eE+.tfn\\-a \n]{0,60}") {
        agrees(text.as_bytes());
        agrees(format!(r#"{{"device_id":"d","ts":1,"x":{text}}}"#).as_bytes());
        agrees(format!(r#"{{"device_id":"{text}","ts":1}}"#).as_bytes());
    }

    #[test]
    fn documents_mean_the_same_to_another_parser(text in document()) {
        agrees(text.as_bytes());
    }

    #[test]
    fn damaged_documents_are_read_or_refused(
        text in document(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let mut bytes = text.into_bytes();
        for (at, byte, how) in damage {
            let at = at.index(bytes.len().max(1)).min(bytes.len().saturating_sub(1));
            match how {
                0 if !bytes.is_empty() => bytes[at] = byte,
                1 if !bytes.is_empty() => drop(bytes.remove(at)),
                2 => bytes.truncate(at),
                _ => bytes.push(byte),
            }
        }
        agrees(&bytes);
    }

    #[test]
    fn numbers_are_exact(
        whole in 0..1_000_000_000_000_000u64, digits in 0..16usize, negative: bool, field in 4..16usize, ts: i64,
    ) {
        // A point somewhere in, before or behind the digits.
        let mut text = format!("{whole:0width$}", width = digits + 1);
        text.insert(text.len() - digits, '.');
        let text = text.trim_end_matches('.').trim_start_matches('0');
        let text = if text.starts_with('.') || text.is_empty() { format!("0{text}") } else { text.to_owned() };
        let text = if negative { format!("-{text}") } else { text };
        let name = super::telemetry::FIELDS[field].name;
        let message = format!(r#"{{"device_id":"d","{name}":{text},"ts":{ts}}}"#);
        short_cut_agrees(message.as_bytes());
        if let (Ok(message), Ok(exact)) = (Message::parse(message.as_bytes()), text.parse::<f64>()) {
            let all = as_values(&message.telemetry());
            prop_assert!(!all[field].is_f64() || all[field].as_f64() == Some(exact), "{} is not {}", all[field], text);
        }
    }

    #[test]
    fn what_is_written_reads_back(
        id in "[A-Za-z0-9._:-]{1,64}|.{1,10}",
        whole in any::<(i64, Option<i64>, i64, Option<i32>)>(),
        floats in any::<[Option<f64>; 8]>(),
        flag in any::<Option<bool>>(),
    ) {
        let floats = floats.map(|float| float.filter(|value| value.is_finite()));
        let message = Telemetry {
            device_id: &id, ts: whole.0, server_time: whole.1, seq: whole.2, satellites: whole.3, ignition: flag,
            lat: floats[0], lon: floats[1], altitude_m: floats[2], speed_kmh: floats[3], heading_deg: floats[4],
            hdop: floats[5], odometer_km: floats[6], battery_v: floats[7], events: Some("[1]"),
            attributes: Some(r#"{"a":{}}"#), ..Default::default()
        };
        let mut out = Vec::new();
        write_telemetry(&message, &mut out);
        let read = Message::parse(&out).expect("what we write is good");
        prop_assert_eq!(read.telemetry(), message);
    }
}
