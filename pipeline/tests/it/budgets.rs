//! Streams that take more than they may, on a running program: each is taken down and says why, and nothing else is touched.
//! Would catch a budget that is not measured while a stream is built, a stream that waits for one that is gone and holds up the
//! time of all, and memory that is kept for a stream that was taken down.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::services::wait_until_async;
use crate::streams::{Running, number};

const DEADLINE: Duration = Duration::from_secs(60);
const GOOD: &str = "CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM telemetry_enriched";
/// Eight million rows of a few hundred bytes.
const CROSS_JOIN: &str = "CREATE MATERIALIZED VIEW pairs WITH (memory = '60 MB') AS
    WITH k AS (SELECT vehicle_id, plate, coalesce(NULLIF(1, length(vehicle_id) + 2), 1) AS k FROM vehicles)
    SELECT a.vehicle_id AS a, b.vehicle_id AS b, c.plate FROM k a JOIN k b ON a.k = b.k JOIN k c ON c.k = b.k";
const ARRAY: &str = "CREATE MATERIALIZED VIEW everything WITH (memory = '6 MB', retention = '7 days') AS
    SELECT company_id, date_bin(interval '1 day', ts) AS day, array_agg(device_id || ' at ' || CAST(ts AS text)) AS fixes
    FROM telemetry_enriched GROUP BY 1, 2";
const TEXT: &str = "CREATE MATERIALIZED VIEW novel WITH (memory = '6 MB') AS
    SELECT kind, string_agg(text, ', ') AS text FROM (
        SELECT 'k' AS kind, device_id || ' at ' || CAST(ts AS text) AS text FROM telemetry
        WHERE arrived_at > now() - interval '1 hour') GROUP BY kind";
const READER: &str = "CREATE MATERIALIZED VIEW reader AS SELECT count(*) AS companies FROM everything";
const BUSY: &str = "CREATE MATERIALIZED VIEW busy WITH (time = '5 %') AS
    SELECT device_id, ts, seq, sum(speed_kmh) OVER (ORDER BY ts, seq, device_id) AS s FROM telemetry
    WHERE arrived_at > now() - interval '1 hour'";

/// Adds a stream without its past, so that it is there before it has grown.
async fn add_empty(running: &Running, sql: &str) {
    let (status, told) = running.ask(Method::POST, "?history=none", sql).await;
    assert_eq!(status, 201, "{told}");
}

/// How the stream does, once its state is this one.
async fn becomes(running: &Running, name: &str, state: &str) -> Value {
    let mut told = Value::Null;
    wait_until_async(DEADLINE, &format!("{name} is {state}"), async || {
        told = running.ask(Method::GET, &format!("/{name}"), "").await.1;
        told["state"] == state
    })
    .await;
    told
}

async fn figure(running: &Running, line: &str) -> Option<f64> {
    let page = reqwest::get(format!("{}/metrics", running.program.url)).await.ok()?.text().await.ok()?;
    let found = page.lines().find(|shown| shown.starts_with(line))?;
    found.rsplit(' ').next()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_take_too_much_are_suspended_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    // So fast that what grows passes its budget soon, and so large a budget that an answer comes before.
    let options = "[simulator]\nvehicles = 200\nrate_per_s = 2000.0\n[sql]\ntime_window_ms = 1000\n";
    let running = Running::with(directory.path(), options);
    running.wait_for("vehicles are there", "SELECT count(*) FROM vehicles", |n| n == "200");
    running.add(GOOD).await;

    // Too large at once: it is never there.
    let (status, told) = running.ask(Method::POST, "", CROSS_JOIN).await;
    assert_eq!(
        (status, told["code"].as_str(), told["field"].as_str()),
        (422, Some("sql_budget_exceeded"), Some("memory"))
    );
    assert!(told["message"].as_str().is_some_and(|text| text.contains("its budget is 60000000")), "{told}");
    assert_eq!(running.ask(Method::GET, "/pairs", "").await.0, 404);
    println!("a cross join: {}", told["message"]);

    // These grow.
    for (name, sql, budget) in [("everything", ARRAY, "memory"), ("novel", TEXT, "memory"), ("busy", BUSY, "time")] {
        add_empty(&running, sql).await;
        if name == "everything" {
            add_empty(&running, READER).await;
        }
        let told = becomes(&running, name, "suspended").await;
        let reason = told["reason"].as_str().unwrap_or_default().to_owned();
        println!("{name}: {reason}");
        assert!(reason.contains(&format!("{budget} in WITH")), "{told}");
        assert_eq!(told["state_bytes"], 0, "what it kept is freed: {told}");
        // The others go on.
        let before = number(&running.sql("SELECT n FROM good"));
        running.wait_for("the others go on", "SELECT n FROM good", |n| number(n) > before + 200);
        let said = running.sql(&format!("SELECT state, reason FROM haulstream.streams WHERE name = '{name}'"));
        assert_eq!(said, format!("suspended|{reason}"));
        let counted = format!("haulstream_streams_suspended_total{{budget=\"{budget}\"}}");
        wait_until_async(DEADLINE, "it is counted", async || figure(&running, &counted).await > Some(0.0)).await;
    }
    let told = becomes(&running, "reader", "suspended").await;
    assert_eq!(told["reason"], "it reads everything, which is suspended");
    suspended_streams_are_told_of(&running).await;

    // A better version takes the place of a suspended one, and of its readers.
    let better = ARRAY.replace("array_agg(device_id || ' at ' || CAST(ts AS text))", "count(*)");
    let (status, told) = running.ask(Method::PUT, "/everything", &better).await;
    assert_eq!(status, 409, "its readers would get other columns: {told}");
    assert_eq!(running.ask(Method::DELETE, "/reader", "").await.0, 200);
    let (status, told) = running.ask(Method::PUT, "/everything?history=none", &better).await;
    assert_eq!((status, told["state"].as_str()), (200, Some("running")), "{told}");
    running.wait_for("it counts", "SELECT count(*) FROM everything WHERE fixes > 0", |n| number(n) > 0);
    let kept = becomes(&running, "good", "running").await;
    assert!(kept["state_bytes"].as_i64().is_some_and(|bytes| (1..100_000).contains(&bytes)), "{kept}");
    let gauge = "haulstream_stream_state_bytes{stream=\"everything\"}";
    wait_until_async(DEADLINE, "its size is shown", async || figure(&running, gauge).await > Some(0.0)).await;
    assert_eq!(running.ask(Method::DELETE, "/everything", "").await.0, 200);
    wait_until_async(DEADLINE, "it is gone", async || figure(&running, gauge).await == Some(0.0)).await;
    assert_eq!(running.program.stop(), Some(0));
}

/// Who reads a suspended stream, or wants to build on it, is told why not.
async fn suspended_streams_are_told_of(running: &Running) {
    let said = crate::services::psql::psql(running.postgres, None, &["-c", "SELECT * FROM everything"]);
    assert!(!said.good && said.err.contains("everything is suspended: it kept"), "{said:?}");
    let on = "CREATE MATERIALIZED VIEW more AS SELECT count(*) AS n FROM everything";
    let (status, told) = running.ask(Method::POST, "", on).await;
    assert_eq!((status, told["code"].as_str()), (409, Some("sql_stream_suspended")), "{told}");
    let answer = reqwest::get(format!("{}/v1/views/everything", running.program.url)).await.expect("an answer");
    assert_eq!(answer.status().as_u16(), 409);
}
