//! How one vehicle moves and what its tracker measures. Speed is the distance that was driven over the time that passed;
//! a vehicle without ignition stands.

use super::cities::CITIES;
use super::random::Random;
use super::roads::{Roads, heading_deg};

/// Most change of speed, in km/h per second.
const ACCELERATION_KMH_S: f64 = 4.0;
/// Kilometres before and behind a city within which traffic is slow.
const TOWN_KM: f64 = 7.0;
/// Per cent of the tank that a kilometre takes.
const FUEL_PCT_KM: f64 = 0.07;

/// What a vehicle does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Drives along its road.
    Driving,
    /// Stands with the engine on.
    Idle,
    /// Stands with the ignition off.
    Parked,
    /// Should drive but stands.
    Stuck,
}

/// A vehicle between two of its messages.
#[derive(Clone, Debug)]
pub(super) struct Vehicle {
    random: Random,
    odometer_km: f64,
    /// Kilometres driven on the road, from the end where it was entered.
    along_km: f64,
    /// When the phase ends, in milliseconds; for vehicles that stand.
    until_ms: i64,
    /// Time of the last step.
    last_ms: i64,
    speed_kmh: f32,
    cruise_kmh: f32,
    fuel_pct: f32,
    engine_c: f32,
    /// Messages made.
    pub(super) seq: u32,
    /// Whether one of them, not garbage, went out.
    pub(super) heard_of: bool,
    road: u16,
    /// The point of the road that lies behind the vehicle, counted in driving direction.
    point: u16,
    forward: bool,
    pub(super) phase: Phase,
}

/// What the tracker measures at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Measured {
    pub(super) lat: f64,
    pub(super) lon: f64,
    pub(super) speed_kmh: f64,
    pub(super) heading_deg: f64,
    pub(super) satellites: u32,
    pub(super) ignition: bool,
    pub(super) fuel_pct: f64,
    pub(super) engine_c: f64,
    pub(super) odometer_km: f64,
    pub(super) battery_v: f64,
}

impl Vehicle {
    /// A vehicle somewhere on the roads at `start_ms`, in the midst of what it does.
    pub(super) fn new(seed: u64, roads: &Roads, start_ms: i64, stuck: bool) -> Self {
        let mut random = Random::new(seed);
        let city = roads.cities[random.below(roads.cities.len() as u64) as usize];
        let at_city = &roads.at_city[usize::from(city)];
        let road = at_city[random.below(at_city.len() as u64) as usize];
        let forward = roads.roads[usize::from(road)].ends[0] == city;
        let phase = match random.below(100) {
            _ if stuck => Phase::Stuck,
            0..8 => Phase::Idle,
            8..22 => Phase::Parked,
            _ => Phase::Driving,
        };
        let standing = phase != Phase::Driving;
        let cruise_kmh = random.between(72.0, 96.0) as f32;
        Self {
            odometer_km: random.between(3_000.0, 600_000.0).floor(),
            along_km: random.unit() * roads.roads[usize::from(road)].km() * 0.98,
            until_ms: start_ms + random.below(20 * 60_000) as i64,
            last_ms: start_ms,
            speed_kmh: if standing { 0.0 } else { cruise_kmh },
            cruise_kmh,
            fuel_pct: random.between(20.0, 100.0) as f32,
            engine_c: if phase == Phase::Parked { 15.0 } else { 86.0 },
            seq: 0,
            heard_of: false,
            road,
            point: 0,
            forward,
            phase,
            random,
        }
    }

    /// Moves on to `now_ms` and measures.
    pub(super) fn step(&mut self, roads: &Roads, now_ms: i64) -> Measured {
        let seconds = (now_ms - self.last_ms).max(0) as f64 / 1_000.0;
        self.last_ms = now_ms;
        match self.phase {
            Phase::Driving => self.drive(roads, seconds, now_ms),
            Phase::Stuck => {}
            Phase::Idle | Phase::Parked if now_ms >= self.until_ms => {
                self.phase = Phase::Driving;
                if self.fuel_pct < 15.0 {
                    self.fuel_pct = 98.0;
                }
            }
            Phase::Idle | Phase::Parked => {}
        }
        let ignition = self.phase != Phase::Parked;
        let aim_c = if ignition { 88.0 } else { 12.0 };
        self.engine_c += (aim_c - self.engine_c) * (seconds / 400.0).min(1.0) as f32;
        if ignition {
            self.fuel_pct = (self.fuel_pct - (seconds * 0.000_15) as f32).max(0.5);
        }
        self.measure(roads, ignition)
    }

    fn drive(&mut self, roads: &Roads, seconds: f64, now_ms: i64) {
        let road = &roads.roads[usize::from(self.road)];
        let (length_km, before) = (road.km(), f64::from(self.speed_kmh));
        let left_km = length_km - self.along_km;
        let town = (left_km.min(self.along_km) / TOWN_KM).min(1.0);
        let aim_kmh = f64::from(self.cruise_kmh) * (0.4 + 0.6 * town) * self.random.between(0.94, 1.03);
        let most = ACCELERATION_KMH_S * seconds;
        let after = before + (aim_kmh - before).clamp(-most, most);
        let km = ((before + after) / 2.0 * seconds / 3_600.0).min(left_km);
        self.along_km += km;
        self.odometer_km += km;
        self.fuel_pct = (self.fuel_pct - (km * FUEL_PCT_KM) as f32).max(0.5);
        self.speed_kmh = after as f32;
        if self.along_km >= length_km {
            self.arrive(roads, now_ms);
        }
    }

    /// At the road's end: stop for a while or go on, by another road if there is one.
    fn arrive(&mut self, roads: &Roads, now_ms: i64) {
        let city = roads.roads[usize::from(self.road)].ends[usize::from(self.forward)];
        let others = &roads.at_city[usize::from(city)];
        let mut pick = others[self.random.below(others.len() as u64) as usize];
        if pick == self.road && others.len() > 1 {
            let place = others.iter().position(|road| *road == pick).unwrap_or(0);
            pick = others[(place + 1) % others.len()];
        }
        self.road = pick;
        self.forward = roads.roads[usize::from(pick)].ends[0] == city;
        (self.along_km, self.point) = (0.0, 0);
        let minutes = match self.random.below(100) {
            0..20 => {
                self.phase = Phase::Parked;
                self.random.between(5.0, 60.0)
            }
            20..50 => {
                self.phase = Phase::Idle;
                self.random.between(0.5, 6.0)
            }
            _ if self.fuel_pct < 15.0 => {
                self.phase = Phase::Idle;
                self.random.between(4.0, 9.0)
            }
            _ => return,
        };
        self.speed_kmh = 0.0;
        self.until_ms = now_ms + (minutes * 60_000.0) as i64;
    }

    fn measure(&mut self, roads: &Roads, ignition: bool) -> Measured {
        let road = &roads.roads[usize::from(self.road)];
        let last = road.points.len() - 1;
        // Points in driving direction: a road that is driven backwards is counted from its other end.
        let length_km = road.km();
        let point = |index: usize| {
            let mut point = road.points[if self.forward { index } else { last - index }];
            if !self.forward {
                point.at_km = length_km - point.at_km;
            }
            point
        };
        let mut index = usize::from(self.point).min(last - 1);
        while index + 1 < last && point(index + 1).at_km <= self.along_km {
            index += 1;
        }
        self.point = index as u16;
        let (from, to) = (point(index), point(index + 1));
        let part = ((self.along_km - from.at_km) / (to.at_km - from.at_km)).clamp(0.0, 1.0);
        let noise = self.random.next();
        Measured {
            lat: from.lat + (to.lat - from.lat) * part,
            lon: from.lon + (to.lon - from.lon) * part,
            speed_kmh: if self.phase == Phase::Driving { f64::from(self.speed_kmh) } else { 0.0 },
            heading_deg: heading_deg(from, to),
            satellites: 7 + (noise % 9) as u32,
            ignition,
            fuel_pct: f64::from(self.fuel_pct),
            engine_c: f64::from(self.engine_c),
            odometer_km: self.odometer_km,
            battery_v: (if ignition { 27.6 } else { 25.1 }) + (noise >> 8 & 7) as f64 / 20.0,
        }
    }

    /// Country in which the vehicle begins, for its plate and its company.
    pub(super) fn country(&self, roads: &Roads) -> &'static str {
        CITIES[usize::from(roads.roads[usize::from(self.road)].ends[usize::from(!self.forward)])].country
    }
}

#[cfg(test)]
mod tests {
    use super::super::roads::distance_km;
    use super::*;

    /// Over days of driving: positions change as far as speed and time say, the odometer agrees, values stay within
    /// their ranges, and every phase is seen.
    #[test]
    fn vehicles_move_as_they_say() {
        let roads = Roads::new(&[]).unwrap();
        let mut phases = std::collections::HashSet::new();
        for seed in 0..40 {
            let mut vehicle = Vehicle::new(seed, &roads, 0, false);
            let mut before = vehicle.step(&roads, 0);
            for second in 1..20_000 {
                let now = vehicle.step(&roads, second * 10_000);
                phases.insert(format!("{:?}", vehicle.phase));
                let km = distance_km(before.lat, before.lon, now.lat, now.lon);
                let driven = now.odometer_km - before.odometer_km;
                // A curve's chord is a little shorter than the curve.
                assert!((km - driven).abs() < 0.02, "moved {km} km, drove {driven} km: {before:?} {now:?}");
                let fastest = before.speed_kmh.max(now.speed_kmh).max(100.0) * 10.0 / 3_600.0;
                assert!(driven >= 0.0 && driven <= fastest);
                assert!((0.0..360.0).contains(&now.heading_deg) && (0.0..=100.0).contains(&now.fuel_pct));
                assert!((0.0..110.0).contains(&now.speed_kmh) && (0.0..95.0).contains(&now.engine_c));
                assert!(now.ignition || now.speed_kmh == 0.0);
                before = now;
            }
        }
        assert_eq!(phases.len(), 3, "{phases:?}");
    }

    #[test]
    fn stuck_vehicles_stay_with_the_engine_on() {
        let roads = Roads::new(&[]).unwrap();
        let mut vehicle = Vehicle::new(1, &roads, 0, true);
        let first = vehicle.step(&roads, 0);
        let last = vehicle.step(&roads, 3_600_000);
        assert_eq!((first.lat, first.lon, first.odometer_km), (last.lat, last.lon, last.odometer_km));
        assert!(last.ignition && last.speed_kmh == 0.0);
    }

    #[test]
    fn headings_point_where_vehicles_go() {
        let roads = Roads::new(&[]).unwrap();
        let mut checked = 0;
        for seed in 0..50 {
            let mut vehicle = Vehicle::new(seed, &roads, 0, false);
            let mut before = vehicle.step(&roads, 0);
            for second in 1..600 {
                let now = vehicle.step(&roads, second * 1_000);
                if now.heading_deg == before.heading_deg && now.speed_kmh > 30.0 {
                    let way = super::super::roads::Point { lat: before.lat, lon: before.lon, at_km: 0.0 };
                    let to = super::super::roads::Point { lat: now.lat, lon: now.lon, at_km: 0.0 };
                    let off = (heading_deg(way, to) - now.heading_deg).abs();
                    assert!(off.min(360.0 - off) < 1.0, "{before:?} {now:?}");
                    checked += 1;
                }
                before = now;
            }
        }
        assert!(checked > 5_000);
    }
}
