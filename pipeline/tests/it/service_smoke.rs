//! Shows that the servers other tests stand on really start, answer, break and come back as ordered, and go away.
//!
//! Invariant: a broken harness fails here, with its own name, rather than as a strange fault of some product test.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use clickhouse::Row;
use rdkafka::Message;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};
use redis::Commands;
use serde::{Deserialize, Serialize};

use super::services::{self, ClickHouse, Kafka, Redis, http, wait_until};

/// Ample for anything that a healthy server does here.
const DEADLINE: Duration = Duration::from_secs(30);

fn produce(kafka: &Kafka, topic: &str, payload: &str) {
    let producer: ThreadedProducer<_> =
        kafka.client().set("acks", "all").create().expect("an address is all the producer needs");
    producer
        .send(BaseRecord::to(topic).partition(0).key("device-1").payload(payload))
        .map_err(|(e, _)| e)
        .expect("an empty queue takes a record");
    producer.flush(DEADLINE).expect("the broker takes the record");
}

/// All payloads of partition 0, from its first record to its end, with the kind of timestamp the broker gave the first.
fn consume(kafka: &Kafka, topic: &str) -> (Vec<String>, rdkafka::Timestamp) {
    let consumer: BaseConsumer = kafka
        .client()
        .set("group.id", "smoke")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a valid configuration");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, 0, Offset::Beginning).expect("a valid offset");
    consumer.assign(&assignment).expect("a valid assignment");
    let (_, end) = consumer.fetch_watermarks(topic, 0, DEADLINE).expect("the broker knows the topic");
    let (mut payloads, mut timestamp) = (Vec::new(), rdkafka::Timestamp::NotAvailable);
    wait_until(DEADLINE, &format!("{end} records of {topic} are read"), || {
        if let Some(record) = consumer.poll(Duration::from_millis(100)) {
            let record = record.expect("the broker gives its records");
            timestamp = record.timestamp();
            payloads.push(String::from_utf8_lossy(record.payload().expect("the record has a payload")).into_owned());
        }
        payloads.len() as i64 == end
    });
    (payloads, timestamp)
}

#[test]
fn kafka_takes_and_gives_a_record_with_its_append_time() {
    let kafka = services::kafka();
    let topic = kafka.topic("smoke", 2);
    produce(kafka, &topic, "here");
    let (payloads, timestamp) = consume(kafka, &topic);
    assert_eq!(payloads, ["here"]);
    assert!(matches!(timestamp, rdkafka::Timestamp::LogAppendTime(ms) if ms > 0), "{timestamp:?}");
}

#[test]
fn kafka_makes_no_topic_by_itself() {
    let kafka = services::kafka();
    let consumer: BaseConsumer =
        kafka.client().set("allow.auto.create.topics", "true").create().expect("a valid configuration");
    let name = services::unique("never_made");
    let metadata = consumer.fetch_metadata(Some(&name), DEADLINE).expect("the broker answers");
    assert!(metadata.topics().iter().all(|t| t.error().is_some()), "{name} was made");
}

#[test]
fn a_private_kafka_is_killed_paused_and_stopped_without_losing_a_record() {
    let mut kafka = Kafka::private("log.message.timestamp.type=LogAppendTime");
    kafka.create_topic("kept", 1, &[]);
    produce(&kafka, "kept", "one");
    kafka.server.kill9();
    assert!(!kafka.server.is_running());
    assert!(TcpStream::connect(kafka.bootstrap()).is_err(), "a killed broker takes no connections");
    kafka.server.start();
    produce(&kafka, "kept", "two");

    kafka.server.pause();
    assert!(kafka.server.is_running(), "a paused broker is still there");
    let consumer: BaseConsumer = kafka.client().create().expect("an address is all the client needs");
    assert!(consumer.fetch_metadata(None, Duration::from_secs(1)).is_err(), "a paused broker answers nothing");
    kafka.server.resume();
    produce(&kafka, "kept", "three");

    kafka.server.stop();
    kafka.server.start();
    let (payloads, timestamp) = consume(&kafka, "kept");
    assert_eq!(payloads, ["one", "two", "three"]);
    assert!(matches!(timestamp, rdkafka::Timestamp::LogAppendTime(_)), "{timestamp:?}");
}

#[test]
fn redis_keeps_databases_apart() {
    let connect = || {
        let client = redis::Client::open(services::redis().database()).expect("a valid URL");
        client.get_connection().expect("the server takes a connection")
    };
    let (mut one, mut other) = (connect(), connect());
    let _: () = one.set("key", "value").expect("SET");
    assert_eq!(one.get::<_, Option<String>>("key").expect("GET").as_deref(), Some("value"));
    assert_eq!(other.get::<_, Option<String>>("key").expect("GET"), None);
}

#[test]
fn a_private_redis_remembers_across_a_stop() {
    let mut server = Redis::private("");
    let url = server.database();
    let set = || -> redis::RedisResult<()> { redis::Client::open(url.as_str())?.get_connection()?.set("key", "value") };
    set().expect("SET");
    server.server.stop();
    set().expect_err("a stopped server answers nothing");
    server.server.start();
    let mut connection =
        redis::Client::open(url.as_str()).and_then(|c| c.get_connection()).expect("the server is back");
    assert_eq!(connection.get::<_, String>("key").expect("GET"), "value");
    server.server.kill9();
    server.server.start();
}

#[derive(Row, Serialize, Deserialize, Debug, PartialEq)]
struct Reading {
    device: String,
    speed: f64,
}

#[tokio::test]
async fn clickhouse_takes_an_insert_and_answers() {
    let server = services::clickhouse();
    assert_eq!(server.query("SELECT 1"), "1");
    assert!(server.query("SELECT version()").starts_with("26."), "not the version the product is made for");
    let database = server.database("smoke");
    let client = clickhouse::Client::default().with_url(server.url()).with_database(&database);
    client
        .query("CREATE TABLE readings (device String, speed Float64) ENGINE = MergeTree ORDER BY device")
        .execute()
        .await
        .expect("CREATE");
    let written = Reading { device: "device-1".to_owned(), speed: 12.5 };
    let mut insert = client.insert::<Reading>("readings").await.expect("the table is known");
    insert.write(&written).await.expect("a row");
    insert.end().await.expect("INSERT");
    let read = client.query("SELECT ?fields FROM readings").fetch_all::<Reading>().await.expect("SELECT");
    assert_eq!(read, [written]);
    assert_eq!(server.query(&format!("SELECT * FROM {database}.readings")), "device-1\t12.5");
}

#[test]
fn a_private_clickhouse_remembers_across_a_kill() {
    let mut server = ClickHouse::private();
    let database = server.database("kept");
    server.query(&format!("CREATE TABLE {database}.t (n UInt64) ENGINE = MergeTree ORDER BY n"));
    server.query(&format!("INSERT INTO {database}.t VALUES (7)"));
    server.server.kill9();
    http::request(server.server.port(), "POST", "/", "SELECT 1").expect_err("a killed server answers nothing");
    server.server.start();
    server.server.stop();
    server.server.start();
    assert_eq!(server.query(&format!("SELECT n FROM {database}.t")), "7");
}

#[tokio::test]
async fn the_browser_shows_a_page() {
    let page = "<title>hello</title><body style='background:%23ff0000'><script>setTimeout(() => { document.title += ' again' }, 50); console.error('noted')</script>";
    let browser = services::chromium();
    let mut page = browser.open(&format!("data:text/html,{page}"), 320, 200).await;
    page.wait_for(DEADLINE, "document.title === 'hello again'").await;
    assert!(page.dom().await.contains("<title>hello again</title>"));
    assert!(page.errors().iter().any(|e| e.contains("noted")), "{:?}", page.errors());
    let file = tempfile::Builder::new().suffix(".png").tempfile().expect("a temporary file");
    let picture = page.screenshot(file.path()).await;
    assert_eq!(picture[..8], *b"\x89PNG\r\n\x1a\n");
    // Width and height, from the file's first chunk.
    assert_eq!(picture[16..24], [0, 0, 1, 64, 0, 0, 0, 200]);
    assert_eq!(std::fs::read(file.path()).expect("the file was written"), picture);
}

#[tokio::test]
async fn the_browser_draws_with_webgl_when_asked_to() {
    let browser = services::chromium_with_webgl();
    let mut page = browser.open("about:blank", 320, 200).await;
    page.wait_for(DEADLINE, "document.createElement('canvas').getContext('webgl') !== null").await;
}

/// Set for the child processes of the two tests below: stay until standard input is closed.
const HOLD: &str = "HAULSTREAM_TEST_HOLD";

/// By itself: the shared Redis has a process and a folder. As a child of the tests below: says which, and stays.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test process has no configuration to be told through")]
fn a_shared_server_has_a_process_and_a_folder() {
    let server = &services::redis().server;
    assert!(server.is_running());
    assert!(Path::new(&format!("/proc/{}", server.pid())).exists());
    assert!(server.folder().join("appendonlydir").exists());
    assert!(std::fs::read_to_string(server.log()).expect("the log is there").contains("Ready to accept connections"));
    if std::env::var_os(HOLD).is_some() {
        println!("\nholding {} {} {}", server.pid(), server.port(), server.folder().display());
        std::io::stdin().lines().for_each(drop);
    }
}

/// A test process of its own that holds a shared server.
struct Holder {
    process: Child,
    /// Kept open: the process goes on to print its result.
    _output: BufReader<ChildStdout>,
    server_pid: u32,
    port: u16,
    folder: String,
}

impl Holder {
    fn start() -> Holder {
        let mut process = Command::new(std::env::current_exe().expect("a running program has a file"))
            .args(["--exact", "service_smoke::a_shared_server_has_a_process_and_a_folder", "--nocapture"])
            .env(HOLD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this test binary runs");
        let mut output = BufReader::new(process.stdout.take().expect("piped above"));
        let held = output
            .by_ref()
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("holding ").map(str::to_owned))
            .expect("the child holds a server");
        let [pid, port, folder] = held.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not three words: {held}");
        };
        Holder {
            process,
            _output: output,
            server_pid: pid.parse().expect("a pid"),
            port: port.parse().expect("a port"),
            folder: folder.to_owned(),
        }
    }
}

fn assert_gone(pid: u32, port: u16, folder: &str) {
    wait_until(DEADLINE, "the server's process is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    wait_until(DEADLINE, "the server's data is gone", || !Path::new(folder).exists());
    TcpStream::connect(("127.0.0.1", port)).expect_err("nobody listens any more");
    assert!(Path::new(&format!("{folder}.log")).exists(), "the log is kept");
}

#[test]
fn a_shared_server_is_gone_after_its_test_process_ended() {
    let mut holder = Holder::start();
    TcpStream::connect(("127.0.0.1", holder.port)).expect("the server is there as long as its process is");
    drop(holder.process.stdin.take());
    let status = holder.process.wait().expect("it is our child");
    assert!(status.success(), "the test in the child passes");
    assert_gone(holder.server_pid, holder.port, &holder.folder);
}

#[test]
fn a_shared_server_is_gone_after_its_test_process_was_killed() {
    let mut holder = Holder::start();
    holder.process.kill().expect("it is our child");
    holder.process.wait().expect("it is our child");
    assert_gone(holder.server_pid, holder.port, &holder.folder);
}

#[test]
fn a_private_server_is_gone_when_dropped() {
    let redis = Redis::private("");
    let (pid, port, folder) = (redis.server.pid(), redis.server.port(), redis.server.folder().display().to_string());
    drop(redis);
    assert_gone(pid, port, &folder);
}

#[test]
fn a_server_that_fails_to_start_tells_the_end_of_its_log() {
    let failed = std::panic::catch_unwind(|| Kafka::private("log.segment.bytes=not-a-number"));
    let why = failed.err().expect("the broker refuses this");
    let why = why.downcast_ref::<String>().expect("a formatted message");
    assert!(why.contains("ended before it answered") && why.contains("not-a-number") && why.contains(".log"), "{why}");
}
