//! What the edge costs: time and bytes a row on its way from a batch to JSON, memory a vehicle, memory a connection.
//! `cargo bench -p sinks --bench edge [-- VEHICLES]`; prints, and fails only where a million vehicles would not fit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::datatypes::DataType;
use operators::batch::{DELETED, TICK};
use operators::record::output::vehicle_state;
use sinks::edge::{Edge, EdgeSink, Options, STREAM};
use sinks::{Rows, Sink, Step};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use warp::Filter;

const VEHICLES: usize = 100_000;
const BATCH_ROWS: usize = 10_000;
const CONNECTIONS: usize = 1_000;

/// Rows of the vehicles `range` with every column filled, as they are in `round`.
fn batch(range: std::ops::Range<usize>, round: u64) -> RecordBatch {
    let schema = vehicle_state();
    let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(range.clone().map(text)))
    };
    let column = |name: &str, kind: &DataType| -> ArrayRef {
        match name {
            "vehicle_id" => texts(&|n| format!("veh-{n:07}")),
            "device_id" => texts(&|n| format!("862531040{n:06}")),
            "plate" => texts(&|n| format!("HB {n:06}")),
            "model" => texts(&|n| format!("Actros {}", n % 20)),
            "group_ids" => texts(&|n| format!("[\"north\",\"g{}\"]", n % 50)),
            "company_id" | "company_name" | "tariff_id" | "tariff_name" => texts(&|n| format!("{name}-{}", n % 500)),
            "driver_id" => texts(&|n| format!("drv-{n:07}")),
            "driver_name" => texts(&|n| format!("Maria Schneider {n}")),
            "driver_phone" => texts(&|n| format!("+49 170 {n:07}")),
            "status" => texts(&|n| ["moving", "idle", "parked", "offline"][n % 4].to_owned()),
            DELETED => Arc::new(BooleanArray::from(vec![false; range.len()])),
            TICK => Arc::new(UInt64Array::from(vec![round * 500 + 1; range.len()])),
            _ => {
                // What a moving vehicle changes, changes with the round.
                let moves = ["lat", "lon", "speed_kmh", "heading_deg", "ts", "seq", "odometer_km"].contains(&name);
                let round = if moves { round } else { 0 };
                let value = |n: usize| 48.0 + (n as f64) / 1e5 + round as f64 / 1e4;
                match kind {
                    DataType::Float64 => Arc::new(Float64Array::from_iter_values(range.clone().map(value))),
                    DataType::Int64 => {
                        let value = |n| 1_770_000_000_000 + n as i64 + round as i64 * 500;
                        Arc::new(Int64Array::from_iter_values(range.clone().map(value)))
                    }
                    DataType::Int32 => Arc::new(Int32Array::from(vec![9; range.len()])),
                    DataType::Boolean => Arc::new(BooleanArray::from(vec![true; range.len()])),
                    other => panic!("{name}: {other}"),
                }
            }
        }
    };
    let columns = schema.fields().iter().map(|field| column(field.name(), field.data_type())).collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns match the schema")
}

fn options() -> Options {
    serde_json::from_value(serde_json::json!({
        "allow_remote": false, "origins": "", "server_id": "bench", "http_connections_max": 10_000,
        "head_ms_max": 10_000, "stall_ms_max": 60_000, "send_buffer_bytes": 262_144, "snapshots_max": 32,
        "snapshot_ms_max": 60_000, "connections_max": 10_000, "subscriptions_max": 50, "vehicles_max": 10_000,
        "message_bytes_max": 65_536, "messages_per_minute_max": 100, "strikes_max": 10, "outbox_bytes_max": 262_144,
        "slow_ms": 30_000, "delta_ms": 500, "gather_ms": 10, "heartbeat_ms": 25_000, "pong_ms_max": 10_000,
        "idle_ms": 60_000, "ring_rows_max": 200_000, "shutdown_ms_max": 1_000, "retry_ms_min": 1_000,
    }))
    .expect("the options are whole")
}

/// Feeds all vehicles as they are in `round`; the time that the sink took a row, in nanoseconds.
async fn feed(sink: &mut EdgeSink, vehicles: usize, round: u64) -> f64 {
    let mut spent = Duration::ZERO;
    for start in (0..vehicles).step_by(BATCH_ROWS) {
        let rows = batch(start..(start + BATCH_ROWS).min(vehicles), round);
        let upto = round * 500 + 2;
        let step = Step { stream: STREAM, worker: 0, from: 0, upto, rows: vec![Rows::Upsert(rows)] };
        let begun = Instant::now();
        sink.apply(&step).await.expect("the edge takes its own schema");
        spent += begun.elapsed();
    }
    spent.as_nanos() as f64 / vehicles as f64
}

/// Resident memory of this process in bytes.
fn resident_bytes() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells it");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<f64>().ok()).expect("the second number") * 4_096.0
}

/// Opens a WebSocket and subscribes, without a client's library and its buffers; reads up to the end of the snapshot.
async fn watch(addr: SocketAddr, filter: &str) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.expect("the edge listens");
    let head = format!(
        "GET /realtime/ws HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let text = format!("{{\"type\":\"subscribe\",\"id\":\"1\"{filter}}}");
    let mut bytes = head.into_bytes();
    bytes.extend([0x81, 0x80 | text.len() as u8, 0, 0, 0, 0]);
    bytes.extend(text.as_bytes());
    stream.write_all(&bytes).await.expect("the edge reads");
    read_until(&mut stream, b"\"more\":false}").await;
    stream
}

/// Reads until `end` is what was read last; the bytes read.
async fn read_until(stream: &mut TcpStream, end: &[u8]) -> usize {
    let (mut buf, mut tail, mut bytes) = (vec![0; 1 << 16], Vec::new(), 0);
    while !tail.ends_with(end) {
        let read = stream.read(&mut buf).await.expect("the edge writes");
        assert!(read > 0, "the edge closed the connection");
        bytes += read;
        tail.extend_from_slice(&buf[..read]);
        tail.drain(..tail.len().saturating_sub(64));
    }
    bytes
}

async fn run(vehicles: usize) {
    let (edge, mut sink) = Edge::new(options());
    let none = warp::any().and_then(|| async { Err(warp::reject::not_found()) }).boxed();
    let server = edge.bind("127.0.0.1:0".parse().expect("an address"), none).expect("a free port");
    let addr = server.addr();
    tokio::spawn(server.run(std::future::pending()));

    let before = resident_bytes();
    let first = feed(&mut sink, vehicles, 0).await;
    let (rows, bytes) = edge.size();
    let resident = (resident_bytes() - before) / vehicles as f64;
    let again = feed(&mut sink, vehicles, 1).await;
    println!("{vehicles} vehicles: taken in {first:.0} ns a row, changed {again:.0} ns a row without watchers");
    println!("memory: {} bytes a row by its own count, {resident:.0} resident", bytes / rows);
    assert!(bytes / rows < 500, "a million vehicles stay well below 1 GB");

    let begun = Instant::now();
    let mut watcher = watch(addr, "").await;
    let snapshot = begun.elapsed().as_nanos() as f64 / vehicles as f64;
    let mut ends = Vec::new();
    for round in 2..7 {
        let fed = feed(&mut sink, vehicles.min(50_000), round).await;
        let begun = Instant::now();
        let last = format!("{{\"vehicle_id\":\"veh-{:07}\"", vehicles.min(50_000) - 1);
        let bytes = read_delta(&mut watcher, last.as_bytes()).await;
        ends.push((fed, begun.elapsed(), bytes));
    }
    let (fed, took, bytes) = ends[ends.len() / 2];
    let changed = vehicles.min(50_000);
    println!("snapshot over WebSocket: {snapshot:.0} ns a row");
    println!(
        "delta of {changed} rows: taken in {fed:.0} ns a row, at the client {:.1} ms later ({:.0} ns a row), {} bytes a row",
        took.as_secs_f64() * 1e3,
        took.as_nanos() as f64 / changed as f64,
        bytes / changed,
    );
    drop(watcher);

    let before = resident_bytes();
    let mut watchers = Vec::new();
    for n in 0..CONNECTIONS {
        watchers.push(watch(addr, &format!(",\"vehicle\":[\"veh-{n:07}\"]")).await);
    }
    let few = (resident_bytes() - before) / CONNECTIONS as f64;
    println!("{CONNECTIONS} connections, each watching one vehicle: {:.1} KiB resident each", few / 1_024.0);
    let begun = Instant::now();
    feed(&mut sink, CONNECTIONS, 9).await;
    for watcher in &mut watchers {
        read_until(watcher, b"]}").await;
    }
    println!("all of them told of a change {:.0} ms after it began", begun.elapsed().as_secs_f64() * 1e3);
    drop(watchers);
    let before = resident_bytes();
    let mut watchers = Vec::new();
    for _ in 0..100 {
        watchers.push(watch(addr, ",\"company\":[\"company_id-7\"]").await);
        watchers.push(watch(addr, ",\"bounds\":[48,48,48.02,48.02]").await);
    }
    let many = (resident_bytes() - before) / watchers.len() as f64;
    println!("200 connections with larger snapshots: {:.1} KiB resident each", many / 1_024.0);
}

/// Reads a delta, whichever way it is split, to the message that holds `last`; the bytes read.
async fn read_delta(stream: &mut TcpStream, last: &[u8]) -> usize {
    let (mut buf, mut window, mut bytes) = (vec![0; 1 << 16], Vec::new(), 0);
    loop {
        let read = stream.read(&mut buf).await.expect("the edge writes");
        assert!(read > 0, "the edge closed the connection");
        bytes += read;
        window.extend_from_slice(&buf[..read]);
        if window.windows(last.len()).any(|part| part == last) {
            return bytes;
        }
        window.drain(..window.len().saturating_sub(last.len()));
    }
}

fn main() {
    let vehicles = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(VEHICLES);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(vehicles));
}
