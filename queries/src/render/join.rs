//! Joins of tables, by differential's joins over shared indexes; what an outer join adds is what the inner one left out.
//!
//! Invariant: rows of two inputs become the row of the join by lying one after the other; only conditions beyond equality
//! are evaluated.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;

use super::map::{self, Nulls};
use super::usage::{Size, kept};
use super::{Builder, Index, Keyed, Rendered, Table, correct, lookup, within};
use crate::plan::{Expression, Join, Kind, Meets, Node, canonical, types};

impl<'s> Builder<'s> {
    pub(super) fn join(&mut self, node: &Arc<Node>, join: &Join) -> Result<Rendered<'s>> {
        match &join.meets {
            Meets::Within(bound) => return within::within(self, node, join, bound),
            Meets::Corrected { horizon_ms } => return correct::correct(self, node, join, *horizon_ms),
            Meets::Now | Meets::AsOf { .. } => {}
        }
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
        let (left, right) = self.sides(join)?;
        let pairs = left.join_core(right, |_, left, right| Some((left.clone(), right.clone())));
        let Some(filter) = &join.filter else { return Ok(pairs) };
        let kinds: Vec<_> = types(&join.left.schema).into_iter().chain(types(&join.right.schema)).collect();
        let (pairs, faults) = map::pairs(pairs, Codec::new(canonical(&kinds))?, filter.clone());
        self.faults.push(faults);
        Ok(pairs)
    }

    /// Both sides by the key of the join. Without a key all rows would lie on one worker: those of the larger side lie in
    /// parts, and the few of the other side in each of them.
    fn sides(&mut self, join: &Join) -> Result<(Index<'s>, Index<'s>)> {
        if join.on.is_empty() {
            let rows = |node: &Node| node.rows_max.unwrap_or(usize::MAX);
            let large_left = rows(&join.left) > rows(&join.right);
            return Ok((self.in_parts(&join.left, large_left)?, self.in_parts(&join.right, !large_left)?));
        }
        let nulls = if join.nulls_equal { Nulls::Stay } else { Nulls::Go };
        let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
        Ok((self.index(&join.left, &left_by, nulls)?, self.index(&join.right, &right_by, nulls)?))
    }

    /// The node's rows by their part, or each in all parts.
    fn in_parts(&mut self, node: &Arc<Node>, once: bool) -> Result<Index<'s>> {
        let name = (node.id, if once { "parts" } else { "all parts" }.to_owned());
        if let Some(index) = self.indexes.get(&name) {
            return Ok(index.clone());
        }
        let table = self.table(node)?;
        let keyed = if once {
            table.map(|row| (Row::new(&[part(&row)]), row))
        } else {
            table.flat_map(|row| (0..PARTS).map(move |part| (Row::new(&[part]), row.clone())))
        };
        // Further parts share the bytes of the first one's rows.
        let keyed = kept(keyed, self.usage.gauge("Join"), move |(part, row)| match part.bytes() {
            [0] => Size::of_pair(part, row),
            _ if once => Size::of_pair(part, row),
            _ => Size::bytes(Size::of_pair(part, &Row::default()).bytes),
        });
        let index = keyed.arrange_by_key_named("Parts");
        self.indexes.insert(name, index.clone());
        Ok(index)
    }

    /// Rows of one side that meet any row of the other, as often as they are there.
    fn matched(&mut self, join: &Join, side: Side) -> Result<Table<'s>> {
        if join.filter.is_some() {
            let met = self.pairs(join)?.map(move |(left, right)| side.of(left, right)).distinct_core::<i64>();
            let met = self.kept_distinct(met);
            let all = self.table(side.of(&join.left, &join.right))?;
            let all = kept(all, self.usage.gauge("Join"), Size::of);
            return Ok(all.map(|row| (row, ())).semijoin(met).map(|(row, ())| row));
        }
        let (mine, others) = (side.of(&join.left, &join.right), side.of(&join.right, &join.left));
        if join.on.is_empty() {
            let any = self.table(others)?.map(|_| ());
            let mine = kept(self.table(mine)?, self.usage.gauge("Join"), Size::of);
            return Ok(by_part(mine).semijoin(anywhere(any)).map(|(_, row)| row));
        }
        let nulls = if join.nulls_equal { Nulls::Stay } else { Nulls::Go };
        let (left_by, right_by): (Vec<Expression>, Vec<Expression>) = join.on.iter().cloned().unzip();
        let (by, others_by) = (side.of(&left_by, &right_by), side.of(&right_by, &left_by));
        let index = self.index(mine, by, nulls)?;
        let keys = self.index(others, others_by, nulls)?.as_collection(|key, _| key.clone()).distinct_core::<i64>();
        let keys = self.kept_distinct(keys);
        Ok(index.join_core(keys.arrange_by_self_named("Keys"), |_, row, ()| Some(row.clone())))
    }

    /// Rows that DISTINCT has let through once: it keeps them as they came and as they are, and who joins them does so too.
    fn kept_distinct(&self, rows: Table<'s>) -> Table<'s> {
        kept(rows, self.usage.gauge("Join"), |row| Size::of(row) + Size::bytes(2 * Size::of(row).bytes))
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
        let nulls = anywhere(right.clone().concat(right_known.negate()).map(|_| ()));
        let any = anywhere(right.map(|_| ()));
        let unless = |rows: Table<'s>, there: Parts<'s>| {
            by_part(kept(rows, self.usage.gauge("Join"), Size::of)).antijoin(there).map(|(_, row)| row)
        };
        Ok(unless(known.concat(matched.negate()), nulls).concat(unless(unknown, any)))
    }
}

/// Parts of rows without a key; enough for many workers.
const PARTS: u8 = 32;

/// The part of a row.
fn part(row: &Row) -> u8 {
    (row.spread() % u64::from(PARTS)) as u8
}

/// Parts, each once or not at all.
type Parts<'s> = differential_dataflow::VecCollection<'s, Tick, u8, Diff>;

fn by_part<'s>(rows: Table<'s>) -> differential_dataflow::VecCollection<'s, Tick, (u8, Row), Diff> {
    rows.map(|row| (part(&row), row))
}

/// All parts, while there is anything.
fn anywhere<'s>(there: differential_dataflow::VecCollection<'s, Tick, (), Diff>) -> Parts<'s> {
    there.distinct_core::<Diff>().flat_map(|()| 0..PARTS)
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
