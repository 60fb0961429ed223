//! History as Parquet files: `DIRECTORY/STREAM/date=YYYY-MM-DD/FROM-UPTO-WORKERofWORKERS.parquet`, the date that of the rows'
//! ticks in UTC.
//!
//! Invariant: a file that can be seen is whole and never changes; its name says of which ticks it holds every row of its
//! worker. Where one file's ticks lie within those of another of the same worker, its rows are in that other one and it is
//! about to be removed: readers leave it out.

mod file;
mod index;
mod known;
mod merge;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use metrics::counter;
use operators::batch::INTERNAL;
use operators::history_file::Name;
use operators::time::Tick;
use serde::Deserialize;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::metrics::Metric;
use crate::run::{tick_range, ticks};
use crate::step::{Sink, SinkError, Step};
use index::Index;
use merge::Merge;

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// How files are written and kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Directory that holds a directory for each stream; made if it is missing. Configured with the process's data.
    #[serde(skip)]
    pub directory: PathBuf,
    /// Files that follow on each other, one worker's of one day, that are put together into one.
    pub merge_files: usize,
    /// Bytes from which a file is not put together with others any more.
    pub file_bytes_max: u64,
    /// Bytes of all files; the oldest are removed beyond it, but never a worker's newest.
    pub retention_bytes_max: u64,
    /// Rows that a reader takes or leaves at once.
    pub row_group_rows_max: usize,
}

/// A stream that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name of the stream, and of its directory.
    pub stream: &'static str,
    /// Columns that tell its rows apart, by which those are recognised that another number of workers had written.
    /// Empty for a table: readers take the newest version of a key, however often it is there.
    pub identity: &'static [&'static str],
}

/// The sink.
pub struct ParquetSink {
    options: Options,
    workers: usize,
    tables: Vec<Table>,
    index: Arc<Mutex<Index>>,
    /// Held while this process writes to the directory.
    lock: Option<Arc<Lock>>,
    merging: Option<JoinHandle<()>>,
}

impl ParquetSink {
    /// A sink for the streams of `tables` from this many workers.
    #[must_use]
    pub fn new(options: Options, workers: usize, tables: Vec<Table>) -> Self {
        Self { options, workers, tables, index: Arc::default(), lock: None, merging: None }
    }

    fn failed(&self, what: &str, error: &io::Error) -> SinkError {
        let target = format!("history in {}", self.options.directory.display());
        let why = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::NotADirectory => {
                SinkError::Refused { target, why: format!("{why}; let this user write there") }
            }
            _ => SinkError::Unavailable { target, why },
        }
    }

    /// Puts files together beside the writing, one group at a time.
    fn merge(&mut self) {
        if self.merging.as_ref().is_some_and(|merging| !merging.is_finished()) {
            return;
        }
        let Some(lock) = self.lock.clone() else { return };
        let group = locked(&self.index).group(self.options.merge_files, self.options.file_bytes_max);
        let Some(group) = group else { return };
        let merge = Merge { index: self.index.clone(), group, options: self.options.clone(), lock };
        self.merging = Some(tokio::task::spawn_blocking(move || merge.run()));
    }
}

/// The index is consistent between any two of its calls, so a thread that panicked left it so.
fn locked(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink for ParquetSink {
    fn name(&self) -> &'static str {
        "parquet"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        let (directory, held) = (self.options.directory.clone(), self.lock.clone());
        let tables = self.tables.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let lock = match held {
                Some(lock) => lock,
                None => Arc::new(Lock::new(&directory)?),
            };
            Ok((lock, Index::read(&directory, &tables)?))
        });
        let opened: io::Result<_> = opened.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (lock, index) = opened.map_err(|error| self.failed("cannot be opened", &error))?;
        self.lock = Some(lock);
        *locked(&self.index) = index;
        Ok(())
    }

    async fn applied(&mut self, stream: &'static str, worker: usize) -> Result<Option<Tick>, SinkError> {
        Ok(locked(&self.index).applied(stream, worker, self.workers))
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        let Some(table) = self.tables.iter().find(|table| table.stream == step.stream).copied() else {
            let target = format!("history in {}", self.options.directory.display());
            return Err(SinkError::Refused { target, why: format!("no table for stream {}", step.stream) });
        };
        let write = Write {
            table,
            worker: step.worker,
            workers: self.workers,
            upto: step.upto,
            rows: step.rows.iter().map(|rows| rows.batch().clone()).collect(),
            index: self.index.clone(),
            options: self.options.clone(),
        };
        let written = tokio::task::spawn_blocking(move || write.run()).await;
        let written = written.unwrap_or_else(|error| Err(io::Error::other(error)));
        written.map_err(|error| self.failed(&format!("stream {}", step.stream), &error))?;
        self.merge();
        Ok(())
    }
}

/// Says that a process writes to a directory, as long as it is held.
struct Lock(File);

impl Lock {
    fn new(directory: &Path) -> io::Result<Lock> {
        fs::create_dir_all(directory)?;
        let file = File::create(directory.join(".lock"))?;
        file.try_lock().map_err(|_| io::Error::new(io::ErrorKind::ResourceBusy, "another process writes to it"))?;
        Ok(Lock(file))
    }
}

impl Drop for Lock {
    /// Closing the file is not enough: a process that is being started has it open too, until its own program begins.
    fn drop(&mut self) {
        // Nothing is lost if it fails: the file is closed next.
        let _ = self.0.unlock();
    }
}

/// The writing of one step, off the runtime's threads.
struct Write {
    table: Table,
    worker: usize,
    workers: usize,
    upto: Tick,
    rows: Vec<RecordBatch>,
    index: Arc<Mutex<Index>>,
    options: Options,
}

impl Write {
    /// One file a day, in the order of the days: what is there of a step after a crash are its first days, and its names
    /// say so.
    fn run(self) -> io::Result<()> {
        let rows = self.unknown()?;
        let Some((first, last)) = range(&rows) else { return Ok(()) };
        for day in days(&rows, first, last) {
            let (begin, end) = (day * DAY_MS, (day + 1) * DAY_MS);
            let rows: Vec<RecordBatch> = rows.iter().filter_map(|rows| within(rows, begin, end)).collect();
            let Some((from, _)) = range(&rows) else { continue };
            let upto = if last < end { self.upto } else { end };
            let name = Name { from, upto, worker: self.worker, workers: self.workers };
            let folder = self.options.directory.join(self.table.stream).join(file::date(begin));
            let bytes = file::write(&folder, name, self.options.row_group_rows_max, rows.into_iter().map(Ok))?;
            counter!(Metric::ParquetFiles.name(), "stream" => self.table.stream).increment(1);
            let mut index = locked(&self.index);
            index.add(self.table.stream, folder, name, bytes);
            let removed = index.retain(self.options.retention_bytes_max);
            drop(index);
            remove(&removed);
        }
        Ok(())
    }

    /// The rows without those that files of another number of workers have, and without the columns that are not kept.
    fn unknown(&self) -> io::Result<Vec<RecordBatch>> {
        let rows: Vec<RecordBatch> = self.rows.iter().map(kept_columns).collect();
        let Some((first, last)) = range(&rows).filter(|_| !self.table.identity.is_empty()) else { return Ok(rows) };
        let others = locked(&self.index).others(self.table.stream, self.workers, first, last);
        if others.is_empty() {
            return Ok(rows);
        }
        known::without(rows, &others, self.table.identity)
    }
}

/// Removes files that the index has given up; one that cannot be removed now is at the next start.
fn remove(files: &[PathBuf]) {
    for file in files {
        if let Err(error) = fs::remove_file(file)
            && error.kind() != io::ErrorKind::NotFound
        {
            warn!(file = %file.display(), %error, "history file cannot be removed");
        }
    }
}

fn kept_columns(rows: &RecordBatch) -> RecordBatch {
    let fields = rows.schema_ref().fields();
    let kept = |column: &usize| !INTERNAL.contains(&fields[*column].name().as_str());
    rows.project(&(0..fields.len()).filter(kept).collect::<Vec<_>>()).expect("columns of this batch")
}

/// First and last tick of rows, if there are any.
fn range(rows: &[RecordBatch]) -> Option<(Tick, Tick)> {
    let ranges = rows.iter().filter(|rows| rows.num_rows() > 0).map(tick_range);
    ranges.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
}

/// The days of the rows, ascending.
fn days(rows: &[RecordBatch], first: Tick, last: Tick) -> BTreeSet<u64> {
    if first / DAY_MS == last / DAY_MS {
        return BTreeSet::from([first / DAY_MS]);
    }
    rows.iter().flat_map(|rows| ticks(rows).values().iter().map(|tick| tick / DAY_MS)).collect()
}

/// The rows with ticks in `begin..end`.
fn within(rows: &RecordBatch, begin: Tick, end: Tick) -> Option<RecordBatch> {
    if rows.num_rows() == 0 {
        return None;
    }
    let (first, last) = tick_range(rows);
    if first >= begin && last < end {
        return Some(rows.clone());
    }
    let mask: BooleanArray = ticks(rows).values().iter().map(|tick| Some((begin..end).contains(tick))).collect();
    let rows = filter_record_batch(rows, &mask).expect("a mask as long as the batch");
    (rows.num_rows() > 0).then_some(rows)
}

#[cfg(test)]
mod tests;
