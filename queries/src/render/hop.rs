//! Hopping windows: each row once for each window that its time is in.
//!
//! Invariant: each row is worked on by itself, so nothing is kept. A row without a time is in no window.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, TimestampMillisecondArray, UInt32Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::TimestampMillisecondType;
use datafusion::error::Result;
use operators::batch::Batch;
use operators::row::Codec;
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use super::map::{each, event_schema, itself};
use super::{Builder, Rendered};
use crate::plan::Node;

/// About how many rows a batch of events becomes at most.
const ROWS_MAX: usize = 65_536;

/// Windows that start every `slide_ms` and are `size_ms` long.
#[derive(Clone, Copy)]
pub(super) struct Hop {
    pub slide_ms: i64,
    pub size_ms: i64,
}

impl Hop {
    /// Starts of the windows that a time is in, the latest first.
    fn starts(self, time: i64) -> impl Iterator<Item = i64> {
        let within = time.rem_euclid(self.slide_ms);
        let before = (0..).map(move |hops| within + hops * self.slide_ms).take_while(move |past| *past < self.size_ms);
        before.filter_map(move |past| time.checked_sub(past))
    }

    /// Which row each row that comes out is, and the start of its window.
    fn fan(self, times: &TimestampMillisecondArray) -> (Vec<u32>, ArrayRef) {
        let (mut rows, mut starts) = (Vec::new(), Vec::new());
        for row in (0..times.len()).filter(|row| times.is_valid(*row)) {
            for start in self.starts(times.value(row)) {
                rows.push(row as u32);
                starts.push(start);
            }
        }
        (rows, Arc::new(TimestampMillisecondArray::from(starts)))
    }

    /// The columns that come out, but for the last of the given ones: a time, in the place of which the starts are.
    fn columns(self, columns: &[ArrayRef]) -> Result<(Vec<u32>, Vec<ArrayRef>)> {
        let Some((times, others)) = columns.split_last() else { return Ok(Default::default()) };
        let (rows, starts) = self.fan(times.as_primitive::<TimestampMillisecondType>());
        let places = UInt32Array::from(rows.clone());
        let mut out = others.iter().map(|column| Ok(take(column, &places, None)?)).collect::<Result<Vec<_>>>()?;
        out.push(starts);
        Ok((rows, out))
    }
}

impl<'s> Builder<'s> {
    pub(super) fn hop(&mut self, node: &Arc<Node>, input: &Arc<Node>, hop: Hop) -> Result<Rendered<'s>> {
        match self.render(input)? {
            Rendered::Events(events) => Ok(Rendered::Events(hop_events(events, node, hop))),
            Rendered::Table(table) => {
                let (from, to) = (Codec::new(input.schema.clone())?, Codec::new(node.schema.clone())?);
                let (table, faults) = each(table, "Hop", itself, from, move |_, batch| {
                    let (rows, columns) = hop.columns(batch.columns())?;
                    let encoded = to.encode(&columns, rows.len())?;
                    Ok((rows.into_iter().zip(encoded).collect(), Vec::new()))
                });
                self.faults.push(faults);
                Ok(Rendered::Table(table))
            }
        }
    }
}

fn hop_events<'s>(events: Stream<'s, Tick, Batch>, node: &Node, hop: Hop) -> Stream<'s, Tick, Batch> {
    let schema = event_schema(&node.schema);
    let width = node.schema.fields().len();
    let windows = usize::try_from(hop.size_ms / hop.slide_ms).unwrap_or(0) + 1;
    let portion = (ROWS_MAX / windows).max(1);
    events.unary::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "HopEvents", |_, _| {
        move |input, output| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                for first in (0..rows.num_rows()).step_by(portion) {
                    let part = rows.slice(first, portion.min(rows.num_rows() - first));
                    let (places, mut columns) = hop.columns(&part.columns()[..width]).expect("columns of the plan");
                    if places.is_empty() {
                        continue;
                    }
                    let ticks = part.column(width);
                    columns.push(take(ticks, &UInt32Array::from(places), None).expect("rows of the batch"));
                    let out = RecordBatch::try_new(schema.clone(), columns).expect("columns of the plan");
                    output.session(&time).give_container(&mut out.into());
                }
            });
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_windows_that_have_begun_and_not_ended() {
        let starts = |slide_ms, size_ms, time| Hop { slide_ms, size_ms }.starts(time).collect::<Vec<_>>();
        assert_eq!(starts(10, 30, 25), [20, 10, 0]);
        assert_eq!(starts(10, 30, 20), [20, 10, 0]);
        assert_eq!(starts(10, 10, 29), [20]);
        assert_eq!(starts(10, 25, 24), [20, 10, 0]);
        assert_eq!(starts(10, 25, 25), [20, 10]);
        assert_eq!(starts(10, 20, -5), [-10, -20]);
        assert_eq!(starts(10, 20, i64::MIN + 5), [] as [i64; 0]);
    }
}
