//! Checkpoints: what the program remembers at a tick, kept outside of the process, so that a start need not read the whole log.
//!
//! It is storage only: records of bytes by node and key, written as deltas and merged when they are read. What they mean is the
//! business of who puts them there. See decision 25.
//!
//! Invariants: a checkpoint is there whole or not at all, however the process ends; nothing damaged is handed out as good; a file
//! is never changed once it is there; where there were checkpoints and none is good, nobody is told that there were none.

mod archive;
mod beside;
mod changes;
mod compaction;
mod directory;
mod disk;
mod error;
mod file;
mod manifest;
mod merge;
mod recovery;
mod storage;
mod store;
mod transfer;

#[cfg(test)]
mod tests;

pub use archive::{Archive, Listed, Verified};
pub use changes::{Changes, NodeId, Record};
pub use error::{CheckpointError, Damage};
pub use manifest::{DataFile, LogIdentity, Manifest, Moment, Node, Position, Topic, VERSION};
pub use recovery::Newest;
pub use store::{NodeState, Options, Saved, Store};
