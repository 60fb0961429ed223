//! Views over events that only come, some of them late, and what they meet. Catches: a pair that is lost because one of the two
//! had left too early, or that is there although one was late; state of the wrong time; answers that depend on how the log was
//! cut into batches or on the number of workers.

mod alone;
mod corrected;
mod history;
mod meeting;
mod play;

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Int64Array, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use operators::row::{Codec, Row};
use operators::time::Tick;
use queries::catalog::{Catalog, Relation, View};
use queries::plan::Kind;

use crate::generate::Random;
use crate::harness::Changing;

/// Ticks at which something comes.
const ROUNDS: u64 = 40;

fn tick(round: u64) -> Tick {
    10_000 + round * 10
}

/// Columns that are whole numbers but for `ts`.
fn schema(columns: &[&str]) -> Arc<Schema> {
    let kind = |name: &str| match name {
        "ts" => DataType::Timestamp(TimeUnit::Millisecond, None),
        _ => DataType::Int64,
    };
    Arc::new(Schema::new(columns.iter().map(|name| Field::new(*name, kind(name), true)).collect::<Vec<_>>()))
}

fn row(schema: &Arc<Schema>, values: &[Option<i64>]) -> Row {
    let column = |(field, value): (&Arc<Field>, &Option<i64>)| -> ArrayRef {
        match field.data_type() {
            DataType::Int64 => Arc::new(Int64Array::from(vec![*value])),
            _ => Arc::new(TimestampMillisecondArray::from(vec![*value])),
        }
    };
    let columns: Vec<ArrayRef> = schema.fields().iter().zip(values).map(column).collect();
    let codec = Codec::new(schema.clone()).expect("types with a row format");
    codec.encode(&columns, 1).expect("the columns").pop().expect("one row")
}

/// Events: an id, a key, their time and a number. Most are a little late, some very, some ahead of their time.
struct Events {
    changing: Changing,
    /// Id, key, time and number by the place of the change.
    values: Vec<[Option<i64>; 4]>,
}

impl Events {
    fn new(random: &mut Random, name: &str, columns: &[&str]) -> Self {
        let schema = schema(columns);
        let (mut changes, mut all) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            for _ in 0..random.below(5) {
                let delay = match random.below(10) {
                    0 => -(random.below(60) as i64),
                    1 => 60 + random.below(200) as i64,
                    _ => random.below(60) as i64,
                };
                let time = (!random.chance(4)).then(|| tick(round) as i64 - delay);
                let key = (!random.chance(4)).then(|| random.below(4) as i64);
                let values = [Some(all.len() as i64), key, time, Some(random.below(8) as i64)];
                changes.push((tick(round), row(&schema, &values), 1));
                all.push(values);
            }
        }
        Self { changing: Changing { name: name.to_owned(), schema, changes }, values: all }
    }

    /// Those that came in time, and the ticks of the others.
    fn in_time(&self, retention_ms: i64) -> (Changing, Vec<Tick>) {
        let (mut there, mut late) = (self.changing.clone(), Vec::new());
        there.changes.clear();
        for (change, [_, _, time, _]) in self.changing.changes.iter().zip(&self.values) {
            if time.is_some_and(|time| time + retention_ms <= change.0 as i64) {
                late.push(change.0);
            } else {
                there.changes.push(change.clone());
            }
        }
        (there, late)
    }
}

/// Rows of a table with the ticks since and until which they are there.
fn versions(table: &Changing) -> Vec<(Row, Tick, Tick)> {
    let mut all: Vec<(Row, Tick, Tick)> = Vec::new();
    for (tick, row, diff) in &table.changes {
        if *diff > 0 {
            all.push((row.clone(), *tick, Tick::MAX));
        } else {
            let gone = all.iter_mut().find(|(there, _, until)| there == row && *until == Tick::MAX);
            gone.expect("a row that is there").2 = *tick;
        }
    }
    all
}

/// The same as a table `v` for the batch: all of it is there from the beginning.
fn versions_table(table: &Changing) -> Changing {
    let schema = schema(&["k", "n", "since", "until"]);
    let bounds = self::schema(&["since", "until"]);
    let whole = |(version, since, until): (Row, Tick, Tick)| {
        let until = i64::try_from(until).unwrap_or(i64::MAX);
        (0, version.and(&row(&bounds, &[Some(since as i64), Some(until)])), 1)
    };
    Changing { name: "v".to_owned(), schema, changes: versions(table).into_iter().map(whole).collect() }
}

/// A table by its key `k`, whose rows come, change and go.
fn table(random: &mut Random, name: &str, keys: usize) -> Changing {
    let schema = schema(&["k", "n"]);
    let mut there: Vec<Option<Row>> = vec![None; keys];
    let mut changes = Vec::new();
    for round in 0..ROUNDS {
        for (key, there) in there.iter_mut().enumerate() {
            if !random.chance(25) {
                continue;
            }
            changes.extend(there.take().map(|row| (tick(round), row, -1)));
            if !random.chance(40) {
                let new = row(&schema, &[Some(key as i64), Some(random.below(8) as i64)]);
                changes.push((tick(round), new.clone(), 1));
                *there = Some(new);
            }
        }
    }
    Changing { name: name.to_owned(), schema, changes }
}

/// The view over these inputs.
fn view(inputs: &[(&Changing, Kind)], text: &str) -> View {
    let relation = |(input, kind): &(&Changing, Kind)| Relation {
        name: input.name.clone(),
        schema: input.schema.clone(),
        kind: *kind,
        key: Vec::new(),
        access: None,
    };
    let catalog = Catalog::new(inputs.iter().map(relation).collect());
    catalog.plan(text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}
