//! Sorted runs of records as one, of each key the newest.
//!
//! Invariant: memory in proportion to the number of runs, not to what is in them.

use super::changes::Record;
use super::{CheckpointError, NodeId};

/// Records in ascending order of node and key, each once.
pub(super) trait Run {
    /// The record that it stands at; none at the end.
    fn record(&self) -> Option<Record<'_>>;
    /// Goes on to the next.
    fn advance(&mut self) -> Result<(), CheckpointError>;
}

/// Runs, the oldest first.
pub(super) struct Merge<R> {
    runs: Vec<R>,
    /// Runs that are not at their end; the first stands at the next record. A binary heap.
    heap: Vec<usize>,
    /// Runs that stand at the record that was given out last.
    given: Vec<usize>,
}

impl<R: Run> Merge<R> {
    pub(super) fn new(runs: Vec<R>) -> Self {
        let mut merge = Self { heap: Vec::with_capacity(runs.len()), given: Vec::with_capacity(runs.len()), runs };
        for at in 0..merge.runs.len() {
            merge.push(at);
        }
        merge
    }

    /// The next record with the index of the run that it is from.
    pub(super) fn next(&mut self) -> Result<Option<(usize, Record<'_>)>, CheckpointError> {
        while let Some(run) = self.given.pop() {
            self.runs[run].advance()?;
            self.push(run);
        }
        let Some(newest) = self.pop() else { return Ok(None) };
        self.given.push(newest);
        // Older ones of the same key are passed over.
        while let Some(&older) = self.heap.first()
            && let (Some(a), Some(b)) = (self.runs[newest].record(), self.runs[older].record())
            && a.order(&b).is_eq()
        {
            self.pop();
            self.given.push(older);
        }
        Ok(self.runs[newest].record().map(|record| (newest, record)))
    }

    /// Whether run `a` comes before `b`: by its record, of the same key the newer.
    fn before(&self, a: usize, b: usize) -> bool {
        match (self.runs[a].record(), self.runs[b].record()) {
            (Some(x), Some(y)) => x.order(&y).then(b.cmp(&a)).is_lt(),
            (x, _) => x.is_some(),
        }
    }

    fn push(&mut self, run: usize) {
        if self.runs[run].record().is_none() {
            return;
        }
        self.heap.push(run);
        let mut at = self.heap.len() - 1;
        while at > 0 && self.before(self.heap[at], self.heap[(at - 1) / 2]) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn pop(&mut self) -> Option<usize> {
        if self.heap.is_empty() {
            return None;
        }
        let first = self.heap.swap_remove(0);
        let mut at = 0;
        loop {
            let mut least = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.before(self.heap[child], self.heap[least]) {
                    least = child;
                }
            }
            if least == at {
                return Some(first);
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

/// From which checkpoint on each node's records count: those before belong to an earlier state of the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Living(Vec<(NodeId, u64)>);

impl Living {
    pub(super) fn new(nodes: impl IntoIterator<Item = (NodeId, u64)>) -> Self {
        let mut nodes: Vec<_> = nodes.into_iter().collect();
        nodes.sort_unstable();
        Self(nodes)
    }

    /// The checkpoint with which the node began.
    pub(super) fn since(&self, node: NodeId) -> Option<u64> {
        let at = self.0.binary_search_by_key(&node, |(node, _)| *node).ok()?;
        Some(self.0[at].1)
    }

    /// Whether a record of this node counts that is from a file with changes up to checkpoint `sequence`.
    pub(super) fn counts(&self, node: NodeId, sequence: u64) -> bool {
        self.since(node).is_some_and(|since| since <= sequence)
    }
}
