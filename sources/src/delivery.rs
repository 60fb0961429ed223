//! What a reader hands to its worker, and through which channel. A reader never runs ahead of its worker by more than the
//! channel's capacity, and what it delivers of one partition is in offset order.

mod channel;

use arrow::array::RecordBatch;
use operators::record::Stream;
use operators::time::Tick;
use thiserror::Error;

pub use channel::{Capacity, Nothing, Receiver, Sender, channel};

/// One step of a reader's progress.
#[derive(Debug)]
pub enum Delivery {
    /// Decoded records of one partition, in offset order, ticks non-decreasing: telemetry or reference changelog rows.
    Rows(Stream, RecordBatch),
    /// Records of any stream that could not be decoded (columns of `operators::error::rejected_schema`).
    Rejected(Stream, RecordBatch),
    /// No later row of this stream from this reader has a tick before this one. `None`: the reader has no partition of
    /// the stream, or it has ended.
    Frontier(Stream, Option<Tick>),
}

/// A reader's end of the bounded channel to its worker.
pub trait Outlet: Send {
    /// Hands over one delivery and wakes the worker; waits while the channel is full.
    ///
    /// # Errors
    /// The worker is gone: the reader should end.
    fn send(&mut self, delivery: Delivery) -> Result<(), Closed>;

    /// Whether the worker holds more rows than it should and needs those of the slowest partitions to let them go: the
    /// reader should bring nothing else.
    fn is_pressed(&self) -> bool {
        false
    }
}

/// The worker has ended.
#[derive(Debug, Error)]
#[error("the worker has ended")]
pub struct Closed;

/// Where to resume a partition: the first offset to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// Topic of the log.
    pub topic: String,
    /// Partition of the topic.
    pub partition: i32,
    /// First offset to read.
    pub offset: i64,
}

/// Why a source cannot go on. Errors of single records are data ([`Delivery::Rejected`]) and never end a source.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The configuration cannot work; trying again will not help.
    #[error("{0}")]
    Configuration(String),
    /// The service is not to be reached for now.
    #[error("{what}: {why}")]
    Unavailable {
        /// What was tried, and where.
        what: String,
        /// What the service or the network said.
        why: String,
    },
    /// The log no longer has, or does not yet have, the wanted offset.
    #[error("{topic}[{partition}]: offset {wanted} is outside the log's {start}..{end}")]
    OffsetOutOfRange {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Offset that was asked for.
        wanted: i64,
        /// First offset that the log has.
        start: i64,
        /// Offset after the last one.
        end: i64,
    },
    /// The log's own files are damaged or unreadable.
    #[error("{0}")]
    Storage(String),
    /// The worker that the rows were for has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}
