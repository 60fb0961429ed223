//! Random tables, changes and queries.

mod aggregate;
mod join;
mod relation;
mod scalar;
mod window;

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use operators::row::{Codec, Row};

use crate::harness::Changing;

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Mixed, for streams that start at seeds next to each other would be the same but for their first numbers.
        Random(Random(seed).next())
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, per_cent: usize) -> bool {
        self.below(100) < per_cent
    }

    /// The same in another order.
    pub fn shuffled<T: Clone>(&mut self, all: &[T]) -> Vec<T> {
        let mut all = all.to_vec();
        (1..all.len()).for_each(|at| all.swap(at, self.below(at + 1)));
        all
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Tables t, u and v, each with random changes at 12 ticks; half of the changes after the first are deletes.
pub fn tables(random: &mut Random, size: usize) -> Vec<Changing> {
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    let t = Schema::new(vec![
        int("a"),
        Field::new("s", DataType::Utf8View, true),
        float("f"),
        Field::new("b", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]);
    let u = Schema::new(vec![int("a"), float("n")]);
    let v = Schema::new(vec![float("n"), Field::new("m", DataType::Utf8View, true)]);
    [("t", t), ("u", u), ("v", v)].into_iter().map(|(name, schema)| changing(random, name, schema, size)).collect()
}

fn changing(random: &mut Random, name: &str, schema: Schema, size: usize) -> Changing {
    let schema = Arc::new(schema);
    let codec = Codec::new(schema.clone()).expect("types with a row format");
    let mut changes = Vec::new();
    let mut there: Vec<Row> = Vec::new();
    for round in 0..12u64 {
        let tick = 1_000 + round * 10;
        for _ in 0..random.below(size / 4 + 1) {
            if !there.is_empty() && random.chance(45) {
                let row = there.swap_remove(random.below(there.len()));
                changes.push((tick, row, -1));
            } else {
                let columns: Vec<ArrayRef> =
                    schema.fields().iter().map(|field| value(random, field.data_type())).collect();
                let row = codec.encode(&columns, 1).expect("the columns").pop().expect("one row");
                there.push(row.clone());
                changes.push((tick, row, 1));
            }
        }
    }
    Changing { name: name.to_owned(), schema, changes }
}

fn value(random: &mut Random, kind: &DataType) -> ArrayRef {
    let there = !random.chance(12);
    match kind {
        DataType::Int64 => Arc::new(Int64Array::from(vec![there.then(|| random.below(6) as i64)])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![there.then(|| random.below(24) as f64 * 0.25 - 1.0)])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![there.then(|| random.chance(50))])),
        DataType::Timestamp(..) => {
            Arc::new(TimestampMillisecondArray::from(vec![there.then(|| 900 + random.below(200) as i64)]))
        }
        _ => Arc::new(StringViewArray::from(vec![
            there.then(|| *random.of(&["p", "q", "r", "a long text, not inline"])),
        ])),
    }
}
