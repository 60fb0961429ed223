//! The same job as one plain loop on one thread: hash maps keyed by id, outputs as plain structs, no dataflow. What the
//! operators are measured against; the numbers of its rows have to be theirs.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::rc::Rc;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Float64Type, Int32Type, Int64Type, UInt64Type};
use operators::record::Stream as Topic;
use operators::time::Tick;

use crate::Totals;
use crate::fleet::{TICK_MS, TickInput};
use crate::options::{CONFLATE_MS, HORIZON_MS, SILENCE, WINDOW};

type Map<K, V> = hashbrown::HashMap<K, V, foldhash::fast::FixedState>;
type Text = Rc<str>;

#[derive(Default)]
struct Vehicle {
    device: Text,
    plate: Text,
    model: Text,
    groups: Text,
    company: Text,
    driver: Text,
}

#[derive(Default)]
struct Driver {
    name: Text,
    phone: Text,
    vehicles: Vec<Text>,
}

#[derive(Default)]
struct Company {
    name: Text,
    tariff: Text,
    offline_after_ms: u64,
    vehicles: Vec<Text>,
}

/// A vehicle's references, joined.
#[derive(Default)]
struct Link {
    vehicle: Text,
    plate: Text,
    model: Text,
    groups: Text,
    company: Text,
    company_name: Text,
    tariff: Text,
    tariff_name: Text,
    driver: Text,
    driver_name: Text,
    driver_phone: Text,
    offline_after_ms: u64,
}

#[derive(Clone, Copy)]
struct Latest {
    ts: i64,
    seq: i64,
    measurements: [Option<f64>; 9],
    satellites: Option<i32>,
    ignition: Option<bool>,
}

/// Everything known of a device: one look-up an event.
struct Device {
    id: Text,
    link: Option<Rc<Link>>,
    seen: Vec<(i64, i64)>,
    next: usize,
    last: Tick,
    online: bool,
    streak: u32,
    armed: bool,
    offline_since: Option<Tick>,
    latest: Option<Latest>,
    touched: bool,
    dirty: bool,
}

#[allow(dead_code, reason = "a row of output, made and thrown away")]
struct Enriched {
    device: Text,
    ts: i64,
    seq: i64,
    server_time: Option<i64>,
    measurements: [Option<f64>; 9],
    hdop: Option<f64>,
    satellites: Option<i32>,
    ignition: Option<bool>,
    events: Option<Text>,
    attributes: Option<Text>,
    partition: i32,
    offset: i64,
    tick: Tick,
    link: Option<Rc<Link>>,
}

#[allow(dead_code, reason = "a row of output, made and thrown away")]
struct State {
    device: Text,
    link: Rc<Link>,
    latest: Latest,
    status: &'static str,
    offline_since: Option<Tick>,
    tick: Tick,
}

#[allow(dead_code, reason = "a row of output, made and thrown away")]
struct Happened {
    online: bool,
    device: Text,
    vehicle: Option<Text>,
    company: Option<Text>,
    since: Tick,
    tick: Tick,
}

#[derive(Clone, Copy, Default)]
struct Sums {
    fixes: i64,
    speeds: i64,
    milli: i64,
    top: i64,
    changed: bool,
}

#[derive(Default)]
pub struct Loop {
    devices: Vec<Device>,
    by_id: Map<Text, u32>,
    vehicles: Map<Text, Vehicle>,
    drivers: Map<Text, Driver>,
    companies: Map<Text, Company>,
    tariffs: Map<Text, Text>,
    timers: BTreeMap<Tick, Vec<u32>>,
    windows: Map<(Text, i64), Sums>,
    changed_windows: Vec<(Text, i64)>,
    touched: Vec<u32>,
    dirty: Vec<u32>,
    enriched: Vec<Enriched>,
    states: Vec<State>,
    conflated: Vec<State>,
    minutes: Vec<(Text, i64, i64, Option<f64>, Option<f64>)>,
    happened: Vec<Happened>,
    links: Vec<Rc<Link>>,
    pub totals: Totals,
}

impl Loop {
    /// One tick: events by the references of before, then the references, then what was silent, then the states.
    pub fn tick(&mut self, input: &TickInput) {
        for rows in &input.telemetry {
            self.events(rows);
        }
        if let Some((topic, rows)) = &input.reference {
            self.references(*topic, rows);
        }
        self.end(input.tick);
    }

    fn device(&mut self, id: &str) -> u32 {
        if let Some(&at) = self.by_id.get(id) {
            return at;
        }
        let id: Text = id.into();
        self.by_id.insert(id.clone(), self.devices.len() as u32);
        self.devices.push(Device {
            id,
            link: None,
            seen: Vec::new(),
            next: 0,
            last: 0,
            online: false,
            streak: 0,
            armed: false,
            offline_since: None,
            latest: None,
            touched: false,
            dirty: false,
        });
        self.devices.len() as u32 - 1
    }

    fn events(&mut self, rows: &RecordBatch) {
        let columns = Columns::of(rows);
        for row in 0..rows.num_rows() {
            let at = self.device(columns.ids.value(row));
            let device = &mut self.devices[at as usize];
            let (ts, seq, tick) = (columns.ts[row], columns.seq[row], columns.ticks[row]);
            if !device.is_new((ts, seq), tick) {
                self.totals.duplicates += 1;
                continue;
            }
            let latest = columns.latest(row);
            self.enriched.push(columns.enriched(row, device, &latest));
            if let Some(link) = &device.link {
                let start = ts - ts.rem_euclid(WINDOW.size_ms);
                if start + WINDOW.size_ms + WINDOW.retention_ms >= tick as i64
                    && start <= tick as i64 + WINDOW.ahead_ms_max
                {
                    let key = (link.company.clone(), start);
                    let sums = self.windows.entry(key.clone()).or_default();
                    sums.add(latest.measurements[3]);
                    if !std::mem::replace(&mut sums.changed, true) {
                        self.changed_windows.push(key);
                    }
                }
            }
            let came_back = device.arrived(tick);
            if came_back {
                self.happened.push(device.happened(tick, tick));
            }
            if device.online && !std::mem::replace(&mut device.armed, true) {
                self.timers.entry(device.due()).or_default().push(at);
            }
            // A late message that brings a device back changes its state too.
            if (device.newer(&latest) || came_back) && !std::mem::replace(&mut device.touched, true) {
                self.touched.push(at);
            }
        }
    }

    pub fn references(&mut self, topic: Topic, rows: &RecordBatch) {
        let text = |name: &str, row: usize| -> Text {
            rows.column_by_name(name).expect("a field of the table").as_string_view().value(row).into()
        };
        for row in 0..rows.num_rows() {
            match topic {
                Topic::Vehicle => {
                    let vehicle = Vehicle {
                        device: text("device_id", row),
                        plate: text("plate", row),
                        model: text("model", row),
                        groups: text("group_ids", row),
                        company: text("company_id", row),
                        driver: text("driver_id", row),
                    };
                    self.vehicle(text("vehicle_id", row), vehicle);
                }
                Topic::Driver => {
                    let driver = self.drivers.entry(text("driver_id", row)).or_default();
                    (driver.name, driver.phone) = (text("name", row), text("phone", row));
                    driver.vehicles.clone().into_iter().for_each(|vehicle| self.link(&vehicle));
                }
                Topic::Company => {
                    let company = self.companies.entry(text("company_id", row)).or_default();
                    (company.name, company.tariff) = (text("name", row), text("tariff_id", row));
                    let seconds = rows.column_by_name("offline_after_s").expect("a field").as_primitive::<Int64Type>();
                    company.offline_after_ms = seconds.value(row) as u64 * 1_000;
                    company.vehicles.clone().into_iter().for_each(|vehicle| self.link(&vehicle));
                }
                _ => drop(self.tariffs.insert(text("tariff_id", row), text("name", row))),
            }
        }
    }

    fn vehicle(&mut self, id: Text, vehicle: Vehicle) {
        let old = self.vehicles.get(&id);
        if old.is_none_or(|old| old.driver != vehicle.driver) {
            if let Some(driver) = old.and_then(|old| self.drivers.get_mut(&old.driver)) {
                driver.vehicles.retain(|other| *other != id);
            }
            self.drivers.entry(vehicle.driver.clone()).or_default().vehicles.push(id.clone());
        }
        if old.is_none_or(|old| old.company != vehicle.company) {
            if let Some(company) = old.and_then(|old| self.companies.get_mut(&old.company)) {
                company.vehicles.retain(|other| *other != id);
            }
            self.companies.entry(vehicle.company.clone()).or_default().vehicles.push(id.clone());
        }
        self.vehicles.insert(id.clone(), vehicle);
        self.link(&id);
    }

    fn link(&mut self, id: &Text) {
        let vehicle = &self.vehicles[id];
        let (company, driver) = (&self.companies[&vehicle.company], &self.drivers[&vehicle.driver]);
        let link = Rc::new(Link {
            vehicle: id.clone(),
            plate: vehicle.plate.clone(),
            model: vehicle.model.clone(),
            groups: vehicle.groups.clone(),
            company: vehicle.company.clone(),
            company_name: company.name.clone(),
            tariff: company.tariff.clone(),
            tariff_name: self.tariffs[&company.tariff].clone(),
            driver: vehicle.driver.clone(),
            driver_name: driver.name.clone(),
            driver_phone: driver.phone.clone(),
            offline_after_ms: company.offline_after_ms,
        });
        self.links.push(link.clone());
        let at = self.device(&self.vehicles[id].device.clone());
        let device = &mut self.devices[at as usize];
        device.link = Some(link);
        if !std::mem::replace(&mut device.touched, true) {
            self.touched.push(at);
        }
    }

    pub fn end(&mut self, tick: Tick) {
        while let Some(entry) = self.timers.first_entry().filter(|entry| *entry.key() <= tick) {
            for at in entry.remove() {
                let device = &mut self.devices[at as usize];
                device.armed = false;
                if !device.online {
                    continue;
                }
                let due = device.due();
                if due > tick {
                    device.armed = true;
                    self.timers.entry(due).or_default().push(at);
                    continue;
                }
                (device.online, device.streak, device.offline_since) = (false, 0, Some(device.last));
                self.happened.push(device.happened(device.last, tick));
                if !std::mem::replace(&mut device.touched, true) {
                    self.touched.push(at);
                }
            }
        }
        for at in self.touched.drain(..) {
            let device = &mut self.devices[at as usize];
            device.touched = false;
            let Some(state) = device.state(tick) else { continue };
            self.states.push(state);
            if !std::mem::replace(&mut device.dirty, true) {
                self.dirty.push(at);
            }
        }
        if tick.is_multiple_of(CONFLATE_MS) {
            for at in self.dirty.drain(..) {
                let device = &mut self.devices[at as usize];
                device.dirty = false;
                self.conflated.extend(device.state(tick));
            }
        }
        if tick.is_multiple_of(WINDOW.emit_ms) {
            for (company, start) in self.changed_windows.drain(..) {
                let key = (company, start);
                let sums = self.windows.get_mut(&key).expect("it was added to");
                sums.changed = false;
                let speed = |value: f64| (sums.speeds > 0).then_some(value / 1_000.0);
                let (average, top) = (speed(sums.milli as f64 / sums.speeds as f64), speed(sums.top as f64));
                self.minutes.push((key.0, start, sums.fixes, average, top));
            }
        }
        self.give();
    }

    /// Hands the rows over, as far as this loop is concerned.
    fn give(&mut self) {
        fn rows<T>(rows: &mut Vec<T>) -> u64 {
            let count = black_box(&*rows).len() as u64;
            rows.clear();
            count
        }
        self.totals.enriched += rows(&mut self.enriched);
        self.totals.states += rows(&mut self.states);
        self.totals.conflated += rows(&mut self.conflated);
        self.totals.minutes += rows(&mut self.minutes);
        self.totals.happened += rows(&mut self.happened);
        self.totals.links += rows(&mut self.links);
    }
}

impl Device {
    fn is_new(&mut self, event: (i64, i64), tick: Tick) -> bool {
        if self.last + HORIZON_MS <= tick {
            self.seen.clear();
        }
        if self.seen.contains(&event) {
            return false;
        }
        if self.seen.len() < operators::deduplicate::REMEMBERED {
            self.seen.push(event);
        } else {
            self.seen[self.next] = event;
            self.next = (self.next + 1) % operators::deduplicate::REMEMBERED;
        }
        true
    }

    fn due(&self) -> Tick {
        let threshold = self.link.as_ref().map_or(SILENCE.offline_after_ms, |link| link.offline_after_ms);
        self.last + threshold.div_ceil(TICK_MS) * TICK_MS
    }

    /// Whether the arrival brings the device online.
    fn arrived(&mut self, tick: Tick) -> bool {
        let first = self.last == 0;
        let mut came = false;
        if !self.online {
            self.streak = if self.streak > 0 && tick <= self.due() { self.streak + 1 } else { 1 };
            came = first || self.streak >= SILENCE.online_after_messages;
            if came {
                (self.online, self.offline_since) = (true, None);
            }
        }
        self.last = tick;
        came
    }

    fn newer(&mut self, new: &Latest) -> bool {
        let Some(latest) = &mut self.latest else {
            self.latest = Some(*new);
            return true;
        };
        if (new.ts, new.seq) <= (latest.ts, latest.seq) {
            return false;
        }
        (latest.ts, latest.seq) = (new.ts, new.seq);
        for (value, new) in latest.measurements.iter_mut().zip(&new.measurements) {
            *value = new.or(*value);
        }
        latest.satellites = new.satellites.or(latest.satellites);
        latest.ignition = new.ignition.or(latest.ignition);
        true
    }

    fn state(&self, tick: Tick) -> Option<State> {
        let (latest, link) = (self.latest?, self.link.clone()?);
        let status = match (self.offline_since, latest.measurements[3], latest.ignition) {
            (Some(_), _, _) => "offline",
            (None, Some(speed), _) if speed >= operators::latest::MOVING_KMH => "moving",
            (None, _, Some(true)) => "idle",
            _ => "parked",
        };
        Some(State { device: self.id.clone(), link, latest, status, offline_since: self.offline_since, tick })
    }

    fn happened(&self, since: Tick, tick: Tick) -> Happened {
        let vehicle = self.link.as_ref().map(|link| link.vehicle.clone());
        let company = self.link.as_ref().map(|link| link.company.clone());
        Happened { online: self.online, device: self.id.clone(), vehicle, company, since, tick }
    }
}

impl Sums {
    fn add(&mut self, speed: Option<f64>) {
        self.fixes += 1;
        if let Some(speed) = speed {
            let milli = (speed * 1_000.0).round() as i64;
            self.top = if self.speeds == 0 { milli } else { self.top.max(milli) };
            self.milli += milli;
            self.speeds += 1;
        }
    }
}

struct Columns<'a> {
    ids: &'a StringViewArray,
    ts: &'a [i64],
    seq: &'a [i64],
    server_time: &'a Int64Array,
    measurements: [&'a Float64Array; 9],
    hdop: &'a Float64Array,
    satellites: &'a arrow::array::Int32Array,
    ignition: &'a BooleanArray,
    events: &'a StringViewArray,
    attributes: &'a StringViewArray,
    partition: &'a [i32],
    offset: &'a [i64],
    ticks: &'a [u64],
}

impl<'a> Columns<'a> {
    fn of(rows: &'a RecordBatch) -> Self {
        let column = |name: &str| rows.column_by_name(name).expect("telemetry has it");
        let ints = |name: &str| &column(name).as_primitive::<Int64Type>().values()[..];
        Self {
            ids: column("device_id").as_string_view(),
            ts: ints("ts"),
            seq: ints("seq"),
            server_time: column("server_time").as_primitive(),
            measurements: operators::latest::MEASUREMENTS.map(|name| column(name).as_primitive::<Float64Type>()),
            hdop: column("hdop").as_primitive(),
            satellites: column("satellites").as_primitive(),
            ignition: column("ignition").as_boolean(),
            events: column("events").as_string_view(),
            attributes: column("attributes").as_string_view(),
            partition: column("__partition").as_primitive::<Int32Type>().values(),
            offset: ints("__offset"),
            ticks: column("__tick").as_primitive::<UInt64Type>().values(),
        }
    }

    fn latest(&self, row: usize) -> Latest {
        Latest {
            ts: self.ts[row],
            seq: self.seq[row],
            measurements: self.measurements.map(|column| column.is_valid(row).then(|| column.value(row))),
            satellites: self.satellites.is_valid(row).then(|| self.satellites.value(row)),
            ignition: self.ignition.is_valid(row).then(|| self.ignition.value(row)),
        }
    }

    fn enriched(&self, row: usize, device: &Device, latest: &Latest) -> Enriched {
        let text = |column: &StringViewArray| column.is_valid(row).then(|| Text::from(column.value(row)));
        Enriched {
            device: device.id.clone(),
            ts: latest.ts,
            seq: latest.seq,
            server_time: self.server_time.is_valid(row).then(|| self.server_time.value(row)),
            measurements: latest.measurements,
            hdop: self.hdop.is_valid(row).then(|| self.hdop.value(row)),
            satellites: latest.satellites,
            ignition: latest.ignition,
            events: text(self.events),
            attributes: text(self.attributes),
            partition: self.partition[row],
            offset: self.offset[row],
            tick: self.ticks[row],
            link: device.link.clone(),
        }
    }
}
