//! Streams that are added to a running program have what they would have if they had been there from the start. Would catch: a
//! message of before missed or counted twice where the past and what is live meet, on either log; a look-up that sees a table
//! otherwise than it was; a build that is seen before it is done, does not end when it is dropped, or leaves something behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reqwest::Method;
use serde_json::Value;

use crate::services::{kafka, wait_until, wait_until_async};
use crate::streams::{Running, number};

/// Streams by which every message, every look-up and every event is counted; the name is to be put in.
const DECLARED: [(&str, &str); 3] = [
    (
        "devices",
        "WITH (key = 'device_id') AS SELECT device_id, count(*) AS n, count(seq) AS seqs, sum(odometer_km) AS km,
         max(ts) AS newest FROM telemetry GROUP BY device_id",
    ),
    (
        "names",
        "WITH (key = 'company_id') AS SELECT e.company_id, count(*) AS n, count(c.name) AS named, min(c.name) AS least,
         max(c.name) AS most FROM telemetry_enriched e LEFT JOIN companies c ON c.company_id = e.company_id
         GROUP BY e.company_id",
    ),
    ("kinds", "WITH (key = 'kind') AS SELECT kind, count(*) AS n FROM vehicle_events GROUP BY kind"),
];

fn declared(before: &str, name: &str, rest: &str) -> String {
    format!("CREATE MATERIALIZED VIEW {before}_{name} {rest}")
}

/// Declares them all from the start.
fn from_the_start(directory: &Path) -> String {
    let streams = directory.join("streams");
    std::fs::create_dir(&streams).expect("as it should be");
    for (name, rest) in DECLARED {
        std::fs::write(streams.join(format!("{name}.sql")), declared("a", name, rest)).expect("as it should be");
    }
    streams.to_str().expect("as it should be").to_owned()
}

/// Both have the same rows, whatever arrives meanwhile: a question is of one tick.
fn same(running: &Running, name: &str) {
    let differ = format!(
        "SELECT (SELECT count(*) FROM (SELECT * FROM a_{name} EXCEPT SELECT * FROM b_{name}) x) AS a,
                (SELECT count(*) FROM (SELECT * FROM b_{name} EXCEPT SELECT * FROM a_{name}) x) AS b"
    );
    for _ in 0..10 {
        assert_eq!(running.sql(&differ), "0|0", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_added_stream_is_as_one_from_the_start() {
    let directory = tempfile::tempdir().expect("as it should be");
    let streams = from_the_start(directory.path());
    let running = Running::start(directory.path(), &streams);
    running.wait_for("events are counted", "SELECT sum(n) FROM a_devices", |n| number(n) > 2_000);
    for (name, rest) in DECLARED {
        let told = running.add(&declared("b", name, rest)).await;
        assert_eq!(told["state"], "running", "{told}");
        same(&running, name);
    }
    assert!(number(&running.sql("SELECT count(*) FROM b_devices")) > 100);

    // Over a stream of events that was added before, and over a table that was.
    running
        .add("CREATE MATERIALIZED VIEW fast AS SELECT device_id, speed_kmh FROM telemetry WHERE speed_kmh > 20")
        .await;
    running.add("CREATE MATERIALIZED VIEW all_fast AS SELECT count(*) AS n FROM fast").await;
    running.add("CREATE MATERIALIZED VIEW here AS SELECT count(*) AS n FROM telemetry WHERE speed_kmh > 20").await;
    assert_eq!(running.sql("SELECT (SELECT n FROM here) - (SELECT n FROM all_fast) AS d"), "0");
    running.add("CREATE MATERIALIZED VIEW whole AS SELECT sum(n) AS n FROM b_devices").await;
    assert_eq!(running.sql("SELECT (SELECT n FROM whole) - (SELECT sum(n) FROM a_devices) AS d"), "0");

    // Without its past, and with a part of it.
    let count = |name: &str| format!("CREATE MATERIALIZED VIEW {name} AS SELECT count(*) AS n FROM telemetry");
    let before = number(&running.sql("SELECT sum(n) FROM a_devices"));
    for (name, query, status) in [("no_past", "?history=none", 201), ("short", "?history=1%20second", 201)] {
        let (found, told) = running.ask(Method::POST, query, &count(name)).await;
        assert_eq!(found, status, "{told}");
        let n = number(&running.sql(&format!("SELECT n FROM {name}")));
        assert!(n < before, "{name}: {n} of {before}");
    }
    let (status, told) = running.ask(Method::POST, "?history=long", &count("never")).await;
    assert_eq!((status, told["code"].as_str()), (400, Some("history_invalid")), "{told}");
    let events = "CREATE MATERIALIZED VIEW late_events AS SELECT device_id FROM telemetry";
    assert_eq!(running.ask(Method::POST, "?history=none", events).await.0, 201);
    let over = "CREATE MATERIALIZED VIEW over_late AS SELECT count(*) AS n FROM late_events";
    let (status, told) = running.ask(Method::POST, "", over).await;
    assert_eq!((status, told["code"].as_str()), (400, Some("stream_without_past")), "{told}");

    // A new version has the past too.
    let other = declared("b", "devices", &DECLARED[0].1.replace("GROUP BY", "WHERE speed_kmh >= 0 OR TRUE GROUP BY"));
    let (status, told) = running.ask(Method::PUT, "/b_devices", &other).await;
    assert_eq!(status, 200, "{told}");
    same(&running, "devices");
    assert_eq!(running.sql("SELECT (SELECT n FROM whole) - (SELECT sum(n) FROM a_devices) AS d"), "0");
    assert_eq!(running.program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_can_be_watched_and_dropped() {
    let directory = tempfile::tempdir().expect("as it should be");
    let streams = from_the_start(directory.path());
    let options = format!(
        "[simulator]\nvehicles = 200\nrate_per_s = 500.0\n[sql]\nstreams = \"{streams}\"\nbuild_rows_per_s = 300\n"
    );
    let running = Running::with(directory.path(), &options);
    running.wait_for("events are counted", "SELECT sum(n) FROM a_devices", |n| number(n) > 2_000);
    let text = declared("b", "devices", DECLARED[0].1);
    let (status, told) = running.ask(Method::POST, "?detach=true", &text).await;
    assert_eq!(status, 202, "{told}");
    assert_eq!(told["state"], "building", "{told}");
    // The log grows faster than it is read.
    wait_until_async(Duration::from_secs(180), "it goes on", async || {
        running.ask(Method::GET, "/b_devices", "").await.1["percent"].as_u64() > Some(0)
    })
    .await;
    // Nobody sees or changes it yet.
    for (method, path, body) in [
        (Method::POST, "", "CREATE MATERIALIZED VIEW over AS SELECT count(*) AS n FROM b_devices"),
        (Method::PUT, "/b_devices", text.as_str()),
    ] {
        let (status, told) = running.ask(method, path, body).await;
        assert_eq!((status, told["code"].as_str()), (409, Some("stream_building")), "{told}");
    }
    assert_eq!(running.sql("SELECT count(*) FROM haulstream.streams WHERE state = 'building'"), "1");
    told_by_the_command(&running, directory.path()).await;
    assert_eq!(running.ask(Method::DELETE, "/b_devices", "").await.0, 200);
    assert_eq!(running.ask(Method::GET, "/b_devices", "").await.0, 404);

    // The old version answers, and stays when the new one is given up.
    let other = declared("a", "devices", &DECLARED[0].1.replace("GROUP BY", "WHERE speed_kmh < 0 GROUP BY"));
    assert_eq!(running.ask(Method::PUT, "/a_devices?detach=true", &other).await.0, 202);
    let told = running.ask(Method::GET, "/a_devices", "").await.1;
    assert!(told["state"] == "running" && told["percent"].is_u64(), "{told}");
    assert!(number(&running.sql("SELECT sum(n) FROM a_devices")) > 2_000);
    // It ends while something is built.
    assert_eq!(running.program.stop(), Some(0));
}

/// `sql add` tells how far it is while it waits, here for the one before it, and that it was stopped.
async fn told_by_the_command(running: &Running, directory: &Path) {
    let file = directory.join("c.sql");
    std::fs::write(&file, declared("c", "devices", DECLARED[0].1)).expect("as it should be");
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
    command.args(["sql", "add", file.to_str().expect("as it should be"), "--since", "7 days"]);
    command.args(["--server", &running.program.url]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("a pipe")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("c_devices: building "), "{line}");
    assert_eq!(running.ask(Method::DELETE, "/c_devices", "").await.0, 200);
    let ended = child.wait_with_output().expect("it ends");
    let why = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && why.contains("stream_build_stopped"), "{why}");
}

/// Topics of a fleet in Kafka, and what is sent to them.
struct Fleet {
    topics: Vec<(&'static str, String)>,
    producer: BaseProducer,
}

const DEVICES: u64 = 50;

impl Fleet {
    fn new() -> Fleet {
        let names = [("telemetry", 4), ("vehicle", 2), ("driver", 1), ("company", 1), ("tariff", 1)];
        let results = [("dead_letters", 1), ("enriched", 1), ("vehicle_state", 1), ("online", 1), ("offline", 1)];
        let topic = |(name, partitions)| (name, kafka().topic(name, partitions));
        let topics = names.into_iter().chain(results).map(topic).collect();
        let producer = kafka().client().set("linger.ms", "1").create().expect("a producer");
        let fleet = Fleet { topics, producer };
        for number in 0..DEVICES {
            let value = format!(
                r#"{{"vehicle_id":"v{number}","device_id":"d{number}","plate":"P{number}","model":"M","company_id":"c{}"}}"#,
                number % 5
            );
            fleet.put("vehicle", &format!("v{number}"), &value);
        }
        (0..5).for_each(|number| fleet.company(number, "first"));
        fleet.flush();
        fleet
    }

    fn options(&self, streams: &str) -> String {
        let topics: String = self.topics.iter().map(|(name, topic)| format!("{name} = \"{topic}\"\n")).collect();
        format!(
            "[run]\nworkers = 2\nsource = \"kafka\"\n[topics]\n{topics}[kafka]\nbrokers = \"{}\"\n\
             [parquet]\nenabled = false\n[simulator]\nenabled = false\n[sql]\nstreams = \"{streams}\"\n",
            kafka().bootstrap()
        )
    }

    fn put(&self, topic: &str, key: &str, value: &str) {
        let topic = &self.topics.iter().find(|(name, _)| *name == topic).expect("a topic").1;
        let mut record = BaseRecord::to(topic).key(key).payload(value);
        while let Err((_, back)) = self.producer.send(record) {
            record = back;
            self.producer.poll(Duration::from_millis(1));
        }
    }

    fn company(&self, number: u64, name: &str) {
        let key = format!("c{number}");
        self.put("company", &key, &format!(r#"{{"company_id":"{key}","name":"{name} {number}"}}"#));
    }

    fn message(&self, number: u64, now_ms: u128) {
        let device = format!("d{}", number % DEVICES);
        let value = format!(
            r#"{{"device_id":"{device}","ts":{now_ms},"seq":{},"lat":48.1,"lon":11.5,"speed_kmh":{}.5,"odometer_km":{}.25}}"#,
            number + 1,
            number % 120,
            number % 1_000
        );
        self.put("telemetry", &device, &value);
    }

    fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("the broker takes them");
    }
}

fn now_ms() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_kafka_nothing_is_missed_and_nothing_comes_twice() {
    const BEFORE: u64 = 20_000;
    let directory = tempfile::tempdir().expect("as it should be");
    let streams = from_the_start(directory.path());
    let fleet = Fleet::new();
    (0..BEFORE).for_each(|number| fleet.message(number, now_ms()));
    fleet.flush();
    let running = Running::with(directory.path(), &fleet.options(&streams));
    running.wait_for("what was there is counted", "SELECT sum(n) FROM a_devices", |n| number(n) == BEFORE as i64);
    let go_on = AtomicBool::new(true);
    let sent = std::thread::scope(|scope| {
        // Messages and changes of a table that they meet, all the while.
        let sending = scope.spawn(|| {
            let mut sent = BEFORE;
            while go_on.load(Ordering::Relaxed) {
                (0..20).for_each(|more| fleet.message(sent + more, now_ms()));
                sent += 20;
                if sent.is_multiple_of(400) {
                    fleet.company(sent / 400 % 5, &format!("since {sent}"));
                }
                fleet.producer.poll(Duration::from_millis(5));
            }
            fleet.flush();
            sent
        });
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                for (name, rest) in DECLARED.iter().take(2) {
                    let told = running.add(&declared("b", name, rest)).await;
                    assert_eq!(told["state"], "running", "{told}");
                    same(&running, "devices");
                }
            });
        });
        go_on.store(false, Ordering::Relaxed);
        sending.join().expect("no panic")
    });
    let counted = |name: &str| format!("SELECT sum(n) FROM {name}");
    for name in ["a_devices", "b_devices", "b_names"] {
        running.wait_for("all is counted", &counted(name), |n| number(n) == sent as i64);
    }
    same(&running, "devices");
    let listed = running.ask(Method::GET, "/b_names", "").await.1;
    assert_eq!(listed["percent"], Value::Null, "{listed}");
    wait_until(Duration::from_secs(10), "each company had more names than one", || {
        running.sql("SELECT count(*) FROM b_names WHERE least < most") == "5"
    });
    assert_eq!(running.program.stop(), Some(0));
}
