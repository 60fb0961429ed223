//! Groups of random queries.

use super::Random;
use super::relation::{Columns, Kind, Relation};

impl Random {
    /// A call that does not depend on an order. What is not a sum of quarters becomes one, so that sums of it are exact.
    pub(super) fn plain_call(&mut self, columns: &Columns) -> (String, Kind) {
        let (name, kind) = self.of(columns).clone();
        match (self.below(10), kind) {
            (0, _) => ("count(*)".to_owned(), Kind::Int),
            (1, _) => (format!("count({name})"), Kind::Int),
            (2, _) => (format!("count(DISTINCT {name})"), Kind::Int),
            (3, Kind::Int | Kind::Float) => (format!("sum({name})"), kind),
            (4, Kind::Int | Kind::Float) => (format!("floor(avg({name}) * 4) / 4"), Kind::Float),
            (5, Kind::Int | Kind::Float) => (format!("sum(DISTINCT {name})"), kind),
            // The addend keeps it away from the whole numbers, where rounding would tell.
            (6, Kind::Int | Kind::Float) => (format!("floor(stddev({name}) * 100 + 0.137)"), Kind::Float),
            (3 | 4, Kind::Flag) => (format!("bool_or({name})"), Kind::Flag),
            (_, Kind::Flag) => (format!("bool_and({name})"), Kind::Flag),
            (7, _) => (format!("min({name})"), kind),
            _ => (format!("max({name})"), kind),
        }
    }

    /// A call, maybe with an order and a filter; `{call}` in it is complete.
    fn call(&mut self, columns: &Columns) -> (String, Kind) {
        let filter =
            if self.chance(20) { format!(" FILTER (WHERE {})", self.predicate(columns)) } else { String::new() };
        let (name, kind) = self.of(columns).clone();
        let other = self.of(columns).0.clone();
        let direction = *self.of(&["", " DESC", " NULLS FIRST"]);
        // The library's grouped accumulators panic where a column is named twice.
        let by = if other == name { format!("{name}{direction}") } else { format!("{other}{direction}, {name}") };
        match (self.below(12), kind) {
            (0, Kind::Text) => (format!("string_agg({name}, ',' ORDER BY {by}){filter}"), Kind::Text),
            (1, Kind::Int | Kind::Float | Kind::Text) => {
                let list = format!("array_agg({name} ORDER BY {by}){filter}");
                (format!("array_to_string({list}, '/', '-')"), Kind::Text)
            }
            (2, Kind::Int | Kind::Text) => {
                let list = format!("array_agg(DISTINCT {name} ORDER BY {name}){filter}");
                (format!("array_to_string({list}, '/', '-')"), Kind::Text)
            }
            (3, _) => (format!("first_value({name} ORDER BY {by}){filter}"), kind),
            (4, _) => (format!("last_value({name} ORDER BY {by}){filter}"), kind),
            _ => {
                let (call, kind) = self.plain_call(columns);
                // A filter follows the call of an aggregate only.
                let whole = call.ends_with(')') && !call.starts_with("floor");
                (if whole { format!("{call}{filter}") } else { call }, kind)
            }
        }
    }

    pub(super) fn grouped(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let mut columns = Vec::new();
        let mut items = Vec::new();
        let mut by = Vec::new();
        for index in 0..self.below(3).min(input.columns.len()) {
            let (name, kind) = input.columns[index].clone();
            let key = if self.chance(20) { self.scalar(&input.columns, kind) } else { name };
            items.push(format!("{key} AS k{depth}{index}"));
            columns.push((format!("k{depth}{index}"), kind));
            by.push((index + 1).to_string());
        }
        for index in 0..1 + self.below(3) {
            let (call, kind) = self.call(&input.columns);
            items.push(format!("{call} AS g{depth}{index}"));
            columns.push((format!("g{depth}{index}"), kind));
        }
        let mut sql = format!("SELECT {} FROM ({}) AS i{depth}", items.join(", "), input.sql);
        if !by.is_empty() {
            sql.push_str(&format!(" GROUP BY {}", by.join(", ")));
            if self.chance(25) {
                sql.push_str(" HAVING count(*) > 1");
            }
        }
        Relation { sql, columns }
    }

    pub(super) fn grouped_in_sets(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        if input.columns.len() < 2 {
            return input;
        }
        let keys = self.shuffled(&input.columns);
        let (a, b) = (&keys[0].0, &keys[1].0);
        let sets = match self.below(4) {
            0 => format!("ROLLUP ({a}, {b})"),
            1 => format!("CUBE ({a}, {b})"),
            2 => format!("GROUPING SETS (({a}), ({b}), ())"),
            _ => format!("GROUPING SETS (({a}, {b}), ({b}))"),
        };
        let (call, kind) = self.call(&input.columns);
        let mut items = vec![format!("{a} AS k{depth}0"), format!("{b} AS k{depth}1"), format!("{call} AS g{depth}0")];
        let names = [("k", 0, keys[0].1), ("k", 1, keys[1].1), ("g", 0, kind)];
        let mut columns: Columns = names.iter().map(|(by, at, kind)| (format!("{by}{depth}{at}"), *kind)).collect();
        if self.chance(30) {
            items.push(format!("grouping({a}) AS g{depth}1"));
            columns.push((format!("g{depth}1"), Kind::Int));
        }
        Relation {
            sql: format!("SELECT {} FROM ({}) AS i{depth} GROUP BY {sets}", items.join(", "), input.sql),
            columns,
        }
    }
}
