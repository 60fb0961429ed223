//! The HTTP rows of the bad-input matrix: each gives its own status and code, nothing reaches the log, and the next
//! request is served.

use super::*;

fn refused(headers: &str, body: &[u8]) -> (u16, String) {
    RIG.with(|rig| rig.server.post("/v1/telemetry", headers, body).error())
}

thread_local! {
    static RIG: Rig = rig();
}

fn json(body: &str) -> (u16, String) {
    refused(JSON, body.as_bytes())
}

fn is(found: (u16, String), status: u16, code: &str) {
    assert_eq!((found.0, found.1.as_str()), (status, code));
}

/// Nothing of what was refused is on the log, and the gate goes on.
fn unharmed() {
    RIG.with(|rig| {
        assert!(rig.values().is_empty(), "{:?}", rig.values());
        assert_eq!(rig.server.post("/v1/telemetry", JSON, GOOD.as_bytes()).status, 202);
    });
}

#[test]
fn documents() {
    is(json(""), 400, "body_empty");
    is(json("  \n"), 400, "body_empty");
    is(json(r#"{"device_id":"d-1","#), 400, "json_invalid");
    is(json(&format!("{GOOD}x")), 400, "json_invalid");
    is(json(&format!("{GOOD}{GOOD}")), 400, "json_invalid");
    is(json(&format!("[{GOOD}]{GOOD}")), 400, "json_invalid");
    is(json(&"[".repeat(10_000)), 400, "json_too_deep");
    let deep =
        format!(r#"{{"device_id":"d","ts":{NOW},"attributes":{}1{}}}"#, r#"{"a":"#.repeat(5_000), "}".repeat(5_000));
    is(refused(&format!("{JSON}Content-Encoding: gzip\r\n"), &gzip(deep.as_bytes())), 400, "json_too_deep");
    is(refused(JSON, b"{\"device_id\":\"d\xff\",\"ts\":1}"), 400, "utf8_invalid");
    is(json(r#"{"device_id":"d","ts":1700000000000,"attributes":{"a":"\ud800"}}"#), 400, "utf8_invalid");
    is(json("{\"device_id\":\"d\0\",\"ts\":1}"), 400, "utf8_invalid");
    is(json(&format!("\u{feff}{GOOD}")), 400, "utf8_invalid");
    is(json(r#"{"device_id":"d","ts":1700000000000,"seq":1,"seq":2}"#), 400, "json_duplicate_key");
    is(json("5"), 422, "field_type");
    let place = RIG
        .with(|rig| rig.server.post("/v1/telemetry", JSON, b"{\n  \"device_id\" 5}").json()["where"]["field"].clone());
    assert_eq!(place, "2:15");
    unharmed();
}

#[test]
fn values() {
    let with = |field: &str| json(&format!(r#"{{"device_id":"d","ts":{NOW},"lat":1,"lon":1,{field}}}"#));
    is(with(r#""speed_kmh":NaN"#), 422, "field_type");
    is(with(r#""speed_kmh":Infinity"#), 422, "field_type");
    is(with(r#""speed_kmh":1e400"#), 422, "field_out_of_range");
    is(with(r#""speed_kmh":"1""#), 422, "field_type");
    is(with(r#""speed_kmh":1000.5"#), 422, "field_out_of_range");
    is(with(r#""seq":9223372036854775808"#), 422, "field_out_of_range");
    is(with(r#""seq":1.5"#), 422, "field_type");
    is(with(r#""satellites":2147483648"#), 422, "field_out_of_range");
    is(with(r#""ignition":1"#), 422, "field_type");
    is(json(&format!(r#"{{"ts":{NOW}}}"#)), 422, "field_missing");
    is(json(r#"{"device_id":"d"}"#), 422, "field_missing");
    is(json(&format!(r#"{{"device_id":"","ts":{NOW}}}"#)), 422, "field_missing");
    is(json(&format!(r#"{{"device_id":"a b","ts":{NOW}}}"#)), 400, "id_invalid");
    is(json(&format!(r#"{{"device_id":"{}","ts":{NOW}}}"#, "x".repeat(65))), 400, "id_invalid");
    is(json(&format!(r#"{{"device_id":"d","ts":{NOW},"lat":0,"lon":0}}"#)), 422, "position_implausible");
    for ts in [1_700_000_000, 0, NOW + 86_400_000, 253_402_300_799_000, NOW - 31 * 86_400_000, -1] {
        is(json(&format!(r#"{{"device_id":"d","ts":{ts}}}"#)), 422, "event_time_implausible");
    }
    let answer = RIG.with(|rig| rig.server.post("/v1/telemetry", JSON, br#"{"device_id":"d","ts":5}"#));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains("ts 5 ") && message.contains(&(NOW + 300_000).to_string()),
        "the value and the window: {message}"
    );
    assert_eq!(answer.json()["where"]["field"], "ts");
    let large = format!(r#"{{"device_id":"d","ts":{NOW},"attributes":{{"a":"{}"}}}}"#, "x".repeat(70_000));
    is(refused(&format!("{JSON}Content-Encoding: gzip\r\n"), &gzip(large.as_bytes())), 413, "payload_too_large");
    unharmed();
}

#[test]
fn headers() {
    is(refused("", GOOD.as_bytes()), 415, "content_type_unsupported");
    is(refused("Content-Type: text/plain\r\n", GOOD.as_bytes()), 415, "content_type_unsupported");
    is(refused("Content-Type: application/json; charset=utf-16\r\n", GOOD.as_bytes()), 415, "content_type_unsupported");
    for encoding in ["br", "deflate", "gzip, gzip", "gzip\r\nContent-Encoding: gzip"] {
        let headers = format!("{JSON}Content-Encoding: {encoding}\r\n");
        is(refused(&headers, &gzip(GOOD.as_bytes())), 415, "encoding_unsupported");
    }
    let packed = gzip(GOOD.as_bytes());
    let mut wrong_crc = packed.clone();
    let at = packed.len() - 6;
    wrong_crc[at] ^= 0x10;
    let gzipped = format!("{JSON}Content-Encoding: gzip\r\n");
    is(refused(&gzipped, &wrong_crc), 400, "gzip_corrupt");
    is(refused(&gzipped, &packed[..packed.len() - 3]), 400, "gzip_corrupt");
    is(refused(&gzipped, GOOD.as_bytes()), 400, "gzip_corrupt");
    is(refused(&gzipped, &gzip(b"")), 400, "body_empty");
    is(refused(&format!("{JSON}Content-Encoding: zstd\r\n"), GOOD.as_bytes()), 400, "zstd_corrupt");
    unharmed();
}

/// Limits are exact: one byte less and the limit itself are taken, one more is not; also without a length in advance.
#[test]
fn sizes() {
    RIG.with(|rig| {
        let body = |bytes: usize| {
            let mut body = GOOD.as_bytes().to_vec();
            body.resize(bytes, b' ');
            body
        };
        let chunked = |body: &[u8]| {
            let mut request =
                format!("POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
                    .into_bytes();
            for chunk in body.chunks(1_000) {
                request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                request.extend_from_slice(chunk);
                request.extend_from_slice(b"\r\n");
            }
            request.extend_from_slice(b"0\r\n\r\n");
            request
        };
        for (bytes, status) in [(19_999, 202), (20_000, 202), (20_001, 413)] {
            let answers = [rig.server.post("/v1/telemetry", JSON, &body(bytes)), rig.server.raw(&chunked(&body(bytes)))];
            for answer in answers {
                assert_eq!(answer.status, status, "{bytes}: {answer:?}");
                if status == 413 {
                    assert_eq!(answer.error().1, "body_too_large");
                    assert!(answer.json()["message"].as_str().unwrap().contains("20000"));
                    assert!(answer.head.contains("connection: close"), "{answer:?}");
                }
            }
        }
        let taken = rig.values().len();
        for (bytes, status) in [(99_999, 202), (100_000, 202), (100_001, 413)] {
            for (encoding, packed) in
                [("gzip", gzip(&body(bytes))), ("zstd", zstd::encode_all(body(bytes).as_slice(), 3).unwrap())]
            {
                let headers = format!("{LINES}Content-Encoding: {encoding}\r\n");
                let answer = rig.server.post("/v1/telemetry", &headers, &packed);
                assert_eq!(answer.status, status, "{encoding} {bytes}: {answer:?}");
                if status == 413 {
                    assert_eq!(answer.error().1, "decompressed_too_large");
                }
            }
        }
        assert_eq!(rig.values().len(), taken + 4);
        let bomb = zstd::encode_all(vec![0; 100 << 20].as_slice(), 3).unwrap();
        assert!(bomb.len() < 20_000);
        let answer = rig.server.post("/v1/telemetry", &format!("{JSON}Content-Encoding: zstd\r\n"), &bomb);
        assert_eq!(answer.error(), (413, "decompressed_too_large".to_owned()));
        for (items, status) in [(999, 202), (1_000, 202), (1_001, 413)] {
            let item = r#"{"device_id":"d","ts":1700000000000}"#;
            let array = format!("[{}]", vec![item; items].join(","));
            let lines = vec![item; items].join("\n");
            for (form, text) in [(JSON, array), (LINES, lines)] {
                let headers = format!("{form}Content-Encoding: gzip\r\n");
                let answer = rig.server.post("/v1/telemetry", &headers, &gzip(text.as_bytes()));
                assert_eq!(answer.status, status, "{items}: {answer:?}");
                if status == 413 {
                    assert_eq!(answer.error().1, "batch_too_large");
                }
            }
        }
    });
}

#[test]
fn methods_and_paths() {
    RIG.with(|rig| {
        for method in ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"] {
            let request = format!("{method} /v1/telemetry HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            let answer = rig.server.raw(request.as_bytes());
            assert_eq!(answer.status, 405, "{method}");
            assert!(answer.head.contains("allow: post"), "{answer:?}");
            if method != "HEAD" {
                assert_eq!(answer.error().1, "method_not_allowed");
            }
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/telemetry/",
            "/v1/telemetry/x",
            "/v2/telemetry",
            "/v1/..%2ftelemetry",
            "/v1/../etc/passwd",
            "/v1/devices/d/telemetry/x",
            "/v1/devices/telemetry",
            "/v1/%74elemetry",
            "//v1/telemetry",
        ] {
            let answer = rig.server.post(path, JSON, GOOD.as_bytes());
            assert_eq!(answer.error(), (404, "not_found".to_owned()), "{path}");
        }
        for id in ["%00", "a%2fb", "%F0%9F%98%80", "*", "'", &"x".repeat(65), ""] {
            let answer = rig.server.post(&format!("/v1/devices/{id}/telemetry"), JSON, GOOD.as_bytes());
            assert_eq!(answer.error(), (400, "id_invalid".to_owned()), "{id}");
        }
        let answer = rig.server.post("/v1/devices/d-2/telemetry", JSON, GOOD.as_bytes());
        assert_eq!(answer.error(), (422, "key_mismatch".to_owned()));
    });
    unharmed();
}

#[test]
fn heads_that_no_client_sends() {
    RIG.with(|rig| {
        let head = |rest: &str| format!("POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}{rest}\r\n");
        let length = GOOD.len();
        let two_lengths = head(&format!("Content-Length: {length}\r\nContent-Length: {}\r\n", length + 1));
        assert_eq!(rig.server.raw(format!("{two_lengths}{GOOD}").as_bytes()).status, 400);
        let folded = head(&format!("Content-Length: {length}\r\nX-Folded: a\r\n b\r\n"));
        assert_eq!(rig.server.raw(format!("{folded}{GOOD}").as_bytes()).status, 400);
        let negative = head("Content-Length: -1\r\n");
        assert_eq!(rig.server.raw(negative.as_bytes()).status, 400);
        let large = head(&format!("X-Large: {}\r\n", "x".repeat(100_000)));
        assert_eq!(rig.server.raw(large.as_bytes()).status, 431);
        let many: String = (0..1_000).map(|i| format!("X-{i}: 1\r\n")).collect();
        assert_eq!(rig.server.raw(head(&many).as_bytes()).status, 431);
        let long = rig.server.post(&format!("/v1/telemetry?{}", "x".repeat(2_100)), JSON, GOOD.as_bytes());
        assert_eq!(long.error(), (414, "uri_too_long".to_owned()));
        let garbage = rig.server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
        assert!(matches!(garbage.status, 0 | 400), "{garbage:?}");
        let http2 = rig.server.raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        assert_ne!(http2.status, 202);
    });
    unharmed();
}

/// Both a length and chunks: the chunks count, as RFC 9112 has it, and the connection is closed, so that nothing behind
/// the body is taken for a second request.
#[test]
fn length_and_chunks_do_not_smuggle() {
    RIG.with(|rig| {
        for order in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ] {
            let request = format!(
                "POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}{order}\r\n{:x}\r\n{GOOD}\r\n0\r\n\r\n\
                 POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: {}\r\nConnection: close\r\n\r\n{GOOD}",
                GOOD.len(),
                GOOD.len()
            );
            let before = rig.values().len();
            let answer = rig.server.raw(request.as_bytes());
            assert_eq!(answer.status, 202, "{answer:?}");
            assert!(!answer.body.contains("HTTP/1.1"), "what follows is no second request: {answer:?}");
            assert_eq!(rig.values().len(), before + 1);
        }
    });
}
