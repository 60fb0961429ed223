//! Postgres' types as far as columns can have them.

use std::sync::Arc;

use arrow_pg::datatypes::field_into_pg_type;
use datafusion::arrow::datatypes::Field;
use datafusion::arrow::record_batch::RecordBatch;
use pgwire::api::Type;

use super::rows::Rows;

/// A type: itself, what SQL calls it, bytes of a value (−1: various), its category, and the array of it.
type Known = (Type, &'static str, i32, &'static str, Option<Type>);

/// All of them but the arrays.
fn known() -> Vec<Known> {
    vec![
        (Type::BOOL, "boolean", 1, "B", Some(Type::BOOL_ARRAY)),
        (Type::BYTEA, "bytea", -1, "U", Some(Type::BYTEA_ARRAY)),
        (Type::CHAR, "\"char\"", 1, "Z", Some(Type::CHAR_ARRAY)),
        (Type::NAME, "name", 64, "S", Some(Type::NAME_ARRAY)),
        (Type::INT8, "bigint", 8, "N", Some(Type::INT8_ARRAY)),
        (Type::INT2, "smallint", 2, "N", Some(Type::INT2_ARRAY)),
        (Type::INT4, "integer", 4, "N", Some(Type::INT4_ARRAY)),
        (Type::TEXT, "text", -1, "S", Some(Type::TEXT_ARRAY)),
        (Type::OID, "oid", 4, "N", Some(Type::OID_ARRAY)),
        (Type::FLOAT4, "real", 4, "N", Some(Type::FLOAT4_ARRAY)),
        (Type::FLOAT8, "double precision", 8, "N", Some(Type::FLOAT8_ARRAY)),
        (Type::VARCHAR, "character varying", -1, "S", Some(Type::VARCHAR_ARRAY)),
        (Type::DATE, "date", 4, "D", Some(Type::DATE_ARRAY)),
        (Type::TIME, "time without time zone", 8, "D", Some(Type::TIME_ARRAY)),
        (Type::TIMESTAMP, "timestamp without time zone", 8, "D", Some(Type::TIMESTAMP_ARRAY)),
        (Type::TIMESTAMPTZ, "timestamp with time zone", 8, "D", Some(Type::TIMESTAMPTZ_ARRAY)),
        (Type::INTERVAL, "interval", 16, "T", Some(Type::INTERVAL_ARRAY)),
        (Type::NUMERIC, "numeric", -1, "N", Some(Type::NUMERIC_ARRAY)),
        (Type::JSON, "json", -1, "U", Some(Type::JSON_ARRAY)),
        (Type::REGCLASS, "regclass", 4, "N", Some(Type::REGCLASS_ARRAY)),
        (Type::REGTYPE, "regtype", 4, "N", Some(Type::REGTYPE_ARRAY)),
        (Type::UNKNOWN, "unknown", -2, "X", None),
        (Type::RECORD, "record", -1, "P", Some(Type::RECORD_ARRAY)),
    ]
}

/// The type of a column. What Postgres has no type for is shown as text.
pub fn type_of(field: &Arc<Field>) -> Type {
    field_into_pg_type(field).unwrap_or(Type::TEXT)
}

/// Bytes of a value; −1 if they vary.
pub fn length(kind: &Type) -> i32 {
    known().into_iter().find(|(known, ..)| known == kind).map_or(-1, |(_, _, length, ..)| length)
}

/// What SQL calls the type with this number.
pub fn format_type(number: i32) -> String {
    for (kind, name, _, _, array) in known() {
        if kind.oid() as i32 == number {
            return name.to_owned();
        }
        if array.is_some_and(|array| array.oid() as i32 == number) {
            return format!("{name}[]");
        }
    }
    if number == 0 { "-".to_owned() } else { "???".to_owned() }
}

/// `pg_type`.
pub fn table(namespace: i32, owner: i32) -> RecordBatch {
    let (mut numbers, mut names, mut lengths, mut categories) = (vec![], vec![], vec![], vec![]);
    let (mut elements, mut arrays, mut kinds) = (vec![], vec![], vec![]);
    let known = known();
    for (kind, _, length, category, array) in &known {
        let array_number = array.as_ref().map_or(0, |array| array.oid() as i32);
        numbers.push(kind.oid() as i32);
        names.push(kind.name());
        lengths.push(*length);
        categories.push(*category);
        kinds.push(if *category == "P" { "p" } else { "b" });
        elements.push(0);
        arrays.push(array_number);
        if let Some(array) = array {
            numbers.push(array_number);
            names.push(array.name());
            lengths.push(-1);
            categories.push("A");
            kinds.push("b");
            elements.push(kind.oid() as i32);
            arrays.push(0);
        }
    }
    let mut rows = Rows::of(names.len())
        .numbers("oid", &numbers)
        .texts("typname", &names)
        .numbers("typlen", &lengths)
        .texts("typcategory", &categories)
        .texts("typtype", &kinds)
        .numbers("typelem", &elements)
        .numbers("typarray", &arrays)
        .same_number("typnamespace", namespace)
        .same_number("typowner", owner)
        .same_number("typtypmod", -1)
        .same_text("typdelim", ",")
        .same_flag("typisdefined", true);
    for zero in ["typrelid", "typbasetype", "typndims", "typcollation", "typinput", "typreceive"] {
        rows = rows.same_number(zero, 0);
    }
    for no in ["typbyval", "typnotnull", "typispreferred"] {
        rows = rows.same_flag(no, false);
    }
    rows.no_text("typdefault").batch()
}
