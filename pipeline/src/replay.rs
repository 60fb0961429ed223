//! The log read again in the background, through the same decoding, deduplication and enrichment, for derived streams that come
//! later: on threads of its own that give way to all others, throttled, and slower while what is live falls behind.
//!
//! Invariant: nothing goes on to the stream that is not of the past, and all of the past does, in the order of ticks.

mod intake;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::counters::Counters;
use operators::durable::States;
use operators::record::declared::Declared;
use operators::time::Tick;
use queries::live::{Feed, Live, Past};
use sources::Delivery;
use sources::delivery::{Capacity, channel};
use timely::worker::Worker;

use self::intake::Intake;

use crate::job::Origin;
use crate::topology::{self, Inputs};

/// Longest sleep of the thread when there is nothing to do.
const PARK: Duration = Duration::from_millis(5);
/// Deliveries taken in before the operators run again.
const DELIVERIES_MAX: usize = 4;
const LOWEST_PRIORITY: i32 = 19;
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

    fn give_way(&self) {
        yield_to_others();
    }
}

impl<O: Origin> Replay<O> {
    fn work(&self, names: &[String], feed: &Arc<Feed>) -> Result<(), String> {
        yield_to_others();
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
        let (names, options, feed) = (names.to_vec(), self.topology, feed.clone());
        // On the thread of the operators.
        let live = move || Live::of_the_past(&names, &declared);
        let whole = timely::execute_directly(move |worker| run(worker, &live(), options, &feed, intake));
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
fn run(worker: &mut Worker, live: &Live, options: topology::Options, feed: &Feed, mut intake: Intake) -> bool {
    let (mut inputs, _probes) =
        topology::build(worker, options, &[], &Counters::default(), Some(live), &States::default());
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
        let frontier = taps.pump(feed);
        feed.park(intake.is_parked());
        if feed.is_stopped() || feed.cut().is_some_and(|cut| frontier >= cut.first) {
            break;
        }
        if intake.has_ended() {
            whole = false;
            break;
        }
    }
    for dataflow in worker.installed_dataflows() {
        worker.drop_dataflow(dataflow);
    }
    whole
}

/// The thread, and those that it starts from now on, get what time is left by the others of the machine.
pub(crate) fn yield_to_others() {
    give_way(LOWEST_PRIORITY);
}

/// The thread, and those that it starts from now on, get less time than others of the machine want: the more, the less.
pub(crate) fn give_way(nice: i32) {
    // Elsewhere a priority belongs to the whole process.
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "a system call that takes numbers and touches no memory of ours")]
    // SAFETY: setpriority reads its three numbers only. Where it fails, the thread is as any other.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, nice);
    }
}

fn take(inputs: &mut Inputs, delivery: Delivery) {
    match delivery {
        Delivery::Rows(stream, rows) => inputs.send(stream, rows),
        // They were reported when they came.
        Delivery::Rejected(..) => {}
        Delivery::Frontier(stream, frontier) => {
            inputs.want(stream, frontier);
            inputs.pass(Tick::MAX);
        }
    }
}
