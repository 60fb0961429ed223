//! GROUP BY: a state per group and aggregate.
//!
//! Invariant: state is proportional to groups (and, for what has to see all of them, to their values), not to changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Int64Type, TimeUnit};
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row};
use operators::time::{Tick, take_before, tick_after};

use super::accumulate::{Kept, State, Taken};
use super::group::{Groups, Out};
use super::reduce_events::{Absorb, reduce_events};
use super::usage::Size;
use super::{Builder, Fault, Rendered, Table, map};
use crate::plan::{Aggregate, Node, Retention, canonical, types};

impl<'s> Builder<'s> {
    pub(super) fn reduce(
        &mut self,
        input: &Arc<Node>,
        keys: usize,
        aggregates: &[Aggregate],
        retention: Option<Retention>,
    ) -> Result<Table<'s>> {
        let kinds = types(&input.schema).split_off(keys);
        let mut reduce = Reduce::new(&kinds, aggregates, input.append_only)?;
        reduce.global = keys == 0 && !aggregates.is_empty();
        reduce.ends = retention.map(|retention| Ends::new(input, keys, retention)).transpose()?;
        if let Rendered::Events(events) = self.render(input)? {
            let codec = Codec::new(canonical(&types(&input.schema)[..keys]))?;
            let (table, faults) = reduce_events(events, "ReduceEvents", codec, reduce, self.usage.gauge("Reduce"));
            self.faults.push(faults);
            return Ok(table);
        }
        let table = self.table(input)?;
        let (keyed, faults) = map::split(table, &input.schema, keys)?;
        self.faults.push(faults);
        Ok(self.group(keyed, "Reduce", reduce))
    }
}

pub(super) struct Reduce {
    values: Codec,
    kept: Vec<Kept>,
    /// Without keys there is one group, also when there are no rows.
    global: bool,
    groups: HashMap<Row, Group, foldhash::fast::FixedState>,
    size: Size,
    ends: Option<Ends>,
}

/// When groups end: a time in their key, and how long after it they are kept.
struct Ends {
    keys: Codec,
    retention: Retention,
    by_tick: BTreeMap<Tick, Vec<Row>>,
}

impl Ends {
    fn new(input: &Node, keys: usize, retention: Retention) -> Result<Self> {
        let keys = Codec::new(canonical(&types(&input.schema)[..keys]))?;
        Ok(Self { keys, retention, by_tick: BTreeMap::new() })
    }

    /// The tick at which the group of this key ends; none for one without a time.
    fn of(&self, key: &Row) -> Option<Tick> {
        let batch = self.keys.decode([key]).expect("a key of the plan");
        let column = batch.column(self.retention.key);
        let milliseconds = DataType::Timestamp(TimeUnit::Millisecond, None);
        let times = cast(column, &milliseconds).and_then(|times| cast(&times, &DataType::Int64)).expect("a timestamp");
        let times = times.as_primitive::<Int64Type>();
        times.is_valid(0).then(|| tick_after(times.value(0), self.retention.ms))
    }
}

struct Group {
    rows: Diff,
    states: Vec<State>,
    /// Whether it has changed since its row was put out.
    dirty: bool,
    out: Option<Row>,
    fault: Option<String>,
    /// What it takes, the row that was put out included.
    size: Size,
}

impl Group {
    /// Takes a row in; tells by what is kept more.
    fn take(&mut self, taken: &[Taken], at: usize, diff: Diff, key: &[u8], dirty: &mut Vec<Row>) -> Size {
        self.rows += diff;
        let mut more = Size::default();
        for (taken, state) in taken.iter().zip(&mut self.states) {
            more += taken.update(state, at, diff);
        }
        self.size += more;
        if !self.dirty {
            self.dirty = true;
            dirty.push(Row::new(key));
        }
        more
    }
}

impl Groups for Reduce {
    fn start(&mut self, out: &mut Out) {
        if self.global {
            let key = Row::default();
            let group = empty(&self.kept, &key);
            self.size += group.size;
            self.groups.insert(key.clone(), group);
            self.put_out_all(&[key], out);
        }
    }

    fn due(&self) -> Option<Tick> {
        self.ends.as_ref().and_then(|ends| ends.by_tick.first_key_value()).map(|(tick, _)| *tick)
    }

    fn change(&mut self, tick: Tick, changes: &[((Row, Row), Diff)], out: &mut Out) {
        self.leave(tick, out);
        if changes.is_empty() {
            return;
        }
        let batch = self.values.decode(changes.iter().map(|((_, row), _)| row)).expect("rows of the plan");
        let taken: Vec<_> = self.kept.iter().map(|kept| kept.take(&batch).expect("columns of the plan")).collect();
        let mut dirty = Vec::new();
        for (at, ((key, _), diff)) in changes.iter().enumerate() {
            self.row(tick, key.bytes(), &taken, at, *diff, &mut dirty, out);
        }
        self.put_out_all(&dirty, out);
    }

    fn size(&self) -> Size {
        self.size
    }
}

impl Absorb for Reduce {
    type Columns = Vec<Taken>;

    fn columns(&self, values: &RecordBatch) -> Result<(Vec<Taken>, Size)> {
        let taken = self.kept.iter().map(|kept| kept.take(values)).collect::<Result<Vec<_>>>()?;
        let size = taken.iter().fold(Size::default(), |sum, taken| sum + taken.size());
        Ok((taken, size))
    }

    fn start(&mut self, out: &mut Out) {
        Groups::start(self, out);
    }

    fn due(&self) -> Option<Tick> {
        Groups::due(self)
    }

    fn end(&mut self, tick: Tick, out: &mut Out) {
        self.leave(tick, out);
    }

    fn absorb(
        &mut self,
        tick: Tick,
        key: &[u8],
        taken: &Self::Columns,
        at: usize,
        dirty: &mut Vec<Row>,
        out: &mut Out,
    ) {
        self.row(tick, key, taken, at, 1, dirty, out);
    }

    fn put_out(&mut self, _: Tick, dirty: &[Row], out: &mut Out) {
        self.put_out_all(dirty, out);
    }

    fn size(&self) -> Size {
        self.size
    }
}

/// A group without rows, which counts as a row itself.
fn empty(kept: &[Kept], key: &Row) -> Group {
    let states: Vec<State> = kept.iter().map(Kept::empty).collect();
    let size = Size::of(key) + Size::bytes(size_of::<Group>() as i64) + State::size() * states.len() as Diff;
    Group { rows: 0, states, dirty: false, out: None, fault: None, size }
}

pub(super) fn size_of_out(out: Option<&Row>) -> Size {
    out.map_or(Size::default(), |row| Size::bytes(Size::of(row).bytes))
}

impl Reduce {
    /// Groups that are there while they have rows. `values` are the columns after the keys.
    pub(super) fn new(values: &[DataType], aggregates: &[Aggregate], append_only: bool) -> Result<Self> {
        let kept = aggregates.iter().map(|aggregate| Kept::new(aggregate, values, append_only));
        Ok(Self {
            values: Codec::new(canonical(values))?,
            kept: kept.collect::<Result<Vec<_>>>()?,
            global: false,
            groups: HashMap::default(),
            size: Size::default(),
            ends: None,
        })
    }

    /// A row of a group comes or goes.
    #[expect(clippy::too_many_arguments, reason = "the innermost step of two loops, which have all of it at hand")]
    fn row(
        &mut self,
        tick: Tick,
        key: &[u8],
        taken: &[Taken],
        at: usize,
        diff: Diff,
        dirty: &mut Vec<Row>,
        out: &mut Out,
    ) {
        if let Some(group) = self.groups.get_mut(key) {
            self.size += group.take(taken, at, diff, key, dirty);
            return;
        }
        let row = Row::new(key);
        if let Some(ends) = &mut self.ends
            && let Some(end) = ends.of(&row)
        {
            if end <= tick {
                // One that goes has been counted when it came too late, or was in time.
                if diff > 0 {
                    out.faults.push((Fault::row("Late", "the window has ended and is sealed"), diff));
                }
                return;
            }
            ends.by_tick.entry(end).or_default().push(row.clone());
        }
        let group = empty(&self.kept, &row);
        self.size += group.size;
        let group = self.groups.entry(row).or_insert(group);
        self.size += group.take(taken, at, diff, key, dirty);
    }

    /// Groups whose time is over leave.
    fn leave(&mut self, tick: Tick, out: &mut Out) {
        let Some(ends) = &mut self.ends else { return };
        for key in take_before(&mut ends.by_tick, tick + 1).into_values().flatten() {
            if let Some(group) = self.groups.remove(&key) {
                self.size -= group.size;
                out.replace(group.out.as_ref(), None);
            }
        }
    }

    /// The rows of these groups as they are now.
    fn put_out_all(&mut self, dirty: &[Row], out: &mut Out) {
        let states = |index: usize| dirty.iter().map(move |key| (key, index));
        let results: Vec<Vec<Result<Row>>> = (0..self.kept.len())
            .map(|index| {
                let states: Vec<&State> = states(index).map(|(key, at)| &self.groups[key].states[at]).collect();
                self.kept[index].results(&states).expect("columns of the plan")
            })
            .collect();
        let mut bytes = Vec::new();
        for (at, key) in dirty.iter().enumerate() {
            let group = self.groups.get_mut(key).expect("just changed");
            let (mut new, mut fault) = (None, None);
            if group.rows > 0 || self.global {
                bytes.clear();
                bytes.extend_from_slice(key.bytes());
                for result in &results {
                    match &result[at] {
                        Ok(row) => bytes.extend_from_slice(row.bytes()),
                        Err(why) => fault = Some(why.strip_backtrace()),
                    }
                }
                new = fault.is_none().then(|| Row::new(&bytes));
            }
            out.replace(group.out.as_ref(), new.as_ref());
            out.fault("Reduce", group.fault.as_deref(), fault.as_deref());
            let more = size_of_out(new.as_ref()) + -size_of_out(group.out.as_ref());
            group.size += more;
            self.size += more;
            (group.out, group.fault, group.dirty) = (new, fault, false);
            if group.rows == 0 && !self.global {
                self.size -= group.size;
                self.groups.remove(key);
            }
        }
    }
}
