//! What is noted of the rows that pass an operator.
//!
//! Invariant: what is noted is bounded, however many rows pass.

use std::collections::{BTreeMap, HashMap, VecDeque};

use datafusion::arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use datafusion::arrow::compute::{SortOptions, concat, filter_record_batch, sort_to_indices, take, take_record_batch};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::BinaryExpr;
use datafusion::physical_expr::split_conjunction;
use datafusion::physical_expr::utils::collect_columns;
use operators::row::{Codec, Diff, Row, any_null, as_key, count};
use operators::time::Tick;

use super::sieve::Sieve;
use crate::plan::lineage::Condition;
use crate::plan::{Expression, Join, Kind, Node, canonical};
use crate::render::Fault;
use crate::render::evaluate::Stage;

/// Newest rows of each operator that are kept to be shown.
pub const EXAMPLES: usize = 3;
/// Different rows of a table that are kept: of the key, and where the place of one among them is asked for.
const CONTENT_ROWS_MAX: usize = 20_000;
/// Different keys of the inputs of a join that are remembered.
const PARTNERS_MAX: usize = 200_000;
/// Different faults of an operator that are kept.
const FAULTS_MAX: usize = 20;

/// Rows as columns of a node, with the tick of each and how often it comes.
pub type Passing<'a> = (&'a RecordBatch, &'a [(Tick, Diff)]);

/// Rows of the key at one operator.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Rows that came.
    pub came: i64,
    /// Rows that left.
    pub gone: i64,
    /// When the first one came.
    pub first: Option<Tick>,
    /// When the last one came.
    pub last: Option<Tick>,
    /// When the last one left.
    pub left: Option<Tick>,
    /// Since when there is always one.
    pub since: Option<Tick>,
    newest: VecDeque<(Tick, Row)>,
    content: BTreeMap<Row, Diff>,
    /// Whether more rows are there than are kept.
    more: bool,
    /// Faults of the operator; the first of each kind.
    pub faults: BTreeMap<Fault, Diff>,
}

impl Seen {
    /// Rows that are there now.
    pub fn now(&self) -> i64 {
        self.came - self.gone
    }

    fn take(&mut self, rows: Vec<Row>, at: impl Iterator<Item = (Tick, Diff)>, kind: Kind) {
        let mut now = None;
        for (row, (tick, diff)) in rows.into_iter().zip(at) {
            // Of one tick only what it comes to counts.
            if now.replace(tick).is_some_and(|now| now != tick) && self.now() <= 0 {
                self.since = None;
            }
            if diff > 0 {
                self.since.get_or_insert(tick);
                self.came += diff;
                self.first = Some(self.first.map_or(tick, |first| first.min(tick)));
                self.last = self.last.max(Some(tick));
                self.newest.push_back((tick, row.clone()));
                if self.newest.len() > EXAMPLES {
                    self.newest.pop_front();
                }
            } else {
                self.gone -= diff;
                self.left = self.left.max(Some(tick));
            }
            if kind == Kind::Table {
                self.more |= self.content.len() >= CONTENT_ROWS_MAX && !self.content.contains_key(&row);
                if !self.more {
                    count(&mut self.content, row, diff);
                }
            }
        }
        if self.now() <= 0 {
            self.since = None;
        }
    }

    /// Rows to be shown: those that are there, or else the last that came.
    pub fn examples(&self) -> Vec<Row> {
        let there = self.content.iter().filter(|(_, count)| **count > 0).map(|(row, _)| row.clone());
        let there: Vec<Row> = there.take(EXAMPLES).collect();
        if there.is_empty() || self.more { self.newest.iter().map(|(_, row)| row.clone()).collect() } else { there }
    }

    /// All rows that are there, if they are not too many to be kept.
    #[cfg(test)]
    pub fn content(&self) -> Option<&BTreeMap<Row, Diff>> {
        (!self.more).then_some(&self.content)
    }

    /// The last row that came, and when.
    pub fn newest(&self) -> Option<(Tick, &Row)> {
        self.newest.back().map(|(tick, row)| (*tick, row))
    }

    pub fn fault(&mut self, row: &Row, diff: Diff) {
        let fault = Fault::of(row);
        if self.faults.len() < FAULTS_MAX || self.faults.contains_key(&fault) {
            count(&mut self.faults, fault, diff);
        }
    }
}

/// Notes the rows of the key at one operator.
pub struct Watcher {
    sieve: Sieve,
    codec: Codec,
    kind: Kind,
}

impl Watcher {
    pub fn new(node: &Node, conditions: &[Condition]) -> Result<Self> {
        Ok(Self { sieve: Sieve::new(conditions), codec: Codec::new(node.schema.clone())?, kind: node.kind })
    }

    /// The rows of the key.
    pub fn chosen(&mut self, (rows, at): Passing<'_>) -> Result<(RecordBatch, Vec<(Tick, Diff)>)> {
        let stays = self.sieve.stays(rows, |row| at[row].1)?;
        let at = at.iter().enumerate().filter(|(row, _)| stays.value(*row)).map(|(_, at)| *at).collect();
        Ok((filter_record_batch(rows, &stays)?, at))
    }

    pub fn see(&mut self, passing: Passing<'_>, seen: &mut Seen) -> Result<()> {
        let (rows, at) = self.chosen(passing)?;
        // Of many events only the last are encoded.
        let skip = if self.kind == Kind::Events { rows.num_rows().saturating_sub(EXAMPLES) } else { 0 };
        if let (Some(first), Some(last)) = (at.first(), at.get(..skip).and_then(<[_]>::last)) {
            seen.came += skip as i64;
            seen.first = Some(seen.first.map_or(first.0, |known| known.min(first.0)));
            seen.last = seen.last.max(Some(last.0));
        }
        let rest = rows.slice(skip, rows.num_rows() - skip);
        let encoded = self.codec.encode(rest.columns(), rest.num_rows())?;
        seen.take(encoded, at.into_iter().skip(skip), self.kind);
        Ok(())
    }
}

/// How often one condition of a filter was true.
#[derive(Clone, Debug)]
pub struct Check {
    pub condition: Expression,
    pub passed: i64,
    /// Rows for which it was neither true nor false.
    pub unknown: i64,
    pub of: i64,
    /// Of a comparison that was not true: both sides where it was nearest to being so.
    pub nearest: Option<[ArrayRef; 2]>,
}

impl Check {
    /// One for each condition that has to be true.
    pub fn all(filter: &Expression) -> Vec<Check> {
        let check = |condition: &Expression| Check {
            condition: condition.clone(),
            passed: 0,
            unknown: 0,
            of: 0,
            nearest: None,
        };
        split_conjunction(filter).into_iter().map(check).collect()
    }

    pub fn see(&mut self, (rows, at): Passing<'_>) -> Result<()> {
        let done = Stage::columns(std::slice::from_ref(&self.condition)).evaluate(rows)?;
        self.of += at.iter().map(|(_, diff)| diff).sum::<i64>();
        let Some(values) = done.columns.first() else { return Ok(()) };
        let (values, mut failed) = (values.as_boolean(), Vec::new());
        for (place, row) in done.rows.iter().enumerate() {
            let diff = at[*row as usize].1;
            match values.is_valid(place).then(|| values.value(place)) {
                Some(true) => self.passed += diff,
                Some(false) if diff > 0 => failed.push(*row),
                Some(false) => {}
                None => self.unknown += diff,
            }
        }
        if !failed.is_empty() {
            let failed = take_record_batch(rows, &UInt32Array::from(failed))?;
            self.nearest_of(&failed)?;
        }
        Ok(())
    }

    /// Keeps the row that is nearest to what a comparison asks for.
    fn nearest_of(&mut self, rows: &RecordBatch) -> Result<()> {
        let Some(comparison) = self.condition.downcast_ref::<BinaryExpr>() else { return Ok(()) };
        let sides = [comparison.left(), comparison.right()];
        let greatest = match comparison.op() {
            Operator::Gt | Operator::GtEq => true,
            Operator::Lt | Operator::LtEq => false,
            _ => return Ok(()),
        };
        // The side that is of the row; what is asked for of the left one is the contrary for the right one.
        let by = usize::from(collect_columns(sides[0]).is_empty());
        let greatest = greatest == (by == 0);
        let values = sides.map(|side| side.evaluate(rows)?.into_array(rows.num_rows()));
        let [left, right] = values;
        let values = [left?, right?];
        let options = SortOptions { descending: greatest, nulls_first: false };
        let first = sort_to_indices(&values[by], Some(options), Some(1))?;
        let new = [take(&values[0], &first, None)?, take(&values[1], &first, None)?];
        let value = |pair: &[ArrayRef; 2]| ScalarValue::try_from_array(&pair[by], 0);
        let nearer = match &self.nearest {
            None => true,
            Some(known) => value(&new)?
                .partial_cmp(&value(known)?)
                .is_some_and(|order| if greatest { order.is_gt() } else { order.is_lt() }),
        };
        if nearer {
            // Its own bytes, not a view into the batch.
            self.nearest = Some([concat(&[new[0].as_ref()])?, concat(&[new[1].as_ref()])?]);
        }
        Ok(())
    }
}

/// Keys that one input of a join has: how often, and since when.
#[derive(Default)]
pub struct Partners {
    known: HashMap<u64, (Diff, Tick)>,
    /// Whether not all are remembered.
    pub more: bool,
}

/// Reads the keys of one input of a join.
pub struct Keys {
    by: Stage,
    codec: Codec,
    nulls_equal: bool,
}

impl Keys {
    /// Of the left or the right input.
    pub fn new(join: &Join, right: bool) -> Result<Self> {
        let input = if right { &join.right } else { &join.left };
        let by: Vec<Expression> = join.on.iter().map(|(l, r)| if right { r.clone() } else { l.clone() }).collect();
        let kinds = by.iter().map(|by| by.data_type(&input.schema)).collect::<Result<Vec<_>>>()?;
        Ok(Self { by: Stage::columns(&by), codec: Codec::new(canonical(&kinds))?, nulls_equal: join.nulls_equal })
    }

    /// A hash of each row's key; none for one that meets nothing.
    fn of(&self, rows: &RecordBatch) -> Result<Vec<(usize, Option<u64>)>> {
        if self.by.columns.is_empty() {
            return Ok((0..rows.num_rows()).map(|row| (row, Some(0))).collect());
        }
        let done = self.by.evaluate(rows)?;
        let columns: Vec<ArrayRef> = done.columns.iter().map(as_key).collect();
        let keys = self.codec.encode(&columns, done.rows.len())?;
        let keys = done.rows.iter().zip(keys).enumerate();
        let met = |place: usize| self.nulls_equal || !any_null(&columns, place);
        Ok(keys.map(|(place, (row, key))| (*row as usize, met(place).then(|| key.spread()))).collect())
    }

    pub fn see(&self, (rows, at): Passing<'_>, partners: &mut Partners) -> Result<()> {
        for (row, key) in self.of(rows)? {
            let (Some(key), (tick, diff)) = (key, at[row]) else { continue };
            if partners.known.len() >= PARTNERS_MAX && !partners.known.contains_key(&key) {
                partners.more = true;
                continue;
            }
            let (count, since) = partners.known.entry(key).or_insert((0, tick));
            *count += diff;
            *since = (*since).min(tick);
        }
        Ok(())
    }

    /// How often the other input has the key of this row, and since when; none if it never had.
    pub fn met(&self, row: &RecordBatch, others: &Partners) -> Result<Option<(Diff, Tick)>> {
        let key = self.of(row)?.first().and_then(|(_, key)| *key);
        Ok(key.and_then(|key| others.known.get(&key).copied()))
    }

    /// The values of the key of this row.
    pub fn values(&self, row: &RecordBatch) -> Result<Vec<ArrayRef>> {
        Ok(self.by.evaluate(row)?.columns)
    }
}

/// All rows that come to an operator, of which the first are taken.
#[derive(Default)]
pub struct Contenders {
    rows: BTreeMap<Row, Diff>,
    /// Whether there are more than can be kept.
    pub more: bool,
}

impl Contenders {
    pub fn see(&mut self, (rows, at): Passing<'_>, codec: &Codec) -> Result<()> {
        for (row, (_, diff)) in codec.encode(rows.columns(), rows.num_rows())?.into_iter().zip(at) {
            self.more |= self.rows.len() >= CONTENT_ROWS_MAX && !self.rows.contains_key(&row);
            if !self.more {
                count(&mut self.rows, row, *diff);
            }
        }
        Ok(())
    }

    /// How many rows of the group of this one come before it, and how many the group has.
    pub fn place(
        &self,
        row: &Row,
        codec: &Codec,
        partition: &[Expression],
        order: &[(Expression, SortOptions)],
    ) -> Result<Option<(i64, i64)>> {
        if self.more || !self.rows.contains_key(row) {
            return Ok(None);
        }
        let rows = codec.decode(self.rows.keys())?;
        let values = |by: &Expression| by.evaluate(&rows)?.into_array(rows.num_rows());
        let of_group = partition.iter().map(values).collect::<Result<Vec<_>>>()?;
        let by = order.iter().map(|(by, _)| values(by)).collect::<Result<Vec<_>>>()?;
        let comparators = by
            .iter()
            .zip(order)
            .map(|(values, (_, options))| datafusion::arrow::array::make_comparator(values, values, *options));
        let comparators = comparators.collect::<std::result::Result<Vec<_>, _>>()?;
        let groups = of_group
            .iter()
            .map(|values| datafusion::arrow::array::make_comparator(values, values, SortOptions::default()));
        let groups = groups.collect::<std::result::Result<Vec<_>, _>>()?;
        let Some(mine) = self.rows.keys().position(|known| known == row) else { return Ok(None) };
        let (mut before, mut all) = (0, 0);
        for (place, count) in self.rows.values().enumerate() {
            if groups.iter().any(|same| same(place, mine).is_ne()) {
                continue;
            }
            all += count;
            let order = comparators.iter().map(|compare| compare(place, mine)).find(|order| order.is_ne());
            // Equal ones are taken in the order of their bytes, in which they are kept.
            if order.unwrap_or_else(|| place.cmp(&mine)).is_lt() {
                before += count;
            }
        }
        Ok(Some((before, all)))
    }
}
