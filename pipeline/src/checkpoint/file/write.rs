//! Writes a file of records, block by block.

use std::io::{self, Write};

use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::Compressor;

use super::*;
use crate::checkpoint::NodeId;
use crate::checkpoint::changes::Record;
use crate::checkpoint::storage::Upload;

/// A file that is being written.
pub(in crate::checkpoint) struct FileWriter {
    out: Box<dyn Upload>,
    compressor: Compressor<'static>,
    hash: Xxh3,
    bytes: u64,
    totals: Footer,
    /// The block that is being filled, and the same compressed.
    block: Vec<u8>,
    compressed: Vec<u8>,
    records: u32,
    /// Node of the last record in the block.
    node: Option<NodeId>,
}

/// What was written.
#[derive(Clone, Copy, Debug)]
pub(in crate::checkpoint) struct Written {
    pub(in crate::checkpoint) bytes: u64,
    pub(in crate::checkpoint) checksum: u64,
    pub(in crate::checkpoint) records: u64,
}

impl FileWriter {
    /// Begins a file with what has changed up to `checkpoint`.
    pub(in crate::checkpoint) fn begin(out: Box<dyn Upload>, checkpoint: u64) -> io::Result<Self> {
        let mut writer = Self {
            out,
            compressor: Compressor::new(ZSTD_LEVEL)?,
            hash: Xxh3::new(),
            bytes: 0,
            totals: Footer::default(),
            block: Vec::with_capacity(BLOCK_BYTES + (BLOCK_BYTES >> 3)),
            compressed: Vec::new(),
            records: 0,
            node: None,
        };
        writer.write(&header(checkpoint))?;
        Ok(writer)
    }

    /// Adds a record, which must come after all before.
    pub(in crate::checkpoint) fn push(&mut self, record: &Record<'_>) -> io::Result<()> {
        let new_node = self.node != Some(record.node);
        let deleted = record.value.is_none();
        let flags = if new_node { FLAG_NODE } else { 0 } | if deleted { FLAG_DELETED } else { 0 };
        self.block.push(flags);
        if new_node {
            self.node = Some(record.node);
            self.block.extend_from_slice(&record.node.0.to_le_bytes());
        }
        self.block.extend_from_slice(&record.route.to_le_bytes());
        put_length(&mut self.block, record.key.len());
        self.block.extend_from_slice(record.key);
        if let Some(value) = record.value {
            put_length(&mut self.block, value.len());
            self.block.extend_from_slice(value);
        }
        self.records += 1;
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    /// Ends the file, durably.
    pub(in crate::checkpoint) fn finish(mut self) -> io::Result<Written> {
        self.end_block()?;
        let checksum = self.hash.digest();
        let footer = Footer { checksum, ..self.totals };
        self.out.write_all(&footer.to_bytes())?;
        self.out.finish()?;
        Ok(Written { bytes: self.bytes + FOOTER_BYTES as u64, checksum, records: footer.records })
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let mut block = std::mem::take(&mut self.block);
        let mut compressed = std::mem::take(&mut self.compressed);
        compressed.clear();
        compressed.reserve(zstd::zstd_safe::compress_bound(block.len()));
        self.compressor.compress_to_buffer(&block, &mut compressed)?;
        let (compression, content) =
            if compressed.len() < block.len() { (ZSTD, &compressed) } else { (STORED, &block) };
        // A block has far less than 4 GiB: that of the largest record has a little over 16 MiB.
        let (stored, length) = (content.len() as u32, block.len() as u32);
        let header = BlockHeader { stored, length, records: self.records, compression, checksum: 0 };
        self.write(&header.sealed(content))?;
        self.write(content)?;
        self.totals.records += u64::from(self.records);
        self.totals.blocks += 1;
        self.totals.length += block.len() as u64;
        block.clear();
        (self.block, self.compressed, self.records, self.node) = (block, compressed, 0, None);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

/// Seven bits a byte, the least first; the highest bit says that more follow.
fn put_length(out: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}
