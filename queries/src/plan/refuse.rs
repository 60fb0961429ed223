//! Refusals of plans in the one shape of all errors.

use datafusion::error::DataFusionError;
use operators::error::Refusal;

/// The error as a refusal.
#[must_use]
pub fn refusal(error: &DataFusionError) -> Refusal {
    match error.find_root() {
        DataFusionError::NotImplemented(why) => Refusal::new("sql_unsupported", why.clone()),
        _ => crate::history::refusal(error),
    }
}
