//! The Redis sink on real servers: what is stored, what is published, and that neither ever goes back.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use operators::connection;
use operators::connection::Secret;
use operators::record::output;
use redis::AsyncCommands;
use redis::aio::{MultiplexedConnection, PubSub};
use serde_json::{Value, json};
use sinks::redis::{Options, RedisSink};
use sinks::{Sink, SinkError, Step};

use crate::rows::changes;
use crate::services::{self, Redis, wait_until_async};

const DEADLINE: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options { script_vehicles_max: 256, pipeline_bytes_max: 1 << 20, tombstone_ttl_ms: 60_000, timeout_ms: 5_000 }
}

/// A sink, an ordinary client and the URL of a database that both have to themselves. Channels know no databases, so the
/// prefix is as much the test's own.
struct Bench {
    sink: RedisSink,
    client: MultiplexedConnection,
    url: String,
    prefix: String,
}

impl Bench {
    async fn on(server: &Redis) -> Bench {
        Bench::with(server, options()).await
    }

    async fn with(server: &Redis, options: Options) -> Bench {
        let (url, prefix) = (server.database(), services::unique("hs:test"));
        let mut sink = RedisSink::new(&at(&url, &prefix), options).expect("the options are right");
        sink.open().await.expect("the server is there");
        let client = redis::Client::open(url.as_str()).expect("a URL");
        let client = client.get_multiplexed_async_connection().await.expect("the server is there");
        Bench { sink, client, url, prefix }
    }

    async fn apply(&mut self, rows: &[Value]) {
        self.sink.apply(&states(rows)).await.expect("applied");
    }

    async fn hash(&mut self, key: &str) -> BTreeMap<String, String> {
        let mut hash: BTreeMap<String, String> =
            self.client.hgetall(format!("{}:{key}", self.prefix)).await.expect("HGETALL");
        hash.remove("digest");
        hash
    }

    async fn field(&mut self, key: &str, field: &str) -> Option<String> {
        self.hash(key).await.remove(field)
    }

    async fn members(&mut self, company: &str) -> Vec<String> {
        let key = format!("{}:geo:{company}", self.prefix);
        let mut members: Vec<String> = self.client.zrange(key, 0, -1).await.expect("ZRANGE");
        members.sort();
        members
    }

    async fn keys(&mut self) -> Vec<String> {
        let mut keys: Vec<String> = self.client.keys("*").await.expect("KEYS");
        keys.sort();
        keys
    }

    async fn listen(&self) -> Listener {
        let client = redis::Client::open(self.url.as_str()).expect("a URL");
        let mut channel = client.get_async_pubsub().await.expect("the server is there");
        channel.psubscribe(format!("{}:delta:*", self.prefix)).await.expect("PSUBSCRIBE");
        Listener { channel, prefix: format!("{}:delta:", self.prefix) }
    }
}

/// Hears the delta channels of one test.
struct Listener {
    channel: PubSub,
    prefix: String,
}

impl Listener {
    /// What was published so far, as (company, change). A message of our own marks the end, as Redis keeps the order.
    async fn heard(&mut self, bench: &mut Bench) -> Vec<(String, Value)> {
        let end = format!("{}end", self.prefix);
        let () = bench.client.publish(&end, "").await.expect("PUBLISH");
        let mut heard = Vec::new();
        loop {
            let next = tokio::time::timeout(DEADLINE, self.channel.on_message().next()).await;
            let message = next.expect("a message in time").expect("the connection stands");
            if message.get_channel_name() == end {
                return heard;
            }
            let company = message.get_channel_name()[self.prefix.len()..].to_owned();
            let delta: Value = serde_json::from_slice(message.get_payload_bytes()).expect("deltas are JSON");
            for (kind, changes) in delta.as_object().expect("an object") {
                for change in changes.as_array().expect("a list") {
                    heard.push((company.clone(), json!({ kind: change })));
                }
            }
        }
    }
}

fn at(url: &str, prefix: &str) -> connection::Redis {
    connection::Redis { url: url.to_owned(), password: Secret::default(), prefix: prefix.to_owned() }
}

fn states(rows: &[Value]) -> Step {
    changes("vehicle_state", output::vehicle_state(), rows)
}

fn state(id: &str, tick: u64, company: &str, driver: &str, speed: f64) -> Value {
    json!({
        "vehicle_id": id, "company_id": company, "driver_name": driver, "speed_kmh": speed, "lat": 52.5, "lon": 13.25,
        "ts": 1_767_225_600_000_i64 + tick as i64, "satellites": 9, "ignition": true, "group_ids": "[\"north\"]",
        "__tick": tick,
    })
}

fn gone(id: &str, tick: u64) -> Value {
    json!({ "vehicle_id": id, "__deleted": true, "__tick": tick })
}

fn fields(fields: &[(&str, &str)]) -> BTreeMap<String, String> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_vehicle_is_a_hash_a_place_and_a_delta() {
    let mut bench = Bench::on(services::redis()).await;
    let mut deltas = bench.listen().await;
    bench.apply(&[state("v-1", 10, "c-1", "Ann \"A\"", 71.5)]).await;
    let expected = fields(&[
        ("version", "10"),
        ("vehicle_id", "v-1"),
        ("company_id", "c-1"),
        ("driver_name", "Ann \"A\""),
        ("group_ids", "[\"north\"]"),
        ("speed_kmh", "71.5"),
        ("lat", "52.5"),
        ("lon", "13.25"),
        ("ts", "1767225600010"),
        ("satellites", "9"),
        ("ignition", "true"),
    ]);
    assert_eq!(bench.hash("vehicle:v-1").await, expected);
    assert_eq!(bench.members("c-1").await, ["v-1"]);
    let delta = json!({ "upsert": {
        "vehicle_id": "v-1", "version": 10, "company_id": "c-1", "driver_name": "Ann \"A\"", "group_ids": ["north"],
        "speed_kmh": 71.5, "lat": 52.5, "lon": 13.25, "ts": 1_767_225_600_010_u64, "satellites": 9, "ignition": true,
    } });
    assert_eq!(deltas.heard(&mut bench).await, [("c-1".to_owned(), delta)]);
}

#[tokio::test]
async fn places_are_where_redis_itself_would_put_them() {
    let mut bench = Bench::on(services::redis()).await;
    let places =
        [(0.0, 0.0), (-33.9, 151.2), (85.05, -180.0), (-85.05, 180.0), (51.500_001, -0.000_001), (64.1, -21.9)];
    let mut theirs = redis::cmd("GEOADD");
    theirs.arg("theirs");
    let mut rows = Vec::new();
    for (index, (lat, lon)) in places.iter().enumerate() {
        let id = format!("v-{index}");
        theirs.arg(lon).arg(lat).arg(&id);
        let mut row = state(&id, 10, "c", "", 0.0);
        (row["lat"], row["lon"]) = (json!(lat), json!(lon));
        rows.push(row);
    }
    let () = theirs.query_async(&mut bench.client).await.expect("GEOADD");
    bench.apply(&rows).await;
    let theirs: Vec<(String, String)> = bench.client.zrange_withscores("theirs", 0, -1).await.expect("ZRANGE");
    let key = format!("{}:geo:c", bench.prefix);
    let ours: Vec<(String, String)> = bench.client.zrange_withscores(key, 0, -1).await.expect("ZRANGE");
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn the_same_or_an_older_version_changes_and_publishes_nothing() {
    let mut bench = Bench::on(services::redis()).await;
    let mut deltas = bench.listen().await;
    bench.apply(&[state("v-1", 20, "c-1", "new", 1.0), state("v-2", 20, "c-1", "new", 1.0)]).await;
    assert_eq!(deltas.heard(&mut bench).await.len(), 2);
    let before = bench.hash("vehicle:v-1").await;
    bench.apply(&[state("v-1", 20, "c-1", "same version", 2.0)]).await;
    bench.apply(&[state("v-1", 10, "c-2", "older", 3.0)]).await;
    bench.apply(&[gone("v-1", 10)]).await;
    // An upsert stands over a delete of its own tick.
    bench.apply(&[gone("v-1", 20)]).await;
    assert_eq!(bench.hash("vehicle:v-1").await, before);
    assert_eq!(bench.members("c-2").await, Vec::<String>::new());
    assert_eq!(deltas.heard(&mut bench).await, []);
    // In one call with others, only the others go through.
    let mixed = [
        state("v-0", 15, "c-1", "first", 1.0),
        state("v-1", 15, "c-1", "older", 4.0),
        state("v-2", 30, "c-1", "näxt", 5.0),
    ];
    bench.apply(&mixed).await;
    assert_eq!(bench.hash("vehicle:v-1").await, before);
    let heard = deltas.heard(&mut bench).await;
    let heard: Vec<_> =
        heard.iter().map(|(_, delta)| (&delta["upsert"]["vehicle_id"], &delta["upsert"]["driver_name"])).collect();
    assert_eq!(heard, [(&json!("v-0"), &json!("first")), (&json!("v-2"), &json!("näxt"))]);
}

#[tokio::test]
async fn of_a_step_the_newest_change_of_a_vehicle_counts() {
    let mut bench = Bench::on(services::redis()).await;
    let mut deltas = bench.listen().await;
    let rows = [
        state("v-1", 20, "c", "newest", 2.0),
        state("v-1", 10, "c", "older", 1.0),
        gone("v-2", 30),
        state("v-2", 30, "c", "comes back in the same tick", 1.0),
        state("v-3", 10, "c", "", 1.0),
        gone("v-3", 20),
    ];
    bench.apply(&rows).await;
    assert_eq!(bench.field("vehicle:v-1", "driver_name").await.as_deref(), Some("newest"));
    assert_eq!(bench.field("vehicle:v-2", "version").await.as_deref(), Some("30"));
    assert_eq!(bench.hash("vehicle:v-3").await, fields(&[("version", "20"), ("deleted", "1")]));
    assert_eq!(bench.members("c").await, ["v-1", "v-2"]);
    assert_eq!(deltas.heard(&mut bench).await.len(), 2);
}

#[tokio::test]
async fn a_field_that_becomes_null_goes_from_the_hash() {
    let mut bench = Bench::on(services::redis()).await;
    bench.apply(&[state("v-1", 10, "c", "Ann", 1.0)]).await;
    let mut next = state("v-1", 20, "c", "Ann", 2.0);
    next["ignition"] = Value::Null;
    bench.apply(&[next.clone()]).await;
    assert_eq!(bench.field("vehicle:v-1", "ignition").await, None);
    assert_eq!(bench.field("vehicle:v-1", "speed_kmh").await.as_deref(), Some("2.0"));
    (next["driver_name"], next["__tick"]) = (Value::Null, json!(30));
    bench.apply(&[next.clone()]).await;
    assert_eq!(bench.field("vehicle:v-1", "driver_name").await, None);
    assert_eq!(bench.members("c").await, ["v-1"]);
    (next["lat"], next["lon"], next["__tick"]) = (Value::Null, Value::Null, json!(40));
    bench.apply(&[next.clone()]).await;
    assert_eq!(bench.members("c").await, Vec::<String>::new());
    // Beyond what a geo set can hold: in the hash, but not in the set.
    (next["lat"], next["lon"], next["__tick"]) = (json!(89.5), json!(0.0), json!(50));
    bench.apply(&[next.clone()]).await;
    assert_eq!(bench.members("c").await, Vec::<String>::new());
    assert_eq!(bench.field("vehicle:v-1", "lat").await.as_deref(), Some("89.5"));
    (next["lat"], next["__tick"]) = (json!(10.0), json!(60));
    bench.apply(&[next]).await;
    assert_eq!(bench.members("c").await, ["v-1"]);
}

#[tokio::test]
async fn a_vehicle_that_changes_company_leaves_the_old_one() {
    let mut bench = Bench::on(services::redis()).await;
    bench.apply(&[state("v-1", 10, "old", "Ann", 1.0), state("v-2", 10, "old", "Bob", 1.0)]).await;
    let mut deltas = bench.listen().await;
    let mut alone = state("v-2", 20, "", "Bob", 1.0);
    alone["company_id"] = Value::Null;
    bench.apply(&[state("v-1", 20, "new", "Ann", 1.0), alone]).await;
    assert_eq!(bench.members("old").await, Vec::<String>::new());
    assert_eq!(bench.members("new").await, ["v-1"]);
    assert_eq!(bench.members("%none").await, ["v-2"]);
    assert_eq!(bench.field("vehicle:v-2", "company_id").await, None);
    let heard = deltas.heard(&mut bench).await;
    let removed = |id: &str| ("old".to_owned(), json!({ "remove": { "vehicle_id": id, "version": 20 } }));
    assert_eq!(heard.len(), 4, "{heard:?}");
    assert!(heard.contains(&removed("v-1")) && heard.contains(&removed("v-2")), "{heard:?}");
    assert!(heard.iter().any(|(company, delta)| company == "new" && delta["upsert"]["vehicle_id"] == "v-1"));
    assert!(heard.iter().any(|(company, delta)| company == "%none" && delta["upsert"]["vehicle_id"] == "v-2"));
}

#[tokio::test]
async fn a_deleted_vehicle_is_remembered_until_older_changes_have_passed() {
    let mut bench = Bench::on(services::redis()).await;
    bench.apply(&[state("v/1", 10, "c", "Ann", 1.0)]).await;
    let mut deltas = bench.listen().await;
    bench.apply(&[gone("v/1", 20), gone("never seen", 20)]).await;
    bench.apply(&[gone("v/1", 20)]).await;
    let tombstone = fields(&[("version", "20"), ("deleted", "1")]);
    assert_eq!(bench.hash("vehicle:v%2F1").await, tombstone);
    assert_eq!(bench.hash("vehicle:never%20seen").await, tombstone);
    assert_eq!(bench.members("c").await, Vec::<String>::new());
    let removed = ("c".to_owned(), json!({ "remove": { "vehicle_id": "v/1", "version": 20 } }));
    assert_eq!(deltas.heard(&mut bench).await, [removed], "what was not there is not removed");
    bench.apply(&[state("v/1", 15, "c", "a stale writer", 1.0), state("never seen", 15, "c", "another", 1.0)]).await;
    assert_eq!(bench.hash("vehicle:v%2F1").await, tombstone);
    assert_eq!(bench.hash("vehicle:never%20seen").await, tombstone);
    let key = format!("{}:vehicle:v%2F1", bench.prefix);
    let ttl: i64 = bench.client.pttl(&key).await.expect("PTTL");
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    // Of one tick the upsert stands over the delete; then the key is there to stay.
    bench.apply(&[state("v/1", 20, "c", "back", 1.0)]).await;
    assert_eq!(bench.field("vehicle:v%2F1", "driver_name").await.as_deref(), Some("back"));
    assert_eq!(bench.client.pttl::<_, i64>(&key).await.expect("PTTL"), -1);
    assert_eq!(bench.members("c").await, ["v/1"]);
}

#[tokio::test]
async fn a_tombstone_goes_when_its_time_is_over() {
    let server = services::redis();
    let mut bench = Bench::with(server, Options { tombstone_ttl_ms: 30, ..options() }).await;
    bench.apply(&[gone("v-1", 20)]).await;
    let key = format!("{}:vehicle:v-1", bench.prefix);
    let client = &bench.client;
    wait_until_async(DEADLINE, "the tombstone is gone", async || {
        !client.clone().exists::<_, bool>(&key).await.expect("EXISTS")
    })
    .await;
}

#[tokio::test]
async fn any_id_is_safe_in_keys_and_comes_back_as_it_was() {
    let mut bench = Bench::on(services::redis()).await;
    let mut deltas = bench.listen().await;
    let ids = [
        "a:b",
        "{tag}",
        "*",
        "a b",
        "line\nbreak",
        "'\"\\",
        "%none",
        "%2A",
        "ключ🚚",
        "",
        "\u{0}\u{1b}",
        "a/../b",
        "x".repeat(300).as_str(),
    ]
    .map(str::to_owned);
    let rows: Vec<Value> = ids.iter().map(|id| state(id, 10, &format!("company {id}"), id, 1.0)).collect();
    bench.apply(&rows).await;
    let heard = deltas.heard(&mut bench).await;
    for id in &ids {
        assert!(heard.iter().any(|(_, delta)| delta["upsert"]["vehicle_id"] == id.as_str()), "{id:?}");
    }
    let stored = bench.keys().await;
    assert_eq!(stored.len(), 2 * ids.len() + 2, "one hash and one geo set each, the epoch and the server: {stored:?}");
    for key in &stored {
        assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-%".contains(&b)), "{key:?}");
    }
    assert_eq!(bench.field("vehicle:%2A", "vehicle_id").await.as_deref(), Some("*"));
    assert_eq!(bench.field("vehicle:%252A", "vehicle_id").await.as_deref(), Some("%2A"));
    assert_eq!(bench.members("company%20%2A").await, ["*"]);
    // The script's own encoding of the company to leave is the same.
    let moved: Vec<Value> = ids.iter().map(|id| state(id, 20, "one for all", id, 1.0)).collect();
    bench.apply(&moved).await;
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(bench.members("one%20for%20all").await, expected);
    let sets: Vec<String> = bench.client.keys("*:geo:*").await.expect("KEYS");
    assert_eq!(sets, [format!("{}:geo:one%20for%20all", bench.prefix)]);
    let heard = deltas.heard(&mut bench).await;
    for id in &ids {
        let removed = json!({ "remove": { "vehicle_id": id, "version": 20 } });
        assert!(heard.iter().any(|(_, delta)| *delta == removed), "{id:?}");
    }
}

#[tokio::test]
async fn thousands_of_vehicles_take_several_calls_and_pipelines() {
    let options = Options { script_vehicles_max: 100, pipeline_bytes_max: 200_000, ..options() };
    let mut bench = Bench::with(services::redis(), options).await;
    let mut deltas = bench.listen().await;
    let row = |n: u64| state(&format!("v-{n}"), 10 + n, &format!("c-{}", n % 7), "driver", n as f64);
    let rows: Vec<Value> = (0..3_000).map(row).collect();
    // Two workers' steps in one go.
    let (mut one, two) = (states(&rows[..1_000]), states(&rows[1_000..]));
    one.worker = 1;
    bench.sink.apply_all(&[one, two]).await.expect("applied");
    assert_eq!(bench.keys().await.len(), 3_000 + 7 + 2);
    let mut heard: Vec<u64> = deltas
        .heard(&mut bench)
        .await
        .iter()
        .map(|(_, delta)| delta["upsert"]["version"].as_u64().unwrap() - 10)
        .collect();
    heard.sort_unstable();
    assert_eq!(heard, (0..3_000).collect::<Vec<u64>>());
    let mut members = 0;
    for company in 0..7 {
        members += bench.members(&format!("c-{company}")).await.len();
    }
    assert_eq!(members, 3_000);
}

#[tokio::test]
async fn links_are_hashes_of_their_own() {
    let mut bench = Bench::on(services::redis()).await;
    let links = |rows: &[Value]| changes("vehicle_links", output::links(), rows);
    let row = json!({ "vehicle_id": "v 1", "driver_id": "d", "company_id": "c", "offline_after_s": 90, "__tick": 20 });
    bench.sink.apply(&links(std::slice::from_ref(&row))).await.expect("applied");
    let expected = fields(&[
        ("version", "20"),
        ("vehicle_id", "v 1"),
        ("driver_id", "d"),
        ("company_id", "c"),
        ("offline_after_s", "90"),
    ]);
    assert_eq!(bench.hash("links:v%201").await, expected);
    let stale = json!({ "vehicle_id": "v 1", "driver_id": "older", "__tick": 10 });
    bench.sink.apply(&links(&[stale])).await.expect("applied");
    assert_eq!(bench.hash("links:v%201").await, expected);
    let next = json!({ "vehicle_id": "v 1", "driver_id": "d2", "__tick": 30 });
    bench.sink.apply(&links(&[next])).await.expect("applied");
    assert_eq!(
        bench.hash("links:v%201").await,
        fields(&[("version", "30"), ("vehicle_id", "v 1"), ("driver_id", "d2")])
    );
    bench.sink.apply(&links(&[gone("v 1", 40), gone("v 2", 40)])).await.expect("applied");
    bench.sink.apply(&links(std::slice::from_ref(&row))).await.expect("applied");
    assert_eq!(bench.hash("links:v%201").await, fields(&[("version", "40"), ("deleted", "1")]));
    let back = json!({ "vehicle_id": "v 1", "driver_id": "d3", "__tick": 40 });
    bench.sink.apply(&links(&[back])).await.expect("applied");
    assert_eq!(bench.field("links:v%201", "driver_id").await.as_deref(), Some("d3"));
    assert_eq!(bench.keys().await.len(), 4, "two hashes, the epoch and the server, no geo set");
}

#[track_caller]
fn assert_unavailable(outcome: Result<(), SinkError>, saying: &str) {
    match outcome {
        Err(SinkError::Unavailable { target, why }) => {
            assert!(target.starts_with("redis at 127.0.0.1:") && why.contains(saying), "{target}: {why}");
        }
        other => panic!("not Unavailable: {other:?}"),
    }
}

#[track_caller]
fn assert_refused(outcome: Result<(), SinkError>, saying: &str) {
    match outcome {
        Err(SinkError::Refused { why, .. }) => assert!(why.contains(saying), "{why}"),
        other => panic!("not Refused: {other:?}"),
    }
}

#[tokio::test]
async fn a_killed_server_is_waited_for_and_the_step_heals() {
    let mut server = Redis::private("");
    let mut bench = Bench::on(&server).await;
    bench.apply(&[state("v-1", 10, "c", "Ann", 1.0)]).await;
    server.server.kill9();
    let step = states(&[state("v-1", 20, "c", "Bob", 2.0), state("v-2", 20, "c", "Cid", 2.0)]);
    assert_unavailable(bench.sink.apply(&step).await, "");
    assert_unavailable(bench.sink.open().await, "refused");
    assert_unavailable(bench.sink.apply(&step).await, "not connected");
    server.server.start();
    bench.sink.open().await.expect("the server is back");
    bench.sink.apply(&step).await.expect("applied");
    bench.sink.apply(&step).await.expect("applied again");
    let client = redis::Client::open(bench.url.as_str()).expect("a URL");
    bench.client = client.get_multiplexed_async_connection().await.expect("the server is back");
    assert_eq!(bench.field("vehicle:v-1", "driver_name").await.as_deref(), Some("Bob"));
    assert_eq!(bench.members("c").await, ["v-1", "v-2"]);
}

#[tokio::test]
async fn an_answer_that_never_came_does_no_harm() {
    let mut server = Redis::private("");
    let mut bench = Bench::with(&server, Options { timeout_ms: 300, ..options() }).await;
    let mut deltas = bench.listen().await;
    let step = states(&[state("v-1", 10, "c", "Ann", 1.0)]);
    server.server.pause();
    assert_unavailable(bench.sink.apply(&step).await, "timed out");
    server.server.resume();
    // The server may or may not carry out what it was sent before it was frozen.
    bench.sink.open().await.expect("the server goes on");
    bench.sink.apply(&step).await.expect("applied");
    assert_eq!(bench.field("vehicle:v-1", "version").await.as_deref(), Some("10"));
    assert_eq!(deltas.heard(&mut bench).await.len(), 1, "published once");
}

#[tokio::test]
async fn a_server_that_cannot_write_now_is_waited_for() {
    let server = Redis::private("");
    let mut bench = Bench::on(&server).await;
    let step = states(&[state("v-1", 10, "c", "Ann", 1.0)]);
    let mut config = redis::cmd("CONFIG");
    let () = config.arg("SET").arg("maxmemory").arg("1").query_async(&mut bench.client).await.expect("CONFIG");
    assert_unavailable(bench.sink.apply(&step).await, "OOM");
    let mut config = redis::cmd("CONFIG");
    let () = config.arg("SET").arg("maxmemory").arg("0").query_async(&mut bench.client).await.expect("CONFIG");
    bench.sink.open().await.expect("connected again");
    bench.sink.apply(&step).await.expect("applied");

    let newer = states(&[state("v-1", 20, "c", "Bob", 1.0)]);
    let () = redis::cmd("REPLICAOF").arg("127.0.0.1").arg("1").query_async(&mut bench.client).await.expect("REPLICAOF");
    assert_unavailable(bench.sink.apply(&newer).await, "READONLY");
    let () = redis::cmd("REPLICAOF").arg("NO").arg("ONE").query_async(&mut bench.client).await.expect("REPLICAOF");
    bench.sink.open().await.expect("connected again");
    let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut bench.client).await.expect("SCRIPT");
    assert_unavailable(bench.sink.apply(&newer).await, "NOSCRIPT");
    bench.sink.open().await.expect("connected again, with the scripts");
    bench.sink.apply(&newer).await.expect("applied");
    assert_eq!(bench.field("vehicle:v-1", "driver_name").await.as_deref(), Some("Bob"));
}

#[tokio::test]
async fn what_no_waiting_helps_is_refused_with_what_to_do() {
    let mut server = Redis::private("");
    let mut bench = Bench::on(&server).await;
    let key = format!("{}:vehicle:v-1", bench.prefix);
    let () = bench.client.set(&key, "somebody else's").await.expect("SET");
    assert_refused(bench.sink.apply(&states(&[state("v-1", 10, "c", "Ann", 1.0)])).await, "redis.prefix");
    bench.sink.open().await.expect("connected again");
    assert_refused(bench.sink.apply(&changes("company_minute", output::company_minute(), &[])).await, "company_minute");

    let mut config = redis::cmd("CONFIG");
    let () = config.arg("SET").arg("requirepass").arg("s3cret").query_async(&mut bench.client).await.expect("CONFIG");
    assert_refused(bench.sink.open().await, "redis.password");
    let mut with = at(&bench.url, &bench.prefix);
    with.password = Secret::new("wr0ng");
    let mut sink = RedisSink::new(&with, options()).expect("the options are right");
    let error = sink.open().await.expect_err("a wrong password").to_string();
    assert!(error.contains("redis.password") && !error.contains("wr0ng"), "{error}");
    with.password = Secret::new("s3cret");
    RedisSink::new(&with, options()).expect("the options are right").open().await.expect("the right password");
    server.server.stop();

    let broken = |redis: connection::Redis, options: Options, saying: &str| {
        let error = RedisSink::new(&redis, options).expect_err(saying).to_string();
        assert!(error.contains(saying), "{error}");
    };
    broken(at("http://somewhere", "hs:1"), options(), "redis.url");
    broken(at("redis://127.0.0.1/0", "a b"), options(), "redis.prefix");
    broken(
        at("redis://127.0.0.1/0", "hs:1"),
        Options { script_vehicles_max: 2_001, ..options() },
        "script_vehicles_max",
    );
    broken(at("redis://127.0.0.1/0", "hs:1"), Options { timeout_ms: 0, ..options() }, "timeout_ms");
}

#[tokio::test]
async fn an_emptied_redis_is_noticed_and_filled_again() {
    let server = Redis::private("");
    let mut bench = Bench::on(&server).await;
    bench.apply(&[state("v-1", 10, "c", "Ann", 1.0)]).await;
    let key = format!("{}:epoch", bench.prefix);
    let before: String = bench.client.get(&key).await.expect("there is an epoch");
    bench.sink.open().await.expect("connected again");
    assert_eq!(bench.client.get::<_, String>(&key).await.expect("GET"), before, "kept as long as the data is there");
    let () = redis::cmd("FLUSHALL").query_async(&mut bench.client).await.expect("FLUSHALL");
    bench.apply(&[state("v-1", 20, "c", "Ann", 1.0)]).await;
    let after: String = bench.client.get(&key).await.expect("there is a new epoch");
    assert_ne!(after, before);
    assert_eq!(bench.members("c").await, ["v-1"]);
}
