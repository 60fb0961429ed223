//! An operator with what was noted at it, and the texts of both.
//!
//! Invariant: values come from outside, so none is shown longer than an excerpt, and no control character is shown.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::arrow::array::{ArrayRef, RecordBatch};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::error::Result;
use datafusion::physical_expr::utils::collect_columns;
use operators::error::excerpt;
use operators::row::{Codec, Row};
use operators::time::Tick;
use serde_json::{Map, Value};

use super::play::{Followed, Noted, Through};
use super::seen::Check;
use super::trace::{Gate, Step, Trace};
use crate::answer::json_rows;
use crate::plan::lineage::{Condition, Is};
use crate::plan::{Kind, Node, Op, columns, text};
use crate::trial::cells::shown;

/// Columns of what is read, by its name.
pub type Columns = BTreeMap<String, Vec<String>>;

/// One operator.
pub struct Point<'a> {
    pub step: &'a Step,
    pub noted: &'a Noted,
    /// Where it reads.
    pub gate: Option<(&'a Gate, &'a Through)>,
    pub inputs: Vec<Point<'a>>,
}

impl<'a> Point<'a> {
    /// The whole plan.
    pub fn root(trace: &'a Trace, followed: &'a Followed) -> Point<'a> {
        Point::next(&trace.root, trace, followed, &mut followed.noted.iter())
    }

    fn next(
        step: &'a Step,
        trace: &'a Trace,
        followed: &'a Followed,
        rest: &mut impl Iterator<Item = &'a Noted>,
    ) -> Point<'a> {
        let noted = rest.next().expect("a note for each step");
        let inputs = step.inputs.iter().map(|input| Point::next(input, trace, followed, rest)).collect();
        Point { step, noted, gate: step.gate.map(|at| (&trace.gates[at], &followed.gates[at])), inputs }
    }

    /// Whether a row of the key ever came.
    pub fn was_there(&self) -> bool {
        let seen = &self.noted.seen;
        // What came and went within one tick was never there: a join puts out such rows on its way to an answer.
        let passing = seen.now() <= 0 && seen.left.is_some() && seen.left == seen.first;
        seen.came > 0 && !passing
    }

    /// Whether one is there now; events that came are.
    pub fn is_there(&self) -> bool {
        if self.step.node.kind == Kind::Events { self.was_there() } else { self.noted.seen.now() > 0 }
    }

    /// Columns of its rows that say something: those that are used above, and no constants.
    pub fn told_columns(&self) -> BTreeSet<usize> {
        let says = |place: &usize| match &self.step.node.op {
            Op::Map { project, .. } => !collect_columns(&project[*place]).is_empty(),
            _ => true,
        };
        let used = |place: &usize| self.step.used.as_ref().is_none_or(|used| used.contains(place));
        (0..self.step.node.schema.fields().len()).filter(used).filter(says).collect()
    }

    /// How many rows of the key there are.
    fn there(&self) -> i64 {
        let seen = &self.noted.seen;
        if self.step.node.kind == Kind::Events { seen.came } else { seen.now().max(0) }
    }

    /// The same in words.
    pub fn count(&self) -> String {
        rows(self.there())
    }

    /// How many of what they are and what these do.
    pub fn do_this(&self, one: &str, many: &str) -> String {
        format!("{} of {} {}", self.count(), self.source(), if self.there() == 1 { one } else { many })
    }

    /// What its rows are called.
    pub fn called(&self) -> String {
        match self.gate {
            Some((gate, _)) => gate.name.clone(),
            None => {
                let mut names: Vec<&str> = Vec::new();
                self.visit(&mut |point| {
                    names.extend(point.gate.map(|(gate, _)| gate.name.as_str()).filter(|name| !names.contains(name)));
                });
                names.join(" and ")
            }
        }
    }

    /// Whether its rows are those of one source, one by one: what a lookup finds for an event is no source.
    fn is_row_by_row(&self) -> bool {
        match (&self.step.node.op, self.inputs.as_slice()) {
            (Op::Get(_), _) => true,
            (Op::Map { .. } | Op::Temporal { .. }, [input]) => input.is_row_by_row(),
            (Op::Join(_), _) => self.step.node.kind == Kind::Events,
            _ => false,
        }
    }

    /// The rows that others are made of: what is left of those of each source.
    pub fn made_of<'b>(&'b self, see: &mut impl FnMut(&'b Point<'a>)) {
        if self.is_row_by_row() {
            return see(self);
        }
        self.inputs.iter().for_each(|input| input.made_of(see));
    }

    /// The source of its rows: of a lookup that of the events.
    pub fn source(&self) -> String {
        match (&self.step.node.op, self.inputs.as_slice()) {
            (Op::Map { .. } | Op::Temporal { .. }, [input]) => input.source(),
            (Op::Join(_), [left, right]) => match (left.step.node.kind, right.step.node.kind) {
                (Kind::Events, Kind::Table) => left.source(),
                (Kind::Table, Kind::Events) => right.source(),
                _ => self.called(),
            },
            _ => self.called(),
        }
    }

    /// Calls `see` with this point and all below.
    pub fn visit<'b>(&'b self, see: &mut impl FnMut(&'b Point<'a>)) {
        see(self);
        self.inputs.iter().for_each(|input| input.visit(see));
    }
}

/// So many rows.
pub fn rows(count: i64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// Texts of what was noted, with the names of columns.
#[derive(Clone, Copy)]
pub struct Speech<'a> {
    pub columns: &'a Columns,
    /// The tick at which rows came in that were kept before.
    pub end: Tick,
}

impl Speech<'_> {
    /// A tick, if it is that of the row and not that of the question.
    pub fn known(&self, tick: Option<Tick>) -> Option<Tick> {
        tick.filter(|tick| *tick < self.end)
    }

    /// Names of a node's columns.
    pub fn columns(&self, node: &Node) -> Vec<String> {
        columns(node, &|name| self.columns.get(name).cloned().unwrap_or_default())
    }

    /// What holds for rows of the key at a node.
    pub fn condition(&self, condition: &Condition, columns: &[String]) -> String {
        let of = text(&condition.of, columns);
        let value = |value: &datafusion::common::ScalarValue| {
            value.to_array().map_or_else(|why| why.strip_backtrace(), |values| written(&values))
        };
        match &condition.is {
            Is::Value(is) if is.is_null() => format!("{of} is null"),
            Is::Value(is) => format!("{of} = {}", value(is)),
            Is::Within(from, until) => format!("{of} >= {} and {of} < {}", value(from), value(until)),
        }
    }

    /// The same of all conditions; none if there are none.
    pub fn conditions(&self, conditions: &[Condition], node: &Node) -> Option<String> {
        let columns = self.columns(node);
        let told: Vec<String> = conditions.iter().map(|condition| self.condition(condition, &columns)).collect();
        (!told.is_empty()).then(|| told.join(" and "))
    }

    /// A condition of a filter over these columns, and how near it was.
    pub fn check(check: &Check, columns: &[String]) -> String {
        let condition = text(&check.condition, columns);
        match &check.nearest {
            Some([left, right]) if check.passed <= 0 => {
                format!("{condition} (the nearest: {} and {})", written(left), written(right))
            }
            _ => condition,
        }
    }

    /// Values of expressions, as they are for one row.
    pub fn values(expressions: &[String], values: &[ArrayRef]) -> String {
        let told = expressions.iter().zip(values).map(|(name, value)| format!("{name} = {}", written(value)));
        told.collect::<Vec<_>>().join(", ")
    }
}

/// The first value of a column as it would be written in SQL, if not too long.
pub fn written(values: &ArrayRef) -> String {
    match first(values) {
        (None, _) => "null".to_owned(),
        (Some(cell), true) => cell,
        (Some(cell), false) => format!("'{}'", excerpt(&cell)),
    }
}

/// The first value of a column as text, and whether it stands without quotes.
pub fn first(values: &ArrayRef) -> (Option<String>, bool) {
    let plain = values.data_type().is_numeric() || *values.data_type() == DataType::Boolean;
    (shown(values).ok().and_then(|cells| cells.into_iter().next().flatten()), plain)
}

/// One row of a node as columns.
pub fn row_of(node: &Node, row: &Row) -> Result<RecordBatch> {
    Ok(Codec::new(node.schema.clone())?.decode([row])?)
}

/// Rows as JSON objects, of these columns only.
pub fn objects(node: &Node, names: &[String], places: &BTreeSet<usize>, rows: &[Row]) -> Vec<Map<String, Value>> {
    let made = || {
        let batch = Codec::new(node.schema.clone())?.decode(rows)?;
        let places: Vec<usize> = places.iter().copied().collect();
        let fields = places.iter().map(|place| {
            // Of two columns with one name the later is told by its place.
            let name = &names[*place];
            let twice = places.iter().any(|other| other < place && names[*other] == *name);
            let name = if twice { format!("{name} (column {})", place + 1) } else { name.clone() };
            Field::new(name, batch.column(*place).data_type().clone(), true)
        });
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let columns: Vec<ArrayRef> = places.iter().map(|place| batch.column(*place).clone()).collect();
        if columns.is_empty() {
            return Ok::<_, datafusion::error::DataFusionError>(Vec::new());
        }
        Ok(json_rows(&RecordBatch::try_new(schema.into(), columns)?)?)
    };
    let lines = made().unwrap_or_default();
    lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
