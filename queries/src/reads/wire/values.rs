//! Rows as they go to a client.

use std::sync::Arc;

use arrow_pg::datatypes::{encode_recordbatch, field_into_pg_type};
use datafusion::arrow::array::StringArray;
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use futures_util::stream;
use operators::error::Refusal;
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldFormat, FieldInfo, QueryResponse};

use crate::answer::Answer;
use crate::reads::pg_catalog::{length, type_of};

/// Columns as a client is told of them.
///
/// # Errors
/// The client asked for formats of another number of columns.
pub fn columns(schema: &Schema, names: &[String], format: &Format) -> Result<Vec<FieldInfo>, Refusal> {
    let count = schema.fields().len();
    if let Format::Individual(formats) = format
        && formats.len() != count
    {
        let message = format!("the question has {count} columns, and formats of {} were asked for", formats.len());
        return Err(Refusal::new("sql_parameter", message));
    }
    let columns = schema.fields().iter().zip(names).enumerate().map(|(n, (field, name))| {
        let kind = type_of(field);
        let bytes = i16::try_from(length(&kind)).unwrap_or(-1);
        FieldInfo::new(name.clone(), None, None, kind, format.format_for(n)).with_type_size(bytes)
    });
    Ok(columns.collect())
}

/// The rows of an answer.
///
/// # Errors
/// A column has no form that a client could be given.
pub fn rows(answer: Answer, columns: Vec<FieldInfo>) -> Result<QueryResponse, Refusal> {
    let batches = answer.batches.into_iter().map(with_text).collect::<Result<Vec<_>, _>>();
    let batches = batches.map_err(|why| Refusal::new("sql_failed", format!("a column has no form as text: {why}")))?;
    let columns = Arc::new(columns);
    let of_all = columns.clone();
    let rows = batches.into_iter().flat_map(move |batch| encode_recordbatch(of_all.clone(), batch));
    Ok(QueryResponse::new(columns, stream::iter(rows)))
}

/// One text in one column.
pub fn one_text(name: &str, value: &str) -> QueryResponse {
    let column = Arc::new(vec![text_column(name)]);
    let values = StringArray::from(vec![value]);
    let schema = Schema::new(vec![Field::new(name, DataType::Utf8, true)]);
    let batch = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(values)]).expect("one column of one text");
    let rows: Vec<_> = encode_recordbatch(column.clone(), batch).collect();
    let mut response = QueryResponse::new(column, stream::iter(rows));
    response.set_command_tag("SHOW");
    response
}

/// A column of text.
pub fn text_column(name: &str) -> FieldInfo {
    FieldInfo::new(name.to_owned(), None, None, Type::TEXT, FieldFormat::Text)
}

/// The batch with text in the place of what Postgres has no type for.
fn with_text(batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref().fields().iter().all(|field| field_into_pg_type(field).is_ok()) {
        return Ok(batch);
    }
    let columns = batch.schema_ref().fields().iter().zip(batch.columns());
    let (fields, columns): (Vec<Field>, Vec<_>) = columns
        .map(|(field, column)| {
            if field_into_pg_type(field).is_ok() {
                return Ok((field.as_ref().clone(), column.clone()));
            }
            Ok((Field::new(field.name(), DataType::Utf8, true), cast(column, &DataType::Utf8)?))
        })
        .collect::<Result<Vec<_>, ArrowError>>()?
        .into_iter()
        .unzip();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}
