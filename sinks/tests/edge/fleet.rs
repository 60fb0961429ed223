//! Vehicles as the dataflow would give them: rows of `vehicle_state`, and a model of what the edge has to show of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::datatypes::{DataType, FieldRef};
use operators::batch::{DELETED, TICK};
use operators::record::output::vehicle_state;
use serde_json::{Map, Value, json};
use sinks::edge::{EdgeSink, STREAM};
use sinks::{Rows, Sink, Step};

/// Numbers that look random and are the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (x ^ (x >> 31)) % bound
    }

    pub fn float(&mut self, low: f64, high: f64) -> f64 {
        // Few digits, so that a JSON parser reads them exactly.
        low + ((high - low) * 64.0 * self.below(1 << 20) as f64 / (1u64 << 20) as f64).floor() / 64.0
    }
}

#[derive(Clone, Debug)]
pub struct Vehicle {
    pub id: String,
    pub company: u64,
    pub driver: Option<u64>,
    pub lat: f64,
    pub lon: f64,
    pub speed: Option<f64>,
    pub deleted: bool,
    pub tick: u64,
}

impl Vehicle {
    pub fn new(id: u64, tick: u64) -> Self {
        let (lat, lon) = (48.0 + (id % 97) as f64 / 8.0, 2.0 + (id % 89) as f64 / 8.0);
        let (company, driver) = (id % 5, Some(id % 7));
        Self { id: format!("veh-{id:06}"), company, driver, lat, lon, speed: Some(50.0), deleted: false, tick }
    }

    /// The row as a client has it, without its version: nulls left out.
    pub fn shown(&self) -> Map<String, Value> {
        let all = json!({
            "vehicle_id": self.id, "device_id": format!("dev-{}", self.id), "plate": format!("PL \"{}\"", self.id),
            "model": "Actros L", "group_ids": ["north", "ü"], "company_id": format!("c{}", self.company),
            "company_name": format!("Company {}", self.company), "driver_id": self.driver.map(|n| format!("d{n}")),
            "driver_name": self.driver.map(|n| format!("Driver {n}")),
            "status": if self.speed.unwrap_or(0.0) > 1.0 { "moving" } else { "parked" },
            "ts": self.tick, "lat": self.lat, "lon": self.lon, "speed_kmh": self.speed, "satellites": 9,
            "ignition": true, "odometer_km": 12_345.6,
        });
        let Value::Object(all) = all else { unreachable!("an object") };
        all.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }
}

/// Rows of the stream, made of what clients are to be shown.
pub fn batch(vehicles: &[Vehicle]) -> RecordBatch {
    let rows: Vec<_> = vehicles.iter().map(Vehicle::shown).collect();
    let schema = vehicle_state();
    let column = |field: &FieldRef| -> ArrayRef {
        let name = field.name().as_str();
        let get = |row: &Map<String, Value>| row.get(name).cloned();
        match (name, field.data_type()) {
            (DELETED, _) => Arc::new(vehicles.iter().map(|row| Some(row.deleted)).collect::<BooleanArray>()),
            (TICK, _) => Arc::new(UInt64Array::from_iter_values(vehicles.iter().map(|row| row.tick))),
            (_, DataType::Utf8View) => {
                let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                Arc::new(rows.iter().map(|row| get(row).map(text)).collect::<StringViewArray>())
            }
            (_, DataType::Float64) => Arc::new(rows.iter().map(|row| get(row)?.as_f64()).collect::<Float64Array>()),
            (_, DataType::Int64) => Arc::new(rows.iter().map(|row| get(row)?.as_i64()).collect::<Int64Array>()),
            (_, DataType::Int32) => {
                Arc::new(rows.iter().map(|row| Some(get(row)?.as_i64()? as i32)).collect::<Int32Array>())
            }
            (_, DataType::Boolean) => Arc::new(rows.iter().map(|row| get(row)?.as_bool()).collect::<BooleanArray>()),
            (name, other) => panic!("{name}: {other}"),
        }
    };
    let columns = schema.fields().iter().map(column).collect();
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

pub type Shown = BTreeMap<String, Map<String, Value>>;

/// What has been fed, and the sink that it is fed to.
pub struct Fleet {
    pub sink: EdgeSink,
    pub vehicles: BTreeMap<String, Vehicle>,
    upto: u64,
}

impl Fleet {
    pub fn new(sink: EdgeSink) -> Self {
        Self { sink, vehicles: BTreeMap::new(), upto: 0 }
    }

    /// Feeds rows as one step, as the sink runner would: the newest row of each key counts.
    pub async fn feed(&mut self, rows: &[Vehicle]) {
        let upto = rows.iter().map(|row| row.tick).max().unwrap_or(0).max(self.upto) + 1;
        let step = Step { stream: STREAM, worker: 0, from: self.upto, upto, rows: vec![Rows::Upsert(batch(rows))] };
        self.upto = upto;
        self.sink.apply(&step).await.unwrap();
        for row in rows {
            let newer = |old: &Vehicle| (row.tick, !row.deleted) >= (old.tick, !old.deleted);
            if self.vehicles.get(&row.id).is_none_or(newer) {
                self.vehicles.insert(row.id.clone(), row.clone());
            }
        }
    }

    /// What a client has to show of the vehicles that `admits` lets through.
    pub fn expected(&self, admits: impl Fn(&Vehicle) -> bool) -> Shown {
        let live = self.vehicles.values().filter(|vehicle| !vehicle.deleted && admits(vehicle));
        live.map(|vehicle| (vehicle.id.clone(), vehicle.shown())).collect()
    }

    /// Some vehicles as they are a little later: moved, stopped, sold, scrapped, or heard of too late.
    pub fn drive(&self, random: &mut Random, tick: u64, ids: u64, rows: usize) -> Vec<Vehicle> {
        let mut out = BTreeMap::new();
        for _ in 0..rows {
            let id = random.below(ids);
            let known = self.vehicles.get(&format!("veh-{id:06}"));
            let mut vehicle = known.cloned().unwrap_or_else(|| Vehicle::new(id, tick));
            // Now and then a row comes that is older than what is known; it must not count.
            vehicle.tick = if random.below(20) == 0 { tick.saturating_sub(500) } else { tick + random.below(10) };
            vehicle.lat += random.float(-0.5, 0.5);
            vehicle.lon += random.float(-0.5, 0.5);
            vehicle.speed = (random.below(4) > 0).then(|| random.float(0.0, 90.0));
            vehicle.deleted = random.below(30) == 0;
            match random.below(10) {
                0 => vehicle.company = random.below(5),
                1 => vehicle.driver = (random.below(3) > 0).then(|| random.below(9)),
                _ => {}
            }
            out.insert(id, vehicle);
        }
        out.into_values().collect()
    }
}
