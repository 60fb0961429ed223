//! Window functions, and the first rows of each group.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::{Expr, Operator, Window, WindowFrameBound};
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_planner::create_window_expr_with_name;

use super::express::Scope;
use super::lower::{lower, refused};
use super::temporal::refuse_now;
use super::{Expression, Inputs, Kind, Node, Op, types};

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

/// Window functions of which a filter takes the first rows only are computed over these: `row_number() … <= 10` needs no
/// more than ten rows of each group.
pub fn first_rows(node: Arc<Node>, filter: &Expression) -> Arc<Node> {
    let Op::Window { input, partition, order, functions } = &node.op else { return node };
    let numbers = functions.iter().all(|function| function.name().starts_with("row_number("));
    let first = input.schema.fields().len();
    let most = split_conjunction(filter).into_iter().filter_map(|part| at_most(part, first)).min();
    let (true, Some(fetch)) = (numbers, most) else { return node };
    let (partition, order, functions) = (partition.clone(), order.clone(), functions.clone());
    let top = Op::TopK { input: input.clone(), partition: partition.clone(), order: order.clone(), skip: 0, fetch };
    let input = Node::new(top, &types(&input.schema), Kind::Table, false, None);
    let op = Op::Window { input, partition, order, functions };
    Node::new(op, &types(&node.schema), Kind::Table, false, node.rows_max)
}

/// How many rows at most have a number, in a column from `first` on, for which the comparison is true.
fn at_most(comparison: &Expression, first: usize) -> Option<usize> {
    let comparison = comparison.downcast_ref::<BinaryExpr>()?;
    let column = comparison.left().downcast_ref::<Column>()?;
    let literal = comparison.right().downcast_ref::<Literal>()?;
    let ScalarValue::UInt64(Some(number)) = literal.value() else { return None };
    let rows = match comparison.op() {
        Operator::LtEq | Operator::Eq => Some(*number),
        Operator::Lt => number.checked_sub(1),
        _ => None,
    };
    rows.filter(|_| column.index() >= first).and_then(|rows| usize::try_from(rows).ok())
}

fn unalias(expr: &Expr) -> Expr {
    expr.clone().unalias_nested().data
}

/// What a function computes, as text: its name has the function, its arguments and its window over columns by their places.
pub fn told(function: &Arc<dyn WindowExpr>) -> String {
    format!("{} {:?} {:?}", function.name(), function.expressions(), function.get_window_frame())
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;
    use crate::plan::plan_sql;

    fn planned(sql: &str) -> Arc<Node> {
        let int = |name: &str| Field::new(name, DataType::Int64, true);
        let inputs = Inputs::default().with("t", Arc::new(Schema::new(vec![int("a"), int("b")])), Kind::Table);
        lower(&plan_sql(&inputs, sql).unwrap(), &inputs).unwrap()
    }

    #[test]
    fn different_functions_are_different_work() {
        let over =
            |function: &str| planned(&format!("SELECT a, {function} OVER (PARTITION BY a ORDER BY b) AS x FROM t")).id;
        let functions =
            ["row_number()", "rank()", "dense_rank()", "lag(b)", "lag(b, 2)", "lead(b)", "sum(b)", "max(b)"];
        for (place, function) in functions.iter().enumerate() {
            assert_eq!(over(function), over(function));
            for other in &functions[place + 1..] {
                assert_ne!(over(function), over(other), "{function} {other}");
            }
        }
    }

    #[test]
    fn of_numbered_rows_only_those_that_are_taken_are_kept() {
        let numbered = |rest: &str| {
            let node = planned(&format!(
                "SELECT a, b FROM (SELECT a, b, row_number() OVER (PARTITION BY a ORDER BY b) AS n FROM t) WHERE {rest}"
            ));
            let mut fetched = None;
            node.visit(&mut |node| {
                if let Op::TopK { fetch, .. } = &node.op {
                    fetched = Some(*fetch);
                }
            });
            fetched
        };
        assert_eq!(numbered("n <= 3"), Some(3));
        assert_eq!(numbered("n < 3 AND b > 1"), Some(2));
        assert_eq!(numbered("n = 2"), Some(2));
        assert_eq!(numbered("n > 3"), None);
        assert_eq!(numbered("n <= 3 OR b = 1"), None);
    }
}
