//! Rows once for each element of their lists.
//!
//! Invariant: each row is worked on by itself, so nothing is kept. A row with too many elements is a fault.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{cast, take};
use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::error::Result;
use operators::batch::Batch;
use operators::row::Codec;
use operators::time::Tick;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::map::{each, event_schema, itself, ticks};
use super::outputs::Outputs;
use super::{Builder, Fault, Rendered, Table};
use crate::plan::{ELEMENTS_MAX, Node, types};

/// About how many rows a batch of events becomes at most.
const ROWS_MAX: usize = 65_536;

/// Which columns are lists.
struct Unnest {
    lists: Vec<usize>,
    /// What stands in the columns that come out.
    kinds: Vec<DataType>,
}

/// Rows of a batch with their elements.
struct Unnested {
    /// Which row of the input each is, ascending.
    rows: Vec<u32>,
    columns: Vec<ArrayRef>,
}

/// How many rows each row becomes.
struct Lengths {
    lists: Vec<ListArray>,
    lengths: Vec<usize>,
    failed: Vec<(u32, String)>,
}

impl Unnest {
    fn lengths(&self, columns: &[ArrayRef]) -> Result<Lengths> {
        let list = |column: &usize| -> Result<ListArray> {
            let item = Field::new_list_field(self.kinds[*column].clone(), true);
            let same = cast(&columns[*column], &DataType::List(Arc::new(item)))?;
            Ok(same.as_list::<i32>().clone())
        };
        let lists = self.lists.iter().map(list).collect::<Result<Vec<_>>>()?;
        let rows = columns.first().map_or(0, |column| column.len());
        let mut failed = Vec::new();
        let lengths = (0..rows).map(|row| {
            let longest = lists.iter().map(|list| elements(list, row).len()).max().unwrap_or(0);
            if longest <= ELEMENTS_MAX {
                return longest;
            }
            failed.push((row as u32, format!("a list of {longest} elements: at most {ELEMENTS_MAX} are unnested")));
            0
        });
        let lengths = lengths.collect();
        Ok(Lengths { lists, lengths, failed })
    }

    /// The rows that these rows become.
    fn rows(&self, columns: &[ArrayRef], of: &Lengths, which: std::ops::Range<usize>) -> Result<Unnested> {
        let rows: Vec<u32> = which.clone().flat_map(|row| std::iter::repeat_n(row as u32, of.lengths[row])).collect();
        let places = UInt32Array::from(rows.clone());
        let mut out = columns
            .iter()
            .enumerate()
            .map(|(column, values)| match self.lists.iter().position(|list| *list == column) {
                None => Ok(take(values, &places, None)?),
                Some(list) => {
                    let list = &of.lists[list];
                    let element = |row: usize| {
                        let own = elements(list, row);
                        (0..of.lengths[row]).map(move |at| (at < own.len()).then_some((own.start + at) as u32))
                    };
                    let places: UInt32Array = which.clone().flat_map(element).collect();
                    Ok(take(list.values(), &places, None)?)
                }
            })
            .collect::<Result<Vec<_>>>()?;
        for (column, kind) in out.iter_mut().zip(&self.kinds) {
            if column.data_type() != kind {
                *column = cast(column, kind)?;
            }
        }
        Ok(Unnested { rows, columns: out })
    }
}

/// Where the elements of a row's list are; a null has none.
fn elements(list: &ListArray, row: usize) -> std::ops::Range<usize> {
    if list.is_null(row) {
        return 0..0;
    }
    let offsets = list.value_offsets();
    offsets[row] as usize..offsets[row + 1] as usize
}

impl<'s> Builder<'s> {
    pub(super) fn unnest(&mut self, node: &Arc<Node>, input: &Arc<Node>, lists: &[usize]) -> Result<Rendered<'s>> {
        let unnest = Unnest { lists: lists.to_vec(), kinds: types(&node.schema) };
        let (rendered, faults) = match self.render(input)? {
            Rendered::Events(events) => {
                let (events, faults) = unnest_events(events, node, unnest);
                (Rendered::Events(events), faults)
            }
            Rendered::Table(table) => {
                let (from, to) = (Codec::new(input.schema.clone())?, Codec::new(node.schema.clone())?);
                let (table, faults) = each(table, "Unnest", itself, from, move |_, batch| {
                    let lengths = unnest.lengths(batch.columns())?;
                    let Unnested { rows, columns } = unnest.rows(batch.columns(), &lengths, 0..batch.num_rows())?;
                    let encoded = to.encode(&columns, rows.len())?;
                    Ok((rows.into_iter().zip(encoded).collect(), lengths.failed))
                });
                (Rendered::Table(table), faults)
            }
        };
        self.faults.push(faults);
        Ok(rendered)
    }
}

fn unnest_events<'s>(
    events: Stream<'s, Tick, Batch>,
    node: &Node,
    unnest: Unnest,
) -> (Stream<'s, Tick, Batch>, Table<'s>) {
    let mut builder = OperatorBuilder::new("UnnestEvents".into(), events.scope());
    let mut input = builder.new_input(events, Pipeline);
    let (mut outputs, rows, faults) = Outputs::add(&mut builder);
    let schema = event_schema(&node.schema);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let at = ticks(&rows);
                let columns = &rows.columns()[..rows.num_columns() - 1];
                let lengths = unnest.lengths(columns).expect("columns of the plan");
                let failed = Fault::rows("Unnest", &lengths.failed, |row| (at.value(row as usize), 1));
                outputs.faults(&time.retain(1), failed);
                let mut from = 0;
                while from < rows.num_rows() {
                    let mut sum = 0;
                    let own = lengths.lengths[from..].iter().take_while(|length| {
                        sum += **length;
                        sum <= ROWS_MAX
                    });
                    let upto = from + own.count().max(1);
                    let done = unnest.rows(columns, &lengths, from..upto).expect("columns of the plan");
                    from = upto;
                    if done.rows.is_empty() {
                        continue;
                    }
                    let mut columns = done.columns;
                    columns.push(take(at, &UInt32Array::from(done.rows), None).expect("rows of the batch"));
                    let out = RecordBatch::try_new(schema.clone(), columns).expect("columns of the plan");
                    outputs.rows(&time.retain(0), Batch::from(out));
                }
            });
        }
    });
    (rows, faults)
}
