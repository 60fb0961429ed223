//! What the main job gives out: the columns of its tables and events. Each is the contract between the operator that makes
//! the rows and the sinks that write them.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::telemetry;
use crate::batch::{TICK, table_schema};

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, true)
}
fn key(name: &str) -> Field {
    Field::new(name, DataType::Utf8View, false)
}
fn float(name: &str) -> Field {
    Field::new(name, DataType::Float64, true)
}
fn int(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

/// Columns that [`enrich`](crate::enrich) adds to a message, all null for an unknown device.
pub const ENRICHMENT: [&str; 9] = [
    "vehicle_id",
    "plate",
    "model",
    "company_id",
    "company_name",
    "tariff_id",
    "driver_id",
    "driver_name",
    "driver_phone",
];

static ENRICHED: LazyLock<SchemaRef> = LazyLock::new(|| enriched_with(&ENRICHMENT));

/// `telemetry_enriched` (append): a telemetry message and the references as they stood when it arrived.
#[must_use]
pub fn enriched() -> SchemaRef {
    ENRICHED.clone()
}

/// The same with these columns of the references only.
#[must_use]
pub fn enriched_with(wanted: &[&str]) -> SchemaRef {
    let mut fields: Vec<Field> = telemetry::owned_schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.extend(wanted.iter().map(|name| text(name)));
    Arc::new(Schema::new(fields))
}

static LINKS: LazyLock<SchemaRef> = LazyLock::new(|| {
    table_schema(vec![
        key("vehicle_id"),
        text("device_id"),
        text("plate"),
        text("model"),
        text("group_ids"),
        text("company_id"),
        text("company_name"),
        text("time_zone"),
        int("offline_after_s"),
        text("tariff_id"),
        text("tariff_name"),
        text("driver_id"),
        text("driver_name"),
        text("driver_phone"),
    ])
});

/// `vehicle_links` (table, key vehicle_id): vehicle → driver → company → tariff.
#[must_use]
pub fn links() -> SchemaRef {
    LINKS.clone()
}

static VEHICLE_STATE: LazyLock<SchemaRef> = LazyLock::new(|| {
    table_schema(vec![
        key("vehicle_id"),
        text("device_id"),
        text("plate"),
        text("model"),
        text("group_ids"),
        text("company_id"),
        text("company_name"),
        text("tariff_id"),
        text("tariff_name"),
        text("driver_id"),
        text("driver_name"),
        text("driver_phone"),
        text("status"), // moving, idle, parked, offline
        int("ts"),
        int("seq"),
        float("lat"),
        float("lon"),
        float("altitude_m"),
        float("speed_kmh"),
        float("heading_deg"),
        Field::new("satellites", DataType::Int32, true),
        Field::new("ignition", DataType::Boolean, true),
        float("fuel_level_pct"),
        float("engine_temp_c"),
        float("odometer_km"),
        float("battery_v"),
        int("offline_since"), // milliseconds since the epoch; null while online
    ])
});

/// `vehicle_state` (table, key vehicle_id): the last position and every last known value, with the references as they
/// stand now.
#[must_use]
pub fn vehicle_state() -> SchemaRef {
    VEHICLE_STATE.clone()
}

static CONNECTIVITY: LazyLock<SchemaRef> = LazyLock::new(|| {
    table_schema(vec![
        key("device_id"),
        Field::new("online", DataType::Boolean, true),
        int("since"), // tick of the last arrival before it went silent, or of the arrival that brought it back
    ])
});

/// `connectivity` (table, key device_id): whether the device is heard of. Each change is also an event
/// (`device.online`, `device.offline`).
#[must_use]
pub fn connectivity() -> SchemaRef {
    CONNECTIVITY.clone()
}

static VEHICLE_EVENTS: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        key("kind"), // device.online, device.offline
        key("device_id"),
        text("vehicle_id"),
        text("company_id"),
        int("since"),
        Field::new(TICK, DataType::UInt64, false),
    ]))
});

/// `vehicle_events` (append; identity kind, device_id, tick): what happened to a device.
#[must_use]
pub fn vehicle_events() -> SchemaRef {
    VEHICLE_EVENTS.clone()
}

static COMPANY_MINUTE: LazyLock<SchemaRef> = LazyLock::new(|| {
    table_schema(vec![
        key("company_id"),
        Field::new("window_start", DataType::Int64, false), // device time, milliseconds
        int("fixes"),
        float("average_speed_kmh"),
        float("top_speed_kmh"),
    ])
});

/// `company_minute` (table, key company_id and window_start): messages, average and top speed per company and minute of
/// device time.
#[must_use]
pub fn company_minute() -> SchemaRef {
    COMPANY_MINUTE.clone()
}
