//! `stops(…)` and `trips(…)`: tables that operators of ours make of the vehicles' positions.
//!
//! Invariant: what they are made of is in the catalog as events, and a message without a vehicle or a position is none of it.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::physical_expr::expressions::IsNotNullExpr;
use operators::journeys::Rules;

use super::call::Given;
use super::express::place;
use super::lower::{map, refused};
use super::session::now_type;
use super::{Expression, Inputs, Kind, Node, Op, push, types};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Journey {
    /// Where vehicles stood.
    Stops,
    /// How they moved in between.
    Trips,
}

/// The events that positions are taken from, and their columns.
pub(super) const POSITIONS: &str = "telemetry_enriched";
const COLUMNS: [&str; 6] = ["vehicle_id", "ts", "seq", "lat", "lon", "speed_kmh"];
const PARAMETERS: [&str; 3] = ["speed_kmh", "radius_m", "lasting"];
const DEFAULTS: Rules = Rules { speed_kmh: 5.0, radius_m: 100.0, lasting_ms: 300_000 };

impl Journey {
    /// Parameters of a call.
    pub(super) const EXAMPLE: &str = "speed_kmh => 5, radius_m => 100, lasting => interval '5 minutes'";

    /// Its name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Journey::Stops => "stops",
            Journey::Trips => "trips",
        }
    }

    /// The plan of a call with these parameters.
    pub fn plan(self, given: &[Given]) -> Result<LogicalPlan> {
        let mut rules = DEFAULTS;
        for one in given {
            match one.name.as_str() {
                "speed_kmh" => rules.speed_kmh = one.number()?,
                "radius_m" => rules.radius_m = one.number()?,
                "lasting" => rules.lasting_ms = one.length_ms()?,
                _ => return Err(one.unknown(self.name(), &PARAMETERS)),
            }
        }
        let fields = self.columns().into_iter().map(|(name, kind)| Field::new(name, kind, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let source = Arc::new(Called { what: self, rules, schema });
        LogicalPlanBuilder::scan(TableReference::bare(self.name()), source, None)?.build()
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        [Journey::Stops, Journey::Trips].into_iter().find(|one| one.name() == name)
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
