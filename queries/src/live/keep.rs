//! The content of streams, kept by one thread for all who read.
//!
//! Invariant: all tables are shown as of one tick, which every worker has passed; a reader holds up the keeping thread at
//! most, never a worker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use operators::batch::{OFFSET, PARTITION, TICK, i32s, i64s, u64s};
use operators::row::{Codec, Diff, Row, count, repeated};
use operators::time::{Tick, take_before};
use tokio::sync::broadcast;

use super::budget::Suspended;
use super::port::Updates;
use super::tap::Tap;
use crate::plan::Kind;
use crate::render::Size;

/// Longest sleep of the keeping thread.
const SLEEP: Duration = Duration::from_millis(20);
/// Changes that a slow watcher may be behind.
const BEHIND_MAX: usize = 1_024;

/// The workers' end of a stream.
pub struct Held {
    /// Name of its port.
    pub port: String,
    /// Its columns by their names.
    pub schema: SchemaRef,
    pub kind: Kind,
    inbox: Mutex<Updates>,
    /// Bytes of changes that have not been applied yet.
    waiting_bytes: AtomicI64,
    /// The workers' frontiers.
    frontiers: Vec<AtomicU64>,
    watchers: broadcast::Sender<Arc<Change>>,
    /// Of the sinks.
    taps: Mutex<Vec<Weak<Tap>>>,
    /// How many there are.
    tapped: AtomicUsize,
    /// Rows it may hold.
    rows_max: usize,
    rows: AtomicUsize,
    bytes: AtomicUsize,
    changes: AtomicU64,
    exceeded: AtomicBool,
    /// Why it is kept no more.
    given_up: OnceLock<Suspended>,
    /// Whether anybody takes in what is put.
    kept: bool,
    /// While a stream is built from the log: the newest offsets by partition and tick.
    marks: Mutex<Option<Marks>>,
    marking: AtomicBool,
}

type Marks = BTreeMap<i32, BTreeMap<Tick, i64>>;

/// What changed at a tick.
#[derive(Debug)]
pub struct Change {
    /// The tick.
    pub tick: Tick,
    /// Rows that came and went.
    pub rows: Vec<(Row, Diff)>,
}

/// The content of a table at a tick.
#[derive(Clone, Debug)]
pub struct Content {
    /// The tick.
    pub as_of: Tick,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows, each as often as it is there.
    pub rows: Vec<Row>,
}

/// Rows of one batch of a content.
const BATCH_ROWS: usize = 4_096;

impl Content {
    /// The rows as columns, a few thousand at a time.
    ///
    /// # Panics
    /// If rows and schema are not of one stream.
    #[must_use]
    pub fn batches(&self) -> Vec<RecordBatch> {
        let codec = Codec::new(self.schema.clone()).expect("a schema of rows");
        self.rows.chunks(BATCH_ROWS).map(|rows| codec.decode(rows).expect("rows of the schema")).collect()
    }
}

impl Held {
    pub fn new(port: &str, schema: SchemaRef, kind: Kind, workers: usize, rows_max: usize) -> Arc<Self> {
        Arc::new(Self {
            port: port.to_owned(),
            schema,
            kind,
            inbox: Mutex::default(),
            waiting_bytes: AtomicI64::new(0),
            frontiers: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            watchers: broadcast::channel(BEHIND_MAX).0,
            taps: Mutex::default(),
            tapped: AtomicUsize::new(0),
            rows_max,
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            exceeded: AtomicBool::new(false),
            given_up: OnceLock::new(),
            kept: true,
            marks: Mutex::default(),
            marking: AtomicBool::new(false),
        })
    }

    /// One that nobody keeps the rows of.
    pub fn not_kept(port: &str, schema: SchemaRef, kind: Kind) -> Arc<Self> {
        let held = Self::new(port, schema, kind, 1, usize::MAX);
        Arc::into_inner(held).map(|held| Arc::new(Self { kept: false, ..held })).expect("nobody else has it yet")
    }

    /// Begins or ends to note the places in the log of what comes.
    pub fn mark(&self, on: bool) {
        *self.marks() = on.then(Marks::new);
        self.marking.store(on, Ordering::Release);
    }

    /// Whether places are noted.
    pub fn is_marking(&self) -> bool {
        self.marking.load(Ordering::Acquire)
    }

    fn marks(&self) -> std::sync::MutexGuard<'_, Option<Marks>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the places in the log of these rows, if they are asked for.
    pub fn note(&self, rows: &RecordBatch) {
        if !self.marking.load(Ordering::Acquire) {
            return;
        }
        if let Some(marks) = &mut *self.marks() {
            let (ticks, partitions, offsets) = (u64s(rows, TICK), i32s(rows, PARTITION), i64s(rows, OFFSET));
            for row in 0..rows.num_rows() {
                let of = marks.entry(partitions.value(row)).or_default();
                let newest = of.entry(ticks.value(row)).or_insert(i64::MIN);
                *newest = (*newest).max(offsets.value(row));
            }
        }
    }

    /// The newest offset of each partition that came before a tick.
    pub fn marked(&self, before: Tick) -> BTreeMap<i32, i64> {
        let marks = self.marks();
        let newest = |ticks: &BTreeMap<Tick, i64>| ticks.range(..before).map(|(_, offset)| *offset).max();
        marks.iter().flatten().filter_map(|(partition, ticks)| Some((*partition, newest(ticks)?))).collect()
    }

    /// Whether rows are of any use: a kept table's always, others only while somebody watches them or a sink takes them.
    pub fn is_wanted(&self) -> bool {
        let followed = self.watchers.receiver_count() > 0 || self.tapped.load(Ordering::Relaxed) > 0;
        (self.kept && self.kind == Kind::Table) || followed
    }

    /// From now on every change goes through this tap too, as long as somebody has it.
    pub fn tap(&self, tap: &Arc<Tap>) {
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        taps.push(Arc::downgrade(tap));
        self.tapped.store(taps.len(), Ordering::Relaxed);
    }

    /// Tells all who follow.
    fn tell(&self, change: Change) {
        if self.watchers.receiver_count() == 0 && self.tapped.load(Ordering::Relaxed) == 0 {
            return;
        }
        let change = Arc::new(change);
        let mut taps = self.taps.lock().unwrap_or_else(PoisonError::into_inner);
        taps.retain(|tap| {
            tap.upgrade().is_some_and(|tap| {
                tap.put(&change);
                true
            })
        });
        self.tapped.store(taps.len(), Ordering::Relaxed);
        drop(taps);
        // An error is that nobody watches.
        let _ = self.watchers.send(change);
    }

    pub fn put(&self, updates: Updates) {
        if !self.kept {
            return;
        }
        let bytes: i64 = updates.iter().map(|(row, ..)| Size::of(row).bytes).sum();
        self.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).extend(updates);
    }

    pub fn advance(&self, worker: usize, frontier: Tick) {
        self.frontiers[worker].store(frontier, Ordering::Release);
    }

    /// Every worker has passed all ticks before it.
    pub fn frontier(&self) -> Tick {
        self.frontiers.iter().map(|frontier| frontier.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// Rows and bytes that are held, and changes so far.
    pub fn figures(&self) -> (usize, usize, u64) {
        let figure = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        (figure(&self.rows), figure(&self.bytes), self.changes.load(Ordering::Relaxed))
    }

    /// What it takes, changes that wait included.
    pub fn size(&self) -> Size {
        let (rows, bytes, _) = self.figures();
        let beside = Size::of(&Row::default()).bytes * rows as i64;
        let waiting = self.waiting_bytes.load(Ordering::Relaxed);
        Size { rows: rows as i64, bytes: bytes as i64 + beside + waiting }
    }

    /// Whether it holds more than it may.
    pub fn is_exceeded(&self) -> bool {
        self.exceeded.load(Ordering::Relaxed)
    }

    /// Keeps it no more, for this reason.
    pub fn give_up(&self, why: Suspended) {
        self.exceeded.store(true, Ordering::Relaxed);
        self.given_up.get_or_init(|| why);
    }

    /// Why it is kept no more, if it is not.
    pub fn given_up(&self) -> Option<&Suspended> {
        self.given_up.get()
    }
}

struct Shelf {
    held: Arc<Held>,
    waiting: BTreeMap<Tick, Vec<(Row, Diff)>>,
    rows: BTreeMap<Row, Diff>,
    /// Whether it takes part in the common tick yet.
    caught_up: bool,
}

#[derive(Default)]
struct Shelves {
    as_of: Tick,
    by_port: BTreeMap<String, Shelf>,
}

/// The kept streams.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Shared>);

#[derive(Default)]
struct Shared {
    shelves: RwLock<Shelves>,
    thread: Mutex<Option<Thread>>,
    stop: AtomicBool,
}

impl Keeper {
    /// Starts the keeping thread.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn start(&self) -> std::io::Result<JoinHandle<()>> {
        let keeper = self.clone();
        let thread = std::thread::Builder::new().name("views".into()).spawn(move || {
            while !keeper.0.stop.load(Ordering::Relaxed) {
                keeper.keep();
                std::thread::park_timeout(SLEEP);
            }
        })?;
        *self.0.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(thread)
    }

    /// Ends the keeping thread.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    /// Tells that something was put.
    pub fn wake(&self) {
        if let Some(thread) = &*self.0.thread.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    pub(super) fn add(&self, held: Arc<Held>) {
        let shelf = Shelf { held, waiting: BTreeMap::new(), rows: BTreeMap::new(), caught_up: false };
        let mut shelves = self.0.shelves.write().unwrap_or_else(PoisonError::into_inner);
        shelves.by_port.insert(shelf.held.port.clone(), shelf);
    }

    pub(super) fn remove(&self, port: &str) {
        let gone = self.0.shelves.write().unwrap_or_else(PoisonError::into_inner).by_port.remove(port);
        // Freed here, not while others wait for the lock.
        drop(gone);
    }

    /// The common tick.
    #[must_use]
    pub fn as_of(&self) -> Tick {
        self.0.shelves.read().unwrap_or_else(PoisonError::into_inner).as_of
    }

    /// The tables behind these ports, all as of one tick; none for a port that is not there.
    #[must_use]
    pub fn content(&self, ports: &[&str]) -> Vec<Option<Content>> {
        let shelves = self.0.shelves.read().unwrap_or_else(PoisonError::into_inner);
        ports.iter().map(|port| Some(shelves.by_port.get(*port)?.content(shelves.as_of))).collect()
    }

    /// The rows themselves, for a stream that begins where they end, and the tick that they are of.
    pub(super) fn rows(&self, ports: &[String]) -> (Tick, BTreeMap<String, Vec<(Row, Diff)>>) {
        let shelves = self.0.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let rows = ports.iter().filter_map(|port| {
            let shelf = shelves.by_port.get(port).filter(|shelf| shelf.held.kind == Kind::Table)?;
            Some((port.clone(), shelf.rows.iter().map(|(row, diff)| (row.clone(), *diff)).collect()))
        });
        (shelves.as_of, rows.collect())
    }

    /// Whether a stream that began at `first` has been brought to the common tick.
    pub(super) fn is_caught_up(&self, port: &str, first: Tick) -> bool {
        let shelves = self.0.shelves.read().unwrap_or_else(PoisonError::into_inner);
        shelves.as_of >= first && shelves.by_port.get(port).is_some_and(|shelf| shelf.caught_up)
    }

    /// The content behind a port, and every change after it.
    pub(super) fn watch(&self, port: &str) -> Option<(Content, broadcast::Receiver<Arc<Change>>)> {
        // Changes are made and told under the lock, so none falls between the two.
        let shelves = self.0.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.by_port.get(port)?;
        Some((shelf.content(shelves.as_of), shelf.held.watchers.subscribe()))
    }

    /// The content behind a port, after which the tap gives every change.
    pub(super) fn refill(&self, port: &str, tap: &Arc<Tap>) -> Option<Content> {
        let shelves = self.0.shelves.read().unwrap_or_else(PoisonError::into_inner);
        let shelf = shelves.by_port.get(port)?;
        tap.reset();
        Some(shelf.content(shelves.as_of))
    }

    /// Takes in what was put, and moves on to the newest tick that all have passed.
    fn keep(&self) {
        let mut shelves = self.0.shelves.write().unwrap_or_else(PoisonError::into_inner);
        let Shelves { as_of, by_port } = &mut *shelves;
        let mut least = Tick::MAX;
        for shelf in by_port.values_mut() {
            // The frontier first: what is put later is not before it.
            let frontier = shelf.held.frontier();
            for (row, tick, diff) in shelf.held.inbox.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
                shelf.waiting.entry(tick).or_default().push((row, diff));
            }
            shelf.caught_up |= frontier > *as_of;
            if shelf.caught_up {
                least = least.min(frontier);
            } else if frontier > 0 {
                // Nobody reads it yet: what is past is put together as it comes.
                shelf.turn(frontier - 1);
            }
        }
        // Inputs that have ended hold nothing back, and do not make time end.
        let newest = by_port.values().filter_map(|shelf| shelf.waiting.last_key_value()).map(|(tick, _)| *tick).max();
        let next = match least {
            // At the start, before anything is whole up to any tick.
            _ if by_port.values().all(|shelf| !shelf.caught_up) => *as_of,
            Tick::MAX => newest.unwrap_or(*as_of),
            least => least.saturating_sub(1),
        };
        *as_of = next.max(*as_of);
        for shelf in by_port.values_mut().filter(|shelf| shelf.caught_up) {
            shelf.turn(*as_of);
        }
    }
}

impl Shelf {
    fn content(&self, as_of: Tick) -> Content {
        Content { as_of, schema: self.held.schema.clone(), rows: repeated(&self.rows).cloned().collect() }
    }

    /// Applies the changes up to a tick.
    fn turn(&mut self, as_of: Tick) {
        let due = take_before(&mut self.waiting, as_of + 1);
        if due.is_empty() {
            return;
        }
        let mut bytes = self.held.bytes.load(Ordering::Relaxed) as i64;
        for (tick, mut rows) in due {
            let applied: i64 = rows.iter().map(|(row, _)| Size::of(row).bytes).sum();
            self.held.waiting_bytes.fetch_sub(applied, Ordering::Relaxed);
            differential_dataflow::consolidation::consolidate(&mut rows);
            self.held.changes.fetch_add(rows.len() as u64, Ordering::Relaxed);
            if self.held.kind == Kind::Table {
                for (row, diff) in &rows {
                    bytes += row.bytes().len() as i64 * diff;
                    count(&mut self.rows, row.clone(), *diff);
                }
            }
            if !rows.is_empty() {
                self.held.tell(Change { tick, rows });
            }
        }
        self.held.rows.store(self.rows.len(), Ordering::Relaxed);
        self.held.bytes.store(bytes.max(0) as usize, Ordering::Relaxed);
        if self.rows.len() > self.held.rows_max {
            self.held.exceeded.store(true, Ordering::Relaxed);
        }
    }
}
