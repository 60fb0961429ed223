//! Catches a server that listens where it must not, serves whom it must not, or ends without a word.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use metrics::{Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde_json::json;
use sinks::edge::{BindError, Edge, SUBPROTOCOL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use warp::Filter;

use crate::clients::{Client, PATIENCE, Running, open, options, until};
use crate::fleet::Vehicle;

#[tokio::test]
async fn it_refuses_to_listen_for_others_until_told_so() {
    let none = || warp::any().and_then(|| async { Err(warp::reject::not_found()) }).boxed();
    let (edge, _sink) = Edge::new(options(json!({})));
    let error = edge.bind("0.0.0.0:0".parse().unwrap(), none()).err().expect("others could reach it");
    assert!(matches!(error, BindError::Remote(_)));
    assert!(error.to_string().contains("allow_remote") && error.to_string().contains("127.0.0.1"), "{error}");
    let (edge, _sink) = Edge::new(options(json!({ "allow_remote": true })));
    let server = edge.bind("0.0.0.0:0".parse().unwrap(), none()).unwrap();
    assert_ne!(server.addr().port(), 0);
    let error = edge.bind(server.addr(), none()).err().expect("the port is taken");
    assert!(error.to_string().contains(&server.addr().to_string()), "{error}");
}

#[tokio::test]
async fn foreign_origins_and_protocols_are_refused() {
    let (server, _fleet) = Running::start(json!({ "origins": "https://fleet.example.com" }));
    let addr = server.addr;
    let own = format!("http://{addr}");
    let cases: [(&[(&'static str, &str)], Option<(u16, &str)>); 7] = [
        (&[("Origin", own.as_str())], None),
        (&[("Origin", "https://fleet.example.com")], None),
        (&[("Origin", "https://evil.example")], Some((403, "origin_not_allowed"))),
        (&[("Origin", "null")], Some((403, "origin_not_allowed"))),
        (&[("Host", "evil.example"), ("Origin", "http://evil.example")], Some((403, "host_not_allowed"))),
        (&[("Sec-WebSocket-Protocol", "other.v1, haulstream.v1.json")], None),
        (&[("Sec-WebSocket-Protocol", "haulstream.v9")], Some((400, "subprotocol_unknown"))),
    ];
    for (headers, refused) in cases {
        let opened = open(TcpStream::connect(addr).await.unwrap(), addr, headers).await;
        match (opened, refused) {
            (Ok(_), None) => {}
            (Err(Error::Http(response)), Some((status, code))) => {
                let body: serde_json::Value = serde_json::from_slice(response.body().as_deref().unwrap()).unwrap();
                assert_eq!((response.status().as_u16(), body["code"].as_str()), (status, Some(code)), "{headers:?}");
            }
            (opened, _) => panic!("{headers:?}: {:?}", opened.map(drop)),
        }
    }
    assert_eq!(SUBPROTOCOL, "haulstream.v1.json");
    server.stop().await;
}

#[tokio::test]
async fn it_says_bye_when_it_stops() {
    let (server, mut fleet) = Running::start(json!({}));
    fleet.feed(&[Vehicle::new(1, 10)]).await;
    let mut watching = Client::subscribe(server.addr, json!({})).await;
    let mut idle = Client::connect(server.addr).await;
    let stopping = tokio::spawn(server.stop());
    for client in [&mut watching, &mut idle] {
        let (code, reason, bye) = client.closed().await;
        assert_eq!((code, reason.as_str(), &bye["reason"]), (1001, "shutdown", &json!("shutdown")));
        assert!((1_000..2_000).contains(&bye["retry_after_ms"].as_u64().unwrap()));
    }
    tokio::time::timeout(PATIENCE, stopping).await.expect("it does not wait for what is gone").unwrap();
}

#[tokio::test]
async fn who_sends_half_a_request_is_not_waited_for() {
    let (server, _fleet) = Running::start(json!({ "head_ms_max": 300, "http_connections_max": 3 }));
    let mut lazy = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: loc").await.unwrap();
        lazy.push(stream);
    }
    let answer = crate::clients::get(server.addr, "/realtime/snapshot").await;
    assert_eq!(answer.status, 200, "the places came free");
    for mut stream in lazy {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "the connection was closed");
    }
    server.stop().await;
}

/// Keeps what is counted, by name and labels.
#[derive(Default)]
struct Kept {
    values: Mutex<std::collections::BTreeMap<String, Arc<Value>>>,
}

#[derive(Default)]
struct Value(AtomicU64);

impl GaugeFn for Value {
    fn increment(&self, value: f64) {
        self.0.fetch_add(value as u64, Ordering::SeqCst);
    }
    fn decrement(&self, value: f64) {
        self.0.fetch_sub(value as u64, Ordering::SeqCst);
    }
    fn set(&self, value: f64) {
        self.0.store(value as u64, Ordering::SeqCst);
    }
}

impl HistogramFn for Value {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl metrics::CounterFn for Value {
    fn increment(&self, value: u64) {
        self.0.fetch_add(value, Ordering::SeqCst);
    }
    fn absolute(&self, value: u64) {
        self.0.store(value, Ordering::SeqCst);
    }
}

impl Kept {
    fn at(&self, key: &Key) -> Arc<Value> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let name = format!("{}{{{}}}", key.name(), labels.join(","));
        self.values.lock().unwrap().entry(name).or_default().clone()
    }

    fn get(&self, name: &str) -> u64 {
        self.values.lock().unwrap().get(name).unwrap_or_else(|| panic!("no figure {name}")).0.load(Ordering::SeqCst)
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.at(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.at(key))
    }
    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.at(key))
    }
}

static KEPT: LazyLock<Kept> = LazyLock::new(Kept::default);

#[tokio::test]
async fn figures_tell_what_went_out() {
    let (server, mut fleet) = Running::serve(metrics::with_local_recorder(&*KEPT, || Edge::new(options(json!({})))));
    let connections = "haulstream_ws_connections_active{server_id=test}";
    fleet.feed(&[Vehicle::new(1, 10), Vehicle::new(2, 10)]).await;
    let mut client = Client::subscribe(server.addr, json!({})).await;
    assert_eq!((KEPT.get(connections), KEPT.get("haulstream_edge_subscriptions{}")), (1, 1));
    fleet.feed(&[Vehicle { speed: None, ..Vehicle::new(1, 20) }]).await;
    client.reaches(&fleet.expected(|_| true)).await;
    until("the delta is counted", async || {
        KEPT.get("haulstream_messages_sent_total{type=delta,channel=ws}") == 1
            && KEPT.get("haulstream_message_delivery_duration_seconds{}") == 1
    })
    .await;
    assert_eq!(KEPT.get("haulstream_messages_sent_total{type=snapshot,channel=ws}"), 1);
    assert_eq!(KEPT.get("haulstream_edge_sent_bytes_total{type=delta,channel=ws}"), client.known.delta_bytes as u64);
    assert_eq!(KEPT.get("haulstream_edge_state_rows{}"), 2);
    client.socket.close(None).await.unwrap();
    until("the connection is gone", async || {
        KEPT.get(connections) == 0 && KEPT.get("haulstream_edge_subscriptions{}") == 0
    })
    .await;
    server.stop().await;
}
