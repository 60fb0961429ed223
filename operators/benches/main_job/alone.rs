//! Each operator alone, fed with what it gets in the main job: nanoseconds of one core per row taken in.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use arrow::array::RecordBatch;
use operators::batch::{Batch, TICK, u64s};
use operators::conflate::conflate;
use operators::counters::Counters;
use operators::deduplicate::deduplicate;
use operators::devices::{Devices, own};
use operators::durable::States;
use operators::enrich::enrich;
use operators::record::output::ENRICHMENT;
use operators::silence::silence;
use operators::time::Tick;
use operators::vehicle_state::{self, vehicle_state};
use operators::window::window;
use timely::dataflow::operators::{Concatenate, Input, Probe};
use timely::dataflow::{ProbeHandle, Scope, Stream};

use crate::Shape;
use crate::drive::{Handle, Taken, every_state, finish, run, send, take};
use crate::fleet::{Fleet, START, TICK_MS};
use crate::machine::Clock;
use crate::options::{CONFLATE_MS, HORIZON_MS, SILENCE, WINDOW};

type Streams<'s> = BTreeMap<&'static str, Stream<'s, Tick, Batch>>;

/// Part of the ticks that only warms up.
const WARM: f64 = 0.3;

/// Prints a line for each operator.
pub fn all(shape: Shape) {
    let kept = run(1, Shape { passes: 1, ..shape }, true).kept;
    let telemetry: Vec<RecordBatch> = Fleet::new(shape.vehicles, shape.events_per_tick)
        .next(shape.ticks)
        .into_iter()
        .flat_map(|tick| tick.telemetry)
        .collect();
    let from = |name: &str| kept[name].clone();
    let with_links = |rows: Vec<RecordBatch>| vec![("links", from("links")), ("rows", rows)];
    measure("own", vec![("rows", telemetry.clone())], |streams| vec![owned(streams).0]);
    measure("deduplicate", vec![("rows", telemetry.clone())], |streams| {
        let (events, devices) = owned(streams);
        vec![deduplicate(events, HORIZON_MS, &devices, Counters::default(), &States::default())]
    });
    measure("enrich", with_links(telemetry.clone()), |streams| {
        let (events, devices) = owned(streams);
        vec![enrich(events, rows(streams, "links"), &ENRICHMENT, &devices, Counters::default())]
    });
    measure("window", vec![("rows", from("enriched"))], |streams| {
        let windows = window(rows(streams, "rows"), WINDOW, Counters::default(), &States::default());
        vec![windows.table, windows.late]
    });
    measure("silence", with_links(telemetry.clone()), |streams| {
        let (events, devices) = owned(streams);
        let connectivity = silence(events, rows(streams, "links"), SILENCE, &devices, &States::default());
        vec![connectivity.table, connectivity.events]
    });
    let inputs = [with_links(telemetry), vec![("connectivity", Vec::new())]].concat();
    for (name, changes, conflate_ms) in
        [("changes", true, None), ("conflated", false, Some(CONFLATE_MS)), ("both", true, Some(CONFLATE_MS))]
    {
        measure(name, inputs.clone(), move |streams| {
            let (events, devices) = owned(streams);
            let (links, connections) = (rows(streams, "links"), rows(streams, "connectivity"));
            let wanted = vehicle_state::Options { changes, conflate_ms, ..every_state() };
            let state =
                vehicle_state(events, links, connections, wanted, &devices, Counters::default(), &States::default());
            vec![state.changes, conflate(state.conflated, "vehicle_id", CONFLATE_MS)]
        });
    }
}

/// The telemetry with its devices numbered, which all but `window` need: the time of `own` is in theirs.
fn owned<'s>(streams: &mut Streams<'s>) -> (Stream<'s, Tick, Batch>, Devices) {
    let devices = Devices::default();
    (own(rows(streams, "rows"), &devices), devices)
}

fn rows<'s>(streams: &mut Streams<'s>, name: &str) -> Stream<'s, Tick, Batch> {
    streams.remove(name).expect("the operator's input")
}

fn measure<F>(name: &'static str, inputs: Vec<(&'static str, Vec<RecordBatch>)>, build: F)
where
    F: for<'s> Fn(&mut Streams<'s>) -> Vec<Stream<'s, Tick, Batch>> + Send + Sync + 'static,
{
    let mut by_tick: BTreeMap<Tick, Vec<(&'static str, RecordBatch)>> = BTreeMap::new();
    for (input, batches) in &inputs {
        for rows in batches {
            let first = u64s(rows, TICK).value(0);
            by_tick.entry(first).or_default().push((input, rows.clone()));
        }
    }
    let names: Vec<&'static str> = inputs.into_iter().map(|(name, _)| name).collect();
    let (measured, seconds) = timely::execute_directly(move |worker| {
        let probe = ProbeHandle::new();
        let taken = Rc::new(RefCell::new(Taken::default()));
        let mut handles = worker.dataflow::<Tick, _, _>(|scope: Scope<'_, Tick>| {
            let mut handles = BTreeMap::new();
            let mut streams = Streams::new();
            for name in names {
                let mut handle = Handle::new_with_builder();
                streams.insert(name, scope.input_from(&mut handle));
                handles.insert(name, handle);
            }
            let ends = build(&mut streams).into_iter().map(|stream| take(stream, "others", &taken));
            scope.concatenate(ends.collect::<Vec<_>>()).probe_with(&probe);
            handles
        });
        let warm = (by_tick.len() as f64 * WARM) as usize;
        let (mut measured, mut clock) = (0, Clock::start());
        handles.values_mut().for_each(|handle| handle.advance_to(START));
        for (number, (tick, batches)) in by_tick.into_iter().enumerate() {
            if number == warm {
                clock = Clock::start();
            }
            for (input, rows) in batches {
                measured += if number >= warm && input == "rows" { rows.num_rows() } else { 0 };
                send(&mut handles, input, rows);
            }
            handles.values_mut().for_each(|handle| handle.advance_to(tick + TICK_MS));
            worker.step();
        }
        let last = handles.values().map(|handle| *handle.time()).min().expect("there is an input");
        if ["conflated", "both"].contains(&name) {
            // What the last window holds stays in it.
            worker.step();
        } else {
            finish(worker, &mut handles, &probe, last);
        }
        (measured, clock.cpu_s())
    });
    println!("  {name:14} {:6.0} ns a row", seconds * 1e9 / measured as f64);
}
