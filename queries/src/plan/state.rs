//! What a plan keeps, as an estimate: per operator with a state, what it grows with.
//!
//! Invariant: an operator that is not listed keeps nothing beyond the tick it works on.

use std::collections::HashSet;

use datafusion::common::JoinType;

use super::tell::{Names, aggregate, bound, columns, spoken, text};
use super::{Aggregate, Expression, Id, Join, Kind, Meets, Node, Op, Retention};

/// What one operator keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which node it is.
    pub id: Id,
    /// Its name.
    pub operator: &'static str,
    /// What grows with what.
    pub grows: String,
}

/// What a plan keeps, from what is read to what comes out; equal nodes once.
#[must_use]
pub fn state(node: &Node, names: Names<'_>) -> Vec<Kept> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    walk(node, names, &mut seen, &mut all);
    all
}

fn walk(node: &Node, names: Names<'_>, seen: &mut HashSet<Id>, all: &mut Vec<Kept>) {
    for input in node.inputs() {
        walk(input, names, seen, all);
    }
    if !seen.insert(node.id) {
        return;
    }
    if let Some((operator, grows)) = kept(node, names) {
        all.push(Kept { id: node.id, operator, grows });
    }
}

fn kept(node: &Node, names: Names<'_>) -> Option<(&'static str, String)> {
    let each = |by: &[Expression], below: &[String]| {
        let by: Vec<String> = by.iter().map(|one| text(one, below)).collect();
        if by.is_empty() { String::new() } else { format!(" for each {}", by.join(", ")) }
    };
    match &node.op {
        Op::Get(_) | Op::Constant(_) | Op::Map { .. } | Op::Hop { .. } | Op::Unnest { .. } | Op::Union(_) => None,
        Op::Join(join) if node.kind == Kind::Events => Some(met(join, names)),
        Op::Join(join) if !matches!(join.meets, Meets::Now) => Some(met(join, names)),
        Op::Join(join) => Some(("Join", sides(join, names))),
        Op::Reduce { input, keys, aggregates, retention } => {
            let below = columns(input, names);
            let groups = groups(&below[..*keys], aggregates.is_empty(), *retention);
            Some(("Reduce", format!("{groups}{}", values(aggregates, &below[*keys..], input.append_only))))
        }
        Op::Sessions { input, keys, gap_ms, aggregates, retention } => {
            let below = columns(input, names);
            let by = if *keys == 0 { String::new() } else { format!("{} and ", below[..*keys].join(", ")) };
            let until = retention.map(|one| {
                let (retention, gap) = (spoken(one.ms), spoken(*gap_ms));
                format!(", until {retention} and {gap} after its end")
            });
            let values = values(aggregates, &below[*keys..], input.append_only);
            let also =
                if retention.is_none() { format!("{} by time, and ", rows(input, names)) } else { String::new() };
            Some(("Sessions", format!("{also}a group for each {by}session{}{values}", until.unwrap_or_default())))
        }
        Op::Journeys { what, retention, .. } => {
            let last = retention.map(|one| format!(" of the last {}", spoken(one.ms))).unwrap_or_default();
            let name = what.name();
            Some(("Journeys", format!("positions{last} and the {name}{last} for each vehicle_id; of older ones a sum")))
        }
        Op::Geofences { fences, rules, .. } => {
            let (late, last) = (spoken(rules.late_ms), spoken(rules.retention_ms));
            let fences = rows(fences, names);
            let kept = "what the vehicle is in";
            Some((
                "Geofences",
                format!(
                    "{fences}, whole on every worker; for each vehicle_id positions of the last {late}, {kept}, and events of \
                     the last {last}"
                ),
            ))
        }
        Op::TopK { input, partition, skip, fetch, .. } => {
            let each = each(partition, &columns(input, names));
            let many = if input.append_only { count(skip.saturating_add(*fetch)) } else { rows(input, names) };
            Some(("TopK", format!("{many}{each}")))
        }
        Op::Window { input, partition, .. } => {
            let each = each(partition, &columns(input, names));
            Some((
                "Window",
                format!("{} and their results{each}; a change computes its group anew", rows(input, names)),
            ))
        }
        Op::Temporal { input, bounds } => {
            let below = columns(input, names);
            let until: Vec<String> = bounds.iter().filter(|one| one.until).map(|one| bound(one, &below)).collect();
            let until = if until.is_empty() { "for ever".to_owned() } else { format!("while {}", until.join(" and ")) };
            Some(("Temporal", format!("{} {until}", rows(input, names))))
        }
    }
}

/// What events and what they meet keep.
fn met(join: &Join, names: Names<'_>) -> (&'static str, String) {
    let events_left = join.left.kind == Kind::Events;
    let (events, table) = if events_left { (&join.left, &join.right) } else { (&join.right, &join.left) };
    let table = || rows(table, names);
    match &join.meets {
        Meets::Now => ("Lookup", format!("{}, whole on every worker", table())),
        Meets::AsOf { horizon_ms, .. } => {
            let horizon = spoken(*horizon_ms);
            ("Lookup", format!("{}, and those of the last {horizon} that are gone, whole on every worker", table()))
        }
        Meets::Corrected { horizon_ms } => {
            let (events, horizon) = (rows(events, names), spoken(*horizon_ms));
            ("Correct", format!("{}, whole on every worker; {events} that met none of them, for {horizon}", table()))
        }
        Meets::Within(within) => {
            let [left_ms, right_ms] = within.kept_ms();
            let side = |node: &Node, time: &Expression, ms: i64| {
                let (rows, time) = (rows(node, names), text(time, &columns(node, names)));
                format!("{rows} for {} after {time}", spoken(ms.max(0)))
            };
            let (left, right) = (side(&join.left, &within.left, left_ms), side(&join.right, &within.right, right_ms));
            ("Meet", format!("{left}; {right}: the bound of the join and the retention{}", followed(join, names)))
        }
    }
}

/// Of which events it is kept whether they have met one.
fn followed(join: &Join, names: Names<'_>) -> String {
    use JoinType::{Full, Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
    let (left, right) = (rows(&join.left, names), rows(&join.right, names));
    let of = match join.kind {
        Inner => return String::new(),
        Left | LeftSemi | LeftAnti | LeftMark => left,
        Right | RightSemi | RightAnti | RightMark => right,
        Full => format!("{left} and {right}"),
    };
    format!("; and of each of {} whether it has met one", of.trim_start_matches("rows of "))
}

fn count(rows: usize) -> String {
    if rows == 1 { "one row".to_owned() } else { format!("{rows} rows") }
}

fn sides(join: &Join, names: Names<'_>) -> String {
    format!("{}; {}; each by the columns of ON, shared with others that want the same", rows(&join.left, names), {
        rows(&join.right, names)
    })
}

fn groups(keys: &[String], distinct: bool, retention: Option<Retention>) -> String {
    let what = if distinct { "a row" } else { "a group" };
    let window = retention.and_then(|retention| keys.get(retention.key).map(|key| (key, retention.ms)));
    let others: Vec<&str> =
        keys.iter().filter(|key| window.is_none_or(|(window, _)| window != *key)).map(String::as_str).collect();
    match window {
        None if keys.is_empty() => "one group".to_owned(),
        None => format!("{what} for each {}", others.join(", ")),
        Some((window, ms)) if others.is_empty() => {
            format!("{what} for each open window {window}, of the last {}", spoken(ms))
        }
        Some((window, ms)) => {
            format!("{what} for each {} and open window {window}, of the last {}", others.join(", "), spoken(ms))
        }
    }
}

/// What is kept of a group beyond numbers.
fn values(aggregates: &[Aggregate], columns: &[String], only_come: bool) -> String {
    let keeps = |one: &&Aggregate| match one.function.fun().name() {
        "count" => one.function.is_distinct(),
        "sum" | "avg" => one.function.is_distinct(),
        "min" | "max" => !only_come,
        _ => true,
    };
    let told: Vec<String> = aggregates.iter().filter(keeps).map(|one| aggregate(one, columns)).collect();
    if told.is_empty() { String::new() } else { format!(", with the values of {} in each", told.join(", ")) }
}

/// What the rows of a node are.
fn rows(node: &Node, names: Names<'_>) -> String {
    match &node.op {
        Op::Get(name) => format!("rows of {name}"),
        Op::Constant(_) => "rows of the text".to_owned(),
        Op::Map { input, filter, .. } => match filter {
            Some(filter) => format!("{} where {}", rows(input, names), text(filter, &columns(input, names))),
            None => rows(input, names),
        },
        Op::Reduce { input, keys, .. } => format!("groups by {}", columns(input, names)[..*keys].join(", ")),
        Op::Sessions { input, keys, .. } => format!("sessions by {}", columns(input, names)[..*keys].join(", ")),
        Op::Journeys { what, .. } => what.name().to_owned(),
        Op::Geofences { .. } => super::geofences::NAME.to_owned(),
        Op::Hop { input, .. } => format!("{} in each window", rows(input, names)),
        Op::Unnest { input, .. } => format!("elements of {}", rows(input, names)),
        Op::TopK { .. } => format!("first rows of {}", node.reads().join(", ")),
        Op::Temporal { input, .. } => rows(input, names),
        Op::Join(_) | Op::Window { .. } | Op::Union(_) => format!("rows of {}", node.reads().join(" with ")),
    }
}
