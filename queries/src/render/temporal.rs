//! Rows that are there between two times: they come and leave by themselves as ticks pass.
//!
//! Invariant: a row leaves at its tick also when nothing arrives. A row that is never there again is not kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use datafusion::error::Result;
use differential_dataflow::AsCollection;
use differential_dataflow::consolidation::consolidate;
use operators::row::{Codec, Diff, Row};
use operators::time::{Tick, take_before};
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::evaluate::Stage;
use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::{Fault, Table};
use crate::plan::Bound;

/// One bound in ticks.
struct Limit {
    until: bool,
    including: bool,
    /// Units of the timestamp in a millisecond; less than one as its inverse, negative.
    unit: i64,
}

impl Limit {
    fn new(bound: &Bound, schema: &SchemaRef) -> Result<Self> {
        let unit = match bound.at.data_type(schema)? {
            DataType::Timestamp(TimeUnit::Second, _) => -1_000,
            DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
            DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000,
            _ => 1,
        };
        Ok(Self { until: bound.until, including: bound.including, unit })
    }

    /// The first tick at which the row is there, or is not any more.
    fn tick(&self, at: i64) -> i64 {
        let (at, unit) = if self.unit < 0 { (at.saturating_mul(-self.unit), 1) } else { (at, self.unit) };
        let floor = at.div_euclid(unit);
        let ceiling = floor + i64::from(at.rem_euclid(unit) != 0);
        match (self.until, self.including) {
            (true, false) | (false, true) => ceiling,
            (true, true) | (false, false) => floor.saturating_add(1),
        }
    }
}

/// What comes and leaves at one tick to come.
#[derive(Default)]
struct Timer {
    changes: Vec<(Row, Diff)>,
    size: Size,
    /// How many there were when last those were removed that cancel out.
    tidy: usize,
}

impl Timer {
    /// Rows that come and go again and again before their time cost no more than those that are there. Tells by what it keeps
    /// more.
    fn add(&mut self, row: Row, diff: Diff) -> Size {
        let before = self.size;
        self.size += Size::of(&row);
        self.changes.push((row, diff));
        if self.changes.len() >= 64.max(self.tidy * 2) {
            consolidate(&mut self.changes);
            self.tidy = self.changes.len();
            self.size = self.changes.iter().fold(Size::default(), |sum, (row, _)| sum + Size::of(row));
        }
        self.size + -before
    }
}

/// The rows of `table` while all bounds hold.
pub fn temporal<'s>(
    table: Table<'s>,
    schema: &SchemaRef,
    bounds: &[Bound],
    gauge: Arc<Gauge>,
) -> Result<(Table<'s>, Table<'s>)> {
    let codec = Codec::new(schema.clone())?;
    let limits = bounds.iter().map(|bound| Limit::new(bound, schema)).collect::<Result<Vec<_>>>()?;
    let stage = Stage { filter: None, columns: bounds.iter().map(|bound| bound.at.clone()).collect() };
    let mut builder = OperatorBuilder::new("Temporal".into(), table.inner.scope());
    let mut input = builder.new_input(table.inner, Pipeline);
    let (mut outputs, rows, faults) = Outputs::add(&mut builder);
    builder.build(move |_| {
        let mut timers: BTreeMap<Tick, Timer> = BTreeMap::new();
        let mut held: Option<Capability<Tick>> = None;
        let mut newest: Tick = 0;
        let mut size = Size::default();
        move |frontiers| {
            input.for_each(|time, updates| {
                let batch = codec.decode(updates.iter().map(|(row, ..)| row)).expect("rows of the plan");
                let done = stage.evaluate(&batch).expect("columns of the plan");
                let at = |row: u32| (updates[row as usize].1, updates[row as usize].2);
                outputs.faults(&time.retain(1), Fault::rows("Temporal", &done.failed, at));
                let columns: Vec<ArrayRef> =
                    done.columns.iter().map(|column| cast(column, &DataType::Int64).expect("a timestamp")).collect();
                for (index, row) in done.rows.iter().enumerate() {
                    let (data, tick, diff) = &updates[*row as usize];
                    newest = newest.max(*tick);
                    let Some((from, until)) = span(&columns, &limits, index, *tick) else { continue };
                    size += timers.entry(from).or_default().add(data.clone(), *diff);
                    if let Some(until) = until {
                        size += timers.entry(until).or_default().add(data.clone(), -diff);
                    }
                }
                if held.as_ref().is_none_or(|held| *time.time() < *held.time()) {
                    held = Some(time.retain(0));
                }
            });
            let upto = frontiers[0].frontier().first().copied();
            let Some(capability) = &mut held else { return };
            // Input that has ended moves time no more: what has not left by its last tick stays.
            let upto = upto.unwrap_or(newest + 1);
            let mut due: Updates = Vec::new();
            for (tick, Timer { mut changes, size: gone, .. }) in take_before(&mut timers, upto) {
                size -= gone;
                consolidate(&mut changes);
                due.extend(changes.into_iter().map(|(row, diff)| (row, tick, diff)));
            }
            outputs.rows(capability, due);
            gauge.set(size);
            match timers.first_key_value() {
                Some((next, _)) if !frontiers[0].is_empty() => {
                    let next = *next.max(capability.time());
                    capability.downgrade(&next);
                }
                _ => held = None,
            }
        }
    });
    Ok((rows.as_collection(), faults))
}

/// From and until which tick a row is there that came at `tick`.
fn span(columns: &[ArrayRef], limits: &[Limit], row: usize, tick: Tick) -> Option<(Tick, Option<Tick>)> {
    let (mut from, mut until) = (tick as i64, i64::MAX);
    for (column, limit) in columns.iter().zip(limits) {
        if column.is_null(row) {
            return None;
        }
        let at = limit.tick(column.as_primitive::<Int64Type>().value(row));
        if limit.until {
            until = until.min(at);
        } else {
            from = from.max(at);
        }
    }
    (from < until).then_some((from as Tick, (until != i64::MAX).then_some(until as Tick)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_before_its_time_is_not_kept() {
        let mut timer = Timer::default();
        for number in 0..10_000u32 {
            let row = Row::new(&number.to_be_bytes());
            timer.add(row.clone(), -1);
            timer.add(row, 1);
        }
        assert!(timer.changes.len() <= 64, "{} changes", timer.changes.len());
        assert_eq!(timer.size.rows as usize, timer.changes.len());
    }
}
