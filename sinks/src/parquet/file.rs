//! A single file: its name, and how it comes to be.
//!
//! Invariant: under its name a file is complete and on the disk; until then it has a name that no reader takes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use operators::time::Tick;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Ending of a file that is being written.
pub(super) const UNFINISHED: &str = ".tmp";

/// What a file's name says: `FROM-UPTO-WORKERofWORKERS.parquet`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// First tick of its rows.
    pub from: Tick,
    /// First tick after those of which it has every row.
    pub upto: Tick,
    /// Worker that made the rows.
    pub worker: usize,
    /// How many workers there were.
    pub workers: usize,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // So many digits that names sort as times do, until the year 318857.
        write!(f, "{:016}-{:016}-{}of{}.parquet", self.from, self.upto, self.worker, self.workers)
    }
}

impl Name {
    /// Reads a file's name; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(name: &str) -> Option<Name> {
        let mut parts = name.strip_suffix(".parquet")?.splitn(3, '-');
        let (from, upto) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (worker, workers) = parts.next()?.split_once("of")?;
        Some(Name { from, upto, worker: worker.parse().ok()?, workers: workers.parse().ok()? })
    }

    /// Whether this file's rows are all in `other` too: it has been put together with others into that one.
    #[must_use]
    pub fn is_within(&self, other: &Name) -> bool {
        let same = self.worker == other.worker && self.workers == other.workers;
        same && self != other && other.from <= self.from && self.upto <= other.upto
    }
}

/// The files of one directory that hold each row once.
#[must_use]
pub fn current(mut names: Vec<Name>) -> Vec<Name> {
    // The larger of two that begin together comes first, so one look back is enough.
    names.sort_unstable_by_key(|name| (name.workers, name.worker, name.from, std::cmp::Reverse(name.upto)));
    let mut last: Option<Name> = None;
    names.retain(|name| {
        let keep = last.is_none_or(|last| !name.is_within(&last));
        if keep {
            last = Some(*name);
        }
        keep
    });
    names
}

/// Name of a day's directory.
pub(super) fn date(day_ms: Tick) -> String {
    let moment = i64::try_from(day_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    // Beyond what a calendar knows every row goes to one place.
    moment.map_or("date=unknown".to_owned(), |moment| format!("date={}", moment.strftime("%Y-%m-%d")))
}

/// Writes batches of one schema as a file of that name, and returns its bytes. A file of that name is replaced.
pub(super) fn write(
    folder: &Path,
    name: Name,
    row_group_rows_max: usize,
    mut batches: impl Iterator<Item = io::Result<RecordBatch>>,
) -> io::Result<u64> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let Some(first) = batches.next().transpose()? else { return Ok(0) };
    make_folder(folder)?;
    let path = folder.join(name.to_string());
    // Two attempts at one step may overlap, when the first was given up while it was writing.
    let unfinished = folder.join(format!("{name}.{}{UNFINISHED}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let file = File::create(&unfinished)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).map_err(io::Error::other)?))
        .set_max_row_group_row_count(Some(row_group_rows_max))
        .build();
    let written = (|| {
        let mut writer = ArrowWriter::try_new(file, first.schema(), Some(properties))?;
        writer.write(&first)?;
        for batch in batches {
            writer.write(&batch?)?;
        }
        let file = writer.into_inner()?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        fs::rename(&unfinished, &path)?;
        sync_folder(folder)?;
        Ok(bytes)
    })();
    if written.is_err() {
        // Best effort: what is left of it goes at the next start.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Makes the folder and those above it, so that they outlive a loss of power.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder)?;
    let above: Vec<PathBuf> = folder.ancestors().skip(1).take(3).map(Path::to_owned).collect();
    above.iter().filter(|folder| folder.is_dir()).try_for_each(|folder| sync_folder(folder))
}

pub(super) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(from: Tick, upto: Tick, worker: usize) -> Name {
        Name { from, upto, worker, workers: 2 }
    }

    #[test]
    fn names_read_back_and_sort_by_time() {
        let early = name(1_767_225_600_010, 1_767_225_610_000, 1);
        assert_eq!(early.to_string(), "0001767225600010-0001767225610000-1of2.parquet");
        assert_eq!(Name::parse(&early.to_string()), Some(early));
        for odd in ["x.parquet", "1-2.parquet", "1-2-1of2.parquet.0.tmp", "1-2-1of.parquet", ".lock"] {
            assert_eq!(Name::parse(odd), None, "{odd}");
        }
        assert!(name(9, 10, 0).to_string() < name(10, 11, 0).to_string());
        assert_eq!(date(1_767_225_600_000), "date=2026-01-01");
        assert_eq!(date(u64::MAX), "date=unknown");
    }

    #[test]
    fn a_file_that_was_put_together_with_others_does_not_count() {
        let (a, b, c) = (name(0, 10, 0), name(10, 20, 0), name(25, 30, 0));
        let (both, all, other) = (name(0, 20, 0), name(0, 30, 0), name(0, 30, 1));
        assert_eq!(current(vec![c, b, a]), [a, b, c]);
        assert_eq!(current(vec![c, both, b, a, other]), [both, c, other]);
        assert_eq!(current(vec![b, all, both, c, a]), [all]);
        assert!(!a.is_within(&a) && !a.is_within(&other));
    }
}
