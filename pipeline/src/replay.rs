//! The log read again in the background, through the same decoding, deduplication and enrichment, for derived streams that come
//! later: on one thread of its own, throttled, and slower while what is live falls behind.
//!
//! Invariant: nothing goes on to the stream that is not of the past, and all of the past does, in the order of ticks.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use operators::batch::{TICK, u64s};
use operators::counters::Counters;
use operators::record::Stream;
use operators::record::declared::Declared;
use operators::time::Tick;
use queries::live::{Feed, Live, Past};
use sources::Delivery;
use sources::delivery::{Capacity, Nothing, Receiver, channel};
use sources::log::system_clock;
use timely::worker::Worker;

use crate::job::Origin;
use crate::topology::{self, Inputs};

/// Longest sleep of the thread when there is nothing to do.
const PARK: Duration = Duration::from_millis(5);
/// Deliveries taken in before the operators run again.
const DELIVERIES_MAX: usize = 4;
/// Rows that wait for the limit to move before no more are taken in.
const STASH_ROWS_MAX: usize = 50_000;
/// While what is live is further behind the clock than this, only a share of the rows is read.
const BEHIND_MS_MAX: u64 = 500;
const SHARE_WHILE_BEHIND: f64 = 0.1;
/// What may be read at once after a pause.
const BURST: Duration = Duration::from_millis(50);
/// How long the log is waited for before an idle partition is taken to have nothing more, in milliseconds.
pub const SLACK_MS: u64 = 500;

/// Reads the log again when it is asked for.
pub struct Replay<O> {
    /// Where the records are.
    pub origin: Arc<O>,
    /// What the operators are told.
    pub topology: topology::Options,
    /// What may wait between the reader and the operators.
    pub capacity: Capacity,
    /// Telemetry rows a second.
    pub rows_per_s: u64,
    /// The sources and tables that are declared over topics.
    pub declared: Vec<&'static Declared>,
}

impl<O: Origin> Past for Replay<O> {
    fn read(&self, names: &[String], feed: &Arc<Feed>) -> Result<(), String> {
        // Its figures would be taken for those of the running dataflow.
        metrics::with_local_recorder(&metrics::NoopRecorder, || self.work(names, feed))
    }
}

impl<O: Origin> Replay<O> {
    fn work(&self, names: &[String], feed: &Arc<Feed>) -> Result<(), String> {
        let stop = Arc::new(AtomicBool::new(false));
        let this = std::thread::current();
        let (sender, receiver) = channel(self.capacity, move || this.unpark());
        let (origin, stopped) = (self.origin.clone(), stop.clone());
        let read = move || {
            metrics::with_local_recorder(&metrics::NoopRecorder, || origin.read(0, 1, sender, stopped))
                .map_err(|why| why.to_string())
        };
        let reader = std::thread::Builder::new().name("history-reader".into()).spawn(read);
        let reader = reader.map_err(|why| format!("no thread can be started: {why}"))?;
        let named = |declared: &&&'static Declared| names.contains(&declared.name);
        let declared: Vec<&'static Declared> = self.declared.iter().filter(named).copied().collect();
        let intake = Intake::new(receiver, feed.clone(), self.rows_per_s, &declared);
        let (names, options) = (names.to_vec(), self.topology);
        let whole = timely::execute_directly(move |worker| run(worker, &names, &declared, options, intake));
        stop.store(true, Ordering::Relaxed);
        match reader.join() {
            // The receiver is gone before the reader has ended: that is how it is told.
            Ok(_) if whole => Ok(()),
            Ok(Err(why)) => Err(why),
            Ok(Ok(())) => Err("the reader has ended before what is live begins".into()),
            Err(_) => Err("the reader panicked".into()),
        }
    }
}

/// Returns whether everything that is wanted was read.
fn run(
    worker: &mut Worker,
    names: &[String],
    declared: &[&'static Declared],
    options: topology::Options,
    mut intake: Intake,
) -> bool {
    let feed = intake.feed.clone();
    let live = Live::of_the_past(names, declared);
    let (mut inputs, _probes) = topology::build(worker, options, &[], &Counters::default(), Some(&live));
    let taps = live.taps();
    let mut whole = true;
    loop {
        let mut busy = false;
        for _ in 0..DELIVERIES_MAX {
            if !feed.has_room() {
                break;
            }
            let Some(delivery) = intake.next() else { break };
            busy = true;
            take(&mut inputs, delivery);
        }
        if busy {
            worker.step();
        } else {
            worker.step_or_park(Some(PARK));
        }
        let frontier = taps.pump(&feed);
        feed.park(intake.is_parked());
        if feed.is_stopped() || feed.cut().is_some_and(|cut| frontier >= cut.first) {
            break;
        }
        if intake.ended {
            whole = false;
            break;
        }
    }
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    whole
}

fn take(inputs: &mut Inputs, delivery: Delivery) {
    match delivery {
        Delivery::Rows(stream, rows) => inputs.send(stream, rows),
        // They were reported when they came.
        Delivery::Rejected(..) => {}
        Delivery::Frontier(stream, frontier) => inputs.advance(stream, frontier),
    }
}

/// The reader's deliveries as far as they may be taken in.
struct Intake {
    receiver: Receiver,
    feed: Arc<Feed>,
    rows_per_s: f64,
    /// Rows that may be read now; less than none after a large batch.
    allowed: f64,
    since: Instant,
    stash: BTreeMap<Stream, VecDeque<arrow::array::RecordBatch>>,
    stashed_rows: usize,
    /// How far the reader is with each stream, and what of it was told on.
    frontiers: BTreeMap<Stream, (Option<Tick>, Tick)>,
    ended: bool,
}

impl Intake {
    fn new(receiver: Receiver, feed: Arc<Feed>, rows_per_s: u64, declared: &[&'static Declared]) -> Self {
        let streams = Stream::ALL.into_iter().chain(declared.iter().map(|declared| Stream::Declared(declared)));
        Self {
            receiver,
            feed,
            rows_per_s: rows_per_s as f64,
            allowed: 0.0,
            since: Instant::now(),
            stash: BTreeMap::new(),
            stashed_rows: 0,
            frontiers: streams.map(|stream| (stream, (Some(0), 0))).collect(),
            ended: false,
        }
    }

    /// Whether the rate allows for more.
    fn is_allowed(&mut self) -> bool {
        let now = Instant::now();
        let behind_ms = system_clock()().saturating_sub(self.feed.live());
        let share = if behind_ms > BEHIND_MS_MAX { SHARE_WHILE_BEHIND } else { 1.0 };
        let rate = self.rows_per_s * share;
        self.allowed += rate * now.duration_since(self.since).as_secs_f64();
        self.allowed = self.allowed.min(rate * BURST.as_secs_f64());
        self.since = now;
        self.allowed > 0.0
    }

    fn next(&mut self) -> Option<Delivery> {
        if !self.is_allowed() {
            return None;
        }
        loop {
            if let Some(delivery) = self.due() {
                return Some(delivery);
            }
            if self.stashed_rows > STASH_ROWS_MAX && self.feed.cut().is_none() {
                return None;
            }
            match self.receiver.try_recv() {
                // Of topics that are not asked for.
                Ok(Delivery::Rows(stream, _) | Delivery::Frontier(stream, _))
                    if !self.frontiers.contains_key(&stream) => {}
                Ok(Delivery::Rows(stream, rows)) => {
                    self.stashed_rows += rows.num_rows();
                    self.stash.entry(stream).or_default().push_back(rows);
                }
                Ok(Delivery::Frontier(stream, frontier)) => {
                    self.frontiers.entry(stream).or_insert((Some(0), 0)).0 = frontier;
                }
                Ok(Delivery::Rejected(..)) => {}
                Err(Nothing::Yet) => return None,
                Err(Nothing::Ever) => {
                    self.ended = self.stash.values().all(VecDeque::is_empty);
                    return None;
                }
            }
        }
    }

    /// What may be taken in of what has come: rows before the limit, and frontiers up to it.
    fn due(&mut self) -> Option<Delivery> {
        let (limit, cut) = (self.feed.limit(), self.feed.cut());
        for (stream, stash) in &mut self.stash {
            while let Some(rows) = stash.front() {
                let first = u64s(rows, TICK).values().first().copied().unwrap_or(0);
                let newest = u64s(rows, TICK).values().iter().copied().max().unwrap_or(0);
                if newest >= limit && cut.is_none() {
                    break;
                }
                let rows = stash.pop_front()?;
                self.stashed_rows -= rows.num_rows();
                let name = match stream {
                    Stream::Declared(declared) => &declared.name,
                    _ => "telemetry",
                };
                let rows = match &cut {
                    Some(cut) if stream.is_table() => cut.table(&rows),
                    Some(cut) => cut.events(name, &rows),
                    None => rows,
                };
                if rows.num_rows() > 0 {
                    if !stream.is_table() {
                        self.feed.count(rows.num_rows(), first);
                    }
                    self.allowed -= rows.num_rows() as f64;
                    return Some(Delivery::Rows(*stream, rows));
                }
            }
        }
        for (stream, (frontier, told)) in &mut self.frontiers {
            // Not past what waits.
            let first = |rows: &arrow::array::RecordBatch| u64s(rows, TICK).values().iter().copied().min();
            let waits = self.stash.get(stream).into_iter().flatten().filter_map(first).min();
            let wanted = frontier.unwrap_or(limit).min(limit).min(waits.unwrap_or(limit));
            if wanted > *told {
                *told = wanted;
                return Some(Delivery::Frontier(*stream, Some(wanted)));
            }
        }
        None
    }

    /// Whether everything before the limit was taken in.
    fn is_parked(&self) -> bool {
        let limit = self.feed.limit();
        self.frontiers.iter().all(|(stream, (frontier, told))| {
            let waits = self.stash.get(stream).is_some_and(|stash| !stash.is_empty());
            *told >= limit || waits || frontier.is_none_or(|frontier| frontier >= limit)
        })
    }
}
