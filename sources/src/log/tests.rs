//! Tests of the embedded log: against a model under random appends, clocks and restarts, and against kill -9.

mod kill;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::*;
use crate::codec::Record;
use crate::reader::{Assigned, PartitionedLog, Polled};
use operators::record::Stream;

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        segment_bytes_max: 1 << 20,
        segment_ms_max: 3_600_000,
        retention_bytes_max: 1 << 30,
        retention_ms_max: u64::MAX,
        block_bytes_max: 1 << 16,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 1 << 24,
        memtable_bytes_max: 1 << 22,
        journal_bytes_max: 64 << 20,
        cache_bytes_max: 1 << 20,
    }
}

/// A clock that stands where it is put.
fn hand_clock(ms: u64) -> (Clock, Arc<AtomicU64>) {
    let hand = Arc::new(AtomicU64::new(ms));
    let clock = hand.clone();
    (Arc::new(move || clock.load(Ordering::SeqCst)), hand)
}

fn open(directory: &Path) -> EmbeddedLog {
    EmbeddedLog::open(options(directory), system_clock()).unwrap()
}

fn records(values: &[&str]) -> Records {
    let mut records = Records::default();
    for value in values {
        records.push(Some(value.as_bytes()), Some(value.as_bytes()));
    }
    records
}

/// Offset, append time and value of everything from `offset` on.
fn read_all(log: &EmbeddedLog, topic: &str, partition: i32, offset: i64) -> Vec<(i64, i64, String)> {
    let mut reader = log.reader(topic, partition, offset).unwrap();
    let mut all = Vec::new();
    let mut each = |record: Record<'_>| {
        let value = String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned();
        all.push((record.offset, record.append_ms, value));
        ControlFlow::Continue(())
    };
    while reader.read(100, &mut each).unwrap() > 0 {}
    all
}

/// Waits for a condition with a deadline.
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::yield_now();
    }
}

#[test]
fn what_was_acknowledged_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, hand) = hand_clock(5_000);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    log.create_topic("t", 3).unwrap();
    let first = log.append_to("t", 1, &records(&["a", "b"])).blocking_recv().unwrap().unwrap();
    assert_eq!(first, Appended { append_ms: 5_000, ranges: vec![Range { partition: 1, offset: 0, count: 2 }] });
    hand.store(4_000, Ordering::SeqCst);
    let second = log.append_to("t", 1, &records(&["c"])).blocking_recv().unwrap().unwrap();
    assert_eq!(second.append_ms, 5_000, "append times never go back");
    drop(log);

    let (clock, _) = hand_clock(3_000);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    assert_eq!(log.topics(), [("t".to_owned(), 3)]);
    let third = log.append_to("t", 1, &records(&["d"])).blocking_recv().unwrap().unwrap();
    assert_eq!(third.append_ms, 5_000, "nor over a restart");
    let all = read_all(&log, "t", 1, 0);
    let text: Vec<_> = all.iter().map(|(offset, ms, value)| format!("{offset}@{ms}={value}")).collect();
    assert_eq!(text, ["0@5000=a", "1@5000=b", "2@5000=c", "3@5000=d"]);
    assert_eq!(read_all(&log, "t", 1, 2).len(), 2);
    assert!(read_all(&log, "t", 0, 0).is_empty());
}

#[test]
fn keys_decide_the_partition_and_keep_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    log.create_topic("t", 4).unwrap();
    let names: Vec<String> = (0..100).map(|i| format!("device-{i}")).collect();
    for _ in 0..3 {
        let values: Vec<&str> = names.iter().map(String::as_str).collect();
        log.append("t", &records(&values)).blocking_recv().unwrap().unwrap();
    }
    let mut seen: HashMap<String, Vec<i32>> = HashMap::new();
    for partition in 0..4 {
        let all = read_all(&log, "t", partition, 0);
        assert!(all.iter().enumerate().all(|(i, (offset, ..))| *offset == i as i64));
        all.into_iter().for_each(|(_, _, value)| seen.entry(value).or_default().push(partition));
    }
    assert_eq!(seen.len(), 100);
    for (name, partitions) in seen {
        assert_eq!(partitions, vec![partition_of(name.as_bytes(), 4); 3], "{name}");
    }
}

#[test]
fn offsets_outside_of_the_log_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    log.create_topic("t", 1).unwrap();
    log.append("t", &records(&["a"])).blocking_recv().unwrap().unwrap();
    let why = log.reader("t", 0, 2).unwrap_err().to_string();
    assert_eq!(why, "t[0]: offset 2 is outside the log's 0..1");
    assert!(log.reader("t", 0, 1).is_ok(), "the next record");
    assert!(log.reader("t", 1, 0).unwrap_err().to_string().contains("no partition t[1]"));
    assert!(log.create_topic("bad#name", 1).is_err());
    assert!(log.create_topic("t", 0).is_err());
}

#[test]
fn topics_grow_and_never_shrink() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    log.create_topic("a", 2).unwrap();
    log.create_topic("b", 1).unwrap();
    log.append_to("b", 0, &records(&["b0"])).blocking_recv().unwrap().unwrap();
    log.create_topic("b", 3).unwrap();
    assert!(log.create_topic("a", 1).unwrap_err().to_string().contains("cannot shrink"));
    log.append_to("b", 2, &records(&["b2"])).blocking_recv().unwrap().unwrap();
    log.append_to("a", 1, &records(&["a1"])).blocking_recv().unwrap().unwrap();
    drop(log);
    let log = open(directory.path());
    assert_eq!(log.topics(), [("a".to_owned(), 2), ("b".to_owned(), 3)]);
    for (topic, partition, value) in [("a", 1, "a1"), ("b", 0, "b0"), ("b", 2, "b2")] {
        let all = read_all(&log, topic, partition, 0);
        assert_eq!((all.len(), all[0].2.as_str()), (1, value));
    }
}

#[test]
fn the_clock_promises_what_later_appends_keep() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, hand) = hand_clock(1_000);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    log.create_topic("t", 1).unwrap();
    assert_eq!(log.complete_until_ms(), 1_000);
    hand.store(2_000, Ordering::SeqCst);
    assert_eq!(log.complete_until_ms(), 2_000);
    hand.store(1_500, Ordering::SeqCst);
    let appended = log.append("t", &records(&["a"])).blocking_recv().unwrap().unwrap();
    assert_eq!(appended.append_ms, 2_000, "the clock went back, the promise stands");
    drop(log);
    let (clock, _) = hand_clock(10);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    assert_eq!(log.complete_until_ms(), 2_000);
    drop(log);
    let (clock, _) = hand_clock(9_000);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    assert_eq!(log.complete_until_ms(), 9_000);
    drop(log);
    let (clock, _) = hand_clock(10);
    let log = EmbeddedLog::open(options(directory.path()), clock).unwrap();
    assert_eq!(log.complete_until_ms(), 9_000, "a promise without an append is kept too");
}

/// While threads append, whoever asks the clock and then reads to the end has seen everything before that time.
#[test]
fn the_clock_is_exact_under_load() {
    let directory = tempfile::tempdir().unwrap();
    let ticks = Arc::new(AtomicU64::new(1));
    let counter = ticks.clone();
    let log = Arc::new(
        EmbeddedLog::open(options(directory.path()), Arc::new(move || counter.fetch_add(1, Ordering::SeqCst))).unwrap(),
    );
    log.create_topic("t", 2).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for i in 0..150 {
                    log.append("t", &records(&[&format!("{i}")])).blocking_recv().unwrap().unwrap();
                }
            });
        }
        let assigned =
            |partition| Assigned { stream: Stream::Telemetry, topic: "t".into(), partition, offset: 0, floor: 0 };
        let mut reader = AssignedPartitions::new(log.clone(), vec![assigned(0), assigned(1)]).unwrap();
        let (mut promised, mut seen, mut waits) = ([0u64; 2], 0, 0);
        while seen < 450 {
            for (index, promised) in promised.iter_mut().enumerate() {
                let polled = reader.poll(index, 1_000, &mut |record| {
                    assert!(record.append_ms as u64 >= *promised, "{record:?} after {promised}");
                    seen += 1;
                    ControlFlow::Continue(())
                });
                if let Polled::CaughtUp { complete_until_ms: Some(ms) } = polled.unwrap() {
                    *promised = ms;
                }
            }
            reader.wait(Duration::from_secs(5)).unwrap();
            waits += 1;
        }
        assert!(waits < 2_000, "readers are woken by commits, not by polling");
    });
}

#[test]
fn old_segments_are_dropped_by_size_and_reading_them_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_max: 10_000, retention_bytes_max: 30_000, ..options(directory.path()) };
    let log = EmbeddedLog::open(options.clone(), system_clock()).unwrap();
    log.create_topic("t", 1).unwrap();
    let value = "x".repeat(1_000);
    for _ in 0..100 {
        log.append("t", &records(&[&value])).blocking_recv().unwrap().unwrap();
    }
    let mut slow = log.reader("t", 0, log.offsets("t", 0).unwrap().0).unwrap();
    wait_until("the drop", || log.kept_bytes("t", 0).unwrap() < 60_000);
    let (start, end) = log.offsets("t", 0).unwrap();
    assert_eq!(end, 100);
    assert!(start > 0);
    let kept = read_all(&log, "t", 0, start);
    assert_eq!((kept.first().unwrap().0, kept.last().unwrap().0), (start, 99), "what is kept is whole");
    assert!(log.kept_bytes("t", 0).unwrap() >= 30_000, "at least what was asked for is kept");
    let why = log.reader("t", 0, 0).unwrap_err().to_string();
    assert_eq!(why, format!("t[0]: offset 0 is outside the log's {start}..100"));
    if slow.position() < start {
        let late = slow.read(1, &mut |_| ControlFlow::Continue(()));
        assert!(matches!(late, Err(SourceError::OffsetOutOfRange { .. })), "{late:?}");
    }
    drop((slow, log));
    let log = EmbeddedLog::open(options, system_clock()).unwrap();
    assert_eq!(log.offsets("t", 0).unwrap(), (start, 100), "dropped for good");
    assert_eq!(read_all(&log, "t", 0, start).len(), kept.len());
}

#[test]
fn nothing_of_a_table_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes_max: 2_000, retention_bytes_max: 2_000, ..options(directory.path()) };
    let log = EmbeddedLog::open(options.clone(), system_clock()).unwrap();
    log.create_table("table", 1).unwrap();
    log.create_topic("events", 1).unwrap();
    for _ in 0..30 {
        for topic in ["table", "events"] {
            log.append(topic, &records(&[&"x".repeat(500)])).blocking_recv().unwrap().unwrap();
        }
    }
    wait_until("the drop of events", || log.offsets("events", 0).unwrap().0 > 20);
    assert_eq!(log.offsets("table", 0).unwrap(), (0, 30));
    drop(log);
    let log = EmbeddedLog::open(options, system_clock()).unwrap();
    log.create_topic("table", 2).unwrap();
    log.append("events", &records(&["x"])).blocking_recv().unwrap().unwrap();
    let next = log.wait(0, Duration::ZERO) + 1;
    wait_until("another look at retention", || {
        log.wait(next, Duration::from_millis(100)) >= next || {
            log.append("events", &records(&[&"x".repeat(5_000)])).blocking_recv().unwrap().unwrap();
            log.offsets("events", 0).unwrap().0 > 31
        }
    });
    assert_eq!(log.offsets("table", 0).unwrap(), (0, 30), "it stays a table");
}

#[test]
fn old_segments_are_dropped_by_time_but_offsets_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (clock, hand) = hand_clock(1_000);
    let options = Options { segment_ms_max: 1_000, retention_ms_max: 10_000, ..options(directory.path()) };
    let log = EmbeddedLog::open(options.clone(), clock).unwrap();
    log.create_topic("t", 1).unwrap();
    for ms in [1_000, 3_000, 5_000] {
        hand.store(ms, Ordering::SeqCst);
        log.append("t", &records(&["a", "b"])).blocking_recv().unwrap().unwrap();
    }
    assert_eq!(log.offsets("t", 0).unwrap(), (0, 6));
    hand.store(14_000, Ordering::SeqCst);
    wait_until("the drop", || log.offsets("t", 0).unwrap().0 == 4);
    hand.store(1_000_000, Ordering::SeqCst);
    drop(log);
    let (clock, _) = hand_clock(2_000_000);
    let log = EmbeddedLog::open(options, clock).unwrap();
    let appended = log.append("t", &records(&["c"])).blocking_recv().unwrap().unwrap();
    assert_eq!(appended.ranges[0].offset, 6);
    wait_until("the drop", || log.offsets("t", 0).unwrap() == (6, 7));
}

#[test]
fn too_much_waiting_is_refused_and_so_are_records_too_large() {
    let directory = tempfile::tempdir().unwrap();
    let gate = Arc::new(std::sync::Mutex::new(()));
    let closed = gate.lock().unwrap();
    let waiting = gate.clone();
    let clock: Clock = Arc::new(move || {
        drop(waiting.lock().unwrap());
        7
    });
    let options = Options { queue_bytes_max: 3_000, record_bytes_max: 2_000, ..options(directory.path()) };
    let log = EmbeddedLog::open(options, clock).unwrap();
    log.create_topic("t", 1).unwrap();
    let value = "x".repeat(500);
    let taken: Vec<_> = (0..2).map(|_| log.append("t", &records(&[&value]))).collect();
    let why = log.append("t", &records(&[&value])).blocking_recv().unwrap().unwrap_err();
    assert!(matches!(why, PublishError::Full { bytes_max: 3_000, .. }), "{why}");
    assert!(why.is_temporary());
    let why = log.append("t", &records(&[&"x".repeat(2_000)])).blocking_recv().unwrap().unwrap_err();
    assert!(matches!(why, PublishError::TooLarge { bytes_max: 2_000, .. }), "{why}");
    assert!(matches!(log.publish("unknown", &records(&["a"])).wait(), Err(PublishError::Refused(_))));
    drop(closed);
    for append in taken {
        append.blocking_recv().unwrap().unwrap();
    }
    log.append("t", &records(&[&value])).blocking_recv().unwrap().unwrap();
    assert_eq!(log.offsets("t", 0).unwrap(), (0, 3));
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let log = open(directory.path());
    let why = EmbeddedLog::open(options(directory.path()), system_clock()).err().unwrap().to_string();
    assert!(why.contains(&format!("in use by process {}", std::process::id())), "{why}");
    drop(log);
    open(directory.path());
}

#[derive(Clone, Debug)]
enum Step {
    Append { partition: i32, sizes: Vec<usize> },
    Clock(u64),
    Reopen,
    Read { partition: i32, from: usize, records_max: usize },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2i32, prop::collection::vec(0..3_000usize, 1..8))
            .prop_map(|(partition, sizes)| Step::Append { partition, sizes }),
        2 => (0..100_000u64).prop_map(Step::Clock),
        1 => Just(Step::Reopen),
        4 => (0..2i32, 0..1_000usize, 1..50usize)
            .prop_map(|(partition, from, records_max)| Step::Read { partition, from, records_max }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10))]

    /// Appends of any size, clocks that jump and restarts in between: the log holds what a list would, offsets are dense,
    /// times never go back, and reading from anywhere in pieces of any size gives the same.
    #[test]
    fn the_log_is_a_list(steps in prop::collection::vec(step(), 1..60), seed: u64) {
        let directory = tempfile::tempdir().unwrap();
        let (clock, hand) = hand_clock(1_000);
        let options = Options { segment_bytes_max: 8_000, block_bytes_max: 2_000, ..options(directory.path()) };
        let mut log = Some(EmbeddedLog::open(options.clone(), clock.clone()).unwrap());
        log.as_ref().unwrap().create_topic("t", 2).unwrap();
        let mut model: [Vec<Vec<u8>>; 2] = Default::default();
        let mut last_ms = 0;
        let mut state = seed;
        for step in steps {
            let open = log.as_ref().unwrap();
            match step {
                Step::Append { partition, sizes } => {
                    let mut records = Records::default();
                    let first = model[partition as usize].len();
                    for size in &sizes {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let value = vec![(state >> 56) as u8; *size];
                        records.push(None, Some(&value));
                        model[partition as usize].push(value);
                    }
                    let appended = open.append_to("t", partition, &records).blocking_recv().unwrap().unwrap();
                    prop_assert_eq!(appended.ranges[0].offset, first as i64);
                    prop_assert!(appended.append_ms >= last_ms);
                    last_ms = appended.append_ms;
                }
                Step::Clock(ms) => hand.store(ms, Ordering::SeqCst),
                Step::Reopen => {
                    drop(log.take());
                    log = Some(EmbeddedLog::open(options.clone(), clock.clone()).unwrap());
                }
                Step::Read { partition, from, records_max } => {
                    let expected = &model[partition as usize];
                    let from = from % (expected.len() + 1);
                    let mut reader = open.reader("t", partition, from as i64).unwrap();
                    let (mut next, mut before) = (from, 0);
                    let mut each = |record: Record<'_>| {
                        assert_eq!(record.offset, next as i64);
                        assert_eq!(record.value, Some(expected[next].as_slice()));
                        assert!(record.append_ms >= before);
                        before = record.append_ms;
                        next += 1;
                        ControlFlow::Continue(())
                    };
                    while reader.read(records_max, &mut each).unwrap() > 0 {}
                    prop_assert_eq!(next, expected.len());
                }
            }
        }
    }
}
