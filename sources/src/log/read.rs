//! Reading a partition from any offset, and the assigned partitions of a worker's reader. Exactly the durable records are
//! seen, in offset order; no lock is held while they are decoded.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use super::block::Block;
use super::partition::{Partition, Segment};
use super::{EmbeddedLog, storage};
use crate::SourceError;
use crate::codec::Record;
use crate::reader::{Assigned, PartitionedLog, Polled};

/// Bytes of blocks that are fetched at once.
const FETCH_BYTES: usize = 1 << 20;

/// Reads one partition in offset order.
#[derive(Debug)]
pub struct PartitionReader {
    partition: Arc<Partition>,
    /// Offset of the next record to give.
    next: i64,
    /// Blocks that are fetched and not yet given; the first one from byte `at` on, where record `next` stands.
    blocks: VecDeque<Block>,
    at: usize,
}

impl PartitionReader {
    pub(super) fn new(partition: Arc<Partition>, offset: i64) -> Result<Self, SourceError> {
        let mut reader = Self { partition, next: 0, blocks: VecDeque::new(), at: 0 };
        reader.seek(offset)?;
        Ok(reader)
    }

    /// Goes on from `offset`.
    ///
    /// # Errors
    /// The log does not have it, nor does it come next.
    pub fn seek(&mut self, offset: i64) -> Result<(), SourceError> {
        let (start, end) = (self.partition.start(), self.partition.end());
        if offset < start || offset > end {
            return Err(self.out_of_range(offset, start, end));
        }
        self.blocks.clear();
        self.next = offset;
        Ok(())
    }

    fn out_of_range(&self, wanted: i64, start: i64, end: i64) -> SourceError {
        let (topic, partition) = (self.partition.topic.to_string(), self.partition.index);
        SourceError::OffsetOutOfRange { topic, partition, wanted, start, end }
    }

    fn damaged(&self, what: std::fmt::Arguments<'_>) -> SourceError {
        SourceError::Storage(format!("{}[{}]: the log is damaged: {what}", self.partition.topic, self.partition.index))
    }

    /// Offset of the next record that will be read.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.next
    }

    /// Offset after the last durable record.
    #[must_use]
    pub fn end(&self) -> i64 {
        self.partition.end()
    }

    /// Gives up to `records_max` records to `each`, borrowed, without waiting; a record for which it breaks was taken.
    /// Returns how many there were.
    ///
    /// # Errors
    /// The next record has been dropped meanwhile, or the log is damaged.
    pub fn read(
        &mut self,
        records_max: usize,
        each: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<usize, SourceError> {
        let mut given = 0;
        while given < records_max {
            if self.blocks.is_empty() {
                self.fetch()?;
            }
            let Some(block) = self.blocks.front() else { break };
            while self.next < block.end() && given < records_max {
                let Some((record, at)) = block.record(self.at) else {
                    return Err(self.damaged(format_args!("no record at offset {}", self.next)));
                };
                let append_ms = block.append_ms as i64;
                let flow = each(Record { offset: self.next, append_ms, key: record.key, value: record.value });
                self.at = at;
                self.next += 1;
                given += 1;
                if flow.is_break() {
                    return Ok(given);
                }
            }
            if self.next == block.end() {
                self.blocks.pop_front();
                self.at = 0;
            }
        }
        Ok(given)
    }

    /// Fetches blocks from `next` on, if there are any, and finds where `next` stands in the first.
    fn fetch(&mut self) -> Result<(), SourceError> {
        let end = self.partition.end();
        if self.next >= end {
            return Ok(());
        }
        let segments = self.partition.segments();
        let index = segments.partition_point(|segment| segment.base <= self.next);
        if index == 0 {
            return Err(self.out_of_range(self.next, self.partition.start(), end));
        }
        let (mut bytes, mut next) = (0, self.next);
        for segment in &segments[index - 1..] {
            self.fetch_segment(segment, &mut next, &mut bytes, end)?;
            if bytes >= FETCH_BYTES {
                break;
            }
        }
        let Some(first) = self.blocks.front() else {
            return Err(self.damaged(format_args!("it ends before offset {}, at {end} it should", self.next)));
        };
        self.at = 0;
        for skipped in first.base..self.next {
            let Some((_, at)) = first.record(self.at) else {
                return Err(self.damaged(format_args!("no record at offset {skipped}")));
            };
            self.at = at;
        }
        Ok(())
    }

    fn fetch_segment(
        &mut self,
        segment: &Segment,
        next: &mut i64,
        bytes: &mut usize,
        end: i64,
    ) -> Result<(), SourceError> {
        let mut from = next.to_be_bytes();
        if self.blocks.is_empty()
            && let Some(guard) = segment.blocks.range(..=from).next_back()
        {
            // The first block may begin before the offset that is wanted.
            from.copy_from_slice(&guard.key().map_err(storage)?);
        }
        for guard in segment.blocks.range(from..) {
            let (key, value) = guard.into_inner().map_err(storage)?;
            let block = Block::parse(&key, value)?;
            if block.base >= end || *bytes >= FETCH_BYTES {
                break;
            }
            if block.base > *next || block.end() <= *next {
                return Err(self.damaged(format_args!("it goes from offset {next} to a block at {}", block.base)));
            }
            *bytes += block.len();
            *next = block.end();
            self.blocks.push_back(block);
        }
        Ok(())
    }
}

/// The partitions of the log that one worker reads.
pub struct AssignedPartitions {
    log: Arc<EmbeddedLog>,
    assigned: Vec<Assigned>,
    readers: Vec<PartitionReader>,
    /// Commits seen when we last waited.
    commits: u64,
}

impl AssignedPartitions {
    /// Reads `assigned` partitions of `log`, each from its offset.
    ///
    /// # Errors
    /// There is no such partition or offset.
    pub fn new(log: Arc<EmbeddedLog>, assigned: Vec<Assigned>) -> Result<Self, SourceError> {
        let readers = assigned.iter().map(|a| log.reader(&a.topic, a.partition, a.offset));
        Ok(Self { readers: readers.collect::<Result<_, _>>()?, log, assigned, commits: 0 })
    }
}

impl PartitionedLog for AssignedPartitions {
    fn assigned(&self) -> &[Assigned] {
        &self.assigned
    }

    fn poll(
        &mut self,
        index: usize,
        records_max: usize,
        each: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Polled, SourceError> {
        // Before reading: what is appended meanwhile is not promised.
        let complete_until_ms = self.log.complete_until_ms();
        let reader = &mut self.readers[index];
        reader.read(records_max, each)?;
        Ok(if reader.position() < reader.end() {
            Polled::More
        } else {
            Polled::CaughtUp { complete_until_ms: Some(complete_until_ms) }
        })
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SourceError> {
        self.commits = self.log.wait(self.commits, timeout);
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<i64, SourceError> {
        Ok(self.readers[index].end())
    }

    fn end_known(&self, index: usize) -> Option<i64> {
        Some(self.readers[index].end())
    }
}
