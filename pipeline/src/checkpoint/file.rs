//! The format of a file with records, version 1.
//!
//! ```text
//! header  32 bytes: magic, version u32, 0 u32, checkpoint u64, checksum u64 of what is before it
//! block   24 bytes: stored length u32, length u32, records u32, compression u32 (0 none, 1 zstd), checksum u64 of these 16 bytes
//!                   and what is stored; then what is stored: records in ascending order of node and key
//! …
//! footer  48 bytes: magic, records u64, blocks u64, length of all blocks u64, checksum u64 of all before the footer,
//!                   checksum u64 of what is before it in the footer
//! record  flags u8 (1: node follows, 2: deleted), node u64, route u64, length of the key, key, length of the value, value
//! ```
//! Numbers are little-endian, lengths in records are LEB128. All versions have magic, version and checksum of the header in the
//! same places.
//!
//! Invariant: memory is reserved for a length only after it was checked against a limit, and against the bytes that are there.

mod read;
mod write;

pub(super) use read::{FileRun, check, copy};
pub(super) use write::FileWriter;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::changes::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

const MAGIC: &[u8; 8] = b"HAULCKPT";
const FOOTER_MAGIC: &[u8; 8] = b"HAULCEND";
const HEADER_BYTES: usize = 32;
const BLOCK_HEADER_BYTES: usize = 24;
const FOOTER_BYTES: usize = 48;
/// Bytes of records after which a block is written.
const BLOCK_BYTES: usize = 128 << 10;
/// Most bytes of a record beside key and value.
const RECORD_HEAD_BYTES_MAX: usize = 1 + 8 + 8 + 5 + 5;
/// Most bytes of a block: one that was nearly full when the largest record came.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + RECORD_HEAD_BYTES_MAX + KEY_BYTES_MAX + VALUE_BYTES_MAX;
const STORED: u32 = 0;
const ZSTD: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

const FLAG_NODE: u8 = 1;
const FLAG_DELETED: u8 = 2;

fn header(checkpoint: u64) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&super::VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&checkpoint.to_le_bytes());
    seal(&mut header);
    header
}

/// What a block says of itself.
#[derive(Clone, Copy, Debug)]
struct BlockHeader {
    stored: u32,
    length: u32,
    records: u32,
    compression: u32,
    checksum: u64,
}

impl BlockHeader {
    fn sealed(mut self, content: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        self.checksum = self.seal(content);
        let mut bytes = [0; BLOCK_HEADER_BYTES];
        bytes[..16].copy_from_slice(&self.head());
        bytes[16..].copy_from_slice(&self.checksum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8; BLOCK_HEADER_BYTES]) -> Self {
        let number = |at| u32_at(bytes, at);
        let checksum = u64_at(bytes, 16);
        Self { stored: number(0), length: number(4), records: number(8), compression: number(12), checksum }
    }

    fn head(&self) -> [u8; 16] {
        let mut head = [0; 16];
        for (at, number) in [self.stored, self.length, self.records, self.compression].into_iter().enumerate() {
            head[at * 4..at * 4 + 4].copy_from_slice(&number.to_le_bytes());
        }
        head
    }

    fn seal(&self, content: &[u8]) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&self.head());
        hash.update(content);
        hash.digest()
    }
}

/// What a file says of itself at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Footer {
    records: u64,
    blocks: u64,
    length: u64,
    checksum: u64,
}

impl Footer {
    fn to_bytes(self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[..8].copy_from_slice(FOOTER_MAGIC);
        for (at, number) in [self.records, self.blocks, self.length, self.checksum].into_iter().enumerate() {
            bytes[8 + at * 8..16 + at * 8].copy_from_slice(&number.to_le_bytes());
        }
        seal(&mut bytes);
        bytes
    }
}

/// Writes the checksum of what is before its last eight bytes into them.
fn seal(bytes: &mut [u8]) {
    let at = bytes.len() - 8;
    let checksum = xxh3_64(&bytes[..at]);
    bytes[at..].copy_from_slice(&checksum.to_le_bytes());
}

/// The checksum in its last eight bytes, and the one that should be there.
fn seals(bytes: &[u8]) -> (u64, u64) {
    let at = bytes.len() - 8;
    (u64_at(bytes, at), xxh3_64(&bytes[..at]))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
