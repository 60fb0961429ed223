//! `session(ts, gap)`: rows of one group that follow each other within a gap are one session.
//!
//! Invariant: which rows are one session depends on their times and on the other columns of GROUP BY alone.

use datafusion::error::Result;
use datafusion::logical_expr::{Expr, ScalarUDF};

use super::hop::{arguments, calls, length_ms, placeholder};
use super::lower::{contains, refused};

/// Name of the function.
pub const SESSION: &str = "session";

/// `session` as a name.
pub fn function() -> ScalarUDF {
    placeholder(SESSION, 1)
}

/// A call among the expressions of a GROUP BY.
pub struct Call {
    /// Which of them it is.
    pub at: usize,
    /// The time of a row.
    pub time: Expr,
    /// Longest time between two rows of a session.
    pub gap_ms: i64,
}

/// The call in a GROUP BY, if there is one.
pub fn call(by: &[Expr]) -> Result<Option<Call>> {
    let is = |expr: &Expr| calls(expr, SESSION);
    let mut found = None;
    for (at, expr) in by.iter().enumerate().filter(|(_, expr)| contains(expr, is)) {
        let expr = expr.clone().unalias_nested().data;
        let ([time, gap], None) = (arguments(&expr), &found) else {
            return Err(refused("session() stands alone in GROUP BY, and once; compute with its start around that"));
        };
        if !is(&expr) || contains(time, is) {
            return Err(refused("session() stands alone in GROUP BY, and once; compute with its start around that"));
        }
        found = Some(Call { at, time: time.clone(), gap_ms: length_ms(SESSION, "gap", gap)? });
    }
    Ok(found)
}
