//! Messages of the trackers: most are plain, some lack values, come late, come twice, or are garbage.

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::fleet::Sending;
use crate::restart::Dice;

/// Messages of a tracker that may be sent again.
const KEPT: usize = 3;
/// Every so many-th tracker falls silent for half of each period, in turns.
const SLEEPY: usize = 10;
const SLEEP_MS: u64 = 12_000;

/// The trackers.
pub struct Messages {
    trackers: Vec<Tracker>,
    turn: usize,
}

#[derive(Default)]
struct Tracker {
    seq: i64,
    kept: VecDeque<Vec<u8>>,
    odometer_m: i64,
}

fn name(number: usize) -> String {
    format!("d-{number}")
}

impl Messages {
    /// So many trackers, none of which has sent anything.
    pub fn new(devices: usize) -> Self {
        Self { trackers: (0..devices).map(|_| Tracker::default()).collect(), turn: 0 }
    }

    /// What the next tracker sends.
    pub fn next(&mut self, dice: &mut Dice, now_ms: u64, elapsed_ms: u64) -> Vec<Sending> {
        // A stride that meets every tracker, so that neighbours are not always together.
        self.turn = (self.turn + 1 + dice.below(3) as usize) % self.trackers.len();
        let number = self.turn;
        if number.is_multiple_of(SLEEPY) && (elapsed_ms / SLEEP_MS + (number / SLEEPY) as u64).is_multiple_of(2) {
            return Vec::new();
        }
        match dice.below(1_000) {
            0..10 => vec![garbage(dice, number, now_ms)],
            10..20 => self.again(dice, number),
            20..30 => {
                let late_ms = 1_000 + dice.below(300_000);
                vec![self.message(dice, number, now_ms - late_ms)]
            }
            // Twice at once, as a tracker does that did not hear the answer.
            30..35 => {
                let first = self.message(dice, number, now_ms);
                vec![Sending { key: first.key.clone(), value: first.value.clone(), ..first }, first]
            }
            _ => vec![self.message(dice, number, now_ms)],
        }
    }

    /// A last message of each tracker.
    pub fn last(&mut self, dice: &mut Dice, now_ms: u64) -> Vec<Sending> {
        (0..self.trackers.len()).map(|number| self.message(dice, number, now_ms)).collect()
    }

    fn again(&self, dice: &mut Dice, number: usize) -> Vec<Sending> {
        let kept = &self.trackers[number].kept;
        let value = kept.get(dice.below(kept.len() as u64) as usize).cloned();
        let key = Some(name(number).into_bytes());
        value.map(|value| Sending { stream: "telemetry", key, value: Some(value) }).into_iter().collect()
    }

    fn message(&mut self, dice: &mut Dice, number: usize, ts: u64) -> Sending {
        let tracker = &mut self.trackers[number];
        tracker.seq += 1;
        tracker.odometer_m += dice.below(400) as i64;
        let mut message = json!({"device_id": name(number), "ts": ts, "seq": tracker.seq});
        let thousandths = |dice: &mut Dice, most: u64| dice.below(most * 1_000) as f64 / 1_000.0;
        let mut set = |dice: &mut Dice, name: &str, per_cent: u64, value: Value| {
            if dice.below(100) < per_cent {
                message[name] = value;
            }
        };
        if dice.below(100) < 95 {
            let at = (47.0 + thousandths(dice, 5), 5.0 + thousandths(dice, 9));
            set(dice, "lat", 100, json!(at.0));
            set(dice, "lon", 100, json!(at.1));
        }
        let speed = if dice.below(4) == 0 { 0.0 } else { thousandths(dice, 130) };
        set(dice, "speed_kmh", 90, json!(speed));
        let heading = dice.below(361);
        set(dice, "heading_deg", 80, json!(heading));
        let ignition = dice.below(4) != 0;
        set(dice, "ignition", 70, json!(ignition));
        let satellites = dice.below(24);
        set(dice, "satellites", 60, json!(satellites));
        let fuel = thousandths(dice, 100);
        set(dice, "fuel_level_pct", 30, json!(fuel));
        set(dice, "odometer_km", 40, json!(tracker.odometer_m as f64 / 1_000.0));
        let battery = thousandths(dice, 15);
        set(dice, "battery_v", 20, json!(battery));
        let altitude = thousandths(dice, 2_000) - 100.0;
        set(dice, "altitude_m", 20, json!(altitude));
        set(dice, "engine_temp_c", 20, json!(90 - (heading as i64) / 4));
        set(dice, "hdop", 20, json!(0.7));
        set(dice, "server_time", 30, json!(ts + 5));
        set(dice, "events", 5, json!(["door", {"code": heading}]));
        set(dice, "attributes", 5, json!({"di1": ignition, "label": "à \"quoted\" one"}));
        let value = message.to_string().into_bytes();
        tracker.kept.truncate(KEPT - 1);
        tracker.kept.push_front(value.clone());
        Sending { stream: "telemetry", key: Some(name(number).into_bytes()), value: Some(value) }
    }
}

/// A record with one fault.
fn garbage(dice: &mut Dice, number: usize, now_ms: u64) -> Sending {
    let device = name(number);
    let good = json!({"device_id": device, "ts": now_ms, "seq": 1_000_000, "lat": 47.5, "lon": 8.5});
    let with = |name: &str, value: Value| {
        let mut bad = good.clone();
        bad[name] = value;
        bad.to_string()
    };
    let mut key = Some(device.clone().into_bytes());
    let value = match dice.below(16) {
        0 => "{\"device_id\":".to_owned(),
        1 => with("ts", json!("now")),
        2 => with("lat", json!(91)),
        3 => with("speed_kmh", json!(-1)),
        4 => with("device_id", json!("d d")),
        5 => with("ts", json!(now_ms + 2 * 86_400_000)),
        6 => with("device_id", json!("d-of-another")),
        7 => with("lon", Value::Null),
        8 => format!("{{\"device_id\":\"{device}\",\"ts\":{now_ms},\"seq\":1,\"seq\":2}}"),
        9 => format!("{{\"device_id\":\"{device}\",\"ts\":{now_ms},\"hdop\":NaN}}"),
        10 => format!("{{\"device_id\":\"{device}\",\"ts\":{now_ms},\"x\":{}1{}}}", "[".repeat(70), "]".repeat(70)),
        11 => format!("[{good}]"),
        12 => {
            key = None;
            good.to_string()
        }
        13 => format!("{{\"device_id\":\"{device}\"}}"),
        14 => return Sending { stream: "telemetry", key, value: None },
        _ => return Sending { stream: "telemetry", key, value: Some(vec![0xFF, 0xFE, b'{', b'}']) },
    };
    Sending { stream: "telemetry", key, value: Some(value.into_bytes()) }
}
