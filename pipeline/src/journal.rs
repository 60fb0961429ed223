//! The journal of ticks that records would not get again (see [`sources::reader::Journal`]), in files beside the checkpoints.
//!
//! Invariant: an entry is with the system before its record goes on, so it outlives the process however that ends. As with the records of a Kafka
//! broker, a machine that loses its power may lose the last of them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use operators::time::Tick;
use sources::SourceError;
use sources::reader::{Journal, Ticks};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of an entry: its topic's hash, partition, offset, tick, and a checksum of these.
const ENTRY: usize = 8 + 4 + 8 + 8 + 4;
/// Bytes of a file that are read: more than any journal between two checkpoints.
const FILE_BYTES_MAX: u64 = 1 << 30;
const ENDING: &str = "journal";

/// The journal of one start of the program.
pub struct TickJournal {
    directory: PathBuf,
    generation: u64,
    files: Mutex<Files>,
}

struct Files {
    open: Option<File>,
    /// Number of the newest file.
    number: u64,
    /// The newest tick in it.
    newest: Tick,
    /// Files that are written no more, with their newest ticks.
    closed: Vec<(PathBuf, Tick)>,
}

impl TickJournal {
    /// A journal of the start with this number in a directory, which is made if it is missing; and what earlier ones have there of
    /// these topics.
    ///
    /// # Errors
    /// The directory cannot be made or read.
    pub fn open(directory: &Path, generation: u64, topics: &[String]) -> io::Result<(Self, Ticks)> {
        std::fs::create_dir_all(directory)?;
        let mut found: Vec<PathBuf> =
            std::fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        found.retain(|path| path.extension().is_some_and(|ending| ending == ENDING));
        found.sort();
        let mut ticks = Ticks::new();
        let mut closed = Vec::new();
        for path in found {
            let newest = read(&path, topics, &mut ticks)?;
            closed.push((path, newest));
        }
        let files = Files { open: None, number: 0, newest: 0, closed };
        Ok((Self { directory: directory.to_owned(), generation, files: Mutex::new(files) }, ticks))
    }

    /// Drops files in which nothing is of this tick or later; new entries go to another file.
    pub fn forget(&self, before: Tick) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.open.take().is_some() {
            let (path, newest) = (self.path(files.number), files.newest);
            files.closed.push((path, newest));
        }
        files.closed.retain(|(path, newest)| {
            // One that cannot be removed is tried again with the next checkpoint.
            *newest >= before || std::fs::remove_file(path).is_err_and(|why| why.kind() != io::ErrorKind::NotFound)
        });
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{:010}-{number:010}.{ENDING}", self.generation))
    }

    fn write(&self, entries: &[u8], newest: Tick) -> io::Result<()> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if files.open.is_none() {
            files.number += 1;
            let file = OpenOptions::new().create_new(true).append(true).open(self.path(files.number))?;
            (files.open, files.newest) = (Some(file), 0);
        }
        files.newest = files.newest.max(newest);
        files.open.as_mut().map_or(Ok(()), |file| file.write_all(entries))
    }
}

impl Journal for TickJournal {
    fn note(&self, topic: &str, partition: i32, ticks: &[(i64, Tick)]) -> Result<(), SourceError> {
        let topic = xxh3_64(topic.as_bytes());
        let mut entries = Vec::with_capacity(ticks.len() * ENTRY);
        for (offset, tick) in ticks {
            let start = entries.len();
            entries.extend_from_slice(&topic.to_le_bytes());
            entries.extend_from_slice(&partition.to_le_bytes());
            entries.extend_from_slice(&offset.to_le_bytes());
            entries.extend_from_slice(&tick.to_le_bytes());
            let sum = xxh3_64(&entries[start..]) as u32;
            entries.extend_from_slice(&sum.to_le_bytes());
        }
        let newest = ticks.iter().map(|(_, tick)| *tick).max().unwrap_or(0);
        self.write(&entries, newest).map_err(|why| {
            let place = self.directory.display();
            SourceError::Storage(format!("the journal in {place} cannot be written: {why}"))
        })
    }
}

/// Reads a file up to the first entry that is not whole: the process ended while it was written, and its record went no further.
fn read(path: &Path, topics: &[String], ticks: &mut Ticks) -> io::Result<Tick> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut newest = 0;
    for entry in bytes.chunks_exact(ENTRY) {
        let (body, sum) = entry.split_at(ENTRY - 4);
        if sum != (xxh3_64(body) as u32).to_le_bytes() {
            break;
        }
        let number = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        let partition = i32::from_le_bytes(body[8..12].try_into().expect("four bytes"));
        newest = newest.max(number(20));
        if let Some(topic) = topics.iter().find(|topic| xxh3_64(topic.as_bytes()) == number(0)) {
            ticks.entry((topic.clone(), partition)).or_default().insert(number(12) as i64, number(20));
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_outlive_the_process_until_a_checkpoint_has_them() {
        let directory = tempfile::tempdir().unwrap();
        let topics = ["a".to_owned(), "b".to_owned()];
        let open = |generation| TickJournal::open(directory.path(), generation, &topics).unwrap();
        let (journal, ticks) = open(1);
        assert!(ticks.is_empty());
        journal.note("a", 3, &[(7, 100), (9, 120)]).unwrap();
        journal.note("unknown", 0, &[(1, 100)]).unwrap();
        journal.forget(110);
        journal.note("b", -1, &[(i64::MAX, 200)]).unwrap();
        drop(journal);
        let (journal, ticks) = open(2);
        let expected = Ticks::from([
            (("a".to_owned(), 3), [(7, 100), (9, 120)].into()),
            (("b".to_owned(), -1), [(i64::MAX, 200)].into()),
        ]);
        assert_eq!(ticks, expected);
        journal.forget(121);
        assert_eq!(open(3).1.len(), 1);
        journal.forget(201);
        assert!(open(4).1.is_empty());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_entry_that_was_cut_off_or_changed_ends_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let topics = ["a".to_owned()];
        let (journal, _) = TickJournal::open(directory.path(), 1, &topics).unwrap();
        journal.note("a", 0, &[(1, 10), (2, 20), (3, 30)]).unwrap();
        let path = journal.path(1);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            std::fs::write(&path, &whole[..at]).unwrap();
            let mut ticks = Ticks::new();
            read(&path, &topics, &mut ticks).unwrap();
            assert_eq!(ticks.values().map(std::collections::BTreeMap::len).sum::<usize>(), at / ENTRY);
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let mut ticks = Ticks::new();
            read(&path, &topics, &mut ticks).unwrap();
            assert_eq!(ticks.values().map(std::collections::BTreeMap::len).sum::<usize>(), at / ENTRY);
        }
    }
}
