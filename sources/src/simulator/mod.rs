//! A fleet that does not exist: vehicles drive between the cities of Europe and their trackers report, with the faults that
//! are switched on. The records, their order and their times follow from options and seed alone, and every record is
//! counted by kind as it is given out, so that what comes out at the other end can be compared.

mod cities;
mod disturb;
mod random;
mod reference;
mod roads;
mod vehicle;
mod write;

use std::collections::{BTreeMap, BinaryHeap};

use operators::record::Stream;
use serde::Deserialize;

use crate::SourceError;
use crate::publish::{Message, Timetable};
use cities::CITIES;
use disturb::{Fate, Held, Kind};
use random::mix;
use reference::{Entry, Fleet};
use roads::Roads;
use vehicle::{Measured, Vehicle};

/// Most vehicles.
const VEHICLES_MAX: u32 = 1_000_000;
/// Most messages kept back to be sent later; beyond it none is kept back.
const HELD_MAX: usize = 1_000_000;

/// What is simulated.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Number of vehicles, 1 to 1,000,000; each has a tracker and a driver.
    pub vehicles: u32,
    /// Messages per second of all vehicles together; 0 for as fast as they are taken.
    pub rate_per_s: f64,
    /// Milliseconds from one message of a vehicle to its next where `rate_per_s` is 0 and does not say.
    pub interval_ms: u64,
    /// Messages (slots) after which the simulation ends; 0 for never.
    pub messages_max: u64,
    /// The same seed gives the same fleet and the same journeys.
    pub seed: u64,
    /// Countries (ISO 3166 codes) in which the vehicles stay; all of Europe if empty.
    pub countries: Vec<String>,
    /// Per cent of messages that arrive late, behind newer ones.
    pub late_pct: f64,
    /// How late they are at most, in milliseconds.
    pub late_ms_max: u64,
    /// Per cent of messages that arrive twice.
    pub duplicate_pct: f64,
    /// Per cent of messages that are garbage, each to be refused.
    pub garbage_pct: f64,
    /// Per cent of messages that change places with the vehicle's next one.
    pub out_of_order_pct: f64,
    /// Per cent of vehicles that lose their link for one to four minutes within ten, and send what they kept afterwards.
    /// A vehicle's first message goes out in any case.
    pub lost_link_pct: f64,
    /// Per cent of trackers whose clock is wrong: up to six hours behind, or up to four minutes ahead.
    pub wrong_clock_pct: f64,
    /// Per cent of vehicles that stand all the time with the engine on.
    pub stuck_pct: f64,
    /// Changes of reference records per second: drivers renamed, deleted and made again, vehicles that change driver,
    /// company or tracker.
    pub changes_per_s: f64,
    /// Whether messages carry the server's time, as the ingestion gate would add it.
    pub stamp_server_time: bool,
}

impl Options {
    /// So many vehicles anywhere in Europe, as fast as their messages are taken and as long as any are: all in order, each
    /// once, nothing wrong with them.
    #[must_use]
    pub fn undisturbed(vehicles: u32, seed: u64) -> Self {
        Self {
            vehicles,
            rate_per_s: 0.0,
            interval_ms: 1_000,
            messages_max: 0,
            seed,
            countries: Vec::new(),
            late_pct: 0.0,
            late_ms_max: 30_000,
            duplicate_pct: 0.0,
            garbage_pct: 0.0,
            out_of_order_pct: 0.0,
            lost_link_pct: 0.0,
            wrong_clock_pct: 0.0,
            stuck_pct: 0.0,
            changes_per_s: 0.0,
            stamp_server_time: false,
        }
    }
}

/// What was given out so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Reference records of the beginning.
    pub references: u64,
    /// Reference records written again or deleted later.
    pub changes: u64,
    /// Telemetry records of any kind.
    pub messages: u64,
    /// Good telemetry messages, each counted once.
    pub distinct: u64,
    /// Of these: sent late.
    pub late: u64,
    /// Of these: sent behind the vehicle's next one.
    pub out_of_order: u64,
    /// Of these: kept while the link was lost.
    pub lost_link: u64,
    /// Of these: with a wrong clock.
    pub wrong_clock: u64,
    /// Trackers that sent a good message.
    pub devices: u64,
    /// Copies of good messages.
    pub duplicates: u64,
    /// Telemetry records to be refused.
    pub garbage: u64,
    /// These by the code of the refusal.
    pub garbage_by_code: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Copy)]
enum Upcoming {
    Held,
    Change,
    Slot,
}

/// The generator.
#[derive(Debug)]
pub struct Simulator {
    options: Options,
    start_ms: i64,
    /// Milliseconds from one slot to the next.
    spacing_ms: f64,
    roads: Roads,
    vehicles: Vec<Vehicle>,
    fleet: Fleet,
    references: u64,
    slot: u64,
    changes: u64,
    /// Records of a change that are not given out yet.
    also: Vec<Entry>,
    held: BinaryHeap<Held>,
    held_ever: u64,
    /// Time of the last record given out.
    due_ms: i64,
    counts: Counts,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Simulator {
    /// A simulation that begins at `start_ms` (milliseconds since the epoch).
    ///
    /// # Errors
    /// An option is out of its range, or no road lies within the countries.
    pub fn new(options: Options, start_ms: i64) -> Result<Self, SourceError> {
        check(&options)?;
        let roads = Roads::new(&options.countries).ok_or_else(|| {
            let mut known: Vec<_> = CITIES.iter().map(|city| city.country).collect();
            known.sort_unstable();
            known.dedup();
            let why = format!("no two of the simulator's cities lie in {:?}; known are {known:?}", options.countries);
            SourceError::Configuration(why)
        })?;
        let count = f64::from(options.vehicles);
        let spacing_ms =
            if options.rate_per_s > 0.0 { 1_000.0 / options.rate_per_s } else { options.interval_ms as f64 / count };
        let seed = options.seed;
        let make = |index: u64| {
            let own = mix(seed ^ mix(index));
            Vehicle::new(own, &roads, start_ms, random::falls_under(mix(own ^ 1), options.stuck_pct))
        };
        let vehicles: Vec<Vehicle> = (0..u64::from(options.vehicles)).map(make).collect();
        let countries = vehicles.iter().take(64).map(|vehicle| vehicle.country(&roads)).collect();
        Ok(Self {
            fleet: Fleet::new(seed, u64::from(options.vehicles), countries),
            options,
            start_ms,
            spacing_ms,
            roads,
            vehicles,
            references: 0,
            slot: 0,
            changes: 0,
            also: Vec::new(),
            held: BinaryHeap::new(),
            held_ever: 0,
            due_ms: start_ms,
            counts: Counts::default(),
            key: Vec::new(),
            value: Vec::new(),
        })
    }

    /// What was given out so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The next record: first the reference records, then the messages and changes in order of time. `None` when the
    /// simulation has ended.
    #[allow(clippy::should_implement_trait)] // records are borrowed from the generator
    pub fn next(&mut self) -> Option<Message<'_>> {
        self.next_until(i64::MAX)
    }

    /// What comes next in time: a message that was kept back before a change, a change before a new message.
    fn upcoming(&self) -> Option<(Upcoming, i64)> {
        let ended = self.options.messages_max > 0 && self.slot >= self.options.messages_max;
        let held = self.held.peek().map(|held| (Upcoming::Held, held.due_ms));
        if ended {
            return held;
        }
        let mut next = (Upcoming::Slot, self.time_of(self.slot as f64 * self.spacing_ms));
        if self.options.changes_per_s > 0.0 {
            let change_ms = self.time_of((self.changes + 1) as f64 * 1_000.0 / self.options.changes_per_s);
            if change_ms <= next.1 {
                next = (Upcoming::Change, change_ms);
            }
        }
        Some(held.filter(|held| held.1 <= next.1).unwrap_or(next))
    }

    fn time_of(&self, since_start_ms: f64) -> i64 {
        self.start_ms + since_start_ms as i64
    }

    /// Makes the message of the next slot; tells whether it is sent now.
    fn make(&mut self, now_ms: i64) -> bool {
        let index = self.slot % u64::from(self.options.vehicles);
        let draw = mix(self.options.seed ^ mix(self.slot).rotate_left(17));
        self.slot += 1;
        let vehicle = &mut self.vehicles[index as usize];
        let measured = vehicle.step(&self.roads, now_ms);
        vehicle.seq += 1;
        let seq = vehicle.seq;
        let clock_ms = disturb::clock_ms(&self.options, index);
        let interval_ms = (self.spacing_ms * f64::from(self.options.vehicles)) as i64;
        let held = |kind, due_ms| Held {
            due_ms,
            order: 0,
            kind,
            index,
            ts: now_ms + clock_ms,
            seq,
            wrong_clock: clock_ms != 0,
            measured,
        };
        match disturb::fate(&self.options, index, now_ms, interval_ms, draw, !vehicle.heard_of) {
            Fate::Garbage => {
                self.garbage(index, now_ms, seq, &measured, draw);
                return true;
            }
            Fate::Later(kind, due_ms) if self.held.len() < HELD_MAX => {
                self.hold(held(kind, due_ms));
                return false;
            }
            Fate::Twice(due_ms) if self.held.len() < HELD_MAX => self.hold(held(Kind::Duplicate, due_ms)),
            _ => {}
        }
        self.write(&held(Kind::OnTime, now_ms));
        true
    }

    fn hold(&mut self, held: Held) {
        self.held_ever += 1;
        self.held.push(Held { order: self.held_ever, ..held });
    }

    /// Writes a good message and counts it.
    fn write(&mut self, message: &Held) {
        let counts = &mut self.counts;
        counts.messages += 1;
        match message.kind {
            Kind::Duplicate => counts.duplicates += 1,
            Kind::OnTime => {}
            Kind::Late => counts.late += 1,
            Kind::OutOfOrder => counts.out_of_order += 1,
            Kind::LostLink => counts.lost_link += 1,
        }
        if message.kind != Kind::Duplicate {
            counts.distinct += 1;
            let vehicle = &mut self.vehicles[message.index as usize];
            counts.devices += u64::from(!std::mem::replace(&mut vehicle.heard_of, true));
            counts.wrong_clock += u64::from(message.wrong_clock);
        }
        self.key.clear();
        self.value.clear();
        reference::device_id(message.index, &mut self.key);
        let server_time = self.options.stamp_server_time.then_some(self.due_ms);
        write::message(message.index, message.ts, server_time, message.seq, &message.measured, &mut self.value);
    }

    fn garbage(&mut self, index: u64, ts: i64, seq: u32, measured: &Measured, draw: u64) {
        self.key.clear();
        self.value.clear();
        reference::device_id(index, &mut self.key);
        let code = disturb::garbage(index, ts, seq, measured, mix(draw), &mut self.value);
        self.counts.messages += 1;
        self.counts.garbage += 1;
        *self.counts.garbage_by_code.entry(code).or_default() += 1;
    }

    fn telemetry(&self) -> Message<'_> {
        Message { stream: Stream::Telemetry, key: &self.key, value: Some(&self.value), due_ms: self.due_ms }
    }

    fn reference(&mut self, entry: Entry) -> Message<'_> {
        let (stream, present) = self.fleet.write(entry, &mut self.key, &mut self.value);
        Message { stream, key: &self.key, value: present.then_some(self.value.as_slice()), due_ms: self.due_ms }
    }
}

impl Timetable for Simulator {
    fn next_until(&mut self, until_ms: i64) -> Option<Message<'_>> {
        if self.references < self.fleet.len() {
            let entry = self.fleet.first(self.references);
            self.references += 1;
            self.counts.references += 1;
            return Some(self.reference(entry));
        }
        loop {
            if let Some(entry) = self.also.pop() {
                self.counts.changes += 1;
                return Some(self.reference(entry));
            }
            let (next, due_ms) = self.upcoming()?;
            if due_ms > until_ms {
                return None;
            }
            self.due_ms = self.due_ms.max(due_ms);
            match next {
                Upcoming::Held => {
                    let held = self.held.pop()?;
                    self.write(&held);
                    return Some(self.telemetry());
                }
                Upcoming::Change => {
                    self.changes += 1;
                    self.also = self.fleet.change();
                }
                Upcoming::Slot => {
                    if self.make(due_ms) {
                        return Some(self.telemetry());
                    }
                }
            }
        }
    }

    fn next_due_ms(&self) -> Option<i64> {
        if self.references < self.fleet.len() || !self.also.is_empty() {
            return Some(self.due_ms);
        }
        self.upcoming().map(|(_, due_ms)| due_ms)
    }

    fn is_paced(&self) -> bool {
        self.options.rate_per_s > 0.0
    }
}

fn check(options: &Options) -> Result<(), SourceError> {
    let refuse = |why: String| Err(SourceError::Configuration(format!("simulator.{why}")));
    if !(1..=VEHICLES_MAX).contains(&options.vehicles) {
        return refuse(format!("vehicles is {}, not 1…{VEHICLES_MAX}", options.vehicles));
    }
    if !(options.rate_per_s >= 0.0 && options.rate_per_s <= 10_000_000.0) {
        return refuse(format!("rate_per_s is {}, not 0…10,000,000", options.rate_per_s));
    }
    if !(options.changes_per_s >= 0.0 && options.changes_per_s <= 100_000.0) {
        return refuse(format!("changes_per_s is {}, not 0…100,000", options.changes_per_s));
    }
    if !(1..=86_400_000).contains(&options.interval_ms) {
        return refuse(format!("interval_ms is {}, not 1…86,400,000", options.interval_ms));
    }
    if !(1..=86_400_000).contains(&options.late_ms_max) {
        return refuse(format!("late_ms_max is {}, not 1…86,400,000", options.late_ms_max));
    }
    for (name, pct) in [
        ("late_pct", options.late_pct),
        ("duplicate_pct", options.duplicate_pct),
        ("garbage_pct", options.garbage_pct),
        ("out_of_order_pct", options.out_of_order_pct),
        ("lost_link_pct", options.lost_link_pct),
        ("wrong_clock_pct", options.wrong_clock_pct),
        ("stuck_pct", options.stuck_pct),
    ] {
        if !(0.0..=100.0).contains(&pct) {
            return refuse(format!("{name} is {pct}, not 0…100"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
