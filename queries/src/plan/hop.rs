//! `hop(ts, slide, size)`: a row once for each window that its time is in.
//!
//! Invariant: the windows start at whole multiples of the slide since 1970, as those of `date_bin` do, so the same row is in
//! the same windows wherever they are computed.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{ColumnarValue, Expr, ScalarUDF, Volatility, create_udf};

use super::express::{Scope, places};
use super::lower::{contains, map, refused};
use super::session::now_type;
use super::tell::spoken;
use super::{Node, Op, types};

/// Name of the function.
pub const HOP: &str = "hop";
/// Most windows that one row may be in.
const WINDOWS_MAX: i64 = 1_000;

/// A function of a time and lengths that has no value of its own: the plan says what becomes of it. Volatile, so that no
/// rule computes it once where it stands twice.
pub(super) fn placeholder(name: &'static str, lengths: usize) -> ScalarUDF {
    let never = move |_: &[ColumnarValue]| -> Result<ColumnarValue> {
        Err(DataFusionError::Execution(format!("{name}() has no value of its own")))
    };
    let interval = DataType::Interval(datafusion::arrow::datatypes::IntervalUnit::MonthDayNano);
    let arguments = [now_type()].into_iter().chain(std::iter::repeat_n(interval, lengths)).collect();
    create_udf(name, arguments, now_type(), Volatility::Volatile, Arc::new(never))
}

/// `hop` as a name.
pub fn function() -> ScalarUDF {
    placeholder(HOP, 2)
}

/// Whether it is a call of this function.
pub(super) fn calls(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::ScalarFunction(ScalarFunction { func, .. }) if func.name() == name)
}

/// The call's arguments.
pub(super) fn arguments(call: &Expr) -> &[Expr] {
    match call {
        Expr::ScalarFunction(ScalarFunction { args, .. }) => args,
        _ => &[],
    }
}

/// Milliseconds of a length that stands in the text.
pub(super) fn length_ms(of: &str, what: &str, expr: &Expr) -> Result<i64> {
    let wrong = || {
        refused(&format!(
            "{of}() takes its {what} as a length that stands in the text, of whole milliseconds and at least one, such as \
             interval '5 minutes'; found {expr}"
        ))
    };
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(length)), _) = expr else { return Err(wrong()) };
    let whole = length.months == 0 && length.nanoseconds % 1_000_000 == 0;
    let ms = i64::from(length.days) * 86_400_000 + length.nanoseconds / 1_000_000;
    if whole && ms > 0 { Ok(ms) } else { Err(wrong()) }
}

/// The slide and the size of a call.
fn lengths(call: &Expr) -> Result<(i64, i64)> {
    let [_, slide, size] = arguments(call) else { return Err(refused("hop() takes a time, a slide and a size")) };
    let (slide, size) = (length_ms(HOP, "slide", slide)?, length_ms(HOP, "size", size)?);
    if slide > size {
        return Err(refused(&format!(
            "hop() with a slide of {} and a size of {}: rows between two windows would be in none; write the shorter first",
            spoken(slide),
            spoken(size)
        )));
    }
    let windows = (size - 1) / slide + 1;
    if windows > WINDOWS_MAX {
        return Err(refused(&format!(
            "hop() with a slide of {} and a size of {} puts each row into {windows} windows, and at most {WINDOWS_MAX} are \
             taken; write a longer slide",
            spoken(slide),
            spoken(size)
        )));
    }
    Ok((slide, size))
}

/// What [`fanned`] makes of a node and of expressions over it.
pub struct Fanned {
    /// The node with a column for each call.
    pub node: Arc<Node>,
    /// Its columns as the SQL knows them.
    pub names: DFSchema,
    /// The expressions with those columns in the place of the calls.
    pub exprs: Vec<Expr>,
}

/// Fans the rows of a node out for each different call of `hop` in these expressions.
pub fn fanned(input: Arc<Node>, names: &DFSchema, exprs: &[Expr]) -> Result<Fanned> {
    let mut fanned = Fanned { node: input, names: names.clone(), exprs: exprs.to_vec() };
    let is = |expr: &Expr| calls(expr, HOP);
    while let Some(call) = fanned.exprs.iter().find(|expr| contains(expr, is)).and_then(|expr| first(expr, &is)) {
        let (slide_ms, size_ms) = lengths(&call)?;
        let mut columns = places(&fanned.node);
        columns.push(Scope::new(&fanned.names, &fanned.node)?.express_as(&arguments(&call)[0], &now_type())?);
        let timed = map(fanned.node, None, Some(columns))?;
        let (kinds, kind, append_only) = (types(&timed.schema), timed.kind, timed.append_only);
        fanned.node = Node::new(Op::Hop { input: timed, slide_ms, size_ms }, &kinds, kind, append_only, None);
        // No column of the SQL has a name with a line break.
        let name = format!("hop\n{call}");
        let added =
            DFSchema::from_unqualified_fields(vec![Field::new(&name, now_type(), true)].into(), Default::default())?;
        fanned.names = fanned.names.join(&added)?;
        let column = Expr::Column(Column::new_unqualified(name));
        for expr in &mut fanned.exprs {
            let replaced = std::mem::take(expr).transform_down(|part| {
                Ok(if part == call { Transformed::yes(column.clone()) } else { Transformed::no(part) })
            })?;
            *expr = replaced.data;
        }
    }
    Ok(fanned)
}

/// The first part of an expression that `is` looks for, the innermost if it stands in another.
fn first(expr: &Expr, is: &impl Fn(&Expr) -> bool) -> Option<Expr> {
    let mut found = None;
    let _ = expr.apply(|part| {
        if is(part) {
            found = Some(part.clone());
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    found
}
