//! `silence(…)`: vehicles from which nothing has come for some time.
//!
//! Invariant: it stands for a SELECT, so it is kept up to date, bounded and shared as one.

use datafusion::error::{DataFusionError, Result};
use datafusion::sql::sqlparser::ast::{SetExpr, Statement, TableFactor};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

use super::call::Given;

/// Name of the function.
pub const NAME: &str = "silence";
/// Parameters of a call.
pub const EXAMPLE: &str = "lasting => interval '10 minutes'";
/// How long nothing has come, if the call does not say.
const LASTING_MS: i64 = 60_000;

/// What a call stands for. Silence is measured by arrival, as the main job does, not by the devices' clocks.
pub fn relation(given: &[Given]) -> Result<TableFactor> {
    let mut lasting_ms = LASTING_MS;
    for one in given {
        match one.name.as_str() {
            "lasting" => lasting_ms = one.length_ms()?,
            _ => return Err(one.unknown(NAME, &["lasting"])),
        }
    }
    let sql = format!(
        "SELECT * FROM (SELECT vehicle_id, silent_since FROM (SELECT vehicle_id, max(arrived_at) AS silent_since FROM \
         telemetry_enriched WHERE vehicle_id IS NOT NULL GROUP BY vehicle_id) AS heard WHERE silent_since <= now() - interval \
         '{lasting_ms} milliseconds') AS {NAME}"
    );
    let wrong = || DataFusionError::Internal(format!("what {NAME}() stands for is no SELECT"));
    let statement = Parser::parse_sql(&GenericDialect {}, &sql).ok().and_then(|mut all| all.pop()).ok_or_else(wrong)?;
    let Statement::Query(query) = statement else { return Err(wrong()) };
    let SetExpr::Select(mut select) = *query.body else { return Err(wrong()) };
    Ok(select.from.pop().ok_or_else(wrong)?.relation)
}
