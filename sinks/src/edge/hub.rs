//! Where the table's changes meet the clients: the current state, the changes not yet published, and a short ring of what was
//! published, all behind one lock that is held for a few rows or a few pointers.
//!
//! Invariant: a client that starts from a pinned state and applies every later publication (less the changes that the pinned
//! state already has, which its position says) has the current state at every moment.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use operators::time::Tick;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::publication::{Publication, merge};
use crate::memory::{Change, CurrentState, Incoming, Pin, RowEncoder, RowReader};

/// How often a batch is looked at before it is published although more of it still comes.
const GATHERS_MAX: usize = 20;
/// Publications that the ring holds at most.
const RING_PUBLICATIONS_MAX: usize = 256;

/// How far a client is: what it has yet to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Number of the first publication that it has not been told of.
    next: u64,
    /// Changes at the start of that publication that it has all the same.
    skip: usize,
}

/// What a client has to be told to be up to date with what is published.
#[derive(Debug)]
pub enum News {
    /// One whole publication, the same for all.
    Whole(Arc<Publication>),
    /// Changes merged for this client alone, one a key.
    Merged {
        /// The changes.
        changes: Vec<Change>,
        /// Their version.
        version: Tick,
        /// Changes that merging left out.
        dropped: usize,
    },
    /// The ring no longer holds all of it: start again from the current state.
    Gap,
}

#[derive(Debug)]
struct Inner {
    state: CurrentState,
    /// Changes made since the last publication.
    open: Vec<Change>,
    ring: VecDeque<Arc<Publication>>,
    /// Changes in the ring.
    ring_rows: usize,
    /// Number of the next publication.
    next: u64,
    subscriptions: usize,
}

/// The hub.
#[derive(Debug)]
pub struct Hub {
    inner: Mutex<Inner>,
    reader: RowReader,
    ring_rows_max: usize,
    changed: Notify,
    published: watch::Sender<u64>,
}

/// A subscription's hold on the hub: as long as there is one, changes are kept and published.
#[derive(Debug)]
pub struct Hold(Arc<Hub>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.lock().release();
    }
}

impl Inner {
    fn release(&mut self) {
        self.subscriptions -= 1;
        if self.subscriptions == 0 {
            self.open = Vec::new();
            self.ring.clear();
            self.ring_rows = 0;
        }
    }

    fn position(&self) -> Position {
        Position { next: self.next, skip: self.open.len() }
    }

    /// The publications from `position` on; `None` if the ring no longer has them.
    fn since(&self, position: Position) -> Option<impl Iterator<Item = &Arc<Publication>>> {
        let missed = usize::try_from(self.next - position.next).ok()?;
        let from = self.ring.len().checked_sub(missed)?;
        Some(self.ring.range(from..))
    }
}

impl Hub {
    /// A hub for rows that `encoder` makes; its ring holds `ring_rows_max` changes (and at least the last publication).
    #[must_use]
    pub fn new(encoder: &RowEncoder, ring_rows_max: usize) -> Arc<Self> {
        let inner = Inner {
            state: CurrentState::new(encoder),
            open: Vec::new(),
            ring: VecDeque::new(),
            ring_rows: 0,
            next: 0,
            subscriptions: 0,
        };
        Arc::new(Self {
            inner: Mutex::new(inner),
            reader: encoder.reader(),
            ring_rows_max,
            changed: Notify::new(),
            published: watch::channel(0).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the rows are read with.
    #[must_use]
    pub fn reader(&self) -> &RowReader {
        &self.reader
    }

    /// Takes rows into the current state; those that change it are published soon.
    pub fn take_in(&self, rows: impl Iterator<Item = Incoming>) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let before = inner.open.len();
        for row in rows {
            if let Some(change) = inner.state.put(row)
                && inner.subscriptions > 0
            {
                inner.open.push(change);
            }
        }
        if inner.open.len() >= self.ring_rows_max {
            self.publish_open(inner);
        } else if before == 0 && !inner.open.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Publishes what has changed since the last time, if anything.
    pub fn publish(&self) {
        self.publish_open(&mut self.lock());
    }

    fn publish_open(&self, inner: &mut Inner) {
        if inner.open.is_empty() {
            return;
        }
        let publication = Publication::new(inner.state.version(), std::mem::take(&mut inner.open));
        if let Some(last) = inner.ring.back() {
            last.forget_encodings();
        }
        inner.ring_rows += publication.changes().len();
        inner.ring.push_back(Arc::new(publication));
        inner.next += 1;
        while inner.ring.len() > RING_PUBLICATIONS_MAX || (inner.ring_rows > self.ring_rows_max && inner.ring.len() > 1)
        {
            let first = inner.ring.pop_front().expect("the ring holds more than one");
            inner.ring_rows -= first.changes().len();
        }
        self.published.send_replace(inner.next);
    }

    /// Publishes changes as they come: once no more have come for half of `gather`, or ten times that has passed. Every
    /// `spacing` on average and no more often; but twice in a row, so that a straggler does not hold up the next batch.
    pub async fn publish_on(&self, gather: Duration, spacing: Duration) {
        let mut due = Instant::now();
        loop {
            self.changed.notified().await;
            let mut made = 0;
            for _ in 0..GATHERS_MAX {
                tokio::time::sleep(gather / 2).await;
                let before = std::mem::replace(&mut made, self.lock().open.len());
                if made == before {
                    break;
                }
            }
            if let Some(allowed) = due.checked_sub(spacing) {
                tokio::time::sleep_until(allowed).await;
            }
            self.publish();
            due = due.max(Instant::now()) + spacing;
        }
    }

    /// Number of publications so far; changes with each.
    #[must_use]
    pub fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The current state.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.lock().state.pin()
    }

    /// The current state, and the position from which everything later is told.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> (Hold, Pin, Position) {
        let mut inner = self.lock();
        inner.subscriptions += 1;
        (Hold(self.clone()), inner.state.pin(), inner.position())
    }

    /// The current state and its position, for one that holds a subscription already.
    #[must_use]
    pub fn restart(&self, _: &Hold) -> (Pin, Position) {
        let inner = self.lock();
        (inner.state.pin(), inner.position())
    }

    /// Whether something was published that this position has not been told of.
    #[must_use]
    pub fn has_news(&self, position: Position) -> bool {
        *self.published.borrow() > position.next
    }

    /// What was published since `position`, which moves on. `None` if nothing was.
    pub fn news(&self, position: &mut Position) -> Option<News> {
        let (publications, skip) = {
            let inner = self.lock();
            if inner.next <= position.next {
                return None;
            }
            let Some(missed) = inner.since(*position) else { return Some(News::Gap) };
            let missed: Vec<_> = missed.cloned().collect();
            (missed, std::mem::replace(position, Position { next: inner.next, skip: 0 }).skip)
        };
        if let ([only], 0) = (publications.as_slice(), skip) {
            return Some(News::Whole(only.clone()));
        }
        let version = publications.last()?.version;
        let all = || publications.iter().flat_map(|publication| publication.changes()).skip(skip);
        let changes = merge(all());
        let dropped = all().count() - changes.len();
        Some(News::Merged { changes, version, dropped })
    }

    /// Everything that changed since `position`, published or not, and the state as it is then, to which `position` moves.
    /// `None` if the ring no longer holds all of it.
    pub fn catch_up(&self, position: &mut Position) -> Option<(Pin, Vec<Change>)> {
        let (pin, publications, open, skip) = {
            let inner = self.lock();
            let missed: Vec<_> = inner.since(*position)?.cloned().collect();
            let skip = std::mem::replace(position, inner.position()).skip;
            (inner.state.pin(), missed, inner.open.clone(), skip)
        };
        let published = publications.iter().flat_map(|publication| publication.changes());
        let changes = merge(published.chain(&open).skip(skip));
        Some((pin, changes))
    }

    /// Rows of the current state, and the bytes that it takes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.state.len(), inner.state.size_bytes())
    }
}
