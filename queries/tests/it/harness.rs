//! Runs views over tables that change, and the same queries over the tables' content at each tick.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::datatypes::{DataType, Float64Type, SchemaRef};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result as Planned;
use differential_dataflow::AsCollection;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use queries::plan::{Columns, Inputs, Kind, Node, Op, Times, bounded, lower, plan_sql};
use queries::render::{Builder, Fault, Rendered, Size, Usage, event_schema};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::{Input, Inspect, Probe};
use timely::dataflow::{InputHandle, Stream};
use timely::worker::Worker;

/// A table's schema and its changes: rows (one batch each time) that come and go at ticks.
#[derive(Clone, Debug)]
pub struct Changing {
    pub name: String,
    pub schema: SchemaRef,
    /// By tick, ascending.
    pub changes: Vec<(Tick, Row, Diff)>,
}

impl Changing {
    pub fn codec(&self) -> Codec {
        Codec::new(self.schema.clone()).expect("types with a row format")
    }

    /// The content at a tick.
    pub fn at(&self, tick: Tick) -> RecordBatch {
        let mut rows: BTreeMap<&Row, Diff> = BTreeMap::new();
        for (_, row, diff) in self.changes.iter().filter(|(at, ..)| *at <= tick) {
            *rows.entry(row).or_default() += diff;
        }
        let all = rows.iter().flat_map(|(row, count)| std::iter::repeat_n(*row, (*count).max(0) as usize));
        self.codec().decode(all.collect::<Vec<_>>()).expect("rows of the schema")
    }

    /// What a restart after `tick` finds: the content at it as its only change so far, and then those that follow.
    pub fn restarted(&self, tick: Tick) -> Changing {
        let mut rows: BTreeMap<&Row, Diff> = BTreeMap::new();
        for (_, row, diff) in self.changes.iter().filter(|(at, ..)| *at <= tick) {
            *rows.entry(row).or_default() += diff;
        }
        let content = rows.into_iter().filter(|(_, count)| *count != 0).map(|(row, count)| (tick, row.clone(), count));
        let later = self.changes.iter().filter(|(at, ..)| *at > tick).cloned();
        Changing { name: self.name.clone(), schema: self.schema.clone(), changes: content.chain(later).collect() }
    }
}

/// Ticks at which any of the tables changes.
pub fn ticks(tables: &[Changing]) -> Vec<Tick> {
    let mut ticks: Vec<Tick> = tables.iter().flat_map(|table| table.changes.iter().map(|(at, ..)| *at)).collect();
    ticks.sort_unstable();
    ticks.dedup();
    ticks
}

/// Time that passes after the last change.
pub const AFTERWARDS: Tick = 400;

/// A few more ticks: between the changes and after them.
pub fn with_quiet_ticks(changes: &[Tick]) -> Vec<Tick> {
    let last = changes.last().copied().unwrap_or_default();
    let between = changes.iter().map(|tick| tick + 4);
    let mut all: Vec<Tick> = changes.iter().copied().chain(between).chain([last + 37, last + AFTERWARDS]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The plan of a query over these tables.
pub fn planned(tables: &[Changing], sql: &str) -> Result<Arc<Node>, String> {
    planned_over(tables, Kind::Table, sql).map_err(|why| why.strip_backtrace())
}

/// The plan of a query over tables whose rows are events, as a view with this retention.
pub fn planned_over_events(tables: &[Changing], sql: &str, retention_ms: i64) -> Result<Arc<Node>, String> {
    let names = |name: &str| {
        let table = tables.iter().find(|table| table.name == name).expect("one of the tables");
        let names: Vec<String> = table.schema.fields().iter().map(|field| field.name().clone()).collect();
        Columns { time: names.iter().position(|name| name == "ts"), names }
    };
    let node = planned_over(tables, Kind::Events, sql);
    node.and_then(|node| bounded(&node, Times { retention: Some(retention_ms), ..Times::default() }, &names))
        .map_err(|why| why.strip_backtrace())
}

fn planned_over(tables: &[Changing], kind: Kind, sql: &str) -> Planned<Arc<Node>> {
    let with = |inputs: Inputs, table: &Changing| inputs.with(&table.name, table.schema.clone(), kind);
    let inputs = tables.iter().fold(Inputs::default(), with);
    lower(&plan_sql(&inputs, sql)?, &inputs)
}

/// Whether a plan reads this name as events.
fn reads_events(plan: &Node, name: &str) -> bool {
    let mut found = false;
    plan.visit(&mut |node| found |= node.kind == Kind::Events && matches!(&node.op, Op::Get(read) if read == name));
    found
}

/// Rows as batches of events.
fn batches<'s>(rows: Stream<'s, Tick, Vec<(Row, Tick, Diff)>>, table: &Changing) -> Stream<'s, Tick, Batch> {
    let (codec, schema) = (table.codec(), event_schema(&table.schema));
    rows.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Batches", |_, _| {
        move |input, output| {
            input.for_each(|time, updates| {
                let rows = codec.decode(updates.iter().map(|(row, ..)| row)).expect("rows of the schema");
                let ticks = UInt64Array::from_iter_values(updates.iter().map(|(_, tick, _)| *tick));
                let mut columns = rows.columns().to_vec();
                columns.push(Arc::new(ticks));
                let rows = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
                output.session(&time).give_container(&mut rows.into());
            });
        }
    })
}

/// What came out of a view, and its faults.
#[derive(Debug, Default)]
pub struct Output {
    pub rows: Vec<(Row, Tick, Diff)>,
    pub faults: Vec<(Row, Tick, Diff)>,
}

impl Output {
    /// The content at a tick as text, ordered.
    pub fn at(&self, node: &Node, tick: Tick) -> Vec<String> {
        let mut rows: BTreeMap<&Row, Diff> = BTreeMap::new();
        for (row, _, diff) in self.rows.iter().filter(|(_, at, _)| *at <= tick) {
            *rows.entry(row).or_default() += diff;
        }
        assert!(rows.values().all(|count| *count >= 0), "a row is there less than never at {tick}");
        let all = rows.iter().flat_map(|(row, count)| std::iter::repeat_n(*row, *count as usize));
        let codec = Codec::new(node.schema.clone()).expect("types with a row format");
        texts(&[codec.decode(all.collect::<Vec<_>>()).expect("rows of the plan")])
    }

    pub fn faults_at(&self, tick: Tick) -> Vec<(Fault, Diff)> {
        let mut faults: BTreeMap<Fault, Diff> = BTreeMap::new();
        for (row, _, diff) in self.faults.iter().filter(|(_, at, _)| *at <= tick) {
            *faults.entry(Fault::of(row)).or_default() += diff;
        }
        faults.into_iter().filter(|(_, count)| *count != 0).collect()
    }
}

/// One step, after which a worker that has nothing to do leaves the processor to one that has.
fn step(worker: &mut Worker) {
    worker.step();
    if worker.peers() > 1 {
        std::thread::yield_now();
    }
}

/// Runs the plans in one dataflow on `workers` workers.
pub fn run(tables: &[Changing], plans: &[Arc<Node>], workers: usize) -> Vec<Output> {
    measured(tables, plans, workers).0
}

/// The same, and what the operators say that they keep at the end.
pub fn measured(tables: &[Changing], plans: &[Arc<Node>], workers: usize) -> (Vec<Output>, Size) {
    let usage = Arc::new(Usage::new(workers));
    let told = usage.clone();
    let outputs: Arc<Vec<Mutex<Output>>> = Arc::new(plans.iter().map(|_| Mutex::default()).collect());
    let (shared, tables, plans) = (outputs.clone(), tables.to_vec(), plans.to_vec());
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let shared = shared.clone();
        let mut handles: Vec<InputHandle<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>>> = Vec::new();
        let probe = timely::dataflow::ProbeHandle::new();
        worker.dataflow::<Tick, _, _>(|scope| {
            let mut inputs = HashMap::new();
            for table in &tables {
                let mut handle = InputHandle::new();
                let stream = scope.input_from(&mut handle);
                let events = plans.iter().any(|plan| reads_events(plan, &table.name));
                let input = match events {
                    true => Rendered::Events(batches(stream, table)),
                    false => Rendered::Table(stream.as_collection()),
                };
                inputs.insert(table.name.clone(), input);
                handles.push(handle);
            }
            for (place, plan) in plans.iter().enumerate() {
                let mut builder = Builder::measured(scope, inputs.clone(), usage.clone());
                let table = match builder.render(plan).expect("the plan can be built") {
                    Rendered::Table(table) => table,
                    Rendered::Events(_) => panic!("tables give tables"),
                };
                let (rows, faults) = (shared.clone(), shared.clone());
                table
                    .inner
                    .inspect(move |update| rows[place].lock().expect("nobody panics with it").rows.push(update.clone()))
                    .probe_with(&probe);
                builder
                    .faults()
                    .inner
                    .inspect(move |update| {
                        faults[place].lock().expect("nobody panics with it").faults.push(update.clone())
                    })
                    .probe_with(&probe);
            }
        });
        let ticks = ticks(&tables);
        let end = ticks.last().copied().unwrap_or_default() + AFTERWARDS + 1;
        for (round, tick) in ticks.into_iter().enumerate() {
            for (table, handle) in tables.iter().zip(&mut handles) {
                handle.advance_to(tick);
                let mine = table.changes.iter().enumerate();
                let mine = mine.filter(|(place, (at, ..))| *at == tick && place % peers == index);
                mine.for_each(|(_, (at, row, diff))| handle.send((row.clone(), *at, *diff)));
            }
            // Now and then several ticks at once, as after a pause.
            if round % 3 != 1 {
                handles.iter_mut().for_each(|handle| handle.advance_to(tick + 1));
                while probe.less_than(&(tick + 1)) {
                    step(worker);
                }
            }
        }
        handles.iter_mut().for_each(|handle| handle.advance_to(end));
        while probe.less_than(&end) {
            step(worker);
        }
    })
    .expect("workers start");
    guards.join().into_iter().for_each(|ended| ended.expect("no worker panics"));
    let outputs = Arc::try_unwrap(outputs).expect("the workers have ended");
    let outputs = outputs.into_iter().map(|output| output.into_inner().expect("nobody panics with it")).collect();
    (outputs, told.total())
}

/// Rows as text, ordered. Numbers are rounded to what different orders of addition agree on.
pub fn texts(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<String>> = batch.columns().iter().map(column).collect();
        rows.extend(
            (0..batch.num_rows())
                .map(|row| columns.iter().map(|column| column[row].as_str()).collect::<Vec<_>>().join(" | ")),
        );
    }
    rows.sort_unstable();
    rows
}

fn column(values: &ArrayRef) -> Vec<String> {
    if *values.data_type() == DataType::Float64 {
        let values = values.as_primitive::<Float64Type>();
        return values
            .iter()
            .map(|value| value.map_or("null".into(), |value| format!("{:.9e}", value + 0.0)))
            .collect();
    }
    let options = FormatOptions::default().with_null("null");
    let formatter = ArrayFormatter::try_new(values.as_ref(), &options).expect("a type that can be shown");
    (0..values.len()).map(|row| formatter.value(row).to_string()).collect()
}
