//! Rows of a table that events look up, by their keys: those that are there and, for a horizon, those that were.
//!
//! Invariant: a change is remembered by its tick for the horizon only; then it is part of what was always there.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use operators::row::{Diff, Row};
use operators::time::{Tick, take_before};

use super::usage::Size;

/// The rows of a table.
pub struct History {
    /// None: what was is of no use.
    horizon: Option<Tick>,
    rows: HashMap<Row, BTreeMap<Row, Times>, foldhash::fast::FixedState>,
    /// Changes by the tick from which on nobody asks for what was before them.
    settling: BTreeMap<Tick, Vec<(Row, Row)>>,
    /// Of the rows and of the changes that are remembered.
    size: Size,
}

/// Of the list of a key's rows.
const KEY: Size = Size { rows: 0, bytes: 96 };
/// Of a change that is remembered, and of its place among those that settle.
const CHANGE: Size = Size { rows: 0, bytes: 64 };

/// When a row came and went.
#[derive(Default)]
struct Times {
    /// How often it is there by the changes of which the ticks are forgotten.
    settled: Diff,
    /// The later ones, ascending.
    changes: Vec<(Tick, Diff)>,
}

impl Times {
    fn at(&self, tick: Tick) -> Diff {
        let before = self.changes.iter().take_while(|(at, _)| *at <= tick);
        self.settled + before.map(|(_, diff)| diff).sum::<Diff>()
    }

    /// Forgets the ticks of its changes up to this one, and tells how many they were.
    fn settle(&mut self, upto: Tick) -> usize {
        let settled = self.changes.partition_point(|(at, _)| *at <= upto);
        self.settled += self.changes.drain(..settled).map(|(_, diff)| diff).sum::<Diff>();
        settled
    }

    fn is_empty(&self) -> bool {
        self.settled == 0 && self.changes.is_empty()
    }
}

impl History {
    /// No rows.
    pub fn new(horizon_ms: Option<i64>) -> Self {
        let horizon = horizon_ms.map(|ms| ms.max(0) as Tick);
        Self { horizon, rows: HashMap::default(), settling: BTreeMap::new(), size: Size::default() }
    }

    /// A row comes or goes; ticks ascend.
    pub fn change(&mut self, tick: Tick, key: Row, row: Row, diff: Diff) {
        let rows = self.rows.entry(key.clone()).or_default();
        if !rows.contains_key(&row) {
            self.size += Size::of_pair(&key, &row);
        }
        let times = rows.entry(row.clone()).or_default();
        match self.horizon {
            None => {
                times.settled += diff;
                self.tidy(&key, &row);
            }
            Some(horizon) => {
                times.changes.push((tick, diff));
                self.size += CHANGE;
                self.settling.entry(tick.saturating_add(horizon)).or_default().push((key, row));
            }
        }
    }

    /// Of what is kept.
    pub fn size(&self) -> Size {
        self.size + KEY * self.rows.len() as Diff
    }

    /// The rows of a key that were there at a tick, and how often.
    pub fn at<'a>(&'a self, key: &Row, tick: Tick) -> impl Iterator<Item = (&'a Row, Diff)> {
        let rows = self.rows.get(key).into_iter().flatten();
        rows.map(move |(row, times)| (row, times.at(tick))).filter(|(_, count)| *count > 0)
    }

    /// Nobody asks any more for what was a horizon before this tick.
    pub fn settle(&mut self, now: Tick) {
        let Some(horizon) = self.horizon else { return };
        for (key, row) in take_before(&mut self.settling, now.saturating_add(1)).into_values().flatten() {
            if let Some(times) = self.rows.get_mut(&key).and_then(|rows| rows.get_mut(&row)) {
                self.size -= CHANGE * times.settle(now.saturating_sub(horizon)) as Diff;
                self.tidy(&key, &row);
            }
        }
    }

    fn tidy(&mut self, key: &Row, row: &Row) {
        let Some(rows) = self.rows.get_mut(key) else { return };
        if rows.get(row).is_some_and(Times::is_empty) {
            rows.remove(row);
            self.size -= Size::of_pair(key, row);
        }
        if rows.is_empty() {
            self.rows.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_is_known_for_the_horizon_and_then_forgotten() {
        let mut history = History::new(Some(100));
        let (key, row) = (Row::new(b"k"), |tick: Tick| Row::new(&tick.to_be_bytes()));
        for tick in 1..2_000 {
            history.change(tick, key.clone(), row(tick), 1);
            if tick > 1 {
                history.change(tick, key.clone(), row(tick - 1), -1);
            }
            history.settle(tick);
            let ago = tick.saturating_sub(100).max(1);
            for at in [ago, tick] {
                let found: Vec<_> = history.at(&key, at).collect();
                assert_eq!(found, [(&row(at), 1)], "at {at}, now {tick}");
            }
            assert!(history.rows[&key].len() <= 102, "{} rows at {tick}", history.rows[&key].len());
        }
        history.change(2_000, key.clone(), row(1_999), -1);
        history.settle(2_100);
        assert!(history.rows.is_empty() && history.settling.is_empty());
        assert_eq!(history.size(), Size::default());
    }

    #[test]
    fn without_a_horizon_only_what_is_there_is_kept() {
        let mut history = History::new(None);
        let (key, row) = (Row::new(b"k"), Row::new(b"r"));
        history.change(1, key.clone(), row.clone(), 2);
        history.change(2, key.clone(), row.clone(), -1);
        assert_eq!(history.at(&key, Tick::MAX).collect::<Vec<_>>(), [(&row, 1)]);
        history.change(3, key.clone(), row, -1);
        assert!(history.rows.is_empty() && history.settling.is_empty());
    }
}
