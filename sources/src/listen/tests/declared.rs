//! Records of declared relations over HTTP. Would catch: a record that is acknowledged and not on the log, one that the
//! decoder would refuse later, a topic that may be written although nobody has declared it.

use operators::record::declared::{Column, Declared, Log, Type};

use super::*;

/// A stream of events and a table.
pub(super) fn declared() -> Vec<&'static Declared> {
    let column = |name: &str, kind, required| Column { name: name.to_owned(), kind, required };
    let make = |name: &str, table: bool| -> &'static Declared {
        Box::leak(Box::new(Declared {
            name: name.to_owned(),
            topic: format!("shop.{name}"),
            log: Log::Any,
            table,
            columns: vec![
                column("id", Type::Text, true),
                column("at", Type::Timestamp, !table),
                column("total", Type::Decimal(8, 2), false),
            ],
            keys: 1,
            time: (!table).then_some(1),
            access: None,
            text: String::new(),
        }))
    };
    vec![make("receipts", false), make("cards", true)]
}

fn shop() -> Rig {
    let rig = rig();
    for declared in declared() {
        rig.log.create_topic(&declared.topic, 1).unwrap();
    }
    rig
}

/// Key and value of all records of a topic.
fn records(rig: &Rig, topic: &str) -> Vec<(String, Option<String>)> {
    let mut records = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut reader = rig.log.reader(topic, 0, 0).unwrap();
    let mut each = |record: crate::codec::Record<'_>| {
        records.push((text(record.key.unwrap()), record.value.map(text)));
        ControlFlow::Continue(())
    };
    while reader.read(1_000, &mut each).unwrap() > 0 {}
    records
}

const RECEIPT: &str = r#"{"id":"r|1","at":1700000000000,"total":"12.50","till":{"number":7}}"#;

#[test]
fn what_is_accepted_is_on_the_topic_under_its_key() {
    let rig = shop();
    let answer = rig.server.post("/v1/events/shop.receipts", JSON, RECEIPT.as_bytes());
    assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(1)), "{answer:?}");
    assert_eq!(records(&rig, "shop.receipts"), [("r%7C1".to_owned(), Some(RECEIPT.to_owned()))]);
    let array = format!("[{RECEIPT},{RECEIPT}]");
    let lines = format!("{RECEIPT}\n\n{RECEIPT}\r\n");
    for (headers, body) in [
        (JSON.to_owned(), array.clone().into_bytes()),
        (format!("{JSON}Content-Encoding: gzip\r\n"), gzip(array.as_bytes())),
        (format!("{LINES}Content-Encoding: zstd\r\n"), zstd::encode_all(lines.as_bytes(), 3).unwrap()),
    ] {
        let answer = rig.server.post("/v1/events/shop.receipts", &headers, &body);
        assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(2)), "{answer:?}");
    }
    assert_eq!(records(&rig, "shop.receipts").len(), 7);
    assert!(rig.values().is_empty(), "nothing of it is telemetry");

    let cards = r#"[{"id":"c-1","total":5},{"id":"c-1","__deleted":true},{"id":"c-1","__deleted":false}]"#;
    assert_eq!(rig.server.post("/v1/events/shop.cards", JSON, cards.as_bytes()).status, 202);
    let values: Vec<Option<String>> = records(&rig, "shop.cards").into_iter().map(|(_, value)| value).collect();
    let kept = |text: &str| Some(text.to_owned());
    assert_eq!(values, [kept(r#"{"id":"c-1","total":5}"#), None, kept(r#"{"id":"c-1","__deleted":false}"#)]);
}

#[test]
fn what_the_decoder_would_refuse_is_refused_at_once() {
    let rig = shop();
    let post = |path: &str, headers: &str, body: &[u8]| rig.server.post(path, headers, body).error();
    let receipt = |body: &str| post("/v1/events/shop.receipts", JSON, body.as_bytes());
    let is = |found: (u16, String), status, code: &str| assert_eq!((found.0, found.1.as_str()), (status, code));
    is(receipt(r#"{"id":"r","at":1700000000000,"total":"dear"}"#), 422, "field_type");
    is(receipt(r#"{"id":"r","at":1700000000000,"total":1.005}"#), 422, "field_out_of_range");
    is(receipt(r#"{"at":1700000000000}"#), 422, "field_missing");
    is(receipt(r#"{"id":"r","at":1800000000000}"#), 422, "event_time_implausible");
    is(receipt(r#"{"id":"r","id":"r","at":1700000000000}"#), 400, "json_duplicate_key");
    is(receipt(r#"{"id":"r","#), 400, "json_invalid");
    is(receipt(""), 400, "body_empty");
    is(receipt(&format!(r#"{{"id":"{}","at":1700000000000}}"#, "r".repeat(2_000))), 422, "field_out_of_range");
    is(post("/v1/events/shop.receipts", "", RECEIPT.as_bytes()), 415, "content_type_unsupported");
    is(post("/v1/events/shop.receipts", JSON, &vec![b' '; 30_000]), 413, "body_too_large");
    for path in ["/v1/events/telemetry.raw", "/v1/events/receipts", "/v1/events/", "/v1/events/..%2fshop.receipts"] {
        is(post(path, JSON, RECEIPT.as_bytes()), 404, "topic_unknown");
    }
    is(post("/v1/events", JSON, RECEIPT.as_bytes()), 404, "not_found");
    is(
        rig.server.raw(b"GET /v1/events/shop.receipts HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").error(),
        405,
        "method_not_allowed",
    );
    assert!(records(&rig, "shop.receipts").is_empty());

    let bad = r#"{"id":7,"at":1700000000000}"#;
    let answer = rig.server.post("/v1/events/shop.receipts", JSON, format!("[{RECEIPT},{bad}]").as_bytes());
    assert_eq!((answer.status, answer.json()["rejected"].as_u64()), (202, Some(1)), "{answer:?}");
    assert_eq!(answer.json()["errors"][0]["field"], "id");
    assert_eq!(records(&rig, "shop.receipts").len(), 1);
}
