//! The ClickHouse sink on real servers: what is stored, that it is stored once, and what is refused.

use std::time::Duration;

use operators::connection;
use operators::connection::Secret;
use operators::record::output;
use serde_json::{Value, json};
use sinks::clickhouse::{ClickHouseSink, Options};
use sinks::{Rows, Sink, SinkError, Step};

use crate::rows::{batch, changes, events};
use crate::services::{self, ClickHouse, unique, wait_until};

const DEADLINE: Duration = Duration::from_secs(20);
/// 2026-01-01T00:00:00Z in milliseconds.
const NEW_YEAR: i64 = 1_767_225_600_000;

fn options() -> Options {
    Options { topic: "telemetry.raw".to_owned(), insert_bytes_max: 64 << 20, compress: true, timeout_ms: 20_000 }
}

fn at(server: &ClickHouse, database: &str) -> connection::ClickHouse {
    connection::ClickHouse {
        url: server.url(),
        database: database.to_owned(),
        user: "default".to_owned(),
        password: Secret::default(),
    }
}

/// A sink and the database that it made for itself.
async fn open(server: &ClickHouse, options: Options) -> (ClickHouseSink, String) {
    let database = unique("sink");
    let mut sink = ClickHouseSink::new(&at(server, &database), options).expect("the options are right");
    sink.open().await.expect("the server is there");
    (sink, database)
}

fn message(device: &str, offset: i64, company: &str) -> Value {
    json!({
        "device_id": device, "ts": NEW_YEAR + offset, "seq": offset, "lat": 52.520_008, "lon": -13.4, "satellites": 9,
        "ignition": true, "attributes": "{\"door\":\"open\"}", "company_id": company, "__partition": 3,
        "__offset": offset, "__device": 7, "__tick": NEW_YEAR + 10,
    })
}

fn history(rows: &[Value]) -> Step {
    events("telemetry_enriched", output::enriched(), rows)
}

fn minute(company: &str, tick: u64, fixes: i64) -> Value {
    json!({
        "company_id": company, "window_start": NEW_YEAR, "fixes": fixes, "average_speed_kmh": 50.5,
        "top_speed_kmh": 90.0, "__tick": tick,
    })
}

fn minutes(rows: &[Value]) -> Step {
    changes("company_minute", output::company_minute(), rows)
}

#[tokio::test]
async fn a_message_keeps_every_value() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let bare = json!({
        "device_id": "bare", "ts": NEW_YEAR, "seq": 0, "__partition": 0, "__offset": 0, "__device": 0, "__tick": 10,
    });
    sink.apply(&history(&[message("d-1", 1_234, "c-1"), bare])).await.expect("applied");
    let rows = server.query(&format!(
        "SELECT device_id, ts, topic, partition, offset, tick, server_time, seq, lat, lon, speed_kmh, satellites, ignition,
         events, attributes, vehicle_id, company_id FROM {database}.telemetry_history ORDER BY device_id"
    ));
    let null = "\\N";
    let expected = [
        format!("bare\t2026-01-01 00:00:00.000\ttelemetry.raw\t0\t0\t10\t{null}\t0{}", format!("\t{null}").repeat(9)),
        format!(
            "d-1\t2026-01-01 00:00:01.234\ttelemetry.raw\t3\t1234\t{}\t{null}\t1234\t52.520008\t-13.4\t{null}\t9\ttrue\
             \t{null}\t{{\"door\":\"open\"}}\t{null}\tc-1",
            NEW_YEAR + 10
        ),
    ];
    assert_eq!(rows, expected.join("\n"));
}

#[tokio::test]
async fn the_same_step_again_adds_nothing() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let rows: Vec<Value> = (0..500).map(|n| message(&format!("d-{}", n % 50), n, "c-1")).collect();
    let step = history(&rows);
    sink.apply(&step).await.expect("applied");
    sink.apply(&step).await.expect("applied again");
    sink.open().await.expect("opened again");
    sink.apply(&step).await.expect("applied once more");
    let table = format!("{database}.telemetry_history");
    let counts = format!("SELECT count(), uniqExact(device_id, ts, topic, partition, offset) FROM {table}");
    assert_eq!(server.query(&counts), "500\t500", "not even before a merge");

    // A replay cuts the log differently and enriches with other references: its rows replace those that are there.
    let rows: Vec<Value> = (0..500).map(|n| message(&format!("d-{}", n % 50), n, "c-2")).collect();
    sink.apply(&history(&rows[..123])).await.expect("applied");
    sink.apply(&history(&rows[123..])).await.expect("applied");
    let counts = format!("SELECT count(), uniqExact(offset), countIf(company_id = 'c-2') FROM {table} FINAL");
    assert_eq!(server.query(&counts), "500\t500\t500");
    server.query(&format!("OPTIMIZE TABLE {table} FINAL"));
    assert_eq!(server.query(&format!("SELECT count() FROM {table}")), "500");
}

#[tokio::test]
async fn a_replay_of_the_same_step_with_other_rows_is_not_taken_for_known() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    sink.apply(&history(&[message("d-1", 1, "wrong")])).await.expect("applied");
    sink.apply(&history(&[message("d-1", 1, "right")])).await.expect("applied");
    assert_eq!(server.query(&format!("SELECT company_id FROM {database}.telemetry_history FINAL")), "right");
}

#[tokio::test]
async fn large_steps_are_written_in_parts() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, Options { insert_bytes_max: 10_000, compress: false, ..options() }).await;
    let mut step = history(&[message("d", 0, "c")]);
    let rows = |part: i64| (0..100).map(|n| message("d", part * 100 + n, "c")).collect::<Vec<_>>();
    step.rows = (0..7).map(|part| Rows::Append(batch(output::enriched(), &rows(part)))).collect();
    sink.apply(&step).await.expect("applied");
    let parts = server.query(&format!(
        "SELECT count() FROM system.parts WHERE database = '{database}' AND table = 'telemetry_history' AND level = 0"
    ));
    assert!(parts.parse::<u32>().is_ok_and(|parts| parts > 1), "{parts}");
    sink.apply(&step).await.expect("applied again");
    let counts = format!("SELECT count(), uniqExact(offset) FROM {database}.telemetry_history");
    assert_eq!(server.query(&counts), "700\t700");
    step.rows.clear();
    sink.apply(&step).await.expect("nothing to write is nothing to do");
}

#[tokio::test]
async fn an_event_is_there_once() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let event = |kind: &str, tick: i64| json!({ "kind": kind, "device_id": "d-1", "vehicle_id": "v-1", "since": NEW_YEAR, "__tick": tick });
    let rows = [event("device.offline", NEW_YEAR), event("device.online", NEW_YEAR + 50)];
    let step = |rows: &[Value]| events("vehicle_events", output::vehicle_events(), rows);
    sink.apply(&step(&rows)).await.expect("applied");
    sink.apply(&step(&rows[1..])).await.expect("applied");
    let rows = server.query(&format!(
        "SELECT kind, device_id, tick, since, vehicle_id, company_id FROM {database}.vehicle_events FINAL ORDER BY tick"
    ));
    let since = "2026-01-01 00:00:00.000";
    let expected = format!(
        "device.offline\td-1\t{NEW_YEAR}\t{since}\tv-1\t\\N\ndevice.online\td-1\t{}\t{since}\tv-1\t\\N",
        NEW_YEAR + 50
    );
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_window_has_its_newest_value_whatever_comes_later() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let deleted = |company: &str, tick: u64| json!({ "company_id": company, "window_start": NEW_YEAR, "__deleted": true, "__tick": tick });
    let read = || {
        server
            .query(&format!("SELECT company_id, fixes, tick FROM {database}.company_minute FINAL ORDER BY company_id"))
    };
    sink.apply(&minutes(&[minute("a", 20, 2), minute("b", 20, 2), minute("a", 10, 1)])).await.expect("applied");
    assert_eq!(read(), "a\t2\t20\nb\t2\t20");
    sink.apply(&minutes(&[minute("a", 30, 3)])).await.expect("applied");
    sink.apply(&minutes(&[minute("a", 25, 9), deleted("b", 15)])).await.expect("a stale writer");
    assert_eq!(read(), "a\t3\t30\nb\t2\t20");
    sink.apply(&minutes(&[deleted("a", 40), deleted("b", 20)])).await.expect("applied");
    assert_eq!(read(), "b\t2\t20", "of one tick the upsert stands over the delete");
    sink.apply(&minutes(&[minute("a", 35, 9)])).await.expect("a stale writer");
    assert_eq!(read(), "b\t2\t20", "what is deleted stays so");
    sink.apply(&minutes(&[minute("a", 40, 4)])).await.expect("applied");
    assert_eq!(read(), "a\t4\t40\nb\t2\t20");
}

#[tokio::test]
async fn links_are_a_table() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let row =
        json!({ "vehicle_id": "v-1", "driver_name": "Ann", "company_id": "c", "offline_after_s": 60, "__tick": 10 });
    let gone = json!({ "vehicle_id": "v-2", "__deleted": true, "__tick": 10 });
    sink.apply(&changes("vehicle_links", output::links(), &[row, gone])).await.expect("applied");
    let rows = server.query(&format!(
        "SELECT vehicle_id, driver_name, company_id, offline_after_s FROM {database}.vehicle_links FINAL"
    ));
    assert_eq!(rows, "v-1\tAnn\tc\t60");
}

#[tokio::test]
async fn any_text_and_any_time_are_data() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let texts = ["'); DROP TABLE telemetry_history; --", "`", "\\", "a b\tc\nd", "{}*:%", "ключ🚚", "", "\u{0}\u{1b}"];
    let mut rows: Vec<Value> = texts.iter().map(|text| message(text, 1, text)).collect();
    // Clocks of devices may say anything; months and years apart, in one step.
    let times = [i64::MIN, -1, 0, 4_102_444_800_000, 10_413_791_999_999, i64::MAX];
    for (index, ts) in times.iter().enumerate() {
        let mut row = message(&format!("clock {index}"), 1, "c");
        row["ts"] = json!(ts);
        rows.push(row);
    }
    rows.extend((0..150).map(|month| {
        let mut row = message("months", month, "c");
        row["ts"] = json!(month * 31 * 86_400_000);
        row
    }));
    let mut sink_topic =
        ClickHouseSink::new(&at(server, &database), Options { topic: "it's {a} `topic`".into(), ..options() })
            .expect("the options are right");
    sink.apply(&history(&rows)).await.expect("applied");
    sink_topic.apply(&history(&rows[..1])).await.expect("applied");
    let table = format!("{database}.telemetry_history");
    assert_eq!(server.query(&format!("SELECT count() FROM {table} WHERE topic = 'it''s {{a}} `topic`'")), "1");
    let answer = server.query(&format!(
        "SELECT hex(device_id), hex(company_id) FROM {table} WHERE topic = 'telemetry.raw' AND device_id != 'months'
         AND device_id NOT LIKE 'clock%' ORDER BY device_id"
    ));
    let mut expected: Vec<&str> = texts.to_vec();
    expected.sort_unstable();
    let hex = |text: &str| text.bytes().map(|b| format!("{b:02X}")).collect::<String>();
    assert_eq!(answer, expected.iter().map(|text| format!("{0}\t{0}", hex(text))).collect::<Vec<_>>().join("\n"));
    let answer = server.query(&format!(
        "SELECT toUnixTimestamp64Milli(ts) FROM {table} WHERE device_id LIKE 'clock%' ORDER BY device_id"
    ));
    assert_eq!(answer, times.map(|ts| ts.to_string()).join("\n"));
    assert_eq!(server.query(&format!("SELECT count() FROM {table} WHERE device_id = 'months'")), "150");
}

#[track_caller]
fn assert_unavailable(outcome: Result<(), SinkError>, saying: &str) {
    match outcome {
        Err(SinkError::Unavailable { target, why }) => {
            assert!(target.starts_with("clickhouse at http://127.0.0.1:") && why.contains(saying), "{target}: {why}");
        }
        other => panic!("not Unavailable: {other:?}"),
    }
}

#[track_caller]
fn assert_refused(outcome: Result<(), SinkError>, saying: &[&str]) {
    match outcome {
        Err(SinkError::Refused { why, .. }) => {
            assert!(saying.iter().all(|part| why.contains(part)), "{why}");
        }
        other => panic!("not Refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_killed_server_is_waited_for_and_the_step_heals() {
    let mut server = ClickHouse::private();
    let (mut sink, database) = open(&server, options()).await;
    sink.apply(&history(&[message("d-1", 1, "c")])).await.expect("applied");
    server.server.kill9();
    let step = history(&[message("d-1", 2, "c"), message("d-2", 3, "c")]);
    assert_unavailable(sink.apply(&step).await, "insert into telemetry_history");
    assert_unavailable(sink.open().await, "");
    server.server.start();
    sink.open().await.expect("the server is back");
    sink.apply(&step).await.expect("applied");
    sink.apply(&step).await.expect("applied again");
    let counts = format!("SELECT count(), uniqExact(offset) FROM {database}.telemetry_history");
    assert_eq!(server.query(&counts), "3\t3");
}

#[tokio::test]
async fn an_answer_that_never_came_does_no_harm() {
    let mut server = ClickHouse::private();
    let (mut sink, database) = open(&server, Options { timeout_ms: 500, ..options() }).await;
    let step = history(&[message("d-1", 1, "c")]);
    server.server.pause();
    assert_unavailable(sink.apply(&step).await, "no answer in time");
    server.server.resume();
    // The server may or may not have taken the insert before it was frozen.
    wait_until(DEADLINE, "the server goes on", || server.query("SELECT 1") == "1");
    let mut patient = ClickHouseSink::new(&at(&server, &database), options()).expect("the options are right");
    patient.apply(&step).await.expect("applied");
    let counts = format!("SELECT count(), uniqExact(offset) FROM {database}.telemetry_history FINAL");
    assert_eq!(server.query(&counts), "1\t1");
}

#[tokio::test]
async fn a_server_without_room_is_waited_for() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let table = format!("{database}.telemetry_history");
    server.query(&format!("SYSTEM STOP MERGES {table}"));
    server.query(&format!("ALTER TABLE {table} MODIFY SETTING parts_to_throw_insert = 1"));
    sink.apply(&history(&[message("d-1", 1, "c")])).await.expect("applied");
    let next = history(&[message("d-1", 2, "c")]);
    assert_unavailable(sink.apply(&next).await, "Code: 252");
    server.query(&format!("ALTER TABLE {table} MODIFY SETTING parts_to_throw_insert = 1000"));
    sink.apply(&next).await.expect("applied");
    assert_eq!(server.query(&format!("SELECT count() FROM {table}")), "2");
}

#[tokio::test]
async fn what_no_waiting_helps_is_refused_with_what_to_do() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    server.query(&format!("ALTER TABLE {database}.vehicle_events DROP COLUMN company_id"));
    assert_refused(sink.open().await, &["table vehicle_events", "it lacks company_id"]);
    let event = json!({ "kind": "device.offline", "device_id": "d-1", "__tick": 10 });
    let step = events("vehicle_events", output::vehicle_events(), &[event]);
    assert_refused(sink.apply(&step).await, &["insert into vehicle_events", "company_id"]);
    assert_refused(sink.apply(&changes("vehicle_state", output::vehicle_state(), &[])).await, &["vehicle_state"]);

    let mut stranger = at(server, &database);
    (stranger.user, stranger.password) = ("nobody".to_owned(), Secret::new("hunter2"));
    let mut sink = ClickHouseSink::new(&stranger, options()).expect("the options are right");
    let error = sink.open().await.expect_err("there is no such user");
    assert!(!error.to_string().contains("hunter2"));
    assert_refused(Err(error), &["clickhouse.password"]);

    let broken = |clickhouse: connection::ClickHouse, options: Options, saying: &str| {
        let error = ClickHouseSink::new(&clickhouse, options).expect_err(saying).to_string();
        assert!(error.contains(saying), "{error}");
    };
    for name in ["", "a b", "x`; DROP DATABASE default", "1st", "db.table", &"x".repeat(65), "база"] {
        broken(at(server, name), options(), "clickhouse.database");
    }
    let mut elsewhere = at(server, &database);
    elsewhere.url = "ftp://127.0.0.1".to_owned();
    broken(elsewhere.clone(), options(), "clickhouse.url");
    elsewhere.url = "http://user:secret@127.0.0.1:1".to_owned();
    broken(elsewhere, options(), "clickhouse.url");
    broken(at(server, &database), Options { insert_bytes_max: 0, ..options() }, "insert_bytes_max");
}

#[tokio::test]
async fn an_edited_migration_and_a_newer_database_are_refused() {
    let server = services::clickhouse();
    let (mut sink, database) = open(server, options()).await;
    let ledger = format!("{database}.schema_migrations");
    let count = server.query(&format!("SELECT count(), uniqExact(number) FROM {ledger}"));
    sink.open().await.expect("opened again");
    assert_eq!(server.query(&format!("SELECT count(), uniqExact(number) FROM {ledger}")), count, "noted once");
    let edit = |column: &str, value: &str, number: u32| {
        server.query(&format!(
            "ALTER TABLE {ledger} UPDATE {column} = {value} WHERE number = {number} SETTINGS mutations_sync = 1"
        ))
    };
    edit("checksum", "reverse(checksum)", 2);
    assert_refused(sink.open().await, &["0002_vehicle_events", "must not be edited"]);
    edit("checksum", "reverse(checksum)", 2);
    sink.open().await.expect("as it was");
    server.query(&format!("INSERT INTO {ledger} (number, name, checksum) VALUES (99, '0099_future', 'f')"));
    assert_refused(sink.open().await, &["0099_future", "newer program"]);
}

#[tokio::test]
async fn two_programs_may_start_at_once_and_one_may_have_died_half_way() {
    let server = services::clickhouse();
    let database = unique("sink");
    let sink = || ClickHouseSink::new(&at(server, &database), options()).expect("the options are right");
    let (mut one, mut two) = (sink(), sink());
    let (first, second) = tokio::join!(one.open(), two.open());
    first.expect("opened");
    second.expect("opened beside it");
    // Died after making the last table, before noting it.
    let ledger = format!("{database}.schema_migrations");
    server.query(&format!("ALTER TABLE {ledger} DELETE WHERE number > 1 SETTINGS mutations_sync = 1"));
    one.open().await.expect("opened again");
    one.apply(&minutes(&[minute("a", 10, 1)])).await.expect("applied");
    assert_eq!(server.query(&format!("SELECT uniqExact(number) FROM {ledger}")), "4");
}
