//! Window functions, and the first rows of each group.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Expr, Window, WindowFrameBound};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_planner::create_window_expr_with_name;

use super::express::Scope;
use super::lower::{lower, refused};
use super::temporal::refuse_now;
use super::{Inputs, Kind, Node, Op, types};

/// Window functions over one partition and order.
pub fn window(window: &Window, inputs: &Inputs) -> Result<Arc<Node>> {
    let input = lower(&window.input, inputs)?;
    if input.kind == Kind::Events {
        return Err(refused(
            "window functions over events would keep them all; bound them in time first, as in `WHERE ts > now() - \
             interval '1 hour'`",
        ));
    }
    let scope = Scope::new(window.input.schema(), &input)?;
    let mut functions = Vec::with_capacity(window.window_expr.len());
    for expr in &window.window_expr {
        refuse_now(expr)?;
        let placed = scope.placed(&unalias(expr))?;
        refuse_wide_frame(&placed)?;
        let props = ExecutionProps::new();
        // The name is all that tells of a function and of the arguments that are no columns, as the offset of lag.
        let name = placed.to_string();
        let function = create_window_expr_with_name(&placed, name, scope.places(), &props, &Default::default())?;
        functions.push(function);
    }
    // The library puts functions into one step where one sort would do for all; a group is in one order.
    let same = |a: &Arc<dyn WindowExpr>, b: &Arc<dyn WindowExpr>| {
        a.partition_by() == b.partition_by() && a.order_by() == b.order_by()
    };
    let steps = functions.chunk_by(same).map(<[_]>::to_vec).collect::<Vec<_>>();
    steps.into_iter().try_fold(input, step)
}

/// Adds functions of one partition and order to the columns of a node.
fn step(input: Arc<Node>, functions: Vec<Arc<dyn WindowExpr>>) -> Result<Arc<Node>> {
    let mut kinds = types(&input.schema);
    for function in &functions {
        kinds.push(function.field()?.data_type().clone());
    }
    let partition = functions[0].partition_by().to_vec();
    let order = functions[0].order_by().iter().map(|by| (by.expr.clone(), by.options)).collect();
    let rows_max = input.rows_max;
    Ok(Node::new(Op::Window { input, partition, order, functions }, &kinds, Kind::Table, false, rows_max))
}

/// The library counts the rows of a frame in machine words, and panics where they do not suffice.
fn refuse_wide_frame(expr: &Expr) -> Result<()> {
    let Expr::WindowFunction(function) = expr else { return Ok(()) };
    let frame = &function.params.window_frame;
    let wide = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::Preceding(rows) | WindowFrameBound::Following(rows) => {
            matches!(rows, ScalarValue::UInt64(Some(rows)) if *rows > ROWS_MAX)
        }
        WindowFrameBound::CurrentRow => false,
    };
    if wide(&frame.start_bound) || wide(&frame.end_bound) {
        return Err(refused("a frame of more rows than any partition has; write UNBOUNDED"));
    }
    Ok(())
}

/// Most rows that a frame may name.
const ROWS_MAX: u64 = 1 << 40;

fn unalias(expr: &Expr) -> Expr {
    expr.clone().unalias_nested().data
}

/// What a function computes, as text.
pub fn told(function: &Arc<dyn WindowExpr>) -> String {
    format!("{} {:?} {:?}", function.name(), function.expressions(), function.get_window_frame())
}
