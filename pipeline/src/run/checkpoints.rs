//! The checkpoints of the running job: one goes on from the newest at the start, then a thread beside the workers saves what they cut.
//!
//! Invariant: a checkpoint is saved only when every sink has everything before its tick, so what comes after it is all that a start
//! has to do again; and what a save that failed had is in the next one.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use metrics::{counter, gauge, histogram};
use operators::record::Stream;
use operators::time::Tick;
use sinks::run::Feed;
use sources::reader::{Repeats, Ticks};
use tracing::{error, info, warn};

use super::inputs::Inputs;
use crate::barrier::Barrier;
use crate::checkpoint::{Changes, LogIdentity, Moment, NodeState, Options, Position, Store};
use crate::config::Config;
use crate::cut::{Cut, Lane};
use crate::job::{Durability, Share};
use crate::journal::TickJournal;
use crate::metrics::Checkpointing as Metric;
use crate::origin::From;
use crate::resume::{self, Decision, Facts};
use crate::tables::TableRows;

/// How often it is looked whether something that is waited for has come.
const LOOK: Duration = Duration::from_millis(5);
/// Priority of the thread: behind what is live, and a tenth of the time of a busy machine. At the lowest one nothing is saved for
/// minutes there.
const NICE: i32 = 10;

/// Tells whether the sinks of derived streams have what is before a tick.
pub type Views = Box<dyn Fn(Tick) -> bool + Send>;

/// Where checkpoints go, and what is in them.
struct Kept {
    store: Store,
    journal: Arc<TickJournal>,
    every: Duration,
    keep: usize,
    workers: usize,
    log: LogIdentity,
    topics: Vec<(Stream, String)>,
    states: Vec<NodeState>,
    tables: Vec<TableRows>,
}

/// A job's checkpoints before it starts.
pub struct Checkpoints {
    kept: Kept,
    boundary_ms: u64,
    tick: Tick,
    positions: BTreeMap<Lane, i64>,
    shares: Vec<Share>,
    ticks: Arc<Ticks>,
}

/// All states of a checkpoint.
fn nodes(states: &[NodeState], tables: &[TableRows]) -> Vec<NodeState> {
    states.iter().chain(tables.iter().map(|table| &table.node)).cloned().collect()
}

impl Checkpoints {
    /// Opens them, and reads the newest. None where there are to be none.
    ///
    /// # Errors
    /// What cannot be gone on from, and what to do.
    pub async fn open(config: &Config, inputs: &Inputs) -> Result<Option<Self>, String> {
        if !config.checkpoint.enabled {
            return Ok(None);
        }
        let started = Instant::now();
        let options = Options { keep: config.checkpoint.keep, compact_beside: true };
        let store = Store::open(&config.checkpoints(), options).map_err(|why| why.to_string())?;
        for why in &store.newest().passed_over {
            warn!(%why, "a checkpoint is not used");
        }
        let topology = super::settings::job(config).topology;
        let states = topology.states().into_iter();
        let states: Vec<NodeState> =
            states.map(|(name, plan)| NodeState { name: name.to_owned(), plan, anew: false }).collect();
        let topics = inputs.topics(config);
        let tables: Vec<TableRows> =
            topics.iter().map(|(stream, _)| *stream).filter(|stream| stream.is_table()).map(TableRows::of).collect();
        let (log, ranges) = inputs.identity(config).await?;
        let (newest, all) = (store.newest().manifest.clone(), nodes(&states, &tables));
        let facts = Facts { newest, log: log.clone(), ranges, states: all };
        let workers = config.run.workers;
        let names: Vec<String> = topics.iter().map(|(_, topic)| topic.clone()).collect();
        let place = config.checkpoints().join("journal");
        let opened = TickJournal::open(&place, store.generation(), &names);
        let (journal, ticks) = opened.map_err(|why| format!("the journal in {}: {why}", place.display()))?;
        let (journal, ticks) = (Arc::new(journal), Arc::new(ticks));
        let every = Duration::from_millis(config.checkpoint.every_ms);
        let kept = Kept { store, journal, every, keep: config.checkpoint.keep, workers, log, topics, states, tables };
        let (boundary_ms, shares) = (topology.boundary_ms(), vec![Share::default(); workers]);
        let mut this = Self { kept, boundary_ms, tick: 0, positions: BTreeMap::new(), shares, ticks };
        match resume::decide(&facts) {
            Decision::New => info!("there is no checkpoint: the log is read from its beginning"),
            Decision::Refuse(why) => return Err(why.to_string()),
            Decision::Resume(manifest) => {
                let Kept { store, states, tables, topics, .. } = &this.kept;
                let loaded = resume::load(store.archive(), &manifest, states, tables, workers);
                this.shares = loaded.map_err(|why| why.to_string())?;
                this.positions = resume::positions(&manifest, topics);
                this.tick = manifest.moment.tick;
                let (checkpoint, took_ms) = (manifest.sequence, started.elapsed().as_millis() as u64);
                info!(checkpoint, tick = this.tick, bytes = manifest.bytes(), took_ms, "going on from a checkpoint");
            }
        }
        Ok(Some(this))
    }

    /// Where the job goes on: everything before its tick was done by an earlier start.
    pub fn from(&self) -> From {
        let repeats = Repeats { known: self.ticks.clone(), journal: self.kept.journal.clone() };
        From { positions: self.positions.clone(), floor: self.tick, repeats: Some(repeats) }
    }

    /// The tick from which rows may have been put out by an earlier start, also by one that had no checkpoint yet. None if there was
    /// no earlier start.
    pub fn again_from(&self) -> Option<Tick> {
        (self.kept.store.generation() > 1).then_some(self.tick)
    }

    /// Starts saving what the job cuts, once these sinks have it, and those of derived streams.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(self, feeds: Vec<Feed>, views: Option<Views>) -> Result<(Durability, Saving), String> {
        let workers = self.kept.workers;
        let barrier = Arc::new(Barrier::new(workers, self.boundary_ms));
        // A worker has one under way, and the last stop may follow at once.
        let (cuts, received) = mpsc::sync_channel(2 * workers);
        let (orders, ordered) = mpsc::sync_channel(2);
        let ending = Arc::new(AtomicBool::new(false));
        let work = Work {
            kept: self.kept,
            feeds,
            views,
            barrier: barrier.clone(),
            received,
            ordered,
            ending: ending.clone(),
            saved: VecDeque::new(),
            waiting: Vec::new(),
        };
        let thread = std::thread::Builder::new().name("checkpoints".into()).spawn(move || work.run());
        let thread = thread.map_err(|why| format!("cannot start the checkpoints' thread: {why}"))?;
        let durability = Durability { barrier, cuts, positions: self.positions, shares: self.shares };
        Ok((durability, Saving { orders, ending, thread }))
    }
}

/// Orders to the thread, in this order.
enum Order {
    /// Stop the workers for good, and tell when they have cut.
    Last(SyncSender<()>),
    /// Save it: the sinks have what they could take.
    Save,
}

/// The thread that saves.
pub struct Saving {
    orders: SyncSender<Order>,
    ending: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Saving {
    /// Stops the workers where the last checkpoint is cut; returns once it is, or when the time is over.
    pub fn cut(&self, deadline: Duration) {
        self.ending.store(true, Ordering::Relaxed);
        let (tell, told) = mpsc::sync_channel(1);
        // An error is a thread that has ended: there will be no checkpoint.
        if self.orders.send(Order::Last(tell)).is_ok() && told.recv_timeout(deadline).is_err() {
            warn!(
                "the last checkpoint could not be cut in time: the next start does again what came after the one before"
            );
        }
    }

    /// Saves it, now that the sinks have written what they could.
    pub fn end(self) {
        let _ = self.orders.send(Order::Save);
        drop(self.orders);
        // A panic there has ended the process already.
        let _ = self.thread.join();
    }
}

/// All workers' cuts at one tick.
struct Whole {
    tick: Tick,
    cuts: Vec<Cut>,
}

struct Work {
    kept: Kept,
    feeds: Vec<Feed>,
    views: Option<Views>,
    barrier: Arc<Barrier>,
    received: Receiver<Cut>,
    ordered: Receiver<Order>,
    ending: Arc<AtomicBool>,
    /// Ticks of the newest checkpoints of this start.
    saved: VecDeque<Tick>,
    /// What was cut and is not saved yet, the oldest first.
    waiting: Vec<Whole>,
}

impl Work {
    fn run(mut self) {
        crate::replay::give_way(NICE);
        loop {
            match self.ordered.recv_timeout(self.kept.every) {
                Err(RecvTimeoutError::Timeout) => {
                    let started = Instant::now();
                    if let Some(whole) = self.cut(false) {
                        self.waiting.push(whole);
                        if self.wait_for_sinks() {
                            self.save(started);
                        }
                    }
                }
                Ok(Order::Last(tell)) => {
                    if let Some(whole) = self.cut(true) {
                        self.waiting.push(whole);
                    }
                    let _ = tell.send(());
                }
                Ok(Order::Save) => {
                    if self.is_durable() {
                        self.save(Instant::now());
                    } else if !self.waiting.is_empty() {
                        warn!("sinks have not written everything: the next start goes on from an earlier checkpoint");
                    }
                    return;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Has all workers cut. None if they cannot now.
    fn cut(&mut self, last: bool) -> Option<Whole> {
        let tick = self.barrier.ask(last)?;
        let mut cuts = Vec::with_capacity(self.kept.workers);
        while cuts.len() < self.kept.workers {
            match self.received.recv_timeout(LOOK) {
                Ok(cut) if cut.tick == tick => cuts.push(cut),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => {}
                // The workers have ended.
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        Some(Whole { tick, cuts })
    }

    fn is_durable(&self) -> bool {
        let Some(newest) = self.waiting.last() else { return false };
        let views = || self.views.as_ref().is_none_or(|have_before| have_before(newest.tick));
        self.feeds.iter().all(|feed| feed.durable_min() >= newest.tick) && views()
    }

    /// Returns whether the sinks have everything before the newest cut; not if the process ends meanwhile.
    fn wait_for_sinks(&self) -> bool {
        while !self.is_durable() {
            if self.ending.load(Ordering::Relaxed) {
                return false;
            }
            std::thread::park_timeout(LOOK);
        }
        true
    }

    /// Saves what waits.
    fn save(&mut self, started: Instant) {
        let Some(newest) = self.waiting.last() else { return };
        let tick = newest.tick;
        let topic =
            |stream: Stream| self.kept.topics.iter().find(|(of, _)| *of == stream).map(|(_, topic)| topic.clone());
        let mut positions: BTreeMap<(String, i32), i64> = BTreeMap::new();
        for whole in &self.waiting {
            for (&(stream, partition), &offset) in whole.cuts.iter().flat_map(|cut| &cut.positions) {
                positions.insert((topic(stream).unwrap_or_default(), partition), offset);
            }
        }
        let position = |((topic, partition), offset)| Position { topic, partition, offset, floor: tick };
        let sinks = self.feeds.iter().map(|feed| {
            let streams = feed.routes().iter().map(|route| (route.stream.to_owned(), feed.durable_min()));
            (feed.sink().to_owned(), streams.collect())
        });
        let moment = Moment {
            tick,
            workers: self.kept.workers,
            log: self.kept.log.clone(),
            positions: positions.into_iter().map(position).collect(),
            sinks: sinks.collect(),
        };
        let mut changes = Vec::new();
        for whole in std::mem::take(&mut self.waiting) {
            changes.extend(self.changes(whole));
        }
        let nodes = nodes(&self.kept.states, &self.kept.tables);
        match self.kept.store.save(moment, &nodes, changes) {
            Ok(saved) => {
                self.saved.push_back(tick);
                // One that is kept may still be gone on from.
                while self.saved.len() > self.kept.keep {
                    self.saved.pop_front();
                }
                if self.saved.len() == self.kept.keep {
                    self.kept.journal.forget(self.saved.front().copied().unwrap_or(0));
                }
                saved.left_undone.iter().for_each(|why| warn!(%why, "old files of checkpoints stay for now"));
                counter!(Metric::Records.name()).increment(saved.records);
                counter!(Metric::Bytes.name()).increment(saved.bytes);
                counter!(Metric::Saved.name()).increment(1);
                gauge!(Metric::Size.name()).set(saved.bytes_of_all as f64);
                gauge!(Metric::Tick.name()).set(tick as f64 / 1_000.0);
                histogram!(Metric::Seconds.name()).record(started.elapsed().as_secs_f64());
            }
            Err(why) => {
                counter!(Metric::Failures.name()).increment(1);
                error!(%why, "no checkpoint: what has changed is in the next one, the last one is as it was");
            }
        }
    }

    /// The records of a cut: those of operators as they are, those of tables by key.
    fn changes(&self, whole: Whole) -> Vec<Changes> {
        let mut rows: BTreeMap<Stream, Vec<RecordBatch>> = BTreeMap::new();
        let mut all = Vec::with_capacity(whole.cuts.len() + 1);
        for cut in whole.cuts {
            all.push(cut.changes);
            for (stream, batches) in cut.tables {
                rows.entry(stream).or_default().extend(batches);
            }
        }
        let mut of_tables = Changes::new();
        for table in &self.kept.tables {
            if let Some(batches) = rows.get(&table.stream) {
                table.put(batches, &mut of_tables).expect("rows of a table have its columns");
            }
        }
        all.push(of_tables);
        all
    }
}
