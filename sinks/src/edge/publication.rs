//! What changed in the table between two moments, and how a client hears of it. A change is told by what the client has (the
//! row before, if its filter admits it) and what it shall have (the row now): so any two publications merge into one, and
//! what one client needs every client of the same selection needs.

use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::{HashMap, HashSet};
use operators::time::Tick;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::encode::{put_difference, put_key, put_number, put_row};
use super::selection::{Selection, Shared};
use crate::memory::{Change, Pin, RowReader, RowView, Slot};

/// Bytes at which a message is ended and the next one begun. A connection keeps a write buffer of about this size for good.
pub const CHUNK_BYTES: usize = 16 * 1024;
/// Places or changes looked at in one go where none of them is for the client.
pub const LOOKED_AT_MAX: usize = 8 * 1024;

/// A part of a message, everything after its `id`.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The JSON text up to and with the closing brace.
    pub body: Utf8Bytes,
    /// Whether the message goes on in another chunk.
    pub more: bool,
}

/// Changes that were published together.
#[derive(Debug)]
pub struct Publication {
    /// Newest tick of any row when it was published.
    pub version: Tick,
    /// In the order in which they were made; a key may have several.
    changes: Vec<Change>,
    /// The same with one change a key, if that is less.
    merged: Option<Vec<Change>>,
    /// By selection; `None` once there is a newer publication.
    encodings: Mutex<Option<HashMap<Shared, Arc<Encoding>>>>,
}

/// The chunks of one publication for one selection, made as they are asked for, for everyone who asks.
#[derive(Debug, Default)]
pub struct Encoding(Mutex<Chunks>);

#[derive(Debug, Default)]
struct Chunks {
    made: Vec<Chunk>,
    next: usize,
    done: bool,
}

impl Publication {
    /// Publishes `changes`.
    #[must_use]
    pub fn new(version: Tick, changes: Vec<Change>) -> Self {
        let mut slots: HashSet<Slot> = HashSet::with_capacity(changes.len());
        let distinct = changes.iter().all(|change| slots.insert(change.slot));
        let merged = (!distinct).then(|| merge(changes.iter()));
        Self { version, changes, merged, encodings: Mutex::new(Some(HashMap::new())) }
    }

    /// Changes in it, as they were made.
    #[must_use]
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// The encoding for clients of this selection.
    #[must_use]
    pub fn encoding(&self, selection: &Shared) -> Arc<Encoding> {
        let mut encodings = self.encodings.lock().unwrap_or_else(PoisonError::into_inner);
        encodings.as_mut().map(|encodings| encodings.entry_ref(selection).or_default().clone()).unwrap_or_default()
    }

    /// The `index`th chunk of an [`encoding`](Self::encoding) for this selection; `None` after the last one.
    #[must_use]
    pub fn chunk(&self, encoding: &Encoding, index: usize, selection: &Shared, reader: &RowReader) -> Option<Chunk> {
        let changes = self.merged.as_ref().unwrap_or(&self.changes);
        let mut chunks = encoding.0.lock().unwrap_or_else(PoisonError::into_inner);
        while chunks.made.len() <= index && !chunks.done {
            let Chunks { made, next, done } = &mut *chunks;
            made.extend(delta(changes, next, &selection.0, reader, self.version));
            *done = *next >= changes.len();
        }
        chunks.made.get(index).cloned()
    }

    /// Lets go of what was encoded: there is a newer publication, and whoever has not begun with this one merges the two.
    pub fn forget_encodings(&self) {
        *self.encodings.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl From<&Shared> for Shared {
    fn from(shared: &Shared) -> Self {
        shared.clone()
    }
}

/// One change a key out of several, in the order in which the keys first changed.
pub fn merge<'a>(changes: impl Iterator<Item = &'a Change>) -> Vec<Change> {
    let mut merged: Vec<Change> = Vec::new();
    let mut index: HashMap<Slot, usize> = HashMap::new();
    for change in changes {
        match index.entry(change.slot) {
            hashbrown::hash_map::Entry::Occupied(at) => merged[*at.get()].new.clone_from(&change.new),
            hashbrown::hash_map::Entry::Vacant(at) => {
                at.insert(merged.len());
                merged.push(change.clone());
            }
        }
    }
    merged.retain(|change| change.old.is_some() || change.new.is_some());
    merged
}

/// Rows of a delta on their way into a message.
#[derive(Debug, Default)]
struct Delta {
    upsert: Vec<u8>,
    remove: Vec<u8>,
    rows: usize,
}

impl Delta {
    /// Tells a client that has `old` under `before` what it needs to have `new` under `after`.
    fn put(&mut self, before: &Selection, old: Option<RowView<'_>>, after: &Selection, new: Option<RowView<'_>>) {
        let old = old.filter(|row| before.admits(row));
        let new = new.filter(|row| after.admits(row));
        let (upserts, removes) = (self.upsert.len(), self.remove.len());
        match (old, new) {
            (None, None) => return,
            (Some(old), None) => {
                if removes > 0 {
                    self.remove.push(b',');
                }
                put_key(&mut self.remove, &old);
            }
            (old, Some(new)) => {
                if upserts > 0 {
                    self.upsert.push(b',');
                }
                match old {
                    None => put_row(&mut self.upsert, &new, after.fields()),
                    Some(old) if !put_difference(&mut self.upsert, &old, &new, after.fields()) => {
                        self.upsert.truncate(upserts);
                        return;
                    }
                    Some(_) => {}
                }
            }
        }
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.upsert.len() + self.remove.len() >= CHUNK_BYTES
    }

    fn finish(self, version: Tick, more: bool) -> Chunk {
        let mut out = Vec::with_capacity(self.upsert.len() + self.remove.len() + 80);
        out.extend_from_slice(b"\"version\":");
        put_number(&mut out, version);
        out.extend_from_slice(b",\"upsert\":[");
        out.extend_from_slice(&self.upsert);
        out.extend_from_slice(b"],\"remove\":[");
        out.extend_from_slice(&self.remove);
        out.extend_from_slice(if more { b"],\"more\":true}" } else { b"]}" });
        Chunk { body: text(out), more }
    }
}

fn text(bytes: Vec<u8>) -> Utf8Bytes {
    String::from_utf8(bytes).expect("JSON made of texts is a text").into()
}

/// The next chunk of a delta from `changes[*next..]`, moving `next` on. `None` if nothing of what was looked at is for the
/// client; the end is reached when `next` is.
pub fn delta(
    changes: &[Change],
    next: &mut usize,
    selection: &Selection,
    reader: &RowReader,
    version: Tick,
) -> Option<Chunk> {
    let mut delta = Delta::default();
    let until = (*next + LOOKED_AT_MAX).min(changes.len());
    while *next < changes.len() && !delta.is_full() && (*next < until || delta.rows > 0) {
        let change = &changes[*next];
        let view = |row| reader.view(row);
        delta.put(selection, change.old.as_ref().map(view), selection, change.new.as_ref().map(view));
        *next += 1;
    }
    (delta.rows > 0).then(|| delta.finish(version, *next < changes.len()))
}

/// A walk through all rows of a pinned state.
#[derive(Debug)]
pub struct Scan {
    pin: Pin,
    next: usize,
}

impl Scan {
    /// A walk through `pin` from its beginning.
    #[must_use]
    pub fn new(pin: Pin) -> Self {
        Self { pin, next: 0 }
    }

    /// The version of the state.
    #[must_use]
    pub fn version(&self) -> Tick {
        self.pin.version()
    }

    /// Whether all rows were looked at.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next >= self.pin.places()
    }

    /// Appends selected rows to `out`, commas between them, until it has `bytes_max` bytes, [`LOOKED_AT_MAX`] places were
    /// looked at, or the scan is done. Returns the rows appended.
    pub fn put_rows(&mut self, selection: &Selection, out: &mut Vec<u8>, first: &mut bool, bytes_max: usize) -> usize {
        let until = (self.next + LOOKED_AT_MAX).min(self.pin.places());
        let mut rows = 0;
        while self.next < until && out.len() < bytes_max {
            if let Some(row) = self.pin.get(self.next).filter(|row| selection.admits(row)) {
                if !std::mem::take(first) {
                    out.push(b',');
                }
                put_row(out, &row, selection.fields());
                rows += 1;
            }
            self.next += 1;
        }
        rows
    }

    /// The next chunk of a `snapshot` message; `None` if nothing was found this time and the scan is not done. Always gives
    /// a last chunk with `more` false.
    pub fn snapshot(&mut self, selection: &Selection) -> Option<Chunk> {
        let mut out = Vec::with_capacity(CHUNK_BYTES + 1_024);
        out.extend_from_slice(b"\"version\":");
        put_number(&mut out, self.pin.version());
        out.extend_from_slice(b",\"rows\":[");
        let rows = self.put_rows(selection, &mut out, &mut true, CHUNK_BYTES);
        let more = !self.is_done();
        if rows == 0 && more {
            return None;
        }
        out.extend_from_slice(if more { b"],\"more\":true}" } else { b"],\"more\":false}" });
        Some(Chunk { body: text(out), more })
    }

    /// The next chunk of the delta that takes a client of the selection `before` to the selection `after`; `None` as with
    /// [`snapshot`](Self::snapshot).
    pub fn transition(&mut self, before: &Selection, after: &Selection) -> Option<Chunk> {
        let mut delta = Delta::default();
        let until = (self.next + LOOKED_AT_MAX).min(self.pin.places());
        while self.next < until && !delta.is_full() {
            let row = self.pin.get(self.next);
            delta.put(before, row, after, row);
            self.next += 1;
        }
        let more = !self.is_done();
        (delta.rows > 0 || !more).then(|| delta.finish(self.pin.version(), more))
    }
}
