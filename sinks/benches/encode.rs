//! How many rows a core turns into JSON: the object of 21 fields that an enriched message is, beside serde_json on the same
//! values as a struct. Prints figures, keeps nothing.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Field, Schema};
use serde::Serialize;
use sinks::json::{Encoder, Nulls, Text};

const ROWS: usize = 8_192;
const TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Serialize)]
struct Enriched {
    device_id: String,
    ts: i64,
    seq: i64,
    lat: f64,
    lon: f64,
    speed_kmh: f64,
    heading_deg: f64,
    fuel_level_pct: f64,
    engine_temp_c: f64,
    odometer_km: f64,
    ignition: bool,
    satellites: i32,
    vehicle_id: String,
    plate: String,
    model: String,
    company_id: String,
    company_name: String,
    tariff_id: String,
    driver_id: String,
    driver_name: String,
    driver_phone: String,
}

fn rows() -> Vec<Enriched> {
    let mut state = 42u64;
    let mut below = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let row = |i: usize| {
        let device = below(100_000);
        Enriched {
            device_id: format!("d{device:07}"),
            ts: 1_767_225_600_000 + i as i64,
            seq: below(40) as i64,
            lat: 45.0 + below(10_000_000) as f64 / 1e6,
            lon: 5.0 + below(10_000_000) as f64 / 1e6,
            speed_kmh: below(1_300) as f64 / 10.0,
            heading_deg: below(3_600) as f64 / 10.0,
            fuel_level_pct: below(1_000) as f64 / 10.0,
            engine_temp_c: 60.0 + below(400) as f64 / 10.0,
            odometer_km: below(3_000_000) as f64 / 10.0,
            ignition: below(10) > 0,
            satellites: 4 + below(12) as i32,
            vehicle_id: format!("v{device:07}"),
            plate: format!("HS-{device:06}"),
            model: format!("Actros {}", 1_800 + below(60)),
            company_id: format!("c{:05}", device % 1_000),
            company_name: format!("Company {:05} GmbH", device % 1_000),
            tariff_id: format!("t{:02}", device % 5),
            driver_id: format!("r{device:07}"),
            driver_name: format!("Driver Number {device:07}"),
            driver_phone: format!("+49 170 {device:07}"),
        }
    };
    (0..ROWS).map(row).collect()
}

fn batch(rows: &[Enriched]) -> RecordBatch {
    fn text(rows: &[Enriched], value: impl Fn(&Enriched) -> &String) -> ArrayRef {
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(value)))
    }
    fn float(rows: &[Enriched], value: impl Fn(&Enriched) -> f64) -> ArrayRef {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(value)))
    }
    fn int(rows: &[Enriched], value: impl Fn(&Enriched) -> i64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(value)))
    }
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("device_id", text(rows, |r| &r.device_id)),
        ("ts", int(rows, |r| r.ts)),
        ("seq", int(rows, |r| r.seq)),
        ("lat", float(rows, |r| r.lat)),
        ("lon", float(rows, |r| r.lon)),
        ("speed_kmh", float(rows, |r| r.speed_kmh)),
        ("heading_deg", float(rows, |r| r.heading_deg)),
        ("fuel_level_pct", float(rows, |r| r.fuel_level_pct)),
        ("engine_temp_c", float(rows, |r| r.engine_temp_c)),
        ("odometer_km", float(rows, |r| r.odometer_km)),
        ("ignition", Arc::new(BooleanArray::from(rows.iter().map(|r| r.ignition).collect::<Vec<_>>()))),
        ("satellites", Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.satellites)))),
        ("vehicle_id", text(rows, |r| &r.vehicle_id)),
        ("plate", text(rows, |r| &r.plate)),
        ("model", text(rows, |r| &r.model)),
        ("company_id", text(rows, |r| &r.company_id)),
        ("company_name", text(rows, |r| &r.company_name)),
        ("tariff_id", text(rows, |r| &r.tariff_id)),
        ("driver_id", text(rows, |r| &r.driver_id)),
        ("driver_name", text(rows, |r| &r.driver_name)),
        ("driver_phone", text(rows, |r| &r.driver_phone)),
    ];
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect())
        .expect("columns of one length")
}

/// Rows a second, and bytes of one round, of the best of many rounds.
fn measure(mut round: impl FnMut() -> usize) -> (f64, usize) {
    let (began, mut best, mut bytes) = (Instant::now(), Duration::MAX, 0);
    while began.elapsed() < TIME {
        let start = Instant::now();
        bytes = round();
        best = best.min(start.elapsed());
    }
    (ROWS as f64 / best.as_secs_f64(), bytes)
}

fn main() {
    let rows = rows();
    let batch = batch(&rows);
    let encoder = Encoder::new(&batch.schema(), Nulls::Omitted, &[]).expect("types with a JSON form");
    let mut text = Text::new();
    let (ours, bytes) = measure(|| {
        let writer = encoder.rows(&batch);
        let mut bytes = 0;
        for row in 0..batch.num_rows() {
            text.clear();
            writer.write(row, &mut text);
            bytes += black_box(text.as_bytes()).len();
        }
        bytes
    });
    let mut buffer = Vec::new();
    let (theirs, _) = measure(|| {
        let mut bytes = 0;
        for row in &rows {
            buffer.clear();
            serde_json::to_writer(&mut buffer, row).expect("memory takes the bytes");
            bytes += black_box(&buffer).len();
        }
        bytes
    });
    let mean = bytes as f64 / ROWS as f64;
    println!("encode: {:.2} M rows/s, {:.0} MB/s, {mean:.0} bytes a row", ours / 1e6, ours * mean / 1e6);
    println!("serde_json on structs: {:.2} M rows/s; ratio {:.2}", theirs / 1e6, ours / theirs);
}
