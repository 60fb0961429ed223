//! Joins of random queries.

use super::Random;
use super::relation::{Columns, Kind, Relation};

impl Random {
    /// An equality of a column of each side, if there are any of one kind.
    fn pair(&mut self, left: &Columns, right: &Columns) -> Option<String> {
        let mut pairs = Vec::new();
        for (a, of) in left {
            for (b, same) in right {
                if of == same && *of != Kind::Flag {
                    pairs.push(format!("{a} = {b}"));
                }
            }
        }
        if pairs.is_empty() { None } else { Some(self.of(&pairs).clone()) }
    }

    fn kind_of_join(&mut self) -> &'static str {
        *self.of(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"])
    }

    /// The join of these, each behind its alias, with up to seven of their columns.
    fn select(&mut self, depth: usize, sides: &[Columns], from: &str) -> Relation {
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for (name, kind) in sides.iter().flatten().take(7) {
            let new = format!("j{depth}{}", columns.len());
            items.push(format!("{name} AS {new}"));
            columns.push((new, *kind));
        }
        Relation { sql: format!("SELECT {} FROM {from}", items.join(", ")), columns }
    }

    pub(super) fn joined(&mut self, depth: usize) -> Relation {
        let left = self.relation(depth - 1);
        let below = self.below(depth).min(1);
        let right = self.relation(below);
        let kind = self.kind_of_join();
        let (l, r) = (format!("l{depth}"), format!("r{depth}"));
        let sides = [left.of(&l), right.of(&r)];
        let Some(mut on) = self.pair(&sides[0], &sides[1]) else { return left };
        if self.chance(20) {
            let (a, b) = on.split_once(" = ").expect("an equality");
            let (key, other) = (a.split_once('.').expect("a column").1, b.split_once('.').expect("a column").1);
            let from = format!(
                "(SELECT {key} AS y{depth}, {} FROM ({}) AS e{depth}) AS {l} {kind} (SELECT {other} AS y{depth}, {} FROM \
                 ({}) AS e{depth}) AS {r} USING (y{depth})",
                left.names().join(", "),
                left.sql,
                right.names().join(", "),
                right.sql
            );
            return self.select(depth, &sides, &from);
        }
        if self.chance(35) {
            on = format!("{on} AND {}", self.predicate(&sides.concat()));
        }
        let from = format!("({}) AS {l} {kind} ({}) AS {r} ON {on}", left.sql, right.sql);
        self.select(depth, &sides, &from)
    }

    pub(super) fn joined_of_three(&mut self, depth: usize) -> Relation {
        let (a, b, c) = (self.relation(depth.min(2) - 1), self.base(), self.base());
        let [x, y, z] = ["x", "y", "z"].map(|alias| format!("{alias}{depth}"));
        let sides = [a.of(&x), b.of(&y), c.of(&z)];
        let Some(first) = self.pair(&sides[0], &sides[1]) else { return a };
        let Some(second) = self.pair(&sides[..2].concat(), &sides[2]) else { return a };
        let (one, two) = (self.kind_of_join(), self.kind_of_join());
        let from = if self.chance(70) {
            format!("({}) AS {x} {one} ({}) AS {y} ON {first} {two} ({}) AS {z} ON {second}", a.sql, b.sql, c.sql)
        } else {
            let Some(inner) = self.pair(&sides[1], &sides[2]) else { return a };
            format!("({}) AS {x} {one} (({}) AS {y} {two} ({}) AS {z} ON {inner}) ON {first}", a.sql, b.sql, c.sql)
        };
        let sides = self.shuffled(&sides);
        self.select(depth, &sides, &from)
    }

    /// A named query joined with itself.
    pub(super) fn joined_with_itself(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth.min(2) - 1);
        let (l, r) = (format!("l{depth}"), format!("r{depth}"));
        let sides = [input.of(&l), input.of(&r)];
        let Some(on) = self.pair(&sides[0], &sides[1]) else { return input };
        let (kind, more) = (self.kind_of_join(), self.predicate(&sides.concat()));
        let from = format!("c{depth} AS {l} {kind} c{depth} AS {r} ON {on} AND {more}");
        let joined = self.select(depth, &sides, &from);
        Relation { sql: format!("WITH c{depth} AS ({}) {}", input.sql, joined.sql), ..joined }
    }

    /// Each row with the one row of an aggregate.
    pub(super) fn crossed(&mut self, depth: usize) -> Relation {
        let (input, other) = (self.relation(depth - 1), self.relation(depth - 1));
        let (call, kind) = self.plain_call(&other.columns);
        let (i, s) = (format!("i{depth}"), format!("s{depth}"));
        let sides = [vec![(format!("{s}.v{depth}"), kind)], input.of(&i)];
        let mut from = format!(
            "({}) AS {i} CROSS JOIN (SELECT {call} AS v{depth} FROM ({}) AS e{depth}) AS {s}",
            input.sql, other.sql
        );
        if self.chance(40) {
            from.push_str(&format!(" WHERE {}", self.predicate(&sides.concat())));
        }
        self.select(depth, &sides, &from)
    }
}
