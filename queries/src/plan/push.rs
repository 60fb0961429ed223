//! Filters of events, below the tables that the events look up: an event that is not wanted is not looked up.
//!
//! Invariant: a condition goes below only where it speaks of the events alone and the join keeps or drops each event by
//! itself, so the same rows come out.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr::utils::collect_columns;

use super::bounds::with;
use super::express::{place, replaced};
use super::lower::map;
use super::{Expression, Join, Kind, Node, Op, types};

/// The rows for which all conditions are true.
pub fn filtered(input: Arc<Node>, conditions: Vec<Expression>) -> Result<Arc<Node>> {
    if conditions.is_empty() {
        return Ok(input);
    }
    let Op::Join(join) = &input.op else { return map(input, all(conditions), None) };
    let both = join.left.kind == Kind::Events && join.right.kind == Kind::Events;
    if both && join.kind == JoinType::Inner {
        return of_pairs(&input, join, conditions);
    }
    let Some(Events { left: of_left, first, width }) = events(join) else { return map(input, all(conditions), None) };
    let within = |condition: &Expression| {
        let columns = collect_columns(condition);
        columns.iter().all(|column| (first..first + width).contains(&column.index()))
    };
    let (below, above): (Vec<Expression>, Vec<Expression>) = conditions.into_iter().partition(within);
    if below.is_empty() {
        return map(input, all(above), None);
    }
    let below = below.into_iter().map(|condition| moved(condition, first)).collect::<Result<Vec<_>>>()?;
    let (left, right) = (join.left.clone(), join.right.clone());
    let inputs = if of_left { vec![filtered(left, below)?, right] } else { vec![left, filtered(right, below)?] };
    map(with(&input, inputs, None), all(above), None)
}

/// Pairs of events for which all conditions are true: what speaks of one side goes below, the others are the join's, for
/// they may be what bounds it.
fn of_pairs(node: &Node, join: &Join, conditions: Vec<Expression>) -> Result<Arc<Node>> {
    let width = join.left.schema.fields().len();
    let (mut on_left, mut on_right) = (Vec::new(), Vec::new());
    let mut on_both: Vec<Expression> = join.filter.iter().cloned().collect();
    for condition in conditions {
        let columns = collect_columns(&condition);
        if columns.iter().all(|column| column.index() < width) {
            on_left.push(condition);
        } else if columns.iter().all(|column| column.index() >= width) {
            on_right.push(moved(condition, width)?);
        } else {
            on_both.push(condition);
        }
    }
    let (left, right) = (filtered(join.left.clone(), on_left)?, filtered(join.right.clone(), on_right)?);
    let op = Op::Join(Join { left, right, filter: all(on_both), ..join.clone() });
    Ok(Node::new(op, &types(&node.schema), node.kind, node.append_only, node.rows_max))
}

/// The events of which a join keeps each or not.
struct Events {
    /// Which input they are.
    left: bool,
    /// Where their columns are in what comes out.
    first: usize,
    width: usize,
}

fn events(join: &Join) -> Option<Events> {
    let (left, right) = (join.left.schema.fields().len(), join.right.schema.fields().len());
    let of_left = match join.kind {
        JoinType::Inner => join.left.kind == Kind::Events,
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => true,
        JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => false,
        JoinType::Full => return None,
    };
    let input = if of_left { &join.left } else { &join.right };
    let first = if matches!(join.kind, JoinType::Inner | JoinType::Right) && !of_left { left } else { 0 };
    (input.kind == Kind::Events).then_some(Events { left: of_left, first, width: if of_left { left } else { right } })
}

/// All of the conditions as one.
pub fn all(conditions: Vec<Expression>) -> Option<Expression> {
    let both = |a: Expression, b: Expression| Arc::new(BinaryExpr::new(a, Operator::And, b)) as Expression;
    conditions.into_iter().reduce(both)
}

/// The condition over columns that begin `by` places earlier.
pub fn moved(condition: Expression, by: usize) -> Result<Expression> {
    replaced(condition, |column| Some(place(column - by)))
}
