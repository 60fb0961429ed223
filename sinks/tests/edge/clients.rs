//! An edge that listens, and clients that talk to it: WebSocket clients that keep what they are told, and plain HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use sinks::edge::{Edge, Options, SUBPROTOCOL};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, Message};
use warp::Filter;

use crate::fleet::{Fleet, Shown, Vehicle};

/// Nothing here takes longer unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Options with every limit as documented, but deltas every 20 ms.
pub fn options(changes: Value) -> Options {
    let mut options = json!({
        "allow_remote": false, "origins": "", "server_id": "test", "http_connections_max": 2000, "head_ms_max": 10_000,
        "stall_ms_max": 60_000, "send_buffer_bytes": 65_536, "snapshots_max": 32, "snapshot_ms_max": 60_000,
        "connections_max": 1000, "subscriptions_max": 50, "vehicles_max": 10_000, "message_bytes_max": 65_536,
        "messages_per_minute_max": 100, "strikes_max": 10, "outbox_bytes_max": 262_144, "slow_ms": 30_000,
        "delta_ms": 20, "gather_ms": 2, "heartbeat_ms": 25_000, "pong_ms_max": 10_000, "idle_ms": 60_000,
        "ring_rows_max": 200_000, "shutdown_ms_max": 10_000, "retry_ms_min": 1_000,
    });
    options.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    serde_json::from_value(options).unwrap()
}

/// An edge that serves on a free port.
pub struct Running {
    pub addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    pub fn start(changes: Value) -> (Self, Fleet) {
        Self::serve(Edge::new(options(changes)))
    }

    pub fn serve((edge, sink): (Edge, sinks::edge::EdgeSink)) -> (Self, Fleet) {
        let extra = warp::path!("extra").map(|| warp::reply::Response::new("more".into())).boxed();
        let server = edge.bind("127.0.0.1:0".parse().unwrap(), extra).unwrap();
        let (addr, (stop, stopped)) = (server.addr(), oneshot::channel());
        let task = tokio::spawn(server.run(async { stopped.await.unwrap_or(()) }));
        (Self { addr, stop, task }, Fleet::new(sink))
    }

    /// Stops the server and waits for its end.
    pub async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(PATIENCE, self.task).await.expect("the server stops").unwrap();
    }
}

/// A client's state: rows by id, and how it came by them.
#[derive(Default)]
pub struct Known {
    pub rows: BTreeMap<String, Map<String, Value>>,
    versions: BTreeMap<String, u64>,
    in_snapshot: bool,
    pub ready: bool,
    pub version: u64,
    pub snapshots: usize,
    pub deltas: usize,
    pub delta_bytes: usize,
    pub delta_rows: usize,
}

impl Known {
    /// Takes in a message; anything that the protocol does not allow panics.
    pub fn take(&mut self, message: &Value, bytes: usize) {
        let list = |name: &str| message[name].as_array().unwrap_or_else(|| panic!("{name} in {message}")).clone();
        let snapshot = match message["type"].as_str() {
            Some("snapshot") => true,
            Some("delta") => false,
            _ => return,
        };
        let version = message["version"].as_u64().unwrap();
        assert!(version >= self.version, "version {version} after {}", self.version);
        self.version = version;
        if snapshot {
            if !std::mem::replace(&mut self.in_snapshot, true) {
                self.rows.clear();
                self.snapshots += 1;
            }
            self.in_snapshot = message["more"].as_bool().unwrap();
            self.ready = !self.in_snapshot;
        } else {
            assert!(self.ready, "a delta before the snapshot");
            self.deltas += 1;
            self.delta_bytes += bytes;
        }
        for row in list(if snapshot { "rows" } else { "upsert" }) {
            let row = row.as_object().unwrap();
            let (id, version) = (row["vehicle_id"].as_str().unwrap(), row["version"].as_u64().unwrap());
            let last = self.versions.insert(id.to_owned(), version).unwrap_or(0);
            assert!(version >= last, "{id} went back from {last} to {version}");
            self.delta_rows += usize::from(!snapshot);
            self.rows.entry(id.to_owned()).or_default().extend(row.clone());
        }
        if !snapshot {
            for id in list("remove") {
                assert!(self.rows.remove(id.as_str().unwrap()).is_some(), "{id} was not there");
                self.delta_rows += 1;
            }
        }
    }

    /// Whether it shows just this; gives up at the first difference.
    pub fn is(&self, expected: &Shown) -> bool {
        let seen = |(name, value): &(&String, &Value)| *name != "version" && !value.is_null();
        self.rows.len() == expected.len()
            && self
                .rows
                .iter()
                .zip(expected)
                .all(|((id, row), (other, wanted))| id == other && row.iter().filter(seen).eq(wanted.iter()))
    }

    pub fn shown(&self) -> Shown {
        let row = |row: &Map<String, Value>| {
            let seen = row.iter().filter(|(name, value)| *name != "version" && !value.is_null());
            seen.map(|(name, value)| (name.clone(), value.clone())).collect()
        };
        self.rows.iter().map(|(id, all)| (id.clone(), row(all))).collect()
    }
}

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocketStream<TcpStream>,
    pub known: Known,
}

impl Client {
    /// Connects and takes the greeting.
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).await.unwrap();
        Self::over(stream, addr).await
    }

    /// Connects with a receive buffer of about this many bytes.
    pub async fn narrow(addr: SocketAddr, receive_buffer_bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(receive_buffer_bytes).unwrap();
        Self::over(socket.connect(addr).await.unwrap(), addr).await
    }

    async fn over(stream: TcpStream, addr: SocketAddr) -> Self {
        let socket = open(stream, addr, &[("Sec-WebSocket-Protocol", SUBPROTOCOL)]).await.unwrap();
        let mut client = Self { socket, known: Known::default() };
        let hello = client.next().await;
        assert_eq!(hello["type"], "hello");
        client
    }

    pub async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.unwrap();
    }

    pub async fn subscribe(addr: SocketAddr, filter: Value) -> Self {
        let mut client = Self::connect(addr).await;
        client.ask(filter).await;
        client
    }

    /// Subscribes as "1" and waits for the whole snapshot.
    pub async fn ask(&mut self, filter: Value) {
        let mut message = json!({ "type": "subscribe", "id": "1", "stream": "vehicle_state" });
        message.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
        self.send(message).await;
        while !self.known.ready {
            let message = self.next().await;
            assert_ne!(message["type"], "error", "{message}");
        }
    }

    /// The next message, taken in; panics if there is none.
    pub async fn next(&mut self) -> Value {
        match tokio::time::timeout(PATIENCE, self.event()).await.expect("a message comes") {
            Ok(message) => message,
            Err(close) => panic!("closed: {close:?}"),
        }
    }

    /// The next message, or how the connection was closed.
    pub async fn event(&mut self) -> Result<Value, Option<CloseFrame>> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    self.known.take(&message, text.len());
                    return Ok(message);
                }
                Some(Ok(Message::Close(frame))) => return Err(frame),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err(None),
            }
        }
    }

    /// The next message that is neither snapshot nor delta.
    pub async fn answer(&mut self) -> Value {
        loop {
            let message = self.next().await;
            if message["type"] != "snapshot" && message["type"] != "delta" {
                return message;
            }
        }
    }

    /// Reads to the end: the close code, its reason, and the last message before it.
    pub async fn closed(&mut self) -> (u16, String, Value) {
        let mut last = Value::Null;
        let end = async {
            loop {
                match self.event().await {
                    Ok(message) => last = message,
                    Err(close) => return close.expect("the server says why it closes"),
                }
            }
        };
        let close = tokio::time::timeout(PATIENCE, end).await.expect("the connection is closed");
        (close.code.into(), close.reason.to_string(), last)
    }

    /// Listens until it shows what it should.
    pub async fn reaches(&mut self, expected: &Shown) {
        let reached = tokio::time::timeout(PATIENCE, async {
            while !self.known.is(expected) {
                self.event().await.expect("the connection stays open");
            }
        });
        if reached.await.is_err() {
            let shown = self.known.shown();
            let differ = |id: &&String| shown.get(*id) != expected.get(*id);
            let ids: Vec<_> = shown.keys().chain(expected.keys()).filter(differ).take(3).collect();
            let pairs: Vec<_> = ids.iter().map(|id| (shown.get(*id), expected.get(*id))).collect();
            panic!("never shown as it is: {pairs:#?}");
        }
    }
}

/// The opening handshake with more headers.
pub async fn open(
    stream: TcpStream,
    addr: SocketAddr,
    headers: &[(&'static str, &str)],
) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
    let mut request = format!("ws://{addr}/realtime/ws").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    tokio_tungstenite::client_async(request, stream).await.map(|(socket, _)| socket)
}

/// A vehicle is within `[west, south, east, north]`.
pub fn within([west, south, east, north]: [f64; 4]) -> impl Fn(&Vehicle) -> bool {
    move |vehicle| (west..=east).contains(&vehicle.lon) && (south..=north).contains(&vehicle.lat)
}

/// An answer over HTTP.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {} bytes", self.body.len()))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

/// One request and its whole answer.
pub async fn http(addr: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request.push_str(&format!("Host: {addr}\r\n"));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an answer comes").unwrap();
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head comes");
    let head = String::from_utf8(all[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut answer = Answer { status, head, body: all[end + 4..].to_vec() };
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = unchunk(&answer.body);
    }
    answer
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = rest.windows(2).position(|window| window == b"\r\n").expect("a chunk has a size");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            return body;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
}

pub async fn get(addr: SocketAddr, path: &str) -> Answer {
    http(addr, "GET", path, &[]).await
}

/// Waits until `holds`, within the patience that everything here has.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}"));
}
