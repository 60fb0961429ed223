//! Catches limits that do not hold, and clients that are closed without being told why.

use futures_util::SinkExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::clients::{Client, PATIENCE, Running, open, until};

#[tokio::test]
async fn bad_messages_are_answered_one_by_one_and_ten_are_too_many() {
    let (server, _fleet) = Running::start(json!({}));
    let mut client = Client::subscribe(server.addr, json!({})).await;
    let mut bad = vec!["{", "[]", "7", "{}", r#"{"type":"subscrib"}"#, r#"{"type":"subscribe"}"#];
    bad.extend([r#"{"type":"subscribe","id":"1"}"#, r#"{"type":"update","id":""}"#, "\u{1}"]);
    for text in bad {
        client.socket.send(Message::text(text)).await.unwrap();
        let error = client.answer().await;
        assert_eq!((&error["type"], &error["code"]), (&json!("error"), &json!("ws_bad_message")), "{text}");
    }
    // Nine strikes; what follows are mistakes of content, which do not count, and the connection works on.
    for (text, code) in [
        (r#"{"type":"update","id":"2","bounds":null}"#, "subscription_unknown"),
        (r#"{"type":"subscribe","id":"2","bounds":[0,0,0,91]}"#, "bounds_invalid"),
        (r#"{"type":"subscribe","id":"2","fields":["speed"]}"#, "field_unknown"),
        (r#"{"type":"subscribe","id":"2","stream":"x"}"#, "stream_unknown"),
        (r#"{"type":"subscribe","id":"2","company":["a b"]}"#, "id_invalid"),
        (r#"{"type":"subscribe","id":"2","limit":1}"#, "field_unknown"),
    ] {
        client.socket.send(Message::text(text)).await.unwrap();
        let error = client.answer().await;
        assert_eq!((&error["code"], &error["id"]), (&json!(code), &json!("2")), "{text}: {error}");
    }
    client.send(json!({ "type": "ping" })).await;
    assert_eq!(client.answer().await["type"], "pong");
    client.socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
    let (code, reason, bye) = client.closed().await;
    assert_eq!((code, reason.as_str(), &bye["type"]), (1008, "ws_bad_message", &json!("bye")));
    server.stop().await;
}

#[tokio::test]
async fn subscriptions_and_ids_are_limited() {
    let (server, _fleet) = Running::start(json!({}));
    let mut client = Client::connect(server.addr).await;
    let ids = vec!["v"; 10_001];
    client.send(json!({ "type": "subscribe", "id": "x", "vehicle": ids })).await;
    let error = client.answer().await;
    assert_eq!((&error["code"], &error["field"]), (&json!("vehicle_limit"), &json!("vehicle")));
    client.send(json!({ "type": "subscribe", "id": "x", "vehicle": ids[..10_000] })).await;
    for n in 1..50 {
        client.send(json!({ "type": "subscribe", "id": n.to_string() })).await;
    }
    client.send(json!({ "type": "subscribe", "id": "one more" })).await;
    assert_eq!(client.answer().await["code"], "subscription_limit");
    client.send(json!({ "type": "unsubscribe", "id": "7" })).await;
    client.send(json!({ "type": "subscribe", "id": "7" })).await;
    client.send(json!({ "type": "ping" })).await;
    assert_eq!(client.answer().await["type"], "pong");
    server.stop().await;
}

#[tokio::test]
async fn floods_end_the_connection() {
    let (server, _fleet) = Running::start(json!({}));
    type Flood = fn(usize) -> Message;
    let floods: [Flood; 3] = [
        |_| Message::text(r#"{"type":"ping"}"#),
        |_| Message::Ping(Vec::new().into()),
        |n| {
            Message::text(
                json!({ "type": if n % 2 == 0 { "subscribe" } else { "unsubscribe" }, "id": "1" }).to_string(),
            )
        },
    ];
    for flood in floods {
        let mut client = Client::connect(server.addr).await;
        for n in 0..200 {
            // The server may have closed already.
            let _ = client.socket.send(flood(n)).await;
        }
        let (code, reason, bye) = client.closed().await;
        assert_eq!((code, reason.as_str(), &bye["reason"]), (1008, "rate_limited", &json!("rate_limited")));
    }
    server.stop().await;
}

#[tokio::test]
async fn messages_are_limited_whole_and_in_fragments() {
    let (server, _fleet) = Running::start(json!({}));
    let fits = format!("{{\"type\":\"ping\"}}{}", " ".repeat(65_536 - 15));
    let mut client = Client::connect(server.addr).await;
    client.socket.send(Message::text(fits.clone())).await.unwrap();
    assert_eq!(client.answer().await["type"], "pong");
    client.socket.send(Message::text(fits + " ")).await.unwrap();
    let (code, reason, bye) = client.closed().await;
    assert_eq!((code, reason.as_str(), &bye["type"]), (1009, "message_too_large", &json!("bye")));

    let mut client = Client::connect(server.addr).await;
    for n in 0..3 {
        let opcode = OpCode::Data(if n == 0 { Data::Text } else { Data::Continue });
        let _ = client.socket.send(Message::Frame(Frame::message(vec![b' '; 40_000], opcode, n == 2))).await;
    }
    assert_eq!(client.closed().await.0, 1009);

    let mut client = Client::connect(server.addr).await;
    for n in 0..70_000 {
        let opcode = OpCode::Data(if n == 0 { Data::Text } else { Data::Continue });
        if client.socket.feed(Message::Frame(Frame::message(vec![b' '], opcode, false))).await.is_err() {
            break;
        }
    }
    let _ = client.socket.flush().await;
    assert_eq!(client.closed().await.0, 1009);
    server.stop().await;
}

/// Opens a WebSocket by hand and sends raw bytes; returns the code of the close frame that comes back.
async fn raw(addr: std::net::SocketAddr, bytes: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!(
        "GET /realtime/ws HTTP/1.1\r\nHost: {addr}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the server closes").unwrap();
    let head = all.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(all.starts_with(b"HTTP/1.1 101") && all[..head].windows(28).any(|w| w == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    let mut frames = &all[head..];
    loop {
        let (length, start) = match frames[1] {
            126 => (u16::from_be_bytes([frames[2], frames[3]]) as usize, 4),
            length => (usize::from(length), 2),
        };
        if frames[0] == 0x88 {
            return u16::from_be_bytes([frames[start], frames[start + 1]]);
        }
        frames = &frames[start + length..];
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_are_named_by_the_close_code() {
    let (server, _fleet) = Running::start(json!({}));
    let long: Vec<u8> = [0x89, 0xFE, 0, 126].into_iter().chain([0; 130]).collect();
    let cases: [(&str, &[u8], u16); 7] = [
        ("unmasked", &[0x81, 0x02, b'{', b'}'], 1002),
        ("reserved bits", &[0xF1, 0x82, 0, 0, 0, 0, b'{', b'}'], 1002),
        ("unknown opcode", &[0x83, 0x80, 0, 0, 0, 0], 1002),
        ("long control frame", &long, 1002),
        ("fragmented control frame", &[0x09, 0x80, 0, 0, 0, 0], 1002),
        ("continuation of nothing", &[0x80, 0x80, 0, 0, 0, 0], 1002),
        ("no UTF-8", &[0x81, 0x82, 0, 0, 0, 0, 0xC3, 0x28], 1007),
    ];
    for (what, bytes, code) in cases {
        assert_eq!(raw(server.addr, bytes).await, code, "{what}");
    }
    server.stop().await;
}

#[tokio::test]
async fn idle_and_silent_clients_are_sent_away() {
    let (server, _fleet) = Running::start(json!({ "idle_ms": 300, "heartbeat_ms": 200, "pong_ms_max": 100 }));
    let mut idle = Client::connect(server.addr).await;
    let (code, reason, bye) = idle.closed().await;
    assert_eq!((code, reason.as_str(), &bye["reason"]), (4408, "idle", &json!("idle")));

    let mut busy = Client::subscribe(server.addr, json!({})).await;
    let mut silent = Client::subscribe(server.addr, json!({})).await;
    // Whoever reads answers pings by that.
    let reading = tokio::spawn(async move {
        let closed = tokio::time::timeout(std::time::Duration::from_millis(1_500), busy.closed()).await;
        assert!(closed.is_err(), "a client that answers stays");
    });
    reading.await.unwrap();
    assert_eq!(silent.closed().await.0, 4409);
    server.stop().await;
}

#[tokio::test]
async fn connections_are_limited_and_places_come_free() {
    let (server, _fleet) = Running::start(json!({ "connections_max": 2 }));
    let mut first = Client::connect(server.addr).await;
    let _second = Client::connect(server.addr).await;
    let refused = || async {
        match open(TcpStream::connect(server.addr).await.unwrap(), server.addr, &[]).await {
            Ok(_) => None,
            Err(Error::Http(response)) => Some(response),
            Err(other) => panic!("{other}"),
        }
    };
    let response = refused().await.expect("two are all");
    assert_eq!(response.status(), 503);
    let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=2).contains(&seconds));
    let body: Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
    assert_eq!(body["code"], "connection_limit");
    first.socket.close(None).await.unwrap();
    until("the place is free", async || refused().await.is_none()).await;
    server.stop().await;
}
