//! Round trips through another JSON reader. They would catch: text that needs escaping, at every length around the sizes that
//! are copied in one piece; numbers that come back changed; a comma too many or too few where values are missing.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Field;
use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;

#[derive(Clone, Debug)]
struct Row {
    view: Option<String>,
    text: Option<String>,
    double: Option<f64>,
    single: Option<f32>,
    long: Option<i64>,
    int: Option<i32>,
    unsigned: u64,
    flag: Option<bool>,
    events: Option<Vec<String>>,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let events = |row: &Row| row.events.as_ref().map(|events| serde_json::to_string(events).unwrap());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("view", Arc::new(rows.iter().map(|row| row.view.clone()).collect::<StringViewArray>())),
        ("a \"text\"", Arc::new(rows.iter().map(|row| row.text.clone()).collect::<StringArray>())),
        ("double", Arc::new(rows.iter().map(|row| row.double).collect::<Float64Array>())),
        (
            "a name that is too long to be copied in one piece",
            Arc::new(rows.iter().map(|row| row.single).collect::<Float32Array>()),
        ),
        ("long", Arc::new(rows.iter().map(|row| row.long).collect::<Int64Array>())),
        ("int", Arc::new(rows.iter().map(|row| row.int).collect::<Int32Array>())),
        ("__tick", Arc::new(rows.iter().map(|row| row.unsigned).collect::<UInt64Array>())),
        ("__hash", Arc::new(rows.iter().map(|row| row.unsigned).collect::<UInt64Array>())),
        ("flag", Arc::new(rows.iter().map(|row| row.flag).collect::<BooleanArray>())),
        ("events", Arc::new(rows.iter().map(events).collect::<StringViewArray>())),
    ];
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

fn written(batch: &RecordBatch, nulls: Nulls) -> Vec<String> {
    let encoder = Encoder::new(&batch.schema(), nulls, &[("__tick", "version")]).unwrap();
    let rows = encoder.rows(batch);
    let mut text = Text::new();
    let mut object = |row| {
        text.clear();
        rows.write(row, &mut text);
        String::from_utf8(text.as_bytes().to_vec()).unwrap()
    };
    (0..batch.num_rows()).map(&mut object).collect()
}

/// The field's value as Rust reads it from the text, whatever serde_json makes of floats.
fn check<T: PartialEq + std::fmt::Debug>(
    object: &BTreeMap<String, Box<RawValue>>,
    name: &str,
    wanted: Option<T>,
    nulls: Nulls,
    read: impl Fn(&str) -> T,
) {
    match (object.get(name).map(|raw| raw.get()), wanted) {
        (None, None) => assert_eq!(nulls, Nulls::Omitted),
        (Some("null"), None) => {}
        (Some(text), Some(wanted)) => assert_eq!(read(text), wanted, "{name}: {text}"),
        (text, wanted) => panic!("{name}: {text:?} for {wanted:?}"),
    }
}

fn text() -> impl Strategy<Value = Option<String>> {
    let letter = prop_oneof![
        8 => prop::char::range('a', 'z'),
        1 => Just('"'),
        1 => Just('\\'),
        1 => prop::char::range('\0', '\u{1f}'),
        1 => any::<char>(),
    ];
    let plain = "[ -!#-\\[\\]-~]{0,40}";
    prop::option::of(prop_oneof![
        plain,
        prop::collection::vec(letter, 0..40).prop_map(|letters| letters.into_iter().collect())
    ])
}

fn row() -> impl Strategy<Value = Row> {
    let double = prop_oneof![
        any::<f64>(),
        (-1_000_000i64..1_000_000).prop_map(|n| n as f64 / 10.0),
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-0.0)
    ];
    (
        (text(), text(), prop::option::of(double), any::<Option<f32>>(), any::<Option<i64>>()),
        (any::<Option<i32>>(), any::<u64>(), any::<Option<bool>>()),
        prop::option::of(prop::collection::vec("[a-z\"\\\\]{0,6}", 0..3)),
    )
        .prop_map(|((view, text, double, single, long), (int, unsigned, flag), events)| Row {
            view,
            text,
            double,
            single,
            long,
            int,
            unsigned,
            flag,
            events,
        })
}

proptest! {
    #[test]
    fn another_reader_reads_what_was_there(
        rows in prop::collection::vec(row(), 0..20),
        written_nulls in any::<bool>(),
        from in 0usize..4,
    ) {
        let nulls = if written_nulls { Nulls::Written } else { Nulls::Omitted };
        let whole = batch(&rows);
        let from = from.min(rows.len());
        let batch = whole.slice(from, rows.len() - from);
        for (object, row) in written(&batch, nulls).iter().zip(&rows[from..]) {
            let object: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).expect(object);
            let string = |text: &str| serde_json::from_str::<String>(text).unwrap();
            check(&object, "view", row.view.clone(), nulls, string);
            check(&object, "a \"text\"", row.text.clone(), nulls, string);
            // What is not finite is null even where missing values are left out.
            let double = row.double.filter(|d| d.is_finite());
            let lost = if row.double == double { nulls } else { Nulls::Written };
            check(&object, "double", double.map(f64::to_bits), lost, |t| t.parse::<f64>().unwrap().to_bits());
            let single = row.single.filter(|d| d.is_finite());
            let long_name = "a name that is too long to be copied in one piece";
            check(&object, long_name, single, nulls, |t| t.parse().unwrap());
            check(&object, "long", row.long, nulls, |t| t.parse().unwrap());
            check(&object, "int", row.int, nulls, |t| t.parse().unwrap());
            check(&object, "version", Some(row.unsigned), nulls, |t| t.parse().unwrap());
            check(&object, "flag", row.flag, nulls, |t| t.parse().unwrap());
            check(&object, "events", row.events.clone(), nulls, |t| serde_json::from_str::<Vec<String>>(t).unwrap());
            prop_assert!(!object.contains_key("__hash") && !object.contains_key("__tick"));
            prop_assert!(!written_nulls || object.len() == 9);
        }
    }

    #[test]
    fn every_byte_is_escaped_at_every_place(length in 1usize..30, at in 0usize..30, byte in 0u8..128) {
        let mut text = "x".repeat(length);
        text.replace_range(at % length..=at % length, char::from(byte).to_string().as_str());
        let row = Row { view: Some(text.clone()), text: Some(text), double: None, single: None, long: None, int: None,
            unsigned: 0, flag: None, events: None };
        let object = &written(&batch(std::slice::from_ref(&row)), Nulls::Omitted)[0];
        let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(object).expect(object);
        prop_assert_eq!(object["view"].as_str(), row.view.as_deref());
        prop_assert_eq!(object["a \"text\""].as_str(), row.text.as_deref());
    }
}

#[test]
fn an_object_without_fields_is_an_object() {
    let schema = Arc::new(Schema::new(vec![Field::new("lat", DataType::Float64, true)]));
    let lat: ArrayRef = Arc::new(Float64Array::from(vec![None, Some(1.0)]));
    let batch = RecordBatch::try_new(schema, vec![lat]).unwrap();
    assert_eq!(written(&batch, Nulls::Omitted), ["{}", "{\"lat\":1.0}"]);
    assert_eq!(written(&batch, Nulls::Written), ["{\"lat\":null}", "{\"lat\":1.0}"]);
}

#[test]
fn a_type_without_a_form_is_refused_by_name() {
    let schema = Schema::new(vec![Field::new("small", DataType::Int16, true)]);
    let error = Encoder::new(&schema, Nulls::Omitted, &[]).unwrap_err();
    assert_eq!(error.to_string(), "column small of type Int16 has no JSON form: write text, numbers or booleans");
}
