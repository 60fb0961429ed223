//! Drives the main job's dataflow with a log as the pipeline does: worker `w` of `n` reads partitions `p % n == w`, cuts its
//! batches and holds its frontiers back as a seed says. Asserts of every output that a message's time is a lower bound of its
//! rows' ticks and that no row comes behind a frontier that was told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use operators::batch::Batch;
use operators::conflate::conflate;
use operators::counters::Counters;
use operators::deduplicate::deduplicate;
use operators::devices::{Devices, own};
use operators::durable::{Records, States, worker_of};
use operators::enrich::enrich;
use operators::link::{References, link};
use operators::record::Stream as Topic;
use operators::record::output::ENRICHMENT;
use operators::silence::{self, silence};
use operators::time::Tick;
use operators::vehicle_state::{self, CatchingUp, vehicle_state};
use operators::window::{self, window};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Concatenate, Input};
use timely::dataflow::{InputHandle, ProbeHandle, Scope, Stream};
use timely::worker::Worker;

use crate::cell::{Change, changes_of};
use crate::log::{Log, Record, decode};

/// What the operators are told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub horizon_ms: u64,
    pub silence: silence::Options,
    pub window: window::Options,
    pub conflate_ms: u64,
    /// Whether the job is told now and then that it is catching up.
    pub catching_up: bool,
}

/// Everything that came out, by stream.
pub type Output = BTreeMap<&'static str, Vec<Change>>;

/// How a run differs from others of the same log without any right to another answer.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub workers: usize,
    /// Decides cuts, interleaving and how far frontiers lag.
    pub seed: u64,
    /// Rows of a batch at most.
    pub rows_max: usize,
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound.max(1) as u64) as usize
    }
}

/// How long a small log may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sleep of a worker that has nothing to do: cores are few.
const PARK_MAX: Duration = Duration::from_millis(1);

/// Ends a worker that would wait for ever: the others' panic stops their frontiers, and so may a bug.
struct Alarm {
    panicked: Arc<AtomicBool>,
    deadline: Instant,
}

impl Alarm {
    fn check(&self) {
        assert!(!self.panicked.load(Ordering::Relaxed), "another worker has panicked");
        assert!(Instant::now() < self.deadline, "the frontier stands still");
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.panicked.store(true, Ordering::Relaxed);
        }
    }
}

pub type Handle = InputHandle<Tick, CapacityContainerBuilder<Batch>>;
pub type Caught = Rc<RefCell<Output>>;

/// What operators keep, by their name and the record's key.
pub type Kept = BTreeMap<(String, Box<[u8]>), Box<[u8]>>;

/// What the main job gives for a log, up to and without tick `end`.
pub fn run(log: &Log, options: Options, plan: Plan, end: Tick) -> Output {
    resume(log, options, plan, end, &mut Kept::new())
}

/// The same of operators that begin with what they kept; afterwards it is what they keep at the end.
pub fn resume(log: &Log, options: Options, plan: Plan, end: Tick, kept: &mut Kept) -> Output {
    let log = Arc::new(log.clone());
    let mut shares = vec![Records::new(); plan.workers];
    for ((node, key), value) in &*kept {
        let worker = worker_of(key, plan.workers).expect("a key");
        shares[worker].entry(node.clone()).or_default().push((key.clone(), value.clone()));
    }
    let shares = Arc::new(shares);
    let panicked = Arc::new(AtomicBool::new(false));
    let guards = timely::execute(timely::Config::process(plan.workers), move |worker| {
        let alarm = Alarm { panicked: panicked.clone(), deadline: Instant::now() + PATIENCE };
        let probe = ProbeHandle::new();
        let caught = Caught::default();
        let states = States::new(shares[worker.index()].clone());
        let mut handles = worker.dataflow::<Tick, _, _>(|scope| {
            let mut handles = BTreeMap::new();
            let mut inputs = BTreeMap::new();
            for topic in Topic::ALL {
                let mut handle = Handle::new_with_builder();
                inputs.insert(topic, scope.input_from(&mut handle));
                handles.insert(topic, handle);
            }
            main_job(scope, inputs, options, &caught, &probe, &states);
            handles
        });
        feed(worker, &log, plan, end, &mut handles);
        for handle in handles.values_mut() {
            handle.advance_to(end);
        }
        worker.step_or_park_while(Some(PARK_MAX), || {
            alarm.check();
            probe.less_than(&end)
        });
        assert_eq!(states.damage(), None);
        let output = caught.take();
        let mut changed = Vec::new();
        states.changed(|node, key, value| changed.push(((node.to_owned(), key.into()), value.map(Box::from))));
        // What closing puts out is of no interest, but it must neither panic nor hang.
        drop(handles);
        worker.step_or_park_while(Some(PARK_MAX), || {
            alarm.check();
            !probe.done()
        });
        (output, changed)
    })
    .expect("workers start");
    let mut all = Output::new();
    for of_worker in guards.join() {
        let (output, changed): (_, Vec<((String, Box<[u8]>), Option<Box<[u8]>>)>) =
            of_worker.expect("no worker panics");
        for (name, changes) in output {
            all.entry(name).or_default().extend(changes);
        }
        for (key, value) in changed {
            match value {
                Some(value) => kept.insert(key, value),
                None => kept.remove(&key),
            };
        }
    }
    all
}

/// Sends this worker's partitions in a random order of batches and frontiers.
fn feed(worker: &mut Worker, log: &Log, plan: Plan, end: Tick, handles: &mut BTreeMap<Topic, Handle>) {
    let index = worker.index();
    let mut dice = Dice(plan.seed ^ (index as u64) << 32);
    let mut rest: BTreeMap<(Topic, i32), &[Record]> = log
        .lanes
        .iter()
        .filter(|((_, partition), _)| *partition as usize % plan.workers == index)
        .map(|(lane, records)| (*lane, &records[..]))
        .collect();
    // A worker that steps rarely sees much at once, one that steps often sees ticks one by one.
    let eagerness = [0, 1, 6][dice.below(3)];
    while !rest.is_empty() {
        match dice.below(3 + eagerness) {
            0 => {
                let lane = *rest.keys().nth(dice.below(rest.len())).expect("not empty");
                let records = rest[&lane];
                let (head, tail) = records.split_at(1 + dice.below(plan.rows_max.min(records.len())));
                let handle = handles.get_mut(&lane.0).expect("an input for each topic");
                handle.send_batch(&mut Batch::from(decode(lane.0, head)));
                handle.flush();
                if tail.is_empty() {
                    rest.remove(&lane)
                } else {
                    rest.insert(lane, tail)
                };
            }
            1 => {
                let topic = Topic::ALL[dice.below(Topic::ALL.len())];
                let of_topic = rest.iter().filter(|((of, _), _)| *of == topic);
                let limit = of_topic.map(|(_, records)| records[0].at.tick).min().unwrap_or(end);
                let handle = handles.get_mut(&topic).expect("an input for each topic");
                let low = *handle.time();
                // Often as far as it goes, else somewhere on the way.
                let to = if dice.below(3) > 0 { limit } else { low + dice.below((limit - low) as usize + 1) as u64 };
                handle.advance_to(to);
            }
            _ => drop(worker.step()),
        }
    }
}

/// The graph of the pipeline's topology, every stream caught.
fn main_job<'s>(
    scope: Scope<'s, Tick>,
    mut inputs: BTreeMap<Topic, Stream<'s, Tick, Batch>>,
    options: Options,
    caught: &Caught,
    probe: &ProbeHandle<Tick>,
    states: &States,
) {
    let counters = Counters::default();
    let mut input = |topic| inputs.remove(&topic).expect("an input for each topic");
    let devices = Devices::default();
    let events = own(input(Topic::Telemetry), &devices);
    let events = deduplicate(events, options.horizon_ms, &devices, counters.clone(), states);
    let links = link(References {
        vehicles: input(Topic::Vehicle),
        drivers: input(Topic::Driver),
        companies: input(Topic::Company),
        tariffs: input(Topic::Tariff),
    });
    let enriched = enrich(events.clone(), links.clone(), &ENRICHMENT, &devices, counters.clone());
    let windows = window(enriched.clone(), options.window, counters.clone(), states);
    let connectivity = silence(events.clone(), links.clone(), options.silence, &devices, states);
    let catching_up = CatchingUp::default();
    let events = if options.catching_up { hurry(events, catching_up.clone()) } else { events };
    let wanted = vehicle_state::Options { changes: true, conflate_ms: Some(options.conflate_ms), catching_up };
    let connections = connectivity.table.clone();
    let state = vehicle_state(events.clone(), links.clone(), connections, wanted, &devices, counters.clone(), states);
    let conflated = conflate(state.conflated, "vehicle_id", options.conflate_ms);
    let streams = [
        ("events", events),
        ("links", links),
        ("enriched", enriched),
        ("company_minute", windows.table),
        ("late", windows.late),
        ("connectivity", connectivity.table),
        ("vehicle_events", connectivity.events),
        ("vehicle_state", state.changes),
        ("conflated", conflated),
    ];
    let ends = streams.map(|(name, stream)| catch(stream, name, caught));
    scope.concatenate(ends).probe_with(probe);
}

/// Tells that the job is catching up, and that it is not, in turns that depend on the events; not where only time goes on.
fn hurry(events: Stream<'_, Tick, Batch>, catching_up: CatchingUp) -> Stream<'_, Tick, Batch> {
    events.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Hurry", move |_, _| {
        let mut dice = Dice(1);
        move |(input, _), output| {
            catching_up.set(false);
            input.for_each(|time, batch| {
                dice.0 ^= *time.time();
                catching_up.set(dice.below(3) > 0);
                output.session(&time).give_container(batch);
            });
        }
    })
}

/// Keeps the rows of a stream under its name.
pub fn catch<'s>(stream: Stream<'s, Tick, Batch>, name: &'static str, caught: &Caught) -> Stream<'s, Tick, Batch> {
    let caught = caught.clone();
    stream.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Catch", move |_, _| {
        let mut told = 0;
        move |(input, frontier), _output| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let changes = changes_of(&rows);
                for change in &changes {
                    assert!(*time.time() <= change.tick, "{name}: message at {} holds {change:?}", time.time());
                    assert!(told <= change.tick, "{name}: frontier was {told} before {change:?}");
                }
                caught.borrow_mut().entry(name).or_default().extend(changes);
            });
            told = frontier.frontier().first().copied().unwrap_or(Tick::MAX);
        }
    })
}
