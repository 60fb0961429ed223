//! How a table's row lies in memory: a version, a bitmap of the columns that have a value, a slot of fixed width for each
//! column, then the texts that no dictionary keeps. All rows of a table share one layout.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use operators::batch::{DELETED, TICK};

/// Columns that a layout can have: one bit of the bitmap marks deleted rows.
pub const COLUMNS_MAX: usize = 63;
/// Bytes before the first slot: version and bitmap.
pub(super) const HEADER_BYTES: usize = 16;

/// What a column holds, and how its JSON looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Text that is a JSON value itself.
    Json,
    /// A floating-point number.
    Float,
    /// A whole number of 64 bits.
    Long,
    /// A whole number of 32 bits.
    Int,
    /// True or false.
    Flag,
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Kind::Float | Kind::Long => 8,
            Kind::Text | Kind::Json | Kind::Int => 4,
            Kind::Flag => 1,
        }
    }

    pub(super) fn data_type(self) -> DataType {
        match self {
            Kind::Text | Kind::Json => DataType::Utf8View,
            Kind::Float => DataType::Float64,
            Kind::Long => DataType::Int64,
            Kind::Int => DataType::Int32,
            Kind::Flag => DataType::Boolean,
        }
    }
}

/// One column of a row.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Whether its texts are shared through the dictionary.
    pub shared: bool,
    /// Its JSON label: the name in quotes, and a colon.
    pub label: String,
    /// Where its slot starts.
    pub(super) at: usize,
}

/// The columns of a table's row and where they stand.
#[derive(Clone, Debug)]
pub struct Layout {
    columns: Vec<Column>,
    key: usize,
    /// Bytes of header and slots: where the texts start.
    pub(super) fixed_bytes: usize,
}

impl Layout {
    /// A layout for rows of `schema` (a table's schema, its last columns being [`DELETED`] and [`TICK`]) with the named key,
    /// a text column. `shared` names the text columns with few distinct values, `json` those that hold JSON.
    ///
    /// # Panics
    /// If the schema has a type without a [`Kind`], more than [`COLUMNS_MAX`] columns, or no such key: schemas are fixed.
    #[must_use]
    pub fn new(schema: &SchemaRef, key: &str, shared: &[&str], json: &[&str]) -> Arc<Self> {
        let mut columns = Vec::new();
        let mut at = HEADER_BYTES;
        for field in schema.fields().iter().filter(|field| ![DELETED, TICK].contains(&field.name().as_str())) {
            let name = field.name().as_str();
            let kind = match field.data_type() {
                DataType::Utf8View if json.contains(&name) => Kind::Json,
                DataType::Utf8View => Kind::Text,
                DataType::Float64 => Kind::Float,
                DataType::Int64 => Kind::Long,
                DataType::Int32 => Kind::Int,
                DataType::Boolean => Kind::Flag,
                other => panic!("column {name}: no row layout for type {other}"),
            };
            let label = format!("\"{name}\":");
            columns.push(Column { name: name.to_owned(), kind, shared: shared.contains(&name), label, at });
            at += kind.width();
        }
        assert!(columns.len() <= COLUMNS_MAX, "{} columns, at most {COLUMNS_MAX}", columns.len());
        let key = columns.iter().position(|column| column.name == key && column.kind == Kind::Text);
        let key = key.expect("the key is a text column of the schema");
        Arc::new(Self { columns, key, fixed_bytes: at })
    }

    /// The layout of `vehicle_state`.
    #[must_use]
    pub fn vehicle_state() -> Arc<Self> {
        let shared = ["model", "group_ids", "company_id", "company_name", "tariff_id", "tariff_name", "status"];
        Self::new(&operators::record::output::vehicle_state(), "vehicle_id", &shared, &["group_ids"])
    }

    /// The columns, in the schema's order.
    #[must_use]
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Number of the key column.
    #[must_use]
    pub fn key(&self) -> usize {
        self.key
    }

    /// Number of the named column.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// A mask with the bit of every column.
    #[must_use]
    pub fn all(&self) -> u64 {
        (1u64 << self.columns.len()) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_follow_each_other_and_the_key_is_found() {
        let layout = Layout::vehicle_state();
        assert_eq!(layout.columns().len(), operators::record::output::vehicle_state().fields().len() - 2);
        assert_eq!(layout.columns()[layout.key()].name, "vehicle_id");
        let mut at = HEADER_BYTES;
        for column in layout.columns() {
            assert_eq!(column.at, at, "{}", column.name);
            at += column.kind.width();
        }
        assert_eq!(layout.fixed_bytes, at);
        assert_eq!(layout.columns()[layout.find("group_ids").unwrap()].kind, Kind::Json);
        assert_eq!(layout.find("__tick"), None);
    }
}
