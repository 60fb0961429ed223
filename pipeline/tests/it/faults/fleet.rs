//! A fleet of the faults' own: trackers and reference records, written straight into Kafka while servers and the program come and
//! go. It keeps what became of each record that it sent.
//!
//! Invariant: what is sent follows from the seed and the time alone; a record counts as sent only once the broker has acknowledged it.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use serde_json::Value;

use super::messages::Messages;
use super::place::Place;
use super::references::References;
use crate::restart::Dice;

/// Messages a second of all trackers together.
pub const RATE_PER_S: u64 = 300;
/// Changes of references a second.
const CHANGES_PER_S: u64 = 15;
/// How long the broker may take for the last records.
const FLUSH: Duration = Duration::from_secs(60);

/// One record to send.
pub struct Sending {
    /// The stream that its topic carries.
    pub stream: &'static str,
    /// Its key, if it has one.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

impl Sending {
    /// A record with a JSON value.
    pub fn json(stream: &'static str, key: &str, value: &Value) -> Self {
        Self { stream, key: Some(key.into()), value: Some(value.to_string().into()) }
    }
}

/// What became of a record: its stream, partition and offset; `None` if nobody knows.
type Outcome = (&'static str, Option<(i32, i64)>);

#[derive(Clone, Default)]
struct Outcomes(Arc<Mutex<Vec<Outcome>>>);

impl Outcomes {
    fn push(&self, outcome: Outcome) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(outcome);
    }
}

impl ClientContext for Outcomes {}

impl ProducerContext for Outcomes {
    type DeliveryOpaque = Box<&'static str>;

    fn delivery(&self, result: &DeliveryResult<'_>, stream: Self::DeliveryOpaque) {
        let place = result.as_ref().ok().map(|record| (record.partition(), record.offset()));
        self.push((*stream, place));
    }
}

/// The running fleet.
pub struct Fleet {
    thread: std::thread::JoinHandle<()>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    outcomes: Outcomes,
}

impl Fleet {
    /// Writes the references that are there from the beginning, then begins to drive.
    pub fn start(place: &Place, seed: u64, devices: usize) -> Self {
        let outcomes = Outcomes::default();
        let mut config = place.kafka().client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "300000")
            .set("linger.ms", "2");
        let producer: BaseProducer<Outcomes> = config.create_with_context(outcomes.clone()).expect("a producer");
        let writer = Writer { producer, topics: place.topics().clone() };
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counted) = (stop.clone(), sent.clone());
        let drive = move || drive(&writer, seed, devices, &stopping, &counted);
        let thread = std::thread::Builder::new().name("fleet".into()).spawn(drive).expect("a thread");
        Self { thread, stop, sent, outcomes }
    }

    /// Messages so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Ends the drive with a last message of each tracker. Writes what became of each record to a file; gives their number and the
    /// time of the end, in milliseconds since 1970.
    pub fn finish(self, file: &Path) -> (usize, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the fleet does not panic");
        let end = now_ms();
        let outcomes = self.outcomes.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("a file"));
        for (stream, place) in &*outcomes {
            let line = match place {
                Some((partition, offset)) => {
                    serde_json::json!({"stream": stream, "partition": partition, "offset": offset, "outcome": "ok"})
                }
                None => serde_json::json!({"stream": stream, "outcome": "unknown"}),
            };
            writeln!(out, "{line}").expect("room for it");
        }
        out.flush().expect("room for it");
        (outcomes.len(), end)
    }
}

/// The time, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as u64
}

struct Writer {
    producer: BaseProducer<Outcomes>,
    topics: std::collections::BTreeMap<&'static str, String>,
}

impl Writer {
    fn send(&self, sending: &Sending) {
        let mut record = BaseRecord::with_opaque_to(&self.topics[sending.stream], Box::new(sending.stream));
        record.key = sending.key.as_deref();
        record.payload = sending.value.as_deref();
        while let Err((why, back)) = self.producer.send::<[u8], [u8]>(record) {
            assert_eq!(why.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{why}");
            self.producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
}

fn drive(writer: &Writer, seed: u64, devices: usize, stop: &AtomicBool, counted: &AtomicU64) {
    let (mut dice, started) = (Dice(seed), Instant::now());
    let mut references = References::new(devices);
    references.first(&mut dice).iter().for_each(|sending| writer.send(sending));
    let mut messages = Messages::new(devices);
    let (mut sent, mut changed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let elapsed_ms = started.elapsed().as_millis() as u64;
        while changed < elapsed_ms * CHANGES_PER_S / 1_000 {
            references.change(&mut dice).iter().for_each(|sending| writer.send(sending));
            changed += 1;
        }
        while sent < elapsed_ms * RATE_PER_S / 1_000 {
            let sending = messages.next(&mut dice, now_ms(), elapsed_ms);
            sending.iter().for_each(|sending| writer.send(sending));
            sent += 1;
        }
        counted.store(sent, Ordering::Relaxed);
        writer.producer.poll(Duration::from_millis(2));
    }
    references.last().iter().for_each(|sending| writer.send(sending));
    messages.last(&mut dice, now_ms()).iter().for_each(|sending| writer.send(sending));
    writer.producer.flush(FLUSH).expect("the broker takes the last records");
}
