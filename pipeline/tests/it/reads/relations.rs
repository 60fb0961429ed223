//! Relations that change: the speed of some vehicles, all of one version at any tick.

use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use queries::reads::{Kind, Name, PUBLIC, Relation, Relations, SYSTEM, Snapshot};

/// `speeds` with the key vehicle_id, `latest` with the version and no key, `tariffs` with a key of two columns, and
/// `haulstream.streams`.
pub struct Fleet {
    vehicles: i64,
    version: Mutex<i64>,
}

impl Fleet {
    /// Of so many vehicles, at version 0.
    pub fn new(vehicles: i64) -> Fleet {
        Fleet { vehicles, version: Mutex::new(0) }
    }

    /// The next version.
    pub fn change(&self) {
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// The tick of the version.
    pub fn tick(&self) -> u64 {
        10 * *self.version.lock().unwrap_or_else(PoisonError::into_inner) as u64
    }
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn number(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn relation(namespace: &str, name: &str, kind: Kind, key: &[&str], fields: Vec<Field>) -> Relation {
    let key = key.iter().map(|column| (*column).to_owned()).collect();
    Relation { name: Name::new(namespace, name), schema: schema(fields), key, access: None, kind }
}

fn texts(values: Vec<String>) -> ArrayRef {
    Arc::new(StringArray::from(values))
}

impl Relations for Fleet {
    fn list(&self) -> Vec<Relation> {
        let at = Field::new("at", DataType::Timestamp(TimeUnit::Millisecond, None), true);
        let speed = Field::new("speed", DataType::Float64, true);
        vec![
            relation(
                PUBLIC,
                "speeds",
                Kind::View,
                &["vehicle_id"],
                vec![text("vehicle_id"), speed, number("version"), at],
            ),
            relation(PUBLIC, "latest", Kind::View, &[], vec![number("version")]),
            relation(PUBLIC, "tariffs", Kind::Table, &["tariff_id", "zone"], vec![text("tariff_id"), number("zone")]),
            relation(SYSTEM, "streams", Kind::System, &["name"], vec![text("name")]),
        ]
    }

    fn snapshot_all(&self, names: &[Name]) -> Vec<Option<Snapshot>> {
        let version = *self.version.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.list();
        let rows = |name: &Name| {
            let schema = all.iter().find(|relation| relation.name == *name)?.schema.clone();
            let numbers: Vec<i64> = (0..self.vehicles).collect();
            let columns: Vec<ArrayRef> = match name.name.as_str() {
                "speeds" => vec![
                    texts(numbers.iter().map(|n| format!("v{n}")).collect()),
                    Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| *n as f64 / 2.0))),
                    Arc::new(Int64Array::from(vec![version; numbers.len()])),
                    Arc::new(TimestampMillisecondArray::from_iter_values(
                        numbers.iter().map(|n| 1_700_000_000_000 + n * 1_000),
                    )),
                ],
                "latest" => vec![Arc::new(Int64Array::from(vec![version]))],
                "tariffs" => vec![texts(vec!["t|1".to_owned()]), Arc::new(Int64Array::from(vec![2]))],
                _ => vec![texts(vec!["speeds".to_owned()])],
            };
            let batch = RecordBatch::try_new(schema, columns).expect("columns of the schema");
            Some(Snapshot { as_of: 10 * version as u64, access: None, batches: vec![batch] })
        };
        names.iter().map(rows).collect()
    }
}
