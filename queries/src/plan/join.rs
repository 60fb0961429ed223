//! Joins.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{JoinType, NullEquality};
use datafusion::error::Result;
use datafusion::logical_expr::Join as Logical;
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::collect_columns;

use super::express::Scope;
use super::lower::{lower, refused};
use super::{Expression, Inputs, Join, Kind, Meets, Node, Op, canonical, push, types};

/// The join of two inputs.
pub fn join(join: &Logical, inputs: &Inputs) -> Result<Arc<Node>> {
    let (left, right) = (lower(&join.left, inputs)?, lower(&join.right, inputs)?);
    let (left_scope, right_scope) = (Scope::new(join.left.schema(), &left)?, Scope::new(join.right.schema(), &right)?);
    let on = join.on.iter().map(|(l, r)| Ok((left_scope.express(l)?, right_scope.express(r)?)));
    let on = on.collect::<Result<Vec<_>>>()?;
    let both: Vec<DataType> = types(&left.schema).into_iter().chain(types(&right.schema)).collect();
    let names = join.left.schema().join(join.right.schema())?;
    let both_schema = canonical(&both);
    let filter = join.filter.as_ref().map(|filter| Scope::over(&names, &both_schema)?.express(filter)).transpose()?;
    let (left, right, filter) = if join.null_aware { (left, right, filter) } else { sides(join, left, right, filter)? };
    let bounded = cheap(&left) || cheap(&right) || (filter.is_none() && whether_any(join));
    if on.is_empty() && !bounded {
        return Err(refused(
            "a join without an equality compares every row with every other; add an equality of columns to ON",
        ));
    }
    let kinds = match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti => types(&left.schema),
        JoinType::RightSemi | JoinType::RightAnti => types(&right.schema),
        JoinType::LeftMark => types(&left.schema).into_iter().chain([DataType::Boolean]).collect(),
        JoinType::RightMark => types(&right.schema).into_iter().chain([DataType::Boolean]).collect(),
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => both,
    };
    let kind = kind_of(&left, &right, join)?;
    let append_only = kind == Kind::Events
        || left.append_only && right.append_only && matches!(join.join_type, JoinType::Inner | JoinType::LeftSemi);
    let rows_max = match join.join_type {
        JoinType::Inner => left.rows_max.zip(right.rows_max).map(|(l, r)| l.saturating_mul(r)),
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.rows_max,
        _ => None,
    };
    let op = Join {
        left,
        right,
        on,
        filter,
        kind: join.join_type,
        nulls_equal: join.null_equality == NullEquality::NullEqualsNull,
        null_aware: join.null_aware,
        meets: Meets::Now,
    };
    Ok(Node::new(Op::Join(op), &kinds, kind, append_only, rows_max))
}

/// EXISTS of a query that does not depend on the row: no row is compared with another.
fn whether_any(join: &Logical) -> bool {
    use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
    matches!(join.join_type, LeftSemi | LeftAnti | LeftMark | RightSemi | RightAnti | RightMark)
}

/// Conditions of ON that speak of one side only, as filters of that side where that is the same: where rows of the side that
/// meet none do not come out.
fn sides(
    join: &Logical,
    left: Arc<Node>,
    right: Arc<Node>,
    filter: Option<Expression>,
) -> Result<(Arc<Node>, Arc<Node>, Option<Expression>)> {
    use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    let Some(filter) = filter else { return Ok((left, right, None)) };
    let width = left.schema.fields().len();
    let of_left = matches!(join.join_type, Inner | Right | RightSemi | RightAnti | RightMark | LeftSemi);
    let of_right = matches!(join.join_type, Inner | Left | LeftSemi | LeftAnti | LeftMark | RightSemi);
    let (mut on_left, mut on_right, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    for condition in split_conjunction(&filter) {
        let columns = collect_columns(condition);
        if of_left && columns.iter().all(|column| column.index() < width) {
            on_left.push(condition.clone());
        } else if of_right && columns.iter().all(|column| column.index() >= width) {
            on_right.push(push::moved(condition.clone(), width)?);
        } else {
            rest.push(condition.clone());
        }
    }
    Ok((push::filtered(left, on_left)?, push::filtered(right, on_right)?, push::all(rest)))
}

/// Few rows enough to be compared with all others.
fn cheap(node: &Node) -> bool {
    node.rows_max.is_some_and(|rows| rows <= 16)
}

/// Events that look a table up stay events, and so do pairs of events and events that have met one. That an event has met none
/// may change. No other join may have events below it, for it would keep them all.
fn kind_of(left: &Node, right: &Node, join: &Logical) -> Result<Kind> {
    use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    match (left.kind, right.kind, join.join_type) {
        (Kind::Table, Kind::Table, _) => Ok(Kind::Table),
        (Kind::Events, Kind::Table, Inner | Left | LeftSemi | LeftAnti | LeftMark) => Ok(Kind::Events),
        (Kind::Table, Kind::Events, Inner | Right | RightSemi | RightAnti | RightMark) => Ok(Kind::Events),
        // What bounds them may stand in WHERE as well, so it is looked for later.
        (Kind::Events, Kind::Events, _) if join.null_aware => Err(refused(
            "NOT IN over events: one null among them leaves nothing, so every event would be kept for it; write NOT EXISTS \
             (SELECT 1 FROM … WHERE …) with the equality and the bound of their times in it",
        )),
        (Kind::Events, Kind::Events, Inner | LeftSemi | RightSemi) => Ok(Kind::Events),
        // Whether an event has met one changes, and with it what comes out.
        (Kind::Events, Kind::Events, _) => Ok(Kind::Table),
        _ => Err(refused("this join keeps every event for ever; put the events on the side whose rows are all kept")),
    }
}
