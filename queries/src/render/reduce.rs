//! GROUP BY: a state per group and aggregate.
//!
//! Invariant: state is proportional to groups (and, for what has to see all of them, to their values), not to changes.

use std::sync::Arc;

use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row};

use super::accumulate::{Kept, State};
use super::group::{Groups, Out, by_key};
use super::{Builder, Table, map};
use crate::plan::{Aggregate, Node, types};

impl<'s> Builder<'s> {
    pub(super) fn reduce(
        &mut self,
        _node: &Node,
        input: &Arc<Node>,
        keys: usize,
        aggregates: &[Aggregate],
    ) -> Result<Table<'s>> {
        let table = self.table(input)?;
        let (keyed, values, faults) = map::split(table, &input.schema, keys)?;
        self.faults.push(faults);
        let kinds = types(values.schema());
        let kept = aggregates.iter().map(|aggregate| Kept::new(aggregate, &kinds, input.append_only));
        let reduce = Reduce {
            values,
            kept: kept.collect::<Result<Vec<_>>>()?,
            global: keys == 0 && !aggregates.is_empty(),
            groups: HashMap::default(),
        };
        Ok(self.group(keyed, "Reduce", reduce))
    }
}

struct Reduce {
    values: Codec,
    kept: Vec<Kept>,
    /// Without keys there is one group, also when there are no rows.
    global: bool,
    groups: HashMap<Row, Group, foldhash::fast::FixedState>,
}

struct Group {
    rows: Diff,
    states: Vec<State>,
    out: Option<Row>,
    fault: Option<String>,
}

impl Groups for Reduce {
    fn start(&mut self, out: &mut Out) {
        if self.global {
            let key = Row::default();
            self.groups.insert(key.clone(), empty(&self.kept));
            self.put_out(&[key], out);
        }
    }

    fn change(&mut self, changes: &[((Row, Row), Diff)], out: &mut Out) {
        if changes.is_empty() {
            return;
        }
        let batch = self.values.decode(changes.iter().map(|((_, row), _)| row)).expect("rows of the plan");
        let taken: Vec<_> = self.kept.iter().map(|kept| kept.take(&batch).expect("columns of the plan")).collect();
        let mut dirty = Vec::new();
        let mut at = 0;
        for run in by_key(changes) {
            let key = &run[0].0.0;
            let group = self.groups.entry_ref(key).or_insert_with(|| empty(&self.kept));
            for (_, diff) in run {
                group.rows += diff;
                for (taken, state) in taken.iter().zip(&mut group.states) {
                    taken.update(state, at, *diff);
                }
                at += 1;
            }
            dirty.push(key.clone());
        }
        self.put_out(&dirty, out);
    }
}

fn empty(kept: &[Kept]) -> Group {
    Group { rows: 0, states: kept.iter().map(Kept::empty).collect(), out: None, fault: None }
}

impl Reduce {
    fn put_out(&mut self, dirty: &[Row], out: &mut Out) {
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
            (group.out, group.fault) = (new, fault);
            if group.rows == 0 && !self.global {
                self.groups.remove(key);
            }
        }
    }
}
