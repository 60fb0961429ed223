//! Rows of `vehicle_state` put together column by column.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, PrimitiveArray, RecordBatch, UInt64Array};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::datatypes::{ArrowPrimitiveType, Float64Type, Int32Type, Int64Type};

use crate::latest::{Latest, Status};
use crate::record::output;
use crate::string_table::StringTable;
use crate::time::Tick;

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
    /// Adds the row of a vehicle whose device has these values.
    pub(super) fn push(&mut self, vehicle: u32, latest: &Latest, offline_since: Option<i64>, tick: Tick) {
        let status = if offline_since.is_some() { Status::Offline } else { latest.status() };
        self.vehicles.push(vehicle);
        self.status.push(status as u32);
        self.ts.push(latest.ts);
        self.seq.push(latest.seq);
        for (column, &value) in self.measurements.iter_mut().zip(&latest.measurements) {
            column.push(value);
        }
        self.satellites.push(latest.satellites);
        self.ignition.push(latest.ignition);
        self.offline_since.push(offline_since.unwrap_or(NEVER));
        self.ticks.push(tick);
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
        columns.push(Arc::new(Int64Array::from(cut(&mut self.ts))));
        columns.push(Arc::new(Int64Array::from(cut(&mut self.seq))));
        let mut measured = self.measurements.iter_mut();
        let mut floats = |many: usize, columns: &mut Vec<ArrayRef>| {
            for column in measured.by_ref().take(many) {
                columns.push(nullable::<Float64Type>(cut(column), |value| !value.is_nan()));
            }
        };
        floats(5, &mut columns);
        columns.push(nullable::<Int32Type>(cut(&mut self.satellites), |&count| count >= 0));
        let ignition = cut(&mut self.ignition);
        let nulls = known(&ignition, Option::is_some);
        let on = BooleanBuffer::collect_bool(count, |row| ignition[row] == Some(true));
        columns.push(Arc::new(BooleanArray::new(on, nulls)));
        floats(4, &mut columns);
        columns.push(nullable::<Int64Type>(cut(&mut self.offline_since), |&since| since != NEVER));
        columns.push(Arc::new(BooleanArray::new(BooleanBuffer::new_unset(count), None)));
        columns.push(Arc::new(UInt64Array::from(cut(&mut self.ticks))));
        self.vehicles.clear();
        self.status.clear();
        Some(RecordBatch::try_new(output::vehicle_state(), columns).expect("the declared columns"))
    }
}

/// A column's values; as many will come again.
fn cut<T>(column: &mut Vec<T>) -> Vec<T> {
    let room = column.len();
    std::mem::replace(column, Vec::with_capacity(room))
}

fn nullable<T: ArrowPrimitiveType>(values: Vec<T::Native>, is_known: fn(&T::Native) -> bool) -> ArrayRef {
    let nulls = known(&values, is_known);
    Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
}

/// Which values are known; `None`, at no cost further on, if all are.
fn known<T>(values: &[T], is_known: fn(&T) -> bool) -> Option<NullBuffer> {
    (!values.iter().all(is_known))
        .then(|| NullBuffer::new(BooleanBuffer::collect_bool(values.len(), |row| is_known(&values[row]))))
}
