//! The current state of each vehicle: the last known values of its device, joined incrementally with its links and its
//! connectivity, so that a new position, a renamed driver, another device or silence each show at once.
//!
//! Keyed state on both sides' unique key, the device; measured equal to the differential joins and an order of magnitude faster.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, HASH, TICK, bools, by_key, i64s, strings, u64s};
use crate::changes::Changes;
use crate::counters::{Counters, add};
use crate::device_links::DeviceLinks;
use crate::keyed::{Key, Keyed};
use crate::latest::{Columns, Latest, Status};
use crate::pending::Pending;
use crate::record::output;
use crate::time::Tick;

/// Columns taken from the links, in the order of the output.
const LINKED: [&str; 12] = [
    "vehicle_id",
    "device_id",
    "plate",
    "model",
    "group_ids",
    "company_id",
    "company_name",
    "tariff_id",
    "tariff_name",
    "driver_id",
    "driver_name",
    "driver_phone",
];

/// The table `vehicle_state` (columns of [`output::vehicle_state`]): at most one change of a vehicle a tick and worker.
///
/// `events` and `connectivity` must be spread by device; `links` may lie anywhere. A vehicle has a row once its device has
/// sent something; where several vehicles claim one device, each has a row.
pub fn vehicle_state<'s>(
    events: Stream<'s, Tick, Batch>,
    links: Stream<'s, Tick, Batch>,
    connectivity: Stream<'s, Tick, Batch>,
    counters: Counters,
) -> Stream<'s, Tick, Batch> {
    let mut builder = OperatorBuilder::new("VehicleState".into(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut links = builder.new_input(links, by_key("device_id"));
    let mut connectivity = builder.new_input(connectivity, Pipeline);
    let (output, changes) = builder.new_output();
    let mut output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(output);
    builder.build(move |mut capabilities| {
        let mut capability = capabilities.pop();
        let mut pending = Pending::default();
        let mut state = State::new(counters);
        move |frontiers| {
            events.for_each(|_, batch| pending.extend(batch.take()));
            links.for_each(|_, batch| stash(&mut state.link_changes, batch));
            connectivity.for_each(|_, batch| stash(&mut state.connection_changes, batch));
            let Some(held) = &mut capability else { return };
            let frontier = |f: &timely::progress::frontier::MutableAntichain<Tick>| f.frontier().first().copied();
            let upto = frontiers.iter().map(|f| frontier(f).unwrap_or(Tick::MAX)).min().unwrap_or(Tick::MAX);
            if upto > *held.time() {
                let closed = pending.close(upto);
                let mut out = Vec::new();
                let columns: Vec<Columns<'_>> = closed.portions.iter().map(Columns::of).collect();
                for run in &closed.runs {
                    state.run(&closed.portions[run.portion], &columns[run.portion], run.start..run.end, &mut out);
                }
                state.end_ticks(upto, &mut out);
                out.extend(state.flush());
                if !out.is_empty() {
                    let mut output = output.activate();
                    let mut session = output.session(held);
                    out.into_iter().for_each(|rows| session.give_container(&mut rows.into()));
                }
                if upto == Tick::MAX { capability = None } else { held.downgrade(&upto) }
            }
        }
    });
    changes
}

fn stash(changes: &mut Changes<RecordBatch>, batch: &mut Batch) {
    if let Some(rows) = batch.take() {
        let ticks = u64s(&rows, TICK).values().clone();
        changes.push(rows, &ticks);
    }
}

struct Device {
    latest: Latest,
    /// Tick of its last arrival before it went silent, while it is silent.
    offline_since: Option<i64>,
    /// Whether it is in [`State::touched`].
    touched: bool,
}

impl Device {
    fn new() -> Self {
        Self { latest: Latest::none(), offline_since: None, touched: false }
    }
}

/// One row to put out: values as they stood at the end of a tick.
struct Out {
    vehicle: u32,
    latest: Latest,
    offline_since: Option<i64>,
    tick: Tick,
}

struct State {
    devices: Keyed<Device>,
    links: DeviceLinks,
    link_changes: Changes<RecordBatch>,
    connection_changes: Changes<RecordBatch>,
    /// The tick being worked on, and the devices that changed in it.
    tick: Tick,
    touched: Vec<u32>,
    /// Vehicles that left their device in this tick, and that had a row.
    gone: BTreeSet<String>,
    rows: Vec<Out>,
    counters: Counters,
}

impl State {
    fn new(counters: Counters) -> Self {
        Self {
            devices: Keyed::default(),
            links: DeviceLinks::new(&LINKED),
            link_changes: Changes::default(),
            connection_changes: Changes::default(),
            tick: 0,
            touched: Vec::new(),
            gone: BTreeSet::new(),
            rows: Vec::new(),
            counters,
        }
    }

    /// Takes events in canonical order; with each new tick the ticks before it end.
    fn run(
        &mut self,
        rows: &RecordBatch,
        columns: &Columns<'_>,
        range: std::ops::Range<usize>,
        out: &mut Vec<RecordBatch>,
    ) {
        let (ids, hashes, ticks) = (strings(rows, "device_id"), u64s(rows, HASH).values(), u64s(rows, TICK).values());
        let slots = self.devices.slots(ids, hashes, range.clone(), Device::new);
        let mut outdated = 0;
        for (row, slot) in range.zip(slots) {
            if ticks[row] != self.tick {
                self.end_ticks(ticks[row], out);
                self.tick = ticks[row];
            }
            if self.devices.get_mut(slot).latest.update(columns, row) {
                self.touch(slot);
            } else {
                outdated += 1;
            }
        }
        add(&self.counters.outdated, outdated);
    }

    /// Ends every tick before `upto`: the one whose events were just taken, and those in which only other inputs changed.
    fn end_ticks(&mut self, upto: Tick, out: &mut Vec<RecordBatch>) {
        loop {
            let next = [self.link_changes.first(), self.connection_changes.first()].into_iter().flatten().min();
            let next = next.filter(|&tick| tick < upto);
            if next.is_none_or(|tick| tick > self.tick) {
                self.emit();
            }
            let Some(tick) = next else { break };
            self.tick = tick;
            for part in self.connection_changes.take(tick) {
                part.rows.for_each(|row| self.connection(&part.batch, row));
            }
            let changes = self.link_changes.take(tick);
            if !changes.is_empty() {
                // Rows already made show the links as they stood.
                out.extend(self.flush());
                for part in changes {
                    part.rows.for_each(|row| self.link(&part.batch, row));
                }
                out.extend(self.deletes());
            }
        }
        if self.rows.len() >= FLUSH_ROWS {
            out.extend(self.flush());
        }
    }

    fn touch(&mut self, slot: u32) {
        let device = self.devices.get_mut(slot);
        if !device.touched {
            device.touched = true;
            self.touched.push(slot);
        }
    }

    fn connection(&mut self, rows: &RecordBatch, row: usize) {
        let slot = self.devices.slot(&Key::new(strings(rows, "device_id").value(row)), Device::new);
        let offline = !bools(rows, "online").value(row);
        self.devices.get_mut(slot).offline_since = offline.then(|| i64s(rows, "since").value(row));
        self.touch(slot);
    }

    fn link(&mut self, rows: &RecordBatch, row: usize) {
        let Some((_, carries)) = self.links.apply(rows, row) else { return };
        let Some(slot) = self.devices.find(&Key::new(strings(rows, "device_id").value(row))) else { return };
        if !self.devices.get(slot).latest.is_some() {
            return;
        }
        // A vehicle that has another device by the end of the tick leaves this one all the same: the worker that owns
        // the other device may not be this one, and of one tick deletes count before upserts.
        if carries {
            self.touch(slot);
        } else {
            self.gone.insert(strings(rows, "vehicle_id").value(row).to_owned());
        }
    }

    /// Makes the rows of the devices that changed in the tick that ends.
    fn emit(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            let device = self.devices.get_mut(slot);
            device.touched = false;
            let (latest, offline_since) = (device.latest, device.offline_since);
            if latest.is_some() {
                let tick = self.tick;
                let key = Key::new(self.devices.text(slot));
                let vehicles = self.links.vehicles_of(&key);
                self.rows.extend(vehicles.map(|vehicle| Out { vehicle, latest, offline_since, tick }));
            }
        }
    }

    fn flush(&mut self) -> Option<RecordBatch> {
        if self.rows.is_empty() {
            return None;
        }
        let rows = std::mem::take(&mut self.rows);
        let slots: Vec<u32> = rows.iter().map(|row| row.vehicle).collect();
        let mut columns = self.links.texts.gather(&slots);
        columns.extend(values(&rows));
        columns.push(Arc::new(BooleanArray::from(vec![false; rows.len()])));
        columns.push(Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.tick))));
        // The space stays for the next rows.
        self.rows = rows;
        self.rows.clear();
        Some(RecordBatch::try_new(output::vehicle_state(), columns).expect("the declared columns"))
    }

    /// The rows of vehicles that lost their device in this tick.
    fn deletes(&mut self) -> Option<RecordBatch> {
        let gone = std::mem::take(&mut self.gone);
        if gone.is_empty() {
            return None;
        }
        let count = gone.len();
        let schema = output::vehicle_state();
        let mut columns: Vec<ArrayRef> = vec![Arc::new(StringViewArray::from_iter_values(&gone))];
        for field in &schema.fields()[1..schema.fields().len() - 2] {
            columns.push(arrow::array::new_null_array(field.data_type(), count));
        }
        columns.push(Arc::new(BooleanArray::from(vec![true; count])));
        columns.push(Arc::new(UInt64Array::from(vec![self.tick; count])));
        Some(RecordBatch::try_new(schema, columns).expect("the declared columns"))
    }
}

/// Rows put together before a batch is made of them, unless the round ends first.
const FLUSH_ROWS: usize = 8_192;

/// The columns from `status` to `offline_since`.
fn values(rows: &[Out]) -> Vec<ArrayRef> {
    let status = |row: &Out| if row.offline_since.is_some() { Status::Offline } else { row.latest.status() };
    let ints = |value: fn(&Out) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let floats = |index: usize| {
        let values: Vec<f64> = rows.iter().map(|row| row.latest.measurements[index]).collect();
        let nulls = nulls_of(&values, |value| !value.is_nan());
        Arc::new(Float64Array::new(values.into(), nulls)) as ArrayRef
    };
    let satellites: Vec<i32> = rows.iter().map(|row| row.latest.satellites).collect();
    let satellites_known = nulls_of(&satellites, |&count| count >= 0);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| status(row).name()))),
        ints(|row| row.latest.ts),
        ints(|row| row.latest.seq),
    ];
    columns.extend((0..5).map(floats));
    columns.push(Arc::new(Int32Array::new(satellites.into(), satellites_known)));
    columns.push(Arc::new(BooleanArray::from_iter(rows.iter().map(|row| row.latest.ignition))));
    columns.extend((5..9).map(floats));
    columns.push(Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.offline_since))));
    columns
}

/// Which values are known; `None`, at no cost further on, if all are.
fn nulls_of<T>(values: &[T], known: fn(&T) -> bool) -> Option<NullBuffer> {
    (!values.iter().all(known)).then(|| NullBuffer::from_iter(values.iter().map(known)))
}
