//! Rows of a table as the scripts take them.
//!
//! Invariant: a row that is written has `version` and exactly its fields that are not null; two rows with the same digest
//! have the same fields present and the same references.

use arrow::array::{
    Array, AsArray, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use operators::batch::{DELETED, TICK, bools, key_hash, u64s};

use super::{geo, key, message_pack as mp};
use crate::json;

/// Fields of vehicle_state that change rarely. The script leaves them alone as long as the digest is the same.
const REFERENCES: [&str; 12] = [
    "vehicle_id",
    "device_id",
    "plate",
    "model",
    "group_ids",
    "company_id",
    "company_name",
    "tariff_id",
    "tariff_name",
    "driver_id",
    "driver_name",
    "driver_phone",
];
const KEY: &str = "vehicle_id";

/// The columns of one batch of a table's changes.
pub(super) struct Columns<'a> {
    fields: Vec<Field<'a>>,
    json: json::Rows<'a>,
    ids: &'a StringViewArray,
    position: Option<(&'a Float64Array, &'a Float64Array)>,
    companies: Option<&'a StringViewArray>,
    ticks: &'a UInt64Array,
    deleted: &'a BooleanArray,
}

struct Field<'a> {
    name: &'a str,
    values: Values<'a>,
    is_reference: bool,
}

enum Values<'a> {
    Text(&'a StringViewArray),
    Float(&'a Float64Array),
    Long(&'a Int64Array),
    Int(&'a Int32Array),
    Flag(&'a BooleanArray),
}

/// Buffers that outlive a row.
#[derive(Default)]
pub(super) struct Scratch {
    whole: itoa::Buffer,
    float: zmij::Buffer,
    version: itoa::Buffer,
    references: Vec<u8>,
    values: Vec<u8>,
    /// What the digest is made of: the references, then the names of the other fields that are present.
    digested: Vec<u8>,
}

impl<'a> Columns<'a> {
    /// The columns of `rows`, which must be those of a table's changes with the key `vehicle_id`, and those that the
    /// encoder was made for.
    pub(super) fn of(rows: &'a RecordBatch, encoder: &'a json::Encoder) -> Result<Self, String> {
        let mut fields = Vec::with_capacity(rows.num_columns());
        let schema = rows.schema_ref();
        for (field, column) in schema.fields().iter().zip(rows.columns()) {
            let name = field.name().as_str();
            if [DELETED, TICK].contains(&name) {
                continue;
            }
            let values = match field.data_type() {
                DataType::Utf8View => Values::Text(column.as_string_view()),
                DataType::Float64 => Values::Float(column.as_primitive::<Float64Type>()),
                DataType::Int64 => Values::Long(column.as_primitive::<Int64Type>()),
                DataType::Int32 => Values::Int(column.as_primitive::<Int32Type>()),
                DataType::Boolean => Values::Flag(column.as_boolean()),
                other => return Err(format!("column {name} is of type {other}, which has no form in a hash")),
            };
            fields.push(Field { name, values, is_reference: REFERENCES.contains(&name) });
        }
        let text = |name| rows.column_by_name(name).and_then(|column| column.as_string_view_opt());
        let float = |name| rows.column_by_name(name).and_then(|column| column.as_primitive_opt::<Float64Type>());
        Ok(Self {
            ids: text(KEY).ok_or_else(|| format!("the rows have no text column {KEY}"))?,
            position: float("lat").zip(float("lon")),
            companies: text("company_id"),
            fields,
            json: encoder.rows(rows),
            ticks: u64s(rows, TICK),
            deleted: bools(rows, DELETED),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn id(&self, row: usize) -> &'a str {
        self.ids.value(row)
    }

    pub(super) fn company(&self, row: usize) -> Option<&'a str> {
        self.companies.filter(|companies| companies.is_valid(row)).map(|companies| companies.value(row))
    }

    pub(super) fn is_deleted(&self, row: usize) -> bool {
        self.deleted.value(row)
    }

    /// What the newest of a key's rows has the highest of: of one tick, upserts count after deletes.
    pub(super) fn order(&self, row: usize) -> (u64, bool) {
        (self.ticks.value(row), !self.is_deleted(row))
    }

    fn score(&self, row: usize) -> Option<u64> {
        let (lat, lon) = self.position.filter(|(lat, lon)| lat.is_valid(row) && lon.is_valid(row))?;
        geo::score(lat.value(row), lon.value(row))
    }

    /// Appends an upsert of vehicle_state to `out`, and its JSON to `json`. Returns where in `out` the references begin.
    pub(super) fn put_state(
        &self,
        row: usize,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
        json: &mut json::Text,
    ) -> usize {
        let Scratch { whole, float, version, references, values, digested } = scratch;
        for buffer in [&mut *references, &mut *values, &mut *digested] {
            buffer.clear();
        }
        let version = version.format(self.ticks.value(row)).as_bytes();
        let json_begin = json.len();
        self.json.write(row, json);
        let mut counts = [0, 0];
        for field in &self.fields {
            let Some(text) = field.values.text(row, whole, float) else { continue };
            let list = if field.is_reference {
                &mut *references
            } else {
                digested.extend_from_slice(field.name.as_bytes());
                digested.push(0);
                &mut *values
            };
            mp::put_text(list, field.name.as_bytes());
            mp::put_text(list, text);
            counts[usize::from(field.is_reference)] += 2;
        }

        let score = self.score(row);
        digested.push(u8::from(score.is_some()));
        digested.extend_from_slice(references);
        mp::put_text(out, self.id(row).as_bytes());
        mp::put_text(out, key::encode(self.id(row)).as_bytes());
        match score {
            Some(score) => mp::put_text(out, whole.format(score).as_bytes()),
            None => mp::put_nil(out),
        }
        mp::put_u32(out, (json.len() - json_begin) as u32);
        mp::put_list_head(out, counts[0] + 4);
        for text in [b"version", version, b"digest", &hexadecimal(key_hash(digested))] {
            mp::put_text(out, text);
        }
        out.extend_from_slice(values);
        let references_begin = out.len();
        mp::put_list_head(out, counts[1]);
        out.extend_from_slice(references);
        references_begin
    }

    /// Appends a delete of vehicle_state to `out`.
    pub(super) fn put_delete(&self, row: usize, scratch: &mut Scratch, out: &mut Vec<u8>) {
        mp::put_text(out, self.id(row).as_bytes());
        mp::put_text(out, key::encode(self.id(row)).as_bytes());
        mp::put_text(out, scratch.version.format(self.ticks.value(row)).as_bytes());
    }

    /// Appends a change of vehicle_links to `out`.
    pub(super) fn put_links(&self, row: usize, scratch: &mut Scratch, out: &mut Vec<u8>) {
        let Scratch { whole, float, version, values, .. } = scratch;
        values.clear();
        mp::put_text(values, b"version");
        mp::put_text(values, version.format(self.ticks.value(row)).as_bytes());
        let mut count = 2;
        // Of a delete the values mean nothing.
        for field in self.fields.iter().filter(|_| !self.is_deleted(row)) {
            if let Some(text) = field.values.text(row, whole, float) {
                mp::put_text(values, field.name.as_bytes());
                mp::put_text(values, text);
                count += 2;
            }
        }
        mp::put_text(out, key::encode(self.id(row)).as_bytes());
        mp::put_flag(out, self.is_deleted(row));
        mp::put_list_head(out, count);
        out.extend_from_slice(values);
    }
}

impl Values<'_> {
    /// The value as text; `None` for null, and for floats that are not numbers.
    fn text<'b>(&'b self, row: usize, whole: &'b mut itoa::Buffer, float: &'b mut zmij::Buffer) -> Option<&'b [u8]> {
        let text = match self {
            Values::Text(values) => values.is_valid(row).then(|| values.value(row))?,
            Values::Float(values) => {
                let value = values.is_valid(row).then(|| values.value(row)).filter(|value| value.is_finite())?;
                float.format_finite(value)
            }
            Values::Long(values) => values.is_valid(row).then(|| whole.format(values.value(row)))?,
            Values::Int(values) => values.is_valid(row).then(|| whole.format(values.value(row)))?,
            Values::Flag(values) => values.is_valid(row).then(|| if values.value(row) { "true" } else { "false" })?,
        };
        Some(text.as_bytes())
    }
}

fn hexadecimal(number: u64) -> [u8; 16] {
    std::array::from_fn(|place| b"0123456789abcdef"[(number >> (60 - 4 * place)) as usize & 15])
}
