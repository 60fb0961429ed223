//! Which rows of what a plan reads a key of its result can come from: conditions on the result, brought down through the
//! operators to conditions on their inputs.
//!
//! Invariant: an input without the rows for which a needed condition does not hold gives the same result, as far as the key
//! goes. What cannot be brought down is left away, so there are rather too many rows than too few.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, new_null_array};
use datafusion::arrow::compute::and;
use datafusion::arrow::compute::kernels::cmp::{gt_eq, lt, not_distinct};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::error::Result;
use datafusion::physical_expr::utils::collect_columns;
use operators::row::as_key;

use super::express::replaced;
use super::{Expression, Join, Node, Op, canonical, place, push, types};

/// What all rows of a key have in common.
#[derive(Clone, Debug)]
pub struct Condition {
    /// An expression over the columns of a node.
    pub of: Expression,
    /// What it is.
    pub is: Is,
}

/// What an expression is for the rows of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Is {
    /// This value; null is a value like any other.
    Value(ScalarValue),
    /// A time from the first on and before the second.
    Within(ScalarValue, ScalarValue),
}

/// Rows of a node that have to do with a key.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// For rows of the key all of these hold.
    pub rows: Vec<Condition>,
    /// Rows for which one of these does not hold change nothing: less than [`rows`](Self::rows) where what becomes of a row
    /// depends on others.
    pub needed: Vec<Condition>,
}

impl Wanted {
    /// The rows of a result for which these hold.
    #[must_use]
    pub fn of(conditions: Vec<Condition>) -> Self {
        Self { needed: conditions.clone(), rows: conditions }
    }
}

impl Condition {
    /// For which of these values it holds.
    ///
    /// # Errors
    /// They are of another type.
    pub fn holds(&self, values: &ArrayRef) -> Result<BooleanArray> {
        Ok(match &self.is {
            Is::Value(value) => not_distinct(&as_key(values), &value.to_scalar()?)?,
            Is::Within(from, until) => and(&gt_eq(values, &from.to_scalar()?)?, &lt(values, &until.to_scalar()?)?)?,
        })
    }

    fn over(&self, of: Expression) -> Condition {
        Condition { of, is: self.is.clone() }
    }

    fn is_over(&self, known: impl Fn(usize) -> bool) -> bool {
        collect_columns(&self.of).iter().all(|column| known(column.index()))
    }
}

/// What is wanted of each input of a node of which this is wanted.
///
/// # Errors
/// None that a plan can cause.
pub fn below(node: &Node, wanted: &Wanted) -> Result<Vec<Wanted>> {
    let both = |bring: &dyn Fn(&[Condition]) -> Result<Vec<Condition>>| {
        Ok(vec![Wanted { rows: bring(&wanted.rows)?, needed: bring(&wanted.needed)? }])
    };
    let over = |columns: usize| {
        move |conditions: &[Condition]| {
            let kept = conditions.iter().filter(|condition| condition.is_over(|column| column < columns));
            Ok(kept.cloned().collect())
        }
    };
    match &node.op {
        Op::Get(_) | Op::Constant(_) => Ok(Vec::new()),
        Op::Map { project, .. } => both(&|conditions| {
            let moved = conditions.iter().map(|condition| {
                Ok(condition.over(replaced(condition.of.clone(), |column| Some(project[column].clone()))?))
            });
            moved.collect()
        }),
        Op::Join(join) => {
            let ([left, right], [left_needed, right_needed]) =
                (of_sides(join, &wanted.rows)?, of_sides(join, &wanted.needed)?);
            Ok(vec![Wanted { rows: left, needed: left_needed }, Wanted { rows: right, needed: right_needed }])
        }
        // Groups are told apart by their keys, and each knows its own rows only.
        Op::Reduce { keys, .. } | Op::Sessions { keys, .. } => both(&over(*keys)),
        Op::Journeys { .. } => both(&over(1)),
        Op::Geofences { .. } => {
            let positions = Wanted { rows: over(1)(&wanted.rows)?, needed: over(1)(&wanted.needed)? };
            Ok(vec![positions, Wanted { rows: of_fences(&wanted.rows)?, needed: of_fences(&wanted.needed)? }])
        }
        Op::TopK { partition, .. } => {
            Ok(vec![Wanted { rows: wanted.rows.clone(), needed: of_groups(partition, &wanted.needed) }])
        }
        Op::Window { input, partition, .. } => {
            let rows = over(input.schema.fields().len())(&wanted.rows)?;
            Ok(vec![Wanted { rows, needed: of_groups(partition, &wanted.needed) }])
        }
        Op::Hop { size_ms, .. } => {
            let last = node.schema.fields().len() - 1;
            both(&|conditions| {
                Ok(conditions.iter().filter_map(|condition| hopped(condition, last, *size_ms)).collect())
            })
        }
        // An element tells nothing of its list that could be asked of a row.
        Op::Unnest { lists, .. } => both(&|conditions| {
            let kept = conditions.iter().filter(|condition| condition.is_over(|column| !lists.contains(&column)));
            Ok(kept.cloned().collect())
        }),
        Op::Union(inputs) => Ok(vec![wanted.clone(); inputs.len()]),
        Op::Temporal { .. } => Ok(vec![wanted.clone()]),
    }
}

/// Conditions on whose a fence is and on its id: of other fences nothing is asked.
fn of_fences(conditions: &[Condition]) -> Result<Vec<Condition>> {
    let own = conditions.iter().filter(|condition| condition.is_over(|column| (1..=2).contains(&column)));
    own.map(|condition| Ok(condition.over(replaced(condition.of.clone(), |column| Some(place(column - 1)))?))).collect()
}

/// Conditions on what rows are grouped by: other rows of the group decide what becomes of a row.
fn of_groups(partition: &[Expression], conditions: &[Condition]) -> Vec<Condition> {
    let is_key = |column: usize| partition.iter().any(|by| **by == *place(column));
    let of_group =
        |condition: &&Condition| partition.iter().any(|by| **by == *condition.of) || condition.is_over(is_key);
    conditions.iter().filter(of_group).cloned().collect()
}

/// The last column is a time where the condition is on the start of a window.
fn hopped(condition: &Condition, last: usize, size_ms: i64) -> Option<Condition> {
    if condition.is_over(|column| column != last) {
        return Some(condition.clone());
    }
    let (Is::Value(start), true) = (&condition.is, *condition.of == *place(last)) else { return None };
    let end = later(start, size_ms)?;
    Some(Condition { of: condition.of.clone(), is: Is::Within(start.clone(), end) })
}

/// A time so many milliseconds later.
fn later(time: &ScalarValue, ms: i64) -> Option<ScalarValue> {
    use ScalarValue::{TimestampMicrosecond, TimestampMillisecond, TimestampNanosecond, TimestampSecond};
    let scaled = |at: &i64, unit: i64| at.checked_add(ms.checked_mul(unit)?);
    Some(match time {
        TimestampSecond(Some(at), zone) => {
            TimestampSecond(Some(at.checked_add(ms.div_euclid(1_000) + 1)?), zone.clone())
        }
        TimestampMillisecond(Some(at), zone) => TimestampMillisecond(Some(scaled(at, 1)?), zone.clone()),
        TimestampMicrosecond(Some(at), zone) => TimestampMicrosecond(Some(scaled(at, 1_000)?), zone.clone()),
        TimestampNanosecond(Some(at), zone) => TimestampNanosecond(Some(scaled(at, 1_000_000)?), zone.clone()),
        _ => return None,
    })
}

/// The two inputs of a join: how wide they are, and which of them has rows of nulls made up for it.
struct Sides<'a> {
    join: &'a Join,
    width: usize,
    types: Vec<DataType>,
}

/// Conditions on what comes out of a join, as conditions on its left and its right input.
fn of_sides(join: &Join, conditions: &[Condition]) -> Result<[Vec<Condition>; 2]> {
    use JoinType::{LeftAnti, LeftMark, LeftSemi, RightAnti, RightMark, RightSemi};
    let width = join.left.schema.fields().len();
    let types: Vec<DataType> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
    let both = types.len();
    let sides = Sides { join, width, types };
    let (mut left, mut right) = (Vec::new(), Vec::new());
    for condition in conditions {
        let condition = match join.kind {
            LeftSemi | LeftAnti | LeftMark if condition.is_over(|column| column < width) => condition.clone(),
            RightSemi | RightAnti | RightMark if condition.is_over(|column| column < both - width) => {
                condition.over(shifted(&condition.of, width)?)
            }
            LeftSemi | LeftAnti | LeftMark | RightSemi | RightAnti | RightMark => continue,
            _ => condition.clone(),
        };
        let (on_left, on_right) = sides.bring(&condition)?;
        left.extend(on_left);
        right.extend(on_right);
    }
    Ok([left, right])
}

impl Sides<'_> {
    /// A condition over the columns of both, as one on each of them, where there is such a one.
    fn bring(&self, condition: &Condition) -> Result<(Option<Condition>, Option<Condition>)> {
        let (left, right) =
            (condition.is_over(|column| column < self.width), condition.is_over(|column| column >= self.width));
        let made_up = match self.join.kind {
            JoinType::Left => !left,
            JoinType::Right => !right,
            JoinType::Full => true,
            _ => false,
        };
        // Without a row for it, or with none that it meets, the other would come out with nulls in its place.
        if made_up && (!left && !right || !self.refuses_nulls(condition)) {
            return Ok((None, None));
        }
        let on_left = if left { Some(condition.clone()) } else { self.across(condition, false)? };
        let on_right = if right { Some(condition.clone()) } else { self.across(condition, true)? };
        let own = |one: Condition| -> Result<Condition> { Ok(one.over(push::moved(one.of.clone(), self.width)?)) };
        Ok((on_left, on_right.map(own).transpose()?))
    }

    /// The condition on one side by what has to be equal to it on the other.
    fn across(&self, condition: &Condition, to_right: bool) -> Result<Option<Condition>> {
        if self.join.null_aware {
            return Ok(None);
        }
        let mut of = condition.of.clone();
        for (left, right) in &self.join.on {
            let right = shifted(right, self.width)?;
            let (from, to) = if to_right { (left.clone(), right) } else { (right, left.clone()) };
            let replaced = of.transform_down(|part| {
                if *part == *from {
                    return Ok(Transformed::new(to.clone(), true, TreeNodeRecursion::Jump));
                }
                Ok(Transformed::no(part))
            });
            of = replaced?.data;
        }
        let there = collect_columns(&of).iter().all(|column| (column.index() >= self.width) == to_right);
        let schema = canonical(&self.types);
        let same = of.data_type(&schema)? == condition.of.data_type(&schema)?;
        Ok((there && same).then(|| condition.over(of)))
    }

    /// Whether it does not hold for a row of nulls.
    fn refuses_nulls(&self, condition: &Condition) -> bool {
        let columns = self.types.iter().map(|kind| new_null_array(kind, 1)).collect();
        let holds = || {
            let nulls = RecordBatch::try_new(canonical(&self.types), columns)?;
            condition.holds(&condition.of.evaluate(&nulls)?.into_array(1)?)
        };
        holds().is_ok_and(|holds| !(holds.is_valid(0) && holds.value(0)))
    }
}

/// The expression over columns that begin `by` places later.
fn shifted(of: &Expression, by: usize) -> Result<Expression> {
    replaced(of.clone(), |column| Some(place(column + by)))
}

/// The plan with these inputs in the place of its own.
#[must_use]
pub(crate) fn over(node: &Arc<Node>, inputs: Vec<Arc<Node>>) -> Arc<Node> {
    super::bounds::with(node, inputs, None)
}

/// The columns of a node that reads this.
#[must_use]
pub(crate) fn get(node: &Node, name: &str) -> Arc<Node> {
    Node::new(Op::Get(name.to_owned()), &types(&node.schema), node.kind, node.append_only, node.rows_max)
}

#[cfg(test)]
mod tests;
