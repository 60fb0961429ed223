//! The way of a stream's changes to one sink: a queue that the keeper fills and the sink's task empties.
//!
//! Invariant: the keeper never waits for a sink. A queue that has grown too long is given up: a table is taken again from its
//! content, and events that do not fit are missed and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::keep::Change;
use crate::plan::Kind;

/// Bytes of changes that wait for one sink.
pub const TAP_BYTES_MAX: usize = 64 << 20;
/// What a row costs beside its bytes.
const ROW_BYTES: usize = 48;

/// Changes of one stream that wait for one sink.
#[derive(Debug)]
pub struct Tap {
    kind: Kind,
    bytes_max: usize,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    changes: VecDeque<Arc<Change>>,
    bytes: usize,
    /// Changes of a table were left out.
    lost: bool,
    /// Events that did not fit.
    missed: u64,
    /// Changes that were put, and are still here or were taken.
    given: u64,
}

/// What comes out of a tap.
#[derive(Debug)]
pub enum Tapped {
    /// The next change.
    Change(Arc<Change>),
    /// Changes of a table were left out: take its content and go on from there.
    Lost,
}

impl Tap {
    /// An empty one.
    #[must_use]
    pub fn new(kind: Kind, bytes_max: usize) -> Arc<Tap> {
        Arc::new(Tap { kind, bytes_max, queue: Mutex::default(), arrived: Notify::new() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn put(&self, change: &Arc<Change>) {
        let mut queue = self.queue();
        let bytes = bytes_of(change);
        // One change alone always fits: else a large one would never come through.
        let full = !queue.changes.is_empty() && queue.bytes + bytes > self.bytes_max;
        match self.kind {
            Kind::Table if queue.lost || full => {
                *queue = Queue { lost: true, ..Queue::default() };
            }
            Kind::Events if full => queue.missed += change.rows.len() as u64,
            _ => {
                queue.bytes += bytes;
                queue.given += 1;
                queue.changes.push_back(change.clone());
            }
        }
        drop(queue);
        self.arrived.notify_one();
    }

    /// Forgets what waits: the content was taken.
    pub(super) fn reset(&self) {
        let missed = self.missed();
        *self.queue() = Queue { missed, ..Queue::default() };
    }

    /// What waits first, if anything does.
    #[must_use]
    pub fn take(&self) -> Option<Tapped> {
        let mut queue = self.queue();
        if queue.lost {
            return Some(Tapped::Lost);
        }
        let change = queue.changes.pop_front()?;
        queue.bytes -= bytes_of(&change);
        Some(Tapped::Change(change))
    }

    /// Waits for what comes next. May be dropped at any point and called anew.
    pub async fn next(&self) -> Tapped {
        loop {
            if let Some(tapped) = self.take() {
                return tapped;
            }
            self.arrived.notified().await;
        }
    }

    /// Changes that were put here, without those that there was no room for.
    #[must_use]
    pub fn given(&self) -> u64 {
        self.queue().given
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let queue = self.queue();
        queue.changes.is_empty() && !queue.lost
    }

    /// Events that did not fit so far.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.queue().missed
    }
}

fn bytes_of(change: &Change) -> usize {
    change.rows.iter().map(|(row, _)| row.bytes().len() + ROW_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use operators::row::Row;

    use super::*;

    fn change(tick: u64) -> Arc<Change> {
        Arc::new(Change { tick, rows: vec![(Row::new(&[0; 52]), 1)] })
    }

    fn ticks(tap: &Tap) -> Vec<Option<u64>> {
        let taken = std::iter::from_fn(|| tap.take());
        let tick = |tapped| match tapped {
            Tapped::Change(change) => Some(change.tick),
            Tapped::Lost => None,
        };
        taken.take(10).map(tick).collect()
    }

    #[test]
    fn a_table_that_does_not_fit_is_taken_from_its_content() {
        let tap = Tap::new(Kind::Table, 250);
        (1..=2).for_each(|tick| tap.put(&change(tick)));
        assert_eq!(ticks(&tap), [Some(1), Some(2)]);
        (3..=9).for_each(|tick| tap.put(&change(tick)));
        assert_eq!(ticks(&tap), [None; 10], "until the content is taken");
        assert_eq!(tap.queue().changes.len(), 0, "nothing is kept meanwhile");
        tap.reset();
        tap.put(&change(10));
        assert_eq!((ticks(&tap), tap.missed()), (vec![Some(10)], 0));
    }

    #[test]
    fn events_that_do_not_fit_are_counted_and_those_before_them_kept() {
        let tap = Tap::new(Kind::Events, 250);
        (1..=5).for_each(|tick| tap.put(&change(tick)));
        assert_eq!((ticks(&tap), tap.missed()), (vec![Some(1), Some(2)], 3));
        tap.put(&change(6));
        assert_eq!((ticks(&tap), tap.missed()), (vec![Some(6)], 3));
    }

    #[test]
    fn a_change_larger_than_the_queue_comes_through_alone() {
        let tap = Tap::new(Kind::Table, 10);
        tap.put(&change(1));
        assert_eq!(ticks(&tap), [Some(1)]);
    }
}
