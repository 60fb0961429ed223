//! The readers of results, each on a thread of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use tokio_tungstenite::tungstenite::Message;

use crate::now_us;
use crate::services::kafka;

/// The edge's window, as its default says.
const WINDOW_MS: u64 = 500;

/// Latencies in microseconds, each with the second in which it was seen.
#[derive(Default)]
pub struct Latencies(Mutex<Vec<(u64, u64)>>);

impl Latencies {
    fn add(&self, many: impl Iterator<Item = u64>) {
        let second = now_us() / 1_000_000;
        self.0.lock().unwrap().extend(many.map(|latency| (second, latency)));
    }

    /// The worst of each second, in milliseconds.
    pub fn print_seconds(&self) {
        let mut worst = std::collections::BTreeMap::new();
        for (second, latency) in self.0.lock().unwrap().iter() {
            let of = worst.entry(*second).or_insert(0);
            *of = (*latency).max(*of);
        }
        let worst: Vec<String> = worst.values().map(|worst| (worst / 1_000).to_string()).collect();
        println!("  worst of each second: {}", worst.join(" "));
    }

    /// Forgets what came before.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// Prints how many there are and how they are spread.
    pub fn print(&self, what: &str, time: Duration) {
        let mut all: Vec<u64> = self.0.lock().unwrap().iter().map(|(_, latency)| *latency).collect();
        all.sort_unstable();
        if all.is_empty() {
            println!("  {what:<36} nothing came");
            return;
        }
        let at = |share: f64| all[((all.len() - 1) as f64 * share) as usize] as f64 / 1e3;
        let per_s = all.len() as f64 / time.as_secs_f64();
        println!(
            "  {what:<36} {per_s:8.0} rows/s  p50 {:6.1}  p90 {:6.1}  p99 {:6.1}  max {:6.1} ms",
            at(0.5),
            at(0.9),
            at(0.99),
            at(1.0)
        );
    }
}

/// The numbers that stand behind a field's name in JSON text.
fn numbers<'a>(text: &'a str, name: &'a str) -> impl Iterator<Item = u64> + 'a {
    text.match_indices(name).filter_map(move |(at, _)| {
        let digits = &text[at + name.len()..];
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    })
}

/// Hears what Redis publishes.
pub fn to_redis(url: &str, latencies: &Arc<Latencies>, over: &Arc<AtomicBool>) {
    let mut connection = redis::Client::open(url).unwrap().get_connection().unwrap();
    let (latencies, over) = (latencies.clone(), over.clone());
    let hear = move || {
        let mut heard = connection.as_pubsub();
        heard.psubscribe("hs:1:delta:*").unwrap();
        loop {
            let message = match heard.get_message() {
                Ok(message) => message.get_payload::<String>().unwrap(),
                Err(_) if over.load(Ordering::Relaxed) => return,
                Err(why) => panic!("Redis is gone: {why}"),
            };
            let now = now_us();
            latencies.add(numbers(&message, "\"seq\":").map(|sent| now.saturating_sub(sent)));
        }
    };
    std::thread::Builder::new().name("redis".into()).spawn(hear).unwrap();
}

/// Hears what the program writes to a topic.
pub fn to_kafka(topic: &str, latencies: &Arc<Latencies>) {
    let consumer: BaseConsumer =
        kafka().client().set("group.id", "latency").set("fetch.wait.max.ms", "10").create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10)).unwrap();
    let mut partitions = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        partitions.add_partition_offset(topic, partition.id(), Offset::End).unwrap();
    }
    consumer.assign(&partitions).unwrap();
    let latencies = latencies.clone();
    let hear = move || {
        loop {
            let Some(record) = consumer.poll(Duration::from_secs(1)) else { continue };
            let (record, now) = (record.unwrap(), now_us());
            let text = std::str::from_utf8(record.payload().unwrap()).unwrap();
            latencies.add(numbers(text, "\"seq\":").map(|sent| now.saturating_sub(sent)));
        }
    };
    std::thread::Builder::new().name("kafka".into()).spawn(hear).unwrap();
}

/// Hears what the edge sends to a client that wants every vehicle.
pub fn to_edge(url: &str, latencies: &Arc<Latencies>, over: &Arc<AtomicBool>) {
    let (url, latencies) = (format!("{}/realtime/ws", url.replace("http://", "ws://")), latencies.clone());
    let over = over.clone();
    let hear = async move {
        let (socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
        let (mut send, mut heard) = socket.split();
        let subscribe = r#"{"type":"subscribe","id":"1","stream":"vehicle_state"}"#;
        send.send(Message::text(subscribe)).await.unwrap();
        while let Some(message) = heard.next().await {
            let text = match message {
                Ok(Message::Text(text)) => text,
                Ok(Message::Close(_)) | Err(_) if over.load(Ordering::Relaxed) => return,
                Ok(Message::Close(why)) => panic!("the edge has closed the connection: {why:?}"),
                Err(why) => panic!("the connection is gone: {why}"),
                Ok(_) => continue,
            };
            if !text.starts_with(r#"{"type":"delta""#) {
                continue;
            }
            let now = now_us();
            // The first is that of the frame.
            let versions = numbers(&text, "\"version\":").skip(1);
            latencies.add(versions.map(|version| {
                let window_end_ms = version.div_ceil(WINDOW_MS) * WINDOW_MS;
                now.saturating_sub(window_end_ms * 1_000)
            }));
        }
        panic!("the edge has left");
    };
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(hear);
    };
    std::thread::Builder::new().name("edge".into()).spawn(work).unwrap();
}
