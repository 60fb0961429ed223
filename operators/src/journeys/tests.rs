//! Stops and trips against the definition read out plainly, with fixes in any order and late ones.

use super::*;
use crate::random::Random;

const RULES: Rules = Rules { speed_kmh: 5.0, radius_m: 100.0, lasting_ms: 300 };
const RETENTION_MS: i64 = 2_000;

fn fix(ts: i64, metres_north: f64, speed_kmh: Option<f64>) -> Fix {
    Fix { ts, seq: 0, lat: 50.0 + metres_north / 111_195.0, lon: 8.0, speed_kmh }
}

fn slow(fix: &Fix) -> bool {
    fix.speed_kmh.is_none_or(|speed| speed < RULES.speed_kmh)
}

fn way(fixes: &[Fix], after_a_stop: bool, over: bool) -> Trip {
    let speeds = fixes[usize::from(after_a_stop)..].iter().filter_map(|fix| fix.speed_kmh);
    Trip {
        from: fixes[0],
        to: fixes[fixes.len() - 1],
        distance_m: fixes.windows(2).map(|pair| distance_m(&pair[0], &pair[1])).fold(0.0, |all, one| all + one),
        top_speed_kmh: speeds.fold(None, |top: Option<f64>, speed| Some(top.map_or(speed, |top| top.max(speed)))),
        fixes: fixes.len() as i64,
        over,
    }
}

/// The definition: rests from the first fix on, the stops among them, and what lies between.
fn plainly(fixes: &[Fix]) -> Found {
    let (mut found, mut at, mut since, mut stopped) = (Found::default(), 0, 0, false);
    while at < fixes.len() {
        let mut end = at;
        let near = |next: &Fix| slow(next) && distance_m(&fixes[at], next) <= RULES.radius_m;
        while slow(&fixes[at]) && fixes.get(end + 1).is_some_and(near) {
            end += 1;
        }
        if slow(&fixes[at]) && fixes[end].ts - fixes[at].ts >= RULES.lasting_ms {
            if at > since {
                found.trips.push(way(&fixes[since..=at], stopped, true));
            }
            let (first, ended_at) = (fixes[at], fixes[end].ts);
            let over = end + 1 < fixes.len();
            found.stops.push(Stop { first, ended_at, fixes: (end - at + 1) as i64, over });
            (since, stopped) = (end, true);
        }
        at = end + 1;
    }
    if since + 1 < fixes.len() {
        found.trips.push(way(&fixes[since..], stopped, false));
    }
    found
}

impl Random {
    /// Fixes of a vehicle that drives and stands by turns.
    fn story(&mut self, count: usize) -> Vec<Fix> {
        let (mut ts, mut north, mut moving) = (10_000, 0.0, false);
        (0..count)
            .map(|seq| {
                if self.below(7) == 0 {
                    moving = !moving;
                }
                ts += self.below(120) as i64;
                north += if moving { self.below(200) as f64 } else { self.below(30) as f64 - 15.0 };
                let speed = if moving { 5 + self.below(90) } else { self.below(6) } as f64;
                Fix { seq: seq as i64, ..fix(ts, north, (self.below(12) > 0).then_some(speed)) }
            })
            .collect()
    }
}

#[test]
fn a_day_of_a_vehicle() {
    let fixes: BTreeSet<Fix> = [
        fix(0, 0.0, Some(0.0)),
        fix(400, 20.0, Some(1.0)),
        fix(500, 500.0, Some(50.0)),
        fix(600, 1_000.0, Some(30.0)),
        fix(700, 1_300.0, Some(0.0)),
        fix(800, 1_310.0, None),
        fix(1_000, 1_320.0, Some(2.0)),
    ]
    .into();
    let found = of(&fixes, &RULES);
    let stops: Vec<_> = found.stops.iter().map(|stop| (stop.first.ts, stop.ended_at, stop.fixes, stop.over)).collect();
    assert_eq!(stops, [(0, 400, 2, true), (700, 1_000, 3, false)]);
    let [trip] = found.trips.as_slice() else { panic!("{:?}", found.trips) };
    assert_eq!((trip.from.ts, trip.to.ts, trip.fixes, trip.over, trip.top_speed_kmh), (400, 700, 4, true, Some(50.0)));
    assert!((trip.distance_m - 1_280.0).abs() < 1.0, "{}", trip.distance_m);
}

#[test]
fn in_any_order_the_definition_holds() {
    let mut late = 0;
    for seed in 1..400 {
        let mut random = Random(seed * 0x9E37_79B9);
        let fixes = random.story(60);
        let (mut vehicle, mut taken) = (Vehicle::default(), BTreeSet::new());
        for at in 0..fixes.len() {
            let tick = fixes[at].ts as Tick;
            // Now and then one that was left out before, or was there already.
            let other = (random.below(3) == 0).then(|| fixes[random.below(at as u64 + 1) as usize]);
            let own = (random.below(4) > 0).then_some(fixes[at]);
            vehicle.seal(tick, RETENTION_MS, &RULES);
            for fix in other.into_iter().chain(own) {
                let in_time = fix.ts + RETENTION_MS > tick as i64;
                assert_eq!(vehicle.take(fix, tick, RETENTION_MS, &RULES), in_time);
                late += i32::from(!in_time);
                taken.extend(in_time.then_some(fix));
            }
            let mut wanted = plainly(&taken.iter().copied().collect::<Vec<_>>());
            wanted.stops.retain(|stop| stop.ended_at + RETENTION_MS > tick as i64);
            wanted.trips.retain(|trip| trip.to.ts + RETENTION_MS > tick as i64);
            assert_eq!(vehicle.found(tick, RETENTION_MS), wanted, "seed {seed} at {tick}");
            assert!(vehicle.fixes.iter().all(|fix| fix.ts + RETENTION_MS > tick as i64), "kept for too long");
        }
    }
    assert!(late > 100, "{late} are late");
}
