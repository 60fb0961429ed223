//! `stops(…)` and `trips(…)` over events: a vehicle of `operators::journeys` for each key.
//!
//! Invariant: as for sessions, an event that is older than the retention when it comes is late.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray,
};

use datafusion::arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::journeys::{Fix, Found, Rules, Stop, Trip, Vehicle};
use operators::row::{Codec, Row};
use operators::time::Tick;

use super::alarms::Alarms;
use super::group::{Out, difference};
use super::reduce_events::{Absorb, reduce_events};
use super::top::GROUP;
use super::usage::Size;
use super::{Builder, Fault, Rendered, Table};
use crate::plan::{Journey, Node, Retention, canonical, types};

impl<'s> Builder<'s> {
    pub(super) fn journeys(
        &mut self,
        node: &Arc<Node>,
        input: &Arc<Node>,
        what: Journey,
        rules: Rules,
        retention: Option<Retention>,
    ) -> Result<Table<'s>> {
        let Rendered::Events(events) = self.render(input)? else {
            return Err(datafusion::error::DataFusionError::Plan(format!("{}() reads events", what.name())));
        };
        let key = Codec::new(canonical(&types(&input.schema)[..1]))?;
        let values = Codec::new(canonical(&types(&node.schema)[1..]))?;
        let retention_ms = retention.map_or(i64::MAX, |retention| retention.ms);
        let journeys = Journeys {
            what,
            rules,
            retention_ms,
            values,
            vehicles: HashMap::default(),
            alarms: Alarms::default(),
            size: Size::default(),
        };
        let (table, faults) = reduce_events(events, "Journeys", key, journeys, self.usage.gauge("Journeys"));
        self.faults.push(faults);
        Ok(table)
    }
}

/// About what a position takes in an ordered set.
const FIX_BYTES: i64 = 2 * size_of::<Fix>() as i64;

struct Journeys {
    what: Journey,
    rules: Rules,
    retention_ms: i64,
    /// The columns after the key.
    values: Codec,
    vehicles: HashMap<Row, Known, foldhash::fast::FixedState>,
    /// Vehicles of which something is sealed at a tick.
    alarms: Alarms,
    size: Size,
}

#[derive(Default)]
struct Known {
    vehicle: Vehicle,
    out: Vec<Row>,
    dirty: bool,
    /// What its positions and rows take.
    size: Size,
    /// The earliest tick at which it is looked at.
    due: Option<Tick>,
}

struct Fixes {
    times: TimestampMillisecondArray,
    numbers: Int64Array,
    floats: [Float64Array; 3],
}

impl Fixes {
    fn at(&self, row: usize) -> Fix {
        let [lat, lon, speed] = &self.floats;
        Fix {
            ts: self.times.value(row),
            seq: if self.numbers.is_valid(row) { self.numbers.value(row) } else { 0 },
            lat: lat.value(row),
            lon: lon.value(row),
            speed_kmh: speed.is_valid(row).then(|| speed.value(row)),
        }
    }
}

impl Journeys {
    /// What a vehicle did, as rows without the key.
    fn rows(&self, found: &Found) -> Vec<Row> {
        let (columns, count) = match self.what {
            Journey::Stops => (stop_columns(&found.stops), found.stops.len()),
            Journey::Trips => (trip_columns(&found.trips), found.trips.len()),
        };
        self.values.encode(&columns, count).expect("columns of the plan")
    }

    fn show(&mut self, tick: Tick, key: &Row, out: &mut Out) {
        let Some(known) = self.vehicles.get(key) else { return };
        let found = known.vehicle.found(tick, self.retention_ms);
        let mut rows: Vec<Row> = self.rows(&found).iter().map(|row| key.and(row)).collect();
        rows.sort_unstable();
        let known = self.vehicles.get_mut(key).expect("just found");
        difference(&known.out, &rows, out);
        (known.out, known.dirty) = (rows, false);
        let fixes = known.vehicle.fixes() as i64;
        let size = Size { rows: fixes, bytes: fixes * FIX_BYTES };
        let size = known.out.iter().fold(size, |sum, row| sum + Size::bytes(Size::of(row).bytes));
        self.size += size + -known.size;
        known.size = size;
        if let Some(tick) = known.vehicle.due(self.retention_ms) {
            self.alarms.set(tick, key, &mut known.due);
        }
    }
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values))
}

fn floats(values: impl Iterator<Item = Option<f64>>) -> ArrayRef {
    Arc::new(values.collect::<Float64Array>())
}

fn stop_columns(stops: &[Stop]) -> Vec<ArrayRef> {
    vec![
        times(stops.iter().map(|stop| stop.first.ts)),
        times(stops.iter().map(|stop| stop.ended_at)),
        floats(stops.iter().map(|stop| Some(stop.first.lat))),
        floats(stops.iter().map(|stop| Some(stop.first.lon))),
        Arc::new(stops.iter().map(|stop| Some(stop.fixes)).collect::<Int64Array>()),
        Arc::new(stops.iter().map(|stop| Some(stop.over)).collect::<BooleanArray>()),
    ]
}

fn trip_columns(trips: &[Trip]) -> Vec<ArrayRef> {
    vec![
        times(trips.iter().map(|trip| trip.from.ts)),
        times(trips.iter().map(|trip| trip.to.ts)),
        floats(trips.iter().map(|trip| Some(trip.from.lat))),
        floats(trips.iter().map(|trip| Some(trip.from.lon))),
        floats(trips.iter().map(|trip| Some(trip.to.lat))),
        floats(trips.iter().map(|trip| Some(trip.to.lon))),
        floats(trips.iter().map(|trip| Some(trip.distance_m / 1_000.0))),
        floats(trips.iter().map(|trip| trip.top_speed_kmh)),
        Arc::new(trips.iter().map(|trip| Some(trip.fixes)).collect::<Int64Array>()),
        Arc::new(trips.iter().map(|trip| Some(trip.over)).collect::<BooleanArray>()),
    ]
}

impl Absorb for Journeys {
    type Columns = Fixes;

    fn columns(&self, values: &RecordBatch) -> Result<(Fixes, Size)> {
        let float = |at: usize| values.column(at).as_primitive::<Float64Type>().clone();
        let fixes = Fixes {
            times: values.column(0).as_primitive::<TimestampMillisecondType>().clone(),
            numbers: values.column(1).as_primitive::<Int64Type>().clone(),
            floats: [2, 3, 4].map(float),
        };
        Ok((fixes, Size::default()))
    }

    fn due(&self) -> Option<Tick> {
        self.alarms.next()
    }

    fn end(&mut self, tick: Tick, out: &mut Out) {
        while let Some(keys) = self.alarms.ring(tick) {
            for key in keys {
                let Some(known) = self.vehicles.get_mut(&key) else { continue };
                known.vehicle.seal(tick, self.retention_ms, &self.rules);
                known.due = None;
                self.show(tick, &key, out);
            }
        }
    }

    fn absorb(&mut self, tick: Tick, key: &[u8], fixes: &Fixes, row: usize, dirty: &mut Vec<Row>, out: &mut Out) {
        if !self.vehicles.contains_key(key) {
            self.vehicles.insert(Row::new(key), Known::default());
        }
        let known = self.vehicles.get_mut(key).expect("just put there");
        if !known.vehicle.take(fixes.at(row), tick, self.retention_ms, &self.rules) {
            out.faults.push((Fault::row("Late", "the position is older than the retention"), 1));
            return;
        }
        if !known.dirty {
            known.dirty = true;
            dirty.push(Row::new(key));
        }
    }

    fn put_out(&mut self, tick: Tick, dirty: &[Row], out: &mut Out) {
        dirty.iter().for_each(|key| self.show(tick, key, out));
    }

    fn size(&self) -> Size {
        self.size + GROUP * self.vehicles.len() as i64
    }
}
