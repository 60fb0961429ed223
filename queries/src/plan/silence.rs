//! `silence(…)`: vehicles from which nothing has come for some time.
//!
//! Invariant: it stands for a SELECT, so it is kept up to date, bounded and shared as one.

use std::sync::Arc;

use datafusion::arrow::datatypes::IntervalMonthDayNanoType;
use datafusion::common::ScalarValue;
use datafusion::datasource::empty::EmptyTable;
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::functions_aggregate::expr_fn::max;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};

use super::call::Given;
use super::journeys::POSITIONS;
use super::lower::refused;
use super::session::now;
use super::{Inputs, Kind};

/// Name of the function.
pub const NAME: &str = "silence";
/// Parameters of a call.
pub const EXAMPLE: &str = "lasting => interval '10 minutes'";
/// How long nothing has come, if the call does not say.
const LASTING_MS: i64 = 60_000;

/// What a call stands for. Silence is measured by arrival, as the main job does, not by the devices' clocks.
pub fn plan(given: &[Given], inputs: &Inputs) -> Result<LogicalPlan> {
    let mut lasting_ms = LASTING_MS;
    for one in given {
        match one.name.as_str() {
            "lasting" => lasting_ms = one.length_ms()?,
            _ => return Err(one.unknown(NAME, &["lasting"])),
        }
    }
    let known = inputs.names.get(POSITIONS).filter(|(_, kind)| *kind == Kind::Events);
    let (schema, _) =
        known.ok_or_else(|| refused(&format!("{NAME}() reads {POSITIONS}, which is not in the catalog")))?;
    let messages = provider_as_source(Arc::new(EmptyTable::new(schema.clone())));
    let heard = LogicalPlanBuilder::scan(POSITIONS, messages, None)?
        .filter(col("vehicle_id").is_not_null())?
        .aggregate(vec![col("vehicle_id")], vec![max(col("arrived_at"))])?;
    let columns: Vec<Expr> = heard.schema().columns().into_iter().map(Expr::Column).collect();
    let named = columns.into_iter().zip(["vehicle_id", "silent_since"]).map(|(column, name)| column.alias(name));
    let (days, ms) = (lasting_ms / 86_400_000, lasting_ms % 86_400_000);
    let days =
        i32::try_from(days).map_err(|_| refused("silence() of more days than there are numbers; write fewer"))?;
    let lasting = IntervalMonthDayNanoType::make_value(0, days, ms * 1_000_000);
    let since = now().call(Vec::new()) - lit(ScalarValue::IntervalMonthDayNano(Some(lasting)));
    let named = heard.project(named.collect::<Vec<_>>())?;
    named.filter(col("silent_since").lt_eq(since))?.alias(NAME)?.build()
}
