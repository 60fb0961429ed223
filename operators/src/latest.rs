//! The last known values of one device. Out-of-order messages never overwrite newer ones: the order is device time, then
//! sequence number, then place in the log.

use arrow::array::{Array, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch};

use crate::batch::{OFFSET, PARTITION, bools, i32s, i64s};
use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use serde::{Deserialize, Serialize};

/// Names of the measurements, in the order of [`Latest::measurements`].
pub const MEASUREMENTS: [&str; 9] = [
    "lat",
    "lon",
    "altitude_m",
    "speed_kmh",
    "heading_deg",
    "fuel_level_pct",
    "engine_temp_c",
    "odometer_km",
    "battery_v",
];
const SPEED: usize = 3;

/// Speed from which a vehicle counts as moving, in kilometres per hour: below it receivers report noise while standing.
pub const MOVING_KMH: f64 = 3.0;

/// What a vehicle is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Faster than [`MOVING_KMH`].
    Moving,
    /// Standing with the ignition on.
    Idle,
    /// Standing with the ignition off, or without word of it.
    Parked,
    /// Not heard of.
    Offline,
}

impl Status {
    /// Every status.
    pub const ALL: [Status; 4] = [Status::Moving, Status::Idle, Status::Parked, Status::Offline];

    /// The name in messages and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Status::Moving => "moving",
            Status::Idle => "idle",
            Status::Parked => "parked",
            Status::Offline => "offline",
        }
    }
}

/// Last known values of one device. A value that the newest message lacks keeps what an earlier one said.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    /// Device time of the newest message, in milliseconds.
    pub ts: i64,
    /// Its sequence number.
    pub seq: i64,
    partition: i32,
    offset: i64,
    /// Values by [`MEASUREMENTS`]; NaN where none was ever sent (validation lets no NaN in).
    pub measurements: [f64; 9],
    /// Satellites used; negative where never sent.
    pub satellites: i32,
    /// Ignition, where ever sent.
    pub ignition: Option<bool>,
}

impl Latest {
    /// No message yet.
    #[must_use]
    pub fn none() -> Self {
        Self {
            ts: i64::MIN,
            seq: i64::MIN,
            partition: i32::MIN,
            offset: i64::MIN,
            measurements: [f64::NAN; 9],
            satellites: -1,
            ignition: None,
        }
    }

    /// Whether any message was seen.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.ts != i64::MIN
    }

    /// Takes a message in; `false` if it is older than what is known and changes nothing.
    pub fn update(&mut self, columns: &Columns<'_>, row: usize) -> bool {
        let order = (columns.ts[row], columns.seq[row], columns.partition[row], columns.offset[row]);
        if order <= (self.ts, self.seq, self.partition, self.offset) {
            return false;
        }
        (self.ts, self.seq, self.partition, self.offset) = order;
        for (value, column) in self.measurements.iter_mut().zip(&columns.measurements) {
            if column.is_valid(row) {
                *value = column.value(row);
            }
        }
        if columns.satellites.is_valid(row) {
            self.satellites = columns.satellites.value(row);
        }
        if columns.ignition.is_valid(row) {
            self.ignition = Some(columns.ignition.value(row));
        }
        true
    }

    /// What the values tell of a device that is heard of.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.measurements[SPEED] >= MOVING_KMH {
            Status::Moving
        } else if self.ignition == Some(true) {
            Status::Idle
        } else {
            Status::Parked
        }
    }
}

/// The columns of a telemetry batch that [`Latest`] reads.
pub struct Columns<'a> {
    ts: &'a [i64],
    seq: &'a [i64],
    partition: &'a [i32],
    offset: &'a [i64],
    measurements: [&'a Float64Array; 9],
    satellites: &'a Int32Array,
    ignition: &'a BooleanArray,
}

impl<'a> Columns<'a> {
    /// The columns of this batch.
    #[must_use]
    pub fn of(rows: &'a RecordBatch) -> Self {
        let floats = |name: &str| rows.column_by_name(name).expect("telemetry has it").as_primitive::<Float64Type>();
        let values = |column: &'a Int64Array| &column.values()[..];
        Self {
            ts: values(i64s(rows, "ts")),
            seq: values(i64s(rows, "seq")),
            partition: i32s(rows, PARTITION).values(),
            offset: values(i64s(rows, OFFSET)),
            measurements: MEASUREMENTS.map(floats),
            satellites: i32s(rows, "satellites"),
            ignition: bools(rows, "ignition"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Position;
    use crate::record::telemetry::{Telemetry, TelemetryBuilder};
    use proptest::prelude::*;

    proptest! {
        /// Catches an order that depends on arrival, and a missing value that erases a known one.
        #[test]
        fn newest_wins_in_any_order(mut messages in proptest::collection::vec((0i64..5, 0i64..3, 0i64..1000), 1..20), rotate in 0usize..20) {
            let state = |messages: &[(i64, i64, i64)]| {
                let mut builder = TelemetryBuilder::default();
                for &(ts, seq, offset) in messages {
                    let speed_kmh = Some((ts * 100 + seq) as f64);
                    builder.push(&Telemetry { device_id: "d", ts, seq, speed_kmh, ..Default::default() }, Position { partition: 0, offset, tick: 10 });
                }
                let rows = builder.finish();
                let mut latest = Latest::none();
                (0..rows.num_rows()).for_each(|row| { latest.update(&Columns::of(&rows), row); });
                (latest.ts, latest.seq, latest.offset, latest.measurements[SPEED])
            };
            let one = state(&messages);
            let by = rotate % messages.len();
            messages.rotate_left(by);
            prop_assert_eq!(one, state(&messages));
            let newest = messages.iter().max().expect("not empty");
            prop_assert_eq!((one.0, one.1, one.2), *newest);
        }
    }

    #[test]
    fn a_missing_value_keeps_the_last_known_one() {
        let mut builder = TelemetryBuilder::default();
        let at = |offset| Position { partition: 0, offset, tick: 10 };
        let first =
            Telemetry { device_id: "d", ts: 1, fuel_level_pct: Some(40.0), ignition: Some(true), ..Default::default() };
        builder.push(&first, at(0));
        builder.push(&Telemetry { device_id: "d", ts: 2, speed_kmh: Some(1.0), ..Default::default() }, at(1));
        let rows = builder.finish();
        let mut latest = Latest::none();
        assert!(latest.update(&Columns::of(&rows), 0) && latest.update(&Columns::of(&rows), 1));
        assert_eq!((latest.measurements[5], latest.status()), (40.0, Status::Idle));
    }
}
