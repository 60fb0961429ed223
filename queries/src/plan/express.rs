//! Expressions of the SQL over the columns of one node.
//!
//! Invariant: columns are known by their place only, so equal expressions are equal whatever the tables were called.

use std::sync::Arc;

use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, SortExpr};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_expr::expressions::{CastExpr, Column as Place};

use super::hop::{HOP, calls};
use super::lower::refused;
use super::sessions::SESSION;
use super::{Expression, Node};

/// Expressions over the columns of one node.
pub struct Scope<'a> {
    /// The columns as the SQL knows them.
    names: &'a DFSchema,
    /// The same by their places.
    places: DFSchema,
    props: ExecutionProps,
}

impl<'a> Scope<'a> {
    /// Over the columns of `node`, which the SQL knows by `names`.
    pub fn new(names: &'a DFSchema, node: &Node) -> Result<Self> {
        Self::over(names, &node.schema)
    }

    /// Over columns of this schema, which the SQL knows by `names`.
    pub fn over(names: &'a DFSchema, schema: &Schema) -> Result<Self> {
        Ok(Self { names, places: DFSchema::try_from(schema.clone())?, props: ExecutionProps::new() })
    }

    /// The columns by their places.
    pub fn places(&self) -> &DFSchema {
        &self.places
    }

    /// The expression with columns known by their places.
    pub fn placed(&self, expr: &Expr) -> Result<Expr> {
        let place = |expr: Expr| match &expr {
            Expr::Column(column) => {
                let index = self.names.index_of_column(column)?;
                Ok(Transformed::yes(Expr::Column(Column::new_unqualified(format!("c{index}")))))
            }
            Expr::OuterReferenceColumn(..)
            | Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Err(DataFusionError::NotImplemented(format!(
                "this subquery cannot be turned into a join: {expr}; write the join yourself"
            ))),
            _ if calls(&expr, HOP) => Err(refused(
                "hop() gives several windows of a row: it can stand in GROUP BY and in SELECT only, and in no grouping sets",
            )),
            _ if calls(&expr, SESSION) => Err(refused(
                "session() depends on the other rows of its group: it can stand in GROUP BY only, and in no grouping sets",
            )),
            _ => Ok(Transformed::no(expr)),
        };
        Ok(expr.clone().transform_down(place)?.data)
    }

    /// The expression, ready to be evaluated.
    pub fn express(&self, expr: &Expr) -> Result<Expression> {
        let placed = self.placed(expr)?;
        create_physical_expr(&placed, &self.places, &self.props, &PhysicalPlanningContext::default())
    }

    /// The expression as a column of this type.
    pub fn express_as(&self, expr: &Expr, kind: &DataType) -> Result<Expression> {
        let expression = self.express(expr)?;
        if expression.data_type(self.places.as_arrow())? == *kind {
            return Ok(expression);
        }
        Ok(Arc::new(CastExpr::new(expression, kind.clone(), None)))
    }

    /// An ORDER BY.
    pub fn order(&self, order: &[SortExpr]) -> Result<Vec<(Expression, SortOptions)>> {
        order
            .iter()
            .map(|by| {
                let options = SortOptions { descending: !by.asc, nulls_first: by.nulls_first };
                Ok((self.express(&by.expr)?, options))
            })
            .collect()
    }

    /// Type of an expression over these columns.
    pub fn type_of(&self, expression: &Expression) -> Result<DataType> {
        expression.data_type(self.places.as_arrow())
    }
}

/// The column at a place.
pub fn place(index: usize) -> Expression {
    Arc::new(Place::new(&format!("c{index}"), index))
}

/// The expression with columns replaced by what `by` has for their places; those that it has nothing for stay.
pub fn replaced(of: Expression, by: impl Fn(usize) -> Option<Expression>) -> Result<Expression> {
    let part = |part: Expression| match part.downcast_ref::<Place>().and_then(|column| by(column.index())) {
        // Its own columns are others.
        Some(other) => Ok(Transformed::new(other, true, TreeNodeRecursion::Jump)),
        None => Ok(Transformed::no(part)),
    };
    Ok(of.transform_down(part)?.data)
}

/// All columns of a node as they are.
pub fn places(node: &Node) -> Vec<Expression> {
    (0..node.schema.fields().len()).map(place).collect()
}
