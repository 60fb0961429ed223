//! Stops and trips of a vehicle, from its fixes in the order of their device times. Fixes that come late change what was
//! found; how late they may be bounds what is kept of a vehicle.
//!
//! A vehicle *rests* from a slow fix on, while the fixes that follow are slow and not further from the first than the
//! radius. A rest that lasts long enough is a stop. What is between two stops is a trip, from the last fix of the one to the
//! first of the other.
//!
//! Invariant: what is found depends on the fixes that were taken and not on the order in which they came.

use std::collections::BTreeSet;

use crate::distance::distance_km;
use crate::time::{Tick, tick_after};

/// When a vehicle stands, and for how long it has to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Slower than this is slow.
    pub speed_kmh: f64,
    /// How far from its first fix a rest reaches.
    pub radius_m: f64,
    /// From which time on a rest is a stop.
    pub lasting_ms: i64,
}

/// A position of a vehicle. Those of the same time are ordered by their numbers, and then by what they say.
#[derive(Clone, Copy, Debug)]
pub struct Fix {
    /// Device time in milliseconds.
    pub ts: i64,
    /// The device's counter.
    pub seq: i64,
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
    /// Kilometres per hour; a fix without a speed is slow if it is near.
    pub speed_kmh: Option<f64>,
}

impl Fix {
    fn place(&self) -> (i64, i64, [u64; 4]) {
        let speed = self.speed_kmh.map_or([0, 0], |speed| [1, speed.to_bits()]);
        (self.ts, self.seq, [self.lat.to_bits(), self.lon.to_bits(), speed[0], speed[1]])
    }
}

impl PartialEq for Fix {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Fix {}

impl PartialOrd for Fix {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fix {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.place().cmp(&other.place())
    }
}

/// A vehicle stood.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stop {
    /// Its first fix.
    pub first: Fix,
    /// Time of its last fix.
    pub ended_at: i64,
    /// Fixes in it.
    pub fixes: i64,
    /// Whether the vehicle has left.
    pub over: bool,
}

/// A vehicle moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trip {
    /// The last fix of the stop before, or the first of all.
    pub from: Fix,
    /// The first fix of the stop after, or the last so far.
    pub to: Fix,
    /// Sum of the distances between its fixes.
    pub distance_m: f64,
    /// The greatest speed of its fixes, if any had one.
    pub top_speed_kmh: Option<f64>,
    /// Fixes in it, with the first and the last.
    pub fixes: i64,
    /// Whether the vehicle has stopped.
    pub over: bool,
}

/// Metres between two positions.
fn distance_m(from: &Fix, to: &Fix) -> f64 {
    distance_km([from.lat, from.lon], [to.lat, to.lon]) * 1_000.0
}

impl Trip {
    fn begin(fix: Fix) -> Trip {
        Trip { from: fix, to: fix, distance_m: 0.0, top_speed_kmh: fix.speed_kmh, fixes: 1, over: false }
    }

    fn go_on(&mut self, fix: Fix) {
        self.distance_m += distance_m(&self.to, &fix);
        self.top_speed_kmh = match (self.top_speed_kmh, fix.speed_kmh) {
            (Some(top), Some(speed)) => Some(top.max(speed)),
            (top, speed) => top.or(speed),
        };
        self.fixes += 1;
        self.to = fix;
    }
}

/// What the vehicle did, up to a fix.
#[derive(Clone, Debug, Default)]
struct Course {
    /// The way since the last stop, as if the rest that goes on were none.
    trip: Option<Trip>,
    rest: Option<Rest>,
    stops: Vec<Stop>,
    trips: Vec<Trip>,
}

/// A rest that goes on.
#[derive(Clone, Copy, Debug)]
struct Rest {
    first: Fix,
    last: Fix,
    fixes: i64,
    /// The way up to its first fix.
    before: Trip,
    /// Whether it has become a stop.
    is_stop: bool,
}

impl Course {
    fn take(&mut self, fix: Fix, rules: &Rules) {
        let mut trip = self.trip.unwrap_or_else(|| Trip::begin(fix));
        if self.trip.is_some() {
            trip.go_on(fix);
        }
        let slow = fix.speed_kmh.is_none_or(|speed| speed < rules.speed_kmh);
        let rest = self.rest.filter(|rest| slow && distance_m(&rest.first, &fix) <= rules.radius_m);
        if rest.is_none() {
            trip = self.leave(trip, fix);
        }
        let rest = rest.map(|rest| Rest { last: fix, fixes: rest.fixes + 1, ..rest });
        let begins = || Rest { first: fix, last: fix, fixes: 1, before: trip, is_stop: false };
        self.trip = Some(trip);
        self.rest = rest.or_else(|| slow.then(begins));
        if let Some(rest) = &mut self.rest {
            let lasts = rest.last.ts.saturating_sub(rest.first.ts) >= rules.lasting_ms;
            if lasts && !rest.is_stop {
                rest.is_stop = true;
                // The very first fixes may be a stop to which no way has led.
                self.trips.extend((rest.before.fixes > 1).then_some(Trip { over: true, ..rest.before }));
            }
        }
    }

    /// The rest, if there is one, is over with this fix; the way that goes on.
    fn leave(&mut self, trip: Trip, fix: Fix) -> Trip {
        let Some(rest) = self.rest.take().filter(|rest| rest.is_stop) else { return trip };
        self.stops.push(Stop { over: true, ..rest.stop() });
        let mut trip = Trip::begin(rest.last);
        // The speed at which the vehicle stood is not one of the trip.
        trip.top_speed_kmh = None;
        trip.go_on(fix);
        trip
    }

    /// The stop or the trip that goes on.
    fn open(&self) -> (Option<Stop>, Option<Trip>) {
        match self.rest.filter(|rest| rest.is_stop) {
            Some(rest) => (Some(rest.stop()), None),
            None => (None, self.trip.filter(|trip| trip.fixes > 1)),
        }
    }

    fn found(&self) -> Found {
        let (stop, trip) = self.open();
        let (mut stops, mut trips) = (self.stops.clone(), self.trips.clone());
        stops.extend(stop);
        trips.extend(trip);
        Found { stops, trips }
    }
}

impl Rest {
    fn stop(&self) -> Stop {
        Stop { first: self.first, ended_at: self.last.ts, fixes: self.fixes, over: false }
    }
}

/// Stops and trips in the order of their times.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Stops.
    pub stops: Vec<Stop>,
    /// Trips.
    pub trips: Vec<Trip>,
}

/// The stops and trips of these fixes.
#[must_use]
pub fn of(fixes: &BTreeSet<Fix>, rules: &Rules) -> Found {
    let mut course = Course::default();
    fixes.iter().for_each(|fix| course.take(*fix, rules));
    course.found()
}

/// One vehicle. Fixes that are older than the retention are late and not taken; of those before them only what they came to
/// is kept, and a stop or trip leaves when it ended that long ago.
#[derive(Clone, Debug, Default)]
pub struct Vehicle {
    /// After the fixes that no other can come before.
    sealed: Course,
    /// The others.
    fixes: BTreeSet<Fix>,
    /// After all.
    now: Course,
}

impl Vehicle {
    /// Takes a fix in. Whether it was in time; `tick` and `retention_ms` say what is late.
    pub fn take(&mut self, fix: Fix, tick: Tick, retention_ms: i64, rules: &Rules) -> bool {
        if tick_after(fix.ts, retention_ms) <= tick {
            return false;
        }
        let is_last = self.fixes.last().is_none_or(|last| *last < fix);
        if self.fixes.insert(fix) {
            match is_last {
                true => self.now.take(fix, rules),
                false => self.anew(rules),
            }
        }
        true
    }

    fn anew(&mut self, rules: &Rules) {
        self.now = self.sealed.clone();
        for fix in &self.fixes {
            self.now.take(*fix, rules);
        }
    }

    /// What nothing can change any more at this tick is kept as its result, or leaves.
    pub fn seal(&mut self, tick: Tick, retention_ms: i64, rules: &Rules) {
        let over = |ts: i64| tick_after(ts, retention_ms) <= tick;
        while let Some(first) = self.fixes.first().copied().filter(|first| over(first.ts)) {
            self.fixes.pop_first();
            self.sealed.take(first, rules);
        }
        for course in [&mut self.sealed, &mut self.now] {
            course.stops.retain(|stop| !over(stop.ended_at));
            course.trips.retain(|trip| !over(trip.to.ts));
        }
    }

    /// What it did: stops and trips that ended within the retention.
    #[must_use]
    pub fn found(&self, tick: Tick, retention_ms: i64) -> Found {
        let over = |ts: i64| tick_after(ts, retention_ms) <= tick;
        let mut found = self.now.found();
        found.stops.retain(|stop| !over(stop.ended_at));
        found.trips.retain(|trip| !over(trip.to.ts));
        found
    }

    /// How many fixes are kept.
    #[must_use]
    pub fn fixes(&self) -> usize {
        self.fixes.len()
    }

    /// The tick at which something is to be sealed next.
    #[must_use]
    pub fn due(&self, retention_ms: i64) -> Option<Tick> {
        let first = self.fixes.first().map(|fix| fix.ts);
        let found = self.now.stops.iter().map(|stop| stop.ended_at).chain(self.now.trips.iter().map(|trip| trip.to.ts));
        let at = first.into_iter().chain(found).min()?;
        Some(tick_after(at, retention_ms))
    }
}

#[cfg(test)]
mod tests;
