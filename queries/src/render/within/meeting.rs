//! Events of both sides that others can still meet.
//!
//! Invariant: an event that comes is brought together with all that are near it in time, and every two of them once.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use hashbrown::HashMap;
use operators::row::{Diff, Row};
use operators::time::{Tick, take_before, tick_after};

use super::apart::{Apart, Serial};
use crate::plan::Within;
use crate::render::usage::Size;

/// Key of the join, time of the event, and the event. Without a time it meets none.
pub type Timed = (Row, (Option<i64>, Row));

/// Of an event's place among those that leave.
const LEAVING: Size = Size { rows: 0, bytes: 56 };

/// What happened to the events of some ticks, in their order.
#[derive(Default)]
pub struct Happened {
    /// Two events near in time.
    pub pairs: Vec<Pair>,
    /// Events of sides whose events matter by themselves.
    pub came: Vec<Came>,
}

/// Two events near in time, for which the condition of the join may be true.
pub struct Pair {
    /// Left and right event, one after the other.
    pub row: Row,
    /// When the second of them came.
    pub tick: Tick,
    /// The events, of those sides whose events matter by themselves.
    pub events: [Option<(Serial, Row)>; 2],
}

/// An event that came.
pub struct Came {
    /// How many of the pairs were before it.
    pub before: usize,
    pub tick: Tick,
    /// Left or right.
    pub side: usize,
    /// None for one that meets no other.
    pub serial: Option<Serial>,
    pub row: Row,
}

/// How often an event is there, and what it is known by.
struct Kept {
    times: Diff,
    serial: Serial,
}

/// Of one side, by time.
type ByTime = BTreeMap<(i64, Row), Kept>;

/// Events of both sides that others can still meet.
pub struct Meeting {
    from_ms: i64,
    until_ms: i64,
    kept_ms: [i64; 2],
    /// By key and time, of the left and of the right side.
    kept: HashMap<Row, [ByTime; 2], foldhash::fast::FixedState>,
    /// What leaves at which tick.
    leaving: BTreeMap<Tick, Vec<(usize, (Row, (i64, Row)))>>,
    /// Of all that is kept.
    size: Size,
    /// Of the last event that was new.
    last: Serial,
    /// What becomes of events beside the pairs.
    pub apart: Apart,
}

impl Meeting {
    pub fn new(within: &Within, apart: Apart) -> Self {
        Self {
            from_ms: within.from_ms,
            until_ms: within.until_ms,
            kept_ms: within.kept_ms(),
            kept: HashMap::default(),
            leaving: BTreeMap::new(),
            size: Size::default(),
            last: 0,
            apart,
        }
    }

    /// What is kept.
    pub fn size(&self) -> Size {
        self.size + self.apart.size()
    }

    /// An event comes: the pairs that it makes with those that are there.
    pub fn meet(&mut self, tick: Tick, side: usize, (key, (time, row)): Timed, happened: &mut Happened) {
        let before = happened.pairs.len();
        let Some(time) = time else {
            happened.came.push(Came { before, tick, side, serial: None, row });
            return;
        };
        let sides = self.kept.entry(key.clone()).or_default();
        let event = (time, row);
        let serial = sides[side].get(&event).map_or_else(
            || {
                self.last += 1;
                self.apart.begin(side, self.last);
                self.last
            },
            |kept| kept.serial,
        );
        let row = &event.1;
        if self.apart.follows(side) {
            happened.came.push(Came { before, tick, side, serial: Some(serial), row: row.clone() });
        }
        // What of the other side is near, seen from this one.
        let (from, until) = match side {
            0 => (time.saturating_add(self.from_ms), time.saturating_add(self.until_ms)),
            _ => (time.saturating_sub(self.until_ms), time.saturating_sub(self.from_ms)),
        };
        let others = sides[1 - side].range((from, Row::default())..);
        for ((_, other), kept) in others.take_while(|((at, _), _)| *at <= until) {
            let (mut events, mut serials) = ([row, other], [serial, kept.serial]);
            if side == 1 {
                events.swap(0, 1);
                serials.swap(0, 1);
            }
            self.apart.pair(events, serials, tick, kept.times, &mut happened.pairs);
        }
        let leaves = tick_after(time, self.kept_ms[side]);
        if leaves > tick {
            let size = Size::of_pair(&key, row);
            self.size += LEAVING;
            match sides[side].entry(event.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Kept { times: 1, serial });
                    self.size += size;
                }
                Entry::Occupied(mut entry) => entry.get_mut().times += 1,
            }
            self.leaving.entry(leaves).or_default().push((side, (key, event)));
            return;
        }
        self.apart.end(side, serial);
        if sides.iter().all(BTreeMap::is_empty) {
            self.kept.remove(&key);
        }
    }

    /// Events that no other can meet any more leave.
    pub fn forget(&mut self, tick: Tick) {
        let left = take_before(&mut self.leaving, tick.saturating_add(1));
        for (side, (key, event)) in left.into_values().flatten() {
            let Some(sides) = self.kept.get_mut(&key) else { continue };
            let size = Size::of_pair(&key, &event.1);
            self.size -= LEAVING;
            if let Entry::Occupied(mut entry) = sides[side].entry(event) {
                entry.get_mut().times -= 1;
                if entry.get().times == 0 {
                    self.apart.end(side, entry.remove().serial);
                    self.size -= size;
                }
            }
            if sides.iter().all(BTreeMap::is_empty) {
                self.kept.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::common::JoinType;

    use super::*;

    fn meeting(kind: JoinType) -> Meeting {
        Meeting {
            from_ms: -50,
            until_ms: 10,
            kept_ms: [110, 150],
            kept: HashMap::default(),
            leaving: BTreeMap::new(),
            size: Size::default(),
            last: 0,
            apart: Apart::between(kind, [Row::new(b"left"), Row::new(b"right")]).expect("a kind of join"),
        }
    }

    /// Every pair is true. Tells how many there were.
    fn flow(meeting: &mut Meeting, times: std::ops::Range<u64>, sides: &[usize]) -> usize {
        let (key, mut pairs) = (Row::new(b"k"), 0);
        for time in times {
            let mut happened = Happened::default();
            meeting.forget(time);
            for side in sides {
                let row = Row::new(&[&time.to_be_bytes()[..], &[*side as u8]].concat());
                meeting.meet(time, *side, (key.clone(), (Some(time as i64), row)), &mut happened);
            }
            let all: Vec<_> = (0..happened.pairs.len() as u32).map(|place| (place, None)).collect();
            meeting.apart.follow(&happened, &all);
            meeting.apart.settle();
            pairs += all.len();
            let kept: usize = meeting.kept.values().flatten().map(BTreeMap::len).sum();
            assert!(kept <= 110 + 150, "{kept} events at {time}");
        }
        pairs
    }

    #[test]
    fn what_no_event_can_meet_any_more_is_not_kept() {
        for kind in [JoinType::Inner, JoinType::Full, JoinType::LeftAnti] {
            let mut meeting = meeting(kind);
            let pairs = flow(&mut meeting, 0..10_000, &[0, 1]);
            match kind {
                // A left event that has met one need not meet those that come after it.
                JoinType::LeftAnti => assert!(pairs < 520_000, "{pairs} pairs"),
                _ => assert!(pairs > 580_000, "{pairs} pairs"),
            }
            // None of these meets any.
            flow(&mut meeting, 20_000..30_000, &[0]);
            assert!(meeting.size().rows <= 110, "{:?}", meeting.size());
            meeting.forget(30_200);
            meeting.apart.settle();
            assert!(meeting.kept.is_empty() && meeting.leaving.is_empty());
            assert_eq!(meeting.size(), Size::default());
        }
    }
}
