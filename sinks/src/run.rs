//! Between the worker loops and a [`Sink`]: workers hand over rows without ever waiting, a task of its own gathers them into
//! steps and writes those, again and again until the target has them.
//!
//! Invariant: a row handed over is written or still counted in the queue; of one (stream, worker) steps are written in the
//! order of their ticks, and [`Feed::durable`] never names a tick before which a row is unwritten.

mod conflate;
mod gather;
mod task;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, UInt64Type};
use operators::batch::TICK;
use operators::time::Tick;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::step::{Rows, Sink, SinkError};

/// What a batch costs beside its columns' data: schema, arrays, channel. Keeps a queue of tiny batches bounded.
const BATCH_BYTES: usize = 2_048;

/// How a sink is fed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Rows at which a step is written without waiting for `flush_ms`; a step exceeds it by no more than the rows between
    /// two frontiers.
    pub rows_max: usize,
    /// Bytes of rows at which a step is written without waiting for `flush_ms`.
    pub bytes_max: usize,
    /// Milliseconds that a closed row may wait for others. 0 writes as soon as the frontier has passed.
    pub flush_ms: u64,
    /// Rows of a table's backlog from which one step takes the newest of each key.
    pub conflate_rows_max: usize,
    /// Bytes handed over and not yet written at which the worker stops taking in more.
    pub queue_bytes_max: usize,
    /// Pause before the first repetition of a failed attempt, in milliseconds; it doubles each time.
    pub retry_ms_min: u64,
    /// Longest pause between repetitions, in milliseconds.
    pub retry_ms_max: u64,
    /// Milliseconds after which an attempt that neither succeeds nor fails is given up and repeated.
    pub apply_ms_max: u64,
}

/// A stream that a sink takes.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// Name of the stream.
    pub stream: &'static str,
    /// Columns that make a table's key; empty for a stream of events.
    pub keys: &'static [&'static str],
}

/// A sink that a worker's rows cannot be written to as things are. Its rows are kept and tried again every `retry_ms_max`,
/// so the receiver chooses: go on and heal once the cause is gone, or end the process.
#[derive(Debug)]
pub struct Fatal {
    /// Name of the sink.
    pub sink: &'static str,
    /// What it said.
    pub error: SinkError,
}

/// What a worker and the task know of one (stream, worker). Each field has one writer.
#[derive(Debug, Default)]
struct Lane {
    /// Worker: every row before this tick was handed over.
    closed: AtomicU64,
    /// Worker: the frontier up to which the task was told.
    told: AtomicU64,
    /// Worker: the highest tick handed over.
    newest: AtomicU64,
    /// Worker: rows handed over.
    pushed: AtomicU64,
    /// Task: rows written or found to be in the target.
    settled: AtomicU64,
    /// Task: every row before this tick is written.
    applied: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    sink: &'static str,
    queue_bytes_max: usize,
    routes: Vec<Route>,
    workers: usize,
    /// Rows before this tick were written by an earlier start.
    done: Tick,
    /// One a (route, worker), a route's workers side by side.
    lanes: Vec<Lane>,
    queue_rows: AtomicU64,
    queue_bytes: AtomicU64,
    /// Workers: messages sent to the task.
    sent: AtomicU64,
    /// Task: messages after which nothing could be written before a frontier moves.
    starved_after: AtomicU64,
    /// Task: why the last attempt failed, until one succeeds.
    trouble: Mutex<Option<String>>,
}

impl Shared {
    fn index(&self, stream: &str, worker: usize) -> usize {
        let route = self.routes.iter().position(|route| route.stream == stream);
        let route = route.unwrap_or_else(|| panic!("sink {} was not started with stream {stream}", self.sink));
        assert!(worker < self.workers, "sink {} was started with {} workers, not {worker}", self.sink, self.workers);
        route * self.workers + worker
    }

    fn durable(&self, index: usize) -> Tick {
        let lane = &self.lanes[index];
        // In this order: all rows before `closed` are counted in the `pushed` that is read after it, so if as many are
        // settled, every row before `closed` is.
        let closed = lane.closed.load(Ordering::Acquire);
        let pushed = lane.pushed.load(Ordering::Acquire);
        let applied = lane.applied.load(Ordering::Acquire);
        if lane.settled.load(Ordering::Acquire) >= pushed { closed.max(applied) } else { applied }
    }
}

/// Rows of one push on their way to the task.
#[derive(Debug)]
struct Pushed {
    rows: Rows,
    tick_min: Tick,
    tick_max: Tick,
    bytes: u64,
}

#[derive(Debug)]
enum Message {
    Rows(usize, Pushed),
    Closed(usize, Tick),
}

/// The workers' end. No call waits for anything.
#[derive(Clone, Debug)]
pub struct Feed {
    shared: Arc<Shared>,
    queue: mpsc::UnboundedSender<Message>,
}

impl Feed {
    /// Hands over rows of `stream` from `worker`, none of which has a tick before an earlier [`close`](Self::close).
    ///
    /// # Panics
    /// If the sink was not started with that stream and worker, or the rows have no tick column.
    pub fn push(&self, stream: &str, worker: usize, rows: Rows) {
        let count = rows.batch().num_rows() as u64;
        if count == 0 {
            return;
        }
        let index = self.shared.index(stream, worker);
        let (tick_min, tick_max) = tick_range(rows.batch());
        let bytes = (row_bytes(rows.batch()) + BATCH_BYTES) as u64;
        let lane = &self.shared.lanes[index];
        lane.newest.fetch_max(tick_max, Ordering::Relaxed);
        lane.pushed.fetch_add(count, Ordering::Release);
        self.shared.queue_rows.fetch_add(count, Ordering::Relaxed);
        self.shared.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.send(Message::Rows(index, Pushed { rows, tick_min, tick_max, bytes }));
    }

    fn send(&self, message: Message) {
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        // Fails only once the task has ended, when the process is ending too: the rows stay counted as unwritten.
        let _ = self.queue.send(message);
    }

    /// Tells that every row of `stream` from `worker` before `upto` was pushed. `Tick::MAX`: there will be no more.
    ///
    /// # Panics
    /// If the sink was not started with that stream and worker.
    pub fn close(&self, stream: &str, worker: usize, upto: Tick) {
        let index = self.shared.index(stream, worker);
        let lane = &self.shared.lanes[index];
        if lane.closed.fetch_max(upto, Ordering::Release) >= upto {
            return;
        }
        // The task need not hear of frontiers that close no row: a message for each would pile up beside a sink that is away.
        let told = lane.told.load(Ordering::Relaxed);
        if told <= lane.newest.load(Ordering::Relaxed) && lane.pushed.load(Ordering::Relaxed) > 0 {
            lane.told.store(upto, Ordering::Relaxed);
            self.send(Message::Closed(index, upto));
        }
    }

    /// Every row of `stream` from `worker` before this tick is in the target, or was there before the start.
    ///
    /// # Panics
    /// If the sink was not started with that stream and worker.
    #[must_use]
    pub fn durable(&self, stream: &str, worker: usize) -> Tick {
        self.shared.durable(self.shared.index(stream, worker))
    }

    /// The least [`durable`](Self::durable) of all streams and workers: what a checkpoint may count on.
    #[must_use]
    pub fn durable_min(&self) -> Tick {
        (0..self.shared.lanes.len()).map(|index| self.shared.durable(index)).min().unwrap_or(Tick::MAX)
    }

    /// Rows handed over and not yet written.
    #[must_use]
    pub fn queued_rows(&self) -> u64 {
        self.shared.queue_rows.load(Ordering::Relaxed)
    }

    /// Bytes of those rows.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.shared.queue_bytes.load(Ordering::Relaxed)
    }

    /// Whether the worker should take in no more until some of it is written. Never while the sink itself waits for a
    /// frontier: that moves only as workers take more in.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let shared = &self.shared;
        let starved = || shared.starved_after.load(Ordering::Relaxed) == shared.sent.load(Ordering::Relaxed);
        self.queued_bytes() >= shared.queue_bytes_max as u64 && !starved()
    }

    /// Why the last attempt to write failed; none if it did not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Name of the sink.
    #[must_use]
    pub fn sink(&self) -> &'static str {
        self.shared.sink
    }

    /// The streams that the sink takes.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.shared.routes
    }
}

/// The task's handle.
#[derive(Debug)]
pub struct Running {
    task: JoinHandle<()>,
    stop: watch::Sender<Option<Instant>>,
    opened: watch::Receiver<bool>,
    shared: Arc<Shared>,
}

impl Running {
    /// Waits until the sink has been opened and has told what it holds: from then on [`Feed::durable`] means something.
    pub async fn opened(&mut self) {
        // An error is a task that has ended; `drain` tells of that.
        let _ = self.opened.wait_for(|opened| *opened).await;
    }

    /// Turns true once the sink has been opened.
    #[must_use]
    pub fn opening(&self) -> watch::Receiver<bool> {
        self.opened.clone()
    }

    /// Whether the sink has been opened.
    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.opened.borrow()
    }

    /// Writes everything that is closed, without waiting for `flush_ms`, and ends the task; gives up after `deadline`.
    /// The workers must have pushed and closed what they want written before. Returns the rows left unwritten.
    pub async fn drain(self, deadline: Duration) -> u64 {
        let end = Instant::now() + deadline;
        self.stop.send_replace(Some(end));
        let mut task = self.task;
        // The task keeps the deadline by itself; one that does not come back is stuck inside its sink.
        if tokio::time::timeout_at(end + Duration::from_secs(1), &mut task).await.is_err() {
            task.abort();
        }
        self.shared.queue_rows.load(Ordering::Relaxed)
    }
}

/// Starts the task that writes to `sink` on the current runtime. Rows before tick `done` were written by an earlier start, unless the
/// target can show that it has less; `fatal` hears of rows that the target refuses.
///
/// # Panics
/// Outside a tokio runtime.
pub fn start<S: Sink>(
    sink: S,
    options: Options,
    routes: Vec<Route>,
    workers: usize,
    done: Tick,
    fatal: mpsc::Sender<Fatal>,
) -> (Feed, Running) {
    let lanes = (0..routes.len() * workers).map(|_| Lane::default()).collect();
    let shared = Arc::new(Shared {
        sink: sink.name(),
        queue_bytes_max: options.queue_bytes_max,
        routes,
        workers,
        done,
        lanes,
        queue_rows: AtomicU64::new(0),
        queue_bytes: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        starved_after: AtomicU64::new(u64::MAX),
        trouble: Mutex::default(),
    });
    #[expect(clippy::disallowed_methods, reason = "bounded by `queue_bytes`, at which the worker stops its intake")]
    let (queue, received) = mpsc::unbounded_channel();
    let (stop, stopping) = watch::channel(None);
    let (tell_opened, opened) = watch::channel(false);
    let task = task::Task::new(sink, options, shared.clone(), received, stopping, tell_opened, fatal);
    let task = tokio::spawn(task.run());
    (Feed { shared: shared.clone(), queue }, Running { task, stop, opened, shared })
}

/// The lowest and highest tick of a batch that is not empty.
pub(crate) fn tick_range(rows: &RecordBatch) -> (Tick, Tick) {
    let ticks = ticks(rows).values();
    ticks.iter().fold((Tick::MAX, 0), |(low, high), &tick| (low.min(tick), high.max(tick)))
}

/// The ticks: `__tick`, or `tick` as refused records have it.
pub(crate) fn ticks(rows: &RecordBatch) -> &UInt64Array {
    let column = rows.column_by_name(TICK).or_else(|| rows.column_by_name("tick"));
    column.expect("every stream has a tick column").as_primitive::<UInt64Type>()
}

/// Bytes of the rows themselves. Columns share buffers with other batches: only their own share counts.
fn row_bytes(rows: &RecordBatch) -> usize {
    let column = |column: &ArrayRef| match column.data_type() {
        DataType::Utf8View => {
            let views = column.as_string_view().views();
            // The length is the lowest 32 bits of a view.
            views.len() * 16 + views.iter().map(|&view| (view as u32) as usize).sum::<usize>()
        }
        DataType::Utf8 => text_bytes(column.as_string::<i32>().offsets()),
        DataType::Binary => text_bytes(column.as_binary::<i32>().offsets()),
        kind => match kind.primitive_width() {
            Some(width) => width * column.len(),
            None => column.get_array_memory_size(),
        },
    };
    rows.columns().iter().map(column).sum()
}

fn text_bytes(offsets: &[i32]) -> usize {
    (offsets[offsets.len() - 1] - offsets[0]) as usize + size_of_val(offsets)
}
