//! Tests of the simulator: the same seed gives the same records, and its counts are what a decoder finds.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::AtomicBool;

use super::*;
use crate::codec::json::Message as Decoded;
use crate::codec::{Decoder, Record};
use crate::publish::{FeedOptions, Timetable, feed};

fn options() -> Options {
    Options { messages_max: 100_000, ..Options::undisturbed(200, 7) }
}

fn faulty() -> Options {
    Options {
        late_pct: 1.0,
        duplicate_pct: 0.5,
        garbage_pct: 0.7,
        out_of_order_pct: 0.3,
        lost_link_pct: 10.0,
        wrong_clock_pct: 5.0,
        stuck_pct: 3.0,
        changes_per_s: 20.0,
        stamp_server_time: true,
        ..options()
    }
}

const START_MS: i64 = 1_700_000_000_000;

type Owned = (Stream, Vec<u8>, Option<Vec<u8>>, i64);

fn all(simulator: &mut Simulator) -> Vec<Owned> {
    let mut all = Vec::new();
    while let Some(m) = simulator.next() {
        all.push((m.stream, m.key.to_vec(), m.value.map(<[u8]>::to_vec), m.due_ms));
    }
    all
}

#[test]
fn the_same_seed_gives_the_same_records() {
    let make = |seed| all(&mut Simulator::new(Options { seed, messages_max: 5_000, ..faulty() }, START_MS).unwrap());
    let first = make(1);
    assert_eq!(first, make(1));
    assert_ne!(first, make(2));
    assert!(first.windows(2).all(|pair| pair[0].3 <= pair[1].3), "records are in order of time");
}

/// Asking for records up to a time gives the same ones as asking for all.
#[test]
fn pieces_of_time_add_up() {
    let whole = all(&mut Simulator::new(Options { messages_max: 3_000, ..faulty() }, START_MS).unwrap());
    let mut simulator = Simulator::new(Options { messages_max: 3_000, ..faulty() }, START_MS).unwrap();
    let (mut pieces, mut until_ms) = (Vec::new(), START_MS);
    while let Some(due_ms) = simulator.next_due_ms() {
        while let Some(m) = simulator.next_until(until_ms) {
            assert!(m.due_ms <= until_ms);
            pieces.push((m.stream, m.key.to_vec(), m.value.map(<[u8]>::to_vec), m.due_ms));
        }
        until_ms = due_ms.max(until_ms) + 7;
    }
    assert_eq!(pieces, whole);
}

/// Decodes everything as a reader would: refusals agree with the counts by code, every good message is there once beside
/// its copies, and records reach their decoders with sound references.
#[test]
fn counts_are_what_a_decoder_finds() {
    let mut simulator = Simulator::new(faulty(), START_MS).unwrap();
    let records = all(&mut simulator);
    let counts = simulator.counts().clone();
    let mut decoders: HashMap<Stream, Decoder> =
        Stream::ALL.into_iter().map(|stream| (stream, Decoder::new(stream, stream.topic().into(), 0))).collect();
    let (mut codes, mut distinct, mut copies) = (BTreeMap::<&str, u64>::new(), HashSet::new(), 0);
    let (mut references, mut behind, mut last) = (0, 0, HashMap::new());
    for (offset, (stream, key, value, due_ms)) in records.iter().enumerate() {
        let record = Record { offset: offset as i64, append_ms: *due_ms, key: Some(key), value: value.as_deref() };
        let decoder = decoders.get_mut(stream).unwrap();
        if let Err(code) = decoder.push(&record, 10) {
            assert_eq!(*stream, Stream::Telemetry, "{code}: {}", String::from_utf8_lossy(value.as_deref().unwrap()));
            *codes.entry(code).or_default() += 1;
        } else if *stream == Stream::Telemetry {
            let message = Decoded::parse(value.as_deref().unwrap()).unwrap();
            let t = message.telemetry();
            t.validate(Some(*due_ms), &Default::default()).unwrap();
            assert_eq!(t.server_time, Some(*due_ms));
            if distinct.insert((t.device_id.to_owned(), t.ts, t.seq)) {
                let newest = last.entry(t.device_id.to_owned()).or_insert(t.seq);
                behind += u64::from(t.seq < *newest);
                *newest = t.seq.max(*newest);
            } else {
                copies += 1;
            }
        } else {
            references += 1;
        }
        decoder.finish();
    }
    assert_eq!(codes, counts.garbage_by_code.iter().map(|(code, count)| (*code, *count)).collect());
    assert_eq!(codes.values().sum::<u64>(), counts.garbage);
    assert_eq!(codes.len(), 7, "every kind of garbage: {codes:?}");
    assert_eq!((distinct.len() as u64, copies), (counts.distinct, counts.duplicates));
    assert_eq!(counts.devices, last.len() as u64);
    assert_eq!(counts.messages, counts.distinct + counts.duplicates + counts.garbage);
    assert_eq!(counts.distinct + counts.garbage, 100_000, "each slot is a message");
    assert_eq!(references, counts.references + counts.changes);
    assert_eq!(counts.references, 3 + 4 + 200 + 200);
    for (name, count, from, to) in [
        ("late", counts.late, 700, 1_300),
        ("duplicates", counts.duplicates, 300, 700),
        ("garbage", counts.garbage, 500, 900),
        ("out of order", counts.out_of_order, 150, 450),
        ("lost link", counts.lost_link, 1_000, 10_000),
        ("wrong clock", counts.wrong_clock, 1_500, 10_000),
        ("changes", counts.changes, 10_000, 20_000),
    ] {
        assert!((from..to).contains(&count), "{name}: {count}");
    }
    // Late by less than an interval is not behind anything; the rest is.
    assert!(behind > counts.out_of_order && behind <= counts.late + counts.out_of_order + counts.lost_link);
}

/// However often links are lost, every vehicle is heard of within the first round, and at any time some are not heard.
#[test]
fn every_vehicle_reports_before_links_are_lost() {
    let options = Options { lost_link_pct: 100.0, late_pct: 50.0, out_of_order_pct: 50.0, ..options() };
    let mut simulator = Simulator::new(Options { messages_max: 200 * 600, ..options }, START_MS).unwrap();
    let mut first = HashMap::new();
    let mut heard: Vec<HashSet<Vec<u8>>> = vec![HashSet::new(); 10];
    while let Some(m) = simulator.next() {
        if m.stream == Stream::Telemetry {
            first.entry(m.key.to_vec()).or_insert(m.due_ms);
            if let Some(minute) = heard.get_mut(((m.due_ms - START_MS) / 60_000) as usize) {
                minute.insert(m.key.to_vec());
            }
        }
    }
    assert_eq!(first.len(), 200);
    assert!(first.values().all(|due_ms| (0..1_000).contains(&(due_ms - START_MS))), "{first:?}");
    // A link is lost for 150 s of 600 at the mean, so about 90 s of them hide a whole minute.
    let silent: Vec<usize> = heard.iter().map(|heard| 200 - heard.len()).collect();
    assert!(silent[1..].iter().all(|silent| (5..80).contains(silent)), "vehicles silent for each minute: {silent:?}");
}

#[test]
fn vehicles_report_at_the_rate_that_was_set() {
    let options = Options { rate_per_s: 50.0, vehicles: 10, messages_max: 5_000, ..options() };
    let mut simulator = Simulator::new(options, START_MS).unwrap();
    let records = all(&mut simulator);
    let messages: Vec<_> = records.iter().filter(|record| record.0 == Stream::Telemetry).collect();
    assert_eq!(messages.len(), 5_000);
    assert_eq!(messages[4_999].3 - START_MS, 4_999 * 20);
    let mut times: HashMap<&[u8], Vec<i64>> = HashMap::new();
    messages.iter().for_each(|record| times.entry(&record.1).or_default().push(record.3));
    assert!(times.values().all(|times| times.windows(2).all(|pair| pair[1] - pair[0] == 200)));
}

#[test]
fn options_out_of_range_are_named() {
    for (options, name) in [
        (Options { vehicles: 0, ..options() }, "vehicles"),
        (Options { vehicles: 1_000_001, ..options() }, "vehicles"),
        (Options { rate_per_s: f64::NAN, ..options() }, "rate_per_s"),
        (Options { late_pct: 100.1, ..options() }, "late_pct"),
        (Options { interval_ms: 0, ..options() }, "interval_ms"),
        (Options { countries: vec!["XX".into()], ..options() }, "XX"),
    ] {
        let why = Simulator::new(options, 0).unwrap_err().to_string();
        assert!(why.contains(name), "{why}");
    }
    assert!(Simulator::new(Options { vehicles: 1_000_000, ..options() }, 0).is_ok());
}

/// Everything that the simulator gives reaches an embedded log, in order, at the simulation's own pace.
#[test]
fn a_simulation_is_fed_to_a_log() {
    let directory = tempfile::tempdir().unwrap();
    let log_options = crate::log::Options {
        directory: directory.path().to_owned(),
        segment_bytes_max: 1 << 30,
        segment_ms_max: u64::MAX,
        retention_bytes_max: u64::MAX,
        retention_ms_max: u64::MAX,
        block_bytes_max: 1 << 16,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 50_000, // smaller than what is in flight: refused batches are published again
        memtable_bytes_max: 8 << 20,
        journal_bytes_max: 64 << 20,
        cache_bytes_max: 1 << 20,
    };
    let clock = crate::log::system_clock();
    let log = crate::log::EmbeddedLog::open(log_options, clock.clone()).unwrap();
    for stream in Stream::ALL {
        log.create_topic(stream.topic(), 2).unwrap();
    }
    let start_ms = clock();
    let options = Options { rate_per_s: 20_000.0, messages_max: 10_000, ..faulty() };
    let options =
        Options { late_ms_max: 300, lost_link_pct: 0.0, duplicate_pct: 0.0, out_of_order_pct: 0.0, ..options };
    let mut simulator = Simulator::new(options, start_ms as i64).unwrap();
    let feeding = FeedOptions { batch_bytes_max: 20_000, in_flight_bytes_max: 100_000, pace_ms: 5, retry_ms_max: 50 };
    let topic = |stream: Stream| Some(stream.topic().to_owned());
    feed(&mut simulator, &log, topic, &feeding, &clock, &AtomicBool::new(false)).unwrap();
    let taken_ms = clock() - start_ms;
    assert!(taken_ms >= 450, "10,000 messages at 20,000/s took {taken_ms} ms");
    let total = |topic| (0..2).map(|partition| log.offsets(topic, partition).unwrap().1 as u64).sum::<u64>();
    let counts = simulator.counts();
    assert_eq!(total("telemetry.raw"), counts.messages);
    let tables: u64 = Stream::ALL.iter().filter(|stream| stream.is_table()).map(|stream| total(stream.topic())).sum();
    assert_eq!(tables, counts.references + counts.changes);
}
