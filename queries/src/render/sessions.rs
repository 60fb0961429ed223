//! Sessions of the rows of a table: each row gets the start of its session, and moves when that becomes another.
//!
//! Invariant: a change costs the rows that move from one session to another; a row at the end of a session moves none.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included};
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, TimestampMillisecondArray};
use datafusion::arrow::datatypes::TimestampMillisecondType;
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row, count};
use operators::time::Tick;

use super::group::{Groups, Out, by_key};
use super::reduce::Reduce;
use super::reduce_events::reduce_events;
use super::session_events::SessionEvents;
use super::top::GROUP;
use super::usage::Size;
use super::{Builder, Rendered, Table, map};
use crate::plan::{Aggregate, Node, Retention, canonical, now_type, types};

impl<'s> Builder<'s> {
    pub(super) fn sessions(
        &mut self,
        input: &Arc<Node>,
        keys: usize,
        gap_ms: i64,
        aggregates: &[Aggregate],
        retention: Option<Retention>,
    ) -> Result<Table<'s>> {
        let kinds = types(&input.schema);
        if let (Rendered::Events(events), Some(retention)) = (self.render(input)?, retention) {
            let codec = Codec::new(canonical(&kinds[..keys]))?;
            let sessions = SessionEvents::new(&kinds[keys..], aggregates, gap_ms, retention.ms)?;
            let (table, faults) = reduce_events(events, "SessionEvents", codec, sessions, self.usage.gauge("Sessions"));
            self.faults.push(faults);
            return Ok(table);
        }
        let (keyed, faults) = map::split(self.table(input)?, &input.schema, keys)?;
        self.faults.push(faults);
        let begun = self.group(keyed, "Sessions", Starts::new(&kinds[keys..], gap_ms)?);
        let mut all = kinds[..keys].to_vec();
        all.push(now_type());
        all.extend_from_slice(&kinds[keys..]);
        let (keyed, faults) = map::split(begun, &canonical(&all), keys + 1)?;
        self.faults.push(faults);
        Ok(self.group(keyed, "SessionReduce", Reduce::new(&kinds[keys..], aggregates, false)?))
    }
}

/// Starts of sessions as rows of one column.
pub(super) fn start_rows(starts: &[i64]) -> Vec<Row> {
    let codec = Codec::new(canonical(&[now_type()])).expect("a time has a row format");
    let column: ArrayRef = Arc::new(TimestampMillisecondArray::from(starts.to_vec()));
    codec.encode(&[column], starts.len()).expect("the column of the codec")
}

/// Puts the start of the session between the key and the other columns, of which the first is the time.
struct Starts {
    values: Codec,
    gap_ms: i64,
    groups: HashMap<Row, Group, foldhash::fast::FixedState>,
    size: Size,
}

impl Starts {
    fn new(values: &[datafusion::arrow::datatypes::DataType], gap_ms: i64) -> Result<Self> {
        Ok(Self { values: Codec::new(canonical(values))?, gap_ms, groups: HashMap::default(), size: Size::default() })
    }
}

impl Groups for Starts {
    fn change(&mut self, _: Tick, changes: &[((Row, Row), Diff)], out: &mut Out) {
        let batch = self.values.decode(changes.iter().map(|((_, row), _)| row)).expect("rows of the plan");
        let times = (batch.num_rows() > 0).then(|| batch.column(0).as_primitive::<TimestampMillisecondType>().clone());
        let mut at = 0;
        for run in by_key(changes) {
            let times = times.as_ref().map(|times| times.slice(at, run.len()));
            at += run.len();
            let key = &run[0].0.0;
            // A row without a time is in no session.
            let changed: BTreeMap<(i64, Row), Diff> = times
                .iter()
                .flat_map(TimestampMillisecondArray::iter)
                .zip(run)
                .filter_map(|(time, ((_, row), diff))| Some(((time?, row.clone()), *diff)))
                .collect();
            let group = self.groups.entry_ref(key).or_default();
            let (moves, more) = group.change(&changed, self.gap_ms);
            self.size += more;
            let starts: Vec<i64> = moves.iter().map(|(start, ..)| *start).collect();
            let rows = moves.iter().zip(start_rows(&starts));
            out.rows.extend(rows.map(|((_, row, diff), start)| (key.and(&start).and(row), *diff)));
            if group.rows.is_empty() {
                self.groups.remove(key);
            }
        }
    }

    fn size(&self) -> Size {
        self.size + GROUP * self.groups.len() as Diff
    }
}

/// The rows of one key, and its sessions.
#[derive(Default)]
struct Group {
    rows: BTreeMap<(i64, Row), Diff>,
    sessions: Sessions,
}

/// First and last time of each session. Between two of them is more than the gap.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sessions(BTreeMap<i64, i64>);

impl Sessions {
    /// The session that a time is in.
    fn of(&self, time: i64) -> Option<(i64, i64)> {
        let (start, end) = self.0.range(..=time).next_back()?;
        (*end >= time).then_some((*start, *end))
    }
}

/// Sessions that are there no more, and starts of those that are new, since the tick began.
#[derive(Default)]
struct Edited {
    old: Sessions,
    new: BTreeSet<i64>,
}

impl Group {
    /// Rows with the starts of their sessions that come and go, and by what is kept more.
    fn change(&mut self, changed: &BTreeMap<(i64, Row), Diff>, gap_ms: i64) -> (Vec<(i64, Row, Diff)>, Size) {
        let (mut edited, mut more) = (Edited::default(), Size::default());
        for ((time, row), diff) in changed {
            let was = self.has(*time);
            more += Size::of(row) * count(&mut self.rows, (*time, row.clone()), *diff);
            match (was, self.has(*time)) {
                (false, true) => self.begin(*time, gap_ms, &mut edited),
                (true, false) => self.end(*time, gap_ms, &mut edited),
                _ => {}
            }
        }
        (self.moves(changed, &edited), more)
    }

    fn has(&self, time: i64) -> bool {
        self.first(time).is_some_and(|first| first == time)
    }

    /// The first time with a row from this one on.
    fn first(&self, from: i64) -> Option<i64> {
        self.rows.range((from, Row::default())..).next().map(|((time, _), _)| *time)
    }

    /// The last time with a row before this one.
    fn last(&self, before: i64) -> Option<i64> {
        self.rows.range(..(before, Row::default())).next_back().map(|((time, _), _)| *time)
    }

    /// There are rows at a time at which there were none.
    fn begin(&mut self, time: i64, gap_ms: i64, edited: &mut Edited) {
        let sessions = &self.sessions.0;
        let left = sessions.range(..=time).next_back().map(|(start, end)| (*start, *end));
        let right = sessions.range(time..).next().map(|(start, end)| (*start, *end));
        let left = left.filter(|(_, end)| time.saturating_sub(*end) <= gap_ms);
        let right = right.filter(|(start, _)| start.saturating_sub(time) <= gap_ms);
        if left.is_some_and(|(_, end)| end >= time) {
            return;
        }
        left.into_iter().chain(right).for_each(|(start, _)| self.remove(start, edited));
        let (start, end) = (left.map_or(time, |(start, _)| start), right.map_or(time, |(_, end)| end));
        self.insert(start, end, edited);
    }

    /// There are no rows any more at a time at which there were some.
    fn end(&mut self, time: i64, gap_ms: i64, edited: &mut Edited) {
        let Some((start, end)) = self.sessions.of(time) else { return };
        let before = self.last(time).filter(|before| *before >= start);
        let after = self.first(time).filter(|after| *after <= end);
        let together = before.zip(after).is_some_and(|(before, after)| after.saturating_sub(before) <= gap_ms);
        if together {
            return;
        }
        self.remove(start, edited);
        before.into_iter().for_each(|before| self.insert(start, before, edited));
        after.into_iter().for_each(|after| self.insert(after, end, edited));
    }

    fn remove(&mut self, start: i64, edited: &mut Edited) {
        let end = self.sessions.0.remove(&start).expect("it is there");
        if !edited.new.remove(&start) {
            edited.old.0.insert(start, end);
        }
    }

    fn insert(&mut self, start: i64, end: i64, edited: &mut Edited) {
        self.sessions.0.insert(start, end);
        edited.new.insert(start);
    }

    fn moves(&self, changed: &BTreeMap<(i64, Row), Diff>, edited: &Edited) -> Vec<(i64, Row, Diff)> {
        let unedited = |time: i64| self.sessions.of(time).filter(|(start, _)| !edited.new.contains(start));
        let before = |time: i64| edited.old.of(time).or_else(|| unedited(time)).map(|(start, _)| start);
        let now = |time: i64| self.sessions.of(time).map(|(start, _)| start);
        let mut moves = Vec::new();
        let mut moved = |row: &Row, [was, is]: [Option<(i64, Diff)>; 2]| {
            moves.extend(was.map(|(start, diff)| (start, row.clone(), -diff)));
            moves.extend(is.map(|(start, diff)| (start, row.clone(), diff)));
        };
        for ((time, row), diff) in changed {
            let there = self.rows.get(&(*time, row.clone())).copied().unwrap_or(0);
            match (before(*time), now(*time)) {
                (Some(before), Some(now)) if before == now => moved(row, [None, Some((now, *diff))]),
                (before, now) => {
                    let was = before.map(|start| (start, there - *diff)).filter(|(_, diff)| *diff != 0);
                    moved(row, [was, now.map(|start| (start, there)).filter(|(_, diff)| *diff != 0)]);
                }
            }
        }
        for (first, last) in &edited.old.0 {
            // A range that excludes its only place is none to the library.
            let begun = (first < last).then(|| self.sessions.0.range((Excluded(*first), Included(*last))));
            let begun = begun.into_iter().flatten().map(|(start, end)| (*start, *end));
            for (start, end) in self.sessions.of(*first).into_iter().chain(begun).filter(|(start, _)| start != first) {
                let (from, upto) = (start.max(*first), end.min(*last));
                let rows = self.rows.range((from, Row::default())..).take_while(|((time, _), _)| *time <= upto);
                for ((_, row), count) in rows.filter(|(at, _)| !changed.contains_key(*at)) {
                    moved(row, [Some((*first, *count)), Some((start, *count))]);
                }
            }
        }
        moves
    }
}
