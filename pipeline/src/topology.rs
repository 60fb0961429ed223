//! The dataflow of the main job: which operator feeds which, and which stream goes to which sinks. The same code whatever the
//! streams come from and go to; a part that no sink wants is not built.

use std::collections::BTreeMap;

use operators::batch::{Batch, fnv1a};
use operators::conflate::conflate;
use operators::counters::Counters;
use operators::deduplicate::deduplicate;
use operators::devices::{Devices, own};
use operators::durable::States;
use operators::enrich::enrich;
use operators::link::{References, link};
use operators::record::Stream as Topic;
use operators::record::output::ENRICHMENT;
use operators::silence::{self, silence};
use operators::time::Tick;
use operators::vehicle_state::{self, CatchingUp, vehicle_state};
use operators::window::{self, window};
use queries::catalog::CORE;
use queries::live::{Live, export_declared, export_events, export_table};
use sinks::run::{Feed, Route};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Concat, Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle, Stream};
use timely::worker::Worker;

use crate::tap::{Kind, tap};

/// Every stream that sinks can take, with the columns that make a table's key.
pub const ROUTES: [Route; 6] = [
    Route { stream: "telemetry_enriched", keys: &[] },
    Route { stream: "vehicle_events", keys: &[] },
    Route { stream: "vehicle_state", keys: &["vehicle_id"] },
    Route { stream: "vehicle_links", keys: &["vehicle_id"] },
    Route { stream: "company_minute", keys: &["company_id", "window_start"] },
    Route { stream: "rejected", keys: &[] },
];

/// The routes with these names.
///
/// # Panics
/// If there is no such stream.
#[must_use]
pub fn routes(streams: &[&str]) -> Vec<Route> {
    let find = |name: &&str| *ROUTES.iter().find(|route| route.stream == *name).expect("a stream of the main job");
    streams.iter().map(find).collect()
}

/// What the operators are told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a silent device's last events are remembered for deduplication, in milliseconds; `None`: duplicates stay.
    pub deduplicate_ms: Option<u64>,
    /// When a device is offline.
    pub silence: silence::Options,
    /// The windows of `company_minute`.
    pub window: window::Options,
    /// Milliseconds of ticks over which a conflated output's changes are put together.
    pub conflate_ms: u64,
}

impl Options {
    /// Milliseconds of ticks at whose multiples no operator has anything open.
    #[must_use]
    pub fn boundary_ms(&self) -> u64 {
        let (a, b) = (self.conflate_ms.max(1), self.window.emit_ms.max(1));
        let mut divisors = (a, b);
        while divisors.1 > 0 {
            divisors = (divisors.1, divisors.0 % divisors.1);
        }
        a / divisors.0 * b
    }

    /// The names of the operators' states, and what they mean as numbers: state that was kept under another one is of no use.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&'static str, u128> {
        // What is kept of a device goes for every horizon and threshold.
        let window::Options { size_ms, retention_ms, ahead_ms_max: _, emit_ms: _ } = self.window;
        let of = |name: &'static str, rules: [i64; 2]| {
            let [a, b] = rules.map(i64::to_le_bytes);
            (name, u128::from(fnv1a(&[name.as_bytes(), b"/1", &a, &b])))
        };
        BTreeMap::from([
            of("deduplicate", [0; 2]),
            of("silence", [0; 2]),
            of("vehicle_state", [0; 2]),
            of("company_minute", [size_ms, retention_ms]),
        ])
    }
}

/// One sink's end.
#[derive(Clone, Debug)]
pub struct Output {
    /// Where its rows go; its routes say which streams it wants.
    pub feed: Feed,
    /// Whether it gets `vehicle_state` conflated rather than tick by tick.
    pub conflated: bool,
}

type Handle = InputHandle<Tick, CapacityContainerBuilder<Batch>>;

/// The worker's ends of the dataflow's inputs.
pub struct Inputs {
    streams: BTreeMap<Topic, Handle>,
    /// How far each stream could go; `None`: it has ended.
    wanted: BTreeMap<Topic, Option<Tick>>,
    rejected: Option<Handle>,
    /// The least frontier of all workers' inputs.
    everywhere: ProbeHandle<Tick>,
    /// Told to the operators that may leave versions out meanwhile.
    pub catching_up: CatchingUp,
}

impl Inputs {
    /// Sends rows of a stream; none has a tick before the stream's frontier.
    pub fn send(&mut self, stream: Topic, rows: arrow::array::RecordBatch) {
        let input = self.streams.get_mut(&stream).expect("rows come before the end of their stream");
        input.send_batch(&mut Batch::from(rows));
        input.flush();
    }

    /// Sends refused records.
    pub fn reject(&mut self, rows: arrow::array::RecordBatch) {
        let input = self.rejected.as_mut().expect("records come before the end of their streams");
        input.send_batch(&mut Batch::from(rows));
        input.flush();
    }

    /// Tells how far a stream's frontier can go; `None` ends the stream. [`pass`](Self::pass) moves it.
    pub fn want(&mut self, stream: Topic, frontier: Option<Tick>) {
        self.wanted.insert(stream, frontier);
    }

    /// How far all streams can go.
    #[must_use]
    pub fn wanted(&self) -> Tick {
        self.wanted.values().map(|wanted| wanted.unwrap_or(Tick::MAX)).min().unwrap_or(Tick::MAX)
    }

    /// Moves the frontiers as far as they can go up to a limit. Streams end only without one.
    pub fn pass(&mut self, limit: Tick) {
        for (stream, wanted) in &self.wanted {
            let upto = wanted.unwrap_or(Tick::MAX).min(limit);
            if upto == Tick::MAX {
                drop(self.streams.remove(stream));
            } else if let Some(input) = self.streams.get_mut(stream)
                && upto > *input.time()
            {
                input.advance_to(upto);
            }
        }
        match self.frontier() {
            None => self.rejected = None,
            Some(least) => {
                if let Some(input) = &mut self.rejected
                    && least > *input.time()
                {
                    input.advance_to(least);
                }
            }
        }
    }

    /// The least frontier of all streams; `None` once all have ended.
    #[must_use]
    pub fn frontier(&self) -> Option<Tick> {
        self.streams.values().map(|input| *input.time()).min()
    }

    /// Whether no other worker's inputs are further behind. The outputs' frontier does not tell: operators that put changes
    /// of an interval together keep it back although all inputs have moved on.
    #[must_use]
    pub fn hold_back(&self) -> bool {
        let everywhere = self.everywhere.with_frontier(|frontier| frontier.first().copied());
        self.frontier().is_some_and(|own| everywhere.is_none_or(|least| own <= least))
    }
}

/// How far the dataflow is, over all workers.
pub struct Probes {
    /// Passes a tick once every sink has been handed all rows before it.
    pub handed_over: ProbeHandle<Tick>,
    /// Passes a tick once no operator holds an event before it. Windows and gathered changes, which keep sums and the newest
    /// rows for their interval, do not hold it back.
    pub worked_off: ProbeHandle<Tick>,
}

/// Builds the dataflow on this worker. `live` are its derived streams, if there can be any; `states` is what its operators kept,
/// which is to be asked for [damage](States::damage).
pub fn build(
    worker: &mut Worker,
    options: Options,
    outputs: &[Output],
    counters: &Counters,
    live: Option<&Live>,
    states: &States,
) -> (Inputs, Probes) {
    let probes = Probes { handed_over: ProbeHandle::new(), worked_off: ProbeHandle::new() };
    let (index, catching_up) = (worker.index(), CatchingUp::default());
    let inputs = worker.dataflow::<Tick, _, _>(|scope| {
        let mut handles = BTreeMap::new();
        let everywhere = ProbeHandle::new();
        let mut input = |topic: Topic| {
            let mut handle = Handle::new_with_builder();
            let stream = scope.input_from(&mut handle).probe_with(&everywhere);
            handles.insert(topic, handle);
            stream
        };
        let telemetry = input(Topic::Telemetry);
        let references = References {
            vehicles: input(Topic::Vehicle),
            drivers: input(Topic::Driver),
            companies: input(Topic::Company),
            tariffs: input(Topic::Tariff),
        };
        let declared = live.map(Live::declared).unwrap_or_default();
        let declared =
            declared.iter().map(|declared| (*declared, input(Topic::Declared(declared)))).collect::<Vec<_>>();
        let mut rejected_handle = Handle::new_with_builder();
        let rejected = scope.input_from(&mut rejected_handle);
        let graph = Graph { index, outputs, probes: &probes, catching_up: &catching_up, live, states };
        for (declared, records) in declared {
            let records = records.probe_with(&probes.worked_off);
            live.into_iter().for_each(|live| export_declared(records.clone(), declared, live, &probes.handed_over));
        }
        main_job(&graph, telemetry, references, rejected, options, counters);
        let wanted = handles.keys().map(|&topic| (topic, Some(0))).collect();
        Inputs { streams: handles, wanted, rejected: Some(rejected_handle), everywhere, catching_up }
    });
    (inputs, probes)
}

/// The way from streams to sinks.
struct Graph<'a> {
    index: usize,
    outputs: &'a [Output],
    probes: &'a Probes,
    catching_up: &'a CatchingUp,
    live: Option<&'a Live>,
    states: &'a States,
}

impl Graph<'_> {
    /// Makes a stream of events readable in SQL.
    fn export(&self, stream: &Stream<'_, Tick, Batch>, name: &str) {
        if let (Some(live), Some(core)) = (self.live, CORE.iter().find(|core| core.name == name)) {
            export_events(stream.clone(), core, live, &self.probes.handed_over);
        }
    }

    /// Makes the reference tables readable in SQL.
    fn export_tables(&self, references: &References<'_>) {
        let References { vehicles, drivers, companies, tariffs } = references;
        let tables = [("vehicles", vehicles), ("drivers", drivers), ("companies", companies), ("tariffs", tariffs)];
        for (name, changelog) in tables {
            if let (Some(live), Some(core)) = (self.live, CORE.iter().find(|core| core.name == name)) {
                export_table(changelog.clone(), core, live, &self.probes.handed_over);
            }
        }
    }

    fn wanted(&self, stream: &str) -> bool {
        self.outputs.iter().any(|output| takes(&output.feed, stream))
    }

    fn put(&self, stream: Stream<'_, Tick, Batch>, name: &'static str, kind: Kind, conflated: Option<bool>) {
        let chosen = self.outputs.iter().filter(|output| conflated.is_none_or(|wanted| output.conflated == wanted));
        let feeds: Vec<Feed> = chosen.map(|output| output.feed.clone()).filter(|feed| takes(feed, name)).collect();
        tap(stream, name, kind, self.index, feeds, &self.probes.handed_over);
    }
}

fn takes(feed: &Feed, stream: &str) -> bool {
    feed.routes().iter().any(|route| route.stream == stream)
}

fn main_job<'s>(
    graph: &Graph<'_>,
    telemetry: Stream<'s, Tick, Batch>,
    references: References<'s>,
    rejected: Stream<'s, Tick, Batch>,
    options: Options,
    counters: &Counters,
) {
    let devices = Devices::default();
    let events = own(telemetry, &devices);
    let events = match options.deduplicate_ms {
        Some(horizon_ms) => deduplicate(events, horizon_ms, &devices, counters.clone(), graph.states),
        None => events,
    };
    graph.export(&events, "telemetry");
    graph.export_tables(&references);
    let links = link(references);
    let worked_off = &graph.probes.worked_off;
    let links = links.probe_with(worked_off);
    let windows = graph.wanted("company_minute");
    let mut refused = rejected;

    let live = |name: &str| graph.live.is_some_and(|live| live.wants(name));
    let enriched_wanted = graph.wanted("telemetry_enriched") || live("telemetry_enriched");
    if windows || enriched_wanted {
        // Windows alone need no more than the company.
        let wanted = if enriched_wanted { &ENRICHMENT[..] } else { &["company_id"] };
        let enriched = enrich(events.clone(), links.clone(), wanted, &devices, counters.clone()).probe_with(worked_off);
        if windows {
            let company_minute = window(enriched.clone(), options.window, counters.clone(), graph.states);
            graph.put(company_minute.table, "company_minute", Kind::Upsert, None);
            refused = refused.concat(company_minute.late);
        }
        if enriched_wanted {
            graph.export(&enriched, "telemetry_enriched");
        }
        graph.put(enriched, "telemetry_enriched", Kind::Append, None);
    }
    if graph.wanted("vehicle_state") || graph.wanted("vehicle_events") || live("vehicle_events") {
        let connectivity = silence(events.clone(), links.clone(), options.silence, &devices, graph.states);
        graph.export(&connectivity.events, "vehicle_events");
        graph.put(connectivity.events.probe_with(worked_off), "vehicle_events", Kind::Append, None);
        if graph.wanted("vehicle_state") {
            let wanted = |conflated: bool| {
                graph.outputs.iter().any(|output| output.conflated == conflated && takes(&output.feed, "vehicle_state"))
            };
            let (changes, conflate_ms) = (wanted(false), wanted(true).then_some(options.conflate_ms));
            let catching_up = graph.catching_up.clone();
            let wanted = vehicle_state::Options { changes, conflate_ms, catching_up };
            // What is not put out while catching up does not count as held.
            let connections = connectivity.table.probe_with(worked_off);
            let (links, counters) = (links.clone(), counters.clone());
            let state = vehicle_state(events, links, connections, wanted, &devices, counters, graph.states);
            graph.put(state.changes, "vehicle_state", Kind::Upsert, Some(false));
            if conflate_ms.is_some() {
                let conflated = conflate(state.conflated, "vehicle_id", options.conflate_ms);
                graph.put(conflated, "vehicle_state", Kind::Upsert, Some(true));
            }
        }
    }
    graph.put(links, "vehicle_links", Kind::Upsert, None);
    graph.put(refused, "rejected", Kind::Append, None);
}
