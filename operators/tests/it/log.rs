//! Random logs of a small fleet: devices in several partitions, duplicates, device time out of order, references that come
//! late, dangle, move, vanish and return, two vehicles that claim one device, and silence. A log is what the brokers hold: by
//! topic and partition, offsets ascending, ticks non-decreasing.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use operators::error::Position;
use operators::record::Stream as Topic;
use operators::record::registry::{self, RegistryBuilder, Value};
use operators::record::telemetry::{Telemetry, TelemetryBuilder};
use operators::time::Tick;
use proptest::prelude::*;

use crate::cell::{Cell, Row, text};

pub const TICK_MS: u64 = 10;
/// Tick from which logs start.
pub const START: Tick = 1_000_000;

/// One message of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub device: String,
    pub ts: i64,
    pub seq: i64,
    pub speed: Option<f64>,
    pub fuel: Option<f64>,
    pub satellites: Option<i32>,
    pub ignition: Option<bool>,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    Event(Event),
    /// A reference by its key; no fields is a tombstone.
    Reference(String, Option<Row>),
}

/// A record where it stands in its log.
#[derive(Clone, Debug)]
pub struct Record {
    pub at: Position,
    pub body: Body,
}

/// The records of one partition of one topic.
pub type Lane = Vec<Record>;

/// What the brokers hold.
#[derive(Clone, Debug, Default)]
pub struct Log {
    pub lanes: BTreeMap<(Topic, i32), Lane>,
}

impl Log {
    /// A topic's records in canonical order.
    pub fn canonical(&self, topic: Topic) -> Vec<&Record> {
        let mut records: Vec<&Record> =
            self.lanes.iter().filter(|((of, _), _)| *of == topic).flat_map(|(_, lane)| lane).collect();
        records.sort_by_key(|record| (record.at.tick, record.at.partition, record.at.offset));
        records
    }

    /// The newest tick of any record.
    pub fn last(&self) -> Tick {
        self.lanes.values().flatten().map(|record| record.at.tick).max().unwrap_or(START)
    }
}

/// A batch as a reader would decode it from these records of one partition.
pub fn decode(topic: Topic, records: &[Record]) -> RecordBatch {
    if topic == Topic::Telemetry {
        let mut builder = TelemetryBuilder::default();
        for record in records {
            let Body::Event(event) = &record.body else { panic!("telemetry holds events") };
            let telemetry = Telemetry {
                device_id: &event.device,
                ts: event.ts,
                seq: event.seq,
                speed_kmh: event.speed,
                fuel_level_pct: event.fuel,
                satellites: event.satellites,
                ignition: event.ignition,
                ..Default::default()
            };
            builder.push(&telemetry, record.at);
        }
        return builder.finish();
    }
    let mut builder = RegistryBuilder::new(topic);
    for record in records {
        match &record.body {
            Body::Reference(key, None) => builder.delete(key, record.at),
            Body::Reference(_, Some(cells)) => {
                let fields = registry::fields(topic);
                let values: Vec<Value<'_>> = fields.iter().map(|field| value_of(&cells[field.name()])).collect();
                builder.upsert(&values, record.at);
            }
            Body::Event(_) => panic!("a changelog holds references"),
        }
    }
    builder.finish()
}

fn value_of(cell: &Cell) -> Value<'_> {
    match cell {
        Cell::Null => Value::Null,
        Cell::Text(text) => Value::Text(text),
        Cell::Int(number) => Value::Int(*number),
        other => panic!("no reference has a {other:?}"),
    }
}

/// One step of a log's making: how many ticks after the one before, on which partition, and what.
#[derive(Clone, Debug)]
pub struct Step {
    pub gap: u64,
    pub partition: i32,
    pub act: Act,
}

/// What happens in a step. Numbers name members of the fleet.
#[derive(Clone, Debug)]
pub enum Act {
    /// A message `shift` times ten milliseconds old.
    Event { device: u8, shift: i64, seq: i64, speed: Option<u16>, fuel: Option<u8>, ignition: Option<bool> },
    /// The device, time and sequence number of the event so many events ago again, with another speed.
    Repeat { back: usize, speed: u16 },
    /// A vehicle's device, company and driver; the last number becomes its plate.
    Vehicle(u8, Option<(Option<u8>, Option<u8>, Option<u8>, u8)>),
    /// A driver's name.
    Driver(u8, Option<u8>),
    /// A company's name, tariff and threshold in seconds.
    Company(u8, Option<(u8, Option<u8>, Option<i64>)>),
    /// A tariff's name.
    Tariff(u8, Option<u8>),
}

/// What a log is mostly made of.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub events: u32,
    pub repeats: u32,
    pub vehicles: u32,
    pub references: u32,
    /// Of a hundred gaps, how many are silent periods.
    pub silences: u32,
}

const DEVICES: u8 = 5;
const VEHICLES: u8 = 5;

fn name(kind: &str, number: u8) -> String {
    // Every other name is too long to lie within an Arrow view.
    if number.is_multiple_of(2) {
        format!("{kind}{number}")
    } else {
        format!("{kind} with a long name, number {number}")
    }
}

pub fn device(number: u8) -> String {
    name("d", number)
}

/// Random steps, `length` at most.
pub fn steps(weights: Weights, length: usize) -> impl Strategy<Value = Vec<Step>> {
    let gap = prop_oneof![
        50 => Just(0u64),
        50 - weights.silences.min(49) => 1u64..4,
        weights.silences.max(1) => 4u64..250,
    ];
    let step = (gap, 0i32..3, act(weights)).prop_map(|(gap, partition, act)| Step { gap, partition, act });
    proptest::collection::vec(step, 1..length)
}

fn act(weights: Weights) -> impl Strategy<Value = Act> {
    use proptest::option::of;
    let shift = prop_oneof![6 => 0i64..5, 2 => 5i64..60, 1 => 60i64..200, 1 => -30i64..0];
    let event = (0..DEVICES, shift, 0i64..3, of(0u16..2_000), of(0u8..100), of(any::<bool>())).prop_map(
        |(device, shift, seq, speed, fuel, ignition)| Act::Event { device, shift, seq, speed, fuel, ignition },
    );
    let repeat = (0usize..12, 0u16..2_000).prop_map(|(back, speed)| Act::Repeat { back, speed });
    // A device number beyond the fleet's is the empty name.
    let fields = (of(0..=DEVICES), of(0u8..4), of(0u8..4), 0u8..200);
    let vehicle = (0..VEHICLES, of(fields)).prop_map(|(key, fields)| Act::Vehicle(key, fields));
    let driver = (0u8..4, of(0u8..200)).prop_map(|(key, name)| Act::Driver(key, name));
    let company =
        (0u8..4, of((0u8..200, of(0u8..3), of(-1i64..4)))).prop_map(|(key, fields)| Act::Company(key, fields));
    let tariff = (0u8..3, of(0u8..200)).prop_map(|(key, name)| Act::Tariff(key, name));
    prop_oneof![
        weights.events => event,
        weights.repeats.max(1) => repeat,
        weights.vehicles => vehicle,
        weights.references => prop_oneof![2 => driver, 3 => company, 1 => tariff],
    ]
}

/// The log that these steps make.
pub fn log(steps: &[Step]) -> Log {
    let mut log = Log::default();
    let mut tick = START;
    let mut events: Vec<Event> = Vec::new();
    for step in steps {
        tick += step.gap * TICK_MS;
        let (topic, body) = record(&step.act, tick, &events);
        let Some(body) = body else { continue };
        if let Body::Event(event) = &body {
            events.push(event.clone());
        }
        let partition = if topic == Topic::Telemetry { step.partition } else { step.partition % 2 };
        let lane = log.lanes.entry((topic, partition)).or_default();
        lane.push(Record { at: Position { partition, offset: lane.len() as i64, tick }, body });
    }
    log
}

fn record(act: &Act, tick: Tick, events: &[Event]) -> (Topic, Option<Body>) {
    let named = |kind: &str, number: Option<u8>| number.map_or(Cell::Null, |number| text(&name(kind, number)));
    let reference = |topic: Topic, key: String, cells: Option<Vec<Cell>>| {
        let fields = registry::fields(topic);
        let row = cells.map(|cells| {
            assert_eq!(cells.len() + 1, fields.len(), "a cell for each field but the key");
            fields.iter().map(|field| field.name().clone()).zip([text(&key)].into_iter().chain(cells)).collect()
        });
        (topic, Some(Body::Reference(key, row)))
    };
    match act.clone() {
        Act::Event { device: number, shift, seq, speed, fuel, ignition } => {
            let ts = tick as i64 - shift * 10;
            let speed = speed.map(|tenths| f64::from(tenths) / 10.0);
            let (fuel, satellites) = (fuel.map(f64::from), fuel.map(i32::from));
            let event = Event { device: device(number), ts, seq, speed, fuel, satellites, ignition };
            (Topic::Telemetry, Some(Body::Event(event)))
        }
        Act::Repeat { back, speed } => {
            let of = events.len().checked_sub(back + 1).map(|at| &events[at]);
            let again = of.map(|event| Event { speed: Some(f64::from(speed) / 10.0), ..event.clone() });
            (Topic::Telemetry, again.map(Body::Event))
        }
        Act::Vehicle(key, fields) => {
            let cells = fields.map(|(device_number, company, driver, plate)| {
                let device =
                    device_number.map_or(Cell::Null, |n| text(&if n == DEVICES { String::new() } else { device(n) }));
                let (plate, model, groups) = (named("plate", Some(plate)), named("model", Some(plate % 3)), text("[]"));
                vec![device, plate, model, groups, named("c", company), named("r", driver), Cell::Null]
            });
            reference(Topic::Vehicle, name("v", key), cells)
        }
        Act::Driver(key, fields) => {
            let cells = fields.map(|n| vec![named("driver", Some(n)), named("phone", Some(n)), Cell::Null, Cell::Null]);
            reference(Topic::Driver, name("r", key), cells)
        }
        Act::Company(key, fields) => {
            let cells = fields.map(|(n, tariff, seconds)| {
                vec![named("company", Some(n)), named("t", tariff), text("UTC"), seconds.map_or(Cell::Null, Cell::Int)]
            });
            reference(Topic::Company, name("c", key), cells)
        }
        Act::Tariff(key, fields) => {
            reference(Topic::Tariff, name("t", key), fields.map(|n| vec![named("tariff", Some(n)), Cell::Null]))
        }
    }
}
