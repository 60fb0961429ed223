//! The log read again, for a stream that comes later: what the reading thread hands over, and how both agree on where it ends.
//!
//! Invariant: what it hands over and what the running dataflow hands over from the first tick on are, together, each row of the
//! log once. Events of a topic are told apart by their place in the log, for a record that came late got a later tick when it was live.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::thread::JoinHandle;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::filter_record_batch;
use operators::batch::{OFFSET, PARTITION, TICK, i32s, i64s, u64s};
use operators::row::{Diff, Row, count};
use operators::time::Tick;

use super::keep::Held;
use super::port::{Parcel, Queue};
use crate::render::ticks;

/// Rows that may wait for the workers, which take all of them at once, and rows that the new stream may have in work.
const WAITING_ROWS_MAX: usize = 4_000;
const FLIGHT_ROWS_MAX: usize = 200_000;

/// Reads the streams and tables of the main job from the beginning of the log.
pub trait Past: Send + Sync {
    /// Reads these into `feed` until that is finished or stopped; on the calling thread.
    ///
    /// # Errors
    /// The log cannot be read.
    fn read(&self, names: &[String], feed: &Arc<Feed>) -> Result<(), String>;

    /// Has the calling thread give way to all others, for what it works on is of the past.
    fn give_way(&self) {}
}

/// Reads the past into a feed on a thread of its own. What goes wrong with it stands in the feed.
pub(super) fn read(past: Arc<dyn Past>, feed: Arc<Feed>) -> std::io::Result<JoinHandle<()>> {
    let work = move || {
        if let Err(why) = past.read(&feed.names, &feed) {
            feed.failed(why);
        }
    };
    std::thread::Builder::new().name("history".into()).spawn(work)
}

/// Where the past ends and what is live begins.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    /// Events of a topic with a tick before it are of the past.
    pub before: Tick,
    /// Of later ticks, those up to these offsets are, by the stream's name and its partitions.
    pub last: BTreeMap<String, BTreeMap<i32, i64>>,
    /// The first tick that is live.
    pub first: Tick,
}

impl Cut {
    /// The events of a batch that are of the past, of a stream that is a topic.
    #[must_use]
    pub fn events(&self, stream: &str, rows: &RecordBatch) -> RecordBatch {
        let marks = self.last.get(stream);
        let (ticks, partitions, offsets) = (u64s(rows, TICK), i32s(rows, PARTITION), i64s(rows, OFFSET));
        let past = |row: usize| {
            let (tick, last) = (ticks.value(row), marks.and_then(|last| last.get(&partitions.value(row))));
            tick < self.before || (tick < self.first && last.is_some_and(|last| offsets.value(row) <= *last))
        };
        let past: BooleanArray = (0..rows.num_rows()).map(|row| Some(past(row))).collect();
        filter_record_batch(rows, &past).expect("as many flags as rows")
    }

    /// The changes of a table that are of the past.
    #[must_use]
    pub fn table(&self, rows: &RecordBatch) -> RecordBatch {
        let past: BooleanArray = u64s(rows, TICK).values().iter().map(|tick| Some(*tick < self.first)).collect();
        filter_record_batch(rows, &past).expect("as many flags as rows")
    }
}

#[derive(Default)]
struct Fed {
    /// For each worker, by the names of ports.
    parcels: Vec<HashMap<String, VecDeque<Parcel>>>,
    waiting_rows: usize,
    frontier: Tick,
    next_worker: usize,
    flight: VecDeque<(Tick, usize)>,
    tables: BTreeMap<String, BTreeMap<Row, Diff>>,
}

/// What was read of the past, on its way to the workers.
pub struct Feed {
    /// Names of what is read.
    pub names: Vec<String>,
    /// Events before it are left out.
    since: Tick,
    /// What is made of it.
    made: Arc<Held>,
    /// Held by threads that give way to all others: those that may not wait try.
    fed: Mutex<Fed>,
    cut: OnceLock<Arc<Cut>>,
    failure: OnceLock<String>,
    /// Whether there is anything for a worker.
    news: Vec<AtomicBool>,
    /// Nothing from here on is to be read yet.
    limit: AtomicU64,
    /// The tick that the running streams are of.
    live: AtomicU64,
    parked: AtomicBool,
    finished: AtomicBool,
    stopped: AtomicBool,
    begun: AtomicU64,
    rows: AtomicUsize,
}

impl Feed {
    pub(super) fn new(names: Vec<String>, since: Tick, made: Arc<Held>, workers: usize) -> Self {
        let parcels = (0..workers).map(|_| HashMap::new()).collect();
        Self {
            names,
            since,
            made,
            fed: Mutex::new(Fed { parcels, ..Fed::default() }),
            cut: OnceLock::new(),
            failure: OnceLock::new(),
            news: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            limit: AtomicU64::new(0),
            live: AtomicU64::new(0),
            parked: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            begun: AtomicU64::new(0),
            rows: AtomicUsize::new(0),
        }
    }

    fn fed(&self) -> MutexGuard<'_, Fed> {
        self.fed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is wanted any more.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether nothing is wanted any more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Whether more may be read: what was is worked off.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let done = self.made.frontier();
        let mut fed = self.fed();
        while fed.flight.front().is_some_and(|(tick, _)| *tick < done) {
            fed.flight.pop_front();
        }
        // Those that are not before the frontier wait for more to be read.
        let flight = fed.flight.iter().filter(|(tick, _)| *tick < fed.frontier).map(|(_, rows)| rows);
        fed.waiting_rows < WAITING_ROWS_MAX && flight.sum::<usize>() < FLIGHT_ROWS_MAX
    }

    /// Nothing from this tick on is to be read yet.
    #[must_use]
    pub fn limit(&self) -> Tick {
        self.limit.load(Ordering::Acquire)
    }

    /// The tick that the running streams are of.
    #[must_use]
    pub fn live(&self) -> Tick {
        self.live.load(Ordering::Relaxed)
    }

    /// Tells which tick the running streams are of.
    pub(super) fn follow(&self, live: Tick) {
        self.live.store(live, Ordering::Relaxed);
    }

    pub(super) fn read_until(&self, limit: Tick) {
        self.limit.store(limit, Ordering::Release);
    }

    /// Tells whether everything up to the limit was read.
    pub fn park(&self, parked: bool) {
        self.parked.store(parked, Ordering::Release);
    }

    pub(super) fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Acquire)
    }

    /// Where the past ends, once it is known.
    #[must_use]
    pub fn cut(&self) -> Option<Arc<Cut>> {
        self.cut.get().cloned()
    }

    pub(super) fn end_at(&self, cut: Cut) {
        // The limit last: nothing beyond the old one passes without the cut.
        let first = cut.first;
        let _ = self.cut.set(Arc::new(cut));
        self.limit.store(first, Ordering::Release);
    }

    /// Counts rows of the log that were read, the first of them with this tick.
    pub fn count(&self, rows: usize, tick: Tick) {
        let _ = self.begun.compare_exchange(0, tick, Ordering::Relaxed, Ordering::Relaxed);
        self.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Rows of the log that were read.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// How much of the log's time is done, in hundredths.
    #[must_use]
    pub fn percent(&self) -> u64 {
        let (begun, limit) = (self.begun.load(Ordering::Relaxed), self.limit());
        let done = self.made.frontier().min(limit);
        if begun == 0 || limit <= begun {
            return 0;
        }
        (done.saturating_sub(begun) * 100 / (limit - begun)).min(99)
    }

    fn put(&self, name: &str, parcel: Parcel) {
        let upto = self.cut.get().map_or(Tick::MAX, |cut| cut.first);
        let (rows, parcel) = match parcel {
            Parcel::Events(rows) => match self.wanted(&rows, upto) {
                Some(rows) => (rows.num_rows(), Parcel::Events(rows)),
                None => return,
            },
            Parcel::Updates(mut updates) => {
                updates.retain(|(_, tick, _)| *tick < upto);
                (updates.len(), Parcel::Updates(updates))
            }
        };
        let mut fed = self.fed();
        let workers = fed.parcels.len();
        let worker = match &parcel {
            Parcel::Events(events) => {
                fed.flight.push_back((newest(events), rows));
                fed.next_worker = (fed.next_worker + 1) % workers;
                fed.next_worker
            }
            Parcel::Updates(updates) => {
                let table = fed.tables.entry(name.to_owned()).or_default();
                for (row, _, diff) in updates {
                    count(table, row.clone(), *diff);
                }
                0
            }
        };
        fed.waiting_rows += rows;
        fed.parcels[worker].entry(name.to_owned()).or_default().push_back(parcel);
        drop(fed);
        self.news[worker].store(true, Ordering::Release);
    }

    /// The events that are wanted of a batch.
    fn wanted(&self, rows: &RecordBatch, upto: Tick) -> Option<RecordBatch> {
        let wanted = |tick: &Tick| Some(*tick >= self.since && *tick < upto);
        let wanted: BooleanArray = ticks(rows).values().iter().map(wanted).collect();
        let rows = filter_record_batch(rows, &wanted).expect("as many flags as rows");
        Some(rows).filter(|rows| rows.num_rows() > 0)
    }

    fn advance(&self, frontier: Tick) {
        let mut fed = self.fed();
        if frontier > fed.frontier {
            fed.frontier = frontier;
            drop(fed);
            self.news.iter().for_each(|news| news.store(true, Ordering::Release));
        }
    }

    pub(super) fn has_news(&self, worker: usize) -> bool {
        self.news[worker].swap(false, Ordering::AcqRel)
    }

    /// What there is for a worker of a port, and the tick before which nothing comes any more. While another thread is about
    /// it there is nothing yet, unless this is the last time that anything is taken.
    pub(super) fn take(&self, worker: usize, name: &str, last: bool) -> (VecDeque<Parcel>, Tick) {
        let fed = match self.fed.try_lock() {
            Ok(fed) => Some(fed),
            Err(TryLockError::Poisoned(fed)) => Some(fed.into_inner()),
            Err(TryLockError::WouldBlock) => last.then(|| self.fed()),
        };
        let Some(mut fed) = fed else {
            self.news[worker].store(true, Ordering::Release);
            return (VecDeque::new(), 0);
        };
        let taken = fed.parcels[worker].get_mut(name).map(std::mem::take).unwrap_or_default();
        fed.waiting_rows -= taken.iter().map(Parcel::rows).sum::<usize>();
        (taken, fed.frontier)
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire)
    }

    pub(super) fn failed(&self, why: String) {
        let _ = self.failure.set(why);
    }

    pub(super) fn failure(&self) -> Option<String> {
        self.failure.get().cloned()
    }

    /// What a table would need at the end of the past to be what the running dataflow has.
    pub(super) fn correction(&self, name: &str, content: Vec<(Row, Diff)>) -> Vec<(Row, Diff)> {
        let mut wanted: BTreeMap<Row, Diff> = self.fed().tables.remove(name).unwrap_or_default();
        wanted.values_mut().for_each(|diff| *diff = -*diff);
        for (row, diff) in content {
            count(&mut wanted, row, diff);
        }
        wanted.into_iter().collect()
    }
}

fn newest(events: &RecordBatch) -> Tick {
    ticks(events).values().iter().copied().max().unwrap_or(0)
}

/// Ends of the streams of a dataflow that reads the past.
pub struct Taps(pub(super) Vec<(String, Rc<Queue>)>);

impl Taps {
    /// Hands over what has come; returns the tick before which nothing comes any more.
    pub fn pump(&self, feed: &Feed) -> Tick {
        // First how far they are: what comes after is later.
        let frontier = self.0.iter().map(|(_, queue)| queue.frontier.get()).min().unwrap_or(Tick::MAX);
        for (name, queue) in &self.0 {
            let parcels = std::mem::take(&mut *queue.parcels.borrow_mut());
            parcels.into_iter().for_each(|parcel| feed.put(name, parcel));
        }
        let first = feed.cut().map(|cut| cut.first);
        feed.advance(frontier.min(first.unwrap_or(frontier)));
        if first.is_some_and(|first| frontier >= first) {
            feed.finished.store(true, Ordering::Release);
        }
        frontier
    }
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{ArrayRef, Int32Array, Int64Array, UInt64Array};

    use super::*;

    /// Rows by tick, partition and offset.
    fn rows(rows: &[(Tick, i32, i64)]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 3] = [
            (TICK, Arc::new(rows.iter().map(|row| Some(row.0)).collect::<UInt64Array>())),
            (PARTITION, Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Int32Array>())),
            (OFFSET, Arc::new(rows.iter().map(|row| Some(row.2)).collect::<Int64Array>())),
        ];
        RecordBatch::try_from_iter(columns).expect("columns of one length")
    }

    #[test]
    fn a_record_that_came_late_is_live_or_past_but_not_both() {
        let held = Held::new("telemetry", rows(&[]).schema(), crate::plan::Kind::Events, 1, 1);
        held.mark(true);
        // Live: offset 12 of partition 0 was appended at 190, and came behind the frontier.
        held.note(&rows(&[(150, 0, 10), (180, 0, 11), (200, 0, 12), (170, 1, 5)]));
        let marked = held.marked(200);
        assert_eq!(marked, BTreeMap::from([(0, 11), (1, 5)]));
        let cut = Cut { before: 140, last: BTreeMap::from([("telemetry".to_owned(), marked)]), first: 200 };
        // Read again, it has the tick of its append time.
        let again =
            rows(&[(130, 0, 9), (150, 0, 10), (180, 0, 11), (190, 0, 12), (170, 1, 5), (130, 2, 7), (160, 2, 8)]);
        let past = cut.events("telemetry", &again);
        assert_eq!(i64s(&past, OFFSET).values(), &[9, 10, 11, 5, 7]);
        assert_eq!(cut.table(&rows(&[(199, 0, 1), (200, 0, 2)])).num_rows(), 1);
        held.mark(false);
        held.note(&rows(&[(150, 0, 10)]));
        assert!(held.marked(Tick::MAX).is_empty(), "nothing is noted that nobody asks for");
    }

    #[test]
    fn a_table_is_corrected_to_what_is_live() {
        let row = |text: &str| {
            let codec =
                operators::row::Codec::new(crate::plan::canonical(&[datafusion::arrow::datatypes::DataType::Utf8]));
            let column: ArrayRef = Arc::new(datafusion::arrow::array::StringArray::from(vec![text]));
            codec.and_then(|codec| codec.encode(&[column], 1)).expect("a row").remove(0)
        };
        let made = Held::new("made", rows(&[]).schema(), crate::plan::Kind::Table, 1, 10);
        let feed = Feed::new(vec!["vehicles".into()], 0, made, 1);
        feed.put("vehicles", Parcel::Updates(vec![(row("a"), 1, 1), (row("b"), 2, 1)]));
        let corrected = feed.correction("vehicles", vec![(row("b"), 1), (row("c"), 1)]);
        assert_eq!(BTreeMap::from_iter(corrected), BTreeMap::from([(row("a"), -1), (row("c"), 1)]));
    }
}
