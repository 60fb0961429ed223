//! Calls of functions in FROM: `stops(…)`, `trips(…)`, `silence(…)`, `geofence_events(…)`.
//!
//! Invariant: parameters stand in the text, by name and once; what is left out has its default.

use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::sql::sqlparser::ast::{Expr as Sql, FunctionArg, FunctionArgExpr, TableFactor};
use operators::error::excerpt;

use super::hop::length_ms;
use super::journeys::Journey;
use super::lower::refused;
use super::{Inputs, geofences, silence};
use crate::question::refuse::nearest;

/// Understands the calls.
#[derive(Debug)]
pub struct Planner {
    /// What functions may read.
    pub inputs: Inputs,
}

impl RelationPlanner for Planner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, args: Some(args), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let name =
            context.normalize_ident(name.0.last().and_then(|part| part.as_ident().cloned()).ok_or_else(nameless)?);
        let plan = if let Some(what) = Journey::named(&name) {
            what.plan(&given(&name, Journey::EXAMPLE, &args.args, context)?)?
        } else if name == silence::NAME {
            silence::plan(&given(&name, silence::EXAMPLE, &args.args, context)?, &self.inputs)?
        } else if name == geofences::NAME {
            geofences::plan(&given(&name, geofences::EXAMPLE, &args.args, context)?)?
        } else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

fn nameless() -> DataFusionError {
    refused("a function in FROM has a name")
}

/// A parameter and its value.
pub struct Given {
    pub name: String,
    value: Expr,
}

/// The parameters of a call of `function`; `example` has them as they should be.
fn given(
    function: &str,
    example: &str,
    args: &[FunctionArg],
    context: &mut dyn RelationPlannerContext,
) -> Result<Vec<Given>> {
    let mut all: Vec<Given> = Vec::with_capacity(args.len());
    for arg in args {
        let (name, value) = match arg {
            FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => (name, value),
            FunctionArg::ExprNamed { name: Sql::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => {
                (name, value)
            }
            _ => {
                let found = excerpt(&arg.to_string());
                return Err(refused(&format!(
                    "{function}() takes its parameters by name, as in {function}({example}); found {found}"
                )));
            }
        };
        let name = context.normalize_ident(name.clone());
        if all.iter().any(|known| known.name == name) {
            return Err(refused(&format!("{function}() has its parameter {} twice; leave one out", excerpt(&name))));
        }
        all.push(Given { name, value: context.sql_to_expr(value.clone(), &DFSchema::empty())? });
    }
    Ok(all)
}

impl Given {
    /// A number greater than 0.
    pub fn number(&self) -> Result<f64> {
        self.value(|value| value > 0.0, || "a number greater than 0 that stands in the text, such as 5".to_owned())
    }

    /// A number from 0 up to this one.
    pub fn number_upto(&self, most: f64) -> Result<f64> {
        let wanted = || format!("a number from 0 to {most} that stands in the text, such as 5");
        self.value(|value| (0.0..=most).contains(&value), wanted)
    }

    fn value(&self, fits: impl Fn(f64) -> bool, wanted: impl Fn() -> String) -> Result<f64> {
        let value = match &self.value {
            Expr::Literal(
                value @ (ScalarValue::Int64(_) | ScalarValue::Float64(_) | ScalarValue::Decimal128(..)),
                _,
            ) => value.cast_to(&DataType::Float64)?,
            _ => ScalarValue::Null,
        };
        match value {
            ScalarValue::Float64(Some(value)) if value.is_finite() && fits(value) => Ok(value),
            _ => Err(self.wrong(&wanted())),
        }
    }

    /// A length in milliseconds.
    pub fn length_ms(&self) -> Result<i64> {
        length_ms("", "", &self.value).map_err(|_| {
            self.wrong("a length of whole milliseconds that stands in the text, such as interval '5 minutes'")
        })
    }

    fn wrong(&self, wanted: &str) -> DataFusionError {
        let (name, found) = (excerpt(&self.name), excerpt(&self.value.to_string()));
        refused(&format!("the value of parameter {name} is {wanted}; found {found}"))
    }

    /// The refusal of a parameter that a function does not have.
    pub fn unknown(&self, function: &str, known: &[&str]) -> DataFusionError {
        let meant = nearest(&self.name, known).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
        let (name, known) = (excerpt(&self.name), known.join(", "));
        refused(&format!("there is no parameter {name} of {function}(); {meant}it takes {known}"))
    }
}
