//! Runs views over the rows of a test, tick by tick.
//!
//! Invariant: what comes out at a tick is complete before the next tick's rows go in.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use differential_dataflow::AsCollection;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input as _, Inspect, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

use super::input::Input;
use crate::plan::{Kind, Node};
use crate::render::{Builder, Rendered, event_schema};

/// What is run.
#[derive(Clone)]
pub struct Played {
    pub inputs: Vec<Input>,
    /// Each after those that it reads.
    pub views: Vec<(String, Arc<Node>)>,
    pub ticks: Vec<Tick>,
}

/// What came out of a view.
#[derive(Clone, Debug, Default)]
pub struct Output {
    pub rows: Vec<(Row, Tick, Diff)>,
    pub faults: Vec<(Row, Tick, Diff)>,
}

type Updates = Vec<(Row, Tick, Diff)>;
type Shared = Arc<Mutex<BTreeMap<String, Output>>>;

/// One input of the dataflow.
enum Handle {
    Events(InputHandle<Tick, CapacityContainerBuilder<Batch>>),
    Table(InputHandle<Tick, CapacityContainerBuilder<Updates>>),
}

/// Runs it on `workers` workers.
pub fn play(played: &Played, workers: usize) -> Result<BTreeMap<String, Output>, String> {
    let outputs: Shared = Shared::default();
    let (shared, played) = (outputs.clone(), played.clone());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let probe = ProbeHandle::new();
        let mut handles = build(worker, &played, &shared, &probe)?;
        let (index, peers) = (worker.index(), worker.peers());
        for tick in &played.ticks {
            for (input, handle) in played.inputs.iter().zip(&mut handles) {
                let all = input.changes.iter().filter(|(at, ..)| at == tick);
                let mine = all.enumerate().filter(|(place, _)| place % peers == index).map(|(_, change)| change);
                handle.send(input, *tick, mine.collect())?;
            }
            while probe.less_than(&(tick + 1)) {
                worker.step();
            }
        }
        Ok::<(), String>(())
    })?;
    for ended in guards.join() {
        ended.map_err(|why| format!("the view failed: {why}"))??;
    }
    let outputs = outputs.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(outputs.clone())
}

impl Handle {
    fn send(&mut self, input: &Input, tick: Tick, changes: Vec<&(Tick, Row, Diff)>) -> Result<(), String> {
        match self {
            Handle::Table(handle) => {
                handle.advance_to(tick);
                changes.iter().for_each(|(at, row, diff)| handle.send((row.clone(), *at, *diff)));
                handle.advance_to(tick + 1);
            }
            Handle::Events(handle) => {
                handle.advance_to(tick);
                if !changes.is_empty() {
                    let codec = Codec::new(input.relation.schema.clone()).map_err(|why| why.to_string())?;
                    let rows = codec.decode(changes.iter().map(|(_, row, _)| row)).map_err(|why| why.to_string())?;
                    let mut columns = rows.columns().to_vec();
                    columns.push(Arc::new(UInt64Array::from(vec![tick; changes.len()])) as ArrayRef);
                    let rows = RecordBatch::try_new(event_schema(&input.relation.schema), columns);
                    handle.send_batch(&mut Batch::from(rows.map_err(|why| why.to_string())?));
                }
                handle.advance_to(tick + 1);
            }
        }
        Ok(())
    }
}

fn build(
    worker: &mut timely::worker::Worker,
    played: &Played,
    shared: &Shared,
    probe: &ProbeHandle<Tick>,
) -> Result<Vec<Handle>, String> {
    worker.dataflow::<Tick, _, _>(|scope| {
        let mut inputs: HashMap<String, Rendered<'_>> = HashMap::new();
        let mut handles = Vec::new();
        for input in &played.inputs {
            let name = input.relation.name.clone();
            if input.relation.kind == Kind::Events {
                let mut handle = InputHandle::new();
                let stream = scope.input_from(&mut handle);
                inputs.insert(name, Rendered::Events(stream));
                handles.push(Handle::Events(handle));
            } else {
                let mut handle = InputHandle::new();
                let stream = scope.input_from(&mut handle);
                inputs.insert(name, Rendered::Table(stream.as_collection()));
                handles.push(Handle::Table(handle));
            }
        }
        for (name, node) in &played.views {
            let mut builder = Builder::new(scope, inputs.clone());
            let rendered = builder.render(node).map_err(|why| why.strip_backtrace())?;
            let rows = builder.table(node).map_err(|why| why.strip_backtrace())?;
            inputs.insert(name.clone(), rendered);
            let put = |side: fn(&mut Output) -> &mut Updates| {
                let (name, shared) = (name.clone(), shared.clone());
                move |update: &(Row, Tick, Diff)| {
                    let mut all = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    side(all.entry(name.clone()).or_default()).push(update.clone());
                }
            };
            rows.inner.inspect(put(|output| &mut output.rows)).probe_with(probe);
            builder.faults().inner.inspect(put(|output| &mut output.faults)).probe_with(probe);
        }
        Ok(handles)
    })
}
