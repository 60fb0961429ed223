//! Runs a view over events and tables, cut into batches of one tick and of several.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{RecordBatch, UInt64Array};
use differential_dataflow::AsCollection;
use operators::batch::Batch;
use operators::row::{Diff, Row};
use operators::time::Tick;
use queries::plan::{Kind, Node};
use queries::render::{Builder, Fault, Rendered, event_schema};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

use super::tick;
use crate::harness::{AFTERWARDS, Changing, Output};

enum Handle {
    Events(InputHandle<Tick, CapacityContainerBuilder<Batch>>),
    Table(InputHandle<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>>),
}

impl Handle {
    /// Gives a worker its part of what comes in these ticks.
    fn send(&mut self, input: &Changing, ticks: std::ops::Range<Tick>, worker: usize, workers: usize) {
        let mine = input.changes.iter().enumerate().filter(|(place, _)| place % workers == worker);
        let mine: Vec<_> = mine.map(|(_, change)| change).filter(|(at, ..)| ticks.contains(at)).collect();
        match self {
            Handle::Table(handle) => {
                mine.iter().for_each(|(at, row, diff)| handle.send((row.clone(), *at, *diff)));
                handle.advance_to(ticks.end);
            }
            Handle::Events(handle) => {
                if !mine.is_empty() {
                    let rows = input.codec().decode(mine.iter().map(|(_, row, _)| row)).expect("rows of the schema");
                    let mut columns = rows.columns().to_vec();
                    columns.push(Arc::new(UInt64Array::from_iter_values(mine.iter().map(|(at, ..)| *at))));
                    let rows = RecordBatch::try_new(event_schema(&input.schema), columns).expect("the columns");
                    handle.send_batch(&mut Batch::from(rows));
                }
                handle.advance_to(ticks.end);
            }
        }
    }
}

/// What comes out of the plan on `workers` workers, `rounds` of the input at a time.
pub fn play(inputs: &[(&Changing, Kind)], node: &Arc<Node>, workers: usize, rounds: u64) -> Output {
    play_again(inputs, node, workers, rounds, rounds)
}

/// The same after a restart, which reads the `first` rounds from the log at once.
pub fn play_again(inputs: &[(&Changing, Kind)], node: &Arc<Node>, workers: usize, first: u64, rounds: u64) -> Output {
    let output: Arc<Mutex<Output>> = Arc::default();
    let inputs: Vec<(Changing, Kind)> = inputs.iter().map(|(input, kind)| ((*input).clone(), *kind)).collect();
    let (shared, node) = (output.clone(), node.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (index, probe) = (worker.index(), ProbeHandle::new());
        let mut handles = Vec::new();
        worker.dataflow::<Tick, _, _>(|scope| {
            let mut sources = HashMap::new();
            for (input, kind) in &inputs {
                if *kind == Kind::Events {
                    let mut handle = InputHandle::new();
                    sources.insert(input.name.clone(), Rendered::Events(scope.input_from(&mut handle)));
                    handles.push(Handle::Events(handle));
                } else {
                    let mut handle = InputHandle::new();
                    let table = scope.input_from(&mut handle).as_collection();
                    sources.insert(input.name.clone(), Rendered::Table(table));
                    handles.push(Handle::Table(handle));
                }
            }
            let mut builder = Builder::new(scope, sources);
            let rows = builder.table(&node).expect("the plan can be built");
            let (to_rows, to_faults) = (shared.clone(), shared.clone());
            let lock = |output: &Arc<Mutex<Output>>, update: &(Row, Tick, Diff), faults: bool| {
                let mut output = output.lock().expect("nobody panics with it");
                if faults { output.faults.push(update.clone()) } else { output.rows.push(update.clone()) }
            };
            rows.inner.inspect(move |update| lock(&to_rows, update, false)).probe_with(&probe);
            builder.faults().inner.inspect(move |update| lock(&to_faults, update, true)).probe_with(&probe);
        });
        let mut round = 0;
        while round < super::ROUNDS {
            let next = (round + if round == 0 { first } else { rounds }).min(super::ROUNDS);
            let ticks = if round == 0 { 0 } else { tick(round) }..tick(next);
            for ((input, _), handle) in inputs.iter().zip(&mut handles) {
                handle.send(input, ticks.clone(), index, workers);
            }
            while probe.less_than(&ticks.end) {
                worker.step();
                std::thread::yield_now();
            }
            round = next;
        }
        let end = tick(super::ROUNDS) + AFTERWARDS;
        for ((input, _), handle) in inputs.iter().zip(&mut handles) {
            handle.send(input, tick(super::ROUNDS)..end, index, workers);
        }
        while probe.less_than(&end) {
            worker.step();
            std::thread::yield_now();
        }
    })
    .expect("workers start");
    guards.join().into_iter().for_each(|ended| ended.expect("no worker panics"));
    Arc::try_unwrap(output).expect("the workers have ended").into_inner().expect("nobody panics with it")
}

/// How many rows were late up to a tick, and how many failed.
pub fn late(output: &Output, upto: Tick) -> (Diff, Diff) {
    let (mut late, mut failed) = (0, 0);
    for (row, _, diff) in output.faults.iter().filter(|(_, at, _)| *at <= upto) {
        if Fault::of(row).operator == "Late" { late += diff } else { failed += diff }
    }
    (late, failed)
}
