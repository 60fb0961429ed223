//! Catches an older row that overwrites a newer one, a deleted key that comes back, a pin that moves, and texts that come
//! out other than they went in.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringViewArray, UInt64Array};
use arrow::datatypes::{DataType, Field, SchemaRef};
use operators::batch::table_schema;
use proptest::prelude::*;

use super::*;

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8View, true);
    table_schema(vec![text("id"), text("group"), text("tags"), Field::new("speed", DataType::Float64, true)])
}

fn encoder() -> RowEncoder {
    RowEncoder::new(Layout::new(&schema(), "id", &["group", "tags"], &["tags"]))
}

/// (key, group, tags, speed, deleted, tick)
type Given = (String, Option<String>, Option<String>, Option<f64>, bool, u64);

fn batch(rows: &[Given]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| &row.0))),
        Arc::new(rows.iter().map(|row| row.1.as_deref()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.2.as_deref()).collect::<StringViewArray>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| Some(row.4)).collect::<BooleanArray>()),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.5))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

fn put(encoder: &mut RowEncoder, state: &mut CurrentState, rows: &[Given]) -> Vec<Change> {
    let batch = batch(rows);
    let bound = Rows::bind(&encoder.layout().clone(), &batch).unwrap();
    let mut incoming = Vec::new();
    encoder.encode(&bound, 0..rows.len(), &mut incoming);
    incoming.into_iter().filter_map(|row| state.put(row)).collect()
}

type Shown = BTreeMap<String, (String, String, Option<f64>, u64)>;

fn shown(pin: &Pin) -> Shown {
    pin.iter()
        .map(|row| {
            let value = (row.text(1).to_owned(), row.text(2).to_owned(), row.float(3), row.version());
            (row.key().to_owned(), value)
        })
        .collect()
}

/// What a broken text in a JSON column becomes.
fn as_json(text: &str) -> String {
    match serde_json::from_str::<serde::de::IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => serde_json::to_string(text).unwrap(),
    }
}

fn given() -> impl Strategy<Value = Given> {
    let text = || proptest::option::of(prop_oneof!["[a-c]{1,2}", "[\"\\\\\u{1}é🚚 ]{0,300}", Just("x".repeat(70_000))]);
    let tags = proptest::option::of(prop_oneof![Just("[\"a\",\"b\"]".to_owned()), "[a-c\"]{1,2}"]);
    ("[k-n][0-9]", text(), tags, proptest::option::of(-1e9..1e9f64), proptest::bool::weighted(0.2), 1..50u64)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_newest_row_of_each_key_stands_whatever_the_order(rows in proptest::collection::vec(given(), 1..200)) {
        let (mut encoder, mut expected) = (encoder(), BTreeMap::<String, Given>::new());
        let mut state = CurrentState::new(&encoder);
        let mut pins = Vec::new();
        for chunk in rows.chunks(7) {
            let before = shown(&state.pin());
            pins.push((state.pin(), before.clone()));
            let changes = put(&mut encoder, &mut state, chunk);
            for row in chunk {
                let beats = expected.get(&row.0).is_none_or(|old| (row.5, !row.4) >= (old.5, !old.4));
                if beats { expected.insert(row.0.clone(), row.clone()); }
            }
            prop_assert!(changes.iter().all(|change| change.old != change.new));
            let after = shown(&state.pin());
            prop_assert_eq!(state.len(), after.len());
            prop_assert!(before == after || !changes.is_empty());
        }
        let wanted: Shown = expected.into_iter().filter(|(_, row)| !row.4).map(|(key, row)| {
            let tags = row.2.map(|tags| as_json(&tags)).unwrap_or_default();
            (key, (row.1.unwrap_or_default(), tags, row.3, row.5))
        }).collect();
        prop_assert_eq!(shown(&state.pin()), wanted);
        for (pin, as_pinned) in pins {
            prop_assert_eq!(shown(&pin), as_pinned);
        }
    }
}

fn row(key: &str, deleted: bool, tick: u64) -> Given {
    (key.to_owned(), Some("g".to_owned()), None, Some(1.0), deleted, tick)
}

#[test]
fn the_same_rows_twice_change_nothing() {
    let mut encoder = encoder();
    let mut state = CurrentState::new(&encoder);
    let rows = [row("a", false, 10), row("b", false, 10), row("c", true, 10), row("a", true, 10)];
    assert_eq!(put(&mut encoder, &mut state, &rows).len(), 2);
    assert!(put(&mut encoder, &mut state, &rows).is_empty());
    assert_eq!((state.len(), state.version()), (2, 10));
}

#[test]
fn a_text_column_cannot_smuggle_broken_json_through_the_dictionary() {
    let mut encoder = encoder();
    let mut state = CurrentState::new(&encoder);
    let rows = [("a".to_owned(), Some("[".to_owned()), Some("[".to_owned()), None, false, 1)];
    put(&mut encoder, &mut state, &rows);
    put(&mut encoder, &mut state, &[("b".to_owned(), None, Some("[".to_owned()), None, false, 1)]);
    for row in state.pin().iter() {
        assert_eq!(row.text(2), "\"[\"");
    }
}

#[test]
fn forgotten_tombstones_free_their_places_and_slots_stay_distinct() {
    let mut encoder = encoder();
    let mut state = CurrentState::new(&encoder);
    let rows: Vec<Given> = (0..TOMBSTONES_MAX + 10).map(|n| row(&format!("k{n}"), true, 5)).collect();
    put(&mut encoder, &mut state, &rows);
    let places = state.pin().places();
    assert_eq!(state.len(), 0);
    let first = put(&mut encoder, &mut state, &[row("k0", false, 1)]);
    assert_eq!(first.len(), 1, "the oldest tombstones are forgotten");
    assert!(put(&mut encoder, &mut state, &[row("k10", false, 4)]).is_empty(), "the newer ones are not");
    let again = put(&mut encoder, &mut state, &[row("new", false, 1)]);
    assert_ne!(first[0].slot, again[0].slot);
    assert_eq!(state.pin().places(), places, "freed places are used again");
}

#[test]
fn rows_of_another_schema_are_refused_by_name() {
    let wrong = batch(&[row("a", false, 1)]);
    let error = Rows::bind(&Layout::vehicle_state(), &wrong).err().unwrap().to_string();
    assert_eq!(error, "column vehicle_id: wanted Utf8View, found no such column");
}

#[test]
fn columns_that_differ_are_named() {
    let mut encoder = encoder();
    let mut state = CurrentState::new(&encoder);
    let mut other = row("a", false, 2);
    put(&mut encoder, &mut state, &[row("a", false, 1)]);
    (other.1, other.3) = (None, Some(2.0));
    let changes = put(&mut encoder, &mut state, &[other]);
    let reader = encoder.reader();
    let [old, new] = [&changes[0].old, &changes[0].new].map(|row| reader.view(row.as_ref().unwrap()));
    assert_eq!((old.present(), new.present()), (0b1011, 0b1001));
    assert_eq!(old.changed(&new), 0b1010);
}
