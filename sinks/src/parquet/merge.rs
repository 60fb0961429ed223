//! Many small files become one, beside the writing.
//!
//! Invariant: the parts are removed only once the whole is on the disk under its name, which tells readers to leave the
//! parts out from that moment on.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use metrics::counter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tracing::warn;

use super::file;
use super::index::{Entry, Index};
use super::{Lock, Name, Options, locked, remove};
use crate::metrics::Metric;

/// Rows read at a time.
const ROWS: usize = 8_192;

pub(super) struct Merge {
    pub(super) index: Arc<Mutex<Index>>,
    /// Files of one worker and day, in the order of their ticks.
    pub(super) group: Vec<Entry>,
    pub(super) options: Options,
    /// Keeps other processes out until it is done.
    pub(super) lock: Arc<Lock>,
}

impl Merge {
    pub(super) fn run(self) {
        let (Some(first), Some(last)) = (self.group.first(), self.group.last()) else { return };
        let merged = Name { from: first.name.from, upto: last.name.upto, ..first.name };
        match self.write(first, merged) {
            Ok(bytes) => {
                locked(&self.index).replace(&self.group, merged, bytes);
                remove(&self.group.iter().map(Entry::path).collect::<Vec<_>>());
                counter!(Metric::ParquetFiles.name(), "stream" => first.stream).increment(1);
            }
            Err(error) => {
                let (folder, files) = (first.folder.display(), self.group.len());
                warn!(%folder, files, %error, "history files cannot be put together and stay as they are");
                locked(&self.index).spare(&self.group);
            }
        }
        drop(self.lock);
    }

    fn write(&self, first: &Entry, merged: Name) -> io::Result<u64> {
        let rows = self.group.iter().flat_map(|entry| match read(entry) {
            Ok(rows) => rows,
            Err(error) => Box::new(std::iter::once(Err(error))) as Batches,
        });
        file::write(&first.folder, merged, self.options.row_group_rows_max, rows)
    }
}

type Batches = Box<dyn Iterator<Item = io::Result<RecordBatch>>>;

fn read(entry: &Entry) -> io::Result<Batches> {
    let file = File::open(entry.path())?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(ROWS).build()?;
    Ok(Box::new(reader.map(|rows| rows.map_err(io::Error::other))))
}
