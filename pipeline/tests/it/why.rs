//! Keys followed on a running program: over HTTP and by the command. Would catch: an answer that is not what the stream holds, a
//! reason that is none, a log that is read for ever, two that are read at once, and a client that has gone and is worked for.

use std::process::Command;
use std::time::Duration;

use reqwest::{Method, Url};
use serde_json::Value;

use crate::services::{wait_until, wait_until_async};
use crate::streams::{Running, number};

const MOVING: &str = "CREATE MATERIALIZED VIEW moving WITH (key = 'device_id, minute', retention = '1 hour') AS
    SELECT device_id, date_bin(interval '1 minute', ts) AS minute, count(*) AS n, max(speed_kmh) AS top
    FROM telemetry_enriched WHERE speed_kmh > 20 GROUP BY 1, 2";
const FLYING: &str = "CREATE MATERIALIZED VIEW flying WITH (key = 'company_id') AS
    SELECT e.company_id, count(*) AS n FROM telemetry_enriched e JOIN companies c ON c.company_id = e.company_id
    WHERE e.speed_kmh > 1000 GROUP BY 1";
const PLATES: &str = "CREATE MATERIALIZED VIEW plates WITH (key = 'vehicle_id') AS
    SELECT v.vehicle_id, v.plate, c.name FROM vehicles v JOIN companies c ON c.company_id = v.company_id";

/// Asks by these parts of a query.
async fn why(running: &Running, name: &str, query: &[(&str, &str)]) -> (u16, Value) {
    let mut url = Url::parse("http://any/").expect("as it should be");
    url.query_pairs_mut().extend_pairs(query);
    let query = url.query().expect("as it should be");
    running.ask(Method::GET, &format!("/{name}/why?{query}"), "").await
}

/// What the operators of this name say, the lowest last.
fn lines<'a>(line: &'a Value, operator: &str, found: &mut Vec<&'a Value>) {
    if line["operator"] == operator {
        found.push(line);
    }
    line["inputs"].as_array().into_iter().flatten().for_each(|input| lines(input, operator, found));
}

fn command(running: &Running, arguments: &[&str]) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
    command.args(["sql", "why"]).args(arguments).args(["--server", &running.program.url]);
    let done = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.success(), text(&done.stdout), text(&done.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_followed_to_where_it_ends() {
    let directory = tempfile::tempdir().expect("as it should be");
    let running = Running::start(directory.path(), "");
    for text in [MOVING, FLYING, PLATES] {
        running.add(text).await;
    }
    running.wait_for("vehicles move", "SELECT count(*) FROM moving WHERE n > 3", |n| number(n) > 10);
    let key = running.sql("SELECT device_id, minute FROM moving ORDER BY n DESC, device_id LIMIT 1");

    let (status, told) = why(&running, "moving", &[("key", &key)]).await;
    assert_eq!((status, &told["found"]), (200, &Value::Bool(true)), "{told:#}");
    // What the stream holds and what comes out of the log are the same, or a note would say so.
    assert_eq!(told["notes"], Value::Array(Vec::new()), "{told:#}");
    let n = told["rows"][0]["n"].as_i64().expect("a count");
    let said = told["says"].as_str().expect("a sentence");
    assert!(said.starts_with("in moving since ") && said.contains(&format!("made of {n} rows of")), "{told:#}");
    let mut sources = Vec::new();
    lines(&told["plan"], "Get", &mut sources);
    assert_eq!(sources.len(), 1);
    assert!(sources[0]["came"].as_i64() >= Some(n) && sources[0]["read"].as_i64() > Some(n), "{told:#}");
    assert!(told["read"]["complete"] == true && told["read"]["messages"].as_i64() > Some(n), "{told:#}");

    let device = key.split('|').next().expect("two parts");
    let (_, told) = why(&running, "moving", &[("key", &format!("{device}|2020-01-01T00:00:00"))]).await;
    let said = told["says"].as_str().expect("a sentence");
    assert!(
        said.starts_with(&format!("not in moving: no row of telemetry_enriched has device_id = '{device}'")),
        "{said}"
    );
    assert_eq!((&told["found"], &told["plan"]["now"]), (&Value::Bool(false), &Value::from(0)));

    let company = running.sql("SELECT min(company_id) FROM companies");
    let (_, told) = why(&running, "flying", &[("key", &company)]).await;
    let said = told["says"].as_str().expect("a sentence");
    assert!(said.contains("none passes speed_kmh > 1000 (the nearest: "), "{said}");
    let mut filters = Vec::new();
    lines(&told["plan"], "Map", &mut filters);
    let filter = filters.iter().find(|line| !line["checks"].as_array().is_none_or(Vec::is_empty)).expect("a filter");
    assert!(filter["stops"] == true && filter["checks"][0]["of"].as_i64() > Some(0), "{told:#}");

    let vehicle = running.sql("SELECT min(vehicle_id) FROM plates");
    let (_, told) = why(&running, "plates", &[("key", &vehicle)]).await;
    assert_eq!(told["read"], Value::Null, "tables are kept: {told:#}");
    assert_eq!(
        told["rows"][0]["plate"],
        running.sql(&format!("SELECT plate FROM plates WHERE vehicle_id = '{vehicle}'"))
    );
    refuses(&running, &key).await;
    by_the_command(&running, &key, &vehicle);
    assert_eq!(running.program.stop(), Some(0));
}

async fn refuses(running: &Running, key: &str) {
    let long = "x".repeat(5_000);
    for (name, query, status, code) in [
        ("nobody", vec![("key", key)], 404, "sql_unknown_stream"),
        ("moving", vec![], 400, "key_invalid"),
        ("moving", vec![("key", "d1")], 400, "key_invalid"),
        ("moving", vec![("key", "d1|soon")], 400, "key_invalid"),
        ("moving", vec![("key", "d1%|0")], 400, "key_invalid"),
        ("moving", vec![("key", &long)], 400, "key_invalid"),
        ("moving", vec![("key", "d1"), ("by", "divice_id")], 400, "sql_unknown_column"),
        ("moving", vec![("key", key), ("history", "none")], 400, "history_invalid"),
        ("moving", vec![("key", key), ("history", "long")], 400, "history_invalid"),
    ] {
        let (found, told) = why(running, name, &query).await;
        assert_eq!((found, told["code"].as_str()), (status, Some(code)), "{name} {query:?}: {told}");
        assert!(told["message"].as_str().is_some_and(|message| message.len() < 500), "{told}");
    }
    // Nothing of a key is ever understood as anything else.
    for key in ["'; DROP TABLE vehicles; --", "\u{0}\u{1b}[2J", "' OR '1'='1", "%N", "ключ 🚚"] {
        let (status, told) = why(running, "plates", &[("key", key)]).await;
        assert_eq!((status, &told["found"]), (200, &Value::Bool(false)), "{key}: {told}");
    }
}

fn by_the_command(running: &Running, key: &str, vehicle: &str) {
    let (good, out, err) = command(running, &["moving", key, "--since", "1 hour"]);
    assert!(good && out.starts_with("in moving since "), "{out}{err}");
    assert!(out.contains("note: events of before ") && out.contains("\nReduce table: by device_id, "), "{out}");
    let (good, out, err) = command(running, &["plates", "nothing", "--by", "plate", "--json"]);
    assert!(good, "{err}");
    let told: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&told["found"], &told["key"]["plate"]), (&Value::Bool(false), &Value::from("nothing")), "{out}");
    assert!(
        told["says"].as_str().is_some_and(|says| says.contains("no row of vehicles has plate = 'nothing'")),
        "{out}"
    );
    let (good, _, err) = command(running, &["plates", &format!("{vehicle}|x")]);
    assert!(!good && err.contains("key_invalid") && err.contains("hint: write a value for each column"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_slow_one_at_a_time_and_ends_with_its_client() {
    let directory = tempfile::tempdir().expect("as it should be");
    let options =
        "[simulator]\nvehicles = 200\nrate_per_s = 500.0\n[sql]\nbuild_rows_per_s = 300\nwhy_ms_max = 120000\n";
    let running = Running::with(directory.path(), options);
    assert_eq!(running.ask(Method::POST, "?history=none", MOVING).await.0, 201);
    wait_until(Duration::from_secs(60), "events are counted", || {
        number(&running.sql("SELECT sum(n) FROM moving")) > 500
    });
    let url = format!("{}/v1/streams/moving/why?key=d%7C0", running.program.url);
    // The log grows faster than it is read.
    let ask = || {
        let url = url.clone();
        tokio::spawn(async move {
            // Until the one before has ended.
            while reqwest::get(&url).await.is_ok_and(|answer| answer.status() == 429) {}
        })
    };
    let followed = async || {
        wait_until_async(Duration::from_secs(60), "it is told how far it is", async || {
            running.ask(Method::GET, "/moving", "").await.1["following"].is_u64()
        })
        .await;
    };
    let asking = ask();
    followed().await;
    let (status, told) = why(&running, "moving", &[("key", "d|0")]).await;
    assert_eq!((status, told["code"].as_str()), (429, Some("why_busy")), "{told}");
    asking.abort();
    wait_until_async(Duration::from_secs(30), "what nobody waits for ends", async || {
        running.ask(Method::GET, "/moving", "").await.1["following"].is_null()
    })
    .await;
    // The process ends while one is followed.
    let asking = ask();
    followed().await;
    let ended = tokio::task::block_in_place(|| running.program.stop());
    assert_eq!(ended, Some(0));
    asking.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_time_is_over_it_tells_as_far_as_it_has_come() {
    let directory = tempfile::tempdir().expect("as it should be");
    let options = "[simulator]\nvehicles = 200\nrate_per_s = 500.0\n[sql]\nbuild_rows_per_s = 100\nwhy_ms_max = 2000\n";
    let running = Running::with(directory.path(), options);
    assert_eq!(running.ask(Method::POST, "?history=none", MOVING).await.0, 201);
    wait_until(Duration::from_secs(60), "events are counted", || {
        number(&running.sql("SELECT sum(n) FROM moving")) > 500
    });
    let (status, told) = why(&running, "moving", &[("key", "d|0")]).await;
    assert_eq!((status, &told["read"]["complete"]), (200, &Value::Bool(false)), "{told:#}");
    let notes = told["notes"].to_string();
    assert!(
        notes.contains("the log was read up to ") && notes.contains("it was added without all of its past"),
        "{notes}"
    );
    assert_eq!(running.program.stop(), Some(0));
}
