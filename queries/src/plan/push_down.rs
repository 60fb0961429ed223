//! The library's rule that moves conditions down, but for two moves that are wrong.
//!
//! Invariant: a condition without columns stays above a GROUP BY. Below it `HAVING false` would leave the group of everything,
//! which is there without rows too. And all conditions stay above DISTINCT ON: below it another row would be the first.

use datafusion::common::tree_node::Transformed;
use datafusion::error::Result;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Distinct, Expr, LogicalPlan};
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

/// [`PushDownFilter`] without those moves.
#[derive(Debug)]
pub struct PushDown(pub PushDownFilter);

impl OptimizerRule for PushDown {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        if matches!(plan, LogicalPlan::Filter(_)) && stays(&plan, false) {
            return Ok(Transformed::no(plan));
        }
        self.0.rewrite(plan, config)
    }
}

/// Whether this is a condition that must stay where it is. Conditions one over the other are moved as one.
fn stays(plan: &LogicalPlan, bare: bool) -> bool {
    match plan {
        LogicalPlan::Filter(filter) => {
            let without_columns = |part: &&Expr| part.column_refs().is_empty();
            stays(&filter.input, bare || split_conjunction(&filter.predicate).iter().any(without_columns))
        }
        LogicalPlan::Aggregate(_) => bare,
        LogicalPlan::Distinct(Distinct::On(_)) => true,
        _ => false,
    }
}
