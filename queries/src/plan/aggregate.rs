//! GROUP BY: a projection to keys and arguments, then the groups.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Aggregate as Logical, Expr, GroupingSet};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::Literal;

use super::express::{Scope, place, places};
use super::hop::{Fanned, fanned};
use super::lower::{lower, map, one_row, refused};
use super::session::now_type;
use super::temporal::refuse_now;
use super::{Aggregate, Expression, Inputs, Kind, Node, Op, sessions};

/// A GROUP BY.
pub fn reduce(aggregate: &Logical, inputs: &Inputs) -> Result<Arc<Node>> {
    let input = lower(&aggregate.input, inputs)?;
    let scope = Scope::new(aggregate.input.schema(), &input)?;
    aggregate.aggr_expr.iter().try_for_each(refuse_now)?;
    aggregate.group_expr.iter().try_for_each(refuse_now)?;
    if let [Expr::GroupingSet(sets)] = aggregate.group_expr.as_slice() {
        return grouping_sets(aggregate, sets, &input, &scope);
    }
    let Fanned { node: input, names, exprs } = fanned(input, aggregate.input.schema(), &aggregate.group_expr)?;
    let scope = Scope::new(&names, &input)?;
    match sessions::call(&exprs)? {
        None => group(aggregate, &exprs, &input, &scope),
        Some(call) => by_session(aggregate, exprs, &call, &input, &scope),
    }
}

/// What the groups are made of: the columns that aggregates take, and the aggregates.
struct Taken {
    arguments: Vec<Expression>,
    aggregates: Vec<Aggregate>,
    kinds: Vec<DataType>,
}

/// `arguments` are columns that are there anyway.
fn taken(aggregate: &Logical, arguments: Vec<Expression>, scope: &Scope<'_>) -> Result<Taken> {
    let mut taken = Taken { arguments, aggregates: Vec::with_capacity(aggregate.aggr_expr.len()), kinds: Vec::new() };
    let arguments = &mut taken.arguments;
    let mut put = |expression: Expression| {
        let known = arguments.iter().position(|known: &Expression| **known == *expression);
        known.unwrap_or_else(|| {
            arguments.push(expression);
            arguments.len() - 1
        })
    };
    for expr in &aggregate.aggr_expr {
        let placed = scope.placed(expr)?;
        let props = ExecutionProps::new();
        let context = Default::default();
        let places = scope.places();
        let lowered = LoweredAggregateBuilder::new(&placed, places, places.as_arrow(), &props, &context).build()?;
        taken.kinds.push(lowered.aggregate.field().data_type().clone());
        let arguments: Vec<usize> = lowered.aggregate.expressions().into_iter().map(&mut put).collect();
        let mut order: Vec<(usize, SortOptions)> = Vec::new();
        for by in &lowered.order_bys {
            let column = put(by.expr.clone());
            // Named again it orders nothing, and the library's accumulators do not expect it.
            if order.iter().all(|(known, _)| *known != column) {
                order.push((column, by.options));
            }
        }
        let filter = lowered.filter.map(&mut put);
        taken.aggregates.push(Aggregate { function: lowered.aggregate, arguments, order, filter });
    }
    Ok(taken)
}

fn group(aggregate: &Logical, by: &[Expr], input: &Arc<Node>, scope: &Scope<'_>) -> Result<Arc<Node>> {
    let mut columns = by.iter().map(|expr| scope.express(expr)).collect::<Result<Vec<_>>>()?;
    let keys = columns.len();
    let mut kinds = columns.iter().map(|column| scope.type_of(column)).collect::<Result<Vec<_>>>()?;
    let taken = taken(aggregate, Vec::new(), scope)?;
    kinds.extend(taken.kinds);
    columns.extend(taken.arguments);
    if keys == 0 && taken.aggregates.is_empty() {
        // The group of everything is there also when nothing is, and nobody asks what is in it.
        return one_row();
    }
    let rows_max = if keys == 0 { Some(1) } else { input.rows_max };
    let below = map(input.clone(), None, Some(columns))?;
    let op = Op::Reduce { input: below, keys, aggregates: taken.aggregates, retention: None };
    Ok(Node::new(op, &kinds, Kind::Table, false, rows_max))
}

/// A GROUP BY of which one expression is a session.
fn by_session(
    aggregate: &Logical,
    mut by: Vec<Expr>,
    session: &sessions::Call,
    input: &Arc<Node>,
    scope: &Scope<'_>,
) -> Result<Arc<Node>> {
    by.remove(session.at);
    let mut columns = by.iter().map(|expr| scope.express(expr)).collect::<Result<Vec<_>>>()?;
    let keys = columns.len();
    let mut kinds = columns.iter().map(|column| scope.type_of(column)).collect::<Result<Vec<_>>>()?;
    let taken = taken(aggregate, vec![scope.express_as(&session.time, &now_type())?], scope)?;
    kinds.push(now_type());
    kinds.extend(taken.kinds);
    columns.extend(taken.arguments);
    let below = map(input.clone(), None, Some(columns))?;
    let (gap_ms, aggregates) = (session.gap_ms, taken.aggregates);
    let op = Op::Sessions { input: below, keys, gap_ms, aggregates, retention: None };
    let node = Node::new(op, &kinds, Kind::Table, false, input.rows_max);
    // The start stands behind the keys; in the text it stands where it stands.
    let mut order: Vec<usize> = (0..kinds.len()).collect();
    order.remove(keys);
    order.insert(session.at, keys);
    map(node, None, Some(order.into_iter().map(place).collect()))
}

/// One GROUP BY for each set, with the columns that it leaves out as nulls.
fn grouping_sets(aggregate: &Logical, sets: &GroupingSet, input: &Arc<Node>, scope: &Scope<'_>) -> Result<Arc<Node>> {
    let all: Vec<&Expr> = sets.distinct_expr();
    let listed: Vec<Vec<Expr>> = match sets {
        GroupingSet::GroupingSets(sets) => sets.clone(),
        GroupingSet::Rollup(exprs) => (0..=exprs.len()).rev().map(|upto| exprs[..upto].to_vec()).collect(),
        GroupingSet::Cube(exprs) if exprs.len() > 6 => return Err(refused("CUBE of more than six columns")),
        GroupingSet::Cube(exprs) => (0..1usize << exprs.len())
            .map(|chosen| {
                let taken = exprs.iter().enumerate().filter(|(place, _)| chosen >> place & 1 == 1);
                taken.map(|(_, expr)| expr.clone()).collect()
            })
            .collect(),
    };
    let wanted: Vec<DataType> = aggregate.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let id_type = &wanted[all.len()];
    let mut parts = Vec::with_capacity(listed.len());
    for set in &listed {
        let part = group(aggregate, set, input, scope)?;
        let mut columns: Vec<Expression> = Vec::with_capacity(wanted.len());
        let mut id = 0u64;
        for (index, expr) in all.iter().enumerate() {
            id <<= 1;
            match set.iter().position(|given| given == *expr) {
                Some(at) => columns.push(place(at)),
                None => {
                    id |= 1;
                    columns.push(Arc::new(Literal::new(ScalarValue::try_from(&wanted[index])?)));
                }
            }
        }
        columns.push(Arc::new(Literal::new(ScalarValue::UInt64(Some(id)).cast_to(id_type)?)));
        columns.extend(places(&part).into_iter().skip(set.len()));
        parts.push(map(part, None, Some(columns))?);
    }
    Ok(Node::new(Op::Union(parts), &wanted, Kind::Table, false, None))
}
