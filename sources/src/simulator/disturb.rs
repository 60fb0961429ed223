//! The faults of trackers and their links. What befalls a message follows from the seed and the message's number, so that
//! faults that are switched on leave the journeys as they were.

use std::cmp::Ordering;

use super::Options;
use super::random::{Random, falls_under, mix};
use super::vehicle::Measured;
use super::write;

/// Period within which a vehicle may lose its link once, in milliseconds.
const LINK_MS: i64 = 600_000;
/// Longest time between a message and its copy, in milliseconds.
const COPY_MS: u64 = 5_000;

/// How a good message goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    OnTime,
    Late,
    OutOfOrder,
    LostLink,
    Duplicate,
}

/// What befalls a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    OnTime,
    /// It is garbage.
    Garbage,
    /// It is kept back until then.
    Later(Kind, i64),
    /// It goes out now, and again then.
    Twice(i64),
}

/// A good message, perhaps kept back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) due_ms: i64,
    /// Order among those due at once.
    pub(super) order: u64,
    pub(super) kind: Kind,
    pub(super) index: u64,
    pub(super) ts: i64,
    pub(super) seq: u32,
    pub(super) wrong_clock: bool,
    pub(super) measured: Measured,
}

/// The one that is due first is the greatest, as the heap wants it.
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due_ms, other.order).cmp(&(self.due_ms, self.order))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}

/// What befalls the message that vehicle `index` makes at `now_ms`; `draw` is the message's own random number. The `first`
/// good one of a vehicle goes out at once: nobody can miss a vehicle that was never heard of.
pub(super) fn fate(options: &Options, index: u64, now_ms: i64, interval_ms: i64, draw: u64, first: bool) -> Fate {
    let mut random = Random::new(draw);
    if falls_under(random.next(), options.garbage_pct) {
        return Fate::Garbage;
    }
    if first {
        return Fate::OnTime;
    }
    if let Some(due_ms) = lost_until(options, index, now_ms) {
        return Fate::Later(Kind::LostLink, due_ms);
    }
    if falls_under(random.next(), options.late_pct) {
        return Fate::Later(Kind::Late, now_ms + 1 + random.below(options.late_ms_max) as i64);
    }
    if falls_under(random.next(), options.out_of_order_pct) {
        return Fate::Later(Kind::OutOfOrder, now_ms + interval_ms + interval_ms / 2 + 1);
    }
    if falls_under(random.next(), options.duplicate_pct) {
        return Fate::Twice(now_ms + 1 + random.below(COPY_MS) as i64);
    }
    Fate::OnTime
}

/// Until when the vehicle has no link, if it has none now.
fn lost_until(options: &Options, index: u64, now_ms: i64) -> Option<i64> {
    if options.lost_link_pct <= 0.0 {
        return None;
    }
    // Each vehicle has periods of its own, so that at any time about as many links are lost.
    let shift_ms = (mix(options.seed ^ mix(index)) % LINK_MS as u64) as i64;
    let period = (now_ms + shift_ms).div_euclid(LINK_MS);
    let mut random = Random::new(mix(options.seed ^ 0x11_4e) ^ mix(index << 32 ^ period as u64));
    if !falls_under(random.next(), options.lost_link_pct) {
        return None;
    }
    let from = period * LINK_MS - shift_ms + random.below(300_000) as i64;
    let until = from + 60_000 + random.below(180_000) as i64;
    (from..until).contains(&now_ms).then_some(until)
}

/// How wrong the clock of the vehicle's tracker is, in milliseconds.
pub(super) fn clock_ms(options: &Options, index: u64) -> i64 {
    if options.wrong_clock_pct <= 0.0 {
        return 0;
    }
    let mut random = Random::new(mix(options.seed ^ 0xc10c) ^ mix(index));
    if !falls_under(random.next(), options.wrong_clock_pct) {
        return 0;
    }
    match random.below(2) {
        0 => -(600_000 + random.below(21_000_000) as i64),
        _ => 10_000 + random.below(230_000) as i64,
    }
}

/// Writes a record that has to be refused; returns the code of the refusal.
pub(super) fn garbage(index: u64, ts: i64, seq: u32, m: &Measured, draw: u64, out: &mut Vec<u8>) -> &'static str {
    write::message(index, ts, None, seq, m, out);
    let replace = |out: &mut Vec<u8>, from: &str, to: &str| {
        let at = out.windows(from.len()).position(|part| part == from.as_bytes()).unwrap_or(0);
        out.splice(at..at + from.len(), to.bytes());
    };
    match draw % 8 {
        0 => {
            let end = 1 + (draw >> 8) as usize % (out.len() - 1);
            out.truncate(end); // half a packet
            "json_invalid"
        }
        1 => {
            out.clear();
            out.extend_from_slice(b"\x02$GPRMC,garbage,\x7f");
            "json_invalid"
        }
        2 => {
            replace(out, "\"lat\":", "\"lat\":912.5,\"x\":");
            "field_out_of_range"
        }
        3 => {
            replace(out, "\"satellites\":", "\"satellites\":\"many\",\"x\":");
            "field_type"
        }
        4 => {
            replace(out, "\"ts\":", "\"when\":");
            "field_missing"
        }
        5 => {
            replace(out, "\"seq\":", "\"seq\":1,\"seq\":");
            "json_duplicate_key"
        }
        6 => {
            replace(out, "sim-", "si?-");
            let at = out.iter().position(|byte| *byte == b'?').unwrap_or(0);
            out[at] = 0xff;
            "utf8_invalid"
        }
        _ => {
            out.clear();
            out.extend_from_slice(b"{\"device_id\":\"");
            super::reference::device_id(index, out);
            out.extend_from_slice(b"\",\"ts\":");
            write::whole(ts, out);
            out.extend_from_slice(b",\"lat\":0.0,\"lon\":0.0,\"satellites\":0}");
            "position_implausible"
        }
    }
}
