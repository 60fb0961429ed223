//! Errors as data: one shape for everything that is refused, from an HTTP body to a Kafka record, and the batch in which
//! refused records travel to their dead letters. Text from outside is cut and escaped before it is shown.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, RecordBatch, StringBuilder, UInt64Builder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde::Serialize;

use crate::time::Tick;

/// Longest excerpt of an offending value that an error shows, in characters.
pub const VALUE_CHARS_MAX: usize = 64;

/// `value` cut to [`VALUE_CHARS_MAX`] characters with control characters escaped, fit for logs and answers.
#[must_use]
pub fn excerpt(value: &str) -> String {
    let mut out = String::with_capacity(value.len().min(VALUE_CHARS_MAX) + 1);
    for c in value.chars().take(VALUE_CHARS_MAX) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if value.chars().nth(VALUE_CHARS_MAX).is_some() {
        out.push('…');
    }
    out
}

/// Why an input was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Stable identifier such as `json_invalid`, documented in the reference.
    pub code: &'static str,
    /// What is wrong, with the rule, the limit and an excerpt of the value.
    pub message: String,
    /// The field, or line and column, if the input has such a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// What the sender can do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
}

impl Refusal {
    /// A refusal without a field.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), field: None, hint: None }
    }

    /// Names the field, or the place as `line:column`.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)?;
        if let Some(field) = &self.field {
            write!(f, " (at {field})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

/// Columns of a batch of refused records: where each came from, why it was refused, and the record as it came.
#[must_use]
pub fn rejected_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new(crate::batch::TICK, DataType::UInt64, false),
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("offset", DataType::Int64, false),
        Field::new("code", DataType::Utf8, false),
        Field::new("message", DataType::Utf8, false),
        Field::new("field", DataType::Utf8, true),
        Field::new("hint", DataType::Utf8, true),
        Field::new("key", DataType::Binary, true),
        Field::new("value", DataType::Binary, true),
    ]))
}

/// Collects refused records into a batch of [`rejected_schema`].
#[derive(Debug, Default)]
pub struct RejectedBuilder {
    tick: UInt64Builder,
    topic: StringBuilder,
    partition: Int32Builder,
    offset: Int64Builder,
    code: StringBuilder,
    message: StringBuilder,
    field: StringBuilder,
    hint: StringBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
}

/// Where a record stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// The tick that the record was given.
    pub tick: Tick,
}

impl RejectedBuilder {
    /// Adds one refused record as it came.
    pub fn push(&mut self, topic: &str, at: Position, key: Option<&[u8]>, value: Option<&[u8]>, why: &Refusal) {
        self.tick.append_value(at.tick);
        self.topic.append_value(topic);
        self.partition.append_value(at.partition);
        self.offset.append_value(at.offset);
        self.code.append_value(why.code);
        self.message.append_value(&why.message);
        self.field.append_option(why.field.as_deref());
        self.hint.append_option(why.hint);
        self.key.append_option(key);
        self.value.append_option(value);
    }

    /// Records collected since the last [`finish`](Self::finish).
    #[must_use]
    pub fn len(&self) -> usize {
        arrow::array::ArrayBuilder::len(&self.tick)
    }

    /// Whether nothing was collected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The batch so far; the builder is empty again.
    pub fn finish(&mut self) -> RecordBatch {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.tick.finish()),
            Arc::new(self.topic.finish()),
            Arc::new(self.partition.finish()),
            Arc::new(self.offset.finish()),
            Arc::new(self.code.finish()),
            Arc::new(self.message.finish()),
            Arc::new(self.field.finish()),
            Arc::new(self.hint.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
        ];
        RecordBatch::try_new(rejected_schema(), columns).expect("builders match the schema")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_cut_and_escaped() {
        assert_eq!(excerpt("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        let long = "x".repeat(65);
        assert_eq!(excerpt(&long), format!("{}…", "x".repeat(64)));
        assert_eq!(excerpt(&"x".repeat(64)), "x".repeat(64));
    }
}
