//! Events that meet events near them in device time: both are kept for as long as another can come that they meet.
//!
//! Invariant: an event is kept until its time, the bound of the join and the retention have passed, and no longer. One that
//! comes a retention or more after its time is late, met or not, so what comes out does not depend on who came first. Of one
//! that is not late it is final what has become of it once it is kept no more.

mod apart;
mod meeting;

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use datafusion::common::JoinType;
use datafusion::error::{DataFusionError, Result};
use differential_dataflow::AsCollection;
use differential_dataflow::consolidation::consolidate_updates;
use operators::batch::Batch;
use operators::row::{Codec, Diff, Row, any_null, as_key};
use operators::time::{Tick, all_closed_before, take_before};
use timely::Container;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

use super::evaluate::Stage;
use super::map::{self, ticks};
use super::outputs::{Outputs, Updates};
use super::usage::{Gauge, Size};
use super::{Builder, Fault, Rendered, Table};
use crate::plan::{Expression, Join, Kind, Node, Within, canonical, types};
use apart::Apart;
use meeting::{Happened, Meeting, Timed};

/// Builds the join of events with events.
pub fn within<'s>(builder: &mut Builder<'s>, node: &Arc<Node>, join: &Join, within: &Within) -> Result<Rendered<'s>> {
    let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
    // Late events of a stream that meets itself are counted once.
    let same = join.left.id == join.right.id && *within.left == *within.right;
    let apart = Apart::of(join)?;
    let side = |late_counts, side| Side {
        retention_ms: within.retention_ms,
        late_counts,
        nulls_equal: join.nulls_equal,
        alone: apart.comes_alone(side),
    };
    let left = timed(builder, &join.left, left_by, &within.left, side(true, 0))?;
    let right = timed(builder, &join.right, right_by, &within.right, side(!same, 1))?;
    let both: Vec<DataType> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
    let meeting = Meeting::new(within, apart);
    let inner = join.kind == JoinType::Inner;
    let columns = if inner { (0..both.len()).map(crate::plan::place).collect() } else { Vec::new() };
    let pairs = Pairs {
        codec: Codec::new(canonical(&both))?,
        stage: Stage { filter: join.filter.clone(), columns },
        out: map::event_schema(&node.schema),
    };
    let gauge = builder.usage.gauge("Meet");
    let (rendered, faults) = match (inner, node.kind) {
        (true, _) => {
            let give = move |_: &mut Apart, happened: &Happened| pairs.events(happened);
            let (events, faults) = run(left, right, meeting, give, gauge);
            (Rendered::Events(events), faults)
        }
        (false, Kind::Events) => {
            let codec = Codec::new(node.schema.clone())?;
            let give = move |apart: &mut Apart, happened: &Happened| {
                let (rows, failed) = pairs.rows(apart, happened);
                (events_of(&codec, &pairs.out, rows), failed)
            };
            let (events, faults) = run(left, right, meeting, give, gauge);
            (Rendered::Events(events), faults)
        }
        (false, Kind::Table) => {
            let give = move |apart: &mut Apart, happened: &Happened| pairs.rows(apart, happened);
            let (rows, faults) = run(left, right, meeting, give, gauge);
            (Rendered::Table(rows.as_collection()), faults)
        }
    };
    builder.faults.push(faults);
    Ok(rendered)
}

/// How the events of one side are taken.
#[derive(Clone, Copy)]
struct Side {
    retention_ms: i64,
    /// Whether those that are late are counted.
    late_counts: bool,
    nulls_equal: bool,
    /// Whether events that can meet none come out too.
    alone: bool,
}

/// The events with their keys and times, but those that are late.
fn timed<'s>(
    builder: &mut Builder<'s>,
    node: &Arc<Node>,
    by: Vec<Expression>,
    time: &Expression,
    side: Side,
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
                    if times[index].is_some_and(|time| time.saturating_add(side.retention_ms) <= tick as i64) {
                        let late = || Fault::row("Late", "the event came after its retention");
                        faults.extend(side.late_counts.then(|| (late(), tick, 1)));
                        continue;
                    }
                    let time = times[index].filter(|_| side.nulls_equal || !any_null(&by, index));
                    if time.is_some() || side.alone {
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

fn run<'s, C: Container + Clone + 'static>(
    left: Stream<'s, Tick, Updates<Timed>>,
    right: Stream<'s, Tick, Updates<Timed>>,
    mut meeting: Meeting,
    mut give: impl FnMut(&mut Apart, &Happened) -> (C, Updates) + 'static,
    gauge: Arc<Gauge>,
) -> (Stream<'s, Tick, C>, Table<'s>) {
    let mut builder = OperatorBuilder::new("Meet".into(), left.scope());
    let by_key = || Exchange::new(|((key, _), _, _): &(Timed, Tick, Diff)| key.spread());
    let mut left = builder.new_input(left, by_key());
    let mut right = builder.new_input(right, by_key());
    let (mut outputs, rows, faults) = Outputs::<C>::add(&mut builder);
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
            let mut happened = Happened::default();
            for (tick, mut events) in take_before(&mut pending, upto) {
                meeting.forget(tick);
                events.sort_unstable();
                for (side, event) in events {
                    meeting.meet(tick, side, event, &mut happened);
                }
            }
            let waiting = pending.values().flatten();
            let waiting = waiting.fold(Size::default(), |sum, (_, (key, (_, row)))| sum + Size::of_pair(key, row));
            let Some(capabilities) = &mut held else { return };
            let (out, failed) = give(&mut meeting.apart, &happened);
            outputs.rows(&capabilities[0], out);
            outputs.faults(&capabilities[1], failed);
            match upto {
                Tick::MAX => held = None,
                upto => {
                    meeting.forget(upto);
                    capabilities.iter_mut().for_each(|held| held.downgrade(&upto));
                }
            }
            meeting.apart.settle();
            gauge.set(meeting.size() + waiting);
        }
    });
    (rows, faults)
}

/// Pairs near in time, on their way to what comes out.
struct Pairs {
    codec: Codec,
    /// Those that stay; whole, where nothing else comes out.
    stage: Stage,
    /// Of events that come out.
    out: SchemaRef,
}

impl Pairs {
    /// Those for which the condition of the join is true, as events, and faults.
    fn events(&self, Happened { pairs, .. }: &Happened) -> (Batch, Updates) {
        if pairs.is_empty() {
            return (Batch::default(), Vec::new());
        }
        let rows = self.codec.decode(pairs.iter().map(|pair| &pair.row)).expect("rows of the plan");
        let done = self.stage.evaluate(&rows).expect("columns of the plan");
        let at = |row: &u32| pairs[*row as usize].tick;
        let failed = Fault::rows("Meet", &done.failed, |row| (at(&row), 1));
        if done.rows.is_empty() {
            return (Batch::default(), failed);
        }
        let mut columns = done.columns;
        columns.push(Arc::new(UInt64Array::from_iter_values(done.rows.iter().map(at))));
        (Batch::from(RecordBatch::try_new(self.out.clone(), columns).expect("columns of the plan")), failed)
    }

    /// What the pairs for which the condition is true come to, as changes of rows in the order of their ticks, and faults.
    fn rows(&self, apart: &mut Apart, happened: &Happened) -> (Updates, Updates) {
        let pairs = &happened.pairs;
        let rows = self.codec.decode(pairs.iter().map(|pair| &pair.row)).expect("rows of the plan");
        let done = self.stage.evaluate(&rows).expect("columns of the plan");
        let failed = done.failed.iter().map(|(place, why)| (*place, Some(why.as_str())));
        let mut found: Vec<(u32, Option<&str>)> = done.rows.iter().map(|place| (*place, None)).chain(failed).collect();
        found.sort_by_key(|(place, _)| *place);
        let (mut out, failed) = apart.follow(happened, &found);
        // Of an event that meets others in the tick in which it comes nothing is seen alone.
        consolidate_updates(&mut out);
        out.sort_by_key(|(_, tick, _)| *tick);
        (out, failed)
    }
}

/// Rows that only come, as events.
fn events_of(codec: &Codec, schema: &SchemaRef, rows: Updates) -> Batch {
    if rows.is_empty() {
        return Batch::default();
    }
    let each = rows.iter().flat_map(|(row, tick, times)| std::iter::repeat_n((row, *tick), *times as usize));
    let (rows, at): (Vec<&Row>, Vec<Tick>) = each.unzip();
    let mut columns = codec.decode(rows).expect("rows of the plan").columns().to_vec();
    columns.push(Arc::new(UInt64Array::from(at)));
    Batch::from(RecordBatch::try_new(schema.clone(), columns).expect("columns of the plan"))
}
