//! Count, average and top speed per company and minute of device time. Late data corrects a window until its retention ends;
//! then the window is sealed, and what comes later goes to a ledger of late rows, never silently away.
//!
//! Each worker adds up its own part, the parts meet at the company's owner. State is proportional to open windows, not events.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringViewArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Float64Type};
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, OFFSET, PARTITION, TICK, by_key, i32s, i64s, strings, table_schema, u64s};
use crate::counters::{Counters, add};
use crate::durable::{self, Damaged, Durable, Give, States};
use crate::error::{Position, Refusal, RejectedBuilder};
use crate::record::output;
use crate::time::{Tick, closed_before, round_up, take_before};

/// Length and life of the windows, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of a window of device time.
    pub size_ms: i64,
    /// How long after its end a window can still be corrected.
    pub retention_ms: i64,
    /// How far ahead of its arrival a row's device time may lie.
    pub ahead_ms_max: i64,
    /// Changes of a window are put out at multiples of this many milliseconds of ticks.
    pub emit_ms: u64,
}

/// What [`window`] gives.
pub struct Windows<'s> {
    /// The table `company_minute` (columns of [`output::company_minute`]), spread by company.
    pub table: Stream<'s, Tick, Batch>,
    /// The ledger of late rows (columns of [`crate::error::rejected_schema`], code `window_sealed` or `window_ahead`).
    pub late: Stream<'s, Tick, Batch>,
}

/// Sums of one window, exact under any order of addition: speeds in thousandths of a kilometre per hour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sums {
    fixes: i64,
    speeds: i64,
    speed_milli_kmh: i64,
    top_milli_kmh: i64,
}

impl Sums {
    fn add(&mut self, other: Sums) {
        self.top_milli_kmh = match (self.speeds, other.speeds) {
            (_, 0) => self.top_milli_kmh,
            (0, _) => other.top_milli_kmh,
            _ => self.top_milli_kmh.max(other.top_milli_kmh),
        };
        self.fixes += other.fixes;
        self.speeds += other.speeds;
        self.speed_milli_kmh += other.speed_milli_kmh;
    }
}

/// Windows over `enriched` telemetry, wherever it lies. Rows without a company are in no window.
///
/// Windows that are open are the state `company_minute`; it is complete where the emission interval of no event is open.
pub fn window<'s>(
    enriched: Stream<'s, Tick, Batch>,
    options: Options,
    counters: Counters,
    states: &States,
) -> Windows<'s> {
    let (parts, late) = add_up(enriched, options, counters.clone());
    let open = states.keep("company_minute", Open { is_kept: states.are_kept(), ..Open::default() });
    Windows { table: gather(parts, open, options, counters), late }
}

fn parts_schema() -> arrow::datatypes::SchemaRef {
    let int = |name: &str| Field::new(name, DataType::Int64, false);
    let key = Field::new("company_id", DataType::Utf8View, false);
    table_schema(vec![key, int("window_start"), int("fixes"), int("speeds"), int("sum"), int("top")])
}

/// One worker's sums per emission interval.
fn add_up<'s>(
    enriched: Stream<'s, Tick, Batch>,
    options: Options,
    counters: Counters,
) -> (Stream<'s, Tick, Batch>, Stream<'s, Tick, Batch>) {
    let mut builder = OperatorBuilder::new("WindowParts".into(), enriched.scope());
    let mut input = builder.new_input(enriched, Pipeline);
    let (part_output, parts) = builder.new_output();
    let (late_output, late) = builder.new_output();
    let mut part_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(part_output);
    let mut late_output: OutputBuilder<Tick, CapacityContainerBuilder<Batch>> = OutputBuilder::from(late_output);
    builder.build(move |mut capabilities| {
        let mut parts = Parts { options, open: BTreeMap::new(), ids: crate::keyed::Keyed::default() };
        move |frontiers| {
            input.for_each(|time, batch| {
                let Some(rows) = batch.take() else { return };
                let mut late = RejectedBuilder::default();
                parts.add(&rows, &mut late);
                if !late.is_empty() {
                    add(&counters.late, late.len());
                    let time = time.retain(1);
                    late_output.activate().session(&time).give_container(&mut late.finish().into());
                }
            });
            if capabilities.is_empty() {
                return;
            }
            let upto = closed_before(frontiers[0].frontier());
            if let Some(rows) = parts.close(upto) {
                part_output.activate().session(&capabilities[0]).give_container(&mut rows.into());
            }
            if upto == Tick::MAX {
                capabilities.clear();
            } else {
                capabilities.iter_mut().for_each(|held| held.downgrade(&upto));
            }
        }
    });
    (parts, late)
}

/// Open sums by the end of their emission interval, then by company slot and window.
struct Parts {
    options: Options,
    open: BTreeMap<Tick, HashMap<(u32, i64), Sums, foldhash::fast::FixedState>>,
    ids: crate::keyed::Keyed<()>,
}

impl Parts {
    fn add(&mut self, rows: &RecordBatch, late: &mut RejectedBuilder) {
        let (companies, ts, ticks) =
            (strings(rows, "company_id"), i64s(rows, "ts").values(), u64s(rows, TICK).values());
        let speeds = rows.column_by_name("speed_kmh").expect("telemetry has it").as_primitive::<Float64Type>();
        let Options { size_ms, retention_ms, ahead_ms_max, emit_ms } = self.options;
        let mut interval = 0;
        let mut sums = None;
        for row in 0..rows.num_rows() {
            if companies.is_null(row) {
                continue;
            }
            let start = ts[row] - ts[row].rem_euclid(size_ms);
            let tick = ticks[row] as i64;
            if start + size_ms + retention_ms < tick || start > tick + ahead_ms_max {
                late.push_row(rows, row, start, self.options);
                continue;
            }
            let end = round_up(ticks[row], emit_ms);
            if end != interval || sums.is_none() {
                interval = end;
                sums = Some(self.open.entry(end).or_default());
            }
            let company = self.ids.slot(&crate::keyed::Key::new(companies.value(row)), || ());
            let milli = if speeds.is_valid(row) { (speeds.value(row) * 1_000.0).round() as i64 } else { 0 };
            let one = Sums {
                fixes: 1,
                speeds: i64::from(speeds.is_valid(row)),
                speed_milli_kmh: milli,
                top_milli_kmh: milli,
            };
            if let Some(sums) = &mut sums {
                sums.entry((company, start)).or_default().add(one);
            }
        }
    }

    /// The sums of all intervals that end before `upto`.
    fn close(&mut self, upto: Tick) -> Option<RecordBatch> {
        let mut rows: Vec<(Tick, u32, i64, Sums)> = Vec::new();
        for (end, sums) in take_before(&mut self.open, upto) {
            let from = rows.len();
            rows.extend(sums.into_iter().map(|((company, start), sums)| (end, company, start, sums)));
            rows[from..].sort_unstable_by_key(|&(_, company, start, _)| (company, start));
        }
        if rows.is_empty() {
            return None;
        }
        let ints = |value: fn(&(Tick, u32, i64, Sums)) -> i64| {
            Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| self.ids.text(row.1)))),
            ints(|row| row.2),
            ints(|row| row.3.fixes),
            ints(|row| row.3.speeds),
            ints(|row| row.3.speed_milli_kmh),
            ints(|row| row.3.top_milli_kmh),
            Arc::new(BooleanArray::from(vec![false; rows.len()])),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        ];
        Some(RecordBatch::try_new(parts_schema(), columns).expect("the declared columns"))
    }
}

impl RejectedBuilder {
    fn push_row(&mut self, rows: &RecordBatch, row: usize, start: i64, options: Options) {
        let at = Position {
            partition: i32s(rows, PARTITION).value(row),
            offset: i64s(rows, OFFSET).value(row),
            tick: u64s(rows, TICK).value(row),
        };
        let (code, rule) = if start > at.tick as i64 {
            ("window_ahead", format!("more than {} ms ahead of its arrival", options.ahead_ms_max))
        } else {
            ("window_sealed", format!("sealed {} ms after its end", options.retention_ms))
        };
        let why = Refusal::new(code, format!("the window that starts at {start} is {rule}")).at("ts");
        let device = strings(rows, "device_id").value(row);
        self.push("telemetry.raw", at, Some(device.as_bytes()), None, &why);
    }
}

/// Windows that can still be corrected.
#[derive(Default)]
struct Open {
    windows: BTreeMap<(i64, String), Sums>,
    is_kept: bool,
    dirty: BTreeSet<(i64, String)>,
}

impl Durable for Open {
    fn changed(&mut self, give: &mut Give<'_>) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for of in std::mem::take(&mut self.dirty) {
            durable::write_key(&mut key, of.1.as_bytes(), &of.0.to_le_bytes());
            let sums = self.windows.get(&of);
            value.clear();
            sums.into_iter().for_each(|sums| durable::write(&mut value, sums));
            give(&key, sums.map(|_| &value[..]));
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
        let (company, start) = durable::read_key(key)?;
        let start = start.try_into().map_err(|_| Damaged::new("the window's start is no number"))?;
        self.windows.insert((i64::from_le_bytes(start), durable::text(company)?.to_owned()), durable::read(value)?);
        Ok(())
    }
}

impl Open {
    /// Adds parts up; gives the windows that changed.
    fn add(&mut self, batches: &[RecordBatch]) -> BTreeSet<(i64, String)> {
        let mut changed = BTreeSet::new();
        for rows in batches {
            let ints = |name: &str| i64s(rows, name).values();
            let (starts, fixes, speeds, sums, tops) =
                (ints("window_start"), ints("fixes"), ints("speeds"), ints("sum"), ints("top"));
            let companies = strings(rows, "company_id");
            for row in 0..rows.num_rows() {
                let key = (starts[row], companies.value(row).to_owned());
                self.windows.entry(key.clone()).or_default().add(Sums {
                    fixes: fixes[row],
                    speeds: speeds[row],
                    speed_milli_kmh: sums[row],
                    top_milli_kmh: tops[row],
                });
                changed.insert(key);
            }
        }
        if self.is_kept {
            self.dirty.extend(changed.iter().cloned());
        }
        changed
    }

    /// Forgets the windows that started before this.
    fn seal(&mut self, before: i64) {
        let kept = self.windows.split_off(&(before, String::new()));
        let sealed = std::mem::replace(&mut self.windows, kept);
        if self.is_kept {
            self.dirty.extend(sealed.into_keys());
        }
    }
}

/// Adds the workers' parts up and puts out each changed window.
fn gather<'s>(
    parts: Stream<'s, Tick, Batch>,
    open: Rc<RefCell<Open>>,
    options: Options,
    counters: Counters,
) -> Stream<'s, Tick, Batch> {
    parts.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(
        by_key("company_id"),
        "Windows",
        move |capability, _| {
            let mut capability = Some(capability);
            let mut pending: BTreeMap<Tick, Vec<RecordBatch>> = BTreeMap::new();
            move |(input, frontier), output| {
                input.for_each(|_, batch| {
                    if let Some(rows) = batch.take() {
                        // Parts of different intervals may share a batch; each row counts at its own interval's end.
                        split_by_tick(rows, &mut pending);
                    }
                });
                let Some(held) = &mut capability else { return };
                let upto = closed_before(frontier.frontier());
                if upto <= *held.time() {
                    return;
                }
                let open = &mut *open.borrow_mut();
                for (tick, batches) in take_before(&mut pending, upto) {
                    let changed = open.add(&batches);
                    output.session(held).give_container(&mut rows(open, &changed, tick).into());
                    open.seal(tick as i64 - options.size_ms - options.retention_ms - options.emit_ms as i64);
                }
                counters.windows.set(open.windows.len() as u64);
                if upto == Tick::MAX { capability = None } else { held.downgrade(&upto) }
            }
        },
    )
}

fn split_by_tick(rows: RecordBatch, pending: &mut BTreeMap<Tick, Vec<RecordBatch>>) {
    let ticks = u64s(&rows, TICK).values().clone();
    let mut start = 0;
    for part in ticks.chunk_by(|a, b| a == b) {
        pending.entry(part[0]).or_default().push(rows.slice(start, part.len()));
        start += part.len();
    }
}

/// The rows of these windows.
fn rows(open: &Open, changed: &BTreeSet<(i64, String)>, tick: Tick) -> RecordBatch {
    let rows: Vec<(&(i64, String), Sums)> = changed.iter().map(|key| (key, open.windows[key])).collect();
    let speed = |value: fn(&Sums) -> f64| {
        let of = |row: &(&(i64, String), Sums)| (row.1.speeds > 0).then(|| value(&row.1));
        Arc::new(Float64Array::from_iter(rows.iter().map(of))) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringViewArray::from_iter_values(rows.iter().map(|row| &row.0.1))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1.fixes))),
        speed(|sums| sums.speed_milli_kmh as f64 / sums.speeds as f64 / 1_000.0),
        speed(|sums| sums.top_milli_kmh as f64 / 1_000.0),
        Arc::new(BooleanArray::from(vec![false; rows.len()])),
        Arc::new(UInt64Array::from(vec![tick; rows.len()])),
    ];
    RecordBatch::try_new(output::company_minute(), columns).expect("the declared columns")
}
