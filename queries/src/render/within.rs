//! Events that meet events near them in device time: both are kept for as long as another can come that they meet.
//!
//! Invariant: an event is kept until its time, the bound of the join and the retention have passed, and no longer. One that
//! comes a retention or more after its time is late, met or not, so what comes out does not depend on who came first.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use datafusion::error::{DataFusionError, Result};
use hashbrown::HashMap;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row, any_null, as_key, count};
use operators::time::{Tick, all_closed_before, take_before, tick_after};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::evaluate::Stage;
use super::map::{self, ticks};
use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::{Builder, Fault, Rendered, Table};
use crate::plan::{Expression, Join, Node, Within, canonical, types};

/// Key of the join, time of the event, and the event.
type Timed = (Row, (i64, Row));

/// Builds the join of events with events.
pub fn within<'s>(builder: &mut Builder<'s>, node: &Arc<Node>, join: &Join, within: &Within) -> Result<Rendered<'s>> {
    let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
    // Late events of a stream that meets itself are counted once.
    let same = join.left.id == join.right.id && *within.left == *within.right;
    let left = timed(builder, &join.left, left_by, &within.left, within.retention_ms, true)?;
    let right = timed(builder, &join.right, right_by, &within.right, within.retention_ms, !same)?;
    let both: Vec<DataType> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
    let meeting = Meeting {
        from_ms: within.from_ms,
        until_ms: within.until_ms,
        kept_ms: within.kept_ms(),
        kept: HashMap::default(),
        leaving: BTreeMap::new(),
        size: Size::default(),
    };
    let pairs = Pairs {
        codec: Codec::new(canonical(&both))?,
        stage: Stage { filter: join.filter.clone(), columns: (0..both.len()).map(crate::plan::place).collect() },
        out: map::event_schema(&node.schema),
    };
    let (events, faults) = run(left, right, meeting, pairs, builder.usage.gauge("Meet"));
    builder.faults.push(faults);
    Ok(Rendered::Events(events))
}

/// The events with their keys and times, but those that are late or have none.
fn timed<'s>(
    builder: &mut Builder<'s>,
    node: &Arc<Node>,
    by: Vec<Expression>,
    time: &Expression,
    retention_ms: i64,
    counts_late: bool,
) -> Result<Stream<'s, Tick, Updates<Timed>>> {
    let Rendered::Events(events) = builder.render(node)? else {
        return Err(DataFusionError::Internal("events became a table".into()));
    };
    let kinds = by.iter().map(|by| by.data_type(&node.schema)).collect::<Result<Vec<_>>>()?;
    let (keys, codec) = (Codec::new(canonical(&kinds))?, Codec::new(node.schema.clone())?);
    let stage = Stage { filter: None, columns: by.into_iter().chain([time.clone()]).collect() };
    let mut operator = OperatorBuilder::new("Timed".into(), events.scope());
    let mut input = operator.new_input(events, Pipeline);
    let (mut outputs, rows, faults) = Outputs::<Updates<Timed>>::add(&mut operator);
    operator.build(move |_| {
        move |_| {
            input.for_each(|held, batch| {
                let Some(rows) = batch.take() else { return };
                let at = ticks(&rows).values();
                let done = stage.evaluate(&rows).expect("columns of the plan");
                let mut faults = Fault::rows("Meet", &done.failed, |row| (at[row as usize], 1));
                let (times, by) = done.columns.split_last().expect("a time");
                let times = milliseconds(times);
                let by: Vec<ArrayRef> = by.iter().map(as_key).collect();
                let keyed = keys.encode(&by, done.rows.len()).expect("columns of the plan");
                let events = codec.encode(&rows.columns()[..rows.num_columns() - 1], rows.num_rows());
                let events = events.expect("columns of the plan");
                let mut out: Updates<Timed> = Vec::with_capacity(keyed.len());
                for (index, (row, key)) in done.rows.iter().zip(keyed).enumerate() {
                    let tick = at[*row as usize];
                    let Some(time) = times[index] else { continue };
                    if time.saturating_add(retention_ms) <= tick as i64 {
                        let late = || Fault::row("Late", "the event came after its retention");
                        faults.extend(counts_late.then(|| (late(), tick, 1)));
                    } else if !any_null(&by, index) {
                        out.push(((key, (time, events[*row as usize].clone())), tick, 1));
                    }
                }
                outputs.faults(&held.retain(1), faults);
                outputs.rows(&held.retain(0), out);
            });
        }
    });
    builder.faults.push(faults);
    Ok(rows)
}

/// Times in whole milliseconds, rounded down.
pub(super) fn milliseconds(times: &ArrayRef) -> Vec<Option<i64>> {
    let unit = match times.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => 1_000,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => 1_000_000,
        _ => 1,
    };
    let seconds = matches!(times.data_type(), DataType::Timestamp(TimeUnit::Second, _));
    let times = cast(times, &DataType::Int64).expect("a timestamp");
    let times = times.as_primitive::<Int64Type>();
    let whole = |time: i64| if seconds { time.saturating_mul(1_000) } else { time.div_euclid(unit) };
    (0..times.len()).map(|row| times.is_valid(row).then(|| whole(times.value(row)))).collect()
}

fn run<'s>(
    left: Stream<'s, Tick, Updates<Timed>>,
    right: Stream<'s, Tick, Updates<Timed>>,
    mut meeting: Meeting,
    pairs: Pairs,
    gauge: Arc<Gauge>,
) -> (Stream<'s, Tick, Batch>, Table<'s>) {
    let mut builder = OperatorBuilder::new("Meet".into(), left.scope());
    let by_key = || Exchange::new(|((key, _), _, _): &(Timed, Tick, Diff)| key.spread());
    let mut left = builder.new_input(left, by_key());
    let mut right = builder.new_input(right, by_key());
    let (mut outputs, rows, faults) = Outputs::add(&mut builder);
    builder.build(move |capabilities| {
        let mut held = Some(capabilities);
        let mut pending: BTreeMap<Tick, Vec<(usize, Timed)>> = BTreeMap::new();
        move |frontiers| {
            let mut take = |side: usize, updates: &mut Updates<Timed>| {
                for (event, tick, _) in updates.drain(..) {
                    pending.entry(tick).or_default().push((side, event));
                }
            };
            left.for_each(|_, updates| take(0, updates));
            right.for_each(|_, updates| take(1, updates));
            let upto = all_closed_before(frontiers);
            let mut met: Updates = Vec::new();
            for (tick, mut events) in take_before(&mut pending, upto) {
                meeting.forget(tick);
                events.sort_unstable();
                for (side, event) in events {
                    meeting.meet(tick, side, event, &mut met);
                }
            }
            let waiting = pending.values().flatten();
            let waiting = waiting.fold(Size::default(), |sum, (_, (key, (_, row)))| sum + Size::of_pair(key, row));
            let Some(capabilities) = &mut held else { return };
            let (batch, failed) = pairs.give(&met);
            outputs.rows(&capabilities[0], Batch(batch));
            outputs.faults(&capabilities[1], failed);
            match upto {
                Tick::MAX => held = None,
                upto => {
                    meeting.forget(upto);
                    capabilities.iter_mut().for_each(|held| held.downgrade(&upto));
                }
            }
            gauge.set(meeting.size + waiting);
        }
    });
    (rows, faults)
}

/// Events of both sides that others can still meet.
struct Meeting {
    from_ms: i64,
    until_ms: i64,
    kept_ms: [i64; 2],
    /// By key and time, of the left and of the right side.
    kept: HashMap<Row, [BTreeMap<(i64, Row), Diff>; 2], foldhash::fast::FixedState>,
    /// What leaves at which tick.
    leaving: BTreeMap<Tick, Vec<(usize, Timed)>>,
    /// Of all that is kept.
    size: Size,
}

/// Of an event's place among those that leave.
const LEAVING: Size = Size { rows: 0, bytes: 56 };

impl Meeting {
    /// An event comes: the pairs that it makes with those that are there.
    fn meet(&mut self, tick: Tick, side: usize, (key, (time, row)): Timed, met: &mut Updates) {
        // What of the other side is near, seen from this one.
        let (from, until) = match side {
            0 => (time.saturating_add(self.from_ms), time.saturating_add(self.until_ms)),
            _ => (time.saturating_sub(self.until_ms), time.saturating_sub(self.from_ms)),
        };
        let sides = self.kept.entry(key.clone()).or_default();
        let others = sides[1 - side].range((from, Row::default())..);
        for ((_, other), times) in others.take_while(|((at, _), _)| *at <= until) {
            let pair = if side == 0 { row.and(other) } else { other.and(&row) };
            met.extend((0..*times).map(|_| (pair.clone(), tick, 1)));
        }
        let leaves = tick_after(time, self.kept_ms[side]);
        if leaves > tick {
            let event = Size::of_pair(&key, &row);
            self.size += event * count(&mut sides[side], (time, row.clone()), 1) + LEAVING;
            self.leaving.entry(leaves).or_default().push((side, (key, (time, row))));
        } else if sides.iter().all(BTreeMap::is_empty) {
            self.kept.remove(&key);
        }
    }

    /// Events that no other can meet any more leave.
    fn forget(&mut self, tick: Tick) {
        let left = take_before(&mut self.leaving, tick.saturating_add(1));
        for (side, (key, event)) in left.into_values().flatten() {
            let Some(sides) = self.kept.get_mut(&key) else { continue };
            let size = Size::of_pair(&key, &event.1);
            self.size += size * count(&mut sides[side], event, -1) + -LEAVING;
            if sides.iter().all(BTreeMap::is_empty) {
                self.kept.remove(&key);
            }
        }
    }
}

/// Pairs near in time, on their way to what comes out.
struct Pairs {
    codec: Codec,
    /// Those that stay, whole.
    stage: Stage,
    out: SchemaRef,
}

impl Pairs {
    /// Those for which the condition of the join is true, and faults.
    fn give(&self, met: &[(Row, Tick, Diff)]) -> (Option<RecordBatch>, Updates) {
        if met.is_empty() {
            return (None, Vec::new());
        }
        let rows = self.codec.decode(met.iter().map(|(row, ..)| row)).expect("rows of the plan");
        let done = self.stage.evaluate(&rows).expect("columns of the plan");
        let at = |row: &u32| met[*row as usize].1;
        let failed = Fault::rows("Meet", &done.failed, |row| (at(&row), 1));
        if done.rows.is_empty() {
            return (None, failed);
        }
        let mut columns = done.columns;
        columns.push(Arc::new(UInt64Array::from_iter_values(done.rows.iter().map(at))));
        (Some(RecordBatch::try_new(self.out.clone(), columns).expect("columns of the plan")), failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meeting() -> Meeting {
        let (from_ms, until_ms) = (-50, 10);
        let (kept, leaving, size) = (HashMap::default(), BTreeMap::new(), Size::default());
        Meeting { from_ms, until_ms, kept_ms: [110, 150], kept, leaving, size }
    }

    #[test]
    fn what_no_event_can_meet_any_more_is_not_kept() {
        let mut meeting = meeting();
        let (mut met, key) = (Vec::new(), Row::new(b"k"));
        for time in 0..10_000u64 {
            let event = |side: u8| (key.clone(), (time as i64, Row::new(&[&time.to_be_bytes()[..], &[side]].concat())));
            meeting.forget(time);
            meeting.meet(time, 0, event(0), &mut met);
            meeting.meet(time, 1, event(1), &mut met);
            let kept: usize = meeting.kept.values().flatten().map(BTreeMap::len).sum();
            assert!(kept <= 110 + 150, "{kept} events at {time}");
        }
        assert!(met.len() > 500_000, "{} pairs", met.len());
        meeting.forget(10_200);
        assert!(meeting.kept.is_empty() && meeting.leaving.is_empty());
        assert_eq!(meeting.size, Size::default());
    }
}
