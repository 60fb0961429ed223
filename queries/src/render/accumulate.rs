//! The state of one aggregate in one group.
//!
//! Invariant: it depends on the rows that are there, not on those that were: what leaves leaves no trace. Counts and sums
//! keep numbers, the least and the greatest the values with their counts; everything else keeps its rows and is computed
//! anew when they change.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, UInt64Array,
};
use datafusion::arrow::compute::SortOptions;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type, UInt64Type};
use datafusion::error::Result;
use datafusion::scalar::ScalarValue;
use operators::exact_sum::ExactSum;
use operators::row::{Codec, Diff, Row, count, repeated};

use super::usage::Size;
use crate::plan::{Aggregate, canonical};

/// How an aggregate is kept up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Number of rows whose argument is there.
    Count,
    /// Sum of whole numbers or decimals.
    Whole,
    /// Sum of floating-point numbers, exact.
    Float,
    /// Sum by count.
    Average,
    /// The least; of rows that only come, nothing else is kept.
    Least { only_come: bool },
    /// The greatest.
    Greatest { only_come: bool },
    /// Number of different values.
    Different,
    /// From all rows, each time.
    All,
}

/// One aggregate of a GROUP BY.
pub struct Kept {
    aggregate: Aggregate,
    pub way: Way,
    /// Values of the column that the aggregate becomes.
    result: Codec,
    null: Row,
    /// The rows that [`Way::All`] keeps: arguments, then what they are ordered by.
    rows: Option<Codec>,
}

/// The state of an aggregate in a group.
#[derive(Debug)]
pub enum State {
    Number { rows: Diff, sum: i128 },
    Exact { rows: Diff, sum: Box<ExactSum> },
    Best(Option<Row>),
    Values(BTreeMap<Row, Diff>),
}

impl Kept {
    /// `values` are the columns after the keys.
    pub fn new(aggregate: &Aggregate, values: &[DataType], append_only: bool) -> Result<Self> {
        let way = way(aggregate, values, append_only);
        let kind = aggregate.function.field().data_type().clone();
        let result = Codec::new(canonical(&[kind]))?;
        let columns = aggregate.arguments.iter().chain(aggregate.order.iter().map(|(column, _)| column));
        let kinds: Vec<DataType> = columns.map(|column| values[*column].clone()).collect();
        let rows = match way {
            Way::All | Way::Least { .. } | Way::Greatest { .. } | Way::Different => {
                Some(Codec::new(canonical(&kinds))?)
            }
            _ => None,
        };
        Ok(Self { aggregate: aggregate.clone(), way, null: result.nulls()?, result, rows })
    }

    /// The state of a group without rows.
    pub fn empty(&self) -> State {
        match self.way {
            Way::Count | Way::Whole => State::Number { rows: 0, sum: 0 },
            Way::Float | Way::Average => State::Exact { rows: 0, sum: Box::default() },
            Way::Least { only_come: true } | Way::Greatest { only_come: true } => State::Best(None),
            _ => State::Values(BTreeMap::new()),
        }
    }

    /// The columns that [`Taken::update`] reads, ready for reading.
    pub fn take(&self, batch: &RecordBatch) -> Result<Taken> {
        let column = |index: &usize| batch.column(*index).clone();
        let arguments: Vec<ArrayRef> = self.aggregate.arguments.iter().map(column).collect();
        let filter = self.aggregate.filter.as_ref().map(column);
        let rows = match &self.rows {
            Some(codec) => {
                let order = self.aggregate.order.iter().map(|(index, _)| batch.column(*index).clone());
                let columns: Vec<ArrayRef> = arguments.iter().cloned().chain(order).collect();
                codec.encode(&columns, batch.num_rows())?
            }
            None => Vec::new(),
        };
        Ok(Taken { way: self.way, arguments, filter, rows })
    }

    /// The results of these states as rows of one column, and why those have none that failed.
    pub fn results(&self, states: &[&State]) -> Result<Vec<Result<Row>>> {
        if matches!(self.way, Way::All) {
            return Ok(states.iter().map(|state| self.anew(state)).collect());
        }
        if let Some(rows) = self.extremes(states) {
            return Ok(rows.into_iter().map(Ok).collect());
        }
        let column = self.column(states);
        Ok(self.result.encode(&[column], states.len())?.into_iter().map(Ok).collect())
    }

    fn extremes(&self, states: &[&State]) -> Option<Vec<Row>> {
        let (least, greatest) = (matches!(self.way, Way::Least { .. }), matches!(self.way, Way::Greatest { .. }));
        if !least && !greatest {
            return None;
        }
        let best = |state: &&State| match state {
            State::Best(best) => best.clone(),
            State::Values(values) if least => values.keys().next().cloned(),
            State::Values(values) => values.keys().next_back().cloned(),
            _ => None,
        };
        Some(states.iter().map(|state| best(state).unwrap_or_else(|| self.null.clone())).collect())
    }

    fn column(&self, states: &[&State]) -> ArrayRef {
        let whole = |state: &&State| match state {
            State::Number { rows, sum } => (self.way == Way::Count || *rows > 0).then_some(*sum),
            State::Values(values) => Some(values.len() as i128),
            _ => None,
        };
        let float = |state: &&State| match state {
            State::Exact { rows, sum } if *rows > 0 => Some(match self.way {
                Way::Average => sum.value() / *rows as f64,
                _ => sum.value(),
            }),
            _ => None,
        };
        match self.result.schema().field(0).data_type() {
            DataType::Float64 => Arc::new(states.iter().map(float).collect::<Float64Array>()),
            DataType::UInt64 => Arc::new(states.iter().map(|s| whole(s).map(|n| n as u64)).collect::<UInt64Array>()),
            DataType::Decimal128(precision, scale) => {
                let values: Decimal128Array = states.iter().map(whole).collect();
                Arc::new(values.with_data_type(DataType::Decimal128(*precision, *scale)))
            }
            _ => Arc::new(states.iter().map(|s| whole(s).map(|n| n as i64)).collect::<Int64Array>()),
        }
    }

    /// The library's own accumulator over all rows, in the order of ORDER BY and then of their bytes.
    fn anew(&self, state: &State) -> Result<Row> {
        let State::Values(values) = state else { return Ok(self.null.clone()) };
        let codec = self.rows.as_ref().expect("kept by their rows");
        let mut batch = codec.decode(repeated(values))?;
        let by = self.aggregate.arguments.len();
        if !self.aggregate.order.is_empty() {
            let options: Vec<SortOptions> = self.aggregate.order.iter().map(|(_, options)| *options).collect();
            batch = super::top::sorted(&batch, &batch.columns()[by..], &options)?;
        }
        let mut accumulator = self.aggregate.function.create_accumulator()?;
        if batch.num_rows() > 0 {
            accumulator.update_batch(batch.columns())?;
        }
        let value: ScalarValue = accumulator.evaluate()?;
        let kind = self.result.schema().field(0).data_type();
        let column = value.cast_to(kind)?.to_array()?;
        Ok(self.result.encode(&[column], 1)?.pop().unwrap_or_default())
    }
}

/// Which way keeps this aggregate.
fn way(aggregate: &Aggregate, values: &[DataType], only_come: bool) -> Way {
    let function = &aggregate.function;
    let kinds: Vec<&DataType> = aggregate.arguments.iter().map(|column| &values[*column]).collect();
    let result = function.field().data_type().clone();
    let plain = aggregate.order.is_empty();
    match (function.fun().name(), kinds.as_slice(), function.is_distinct()) {
        ("count", [_], false) if plain => Way::Count,
        ("count", [_], true) if plain => Way::Different,
        ("sum", [DataType::Int64], false) if result == DataType::Int64 => Way::Whole,
        ("sum", [DataType::UInt64], false) if result == DataType::UInt64 => Way::Whole,
        ("sum", [DataType::Decimal128(_, from)], false) => match result {
            DataType::Decimal128(_, to) if to == *from => Way::Whole,
            _ => Way::All,
        },
        ("sum", [DataType::Float64], false) => Way::Float,
        ("avg", [DataType::Float64], false) => Way::Average,
        // A NaN is greater than all in rows, and DataFusion's own order: but not in its grouped sums.
        ("min", [kind], _) if **kind == result => Way::Least { only_come },
        ("max", [kind], _) if **kind == result => Way::Greatest { only_come },
        _ => Way::All,
    }
}

impl State {
    /// What it takes without the rows that it keeps.
    pub fn size() -> Size {
        // An exact sum of numbers alike has two or three parts.
        Size::bytes((size_of::<State>() + size_of::<ExactSum>() + 96) as i64)
    }
}

/// The columns of a batch of changes that one aggregate takes.
pub struct Taken {
    way: Way,
    arguments: Vec<ArrayRef>,
    filter: Option<ArrayRef>,
    rows: Vec<Row>,
}

impl Taken {
    /// Row `row` comes `diff` times. Tells by what the state keeps more.
    pub fn update(&self, state: &mut State, row: usize, diff: Diff) -> Size {
        if let Some(filter) = &self.filter
            && (filter.is_null(row) || !filter.as_boolean().value(row))
        {
            return Size::default();
        }
        let there = self.arguments.first().is_none_or(|argument| argument.is_valid(row));
        if !there && self.way != Way::All {
            return Size::default();
        }
        let mut more = Size::default();
        match state {
            State::Number { rows, sum } => {
                *rows += diff;
                *sum += if self.way == Way::Count { i128::from(diff) } else { self.whole(row) * i128::from(diff) };
            }
            State::Exact { rows, sum } => {
                *rows += diff;
                sum.add(self.arguments[0].as_primitive::<Float64Type>().value(row), diff);
            }
            State::Best(best) => {
                let new = &self.rows[row];
                let better = match self.way {
                    Way::Least { .. } => best.as_ref().is_none_or(|best| new < best),
                    _ => best.as_ref().is_none_or(|best| new > best),
                };
                if better {
                    more = Size::of(new) + best.as_ref().map_or(Size::default(), |old| -Size::of(old));
                    *best = Some(new.clone());
                }
            }
            State::Values(values) => {
                more = Size::of(&self.rows[row]) * count(values, self.rows[row].clone(), diff);
            }
        }
        more
    }

    /// What it takes until its rows are given to their groups.
    pub fn size(&self) -> Size {
        Size::bytes(self.rows.iter().map(|row| Size::of(row).bytes).sum())
    }

    fn whole(&self, row: usize) -> i128 {
        let column = &self.arguments[0];
        match column.data_type() {
            DataType::Int64 => column.as_primitive::<Int64Type>().value(row).into(),
            DataType::UInt64 => column.as_primitive::<UInt64Type>().value(row).into(),
            _ => column.as_primitive::<Decimal128Type>().value(row),
        }
    }
}
