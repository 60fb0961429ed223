//! Which files there are: read once from their names, then kept up to date.
//!
//! Invariant: the index lists no file whose rows are in another one too, and never gives up the newest file of a worker,
//! which tells how far that worker's rows are written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use metrics::{counter, gauge};
use operators::history_file::{Name, current};
use operators::time::Tick;
use tracing::{info, warn};

use super::file::UNFINISHED;
use super::{Table, remove};
use crate::metrics::Metric;

/// Of files that are put together the largest has at most so many times the bytes of the smallest: a file that was put
/// together before is not taken again for each few small ones after it.
const ALIKE: u64 = 8;

/// A file of the history.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) stream: &'static str,
    pub(super) folder: PathBuf,
    pub(super) name: Name,
    pub(super) bytes: u64,
    /// It could not be read when it was to be put together with others.
    damaged: bool,
}

impl Entry {
    pub(super) fn path(&self) -> PathBuf {
        self.folder.join(self.name.to_string())
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    entries: Vec<Entry>,
}

impl Index {
    /// Reads the names, and tidies up after a process that ended in the middle of something.
    pub(super) fn read(directory: &Path, tables: &[Table]) -> io::Result<Index> {
        let mut index = Index::default();
        for table in tables {
            let above = directory.join(table.stream);
            if !above.is_dir() {
                continue;
            }
            for folder in fs::read_dir(&above)? {
                let folder = folder?.path();
                if folder.is_dir() {
                    index.read_folder(table.stream, &folder)?;
                }
            }
        }
        index.show();
        let files = index.entries.len();
        let bytes = index.bytes();
        info!(files, bytes, directory = %directory.display(), "history is open");
        Ok(index)
    }

    fn read_folder(&mut self, stream: &'static str, folder: &Path) -> io::Result<()> {
        let (mut names, mut sizes) = (Vec::new(), BTreeMap::new());
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            let text = entry.file_name().to_string_lossy().into_owned();
            if text.ends_with(UNFINISHED) {
                remove(&[path]);
                continue;
            }
            let Some(name) = Name::parse(&text) else { continue };
            if is_whole(&path)? {
                sizes.insert(text, entry.metadata()?.len());
                names.push(name);
            } else {
                warn!(file = %path.display(), "history file is damaged and set aside as .damaged; its rows are lost");
                fs::rename(&path, path.with_extension("damaged"))?;
            }
        }
        let kept = current(names.clone(), |name| *name);
        let superseded: Vec<PathBuf> =
            names.iter().filter(|name| !kept.contains(name)).map(|name| folder.join(name.to_string())).collect();
        remove(&superseded);
        for name in kept {
            let bytes = sizes.get(&name.to_string()).copied().unwrap_or(0);
            self.entries.push(Entry { stream, folder: folder.to_owned(), name, bytes, damaged: false });
        }
        Ok(())
    }

    /// The first tick that this worker of so many has not written.
    pub(super) fn applied(&self, stream: &str, worker: usize, workers: usize) -> Option<Tick> {
        let mine =
            |entry: &&Entry| entry.stream == stream && (entry.name.worker, entry.name.workers) == (worker, workers);
        self.entries.iter().filter(mine).map(|entry| entry.name.upto).max()
    }

    /// Files of another number of workers that may hold rows with ticks in `first..=last`.
    pub(super) fn others(&self, stream: &str, workers: usize, first: Tick, last: Tick) -> Vec<PathBuf> {
        let other = |entry: &&Entry| {
            let name = entry.name;
            entry.stream == stream && name.workers != workers && name.from <= last && first < name.upto
        };
        self.entries.iter().filter(other).map(Entry::path).collect()
    }

    /// A file was written.
    pub(super) fn add(&mut self, stream: &'static str, folder: PathBuf, name: Name, bytes: u64) {
        self.entries.retain(|entry| !(entry.stream == stream && entry.folder == folder && entry.name == name));
        self.entries.push(Entry { stream, folder, name, bytes, damaged: false });
        self.show();
    }

    /// Files of one worker and day that follow on each other, to be put together: so many of about one size, or any if
    /// there are very many.
    pub(super) fn group(&self, files: usize, bytes_max: u64) -> Option<Vec<Entry>> {
        let files = files.max(2);
        let mut lanes: BTreeMap<(&Path, usize, usize), Vec<&Entry>> = BTreeMap::new();
        for entry in &self.entries {
            let lane = (entry.folder.as_path(), entry.name.workers, entry.name.worker);
            lanes.entry(lane).or_default().push(entry);
        }
        lanes.into_values().find_map(|mut lane| {
            lane.sort_unstable_by_key(|entry| entry.name.from);
            let alike = |least: u64, most: u64| most <= least.saturating_mul(ALIKE);
            let any = |_, _| lane.len() > 4 * files;
            let run = run(&lane, files, bytes_max, alike).or_else(|| run(&lane, files, bytes_max, any));
            run.map(|run| run.iter().map(|&entry| entry.clone()).collect())
        })
    }

    /// `merged` holds the rows of these entries now; they are listed no more.
    pub(super) fn replace(&mut self, group: &[Entry], merged: Name, bytes: u64) {
        let Some(first) = group.first() else { return };
        let gone = |entry: &Entry| group.iter().any(|one| one.folder == entry.folder && one.name == entry.name);
        self.entries.retain(|entry| !gone(entry));
        let (stream, folder) = (first.stream, first.folder.clone());
        self.entries.push(Entry { stream, folder, name: merged, bytes, damaged: false });
        self.show();
    }

    /// One of these entries cannot be read: none is tried again before the next start.
    pub(super) fn spare(&mut self, group: &[Entry]) {
        for entry in &mut self.entries {
            entry.damaged |= group.iter().any(|one| one.folder == entry.folder && one.name == entry.name);
        }
    }

    /// Gives up the oldest files beyond so many bytes, and returns them to be removed.
    pub(super) fn retain(&mut self, bytes_max: u64) -> Vec<PathBuf> {
        let mut bytes = self.bytes();
        if bytes <= bytes_max {
            return Vec::new();
        }
        self.entries.sort_by_key(|entry| std::cmp::Reverse(entry.name.upto));
        let (mut removed, mut newest) = (Vec::new(), std::collections::BTreeSet::new());
        let protected: Vec<bool> = self
            .entries
            .iter()
            .map(|entry| newest.insert((entry.stream, entry.name.workers, entry.name.worker)))
            .collect();
        for index in (0..self.entries.len()).rev() {
            if bytes > bytes_max && !protected[index] {
                let entry = self.entries.remove(index);
                bytes -= entry.bytes;
                counter!(Metric::ParquetBytesRemoved.name(), "stream" => entry.stream).increment(entry.bytes);
                removed.push(entry.path());
            }
        }
        self.show();
        removed
    }

    fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }

    fn show(&self) {
        let mut streams: BTreeMap<&'static str, u64> = BTreeMap::new();
        for entry in &self.entries {
            *streams.entry(entry.stream).or_default() += entry.bytes;
        }
        for (stream, bytes) in streams {
            gauge!(Metric::ParquetBytes.name(), "stream" => stream).set(bytes as f64);
        }
    }
}

/// The first so many neighbours whose sizes, the least and the most of them, fit together.
fn run<'a, 'b>(
    lane: &'b [&'a Entry],
    files: usize,
    bytes_max: u64,
    fit: impl Fn(u64, u64) -> bool,
) -> Option<&'b [&'a Entry]> {
    let small = |entry: &Entry| !entry.damaged && entry.bytes < bytes_max;
    let mut start = 0;
    for end in 1..=lane.len() {
        if !small(lane[end - 1]) {
            start = end;
            continue;
        }
        let sizes = |start: usize| lane[start..end].iter().map(|entry| entry.bytes);
        while start + 1 < end && !fit(sizes(start).min().unwrap_or(0), sizes(start).max().unwrap_or(0)) {
            start += 1;
        }
        let enough = end - start >= files || (end - start > 1 && sizes(start).sum::<u64>() >= bytes_max);
        if enough {
            return Some(&lane[start..end]);
        }
    }
    None
}

/// Whether the file begins and ends as Parquet does: a disk may have lost what it said it had.
fn is_whole(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length < 12 {
        return Ok(false);
    }
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let footer = u64::from(u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]));
    Ok(&head == b"PAR1" && &tail[4..] == b"PAR1" && footer + 12 <= length)
}
