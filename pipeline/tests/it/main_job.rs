//! The whole dataflow over the embedded log: the answer depends on the log alone. Would catch anything that depends on the
//! number of workers, on how partitions interleave or on how the log is cut into batches, and rows lost or doubled on the way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use operators::batch::{DELETED, INTERNAL, TICK, bools, u64s};
use operators::record::Stream;
use operators::time::Tick;
use pipeline::job::{Job, Settings};
use pipeline::origin::{Embedded, From};
use pipeline::topology::{self, Output};
use sinks::{Rows, Sink, SinkError, Step};
use sources::Cursor;
use sources::delivery::Capacity;
use sources::log::EmbeddedLog;
use sources::publish::Records;
use sources::reader;
use tempfile::TempDir;

/// Keeps everything as text: appended rows, and of tables the newest change of each key.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<BTreeMap<&'static str, Stored>>>);

#[derive(Default)]
struct Stored {
    appended: Vec<String>,
    table: BTreeMap<String, (Tick, bool, String)>,
}

impl Sink for Kept {
    fn name(&self) -> &'static str {
        "kept"
    }
    async fn open(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }
    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        let mut all = self.0.lock().expect("no panic while held");
        let stored = all.entry(step.stream).or_default();
        for part in &step.rows {
            match part {
                Rows::Append(batch) => stored.appended.extend((0..batch.num_rows()).map(|row| text(batch, row))),
                Rows::Upsert(batch) => (0..batch.num_rows()).for_each(|row| stored.put(step.stream, batch, row)),
            }
        }
        Ok(())
    }
}

impl Stored {
    fn put(&mut self, stream: &str, batch: &RecordBatch, row: usize) {
        let stands = !bools(batch, DELETED).value(row);
        let value = if stands { text(batch, row) } else { "deleted".into() };
        let new = (u64s(batch, TICK).value(row), stands, value);
        let keys = topology::routes(&[stream])[0].keys.iter().map(|name| {
            let column = batch.column_by_name(name).expect("keys are columns");
            ArrayFormatter::try_new(column, &FormatOptions::default()).expect("a text").value(row).to_string()
        });
        let held = self.table.entry(keys.collect::<Vec<_>>().join(" ")).or_insert_with(|| new.clone());
        if (new.0, new.1) >= (held.0, held.1) {
            *held = new;
        }
    }

    /// Everything, in an order of its own.
    fn lines(mut self) -> Vec<String> {
        self.appended.sort();
        self.appended.extend(self.table.into_iter().map(|(key, (tick, _, row))| format!("{key} at {tick}: {row}")));
        self.appended
    }
}

fn text(batch: &RecordBatch, row: usize) -> String {
    let options = FormatOptions::default().with_null("-");
    let names = batch.schema_ref().fields().iter().map(|field| field.name().as_str());
    let columns = names.zip(batch.columns()).filter(|(name, _)| !INTERNAL.contains(name));
    let columns = columns.map(|(_, column)| {
        ArrayFormatter::try_new(column, &options).expect("every type has a text").value(row).to_string()
    });
    columns.collect::<Vec<_>>().join(" ")
}

/// A small fixed random sequence.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// Writes references and telemetry with every kind of trouble; returns how many telemetry records there were, and how many
/// of them were garbage.
fn fill(log: &EmbeddedLog, clock: &Mutex<u64>, seed: u64) -> (u64, u64) {
    for (stream, partitions) in
        [(Stream::Telemetry, 5), (Stream::Vehicle, 3), (Stream::Driver, 2), (Stream::Company, 1), (Stream::Tariff, 1)]
    {
        log.create_topic(stream.topic(), partitions).expect("a new topic");
    }
    let mut dice = Dice(seed);
    let (mut events, mut garbage) = (0, 0);
    for step in 0..400u64 {
        let now = {
            let mut now = clock.lock().expect("no panic while held");
            *now += dice.below(300);
            *now
        };
        let mut appends = Vec::new();
        let mut send = |stream: Stream, key: &str, value: Option<String>| {
            let mut records = Records::default();
            records.push(Some(key.as_bytes()), value.as_deref().map(str::as_bytes));
            appends.push(log.append(stream.topic(), &records));
        };
        for _ in 0..dice.below(12) {
            events += 1;
            let device = dice.below(25);
            if dice.below(40) == 0 {
                garbage += 1;
                send(Stream::Telemetry, &format!("d{device}"), Some("{\"device_id\":".into()));
                continue;
            }
            let ts = now - dice.below(5_000).min(dice.below(5_000));
            let seq = dice.below(3);
            let speed = dice.below(100);
            let value = format!(
                r#"{{"device_id":"d{device}","ts":{ts},"seq":{seq},"lat":1.5,"lon":{device},"speed_kmh":{speed}}}"#
            );
            send(Stream::Telemetry, &format!("d{device}"), Some(value.clone()));
            if dice.below(10) == 0 {
                events += 1;
                send(Stream::Telemetry, &format!("d{device}"), Some(value));
            }
        }
        let number = dice.below(20);
        let gone = dice.below(12) == 0;
        let some = |value: String| (!gone).then_some(value);
        match dice.below(if step < 50 { 6 } else { 16 }) {
            0..=2 => {
                let (device, company, driver) = (dice.below(25), dice.below(4), dice.below(8));
                let value = format!(
                    r#"{{"vehicle_id":"v{number}","device_id":"d{device}","plate":"P {number}","company_id":"c{company}","driver_id":"r{driver}"}}"#
                );
                send(Stream::Vehicle, &format!("v{number}"), some(value));
            }
            3 => send(
                Stream::Driver,
                &format!("r{}", number % 8),
                some(format!(r#"{{"driver_id":"r{}","name":"Driver of step {step}"}}"#, number % 8)),
            ),
            4 => send(
                Stream::Company,
                &format!("c{}", number % 4),
                some(format!(
                    r#"{{"company_id":"c{}","name":"Company {step}","tariff_id":"t{}","offline_after_s":{}}}"#,
                    number % 4,
                    number % 2,
                    1 + number
                )),
            ),
            5 => send(
                Stream::Tariff,
                &format!("t{}", number % 2),
                some(format!(r#"{{"tariff_id":"t{}","name":"Tariff {step}"}}"#, number % 2)),
            ),
            _ => {}
        }
        for append in appends {
            append.blocking_recv().expect("the log answers").expect("the log takes it");
        }
    }
    (events, garbage)
}

fn options(batch_rows_max: usize) -> reader::Options {
    reader::Options {
        tick_ms: 10,
        future_ms_max: 60_000,
        slack_ms_min: 2,
        slack_ms_max: 100,
        ahead_ms_max: 5_000,
        batch_rows_max,
        batch_bytes_max: 1 << 20,
        pace_ms: 1,
    }
}

/// Runs the job over the whole log and gives every stream's rows.
fn answer(log: &Arc<EmbeddedLog>, workers: usize, batch_rows_max: usize) -> BTreeMap<&'static str, Vec<String>> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let kept = Kept::default();
    let (fatal, _refused) = tokio::sync::mpsc::channel(1);
    let sink = sinks::Options {
        rows_max: 1_000,
        bytes_max: 1 << 20,
        flush_ms: 5,
        conflate_rows_max: 100,
        queue_bytes_max: 1 << 24,
        retry_ms_min: 10,
        retry_ms_max: 100,
        apply_ms_max: 10_000,
    };
    let (feed, running) = {
        let _inside = runtime.enter();
        sinks::run::start(kept.clone(), sink, topology::ROUTES.to_vec(), workers, 0, fatal)
    };
    let mut until = Vec::new();
    for (topic, partitions) in log.topics() {
        for partition in 0..partitions {
            let (_, offset) = log.offsets(&topic, partition).expect("the partition is there");
            until.push(Cursor { topic: topic.clone(), partition, offset });
        }
    }
    let topics = Stream::ALL.iter().map(|stream| (*stream, stream.topic().into())).collect();
    let origin = Embedded {
        log: log.clone(),
        topics,
        options: options(batch_rows_max),
        from: From::default(),
        until: Some(until),
    };
    let settings = Settings {
        workers,
        // Fewer than come within an interval of the windows: a worker that waited for these to close would wait for ever.
        in_flight_rows_max: 5,
        capacity: Capacity { rows_max: 200, bytes_max: 1 << 20 },
        topology: topology::Options {
            deduplicate_ms: Some(3_600_000),
            silence: operators::silence::Options { offline_after_ms: 7_000, online_after_messages: 2, tick_ms: 10 },
            window: operators::window::Options {
                size_ms: 60_000,
                retention_ms: 3_600_000,
                ahead_ms_max: 60_000,
                emit_ms: 1_000,
            },
            conflate_ms: 500,
        },
    };
    let job = Job::start(settings, origin, vec![Output { feed, conflated: false }], None, None, |_, _, _| {})
        .expect("the job starts");
    job.join().expect("the job ends by itself");
    assert_eq!(runtime.block_on(running.drain(Duration::from_secs(30))), 0);
    let all = std::mem::take(&mut *kept.0.lock().expect("no panic while held"));
    all.into_iter().map(|(name, stored)| (name, stored.lines())).collect()
}

#[test]
fn the_same_log_gives_the_same_answer_with_any_workers() {
    for seed in [1, 2, 3] {
        let directory = TempDir::new().expect("a directory");
        let clock = Arc::new(Mutex::new(1_760_000_000_000u64));
        let reading = clock.clone();
        let now = Arc::new(move || *reading.lock().expect("no panic while held"));
        let log = EmbeddedLog::open(crate::embedded::log_options(directory.path()), now).expect("the log opens");
        let (events, garbage) = fill(&log, &clock, seed);
        let log = Arc::new(log);
        let one = answer(&log, 1, 1_000);
        let names: Vec<&str> = one.keys().copied().collect();
        let expected =
            ["company_minute", "rejected", "telemetry_enriched", "vehicle_events", "vehicle_links", "vehicle_state"];
        assert_eq!(names, expected);
        assert_eq!(one["rejected"].len() as u64, garbage);
        let kept = one["telemetry_enriched"].len() as u64;
        assert!(kept < events - garbage && kept > (events - garbage) / 2, "duplicates are removed: {kept} of {events}");
        for (workers, batch) in [(1, 1), (2, 1_000), (4, 7)] {
            let other = answer(&log, workers, batch);
            for name in expected {
                // The first difference only: the whole is too long to read.
                let differ = one[name].iter().zip(&other[name]).find(|(one, other)| one != other);
                let what = format!("{name} with {workers} workers, batches of {batch}, seed {seed}");
                assert_eq!((one[name].len(), None), (other[name].len(), differ), "{what}");
            }
        }
    }
}
