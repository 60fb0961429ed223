//! Filters and projections, of events and of tables; rows by a key.
//!
//! Invariant: each row is worked on by itself, so nothing is kept.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::compute::{take, take_record_batch};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use differential_dataflow::{AsCollection, VecCollection};
use operators::batch::{Batch, TICK, u64s};
use operators::row::{Codec, Diff, Row, any_null, as_key};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::ToStream;
use timely::dataflow::{Scope, Stream};

use super::evaluate::Stage;
use super::outputs::{Outputs, Updates};
use super::{Builder, Fault, Keyed, Rendered, Table};
use crate::plan::{Expression, Node, canonical, types};

/// What becomes of a row whose key has a null.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// Null is a key like any other.
    Stay,
    /// It equals nothing, so the row meets nothing.
    Go,
}

impl<'s> Builder<'s> {
    pub(super) fn map(
        &mut self,
        node: &Arc<Node>,
        input: &Arc<Node>,
        filter: Option<&Expression>,
        project: &[Expression],
    ) -> Result<Rendered<'s>> {
        let stage = Stage { filter: filter.cloned(), columns: project.to_vec() };
        match self.render(input)? {
            Rendered::Events(events) => {
                let (events, faults) = map_events(events, node.schema.clone(), stage);
                self.faults.push(faults);
                Ok(Rendered::Events(events))
            }
            Rendered::Table(table) => {
                let (from, to) = (Codec::new(input.schema.clone())?, Codec::new(node.schema.clone())?);
                let (table, faults) = each(table, "Map", itself, from, move |_, batch| {
                    let done = stage.evaluate(batch)?;
                    let rows = to.encode(&done.columns, done.rows.len())?;
                    Ok((done.rows.into_iter().zip(rows).collect(), done.failed))
                });
                self.faults.push(faults);
                Ok(Rendered::Table(table))
            }
        }
    }
}

/// The schema of a stream of events: its columns and the tick.
pub fn event_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<Field> = schema.fields().iter().map(|field| field.as_ref().clone()).collect();
    fields.push(Field::new(TICK, DataType::UInt64, false));
    Arc::new(Schema::new(fields))
}

fn map_events<'s>(
    events: Stream<'s, Tick, Batch>,
    schema: SchemaRef,
    stage: Stage,
) -> (Stream<'s, Tick, Batch>, Table<'s>) {
    let mut builder = OperatorBuilder::new("MapEvents".into(), events.scope());
    let mut input = builder.new_input(events, Pipeline);
    let (mut outputs, rows, faults) = Outputs::add(&mut builder);
    let schema = event_schema(&schema);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let ticks = u64s(&rows, TICK);
                let done = stage.evaluate(&rows).expect("columns of the plan");
                let failed = Fault::rows("Map", &done.failed, |row| (ticks.value(row as usize), 1));
                outputs.faults(&time.retain(1), failed);
                if done.rows.is_empty() {
                    return;
                }
                let kept: ArrayRef = if done.rows.len() == rows.num_rows() {
                    Arc::new(ticks.clone())
                } else {
                    take(ticks, &UInt32Array::from(done.rows), None).expect("rows of the batch")
                };
                let mut columns = done.columns;
                columns.push(kept);
                let out = RecordBatch::try_new(schema.clone(), columns).expect("columns of the plan");
                outputs.rows(&time.retain(0), Batch::from(out));
            });
        }
    });
    (rows, faults)
}

/// Events as rows of a table, which never leave by themselves.
pub fn insertions<'s>(events: Stream<'s, Tick, Batch>, codec: Codec) -> Table<'s> {
    let rows = events.unary::<CapacityContainerBuilder<Updates>, _, _, _>(Pipeline, "Insertions", |_, _| {
        move |input, output| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let ticks = u64s(&rows, TICK).values();
                let columns = &rows.columns()[..codec.schema().fields().len()];
                let encoded = codec.encode(columns, rows.num_rows()).expect("columns of the plan");
                let mut updates = encoded.into_iter().zip(ticks).map(|(row, tick)| (row, *tick, 1)).collect();
                output.session(&time).give_container(&mut updates);
            });
        }
    });
    rows.as_collection()
}

type Worked<D> = Result<(Vec<(u32, D)>, Vec<(u32, String)>)>;

/// Works on the rows of each container at once. `row_of` tells the row of what comes in, `codec` its columns.
pub(super) fn each<'s, I: Clone + 'static, D: Clone + 'static>(
    input: VecCollection<'s, Tick, I, Diff>,
    name: &'static str,
    row_of: impl Fn(&I) -> &Row + 'static,
    codec: Codec,
    mut work: impl FnMut(&[(I, Tick, Diff)], &RecordBatch) -> Worked<D> + 'static,
) -> (VecCollection<'s, Tick, D, Diff>, Table<'s>) {
    let mut builder = OperatorBuilder::new(name.into(), input.inner.scope());
    let mut input = builder.new_input(input.inner, Pipeline);
    let (mut outputs, rows, faults) = Outputs::<Updates<D>>::add(&mut builder);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, updates| {
                let batch = codec.decode(updates.iter().map(|(data, ..)| row_of(data))).expect("rows of the plan");
                let (done, failed) = work(updates, &batch).expect("columns of the plan");
                let at = |row: u32| (updates[row as usize].1, updates[row as usize].2);
                outputs.faults(&time.retain(1), Fault::rows(name, &failed, at));
                let done = done.into_iter().map(|(row, data)| (data, at(row).0, at(row).1));
                outputs.rows(&time.retain(0), done.collect());
            });
        }
    });
    (rows.as_collection(), faults)
}

/// A row that is itself.
pub(super) fn itself(row: &Row) -> &Row {
    row
}

/// The rows of a table by a key. Those for which the key or any of the `checks` cannot be computed are faults.
pub fn keyed<'s>(
    table: Table<'s>,
    schema: &SchemaRef,
    by: &[Expression],
    checks: &[Expression],
    nulls: Nulls,
) -> Result<(Keyed<'s>, Table<'s>)> {
    let kinds = by.iter().map(|expression| expression.data_type(schema)).collect::<Result<Vec<_>>>()?;
    let (codec, keys) = (Codec::new(schema.clone())?, Codec::new(canonical(&kinds))?);
    // Columns as they are cannot fail.
    let checks = checks.iter().filter(|check| !check.is::<Column>());
    let (stage, by) = (Stage::columns(&by.iter().chain(checks).cloned().collect::<Vec<_>>()), by.len());
    Ok(each(table, "Key", itself, codec, move |updates, batch| {
        let done = stage.evaluate(batch)?;
        let columns: Vec<ArrayRef> = done.columns.iter().take(by).map(as_key).collect();
        let rows = keys.encode(&columns, done.rows.len())?;
        let keyed = done.rows.iter().zip(rows).enumerate();
        let keyed = keyed.filter(|(index, _)| nulls == Nulls::Stay || !any_null(&columns, *index));
        Ok((keyed.map(|(_, (row, key))| (*row, (key, updates[*row as usize].0.clone()))).collect(), done.failed))
    }))
}

/// Keys and arguments of a GROUP BY: the first `keys` columns, and the others.
pub fn split<'s>(table: Table<'s>, schema: &SchemaRef, keys: usize) -> Result<(Keyed<'s>, Table<'s>)> {
    let kinds = types(schema);
    let (codec, key, value) =
        (Codec::new(schema.clone())?, Codec::new(canonical(&kinds[..keys]))?, Codec::new(canonical(&kinds[keys..]))?);
    Ok(each(table, "Split", itself, codec, move |updates, batch| {
        let columns: Vec<ArrayRef> = batch.columns()[..keys].iter().map(as_key).collect();
        let by = key.encode(&columns, updates.len())?;
        let rest = value.encode(&batch.columns()[keys..], updates.len())?;
        Ok(((0..updates.len() as u32).zip(by.into_iter().zip(rest)).collect(), Vec::new()))
    }))
}

/// Rows that stand in the text of the view, from the beginning of time.
pub fn constant<'s>(scope: Scope<'s, Tick>, rows: &RecordBatch) -> Result<Table<'s>> {
    let codec = Codec::new(rows.schema())?;
    let rows = codec.encode(rows.columns(), rows.num_rows())?;
    let here = if scope.index() == 0 { rows } else { Vec::new() };
    Ok(here.into_iter().map(|row| (row, 0, 1)).to_stream(scope).as_collection())
}

/// The ticks of a batch of events.
pub fn ticks(rows: &RecordBatch) -> &UInt64Array {
    u64s(rows, TICK)
}

/// Readers deliver in the order of the log; what was put together from several is put in order.
pub fn in_order(rows: RecordBatch) -> RecordBatch {
    let values = ticks(&rows).values();
    if values.is_sorted() {
        return rows;
    }
    let mut order: Vec<u32> = (0..rows.num_rows() as u32).collect();
    order.sort_by_key(|row| values[*row as usize]);
    take_record_batch(&rows, &UInt32Array::from(order)).expect("rows of the batch")
}

/// The pairs for which the condition, over left and then right columns, is true.
pub fn pairs<'s>(pairs: Keyed<'s>, codec: Codec, filter: Expression) -> (Keyed<'s>, Table<'s>) {
    let stage = Stage { filter: Some(filter), columns: Vec::new() };
    let whole = pairs.map(|(left, right)| {
        let both = left.and(&right);
        (both, left, right)
    });
    each(
        whole,
        "Join",
        |(both, ..)| both,
        codec,
        move |updates, batch| {
            let done = stage.evaluate(batch)?;
            let pair = |row: &u32| {
                let ((_, left, right), ..) = &updates[*row as usize];
                (*row, (left.clone(), right.clone()))
            };
            Ok((done.rows.iter().map(pair).collect(), done.failed))
        },
    )
}

/// A row of one truth value.
pub fn flag(value: bool) -> Result<Row> {
    let codec = Codec::new(canonical(&[DataType::Boolean]))?;
    let column: ArrayRef = Arc::new(datafusion::arrow::array::BooleanArray::from(vec![value]));
    Ok(codec.encode(&[column], 1)?.pop().unwrap_or_default())
}
