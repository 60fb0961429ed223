//! The current state of each vehicle: the last known values of its device, joined incrementally with its links and its
//! connectivity, so that a new position, a renamed driver, another device or silence each show at once.
//!
//! Keyed state on both sides' unique key, the device; measured equal to the differential joins and an order of magnitude faster.

mod rows;
mod touched;

use std::cell::Cell;
use std::rc::Rc;

use arrow::array::RecordBatch;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, TICK, bools, by_key, i64s, strings, u64s};
use crate::changes::Changes;
use crate::counters::{Counters, add};
use crate::device_links::DeviceLinks;
use crate::devices::{ByDevice, Devices, FETCH_ROWS, numbers};
use crate::durable::{self, Damaged, Dirty, Durable, Give, States};
use crate::latest::{Columns, Latest, Status};
use crate::pending::Pending;
use crate::time::{Tick, all_closed_before};

use rows::Rows;
use touched::Touched;

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

/// Whether the worker is catching up with a log that is far ahead of it. While it is, a version of a row that a newer one
/// replaces may be left out. What is put out keeps the tick of its change, and the frontier waits for it.
#[derive(Clone, Debug, Default)]
pub struct CatchingUp(Rc<Cell<bool>>);

impl CatchingUp {
    /// Says whether it is.
    pub fn set(&self, catching_up: bool) {
        self.0.set(catching_up);
    }
}

/// What is wanted of [`vehicle_state`].
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether the changes of each tick are.
    pub changes: bool,
    /// Whether those put together over windows of so many milliseconds of ticks are.
    pub conflate_ms: Option<u64>,
    /// When versions may be left out.
    pub catching_up: CatchingUp,
}

/// The table `vehicle_state` (columns of [`output::vehicle_state`](crate::record::output::vehicle_state)).
pub struct Table<'s> {
    /// At most one change of a vehicle a tick and worker.
    pub changes: Stream<'s, Tick, Batch>,
    /// At the end of each window the state of each vehicle that changed within it, with the window's end as its tick. A vehicle
    /// that went from one worker's device to another's comes from both: see [`conflate`](crate::conflate::conflate).
    pub conflated: Stream<'s, Tick, Batch>,
}

/// Joins `events` and `connectivity`, which lie with the owners of their devices, with `links`, wherever these lie. A vehicle has
/// a row once its device has sent something; where several vehicles claim one device, each has a row.
///
/// The devices' values are the state `vehicle_state`. With them a start puts out the whole table, as of the links' tick.
pub fn vehicle_state<'s>(
    events: Stream<'s, Tick, Batch>,
    links: Stream<'s, Tick, Batch>,
    connectivity: Stream<'s, Tick, Batch>,
    options: Options,
    devices: &Devices,
    counters: Counters,
    kept: &States,
) -> Table<'s> {
    let mut builder = OperatorBuilder::new("VehicleState".into(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut links = builder.new_input(links, by_key("device_id"));
    let mut connectivity = builder.new_input(connectivity, Pipeline);
    let (change_output, changes) = builder.new_output();
    let (conflated_output, conflated) = builder.new_output();
    let mut outputs: [OutputBuilder<Tick, CapacityContainerBuilder<Batch>>; 2] =
        [OutputBuilder::from(change_output), OutputBuilder::from(conflated_output)];
    let state = kept.keep("vehicle_state", State::new(options, devices.clone(), counters, kept.are_kept()));
    builder.build(move |mut capabilities| {
        let mut pending = Pending::default();
        move |frontiers| {
            let state = &mut *state.borrow_mut();
            events.for_each(|_, batch| pending.extend(batch.take()));
            links.for_each(|_, batch| stash(&mut state.link_changes, batch));
            connectivity.for_each(|_, batch| stash(&mut state.connection_changes, batch));
            let upto = all_closed_before(frontiers);
            if upto <= state.done || capabilities.is_empty() {
                return;
            }
            let closed = pending.close(upto);
            let columns: Vec<Columns<'_>> = closed.portions.iter().map(Columns::of).collect();
            for run in &closed.runs {
                state.run(&closed.portions[run.portion], &columns[run.portion], run.start..run.end);
            }
            state.end(upto);
            for ((output, held), batches) in outputs.iter_mut().zip(&capabilities).zip(state.take()) {
                if !batches.is_empty() {
                    let mut output = output.activate();
                    let mut session = output.session(held);
                    batches.into_iter().for_each(|rows| session.give_container(&mut rows.into()));
                }
            }
            state.done = upto;
            if upto == Tick::MAX {
                capabilities.clear();
                return;
            }
            for (held, first) in capabilities.iter_mut().zip(state.first()) {
                held.downgrade(&first.min(upto));
            }
        }
    });
    Table { changes, conflated }
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
    /// Tick of the last change.
    changed: Tick,
    /// In which lists of [`Touched`] it is, a bit each.
    touched: u8,
}

impl Device {
    fn new() -> Self {
        Self { latest: Latest::none(), offline_since: None, changed: 0, touched: 0 }
    }

    fn status(&self) -> Status {
        if self.offline_since.is_some() { Status::Offline } else { self.latest.status() }
    }
}

struct State {
    catching_up: CatchingUp,
    ids: Devices,
    devices: ByDevice<Device>,
    links: DeviceLinks,
    link_changes: Changes<RecordBatch>,
    connection_changes: Changes<RecordBatch>,
    /// Every tick before this one was worked on.
    done: Tick,
    /// The tick being worked on.
    tick: Tick,
    /// What changed in it, and in its window; `None` if that is not wanted.
    changes: Option<Touched>,
    window: Option<Touched>,
    counters: Counters,
    dirty: Dirty,
}

impl Durable for State {
    fn changed(&mut self, give: &mut Give<'_>) {
        let (ids, mut key, mut value) = (self.ids.ids(), Vec::new(), Vec::new());
        for number in self.dirty.take() {
            let Some(device) = self.devices.get(number) else { continue };
            durable::write_key(&mut key, ids.text(number).as_bytes(), &[]);
            value.clear();
            durable::write(&mut value, &(device.latest, device.offline_since));
            give(&key, Some(&value));
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
        let number = self.ids.number(durable::text(durable::read_key(key)?.0)?);
        let (latest, offline_since) = durable::read(value)?;
        self.devices.reserve(&[number], Device::new);
        let device = self.devices.at(number);
        (device.latest, device.offline_since) = (latest, offline_since);
        Ok(())
    }
}

impl State {
    fn new(options: Options, ids: Devices, counters: Counters, is_kept: bool) -> Self {
        Self {
            dirty: Dirty::new(is_kept),
            catching_up: options.catching_up,
            links: DeviceLinks::new(&LINKED, &ids),
            ids,
            devices: ByDevice::default(),
            link_changes: Changes::default(),
            connection_changes: Changes::default(),
            done: 0,
            tick: 0,
            changes: options.changes.then(|| Touched::new(1, 1)),
            window: options.conflate_ms.map(|conflate_ms| Touched::new(2, conflate_ms)),
            counters,
        }
    }

    /// Takes events in canonical order; with each new tick the ticks before it end.
    fn run(&mut self, rows: &RecordBatch, columns: &Columns<'_>, range: std::ops::Range<usize>) {
        let (devices, ticks) = (numbers(rows), u64s(rows, TICK).values());
        self.devices.reserve(&devices[range.clone()], Device::new);
        let mut outdated = 0;
        for row in range.clone() {
            if (row - range.start).is_multiple_of(FETCH_ROWS) {
                let block = &devices[row..range.end.min(row + FETCH_ROWS)];
                self.devices.fetch(block, |device| device.latest.ts ^ i64::from(device.touched));
            }
            if ticks[row] != self.tick {
                self.end_ticks(ticks[row]);
                self.begin_tick(ticks[row]);
            }
            if self.devices.at(devices[row]).latest.update(columns, row) {
                self.dirty.mark(devices[row]);
                self.touch(devices[row]);
            } else {
                outdated += 1;
            }
        }
        add(&self.counters.outdated, outdated);
    }

    /// Ends everything before `upto`.
    fn end(&mut self, upto: Tick) {
        if upto == Tick::MAX {
            self.catching_up = CatchingUp::default();
        }
        self.end_ticks(upto);
        self.end_window(upto);
        for touched in [&mut self.changes, &mut self.window].into_iter().flatten() {
            touched.flush(&mut self.links.texts);
        }
    }

    /// The least ticks of what is still to be put out, of the changes and of the windows.
    fn first(&self) -> [Tick; 2] {
        [&self.changes, &self.window].map(|touched| touched.as_ref().map_or(Tick::MAX, Touched::first))
    }

    /// The batches made since the last call, of the changes and of the windows.
    fn take(&mut self) -> [Vec<RecordBatch>; 2] {
        [&mut self.changes, &mut self.window].map(|touched| touched.as_mut().map(Touched::take).unwrap_or_default())
    }

    /// Ends every tick before `upto`: the one whose events were just taken, and those in which only other inputs changed.
    fn end_ticks(&mut self, upto: Tick) {
        loop {
            let next = [self.link_changes.first(), self.connection_changes.first()].into_iter().flatten().min();
            let next = next.filter(|&tick| tick < upto);
            if next.is_none_or(|tick| tick > self.tick)
                && !self.catching_up.0.get()
                && let Some(changes) = &mut self.changes
            {
                changes.upserts(&mut self.devices, &mut self.links);
            }
            let Some(tick) = next else { return };
            self.begin_tick(tick);
            for part in self.connection_changes.take(tick) {
                part.rows.for_each(|row| self.connection(&part.batch, row));
            }
            let changes = self.link_changes.take(tick);
            if let Some(touched) = self.changes.as_mut().filter(|_| !changes.is_empty()) {
                // Rows already made show the links as they stood.
                touched.flush(&mut self.links.texts);
            }
            for part in changes {
                part.rows.for_each(|row| self.link(&part.batch, row));
            }
            if let Some(changes) = &mut self.changes {
                changes.deletes();
            }
        }
    }

    fn begin_tick(&mut self, tick: Tick) {
        self.end_window(tick);
        self.tick = tick;
    }

    /// Ends the window of the last tick if it is over before `upto`.
    fn end_window(&mut self, upto: Tick) {
        let tick = self.tick;
        let Some(window) = self.window.as_mut().filter(|window| window.end_of(tick) < upto) else { return };
        if !self.catching_up.0.get() {
            window.deletes();
            window.upserts(&mut self.devices, &mut self.links);
            window.flush(&mut self.links.texts);
        }
    }

    fn touch(&mut self, number: u32) {
        let device = self.devices.at(number);
        device.changed = self.tick;
        for touched in [&mut self.changes, &mut self.window].into_iter().flatten() {
            touched.add(number, device);
        }
    }

    fn connection(&mut self, rows: &RecordBatch, row: usize) {
        let number = self.ids.number(strings(rows, "device_id").value(row));
        self.devices.reserve(&[number], Device::new);
        let offline = !bools(rows, "online").value(row);
        self.devices.at(number).offline_since = offline.then(|| i64s(rows, "since").value(row));
        self.dirty.mark(number);
        self.touch(number);
    }

    fn link(&mut self, rows: &RecordBatch, row: usize) {
        let Some((number, carries)) = self.links.apply(rows, row) else { return };
        self.devices.reserve(&[number], Device::new);
        if !self.devices.at(number).latest.is_some() {
            return;
        }
        // A vehicle that has another device by the end of the tick leaves this one all the same: the worker that owns
        // the other device may not be this one, and of one tick deletes count before upserts.
        if carries {
            self.touch(number);
        } else {
            for touched in [&mut self.changes, &mut self.window].into_iter().flatten() {
                touched.gone(strings(rows, "vehicle_id").value(row), self.tick);
            }
        }
    }
}
