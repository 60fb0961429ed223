//! From DataFusion's optimised plan to our operators.
//!
//! Invariant: what is not understood is refused with its name, never left out.

use std::sync::Arc;

use datafusion::arrow::array::RecordBatchOptions;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Distinct, DistinctOn, EmptyRelation, Expr, FetchType, Filter, Limit, LogicalPlan, Operator, Projection, SkipType,
    Sort, TableScan, Union, Values,
};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};

use super::express::{Scope, place, places, replaced};
use super::geofences::Fenced;
use super::hop::{Fanned, fanned};
use super::journeys::Called;
use super::{
    Expression, Inputs, Kind, Node, Op, aggregate, canonical, geofences, join, journeys, push, temporal, types, unnest,
    window,
};

/// The operators of a plan over these inputs.
///
/// # Errors
/// The plan has a part that cannot be kept up to date.
pub fn lower(plan: &LogicalPlan, inputs: &Inputs) -> Result<Arc<Node>> {
    match plan {
        LogicalPlan::TableScan(scan) => get(scan, inputs),
        LogicalPlan::SubqueryAlias(alias) => lower(&alias.input, inputs),
        LogicalPlan::Subquery(subquery) => lower(&subquery.subquery, inputs),
        LogicalPlan::Projection(projection) => project(projection, inputs),
        LogicalPlan::Filter(filter) => self::filter(filter, inputs),
        LogicalPlan::Aggregate(aggregate) => aggregate::reduce(aggregate, inputs),
        LogicalPlan::Join(join) => join::join(join, inputs),
        LogicalPlan::Window(window) => window::window(window, inputs),
        LogicalPlan::Distinct(Distinct::All(input)) => Ok(distinct(lower(input, inputs)?)),
        LogicalPlan::Distinct(Distinct::On(on)) => distinct_on(on, inputs),
        LogicalPlan::Union(union) => self::union(union, inputs),
        // A view has no order of its own: only with a LIMIT does it matter.
        LogicalPlan::Sort(Sort { input, fetch: None, .. }) => lower(input, inputs),
        LogicalPlan::Sort(sort) => top(sort, 0, sort.fetch.unwrap_or(usize::MAX), inputs),
        LogicalPlan::Limit(limit) => self::limit(limit, inputs),
        LogicalPlan::EmptyRelation(empty) => nothing(empty),
        LogicalPlan::Values(values) => constant(values),
        LogicalPlan::RecursiveQuery(_) => Err(refused("WITH RECURSIVE: nothing bounds its work; unroll the steps")),
        LogicalPlan::Unnest(unnest) => unnest::unnest(unnest, inputs),
        other => Err(refused(&format!("{}: a view is made of SELECT alone", other.display()))),
    }
}

pub(super) fn refused(why: &str) -> DataFusionError {
    DataFusionError::NotImplemented(why.to_owned())
}

fn get(scan: &TableScan, inputs: &Inputs) -> Result<Arc<Node>> {
    let node = match (scan.source.downcast_ref::<Called>(), scan.source.downcast_ref::<Fenced>()) {
        (Some(called), _) => journeys::node(called, inputs)?,
        (_, Some(fenced)) => geofences::node(fenced, inputs)?,
        _ => named(scan.table_name.table(), inputs)?,
    };
    let all = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?;
    let filter = conjunction(scan.filters.clone());
    let filter = filter.map(|filter| Scope::new(&all, &node)?.express(&filter)).transpose()?;
    let Some(projection) = &scan.projection else { return map(node, filter, None) };
    map(node, filter, Some(projection.iter().map(|index| place(*index)).collect()))
}

fn named(name: &str, inputs: &Inputs) -> Result<Arc<Node>> {
    let (schema, kind) = inputs.names.get(name).ok_or_else(|| refused(&format!("{name} is not in the catalog")))?;
    Ok(Node::new(Op::Get(name.to_owned()), &types(schema), *kind, *kind == Kind::Events, None))
}

/// Filter and project in one, and in one with a filter below. Without a projection the columns stay as they are.
pub(super) fn map(input: Arc<Node>, filter: Option<Expression>, project: Option<Vec<Expression>>) -> Result<Arc<Node>> {
    if filter.is_none() && project.as_ref().is_none_or(|project| is_identity(project, &input)) {
        return Ok(input);
    }
    let project = project.unwrap_or_else(|| places(&input));
    if let Op::Map { input: below, filter: lower, project: chosen } = &input.op
        && (lower.is_none() || filter.is_none())
        && let Some(chosen) = columns_alone(chosen)
    {
        // Over the columns from which these were chosen.
        let below_of = |of: Expression| replaced(of, |column| chosen.get(column).copied().map(place));
        let project = project.into_iter().map(below_of).collect::<Result<Vec<_>>>()?;
        let filter = filter.map(below_of).transpose()?.or_else(|| lower.clone());
        return map_over(below.clone(), filter, project);
    }
    let (filter, input) = match &input.op {
        Op::Map { input: below, filter: lower, project: same } if is_identity(same, below) => {
            let both = match (lower.clone(), filter) {
                (Some(first), Some(second)) => {
                    Some(Arc::new(BinaryExpr::new(first, Operator::And, second)) as Expression)
                }
                (first, second) => first.or(second),
            };
            (both, below.clone())
        }
        _ => (filter, input),
    };
    map_over(input, filter, project)
}

fn map_over(input: Arc<Node>, filter: Option<Expression>, project: Vec<Expression>) -> Result<Arc<Node>> {
    let kinds = project.iter().map(|expression| expression.data_type(&input.schema)).collect::<Result<Vec<_>>>()?;
    let (kind, append_only, rows_max) = (input.kind, input.append_only, input.rows_max);
    Ok(Node::new(Op::Map { input, filter, project }, &kinds, kind, append_only, rows_max))
}

/// The places of a projection that only chooses columns.
fn columns_alone(project: &[Expression]) -> Option<Vec<usize>> {
    project.iter().map(|expression| expression.downcast_ref::<Column>().map(Column::index)).collect()
}

fn is_identity(project: &[Expression], input: &Node) -> bool {
    let same = |(index, expression): (usize, &Expression)| **expression == *place(index);
    project.len() == input.schema.fields().len() && project.iter().enumerate().all(same)
}

fn project(projection: &Projection, inputs: &Inputs) -> Result<Arc<Node>> {
    let input = lower(&projection.input, inputs)?;
    project_over(input, projection)
}

/// The projection over a node that computes its input.
fn project_over(input: Arc<Node>, projection: &Projection) -> Result<Arc<Node>> {
    let Fanned { node: input, names, exprs } = fanned(input, projection.input.schema(), &projection.expr)?;
    let scope = Scope::new(&names, &input)?;
    let columns = exprs.iter().zip(projection.schema.fields());
    let columns = columns.map(|(expr, field)| {
        temporal::refuse_now(expr)?;
        scope.express_as(expr, field.data_type())
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    map(input, None, Some(columns))
}

fn filter(filter: &Filter, inputs: &Inputs) -> Result<Arc<Node>> {
    let mut input = lower(&filter.input, inputs)?;
    let scope = Scope::new(filter.input.schema(), &input)?;
    let (bounds, plain): (Vec<&Expr>, Vec<&Expr>) =
        split_conjunction(&filter.predicate).into_iter().partition(|part| temporal::has_now(part));
    let plain = plain.into_iter().map(|part| scope.express(part)).collect::<Result<Vec<_>>>()?;
    let bounds = bounds.into_iter().map(|part| temporal::bound(part, &scope)).collect::<Result<Vec<_>>>()?;
    for condition in &plain {
        input = window::first_rows(input, condition);
    }
    input = push::filtered(input, plain)?;
    if bounds.is_empty() {
        return Ok(input);
    }
    let (types, rows_max) = (types(&input.schema), input.rows_max);
    Ok(Node::new(Op::Temporal { input, bounds }, &types, Kind::Table, false, rows_max))
}

/// The different rows.
pub(super) fn distinct(input: Arc<Node>) -> Arc<Node> {
    let (types, keys, rows_max) = (types(&input.schema), input.schema.fields().len(), input.rows_max);
    let append_only = input.append_only;
    Node::new(
        Op::Reduce { input, keys, aggregates: Vec::new(), retention: None },
        &types,
        Kind::Table,
        append_only,
        rows_max,
    )
}

fn distinct_on(on: &DistinctOn, inputs: &Inputs) -> Result<Arc<Node>> {
    let input = lower(&on.input, inputs)?;
    let scope = Scope::new(on.input.schema(), &input)?;
    let partition = on.on_expr.iter().map(|expr| scope.express(expr)).collect::<Result<Vec<_>>>()?;
    let order = scope.order(on.sort_expr.as_deref().unwrap_or_default())?;
    let columns = on.select_expr.iter().map(|expr| scope.express(expr)).collect::<Result<Vec<_>>>()?;
    let types = types(&input.schema);
    let first = Op::TopK { input, partition, order, skip: 0, fetch: 1 };
    map(Node::new(first, &types, Kind::Table, false, None), None, Some(columns))
}

fn union(union: &Union, inputs: &Inputs) -> Result<Arc<Node>> {
    let wanted: Vec<_> = union.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let mut parts = Vec::with_capacity(union.inputs.len());
    for plan in &union.inputs {
        let input = lower(plan, inputs)?;
        let scope = Scope::new(plan.schema(), &input)?;
        let columns = plan.schema().columns();
        let columns = columns.iter().zip(&wanted);
        let columns = columns.map(|(column, kind)| scope.express_as(&Expr::Column(column.clone()), kind));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        parts.push(map(input, None, Some(columns))?);
    }
    let events = parts.iter().all(|part| part.kind == Kind::Events);
    let kind = if events { Kind::Events } else { Kind::Table };
    let append_only = parts.iter().all(|part| part.append_only);
    let rows_max = parts.iter().try_fold(0usize, |all, part| Some(all.saturating_add(part.rows_max?)));
    Ok(Node::new(Op::Union(parts), &wanted, kind, append_only, rows_max))
}

fn limit(limit: &Limit, inputs: &Inputs) -> Result<Arc<Node>> {
    let skip = match limit.get_skip_type()? {
        SkipType::Literal(skip) => skip,
        SkipType::UnsupportedExpr => return Err(refused("OFFSET must be a number")),
    };
    let fetch = match limit.get_fetch_type()? {
        FetchType::Literal(fetch) => fetch.unwrap_or(usize::MAX),
        FetchType::UnsupportedExpr => return Err(refused("LIMIT must be a number")),
    };
    limited(&limit.input, skip, fetch, inputs)
}

/// A limit, looked for below what does not change which rows there are.
fn limited(plan: &LogicalPlan, skip: usize, fetch: usize, inputs: &Inputs) -> Result<Arc<Node>> {
    match plan {
        LogicalPlan::Sort(sort) => top(sort, skip, fetch.min(sort.fetch.unwrap_or(usize::MAX)), inputs),
        LogicalPlan::Projection(projection) => {
            project_over(limited(&projection.input, skip, fetch, inputs)?, projection)
        }
        LogicalPlan::SubqueryAlias(alias) => limited(&alias.input, skip, fetch, inputs),
        other => {
            let input = lower(other, inputs)?;
            // One row of one row needs no order: `LIMIT 1` in an EXISTS and the like.
            if skip == 0 && input.rows_max.is_some_and(|rows| rows <= fetch) {
                return Ok(input);
            }
            Err(refused("LIMIT without ORDER BY: which rows it keeps is not defined; add an ORDER BY"))
        }
    }
}

fn top(sort: &Sort, skip: usize, fetch: usize, inputs: &Inputs) -> Result<Arc<Node>> {
    let input = lower(&sort.input, inputs)?;
    let order = Scope::new(sort.input.schema(), &input)?.order(&sort.expr)?;
    let types = types(&input.schema);
    let rows_max = Some(fetch).filter(|fetch| *fetch < usize::MAX);
    let rows_max = input.rows_max.map_or(rows_max, |rows| Some(rows.min(fetch)));
    let op = Op::TopK { input, partition: Vec::new(), order, skip, fetch };
    Ok(Node::new(op, &types, Kind::Table, false, rows_max))
}

fn nothing(empty: &EmptyRelation) -> Result<Arc<Node>> {
    let kinds: Vec<_> = empty.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let schema = canonical(&kinds);
    let rows = usize::from(empty.produce_one_row);
    let columns = kinds.iter().map(|kind| datafusion::arrow::array::new_null_array(kind, rows)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    let batch = RecordBatch::try_new_with_options(schema, columns, &options)?;
    Ok(Node::new(Op::Constant(batch), &kinds, Kind::Table, true, Some(rows)))
}

/// One row without columns.
pub(super) fn one_row() -> Result<Arc<Node>> {
    let options = RecordBatchOptions::new().with_row_count(Some(1));
    let batch = RecordBatch::try_new_with_options(canonical(&[]), Vec::new(), &options)?;
    Ok(Node::new(Op::Constant(batch), &[], Kind::Table, true, Some(1)))
}

fn constant(values: &Values) -> Result<Arc<Node>> {
    let kinds: Vec<_> = values.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let (none, props) = (DFSchema::empty(), Default::default());
    let context = Default::default();
    let unit = RecordBatch::try_new_with_options(
        Arc::new(none.as_arrow().clone()),
        Vec::new(),
        &RecordBatchOptions::new().with_row_count(Some(1)),
    )?;
    let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::new(); kinds.len()];
    for row in &values.values {
        for ((expr, kind), column) in row.iter().zip(&kinds).zip(&mut columns) {
            let value = create_physical_expr(expr, &none, &props, &context)?.evaluate(&unit)?;
            column.push(ScalarValue::try_from_array(&value.into_array(1)?, 0)?.cast_to(kind)?);
        }
    }
    let arrays = columns.into_iter().map(ScalarValue::iter_to_array).collect::<Result<Vec<_>>>()?;
    let rows = values.values.len();
    let batch = RecordBatch::try_new(canonical(&kinds), arrays)?;
    Ok(Node::new(Op::Constant(batch), &kinds, Kind::Table, true, Some(rows)))
}

/// Whether any part of the expression is one that `is` looks for.
pub(super) fn contains(expr: &Expr, is: impl Fn(&Expr) -> bool) -> bool {
    expr.exists(|part| Ok(is(part))).unwrap_or(false)
}
