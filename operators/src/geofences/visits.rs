//! A vehicle's way through fences, from its positions in the order of their times. Positions that come late change what was
//! found; how late they may be bounds what is kept of them.
//!
//! Invariant: what was found and can still change is what the positions that are kept give, on top of those before them.

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::rc::Rc;

use super::{Fence, Rules, Says};
use crate::row::Diff;
use crate::time::{Tick, tick_after};

/// A position, and what it says of fences by their ids. Those of the same time are ordered by their numbers, and then by what they
/// say.
#[derive(Clone, Debug)]
pub struct Position {
    /// When and where.
    pub at: At,
    /// The tick of its arrival: as of it the fences were asked.
    pub arrived: Tick,
    /// The fences that it is inside of or near.
    pub says: Box<[Says]>,
}

/// When and where.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct At {
    /// Device time in milliseconds.
    pub ts: i64,
    /// The device's counter.
    pub seq: i64,
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}

impl Position {
    fn order(&self, other: &Position) -> Ordering {
        let place = |one: &Position| (one.at.ts, one.at.seq, one.at.lat.to_bits(), one.at.lon.to_bits(), one.arrived);
        let says = |one: &Says, other: &Says| {
            let of = |says: &Says| (says.fence.company_id.clone(), says.fence.fence_id.clone(), says.inside);
            of(one).cmp(&of(other))
        };
        place(self).cmp(&place(other)).then_with(|| {
            let pairs = self.says.iter().zip(&other.says);
            let first = pairs.map(|(one, other)| says(one, other)).find(|order| order.is_ne());
            first.unwrap_or_else(|| self.says.len().cmp(&other.says.len()))
        })
    }
}

/// What a vehicle did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It came in.
    Enter,
    /// It has been in for long enough.
    Dwell,
    /// It went out.
    Leave,
    /// The fence is there no more.
    Removed,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Happened {
    /// What.
    pub what: What,
    /// The fence as it stood when the position arrived; of one that was left as it stood when the vehicle was last in it.
    pub fence: Rc<Fence>,
    /// With which position. A fence that goes does so at the tick, with the last position before.
    pub at: At,
    /// When the vehicle came in.
    pub entered_at: i64,
}

impl PartialEq for Happened {
    fn eq(&self, other: &Self) -> bool {
        let same = (self.what, self.at, self.entered_at) == (other.what, other.at, other.entered_at);
        same && Rc::ptr_eq(&self.fence, &other.fence)
    }
}

/// A fence that the vehicle is in.
#[derive(Clone, Debug)]
struct Visit {
    fence: Rc<Fence>,
    entered_at: i64,
    /// The last position that was not outside.
    last: At,
    dwells: bool,
}

impl Visit {
    fn tell(&self, what: What, at: At) -> Happened {
        Happened { what, fence: self.fence.clone(), at, entered_at: self.entered_at }
    }
}

/// Where the vehicle is, after a position.
#[derive(Clone, Debug, Default)]
struct Course(Vec<Visit>);

impl Course {
    fn take(&mut self, position: &Position, rules: &Rules, tell: &mut impl FnMut(Happened)) {
        let at = position.at;
        let same = |visit: &Visit, says: &Says| Rc::ptr_eq(&visit.fence.life, &says.fence.life);
        self.0.retain_mut(|visit| {
            let Some(says) = position.says.iter().find(|says| same(visit, says)) else {
                let left = visit.fence.was_there(position.arrived);
                if left {
                    tell(visit.tell(What::Leave, at));
                }
                return !left;
            };
            if !Rc::ptr_eq(&visit.fence, &says.fence) {
                visit.fence = says.fence.clone();
            }
            visit.last = at;
            if !visit.dwells && at.ts.saturating_sub(visit.entered_at) >= rules.dwell_ms {
                visit.dwells = true;
                tell(visit.tell(What::Dwell, at));
            }
            true
        });
        for says in position.says.iter().filter(|says| says.inside) {
            if !self.0.iter().any(|visit| same(visit, says)) {
                let visit = Visit { fence: says.fence.clone(), entered_at: at.ts, last: at, dwells: false };
                tell(visit.tell(What::Enter, at));
                self.0.push(visit);
            }
        }
    }
}

/// One vehicle. Positions that are later than the rules allow are not taken; of those before them only what they came to is kept,
/// and what happened leaves at the end of the retention.
#[derive(Debug, Default)]
pub struct Vehicle {
    /// After the positions that no other can come before.
    sealed: Course,
    /// The others, in their order.
    positions: VecDeque<Position>,
    /// After all.
    now: Course,
    /// What happened with the positions that are kept, in their order.
    recent: Vec<Happened>,
    /// What happened before, and nothing changes any more, by time.
    past: VecDeque<Happened>,
    /// Whether a position came that belongs between others since it was told what happened.
    is_stale: bool,
    /// How many fences the positions that are kept name.
    named: usize,
}

/// What happened that comes and goes.
pub type Changes = Vec<(Happened, Diff)>;

impl Vehicle {
    /// Takes a position in. Whether it was in time. What it changes is told at once, or by [`settle`](Self::settle).
    pub fn take(&mut self, position: Position, rules: &Rules, changes: &mut Changes) -> bool {
        if tick_after(position.at.ts, rules.late_ms) <= position.arrived {
            return false;
        }
        self.seal(position.arrived, rules);
        let place = match self.positions.back().map(|last| last.order(&position)) {
            None | Some(Ordering::Less) => self.positions.len(),
            _ => match self.positions.binary_search_by(|other| other.order(&position)) {
                // The same a second time says nothing new.
                Ok(_) => return true,
                Err(place) => place,
            },
        };
        self.named += position.says.len();
        if place < self.positions.len() {
            self.is_stale = true;
        }
        if !self.is_stale {
            self.now.take(&position, rules, &mut |happened| {
                changes.push((happened.clone(), 1));
                self.recent.push(happened);
            });
        }
        self.positions.insert(place, position);
        true
    }

    /// Tells what positions that came late have changed.
    pub fn settle(&mut self, rules: &Rules, changes: &mut Changes) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let mut found = Vec::with_capacity(self.recent.len() + 1);
        self.now = self.sealed.clone();
        self.positions.iter().for_each(|position| self.now.take(position, rules, &mut |happened| found.push(happened)));
        // Of a fence that is gone it was told when it went.
        self.now.0.retain(|visit| !visit.fence.is_gone());
        let same = self.recent.iter().zip(&found).take_while(|(old, new)| old == new).count();
        changes.extend(self.recent.drain(same..).map(|happened| (happened, -1)));
        changes.extend(found[same..].iter().map(|happened| (happened.clone(), 1)));
        self.recent.extend(found.drain(same..));
    }

    /// Fences have gone at this tick: whichever the vehicle was in, it is no more.
    pub fn leave_removed(&mut self, tick: Tick, changes: &mut Changes) {
        let mut left = Vec::new();
        self.now.0.retain(|visit| {
            if visit.fence.is_gone() {
                let at = At { ts: visit.last.ts.max(tick as i64), ..visit.last };
                left.push(visit.tell(What::Removed, at));
            }
            !visit.fence.is_gone()
        });
        for happened in left {
            changes.push((happened.clone(), 1));
            self.is_past(happened);
        }
    }

    fn is_past(&mut self, happened: Happened) {
        let place = self.past.partition_point(|other| other.at.ts <= happened.at.ts);
        self.past.insert(place, happened);
    }

    /// Of positions that nothing can come before any more only what they came to is kept.
    fn seal(&mut self, tick: Tick, rules: &Rules) {
        while let Some(first) = self.positions.front().filter(|first| tick_after(first.at.ts, rules.late_ms) <= tick) {
            let mut count = 0;
            self.sealed.take(first, rules, &mut |_| count += 1);
            self.named -= first.says.len();
            self.positions.pop_front();
            let past: Vec<Happened> = self.recent.drain(..count).collect();
            past.into_iter().for_each(|happened| self.is_past(happened));
        }
        // A visit to a fence that is gone is over, but as long as there are positions of that time they go on from it.
        let positions = &self.positions;
        self.sealed.0.retain(|visit| {
            let until = visit.fence.life.until.get();
            until.is_none_or(|until| positions.iter().any(|position| position.arrived < until))
        });
    }

    /// What happened so long ago that it leaves at this tick.
    pub fn forget(&mut self, tick: Tick, rules: &Rules, changes: &mut Changes) {
        self.seal(tick, rules);
        while let Some(first) = self.past.front().filter(|first| tick_after(first.at.ts, rules.retention_ms) <= tick) {
            changes.push((first.clone(), -1));
            self.past.pop_front();
        }
    }

    /// The tick at which something leaves next.
    #[must_use]
    pub fn due(&self, rules: &Rules) -> Option<Tick> {
        let (past, recent) = (self.past.front(), self.recent.first());
        let at = past.into_iter().chain(recent).map(|happened| happened.at.ts).min()?;
        Some(tick_after(at, rules.retention_ms))
    }

    /// How many positions and events are kept.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.positions.len() + self.recent.len() + self.past.len()
    }

    /// About what is kept of it in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let happened = (self.recent.len() + self.past.len()) * size_of::<Happened>();
        let visits = (self.sealed.0.len() + self.now.0.len()) * size_of::<Visit>();
        let positions = self.positions.len() * size_of::<Position>() + self.named * size_of::<Says>();
        size_of::<Vehicle>() + happened + visits + positions
    }
}
