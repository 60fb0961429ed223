//! `geofence_events(…)` over events and the table of fences: a vehicle of `operators::geofences` for each key.
//!
//! Invariant: every worker has all fences, and each vehicle is on one worker. A row of a fence that cannot be used is a fault for
//! as long as it is there, told by one worker.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, StringViewArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType};
use datafusion::error::{DataFusionError, Result};
use differential_dataflow::consolidation::consolidate;
use hashbrown::HashMap;
use operators::error::excerpt;
use operators::geofences::{
    AT_ONCE_MAX, At, Changes, Fences, Happened, Point, Position, Rules, Says, Shape, Vehicle, What,
};
use operators::row::{Codec, Diff, Row, count};
use operators::time::Tick;

use super::alarms::Alarms;
use super::group::{Out, by_key};
use super::reduce_events::{Absorb, reduce_beside};
use super::top::GROUP;
use super::usage::Size;
use super::{Builder, Fault, Rendered, Table, map};
use crate::plan::{Node, canonical, types};

/// Name of the operator.
const NAME: &str = "Geofences";
/// How many columns tell fences apart: whose it is and its id.
const FENCE_KEYS: usize = 2;

impl<'s> Builder<'s> {
    pub(super) fn geofences(
        &mut self,
        node: &Arc<Node>,
        positions: &Arc<Node>,
        fences: &Arc<Node>,
        rules: Rules,
    ) -> Result<Table<'s>> {
        let Rendered::Events(events) = self.render(positions)? else {
            return Err(DataFusionError::Plan("geofence_events() reads events".into()));
        };
        let (table, faults) = map::split(self.table(fences)?, &fences.schema, FENCE_KEYS)?;
        self.faults.push(faults);
        let key = Codec::new(canonical(&types(&positions.schema)[..1]))?;
        let kinds = types(&fences.schema);
        let (index, peers) = (self.scope.index() as u64, self.scope.peers() as u64);
        let geofences = Geofences {
            rules,
            fences: Known {
                rows: HashMap::default(),
                keys: Codec::new(canonical(&kinds[..FENCE_KEYS]))?,
                values: Codec::new(canonical(&kinds[FENCE_KEYS..]))?,
                standing: Fences::new(rules.margin_m),
                told_by: (index, peers),
                size: Size::default(),
            },
            values: Codec::new(canonical(&types(&node.schema)[1..]))?,
            numbers: HashMap::default(),
            vehicles: Vec::new(),
            alarms: Alarms::default(),
            changed: Vec::new(),
            said: Vec::new(),
            size: Size::default(),
        };
        let gauge = self.usage.gauge(NAME);
        let (table, faults) = reduce_beside(events, Some(table), NAME, key, geofences, gauge);
        self.faults.push(faults);
        Ok(table)
    }
}

struct Geofences {
    rules: Rules,
    fences: Known,
    /// The columns after the key.
    values: Codec,
    /// Vehicles by their key, as places in the list.
    numbers: HashMap<Row, usize, foldhash::fast::FixedState>,
    vehicles: Vec<Tracked>,
    /// Vehicles of which something leaves at a tick.
    alarms: Alarms,
    /// What came and went at this tick, and of which vehicle.
    changed: Vec<(usize, Happened, Diff)>,
    /// What the last position said.
    said: Vec<Says>,
    /// Of the vehicles.
    size: Size,
}

struct Tracked {
    key: Row,
    vehicle: Vehicle,
    dirty: bool,
    /// What is kept of it.
    size: Size,
    /// The earliest tick at which it is looked at.
    due: Option<Tick>,
}

/// Columns of positions.
struct Positions {
    times: TimestampMillisecondArray,
    numbers: Int64Array,
    lat: Float64Array,
    lon: Float64Array,
    companies: StringViewArray,
}

impl Positions {
    fn at(&self, row: usize) -> At {
        At {
            ts: self.times.value(row),
            seq: if self.numbers.is_valid(row) { self.numbers.value(row) } else { 0 },
            lat: self.lat.value(row),
            lon: self.lon.value(row),
        }
    }
}

impl Geofences {
    /// Has a vehicle looked at when something of it leaves, and counts what is kept of it.
    fn follow(&mut self, number: usize) {
        let tracked = &mut self.vehicles[number];
        tracked.dirty = false;
        let (rows, bytes) = (tracked.vehicle.rows() as i64, tracked.vehicle.bytes() as i64);
        let size = Size { rows, bytes };
        self.size += size + -tracked.size;
        tracked.size = size;
        if let Some(tick) = tracked.vehicle.due(&self.rules) {
            self.alarms.set(tick, &tracked.key, &mut tracked.due);
        }
    }

    fn note(&mut self, number: usize, changes: &mut Changes) {
        self.changed.extend(changes.drain(..).map(|(happened, diff)| (number, happened, diff)));
    }

    /// Puts out what has come and gone.
    fn tell(&mut self, out: &mut Out) {
        let changed = std::mem::take(&mut self.changed);
        if changed.is_empty() {
            return;
        }
        let rows = self.values.encode(&event_columns(&changed), changed.len()).expect("columns of the plan");
        let rows =
            changed.iter().zip(rows).map(|((number, _, diff), row)| (self.vehicles[*number].key.and(&row), *diff));
        out.rows.extend(rows);
        // What a late position changed and changed back has not happened.
        consolidate(&mut out.rows);
    }

    fn number(&mut self, key: &[u8]) -> usize {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let key = Row::new(key);
        self.numbers.insert(key.clone(), self.vehicles.len());
        self.vehicles.push(Tracked {
            key,
            vehicle: Vehicle::default(),
            dirty: false,
            size: Size::default(),
            due: None,
        });
        self.vehicles.len() - 1
    }
}

impl Absorb for Geofences {
    type Columns = Positions;

    fn columns(&self, values: &RecordBatch) -> Result<(Positions, Size)> {
        let float = |at: usize| values.column(at).as_primitive::<Float64Type>().clone();
        let positions = Positions {
            times: values.column(0).as_primitive::<TimestampMillisecondType>().clone(),
            numbers: values.column(1).as_primitive::<Int64Type>().clone(),
            lat: float(2),
            lon: float(3),
            companies: values.column(4).as_string_view().clone(),
        };
        Ok((positions, Size::default()))
    }

    fn due(&self) -> Option<Tick> {
        self.alarms.next()
    }

    fn end(&mut self, tick: Tick, out: &mut Out) {
        let mut changes = Changes::new();
        while let Some(keys) = self.alarms.ring(tick) {
            for key in keys {
                let Some(number) = self.numbers.get(&key).copied() else { continue };
                let tracked = &mut self.vehicles[number];
                tracked.due = None;
                tracked.vehicle.forget(tick, &self.rules, &mut changes);
                self.note(number, &mut changes);
                self.follow(number);
            }
        }
        self.tell(out);
    }

    fn change(&mut self, tick: Tick, rows: &[((Row, Row), Diff)], out: &mut Out) {
        if !self.fences.change(tick, rows, out) {
            return;
        }
        let mut changes = Changes::new();
        for number in 0..self.vehicles.len() {
            self.vehicles[number].vehicle.leave_removed(tick, &mut changes);
            if !changes.is_empty() {
                self.note(number, &mut changes);
                self.follow(number);
            }
        }
        self.tell(out);
    }

    fn absorb(&mut self, tick: Tick, key: &[u8], columns: &Positions, row: usize, dirty: &mut Vec<Row>, out: &mut Out) {
        let at = columns.at(row);
        let company_id = columns.companies.is_valid(row).then(|| columns.companies.value(row));
        let point = Point { lat: at.lat, lon: at.lon };
        if self.fences.standing.ask(company_id, point, &mut self.said).is_err() {
            let company_id = excerpt(company_id.unwrap_or_default());
            let why = format!("a position is in more than {AT_ONCE_MAX} fences of company {company_id} at once");
            out.faults.push((Fault::own_row(NAME, &why), 1));
            return;
        }
        let position = Position { at, arrived: tick, says: self.said.drain(..).collect() };
        let number = self.number(key);
        let mut changes = Changes::new();
        let tracked = &mut self.vehicles[number];
        if !tracked.vehicle.take(position, &self.rules, &mut changes) {
            out.faults.push((Fault::row("Late", "the position is later than `late` allows"), 1));
            return;
        }
        if !tracked.dirty {
            tracked.dirty = true;
            dirty.push(tracked.key.clone());
        }
        self.note(number, &mut changes);
    }

    fn put_out(&mut self, _: Tick, dirty: &[Row], out: &mut Out) {
        let mut changes = Changes::new();
        for key in dirty {
            let number = self.numbers[key];
            self.vehicles[number].vehicle.settle(&self.rules, &mut changes);
            self.note(number, &mut changes);
            self.follow(number);
        }
        self.tell(out);
    }

    fn size(&self) -> Size {
        self.fences.size() + self.size + GROUP * self.vehicles.len() as i64
    }
}

/// The columns of events but for the vehicle.
fn event_columns(changed: &[(usize, Happened, Diff)]) -> Vec<ArrayRef> {
    let events = || changed.iter().map(|(_, happened, _)| happened);
    let times = |of: fn(&Happened) -> i64| -> ArrayRef {
        Arc::new(TimestampMillisecondArray::from_iter_values(events().map(of)))
    };
    let floats =
        |of: fn(&Happened) -> Option<f64>| -> ArrayRef { Arc::new(events().map(of).collect::<Float64Array>()) };
    let inside_s = |happened: &Happened| {
        let lasted = happened.at.ts.saturating_sub(happened.entered_at) as f64 / 1_000.0;
        (happened.what != What::Enter).then_some(lasted)
    };
    let kind = |happened: &Happened| match happened.what {
        What::Enter => "enter",
        What::Dwell => "dwell",
        What::Leave | What::Removed => "leave",
    };
    let reason = |happened: &Happened| (happened.what == What::Removed).then_some("fence removed");
    vec![
        Arc::new(StringViewArray::from_iter_values(events().map(|happened| &*happened.fence.company_id))),
        Arc::new(StringViewArray::from_iter_values(events().map(|happened| &*happened.fence.fence_id))),
        Arc::new(events().map(|happened| happened.fence.name.as_deref()).collect::<StringViewArray>()),
        Arc::new(StringViewArray::from_iter_values(events().map(kind))),
        times(|happened| happened.at.ts),
        Arc::new(Int64Array::from_iter_values(events().map(|happened| happened.at.seq))),
        floats(|happened| Some(happened.at.lat)),
        floats(|happened| Some(happened.at.lon)),
        times(|happened| happened.entered_at),
        Arc::new(events().map(inside_s).collect::<Float64Array>()),
        Arc::new(events().map(reason).collect::<StringViewArray>()),
    ]
}

/// The rows of the table, and the fences that they are.
struct Known {
    rows: HashMap<Row, Of, foldhash::fast::FixedState>,
    keys: Codec,
    values: Codec,
    standing: Fences,
    /// Which worker this is, of how many.
    told_by: (u64, u64),
    /// Of the rows.
    size: Size,
}

/// The rows of one fence: one, if the table has the key that it should have.
#[derive(Default)]
struct Of {
    rows: BTreeMap<Row, Diff>,
    /// What is wrong with the one that counts.
    wrong: Option<String>,
}

impl Known {
    /// Rows come and go. Whether a fence went.
    fn change(&mut self, tick: Tick, changes: &[((Row, Row), Diff)], out: &mut Out) -> bool {
        let mut keys: Vec<&Row> = Vec::new();
        for run in by_key(changes) {
            let key = &run[0].0.0;
            let of = self.rows.entry_ref(key).or_default();
            for ((_, row), diff) in run {
                self.size += Size::of_pair(key, row) * count(&mut of.rows, row.clone(), *diff);
            }
            keys.push(key);
        }
        // Of several rows of one fence the greatest counts.
        let newest: Vec<Option<Row>> =
            keys.iter().map(|key| self.rows[*key].rows.last_key_value().map(|(row, _)| row.clone())).collect();
        let named = self.keys.decode(keys.iter().copied()).expect("keys of the plan");
        let said = self.values.decode(newest.iter().flatten()).expect("rows of the plan");
        let (companies, ids) = (named.column(0).as_string_view(), named.column(1).as_string_view());
        let (mut next, mut any_went) = (0, false);
        for (place, (key, row)) in keys.iter().zip(&newest).enumerate() {
            let id = text(ids, place);
            let read = row.as_ref().map(|_| read(text(companies, place), id, &said, next));
            next += usize::from(row.is_some());
            let (company_id, fence_id) = (text(companies, place).unwrap_or_default(), id.unwrap_or_default());
            let wrong = match read {
                Some(Ok((name, shape))) => {
                    self.standing.put(tick, company_id, fence_id, name, shape);
                    None
                }
                other => {
                    any_went |= self.standing.remove(tick, company_id, fence_id);
                    let why = other.and_then(std::result::Result::err);
                    why.map(|why| format!("fence {}: {why}", excerpt(fence_id)))
                }
            };
            self.tell(key, wrong, out);
        }
        any_went
    }

    /// What is wrong with a fence's row now, in the place of what was.
    fn tell(&mut self, key: &Row, wrong: Option<String>, out: &mut Out) {
        let Some(of) = self.rows.get_mut(key) else { return };
        let (index, peers) = self.told_by;
        if key.spread() % peers == index && of.wrong != wrong {
            out.faults.extend(of.wrong.iter().map(|why| (Fault::own_row(NAME, why), -1)));
            out.faults.extend(wrong.iter().map(|why| (Fault::own_row(NAME, why), 1)));
        }
        of.wrong = wrong;
        if of.rows.is_empty() {
            self.rows.remove(key);
        }
    }

    fn size(&self) -> Size {
        Size { rows: self.standing.count() as i64, bytes: self.standing.bytes() as i64 } + self.size
    }
}

fn text(column: &StringViewArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

/// The name and the shape that a fence's row gives it.
fn read<'a>(
    company_id: Option<&str>,
    fence_id: Option<&str>,
    rows: &'a RecordBatch,
    row: usize,
) -> Result<(Option<&'a str>, Shape), String> {
    company_id.ok_or("it has no company_id, so it concerns no vehicle")?;
    fence_id.ok_or("it has no fence_id")?;
    let [name, kind, shape] = [0, 1, 2].map(|at| text(rows.column(at).as_string_view(), row));
    let radii = rows.column(3).as_primitive::<Float64Type>();
    let shape = Shape::read(kind, shape, radii.is_valid(row).then(|| radii.value(row)))?;
    Ok((name, shape))
}
