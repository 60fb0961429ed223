//! Telemetry: one message of a tracker, its columns, its technical validation, and the builder that decoders fill.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringViewBuilder, UInt64Array};
use arrow::datatypes::{DataType, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef};

use crate::batch::{DEVICE, HASH, OFFSET, PARTITION, TICK, key_hash};
use crate::columns::{flags, nullable, taken};
use crate::error::{Position, Refusal, excerpt};
use crate::time::Tick;

/// Longest device id, in characters.
pub const DEVICE_ID_CHARS_MAX: usize = 64;

/// One message as a tracker sent it. `None` is a value that the tracker did not send.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Telemetry<'a> {
    /// The tracker's identity, the key of the stream.
    pub device_id: &'a str,
    /// Device time in milliseconds since the epoch.
    pub ts: i64,
    /// When the gate received it, in milliseconds since the epoch.
    pub server_time: Option<i64>,
    /// Counter of the device; 0 where it has none.
    pub seq: i64,
    /// Degrees north.
    pub lat: Option<f64>,
    /// Degrees east.
    pub lon: Option<f64>,
    /// Metres above sea level.
    pub altitude_m: Option<f64>,
    /// Kilometres per hour.
    pub speed_kmh: Option<f64>,
    /// Degrees clockwise from north, 0 to 360.
    pub heading_deg: Option<f64>,
    /// Satellites used for the fix.
    pub satellites: Option<i32>,
    /// Horizontal dilution of precision.
    pub hdop: Option<f64>,
    /// Whether the ignition is on.
    pub ignition: Option<bool>,
    /// Fuel level in per cent.
    pub fuel_level_pct: Option<f64>,
    /// Engine temperature in degrees Celsius.
    pub engine_temp_c: Option<f64>,
    /// Odometer in kilometres.
    pub odometer_km: Option<f64>,
    /// Battery voltage in volts.
    pub battery_v: Option<f64>,
    /// Event codes as a JSON array.
    pub events: Option<&'a str>,
    /// Anything else as a JSON object.
    pub attributes: Option<&'a str>,
}

/// What the gate and the decoder accept; milliseconds of device time around the server's time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How old a message may be, in milliseconds.
    pub past_ms_max: i64,
    /// How far ahead of the server a device's clock may be, in milliseconds.
    pub future_ms_max: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { past_ms_max: 30 * 24 * 3_600_000, future_ms_max: 5 * 60_000 }
    }
}

impl Telemetry<'_> {
    /// Technical validation: identity, ranges and plausibility in themselves, nothing of the business.
    /// `server_ms` is when the message was received; `None` skips the check of device time.
    ///
    /// # Errors
    /// The first field that breaks a rule, with the rule and the value.
    pub fn validate(&self, server_ms: Option<i64>, limits: &Limits) -> Result<(), Refusal> {
        validate_device_id(self.device_id)?;
        range("lat", self.lat, -90.0, 90.0)?;
        range("lon", self.lon, -180.0, 180.0)?;
        range("speed_kmh", self.speed_kmh, 0.0, 1_000.0)?;
        range("heading_deg", self.heading_deg, 0.0, 360.0)?;
        for (field, value) in [
            ("altitude_m", self.altitude_m),
            ("hdop", self.hdop),
            ("fuel_level_pct", self.fuel_level_pct),
            ("engine_temp_c", self.engine_temp_c),
            ("odometer_km", self.odometer_km),
            ("battery_v", self.battery_v),
        ] {
            range(field, value, f64::MIN, f64::MAX)?;
        }
        if self.lat.is_some() != self.lon.is_some() {
            return Err(Refusal::new("field_missing", "lat and lon come together or not at all").at("lat"));
        }
        if self.lat == Some(0.0) && self.lon == Some(0.0) && self.satellites.unwrap_or(0) < 3 {
            return Err(Refusal::new("position_implausible", "position 0,0 without a fix")
                .at("lat")
                .hint("leave lat and lon out while the receiver has no fix"));
        }
        if let Some(now) = server_ms {
            let (oldest, newest) = (now.saturating_sub(limits.past_ms_max), now.saturating_add(limits.future_ms_max));
            if self.ts < oldest || self.ts > newest {
                return Err(Refusal::new(
                    "event_time_implausible",
                    format!("ts {} is outside {oldest}…{newest}", self.ts),
                )
                .at("ts")
                .hint("ts is milliseconds since 1970-01-01 UTC, at most 30 days back and 5 minutes ahead"));
            }
        }
        Ok(())
    }
}

/// A device id is 1 to 64 of `A–Z a–z 0–9 . _ : -`, so that it is safe in keys, paths and queries.
///
/// # Errors
/// Says which rule the id breaks.
pub fn validate_device_id(id: &str) -> Result<(), Refusal> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.is_empty() {
        return Err(Refusal::new("field_missing", "device_id is empty").at("device_id"));
    }
    if id.len() > DEVICE_ID_CHARS_MAX || !id.bytes().all(safe) {
        let message = format!("device_id \"{}\" is not 1 to {DEVICE_ID_CHARS_MAX} of A-Z a-z 0-9 . _ : -", excerpt(id));
        return Err(Refusal::new("id_invalid", message).at("device_id"));
    }
    Ok(())
}

fn range(field: &'static str, value: Option<f64>, low: f64, high: f64) -> Result<(), Refusal> {
    match value {
        Some(v) if !(v >= low && v <= high) => {
            let rule = if low == f64::MIN { "a finite number".to_owned() } else { format!("{low}…{high}") };
            Err(Refusal::new("field_out_of_range", format!("{field} {v} is not {rule}")).at(field))
        }
        _ => Ok(()),
    }
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new("device_id", DataType::Utf8View, false),
        Field::new("ts", DataType::Int64, false),
        Field::new("server_time", DataType::Int64, true),
        Field::new("seq", DataType::Int64, false),
        float("lat"),
        float("lon"),
        float("altitude_m"),
        float("speed_kmh"),
        float("heading_deg"),
        Field::new("satellites", DataType::Int32, true),
        float("hdop"),
        Field::new("ignition", DataType::Boolean, true),
        float("fuel_level_pct"),
        float("engine_temp_c"),
        float("odometer_km"),
        float("battery_v"),
        Field::new("events", DataType::Utf8View, true),
        Field::new("attributes", DataType::Utf8View, true),
        Field::new(PARTITION, DataType::Int32, false),
        Field::new(OFFSET, DataType::Int64, false),
        Field::new(HASH, DataType::UInt64, false),
        Field::new(TICK, DataType::UInt64, false),
    ]))
});

/// Columns of a telemetry batch: the fields of [`Telemetry`] by name, then where the record stood and its tick.
#[must_use]
pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

static OWNED_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let number = Arc::new(Field::new(DEVICE, DataType::UInt32, false));
    let field = |field: &Arc<Field>| if field.name() == HASH { number.clone() } else { field.clone() };
    Arc::new(Schema::new(SCHEMA.fields().iter().map(field).collect::<Vec<_>>()))
});

/// The columns of telemetry that lies with the worker that owns its devices: see [`crate::devices::own`].
#[must_use]
pub fn owned_schema() -> SchemaRef {
    OWNED_SCHEMA.clone()
}

/// Builds telemetry batches column by column. What is missing is a NaN meanwhile, which no message may hold, or the least
/// number: most columns have no gaps, and then no map of these is made.
#[derive(Debug, Default)]
pub struct TelemetryBuilder {
    device_id: StringViewBuilder,
    ts: Vec<i64>,
    server_time: Vec<i64>,
    seq: Vec<i64>,
    /// In the order of the schema: position, altitude, speed, heading.
    motion: [Vec<f64>; 5],
    satellites: Vec<i32>,
    hdop: Vec<f64>,
    ignition: Vec<Option<bool>>,
    /// In the order of the schema: fuel, temperature, odometer, battery.
    engine: [Vec<f64>; 4],
    events: StringViewBuilder,
    attributes: StringViewBuilder,
    partition: Vec<i32>,
    offset: Vec<i64>,
    hash: Vec<u64>,
    tick: Vec<Tick>,
}

const NO_TIME: i64 = i64::MIN;
const NO_COUNT: i32 = i32::MIN;

impl TelemetryBuilder {
    /// Adds one message that stood at `at` in its log.
    pub fn push(&mut self, t: &Telemetry<'_>, at: Position) {
        let add = |columns: &mut [Vec<f64>], values: &[Option<f64>]| {
            for (column, value) in columns.iter_mut().zip(values) {
                column.push(value.unwrap_or(f64::NAN));
            }
        };
        self.device_id.append_value(t.device_id);
        self.ts.push(t.ts);
        self.server_time.push(t.server_time.unwrap_or(NO_TIME));
        self.seq.push(t.seq);
        add(&mut self.motion, &[t.lat, t.lon, t.altitude_m, t.speed_kmh, t.heading_deg]);
        self.satellites.push(t.satellites.unwrap_or(NO_COUNT));
        self.hdop.push(t.hdop.unwrap_or(f64::NAN));
        self.ignition.push(t.ignition);
        add(&mut self.engine, &[t.fuel_level_pct, t.engine_temp_c, t.odometer_km, t.battery_v]);
        self.events.append_option(t.events);
        self.attributes.append_option(t.attributes);
        self.partition.push(at.partition);
        self.offset.push(at.offset);
        self.hash.push(key_hash(t.device_id.as_bytes()));
        self.tick.push(at.tick);
    }

    /// Rows added since the last [`finish`](Self::finish).
    #[must_use]
    pub fn len(&self) -> usize {
        self.ts.len()
    }

    /// Whether no row was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch so far; the builder is empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let float = |column: &mut Vec<f64>| nullable::<Float64Type>(taken(column), |value| !value.is_nan());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(self.device_id.finish()),
            Arc::new(Int64Array::from(taken(&mut self.ts))),
            nullable::<Int64Type>(taken(&mut self.server_time), |&time| time != NO_TIME),
            Arc::new(Int64Array::from(taken(&mut self.seq))),
        ];
        columns.extend(self.motion.iter_mut().map(float));
        columns.push(nullable::<Int32Type>(taken(&mut self.satellites), |&count| count != NO_COUNT));
        columns.push(float(&mut self.hdop));
        columns.push(flags(&taken(&mut self.ignition)));
        columns.extend(self.engine.iter_mut().map(float));
        columns.extend([
            Arc::new(self.events.finish()) as ArrayRef,
            Arc::new(self.attributes.finish()),
            Arc::new(Int32Array::from(taken(&mut self.partition))),
            Arc::new(Int64Array::from(taken(&mut self.offset))),
            Arc::new(UInt64Array::from(taken(&mut self.hash))),
            Arc::new(UInt64Array::from(taken(&mut self.tick))),
        ]);
        RecordBatch::try_new(schema(), columns).expect("columns of the schema")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(t: &Telemetry<'_>) -> Option<&'static str> {
        t.validate(Some(1_700_000_000_000), &Limits::default()).err().map(|r| r.code)
    }

    #[test]
    fn validation_names_the_rule() {
        let good =
            Telemetry { device_id: "d-1", ts: 1_700_000_000_000, lat: Some(1.0), lon: Some(2.0), ..Default::default() };
        assert_eq!(refused(&good), None);
        assert_eq!(refused(&Telemetry { device_id: "", ..good }), Some("field_missing"));
        assert_eq!(refused(&Telemetry { device_id: "a b", ..good }), Some("id_invalid"));
        assert_eq!(refused(&Telemetry { device_id: &"x".repeat(65), ..good }), Some("id_invalid"));
        assert_eq!(refused(&Telemetry { device_id: &"x".repeat(64), ..good }), None);
        assert_eq!(refused(&Telemetry { lat: Some(90.000_1), ..good }), Some("field_out_of_range"));
        assert_eq!(refused(&Telemetry { lon: Some(f64::NAN), ..good }), Some("field_out_of_range"));
        assert_eq!(refused(&Telemetry { speed_kmh: Some(1_000.1), ..good }), Some("field_out_of_range"));
        assert_eq!(refused(&Telemetry { odometer_km: Some(f64::INFINITY), ..good }), Some("field_out_of_range"));
        assert_eq!(refused(&Telemetry { lat: None, ..good }), Some("field_missing"));
        assert_eq!(refused(&Telemetry { lat: Some(0.0), lon: Some(0.0), ..good }), Some("position_implausible"));
        assert_eq!(refused(&Telemetry { ts: 1_700_000_000, ..good }), Some("event_time_implausible"));
        assert_eq!(refused(&Telemetry { ts: 1_700_000_300_001, ..good }), Some("event_time_implausible"));
    }
}
