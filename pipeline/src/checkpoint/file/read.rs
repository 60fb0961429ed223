//! Reads a file of records, block by block, and believes none of it.

use std::io::{self, Read};
use std::ops::Range;

use operators::error::excerpt;
use xxhash_rust::xxh3::Xxh3;
use zstd::bulk::Decompressor;

use super::*;
use crate::checkpoint::changes::Record;
use crate::checkpoint::manifest::DataFile;
use crate::checkpoint::merge::Run;
use crate::checkpoint::storage::{Storage, Upload};
use crate::checkpoint::{CheckpointError, NodeId, VERSION};

/// Bytes that are read at a time where only the checksum is wanted.
const CHECK_BYTES: usize = 256 << 10;

/// Bytes of a file in order, with their checksum and the place for messages.
struct Source {
    input: Box<dyn Read + Send>,
    path: String,
    offset: u64,
    hash: Xxh3,
    /// Bytes before the footer that were not read yet.
    left: u64,
    /// What the manifest says of the file.
    expected: DataFile,
    /// Where all that is read is copied to.
    copy: Option<Box<dyn Upload>>,
}

impl Source {
    /// Opens the file and reads its header.
    fn open(
        storage: &dyn Storage,
        folder: &str,
        expected: &DataFile,
        copy: Option<Box<dyn Upload>>,
    ) -> Result<Self, CheckpointError> {
        let name = format!("{folder}/{}", expected.name);
        let path = storage.place(&name);
        let (bytes, input) = match storage.open(&name) {
            Ok(opened) => opened,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::damaged(&path, 0, "the file is missing"));
            }
            Err(why) if why.kind() == io::ErrorKind::InvalidData => {
                return Err(CheckpointError::Foreign { path, found: why.to_string() });
            }
            Err(why) => return Err(CheckpointError::storage("read", path, why)),
        };
        let expected = expected.clone();
        let mut source = Self { input, path, offset: 0, hash: Xxh3::new(), left: bytes, expected, copy };
        source.header(bytes)?;
        if bytes != source.expected.bytes {
            let what = format!("it has {bytes} bytes instead of {}", source.expected.bytes);
            return Err(CheckpointError::damaged(&source.path, bytes.min(source.expected.bytes), what));
        }
        source.left =
            bytes.checked_sub((HEADER_BYTES + FOOTER_BYTES) as u64).ok_or_else(|| source.damaged("it is too short"))?;
        Ok(source)
    }

    fn header(&mut self, bytes: u64) -> Result<(), CheckpointError> {
        let mut header = [0; HEADER_BYTES];
        let there = HEADER_BYTES.min(usize::try_from(bytes).unwrap_or(HEADER_BYTES));
        self.fill(&mut header[..there])?;
        let known = header.iter().zip(MAGIC).take_while(|(a, b)| a == b).count();
        // A magic of which most is right was ours before it was damaged.
        if known < MAGIC.len() && known < there && header[..8].iter().zip(MAGIC).filter(|(a, b)| a == b).count() < 5 {
            let found = match there {
                0 => "it is empty".to_owned(),
                _ => format!("magic \"{}\"", excerpt(&String::from_utf8_lossy(&header[..there.min(8)]))),
            };
            return Err(CheckpointError::Foreign { path: self.path.clone(), found });
        }
        if there < HEADER_BYTES {
            return Err(CheckpointError::damaged(&self.path, bytes, format!("it ends after {bytes} bytes")));
        }
        let (said, actual) = seals(&header);
        if known < MAGIC.len() || said != actual {
            let what = format!("checksum of the header {actual:016x} instead of {said:016x}");
            return Err(CheckpointError::damaged(&self.path, 0, what));
        }
        let made = u32_at(&header, 8);
        if made != VERSION {
            return Err(CheckpointError::Version { path: self.path.clone(), made });
        }
        Ok(())
    }

    fn read_through(&mut self) -> Result<(), CheckpointError> {
        let mut buffer = vec![0; CHECK_BYTES];
        while self.left > 0 {
            let next = CHECK_BYTES.min(usize::try_from(self.left).unwrap_or(CHECK_BYTES));
            self.fill(&mut buffer[..next])?;
            self.left -= next as u64;
        }
        self.footer(None)
    }

    fn damaged(&self, what: impl Into<String>) -> CheckpointError {
        CheckpointError::damaged(&self.path, self.offset, what)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), CheckpointError> {
        self.input.read_exact(buffer).map_err(|why| match why.kind() {
            io::ErrorKind::UnexpectedEof => CheckpointError::damaged(&self.path, self.offset, "it ends here"),
            _ => CheckpointError::storage("read", self.path.clone(), why),
        })?;
        if let Some(copy) = &mut self.copy {
            copy.write_all(buffer).map_err(|why| CheckpointError::storage("copy", self.path.clone(), why))?;
        }
        self.hash.update(buffer);
        self.offset += buffer.len() as u64;
        Ok(())
    }

    /// Reads the footer, which has to say what the manifest says, and what was counted if it was.
    fn footer(&mut self, counted: Option<Footer>) -> Result<(), CheckpointError> {
        let checksum = self.hash.digest();
        let start = self.offset;
        let mut bytes = [0; FOOTER_BYTES];
        self.fill(&mut bytes)?;
        let damaged = |what: String| CheckpointError::damaged(&self.path, start, what);
        let (said, actual) = seals(&bytes);
        if &bytes[..8] != FOOTER_MAGIC || said != actual {
            return Err(damaged(format!("checksum of the footer {actual:016x} instead of {said:016x}")));
        }
        let number = |at| u64_at(&bytes, at);
        let footer = Footer { records: number(8), blocks: number(16), length: number(24), checksum: number(32) };
        if checksum != footer.checksum {
            return Err(damaged(format!("checksum of the file {checksum:016x} instead of {:016x}", footer.checksum)));
        }
        if checksum != self.expected.checksum {
            let expected = self.expected.checksum;
            return Err(damaged(format!(
                "it is another file: checksum {checksum:016x}, the manifest has {expected:016x}"
            )));
        }
        if footer.records != self.expected.records || counted.is_some_and(|c| Footer { checksum, ..c } != footer) {
            return Err(damaged("it has other totals than are in it".to_owned()));
        }
        let mut more = [0];
        match self.input.read(&mut more) {
            Ok(0) => Ok(()),
            Ok(_) => Err(CheckpointError::damaged(&self.path, self.offset, "something follows its end")),
            Err(why) => Err(CheckpointError::storage("read", self.path.clone(), why)),
        }
    }
}

/// Reads all of a file and compares it with its checksums, without taking it apart.
///
/// # Errors
/// It is not as it was written, or cannot be read.
pub(in crate::checkpoint) fn check(
    storage: &dyn Storage,
    folder: &str,
    file: &DataFile,
) -> Result<(), CheckpointError> {
    Source::open(storage, folder, file, None)?.read_through()
}

/// The same, and writes what it reads to `copy`.
///
/// # Errors
/// It is not as it was written, cannot be read, or the copy cannot be written.
pub(in crate::checkpoint) fn copy(
    storage: &dyn Storage,
    folder: &str,
    file: &DataFile,
    copy: Box<dyn Upload>,
) -> Result<(), CheckpointError> {
    let mut source = Source::open(storage, folder, file, Some(copy))?;
    source.read_through()?;
    let copy = source.copy.take().expect("it was given");
    copy.finish().map_err(|why| CheckpointError::storage("copy", source.path, why))
}

/// A file as one of the runs of a merge. It holds one block.
pub(in crate::checkpoint) struct FileRun {
    source: Source,
    decompressor: Decompressor<'static>,
    stored: Vec<u8>,
    block: Vec<u8>,
    /// Offset of the block in the file.
    start: u64,
    /// What follows in the block, and how many records that are.
    at: usize,
    left: u32,
    counted: Footer,
    /// The record that it stands at.
    current: Option<Place>,
    /// Key before the first of this block.
    before: Option<(NodeId, Vec<u8>)>,
}

/// A record in its block.
#[derive(Clone, Debug)]
struct Place {
    node: NodeId,
    route: u64,
    key: Range<usize>,
    value: Option<Range<usize>>,
}

impl FileRun {
    /// Opens a file and goes to its first record.
    pub(in crate::checkpoint) fn open(
        storage: &dyn Storage,
        folder: &str,
        file: &DataFile,
    ) -> Result<Self, CheckpointError> {
        let source = Source::open(storage, folder, file, None)?;
        let decompressor = Decompressor::new().map_err(|why| CheckpointError::storage("read", &source.path, why))?;
        let mut run = Self {
            source,
            decompressor,
            stored: Vec::new(),
            block: Vec::new(),
            start: 0,
            at: 0,
            left: 0,
            counted: Footer::default(),
            current: None,
            before: None,
        };
        run.advance()?;
        Ok(run)
    }

    fn next_block(&mut self) -> Result<(), CheckpointError> {
        let source = &mut self.source;
        self.start = source.offset;
        let damaged = |what: String| CheckpointError::damaged(&source.path, self.start, what);
        if source.left < BLOCK_HEADER_BYTES as u64 {
            return Err(damaged(format!("{} bytes are left, too few for a block", source.left)));
        }
        let mut header = [0; BLOCK_HEADER_BYTES];
        source.fill(&mut header)?;
        let damaged = |what: String| CheckpointError::damaged(&source.path, self.start, what);
        source.left -= BLOCK_HEADER_BYTES as u64;
        let header = BlockHeader::read(&header);
        let (stored, length) = (header.stored as usize, header.length as usize);
        if stored as u64 > source.left || stored > BLOCK_BYTES_MAX {
            return Err(damaged(format!("a block of {stored} bytes, where {} are left", source.left)));
        }
        let records = header.records as usize;
        if length > BLOCK_BYTES_MAX || records == 0 || records > length {
            return Err(damaged(format!("a block of {records} records in {length} bytes, {BLOCK_BYTES_MAX} at most")));
        }
        self.stored.resize(stored, 0);
        source.fill(&mut self.stored)?;
        source.left -= stored as u64;
        let damaged = |what: String| CheckpointError::damaged(&source.path, self.start, what);
        let actual = header.seal(&self.stored);
        if actual != header.checksum {
            return Err(damaged(format!("checksum of the block {actual:016x} instead of {:016x}", header.checksum)));
        }
        match header.compression {
            STORED if stored == length => std::mem::swap(&mut self.block, &mut self.stored),
            ZSTD => {
                // Not more than the frame itself says that it has, and that is checked before it is reserved.
                if zstd::zstd_safe::get_frame_content_size(&self.stored).ok().flatten() != Some(length as u64) {
                    return Err(damaged(format!("its content has not the {length} bytes that it should have")));
                }
                self.block.resize(length, 0);
                let got = self.decompressor.decompress_to_buffer(&self.stored, &mut self.block[..]);
                if !got.as_ref().is_ok_and(|got| *got == length) {
                    return Err(damaged(format!("it cannot be decompressed to {length} bytes: {got:?}")));
                }
            }
            other => return Err(damaged(format!("compression {other}, which there is not"))),
        }
        self.counted.blocks += 1;
        self.counted.records += u64::from(header.records);
        self.counted.length += length as u64;
        (self.at, self.left) = (0, header.records);
        Ok(())
    }

    /// Finds the next record in the block.
    fn next_record(&mut self) -> Option<Place> {
        let node_before = self.current.as_ref().map(|place| place.node);
        let mut at = self.at;
        let mut take = |count: usize| {
            let range = at..at.checked_add(count).filter(|end| *end <= self.block.len())?;
            at = range.end;
            Some(range)
        };
        let flags = self.block[take(1)?][0];
        if flags & !(FLAG_NODE | FLAG_DELETED) != 0 {
            return None;
        }
        let node = match flags & FLAG_NODE {
            0 => node_before?,
            _ => NodeId(u64_at(&self.block, take(8)?.start)),
        };
        let route = u64_at(&self.block, take(8)?.start);
        let mut length = |most: usize| {
            let mut length = 0;
            for shift in [0, 7, 14, 21, 28] {
                let byte = self.block[take(1)?][0];
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    return take(Some(length).filter(|length| *length <= most)?);
                }
            }
            None
        };
        let key = length(KEY_BYTES_MAX)?;
        let value = match flags & FLAG_DELETED {
            0 => Some(length(VALUE_BYTES_MAX)?),
            _ => None,
        };
        self.at = at;
        Some(Place { node, route, key, value })
    }

    /// Whether a record comes after the one before.
    fn ascends(&self, next: &Place) -> bool {
        let before = match &self.current {
            Some(place) => Some((place.node, &self.block[place.key.clone()])),
            None => self.before.as_ref().map(|(node, key)| (*node, key.as_slice())),
        };
        before.is_none_or(|before| before < (next.node, &self.block[next.key.clone()]))
    }
}

impl Run for FileRun {
    fn record(&self) -> Option<Record<'_>> {
        let place = self.current.as_ref()?;
        let value = place.value.clone().map(|value| &self.block[value]);
        Some(Record { node: place.node, route: place.route, key: &self.block[place.key.clone()], value })
    }

    fn advance(&mut self) -> Result<(), CheckpointError> {
        if self.left == 0 {
            let damaged = |what: &str| Err(CheckpointError::damaged(&self.source.path, self.start, what));
            if self.at != self.block.len() {
                return damaged("a block has more bytes than records");
            }
            if let Some(last) = self.current.take() {
                let mut key = self.before.take().map_or_else(Vec::new, |(_, key)| key);
                key.clear();
                key.extend_from_slice(&self.block[last.key]);
                self.before = Some((last.node, key));
            }
            if self.source.left == 0 {
                return self.source.footer(Some(self.counted));
            }
            self.next_block()?;
        }
        let Some(next) = self.next_record().filter(|next| self.ascends(next)) else {
            let at = self.at;
            let what = format!("no record in its place at byte {at} of the block's content");
            return Err(CheckpointError::damaged(&self.source.path, self.start, what));
        };
        self.left -= 1;
        self.current = Some(next);
        Ok(())
    }
}
