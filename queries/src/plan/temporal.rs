//! Comparisons with `now()`: from and until which tick a row is there.
//!
//! Invariant: `now()` is the tick. It appears in comparisons of a WHERE only, where it can be solved for; anywhere else a
//! row would change with every tick.

use datafusion::arrow::datatypes::DataType;
use datafusion::error::Result;
use datafusion::logical_expr::expr::{Cast, ScalarFunction};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

use super::Bound;
use super::express::Scope;
use super::lower::{contains, refused};
use super::session::{NOW, now_type};

fn is_now(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == NOW)
}

/// Whether `now()` is part of it.
pub fn has_now(expr: &Expr) -> bool {
    contains(expr, is_now)
}

/// Refuses `now()` where rows would change with every tick.
pub fn refuse_now(expr: &Expr) -> Result<()> {
    if has_now(expr) {
        return Err(refused(
            "now() changes with every tick, and with it every row; compare it in WHERE, as in `ts > now() - interval '1 \
             hour'`",
        ));
    }
    Ok(())
}

/// The bound that a comparison sets.
pub fn bound(comparison: &Expr, scope: &Scope<'_>) -> Result<Bound> {
    let cannot = || {
        refused(&format!(
            "cannot tell when `{comparison}` changes; write it as `expression < now()`, or with >, <=, >="
        ))
    };
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = comparison else { return Err(cannot()) };
    // `side` op `at`, with now() alone on the side.
    let (mut side, op, mut at) = match (has_now(left), has_now(right)) {
        (true, false) => (left.as_ref().clone(), *op, right.as_ref().clone()),
        (false, true) => (right.as_ref().clone(), op.swap().ok_or_else(cannot)?, left.as_ref().clone()),
        _ => return Err(cannot()),
    };
    while !is_now(&side) {
        side = match side {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Minus, right }) if has_now(&left) => {
                at = binary(at, Operator::Plus, *right);
                *left
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) if has_now(&left) => {
                at = binary(at, Operator::Minus, *right);
                *left
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus, right }) if has_now(&right) => {
                at = binary(at, Operator::Minus, *left);
                *right
            }
            Expr::Cast(Cast { expr, field }) if matches!(field.data_type(), DataType::Timestamp(_, _)) => *expr,
            _ => return Err(cannot()),
        };
    }
    let at = scope.express(&at)?;
    let (at, kind) = (at.clone(), scope.type_of(&at)?);
    let at = match kind {
        DataType::Timestamp(_, _) => at,
        DataType::Date32 | DataType::Date64 => {
            std::sync::Arc::new(datafusion::physical_expr::expressions::CastExpr::new(at, now_type(), None))
        }
        _ => return Err(cannot()),
    };
    match op {
        Operator::Lt => Ok(Bound { at, until: true, including: false }),
        Operator::LtEq => Ok(Bound { at, until: true, including: true }),
        Operator::Gt => Ok(Bound { at, until: false, including: false }),
        Operator::GtEq => Ok(Bound { at, until: false, including: true }),
        _ => Err(cannot()),
    }
}

fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) })
}
