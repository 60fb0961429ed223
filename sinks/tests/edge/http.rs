//! Catches a snapshot that is not what was asked for, an error that does not say what is wrong, and a page that a browser
//! could not use.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

use crate::clients::{Running, get, http, until};
use crate::fleet::Vehicle;

fn ids(answer: &Value) -> Vec<&str> {
    answer["rows"].as_array().unwrap().iter().map(|row| row["vehicle_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn snapshots_hold_what_was_asked_for() {
    let (server, mut fleet) = Running::start(json!({}));
    let addr = server.addr;
    let empty = get(addr, "/realtime/snapshot").await;
    assert_eq!((empty.status, empty.json()), (200, json!({ "version": 0, "rows": [] })));
    assert_eq!(empty.header("content-type"), Some("application/json"));
    fleet.feed(&(0..10).map(|id| Vehicle::new(id, 10 + id)).collect::<Vec<_>>()).await;
    fleet.feed(&[Vehicle { deleted: true, ..Vehicle::new(9, 30) }]).await;
    let all = get(addr, "/realtime/snapshot").await.json();
    assert_eq!((ids(&all).len(), &all["version"]), (9, &json!(30)));
    let mut first = Value::Object(Vehicle::new(0, 10).shown());
    first["version"] = 10.into();
    assert_eq!(all["rows"][0], first);
    let some = |query: &'static str| async move {
        let answer = get(addr, &format!("/realtime/snapshot?{query}")).await.json();
        ids(&answer).into_iter().map(|id| id[9..].to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(some("company=c1").await, "1 6");
    assert_eq!(some("company=c1,c2&vehicle=veh-000001&vehicle=veh-000002,veh-000003").await, "1 2");
    assert_eq!(some("bounds=2.15,48.15,2.4,49").await, "2 3");
    assert_eq!(some("bounds=2.15%2C48.15%2C2.4%2C49&company=c3").await, "3");
    assert_eq!(some("group=%C3%BC").await.len(), 17);
    assert_eq!(some("company=nobody").await, "");
    let narrow = get(addr, "/realtime/snapshot?vehicle=veh-000003&fields=lat,status").await.json();
    assert_eq!(
        narrow["rows"],
        json!([{ "vehicle_id": "veh-000003", "version": 13, "lat": 48.375, "status": "moving" }])
    );
    assert_eq!(get(addr, "/extra").await.body, b"more");
    server.stop().await;
}

#[tokio::test]
async fn mistakes_are_answered_in_one_shape() {
    let (server, _fleet) = Running::start(json!({}));
    let long = format!("/realtime/snapshot?vehicle={}", "x".repeat(10_000));
    let many = format!("/realtime/snapshot?vehicle={}", vec!["v"; 10_001].join(","));
    for (method, path, status, code, field) in [
        ("GET", "/realtime/snapshot?bounds=1,2,3", 400, "bounds_invalid", "bounds"),
        ("GET", "/realtime/snapshot?bounds=0,50,1,40", 400, "bounds_invalid", "bounds"),
        ("GET", "/realtime/snapshot?bounds=a,b,c,d", 400, "bounds_invalid", "bounds"),
        ("GET", "/realtime/snapshot?fields=lat,speed", 400, "field_unknown", "fields"),
        ("GET", "/realtime/snapshot?comapny=1", 400, "field_unknown", "comapny"),
        ("GET", "/realtime/snapshot?company=", 400, "id_invalid", "company"),
        ("GET", "/realtime/snapshot?company=a%00b", 400, "id_invalid", "company"),
        ("GET", "/realtime/snapshot?vehicle=%F0%9F%9A%9A", 400, "id_invalid", "vehicle"),
        ("GET", "/realtime/snapshot?vehicle=%27%20OR%201", 400, "id_invalid", "vehicle"),
        ("GET", "/realtime/snapshot?vehicle=%FF", 400, "id_invalid", "vehicle"),
        ("GET", &long, 400, "id_invalid", "vehicle"),
        ("GET", &many, 400, "vehicle_limit", "vehicle"),
        ("GET", "/nothing", 404, "not_found", ""),
        ("GET", "/../Cargo.toml", 404, "not_found", ""),
        ("GET", "/realtime/ws", 426, "upgrade_required", ""),
        ("POST", "/realtime/snapshot", 405, "method_not_allowed", ""),
        ("DELETE", "/", 405, "method_not_allowed", ""),
    ] {
        let answer = http(server.addr, method, path, &[]).await;
        let error = answer.json();
        let place = &error["where"];
        assert_eq!((answer.status, error["code"].as_str().unwrap()), (status, code), "{method} {path:.80}: {error}");
        assert_eq!(place["field"].as_str().unwrap_or_default(), field, "{error}");
        assert_eq!(place["interface"], "http");
        assert!(answer.body.len() < 1_000, "{error}");
    }
    let error = get(server.addr, "/realtime/snapshot?fields=speed_kph").await.json();
    assert_eq!(error["message"], "no field \"speed_kph\"; did you mean \"speed_kmh\"?");
    let foreign = http(server.addr, "GET", "/realtime/snapshot", &[("Origin", "https://evil.example")]).await;
    assert_eq!((foreign.status, foreign.json()["code"].as_str()), (403, Some("origin_not_allowed")));
    let rebound = http(server.addr, "GET", "/", &[("Host", "evil.example")]).await;
    assert_eq!((rebound.status, rebound.json()["code"].as_str()), (403, Some("host_not_allowed")));
    server.stop().await;
}

#[tokio::test]
async fn snapshot_readers_are_limited_in_number_and_time() {
    let (server, mut fleet) =
        Running::start(json!({ "snapshots_max": 1, "snapshot_ms_max": 600, "stall_ms_max": 600 }));
    fleet.feed(&(0..5_000).map(|id| Vehicle::new(id, 10)).collect::<Vec<_>>()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8_192).unwrap();
    let mut lazy = socket.connect(server.addr).await.unwrap();
    let request = format!("GET /realtime/snapshot HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr);
    lazy.write_all(request.as_bytes()).await.unwrap();
    let mut first = [0; 12];
    lazy.read_exact(&mut first).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    let refused = get(server.addr, "/realtime/snapshot").await;
    assert_eq!((refused.status, refused.json()["code"].as_str()), (503, Some("snapshot_limit")));
    assert!(refused.header("retry-after").is_some());
    until("the reader that does not read is given up", async || {
        get(server.addr, "/realtime/snapshot").await.status == 200
    })
    .await;
    server.stop().await;
}

#[tokio::test]
async fn the_page_is_served_whole_and_locked_down() {
    let (server, _fleet) = Running::start(json!({}));
    let index = get(server.addr, "/").await;
    assert_eq!((index.status, index.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = index.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'self'") && policy.contains("worker-src 'self' blob:"), "{policy}");
    assert_eq!(index.header("x-content-type-options"), Some("nosniff"));
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/edge/page");
    let html = String::from_utf8(index.body).unwrap();
    // Everything that the page names is there, with the type that a browser insists on.
    let named: Vec<&str> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| html.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap()))
        .filter(|link| !link.starts_with('#') && !link.starts_with("data:"))
        .collect();
    assert!(named.len() >= 4, "{named:?}");
    for name in named {
        let file = get(server.addr, &format!("/{name}")).await;
        assert_eq!(file.status, 200, "{name}");
        assert_eq!(file.body, std::fs::read(page.join(name)).unwrap(), "{name}");
        let wanted = match name.rsplit('.').next().unwrap() {
            "js" | "mjs" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            other => panic!("what type is {other}?"),
        };
        assert_eq!(file.header("content-type"), Some(wanted), "{name}");
        let tag = file.header("etag").unwrap().to_owned();
        let again = http(server.addr, "GET", &format!("/{name}"), &[("If-None-Match", &tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
        let head = http(server.addr, "HEAD", &format!("/{name}"), &[]).await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{name}");
    }
    server.stop().await;
}
