//! The rows that have to do with a key.
//!
//! Invariant: a row for which a condition cannot be computed stays: it may be of the key, and its fault is the answer.

use datafusion::arrow::array::{Array, BooleanArray, RecordBatch};
use datafusion::error::Result;

use crate::plan::lineage::Condition;
use crate::render::evaluate::Stage;

/// Conditions, and for how many rows each held.
pub struct Sieve {
    conditions: Vec<(Stage, Condition)>,
    /// For each condition.
    pub held: Vec<i64>,
    /// All rows.
    pub seen: i64,
}

impl Sieve {
    pub fn new(conditions: &[Condition]) -> Self {
        let with_stage =
            |condition: &Condition| (Stage::columns(std::slice::from_ref(&condition.of)), condition.clone());
        let held = vec![0; conditions.len()];
        Self { conditions: conditions.iter().map(with_stage).collect(), held, seen: 0 }
    }

    /// Which rows stay; each counts as often as it comes.
    pub fn stays(&mut self, rows: &RecordBatch, count: impl Fn(usize) -> i64) -> Result<BooleanArray> {
        let mut stays = vec![true; rows.num_rows()];
        self.seen += (0..rows.num_rows()).map(&count).sum::<i64>();
        for ((stage, condition), held) in self.conditions.iter().zip(&mut self.held) {
            let done = stage.evaluate(rows)?;
            let Some(values) = done.columns.first() else { continue };
            let holds = condition.holds(values)?;
            for (place, row) in done.rows.iter().map(|row| *row as usize).enumerate() {
                let holds = holds.is_valid(place) && holds.value(place);
                stays[row] &= holds;
                *held += if holds { count(row) } else { 0 };
            }
        }
        Ok(stays.into())
    }
}
