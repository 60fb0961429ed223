//! Tests of the gate over real sockets, onto a real embedded log or a Kafka that is not there.

mod bad_input;
mod connections;
mod declared;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use warp::Filter;

use super::*;
use crate::log::{Clock, EmbeddedLog, system_clock};
use crate::publish::{KafkaPublisher, Publish};

const NOW: i64 = 1_700_000_000_000;
/// A good message.
const GOOD: &str = r#"{"device_id":"d-1","ts":1700000000000,"seq":1,"lat":54.1,"lon":11.2}"#;
const JSON: &str = "Content-Type: application/json\r\n";
const LINES: &str = "Content-Type: application/x-ndjson\r\n";

fn gate_options() -> GateOptions {
    GateOptions {
        body_bytes_max: 20_000,
        unpacked_bytes_max: 100_000,
        body_ms_max: 700,
        held_bytes_max: 1 << 20,
        items_max: 1_000,
        uri_bytes_max: 2_048,
        ack_ms_max: 5_000,
        retry_after_s: 3,
        past_ms_max: 30 * 24 * 3_600_000,
        future_ms_max: 300_000,
    }
}

fn serve_options() -> ServeOptions {
    ServeOptions {
        connections_max: 1_000,
        head_ms_max: 700,
        head_bytes_max: 16_384,
        head_fields_max: 64,
        stop_ms_max: 5_000,
    }
}

/// A running gate; stopped when dropped.
struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    runtime: Option<tokio::runtime::Runtime>,
    served: Option<tokio::task::JoinHandle<()>>,
}

impl Server {
    fn start(log: Arc<dyn Publish>, options: GateOptions, limits: ServeOptions) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let gate = Gate::new(log, "telemetry.raw".to_owned(), declared::declared(), options, Arc::new(|| NOW as u64));
        let (stop, stopped) = oneshot::channel::<()>();
        let filter = routes(gate).or(not_found()).unify();
        let served = runtime.spawn(serve(listener, filter, limits, async {
            let _ = stopped.await;
        }));
        Self { address, stop: Some(stop), runtime: Some(runtime), served: Some(served) }
    }

    fn stop(&mut self) {
        drop(self.stop.take());
        if let (Some(served), Some(runtime)) = (self.served.take(), self.runtime.take()) {
            runtime.block_on(served).unwrap();
        }
    }

    fn post(&self, path: &str, headers: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    /// Sends bytes and reads the answer until the connection is closed.
    fn raw(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // The server may answer and close before it has read all of a body that it refuses.
        let _ = stream.write_all(bytes);
        Answer::read(&mut stream)
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4_096];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&buffer[..count]),
                Err(why) if why.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(why) => panic!("no answer: {why}; so far {}", String::from_utf8_lossy(&bytes)),
            }
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }

    /// Status and code.
    fn error(&self) -> (u16, String) {
        let json = self.json();
        let object = json.as_object().unwrap();
        for field in ["code", "message", "where", "id"] {
            assert!(object.contains_key(field), "{field} is missing: {self:?}");
        }
        assert_eq!(json["where"]["interface"], "http");
        assert!(self.head.contains("content-type: application/json"));
        (self.status, json["code"].as_str().unwrap().to_owned())
    }
}

/// A gate on an embedded log of its own.
struct Rig {
    server: Server,
    log: Arc<EmbeddedLog>,
    _directory: tempfile::TempDir,
}

fn rig() -> Rig {
    rig_with(gate_options(), serve_options(), system_clock(), 1 << 24)
}

fn rig_with(options: GateOptions, limits: ServeOptions, clock: Clock, queue_bytes_max: usize) -> Rig {
    let directory = tempfile::tempdir().unwrap();
    let log_options = crate::log::Options {
        directory: directory.path().to_owned(),
        segment_bytes_max: 1 << 30,
        segment_ms_max: u64::MAX,
        retention_bytes_max: u64::MAX,
        retention_ms_max: u64::MAX,
        block_bytes_max: 1 << 16,
        record_bytes_max: 1 << 20,
        queue_bytes_max,
        memtable_bytes_max: 8 << 20,
        journal_bytes_max: 64 << 20,
        cache_bytes_max: 1 << 20,
    };
    let log = Arc::new(EmbeddedLog::open(log_options, clock).unwrap());
    log.create_topic("telemetry.raw", 2).unwrap();
    Rig { server: Server::start(log.clone(), options, limits), log, _directory: directory }
}

impl Rig {
    /// All values on the log.
    fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for partition in 0..2 {
            let mut reader = self.log.reader("telemetry.raw", partition, 0).unwrap();
            let mut each = |record: crate::codec::Record<'_>| {
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
                ControlFlow::Continue(())
            };
            while reader.read(1_000, &mut each).unwrap() > 0 {}
        }
        values
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_accepted_is_on_the_log_in_its_normal_form() {
    let rig = rig();
    let answer = rig.server.post("/v1/telemetry", JSON, GOOD.as_bytes());
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(answer.json(), serde_json::json!({"accepted": 1, "rejected": 0, "errors": []}));
    let stored = r#"{"device_id":"d-1","ts":1700000000000,"server_time":1700000000000,"seq":1,"lat":54.1,"lon":11.2}"#;
    assert_eq!(rig.values(), [stored]);
    let answer = rig.server.post("/v1/devices/d-7/telemetry", JSON, br#"{"ts":1700000000000}"#);
    assert_eq!(answer.status, 202, "{answer:?}");
    let mut values = rig.values();
    values.sort();
    assert_eq!(values[1], r#"{"device_id":"d-7","ts":1700000000000,"server_time":1700000000000,"seq":0}"#);
}

#[test]
fn batches_come_as_arrays_and_lines_packed_or_not() {
    let rig = rig();
    let many: Vec<String> = (0..50)
        .map(|i| format!(r#"{{"device_id":"d-{i}","ts":{NOW},"seq":{i},"attributes":{{"a":[1,{{}}]}}}}"#))
        .collect();
    let array = format!("[{}]", many.join(",\n"));
    let lines = many.join("\n");
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 3).unwrap();
    for (headers, body) in [
        (JSON.to_owned(), array.clone().into_bytes()),
        (LINES.to_owned(), lines.clone().into_bytes()),
        (format!("{JSON}Content-Encoding: gzip\r\n"), gzip(array.as_bytes())),
        (format!("{LINES}Content-Encoding: zstd\r\n"), zstd(&lines)),
        (format!("{LINES}Content-Encoding: identity\r\n"), lines.into_bytes()),
    ] {
        let answer = rig.server.post("/v1/telemetry", &headers, &body);
        assert_eq!((answer.status, answer.json()["accepted"].as_u64()), (202, Some(50)), "{answer:?}");
    }
    let values = rig.values();
    assert_eq!(values.len(), 250);
    assert!(values.iter().all(|value| value.contains(r#""attributes":{"a":[1,{}]}"#)));
}

#[test]
fn a_batch_is_taken_item_by_item() {
    let rig = rig();
    let bad = r#"{"device_id":"d-2","ts":1700000000000,"lat":91,"lon":0}"#;
    let answer = rig.server.post("/v1/telemetry", JSON, format!("[{GOOD},{bad},{GOOD}]").as_bytes());
    assert_eq!(answer.status, 202);
    let json = answer.json();
    assert_eq!((json["accepted"].as_u64(), json["rejected"].as_u64()), (Some(2), Some(1)));
    assert_eq!(json["errors"][0]["index"], 1);
    assert_eq!(json["errors"][0]["code"], "field_out_of_range");
    assert_eq!(json["errors"][0]["field"], "lat");
    assert!(json["errors"][0]["message"].as_str().unwrap().contains("91"));
    assert_eq!(rig.values().len(), 2);
    let answer = rig.server.post("/v1/telemetry", JSON, format!("[{bad},{bad}]").as_bytes());
    assert_eq!(answer.error(), (422, "batch_rejected".to_owned()));
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 2);
    assert_eq!(rig.values().len(), 2);
}

#[test]
fn strings_are_data_whatever_they_hold() {
    let rig = rig();
    let text =
        r#"{"device_id":"d-1","ts":1700000000000,"attributes":{"note":"\r\n\u001b[31m ${jndi:ldap://x} '; DROP"}}"#;
    assert_eq!(rig.server.post("/v1/telemetry", JSON, text.as_bytes()).status, 202);
    assert!(rig.values()[0].contains(r#"{"note":"\r\n\u001b[31m ${jndi:ldap://x} '; DROP"}"#));
    let bad = "{\"device_id\":\"d\u{7f}\\u001b[31m\",\"ts\":1700000000000}";
    let answer = rig.server.post("/v1/telemetry", JSON, bad.as_bytes());
    assert_eq!(answer.status, 400);
    assert!(answer.body.bytes().all(|b| b >= 0x20 && b != 0x7f), "nothing raw comes back: {answer:?}");
}

#[test]
fn without_its_log_the_gate_says_503() {
    let kafka = operators::connection::Kafka {
        brokers: "127.0.0.1:1".to_owned(),
        group: String::new(),
        prefetch_bytes_max: 1 << 20,
        fetch_wait_ms: 10,
        linger_ms: 1,
        produce_bytes_max: 1 << 20,
    };
    let publisher = Arc::new(KafkaPublisher::new(&kafka, 300).unwrap());
    let server = Server::start(publisher, gate_options(), serve_options());
    for _ in 0..2 {
        let answer = server.post("/v1/telemetry", JSON, GOOD.as_bytes());
        assert_eq!(answer.error(), (503, "backlog_full".to_owned()));
        assert!(answer.head.contains("retry-after: 3"), "{answer:?}");
    }
}

#[test]
fn a_full_backlog_says_503_and_loses_nothing_that_it_took() {
    // The log's clock holds its thread until we let it go.
    let gate = Arc::new(std::sync::Mutex::new(()));
    let waiting = gate.clone();
    let clock: Clock = Arc::new(move || {
        drop(waiting.lock().unwrap());
        NOW as u64
    });
    let rig = rig_with(GateOptions { ack_ms_max: 60_000, ..gate_options() }, serve_options(), clock, 3_000);
    let closed = gate.lock().unwrap();
    let body = format!(r#"{{"device_id":"d-1","ts":{NOW},"attributes":{{"x":"{}"}}}}"#, "x".repeat(1_000));
    let (accepted, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| match rig.server.post("/v1/telemetry", JSON, body.as_bytes()).status {
                202 => accepted.fetch_add(1, Ordering::SeqCst),
                503 => refused.fetch_add(1, Ordering::SeqCst),
                other => panic!("{other}"),
            });
        }
        // What does not fit is refused while the rest waits.
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while refused.load(Ordering::SeqCst) < 4 {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(accepted.load(Ordering::SeqCst), 0, "nothing is accepted before the log has it");
        drop(closed);
    });
    assert_eq!(rig.values().len() as u64, accepted.load(Ordering::SeqCst));
    assert!(accepted.load(Ordering::SeqCst) > 0);
}
