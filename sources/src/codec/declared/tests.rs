//! Records of declared relations: columns of every type, keys, refusals that name column and value, and any bytes at all.
//! Would catch: a value that is taken for another, a bad record that takes good ones along, a key that finds another row.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Date32Type, Decimal128Type, Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use operators::batch::{DELETED, HASH, OFFSET, bools, i64s, strings, u64s};
use operators::record::Stream;
use operators::record::declared::{Column, Log};
use proptest::prelude::*;

use super::*;
use crate::codec::{Decoded, Decoder};

fn column(name: &str, kind: Type, required: bool) -> Column {
    Column { name: name.to_owned(), kind, required }
}

fn declared(table: bool) -> &'static Declared {
    let columns = vec![
        column("shop", Type::Text, true),
        column("day", Type::Date, true),
        column("number", Type::Int, false),
        column("total", Type::Decimal(8, 2), false),
        column("paid", Type::Boolean, false),
        column("at", Type::Timestamp, false),
        column("weight", Type::Double, false),
        column("big", Type::BigInt, false),
        column("till", Type::Text, true),
    ];
    Box::leak(Box::new(Declared {
        name: "receipts".into(),
        topic: format!("receipts.{table}"),
        log: Log::Any,
        table,
        columns,
        keys: 2,
        time: (!table).then_some(5),
        access: None,
        text: String::new(),
    }))
}

const NOW: i64 = 1_769_860_800_000;
const GOOD: &str = r#"{"till":"t\"1","shop":"a|b","day":"2026-01-31","number":-7,"total":"12.5","paid":true,
    "at":"2026-01-31T13:00:00+01:00","weight":2,"big":9007199254740993,"more":{"shop":[1]},"total2":1e5}"#;

fn decode(table: bool, records: &[(Option<&[u8]>, Option<&[u8]>)]) -> (Vec<Result<(), &'static str>>, Decoded) {
    let mut decoder = Decoder::new(Stream::Declared(declared(table)), "receipts".into(), 3);
    let push = |(offset, (key, value)): (usize, &(Option<&[u8]>, Option<&[u8]>))| {
        decoder.push(&Record { offset: offset as i64, append_ms: NOW, key: *key, value: *value }, 20)
    };
    let done = records.iter().enumerate().map(push).collect();
    (done, decoder.finish())
}

fn code(table: bool, key: Option<&str>, value: Option<&str>) -> Result<(), &'static str> {
    decode(table, &[(key.map(str::as_bytes), value.map(str::as_bytes))]).0[0]
}

/// The refusal of a value as it stands in the dead letters: code, column, message.
fn letter(value: &str) -> (String, Option<String>, String) {
    let (_, decoded) = decode(false, &[(None, Some(value.as_bytes()))]);
    let rejected = decoded.rejected.unwrap_or_else(|| panic!("{value} is taken"));
    let text = |name: &str| {
        let column = rejected.column_by_name(name).expect("a column").as_string::<i32>();
        column.is_valid(0).then(|| column.value(0).to_owned())
    };
    assert_eq!((text("topic").as_deref(), i64s(&rejected, "offset").value(0)), (Some("receipts"), 0));
    (text("code").unwrap_or_default(), text("field"), text("message").unwrap_or_default())
}

#[test]
fn every_type_of_column_is_read() {
    for table in [false, true] {
        let (done, decoded) = decode(table, &[(None, Some(GOOD.as_bytes()))]);
        assert_eq!(done, [Ok(())]);
        let rows = decoded.rows.expect("a row");
        assert_eq!(rows.schema(), declared(table).schema());
        assert_eq!((strings(&rows, "shop").value(0), strings(&rows, "till").value(0)), ("a|b", "t\"1"));
        assert_eq!(rows.column(1).as_primitive::<Date32Type>().value(0), 20_484);
        assert_eq!(rows.column(2).as_primitive::<Int32Type>().value(0), -7);
        assert_eq!(rows.column(3).as_primitive::<Decimal128Type>().value_as_string(0), "12.50");
        assert!(bools(&rows, "paid").value(0));
        assert_eq!(rows.column(5).as_primitive::<TimestampMillisecondType>().value(0), NOW);
        assert_eq!(rows.column(6).as_primitive::<Float64Type>().value(0), 2.0);
        assert_eq!(rows.column(7).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
        assert_eq!((i64s(&rows, OFFSET).value(0), u64s(&rows, operators::batch::TICK).value(0)), (0, 20));
    }
    let (_, decoded) = decode(false, &[(None, Some(br#"{"shop":"","day":"1970-01-01","till":"x","paid":null}"#))]);
    let rows = decoded.rows.expect("a row");
    assert!((2..8).all(|place| rows.column(place).is_null(0)), "{rows:?}");
}

#[test]
fn what_is_refused_names_the_column_and_the_value() {
    let with = |member: &str| format!(r#"{{"shop":"s","day":"2026-01-31","till":"t",{member}}}"#);
    for (member, code, field, part) in [
        (r#""number":"7""#, "field_type", "number", r#"number is "7", not a whole number"#),
        (r#""number":1.5"#, "field_type", "number", "number is 1.5"),
        (r#""number":2147483648"#, "field_out_of_range", "number", "number 2147483648 is not"),
        (r#""big":9223372036854775808"#, "field_out_of_range", "big", "9223372036854775808"),
        (r#""total":"1.005""#, "field_out_of_range", "total", "8 digits, 2 of them behind the point"),
        (r#""total":1e2"#, "field_type", "total", "total is 1e2, not a number without an exponent"),
        (r#""total":true"#, "field_type", "total", "total is true"),
        (r#""paid":"yes""#, "field_type", "paid", "not true or false"),
        (r#""at":"31.01.2026""#, "field_type", "at", "31.01.2026"),
        (r#""at":{}"#, "field_type", "at", "at is {}"),
        (r#""weight":"heavy""#, "field_type", "weight", "not a number"),
        (r#""weight":1e999"#, "field_out_of_range", "weight", "finite"),
        (r#""weight":NaN"#, "field_type", "weight", "NaN"),
        (r#""at":1769947200001"#, "event_time_implausible", "at", "more than a day ahead"),
        (r#""till":"twice""#, "json_duplicate_key", "till", "till is there twice"),
        (r#""number":null,"number":1"#, "json_duplicate_key", "number", "twice"),
    ] {
        let (found, at, message) = letter(&with(member));
        assert_eq!((found.as_str(), at.as_deref()), (code, Some(field)), "{member}: {message}");
        assert!(message.contains(part) && message.len() < 300, "{member}: {message}");
    }
    let long = with(&format!(r#""more":1,"number":"{}""#, "9".repeat(5_000)));
    assert!(letter(&long).2.len() < 200, "values are shortened");
    let text = format!(r#"{{"shop":"{}","day":"2026-01-31","till":"t"}}"#, "x".repeat(70_000));
    assert_eq!(letter(&text).0, "field_out_of_range");
    assert_eq!(letter(&format!("[{}]", " ".repeat(300_000))).0, "record_too_large");
    assert_eq!(letter(r#"{"shop":"s","day":"2026-01-31"}"#).1.as_deref(), Some("till"));
    assert_eq!(letter(r#"{"shop":null,"day":"2026-01-31","till":"t"}"#).0, "field_missing");
    assert_eq!(letter("[1]").0, "field_type");
    assert_eq!(letter("").0, "json_invalid");
    assert_eq!(letter(&format!("{}1", r#"{"more":"#.repeat(100))).0, "json_too_deep");
}

#[test]
fn keys_are_those_of_the_columns() {
    let value = r#"{"shop":"a|b%","day":"2026-01-31","till":"t"}"#;
    for key in [None, Some(""), Some("a%7Cb%25|2026-01-31")] {
        assert_eq!(code(true, key, Some(value)), Ok(()), "{key:?}");
    }
    for key in [
        "a",
        "a|2026-01-31",
        "a%7Cb%25|2026-02-01",
        "a|b%|2026-01-31",
        "a%7Cb%25|today",
        "a%7Cb%25|%N",
        &"k".repeat(2_000),
    ] {
        assert_eq!(code(true, Some(key), Some(value)), Err("key_mismatch"), "{key}");
        // Of events the key says nothing that the columns do not.
        assert_eq!(code(false, Some(key), Some(value)), Ok(()), "{key}");
    }
    assert_eq!(decode(true, &[(Some(b"\xff|2026-01-31"), Some(value.as_bytes()))]).0, [Err("utf8_invalid")]);
    assert_eq!(code(true, None, Some(r#"{"day":"2026-01-31","till":"t"}"#)), Err("field_missing"));
    let long = format!(r#"{{"shop":"{}","day":"2026-01-31","till":"t"}}"#, "x".repeat(2_000));
    assert_eq!(code(true, None, Some(&long)), Err("field_out_of_range"));
}

#[test]
fn a_null_value_deletes_a_row_of_a_table() {
    let upsert = r#"{"shop":"a|b","day":"2026-01-31","till":"t"}"#;
    let gone = r#"{"__deleted":true,"shop":"a|b","day":"2026-01-31"}"#;
    let records: [(Option<&[u8]>, Option<&[u8]>); 4] = [
        (None, Some(upsert.as_bytes())),
        (Some(b"a%7Cb|2026-01-31"), None),
        (None, Some(gone.as_bytes())),
        (None, Some(br#"{"__deleted":false,"shop":"a","day":"2026-01-31","till":"t"}"#)),
    ];
    let (done, decoded) = decode(true, &records);
    assert_eq!(done, [Ok(()); 4]);
    let rows = decoded.rows.expect("rows");
    assert_eq!(bools(&rows, DELETED).values().iter().collect::<Vec<_>>(), [false, true, true, false]);
    let hashes = u64s(&rows, HASH).values();
    assert!(hashes[0] == hashes[1] && hashes[1] == hashes[2] && hashes[2] != hashes[3]);
    assert!(strings(&rows, "till").is_null(1) && strings(&rows, "shop").value(1) == "a|b");
    assert_eq!(code(true, None, None), Err("key_missing"));
    assert_eq!(code(true, Some("a"), None), Err("key_mismatch"));
    assert_eq!(code(true, Some("a|today"), None), Err("key_mismatch"));
    assert_eq!(code(false, Some("a|2026-01-31"), None), Err("unexpected_tombstone"));
    assert_eq!(code(true, None, Some(r#"{"__deleted":1,"shop":"a","day":"2026-01-31"}"#)), Err("field_type"));
    // Of events it is a member like others that nobody asks for.
    assert_eq!(code(false, None, Some(r#"{"__deleted":1,"shop":"a","day":"2026-01-31","till":"t"}"#)), Ok(()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes are a row or a dead letter, and those around them are rows.
    #[test]
    fn any_bytes_are_a_row_or_a_dead_letter(
        noise in proptest::collection::vec(any::<u8>(), 0..40),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3u8), 0..6),
        key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
        table: bool,
    ) {
        let mut mutated = GOOD.as_bytes().to_vec();
        for (place, byte, how) in edits {
            let place = place.index(mutated.len());
            match how {
                0 => mutated[place] = byte,
                1 => mutated.insert(place, byte),
                _ => drop(mutated.remove(place)),
            }
        }
        let good = Some(GOOD.as_bytes());
        let records = [(None, good), (key.as_deref(), Some(&*noise)), (key.as_deref(), Some(&*mutated)), (key.as_deref(), None), (None, good)];
        let (done, decoded) = decode(table, &records);
        let taken = done.iter().filter(|done| done.is_ok()).count();
        prop_assert!(done[0].is_ok() && done[4].is_ok() && taken >= 2);
        let rows = decoded.rows.map_or(0, |rows| rows.num_rows());
        let letters = decoded.rejected.map_or(0, |letters| letters.num_rows());
        prop_assert_eq!((rows, letters), (taken, records.len() - taken));
        prop_assert!(done.iter().all(|done| *done != Err("decoder_panic")));
    }

    /// What the document says is what the row holds, as another parser reads it.
    #[test]
    fn rows_hold_what_the_document_says(
        shop in "\\PC{0,12}", number in any::<i32>(), big in any::<i64>(), cents in -99_999_999i64..=99_999_999,
        weight in proptest::num::f64::NORMAL, at in 0i64..NOW, day in 0i32..60_000,
    ) {
        let date = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(day)).expect("a day");
        let total = format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100);
        let value = serde_json::json!({"shop": shop, "day": date.to_string(), "till": "t", "number": number, "big": big,
            "weight": weight, "at": at, "total": total});
        let (done, decoded) = decode(true, &[(None, Some(value.to_string().as_bytes()))]);
        prop_assert_eq!(done, [Ok(())]);
        let rows = decoded.rows.expect("a row");
        prop_assert_eq!(strings(&rows, "shop").value(0), &shop);
        prop_assert_eq!(rows.column(1).as_primitive::<Date32Type>().value(0), day);
        prop_assert_eq!(rows.column(2).as_primitive::<Int32Type>().value(0), number);
        prop_assert_eq!(rows.column(3).as_primitive::<Decimal128Type>().value(0), i128::from(cents));
        prop_assert_eq!(rows.column(5).as_primitive::<TimestampMillisecondType>().value(0), at);
        prop_assert_eq!(rows.column(6).as_primitive::<Float64Type>().value(0), weight);
        prop_assert_eq!(rows.column(7).as_primitive::<Int64Type>().value(0), big);
        // The key as the gate writes it deletes this row and no other.
        let (of, value) = (declared(true), value.to_string());
        let parsed = Parsed::parse(of, value.as_bytes()).expect("a good record");
        let key = text(of, &parsed).expect("a short key");
        let (done, decoded) = decode(true, &[(Some(key.as_bytes()), None)]);
        prop_assert_eq!(done, [Ok(())]);
        let gone = decoded.rows.expect("a row");
        prop_assert_eq!(u64s(&gone, HASH).value(0), u64s(&rows, HASH).value(0));
        prop_assert_eq!(gone.columns()[..2].to_vec(), rows.columns()[..2].to_vec());
    }
}
