//! Runs the main job's dataflow over a fleet's input, pass by pass, and measures each pass: input is made outside the
//! measured time, and time is that of the workers' cores, so that a busy machine does not show.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Barrier};

use arrow::array::RecordBatch;
use operators::batch::Batch;
use operators::conflate::conflate;
use operators::counters::Counters;
use operators::deduplicate::deduplicate;
use operators::devices::{Devices, own};
use operators::durable::States;
use operators::enrich::enrich;
use operators::link::{References, link};
use operators::record::Stream as Topic;
use operators::record::output::ENRICHMENT;
use operators::silence::silence;
use operators::time::Tick;
use operators::vehicle_state::{self, CatchingUp, vehicle_state};
use operators::window::window;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Concatenate, Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Scope, Stream};
use timely::worker::Worker;

use crate::fleet::{Fleet, PARTITIONS, START, TICK_MS, TickInput};
use crate::machine::{Clock, resident_bytes};
use crate::options::{CONFLATE_MS, HORIZON_MS, SILENCE, WINDOW};
use crate::{Pass, Shape, Totals};

pub type Handle = InputHandle<Tick, CapacityContainerBuilder<Batch>>;

/// Rows by the stream that they left on, and the batches themselves where they are wanted.
#[derive(Default)]
pub struct Taken {
    pub totals: Totals,
    pub keep: bool,
    pub batches: BTreeMap<&'static str, Vec<RecordBatch>>,
}

/// Ticks that may be under way before no more are sent in.
const TICKS_IN_FLIGHT: u64 = 4;

/// What a run gives: its passes, the seconds of loading the references, and the rows of all workers.
pub struct Run {
    pub passes: Vec<Pass>,
    pub load_s: f64,
    pub totals: Totals,
    pub kept: BTreeMap<&'static str, Vec<RecordBatch>>,
}

/// The whole job on so many workers.
pub fn run(workers: usize, shape: Shape, keep: bool) -> Run {
    let barrier = Arc::new(Barrier::new(workers));
    let guards = timely::execute(timely::Config::process(workers), move |worker| one(worker, shape, keep, &barrier));
    let mut runs: Vec<Run> =
        guards.expect("workers start").join().into_iter().map(|run| run.expect("no panic")).collect();
    let mut first = runs.remove(0);
    for other in runs {
        first.totals += other.totals;
        for (mine, pass) in first.passes.iter_mut().zip(other.passes) {
            mine.events += pass.events;
            // As long as the busiest worker: what the run takes on a machine of its own.
            mine.cpu_s = mine.cpu_s.max(pass.cpu_s);
        }
    }
    first
}

fn one(worker: &mut Worker, shape: Shape, keep: bool, barrier: &Barrier) -> Run {
    let (index, peers) = (worker.index(), worker.peers());
    let taken = Rc::new(RefCell::new(Taken { keep, ..Taken::default() }));
    let (probe, held_back) = (ProbeHandle::new(), ProbeHandle::new());
    let mut handles = worker.dataflow::<Tick, _, _>(|scope| build(scope, &taken, &probe, &held_back));
    let mut fleet = Fleet::new(shape.vehicles, shape.events_per_tick);
    let references = if index == 0 { fleet.references() } else { Vec::new() };
    barrier.wait();
    let clock = Clock::start();
    handles.values_mut().for_each(|handle| handle.advance_to(START));
    for (topic, rows) in references {
        send(&mut handles, topic, rows);
    }
    finish(worker, &mut handles, &probe, START + 1);
    let load_s = clock.cpu_s();
    let mut passes = Vec::new();
    for _ in 0..shape.passes {
        let input: Vec<TickInput> = fleet.next(shape.ticks);
        barrier.wait();
        passes.push(pass(worker, &mut handles, &probe, input, (index, peers)));
        barrier.wait();
    }
    let upto = handles.values().map(|handle| *handle.time()).min().expect("there are inputs");
    finish(worker, &mut handles, &held_back, upto);
    let mut taken = taken.take();
    Run { passes, load_s, totals: taken.totals, kept: std::mem::take(&mut taken.batches) }
}

/// Sends one pass's ticks, a few under way at a time, until all have come out.
fn pass(
    worker: &mut Worker,
    handles: &mut BTreeMap<Topic, Handle>,
    probe: &ProbeHandle<Tick>,
    input: Vec<TickInput>,
    (index, peers): (usize, usize),
) -> Pass {
    let clock = Clock::start();
    let mut events = 0;
    let mut last = START;
    for tick in input {
        last = tick.tick;
        for (partition, rows) in tick.telemetry.into_iter().enumerate() {
            if partition % PARTITIONS % peers == index {
                events += rows.num_rows();
                send(handles, Topic::Telemetry, rows);
            }
        }
        if let Some((topic, rows)) = tick.reference.filter(|_| index == 0) {
            send(handles, topic, rows);
        }
        handles.values_mut().for_each(|handle| handle.advance_to(last + TICK_MS));
        worker.step();
        while probe.less_than(&(last - TICKS_IN_FLIGHT * TICK_MS)) {
            worker.step_or_park(Some(std::time::Duration::from_micros(100)));
        }
    }
    finish(worker, handles, probe, last + 1);
    Pass { events: events as u64, cpu_s: clock.cpu_s(), wall_s: clock.wall_s(), resident_bytes: resident_bytes() }
}

pub fn finish<K: Ord>(worker: &mut Worker, handles: &mut BTreeMap<K, Handle>, probe: &ProbeHandle<Tick>, upto: Tick) {
    for handle in handles.values_mut().filter(|handle| *handle.time() < upto) {
        handle.advance_to(upto);
    }
    worker.step_or_park_while(Some(std::time::Duration::from_micros(100)), || probe.less_than(&upto));
}

pub fn send<K: Ord>(handles: &mut BTreeMap<K, Handle>, to: K, rows: RecordBatch) {
    let handle = handles.get_mut(&to).expect("an input for each stream");
    handle.send_batch(&mut Batch::from(rows));
    handle.flush();
}

fn build<'s>(
    scope: Scope<'s, Tick>,
    taken: &Rc<RefCell<Taken>>,
    probe: &ProbeHandle<Tick>,
    held_back: &ProbeHandle<Tick>,
) -> BTreeMap<Topic, Handle> {
    let counters = Counters::default();
    let mut handles = BTreeMap::new();
    let mut input = |topic: Topic| {
        let mut handle = Handle::new_with_builder();
        let stream = scope.input_from(&mut handle);
        handles.insert(topic, handle);
        stream
    };
    let (devices, states) = (Devices::default(), States::default());
    let events = own(input(Topic::Telemetry), &devices);
    let events = deduplicate(events, HORIZON_MS, &devices, counters.clone(), &states);
    let links = link(References {
        vehicles: input(Topic::Vehicle),
        drivers: input(Topic::Driver),
        companies: input(Topic::Company),
        tariffs: input(Topic::Tariff),
    });
    let enriched = enrich(events.clone(), links.clone(), &ENRICHMENT, &devices, counters.clone());
    let windows = window(enriched.clone(), WINDOW, counters.clone(), &states);
    let connectivity = silence(events.clone(), links.clone(), SILENCE, &devices, &states);
    let (connections, wanted) = (connectivity.table, every_state());
    let state = vehicle_state(events, links.clone(), connections, wanted, &devices, counters.clone(), &states);
    let conflated = conflate(state.conflated, "vehicle_id", CONFLATE_MS);
    // What conflation holds back must not hold the input back.
    take(conflated, "conflated", taken).probe_with(held_back);
    let ends = [
        take(links, "links", taken),
        take(enriched, "enriched", taken),
        take(windows.table, "minutes", taken),
        take(windows.late, "late", taken),
        take(connectivity.events, "happened", taken),
        take(state.changes, "states", taken),
    ];
    scope.concatenate(ends).probe_with(probe);
    handles
}

/// Both outputs of `vehicle_state`.
pub fn every_state() -> vehicle_state::Options {
    vehicle_state::Options { changes: true, conflate_ms: Some(CONFLATE_MS), catching_up: CatchingUp::default() }
}

/// Counts the rows of a stream and lets them go.
pub fn take<'s>(
    stream: Stream<'s, Tick, Batch>,
    name: &'static str,
    taken: &Rc<RefCell<Taken>>,
) -> Stream<'s, Tick, Batch> {
    let taken = taken.clone();
    stream.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Take", move |_, _| {
        move |input, _output| {
            input.for_each(|_, batch| {
                let Some(rows) = batch.take() else { return };
                let mut taken = taken.borrow_mut();
                taken.totals.add(name, rows.num_rows() as u64);
                if taken.keep {
                    taken.batches.entry(name).or_default().push(rows);
                }
            });
        }
    })
}
