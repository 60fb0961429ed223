//! Catches a client that misses a change, is told one twice, or goes back in time: between snapshot and deltas, when its
//! filter moves, when it comes back, and when two hundred of them watch.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::clients::{Client, Known, Running, get, until, within};
use crate::fleet::{Fleet, Random, Shown, Vehicle};

fn filters(random: &mut Random) -> (Value, Box<dyn Fn(&Vehicle) -> bool + Send>) {
    let (west, south) = (random.float(0.0, 10.0), random.float(46.0, 56.0));
    let bounds = [west, south, west + 4.0, south + 4.0];
    let company = random.below(5);
    match random.below(4) {
        0 => (json!({}), Box::new(|_| true)),
        1 => (json!({ "company": [format!("c{company}")] }), Box::new(move |v| v.company == company)),
        2 => (json!({ "bounds": bounds }), Box::new(within(bounds))),
        _ => {
            let ids: Vec<String> = (0..40).map(|_| format!("veh-{:06}", random.below(150))).collect();
            (json!({ "vehicle": ids.clone() }), Box::new(move |vehicle| ids.contains(&vehicle.id)))
        }
    }
}

/// Clients that come, watch for a while, perhaps look elsewhere, and go; the last ones stay to the end.
async fn come_and_go(
    addr: std::net::SocketAddr,
    seed: u64,
    mut fed: tokio::sync::watch::Receiver<Option<Shown>>,
) -> usize {
    let (mut random, mut visits) = (Random::new(seed), 0);
    loop {
        visits += 1;
        let (filter, mut admits) = filters(&mut random);
        let mut client = Client::subscribe(addr, filter).await;
        let deltas_max = random.below(60) as usize;
        while client.known.deltas < deltas_max && fed.borrow().is_none() {
            tokio::select! {
                event = client.event() => drop(event.expect("the connection stays open")),
                _ = fed.changed() => {}
            }
        }
        if fed.borrow().is_none() && random.below(2) == 0 {
            let (filter, other) = filters(&mut random);
            let mut update = json!({ "type": "update", "id": "1", "company": [], "vehicle": [], "bounds": null });
            update.as_object_mut().unwrap().extend(filter.as_object().unwrap().clone());
            client.send(update).await;
            admits = other;
            for _ in 0..random.below(30) {
                tokio::select! {
                    event = client.event() => drop(event.expect("the connection stays open")),
                    _ = fed.changed() => break,
                }
            }
        }
        let end = fed.borrow().clone();
        if let Some(all) = end {
            let vehicle = |row: &serde_json::Map<String, Value>| Vehicle {
                id: row["vehicle_id"].as_str().unwrap().to_owned(),
                company: row["company_id"].as_str().unwrap()[1..].parse().unwrap(),
                lat: row["lat"].as_f64().unwrap(),
                lon: row["lon"].as_f64().unwrap(),
                ..Vehicle::new(0, 0)
            };
            let expected = all.into_iter().filter(|(_, row)| admits(&vehicle(row))).collect();
            client.reaches(&expected).await;
            return visits;
        }
    }
}

async fn feed_many(fleet: &mut Fleet, random: &mut Random, steps: u64) {
    for step in 0..steps {
        let rows = fleet.drive(random, 1_000 + step * 10, 150, 20);
        fleet.feed(&rows).await;
        if step % 4 == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_and_go_under_updates_end_with_the_current_state() {
    let seed = 20_261_121;
    let (server, mut fleet) = Running::start(json!({ "messages_per_minute_max": 10_000 }));
    let (tell, fed) = tokio::sync::watch::channel(None);
    let clients: Vec<_> = (0..24).map(|n| tokio::spawn(come_and_go(server.addr, seed + n, fed.clone()))).collect();
    let mut random = Random::new(seed);
    feed_many(&mut fleet, &mut random, 4_000).await;
    let expected = fleet.expected(|_| true);
    tell.send_replace(Some(expected.clone()));
    let mut visits = 0;
    for client in clients {
        visits += client.await.unwrap();
    }
    println!("seed {seed}: 80,000 updates, {visits} visits of 24 clients, {} vehicles at the end", expected.len());
    assert!(visits > 48, "clients came and went while there were updates: {visits}");
    let mut http = Known::default();
    let mut snapshot = get(server.addr, "/realtime/snapshot").await.json();
    snapshot["type"] = "snapshot".into();
    snapshot["more"] = false.into();
    http.take(&snapshot, 0);
    assert_eq!(http.shown(), expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_starts_within_a_step_misses_nothing() {
    // Each round a client subscribes while a step of many rows is being taken in and nothing follows that would heal a gap.
    let (server, mut fleet) = Running::start(json!({}));
    for round in 0..60u64 {
        let rows: Vec<Vehicle> =
            (0..3_000).map(|id| Vehicle { speed: Some(round as f64), ..Vehicle::new(id, round) }).collect();
        let addr = server.addr;
        let client = tokio::spawn(async move { Client::subscribe(addr, json!({})).await });
        fleet.feed(&rows).await;
        client.await.unwrap().reaches(&fleet.expected(|_| true)).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn who_leaves_the_filter_is_removed_and_who_enters_comes_whole() {
    let (server, mut fleet) = Running::start(json!({}));
    let at = |id, tick, lon, company| Vehicle { lat: 50.0, lon, company, ..Vehicle::new(id, tick) };
    fleet.feed(&[at(1, 10, 5.0, 1), at(2, 10, 5.0, 1), at(3, 10, 9.0, 1)]).await;
    let mut by_bounds = Client::subscribe(server.addr, json!({ "bounds": [4.0, 49.0, 6.0, 51.0] })).await;
    let mut by_company = Client::subscribe(server.addr, json!({ "company": "c1", "fields": ["lon"] })).await;
    assert_eq!(by_bounds.known.rows.len(), 2);
    assert_eq!(by_company.known.rows.len(), 3);
    // 1 leaves the bounds, 3 enters them, 2 changes its company.
    fleet.feed(&[at(1, 20, 7.0, 1), at(3, 20, 5.5, 1), at(2, 20, 5.0, 2)]).await;
    let delta = by_bounds.next().await;
    assert_eq!(delta["remove"], json!(["veh-000001"]));
    let upserts = delta["upsert"].as_array().unwrap();
    let changed = json!({
        "vehicle_id": "veh-000002", "version": 20, "ts": 20, "company_id": "c2", "company_name": "Company 2",
    });
    assert!(upserts.contains(&changed), "{delta}");
    let mut whole = Value::Object(at(3, 20, 5.5, 1).shown());
    whole["version"] = 20.into();
    assert!(upserts.contains(&whole), "{delta}");
    let delta = by_company.next().await;
    assert_eq!(delta["remove"], json!(["veh-000002"]));
    assert!(
        delta["upsert"].as_array().unwrap().contains(&json!({ "vehicle_id": "veh-000001", "version": 20, "lon": 7.0 }))
    );
    // The map pans: what comes into view is whole, what leaves it is removed.
    by_bounds.send(json!({ "type": "update", "id": "1", "bounds": [6.5, 49.0, 8.0, 51.0] })).await;
    let delta = by_bounds.next().await;
    assert_eq!(delta["remove"].as_array().unwrap().len(), 2);
    let mut whole = Value::Object(at(1, 20, 7.0, 1).shown());
    whole["version"] = 20.into();
    assert_eq!(delta["upsert"], json!([whole]));
    // Other fields mean other rows: a new snapshot.
    by_company.send(json!({ "type": "update", "id": "1", "fields": ["plate"], "company": ["c2"] })).await;
    let snapshot = by_company.next().await;
    assert_eq!(snapshot["rows"], json!([{ "vehicle_id": "veh-000002", "version": 20, "plate": "PL \"veh-000002\"" }]));
    // A filter by group, and one that nothing meets: its update is answered all the same.
    let mut by_group = Client::subscribe(server.addr, json!({ "group": ["ü"], "fields": ["status"] })).await;
    assert_eq!(by_group.known.rows.len(), 3);
    by_group.send(json!({ "type": "update", "id": "1", "group": ["south"] })).await;
    assert_eq!(by_group.next().await["remove"].as_array().unwrap().len(), 3);
    server.stop().await;
}

#[tokio::test]
async fn several_subscriptions_and_a_slower_pace_live_on_one_connection() {
    let (server, mut fleet) = Running::start(json!({}));
    fleet.feed(&(0..10).map(|id| Vehicle::new(id, 10)).collect::<Vec<_>>()).await;
    let mut client = Client::connect(server.addr).await;
    for (id, rest) in [("fast", json!({ "company": ["c1"] })), ("slow", json!({ "max_rate_ms": 400 }))] {
        let mut message = json!({ "type": "subscribe", "id": id });
        message.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        client.send(message).await;
    }
    let (start, mut counts) = (Instant::now(), std::collections::BTreeMap::<String, usize>::new());
    let mut tick = 10;
    while start.elapsed() < Duration::from_millis(1_500) {
        tick += 10;
        fleet.feed(&[Vehicle { speed: Some(tick as f64), ..Vehicle::new(1, tick) }]).await;
        let soon = tokio::time::timeout(Duration::from_millis(30), client.socket_message()).await;
        if let Ok(message) = soon
            && message["type"] == "delta"
        {
            *counts.entry(message["id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert!(counts["fast"] >= 3 * counts["slow"] && (2..=5).contains(&counts["slow"]), "{counts:?}");
    client.send(json!({ "type": "unsubscribe", "id": "fast" })).await;
    client.send(json!({ "type": "ping" })).await;
    until("the pong comes", async || client.socket_message().await["type"] == "pong").await;
    fleet.feed(&[Vehicle { speed: Some(1.0), ..Vehicle::new(1, tick + 10) }]).await;
    let delta = client.socket_message().await;
    assert_eq!((&delta["type"], &delta["id"]), (&json!("delta"), &json!("slow")));
    server.stop().await;
}

impl Client {
    /// The next message as it comes, not taken in: several subscriptions do not make one state.
    async fn socket_message(&mut self) -> Value {
        use futures_util::StreamExt;
        loop {
            let message = self.socket.next().await.expect("the connection stays open").unwrap();
            if let Ok(text) = message.to_text()
                && message.is_text()
            {
                return serde_json::from_str(text).unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_clients_all_see_the_same() {
    let (server, mut fleet) = Running::start(json!({ "delta_ms": 100 }));
    let mut random = Random::new(7);
    fleet.feed(&(0..1_000).map(|id| Vehicle::new(id, 10)).collect::<Vec<_>>()).await;
    let joins: Vec<_> = (0..200).map(|_| tokio::spawn(Client::subscribe(server.addr, json!({})))).collect();
    let mut clients = Vec::new();
    for join in joins {
        clients.push(join.await.unwrap());
    }
    let (mut updates, start) = (0, Instant::now());
    let (tell, told) = tokio::sync::watch::channel(None);
    let tasks: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            let mut told = told.clone();
            tokio::spawn(async move {
                while told.borrow().is_none() {
                    tokio::select! {
                        event = client.event() => drop(event.expect("the connection stays open")),
                        _ = told.changed() => {}
                    }
                }
                let expected: std::sync::Arc<Shown> = told.borrow().clone().unwrap();
                client.reaches(&expected).await;
                client.known
            })
        })
        .collect();
    for step in 1..=80 {
        let rows = fleet.drive(&mut random, 1_000 + step * 20, 1_000, 40);
        updates += rows.len();
        fleet.feed(&rows).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tell.send_replace(Some(std::sync::Arc::new(fleet.expected(|_| true))));
    let (mut messages, mut bytes, mut rows) = (0, 0, 0);
    for task in tasks {
        let known = task.await.unwrap();
        assert_eq!(known.snapshots, 1);
        (messages, bytes, rows) = (messages + known.deltas, bytes + known.delta_bytes, rows + known.delta_rows);
    }
    println!(
        "200 clients, {updates} updates in {:.1} s: {messages} deltas, {} bytes each, {} bytes a row",
        start.elapsed().as_secs_f64(),
        bytes / messages,
        bytes / rows,
    );
    server.stop().await;
}
