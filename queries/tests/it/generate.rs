//! Random tables, changes and queries.

use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringViewArray, TimestampMillisecondArray,
};
use datafusion::arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use operators::row::{Codec, Row};

use crate::harness::Changing;

/// Numbers that follow from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn chance(&mut self, per_cent: usize) -> bool {
        self.below(100) < per_cent
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Tables t, u and v, each with random changes at 12 ticks; half of the changes after the first are deletes.
pub fn tables(random: &mut Random, size: usize) -> Vec<Changing> {
    let int = |name: &str| Field::new(name, DataType::Int64, true);
    let float = |name: &str| Field::new(name, DataType::Float64, true);
    let t = Schema::new(vec![
        int("a"),
        Field::new("s", DataType::Utf8View, true),
        float("f"),
        Field::new("b", DataType::Boolean, true),
        Field::new("ts", DataType::Timestamp(TimeUnit::Millisecond, None), true),
    ]);
    let u = Schema::new(vec![int("a"), float("n")]);
    let v = Schema::new(vec![float("n"), Field::new("m", DataType::Utf8View, true)]);
    [("t", t), ("u", u), ("v", v)].into_iter().map(|(name, schema)| changing(random, name, schema, size)).collect()
}

fn changing(random: &mut Random, name: &str, schema: Schema, size: usize) -> Changing {
    let schema = Arc::new(schema);
    let codec = Codec::new(schema.clone()).expect("types with a row format");
    let mut changes = Vec::new();
    let mut there: Vec<Row> = Vec::new();
    for round in 0..12u64 {
        let tick = 1_000 + round * 10;
        for _ in 0..random.below(size / 4 + 1) {
            if !there.is_empty() && random.chance(45) {
                let row = there.swap_remove(random.below(there.len()));
                changes.push((tick, row, -1));
            } else {
                let columns: Vec<ArrayRef> =
                    schema.fields().iter().map(|field| value(random, field.data_type())).collect();
                let row = codec.encode(&columns, 1).expect("the columns").pop().expect("one row");
                there.push(row.clone());
                changes.push((tick, row, 1));
            }
        }
    }
    Changing { name: name.to_owned(), schema, changes }
}

fn value(random: &mut Random, kind: &DataType) -> ArrayRef {
    let there = !random.chance(12);
    match kind {
        DataType::Int64 => Arc::new(Int64Array::from(vec![there.then(|| random.below(6) as i64)])),
        DataType::Float64 => Arc::new(Float64Array::from(vec![there.then(|| random.below(24) as f64 * 0.25 - 1.0)])),
        DataType::Boolean => Arc::new(BooleanArray::from(vec![there.then(|| random.chance(50))])),
        DataType::Timestamp(..) => {
            Arc::new(TimestampMillisecondArray::from(vec![there.then(|| 900 + random.below(200) as i64)]))
        }
        _ => Arc::new(StringViewArray::from(vec![
            there.then(|| *random.of(&["p", "q", "r", "a long text, not inline"])),
        ])),
    }
}

/// Type of a column in a query that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Int,
    Float,
    Text,
    Flag,
}

/// A query that is being made, and its columns.
#[derive(Clone, Debug)]
struct Relation {
    sql: String,
    columns: Vec<(String, Kind)>,
}

impl Random {
    /// A random query over the three tables.
    pub fn query(&mut self) -> String {
        self.relation(3).sql
    }

    fn base(&mut self) -> Relation {
        let column = |name: &str, kind| (name.to_owned(), kind);
        let (name, columns) = match self.below(3) {
            0 => (
                "t",
                vec![
                    column("a", Kind::Int),
                    column("s", Kind::Text),
                    column("f", Kind::Float),
                    column("b", Kind::Flag),
                ],
            ),
            1 => ("u", vec![column("a", Kind::Int), column("n", Kind::Float)]),
            _ => ("v", vec![column("n", Kind::Float), column("m", Kind::Text)]),
        };
        let named: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
        Relation { sql: format!("SELECT {} FROM {name}", named.join(", ")), columns }
    }

    fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 {
            return self.base();
        }
        match self.below(10) {
            0 | 1 => self.projected(depth),
            2 | 3 | 4 => self.joined(depth),
            5 | 6 => self.grouped(depth),
            7 => self.set(depth),
            8 => self.top(depth),
            _ => self.subqueried(depth),
        }
    }

    fn scalar(&mut self, columns: &[(String, Kind)], kind: Kind) -> String {
        let fitting: Vec<&String> = columns.iter().filter(|(_, of)| *of == kind).map(|(name, _)| name).collect();
        let column = if fitting.is_empty() { None } else { Some(self.of(&fitting).to_string()) };
        let constant = match kind {
            Kind::Int => self.below(6).to_string(),
            Kind::Float => format!("{:.2}", self.below(12) as f64 * 0.5),
            Kind::Text => format!("'{}'", self.of(&["p", "q", "z"])),
            Kind::Flag => self.of(&["true", "false"]).to_string(),
        };
        let one = column.unwrap_or(constant.clone());
        match (kind, self.below(6)) {
            (Kind::Int | Kind::Float, 0) => format!("({one} + {constant})"),
            (Kind::Int | Kind::Float, 1) => format!("({one} * 2)"),
            (Kind::Int | Kind::Float, 2) => format!("coalesce({one}, {constant})"),
            (Kind::Text, 0) => format!("upper({one})"),
            (Kind::Text, 1) => format!("coalesce({one}, {constant})"),
            (Kind::Flag, 0) => format!("(NOT {one})"),
            (_, 3) if kind != Kind::Flag => {
                let when = self.predicate(columns);
                format!("(CASE WHEN {when} THEN {one} ELSE {constant} END)")
            }
            _ => one,
        }
    }

    fn predicate(&mut self, columns: &[(String, Kind)]) -> String {
        let (name, kind) = self.of(columns).clone();
        match self.below(9) {
            0 => format!("{name} IS NULL"),
            1 => format!("{name} IS NOT NULL"),
            2 => format!("({} AND {})", self.predicate(columns), self.predicate(columns)),
            3 => format!("({} OR {})", self.predicate(columns), self.predicate(columns)),
            _ if kind == Kind::Flag => name,
            _ => {
                let op = *self.of(&["=", "<>", "<", ">", "<=", ">="]);
                format!("{name} {op} {}", self.scalar(columns, kind))
            }
        }
    }

    fn projected(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let count = 1 + self.below(3);
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for index in 0..count {
            let kind = *self.of(&[Kind::Int, Kind::Float, Kind::Text, Kind::Flag]);
            let name = format!("x{depth}{index}");
            items.push(format!("{} AS {name}", self.scalar(&input.columns, kind)));
            columns.push((name, kind));
        }
        let distinct = if self.chance(20) { "DISTINCT " } else { "" };
        let mut sql = format!("SELECT {distinct}{} FROM ({}) AS i{depth}", items.join(", "), input.sql);
        if self.chance(60) {
            sql.push_str(&format!(" WHERE {}", self.predicate(&input.columns)));
        }
        Relation { sql, columns }
    }

    fn joined(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth - 1), self.relation(self.0 as usize % depth));
        let kind = *self.of(&["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let (l, r) = (format!("l{depth}"), format!("r{depth}"));
        let mut pairs = Vec::new();
        for (a, of) in &left.columns {
            for (b, same) in &right.columns {
                if of == same && *of != Kind::Flag {
                    pairs.push(format!("{l}.{a} = {r}.{b}"));
                }
            }
        }
        if pairs.is_empty() {
            return left;
        }
        let mut on = self.of(&pairs).clone();
        if self.chance(35) {
            let qualified = |columns: &[(String, Kind)], by: &str| -> Vec<(String, Kind)> {
                columns.iter().map(|(name, kind)| (format!("{by}.{name}"), *kind)).collect()
            };
            let both: Vec<_> = qualified(&left.columns, &l).into_iter().chain(qualified(&right.columns, &r)).collect();
            on = format!("{on} AND {}", self.predicate(&both));
        }
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for (by, side) in [(&l, &left), (&r, &right)] {
            for (name, kind) in &side.columns {
                if columns.len() < 6 {
                    let new = format!("j{depth}{}", columns.len());
                    items.push(format!("{by}.{name} AS {new}"));
                    columns.push((new, *kind));
                }
            }
        }
        let sql =
            format!("SELECT {} FROM ({}) AS {l} {kind} ({}) AS {r} ON {on}", items.join(", "), left.sql, right.sql);
        Relation { sql, columns }
    }

    fn grouped(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let mut columns = Vec::new();
        let mut items = Vec::new();
        let keys = self.below(3).min(input.columns.len());
        for index in 0..keys {
            let (name, kind) = input.columns[index].clone();
            items.push(format!("{name} AS k{depth}{index}"));
            columns.push((format!("k{depth}{index}"), kind));
        }
        for index in 0..1 + self.below(3) {
            let (name, kind) = self.of(&input.columns).clone();
            let (call, kind) = match (self.below(8), kind) {
                (0, _) => ("count(*)".to_owned(), Kind::Int),
                (1, _) => (format!("count({name})"), Kind::Int),
                (2, _) => (format!("count(DISTINCT {name})"), Kind::Int),
                (3, Kind::Int | Kind::Float) => (format!("sum({name})"), kind),
                (4, Kind::Int | Kind::Float) => (format!("avg({name})"), Kind::Float),
                (5, Kind::Flag) => (format!("bool_or({name})"), Kind::Flag),
                (6, Kind::Int | Kind::Float | Kind::Text) => (format!("min({name})"), kind),
                (_, Kind::Int | Kind::Float | Kind::Text) => (format!("max({name})"), kind),
                _ => ("count(*)".to_owned(), Kind::Int),
            };
            let filter = if self.chance(20) {
                format!(" FILTER (WHERE {})", self.predicate(&input.columns))
            } else {
                String::new()
            };
            items.push(format!("{call}{filter} AS g{depth}{index}"));
            columns.push((format!("g{depth}{index}"), kind));
        }
        let mut sql = format!("SELECT {} FROM ({}) AS i{depth}", items.join(", "), input.sql);
        if keys > 0 {
            let by: Vec<&str> = input.columns[..keys].iter().map(|(name, _)| name.as_str()).collect();
            sql.push_str(&format!(" GROUP BY {}", by.join(", ")));
            if self.chance(25) {
                sql.push_str(" HAVING count(*) > 1");
            }
        }
        Relation { sql, columns }
    }

    fn set(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth - 1), self.relation(depth - 1));
        let (name, kind) = self.of(&left.columns).clone();
        let Some((other, _)) = right.columns.iter().find(|(_, of)| *of == kind) else { return left };
        let op = *self.of(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT"]);
        let new = format!("u{depth}");
        let sql = format!(
            "SELECT {name} AS {new} FROM ({}) AS l{depth} {op} SELECT {other} AS {new} FROM ({}) AS r{depth}",
            left.sql, right.sql
        );
        Relation { sql, columns: vec![(new, kind)] }
    }

    /// Ordered by all columns, so that the answer is one.
    fn top(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let names: Vec<&str> = input.columns.iter().map(|(name, _)| name.as_str()).collect();
        let mut order = names.clone();
        let first = self.below(order.len());
        order.swap(0, first);
        let direction = *self.of(&["", " DESC", " NULLS FIRST"]);
        let by = format!("{}{direction}{}{}", order[0], if order.len() > 1 { ", " } else { "" }, order[1..].join(", "));
        let sql = if self.chance(50) {
            format!(
                "SELECT {} FROM ({}) AS i{depth} ORDER BY {by} LIMIT {}",
                names.join(", "),
                input.sql,
                1 + self.below(5)
            )
        } else {
            format!(
                "SELECT {0} FROM (SELECT {0}, row_number() OVER (PARTITION BY {1} ORDER BY {by}) AS rn{depth} FROM ({2}) AS \
                 i{depth}) AS w{depth} WHERE rn{depth} <= {3}",
                names.join(", "),
                names[self.below(names.len())],
                input.sql,
                1 + self.below(2)
            )
        };
        Relation { sql, columns: input.columns }
    }

    fn subqueried(&mut self, depth: usize) -> Relation {
        let (input, other) = (self.relation(depth - 1), self.relation(depth - 1));
        let (name, kind) = self.of(&input.columns).clone();
        let Some((inner, _)) = other.columns.iter().find(|(_, of)| *of == kind) else { return input };
        let names: Vec<&str> = input.columns.iter().map(|(name, _)| name.as_str()).collect();
        let (outer, from) = (format!("o{depth}"), format!("q{depth}"));
        let condition = match self.below(5) {
            0 => format!("{outer}.{name} IN (SELECT {inner} FROM ({}) AS {from})", other.sql),
            1 => format!("{outer}.{name} NOT IN (SELECT {inner} FROM ({}) AS {from})", other.sql),
            2 => format!("EXISTS (SELECT 1 FROM ({}) AS {from} WHERE {from}.{inner} = {outer}.{name})", other.sql),
            3 => format!("NOT EXISTS (SELECT 1 FROM ({}) AS {from} WHERE {from}.{inner} = {outer}.{name})", other.sql),
            _ if kind == Kind::Flag => format!("{outer}.{name}"),
            _ => format!("{outer}.{name} <= (SELECT max({inner}) FROM ({}) AS {from})", other.sql),
        };
        let sql = format!("SELECT {} FROM ({}) AS {outer} WHERE {condition}", names.join(", "), input.sql);
        Relation { sql, columns: input.columns }
    }
}
