//! Makes a plan that can be stopped: joins yield, and a join that pairs every row with every row is kept small.
//!
//! Invariant: between two points at which a question can be given up lies at most [`PAIRS_MAX`] of work.

use std::sync::Arc;

use datafusion::common::stats::Precision;
use datafusion::common::tree_node::{Transformed, TreeNode as _, TreeNodeRecursion};
use datafusion::error::DataFusionError;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::statistics::{StatisticsArgs, StatisticsContext};
use operators::error::Refusal;

use super::refuse;

/// Pairs of rows that a join without an equality may compare.
const PAIRS_MAX: usize = 100_000_000;
/// Joins that compare every row with every row.
const PAIRING: [&str; 3] = ["CrossJoinExec", "NestedLoopJoinExec", "PiecewiseMergeJoinExec"];

/// The plan with points at which it can be stopped.
pub fn bound(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, Refusal> {
    let mut refused = None;
    let checked = plan.apply(|node| {
        if PAIRING.contains(&node.name())
            && let Some(why) = too_many_pairs(node)
        {
            refused = Some(why);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    checked.map_err(|e| refuse::refusal(&e, &[]))?;
    if let Some(why) = refused {
        return Err(Refusal::new("sql_too_complex", why)
            .hint("join on an equality (a.device_id = b.device_id), or aggregate one side first"));
    }
    // Of one batch these make many, without asking for another.
    let yielding = plan.transform_up(|node| {
        let multiplies = node.name().ends_with("JoinExec") || node.name() == "UnnestExec";
        let yielding = |node| Transformed::yes(Arc::new(CooperativeExec::new(node)) as Arc<dyn ExecutionPlan>);
        Ok(if multiplies { yielding(node) } else { Transformed::no(node) })
    });
    yielding.map(|plan| plan.data).map_err(|e| refuse::refusal(&e, &[]))
}

fn too_many_pairs(join: &Arc<dyn ExecutionPlan>) -> Option<String> {
    let rows = join.children().into_iter().map(rows).collect::<Result<Vec<_>, _>>();
    let Ok(rows) = rows else { return None };
    let [Some(left), Some(right)] = rows[..] else {
        return Some("a join without an equality between tables of unknown size".to_owned());
    };
    (left.saturating_mul(right) > PAIRS_MAX)
        .then(|| format!("a join without an equality of {left} × {right} rows; at most {PAIRS_MAX} pairs are compared"))
}

/// How many rows a plan gives, if that can be told.
fn rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Option<usize>, DataFusionError> {
    let statistics = StatisticsContext::new().compute(plan.as_ref(), &StatisticsArgs::new())?;
    Ok(match statistics.num_rows {
        Precision::Exact(rows) | Precision::Inexact(rows) => Some(rows),
        Precision::Absent => None,
    })
}
