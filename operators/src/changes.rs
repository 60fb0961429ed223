//! Changes of a table that wait until their tick is worked on, by tick and within a tick in the order of arrival. A batch is
//! kept once however many ticks its rows lie in, so loading a million rows costs the same in one tick or in a million.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use crate::time::Tick;

/// Rows of one tick that follow each other in one batch, in whatever form `B` the batch is kept.
#[derive(Debug)]
pub struct Part<B> {
    /// The batch, shared by its parts.
    pub batch: Rc<B>,
    /// Its rows that lie in the tick.
    pub rows: Range<usize>,
}

/// Changes by tick.
#[derive(Debug)]
pub struct Changes<B> {
    by_tick: BTreeMap<Tick, Vec<Part<B>>>,
}

impl<B> Default for Changes<B> {
    fn default() -> Self {
        Self { by_tick: BTreeMap::new() }
    }
}

impl<B> Changes<B> {
    /// Holds a batch whose rows have these ticks, in any order.
    pub fn push(&mut self, batch: B, ticks: &[Tick]) {
        let batch = Rc::new(batch);
        let mut start = 0;
        for run in ticks.chunk_by(|a, b| a == b) {
            let rows = start..start + run.len();
            start = rows.end;
            self.by_tick.entry(run[0]).or_default().push(Part { batch: batch.clone(), rows });
        }
    }

    /// The first tick that holds changes.
    #[must_use]
    pub fn first(&self) -> Option<Tick> {
        self.by_tick.first_key_value().map(|(&tick, _)| tick)
    }

    /// Takes the changes of the first tick, if that is before `upto`.
    pub fn pop_before(&mut self, upto: Tick) -> Option<(Tick, Vec<Part<B>>)> {
        let entry = self.by_tick.first_entry().filter(|entry| *entry.key() < upto)?;
        Some(entry.remove_entry())
    }

    /// Takes the changes of this tick.
    pub fn take(&mut self, tick: Tick) -> Vec<Part<B>> {
        self.by_tick.remove(&tick).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Catches rows lost where a tick's run ends, and a tick that comes back within a batch.
    #[test]
    fn every_row_is_in_the_part_of_its_tick() {
        let mut changes = Changes::default();
        changes.push("a", &[10, 10, 20, 10]);
        changes.push("b", &[20]);
        let rows = |parts: Vec<Part<&'static str>>| {
            parts.into_iter().flat_map(|part| part.rows.map(move |row| (*part.batch, row))).collect::<Vec<_>>()
        };
        assert_eq!(changes.first(), Some(10));
        let (tick, parts) = changes.pop_before(20).unwrap();
        assert_eq!((tick, rows(parts)), (10, vec![("a", 0), ("a", 1), ("a", 3)]));
        assert!(changes.pop_before(20).is_none());
        assert_eq!(rows(changes.take(20)), [("a", 2), ("b", 0)]);
        assert_eq!(changes.first(), None);
    }
}
