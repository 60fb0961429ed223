//! Tells which devices have gone silent and which are back: silent for longer than the company's threshold by arrival time,
//! back after several messages within it, so that a device that reports now and then does not flap. Timers run on the tick:
//! silence is also seen when nothing at all arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, DELETED, HASH, TICK, bools, by_key, i64s, strings, u64s};
use crate::changes::Changes;
use crate::device_links::device_of;
use crate::keyed::{Key, Keyed};
use crate::pending::Pending;
use crate::record::output;
use crate::time::Tick;

/// When a device counts as silent, and as back.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Milliseconds without a message after which a device is offline, where its company sets nothing else.
    pub offline_after_ms: u64,
    /// Messages, each within the threshold of the one before, after which an offline device is online again.
    pub online_after_messages: u32,
    /// Milliseconds to which the threshold is rounded up: the dataflow's tick.
    pub tick_ms: u64,
}

/// What [`silence`] gives.
pub struct Connectivity<'s> {
    /// The table `connectivity` (columns of [`output::connectivity`]), spread by device.
    pub table: Stream<'s, Tick, Batch>,
    /// `device.offline` and `device.online` (columns of [`output::vehicle_events`]).
    pub events: Stream<'s, Tick, Batch>,
}

/// Watches the arrivals in `events` (spread by device); `links` give each device's threshold and vehicle. An arrival at tick
/// T sees the links with ticks before T, a silence that is found at tick T those up to T: it is found at the tick's end.
pub fn silence<'s>(
    events: Stream<'s, Tick, Batch>,
    links: Stream<'s, Tick, Batch>,
    options: Options,
) -> Connectivity<'s> {
    let mut builder = OperatorBuilder::new("Silence".into(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut links = builder.new_input(links, by_key("device_id"));
    let (table_output, table) = builder.new_output();
    let (event_output, happened) = builder.new_output();
    let mut table_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(table_output);
    let mut event_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(event_output);
    builder.build(move |capabilities| {
        let mut capabilities = capabilities;
        let mut pending = Pending::default();
        let mut watch = Watch::new(options);
        move |frontiers| {
            events.for_each(|_, batch| pending.extend(batch.take()));
            links.for_each(|_, batch| watch.stash(batch));
            let Some(now) = capabilities.first().map(|held| *held.time()) else { return };
            let frontier = |index: usize| frontiers[index].frontier().first().copied().unwrap_or(Tick::MAX);
            let upto = frontier(0).min(frontier(1));
            if upto > now {
                let closed = pending.close(upto);
                for run in &closed.runs {
                    watch.arrivals(&closed.portions[run.portion], run.start..run.end);
                }
                watch.close(upto);
                if let Some((rows, events)) = watch.changes() {
                    table_output.activate().session(&capabilities[0]).give_container(&mut rows.into());
                    event_output.activate().session(&capabilities[1]).give_container(&mut events.into());
                }
                if upto == Tick::MAX {
                    capabilities.clear();
                } else {
                    capabilities.iter_mut().for_each(|held| held.downgrade(&upto));
                }
            }
        }
    });
    Connectivity { table, events: happened }
}

/// What is known of one device.
struct Device {
    /// Tick of the last message; 0 before the first.
    last: Tick,
    online: bool,
    /// Messages in a row within the threshold, while offline.
    streak: u32,
    threshold_ms: u64,
    /// Tick at which the threshold became what it is: a shorter one does not reach into the past.
    threshold_since: Tick,
    /// The timer that stands for the device, if any: it may be early, never late.
    armed: Option<Tick>,
    /// The vehicles that claim the device, by id; the first one counts.
    carriers: Vec<Carrier>,
}

#[derive(Clone, PartialEq, Eq)]
struct Carrier {
    vehicle_id: Arc<str>,
    company_id: Option<Arc<str>>,
    threshold_ms: Option<u64>,
}

/// A change of one device's connectivity.
struct Change {
    device: u32,
    online: bool,
    since: Tick,
    tick: Tick,
    /// The vehicle that carried the device then.
    carrier: Option<Carrier>,
}

struct Watch {
    options: Options,
    devices: Keyed<Device>,
    /// Devices by the tick at which their timer fires. A device that has been heard of since is put back.
    timers: BTreeMap<Tick, Vec<u32>>,
    links: Changes<RecordBatch>,
    /// Company ids, each held once.
    companies: BTreeSet<Arc<str>>,
    changes: Vec<Change>,
}

impl Watch {
    fn new(options: Options) -> Self {
        Self {
            options,
            devices: Keyed::default(),
            timers: BTreeMap::new(),
            links: Changes::default(),
            companies: BTreeSet::new(),
            changes: Vec::new(),
        }
    }

    fn stash(&mut self, batch: &mut Batch) {
        if let Some(rows) = batch.take() {
            let ticks = u64s(&rows, TICK).values().clone();
            self.links.push(rows, &ticks);
        }
    }

    fn arrivals(&mut self, rows: &RecordBatch, range: std::ops::Range<usize>) {
        let (ids, hashes, ticks) = (strings(rows, "device_id"), u64s(rows, HASH).values(), u64s(rows, TICK).values());
        let threshold_ms = self.options.offline_after_ms;
        let slots = self.devices.slots(ids, hashes, range.clone(), || Device::new(threshold_ms));
        let mut tick = 0;
        for (row, slot) in range.zip(slots) {
            if ticks[row] != tick {
                tick = ticks[row];
                self.thresholds(tick);
            }
            self.arrival(slot, tick);
        }
    }

    fn arrival(&mut self, slot: u32, tick: Tick) {
        // Its timer may be due between its last message and this one.
        self.expire(slot, tick);
        let required = self.options.online_after_messages;
        let tick_ms = self.options.tick_ms;
        let device = self.devices.get_mut(slot);
        let first = device.last == 0;
        if !device.online {
            let follows = device.streak > 0 && tick <= device.due(tick_ms);
            device.streak = if follows { device.streak + 1 } else { 1 };
            if first || device.streak >= required {
                device.online = true;
                device.streak = 0;
                self.changes.push(device.change(slot, tick, tick));
            }
        }
        let device = self.devices.get_mut(slot);
        device.last = tick;
        if device.online && device.armed.is_none() {
            self.arm(slot);
        }
    }

    /// Lets the device go offline if that was due before `now`.
    fn expire(&mut self, slot: u32, now: Tick) {
        let device = self.devices.get_mut(slot);
        let due = device.due(self.options.tick_ms);
        if device.online && due < now {
            device.online = false;
            self.changes.push(device.change(slot, device.last, due));
        }
    }

    fn arm(&mut self, slot: u32) {
        let device = self.devices.get_mut(slot);
        let due = device.due(self.options.tick_ms);
        device.armed = Some(due);
        self.timers.entry(due).or_default().push(slot);
    }

    /// Applies changed thresholds and vehicles with ticks before `upto`.
    fn thresholds(&mut self, upto: Tick) {
        while let Some((tick, changes)) = self.links.pop_before(upto) {
            for part in changes {
                let columns = LinkColumns::of(&part.batch);
                part.rows.for_each(|row| self.link(&columns, row, tick));
            }
        }
    }

    fn link(&mut self, columns: &LinkColumns<'_>, row: usize, tick: Tick) {
        let Some(device) = device_of(text(columns.devices, row)) else { return };
        let vehicle = columns.vehicles.value(row);
        let threshold_ms = self.options.offline_after_ms;
        let slot = self.devices.slot(&Key::new(device), || Device::new(threshold_ms));
        self.expire(slot, tick);
        let (default_ms, tick_ms) = (self.options.offline_after_ms, self.options.tick_ms);
        let company_id = text(columns.companies, row).map(|id| self.company(id));
        let state = self.devices.get_mut(slot);
        let at = state.carriers.binary_search_by(|carrier| (*carrier.vehicle_id).cmp(vehicle));
        if columns.deleted.value(row) {
            if let Ok(at) = at {
                state.carriers.remove(at);
            }
        } else {
            let carrier = Carrier { vehicle_id: vehicle.into(), company_id, threshold_ms: columns.threshold_ms(row) };
            match at {
                Ok(at) => state.carriers[at] = carrier,
                Err(at) => {
                    // Nearly always the only one.
                    state.carriers.reserve_exact(1);
                    state.carriers.insert(at, carrier);
                }
            }
        }
        let threshold_ms = state.carriers.first().and_then(|carrier| carrier.threshold_ms).unwrap_or(default_ms);
        if threshold_ms != state.threshold_ms {
            state.threshold_ms = threshold_ms;
            state.threshold_since = tick;
        }
        // A shorter threshold needs an earlier timer; the old one does nothing when it fires.
        let due = state.due(tick_ms);
        if state.online && state.armed.is_some_and(|armed| armed > due) {
            self.arm(slot);
        }
    }

    fn company(&mut self, id: &str) -> Arc<str> {
        if let Some(known) = self.companies.get(id) {
            return known.clone();
        }
        let id: Arc<str> = id.into();
        self.companies.insert(id.clone());
        id
    }

    /// Ends every tick before `upto`.
    fn close(&mut self, upto: Tick) {
        self.thresholds(upto);
        while let Some(entry) = self.timers.first_entry() {
            if *entry.key() >= upto || upto == Tick::MAX {
                break;
            }
            let (fired, slots) = entry.remove_entry();
            for slot in slots {
                let tick_ms = self.options.tick_ms;
                let device = self.devices.get_mut(slot);
                if device.armed != Some(fired) {
                    continue;
                }
                device.armed = None;
                if !device.online {
                    continue;
                }
                if device.due(tick_ms) <= fired {
                    device.online = false;
                    self.changes.push(device.change(slot, device.last, fired));
                } else {
                    self.arm(slot);
                }
            }
        }
    }

    /// What changed since the last call, as rows of both outputs in a fixed order.
    fn changes(&mut self) -> Option<(RecordBatch, RecordBatch)> {
        let mut changes = std::mem::take(&mut self.changes);
        if changes.is_empty() {
            return None;
        }
        changes.sort_by(|a, b| (a.tick, self.devices.text(a.device)).cmp(&(b.tick, self.devices.text(b.device))));
        let text = |value: fn(&Carrier) -> Option<&str>| {
            let of = |change: &Change| change.carrier.as_ref().and_then(value).map(str::to_owned);
            Arc::new(StringViewArray::from_iter(changes.iter().map(of))) as ArrayRef
        };
        let devices: ArrayRef =
            Arc::new(StringViewArray::from_iter_values(changes.iter().map(|c| self.devices.text(c.device))));
        let since: ArrayRef = Arc::new(Int64Array::from_iter_values(changes.iter().map(|c| c.since as i64)));
        let ticks: ArrayRef = Arc::new(UInt64Array::from_iter_values(changes.iter().map(|c| c.tick)));
        let online: ArrayRef = Arc::new(BooleanArray::from_iter(changes.iter().map(|c| Some(c.online))));
        let deleted: ArrayRef = Arc::new(BooleanArray::from(vec![false; changes.len()]));
        let kind = |change: &Change| if change.online { "device.online" } else { "device.offline" };
        let kinds: ArrayRef = Arc::new(StringViewArray::from_iter_values(changes.iter().map(kind)));
        let table = vec![devices.clone(), online, since.clone(), deleted, ticks.clone()];
        let (vehicles, companies) = (text(|c| Some(&*c.vehicle_id)), text(|c| c.company_id.as_deref()));
        let events = vec![kinds, devices, vehicles, companies, since, ticks];
        Some((
            RecordBatch::try_new(output::connectivity(), table).expect("the declared columns"),
            RecordBatch::try_new(output::vehicle_events(), events).expect("the declared columns"),
        ))
    }
}

/// The columns of `vehicle_links` that are read here.
struct LinkColumns<'a> {
    vehicles: &'a StringViewArray,
    devices: &'a StringViewArray,
    companies: &'a StringViewArray,
    seconds: &'a Int64Array,
    deleted: &'a BooleanArray,
}

impl<'a> LinkColumns<'a> {
    fn of(rows: &'a RecordBatch) -> Self {
        Self {
            vehicles: strings(rows, "vehicle_id"),
            devices: strings(rows, "device_id"),
            companies: strings(rows, "company_id"),
            seconds: i64s(rows, "offline_after_s"),
            deleted: bools(rows, DELETED),
        }
    }

    /// The threshold that the vehicle's company has set, if it has.
    fn threshold_ms(&self, row: usize) -> Option<u64> {
        let seconds = self.seconds.is_valid(row).then(|| self.seconds.value(row))?;
        u64::try_from(seconds).ok().filter(|&seconds| seconds > 0).map(|seconds| seconds.saturating_mul(1_000))
    }
}

fn text(column: &StringViewArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

impl Device {
    fn new(threshold_ms: u64) -> Self {
        Self { last: 0, online: false, streak: 0, threshold_ms, threshold_since: 0, armed: None, carriers: Vec::new() }
    }

    /// The tick at which the device goes offline unless it is heard of before.
    fn due(&self, tick_ms: u64) -> Tick {
        self.last.saturating_add(self.threshold_ms.div_ceil(tick_ms).saturating_mul(tick_ms)).max(self.threshold_since)
    }

    /// What has just become of the device.
    fn change(&self, device: u32, since: Tick, tick: Tick) -> Change {
        Change { device, online: self.online, since, tick, carrier: self.carriers.first().cloned() }
    }
}
