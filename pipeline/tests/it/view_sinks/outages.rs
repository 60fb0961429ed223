//! Servers that die while a view is sent to them, and come back: nothing waits for them, and afterwards they have what the view
//! has.

use std::path::Path;

use reqwest::Method;
use serde_json::Value;

use super::{DEADLINE, Rows, ask, sent, standing};
use crate::program::Program;
use crate::services::{ClickHouse, Kafka, Redis, wait_until_async};

/// Vehicles that are given to other drivers and renamed all the time.
const DRIVEN: &str = "CREATE MATERIALIZED VIEW driven WITH (key = 'vehicle_id', sinks = 'SINK') AS
    SELECT v.vehicle_id, v.driver_id, d.name FROM vehicles v LEFT JOIN drivers d ON d.driver_id = v.driver_id";

fn start(directory: &Path, sink: &str, more: &str) -> Program {
    let streams = directory.join("streams");
    std::fs::create_dir(&streams).expect("a directory");
    std::fs::write(streams.join("driven.sql"), DRIVEN.replace("SINK", sink)).expect("a file");
    let text = format!(
        "[run]\ndata = \"{0}/data\"\nworkers = 2\n[simulator]\nvehicles = 60\nrate_per_s = 100.0\nchanges_per_s = 2.0\n\
         [reads]\npostgres_listen = \"\"\n[sql]\nstreams = \"{0}/streams\"\n\
         [sinks.live]\nretry_ms_max = 500\n[sinks.history]\nretry_ms_max = 500\nflush_ms = 100\n{more}",
        directory.to_str().expect("a plain path")
    );
    let file = directory.join("fleet.toml");
    std::fs::write(&file, text).expect("a file");
    Program::start(&["--config", file.to_str().expect("a plain path")])
}

/// What the view holds.
async fn held(program: &Program) -> Rows {
    let url = format!("{}/v1/views/driven?limit=1000", program.url);
    let told: Value = reqwest::get(url).await.expect("it answers").json().await.expect("in JSON");
    let rows = told["rows"].as_array().cloned().unwrap_or_default();
    rows.into_iter().map(|row| (row["vehicle_id"].as_str().expect("an id").to_owned(), row)).collect()
}

async fn until_same(program: &Program, what: &str, there: impl Fn() -> Rows) {
    let mut told = String::new();
    wait_until_async(DEADLINE, what, async || {
        // Rows change meanwhile: what was there before and after the look is what counts.
        let before = held(program).await;
        let found = there();
        if before.len() == 60 && (found == before || found == held(program).await) {
            return true;
        }
        let other = before.iter().find(|(key, row)| found.get(*key) != Some(row));
        let differs = format!("{} rows, {} of them there; {other:?}", before.len(), found.len());
        if differs != told {
            eprintln!("{what}: {differs}, there {:?}", other.map(|(key, _)| found.get(key)));
            told = differs;
        }
        false
    })
    .await;
}

async fn until_in_trouble(program: &Program, sink: &str) {
    wait_until_async(DEADLINE, "the trouble is shown", async || {
        sent(program, "driven", sink).await["state"].as_str().is_some_and(|state| state.starts_with("trying again"))
    })
    .await;
    // The view goes on without it.
    let as_of = async || ask(program, Method::GET, "/driven", "").await.1["as_of"].as_u64().unwrap_or(0);
    let before = as_of().await;
    wait_until_async(DEADLINE, "the dataflow goes on", async || as_of().await > before + 1_000).await;
}

async fn until_running(program: &Program, sink: &str) {
    wait_until_async(DEADLINE, "the sink works again", async || {
        sent(program, "driven", sink).await["state"] == "running"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_dies_and_comes_back() {
    let mut broker = Kafka::private("");
    for topic in ["telemetry.dlq", "vehicle_state_updated", "device.online", "device.offline"] {
        broker.create_topic(topic, 1, &[]);
    }
    let directory = tempfile::tempdir().expect("a directory");
    let more = format!(
        "[kafka]\nbrokers = \"{}\"\n[kafka_topics]\npartitions = 2\n[kafka_sink]\nenabled = true\nstall_ms_max = 500\n",
        broker.bootstrap()
    );
    let program = start(directory.path(), "kafka", &more);
    until_running(&program, "kafka").await;
    until_same(&program, "in Kafka", || standing(&broker, "view.driven")).await;
    broker.server.kill9();
    until_in_trouble(&program, "kafka").await;
    broker.server.start();
    until_running(&program, "kafka").await;
    until_same(&program, "in Kafka again", || standing(&broker, "view.driven")).await;
    assert_eq!(program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clickhouse_dies_and_comes_back() {
    let mut server = ClickHouse::private();
    let directory = tempfile::tempdir().expect("a directory");
    let more = format!("[clickhouse]\nenabled = true\nurl = \"{}\"\n", server.url());
    let program = start(directory.path(), "clickhouse", &more);
    until_running(&program, "clickhouse").await;
    let there = |server: &ClickHouse| -> Rows {
        let asked = "SELECT vehicle_id, driver_id, name FROM haulstream.view_driven FINAL FORMAT JSONEachRow";
        super::by_vehicle(&server.query(asked))
    };
    until_same(&program, "in ClickHouse", || there(&server)).await;
    server.server.kill9();
    until_in_trouble(&program, "clickhouse").await;
    server.server.start();
    until_running(&program, "clickhouse").await;
    until_same(&program, "in ClickHouse again", || there(&server)).await;
    assert_eq!(program.stop(), Some(0));
}

/// It comes back without its data, and gets all of it again.
#[tokio::test(flavor = "multi_thread")]
async fn redis_dies_and_comes_back_empty() {
    let mut server = Redis::private("");
    let (directory, url) = (tempfile::tempdir().expect("a directory"), server.database());
    let program = start(directory.path(), "redis", &format!("[redis]\nenabled = true\nurl = \"{url}\"\n"));
    until_running(&program, "redis").await;
    let there = || -> Rows {
        use redis::Commands;
        let mut client =
            redis::Client::open(url.as_str()).expect("an address").get_connection().expect("Redis answers");
        let keys: Vec<String> = client.keys("hs:1:view:driven:*").expect("Redis answers");
        let get = |key: String| -> (String, Value) {
            let text: String = client.get(&key).expect("a text");
            (key["hs:1:view:driven:".len()..].to_owned(), serde_json::from_str(&text).expect("JSON"))
        };
        keys.into_iter().map(get).collect()
    };
    until_same(&program, "in Redis", there).await;
    server.server.kill9();
    until_in_trouble(&program, "redis").await;
    server.server.start();
    until_running(&program, "redis").await;
    until_same(&program, "in Redis again", there).await;
    assert_eq!(program.stop(), Some(0));
}

/// Of a table the files have every change, of events each once, also over a restart.
#[tokio::test(flavor = "multi_thread")]
async fn files_have_the_changes_of_a_table() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = start(directory.path(), "parquet", "[parquet]\nflush_ms = 100\n");
    until_running(&program, "parquet").await;
    let changes_so_far = async || ask(&program, Method::GET, "/driven", "").await.1["changes"].as_u64();
    let before = changes_so_far().await.expect("a number");
    wait_until_async(DEADLINE, "rows change", async || changes_so_far().await > Some(before.max(60) + 10)).await;
    assert_eq!(program.stop(), Some(0));
    let rows = changes(&directory.path().join("data/views/driven"));
    let upserts = rows.iter().filter(|(_, change, _)| change == "upsert").count();
    assert!(upserts > 60 && upserts == rows.len(), "{} rows, {upserts} of them upserts", rows.len());
    let vehicles: std::collections::BTreeSet<&str> = rows.iter().map(|(vehicle, ..)| vehicle.as_str()).collect();
    assert_eq!(vehicles.len(), 60);
    let mut ticks: Vec<u64> = rows.iter().map(|(.., tick)| *tick).collect();
    ticks.sort_unstable();
    assert!(ticks.first() < ticks.last());
}

/// Vehicle, what became of it, and when, in the files below a directory.
fn changes(directory: &Path) -> Vec<(String, String, u64)> {
    use arrow::array::AsArray;
    let mut files = Vec::new();
    let mut look = vec![directory.to_owned()];
    while let Some(directory) = look.pop() {
        for entry in directory.read_dir().expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                look.push(path);
            } else if path.extension().is_some_and(|end| end == "parquet") {
                files.push(path);
            }
        }
    }
    let mut rows = Vec::new();
    for file in files {
        let file = std::fs::File::open(file).expect("a file");
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        for batch in reader.build().expect("a reader") {
            let batch = batch.expect("rows");
            let text = |name: &str| {
                let column = batch.column_by_name(name).expect("the column");
                arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8)
                    .expect("text")
                    .as_string::<i32>()
                    .clone()
            };
            let (vehicles, words) = (text("vehicle_id"), text("_change"));
            let ticks = operators::batch::u64s(&batch, "__tick");
            for row in 0..batch.num_rows() {
                rows.push((vehicles.value(row).to_owned(), words.value(row).to_owned(), ticks.value(row)));
            }
        }
    }
    rows
}
