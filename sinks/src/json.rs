//! Rows as JSON objects, one after the other into a buffer that is used again.
//!
//! Invariant: what is written is valid JSON whatever the strings and numbers hold (text columns that hold JSON by contract
//! are passed on as they are), and a finite number reads back as the same number.

mod text;

use arrow::array::{
    Array, AsArray, BooleanArray, Float32Array, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
    StringViewArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float32Type, Float64Type, Int32Type, Int64Type, Schema, UInt64Type};
use thiserror::Error;

pub use text::Text;

/// Columns whose text is JSON already and goes into the object as it is.
pub const JSON_TEXT: [&str; 4] = ["events", "attributes", "group_ids", "limits"];

/// What becomes of a value that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nulls {
    /// The field is left out.
    Omitted,
    /// The field is written as `null`.
    Written,
}

/// A column of a type that has no JSON form here.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("column {column} of type {kind} has no JSON form: write text, numbers or booleans")]
pub struct Unsupported {
    /// Name of the column.
    pub column: String,
    /// Its type.
    pub kind: String,
}

/// How the rows of one schema are written: made once for a stream.
#[derive(Clone, Debug)]
pub struct Encoder {
    columns: Vec<Planned>,
    nulls: Nulls,
}

#[derive(Clone, Debug)]
struct Planned {
    index: usize,
    name: text::Name,
    /// Whether the column's text is JSON.
    json: bool,
}

impl Encoder {
    /// Plans objects of all columns but those whose names begin with `__`. Of these the ones listed in `meta` are
    /// written, under the name that stands beside them.
    ///
    /// # Errors
    /// A column to be written has a type that is neither text nor number nor boolean.
    pub fn new(schema: &Schema, nulls: Nulls, meta: &[(&str, &str)]) -> Result<Self, Unsupported> {
        let mut columns = Vec::with_capacity(schema.fields().len());
        for (index, field) in schema.fields().iter().enumerate() {
            let name = match meta.iter().find(|(column, _)| column == field.name()) {
                Some((_, name)) => name,
                None if field.name().starts_with("__") => continue,
                None => field.name().as_str(),
            };
            if !supported(field.data_type()) {
                return Err(Unsupported { column: field.name().clone(), kind: field.data_type().to_string() });
            }
            columns.push(Planned { index, name: text::Name::new(name), json: JSON_TEXT.contains(&name) });
        }
        Ok(Self { columns, nulls })
    }

    /// The rows of a batch of this encoder's schema, ready to be written.
    ///
    /// # Panics
    /// If the batch is not of the schema that the encoder was made for.
    #[must_use]
    pub fn rows<'a>(&'a self, batch: &'a RecordBatch) -> Rows<'a> {
        let cell = |planned: &'a Planned| {
            let column = batch.column(planned.index).as_ref();
            let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
            Column { name: &planned.name, nulls, values: values(column, planned.json) }
        };
        Rows { columns: self.columns.iter().map(cell).collect(), nulls: self.nulls }
    }
}

/// A batch whose rows can be written.
pub struct Rows<'a> {
    columns: Vec<Column<'a>>,
    nulls: Nulls,
}

struct Column<'a> {
    name: &'a text::Name,
    nulls: Option<&'a NullBuffer>,
    values: Values<'a>,
}

enum Values<'a> {
    View(&'a StringViewArray),
    Text(&'a StringArray),
    JsonView(&'a StringViewArray),
    JsonText(&'a StringArray),
    F64(&'a Float64Array),
    F32(&'a Float32Array),
    I64(&'a Int64Array),
    I32(&'a Int32Array),
    U64(&'a UInt64Array),
    Bool(&'a BooleanArray),
}

impl Rows<'_> {
    /// Appends the object of one row.
    ///
    /// # Panics
    /// If the batch has no such row.
    pub fn write(&self, row: usize, out: &mut Text) {
        let start = out.begin();
        for column in &self.columns {
            if column.nulls.is_some_and(|nulls| nulls.is_null(row)) {
                if self.nulls == Nulls::Written {
                    out.name(column.name);
                    out.raw(b"null");
                }
                continue;
            }
            out.name(column.name);
            match column.values {
                Values::View(values) => out.view(values, row),
                Values::Text(values) => out.string(values.value(row)),
                Values::JsonView(values) => out.raw(values.value(row).as_bytes()),
                Values::JsonText(values) => out.raw(values.value(row).as_bytes()),
                Values::F64(values) => out.float(values.value(row)),
                Values::F32(values) => out.float(values.value(row)),
                Values::I64(values) => out.integer(values.value(row)),
                Values::I32(values) => out.integer(values.value(row)),
                Values::U64(values) => out.integer(values.value(row)),
                Values::Bool(values) => out.raw(if values.value(row) { b"true" } else { b"false" }),
            }
        }
        out.end(start);
    }
}

fn supported(kind: &DataType) -> bool {
    use DataType::{Boolean, Float32, Float64, Int32, Int64, UInt64, Utf8, Utf8View};
    matches!(kind, Utf8View | Utf8 | Float64 | Float32 | Int64 | Int32 | UInt64 | Boolean)
}

fn values(column: &dyn Array, json: bool) -> Values<'_> {
    match (column.data_type(), json) {
        (DataType::Utf8View, false) => Values::View(column.as_string_view()),
        (DataType::Utf8View, true) => Values::JsonView(column.as_string_view()),
        (DataType::Utf8, false) => Values::Text(column.as_string()),
        (DataType::Utf8, true) => Values::JsonText(column.as_string()),
        (DataType::Float64, _) => Values::F64(column.as_primitive::<Float64Type>()),
        (DataType::Float32, _) => Values::F32(column.as_primitive::<Float32Type>()),
        (DataType::Int64, _) => Values::I64(column.as_primitive::<Int64Type>()),
        (DataType::Int32, _) => Values::I32(column.as_primitive::<Int32Type>()),
        (DataType::UInt64, _) => Values::U64(column.as_primitive::<UInt64Type>()),
        (DataType::Boolean, _) => Values::Bool(column.as_boolean()),
        (kind, _) => panic!("the encoder was made for another schema: a column is {kind} now"),
    }
}

#[cfg(test)]
mod tests;
