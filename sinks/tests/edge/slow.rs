//! Catches a slow client that costs memory, holds others up, is told what it no longer needs, or is never sent away.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::clients::{Client, PATIENCE, Running, until};
use crate::fleet::{Fleet, Vehicle};

/// Feeds so much that a client which does not read has far more waiting than any buffer on the way holds.
async fn feed_rounds(fleet: &mut Fleet, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let rows: Vec<Vehicle> =
            (0..2_000).map(|id| Vehicle { speed: Some(round as f64 + 2.0), ..Vehicle::new(id, round * 10) }).collect();
        fleet.feed(&rows).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_merge_for_a_slow_client_which_then_has_the_current_state() {
    let (server, mut fleet) = Running::start(json!({}));
    feed_rounds(&mut fleet, 0..1).await;
    let mut slow = Client::narrow(server.addr, 16 * 1_024).await;
    let mut quick = Client::subscribe(server.addr, json!({})).await;
    slow.ask(json!({})).await;
    let reading = tokio::spawn(async move {
        let last = json!(101.0);
        while quick.known.rows["veh-001999"]["speed_kmh"] != last {
            quick.event().await.expect("the connection stays open");
        }
        quick
    });
    feed_rounds(&mut fleet, 1..100).await;
    let quick = tokio::time::timeout(PATIENCE, reading).await.expect("a slow client holds up no other").unwrap();
    let expected = fleet.expected(|_| true);
    assert_eq!(quick.known.shown(), expected);
    slow.reaches(&expected).await;
    let (few, many) = (slow.known.delta_rows, quick.known.delta_rows);
    println!("2,000 vehicles changed 99 times: the slow client was told {few} rows, the quick one {many}");
    assert!(few * 2 < many, "the slow client is told fewer rows: {few} of {many}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_later_than_the_ring_starts_again_from_a_snapshot() {
    let (server, mut fleet) = Running::start(json!({ "ring_rows_max": 4_000 }));
    feed_rounds(&mut fleet, 0..1).await;
    let mut slow = Client::narrow(server.addr, 16 * 1_024).await;
    slow.ask(json!({})).await;
    feed_rounds(&mut fleet, 1..60).await;
    slow.reaches(&fleet.expected(|_| true)).await;
    assert!(slow.known.snapshots >= 2, "{}", slow.known.snapshots);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stays_slow_is_sent_away_with_the_reason() {
    let (server, mut fleet) = Running::start(json!({ "slow_ms": 1_000, "connections_max": 2 }));
    feed_rounds(&mut fleet, 0..1).await;
    let mut slow = Client::narrow(server.addr, 16 * 1_024).await;
    slow.send(json!({ "type": "subscribe", "id": "1" })).await;
    let mut quick = Client::subscribe(server.addr, json!({})).await;
    let start = Instant::now();
    let reading = tokio::spawn(async move {
        while start.elapsed() < Duration::from_secs(3) {
            quick.event().await.expect("the quick client stays");
        }
    });
    let mut round = 1;
    while !reading.is_finished() {
        feed_rounds(&mut fleet, round..round + 1).await;
        round += 1;
    }
    tokio::time::timeout(PATIENCE, reading).await.unwrap().unwrap();
    // Only now it reads: what was in the pipe, then why it ends.
    let (code, reason, bye) = slow.closed().await;
    assert_eq!((code, reason.as_str()), (1013, "slow_consumer"));
    assert_eq!((&bye["type"], &bye["reason"]), (&json!("bye"), &json!("slow_consumer")));
    assert!(bye["retry_after_ms"].as_u64().unwrap() >= 1_000);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_again_leaves_its_place() {
    let (server, mut fleet) = Running::start(json!({ "slow_ms": 500, "connections_max": 1 }));
    feed_rounds(&mut fleet, 0..1).await;
    let mut dead = Client::narrow(server.addr, 16 * 1_024).await;
    dead.send(json!({ "type": "subscribe", "id": "1" })).await;
    feed_rounds(&mut fleet, 1..100).await;
    let addr = server.addr;
    until("the place is free again", async || {
        let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
        crate::clients::open(stream, addr, &[]).await.is_ok()
    })
    .await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thin_line_gets_a_long_snapshot_as_long_as_it_moves() {
    let (server, mut fleet) = Running::start(json!({ "slow_ms": 700, "outbox_bytes_max": 32_768 }));
    fleet.feed(&(0..4_000).map(|id| Vehicle::new(id, 10)).collect::<Vec<_>>()).await;
    let mut thin = Client::narrow(server.addr, 16 * 1_024).await;
    thin.send(json!({ "type": "subscribe", "id": "1" })).await;
    let start = Instant::now();
    while !thin.known.ready {
        // About 16 KiB each 20 ms.
        thin.next().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() > Duration::from_millis(1_400), "it took twice as long as a slow client is borne with");
    assert_eq!(thin.known.shown(), fleet.expected(|_| true));
    server.stop().await;
}
