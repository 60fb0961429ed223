//! Values as text and back: cells of comma-separated lines.
//!
//! Invariant: null is nothing between the commas, an empty text is `""`; what is written is read back as the same value.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::{CastOptions, can_cast_types, cast, cast_with_options};
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMillisecondType};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use operators::error::excerpt;

/// A value, or null.
pub type Cell = Option<String>;

/// The values of a line.
pub fn split(line: &str) -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    let mut rest = line.trim();
    loop {
        rest = rest.trim_start();
        let (cell, after) = match rest.strip_prefix('"') {
            Some(text) => quoted(text)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                let text = rest[..end].trim();
                ((!text.is_empty()).then(|| text.to_owned()), &rest[end..])
            }
        };
        cells.push(cell);
        match after.trim_start().strip_prefix(',') {
            Some(more) => rest = more,
            None if after.trim().is_empty() => return Ok(cells),
            None => return Err(format!("a comma is missing before '{}'", excerpt(after.trim()))),
        }
    }
}

/// A text up to its closing quote; two quotes are one.
fn quoted(text: &str) -> Result<(Cell, &str), String> {
    let mut out = String::new();
    let mut rest = text;
    loop {
        let end = rest.find('"').ok_or("a closing quote is missing")?;
        out.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        match rest.strip_prefix('"') {
            Some(more) => {
                out.push('"');
                rest = more;
            }
            None => return Ok((Some(out), rest)),
        }
    }
}

/// A line of these values.
pub fn joined(cells: &[Cell]) -> String {
    let shown = |cell: &Cell| match cell {
        None => String::new(),
        Some(text) if text.is_empty() || text.trim() != text || text.contains([',', '"']) => {
            format!("\"{}\"", text.replace('"', "\"\""))
        }
        Some(text) => text.clone(),
    };
    let line = cells.iter().map(shown).collect::<Vec<_>>().join(",");
    // An empty line would end the block, and what begins so would be taken for something else.
    if line.is_empty() || line.starts_with(['-', '#']) && !line[1..].starts_with(|c: char| c.is_ascii_digit()) {
        return format!(" {line},").trim_end_matches(',').to_owned();
    }
    line
}

/// Milliseconds since the epoch of a time.
pub fn time(text: &str) -> Option<i64> {
    if let Ok(ms) = text.parse::<i64>() {
        return Some(ms);
    }
    let kind = DataType::Timestamp(TimeUnit::Millisecond, None);
    let times = cast(&StringArray::from(vec![text]), &kind).ok()?;
    let times = times.as_primitive::<TimestampMillisecondType>();
    times.is_valid(0).then(|| times.value(0))
}

/// A column of values from their texts.
pub fn column(cells: &[Cell], kind: &DataType) -> Result<ArrayRef, String> {
    if matches!(kind, DataType::Timestamp(TimeUnit::Millisecond, _)) {
        let of = |cell: &Cell| match cell {
            Some(text) => time(text).map(Some).ok_or_else(|| format!("'{}' is no time", excerpt(text))),
            None => Ok(None),
        };
        let times: Int64Array = cells.iter().map(of).collect::<Result<Vec<_>, _>>()?.into();
        return cast(&times, kind).map_err(|why| why.to_string());
    }
    let texts = StringArray::from(cells.to_vec());
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&texts, kind, &options).map_err(|why| match cells {
        [Some(text)] => format!("'{}' is no {kind}", excerpt(text)),
        _ => why.to_string(),
    })
}

/// The text as its type writes it, where it can be read as such.
pub fn normal(cell: &Cell, kind: &DataType) -> Result<Cell, String> {
    if cell.is_none() || !can_cast_types(&DataType::Utf8, kind) {
        return Ok(cell.clone());
    }
    let value = column(std::slice::from_ref(cell), kind)?;
    Ok(shown(&value)?.pop().unwrap_or_default())
}

/// The values of a column.
pub fn shown(column: &ArrayRef) -> Result<Vec<Cell>, String> {
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(|why| why.to_string())?;
    let one = |row: usize| {
        let text = || formatter.value(row).to_string().chars().map(|c| if c.is_control() { '·' } else { c }).collect();
        column.is_valid(row).then(text)
    };
    Ok((0..column.len()).map(one).collect())
}

/// The values of rows.
pub fn rows(batch: &RecordBatch) -> Result<Vec<Vec<Cell>>, String> {
    let columns = batch.columns().iter().map(shown).collect::<Result<Vec<_>, _>>()?;
    Ok((0..batch.num_rows()).map(|row| columns.iter().map(|column| column[row].clone()).collect()).collect())
}

/// A tick as a time.
pub fn shown_time(tick: u64) -> String {
    let times: ArrayRef = Arc::new(Int64Array::from(vec![tick as i64]));
    debug_assert_eq!(times.as_primitive::<Int64Type>().len(), 1);
    let time = cast(&times, &DataType::Timestamp(TimeUnit::Millisecond, None)).ok();
    time.and_then(|time| shown(&time).ok()?.pop().flatten()).unwrap_or_else(|| tick.to_string())
}
