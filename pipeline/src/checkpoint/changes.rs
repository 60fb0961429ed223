//! What has changed since the last checkpoint, in memory: filled by a worker, written by somebody else.
//!
//! Invariant: putting a record allocates nothing of its own; bytes stand in one buffer, one after the other.

use std::cmp::Ordering;

use xxhash_rust::xxh3::xxh3_64;

use super::CheckpointError;
use super::merge::{Merge, Run};

/// Most bytes of a key.
pub(super) const KEY_BYTES_MAX: usize = 1 << 16;
/// Most bytes of a value.
pub(super) const VALUE_BYTES_MAX: usize = 1 << 24;
/// Length of a value that says that the key was deleted.
const DELETED: u32 = u32::MAX;

/// A piece of state, such as a table or what an operator remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u64);

impl NodeId {
    /// The id of the state of this name, made by the plan with this hash. With another plan it is another state.
    #[must_use]
    pub fn of(name: &str, plan: u128) -> Self {
        let mut bytes = Vec::with_capacity(16 + name.len());
        bytes.extend(plan.to_le_bytes());
        bytes.extend(name.as_bytes());
        Self(xxh3_64(&bytes))
    }
}

/// A record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it is a part of.
    pub node: NodeId,
    /// Hash by which a worker is chosen.
    pub route: u64,
    /// Tells it from the others of its node.
    pub key: &'a [u8],
    /// What is remembered; none: it was deleted.
    pub value: Option<&'a [u8]>,
}

impl Record<'_> {
    /// Order in files.
    pub(super) fn order(&self, other: &Record<'_>) -> Ordering {
        self.node.cmp(&other.node).then_with(|| self.key.cmp(other.key))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    node: NodeId,
    route: u64,
    /// Where the key stands; the value follows it.
    at: usize,
    key: u32,
    value: u32,
}

/// Records that changed. Of several with one node and key the last counts.
#[derive(Debug, Default)]
pub struct Changes {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
    sorted: bool,
    /// What could not be taken, and of which node.
    oversized: Option<(NodeId, String)>,
}

impl Changes {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The key has this value now; none: it is deleted. A key may have 65,536 bytes, a value 16,777,216: what is longer is not
    /// taken, and there is no checkpoint until the node begins anew.
    pub fn put(&mut self, node: NodeId, route: u64, key: &[u8], value: Option<&[u8]>) {
        let length = value.map_or(0, <[u8]>::len);
        if key.len() > KEY_BYTES_MAX || length > VALUE_BYTES_MAX {
            let key = key.len();
            let why = || {
                format!(
                    "a record of node {:016x} has a key of {key} bytes and a value of {length}; {KEY_BYTES_MAX} and \
                     {VALUE_BYTES_MAX} are the most",
                    node.0
                )
            };
            self.oversized.get_or_insert_with(|| (node, why()));
            return;
        }
        let at = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value = match value {
            Some(value) => {
                self.bytes.extend_from_slice(value);
                length as u32 // checked above
            }
            None => DELETED,
        };
        self.entries.push(Entry { node, route, at, key: key.len() as u32, value });
        self.sorted = false;
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that they take in memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Forgets them all, and keeps the memory for others.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.oversized = None;
    }

    /// # Errors
    /// Something was put that cannot be stored.
    pub(super) fn check(&self) -> Result<(), CheckpointError> {
        match &self.oversized {
            Some((_, why)) => Err(CheckpointError::Unsaveable(why.clone())),
            None => Ok(()),
        }
    }

    /// Takes out all records of nodes that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(NodeId) -> bool) {
        self.entries.retain(|entry| keep(entry.node));
        self.oversized.take_if(|(node, _)| !keep(*node));
    }

    /// Brings them into the order of files, one of each key.
    pub(super) fn sort(&mut self) {
        if std::mem::replace(&mut self.sorted, true) {
            return;
        }
        let bytes = &self.bytes;
        let key = |entry: &Entry| &bytes[entry.at..entry.at + entry.key as usize];
        // Stable: equal keys stay as they were put.
        self.entries.sort_by(|a, b| a.node.cmp(&b.node).then_with(|| key(a).cmp(key(b))));
        let mut kept = 0;
        for at in 0..self.entries.len() {
            let entry = self.entries[at];
            let same = kept > 0 && {
                let before = &self.entries[kept - 1];
                before.node == entry.node && key(before) == key(&entry)
            };
            kept += usize::from(!same);
            self.entries[kept - 1] = entry;
        }
        self.entries.truncate(kept);
    }

    /// Puts sorted changes together, the newest of each key: the last of the list are the newest.
    pub(super) fn merged(all: &[Changes]) -> Changes {
        let mut merge = Merge::new(all.iter().map(Changes::run).collect());
        let mut out = Changes::new();
        while let Some((_, record)) = merge.next().expect("memory can be read") {
            out.put(record.node, record.route, record.key, record.value);
        }
        out.sorted = true;
        out.oversized = all.iter().find_map(|one| one.oversized.clone());
        out
    }

    /// The records in order; they have to be sorted.
    pub(super) fn run(&self) -> InMemory<'_> {
        debug_assert!(self.sorted || self.entries.len() < 2, "sorted before they are read");
        InMemory { changes: self, at: 0 }
    }
}

/// Sorted changes as one of the runs of a merge.
pub(super) struct InMemory<'a> {
    changes: &'a Changes,
    at: usize,
}

impl Run for InMemory<'_> {
    fn record(&self) -> Option<Record<'_>> {
        let entry = self.changes.entries.get(self.at)?;
        let (key, rest) = self.changes.bytes[entry.at..].split_at(entry.key as usize);
        let value = (entry.value != DELETED).then(|| &rest[..entry.value as usize]);
        Some(Record { node: entry.node, route: entry.route, key, value })
    }

    fn advance(&mut self) -> Result<(), CheckpointError> {
        self.at += 1;
        Ok(())
    }
}
