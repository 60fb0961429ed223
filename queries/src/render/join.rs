//! Joins of tables, by differential's joins over shared indexes; what an outer join adds is what the inner one left out.
//!
//! Invariant: rows of two inputs become the row of the join by lying one after the other; only conditions beyond equality
//! are evaluated.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use operators::row::{Codec, Row};

use super::map::{self, Nulls};
use super::{Builder, Keyed, Rendered, Table, lookup};
use crate::plan::{Expression, Join, Kind, Node, canonical, types};

impl<'s> Builder<'s> {
    pub(super) fn join(&mut self, node: &Arc<Node>, join: &Join) -> Result<Rendered<'s>> {
        if node.kind == Kind::Events {
            return lookup::lookup(self, node, join);
        }
        Ok(Rendered::Table(self.join_tables(join)?))
    }

    fn join_tables(&mut self, join: &Join) -> Result<Table<'s>> {
        use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        if join.null_aware {
            return self.not_in(join);
        }
        match join.kind {
            Inner => Ok(both(self.pairs(join)?)),
            Left => {
                let nulls = Codec::new(join.right.schema.clone())?.nulls()?;
                let alone = self.alone(join, Side::Left)?.map(move |row| row.and(&nulls));
                Ok(both(self.pairs(join)?).concat(alone))
            }
            Right => {
                let nulls = Codec::new(join.left.schema.clone())?.nulls()?;
                let alone = self.alone(join, Side::Right)?.map(move |row| nulls.and(&row));
                Ok(both(self.pairs(join)?).concat(alone))
            }
            Full => {
                let right_nulls = Codec::new(join.right.schema.clone())?.nulls()?;
                let left_nulls = Codec::new(join.left.schema.clone())?.nulls()?;
                let left = self.alone(join, Side::Left)?.map(move |row| row.and(&right_nulls));
                let right = self.alone(join, Side::Right)?.map(move |row| left_nulls.and(&row));
                Ok(both(self.pairs(join)?).concat(left).concat(right))
            }
            LeftSemi => self.matched(join, Side::Left),
            RightSemi => self.matched(join, Side::Right),
            LeftAnti => self.alone(join, Side::Left),
            RightAnti => self.alone(join, Side::Right),
            LeftMark => self.marked(join, Side::Left),
            RightMark => self.marked(join, Side::Right),
        }
    }

    /// Pairs of rows that meet.
    fn pairs(&mut self, join: &Join) -> Result<Keyed<'s>> {
        let nulls = if join.nulls_equal { Nulls::Stay } else { Nulls::Go };
        let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
        let left = self.index(&join.left, &left_by, nulls)?;
        let right = self.index(&join.right, &right_by, nulls)?;
        let pairs = left.join_core(right, |_, left, right| Some((left.clone(), right.clone())));
        let Some(filter) = &join.filter else { return Ok(pairs) };
        let kinds: Vec<_> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
        let (pairs, faults) = map::pairs(pairs, Codec::new(canonical(&kinds))?, filter.clone());
        self.faults.push(faults);
        Ok(pairs)
    }

    /// Rows of one side that meet any row of the other, as often as they are there.
    fn matched(&mut self, join: &Join, side: Side) -> Result<Table<'s>> {
        if join.filter.is_some() {
            let met = self.pairs(join)?.map(move |(left, right)| side.of(left, right)).distinct_core::<i64>();
            return Ok(self
                .table(side.of(&join.left, &join.right))?
                .map(|row| (row, ()))
                .semijoin(met)
                .map(|(row, ())| row));
        }
        let nulls = if join.nulls_equal { Nulls::Stay } else { Nulls::Go };
        let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
        let (mine, others) = (side.of(&join.left, &join.right), side.of(&join.right, &join.left));
        let (by, others_by) = (side.of(&left_by, &right_by), side.of(&right_by, &left_by));
        let index = self.index(mine, by, nulls)?;
        let keys = self.index(others, others_by, nulls)?.as_collection(|key, _| key.clone()).distinct_core::<i64>();
        Ok(index.join_core(keys.arrange_by_self_named("Keys"), |_, row, ()| Some(row.clone())))
    }

    /// Rows of one side that meet none.
    fn alone(&mut self, join: &Join, side: Side) -> Result<Table<'s>> {
        let matched = self.matched(join, side)?;
        Ok(self.table(side.of(&join.left, &join.right))?.concat(matched.negate()))
    }

    /// Rows of one side, and whether they meet any.
    fn marked(&mut self, join: &Join, side: Side) -> Result<Table<'s>> {
        let (yes, no) = (map::flag(true)?, map::flag(false)?);
        let matched = self.matched(join, side)?;
        let alone = self.table(side.of(&join.left, &join.right))?.concat(matched.clone().negate());
        Ok(matched.map(move |row| row.and(&yes)).concat(alone.map(move |row| row.and(&no))))
    }

    /// NOT IN: nothing is left where the other side has a null, and a null is left only where the other side has nothing.
    fn not_in(&mut self, join: &Join) -> Result<Table<'s>> {
        let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
        let all = self.table(&join.left)?;
        let known = self.keyed(&join.left, &left_by, Nulls::Go)?.map(|(_, row)| row);
        let unknown = all.concat(known.clone().negate());
        let matched = self.matched(join, Side::Left)?;
        let right = self.table(&join.right)?;
        let right_known = self.keyed(&join.right, &right_by, Nulls::Go)?.map(|(_, row)| row);
        let nulls = right.clone().concat(right_known.negate()).map(|_| ()).distinct_core::<i64>();
        let any = right.map(|_| ()).distinct_core::<i64>();
        let unless = |rows: Table<'s>, there: differential_dataflow::VecCollection<'s, _, (), i64>| {
            rows.map(|row| ((), row)).antijoin(there).map(|((), row)| row)
        };
        Ok(unless(known.concat(matched.negate()), nulls).concat(unless(unknown, any)))
    }
}

/// A side of a join.
#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

impl Side {
    fn of<T>(self, left: T, right: T) -> T {
        match self {
            Side::Left => left,
            Side::Right => right,
        }
    }
}

fn both<'s>(pairs: Keyed<'s>) -> Table<'s> {
    pairs.map(|(left, right): (Row, Row)| left.and(&right))
}
