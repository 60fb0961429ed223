//! What operators count beside their output, for metrics to read: numbers only, never part of an answer.

use std::cell::Cell;
use std::rc::Rc;

/// Counters of one worker's operators, shared with whoever shows them.
#[derive(Clone, Debug, Default)]
pub struct Counters(Rc<Counts>);

/// The numbers, each since the start.
#[derive(Debug, Default)]
pub struct Counts {
    /// Events taken in.
    pub events: Cell<u64>,
    /// Events dropped as duplicates.
    pub duplicates: Cell<u64>,
    /// Events whose device no vehicle has.
    pub unknown_devices: Cell<u64>,
    /// Events older than the state that they would have changed.
    pub outdated: Cell<u64>,
    /// Events that came after their window was sealed, or too far ahead of it.
    pub late: Cell<u64>,
    /// Devices known.
    pub devices: Cell<u64>,
    /// Rows of the links table.
    pub links: Cell<u64>,
    /// Windows open.
    pub windows: Cell<u64>,
    /// Rows waiting for their tick to close.
    pub waiting_rows: Cell<u64>,
}

impl std::ops::Deref for Counters {
    type Target = Counts;
    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, amount: usize) {
    counter.set(counter.get() + amount as u64);
}
