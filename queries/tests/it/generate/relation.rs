//! A random query: one of the shapes over smaller queries.

use super::Random;

/// Type of a column in a query that is being made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Float,
    Text,
    Flag,
    Time,
}

/// Columns by their names.
pub(super) type Columns = Vec<(String, Kind)>;

/// A query that is being made, and its columns.
#[derive(Clone, Debug)]
pub(super) struct Relation {
    pub sql: String,
    pub columns: Columns,
}

impl Relation {
    pub fn names(&self) -> Vec<&str> {
        self.columns.iter().map(|(name, _)| name.as_str()).collect()
    }

    /// The names behind an alias.
    pub fn of(&self, alias: &str) -> Columns {
        self.columns.iter().map(|(name, kind)| (format!("{alias}.{name}"), *kind)).collect()
    }
}

impl Random {
    /// A random query over the three tables.
    pub fn query(&mut self) -> String {
        self.relation(3).sql
    }

    pub(super) fn base(&mut self) -> Relation {
        let (name, columns) = match self.below(3) {
            0 => (
                "t",
                vec![("a", Kind::Int), ("s", Kind::Text), ("f", Kind::Float), ("b", Kind::Flag), ("ts", Kind::Time)],
            ),
            1 => ("u", vec![("a", Kind::Int), ("n", Kind::Float)]),
            _ => ("v", vec![("n", Kind::Float), ("m", Kind::Text)]),
        };
        let columns: Columns = columns.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
        let relation = Relation { sql: String::new(), columns };
        Relation { sql: format!("SELECT {} FROM {name}", relation.names().join(", ")), ..relation }
    }

    pub(super) fn relation(&mut self, depth: usize) -> Relation {
        if depth == 0 {
            return self.base();
        }
        match self.below(20) {
            0..=2 => self.projected(depth),
            3..=5 => self.joined(depth),
            6 => self.joined_of_three(depth),
            7 => self.joined_with_itself(depth),
            8 => self.crossed(depth),
            9 | 10 => self.grouped(depth),
            11 => self.grouped_in_sets(depth),
            12 | 13 => self.set(depth),
            14 => self.top(depth),
            15 => self.first_of_each(depth),
            16 | 17 => self.windowed(depth),
            18 => self.subqueried(depth),
            _ => self.correlated(depth),
        }
    }

    fn projected(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let mut columns = Vec::new();
        let mut items = Vec::new();
        for index in 0..1 + self.below(3) {
            // Of a column that is there: the library takes a constant for one also where grouping sets make it null.
            let kind = self.of(&input.columns).1;
            let name = format!("x{depth}{index}");
            items.push(format!("{} AS {name}", self.scalar(&input.columns, kind)));
            columns.push((name, kind));
        }
        let distinct = if self.chance(20) { "DISTINCT " } else { "" };
        let mut sql = format!("SELECT {distinct}{} FROM ({}) AS i{depth}", items.join(", "), input.sql);
        let mut conditions = Vec::new();
        if self.chance(60) {
            conditions.push(self.predicate(&input.columns));
        }
        let time = self.column(&input.columns, Kind::Time);
        conditions.extend(time.filter(|_| self.chance(40)).map(|time| self.bounded(&time)));
        if !conditions.is_empty() {
            sql.push_str(&format!(" WHERE {}", conditions.join(" AND ")));
        }
        Relation { sql, columns }
    }

    fn set(&mut self, depth: usize) -> Relation {
        let (left, right) = (self.relation(depth - 1), self.relation(depth - 1));
        let (name, kind) = self.of(&left.columns).clone();
        let Some(other) = self.column(&right.columns, kind) else { return left };
        let op = *self.of(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "INTERSECT ALL", "EXCEPT ALL"]);
        let new = format!("u{depth}");
        let sql = format!(
            "SELECT {name} AS {new} FROM ({}) AS l{depth} {op} SELECT {other} AS {new} FROM ({}) AS r{depth}",
            left.sql, right.sql
        );
        Relation { sql, columns: vec![(new, kind)] }
    }

    /// An order of all columns, so that the answer is one.
    pub(super) fn total_order(&mut self, columns: &Columns) -> String {
        let names: Vec<&String> = columns.iter().map(|(name, _)| name).collect();
        let order = self.shuffled(&names).into_iter();
        let directions = ["", "", " DESC", " NULLS FIRST", " DESC NULLS LAST"];
        order.map(|name| format!("{name}{}", self.of(&directions))).collect::<Vec<_>>().join(", ")
    }

    fn top(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let by = self.total_order(&input.columns);
        let names = input.names().join(", ");
        let sql = if self.chance(50) {
            let offset = if self.chance(30) { " OFFSET 1" } else { "" };
            let limit = 1 + self.below(5);
            format!("SELECT {names} FROM ({}) AS i{depth} ORDER BY {by} LIMIT {limit}{offset}", input.sql)
        } else {
            let partition = self.of(&input.columns).0.clone();
            format!(
                "SELECT {names} FROM (SELECT {names}, row_number() OVER (PARTITION BY {partition} ORDER BY {by}) AS \
                 rn{depth} FROM ({}) AS i{depth}) AS w{depth} WHERE rn{depth} <= {}",
                input.sql,
                1 + self.below(2)
            )
        };
        Relation { sql, columns: input.columns }
    }

    fn first_of_each(&mut self, depth: usize) -> Relation {
        let input = self.relation(depth - 1);
        let key = self.of(&input.columns).0.clone();
        let others: Columns = input.columns.iter().filter(|(name, _)| *name != key).cloned().collect();
        let by = [key.clone()].into_iter().chain((!others.is_empty()).then(|| self.total_order(&others)));
        let by = by.collect::<Vec<_>>().join(", ");
        let names = input.names().join(", ");
        let sql = format!("SELECT DISTINCT ON ({key}) {names} FROM ({}) AS i{depth} ORDER BY {by}", input.sql);
        Relation { sql, columns: input.columns }
    }

    fn subqueried(&mut self, depth: usize) -> Relation {
        let (input, other) = (self.relation(depth - 1), self.relation(depth - 1));
        let (name, kind) = self.of(&input.columns).clone();
        let Some(inner) = self.column(&other.columns, kind) else { return input };
        let (outer, from) = (format!("o{depth}"), format!("q{depth}"));
        let mut condition = match self.below(5) {
            0 => format!("{outer}.{name} IN (SELECT {inner} FROM ({}) AS {from})", other.sql),
            1 => format!("{outer}.{name} NOT IN (SELECT {inner} FROM ({}) AS {from})", other.sql),
            2 => format!("EXISTS (SELECT 1 FROM ({}) AS {from} WHERE {from}.{inner} = {outer}.{name})", other.sql),
            3 => format!("NOT EXISTS (SELECT 1 FROM ({}) AS {from} WHERE {from}.{inner} = {outer}.{name})", other.sql),
            _ if kind == Kind::Flag => format!("{outer}.{name}"),
            _ => format!("{outer}.{name} <= (SELECT max({inner}) FROM ({}) AS {from})", other.sql),
        };
        if self.chance(20) {
            condition = format!("({condition} OR {})", self.predicate(&input.of(&outer)));
        }
        let names = input.names().join(", ");
        let sql = format!("SELECT {names} FROM ({}) AS {outer} WHERE {condition}", input.sql);
        Relation { sql, columns: input.columns }
    }

    /// A value of another query that belongs to each row.
    fn correlated(&mut self, depth: usize) -> Relation {
        let (input, other) = (self.relation(depth - 1), self.relation(depth - 1));
        let (name, kind) = self.of(&input.columns).clone();
        let Some(inner) = self.column(&other.columns, kind) else { return input };
        let (outer, from) = (format!("o{depth}"), format!("q{depth}"));
        let (call, of) = self.plain_call(&other.columns);
        let mut on = format!("{from}.{inner} = {outer}.{name}");
        if self.chance(20) {
            on = format!("{on} AND {}", self.predicate(&other.of(&from)));
        }
        let value = format!("(SELECT {call} FROM ({}) AS {from} WHERE {on})", other.sql);
        let mut columns = input.columns.clone();
        if self.chance(30) && of != Kind::Flag {
            let condition = format!("{value} >= {}", self.scalar(&input.of(&outer), of));
            let names = input.names().join(", ");
            let sql = format!("SELECT {names} FROM ({}) AS {outer} WHERE {condition}", input.sql);
            return Relation { sql, columns };
        }
        let names: Vec<String> = input.of(&outer).into_iter().map(|(name, _)| name).collect();
        let sql = format!("SELECT {}, {value} AS c{depth} FROM ({}) AS {outer}", names.join(", "), input.sql);
        columns.push((format!("c{depth}"), of));
        Relation { sql, columns }
    }
}
