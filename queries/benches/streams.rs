//! What derived streams cost: `cargo bench --workspace --bench streams`. Ratios in one run, for the machine is noisy.
//!
//! `map`: a stateless view beside the same by hand. `group`: counts per company and minute, and the state at 1×, 10× and 100×
//! the events. `join`: three tables of a million rows, 0.1 %, 1 % and 10 % of them changed at a time. `share`: one view over
//! a join, and a hundred over the same.

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Float64Builder, RecordBatch, StringViewArray, StringViewBuilder,
    TimestampMillisecondArray, UInt64Array,
};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef, TimeUnit};
use differential_dataflow::AsCollection;
use operators::batch::{Batch, TICK};
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use queries::catalog::{Catalog, Relation};
use queries::plan::{Kind, Node};
use queries::render::{Builder, Rendered, event_schema};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};
use timely::worker::Worker;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROWS: usize = 4_096;

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|word| word == name);
    if wanted("map") {
        map();
    }
    if wanted("group") {
        group();
    }
    if wanted("join") {
        join();
    }
    if wanted("share") {
        share();
    }
}

fn field(name: &str, kind: DataType) -> Field {
    Field::new(name, kind, true)
}

fn events() -> SchemaRef {
    Arc::new(Schema::new(vec![
        field("device_id", DataType::Utf8View),
        field("company_id", DataType::Utf8View),
        field("speed_kmh", DataType::Float64),
        field("fuel_level_pct", DataType::Float64),
        field("ts", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ]))
}

/// A batch of events at one tick, `from` numbering them on.
fn batch(from: usize, tick: Tick) -> RecordBatch {
    let numbers = || from..from + ROWS;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(numbers().map(|n| format!("d-{:06}", n % 100_000)))),
        Arc::new(StringViewArray::from_iter_values(numbers().map(|n| format!("c-{:05}", n * 7 % 500)))),
        Arc::new(numbers().map(|n| Some((n * 13 % 1_400) as f64 / 10.0)).collect::<Float64Array>()),
        Arc::new(numbers().map(|n| Some((n % 1_000) as f64 / 10.0)).collect::<Float64Array>()),
        Arc::new(TimestampMillisecondArray::from_iter_values(
            numbers().map(|n| tick as i64 - (n * 31 % 90_000) as i64),
        )),
        Arc::new(UInt64Array::from(vec![tick; ROWS])),
    ];
    RecordBatch::try_new(event_schema(&events()), columns).expect("the columns")
}

fn catalog(relations: &[(&str, SchemaRef, Kind)]) -> Catalog {
    let relation = |(name, schema, kind): &(&str, SchemaRef, Kind)| Relation {
        name: (*name).to_owned(),
        schema: schema.clone(),
        kind: *kind,
        key: Vec::new(),
        access: None,
    };
    Catalog::new(relations.iter().map(relation).collect())
}

fn planned(catalog: &Catalog, sql: &str) -> Arc<Node> {
    catalog.plan(sql).unwrap_or_else(|why| panic!("{why}")).node
}

type Events = InputHandle<Tick, CapacityContainerBuilder<Batch>>;

/// One worker's dataflow of a view over events.
fn over_events(worker: &mut Worker, node: &Arc<Node>) -> (Events, ProbeHandle<Tick>) {
    let probe = ProbeHandle::new();
    let handle = worker.dataflow::<Tick, _, _>(|scope| {
        let mut handle = Events::new_with_builder();
        let stream = scope.input_from(&mut handle);
        let inputs = HashMap::from([("e".to_owned(), Rendered::Events(stream))]);
        match Builder::new(scope, inputs).render(node).expect("a plan") {
            Rendered::Events(stream) => drop(stream.probe_with(&probe)),
            Rendered::Table(table) => drop(table.inner.probe_with(&probe)),
        }
        handle
    });
    (handle, probe)
}

fn run(
    worker: &mut Worker,
    input: &mut Events,
    probe: &ProbeHandle<Tick>,
    batches: &[RecordBatch],
    first: Tick,
) -> f64 {
    let started = Instant::now();
    for (n, rows) in batches.iter().enumerate() {
        input.send_batch(&mut Batch::from(rows.clone()));
        input.advance_to(first + n as Tick + 1);
        while probe.less_than(input.time()) {
            worker.step();
        }
    }
    started.elapsed().as_secs_f64()
}

fn map() {
    let catalog = catalog(&[("e", events(), Kind::Events)]);
    let sql =
        "CREATE VIEW fast AS SELECT device_id, company_id, speed_kmh * 0.621371 AS mph FROM e WHERE speed_kmh > 70";
    let node = planned(&catalog, sql);
    timely::execute_directly(move |worker| {
        let batches: Vec<RecordBatch> = (0..200).map(|n| batch(n * ROWS, n as Tick + 1)).collect();
        let (mut input, probe) = over_events(worker, &node);
        input.advance_to(1);
        let (mut ours, mut hand) = (f64::MAX, f64::MAX);
        for round in 0..5u64 {
            let first = 1 + round * 200;
            let now: Vec<RecordBatch> =
                batches.iter().enumerate().map(|(n, rows)| at_tick(rows, first + n as Tick)).collect();
            ours = ours.min(run(worker, &mut input, &probe, &now, first));
            let started = Instant::now();
            now.iter().for_each(|rows| drop(black_box(by_hand(rows))));
            hand = hand.min(started.elapsed().as_secs_f64());
        }
        let events = (batches.len() * ROWS) as f64;
        println!(
            "map: {:.1} M events/s, by hand {:.1}: {:.0} % (goal 50)",
            events / ours / 1e6,
            events / hand / 1e6,
            hand / ours * 100.0
        );
    });
}

fn at_tick(rows: &RecordBatch, tick: Tick) -> RecordBatch {
    let mut columns = rows.columns().to_vec();
    *columns.last_mut().expect("the tick") = Arc::new(UInt64Array::from(vec![tick; rows.num_rows()]));
    RecordBatch::try_new(rows.schema(), columns).expect("the same columns")
}

/// What somebody would write for this one view.
fn by_hand(rows: &RecordBatch) -> RecordBatch {
    let (devices, companies) = (rows.column(0).as_string_view(), rows.column(1).as_string_view());
    let speeds = rows.column(2).as_primitive::<Float64Type>();
    let ticks = rows.column(5).as_primitive::<datafusion::arrow::datatypes::UInt64Type>();
    let (mut device, mut company) = (StringViewBuilder::new(), StringViewBuilder::new());
    let (mut mph, mut tick) = (Float64Builder::new(), UInt64Array::builder(ROWS));
    for row in 0..rows.num_rows() {
        if speeds.is_valid(row) && speeds.value(row) > 70.0 {
            device.append_value(devices.value(row));
            company.append_value(companies.value(row));
            mph.append_value(speeds.value(row) * 0.621371);
            tick.append_value(ticks.value(row));
        }
    }
    let columns: Vec<ArrayRef> =
        vec![Arc::new(device.finish()), Arc::new(company.finish()), Arc::new(mph.finish()), Arc::new(tick.finish())];
    let names = Schema::new(vec![
        field("device_id", DataType::Utf8View),
        field("company_id", DataType::Utf8View),
        field("mph", DataType::Float64),
        field(TICK, DataType::UInt64),
    ]);
    RecordBatch::try_new(Arc::new(names), columns).expect("the columns")
}

fn group() {
    let catalog = catalog(&[("e", events(), Kind::Events)]);
    let sql = "CREATE MATERIALIZED VIEW per_minute WITH (retention = '5 minutes') AS SELECT company_id, \
               date_bin(interval '1 minute', ts) AS minute, count(*) AS n, avg(speed_kmh) AS mean, max(speed_kmh) AS top \
               FROM e GROUP BY 1, 2";
    let node = planned(&catalog, sql);
    timely::execute_directly(move |worker| {
        let (mut input, probe) = over_events(worker, &node);
        let start = 1_000_000;
        input.advance_to(start);
        let batches: Vec<RecordBatch> = (0..50).map(|n| batch(n * ROWS, start + n as Tick)).collect();
        run(worker, &mut input, &probe, &batches, start);
        let base = resident_mb();
        let mut done = 50u64;
        for (times, rounds) in [(1, 4u64), (10, 36), (100, 360)] {
            let mut seconds = 0.0;
            for _ in 0..rounds {
                let first = start + done;
                let now: Vec<RecordBatch> =
                    batches.iter().enumerate().map(|(n, rows)| at_tick(rows, first + n as Tick)).collect();
                seconds += run(worker, &mut input, &probe, &now, first);
                done += 50;
            }
            let events = rounds as f64 * 50.0 * ROWS as f64;
            println!(
                "group: {times:>3} x: {:.2} M events/s a worker (goal 1.5), resident {:.0} MB more than at the start",
                events / seconds / 1e6,
                resident_mb() - base
            );
        }
    });
}

fn resident_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

type Rows = InputHandle<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>>;

fn two(first: &str, second: &str) -> SchemaRef {
    let int = |name: &str| field(name, DataType::Int64);
    Arc::new(Schema::new(vec![int(first), int(second)]))
}

fn row(codec: &Codec, first: i64, second: i64) -> Row {
    let column = |value| Arc::new(datafusion::arrow::array::Int64Array::from(vec![value])) as ArrayRef;
    codec.encode(&[column(first), column(second)], 1).expect("the columns").pop().expect("one row")
}

/// A dataflow of views over three tables, filled with `rows` rows each.
struct Tables {
    handles: Vec<Rows>,
    probe: ProbeHandle<Tick>,
    codec: Codec,
    tick: Tick,
    rows: i64,
}

const TABLES: [(&str, &str, &str); 3] = [("v", "id", "d"), ("d", "id", "c"), ("c", "id", "x")];

impl Tables {
    fn new(worker: &mut Worker, nodes: &[Arc<Node>], rows: i64) -> Self {
        let probe = ProbeHandle::new();
        let handles = worker.dataflow::<Tick, _, _>(|scope| {
            let mut handles = Vec::new();
            let mut inputs = HashMap::new();
            for (name, ..) in TABLES {
                let mut handle = Rows::new();
                inputs.insert(name.to_owned(), Rendered::Table(scope.input_from(&mut handle).as_collection()));
                handles.push(handle);
            }
            let mut builder = Builder::new(scope, inputs);
            for node in nodes {
                if let Rendered::Table(table) = builder.render(node).expect("a plan") {
                    table.inner.probe_with(&probe);
                }
            }
            handles
        });
        let codec = Codec::new(two("a", "b")).expect("numbers");
        let mut tables = Self { handles, probe, codec, tick: 1, rows };
        for table in 0..3 {
            for id in 0..rows {
                let row = row(&tables.codec, id, id * 7 % rows);
                tables.handles[table].send((row, 1, 1));
            }
        }
        tables.close(worker);
        tables
    }

    fn close(&mut self, worker: &mut Worker) {
        self.tick += 1;
        self.handles.iter_mut().for_each(|handle| handle.advance_to(self.tick));
        while self.probe.less_than(&self.tick) {
            worker.step();
        }
    }

    /// Moves that many rows of the first table to another driver, and back; seconds of the tick.
    fn change(&mut self, worker: &mut Worker, count: i64) -> f64 {
        let mut seconds = f64::MAX;
        for round in 0..4 {
            for n in 0..count {
                let id = n * (self.rows / count);
                let (one, other) = (id * 7 % self.rows, (id * 7 + 1) % self.rows);
                let (old, new) = if round % 2 == 0 { (one, other) } else { (other, one) };
                let (old, new) = (row(&self.codec, id, old), row(&self.codec, id, new));
                self.handles[0].send((old, self.tick, -1));
                self.handles[0].send((new, self.tick, 1));
            }
            let started = Instant::now();
            self.close(worker);
            seconds = seconds.min(started.elapsed().as_secs_f64());
        }
        seconds
    }
}

fn three() -> Catalog {
    catalog(&TABLES.map(|(name, first, second)| (name, two(first, second), Kind::Table)))
}

const JOIN: &str = "v JOIN d ON v.d = d.id JOIN c ON d.c = c.id";

fn join() {
    let sql = format!("CREATE MATERIALIZED VIEW j AS SELECT v.id AS v, d.id AS d, c.x AS x FROM {JOIN}");
    let node = planned(&three(), &sql);
    timely::execute_directly(move |worker| {
        let rows = 1_000_000;
        let started = Instant::now();
        let mut tables = Tables::new(worker, &[node], rows);
        println!(
            "join: three tables of {rows} rows filled in {:.1} s, {:.0} MB",
            started.elapsed().as_secs_f64(),
            resident_mb()
        );
        for per_mille in [1, 10, 100] {
            let count = rows * per_mille / 1_000;
            let seconds = tables.change(worker, count);
            println!(
                "join: {:>4.1} % changed: {:.1} ms, {:.2} us a changed row",
                per_mille as f64 / 10.0,
                seconds * 1e3,
                seconds * 1e6 / count as f64
            );
        }
    });
}

fn share() {
    let catalog = three();
    let view = |n: usize| {
        let sql = format!(
            "CREATE MATERIALIZED VIEW j{n} AS SELECT v.id AS v, c.x AS x FROM {JOIN} WHERE v.id % 100 = {n} AND c.x > {n}"
        );
        planned(&catalog, &sql)
    };
    let one = vec![view(0)];
    let hundred: Vec<Arc<Node>> = (0..100).map(view).collect();
    timely::execute_directly(move |worker| {
        let mut cost = Vec::new();
        for nodes in [&one, &hundred] {
            let before = resident_mb();
            let mut tables = Tables::new(worker, nodes, 100_000);
            let seconds = tables.change(worker, 1_000);
            println!(
                "share: {:>3} views over one join: {:.1} ms for 1,000 changed rows, {:.0} MB",
                nodes.len(),
                seconds * 1e3,
                resident_mb() - before
            );
            cost.push(seconds);
        }
        println!("share: a hundred cost {:.1} x one (goal 3, for the shared part)", cost[1] / cost[0]);
    });
}
