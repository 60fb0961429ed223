//! Views that go to Kafka, ClickHouse, Redis and Parquet, on real servers. Would catch rows lost or left standing when rows go,
//! when a view is replaced, when the process starts again, and when a server dies and comes back; and a sink that holds up the
//! dataflow.

mod outages;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use redis::Commands;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::installation::Installation;
use crate::kafka_sink::read;
use crate::program::Program;
use crate::services::{Kafka, kafka, unique, wait_until};

const DEADLINE: Duration = Duration::from_secs(60);

const FLEET: &str =
    "CREATE MATERIALIZED VIEW fleet WITH (key = 'vehicle_id', sinks = 'kafka, clickhouse, redis, edge') AS
    SELECT vehicle_id, plate, device_id FROM vehicles";
const FAST: &str = "CREATE MATERIALIZED VIEW fast WITH (key = 'device_id, ts', sinks = 'kafka, clickhouse, redis') AS
    SELECT device_id, ts, speed_kmh FROM telemetry_enriched WHERE speed_kmh > 40";

/// Rows by key.
type Rows = BTreeMap<String, Value>;

/// Asks the program's streams.
async fn ask(program: &Program, method: Method, path: &str, body: &str) -> (u16, Value) {
    let url = format!("{}/v1/streams{path}", program.url);
    let answer = Client::new().request(method, url).body(body.to_owned()).send().await.expect("it answers");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("in JSON"))
}

/// How a view goes to a sink.
async fn sent(program: &Program, view: &str, sink: &str) -> Value {
    let (_, told) = ask(program, Method::GET, &format!("/{view}"), "").await;
    let all = told["sinks"].as_array().cloned().unwrap_or_default();
    all.into_iter().find(|sent| sent["sink"] == sink).unwrap_or_default()
}

/// What stands in a topic.
fn standing(broker: &Kafka, topic: &str) -> Rows {
    let mut rows = Rows::new();
    for record in read(broker, topic) {
        let key = String::from_utf8(record.key.clone().expect("a key")).expect("text");
        match &record.value {
            Some(_) => drop(rows.insert(key, record.json())),
            None => drop(rows.remove(&key)),
        }
    }
    rows
}

/// Rows of ClickHouse, a line of JSON each; what is null is left out, as everywhere else.
fn by_vehicle(lines: &str) -> Rows {
    let rows = lines.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let row = |mut row: Value| {
        row.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        (row["vehicle_id"].as_str().expect("an id").to_owned(), row)
    };
    rows.map(row).collect()
}

fn has_topic(broker: &Kafka, topic: &str) -> bool {
    use rdkafka::consumer::{BaseConsumer, Consumer as _};
    let probe: BaseConsumer = broker.client().create().expect("a client");
    let all = probe.fetch_metadata(None, DEADLINE).expect("the broker answers");
    all.topics().iter().any(|found| found.name() == topic)
}

fn row(vehicle: &str, plate: &str) -> Value {
    json!({"vehicle_id": vehicle, "plate": plate, "device_id": format!("d-{vehicle}")})
}

fn rows(rows: &[(&str, &str)]) -> Rows {
    rows.iter().map(|(vehicle, plate)| ((*vehicle).to_owned(), row(vehicle, plate))).collect()
}

/// An installation whose views have topics of its own.
struct Bench {
    installation: Installation,
    prefix: String,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let prefix = format!("{}.", unique(name));
        let more = format!("[sql]\ntopic_prefix = \"{prefix}\"\n[reads]\npostgres_listen = \"\"\n");
        Bench { installation: Installation::new(name, &more), prefix }
    }

    /// From the next start on these are declared.
    fn declare(&self, streams: &[(&str, &str)]) {
        let directory = self.installation.folder().join("streams");
        let _ = std::fs::create_dir(&directory);
        for (name, text) in streams {
            std::fs::write(directory.join(format!("{name}.sql")), text).expect("a file");
        }
        let file = self.installation.file();
        let text = std::fs::read_to_string(&file).expect("the configuration");
        let line = format!("[sql]\nstreams = \"{}\"", directory.to_str().expect("a plain path"));
        std::fs::write(file, text.replace("[sql]", &line)).expect("the configuration");
    }

    fn vehicle(&self, vehicle: &str, plate: Option<&str>) {
        let value = plate.map_or(Value::Null, |plate| {
            let mut value = row(vehicle, plate);
            value["company_id"] = json!("c-1");
            value
        });
        self.installation.reference("vehicle", vehicle, &value);
    }

    fn topic(&self, view: &str) -> String {
        format!("{}{view}", self.prefix)
    }

    fn in_clickhouse(&self) -> Rows {
        by_vehicle(
            &self.installation.query("SELECT vehicle_id, plate, device_id FROM DB.view_fleet FINAL FORMAT JSONEachRow"),
        )
    }

    fn in_redis(&self) -> Rows {
        let mut client = self.installation.redis();
        let keys: Vec<String> = client.keys("hs:1:view:fleet:*").expect("Redis answers");
        let get = |key: String| {
            let text: String = client.get(&key).ok()?;
            Some((key["hs:1:view:fleet:".len()..].to_owned(), serde_json::from_str(&text).expect("JSON")))
        };
        keys.into_iter().filter_map(get).collect()
    }

    /// Waits until all three have exactly these rows.
    fn wait_for(&self, what: &str, wanted: &[(&str, &str)]) {
        let wanted = rows(wanted);
        let topic = self.topic("fleet");
        wait_until(DEADLINE, &format!("{what}: the topic exists"), || has_topic(kafka(), &topic));
        wait_until(DEADLINE, &format!("{what}: in Kafka"), || standing(kafka(), &topic) == wanted);
        let made = "SELECT count() FROM system.tables WHERE database = 'DB' AND name = 'view_fleet'";
        wait_until(DEADLINE, &format!("{what}: the table exists"), || self.installation.count(made) == 1);
        wait_until(DEADLINE, &format!("{what}: in ClickHouse"), || self.in_clickhouse() == wanted);
        wait_until(DEADLINE, &format!("{what}: in Redis"), || self.in_redis() == wanted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_change_and_go_in_every_sink() {
    let bench = Bench::new("view_table");
    bench.vehicle("v-1", Some("A"));
    bench.vehicle("v-2", Some("it's \"quoted\""));
    let program = bench.installation.start().await;
    let (status, told) = ask(&program, Method::POST, "", FLEET).await;
    assert_eq!(status, 201, "{told}");
    let standing_now = || standing(kafka(), &bench.topic("fleet"));
    bench.wait_for("added", &[("v-1", "A"), ("v-2", "it's \"quoted\"")]);
    let states = ask(&program, Method::GET, "/fleet", "").await.1["sinks"].clone();
    assert!(states.as_array().expect("a list").iter().all(|sent| sent["state"] == "running"), "{states}");

    bench.vehicle("v-1", Some("B"));
    bench.vehicle("v-2", None);
    bench.vehicle("v-4", Some("D"));
    bench.wait_for("changed", &[("v-1", "B"), ("v-4", "D")]);
    let tombstones = read(kafka(), &bench.topic("fleet")).into_iter().filter(|record| record.value.is_none());
    assert_eq!(tombstones.count(), 1, "one for the row that went");

    // Another version of the view: only the difference is written.
    let before = read(kafka(), &bench.topic("fleet")).len();
    let less = FLEET.replace("FROM vehicles", "FROM vehicles WHERE plate <> 'D'");
    assert_eq!(ask(&program, Method::PUT, "/fleet", &less).await.0, 200);
    bench.wait_for("replaced", &[("v-1", "B")]);
    assert_eq!(read(kafka(), &bench.topic("fleet")).len(), before + 1);

    // Another key and other columns: what has to be made anew is refused where it would overwrite, and made where it can be.
    let other = "CREATE MATERIALIZED VIEW fleet WITH (key = 'plate', sinks = 'kafka, clickhouse') AS SELECT plate FROM vehicles";
    assert_eq!(ask(&program, Method::PUT, "/fleet", other).await.0, 200);
    let wanted: Rows =
        [("B", json!({"plate": "B"})), ("D", json!({"plate": "D"}))].map(|(k, v)| (k.to_owned(), v)).into();
    wait_until(DEADLINE, "keys of the other kind", || standing_now() == wanted);
    crate::services::wait_until_async(DEADLINE, "the table is not touched", async || {
        let told = sent(&program, "fleet", "clickhouse").await;
        told["state"].as_str().is_some_and(|state| state.contains("another key"))
    })
    .await;
    assert_eq!(bench.in_clickhouse(), rows(&[("v-1", "B")]));
    assert_eq!(ask(&program, Method::PUT, "/fleet", FLEET).await.0, 200);
    bench.wait_for("replaced again", &[("v-1", "B"), ("v-4", "D")]);

    // What a stream wrote stays when it is dropped, unless it is purged.
    assert_eq!(ask(&program, Method::DELETE, "/fleet", "").await.0, 200);
    assert_eq!(standing_now(), rows(&[("v-1", "B"), ("v-4", "D")]));
    assert_eq!(bench.in_clickhouse().len() + bench.in_redis().len(), 4);
    assert_eq!(ask(&program, Method::POST, "", FLEET).await.0, 201);
    bench.wait_for("added again", &[("v-1", "B"), ("v-4", "D")]);
    let (status, told) = ask(&program, Method::DELETE, "/fleet?purge=true", "").await;
    assert_eq!((status, &told["purged"]), (200, &json!(["kafka", "clickhouse", "redis"])), "{told}");
    wait_until(DEADLINE, "no topic", || !has_topic(kafka(), &bench.topic("fleet")));
    let tables = "SELECT count() FROM system.tables WHERE database = 'DB' AND name = 'view_fleet'";
    assert_eq!((bench.installation.count(tables), bench.in_redis().len()), (0, 0));
    assert_eq!(program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_while_the_process_is_away_is_gone_after_a_start() {
    let bench = Bench::new("view_start");
    bench.declare(&[("fleet", FLEET), ("fast", FAST)]);
    bench.vehicle("v-1", Some("A"));
    bench.vehicle("v-2", Some("B"));
    let program = bench.installation.start().await;
    bench.wait_for("first", &[("v-1", "A"), ("v-2", "B")]);
    let client = redis::Client::open(bench.installation.redis_url()).expect("an address");
    let mut channel = client.get_async_pubsub().await.expect("Redis answers");
    for view in ["fast", "fleet"] {
        channel.subscribe(format!("hs:1:view:{view}")).await.expect("a channel");
    }
    let mut heard = channel.on_message();

    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let message = |n: i64| json!({"device_id": "d-v-1", "ts": now_ms - 60_000 + n * 1_000, "seq": n, "lat": 53.4, "lon": -2.9, "speed_kmh": 30.0 + n as f64});
    let messages: Vec<Value> = (0..30).map(message).collect();
    let url = format!("{}/v1/telemetry", program.url);
    let answer = Client::new().post(url).json(&messages).send().await.expect("the gate answers");
    assert_eq!(answer.status().as_u16(), 202);
    // Of 30 to 59 km/h: 19 are above 40.
    let count = "SELECT count() FROM DB.view_fast FINAL WHERE speed_kmh > 40";
    wait_until(DEADLINE, "fast ones in ClickHouse", || bench.installation.count(count) == 19);
    wait_until(DEADLINE, "fast ones in Kafka", || read(kafka(), &bench.topic("fast")).len() == 19);
    let mut told = 0;
    while told < 19 {
        let next = tokio::time::timeout(DEADLINE, heard.next()).await.expect("in time").expect("a message");
        let message: Value = serde_json::from_slice(next.get_payload_bytes()).expect("JSON");
        told += message["append"].as_array().map_or(0, Vec::len);
    }
    assert_eq!(told, 19);
    assert_eq!(program.stop(), Some(0));

    bench.vehicle("v-1", None);
    bench.vehicle("v-3", Some("C"));
    let again = bench.installation.start().await;
    bench.wait_for("after a start", &[("v-2", "B"), ("v-3", "C")]);
    let next = tokio::time::timeout(DEADLINE, async {
        loop {
            let next = heard.next().await.expect("a message");
            let message: Value = serde_json::from_slice(next.get_payload_bytes()).expect("JSON");
            // Channels know no databases: other tests are heard too.
            if message["remove"] == json!(["v-1"]) {
                return message["remove"].clone();
            }
        }
    });
    assert_eq!(next.await.expect("in time"), json!(["v-1"]));
    // Events go on where they stopped: none comes again after an orderly end, and what comes now is sent.
    let fast = json!([{"device_id": "d-v-2", "ts": now_ms, "seq": 1, "lat": 53.4, "lon": -2.9, "speed_kmh": 99.0}]);
    let url = format!("{}/v1/telemetry", again.url);
    assert_eq!(Client::new().post(url).json(&fast).send().await.expect("the gate answers").status().as_u16(), 202);
    wait_until(DEADLINE, "one more event", || {
        read(kafka(), &bench.topic("fast")).iter().any(|one| one.json()["speed_kmh"] == 99.0)
    });
    let records = read(kafka(), &bench.topic("fast"));
    let ids: std::collections::BTreeSet<String> = records.iter().map(|record| record.id().to_owned()).collect();
    assert_eq!((records.len(), ids.len()), (20, 20));
    wait_until(DEADLINE, "it is in ClickHouse", || bench.installation.count(count) == 20);
    assert_eq!(again.stop(), Some(0));
}
