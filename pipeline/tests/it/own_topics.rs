//! Sources and tables over topics of one's own, on the running program and both logs: what is counted is what was sent, the
//! newest row of each key stands and a null value takes it away, garbage becomes dead letters and harms nothing else, and
//! the same log gives the same content with any number of workers, after a restart, and to a stream that is added later.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use reqwest::Method;
use serde_json::{Value, json};
use sources::log::{EmbeddedLog, system_clock};
use sources::publish::{Publish, Records};

use crate::kafka_sink::{Seen, read};
use crate::services::{kafka, wait_until_async};
use crate::streams::{Running, number};

const DEADLINE: Duration = Duration::from_secs(60);
const RECEIPTS: &str = "CREATE SOURCE receipts (receipt_id TEXT, till_id INT, total DECIMAL(10, 2), paid_at TIMESTAMP)
    FROM LOG 'shop.receipts' FORMAT JSON KEY (receipt_id) EVENT TIME paid_at";
const TILLS: &str = "CREATE TABLE tills (shop TEXT, till_id INT, city_id TEXT, opened DATE)
    FROM LOG 'shop.tills' FORMAT JSON KEY (till_id, shop)";
/// Streams over events, over a table, over both; the name is to be put before.
const STREAMS: [(&str, &str); 4] = [
    (
        "spent",
        "WITH (key = 'till_id') AS SELECT till_id, count(*) AS n, sum(total) AS total, max(paid_at) AS newest FROM receipts
         GROUP BY till_id",
    ),
    ("cities", "WITH (key = 'city_id') AS SELECT city_id, count(*) AS n, max(opened) AS newest FROM tills GROUP BY city_id"),
    (
        "by_city",
        "WITH (key = 'city_id') AS SELECT t.city_id, count(*) AS n, sum(r.total) AS total
         FROM receipts r LEFT JOIN tills t ON t.till_id = r.till_id AND t.shop = 's' GROUP BY t.city_id",
    ),
    (
        "hours",
        "WITH (key = 'hour', retention = '30 days') AS SELECT date_bin(interval '1 hour', paid_at) AS hour, count(*) AS n
         FROM receipts GROUP BY 1",
    ),
];
/// What each stream holds, in one order.
const CONTENTS: [&str; 4] = [
    "SELECT * FROM {}_spent ORDER BY till_id",
    "SELECT * FROM {}_cities ORDER BY city_id",
    "SELECT * FROM {}_by_city ORDER BY city_id",
    "SELECT * FROM {}_hours ORDER BY hour",
];
const TILLS_MAX: u64 = 9;

/// The folders of the schema and of the streams.
struct Declared {
    schema: PathBuf,
    streams: PathBuf,
}

impl Declared {
    fn new(folder: &Path, names: impl Fn(&str) -> String) -> Declared {
        let (schema, streams) = (folder.join("schema"), folder.join("streams"));
        std::fs::create_dir(&schema).expect("a directory");
        std::fs::create_dir(&streams).expect("a directory");
        for (name, text) in [("receipts", RECEIPTS), ("tills", TILLS)] {
            std::fs::write(schema.join(format!("{name}.sql")), names(text)).expect("a file");
        }
        for (name, rest) in STREAMS {
            std::fs::write(streams.join(format!("{name}.sql")), stream("a", name, rest)).expect("a file");
        }
        Declared { schema, streams }
    }

    fn sql(&self) -> String {
        format!("[sql]\nstreams = \"{}\"\nschema = \"{}\"\n", self.streams.display(), self.schema.display())
    }
}

fn stream(before: &str, name: &str, rest: &str) -> String {
    format!("CREATE MATERIALIZED VIEW {before}_{name} {rest}")
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// A record.
struct Sent {
    topic: &'static str,
    key: String,
    value: Option<Vec<u8>>,
}

/// What is sent, and what has to come of it.
#[derive(Default)]
struct Story {
    records: Vec<Sent>,
    receipts: u64,
    /// By till, how many receipts and cents.
    spent: BTreeMap<u64, (u64, u64)>,
    /// The tills that there are, with their cities.
    tills: BTreeMap<u64, u64>,
    codes: BTreeMap<&'static str, u64>,
}

impl Story {
    fn new(seed: u64, count: u64, garbage_pct: u64) -> Story {
        let (mut dice, mut story) = (Dice(seed), Story::default());
        for number in 0..count {
            if dice.roll(100) < garbage_pct {
                story.garbage(&mut dice);
            } else if dice.roll(4) == 0 {
                story.till(&mut dice, number);
            } else {
                story.receipt(&mut dice, number);
            }
        }
        story
    }

    fn receipt(&mut self, dice: &mut Dice, number: u64) {
        let (till, cents) = (dice.roll(TILLS_MAX), dice.roll(100_000));
        let total = format!("{}.{:02}", cents / 100, cents % 100);
        let value = json!({"receipt_id": format!("r{number}"), "till_id": till, "total": total, "more": [number],
            "paid_at": now_ms() - dice.roll(86_400_000) as i64});
        let spent = self.spent.entry(till).or_default();
        *spent = (spent.0 + 1, spent.1 + cents);
        self.receipts += 1;
        self.put("shop.receipts", &format!("r{number}"), Some(value.to_string().into_bytes()));
    }

    fn till(&mut self, dice: &mut Dice, number: u64) {
        let (till, city) = (dice.roll(TILLS_MAX), dice.roll(4));
        let key = format!("{till}|s");
        if dice.roll(3) == 0 {
            self.tills.remove(&till);
            return self.put("shop.tills", &key, None);
        }
        self.tills.insert(till, city);
        let value =
            json!({"shop": "s", "till_id": till, "city_id": format!("c{city}"), "opened": "2026-01-31", "n": number});
        self.put("shop.tills", &key, Some(value.to_string().into_bytes()));
    }

    fn garbage(&mut self, dice: &mut Dice) {
        let (topic, key, value, code): (_, _, Option<&[u8]>, _) = match dice.roll(8) {
            0 => ("shop.receipts", "r", Some(b"{\"receipt_id\":\"r\",".as_slice()), "json_invalid"),
            1 => ("shop.receipts", "r", Some(b"{\"receipt_id\":\"r\",\"total\":\"dear\"}"), "field_type"),
            2 => ("shop.receipts", "r", Some(b"{\"receipt_id\":\"r\",\"total\":0.001}"), "field_out_of_range"),
            3 => ("shop.receipts", "r", Some(b"{\"till_id\":1}"), "field_missing"),
            4 => ("shop.receipts", "r", Some(b"{\"receipt_id\":\"\xff\"}"), "utf8_invalid"),
            5 => ("shop.receipts", "r", None, "unexpected_tombstone"),
            6 => ("shop.tills", "1|t", Some(b"{\"shop\":\"s\",\"till_id\":1}"), "key_mismatch"),
            _ => ("shop.tills", "one|s", None, "key_mismatch"),
        };
        *self.codes.entry(code).or_default() += 1;
        self.put(topic, key, value.map(<[u8]>::to_vec));
    }

    fn put(&mut self, topic: &'static str, key: &str, value: Option<Vec<u8>>) {
        self.records.push(Sent { topic, key: key.to_owned(), value });
    }

    fn refused(&self) -> u64 {
        self.codes.values().sum()
    }

    /// What `spent` holds without its newest time.
    fn expected_spent(&self) -> String {
        let mut lines = String::new();
        for (till, (n, cents)) in &self.spent {
            let _ = writeln!(lines, "{till}|{n}|{}.{:02}", cents / 100, cents % 100);
        }
        lines.trim_end().to_owned()
    }

    fn expected_cities(&self) -> String {
        let mut cities: BTreeMap<u64, u64> = BTreeMap::new();
        self.tills.values().for_each(|city| *cities.entry(*city).or_default() += 1);
        cities.iter().map(|(city, n)| format!("c{city}|{n}")).collect::<Vec<_>>().join("\n")
    }
}

/// Waits until the streams that begin so hold what was sent, and gives all that they hold.
fn contents(running: &Running, before: &str, story: &Story) -> Vec<String> {
    let spent = format!("SELECT till_id, n, total FROM {before}_spent ORDER BY till_id");
    running.wait_for("all receipts", &spent, |found| found == story.expected_spent());
    let cities = format!("SELECT city_id, n FROM {before}_cities ORDER BY city_id");
    running.wait_for("all tills", &cities, |found| found == story.expected_cities());
    for view in ["by_city", "hours"] {
        let all = format!("SELECT coalesce(sum(n), 0) FROM {before}_{view}");
        running.wait_for(view, &all, |n| number(n) as u64 == story.receipts);
    }
    CONTENTS.iter().map(|question| running.sql(&question.replace("{}", before))).collect()
}

/// Writes a story to the embedded log of a program that does not run, a few records at a time so that they have many ticks.
fn write(data: &Path, story: &Story) {
    let log = EmbeddedLog::open(crate::embedded::log_options(&data.join("log")), system_clock()).expect("a log");
    log.create_topic("shop.receipts", 4).expect("a topic");
    log.create_topic("shop.tills", 2).expect("a topic");
    for some in story.records.chunk_by(|a, b| a.topic == b.topic) {
        let mut records = Records::default();
        some.iter().for_each(|sent| records.push(Some(sent.key.as_bytes()), sent.value.as_deref()));
        let ack = log.publish(some[0].topic, &records);
        tokio::runtime::Handle::current().block_on(ack).expect("the log takes them");
    }
}

fn embedded(folder: &Path, workers: usize, declared: &Declared) -> Running {
    let sql = declared.sql();
    // Each reads the log from its beginning.
    let settings = "[simulator]\nenabled = false\n[checkpoint]\nenabled = false\n";
    Running::with(folder, &format!("[run]\nworkers = {workers}\n{settings}{sql}"))
}

async fn refused_by_metrics(running: &Running) -> u64 {
    let page = reqwest::get(format!("{}/metrics", running.program.url)).await.expect("the edge answers");
    let page = page.text().await.expect("text");
    let lines =
        page.lines().filter(|line| line.starts_with("haulstream_source_rejected_total{") && line.contains("shop."));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_log_gives_the_same_with_any_number_of_workers() {
    let folder = tempfile::tempdir().expect("a directory");
    let declared = Declared::new(folder.path(), str::to_owned);
    let story = Story::new(1, 2_000, 1);
    assert!(story.refused() > 5 && !story.tills.is_empty());
    tokio::task::block_in_place(|| write(&folder.path().join("data"), &story));
    let mut found: Vec<Vec<String>> = Vec::new();
    for workers in [1, 2, 4] {
        let running = embedded(folder.path(), workers, &declared);
        found.push(contents(&running, "a", &story));
        wait_until_async(DEADLINE, "all refusals", async || refused_by_metrics(&running).await == story.refused())
            .await;
        if workers == 2 {
            // Streams that are added later have what those from the start have.
            for (name, rest) in STREAMS {
                running.add(&stream("b", name, rest)).await;
            }
            assert_eq!(contents(&running, "b", &story), found[0]);
            let (status, told) = running.ask(Method::POST, "", RECEIPTS).await;
            assert_eq!((status, told["code"].as_str()), (403, Some("sql_statement_not_allowed")), "{told}");
        }
        assert_eq!(running.program.stop(), Some(0));
    }
    assert!(found[0][2].lines().count() > 2, "receipts of several cities: {}", found[0][2]);
    assert!(found[0] == found[1] && found[1] == found[2], "{found:#?}");
}

async fn post(running: &Running, topic: &str, body: &Value) -> (u16, Value) {
    let url = format!("{}/v1/events/{topic}", running.program.url);
    let answer = reqwest::Client::new().post(url).json(body).send().await.expect("the gate answers");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_over_http_without_kafka() {
    let folder = tempfile::tempdir().expect("a directory");
    let declared = Declared::new(folder.path(), str::to_owned);
    let running = embedded(folder.path(), 2, &declared);
    let tills = json!([{"shop": "s", "till_id": 1, "city_id": "c1"}, {"shop": "s", "till_id": 2, "city_id": "c1"}]);
    assert_eq!(post(&running, "shop.tills", &tills).await.0, 202);
    running.wait_for("the tills", "SELECT n FROM a_cities WHERE city_id = 'c1'", |n| n == "2");
    let receipt = json!({"receipt_id": "r1", "till_id": 1, "total": 12.5, "paid_at": now_ms()});
    assert_eq!(post(&running, "shop.receipts", &receipt).await.0, 202);
    running.wait_for("the receipt", "SELECT city_id, n, total FROM a_by_city", |row| row == "c1|1|12.50");
    assert_eq!(running.sql("SELECT till_id, shop, city_id, opened FROM tills ORDER BY till_id"), "1|s|c1|\n2|s|c1|");
    let gone = json!({"shop": "s", "till_id": 2, "__deleted": true});
    assert_eq!(post(&running, "shop.tills", &gone).await.0, 202);
    running.wait_for("a till is gone", "SELECT n FROM a_cities WHERE city_id = 'c1'", |n| n == "1");
    let (status, told) = post(&running, "shop.receipts", &json!({"receipt_id": "r2", "total": "dear"})).await;
    assert_eq!(
        (status, told["code"].as_str(), told["where"]["field"].as_str()),
        (422, Some("field_type"), Some("total"))
    );
    assert_eq!(post(&running, "telemetry.raw", &receipt).await.0, 404);
    assert_eq!(running.program.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_grows_too_large_is_kept_no_more() {
    let folder = tempfile::tempdir().expect("a directory");
    let declared = Declared::new(folder.path(), str::to_owned);
    let sql = declared.sql() + "table_rows_max = 100\n";
    let running = Running::with(folder.path(), &format!("[run]\nworkers = 2\n[simulator]\nenabled = false\n{sql}"));
    let tills = |range: std::ops::Range<u64>| {
        Value::from_iter(range.map(|n| json!({"shop": "s", "till_id": n, "city_id": "c"})))
    };
    assert_eq!(post(&running, "shop.tills", &tills(0..100)).await.0, 202);
    running.wait_for("the tills", "SELECT count(*) FROM tills", |n| n == "100");
    assert_eq!(post(&running, "shop.tills", &tills(50..101)).await.0, 202);
    wait_until_async(DEADLINE, "its reader is suspended", async || {
        running.ask(Method::GET, "/a_cities", "").await.1["state"] == "suspended"
    })
    .await;
    let told = running.ask(Method::GET, "/a_cities", "").await.1;
    assert!(told["reason"].as_str().is_some_and(|why| why.contains("reads tills")), "{told}");
    let (status, told) =
        running.ask(Method::POST, "", "CREATE MATERIALIZED VIEW more AS SELECT till_id FROM tills").await;
    assert_eq!((status, told["code"].as_str()), (409, Some("sql_stream_suspended")), "{told}");
    // What does not read it goes on.
    assert_eq!(post(&running, "shop.receipts", &json!({"receipt_id": "r", "till_id": 1, "total": 1})).await.0, 202);
    running.wait_for("a receipt", "SELECT n FROM a_spent", |n| n == "1");
    assert!(running.program.log().iter().any(|line| line.contains("sql.table_rows_max")));
    assert_eq!(running.program.stop(), Some(0));
}

/// Topics in Kafka under names of the test's own.
struct Topics {
    names: BTreeMap<&'static str, String>,
    producer: BaseProducer,
}

impl Topics {
    fn new() -> Topics {
        let core = ["telemetry", "vehicle", "driver", "company", "tariff", "dead_letters", "enriched", "vehicle_state"];
        let all = core.into_iter().chain(["online", "offline", "shop.receipts", "shop.tills"]);
        let names = all.map(|name| (name, kafka().topic(name, 3))).collect();
        Topics { names, producer: kafka().client().set("linger.ms", "1").create().expect("a producer") }
    }

    fn options(&self, workers: usize, declared: &Declared) -> String {
        let named = self.names.iter().filter(|(name, _)| !name.contains('.'));
        let named: String = named.map(|(name, topic)| format!("{name} = \"{topic}\"\n")).collect();
        format!(
            "[run]\nworkers = {workers}\nsource = \"kafka\"\n[topics]\n{named}[kafka]\nbrokers = \"{}\"\n[kafka_sink]\n\
             enabled = true\n[parquet]\nenabled = false\n{}",
            kafka().bootstrap(),
            declared.sql()
        )
    }

    /// The text with the test's own topics, which have to be in Kafka.
    fn in_text(&self, text: &str) -> String {
        let named =
            |text: String, name: &str| text.replace(&format!("LOG '{name}'"), &format!("KAFKA '{}'", self.names[name]));
        named(named(text.to_owned(), "shop.receipts"), "shop.tills")
    }

    fn send(&self, story: &Story) {
        for sent in &story.records {
            let mut record = BaseRecord::<str, [u8]>::to(&self.names[sent.topic]).key(&sent.key);
            record = sent.value.as_deref().into_iter().fold(record, BaseRecord::payload);
            while let Err((_, back)) = self.producer.send(record) {
                record = back;
                self.producer.poll(Duration::from_millis(1));
            }
        }
        self.producer.flush(DEADLINE).expect("the broker takes them");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_kafka_garbage_harms_nothing_and_a_restart_changes_nothing() {
    let folder = tempfile::tempdir().expect("a directory");
    let topics = Topics::new();
    let declared = Declared::new(folder.path(), |text| topics.in_text(text));
    let mut story = Story::new(2, 3_000, 1);
    topics.send(&story);
    let running = Running::with(folder.path(), &topics.options(2, &declared));
    contents(&running, "a", &story);
    let letters = dead_letters(&topics, story.refused()).await;
    let mut codes: BTreeMap<&str, u64> = BTreeMap::new();
    for letter in &letters {
        *codes.entry(letter.headers["code"].as_str()).or_default() += 1;
        assert!(topics.names.values().any(|topic| letter.headers["topic"] == *topic), "{letter:?}");
        assert!(letter.headers["offset"].parse::<i64>().is_ok() && letter.headers["partition"].parse::<i32>().is_ok());
    }
    assert_eq!(codes, story.codes.iter().map(|(code, count)| (*code, *count)).collect());
    assert!(letters.iter().any(|letter| letter.headers["message"].contains("total is \"dear\"")), "{letters:?}");

    // Nothing but garbage, and then a good record.
    let garbage = Story::new(3, 500, 100);
    assert_eq!((garbage.receipts, garbage.refused()), (0, 500));
    topics.send(&garbage);
    dead_letters(&topics, story.refused() + 500).await;
    let mut last = Story::default();
    last.receipt(&mut Dice(4), 1_000_000);
    topics.send(&last);
    for (till, (n, cents)) in last.spent {
        let spent = story.spent.entry(till).or_default();
        *spent = (spent.0 + n, spent.1 + cents);
        story.receipts += n;
    }
    let before = contents(&running, "a", &story);
    for (name, rest) in STREAMS {
        running.add(&stream("b", name, rest)).await;
    }
    assert_eq!(contents(&running, "b", &story)[..2], before[..2]);
    assert_eq!(running.program.stop(), Some(0));

    let again = Running::with(folder.path(), &topics.options(4, &declared));
    let after = contents(&again, "a", &story);
    assert_eq!((&after[..2], &after[3]), (&before[..2], &before[3]));
    assert_eq!(again.program.stop(), Some(0));
}

async fn dead_letters(topics: &Topics, count: u64) -> Vec<Seen> {
    let topic = &topics.names["dead_letters"];
    wait_until_async(DEADLINE, "the dead letters", async || read(kafka(), topic).len() as u64 >= count).await;
    let letters = read(kafka(), topic);
    assert_eq!(letters.len() as u64, count, "each once");
    letters
}

/// Exit code and what is said, of a command with this configuration.
fn command(arguments: &[&str], folder: &Path, text: &str) -> (Option<i32>, String) {
    let file = folder.join("checked.toml");
    std::fs::write(&file, text).expect("a file");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_haulstream"));
    let said =
        command.args(arguments).args(["--config", file.to_str().expect("a plain path")]).output().expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (said.status.code(), text(&said.stdout) + &text(&said.stderr))
}

#[test]
fn what_is_declared_is_checked_with_the_configuration() {
    let folder = tempfile::tempdir().expect("a directory");
    let declared = Declared::new(folder.path(), str::to_owned);
    let (code, said) = command(&["check"], folder.path(), &declared.sql());
    assert!(
        code == Some(0) && said.contains("source receipts of topic shop.receipts\ntable tills of topic shop.tills\n"),
        "{said}"
    );

    let topics = Topics::new();
    let all = topics.options(1, &declared);
    let (code, said) = command(&["topics", "plan"], folder.path(), &all);
    let lines: Vec<&str> = said.lines().filter(|line| line.contains("shop.")).collect();
    assert!(code == Some(0) && lines.len() == 2, "{said}");

    let file = declared.schema.join("receipts.sql");
    let wrong = |text: &str, options: &str, parts: &[&str]| {
        std::fs::write(&file, text).expect("a file");
        let (code, said) = command(&["check"], folder.path(), options);
        assert!(code == Some(2) && parts.iter().all(|part| said.contains(part)), "{parts:?}\n{said}");
    };
    wrong(&RECEIPTS.replace("LOG", "KAFKA"), &declared.sql(), &["receipts is declared FROM KAFKA", "FROM LOG"]);
    wrong(
        &RECEIPTS.replace("KEY (receipt_id)", "KEY (reciept_id)"),
        &declared.sql(),
        &["2:47: sql_unknown_column", "did you mean receipt_id?", "^"],
    );
    wrong(
        &RECEIPTS.replace("shop.receipts", "telemetry.raw"),
        &declared.sql(),
        &["topic_invalid: topic telemetry.raw is that of topics.telemetry"],
    );
    wrong(&RECEIPTS.replace("shop.receipts", "shop.tills"), &declared.sql(), &["topic shop.tills is declared already"]);
    wrong(&RECEIPTS.replace("CREATE SOURCE", "COPY"), &declared.sql(), &["sql_statement_not_allowed"]);
    wrong(RECEIPTS, "[sql]\nschema = \"/nowhere/at/all\"\n", &["sql.schema: cannot read /nowhere/at/all"]);
}
