//! The current state of a table in memory: of each key its newest row, found by key, and read as a whole by readers that
//! never hold up the writer.
//!
//! Invariant: a row never gives way to an older one, and the state as a reader pinned it never changes under that reader.

mod dictionary;
mod layout;
mod row;
mod slots;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use operators::time::Tick;

pub use layout::{COLUMNS_MAX, Column, Kind, Layout};
pub use row::{Incoming, Mismatch, Row, RowEncoder, RowReader, RowView, Rows};
pub use slots::{PAGE_ROWS, Slot};

use slots::Slots;

/// Deleted keys that are remembered, so that an older row cannot bring one back; the oldest is forgotten first.
pub const TOMBSTONES_MAX: usize = 65_536;

/// What became of a row.
#[derive(Clone, Debug)]
pub struct Change {
    /// The place of its key.
    pub slot: Slot,
    /// The row as it was; `None` if there was none.
    pub old: Option<Row>,
    /// The row as it is now; `None` if its key is gone.
    pub new: Option<Row>,
}

/// The newest row of each key. One writer; readers [`pin`](Self::pin).
///
/// A row of 27 columns takes about 260 bytes, its place and index entry about 25.
#[derive(Debug)]
pub struct CurrentState {
    reader: RowReader,
    slots: Slots,
    /// Deleted keys, the oldest first; some have come back since.
    tombstones: VecDeque<(u32, Slot)>,
    version: Tick,
    rows: usize,
    row_bytes: usize,
}

impl CurrentState {
    /// An empty state for the rows that `encoder` makes.
    #[must_use]
    pub fn new(encoder: &RowEncoder) -> Self {
        Self {
            reader: encoder.reader(),
            slots: Slots::default(),
            tombstones: VecDeque::new(),
            version: 0,
            rows: 0,
            row_bytes: 0,
        }
    }

    /// Takes in one row. Returns what changed, or `None` if the row is older than the one that stands, equal to it, or
    /// deletes what was not there.
    pub fn put(&mut self, incoming: Incoming) -> Option<Change> {
        let Incoming { row, hash } = incoming;
        let key = self.reader.view(&row).key_bytes();
        let is_key = |other: &Row| self.reader.view(other).key_bytes() == key;
        let slot = self.slots.find(hash, is_key);
        let standing = slot.and_then(|slot| self.slots.get(slot));
        if let Some(standing) = standing {
            let older = row.version() < standing.version();
            // Of one tick, deletes count before upserts.
            let beaten = row.version() == standing.version() && row.is_deleted() && !standing.is_deleted();
            if older || beaten || row == *standing {
                return None;
            }
        }
        self.version = self.version.max(row.version());
        self.row_bytes += row.size_bytes();
        let new = (!row.is_deleted()).then(|| row.clone());
        let (slot, old) = match slot {
            None => (self.slots.insert(hash, row), None),
            Some(slot) => (slot, self.slots.replace(slot, row)),
        };
        self.row_bytes -= old.as_ref().map_or(0, Row::size_bytes);
        let old = old.filter(|old| !old.is_deleted());
        self.rows = self.rows + usize::from(new.is_some()) - usize::from(old.is_some());
        if new.is_none() {
            self.remember_deleted(hash, slot);
        }
        (old.is_some() || new.is_some()).then_some(Change { slot, old, new })
    }

    fn remember_deleted(&mut self, hash: u32, slot: Slot) {
        self.tombstones.push_back((hash, slot));
        if self.tombstones.len() > TOMBSTONES_MAX
            && let Some((hash, slot)) = self.tombstones.pop_front()
            && self.slots.get(slot).is_some_and(Row::is_deleted)
        {
            self.row_bytes -= self.slots.remove(hash, slot).map_or(0, |row| row.size_bytes());
        }
    }

    /// The state as it is now, for a reader to go through at its own pace. Costs one pointer a [`PAGE_ROWS`] rows.
    #[must_use]
    pub fn pin(&self) -> Pin {
        Pin { reader: self.reader.clone(), pages: self.slots.pages(), version: self.version, rows: self.rows }
    }

    /// The newest tick of any row taken in.
    #[must_use]
    pub fn version(&self) -> Tick {
        self.version
    }

    /// Rows that stand.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether no row stands.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes that the state takes, without what readers still hold of earlier rows.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.row_bytes + self.slots.size_bytes()
    }
}

/// A state as it was at one moment.
#[derive(Clone, Debug)]
pub struct Pin {
    reader: RowReader,
    pages: Vec<Arc<Vec<Option<Row>>>>,
    version: Tick,
    rows: usize,
}

impl Pin {
    /// The newest tick of any row in it.
    #[must_use]
    pub fn version(&self) -> Tick {
        self.version
    }

    /// Rows in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether it holds no row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Places in it, taken or not: the bound of [`get`](Self::get).
    #[must_use]
    pub fn places(&self) -> usize {
        self.pages.len() * PAGE_ROWS
    }

    /// The row at a place, if one stands there.
    #[must_use]
    pub fn get(&self, place: usize) -> Option<RowView<'_>> {
        let row = self.pages[place / PAGE_ROWS][place % PAGE_ROWS].as_ref()?;
        (!row.is_deleted()).then(|| self.reader.view(row))
    }

    /// All rows.
    pub fn iter(&self) -> impl Iterator<Item = RowView<'_>> {
        (0..self.places()).filter_map(|place| self.get(place))
    }
}
