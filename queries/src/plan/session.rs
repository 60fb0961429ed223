//! The session that plans: DataFusion with the names of the catalog, a fixed list of rules, and `now()` as the tick.
//!
//! Invariant: the plan depends on the SQL and the catalog only. Rules that are of no use, or wrong, where input never ends
//! are left out, and a new version of the library adds none by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use datafusion::datasource::ViewTable;
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::{SQLOptions, SessionConfig, SessionContext};
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::{ColumnarValue, LogicalPlan, ScalarUDF, Volatility, create_udf};
use datafusion::optimizer::OptimizerRule;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::rewrite_set_comparison::RewriteSetComparison;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;

use super::Kind;
use crate::question::limits::{LARGE, forbid};

/// Name of the function that stands for the tick.
pub const NOW: &str = "now";
/// Functions that are not functions of their arguments.
const FORBIDDEN: [&str; 9] = [
    "random",
    "uuid",
    "current_date",
    "current_time",
    "current_timestamp",
    "today",
    "version",
    "arrow_metadata",
    "getdate",
];

/// What a plan may read.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub(super) names: BTreeMap<String, (SchemaRef, Kind)>,
    plans: BTreeMap<String, (LogicalPlan, String)>,
}

impl Inputs {
    /// Adds a name.
    #[must_use]
    pub fn with(mut self, name: &str, schema: SchemaRef, kind: Kind) -> Self {
        self.names.insert(name.to_owned(), (schema, kind));
        self
    }

    /// Adds a name that stands for a plan.
    #[must_use]
    pub fn with_plan(mut self, name: &str, plan: LogicalPlan, sql: String) -> Self {
        self.plans.insert(name.to_owned(), (plan, sql));
        self
    }
}

/// Type of `now()`.
pub fn now_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, None)
}

/// `now()` as a name that is looked up when the plan is lowered, not a value of the time of planning.
pub(super) fn now() -> ScalarUDF {
    let never = |_: &[ColumnarValue]| -> Result<ColumnarValue> {
        Err(DataFusionError::Execution("now() has a value only where it bounds rows".into()))
    };
    create_udf(NOW, Vec::new(), now_type(), Volatility::Volatile, Arc::new(never))
}

/// Filters and projections stay above the joins of tables: below them each view would have a join of its own, and the
/// hundredth view over a join is to cost its own rows only. Filters of events go below by [`super::push`].
fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(RewriteSetComparison::new()),
        Arc::new(SimplifyExpressions::new()),
        // Before IN and EXISTS become joins that stand between a filter and the tables that it joins.
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        Arc::new(ScalarSubqueryToJoin::new()),
        Arc::new(DecorrelateLateralJoin::new()),
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateFilter::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(CommonSubexprEliminate::new()),
    ]
}

/// A session that knows these names.
///
/// # Errors
/// A name cannot be registered.
pub fn session(inputs: &Inputs) -> Result<SessionContext> {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(false)
        .set_bool("datafusion.execution.enable_recursive_ctes", false)
        .set_bool("datafusion.optimizer.enable_physical_uncorrelated_scalar_subquery", false);
    let state = SessionStateBuilder::new_with_default_features()
        .with_config(config)
        .with_optimizer_rules(rules())
        .with_relation_planners(vec![Arc::new(super::call::Planner { inputs: inputs.clone() })])
        .build();
    let context = SessionContext::new_with_state(state);
    forbid(&context, &FORBIDDEN);
    forbid(&context, &LARGE);
    context.register_udf(now());
    context.register_udf(super::hop::function());
    context.register_udf(super::sessions::function());
    crate::functions::functions().into_iter().for_each(|function| context.register_udf(function));
    for (name, (schema, _)) in &inputs.names {
        context.register_table(name.as_str(), Arc::new(EmptyTable::new(schema.clone())))?;
    }
    for (name, (plan, sql)) in &inputs.plans {
        context.register_table(name.as_str(), Arc::new(ViewTable::new(plan.clone(), Some(sql.clone()))))?;
    }
    Ok(context)
}

/// The optimised logical plan of one SELECT.
///
/// # Errors
/// The text is no SELECT over these inputs.
pub fn plan_sql(inputs: &Inputs, sql: &str) -> Result<LogicalPlan> {
    let state = session(inputs)?.state();
    // Nothing here waits for anything: the catalog is in memory.
    let plan = futures_util::FutureExt::now_or_never(state.create_logical_plan(sql))
        .ok_or_else(|| DataFusionError::Internal("planning waits".into()))??;
    let reads = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    reads.verify_plan(&plan)?;
    state.optimize(&plan)
}
