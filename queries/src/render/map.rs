//! Filters and projections, of events and of tables; rows by a key.
//!
//! Invariant: each row is worked on by itself, so nothing is kept.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array, UInt64Array};
use datafusion::arrow::compute::take;
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;
use datafusion::physical_expr::expressions::Column;
use differential_dataflow::AsCollection;
use operators::batch::{Batch, TICK, u64s};
use operators::row::{Codec, Diff, Row, any_null, as_key};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;
use timely::dataflow::operators::vec::ToStream;
use timely::dataflow::{Scope, Stream};

use super::evaluate::Stage;
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
                let (table, faults) = each(table, "Map", from, move |_, batch| {
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
    let (rows_output, rows) = builder.new_output();
    let (fault_output, faults) = builder.new_output();
    let mut rows_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(rows_output);
    let mut fault_output: OutputBuilder<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>> =
        OutputBuilder::from(fault_output);
    let schema = event_schema(&schema);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let ticks = u64s(&rows, TICK);
                let done = stage.evaluate(&rows).expect("columns of the plan");
                if !done.failed.is_empty() {
                    let mut failed: Vec<_> = done
                        .failed
                        .iter()
                        .map(|(row, why)| (Fault::row("Map", why), ticks.value(*row as usize), 1))
                        .collect();
                    let held = time.retain(1);
                    fault_output.activate().session(&held).give_container(&mut failed);
                }
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
                let held = time.retain(0);
                rows_output.activate().session(&held).give_container(&mut out.into());
            });
        }
    });
    (rows, faults.as_collection())
}

/// Events as rows of a table, which never leave by themselves.
pub fn insertions<'s>(events: Stream<'s, Tick, Batch>, codec: Codec) -> Table<'s> {
    let rows =
        events.unary::<CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>, _, _, _>(Pipeline, "Insertions", |_, _| {
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

/// Works on the rows of each container at once.
fn each<'s, D: Clone + 'static>(
    table: Table<'s>,
    name: &'static str,
    codec: Codec,
    mut work: impl FnMut(&[(Row, Tick, Diff)], &RecordBatch) -> Worked<D> + 'static,
) -> (differential_dataflow::VecCollection<'s, Tick, D, Diff>, Table<'s>) {
    let mut builder = OperatorBuilder::new(name.into(), table.inner.scope());
    let mut input = builder.new_input(table.inner, Pipeline);
    let (rows_output, rows) = builder.new_output();
    let (fault_output, faults) = builder.new_output();
    let mut rows_output: OutputBuilder<Tick, CapacityContainerBuilder<Vec<(D, Tick, Diff)>>> =
        OutputBuilder::from(rows_output);
    let mut fault_output: OutputBuilder<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>> =
        OutputBuilder::from(fault_output);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, updates| {
                let batch = codec.decode(updates.iter().map(|(row, ..)| row)).expect("rows of the plan");
                let (done, failed) = work(updates, &batch).expect("columns of the plan");
                let at = |row: u32| (updates[row as usize].1, updates[row as usize].2);
                if !failed.is_empty() {
                    let failed = failed.into_iter().map(|(row, why)| (Fault::row(name, &why), at(row).0, at(row).1));
                    let held = time.retain(1);
                    fault_output.activate().session(&held).give_container(&mut failed.collect());
                }
                if !done.is_empty() {
                    let done = done.into_iter().map(|(row, data)| (data, at(row).0, at(row).1));
                    let held = time.retain(0);
                    rows_output.activate().session(&held).give_container(&mut done.collect());
                }
            });
        }
    });
    (rows.as_collection(), faults.as_collection())
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
    Ok(each(table, "Key", codec, move |updates, batch| {
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
    Ok(each(table, "Split", codec, move |updates, batch| {
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

/// The pairs for which the condition, over left and then right columns, is true.
pub fn pairs<'s>(pairs: Keyed<'s>, codec: Codec, filter: Expression) -> (Keyed<'s>, Table<'s>) {
    let stage = Stage { filter: Some(filter), columns: Vec::new() };
    let whole = pairs.map(|(left, right)| {
        let both = left.and(&right);
        (both, left, right)
    });
    let mut builder = OperatorBuilder::new("Condition".into(), whole.inner.scope());
    let mut input = builder.new_input(whole.inner, Pipeline);
    let (rows_output, rows) = builder.new_output();
    let (fault_output, faults) = builder.new_output();
    let mut rows_output: OutputBuilder<Tick, CapacityContainerBuilder<Vec<((Row, Row), Tick, Diff)>>> =
        OutputBuilder::from(rows_output);
    let mut fault_output: OutputBuilder<Tick, CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>> =
        OutputBuilder::from(fault_output);
    builder.build(move |_| {
        move |_| {
            input.for_each(|time, updates| {
                let batch = codec.decode(updates.iter().map(|((row, ..), ..)| row)).expect("rows of the plan");
                let done = stage.evaluate(&batch).expect("columns of the plan");
                let failed = done.failed.iter().map(|(row, why)| {
                    let (_, tick, diff) = &updates[*row as usize];
                    (Fault::row("Join", why), *tick, *diff)
                });
                let mut failed: Vec<_> = failed.collect();
                if !failed.is_empty() {
                    let held = time.retain(1);
                    fault_output.activate().session(&held).give_container(&mut failed);
                }
                let kept = done.rows.iter().map(|row| {
                    let ((_, left, right), tick, diff) = &updates[*row as usize];
                    ((left.clone(), right.clone()), *tick, *diff)
                });
                let mut kept: Vec<_> = kept.collect();
                if !kept.is_empty() {
                    let held = time.retain(0);
                    rows_output.activate().session(&held).give_container(&mut kept);
                }
            });
        }
    });
    (rows.as_collection(), faults.as_collection())
}

/// A row of one truth value.
pub fn flag(value: bool) -> Result<Row> {
    let codec = Codec::new(canonical(&[DataType::Boolean]))?;
    let column: ArrayRef = Arc::new(datafusion::arrow::array::BooleanArray::from(vec![value]));
    Ok(codec.encode(&[column], 1)?.pop().unwrap_or_default())
}
