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
    /// Its columns in the dataflow.
    pub columns: fn() -> SchemaRef,
}

/// All of them.
pub const CORE: [Core; 7] = [
    Core { name: "telemetry", kind: Kind::Events, key: &[], columns: telemetry::owned_schema },
    Core { name: "telemetry_enriched", kind: Kind::Events, key: &[], columns: output::enriched },
    Core { name: "vehicle_events", kind: Kind::Events, key: &[], columns: output::vehicle_events },
    Core { name: "vehicles", kind: Kind::Table, key: &["vehicle_id"], columns: || registry::schema(Stream::Vehicle) },
    Core { name: "drivers", kind: Kind::Table, key: &["driver_id"], columns: || registry::schema(Stream::Driver) },
    Core { name: "companies", kind: Kind::Table, key: &["company_id"], columns: || registry::schema(Stream::Company) },
    Core { name: "tariffs", kind: Kind::Table, key: &["tariff_id"], columns: || registry::schema(Stream::Tariff) },
];

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
    };
    CORE.iter().map(relation).collect()
}
