//! From a body to records: what the body's form is, where its items begin and end, and for each item either the normalised
//! record or the reason why it was refused. One item's fault never touches another.

use operators::error::{Refusal, excerpt};
use operators::record::declared::Declared;
use operators::record::telemetry::{Limits, Telemetry, validate_device_id};
use serde_json::value::RawValue;

use crate::codec::declared::{self, DECLARED_BYTES_MAX};
use crate::codec::json::{self, Message, Parsed};
use crate::codec::{TELEMETRY_BYTES_MAX, guard};
use crate::publish::Records;

/// Form of a body, from its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One object, or an array of them.
    Json,
    /// One object a line.
    Lines,
}

impl Form {
    /// From the header's value.
    pub(super) fn parse(header: Option<&[u8]>) -> Result<Self, Refusal> {
        let text = header.map(|value| String::from_utf8_lossy(value).to_ascii_lowercase()).unwrap_or_default();
        let mut parts = text.split(';').map(str::trim);
        let form = match parts.next().unwrap_or_default() {
            "application/json" => Some(Self::Json),
            "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Some(Self::Lines)
            }
            _ => None,
        };
        let charset = parts.find_map(|part| part.strip_prefix("charset="));
        let utf8 = charset.is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8" | "us-ascii"));
        form.filter(|_| utf8).ok_or_else(|| {
            let message = match header {
                None => "there is no Content-Type".to_owned(),
                Some(_) => format!("Content-Type \"{}\" is not supported", excerpt(&text)),
            };
            Refusal::new("content_type_unsupported", message)
                .hint("send application/json (an object or an array) or application/x-ndjson, in UTF-8")
        })
    }
}

/// An item that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    /// Place in the batch, from 0.
    pub(super) index: usize,
    pub(super) why: Refusal,
}

/// What a body held.
#[derive(Debug, Default)]
pub(super) struct Items {
    /// Records of the good items, keyed by device.
    pub(super) records: Records,
    pub(super) rejected: Vec<Rejected>,
    /// Whether the body was one object and no batch.
    pub(super) single: bool,
}

/// How items are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading<'a> {
    /// The relation that the items are records of; none if they are telemetry.
    pub(super) declared: Option<&'static Declared>,
    /// Device named by the request's path, of which each item has to be.
    pub(super) device_id: Option<&'a str>,
    /// When the request came, in milliseconds since the epoch.
    pub(super) server_ms: i64,
    pub(super) limits: Limits,
    pub(super) items_max: usize,
}

/// Takes a body apart.
///
/// # Errors
/// The body as a whole is not what it should be.
pub(super) fn parse(body: &[u8], form: Form, reading: &Reading<'_>) -> Result<Items, Refusal> {
    if body.trim_ascii().is_empty() {
        return Err(Refusal::new("body_empty", "the body is empty").hint("send one message, an array, or lines"));
    }
    if body.starts_with("\u{feff}".as_bytes()) {
        let why = Refusal::new("utf8_invalid", "a byte order mark at byte 0");
        return Err(why.hint("send UTF-8 without a byte order mark"));
    }
    let mut items = Items { records: Records::with_capacity(body.len() * 5 / 4), ..Items::default() };
    match form {
        Form::Lines => parse_lines(body, reading, &mut items)?,
        Form::Json if body.trim_ascii_start().starts_with(b"[") => parse_array(body, reading, &mut items)?,
        Form::Json => {
            items.single = true;
            take(body, 0, reading, &mut items);
        }
    }
    Ok(items)
}

fn parse_array(body: &[u8], reading: &Reading<'_>, items: &mut Items) -> Result<(), Refusal> {
    let text = json::check(body)?;
    if let Some(at) = body.iter().position(|byte| *byte == 0) {
        return Err(Refusal::new("utf8_invalid", format!("a NUL at byte {at}")));
    }
    let all: Vec<&RawValue> = serde_json::from_str(text).map_err(|why| json::syntax(&why))?;
    if all.is_empty() {
        return Err(Refusal::new("body_empty", "the array is empty"));
    }
    count(all.len(), reading)?;
    for (index, item) in all.into_iter().enumerate() {
        take(item.get().as_bytes(), index, reading, items);
    }
    Ok(())
}

fn parse_lines(body: &[u8], reading: &Reading<'_>, items: &mut Items) -> Result<(), Refusal> {
    let lines = || body.split(|byte| *byte == b'\n').enumerate().map(|(line, text)| (line, text.trim_ascii()));
    let filled = || lines().filter(|(_, text)| !text.is_empty());
    count(filled().count(), reading)?;
    for (index, (line, text)) in filled().enumerate() {
        let before = items.rejected.len();
        take(text, index, reading, items);
        if let Some(rejected) = items.rejected.get_mut(before) {
            // The item's own first line is another one of the body.
            let column = rejected.why.field.as_deref().and_then(|place| place.strip_prefix("1:"));
            if let Some(column) = column.filter(|column| column.bytes().all(|b| b.is_ascii_digit())) {
                rejected.why.field = Some(format!("{}:{column}", line + 1));
            }
        }
    }
    Ok(())
}

fn count(items: usize, reading: &Reading<'_>) -> Result<(), Refusal> {
    if items > reading.items_max {
        let message = format!("the batch has {items} items, the limit is {}", reading.items_max);
        return Err(Refusal::new("batch_too_large", message).hint("send several smaller batches"));
    }
    Ok(())
}

fn take(text: &[u8], index: usize, reading: &Reading<'_>, items: &mut Items) {
    if let Err(why) = take_item(text, reading, &mut items.records) {
        items.rejected.push(Rejected { index, why });
    }
}

fn take_item(text: &[u8], reading: &Reading<'_>, records: &mut Records) -> Result<(), Refusal> {
    if let Some(declared) = reading.declared {
        return take_declared(text, declared, reading, records);
    }
    if text.len() > TELEMETRY_BYTES_MAX {
        let message = format!("a message of {} bytes is over the limit of {TELEMETRY_BYTES_MAX}", text.len());
        return Err(Refusal::new("payload_too_large", message));
    }
    match (Message::parse(text), reading.device_id) {
        (Ok(message), _) => record(&message, reading, records),
        // The path may name the device instead of the message.
        (Err(why), Some(id)) if why.code == "field_missing" && why.field.as_deref() == Some("device_id") => {
            let named = with_device_id(text, id);
            record(&Message::parse(&named)?, reading, records)
        }
        (Err(why), _) => Err(why),
    }
}

/// A record of a declared relation goes on as it came, under its key; one that takes a row away becomes a null value.
fn take_declared(
    text: &[u8],
    declared: &'static Declared,
    reading: &Reading<'_>,
    records: &mut Records,
) -> Result<(), Refusal> {
    if text.len() > DECLARED_BYTES_MAX {
        let message = format!("a record of {} bytes is over the limit of {DECLARED_BYTES_MAX}", text.len());
        return Err(Refusal::new("payload_too_large", message));
    }
    let parsed = guard(|| Parsed::parse(declared, text))?;
    declared::plausible(declared, &parsed, reading.server_ms)?;
    let key = declared::text(declared, &parsed)?;
    records.push(Some(key.as_bytes()), (!parsed.is_gone()).then_some(text));
    Ok(())
}

fn record(message: &Message<'_>, reading: &Reading<'_>, records: &mut Records) -> Result<(), Refusal> {
    let telemetry = Telemetry { server_time: Some(reading.server_ms), ..message.telemetry() };
    telemetry.validate(Some(reading.server_ms), &reading.limits)?;
    if let Some(id) = reading.device_id.filter(|id| *id != telemetry.device_id) {
        let found = excerpt(telemetry.device_id);
        let message = format!("device_id \"{found}\" is not the device \"{id}\" of the path");
        return Err(Refusal::new("key_mismatch", message).at("device_id"));
    }
    records.push_with(telemetry.device_id.as_bytes(), |out| json::write_telemetry(&telemetry, out));
    Ok(())
}

/// The object with a device id put before its first field.
fn with_device_id(text: &[u8], id: &str) -> Vec<u8> {
    let Some(open) = text.iter().position(|byte| *byte == b'{') else { return text.to_vec() };
    let (head, rest) = text.split_at(open + 1);
    let comma = if rest.trim_ascii_start().starts_with(b"}") { "" } else { "," };
    [head, b"\"device_id\":\"", id.as_bytes(), b"\"", comma.as_bytes(), rest].concat()
}

/// The device id of a path's segment, which may be percent-encoded.
///
/// # Errors
/// It cannot be a device id.
pub(super) fn device_of_path(segment: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        match hex.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    let id = String::from_utf8_lossy(&bytes).into_owned();
    // An empty segment is a device id that breaks the rule, not a missing field.
    validate_device_id(&id).map_err(|why| Refusal { code: "id_invalid", ..why })?;
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    fn read(body: &[u8], form: Form, device_id: Option<&str>) -> Result<Items, Refusal> {
        let limits = Limits::default();
        parse(body, form, &Reading { declared: None, device_id, server_ms: NOW, limits, items_max: 5 })
    }

    fn rejected(items: &Items) -> Vec<(usize, &'static str, Option<&str>)> {
        items.rejected.iter().map(|item| (item.index, item.why.code, item.why.field.as_deref())).collect()
    }

    #[test]
    fn items_are_normalised() {
        let body = br#" { "ts":1700000000000, "more":1, "device_id":"d-1", "seq":3, "server_time":1 } "#;
        let items = read(body, Form::Json, None).unwrap();
        assert!(items.single && items.rejected.is_empty());
        let record = items.records.iter().next().unwrap();
        assert_eq!(record.key, Some(&b"d-1"[..]));
        let value = std::str::from_utf8(record.value.unwrap()).unwrap();
        assert_eq!(value, r#"{"device_id":"d-1","ts":1700000000000,"server_time":1700000000000,"seq":3}"#);
    }

    #[test]
    fn one_bad_item_does_not_harm_others() {
        let array = br#"[{"device_id":"a","ts":1700000000000},{"device_id":"b","ts":1},5,{"device_id":"c","ts":1700000000000}]"#;
        let items = read(array, Form::Json, None).unwrap();
        assert_eq!(items.records.len(), 2);
        assert_eq!(rejected(&items), [(1, "event_time_implausible", Some("ts")), (2, "field_type", None)]);
        let lines = b"{\"device_id\":\"a\",\"ts\":1700000000000}\r\n\n{\"device_id\" \"b\"}\n\xff\n{\"device_id\":\"c\",\"ts\":1700000000000}";
        let items = read(lines, Form::Lines, None).unwrap();
        assert_eq!(items.records.len(), 2);
        assert_eq!(rejected(&items), [(1, "json_invalid", Some("3:14")), (2, "utf8_invalid", None)]);
    }

    #[test]
    fn a_path_names_the_device() {
        for (body, code) in [
            (&br#"{"ts":1700000000000}"#[..], None),
            (br#"{"device_id":"d-1","ts":1700000000000}"#, None),
            (br#"{"device_id":"d-2","ts":1700000000000}"#, Some("key_mismatch")),
            (br#"{}"#, Some("field_missing")),
            (br#"{"device_id":null,"ts":1700000000000}"#, Some("json_duplicate_key")),
        ] {
            let items = read(body, Form::Json, Some("d-1")).unwrap();
            assert_eq!(items.rejected.first().map(|item| item.why.code), code, "{}", String::from_utf8_lossy(body));
            assert!(items.records.iter().all(|record| record.key == Some(b"d-1")));
        }
        assert_eq!(device_of_path("d%3A1%2d").unwrap(), "d:1-");
        for bad in ["", "%00", "a%2fb", "a b", "\u{1f600}", "%", "%zz", &"x".repeat(65)] {
            assert_eq!(device_of_path(bad).unwrap_err().code, "id_invalid", "{bad}");
        }
    }

    #[test]
    fn bodies_are_refused_as_a_whole() {
        for (body, form, code, place) in [
            (&b""[..], Form::Json, "body_empty", None),
            (b" \n", Form::Lines, "body_empty", None),
            (b"[]", Form::Json, "body_empty", None),
            (b"[1,2", Form::Json, "json_invalid", Some("1:4")),
            (b"[1]\n]", Form::Json, "json_invalid", Some("2:1")),
            (b"[1][2]", Form::Json, "json_invalid", Some("1:4")),
            (b"[1,1,1,1,1,1]", Form::Json, "batch_too_large", None),
            (b"1\n1\n1\n1\n1\n1\n", Form::Lines, "batch_too_large", None),
            (b"\xef\xbb\xbf{}", Form::Json, "utf8_invalid", None),
            (b"[\"\xff\"]", Form::Json, "utf8_invalid", None),
            (br#"["\ud800"]"#, Form::Json, "utf8_invalid", None),
            (b"[\"\0\"]", Form::Json, "utf8_invalid", None),
        ] {
            let why = read(body, form, None).unwrap_err();
            assert_eq!((why.code, why.field.as_deref()), (code, place), "{}", String::from_utf8_lossy(body));
        }
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(read(deep.as_bytes(), Form::Json, None).unwrap_err().code, "json_too_deep");
        let five = read(b"[1,1,1,1,1]", Form::Json, None).unwrap();
        assert_eq!(five.rejected.len(), 5);
    }

    #[test]
    fn content_types_are_named() {
        for (header, form) in [
            ("application/json", Some(Form::Json)),
            ("Application/JSON; charset=UTF-8", Some(Form::Json)),
            ("application/x-ndjson", Some(Form::Lines)),
            ("application/json; charset=latin1", None),
            ("text/plain", None),
            ("", None),
        ] {
            assert_eq!(Form::parse(Some(header.as_bytes())).ok(), form, "{header}");
        }
        assert_eq!(Form::parse(None).unwrap_err().code, "content_type_unsupported");
    }

    proptest::proptest! {
        /// No body makes the gate panic, and every item is either a record or refused.
        #[test]
        fn any_body_is_taken_or_refused(body in "[\\[\\]{}\":,\\n a-z0-9\\\\.\u{1f}é-]{0,80}", lines: bool) {
            let form = if lines { Form::Lines } else { Form::Json };
            if let Ok(items) = read(body.as_bytes(), form, None) {
                assert!(items.records.len() + items.rejected.len() >= 1);
            }
        }
    }
}
