//! A block: the records of one commit in one partition, stored under one key. All records of a block have one append time,
//! and their offsets follow each other from the block's base.

use crate::SourceError;
use crate::publish::{Record, split};

/// Version of the layout.
const VERSION: u8 = 1;
/// Bytes before the records: version, three zeros, count, append time, bytes of the log before this block.
const HEAD: usize = 24;

/// Collects the records of one partition into blocks.
#[derive(Debug)]
pub(super) struct BlockBuilder {
    block_bytes_max: usize,
    append_ms: u64,
    /// Offset of the next record.
    pub(super) next: i64,
    /// Bytes of the partition's log so far, ever.
    pub(super) log_bytes: u64,
    base: i64,
    block: Vec<u8>,
    /// Finished blocks by the offset of their first record.
    pub(super) blocks: Vec<(i64, Vec<u8>)>,
}

impl BlockBuilder {
    pub(super) fn new(next: i64, log_bytes: u64, append_ms: u64, block_bytes_max: usize) -> Self {
        Self { block_bytes_max, append_ms, next, log_bytes, base: next, block: Vec::new(), blocks: Vec::new() }
    }

    /// Adds `count` records in the raw form that [`split`] reads; returns the offset of the first.
    pub(super) fn push(&mut self, mut records: &[u8], count: u32) -> i64 {
        let first = self.next;
        if self.block.len().max(HEAD) + records.len() <= self.block_bytes_max {
            self.append(records, count);
            return first;
        }
        while let Some((_, raw, rest)) = split(records) {
            if !self.block.is_empty() && self.block.len() + raw.len() > self.block_bytes_max {
                self.cut();
            }
            self.append(raw, 1);
            records = rest;
        }
        first
    }

    fn append(&mut self, raw: &[u8], count: u32) {
        if self.block.is_empty() {
            self.block.resize(HEAD, 0);
        }
        self.block.extend_from_slice(raw);
        self.next += i64::from(count);
    }

    /// Ends the current block.
    pub(super) fn cut(&mut self) {
        if self.block.is_empty() {
            return;
        }
        let mut block = std::mem::take(&mut self.block);
        let count = (self.next - self.base) as u32;
        block[0] = VERSION;
        block[4..8].copy_from_slice(&count.to_le_bytes());
        block[8..16].copy_from_slice(&self.append_ms.to_le_bytes());
        block[16..HEAD].copy_from_slice(&self.log_bytes.to_le_bytes());
        self.log_bytes += block.len() as u64;
        self.blocks.push((self.base, block));
        self.base = self.next;
    }
}

/// A stored block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Offset of the first record.
    pub(super) base: i64,
    /// Number of records.
    pub(super) count: u32,
    /// When the records were appended.
    pub(super) append_ms: u64,
    /// Bytes of the partition's log before this block.
    pub(super) log_bytes: u64,
    bytes: fjall::Slice,
}

impl Block {
    /// Reads the head of a stored block.
    pub(super) fn parse(key: &[u8], bytes: fjall::Slice) -> Result<Self, SourceError> {
        let damaged = |what: &str| SourceError::Storage(format!("a block of the log is damaged: {what}"));
        let base = key.try_into().map(i64::from_be_bytes).map_err(|_| damaged("its key is not an offset"))?;
        let head: &[u8; HEAD] = bytes.first_chunk().ok_or_else(|| damaged("it is shorter than its head"))?;
        if head[0] != VERSION {
            return Err(damaged(&format!("version {} at offset {base}, this build reads {VERSION}", head[0])));
        }
        let long = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&head[at..at + 8]);
            u64::from_le_bytes(word)
        };
        let count = (long(0) >> 32) as u32;
        let (append_ms, log_bytes) = (long(8), long(16));
        Ok(Self { base, count, append_ms, log_bytes, bytes })
    }

    /// Offset after the last record.
    pub(super) fn end(&self) -> i64 {
        self.base + i64::from(self.count)
    }

    /// Bytes of the partition's log up to the end of this block.
    pub(super) fn log_bytes_end(&self) -> u64 {
        self.log_bytes + self.bytes.len() as u64
    }

    /// Bytes of the block.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The record that stands `at` bytes behind the head, and where the next one stands; `None` if there is no whole record.
    pub(super) fn record(&self, at: usize) -> Option<(Record<'_>, usize)> {
        let (record, raw, _) = split(self.bytes.get(HEAD + at..)?)?;
        Some((record, at + raw.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::Records;

    fn built(values: &[Vec<u8>], block_bytes_max: usize, at_once: bool) -> Vec<Block> {
        let mut builder = BlockBuilder::new(7, 100, 55, block_bytes_max);
        let mut all = Records::default();
        for value in values {
            let mut one = Records::default();
            one.push(None, Some(value));
            all.push(None, Some(value));
            if !at_once {
                builder.push(one.as_bytes(), 1);
            }
        }
        if at_once {
            assert_eq!(builder.push(all.as_bytes(), values.len() as u32), 7);
        }
        builder.cut();
        let parsed =
            |(base, bytes): &(i64, Vec<u8>)| Block::parse(&base.to_be_bytes(), bytes.as_slice().into()).unwrap();
        builder.blocks.iter().map(parsed).collect()
    }

    proptest::proptest! {
        /// However records come in, blocks hold all of them, in order, within the limit, and count the log's bytes.
        #[test]
        fn blocks_hold_what_was_pushed(
            values in proptest::collection::vec(proptest::collection::vec(0u8..255, 0..200), 1..50),
            block_bytes_max in 30usize..1_000,
            at_once: bool,
        ) {
            let blocks = built(&values, block_bytes_max, at_once);
            let (mut next, mut bytes, mut found) = (7, 100, Vec::new());
            for block in &blocks {
                assert_eq!((block.base, block.log_bytes, block.append_ms), (next, bytes, 55));
                assert!(block.len() <= block_bytes_max || block.count == 1);
                let mut at = 0;
                for _ in 0..block.count {
                    let (record, behind) = block.record(at).unwrap();
                    found.push(record.value.unwrap().to_vec());
                    at = behind;
                }
                assert_eq!(block.record(at), None);
                next += i64::from(block.count);
                assert_eq!(block.end(), next);
                bytes = block.log_bytes_end();
            }
            assert_eq!(found, values);
        }

        /// No bytes make the reader panic.
        #[test]
        fn damaged_blocks_are_errors(bytes in proptest::collection::vec(0u8..255, 0..100), count in 0u8..4) {
            let mut bytes = bytes;
            if bytes.len() > 8 {
                bytes[0] = VERSION;
                bytes[4..8].copy_from_slice(&[count, 0, 0, 0]);
            }
            if let Ok(block) = Block::parse(&0i64.to_be_bytes(), bytes.as_slice().into()) {
                let mut at = 0;
                while let Some((_, behind)) = block.record(at) {
                    assert!(behind > at);
                    at = behind;
                }
            }
        }
    }
}
