//! `stops(…)` and `trips(…)`: tables that operators of ours make of the vehicles' positions.
//!
//! Invariant: parameters stand in the text, by name; what is left out has its default.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue, TableReference};
use datafusion::error::Result;
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableSource};
use datafusion::physical_expr::expressions::IsNotNullExpr;
use datafusion::sql::sqlparser::ast::{Expr as Sql, FunctionArg, FunctionArgExpr, TableFactor};
use operators::error::excerpt;
use operators::journeys::Rules;

use super::express::place;
use super::hop::length_ms;
use super::lower::{map, refused};
use super::session::now_type;
use super::{Expression, Inputs, Kind, Node, Op, push, types};
use crate::question::refuse::nearest;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journey {
    /// Where vehicles stood.
    Stops,
    /// How they moved in between.
    Trips,
}

/// The events that positions are taken from, and their columns.
const POSITIONS: &str = "telemetry_enriched";
const COLUMNS: [&str; 6] = ["vehicle_id", "ts", "seq", "lat", "lon", "speed_kmh"];
const PARAMETERS: [&str; 3] = ["speed_kmh", "radius_m", "lasting"];
const DEFAULTS: Rules = Rules { speed_kmh: 5.0, radius_m: 100.0, lasting_ms: 300_000 };

impl Journey {
    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Journey::Stops => "stops",
            Journey::Trips => "trips",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Journey::Stops, Journey::Trips].into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }

    fn columns(self) -> Vec<(&'static str, DataType)> {
        let (time, float) = (now_type(), DataType::Float64);
        let mut columns = vec![("vehicle_id", DataType::Utf8View), ("started_at", time.clone()), ("ended_at", time)];
        let floats: &[&str] = match self {
            Journey::Stops => &["lat", "lon"],
            Journey::Trips => &["from_lat", "from_lon", "to_lat", "to_lon", "distance_km", "top_speed_kmh"],
        };
        columns.extend(floats.iter().map(|name| (*name, float.clone())));
        columns.extend([("fixes", DataType::Int64), ("finished", DataType::Boolean)]);
        columns
    }

    /// Names of the columns.
    pub fn names(self) -> Vec<String> {
        self.columns().into_iter().map(|(name, _)| name.to_owned()).collect()
    }
}

/// A call, as something that is read.
#[derive(Debug)]
pub struct Called {
    what: Journey,
    rules: Rules,
    schema: SchemaRef,
}

impl TableSource for Called {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Understands the calls in FROM.
#[derive(Debug)]
pub struct Planner;

impl RelationPlanner for Planner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::Table { name, alias, args: Some(args), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let Some(what) = Journey::named(&name.to_string()) else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let mut rules = DEFAULTS;
        for arg in &args.args {
            set(what, &mut rules, arg, context)?;
        }
        let fields = what.columns().into_iter().map(|(name, kind)| Field::new(name, kind, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let source = Arc::new(Called { what, rules, schema });
        let plan = LogicalPlanBuilder::scan(TableReference::bare(what.name()), source, None)?.build()?;
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias.clone()))))
    }
}

fn set(what: Journey, rules: &mut Rules, arg: &FunctionArg, context: &mut dyn RelationPlannerContext) -> Result<()> {
    let (name, value) = match arg {
        FunctionArg::Named { name, arg: FunctionArgExpr::Expr(value), .. } => (&name.value, value),
        FunctionArg::ExprNamed { name: Sql::Identifier(name), arg: FunctionArgExpr::Expr(value), .. } => {
            (&name.value, value)
        }
        _ => {
            let name = what.name();
            return Err(refused(&format!(
                "{name}() takes its parameters by name, as in {name}(speed_kmh => 5, radius_m => 100, lasting => interval '5 \
                 minutes'); found {}",
                excerpt(&arg.to_string())
            )));
        }
    };
    let given = context.sql_to_expr(value.clone(), &DFSchema::empty())?;
    match name.as_str() {
        "speed_kmh" => rules.speed_kmh = number(name, &given)?,
        "radius_m" => rules.radius_m = number(name, &given)?,
        "lasting" => {
            let wrong = |_| {
                refused(&format!(
                    "the value of parameter lasting is a length of whole milliseconds, such as interval '5 minutes'; found {}",
                    excerpt(&given.to_string())
                ))
            };
            rules.lasting_ms = length_ms(what.name(), name, &given).map_err(wrong)?;
        }
        _ => {
            let meant = nearest(name, &PARAMETERS).map(|near| format!("did you mean {near}? ")).unwrap_or_default();
            let (name, known) = (excerpt(name), PARAMETERS.join(", "));
            return Err(refused(&format!(
                "there is no parameter {name} of {}(); {meant}there are {known}",
                what.name()
            )));
        }
    }
    Ok(())
}

fn number(name: &str, given: &Expr) -> Result<f64> {
    let value = match given {
        Expr::Literal(value @ (ScalarValue::Int64(_) | ScalarValue::Float64(_)), _) => {
            value.cast_to(&DataType::Float64)?
        }
        Expr::Literal(value @ ScalarValue::Decimal128(..), _) => value.cast_to(&DataType::Float64)?,
        _ => ScalarValue::Null,
    };
    match value {
        ScalarValue::Float64(Some(value)) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err(refused(&format!(
            "the value of parameter {name} is a number greater than 0 that stands in the text; found {}",
            excerpt(&given.to_string())
        ))),
    }
}

/// The operators of a call.
pub fn node(called: &Called, inputs: &Inputs) -> Result<Arc<Node>> {
    let name = called.what.name();
    let known = inputs.names.get(POSITIONS).filter(|(_, kind)| *kind == Kind::Events);
    let (schema, kind) =
        known.ok_or_else(|| refused(&format!("{name}() reads {POSITIONS}, which is not in the catalog")))?;
    let positions = Node::new(Op::Get(POSITIONS.to_owned()), &types(schema), *kind, true, None);
    let columns = COLUMNS.map(|name| schema.index_of(name).map(place));
    let columns = columns.into_iter().collect::<Result<Vec<Expression>, _>>()?;
    // A message without a position tells nothing of where a vehicle is.
    let needed = [0, 1, 3, 4].map(|at| Arc::new(IsNotNullExpr::new(columns[at].clone())) as Expression);
    let input = map(positions, push::all(needed.to_vec()), Some(columns))?;
    let op = Op::Journeys { input, what: called.what, rules: called.rules, retention: None };
    Ok(Node::new(op, &types(&called.schema), Kind::Table, false, None))
}
