//! Scalars and conditions over the columns of a query.

use super::Random;
use super::relation::{Columns, Kind};

impl Random {
    /// An expression of this kind.
    pub(super) fn scalar(&mut self, columns: &Columns, kind: Kind) -> String {
        let one = self.column(columns, kind).unwrap_or_else(|| self.constant(kind));
        let constant = self.constant(kind);
        if kind != Kind::Flag && self.chance(12) {
            let when = self.predicate(columns);
            return format!("(CASE WHEN {when} THEN {one} ELSE {constant} END)");
        }
        if kind != Kind::Flag && self.chance(12) {
            return format!("coalesce({one}, {constant})");
        }
        match (kind, self.below(10)) {
            (Kind::Int | Kind::Float, 0) => format!("({one} + {constant})"),
            (Kind::Int | Kind::Float, 1) => format!("({one} * 2)"),
            (Kind::Int, 2) => self.column(columns, Kind::Float).map_or(one, |of| format!("CAST({of} AS BIGINT)")),
            (Kind::Int, 3) => self.column(columns, Kind::Text).map_or(one, |of| format!("length({of})")),
            (Kind::Int, 4) => format!("({one} % 3)"),
            (Kind::Float, 2) => self.column(columns, Kind::Int).map_or(one, |of| format!("CAST({of} AS DOUBLE)")),
            (Kind::Float, 3) => format!("floor({one})"),
            (Kind::Text, 0) => format!("upper({one})"),
            (Kind::Text, 1) => format!("substr({one}, 1, 1)"),
            (Kind::Text, 2) => format!("({one} || {constant})"),
            (Kind::Text, 3) => self.column(columns, Kind::Int).map_or(one, |of| format!("CAST({of} AS VARCHAR)")),
            (Kind::Flag, 0 | 1) => format!("(NOT {one})"),
            (Kind::Flag, 2 | 3) => format!("({})", self.predicate(columns)),
            (Kind::Time, 0 | 1) => format!("date_bin(interval '20 milliseconds', {one})"),
            (Kind::Time, 2) => format!("({one} + interval '30 milliseconds')"),
            (Kind::Time, 3) => format!("({one} - interval '10 milliseconds')"),
            _ => one,
        }
    }

    /// A column of this kind, if there is any.
    pub(super) fn column(&mut self, columns: &Columns, kind: Kind) -> Option<String> {
        let fitting: Vec<&String> = columns.iter().filter(|(_, of)| *of == kind).map(|(name, _)| name).collect();
        if fitting.is_empty() { None } else { Some(self.of(&fitting).to_string()) }
    }

    fn constant(&mut self, kind: Kind) -> String {
        match kind {
            Kind::Int => self.below(6).to_string(),
            Kind::Float => format!("{:.2}", self.below(12) as f64 * 0.5),
            Kind::Text => format!("'{}'", self.of(&["p", "q", "z"])),
            Kind::Flag => self.of(&["true", "false"]).to_string(),
            Kind::Time => format!("arrow_cast({}, 'Timestamp(Millisecond, None)')", 900 + self.below(200)),
        }
    }

    /// A condition.
    pub(super) fn predicate(&mut self, columns: &Columns) -> String {
        let (name, kind) = self.of(columns).clone();
        match (self.below(11), kind) {
            (0, _) => format!("{name} IS NULL"),
            (1, _) => format!("{name} IS NOT NULL"),
            (2, _) => format!("({} AND {})", self.predicate(columns), self.predicate(columns)),
            (3, _) => format!("({} OR {})", self.predicate(columns), self.predicate(columns)),
            (_, Kind::Flag) => name,
            (4, Kind::Text) => format!("{name} LIKE {}", self.of(&["'p%'", "'%long%'", "'_'"])),
            (5, Kind::Text) => format!("{name} NOT LIKE {}", self.of(&["'%p%'", "'%not inline'"])),
            (4 | 5, _) => {
                let not = if self.chance(25) { "NOT " } else { "" };
                format!("{name} {not}BETWEEN {} AND {}", self.constant(kind), self.scalar(columns, kind))
            }
            (6, _) => format!("{name} IN ({}, {})", self.constant(kind), self.constant(kind)),
            (7, _) => format!("({name} IS DISTINCT FROM {})", self.scalar(columns, kind)),
            _ => {
                let op = *self.of(&["=", "<>", "<", ">", "<=", ">="]);
                format!("{name} {op} {}", self.scalar(columns, kind))
            }
        }
    }

    /// A condition on when a row is there.
    pub(super) fn bounded(&mut self, time: &str) -> String {
        match self.below(6) {
            0 => format!("{time} > now() - interval '50 milliseconds'"),
            1 => format!("{time} + interval '20 milliseconds' >= now()"),
            2 => format!("{time} <= now()"),
            3 => format!("now() < {time} + interval '1 second'"),
            4 => format!("{time} <= now() AND {time} > now() - interval '30 milliseconds'"),
            _ => format!("{time} BETWEEN now() - interval '40 milliseconds' AND now()"),
        }
    }
}
