//! Devices that changed since an output was last put out, and the rows that come of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringViewArray, UInt64Array, new_null_array};

use super::{Device, Rows};
use crate::device_links::DeviceLinks;
use crate::devices::ByDevice;
use crate::record::output;
use crate::string_table::StringTable;
use crate::time::{Tick, round_up};

/// Devices of which rows are made at a time: their state stays in the first cache.
const BLOCK: usize = 64;
/// Rows put together before a batch is made of them: their columns still lie in the second cache.
const FLUSH_ROWS: usize = 4_096;

/// Each device that changed once, and each vehicle that left one.
pub(super) struct Touched {
    /// What marks a device of this list.
    bit: u8,
    /// Milliseconds of ticks over which changes are put together; a row has the last of them as its tick.
    window_ms: u64,
    /// The least tick of any change in here.
    first: Tick,
    devices: Vec<u32>,
    /// By id, with the tick.
    gone: BTreeMap<String, Tick>,
    rows: Rows,
    batches: Vec<RecordBatch>,
}

impl Touched {
    pub(super) fn new(bit: u8, window_ms: u64) -> Self {
        Self {
            bit,
            window_ms,
            first: Tick::MAX,
            devices: Vec::new(),
            gone: BTreeMap::new(),
            rows: Rows::default(),
            batches: Vec::new(),
        }
    }

    /// The last tick of the window that holds this one.
    pub(super) fn end_of(&self, tick: Tick) -> Tick {
        round_up(tick, self.window_ms)
    }

    /// The least tick that a row to come can have.
    pub(super) fn first(&self) -> Tick {
        if self.first == Tick::MAX { Tick::MAX } else { self.end_of(self.first) }
    }

    /// Adds a device that has just changed.
    pub(super) fn add(&mut self, number: u32, device: &mut Device) {
        if device.touched & self.bit == 0 {
            device.touched |= self.bit;
            self.devices.push(number);
            self.first = self.first.min(device.changed);
        }
    }

    /// Notes that a vehicle that had a row has left its device.
    pub(super) fn gone(&mut self, vehicle: &str, tick: Tick) {
        self.gone.insert(vehicle.to_owned(), tick);
        self.first = self.first.min(tick);
    }

    /// Makes the rows of the devices that changed, as they stand.
    pub(super) fn upserts(&mut self, devices: &mut ByDevice<Device>, links: &mut DeviceLinks) {
        for block in self.devices.chunks(BLOCK) {
            let mut places = Vec::with_capacity(BLOCK);
            for &number in block {
                let device = devices.at(number);
                device.touched &= !self.bit;
                if device.latest.is_some() {
                    places.extend(links.vehicles_of(number).map(|vehicle| (vehicle, number)));
                }
            }
            self.rows.extend(&places, devices, self.window_ms);
            if self.rows.len() >= FLUSH_ROWS {
                self.batches.extend(self.rows.finish(&mut links.texts));
            }
        }
        self.devices.clear();
        if self.gone.is_empty() {
            self.first = Tick::MAX;
        }
    }

    /// Makes the rows of vehicles that lost their device.
    pub(super) fn deletes(&mut self) {
        let gone = std::mem::take(&mut self.gone);
        if gone.is_empty() {
            return;
        }
        let count = gone.len();
        let schema = output::vehicle_state();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringViewArray::from_iter_values(gone.keys()))];
        for field in &schema.fields()[1..schema.fields().len() - 2] {
            columns.push(new_null_array(field.data_type(), count));
        }
        columns.push(Arc::new(BooleanArray::from(vec![true; count])));
        columns.push(Arc::new(UInt64Array::from_iter_values(gone.values().map(|&tick| self.end_of(tick)))));
        self.batches.push(RecordBatch::try_new(schema, columns).expect("the declared columns"));
        if self.devices.is_empty() {
            self.first = Tick::MAX;
        }
    }

    /// Makes a batch of the rows that wait.
    pub(super) fn flush(&mut self, texts: &mut StringTable) {
        self.batches.extend(self.rows.finish(texts));
    }

    /// The batches made so far.
    pub(super) fn take(&mut self) -> Vec<RecordBatch> {
        std::mem::take(&mut self.batches)
    }
}
