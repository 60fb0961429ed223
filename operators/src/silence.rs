//! Tells which devices have gone silent and which are back: silent for longer than the company's threshold by arrival time,
//! back after several messages within it, so that a device that reports now and then does not flap. Timers run on the tick:
//! silence is also seen when nothing at all arrives.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU64;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, StringViewArray, UInt64Array};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use crate::batch::{Batch, DELETED, TICK, bools, by_key, i64s, strings, u64s};
use crate::changes::Changes;
use crate::device_links::device_of;
use crate::devices::{ByDevice, Devices, numbers};
use crate::durable::{self, Damaged, Dirty, Durable, Give, States};
use crate::pending::Pending;
use crate::record::output;
use crate::time::{Tick, closed_before};

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

impl Options {
    /// The threshold of a device whose company has set this one, rounded up to whole ticks.
    fn threshold_ms(&self, set: Option<u64>) -> u64 {
        set.unwrap_or(self.offline_after_ms).div_ceil(self.tick_ms).saturating_mul(self.tick_ms)
    }
}

/// What [`silence`] gives.
pub struct Connectivity<'s> {
    /// The table `connectivity` (columns of [`output::connectivity`]), spread by device.
    pub table: Stream<'s, Tick, Batch>,
    /// `device.offline` and `device.online` (columns of [`output::vehicle_events`]).
    pub events: Stream<'s, Tick, Batch>,
}

/// Watches the arrivals in `events` (with the owners of their devices); `links` give each device's threshold and vehicle. An arrival at tick
/// T sees the links with ticks before T, a silence that is found at tick T those up to T: it is found at the tick's end.
///
/// What is known of the devices is the state `silence`; the vehicles that carry them come from `links` again.
pub fn silence<'s>(
    events: Stream<'s, Tick, Batch>,
    links: Stream<'s, Tick, Batch>,
    options: Options,
    devices: &Devices,
    states: &States,
) -> Connectivity<'s> {
    let mut builder = OperatorBuilder::new("Silence".into(), events.scope());
    let mut events = builder.new_input(events, Pipeline);
    let mut links = builder.new_input(links, by_key("device_id"));
    let (table_output, table) = builder.new_output();
    let (event_output, happened) = builder.new_output();
    let mut table_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(table_output);
    let mut event_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(event_output);
    let watch = states.keep("silence", Watch::new(options, devices.clone(), states.are_kept()));
    builder.build(move |capabilities| {
        let mut capabilities = capabilities;
        let mut pending = Pending::default();
        move |frontiers| {
            let watch = &mut *watch.borrow_mut();
            events.for_each(|_, batch| pending.extend(batch.take()));
            links.for_each(|_, batch| watch.stash(batch));
            let Some(now) = capabilities.first().map(|held| *held.time()) else { return };
            let frontier = |index: usize| closed_before(frontiers[index].frontier());
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
    /// A multiple of the tick.
    threshold_ms: u64,
    /// Tick at which the threshold became what it is: a shorter one does not reach into the past.
    threshold_since: Tick,
    /// The timer that stands for the device, if any: it may be early, never late.
    armed: Option<NonZeroU64>,
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
    ids: Devices,
    devices: ByDevice<Device>,
    /// The vehicles that claim each device, by id; the first one counts. Apart from what every message needs.
    carriers: ByDevice<Vec<Carrier>>,
    /// Devices by the tick at which their timer fires. A device that has been heard of since is put back.
    timers: BTreeMap<Tick, Vec<u32>>,
    links: Changes<RecordBatch>,
    /// Company ids, each held once.
    companies: BTreeSet<Arc<str>>,
    changes: Vec<Change>,
    dirty: Dirty,
}

/// [`Device`] in a checkpoint.
#[derive(Serialize, Deserialize)]
struct Written {
    last: Tick,
    online: bool,
    streak: u32,
    threshold_ms: u64,
    threshold_since: Tick,
}

impl Durable for Watch {
    fn changed(&mut self, give: &mut Give<'_>) {
        let (ids, mut key, mut value) = (self.ids.ids(), Vec::new(), Vec::new());
        for number in self.dirty.take() {
            let Some(device) = self.devices.get(number) else { continue };
            let &Device { last, online, streak, threshold_ms, threshold_since, armed: _ } = device;
            durable::write_key(&mut key, ids.text(number).as_bytes(), &[]);
            value.clear();
            durable::write(&mut value, &Written { last, online, streak, threshold_ms, threshold_since });
            give(&key, Some(&value));
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
        let number = self.ids.number(durable::text(durable::read_key(key)?.0)?);
        let Written { last, online, streak, threshold_ms, threshold_since } = durable::read(value)?;
        self.make_room(&[number]);
        *self.devices.at(number) = Device { last, online, streak, threshold_ms, threshold_since, armed: None };
        if online {
            self.arm(number);
        }
        Ok(())
    }
}

impl Watch {
    fn new(options: Options, ids: Devices, is_kept: bool) -> Self {
        Self {
            dirty: Dirty::new(is_kept),
            options,
            ids,
            devices: ByDevice::default(),
            carriers: ByDevice::default(),
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
        let (devices, ticks) = (numbers(rows), u64s(rows, TICK).values());
        self.make_room(&devices[range.clone()]);
        let mut tick = 0;
        for row in range {
            if ticks[row] != tick {
                tick = ticks[row];
                self.thresholds(tick);
            }
            self.arrival(devices[row], tick);
        }
    }

    fn make_room(&mut self, devices: &[u32]) {
        let threshold_ms = self.options.threshold_ms(None);
        self.devices.reserve(devices, || Device::new(threshold_ms));
        self.carriers.reserve(devices, Vec::new);
    }

    fn arrival(&mut self, slot: u32, tick: Tick) {
        // Its timer may be due between its last message and this one.
        self.expire(slot, tick);
        self.dirty.mark(slot);
        let required = self.options.online_after_messages;
        let device = self.devices.at(slot);
        let first = device.last == 0;
        if !device.online {
            let follows = device.streak > 0 && tick <= device.due();
            device.streak = if follows { device.streak + 1 } else { 1 };
            if first || device.streak >= required {
                device.online = true;
                device.streak = 0;
                self.change(slot, tick, tick);
            }
        }
        let device = self.devices.at(slot);
        device.last = tick;
        if device.online && device.armed.is_none() {
            self.arm(slot);
        }
    }

    /// Lets the device go offline if that was due before `now`.
    fn expire(&mut self, slot: u32, now: Tick) {
        let device = self.devices.at(slot);
        let due = device.due();
        if device.online && due < now {
            device.online = false;
            let since = device.last;
            self.change(slot, since, due);
        }
    }

    fn arm(&mut self, slot: u32) {
        let device = self.devices.at(slot);
        let due = device.due();
        device.armed = NonZeroU64::new(due);
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
        let slot = self.ids.number(device);
        self.make_room(&[slot]);
        self.expire(slot, tick);
        let company_id = text(columns.companies, row).map(|id| self.company(id));
        let carriers = self.carriers.at(slot);
        let at = carriers.binary_search_by(|carrier| (*carrier.vehicle_id).cmp(vehicle));
        if columns.deleted.value(row) {
            if let Ok(at) = at {
                carriers.remove(at);
            }
        } else {
            let carrier = Carrier { vehicle_id: vehicle.into(), company_id, threshold_ms: columns.threshold_ms(row) };
            match at {
                Ok(at) => carriers[at] = carrier,
                Err(at) => {
                    // Nearly always the only one.
                    carriers.reserve_exact(1);
                    carriers.insert(at, carrier);
                }
            }
        }
        let threshold_ms = self.options.threshold_ms(carriers.first().and_then(|carrier| carrier.threshold_ms));
        let state = self.devices.at(slot);
        if threshold_ms != state.threshold_ms {
            state.threshold_ms = threshold_ms;
            state.threshold_since = tick;
            self.dirty.mark(slot);
        }
        // A shorter threshold needs an earlier timer; the old one does nothing when it fires.
        let due = state.due();
        if state.online && state.armed.is_some_and(|armed| armed.get() > due) {
            self.arm(slot);
        }
    }

    /// Notes what has just become of a device.
    fn change(&mut self, device: u32, since: Tick, tick: Tick) {
        self.dirty.mark(device);
        let (online, carrier) = (self.devices.at(device).online, self.carriers.at(device).first().cloned());
        self.changes.push(Change { device, online, since, tick, carrier });
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
                let device = self.devices.at(slot);
                if device.armed.map(NonZeroU64::get) != Some(fired) {
                    continue;
                }
                device.armed = None;
                if !device.online {
                    continue;
                }
                if device.due() <= fired {
                    device.online = false;
                    let since = device.last;
                    self.change(slot, since, fired);
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
        let ids = self.ids.ids();
        changes.sort_by(|a, b| (a.tick, ids.text(a.device)).cmp(&(b.tick, ids.text(b.device))));
        let text = |value: fn(&Carrier) -> Option<&str>| {
            let of = |change: &Change| change.carrier.as_ref().and_then(value).map(str::to_owned);
            Arc::new(StringViewArray::from_iter(changes.iter().map(of))) as ArrayRef
        };
        let devices: ArrayRef = Arc::new(StringViewArray::from_iter_values(changes.iter().map(|c| ids.text(c.device))));
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
        Self { last: 0, online: false, streak: 0, threshold_ms, threshold_since: 0, armed: None }
    }

    /// The tick at which the device goes offline unless it is heard of before.
    fn due(&self) -> Tick {
        self.last.saturating_add(self.threshold_ms).max(self.threshold_since)
    }
}
