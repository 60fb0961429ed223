//! How events meet what they are joined with: events near them in device time, a table as it stands when they arrive, as it
//! stood at their time, or also as it stands soon after.
//!
//! Invariant: whatever keeps an event says for how long.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{BinaryExpr, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::collect_columns;

use super::lower::refused;
use super::{Expression, Join, Kind, Node, Op, push, types};

/// What a declaration says of time, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// How late after its time an event may come.
    pub retention: Option<i64>,
    /// Events meet tables as of their own time, if it is not longer ago than this.
    pub as_of: Option<i64>,
    /// For how long an event that met no row waits for one.
    pub correct_for: Option<i64>,
}

/// How the rows of the two inputs of a join meet.
#[derive(Clone, Debug)]
pub enum Meets {
    /// As they are; events meet a table as it stands when they arrive.
    Now,
    /// Events meet events.
    Within(Within),
    /// Events meet a table as it stood at their own time.
    AsOf {
        /// Which column of the events is their time.
        time: usize,
        /// How long ago at most, in milliseconds; older events meet the table as it stood then.
        horizon_ms: i64,
    },
    /// Events that met no row meet the first that comes.
    Corrected {
        /// For how many milliseconds they wait.
        horizon_ms: i64,
    },
}

/// Two events can meet if the right one's time less the left one's lies between these bounds.
#[derive(Clone, Debug)]
pub struct Within {
    /// The time of a left event.
    pub left: Expression,
    /// The time of a right event.
    pub right: Expression,
    /// How much earlier (if negative) the right one may be, in milliseconds.
    pub from_ms: i64,
    /// How much later.
    pub until_ms: i64,
    /// How long after its time an event may come.
    pub retention_ms: i64,
}

impl Within {
    /// For how long after their time left and right events are kept: what comes later is late, or too far away.
    #[must_use]
    pub fn kept_ms(&self) -> [i64; 2] {
        [self.until_ms, -self.from_ms].map(|reach| reach.saturating_add(self.retention_ms))
    }
}

/// Both bounds on the times of two events.
struct Found {
    left: Expression,
    right: Expression,
    from_ms: Option<i64>,
    until_ms: Option<i64>,
}

/// The bound on the times of the events of a join.
///
/// # Errors
/// There is none, or nothing says how late events may come.
pub fn within(join: &Join, retention_ms: Option<i64>) -> Result<Within> {
    let mut found: Vec<Found> = Vec::new();
    let conditions = join.filter.iter().flat_map(|filter| split_conjunction(filter));
    let bounds = conditions.filter_map(|condition| bound(condition, join)).chain(join.on.iter().filter_map(|on| {
        // Where null equals null, events without a time would meet each other at any distance.
        let times = !join.nulls_equal && is_time(&on.0, &join.left.schema) && is_time(&on.1, &join.right.schema);
        times.then(|| Found { left: on.0.clone(), right: on.1.clone(), from_ms: Some(0), until_ms: Some(0) })
    }));
    for new in bounds {
        match found.iter_mut().find(|known| *known.left == *new.left && *known.right == *new.right) {
            Some(known) => {
                known.from_ms = known.from_ms.max(new.from_ms);
                known.until_ms = known.until_ms.into_iter().chain(new.until_ms).min();
            }
            None => found.push(new),
        }
    }
    let whole =
        found.into_iter().find_map(|Found { left, right, from_ms, until_ms }| Some((left, right, from_ms?, until_ms?)));
    let Some((left, right, from_ms, until_ms)) = whole else {
        return Err(refused(
            "unbounded: events joined with events would both be kept for ever; bound the time of one by that of the other from \
             both sides, as in `b.ts BETWEEN a.ts - interval '5 minutes' AND a.ts + interval '1 minute'`, and say how late events \
             may come by WITH (retention = '1 hour')",
        ));
    };
    let Some(retention_ms) = retention_ms else {
        return Err(refused(
            "unbounded: events joined with events are kept until no other can come that they meet, and nothing says how late \
             events may come; add WITH (retention = '1 hour')",
        ));
    };
    Ok(Within { left, right, from_ms, until_ms, retention_ms })
}

fn is_time(expression: &Expression, schema: &Schema) -> bool {
    matches!(expression.data_type(schema), Ok(DataType::Timestamp(..)))
}

/// The bound that one comparison sets.
fn bound(condition: &Expression, join: &Join) -> Option<Found> {
    let comparison = condition.downcast_ref::<BinaryExpr>()?;
    let (one, one_ns) = without_offset(comparison.left());
    let (other, other_ns) = without_offset(comparison.right());
    let width = join.left.schema.fields().len();
    let of_left = |expression: &Expression| {
        let columns = collect_columns(expression);
        let left = columns.iter().filter(|column| column.index() < width).count();
        (!columns.is_empty() && (left == 0 || left == columns.len())).then_some(left > 0)
    };
    // `right` op `left` + distance.
    let (left, right, op, distance_ns) = match (of_left(&one)?, of_left(&other)?) {
        (true, false) => (one, other, comparison.op().swap()?, one_ns.checked_sub(other_ns)?),
        (false, true) => (other, one, *comparison.op(), other_ns.checked_sub(one_ns)?),
        _ => return None,
    };
    let right = push::moved(right, width).ok()?;
    if !is_time(&left, &join.left.schema) || !is_time(&right, &join.right.schema) {
        return None;
    }
    // Rather too wide than too narrow: the condition itself is evaluated as well.
    let (floor, ceiling) = (distance_ns.div_euclid(NS_IN_MS), -(-distance_ns).div_euclid(NS_IN_MS));
    let (from_ms, until_ms) = match op {
        Operator::Gt | Operator::GtEq => (Some(floor), None),
        Operator::Lt | Operator::LtEq => (None, Some(ceiling)),
        Operator::Eq => (Some(floor), Some(ceiling)),
        _ => return None,
    };
    Some(Found { left, right, from_ms, until_ms })
}

const NS_IN_MS: i64 = 1_000_000;

/// The expression without the intervals that are added to it, and these in nanoseconds.
fn without_offset(expression: &Expression) -> (Expression, i64) {
    let (mut rest, mut ns) = (expression.clone(), 0i64);
    loop {
        let Some(binary) = rest.downcast_ref::<BinaryExpr>() else { return (rest, ns) };
        let next = match (binary.op(), interval_ns(binary.left()), interval_ns(binary.right())) {
            (Operator::Plus, _, Some(length)) => (binary.left().clone(), ns.checked_add(length)),
            (Operator::Minus, _, Some(length)) => (binary.left().clone(), ns.checked_sub(length)),
            (Operator::Plus, Some(length), _) => (binary.right().clone(), ns.checked_add(length)),
            _ => return (rest, ns),
        };
        let (inner, Some(sum)) = next else { return (rest, ns) };
        (rest, ns) = (inner, sum);
    }
}

/// A constant length of time; months have none.
fn interval_ns(expression: &Expression) -> Option<i64> {
    let literal = expression.downcast_ref::<Literal>()?;
    match literal.value() {
        ScalarValue::IntervalMonthDayNano(Some(length)) if length.months == 0 => {
            i64::from(length.days).checked_mul(86_400_000 * NS_IN_MS)?.checked_add(length.nanoseconds)
        }
        ScalarValue::IntervalDayTime(Some(length)) => {
            (i64::from(length.days) * 86_400_000 + i64::from(length.milliseconds)).checked_mul(NS_IN_MS)
        }
        ScalarValue::DurationMillisecond(Some(length)) => length.checked_mul(NS_IN_MS),
        _ => None,
    }
}

/// How events that look a table up meet it. `times` are the columns of the events that are their time.
///
/// # Errors
/// What the declaration asks for cannot be done with this join.
pub fn looks_up(kind: JoinType, said: Times, times: &[usize]) -> Result<Meets> {
    if let Some(horizon_ms) = said.correct_for {
        if !matches!(kind, JoinType::Inner | JoinType::Left | JoinType::Right) {
            return Err(refused(
                "correct_for: IN and EXISTS are not corrected; write a LEFT JOIN with the table, and compare its key with NULL",
            ));
        }
        return Ok(Meets::Corrected { horizon_ms });
    }
    let Some(horizon_ms) = said.as_of else { return Ok(Meets::Now) };
    match times {
        [time] => Ok(Meets::AsOf { time: *time, horizon_ms }),
        [] => Err(refused(
            "as_of: the events of a join have no column of their time here (ts, or EVENT TIME of a source); keep it in the query \
             below the join",
        )),
        _ => Err(refused(
            "as_of: the events of a join have several columns of their time here (ts, or EVENT TIME of a source); keep the one \
             that counts in the query below the join",
        )),
    }
}

/// The join over these inputs, with how they meet.
pub fn joined(node: &Node, join: &Join, inputs: Vec<Arc<Node>>, meets: Meets) -> Arc<Node> {
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("a join has two inputs");
    let (left, right) = (next(), next());
    let corrected = matches!(meets, Meets::Corrected { .. });
    let kind = if corrected { Kind::Table } else { node.kind };
    let append_only = node.append_only && !corrected;
    let op = Op::Join(Join { left, right, meets, ..join.clone() });
    Node::new(op, &types(&node.schema), kind, append_only, node.rows_max)
}
