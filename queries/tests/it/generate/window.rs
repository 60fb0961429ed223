//! Window functions over random queries.

use super::Random;
use super::relation::{Columns, Kind, Relation};

const FRAMES: [&str; 6] = [
    "",
    "",
    " ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
    " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
    " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
    " ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
];

impl Random {
    fn window_call(&mut self, columns: &Columns) -> (String, Kind, bool) {
        let (name, kind) = self.of(columns).clone();
        match (self.below(12), kind) {
            (0, _) => ("row_number()".to_owned(), Kind::Int, false),
            (1, _) => (format!("{}()", self.of(&["rank", "dense_rank"])), Kind::Int, false),
            (2, _) => (format!("lag({name}, {})", 1 + self.below(2)), kind, false),
            (3, _) => (format!("lead({name})"), kind, false),
            (4, Kind::Int) => ("ntile(3)".to_owned(), kind, false),
            (5, _) => (format!("first_value({name})"), kind, true),
            (6, _) => (format!("last_value({name})"), kind, true),
            (7, _) => (format!("nth_value({name}, 2)"), kind, true),
            (8 | 9, Kind::Int | Kind::Float) => (format!("sum({name})"), kind, true),
            (10, Kind::Int | Kind::Float | Kind::Text) => (format!("max({name})"), kind, true),
            (11, Kind::Int | Kind::Float | Kind::Text) => (format!("min({name})"), kind, true),
            _ => (format!("count({name})"), Kind::Int, true),
        }
    }

    pub(super) fn windowed(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let mut columns = input.columns.clone();
        let mut items: Vec<String> = input.names().into_iter().map(str::to_owned).collect();
        let mut partition = self.of(&input.columns).0.clone();
        let mut order = self.total_order(&input.columns);
        let all = self.chance(20);
        // With more than one order, rows that are the same come in any order in each of them.
        let several = self.chance(20);
        for index in 0..1 + self.below(3) {
            let (call, kind, framed) = self.window_call(&input.columns);
            if several {
                partition = self.of(&input.columns).0.clone();
                order = self.total_order(&input.columns);
            }
            let frame = if framed { *self.of(&FRAMES) } else { "" };
            let by = if all { String::new() } else { format!("PARTITION BY {partition} ") };
            items.push(format!("{call} OVER ({by}ORDER BY {order}{frame}) AS w{depth}{index}"));
            columns.push((format!("w{depth}{index}"), kind));
        }
        let different = if several { format!("SELECT DISTINCT * FROM ({}) AS d{depth}", input.sql) } else { input.sql };
        Relation { sql: format!("SELECT {} FROM ({different}) AS i{depth}", items.join(", ")), columns }
    }
}
