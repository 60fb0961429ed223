//! Relations in memory that a test changes as it likes, each change at the next tick.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use datafusion::arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::arrow::record_batch::RecordBatch;
use operators::time::Tick;

use super::*;

/// The relations.
#[derive(Default)]
pub struct Changing(Mutex<State>);

#[derive(Default)]
struct State {
    tick: Tick,
    relations: BTreeMap<Name, (Relation, Vec<RecordBatch>)>,
}

impl Changing {
    /// Makes a relation, without rows.
    pub fn make(&self, name: Name, kind: Kind, key: &[&str], schema: SchemaRef) {
        let key = key.iter().map(|column| (*column).to_owned()).collect();
        let access = schema.index_of("company_id").ok().map(|_| "company_id".to_owned());
        let relation = Relation { name: name.clone(), schema, key, access, kind };
        self.0.lock().unwrap().relations.insert(name, (relation, Vec::new()));
    }

    /// Removes it.
    pub fn forget(&self, name: &Name) {
        self.0.lock().unwrap().relations.remove(name);
    }

    /// Gives all of these their rows at the next tick.
    pub fn set(&self, rows: Vec<(&Name, Vec<RecordBatch>)>) {
        let mut state = self.0.lock().unwrap();
        state.tick += 10;
        for (name, batches) in rows {
            state.relations.get_mut(name).unwrap().1 = batches;
        }
    }
}

impl Relations for Changing {
    fn list(&self) -> Vec<Relation> {
        self.0.lock().unwrap().relations.values().map(|(relation, _)| relation.clone()).collect()
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let state = self.0.lock().unwrap();
        let of = |name: &Name| {
            let (relation, batches) = state.relations.get(name)?;
            Some(Snapshot { as_of: state.tick, access: relation.access.clone(), batches: batches.clone() })
        };
        names.iter().map(of).collect()
    }
}

/// Columns of [`speeds`].
pub fn speeds_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("company_id", DataType::Utf8, false),
        Field::new("hour", DataType::Int64, false),
        Field::new("top_speed", DataType::Float64, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]))
}

/// So many rows, the n-th of company `c<n mod 10>` and hour n.
pub fn speeds(count: i64) -> RecordBatch {
    let numbers: Vec<i64> = (0..count).collect();
    let companies: Vec<String> = numbers.iter().map(|n| format!("c{}", n % 10)).collect();
    let tops: Vec<Option<f64>> = numbers.iter().map(|n| (n % 7 != 6).then_some(*n as f64 / 2.0)).collect();
    let at: Vec<i64> = numbers.iter().map(|n| 1_700_000_000_000 + n * 1_000).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(companies)),
        Arc::new(Int64Array::from(numbers)),
        Arc::new(Float64Array::from(tops)),
        Arc::new(TimestampMillisecondArray::from(at)),
    ];
    RecordBatch::try_new(speeds_schema(), columns).unwrap()
}

/// A view `speeds` of 20 rows with the key company and hour, a table `tariffs` of none, and `haulstream.streams` of 3.
pub fn small() -> Arc<Changing> {
    let all = Changing::default();
    let view = Name::new(PUBLIC, "speeds");
    all.make(view.clone(), Kind::View, &["company_id", "hour"], speeds_schema());
    let tariff = Schema::new(vec![
        Field::new("tariff_id", DataType::Utf8, false),
        Field::new("limit_kmh", DataType::Int32, true),
    ]);
    all.make(Name::new(PUBLIC, "tariffs"), Kind::Table, &["tariff_id"], Arc::new(tariff));
    let streams = Name::new(SYSTEM, "streams");
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("rows", DataType::UInt64, false),
    ]));
    all.make(streams.clone(), Kind::System, &["name"], schema.clone());
    let names = StringArray::from(vec!["a", "b", "c"]);
    let counts = datafusion::arrow::array::UInt64Array::from(vec![1, 2, 3]);
    let rows = RecordBatch::try_new(schema, vec![Arc::new(names), Arc::new(counts)]).unwrap();
    all.set(vec![(&view, vec![speeds(20)]), (&streams, vec![rows])]);
    Arc::new(all)
}

/// Room for all that a test asks.
pub const ROOMY: Options = Options {
    question: question::Options { memory_bytes_max: 64 << 20, rows_max: 1_000, time_ms_max: 30_000, threads: 2 },
    questions_max: 4,
};
