//! The loop of one dataflow worker: takes deliveries in, lets the operators run, sleeps when there is nothing to do. It never
//! waits for a sink: it takes in no more while sinks or operators have enough.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::RecordBatch;
use operators::batch::{TICK, u64s};
use operators::counters::Counters;
use operators::record::Stream;
use operators::time::{Tick, closed_before};
use queries::live::Live;
use sources::Delivery;
use timely::dataflow::ProbeHandle;
use timely::worker::Worker;

use crate::barrier::{Barrier, Pass};
use crate::cut::{Cut, Cutter};
use crate::pace::Pace;
use crate::topology::{Inputs, Output, Probes};

/// Longest sleep: how late a worker notices a stop signal or a sink that has caught up.
const PARK_MAX: Duration = Duration::from_millis(2);
/// Deliveries taken in before the operators run again.
const DELIVERIES_MAX: usize = 64;

/// Rounds without any movement after which a stopped worker leaves. Inputs stay open, so windows that have not ended keep the
/// frontier back: what they would put out comes again with the next start.
const QUIET_ROUNDS: u32 = 25;

/// Where a worker's deliveries come from.
pub trait Intake {
    /// The next delivery, if one is there.
    fn next(&mut self) -> Next;

    /// Tells whether more rows are in flight than should be.
    fn press(&mut self, pressed: bool);
}

/// What an [`Intake`] has.
pub enum Next {
    /// A delivery.
    Delivery(Delivery),
    /// Nothing for now.
    Empty,
    /// The reader has ended, and everything it sent was taken.
    Ended,
}

/// What a worker shows of itself while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// The probe's frontier: every sink was handed all rows before it. `Tick::MAX` when all input has ended.
    pub frontier: AtomicU64,
    /// Rows taken in that operators still hold.
    pub in_flight_rows: AtomicU64,
    /// Rows taken in since the start.
    pub rows: AtomicU64,
    /// Rounds of the loop since the start.
    pub rounds: AtomicU64,
}

/// Everything one worker's loop needs.
pub struct Loop<I> {
    /// Deliveries from its reader.
    pub intake: I,
    /// The dataflow's inputs.
    pub inputs: Inputs,
    /// How far the dataflow is.
    pub probes: Probes,
    /// The sinks' ends, for back-pressure.
    pub outputs: Vec<Output>,
    /// Rows that operators may hold before only the slowest partitions are brought, and only if no worker is further behind.
    pub in_flight_rows_max: usize,
    /// Milliseconds of ticks over which changes are put together.
    pub conflate_ms: u64,
    /// Set to end: what was taken in is still worked off.
    pub stop: Arc<AtomicBool>,
    /// For metrics.
    pub progress: Arc<Progress>,
    /// For metrics: called now and then on the worker's own thread.
    pub report: Box<dyn FnMut(&Counters)>,
    /// The operators' counters.
    pub counters: Counters,
    /// The derived streams, if there can be any.
    pub live: Option<Live>,
    /// What is cut for checkpoints, if there are any.
    pub checkpoints: Option<Checkpoints>,
}

/// What a worker needs to give checkpoints their part.
pub struct Checkpoints {
    /// Where all stop.
    pub barrier: Arc<Barrier>,
    /// Collects what goes into one.
    pub cutter: Cutter,
    /// The worker's number.
    pub worker: usize,
    /// Where they go.
    pub cuts: std::sync::mpsc::SyncSender<Cut>,
    /// The last stop at which this worker has cut.
    pub done: Tick,
}

impl Checkpoints {
    /// How far the inputs may go, when they could go to `wanted`.
    fn pass(&self, wanted: Tick) -> Pass {
        self.barrier.pass(self.worker, wanted)
    }

    /// Cuts at a stop once everything before it was handed over.
    fn cut(&mut self, at: Tick, handed_over: Tick) {
        if self.done < at && handed_over >= at {
            self.done = at;
            // An error is a receiver that has ended: so does the process.
            let _ = self.cuts.send(self.cutter.cut(at));
            self.barrier.cut();
        }
    }
}

/// Rows in flight: the newest tick of a batch, and its rows.
#[derive(Default)]
struct InFlight {
    batches: VecDeque<(Tick, usize)>,
    rows: usize,
}

impl InFlight {
    fn add(&mut self, rows: &RecordBatch) {
        let newest = u64s(rows, TICK).values().iter().max().copied().unwrap_or(0);
        self.batches.push_back((newest, rows.num_rows()));
        self.rows += rows.num_rows();
    }

    fn passed(&mut self, frontier: Tick) {
        while let Some(&(tick, rows)) = self.batches.front() {
            if tick >= frontier && frontier != Tick::MAX {
                break;
            }
            self.rows -= rows;
            self.batches.pop_front();
        }
    }
}

impl<I: Intake> Loop<I> {
    /// Runs until the reader has ended or the stop signal is set, and everything taken in has reached the sinks' feeds.
    pub fn run(mut self, worker: &mut Worker) {
        let mut in_flight = InFlight::default();
        let mut ended = false;
        let mut rounds = 0u64;
        let (mut quiet_rounds, mut before) = (0, 0);
        let mut pace = Pace::new(self.conflate_ms);
        loop {
            let mut busy = false;
            for _ in 0..DELIVERIES_MAX {
                if ended || self.is_full(&in_flight) {
                    break;
                }
                match self.intake.next() {
                    Next::Delivery(delivery) => {
                        busy = true;
                        self.take(delivery, &mut in_flight);
                    }
                    Next::Empty => break,
                    Next::Ended => ended = true,
                }
            }
            if let Some(live) = &mut self.live {
                busy |= live.obey(worker);
            }
            let wanted = self.inputs.wanted();
            let pass = self.checkpoints.as_ref().map_or(Pass::FREE, |checkpoints| checkpoints.pass(wanted));
            self.inputs.pass(pass.limit);
            let frontier = self.inputs.frontier().filter(|_| !ended);
            // A cut is of what was put out.
            let catching_up = frontier.is_some_and(|tick| !pace.puts_out(tick)) && pass.stop.is_none();
            self.inputs.catching_up.set(catching_up);
            if busy {
                worker.step();
            } else {
                worker.step_or_park(Some(PARK_MAX));
                worker.step();
            }
            let frontier = least(&self.probes.handed_over);
            in_flight.passed(least(&self.probes.worked_off));
            if let Some(checkpoints) = &mut self.checkpoints {
                checkpoints.cutter.passed(frontier);
                if let Some(stop) = pass.stop {
                    checkpoints.cut(stop, frontier);
                }
            }
            self.intake.press(in_flight.rows > self.in_flight_rows_max);
            self.progress.frontier.store(frontier, Ordering::Release);
            self.progress.in_flight_rows.store(in_flight.rows as u64, Ordering::Relaxed);
            rounds += 1;
            self.progress.rounds.store(rounds, Ordering::Relaxed);
            if rounds.is_multiple_of(256) {
                (self.report)(&self.counters);
            }
            quiet_rounds = if busy || frontier != before { 0 } else { quiet_rounds + 1 };
            before = frontier;
            let stopped = ended && self.stop.load(Ordering::Relaxed) && quiet_rounds > QUIET_ROUNDS;
            if stopped || (ended && frontier == Tick::MAX) {
                break;
            }
        }
        (self.report)(&self.counters);
        // The dataflow is dropped as it stands: closing the inputs would make operators put out unfinished windows.
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }

    fn take(&mut self, delivery: Delivery, in_flight: &mut InFlight) {
        match delivery {
            Delivery::Rows(stream, rows) => {
                if stream == Stream::Telemetry {
                    self.progress.rows.fetch_add(rows.num_rows() as u64, Ordering::Relaxed);
                }
                in_flight.add(&rows);
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.cutter.rows(stream, &rows);
                }
                self.inputs.send(stream, rows);
            }
            Delivery::Rejected(stream, rows) => {
                in_flight.add(&rows);
                if let Some(checkpoints) = &mut self.checkpoints {
                    checkpoints.cutter.rejected(stream, &rows);
                }
                self.inputs.reject(rows);
            }
            Delivery::Frontier(stream, frontier) => self.inputs.want(stream, frontier),
        }
    }

    /// Whether no more should be taken in for now. The worker whose inputs are furthest behind may always go on: nobody else
    /// could move the dataflow's frontier.
    fn is_full(&self, in_flight: &InFlight) -> bool {
        let sinks = self.outputs.iter().any(|output| output.feed.is_full());
        if sinks {
            return true;
        }
        in_flight.rows > self.in_flight_rows_max && !self.inputs.hold_back()
    }
}

/// The first tick that may still come out.
fn least(probe: &ProbeHandle<Tick>) -> Tick {
    probe.with_frontier(closed_before)
}
