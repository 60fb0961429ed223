//! The first rows of each group, in a declared order; rows that are equal in it in the order of their bytes.
//!
//! Invariant: a change costs the rows that are taken, not the rows of the group.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{SortOptions, take_record_batch};
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::error::Result;
use hashbrown::HashMap;
use operators::row::{Codec, Diff, Row, count, repeated};
use operators::time::Tick;

use super::evaluate::all;
use super::group::{Groups, Out, by_key, difference};
use super::usage::Size;
use crate::plan::{Expression, Node};

/// An order of rows.
pub struct Order {
    codec: Codec,
    by: Vec<Expression>,
    converter: RowConverter,
}

impl Order {
    pub fn new(input: &Node, order: &[(Expression, SortOptions)]) -> Result<Self> {
        let field = |(by, options): &(Expression, SortOptions)| {
            Ok(SortField::new_with_options(by.data_type(&input.schema)?, *options))
        };
        let fields = order.iter().map(field).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            codec: Codec::new(input.schema.clone())?,
            by: order.iter().map(|(by, _)| by.clone()).collect(),
            converter: RowConverter::new(fields)?,
        })
    }

    pub fn codec(&self) -> &Codec {
        &self.codec
    }

    /// Where each row stands: bytes that are ordered as the rows are.
    pub fn places<'a>(&self, rows: impl IntoIterator<Item = &'a Row>) -> Result<Vec<Row>> {
        let batch = self.codec.decode(rows)?;
        if self.by.is_empty() {
            return Ok(vec![Row::default(); batch.num_rows()]);
        }
        let columns = all(&self.by, &batch)?;
        Ok(self.converter.convert_columns(&columns)?.iter().map(|row| Row::new(row.data())).collect())
    }
}

/// The rows in the order of these columns; equal ones stay as they are.
pub fn sorted(batch: &RecordBatch, by: &[ArrayRef], options: &[SortOptions]) -> Result<RecordBatch> {
    let fields = by.iter().zip(options);
    let fields = fields.map(|(column, options)| SortField::new_with_options(column.data_type().clone(), *options));
    let rows = RowConverter::new(fields.collect())?.convert_columns(by)?;
    let mut order: Vec<u32> = (0..batch.num_rows() as u32).collect();
    order.sort_by(|a, b| rows.row(*a as usize).cmp(&rows.row(*b as usize)));
    Ok(take_record_batch(batch, &UInt32Array::from(order))?)
}

pub struct Top {
    order: Order,
    skip: usize,
    fetch: usize,
    /// Rows beyond the last one taken never come back: nothing before them leaves.
    only_come: bool,
    groups: HashMap<Row, Group, foldhash::fast::FixedState>,
    size: Size,
}

#[derive(Default)]
struct Group {
    rows: BTreeMap<(Row, Row), Diff>,
    out: Vec<Row>,
}

/// Of a group beside its rows: its key, and lists that share them.
pub(super) const GROUP: Size = Size { rows: 0, bytes: 256 };

impl Top {
    pub fn new(input: &Arc<Node>, order: &[(Expression, SortOptions)], skip: usize, fetch: usize) -> Result<Self> {
        let only_come = input.append_only;
        Ok(Self {
            order: Order::new(input, order)?,
            skip,
            fetch,
            only_come,
            groups: HashMap::default(),
            size: Size::default(),
        })
    }
}

/// Leaves the first `most` rows; tells what went.
fn trim(rows: &mut BTreeMap<(Row, Row), Diff>, most: usize) -> Size {
    let mut gone = Size::default();
    while rows.len() > most {
        gone += rows.pop_last().map(|((place, row), _)| Size::of_pair(&place, &row)).unwrap_or_default();
    }
    gone
}

impl Groups for Top {
    fn change(&mut self, _: Tick, changes: &[((Row, Row), Diff)], out: &mut Out) {
        let places = self.order.places(changes.iter().map(|((_, row), _)| row)).expect("columns of the plan");
        let mut places = places.into_iter();
        for run in by_key(changes) {
            let key = &run[0].0.0;
            let group = self.groups.entry_ref(key).or_default();
            for (((_, row), diff), place) in run.iter().zip(&mut places) {
                let size = Size::of_pair(&place, row);
                self.size += size * count(&mut group.rows, (place, row.clone()), *diff);
            }
            let taken = repeated(&group.rows).skip(self.skip).take(self.fetch);
            let mut new: Vec<Row> = taken.map(|(_, row)| row.clone()).collect();
            if self.only_come {
                self.size -= trim(&mut group.rows, self.skip.saturating_add(self.fetch));
            }
            new.sort_unstable();
            difference(&group.out, &new, out);
            group.out = new;
            if group.rows.is_empty() {
                self.groups.remove(key);
            }
        }
    }

    fn size(&self) -> Size {
        self.size + GROUP * self.groups.len() as Diff
    }
}
