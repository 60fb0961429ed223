//! Tests of the runner against a target that fails on order. They would catch: a row lost or written twice over a failure, a
//! restart or a step's edge; a key's versions out of order; a frontier named before its rows are written; a worker that
//! waits; a queue without bound; a drain that hangs or leaves rows behind.

mod flights;
mod target;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use arrow::array::{BooleanArray, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use operators::batch::{TICK, table_schema};
use operators::time::Tick;
use proptest::prelude::*;
use tokio::sync::mpsc;

use super::{Fatal, Feed, Options, Route, Running, start};
use crate::step::Rows;
use target::{Failing, Outcome, Target};

const EVENTS: Route = Route { stream: "events", keys: &[] };
const TABLE: Route = Route { stream: "table", keys: &["key"] };
const WAIT: Duration = Duration::from_secs(20);

fn options() -> Options {
    Options {
        rows_max: 40,
        bytes_max: 1 << 20,
        flush_ms: 0,
        conflate_rows_max: 100,
        queue_bytes_max: 1 << 20,
        retry_ms_min: 1,
        retry_ms_max: 4,
        apply_ms_max: 10_000,
    }
}

struct Bench {
    target: Arc<Mutex<Target>>,
    feed: Feed,
    running: Running,
    fatal: mpsc::Receiver<Fatal>,
}

/// Starts a sink on `target`, as a process does that comes up again.
fn bench(target: Arc<Mutex<Target>>, options: Options) -> Bench {
    bench_of::<1>(target, options)
}

/// The same with so many flights at once.
fn bench_of<const FLIGHTS: usize>(target: Arc<Mutex<Target>>, options: Options) -> Bench {
    let (tell, fatal) = mpsc::channel(4);
    let sink = Failing::<FLIGHTS>::new(target.clone());
    let (feed, running) = start(sink, options, vec![EVENTS, TABLE], 2, 0, tell);
    let cell = Arc::new(OnceLock::new());
    cell.set(feed.clone()).unwrap();
    target.lock().unwrap().feed = cell;
    Bench { target, feed, running, fatal }
}

fn events(rows: &[(i64, Tick)]) -> Rows {
    let fields = vec![Field::new("id", DataType::Int64, false), Field::new(TICK, DataType::UInt64, false)];
    let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let ticks = UInt64Array::from_iter_values(rows.iter().map(|row| row.1));
    let schema = Arc::new(Schema::new(fields));
    Rows::Append(RecordBatch::try_new(schema, vec![Arc::new(ids), Arc::new(ticks)]).unwrap())
}

/// Key, value or none for a delete, tick.
type Change = (String, Option<i64>, Tick);

fn changes(rows: &[Change]) -> Rows {
    let schema =
        table_schema(vec![Field::new("key", DataType::Utf8View, false), Field::new("value", DataType::Int64, true)]);
    let keys = StringViewArray::from_iter_values(rows.iter().map(|row| &row.0));
    let values: Int64Array = rows.iter().map(|row| row.1).collect();
    let deleted = BooleanArray::from(rows.iter().map(|row| row.1.is_none()).collect::<Vec<_>>());
    let ticks = UInt64Array::from_iter_values(rows.iter().map(|row| row.2));
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(keys), Arc::new(values), Arc::new(deleted), Arc::new(ticks)];
    Rows::Upsert(RecordBatch::try_new(schema, columns).unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Polls from a plain thread, as a worker loop does.
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + WAIT;
    while !condition() {
        assert!(std::time::Instant::now() < end, "not within {WAIT:?}: {what}");
        std::thread::park_timeout(Duration::from_micros(200));
    }
}

/// One thing that a worker does.
#[derive(Clone, Debug)]
enum Act {
    /// Pushes this many events and changes, their ticks this far beyond the frontier.
    Push(Vec<u64>, Vec<(u8, Option<i64>, u64)>),
    /// Moves the frontier this far.
    Close(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (
            prop::collection::vec(0u64..60, 0..12),
            prop::collection::vec((0u8..6, prop::option::of(0i64..1_000), 0u64..60), 0..12)
        )
            .prop_map(|(events, changes)| Act::Push(events, changes)),
        (0u64..50).prop_map(Act::Close),
    ]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Written),
        1 => Just(Outcome::Away),
        1 => Just(Outcome::Half),
        1 => Just(Outcome::AnswerLost),
        1 => Just(Outcome::Refused),
    ]
}

/// Plays a worker's acts, the same every time, as a replay of a log is; returns the rows that it pushed.
fn play(feed: &Feed, worker: usize, acts: &[Act]) -> (Vec<(i64, Tick)>, Vec<Change>) {
    let (mut frontier, mut id) = (0, worker as i64 * 1_000_000);
    let (mut all_events, mut all_changes) = (Vec::new(), Vec::new());
    for act in acts {
        match act {
            Act::Push(beyond, table) => {
                let rows: Vec<(i64, Tick)> = (id..).zip(beyond.iter().map(|ahead| frontier + ahead)).collect();
                id += rows.len() as i64;
                let key = |key: &u8| format!("key {key} of worker {worker}");
                let edits: Vec<Change> =
                    table.iter().map(|(k, value, ahead)| (key(k), *value, frontier + ahead)).collect();
                feed.push("events", worker, events(&rows));
                feed.push("table", worker, changes(&edits));
                all_events.extend(rows);
                all_changes.extend(edits);
            }
            Act::Close(by) => {
                frontier += by;
                feed.close("events", worker, frontier);
                feed.close("table", worker, frontier);
            }
        }
    }
    (all_events, all_changes)
}

/// The table that changes add up to.
fn table_of(changes: Vec<Change>) -> BTreeMap<String, (Tick, Option<i64>)> {
    let mut table = BTreeMap::new();
    for (key, value, tick) in changes {
        let present = table.entry(key).or_insert((tick, value));
        if (present.0, present.1.is_some()) <= (tick, value.is_some()) {
            *present = (tick, value);
        }
    }
    table
}

/// Two lives of a sink, the first of which ends in the middle of the acts; `flying` starts it with several flights.
fn live_twice(acts: &[Vec<Act>; 2], outcomes: Vec<Outcome>, cut: usize, orderly: bool, flying: bool) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = Arc::new(Mutex::new(Target { outcomes, ..Target::default() }));
    let start = || if flying { bench_of::<4>(target.clone(), options()) } else { bench(target.clone(), options()) };
    // The first life ends with whatever was written by then.
    let life = start();
    for (worker, acts) in acts.iter().enumerate() {
        play(&life.feed, worker, &acts[..cut.min(acts.len())]);
    }
    runtime.block_on(life.running.drain(if orderly { WAIT } else { Duration::ZERO }));
    // The second life replays from the start.
    let life = start();
    let (mut wanted_events, mut wanted_changes) = (BTreeMap::new(), Vec::new());
    for (worker, acts) in acts.iter().enumerate() {
        let (events, changes) = play(&life.feed, worker, acts);
        wanted_events.extend(events.into_iter().map(|(id, _)| (id, 1)));
        wanted_changes.extend(changes);
        life.feed.close("events", worker, Tick::MAX);
        life.feed.close("table", worker, Tick::MAX);
    }
    wait("everything is durable", || life.feed.durable_min() == Tick::MAX);
    assert_eq!(life.feed.queued_rows(), 0);
    assert_eq!(life.feed.queued_bytes(), 0);
    assert_eq!(runtime.block_on(life.running.drain(WAIT)), 0);
    let target = life.target.lock().unwrap();
    assert_eq!(&target.events, &wanted_events);
    assert_eq!(&target.table, &table_of(wanted_changes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn nothing_is_lost_or_doubled_whatever_fails(
        acts in prop::array::uniform2(prop::collection::vec(act(), 1..40)),
        outcomes in prop::collection::vec(outcome(), 0..30),
        cut in 0usize..40,
        orderly in any::<bool>(),
    ) {
        live_twice(&acts, outcomes.clone(), cut, orderly, false);
        live_twice(&acts, outcomes, cut, orderly, true);
    }
}

#[test]
fn a_backlog_is_written_in_bounded_steps_and_a_table_only_in_its_newest_versions() {
    let runtime = runtime();
    let _inside = runtime.enter();
    // The first attempt fails, and while the sink rests the backlog builds up.
    let target = Arc::new(Mutex::new(Target { outcomes: vec![Outcome::Away], ..Target::default() }));
    let slow = Options { retry_ms_min: 200, retry_ms_max: 200, ..options() };
    let life = bench(target.clone(), slow);
    for tick in 0..100u64 {
        life.feed.push("events", 0, events(&[(tick as i64, tick)]));
        life.feed.push("table", 0, changes(&[("one".to_owned(), Some(tick as i64), tick)]));
        life.feed.close("events", 0, tick + 1);
        life.feed.close("table", 0, tick + 1);
    }
    wait("the backlog is written", || life.feed.queued_rows() == 0);
    assert_eq!(life.feed.durable("events", 0), 100);
    let target = target.lock().unwrap();
    assert_eq!(target.events.len(), 100);
    assert_eq!(target.table["one"], (99, Some(99)));
    let rows = |stream| target.steps.iter().filter(|step| step.0 == stream).map(|step| step.2).collect::<Vec<_>>();
    assert!(rows("events").iter().all(|&rows| rows <= 40), "{:?}", rows("events"));
    assert!(rows("table").iter().sum::<usize>() < 20, "{:?}", rows("table"));
}

#[test]
fn a_worker_never_waits_and_stops_its_intake_at_the_limit() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = Arc::new(Mutex::new(Target { outcomes: vec![Outcome::Silent], ..Target::default() }));
    let small = Options { queue_bytes_max: 200_000, apply_ms_max: 500, ..options() };
    let life = bench(target.clone(), small);
    let (mut tick, mut highest) = (0, 0);
    let mut paused = 0;
    while tick < 2_000 {
        if life.feed.is_full() {
            paused += 1;
            std::thread::park_timeout(Duration::from_micros(200));
            continue;
        }
        let began = std::time::Instant::now();
        life.feed.push("events", 0, events(&[(tick as i64, tick)]));
        tick += 1;
        life.feed.close("events", 0, tick);
        assert!(began.elapsed() < Duration::from_millis(250), "a push waited");
        highest = highest.max(life.feed.queued_bytes());
    }
    life.feed.close("table", 0, tick);
    wait("all is written", || life.feed.queued_rows() == 0);
    assert!(paused > 0, "the limit was never reached");
    assert!(highest < 200_000 + 4_096, "{highest} bytes were queued");
    assert_eq!(target.lock().unwrap().events.len(), 2_000);
    assert!(target.lock().unwrap().opened >= 2, "a sink that did not answer is opened again");
}

#[test]
fn a_sink_that_waits_for_the_frontier_does_not_stop_the_intake() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let life = bench(Arc::default(), Options { queue_bytes_max: 20_000, ..options() });
    (0..100).for_each(|tick| life.feed.push("events", 0, events(&[(tick as i64, tick)])));
    wait("more than fits waits for the frontier", || life.feed.queued_bytes() > 20_000 && !life.feed.is_full());
    life.feed.close("events", 0, 100);
    wait("all is written", || life.feed.queued_rows() == 0);
}

#[test]
fn a_frontier_that_closes_nothing_is_durable_at_once() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let mut life = bench(Arc::default(), options());
    runtime.block_on(life.running.opened());
    assert_eq!(life.feed.durable_min(), 0);
    life.feed.close("events", 0, 70);
    assert_eq!((life.feed.durable("events", 0), life.feed.durable_min()), (70, 0));
    life.feed.push("events", 0, events(&[(1, 70), (2, 90)]));
    life.feed.close("events", 0, 80);
    wait("the first of the two is written", || life.feed.durable("events", 0) == 80);
    assert_eq!(life.feed.queued_rows(), 1);
    assert_eq!(life.target.lock().unwrap().events.len(), 1);
}

#[test]
fn a_refusal_is_reported_once_and_the_rows_are_kept() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let outcomes = vec![Outcome::Refused, Outcome::Refused, Outcome::Away];
    let target = Arc::new(Mutex::new(Target { outcomes, ..Target::default() }));
    let mut life = bench(target.clone(), options());
    life.feed.push("events", 0, events(&[(1, 10)]));
    life.feed.close("events", 0, 11);
    let fatal = runtime.block_on(async { tokio::time::timeout(WAIT, life.fatal.recv()).await }).unwrap().unwrap();
    assert_eq!((fatal.sink, fatal.error.to_string().as_str()), ("failing", "the test's target: Refused"));
    wait("written after all", || life.feed.durable("events", 0) == 11);
    assert!(life.fatal.try_recv().is_err(), "one report is enough");
    assert_eq!(target.lock().unwrap().opened, 4, "opened anew before each attempt");
}

#[test]
fn a_drain_writes_what_waits_for_its_time() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target: Arc<Mutex<Target>> = Arc::default();
    let life = bench(target.clone(), Options { flush_ms: 3_600_000, ..options() });
    life.feed.push("events", 1, events(&[(1, 10), (2, 30)]));
    life.feed.close("events", 1, 20);
    let left = runtime.block_on(life.running.drain(WAIT));
    assert_eq!(left, 1, "the row beyond the frontier cannot be written");
    assert_eq!(target.lock().unwrap().events.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn a_drain_gives_up_at_its_deadline() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for outcome in [Outcome::Away, Outcome::Silent] {
        let target = Arc::new(Mutex::new(Target { outcomes: vec![outcome; 100_000], ..Target::default() }));
        let life = bench(target.clone(), options());
        life.feed.push("events", 0, events(&[(1, 10), (2, 11)]));
        life.feed.close("events", 0, 20);
        let began = std::time::Instant::now();
        assert_eq!(runtime.block_on(life.running.drain(Duration::from_millis(100))), 2);
        assert!(began.elapsed() < WAIT / 2, "{:?}", began.elapsed());
        assert!(target.lock().unwrap().events.is_empty());
        assert_eq!(life.feed.durable("events", 0), 0);
    }
}

#[test]
fn without_workers_the_task_writes_what_is_closed_and_ends() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target: Arc<Mutex<Target>> = Arc::default();
    let Bench { feed, running, .. } = bench(target.clone(), Options { flush_ms: 3_600_000, ..options() });
    feed.push("events", 0, events(&[(1, 10)]));
    feed.close("events", 0, 20);
    drop(feed);
    target.lock().unwrap().feed = Arc::default();
    wait("the task has ended", || running.task.is_finished());
    assert_eq!(target.lock().unwrap().events.len(), 1);
    assert_eq!(running.shared.durable(0), 20);
}
