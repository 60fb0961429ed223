//! A fleet's decoded batches, as readers hand them over: telemetry by tick and partition, references to begin with and one
//! update a tick. The same numbers on every machine.

use arrow::array::RecordBatch;
use operators::error::Position;
use operators::record::Stream as Topic;
use operators::record::registry::{RegistryBuilder, Value};
use operators::record::telemetry::{Telemetry, TelemetryBuilder};
use operators::time::Tick;

pub const TICK_MS: u64 = 10;
/// Tick at which the references are loaded.
pub const START: Tick = 1_760_000_000_000;
pub const PARTITIONS: usize = 4;
const COMPANIES: u64 = 1_000;
const TARIFFS: u64 = 10;
/// One vehicle in so many reports only now and then, so that there is silence to see.
const SPARSE: u64 = 100;

/// What arrives in one tick.
pub struct TickInput {
    pub tick: Tick,
    /// A batch a partition, in the order of partitions.
    pub telemetry: Vec<RecordBatch>,
    pub reference: Option<(Topic, RecordBatch)>,
}

/// The source of a run's input.
pub struct Fleet {
    pub vehicles: u64,
    events_per_tick: u64,
    dice: u64,
    tick: Tick,
    offsets: [i64; PARTITIONS],
    devices: Vec<String>,
}

impl Fleet {
    pub fn new(vehicles: u64, events_per_tick: u64) -> Self {
        let devices = (0..vehicles).map(device_id).collect();
        Self { vehicles, events_per_tick, dice: 42, tick: START, offsets: [0; PARTITIONS], devices }
    }

    fn roll(&mut self, bound: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }

    /// Every reference, in batches as a reader makes them; all in the first tick.
    pub fn references(&self) -> Vec<(Topic, RecordBatch)> {
        let mut batches = Vec::new();
        for (topic, count) in [
            (Topic::Tariff, TARIFFS),
            (Topic::Company, COMPANIES),
            (Topic::Driver, self.vehicles),
            (Topic::Vehicle, self.vehicles),
        ] {
            let mut builder = RegistryBuilder::new(topic);
            for number in 0..count {
                reference(
                    &mut builder,
                    topic,
                    number,
                    0,
                    self.vehicles,
                    Position { partition: 0, offset: number as i64, tick: START },
                );
                if builder.len() == 8_192 {
                    batches.push((topic, builder.finish()));
                }
            }
            batches.push((topic, builder.finish()));
        }
        batches
    }

    /// The input of the next ticks.
    pub fn next(&mut self, ticks: usize) -> Vec<TickInput> {
        (0..ticks).map(|_| self.next_tick()).collect()
    }

    fn next_tick(&mut self) -> TickInput {
        self.tick += TICK_MS;
        let mut builders: Vec<TelemetryBuilder> = (0..PARTITIONS).map(|_| TelemetryBuilder::default()).collect();
        let usual = self.vehicles - self.vehicles / SPARSE;
        for _ in 0..self.events_per_tick {
            let sparse = self.roll(5_000) == 0;
            let device = if sparse { usual + self.roll(self.vehicles - usual) } else { self.roll(usual) };
            let partition = (device % PARTITIONS as u64) as usize;
            let at = Position { partition: partition as i32, offset: self.offsets[partition], tick: self.tick };
            self.offsets[partition] += 1;
            let dice = self.roll(1 << 40);
            let late = if dice.is_multiple_of(20) { self.roll(5_000) as i64 } else { 0 };
            let text = self.devices[device as usize].as_str();
            builders[partition].push(&message(text, self.tick as i64 - late, dice), at);
            if dice % 1_000 == 7 {
                let at = Position { offset: self.offsets[partition], ..at };
                self.offsets[partition] += 1;
                builders[partition].push(&message(text, self.tick as i64 - late, dice), at);
            }
        }
        let telemetry = builders.iter_mut().map(TelemetryBuilder::finish).filter(|rows| rows.num_rows() > 0).collect();
        TickInput { tick: self.tick, telemetry, reference: Some(self.update()) }
    }

    /// One changed reference: mostly vehicles and drivers, now and then a company with all its vehicles.
    fn update(&mut self) -> (Topic, RecordBatch) {
        let version = (self.tick - START) / TICK_MS;
        let (topic, count) = match version % 10 {
            0 => (Topic::Company, COMPANIES),
            1..=4 => (Topic::Driver, self.vehicles),
            _ => (Topic::Vehicle, self.vehicles),
        };
        let mut builder = RegistryBuilder::new(topic);
        let number = self.roll(count);
        let offset = (self.vehicles + version) as i64;
        reference(
            &mut builder,
            topic,
            number,
            version,
            self.vehicles,
            Position { partition: 0, offset, tick: self.tick },
        );
        (topic, builder.finish())
    }
}

/// Fifteen digits, as trackers have them.
fn device_id(number: u64) -> String {
    format!("86{number:013}")
}

fn message(device_id: &str, ts: i64, dice: u64) -> Telemetry<'_> {
    let part = |shift: u32, bound: u64| ((dice >> shift) % bound) as f64;
    Telemetry {
        device_id,
        ts,
        server_time: Some(ts + 40),
        seq: 0,
        lat: Some(48.0 + part(3, 10_000) / 10_000.0),
        lon: Some(11.0 + part(7, 10_000) / 10_000.0),
        altitude_m: Some(part(5, 900)),
        speed_kmh: Some(part(9, 1_300) / 10.0),
        heading_deg: Some(part(11, 360)),
        satellites: Some((dice >> 13) as i32 & 15),
        hdop: Some(part(4, 30) / 10.0),
        ignition: Some(!(dice >> 17).is_multiple_of(8)),
        fuel_level_pct: Some(part(19, 100)),
        engine_temp_c: Some(part(21, 120)),
        odometer_km: Some(part(2, 900_000)),
        battery_v: Some(part(23, 15)),
        events: None,
        attributes: None,
    }
}

fn reference(builder: &mut RegistryBuilder, topic: Topic, number: u64, version: u64, drivers: u64, at: Position) {
    let company = format!("company-{:04}", number % COMPANIES);
    match topic {
        Topic::Vehicle => {
            let (id, device) = (format!("v-{number:07}"), device_id(number));
            let (plate, driver) =
                (format!("B-HS {:04}", number % 10_000), format!("driver-{}", (number * 7 + version) % drivers));
            let texts = [&id, &device, &plate, "Sprinter 316 CDI", "[\"north\"]", &company, &driver, "active"];
            builder.upsert(&texts.map(Value::Text), at);
        }
        Topic::Driver => {
            let (id, name) = (format!("driver-{number}"), format!("Driver {number} the {version}."));
            let (phone, licence) = (format!("+49 170 {number:07}"), "B");
            builder.upsert(&[&id, &name, &phone, licence, &company].map(Value::Text), at);
        }
        Topic::Company => {
            let (name, tariff) =
                (format!("Company {number} of version {version}"), format!("tariff-{}", number % TARIFFS));
            let seconds = Value::Int(5 + (number % 3) as i64);
            let texts = [&company, &name, &tariff, "Europe/Berlin"].map(Value::Text);
            builder.upsert(&[texts[0], texts[1], texts[2], texts[3], seconds], at);
        }
        _ => {
            let (id, name) = (format!("tariff-{number}"), format!("Tariff {number}"));
            builder.upsert(&[&id, &name, "{}"].map(Value::Text), at);
        }
    }
}
