//! Bad records and references that are not as they should be, through the whole program with real Kafka. Would catch: garbage
//! that takes good records along, is lost or is told twice; a time that stops the clock or the device; a vehicle that does not
//! heal when its references appear, change hands or go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use operators::record::Stream;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use sources::simulator::{Options, Simulator};
use tempfile::TempDir;

use crate::kafka_sink::{Seen, read};
use crate::program::Program;
use crate::services::{kafka, wait_until_async};

/// Ample for anything that a healthy program does here.
const DEADLINE: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;

/// A program of the test's own that reads Kafka and writes to it.
struct Fleet {
    topics: BTreeMap<&'static str, String>,
    producer: BaseProducer,
    program: Program,
    _folder: TempDir,
}

impl Fleet {
    /// Starts it; `telemetry` are settings of that topic where they are not the usual ones.
    fn start(telemetry: &[(&str, &str)]) -> Fleet {
        let names = ["vehicle", "driver", "company", "tariff", "dead_letters", "vehicle_state", "online", "offline"];
        let names = names.into_iter().chain(["enriched", "telemetry"]);
        let mut topics: BTreeMap<&str, String> = names.map(|name| (name, kafka().topic(name, PARTITIONS))).collect();
        if !telemetry.is_empty() {
            let name = crate::services::unique("created");
            kafka().create_topic(&name, PARTITIONS, telemetry);
            topics.insert("telemetry", name);
        }
        let folder = TempDir::new().expect("a directory");
        let named: String = topics.iter().map(|(name, topic)| format!("{name} = \"{topic}\"\n")).collect();
        let text = format!(
            "[run]\nsource = \"kafka\"\ndata = \"{}/data\"\n[topics]\n{named}[kafka]\nbrokers = \"{}\"\n[kafka_sink]\n\
             enabled = true\nenriched = true\n[parquet]\nenabled = false\n",
            folder.path().display(),
            kafka().bootstrap()
        );
        let file = folder.path().join("fleet.toml");
        std::fs::write(&file, text).expect("a configuration file");
        let program = Program::start(&["--config", file.to_str().expect("a plain path")]);
        let producer = kafka().client().create().expect("a producer");
        Fleet { topics, producer, program, _folder: folder }
    }

    /// Writes a record as it is given; the log's own time without `ms`.
    fn send_at(&self, stream: &str, key: Option<&[u8]>, value: Option<&[u8]>, ms: Option<i64>) {
        let mut record = BaseRecord::<[u8], [u8]>::to(&self.topics[stream]);
        record = key.into_iter().fold(record, BaseRecord::key);
        record = value.into_iter().fold(record, BaseRecord::payload);
        record = ms.into_iter().fold(record, BaseRecord::timestamp);
        self.producer.send(record).map_err(|(why, _)| why).expect("the producer has room");
    }

    fn send(&self, stream: &str, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.send_at(stream, key, value, None);
    }

    fn flush(&self) {
        self.producer.flush(DEADLINE).expect("the broker takes it");
    }

    /// Writes a reference record, at once; a null value deletes it.
    fn reference(&self, stream: &str, key: &str, value: &Value) {
        let text = value.to_string();
        self.send(stream, Some(key.as_bytes()), (!value.is_null()).then_some(text.as_bytes()));
        self.flush();
    }

    /// Writes a good message, at once.
    fn message(&self, device: &str, ts: i64, lat: f64) {
        self.send("telemetry", Some(device.as_bytes()), Some(&message(device, ts, lat)));
        self.flush();
    }

    /// Writes what a simulation gives; the simulation at its end, and the device of the last message.
    fn simulate(&self, garbage_pct: f64) -> (Simulator, String) {
        let options = Options { messages_max: 3_000, garbage_pct, ..Options::undisturbed(50, 11) };
        let mut simulator = Simulator::new(options, now_ms() - 60_000).expect("a fleet");
        let mut device = Vec::new();
        while let Some(made) = simulator.next() {
            if made.stream == Stream::Telemetry {
                device = made.key.to_vec();
            }
            self.send(name_of(made.stream), Some(made.key), made.value);
        }
        self.flush();
        (simulator, String::from_utf8(device).expect("an id"))
    }

    fn read(&self, stream: &str) -> Vec<Seen> {
        read(kafka(), &self.topics[stream])
    }

    /// Rows of the snapshot by vehicle; `filter` as in the URL.
    async fn vehicles(&self, filter: &str) -> BTreeMap<String, Value> {
        let url = format!("{}/realtime/snapshot{filter}", self.program.url);
        let body: Value = reqwest::get(url).await.expect("the edge answers").json().await.expect("JSON");
        let rows = body["rows"].as_array().expect("rows").clone();
        rows.into_iter().map(|row| (row["vehicle_id"].as_str().expect("an id").to_owned(), row)).collect()
    }

    /// Waits until the row of `v-1` is as wanted; `None` for no row.
    async fn vehicle(&self, what: &str, wanted: impl Fn(Option<&Value>) -> bool) {
        wait_until_async(DEADLINE, what, async || wanted(self.vehicles("").await.get("v-1"))).await;
    }

    /// Waits for so many dead letters, and checks that each is there once.
    async fn dead_letters(&self, count: usize) -> Vec<Seen> {
        wait_until_async(DEADLINE, "the dead letters", async || self.read("dead_letters").len() >= count).await;
        let letters = self.read("dead_letters");
        let places: BTreeSet<&str> = letters.iter().map(Seen::id).collect();
        assert_eq!((letters.len(), places.len()), (count, count), "each once");
        assert!(letters.iter().all(|letter| !letter.headers["message"].is_empty()));
        letters
    }
}

/// The stream's option in the section `topics`.
fn name_of(stream: Stream) -> &'static str {
    match stream {
        Stream::Telemetry => "telemetry",
        Stream::Vehicle => "vehicle",
        Stream::Driver => "driver",
        Stream::Company => "company",
        Stream::Tariff => "tariff",
        Stream::Declared(_) => unreachable!("the simulation makes none"),
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64
}

fn message(device: &str, ts: i64, lat: f64) -> Vec<u8> {
    json!({"device_id": device, "ts": ts, "seq": 1, "lat": lat, "lon": 11.2}).to_string().into_bytes()
}

fn codes(letters: &[Seen]) -> BTreeMap<&str, u64> {
    let mut codes = BTreeMap::new();
    letters.iter().for_each(|letter| *codes.entry(letter.headers["code"].as_str()).or_default() += 1);
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn one_per_cent_of_garbage_harms_nothing_else() {
    let fleet = Fleet::start(&[]);
    let (simulation, _) = fleet.simulate(1.0);
    let counts = simulation.counts();
    assert!(counts.garbage > 10 && counts.distinct > 2_900, "{counts:?}");
    let letters = fleet.dead_letters(counts.garbage as usize).await;
    assert_eq!(codes(&letters), counts.garbage_by_code.iter().map(|(code, count)| (*code, *count)).collect());
    wait_until_async(DEADLINE, "the good ones", async || fleet.read("enriched").len() as u64 >= counts.distinct).await;
    let enriched = fleet.read("enriched");
    let places: BTreeSet<&str> = enriched.iter().map(Seen::id).collect();
    assert_eq!((enriched.len() as u64, places.len() as u64), (counts.distinct, counts.distinct), "each once");
    wait_until_async(DEADLINE, "all vehicles", async || fleet.vehicles("").await.len() == 50).await;
    assert_eq!(fleet.program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_of_nothing_but_garbage_is_refused_and_the_next_message_taken() {
    let fleet = Fleet::start(&[]);
    let (simulation, device) = fleet.simulate(100.0);
    let counts = simulation.counts();
    assert_eq!((counts.garbage, counts.distinct), (3_000, 0));
    let letters = fleet.dead_letters(3_000).await;
    assert_eq!(codes(&letters), counts.garbage_by_code.iter().map(|(code, count)| (*code, *count)).collect());
    assert!(fleet.read("enriched").is_empty());
    assert!(fleet.vehicles("").await.is_empty());
    let told = || fleet.program.log().iter().any(|line| line.contains("most records of the last second are refused"));
    wait_until_async(DEADLINE, "the alarm in the log", async || told()).await;
    fleet.message(&device, now_ms(), 54.1);
    wait_until_async(DEADLINE, "a vehicle", async || fleet.vehicles("").await.len() == 1).await;
    assert_eq!(fleet.read("enriched").len(), 1);
    assert_eq!(fleet.program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_bad_record_has_its_reason() {
    let fleet = Fleet::start(&[]);
    let now = now_ms();
    let good = message("d-1", now, 54.1);
    let mut long = good.clone();
    long.resize(70_000, b' ');
    let with = |field: &str| format!(r#"{{"device_id":"d-1","ts":{now},{field}}}"#).into_bytes();
    let framed = [b"\x00\x00\x00\x00\x07".as_slice(), &good].concat();
    let bad: Vec<(Option<&str>, Option<Vec<u8>>, &str)> = vec![
        (Some("d-1"), None, "unexpected_tombstone"),
        (None, Some(good.clone()), "key_missing"),
        (Some("d-2"), Some(good.clone()), "key_mismatch"),
        (Some("d-1"), Some(long), "record_too_large"),
        (Some("d-1"), Some(framed), "utf8_invalid"),
        (Some("d-1"), Some(with(r#""lat":"54","lon":1"#)), "field_type"),
        (Some("d-1"), Some(br#"{"device_id":"d-1","ts":null}"#.to_vec()), "field_missing"),
        (Some("d-1"), Some(b"[]".to_vec()), "field_type"),
        (Some("d-1"), Some(with(r#""seq":1,"seq":2"#)), "json_duplicate_key"),
        // No device's clock is a year ahead; its state would never change again.
        (Some("d-1"), Some(message("d-1", now + 31_536_000_000, 1.0)), "event_time_implausible"),
    ];
    for (key, value, _) in &bad {
        fleet.send("telemetry", key.map(str::as_bytes), value.as_deref());
    }
    // The same message three times has one effect, and a field that we do not know is no mistake.
    let other = with(r#""lat":54.1,"lon":11.2,"seq":5,"colour":"red""#);
    for value in [&good, &good, &good, &other] {
        fleet.send("telemetry", Some(b"d-1"), Some(value));
    }
    fleet.reference("vehicle", "v-1", &json!({"vehicle_id": "v-1", "device_id": "d-1"}));
    let letters = fleet.dead_letters(bad.len()).await;
    let mut expected: BTreeMap<&str, u64> = BTreeMap::new();
    bad.iter().for_each(|(_, _, code)| *expected.entry(code).or_default() += 1);
    assert_eq!(codes(&letters), expected);
    wait_until_async(DEADLINE, "the good ones", async || fleet.read("enriched").len() >= 2).await;
    fleet.vehicle("the newest good message", |row| row.is_some_and(|row| row["ts"] == now && row["seq"] == 5)).await;
    assert_eq!(fleet.read("enriched").len(), 2, "once each");
    assert_eq!(fleet.program.stop(), Some(0));
}

/// Times that the senders made up, where the log does not put its own: nothing is lost, and the clock of the dataflow stays.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_record_times_do_not_stop_the_clock() {
    let created = [("message.timestamp.type", "CreateTime"), ("message.timestamp.after.max.ms", "9223372036854775807")];
    let fleet = Fleet::start(&created);
    let now = now_ms();
    fleet.reference("vehicle", "v-1", &json!({"vehicle_id": "v-1", "device_id": "d-1"}));
    for (seq, ms) in [now + 30 * 86_400_000, 1, i64::from(u32::MAX) * 1_000, now].into_iter().enumerate() {
        let value =
            json!({"device_id": "d-1", "ts": now + seq as i64, "seq": seq, "lat": 54.1, "lon": 11.2}).to_string();
        fleet.send_at("telemetry", Some(b"d-1"), Some(value.as_bytes()), Some(ms));
    }
    fleet.flush();
    fleet.vehicle("the last message", |row| row.is_some_and(|row| row["seq"] == 3)).await;
    wait_until_async(DEADLINE, "all messages", async || fleet.read("enriched").len() >= 4).await;
    assert_eq!(fleet.read("enriched").len(), 4);
    assert!(fleet.read("dead_letters").is_empty());
    assert_eq!(fleet.program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn references_come_late_dangle_change_hands_and_go() {
    let fleet = Fleet::start(&[]);
    let now = now_ms();
    // A device that nobody knows: its message is in the history, without a vehicle.
    fleet.message("d-1", now, 54.1);
    wait_until_async(DEADLINE, "the message", async || fleet.read("enriched").len() == 1).await;
    assert!(fleet.read("enriched")[0].json().get("vehicle_id").is_none());
    assert!(fleet.vehicles("").await.is_empty());

    let vehicle =
        |company: &str| json!({"vehicle_id": "v-1", "device_id": "d-1", "company_id": company, "driver_id": "r-1"});
    fleet.reference("vehicle", "v-1", &vehicle("c-1"));
    fleet
        .vehicle("the vehicle with its last position and no driver", |row| {
            row.is_some_and(|row| row["lat"] == 54.1 && row["driver_id"] == "r-1" && row["driver_name"].is_null())
        })
        .await;
    for (stream, key) in [("vehicle", "v-none"), ("driver", "r-none"), ("company", "c-none"), ("tariff", "t-none")] {
        fleet.reference(stream, key, &Value::Null);
    }
    fleet.reference("driver", "r-1", &json!({"driver_id": "r-1", "name": "Ada"}));
    fleet.reference("company", "c-1", &json!({"company_id": "c-1", "name": "First"}));
    fleet
        .vehicle("driver and company", |row| {
            row.is_some_and(|row| row["driver_name"] == "Ada" && row["company_name"] == "First")
        })
        .await;

    fleet.reference("vehicle", "v-1", &vehicle("c-2"));
    wait_until_async(DEADLINE, "the vehicle at its new company", async || {
        fleet.vehicles("?company=c-2").await.contains_key("v-1")
    })
    .await;
    assert!(fleet.vehicles("?company=c-1").await.is_empty(), "the old company does not see it any more");
    fleet.reference("vehicle", "v-1", &vehicle("c-1"));
    fleet.reference("driver", "r-1", &Value::Null);
    fleet.reference("company", "c-1", &Value::Null);
    fleet
        .vehicle("the vehicle without driver's and company's names", |row| {
            row.is_some_and(|row| {
                row["company_id"] == "c-1" && row["driver_name"].is_null() && row["company_name"].is_null()
            })
        })
        .await;

    fleet.reference("vehicle", "v-1", &Value::Null);
    fleet.vehicle("no vehicle", |row| row.is_none()).await;
    wait_until_async(DEADLINE, "its tombstone", async || {
        let all = fleet.read("vehicle_state");
        let last = all.iter().rfind(|record| record.key.as_deref() == Some(b"v-1"));
        last.is_some_and(|record| record.value.is_none())
    })
    .await;
    fleet.message("d-1", now + 1_000, 54.2);
    fleet.reference("vehicle", "v-1", &vehicle("c-1"));
    fleet
        .vehicle("the vehicle again, with the position of meanwhile", |row| row.is_some_and(|row| row["lat"] == 54.2))
        .await;
    assert!(fleet.read("dead_letters").is_empty());
    assert_eq!(fleet.program.stop(), Some(0));
}
