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
    if input.kind == Kind::Events && join.left.kind == join.right.kind {
        return of_pairs(&input, join, conditions);
    }
    let Some((first, width)) = events(&input, join) else { return map(input, all(conditions), None) };
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
    let inputs = if join.left.kind == Kind::Events {
        vec![filtered(left, below)?, right]
    } else {
        vec![left, filtered(right, below)?]
    };
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

/// Where the columns of the events are in what comes out of a join that keeps each event or not.
fn events(node: &Node, join: &Join) -> Option<(usize, usize)> {
    if node.kind != Kind::Events {
        return None;
    }
    let (left, right) = (join.left.schema.fields().len(), join.right.schema.fields().len());
    match join.kind {
        JoinType::Inner if join.left.kind == Kind::Events => Some((0, left)),
        JoinType::Inner => Some((left, right)),
        JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => Some((0, left)),
        JoinType::Right => Some((left, right)),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => Some((0, right)),
        JoinType::Full => None,
    }
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
