//! Sessions of events: what is kept of a session are its aggregates, which are put together when sessions are.
//!
//! Invariant: no event is kept. One that is older than the retention when it comes is late, so a session that ended that
//! long ago, and the gap, can become no other: it leaves.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::{Array, AsArray, RecordBatch, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, TimestampMillisecondType};
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::Row;
use operators::time::{Tick, tick_after};

use super::Fault;
use super::accumulate::{Kept, State, Taken};
use super::alarms::Alarms;
use super::group::Out;
use super::reduce::size_of_out;
use super::reduce_events::Absorb;
use super::sessions::start_rows;
use super::top::GROUP;
use super::usage::Size;
use crate::plan::Aggregate;

pub(super) struct SessionEvents {
    kept: Vec<Kept>,
    gap_ms: i64,
    retention_ms: i64,
    keys: HashMap<Row, Key, foldhash::fast::FixedState>,
    /// Keys of which a session may leave at a tick.
    alarms: Alarms,
    size: Size,
}

/// The sessions of one key by their starts.
#[derive(Default)]
struct Key {
    sessions: BTreeMap<i64, Session>,
    /// Starts of those that have changed since their rows were put out.
    changed: BTreeSet<i64>,
    /// Rows of those that became part of others.
    gone: Vec<Row>,
    /// The earliest tick at which it is looked at.
    due: Option<Tick>,
}

struct Session {
    end: i64,
    states: Vec<State>,
    out: Option<Row>,
    fault: Option<String>,
    /// What it takes, the row that was put out included.
    size: Size,
}

/// The columns of a batch that sessions take.
pub(super) struct Columns {
    times: TimestampMillisecondArray,
    taken: Vec<Taken>,
}

impl SessionEvents {
    /// `values` are the columns after the keys: the time, and others that the aggregates take.
    pub(super) fn new(values: &[DataType], aggregates: &[Aggregate], gap_ms: i64, retention_ms: i64) -> Result<Self> {
        // Events only come, and a session grows or becomes part of another, so nothing is ever taken out of one.
        let kept = aggregates.iter().map(|aggregate| Kept::new(aggregate, values, true)).collect::<Result<_>>()?;
        Ok(Self {
            kept,
            gap_ms,
            retention_ms,
            keys: HashMap::default(),
            alarms: Alarms::default(),
            size: Size::default(),
        })
    }

    /// The tick at which a session that ended at this time leaves.
    fn leaves(&self, end: i64) -> Tick {
        tick_after(end.saturating_add(self.gap_ms), self.retention_ms)
    }

    /// Has the key looked at when the first of its sessions is to leave.
    fn watch(&mut self, key: &Row) {
        let earliest = self.keys[key].sessions.values().map(|session| session.end).min();
        let Some(tick) = earliest.map(|end| self.leaves(end)) else { return };
        let known = self.keys.get_mut(key).expect("just found");
        self.alarms.set(tick, key, &mut known.due);
    }

    /// Sessions of a key whose time is over leave.
    fn leave(&mut self, tick: Tick, key: &Row, out: &mut Out) {
        let Some(mut known) = self.keys.remove(key) else { return };
        let (over, open) = std::mem::take(&mut known.sessions)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(_, session)| self.leaves(session.end) <= tick);
        for session in over.into_values() {
            self.size -= session.size;
            out.replace(session.out.as_ref(), None);
            out.fault("Sessions", session.fault.as_deref(), None);
        }
        if !open.is_empty() {
            known.sessions = open;
            known.due = None;
            self.keys.insert(key.clone(), known);
            self.watch(key);
        }
    }

    /// Rows of the sessions of a key that have changed.
    fn put_out_key(&mut self, key: &Row, out: &mut Out) {
        let Some(known) = self.keys.get_mut(key) else { return };
        out.rows.extend(known.gone.drain(..).map(|row| (row, -1)));
        let starts: Vec<i64> = std::mem::take(&mut known.changed).into_iter().collect();
        let results: Vec<Vec<Result<Row>>> = self
            .kept
            .iter()
            .enumerate()
            .map(|(index, kept)| {
                let states: Vec<&State> = starts.iter().map(|start| &known.sessions[start].states[index]).collect();
                kept.results(&states).expect("columns of the plan")
            })
            .collect();
        for (at, (start, start_row)) in starts.iter().zip(start_rows(&starts)).enumerate() {
            let mut bytes = key.and(&start_row).bytes().to_vec();
            let mut fault = None;
            for result in &results {
                match &result[at] {
                    Ok(row) => bytes.extend_from_slice(row.bytes()),
                    Err(why) => fault = Some(why.strip_backtrace()),
                }
            }
            let new = fault.is_none().then(|| Row::new(&bytes));
            let session = known.sessions.get_mut(start).expect("just changed");
            out.replace(session.out.as_ref(), new.as_ref());
            out.fault("Sessions", session.fault.as_deref(), fault.as_deref());
            let more = size_of_out(new.as_ref()) + -size_of_out(session.out.as_ref());
            session.size += more;
            self.size += more;
            (session.out, session.fault) = (new, fault);
        }
    }
}

impl Key {
    /// Where a new session begins, or one that goes on, when there is an event at this time; what it touches becomes one. Also
    /// tells by what is kept more.
    fn join(&mut self, time: i64, gap_ms: i64, kept: &[Kept], out: &mut Out) -> (i64, Size) {
        let left = self.sessions.range(..=time).next_back().map(|(start, session)| (*start, session.end));
        let left = left.filter(|(_, end)| time.saturating_sub(*end) <= gap_ms).map(|(start, _)| start);
        let after = time.checked_add(1).and_then(|next| self.sessions.range(next..).next());
        let right = after.map(|(start, _)| *start).filter(|start| start.saturating_sub(time) <= gap_ms);
        let mut before = Size::default();
        let mut joined = left.and_then(|start| self.sessions.remove(&start)).inspect(|one| before += one.size);
        if let Some(mut other) = right.and_then(|start| self.sessions.remove(&start)) {
            before += other.size;
            other.size -= size_of_out(other.out.as_ref());
            self.changed.remove(&right.expect("just found"));
            self.gone.extend(other.out.take());
            out.fault("Sessions", other.fault.take().as_deref(), None);
            joined = Some(match joined {
                None => other,
                Some(session) => session.and(other, kept),
            });
        }
        let mut session = joined.unwrap_or_else(|| Session::empty(time, kept));
        session.end = session.end.max(time);
        let start = left.unwrap_or(time);
        let more = session.size + -before;
        self.sessions.insert(start, session);
        self.changed.insert(start);
        (start, more)
    }
}

impl Session {
    /// A session without events, which counts as a row itself.
    fn empty(time: i64, kept: &[Kept]) -> Session {
        let states: Vec<State> = kept.iter().map(Kept::empty).collect();
        let size = Size { rows: 1, bytes: size_of::<Session>() as i64 } + State::size() * states.len() as i64;
        Session { end: time, states, out: None, fault: None, size }
    }

    /// Both as one; the row that stands is this one's.
    fn and(mut self, other: Session, kept: &[Kept]) -> Session {
        for ((kept, state), more) in kept.iter().zip(&mut self.states).zip(other.states) {
            kept.merge(state, more);
        }
        self.end = self.end.max(other.end);
        // The best of both is one row, so of these a few bytes too many are counted until the session leaves.
        self.size += other.size + -Size { rows: 1, bytes: size_of::<Session>() as i64 };
        self.size -= State::size() * kept.len() as i64;
        self
    }
}

impl Absorb for SessionEvents {
    type Columns = Columns;

    fn columns(&self, values: &RecordBatch) -> Result<(Columns, Size)> {
        let taken = self.kept.iter().map(|kept| kept.take(values)).collect::<Result<Vec<_>>>()?;
        let size = taken.iter().fold(Size::default(), |sum, taken| sum + taken.size());
        Ok((Columns { times: values.column(0).as_primitive::<TimestampMillisecondType>().clone(), taken }, size))
    }

    fn due(&self) -> Option<Tick> {
        self.alarms.next()
    }

    fn end(&mut self, tick: Tick, out: &mut Out) {
        // Keys may be due again before this tick, when ticks were left out.
        while let Some(keys) = self.alarms.ring(tick) {
            keys.iter().for_each(|key| self.leave(tick, key, out));
        }
    }

    fn absorb(&mut self, tick: Tick, key: &[u8], columns: &Columns, row: usize, dirty: &mut Vec<Row>, out: &mut Out) {
        // An event without a time is in no session.
        if columns.times.is_null(row) {
            return;
        }
        let time = columns.times.value(row);
        if tick_after(time, self.retention_ms) <= tick {
            out.faults.push((Fault::row("Late", "the event is older than the retention"), 1));
            return;
        }
        if !self.keys.contains_key(key) {
            self.keys.insert(Row::new(key), Key::default());
        }
        let known = self.keys.get_mut(key).expect("just put there");
        let first = known.changed.is_empty() && known.gone.is_empty();
        let (start, mut more) = known.join(time, self.gap_ms, &self.kept, out);
        let session = known.sessions.get_mut(&start).expect("just joined");
        for (taken, state) in columns.taken.iter().zip(&mut session.states) {
            let by = taken.update(state, row, 1);
            session.size += by;
            more += by;
        }
        self.size += more;
        if first {
            dirty.push(Row::new(key));
        }
    }

    fn put_out(&mut self, _: Tick, dirty: &[Row], out: &mut Out) {
        for key in dirty {
            self.put_out_key(key, out);
            self.watch(key);
        }
    }

    fn size(&self) -> Size {
        self.size + GROUP * self.keys.len() as i64
    }
}
