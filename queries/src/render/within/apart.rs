//! What becomes of events beside the pairs that they are in: those that have met none, and those that have.
//!
//! Invariant: events only come, so one that has met another has met it for ever. It is followed from its coming until no other
//! can meet it; what it has come to by then is final.

use datafusion::common::JoinType;
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;

use super::meeting::{Came, Happened, Pair};
use crate::plan::Join;
use crate::render::Fault;
use crate::render::map::flag;
use crate::render::outputs::Updates;
use crate::render::usage::Size;

/// What an event is known by while it is kept; equal events at one time are one.
pub type Serial = u64;

/// Of one event that has met none.
const UNMET: Size = Size { rows: 0, bytes: 24 };

/// The row that an event makes.
enum Frame {
    Itself,
    Before(Row),
    After(Row),
}

impl Frame {
    fn of(&self, event: &Row) -> Row {
        match self {
            Frame::Itself => event.clone(),
            Frame::Before(first) => first.and(event),
            Frame::After(then) => event.and(then),
        }
    }
}

/// What comes out of the events of one side; nothing where there is no frame.
struct Single {
    /// Of one that has met none.
    alone: Option<Frame>,
    /// Of one that has.
    met: Option<Frame>,
}

/// What becomes of events beside the pairs.
pub struct Apart {
    /// Of both sides; none where only the pairs matter.
    sides: [Option<Single>; 2],
    /// Whether pairs come out.
    pairs: bool,
    /// How often each event is there that has met none.
    unmet: HashMap<Serial, Diff, foldhash::fast::FixedState>,
    /// Those that no other can meet any more.
    ended: Vec<Serial>,
}

impl Apart {
    /// What the join asks for.
    ///
    /// # Errors
    /// A type that rows cannot have.
    pub fn of(join: &Join) -> Result<Self> {
        let nulls = [Codec::new(join.left.schema.clone())?.nulls()?, Codec::new(join.right.schema.clone())?.nulls()?];
        Self::between(join.kind, nulls)
    }

    /// The same; `nulls` stand for a left and for a right event that is not there.
    pub(super) fn between(kind: JoinType, nulls: [Row; 2]) -> Result<Self> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let [left_nulls, right_nulls] = nulls;
        let padded = |frame| Some(Single { alone: Some(frame), met: None });
        let single = match kind {
            LeftSemi | RightSemi => Some(Single { alone: None, met: Some(Frame::Itself) }),
            LeftAnti | RightAnti => padded(Frame::Itself),
            LeftMark | RightMark => {
                Some(Single { alone: Some(Frame::After(flag(false)?)), met: Some(Frame::After(flag(true)?)) })
            }
            Inner | Left | Right | Full => None,
        };
        let sides = match kind {
            Inner => [None, None],
            Left => [padded(Frame::After(right_nulls)), None],
            Right => [None, padded(Frame::Before(left_nulls))],
            Full => [padded(Frame::After(right_nulls)), padded(Frame::Before(left_nulls))],
            LeftSemi | LeftAnti | LeftMark => [single, None],
            RightSemi | RightAnti | RightMark => [None, single],
        };
        let pairs = matches!(kind, Inner | Left | Right | Full);
        Ok(Self { sides, pairs, unmet: HashMap::default(), ended: Vec::new() })
    }

    /// Whether events of this side come out by themselves.
    pub fn comes_alone(&self, side: usize) -> bool {
        self.sides[side].as_ref().is_some_and(|single| single.alone.is_some())
    }

    /// Whether it matters of this side's events what becomes of each.
    pub fn follows(&self, side: usize) -> bool {
        self.sides[side].is_some()
    }

    /// What is kept.
    pub fn size(&self) -> Size {
        UNMET * self.unmet.len() as Diff
    }

    /// An event comes for the first time.
    pub fn begin(&mut self, side: usize, serial: Serial) {
        if self.follows(side) {
            self.unmet.insert(serial, 0);
        }
    }

    /// No other event can meet it any more.
    pub fn end(&mut self, side: usize, serial: Serial) {
        if self.follows(side) {
            self.ended.push(serial);
        }
    }

    /// What has ended needs to be known no more: all that happened before has been [followed](Self::follow).
    pub fn settle(&mut self) {
        for serial in self.ended.drain(..) {
            self.unmet.remove(&serial);
        }
    }

    /// Two events near in time, of which the one that was there was there so often.
    pub fn pair(&self, events: [&Row; 2], serials: [Serial; 2], tick: Tick, times: Diff, pairs: &mut Vec<Pair>) {
        let followed = |side: usize| self.follows(side).then(|| (serials[side], events[side].clone()));
        let pair = || Pair { row: events[0].and(events[1]), tick, events: [followed(0), followed(1)] };
        if self.pairs {
            pairs.extend((0..times).map(|_| pair()));
        } else if (0..2).any(|side| self.follows(side) && self.unmet.contains_key(&serials[side])) {
            pairs.push(pair());
        }
    }

    /// What comes out of all that happened, and faults. Of pairs at these places, which ascend, the condition is true, or it
    /// could not be computed, and why.
    pub fn follow(&mut self, happened: &Happened, found: &[(u32, Option<&str>)]) -> (Updates, Updates) {
        let (mut out, mut faults) = (Vec::with_capacity(found.len() + happened.came.len()), Vec::new());
        let mut came = happened.came.iter().peekable();
        for (place, fault) in found {
            let place = *place as usize;
            while let Some(one) = came.next_if(|one| one.before <= place) {
                self.come(one, &mut out);
            }
            let Pair { row, tick, events } = &happened.pairs[place];
            if let Some(why) = fault {
                // Whether an event that has met one meets another is asked or not as the log was cut into batches.
                if self.pairs || events.iter().flatten().any(|(serial, _)| self.unmet.contains_key(serial)) {
                    faults.push((Fault::row("Meet", why), *tick, 1));
                }
                continue;
            }
            for (side, event) in events.iter().enumerate() {
                if let Some((serial, event)) = event {
                    self.meet(side, *serial, event, *tick, &mut out);
                }
            }
            if self.pairs {
                out.push((row.clone(), *tick, 1));
            }
        }
        came.for_each(|one| self.come(one, &mut out));
        (out, faults)
    }

    fn come(&mut self, Came { tick, side, serial, row, .. }: &Came, out: &mut Updates) {
        let Some(single) = &self.sides[*side] else { return };
        let unmet = serial.map(|serial| self.unmet.get_mut(&serial));
        let frame = match unmet {
            None => &single.alone,
            Some(Some(times)) => {
                *times += 1;
                &single.alone
            }
            Some(None) => &single.met,
        };
        out.extend(frame.iter().map(|frame| (frame.of(row), *tick, 1)));
    }

    fn meet(&mut self, side: usize, serial: Serial, event: &Row, tick: Tick, out: &mut Updates) {
        let (Some(single), Some(times)) = (&self.sides[side], self.unmet.remove(&serial)) else { return };
        out.extend(single.alone.iter().map(|frame| (frame.of(event), tick, -times)));
        out.extend(single.met.iter().map(|frame| (frame.of(event), tick, times)));
    }
}
