//! The streams and tables of the main job, and those that are declared over topics, as SQL sees them.
//!
//! Invariant: times are timestamps, `arrived_at` is the tick, and what only the dataflow itself uses is left out.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use operators::record::declared::Declared;
use operators::record::{Stream, output, registry, telemetry};

use super::Relation;
use crate::plan::Kind;

/// A stream of the main job.
#[derive(Clone, Copy, Debug)]
pub struct Core {
    /// Its name in SQL.
    pub name: &'static str,
    /// What its rows are.
    pub kind: Kind,
    /// Columns that tell its rows apart.
    pub key: &'static [&'static str],
    /// The column that says whose a row is; none where a row is nobody's, or of several.
    pub access: Option<&'static str>,
    /// Its columns in the dataflow.
    pub columns: fn() -> SchemaRef,
}

/// All of them.
pub const CORE: [Core; 7] = [
    events("telemetry", None, telemetry::owned_schema),
    events("telemetry_enriched", COMPANY, output::enriched),
    events("vehicle_events", COMPANY, output::vehicle_events),
    table("vehicles", &["vehicle_id"], COMPANY, || registry::schema(Stream::Vehicle)),
    table("drivers", &["driver_id"], COMPANY, || registry::schema(Stream::Driver)),
    table("companies", &["company_id"], COMPANY, || registry::schema(Stream::Company)),
    table("tariffs", &["tariff_id"], None, || registry::schema(Stream::Tariff)),
];

/// The column of most that says whose a row is.
const COMPANY: Option<&str> = Some("company_id");

const fn events(name: &'static str, access: Option<&'static str>, columns: fn() -> SchemaRef) -> Core {
    Core { name, kind: Kind::Events, key: &[], access, columns }
}

const fn table(
    name: &'static str,
    key: &'static [&'static str],
    access: Option<&'static str>,
    columns: fn() -> SchemaRef,
) -> Core {
    Core { name, kind: Kind::Table, key, access, columns }
}

/// Name of the column with the tick.
pub const ARRIVED: &str = "arrived_at";
/// Whole numbers of milliseconds that are times.
const TIMES: [&str; 5] = ["ts", "server_time", "since", "offline_since", "window_start"];

impl Core {
    /// The columns that SQL sees, and which of the dataflow's columns each is. The last of events is the tick.
    #[must_use]
    pub fn seen(&self) -> (SchemaRef, Vec<usize>) {
        of(&(self.columns)(), self.kind, &TIMES)
    }
}

/// The same of a relation that is declared over a topic.
#[must_use]
pub fn seen(declared: &Declared) -> (SchemaRef, Vec<usize>) {
    let kind = if declared.table { Kind::Table } else { Kind::Events };
    of(&declared.schema(), kind, &[])
}

fn of(columns: &SchemaRef, kind: Kind, times: &[&str]) -> (SchemaRef, Vec<usize>) {
    let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, None);
    let (mut fields, mut places) = (Vec::new(), Vec::new());
    for (place, field) in columns.fields().iter().enumerate() {
        let name = field.name().as_str();
        if name.starts_with("__") {
            continue;
        }
        let time = times.contains(&name) && *field.data_type() == DataType::Int64;
        let kind = if time { milliseconds.clone() } else { field.data_type().clone() };
        fields.push(Field::new(name, kind, true));
        places.push(place);
    }
    if kind == Kind::Events {
        fields.push(Field::new(ARRIVED, milliseconds, true));
        places.push(columns.index_of(operators::batch::TICK).expect("every stream has ticks"));
    }
    (Arc::new(Schema::new(fields)), places)
}

/// The relations of the main job.
#[must_use]
pub fn core() -> Vec<Relation> {
    let relation = |core: &Core| Relation {
        name: core.name.to_owned(),
        schema: core.seen().0,
        kind: core.kind,
        key: core.key.iter().map(|name| (*name).to_owned()).collect(),
        access: core.access.map(str::to_owned),
    };
    CORE.iter().map(relation).collect()
}
