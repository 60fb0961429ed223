//! The rows that a test gives to one stream or table, as changes at ticks.
//!
//! Invariant: a table's rows are upserts by its key, as in its changelog; an event's `arrived_at` is its tick.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, TimestampMillisecondArray, new_null_array};
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;

use super::Fault;
use super::cells::{self, Cell};
use super::parse::Rows;
use crate::catalog::{ARRIVED, Relation};
use crate::plan::Kind;

/// What one stream or table is given.
#[derive(Clone, Debug)]
pub struct Input {
    pub relation: Relation,
    /// By tick, ascending.
    pub changes: Vec<(Tick, Row, Diff)>,
    /// Rows by their keys.
    there: BTreeMap<Vec<Cell>, Row>,
    /// What arrives at the next tick: the line, whether it leaves, its key, and its columns.
    waiting: Vec<(usize, bool, Vec<Cell>, Vec<ArrayRef>)>,
}

impl Input {
    pub fn new(relation: &Relation) -> Self {
        Self { relation: relation.clone(), changes: Vec::new(), there: BTreeMap::new(), waiting: Vec::new() }
    }

    /// Takes rows for the next tick.
    pub fn take(&mut self, rows: &Rows) -> Result<(), Fault> {
        let schema = self.relation.schema.clone();
        let events = self.relation.kind == Kind::Events;
        for name in &rows.header {
            if schema.index_of(name).is_err() {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                return Err((rows.line + 1, crate::plan::unknown_name("column", name, &known).message));
            }
            if events && name == ARRIVED {
                return Err((rows.line + 1, format!("{ARRIVED} is the next tick, and not given")));
            }
        }
        let place = |name: &str| rows.header.iter().position(|given| given == name);
        if let Some(key) = self.relation.key.iter().find(|key| !events && place(key).is_none()) {
            return Err((rows.line + 1, format!("the key of {} is not given: {key}", rows.name)));
        }
        for row in &rows.rows {
            if row.gone && events {
                return Err((row.line, "events only come".into()));
            }
            let columns = schema.fields().iter().map(|field| match place(field.name()) {
                Some(at) => cells::column(std::slice::from_ref(&row.cells[at]), field.data_type())
                    .map_err(|why| (row.line, format!("{}: {why}", field.name()))),
                None => Ok(new_null_array(field.data_type(), 1)),
            });
            let columns = columns.collect::<Result<Vec<_>, Fault>>()?;
            let key = self.relation.key.iter().filter_map(|key| place(key)).map(|at| row.cells[at].clone()).collect();
            self.waiting.push((row.line, row.gone, key, columns));
        }
        Ok(())
    }

    /// What waits arrives.
    pub fn arrive(&mut self, tick: Tick) -> Result<(), String> {
        let schema = self.relation.schema.clone();
        let codec = Codec::new(schema.clone()).map_err(|why| why.to_string())?;
        for (line, gone, key, mut columns) in std::mem::take(&mut self.waiting) {
            if let (Kind::Events, Ok(at)) = (self.relation.kind, schema.index_of(ARRIVED)) {
                columns[at] = Arc::new(TimestampMillisecondArray::from(vec![tick as i64]));
            }
            let row = codec.encode(&columns, 1).map_err(|why| why.to_string())?.pop().unwrap_or_default();
            if self.relation.kind == Kind::Events {
                self.changes.push((tick, row, 1));
                continue;
            }
            let old = if gone { self.there.remove(&key) } else { self.there.insert(key, row.clone()) };
            match (gone, old) {
                (true, None) => return Err(format!("line {line} takes a row away that is not there")),
                (_, old) => self.changes.extend(old.map(|old| (tick, old, -1))),
            }
            self.changes.extend((!gone).then_some((tick, row, 1)));
        }
        Ok(())
    }

    /// The line of a row that has not arrived.
    pub fn waiting(&self) -> Option<usize> {
        self.waiting.first().map(|(line, ..)| *line)
    }

    /// As a compacted log has it: of what happened up to the tick, a table has only the rows that are there then, each at the
    /// tick at which it came; events are all there.
    pub fn collapsed(&self, upto: Tick) -> Input {
        let mut input = self.clone();
        if self.relation.kind == Kind::Events {
            return input;
        }
        let mut there: BTreeMap<&Row, (Diff, Tick)> = BTreeMap::new();
        for (tick, row, diff) in self.changes.iter().filter(|(tick, ..)| *tick <= upto) {
            let (count, since) = there.entry(row).or_default();
            *count += diff;
            if *diff > 0 {
                *since = *tick;
            }
        }
        let kept = there.into_iter().filter(|(_, (count, _))| *count > 0);
        let kept = kept.map(|(row, (count, since))| (since, row.clone(), count));
        let later = self.changes.iter().filter(|(tick, ..)| *tick > upto).cloned();
        input.changes = kept.chain(later).collect();
        input.changes.sort_by_key(|(tick, ..)| *tick);
        input
    }
}
