//! `geofence_events(…)`: vehicles enter fences, stay in them and leave, by an operator of ours.
//!
//! Invariant: fences are a table that is in the catalog under one name with columns of known types; positions are those that
//! stops and trips are made of.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::TableReference;
use datafusion::error::Result;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::physical_expr::expressions::{CastExpr, IsNotNullExpr};
use operators::geofences::Rules;

use super::call::Given;
use super::express::place;
use super::journeys::POSITIONS;
use super::lower::{map, refused};
use super::session::now_type;
use super::{Expression, Inputs, Kind, Node, Op, push, types};

/// Name of the function.
pub const NAME: &str = "geofence_events";
/// Parameters of a call.
pub const EXAMPLE: &str = "dwell => interval '10 minutes', margin_m => 25, late => interval '1 hour'";
/// The table of fences.
const FENCES: &str = "geofences";
const PARAMETERS: [&str; 3] = ["dwell", "margin_m", "late"];
/// What holds if the call does not say.
const DEFAULTS: Rules = Rules { margin_m: 25.0, dwell_ms: 300_000, late_ms: 3_600_000, retention_ms: i64::MAX };
/// Beyond it a margin is wider than what may be taken for flat.
const MARGIN_M_MAX: f64 = 10_000.0;

/// Columns of the positions: the vehicle, when and where, and whose it is.
const POSITION: [&str; 6] = ["vehicle_id", "ts", "seq", "lat", "lon", "company_id"];
/// Columns of the fences, first those that tell them apart.
const FENCE: [(&str, DataType); 6] = [
    ("company_id", DataType::Utf8View),
    ("fence_id", DataType::Utf8View),
    ("name", DataType::Utf8View),
    ("kind", DataType::Utf8View),
    ("shape", DataType::Utf8View),
    ("radius_m", DataType::Float64),
];

fn columns() -> Vec<(&'static str, DataType)> {
    let (text, time, float) = (DataType::Utf8View, now_type(), DataType::Float64);
    vec![
        ("vehicle_id", text.clone()),
        ("company_id", text.clone()),
        ("fence_id", text.clone()),
        ("fence_name", text.clone()),
        ("kind", text.clone()),
        ("ts", time.clone()),
        ("seq", DataType::Int64),
        ("lat", float.clone()),
        ("lon", float.clone()),
        ("entered_at", time),
        ("inside_s", float),
        ("reason", text),
    ]
}

/// Names of the columns.
pub fn names() -> Vec<String> {
    columns().into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// The plan of a call with these parameters.
pub fn plan(given: &[Given]) -> Result<LogicalPlan> {
    let mut rules = DEFAULTS;
    for one in given {
        match one.name.as_str() {
            "dwell" => rules.dwell_ms = one.length_ms()?,
            "late" => rules.late_ms = one.length_ms()?,
            "margin_m" => rules.margin_m = one.number_upto(MARGIN_M_MAX)?,
            _ => return Err(one.unknown(NAME, &PARAMETERS)),
        }
    }
    let fields = columns().into_iter().map(|(name, kind)| Field::new(name, kind, true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    LogicalPlanBuilder::scan(TableReference::bare(NAME), Arc::new(Fenced { rules, schema }), None)?.build()
}

/// A call, as something that is read.
#[derive(Debug)]
pub struct Fenced {
    rules: Rules,
    schema: SchemaRef,
}

impl TableSource for Fenced {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// The operators of a call.
pub fn node(fenced: &Fenced, inputs: &Inputs) -> Result<Arc<Node>> {
    let (positions, fences) = (positions(inputs)?, fences(inputs)?);
    let op = Op::Geofences { positions, fences, rules: fenced.rules };
    Ok(Node::new(op, &types(&fenced.schema), Kind::Table, false, None))
}

fn positions(inputs: &Inputs) -> Result<Arc<Node>> {
    let known = inputs.names.get(POSITIONS).filter(|(_, kind)| *kind == Kind::Events);
    let (schema, kind) =
        known.ok_or_else(|| refused(&format!("{NAME}() reads {POSITIONS}, which is not in the catalog")))?;
    let node = Node::new(Op::Get(POSITIONS.to_owned()), &types(schema), *kind, true, None);
    let columns = POSITION.map(|name| schema.index_of(name).map(place));
    let columns = columns.into_iter().collect::<Result<Vec<Expression>, _>>()?;
    // A message without a position tells nothing of where a vehicle is.
    let needed = [0, 1, 3, 4].map(|at| Arc::new(IsNotNullExpr::new(columns[at].clone())) as Expression);
    map(node, push::all(needed.to_vec()), Some(columns))
}

fn fences(inputs: &Inputs) -> Result<Arc<Node>> {
    let known = inputs.names.get(FENCES).filter(|(_, kind)| *kind == Kind::Table);
    let (schema, kind) = known.ok_or_else(|| {
        refused(&format!(
            "{NAME}() reads the table {FENCES}, which is not in the catalog; declare it in the directory of sql.schema, as in \
             queries/schema/{FENCES}.sql"
        ))
    })?;
    let node = Node::new(Op::Get(FENCES.to_owned()), &types(schema), *kind, false, None);
    let columns = FENCE.map(|(name, wanted)| {
        let found = schema.index_of(name).ok().filter(|at| fits(schema.field(*at).data_type(), &wanted));
        let at = found.ok_or_else(|| {
            let kind = if wanted == DataType::Float64 { "a number" } else { "a text" };
            refused(&format!("{NAME}() reads the column {name} of {FENCES}, {kind}, which is not there; declare it"))
        })?;
        let column = place(at);
        Ok(match schema.field(at).data_type() == &wanted {
            true => column,
            false => Arc::new(CastExpr::new(column, wanted, None)) as Expression,
        })
    });
    let columns = columns.into_iter().collect::<Result<Vec<Expression>>>()?;
    map(node, None, Some(columns))
}

fn fits(found: &DataType, wanted: &DataType) -> bool {
    match wanted {
        DataType::Float64 => found.is_numeric(),
        _ => matches!(found, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View),
    }
}
