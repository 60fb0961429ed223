//! Rows that files of another number of workers have already: the same replay, spread differently.
//!
//! Invariant: a row is left out only if a file holds one of the same identity.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, SortField};
use hashbrown::HashSet;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// The rows that none of the files holds.
pub(super) fn without(rows: Vec<RecordBatch>, files: &[PathBuf], identity: &[&str]) -> io::Result<Vec<RecordBatch>> {
    let Some(first) = rows.first() else { return Ok(rows) };
    let fields = columns(first, identity)?.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let converter = RowConverter::new(fields).map_err(io::Error::other)?;
    let mut known: HashSet<Box<[u8]>> = HashSet::new();
    for path in files {
        // One that was put together with others a moment ago fails the attempt; the next one finds its new name.
        let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?;
        let mask = ProjectionMask::columns(builder.parquet_schema(), identity.iter().copied());
        for batch in builder.with_projection(mask).build()? {
            let batch = batch.map_err(io::Error::other)?;
            let keys = converter.convert_columns(&columns(&batch, identity)?).map_err(io::Error::other)?;
            known.extend(keys.iter().map(|key| Box::from(key.data())));
        }
    }
    let unknown = |rows: RecordBatch| {
        let keys = converter.convert_columns(&columns(&rows, identity)?).map_err(io::Error::other)?;
        let mask: BooleanArray = keys.iter().map(|key| Some(!known.contains(key.data()))).collect();
        filter_record_batch(&rows, &mask).map_err(io::Error::other)
    };
    rows.into_iter().map(unknown).collect()
}

fn columns(rows: &RecordBatch, identity: &[&str]) -> io::Result<Vec<ArrayRef>> {
    let column = |name: &&str| {
        let missing = || io::Error::other(format!("there is no column {name} to tell rows apart by"));
        rows.column_by_name(name).cloned().ok_or_else(missing)
    };
    identity.iter().map(column).collect()
}
