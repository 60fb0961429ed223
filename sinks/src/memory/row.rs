//! One row of a table: immutable, shared by whoever still needs it, read in place. Two rows compare column by column without
//! being decoded.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::array::{ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type, UInt64Type};
use hashbrown::HashSet;
use operators::batch::{DELETED, TICK, key_hash};
use operators::time::Tick;
use serde::de::IgnoredAny;

use super::dictionary::{Dictionary, DictionaryWriter};
use super::layout::{Column, Kind, Layout};

const DELETED_BIT: u64 = 1 << 63;
/// Marks a text slot that holds a place in the row rather than a number of the dictionary.
const INLINE: u32 = 1 << 31;

/// The bytes of a row. Cloning shares them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(Arc<[u8]>);

impl Row {
    /// When the row came to be.
    #[must_use]
    pub fn version(&self) -> Tick {
        word(&self.0, 0)
    }

    /// Whether it says that its key is gone.
    #[must_use]
    pub fn is_deleted(&self) -> bool {
        word(&self.0, 8) & DELETED_BIT != 0
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        // The two counters of the shared allocation stand before the bytes.
        self.0.len() + 16
    }
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

/// What rows are read with. Cloning shares it.
#[derive(Clone, Debug)]
pub struct RowReader {
    layout: Arc<Layout>,
    dictionary: Dictionary,
}

impl RowReader {
    /// The layout of the rows.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Reads a row that was made by the same encoder as this reader.
    #[must_use]
    pub fn view<'a>(&'a self, row: &'a Row) -> RowView<'a> {
        RowView { layout: &self.layout, dictionary: &self.dictionary, bytes: &row.0 }
    }
}

/// A row together with what is needed to read it.
#[derive(Clone, Copy, Debug)]
pub struct RowView<'a> {
    layout: &'a Layout,
    dictionary: &'a Dictionary,
    bytes: &'a [u8],
}

impl<'a> RowView<'a> {
    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &'a Layout {
        self.layout
    }

    /// When the row came to be.
    #[must_use]
    pub fn version(&self) -> Tick {
        word(self.bytes, 0)
    }

    /// A mask of the columns that have a value.
    #[must_use]
    pub fn present(&self) -> u64 {
        word(self.bytes, 8) & !DELETED_BIT
    }

    /// Whether the column has a value.
    #[must_use]
    pub fn has(&self, column: usize) -> bool {
        self.present() & (1 << column) != 0
    }

    /// Bytes of a text column's value; empty without one.
    #[must_use]
    pub fn text_bytes(&self, column: usize) -> &'a [u8] {
        if !self.has(column) {
            return &[];
        }
        let slot = half(self.bytes, self.layout.columns()[column].at);
        if slot & INLINE == 0 {
            return self.dictionary.text(slot).as_bytes();
        }
        let at = (slot & !INLINE) as usize;
        match self.bytes[at] {
            u8::MAX => {
                let length = half(self.bytes, at + 1) as usize;
                &self.bytes[at + 5..at + 5 + length]
            }
            length => &self.bytes[at + 1..at + 1 + length as usize],
        }
    }

    /// A text column's value; empty without one.
    #[must_use]
    pub fn text(&self, column: usize) -> &'a str {
        std::str::from_utf8(self.text_bytes(column)).expect("rows are made from texts")
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.text(self.layout.key())
    }

    /// Bytes of the key.
    #[must_use]
    pub fn key_bytes(&self) -> &'a [u8] {
        self.text_bytes(self.layout.key())
    }

    /// A float column's value.
    #[must_use]
    pub fn float(&self, column: usize) -> Option<f64> {
        self.has(column).then(|| f64::from_bits(word(self.bytes, self.layout.columns()[column].at)))
    }

    /// A value of a column of whole numbers, of either width.
    #[must_use]
    pub fn long(&self, column: usize) -> Option<i64> {
        let Column { kind, at, .. } = self.layout.columns()[column];
        self.has(column).then(|| match kind {
            Kind::Int => i64::from(half(self.bytes, at) as i32),
            _ => word(self.bytes, at) as i64,
        })
    }

    /// A flag column's value.
    #[must_use]
    pub fn flag(&self, column: usize) -> Option<bool> {
        self.has(column).then(|| self.bytes[self.layout.columns()[column].at] != 0)
    }

    /// Mask of the columns in which two rows of one table differ.
    #[must_use]
    pub fn changed(&self, other: &RowView<'_>) -> u64 {
        let (mine, theirs) = (self.present(), other.present());
        let mut changed = mine ^ theirs;
        let mut both = mine & theirs;
        while both != 0 {
            let column = both.trailing_zeros() as usize;
            both &= both - 1;
            if !self.same(other, column) {
                changed |= 1 << column;
            }
        }
        changed
    }

    fn same(&self, other: &RowView<'_>, column: usize) -> bool {
        let Column { kind, at, .. } = self.layout.columns()[column];
        match kind {
            Kind::Float | Kind::Long => self.bytes[at..at + 8] == other.bytes[at..at + 8],
            Kind::Int => self.bytes[at..at + 4] == other.bytes[at..at + 4],
            Kind::Flag => self.bytes[at] == other.bytes[at],
            Kind::Text | Kind::Json => {
                let (mine, theirs) = (half(self.bytes, at), half(other.bytes, at));
                // A number of the dictionary stands for one text only; places in the row tell nothing.
                (mine & INLINE == 0 && mine == theirs) || self.text_bytes(column) == other.text_bytes(column)
            }
        }
    }
}

/// A row on its way into the table, with the hash of its key.
#[derive(Debug)]
pub struct Incoming {
    /// The row.
    pub row: Row,
    /// Hash of its key.
    pub hash: u32,
}

/// Makes rows of batches; owns the dictionary.
#[derive(Debug)]
pub struct RowEncoder {
    layout: Arc<Layout>,
    dictionary: DictionaryWriter,
    /// Numbers of texts that were found to be JSON.
    json: HashSet<u32>,
    bytes: Vec<u8>,
}

/// A batch whose columns are not those of the table.
#[derive(Debug, thiserror::Error)]
#[error("column {column}: wanted {wanted}, found {found}")]
pub struct Mismatch {
    column: String,
    wanted: String,
    found: String,
}

enum Values<'a> {
    Text(&'a StringViewArray),
    Float(&'a Float64Array),
    Long(&'a Int64Array),
    Int(&'a Int32Array),
    Flag(&'a BooleanArray),
}

/// The columns of one batch.
pub struct Rows<'a> {
    values: Vec<Values<'a>>,
    deleted: &'a BooleanArray,
    ticks: &'a UInt64Array,
}

impl<'a> Rows<'a> {
    /// Finds the columns of `layout` in a batch.
    ///
    /// # Errors
    /// A column is missing or of another type.
    pub fn bind(layout: &Layout, batch: &'a RecordBatch) -> Result<Self, Mismatch> {
        let mut values = Vec::with_capacity(layout.columns().len());
        for column in layout.columns() {
            let array = find(batch, &column.name, &column.kind.data_type())?;
            values.push(match column.kind {
                Kind::Text | Kind::Json => Values::Text(array.as_string_view()),
                Kind::Float => Values::Float(array.as_primitive::<Float64Type>()),
                Kind::Long => Values::Long(array.as_primitive::<Int64Type>()),
                Kind::Int => Values::Int(array.as_primitive::<Int32Type>()),
                Kind::Flag => Values::Flag(array.as_boolean()),
            });
        }
        let deleted = find(batch, DELETED, &DataType::Boolean)?.as_boolean();
        let ticks = find(batch, TICK, &DataType::UInt64)?.as_primitive::<UInt64Type>();
        Ok(Self { values, deleted, ticks })
    }
}

fn find<'a>(batch: &'a RecordBatch, name: &str, wanted: &DataType) -> Result<&'a ArrayRef, Mismatch> {
    let column = batch.column_by_name(name);
    match column {
        Some(column) if column.data_type() == wanted => Ok(column),
        _ => Err(Mismatch {
            column: name.to_owned(),
            wanted: wanted.to_string(),
            found: column.map_or_else(|| "no such column".to_owned(), |column| column.data_type().to_string()),
        }),
    }
}

impl RowEncoder {
    /// An encoder of rows of this layout with an empty dictionary.
    #[must_use]
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout, dictionary: DictionaryWriter::new(), json: HashSet::new(), bytes: Vec::new() }
    }

    /// The layout.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// What readers of the rows need.
    #[must_use]
    pub fn reader(&self) -> RowReader {
        RowReader { layout: self.layout.clone(), dictionary: self.dictionary.reader() }
    }

    /// Appends the rows of `range` to `into`.
    pub fn encode(&mut self, rows: &Rows<'_>, range: Range<usize>, into: &mut Vec<Incoming>) {
        for row in range {
            into.push(self.encode_row(rows, row));
        }
    }

    fn encode_row(&mut self, rows: &Rows<'_>, row: usize) -> Incoming {
        let layout = self.layout.clone();
        let deleted = rows.deleted.value(row);
        let mut present = if deleted { DELETED_BIT } else { 0 };
        self.bytes.clear();
        self.bytes.resize(layout.fixed_bytes, 0);
        let mut hash = 0;
        for (number, (column, values)) in layout.columns().iter().zip(&rows.values).enumerate() {
            // Of a deleted row only the key means anything.
            if deleted && number != layout.key() {
                continue;
            }
            let at = column.at;
            let valid = match values {
                Values::Text(values) if values.is_valid(row) => {
                    let text = values.value(row);
                    if number == layout.key() {
                        hash = hash_of(text.as_bytes());
                    }
                    self.put_text(column, text);
                    true
                }
                Values::Float(values) if values.is_valid(row) => {
                    self.bytes[at..at + 8].copy_from_slice(&values.value(row).to_bits().to_le_bytes());
                    true
                }
                Values::Long(values) if values.is_valid(row) => {
                    self.bytes[at..at + 8].copy_from_slice(&values.value(row).to_le_bytes());
                    true
                }
                Values::Int(values) if values.is_valid(row) => {
                    self.bytes[at..at + 4].copy_from_slice(&values.value(row).to_le_bytes());
                    true
                }
                Values::Flag(values) if values.is_valid(row) => {
                    self.bytes[at] = u8::from(values.value(row));
                    true
                }
                _ => false,
            };
            present |= u64::from(valid) << number;
        }
        self.bytes[0..8].copy_from_slice(&rows.ticks.value(row).to_le_bytes());
        self.bytes[8..16].copy_from_slice(&present.to_le_bytes());
        Incoming { row: Row(Arc::from(self.bytes.as_slice())), hash }
    }

    fn put_text(&mut self, column: &Column, text: &str) {
        let id = match column.kind {
            Kind::Json => self.put_json(column, text),
            _ => self.put(column, text),
        };
        if let Some(id) = id {
            self.bytes[column.at..column.at + 4].copy_from_slice(&id.to_le_bytes());
        }
    }

    /// Whatever the text is, what leaves as JSON has to be JSON: if it is none, it is kept as a JSON string.
    fn put_json(&mut self, column: &Column, text: &str) -> Option<u32> {
        if let Some(id) = self.dictionary.find(text).filter(|id| column.shared && self.json.contains(id)) {
            return Some(id);
        }
        let id = match serde_json::from_str::<IgnoredAny>(text) {
            Ok(_) => self.put(column, text),
            Err(_) => self.put(column, &serde_json::Value::from(text).to_string()),
        };
        self.json.extend(id);
        id
    }

    /// The text's number, or `None` once it stands in the row itself.
    fn put(&mut self, column: &Column, text: &str) -> Option<u32> {
        if column.shared
            && let Some(id) = self.dictionary.intern(text)
        {
            return Some(id);
        }
        let slot = INLINE | self.bytes.len() as u32;
        self.bytes[column.at..column.at + 4].copy_from_slice(&slot.to_le_bytes());
        match u8::try_from(text.len()) {
            Ok(length) if length < u8::MAX => self.bytes.push(length),
            _ => {
                self.bytes.push(u8::MAX);
                self.bytes.extend_from_slice(&(text.len() as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(text.as_bytes());
        None
    }
}

/// The hash that rows are found by.
pub(super) fn hash_of(key: &[u8]) -> u32 {
    (key_hash(key) >> 32) as u32
}
