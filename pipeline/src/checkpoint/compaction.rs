//! Merging files of a checkpoint into fewer.
//!
//! Files are merged with the newer ones beside them once these are not much smaller, and all of them once the newer ones together
//! are as large as the oldest. So a record is written again about as many times as the state is doublings larger than a delta,
//! and all files together stay within a small multiple of the state.
//!
//! Invariant: only files next to each other are merged, and the result takes their place, so that what is newer stays newer.

use std::ops::Range;
use std::sync::Arc;

use super::archive::{Archive, FILES};
use super::file::FileWriter;
use super::merge::{Living, Merge};
use super::{CheckpointError, DataFile};

/// Files that are left alone, whatever their sizes.
const FILES_FEW: usize = 8;
/// Bytes of all files together that are not worth the work.
const BYTES_FEW: u64 = 1 << 20;
/// A file is merged with newer ones that together have this share of its size.
const SIZE_RATIO: u64 = 2;

/// Which of these files, the oldest first, should become one.
pub(super) fn choose(sizes: &[u64]) -> Option<Range<usize>> {
    let (count, total) = (sizes.len(), sizes.iter().sum::<u64>());
    if count < 2 || (count <= FILES_FEW && total < BYTES_FEW) {
        return None;
    }
    if total - sizes[0] >= sizes[0] {
        return Some(0..count);
    }
    if count <= FILES_FEW {
        return None;
    }
    // Two at least, and as many as are too many.
    let mut first = (count - 2).min(FILES_FEW - 1);
    let mut bytes: u64 = sizes[first..].iter().sum();
    while first > 0 && sizes[first - 1] <= SIZE_RATIO * bytes {
        first -= 1;
        bytes += sizes[first];
    }
    Some(first..count)
}

/// A merge to be done, by whichever thread.
pub(super) struct Compaction {
    pub(super) archive: Archive,
    /// Next to each other in the newest checkpoint.
    pub(super) files: Vec<DataFile>,
    /// Whether the oldest file is among them: then deletes have nothing left to delete.
    pub(super) base: bool,
    /// Name of the result.
    pub(super) name: String,
    /// What of the files counts.
    pub(super) living: Arc<Living>,
}

/// What a merge has made.
#[derive(Debug)]
pub(super) struct Compacted {
    /// Files whose place it takes.
    pub(super) instead_of: Vec<DataFile>,
    /// None: nothing in them counted.
    pub(super) file: Option<DataFile>,
}

impl Compaction {
    /// Merges.
    ///
    /// # Errors
    /// A file is not as it was written, or the result cannot be written.
    pub(super) fn run(self) -> Result<Compacted, CheckpointError> {
        let name = format!("{FILES}/{}", self.name);
        let place = self.archive.storage.place(&name);
        let failed = |why| CheckpointError::storage("write", place.clone(), why);
        let runs: Result<Vec<_>, _> = self.files.iter().map(|file| self.archive.run(file)).collect();
        let mut merge = Merge::new(runs?);
        let (from, to) = (self.files[0].from, self.files[self.files.len() - 1].to);
        let mut writer = None;
        while let Some((run, record)) = merge.next()? {
            let counts = self.living.counts(record.node, self.files[run].to);
            if !counts || (self.base && record.value.is_none()) {
                continue;
            }
            let writer = match &mut writer {
                Some(writer) => writer,
                none => {
                    let upload = self.archive.storage.begin(&name).map_err(failed)?;
                    none.insert(FileWriter::begin(upload, to).map_err(failed)?)
                }
            };
            writer.push(&record).map_err(failed)?;
        }
        let file = match writer {
            None => None,
            Some(writer) => {
                let written = writer.finish().map_err(failed)?;
                let (bytes, checksum, records) = (written.bytes, written.checksum, written.records);
                Some(DataFile { name: self.name, bytes, checksum, records, base: self.base, from, to })
            }
        };
        Ok(Compacted { instead_of: self.files, file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deltas of one size onto a state of another, which they do not make larger.
    fn written(state: u64, delta: u64, saves: u64) -> (f64, f64, usize) {
        let (mut files, mut bytes, mut most, mut count) = (vec![state], 0, 0, 0);
        for _ in 0..saves {
            files.push(delta);
            bytes += delta;
            while let Some(chosen) = choose(&files) {
                let merged: u64 = files[chosen.clone()].iter().sum();
                let merged = if chosen.start == 0 { state } else { merged.min(state) };
                bytes += merged;
                files.splice(chosen, [merged]);
            }
            most = most.max(files.iter().sum::<u64>());
            count = count.max(files.len());
        }
        (bytes as f64 / (delta * saves) as f64, most as f64 / state as f64, count)
    }

    #[test]
    fn what_is_written_and_kept_is_bounded() {
        let state = 1 << 30;
        for (share, writes) in [(1, 3.1), (10, 5.0), (100, 8.0), (1_000, 11.0), (10_000, 14.0)] {
            let (times, of_state, files) = written(state, state / share, 20_000);
            assert!(times < writes, "1/{share}: each byte is written {times:.1} times");
            assert!(of_state < 2.01 && files <= 9, "1/{share}: {of_state:.2} of the state in {files} files");
        }
    }

    #[test]
    fn few_bytes_in_few_files_are_left_alone() {
        assert_eq!(choose(&[]), None);
        assert_eq!(choose(&[1 << 40]), None);
        assert_eq!(choose(&[10, 20, 30]), None);
        assert_eq!(choose(&[1; 9]), Some(0..9));
        assert_eq!(choose(&[1 << 30, 1 << 20]), None);
        assert_eq!(choose(&[1 << 30, 1 << 30]), Some(0..2));
        let quarters: Vec<u64> = (0..30).map(|n| 1 << (60 - 2 * n)).collect();
        assert_eq!(choose(&quarters), Some(7..30), "their number comes down whatever their sizes");
    }
}
