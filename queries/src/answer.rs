//! The answer to a question, and how it is shown.

use datafusion::arrow::csv::WriterBuilder;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::json::{ArrayWriter, LineDelimitedWriter};
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::pretty::pretty_format_batches_with_schema;
use operators::time::Tick;

/// Rows with their columns.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The columns, also when there is no row.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Whether rows were left out because there were too many.
    pub truncated: bool,
    /// Tick as of which the rows stand, where they have one in common: all live views that the question read.
    pub as_of: Option<Tick>,
}

impl Answer {
    /// How many rows there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }

    /// As a table for people, with frames.
    ///
    /// # Errors
    /// A value cannot be shown as text.
    pub fn to_table(&self) -> Result<String, ArrowError> {
        // Control characters of a value would move the cursor of a terminal.
        let table = pretty_format_batches_with_schema(self.schema.clone(), &self.batches)?.to_string();
        Ok(table.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).chain(['\n']).collect())
    }

    /// As CSV with a header; null is empty.
    ///
    /// # Errors
    /// A value has no form in CSV (lists, structs).
    pub fn to_csv(&self) -> Result<String, ArrowError> {
        let mut bytes = Vec::new();
        let mut writer = WriterBuilder::new().with_header(true).build(&mut bytes);
        writer.write(&RecordBatch::new_empty(self.schema.clone()))?;
        for batch in &self.batches {
            writer.write(batch)?;
        }
        drop(writer);
        Ok(String::from_utf8(bytes).expect("CSV of text is text"))
    }

    /// As one JSON array of objects; null is left out.
    ///
    /// # Errors
    /// A value has no form in JSON.
    pub fn to_json(&self) -> Result<String, ArrowError> {
        let mut writer = ArrayWriter::new(Vec::new());
        for batch in &self.batches {
            writer.write(batch)?;
        }
        writer.finish()?;
        let mut text = String::from_utf8(writer.into_inner()).expect("JSON is text");
        if text.is_empty() {
            text.push_str("[]");
        }
        text.push('\n');
        Ok(text)
    }
}

/// Each row as a JSON object, as [`Answer::to_json`] writes it.
///
/// # Errors
/// A value has no form in JSON.
pub fn json_rows(batch: &RecordBatch) -> Result<Vec<String>, ArrowError> {
    let mut writer = LineDelimitedWriter::new(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner()).expect("JSON is text");
    Ok(text.lines().map(str::to_owned).collect())
}
