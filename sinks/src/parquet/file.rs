//! A single file: where it lies, and how it comes to be.
//!
//! Invariant: under its name a file is complete and on the disk; until then it has a name that no reader takes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use operators::history_file::Name;
use operators::time::Tick;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

/// Ending of a file that is being written.
pub(super) const UNFINISHED: &str = ".tmp";

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

    #[test]
    fn a_directory_is_named_after_its_day() {
        assert_eq!(date(1_767_225_600_000), "date=2026-01-01");
        assert_eq!(date(u64::MAX), "date=unknown");
    }
}
