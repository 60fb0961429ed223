//! The decoder of a partition: rows, refusals and tombstones of each stream, and what a record's key has to be.

use arrow::array::AsArray;
use operators::batch::strings;
use operators::record::registry;

use super::*;

const GOOD: &[u8] = br#"{"device_id":"d-1","ts":1700000000000,"seq":4,"lat":1.5,"lon":2,"speed_kmh":10}"#;

fn decode(stream: Stream, key: Option<&[u8]>, value: Option<&[u8]>) -> Result<RecordBatch, &'static str> {
    let mut decoder = Decoder::new(stream, "t".into(), 3);
    let done = decoder.push(&Record { offset: 9, append_ms: 5, key, value }, 20);
    assert_eq!(decoder.len(), 1);
    let decoded = decoder.finish();
    assert!(decoder.is_empty());
    match done {
        Ok(()) => {
            assert!(decoded.rejected.is_none());
            Ok(decoded.rows.expect("a row"))
        }
        Err(code) => {
            assert!(decoded.rows.is_none());
            let rejected = decoded.rejected.expect("a rejected record");
            let text = |name: &str| rejected.column_by_name(name).expect("a column").clone();
            assert_eq!(text("code").as_string::<i32>().value(0), code);
            assert_eq!(text("topic").as_string::<i32>().value(0), "t");
            assert_eq!(operators::batch::i64s(&rejected, "offset").value(0), 9);
            assert_eq!(operators::batch::i32s(&rejected, "partition").value(0), 3);
            assert_eq!(operators::batch::u64s(&rejected, operators::batch::TICK).value(0), 20);
            let column = text("value");
            let kept = column.as_binary::<i32>();
            match value {
                Some(value) => assert_eq!(kept.value(0), &value[..value.len().min(REFERENCE_BYTES_MAX)]),
                None => assert!(arrow::array::Array::is_null(kept, 0)),
            }
            Err(code)
        }
    }
}

fn telemetry(key: &str, value: &[u8]) -> Result<RecordBatch, &'static str> {
    decode(Stream::Telemetry, Some(key.as_bytes()), Some(value))
}

#[test]
fn telemetry_records_are_rows_or_refused() {
    let rows = telemetry("d-1", GOOD).expect("a good record");
    assert_eq!(strings(&rows, "device_id").value(0), "d-1");
    assert_eq!(operators::batch::i64s(&rows, "__offset").value(0), 9);
    assert_eq!(telemetry("d-2", GOOD), Err("key_mismatch"));
    assert_eq!(decode(Stream::Telemetry, None, Some(GOOD)), Err("key_missing"));
    assert_eq!(decode(Stream::Telemetry, Some(b""), Some(GOOD)), Err("key_missing"));
    assert_eq!(decode(Stream::Telemetry, Some(&[b'k'; 2_000]), Some(GOOD)), Err("key_mismatch"));
    assert_eq!(decode(Stream::Telemetry, Some(b"d-1"), None), Err("unexpected_tombstone"));
    assert_eq!(telemetry("d-1", b""), Err("json_invalid"));
    assert_eq!(telemetry("d 1", br#"{"device_id":"d 1","ts":1}"#), Err("id_invalid"));
    assert_eq!(telemetry("d-1", br#"{"device_id":"d-1","ts":1,"lat":91,"lon":0}"#), Err("field_out_of_range"));
    assert_eq!(telemetry("d-1", br#"{"device_id":"d-1","ts":1,"lat":0,"lon":0}"#), Err("position_implausible"));
}

/// What a message's time is judged by is part of the record, so a replay judges alike.
#[test]
fn no_message_is_more_than_a_day_ahead_of_its_log() {
    let ts = 1_700_000_000_000;
    let at = |append_ms| {
        let mut decoder = Decoder::new(Stream::Telemetry, "t".into(), 0);
        decoder.push(&Record { offset: 0, append_ms, key: Some(b"d-1"), value: Some(GOOD) }, 10)
    };
    assert_eq!(at(ts - AHEAD_MS_MAX), Ok(()));
    assert_eq!(at(ts - AHEAD_MS_MAX - 1), Err("event_time_implausible"));
    for no_time in [-1, 0, 5] {
        assert_eq!(at(no_time), Ok(()), "a log that does not tell the time judges nobody");
    }
    assert_eq!(at(i64::MAX), Ok(()));
}

#[test]
fn values_are_limited_in_size() {
    let padded = |bytes: usize| {
        let mut value = GOOD.to_vec();
        value.resize(bytes, b' ');
        value
    };
    assert!(telemetry("d-1", &padded(TELEMETRY_BYTES_MAX)).is_ok());
    assert_eq!(telemetry("d-1", &padded(TELEMETRY_BYTES_MAX + 1)), Err("record_too_large"));
    let driver = |bytes: usize| {
        let mut value = br#"{"driver_id":"p-1"}"#.to_vec();
        value.resize(bytes, b' ');
        decode(Stream::Driver, Some(b"p-1"), Some(&value))
    };
    assert!(driver(REFERENCE_BYTES_MAX).is_ok());
    assert_eq!(driver(REFERENCE_BYTES_MAX + 1), Err("record_too_large"));
}

#[test]
fn reference_records_upsert_and_delete() {
    let value =
        br#"{"vehicle_id":"v-1","device_id":"d-1","group_ids":["a", "b"],"company_id":"","driver_id":null,"x":{}}"#;
    let rows = decode(Stream::Vehicle, Some(b"v-1"), Some(value)).expect("a good record");
    assert_eq!(rows.schema(), registry::schema(Stream::Vehicle));
    assert_eq!(strings(&rows, "group_ids").value(0), r#"["a", "b"]"#);
    assert!(arrow::array::Array::is_null(strings(&rows, "company_id"), 0), "an empty id is none");
    assert!(!operators::batch::bools(&rows, "__deleted").value(0));
    // Vehicles may be keyed by their device.
    assert!(decode(Stream::Vehicle, Some(b"d-1"), Some(value)).is_ok());
    assert_eq!(decode(Stream::Vehicle, Some(b"d-2"), Some(value)), Err("key_mismatch"));

    let rows = decode(Stream::Vehicle, Some(b"v-1"), None).expect("a tombstone");
    assert_eq!(strings(&rows, "vehicle_id").value(0), "v-1");
    assert!(operators::batch::bools(&rows, "__deleted").value(0));
    assert_eq!(decode(Stream::Vehicle, None, None), Err("key_missing"));
    assert_eq!(decode(Stream::Vehicle, Some(b"a b"), None), Err("id_invalid"));
    assert_eq!(decode(Stream::Vehicle, Some(b"\xff"), None), Err("utf8_invalid"));

    let reference = |stream, key: &str, value: &str| {
        decode(stream, Some(key.as_bytes()), Some(value.as_bytes())).map(|rows| rows.num_rows())
    };
    assert_eq!(reference(Stream::Driver, "p-2", r#"{"driver_id":"p-1"}"#), Err("key_mismatch"));
    assert_eq!(reference(Stream::Driver, "p-1", r#"{"driver_id":""}"#), Err("field_missing"));
    assert_eq!(reference(Stream::Driver, "p-1", r#"{"name":"A"}"#), Err("field_missing"));
    assert_eq!(reference(Stream::Driver, "p-1", r#"{"driver_id":7}"#), Err("field_type"));
    assert_eq!(reference(Stream::Driver, "p-1", r#"{"driver_id":"p-1","company_id":"a b"}"#), Err("id_invalid"));
    assert_eq!(reference(Stream::Company, "c", r#"{"company_id":"c","offline_after_s":60}"#), Ok(1));
    for bad in ["0", "-1", "9223372036854775808", "99999999999"] {
        let value = format!(r#"{{"company_id":"c","offline_after_s":{bad}}}"#);
        assert_eq!(reference(Stream::Company, "c", &value), Err("field_out_of_range"), "{bad}");
    }
    for bad in ["\"60\"", "1.5", "[]", "true"] {
        let value = format!(r#"{{"company_id":"c","offline_after_s":{bad}}}"#);
        assert_eq!(reference(Stream::Company, "c", &value), Err("field_type"), "{bad}");
    }
    assert_eq!(reference(Stream::Tariff, "t", r#"{"tariff_id":"t","limits":{"a":1}}"#), Ok(1));
    assert_eq!(reference(Stream::Tariff, "t", r#"{"tariff_id":"t","limits":[]}"#), Err("field_type"));
    assert_eq!(reference(Stream::Tariff, "t", r#"{"tariff_id":"t","tariff_id":"t"}"#), Err("json_duplicate_key"));
}

#[test]
fn a_panic_in_a_decoder_is_a_refusal() {
    assert!(!is_guarded());
    let done: Result<(), _> = guard(|| {
        assert!(is_guarded());
        panic!("the test panics on purpose")
    });
    assert_eq!(done.expect_err("it panicked").code, "decoder_panic");
    assert!(!is_guarded());
}

#[test]
fn one_bad_record_leaves_its_neighbours() {
    let mut decoder = Decoder::new(Stream::Telemetry, "t".into(), 0);
    for offset in 0..100 {
        let value: &[u8] = if offset % 3 == 0 { b"{" } else { GOOD };
        let _ = decoder.push(&Record { offset, append_ms: 5, key: Some(b"d-1"), value: Some(value) }, 10);
    }
    let decoded = decoder.finish();
    let (rows, rejected) = (decoded.rows.expect("rows"), decoded.rejected.expect("rejected"));
    assert_eq!((rows.num_rows(), rejected.num_rows()), (66, 34));
    let offsets: Vec<i64> = operators::batch::i64s(&rows, "__offset").values().to_vec();
    assert_eq!(offsets, (0..100).filter(|offset| offset % 3 != 0).collect::<Vec<_>>());
}
