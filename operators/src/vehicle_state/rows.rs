//! Rows of `vehicle_state` put together column by column.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt64Array};
use arrow::buffer::BooleanBuffer;
use arrow::datatypes::{Float64Type, Int32Type, Int64Type};

use super::Device;
use crate::columns::{flags, nullable, taken};
use crate::devices::ByDevice;
use crate::latest::Status;
use crate::record::output;
use crate::string_table::StringTable;
use crate::time::{Tick, round_up};

/// No time: what stands for null in [`Rows::offline_since`].
const NEVER: i64 = i64::MIN;

/// Columns of rows that are upserted.
pub(super) struct Rows {
    /// Slots of the vehicles in the table of links.
    vehicles: Vec<u32>,
    status: Vec<u32>,
    /// Names of the statuses, by their slots.
    names: StringTable,
    ts: Vec<i64>,
    seq: Vec<i64>,
    measurements: [Vec<f64>; 9],
    satellites: Vec<i32>,
    ignition: Vec<Option<bool>>,
    offline_since: Vec<i64>,
    ticks: Vec<Tick>,
}

impl Default for Rows {
    fn default() -> Self {
        let mut names = StringTable::new(1);
        Status::ALL.iter().for_each(|&status| names.set(status as u32, 0, Some(status.name())));
        Self {
            vehicles: Vec::new(),
            status: Vec::new(),
            names,
            ts: Vec::new(),
            seq: Vec::new(),
            measurements: Default::default(),
            satellites: Vec::new(),
            ignition: Vec::new(),
            offline_since: Vec::new(),
            ticks: Vec::new(),
        }
    }
}

impl Rows {
    /// Adds rows of vehicles (their slots in the table of links) and their devices, each with the end of the window of the
    /// device's last change as its tick.
    pub(super) fn extend(&mut self, places: &[(u32, u32)], devices: &ByDevice<Device>, window_ms: u64) {
        let states = || places.iter().map(|&(_, number)| devices.get(number).expect("a device that changed"));
        self.vehicles.extend(places.iter().map(|&(vehicle, _)| vehicle));
        self.status.extend(states().map(|state| state.status() as u32));
        self.ts.extend(states().map(|state| state.latest.ts));
        self.seq.extend(states().map(|state| state.latest.seq));
        for (at, column) in self.measurements.iter_mut().enumerate() {
            column.extend(states().map(|state| state.latest.measurements[at]));
        }
        self.satellites.extend(states().map(|state| state.latest.satellites));
        self.ignition.extend(states().map(|state| state.latest.ignition));
        self.offline_since.extend(states().map(|state| state.offline_since.unwrap_or(NEVER)));
        self.ticks.extend(states().map(|state| round_up(state.changed, window_ms)));
    }

    pub(super) fn len(&self) -> usize {
        self.vehicles.len()
    }

    /// The rows so far, with the texts of their vehicles as these stand; none are left.
    pub(super) fn finish(&mut self, texts: &mut StringTable) -> Option<RecordBatch> {
        if self.vehicles.is_empty() {
            return None;
        }
        let count = self.vehicles.len();
        let mut columns = texts.gather(&self.vehicles);
        columns.extend(self.names.gather(&self.status));
        columns.push(Arc::new(Int64Array::from(taken(&mut self.ts))));
        columns.push(Arc::new(Int64Array::from(taken(&mut self.seq))));
        let mut measured = self.measurements.iter_mut();
        let mut floats = |many: usize, columns: &mut Vec<ArrayRef>| {
            for column in measured.by_ref().take(many) {
                columns.push(nullable::<Float64Type>(taken(column), |value| !value.is_nan()));
            }
        };
        floats(5, &mut columns);
        columns.push(nullable::<Int32Type>(taken(&mut self.satellites), |&count| count >= 0));
        columns.push(flags(&taken(&mut self.ignition)));
        floats(4, &mut columns);
        columns.push(nullable::<Int64Type>(taken(&mut self.offline_since), |&since| since != NEVER));
        columns.push(Arc::new(BooleanArray::new(BooleanBuffer::new_unset(count), None)));
        columns.push(Arc::new(UInt64Array::from(taken(&mut self.ticks))));
        self.vehicles.clear();
        self.status.clear();
        Some(RecordBatch::try_new(output::vehicle_state(), columns).expect("the declared columns"))
    }
}
