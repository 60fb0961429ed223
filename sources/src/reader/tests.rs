//! The reader on a log and a clock that the test owns. Would catch: ticks that depend on interleaving or batching, a row
//! behind a frontier, a frontier that goes back or stands still on a silent stream, lost or doubled rows, a partition that
//! runs ahead, a wait that misses the stop signal.

mod repeats;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use operators::batch::{OFFSET, PARTITION, TICK, i32s, i64s, u64s};
use proptest::prelude::*;

use super::*;
use crate::delivery::Closed;

const GOOD: &[u8] = br#"{"device_id":"d","ts":1700000000000}"#;
const START_MS: u64 = 1_700_000_000_000;

fn options() -> Options {
    Options {
        tick_ms: 10,
        future_ms_max: 60_000,
        slack_ms_min: 2,
        slack_ms_max: 100,
        ahead_ms_max: 1_000,
        batch_rows_max: 50,
        batch_bytes_max: 1 << 20,
        pace_ms: 1,
    }
}

/// Virtual time, shared by the reader and the log.
#[derive(Clone, Default)]
struct Time(Arc<AtomicU64>);

impl Time {
    fn at(ms: u64) -> Self {
        Time(Arc::new(AtomicU64::new(ms)))
    }
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
    fn pass(&self, time: Duration) {
        self.0.fetch_add((time.as_millis() as u64).max(1), Ordering::SeqCst);
    }
}

impl Clock for Time {
    fn now_ms(&mut self) -> u64 {
        self.now()
    }
    fn pause(&mut self, time: Duration) {
        self.pass(time);
    }
}

#[derive(Clone, Copy, Debug)]
struct Stored {
    append_ms: u64,
    /// When a reader can see it.
    visible_ms: u64,
    good: bool,
}

/// How the log behaves where it is free to.
#[derive(Clone, Copy, Debug)]
struct Whims {
    seed: u64,
    /// The log knows what it has given, rather than leaving it to an estimate.
    exact: bool,
}

struct Scripted {
    time: Time,
    assigned: Vec<Assigned>,
    stored: Vec<Vec<Stored>>,
    next: Vec<usize>,
    whims: Whims,
    /// Signals stop when time has come to this.
    stop: Option<(u64, Arc<AtomicBool>)>,
}

impl Scripted {
    fn new(time: Time, stored: &[(Stream, Vec<Stored>)], whims: Whims) -> Self {
        let mut count = BTreeMap::<Stream, i32>::new();
        let assign = |(stream, _): &(Stream, Vec<Stored>)| {
            let partition = count.entry(*stream).or_default();
            *partition += 1;
            Assigned { stream: *stream, topic: stream.topic().into(), partition: *partition - 1, offset: 0, floor: 0 }
        };
        let assigned = stored.iter().map(assign).collect();
        let next = vec![0; stored.len()];
        Scripted { time, assigned, stored: stored.iter().map(|s| s.1.clone()).collect(), next, whims, stop: None }
    }

    fn ends(&self) -> Vec<Cursor> {
        let end = |(a, stored): (&Assigned, &Vec<Stored>)| Cursor {
            topic: a.topic.to_string(),
            partition: a.partition,
            offset: stored.len() as i64,
        };
        self.assigned.iter().zip(&self.stored).map(end).collect()
    }

    fn whim(&mut self, below: u64) -> u64 {
        self.whims.seed ^= self.whims.seed << 13;
        self.whims.seed ^= self.whims.seed >> 7;
        self.whims.seed ^= self.whims.seed << 17;
        self.whims.seed % below
    }
}

impl PartitionedLog for Scripted {
    fn assigned(&self) -> &[Assigned] {
        &self.assigned
    }

    fn poll(
        &mut self,
        index: usize,
        records_max: usize,
        each: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Polled, SourceError> {
        let now = self.time.now();
        if self.whim(4) == 0 {
            self.time.pass(Duration::from_millis(1));
            return Ok(Polled::Pending);
        }
        let fetched = (self.whim(70) as usize).min(records_max);
        for _ in 0..fetched {
            let Some(stored) = self.stored[index].get(self.next[index]).filter(|s| s.visible_ms <= now) else {
                let hidden = self.stored[index].get(self.next[index]).map_or(now, |s| s.append_ms.min(now));
                return Ok(Polled::CaughtUp { complete_until_ms: self.whims.exact.then_some(hidden) });
            };
            let offset = self.next[index] as i64;
            self.next[index] += 1;
            let value = if stored.good { GOOD } else { b"garbage" };
            let record = Record { offset, append_ms: stored.append_ms as i64, key: Some(b"d"), value: Some(value) };
            if each(record).is_break() {
                return Ok(Polled::More);
            }
        }
        Ok(if fetched == records_max { Polled::More } else { Polled::Pending })
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SourceError> {
        let now = self.time.now();
        let next =
            self.stored.iter().zip(&self.next).filter_map(|(stored, next)| stored.get(*next)).map(|s| s.visible_ms);
        let next_ms = next.min().unwrap_or(u64::MAX).saturating_sub(now);
        let early_ms = self.whim(1 + timeout.as_millis() as u64).min(next_ms);
        self.time.pass(Duration::from_millis(early_ms));
        if let Some((at, stop)) = &self.stop
            && self.time.now() >= *at
        {
            stop.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<i64, SourceError> {
        Ok(self.stored[index].len() as i64)
    }

    fn end_known(&self, index: usize) -> Option<i64> {
        Some(self.stored[index].len() as i64)
    }
}

/// Takes deliveries and checks each against those before it.
#[derive(Clone, Default)]
struct Checked(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// (partition, offset) to tick and whether it was decoded, by stream.
    rows: BTreeMap<(Stream, i32, i64), (Tick, bool)>,
    frontiers: BTreeMap<Stream, Option<Tick>>,
    last: BTreeMap<(Stream, i32), Tick>,
    /// Rows and when they were delivered by the clock given.
    delays: Vec<u64>,
    clock: Option<Time>,
    ahead_ms_max: Option<u64>,
    /// As a worker says that holds more than it should.
    pressed: bool,
    left: BTreeMap<(Stream, i32), usize>,
}

impl Seen {
    fn rows(&mut self, stream: Stream, rows: &RecordBatch, decoded: bool) {
        let column = |name: &str| rows.column_by_name(name).is_some();
        let (partition, offset) = if column(PARTITION) { (PARTITION, OFFSET) } else { ("partition", "offset") };
        let (partitions, offsets, ticks) = (i32s(rows, partition), i64s(rows, offset), u64s(rows, TICK));
        let frontier = self.frontiers.get(&stream).copied().unwrap_or(Some(0)).expect("no row of an ended stream");
        let partition = partitions.value(0);
        if decoded {
            // The rejected records of the same poll come after its rows.
            self.check_ahead(stream, partition);
        }
        let mut before = (0, -1);
        for row in 0..rows.num_rows() {
            assert_eq!(partitions.value(row), partition, "a batch is of one partition");
            let at = (ticks.value(row), offsets.value(row));
            assert!(at.0 >= before.0 && at.1 > before.1, "ticks and offsets of a batch go up");
            assert!(at.0 >= frontier, "a row at {} behind the frontier {frontier} of {stream}", at.0);
            assert!(self.rows.insert((stream, partition, at.1), (at.0, decoded)).is_none(), "a row twice");
            before = at;
        }
        let last = self.last.entry((stream, partition)).or_default();
        *last = (*last).max(before.0);
        if let Some(left) = self.left.get_mut(&(stream, partition)) {
            *left -= rows.num_rows();
        }
        if let Some(clock) = &self.clock {
            self.delays.push(clock.now().saturating_sub(before.0));
        }
    }

    /// Nothing more is read of a partition that is ahead of one that has records left.
    fn check_ahead(&self, stream: Stream, partition: i32) {
        let Some(ahead_ms_max) = self.ahead_ms_max else { return };
        let last = |key: &(Stream, i32)| self.last.get(key).copied().unwrap_or(0);
        let slowest = self.left.iter().filter(|(_, left)| **left > 0).map(|(key, _)| last(key)).min().unwrap_or(0);
        assert!(last(&(stream, partition)) <= slowest + ahead_ms_max, "{stream}[{partition}] runs ahead of {slowest}");
    }
}

impl Outlet for Checked {
    fn send(&mut self, delivery: Delivery) -> Result<(), Closed> {
        let mut seen = self.0.lock().expect("no test thread panicked");
        match delivery {
            Delivery::Rows(stream, rows) => seen.rows(stream, &rows, true),
            Delivery::Rejected(stream, rows) => seen.rows(stream, &rows, false),
            Delivery::Frontier(stream, tick) => {
                let before = seen.frontiers.insert(stream, tick);
                match (before.unwrap_or(Some(0)), tick) {
                    (Some(before), Some(tick)) => assert!(tick > before, "frontier {tick} after {before}"),
                    (None, _) => panic!("a frontier of {stream} after its end"),
                    (Some(_), None) => {}
                }
            }
        }
        Ok(())
    }

    fn is_pressed(&self) -> bool {
        self.0.lock().expect("no test thread panicked").pressed
    }
}

/// Records of a few partitions; gaps between append times are small or long, and now and then go back.
fn stored() -> impl Strategy<Value = Vec<(Stream, Vec<Stored>)>> {
    let record = (prop_oneof![8 => 0..6i64, 2 => -8..0i64, 1 => 500..5_000i64], 0..2u64, prop::bool::weighted(0.9));
    let partition = (prop::sample::select(Stream::ALL.to_vec()), prop::collection::vec(record, 0..200));
    prop::collection::vec(partition, 1..7).prop_map(|partitions| {
        let place = |(stream, records): (Stream, Vec<(i64, u64, bool)>)| {
            let (mut append, mut visible) = (START_MS, 0);
            let records = records.into_iter().map(|(gap, delay_ms, good)| {
                append = append.saturating_add_signed(gap);
                visible = visible.max(append + delay_ms);
                Stored { append_ms: append, visible_ms: visible, good: good && stream == Stream::Telemetry }
            });
            (stream, records.collect())
        };
        partitions.into_iter().map(place).collect()
    })
}

/// The tick of each record by the rule: the running maximum, rounded up.
fn expected(stored: &[(Stream, Vec<Stored>)]) -> BTreeMap<(Stream, i32, i64), (Tick, bool)> {
    let mut rows = BTreeMap::new();
    let mut count = BTreeMap::<Stream, i32>::new();
    for (stream, records) in stored {
        let partition = count.entry(*stream).or_default();
        let mut last = 0;
        for (offset, record) in records.iter().enumerate() {
            last = last.max(record.append_ms.div_ceil(10) * 10);
            rows.insert((*stream, *partition, offset as i64), (last, record.good));
        }
        *partition += 1;
    }
    rows
}

fn left(stored: &[(Stream, Vec<Stored>)]) -> BTreeMap<(Stream, i32), usize> {
    let mut count = BTreeMap::<Stream, i32>::new();
    let one = |(stream, records): &(Stream, Vec<Stored>)| {
        let partition = count.entry(*stream).or_default();
        *partition += 1;
        ((*stream, *partition - 1), records.len())
    };
    stored.iter().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_backlog_gives_the_same_rows_however_it_is_read(
        stored in stored(), seed in 1..u64::MAX, exact: bool, rows_max in 1..100usize, ahead in 0..3_000u64,
        pressed: bool,
    ) {
        let time = Time::at(START_MS + 100_000_000);
        let log = Scripted::new(time.clone(), &stored, Whims { seed, exact });
        let ends = log.ends();
        let checked = Checked::default();
        {
            let mut seen = checked.0.lock().expect("nobody panicked");
            (seen.left, seen.pressed) = (left(&stored), pressed);
            seen.ahead_ms_max = Some(if pressed { 0 } else { ahead });
        }
        let options = Options { batch_rows_max: rows_max, ahead_ms_max: ahead, ..options() };
        let stop = Arc::new(AtomicBool::new(false));
        Reader::with_clock(log, checked.clone(), options, stop, time).until(&ends).run().expect("it reads to the end");
        let seen = checked.0.lock().expect("nobody panicked");
        prop_assert_eq!(&seen.rows, &expected(&stored));
        prop_assert_eq!(seen.frontiers.len(), Stream::ALL.len());
        prop_assert!(seen.frontiers.values().all(Option::is_none), "every stream has ended");
    }

    #[test]
    fn live_records_get_the_ticks_that_a_replay_gives_them(stored in stored(), seed in 1..u64::MAX, exact: bool) {
        let time = Time::at(START_MS - 50);
        let end = stored.iter().flat_map(|s| s.1.last()).map(|r| r.visible_ms).max().unwrap_or(START_MS) + 1_000;
        let stop = Arc::new(AtomicBool::new(false));
        let mut log = Scripted::new(time.clone(), &stored, Whims { seed, exact });
        log.stop = Some((end, stop.clone()));
        let checked = Checked::default();
        checked.0.lock().expect("nobody panicked").clock = Some(time.clone());
        Reader::with_clock(log, checked.clone(), options(), stop, time).run().expect("it reads until it is stopped");
        let seen = checked.0.lock().expect("nobody panicked");
        let late: usize = seen.rows.iter().zip(expected(&stored)).filter(|(a, b)| a.1 != &b.1).count();
        prop_assert_eq!(seen.rows.len(), expected(&stored).len());
        // Records that go back in time are late by the rule; the others arrive within the least slack of 2 ms.
        let backward = stored.iter().any(|s| s.1.windows(2).any(|w| w[1].append_ms < w[0].append_ms));
        prop_assert!(backward || late == 0, "{} rows have other ticks than in a replay", late);
        // Silent streams never stall: at the end all have come to the end, but for the slack and a wait.
        for stream in Stream::ALL {
            let has = stored.iter().any(|s| s.0 == stream);
            let frontier = seen.frontiers[&stream];
            prop_assert_eq!(frontier.is_some(), has);
            prop_assert!(frontier.is_none_or(|tick| tick + 300 > end), "{}: {:?} of {}", stream, frontier, end);
        }
    }
}

fn telemetry(records: impl IntoIterator<Item = u64>) -> Vec<(Stream, Vec<Stored>)> {
    let stored = |append_ms| Stored { append_ms, visible_ms: append_ms, good: true };
    vec![(Stream::Telemetry, records.into_iter().map(stored).collect())]
}

#[test]
fn a_live_record_leaves_at_once() {
    let stored = telemetry((0..200).map(|i| START_MS + i * 40));
    let (time, stop) = (Time::at(START_MS), Arc::new(AtomicBool::new(false)));
    let mut log = Scripted::new(time.clone(), &stored, Whims { seed: 7, exact: true });
    log.stop = Some((START_MS + 200 * 37, stop.clone()));
    let checked = Checked::default();
    checked.0.lock().expect("nobody panicked").clock = Some(time.clone());
    Reader::with_clock(log, checked.clone(), options(), stop, time).run().expect("it reads until it is stopped");
    let mut seen = checked.0.lock().expect("nobody panicked");
    seen.delays.sort_unstable();
    // One in four polls of this log takes a millisecond to say that it is not ready.
    assert!(seen.delays[seen.delays.len() * 9 / 10] <= 2, "{:?}", seen.delays);
}

#[test]
fn a_record_behind_the_frontier_takes_its_tick() {
    let mut stored = telemetry([START_MS, START_MS + 100]);
    stored[0].1[1].visible_ms = START_MS + 5_000;
    let (time, stop) = (Time::at(START_MS), Arc::new(AtomicBool::new(false)));
    let mut log = Scripted::new(time.clone(), &stored, Whims { seed: 3, exact: false });
    log.stop = Some((START_MS + 6_000, stop.clone()));
    let checked = Checked::default();
    Reader::with_clock(log, checked.clone(), options(), stop, time).run().expect("it reads until it is stopped");
    let seen = checked.0.lock().expect("nobody panicked");
    let (tick, _) = seen.rows[&(Stream::Telemetry, 0, 1)];
    assert!(tick > START_MS + 4_800, "the tick of its frontier, not {tick}");
}

#[test]
fn the_reader_ends_with_its_worker() {
    struct Gone;
    impl Outlet for Gone {
        fn send(&mut self, _: Delivery) -> Result<(), Closed> {
            Err(Closed)
        }
    }
    let time = Time::at(START_MS);
    let log = Scripted::new(time.clone(), &telemetry([START_MS]), Whims { seed: 3, exact: true });
    let done = Reader::with_clock(log, Gone, options(), Arc::default(), time).run();
    assert!(matches!(done, Err(SourceError::Closed(_))), "{done:?}");
}

#[test]
fn a_bounded_reader_of_nothing_ends_at_once() {
    let time = Time::at(START_MS);
    let log = Scripted::new(time.clone(), &telemetry([]), Whims { seed: 3, exact: true });
    let checked = Checked::default();
    let ends = log.ends();
    Reader::with_clock(log, checked.clone(), options(), Arc::default(), time)
        .until(&ends)
        .run()
        .expect("nothing to do");
    assert!(checked.0.lock().expect("nobody panicked").frontiers.values().all(Option::is_none));
}
