//! One running dataflow: its worker threads, a reader thread beside each, and the way to stop them. The same whether records
//! come from Kafka or the embedded log, until somebody stops it or up to given offsets.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use arrow::array::RecordBatch;
use operators::counters::Counters;
use operators::durable::{Records, States};
use operators::record::Stream;
use operators::time::Tick;
use queries::live::Engine;
use sources::SourceError;
use sources::delivery::{Capacity, Nothing, Receiver, Sender, channel};
use timely::worker::Worker;

use crate::barrier::Barrier;
use crate::cut::{Cut, Cutter, Lane};
use crate::topology::{self, Output};
use crate::worker::{Checkpoints, Intake, Loop, Next, Progress};

/// Where the records of a job come from.
pub trait Origin: Send + Sync + 'static {
    /// Reads the share of `worker` among `workers` into `outlet` until `stop` is set or the end is reached.
    ///
    /// # Errors
    /// The log cannot go on: the job ends.
    fn read(&self, worker: usize, workers: usize, outlet: Sender, stop: Arc<AtomicBool>) -> Result<(), SourceError>;
}

/// What a job needs to know beside its operators' options.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Rows in a worker's dataflow before it takes in no more.
    pub in_flight_rows_max: usize,
    /// What may wait between a reader and its worker.
    pub capacity: Capacity,
    /// What the operators are told.
    pub topology: topology::Options,
}

/// How a job is resumed, and how what it keeps leaves it.
pub struct Durability {
    /// Where all workers stop.
    pub barrier: Arc<Barrier>,
    /// Where they send what they keep.
    pub cuts: std::sync::mpsc::SyncSender<Cut>,
    /// What it goes on from: where partitions stand, and each worker's part.
    pub positions: BTreeMap<Lane, i64>,
    /// A part a worker.
    pub shares: Vec<Share>,
}

/// What one worker goes on from.
#[derive(Clone, Default)]
pub struct Share {
    /// Records of what its operators kept.
    pub states: Records,
    /// Rows of tables, all of one tick before any that is to come.
    pub tables: BTreeMap<Stream, Vec<RecordBatch>>,
}

/// A running dataflow.
pub struct Job {
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
    progress: Vec<Arc<Progress>>,
    workers: JoinHandle<()>,
}

impl Intake for Receiver {
    fn next(&mut self) -> Next {
        match self.try_recv() {
            Ok(delivery) => Next::Delivery(delivery),
            Err(Nothing::Yet) => Next::Empty,
            Err(Nothing::Ever) => Next::Ended,
        }
    }

    fn press(&mut self, pressed: bool) {
        Receiver::press(self, pressed);
    }
}

impl Job {
    /// Starts the workers. `engine` has the derived streams, if there can be any; `durability` is for a job that is to outlive the
    /// process. `report` is called on each worker's thread now and then with its index and what it has counted.
    ///
    /// # Errors
    /// The threads cannot be started.
    pub fn start(
        settings: Settings,
        origin: impl Origin,
        outputs: Vec<Output>,
        engine: Option<Arc<Engine>>,
        durability: Option<Durability>,
        report: impl Fn(usize, &Counters, &Progress) + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let stop = Arc::new(AtomicBool::new(false));
        let failure = Arc::new(Mutex::new(None));
        let progress: Vec<Arc<Progress>> = (0..settings.workers).map(|_| Arc::default()).collect();
        let (origin, report) = (Arc::new(origin), Arc::new(report));
        let shared = (stop.clone(), failure.clone(), progress.clone());
        let durability = durability.map(Mutex::new);
        let work = move |worker: &mut Worker| {
            let (stop, failure, progress) = &shared;
            let (index, peers) = (worker.index(), worker.peers());
            let counters = Counters::default();
            let live = engine.as_ref().map(|engine| engine.live(index));
            let mut part = durability.as_ref().map(|all| Part::of(all, index, peers, settings.topology));
            let states = part.as_ref().map(|part| part.states.clone()).unwrap_or_default();
            let (mut inputs, probes) =
                topology::build(worker, settings.topology, &outputs, &counters, live.as_ref(), &states);
            if let Some(why) = states.damage() {
                let why = format!("the checkpoint cannot be used: {why}");
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
                stop.store(true, Ordering::Relaxed);
            }
            for (stream, batches) in part.iter_mut().flat_map(|part| std::mem::take(&mut part.tables)) {
                batches.into_iter().for_each(|rows| inputs.send(stream, rows));
            }
            let intake = read(index, peers, settings.capacity, origin.clone(), stop.clone(), failure.clone());
            let report = report.clone();
            let work = Loop {
                intake,
                inputs,
                probes,
                outputs: outputs.clone(),
                in_flight_rows_max: settings.in_flight_rows_max,
                conflate_ms: settings.topology.conflate_ms,
                stop: stop.clone(),
                progress: progress[index].clone(),
                report: Box::new({
                    let progress = progress[index].clone();
                    move |counters| report(index, counters, &progress)
                }),
                counters,
                live,
                checkpoints: part.map(|part| part.checkpoints),
            };
            work.run(worker);
        };
        let config = match settings.workers {
            1 => timely::Config::thread(),
            many => timely::Config::process(many),
        };
        let workers = std::thread::Builder::new()
            .name("workers".into())
            .spawn(move || drop(timely::execute(config, work).expect("workers start on threads of this process")))
            .map_err(|why| format!("cannot start the workers' thread: {why}"))?;
        Ok(Self { stop, failure, progress, workers })
    }

    /// Asks the readers to end; what they have delivered is still worked off.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether all workers have ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.workers.is_finished()
    }

    /// The tick before which every sink was handed all rows; `Tick::MAX` when all input has ended.
    #[must_use]
    pub fn frontier(&self) -> Tick {
        self.progress.iter().map(|progress| progress.frontier.load(Ordering::Acquire)).min().unwrap_or(0)
    }

    /// What the workers show of themselves.
    #[must_use]
    pub fn progress(&self) -> &[Arc<Progress>] {
        &self.progress
    }

    /// Waits until all workers have ended.
    ///
    /// # Errors
    /// What a reader could not go on for.
    pub fn join(self) -> Result<(), String> {
        self.workers.join().map_err(|_| "a worker panicked".to_owned())?;
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

/// What one worker takes of a durable job.
struct Part {
    states: States,
    tables: BTreeMap<Stream, Vec<RecordBatch>>,
    checkpoints: Checkpoints,
}

impl Part {
    fn of(all: &Mutex<Durability>, worker: usize, workers: usize, options: topology::Options) -> Self {
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        let share = all.shares.get_mut(worker).map(std::mem::take).unwrap_or_default();
        let states = States::new(share.states);
        let own = |(&lane, &offset): (&Lane, &i64)| (lane.1 as usize % workers == worker).then_some((lane, offset));
        let positions = all.positions.iter().filter_map(own);
        let cutter = Cutter::new(states.clone(), options.states(), positions);
        let (barrier, cuts) = (all.barrier.clone(), all.cuts.clone());
        Self { states, tables: share.tables, checkpoints: Checkpoints { barrier, cutter, worker, cuts, done: 0 } }
    }
}

/// Starts the reader of one worker, which is the calling thread.
fn read(
    index: usize,
    peers: usize,
    capacity: Capacity,
    origin: Arc<impl Origin>,
    stop: Arc<AtomicBool>,
    failure: Arc<Mutex<Option<String>>>,
) -> Receiver {
    let worker = std::thread::current();
    let (sender, receiver) = channel(capacity, move || worker.unpark());
    std::thread::Builder::new()
        .name(format!("reader-{index}"))
        .spawn(move || {
            if let Err(why) = origin.read(index, peers, sender, stop.clone())
                && !matches!(why, SourceError::Closed(_))
            {
                tracing::error!(reader = index, %why, "a reader cannot go on");
                failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why.to_string());
                stop.store(true, Ordering::Relaxed);
            }
        })
        .expect("a thread for the reader");
    receiver
}
