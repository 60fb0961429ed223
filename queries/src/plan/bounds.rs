//! What bounds the state of a plan over events: refuses what nothing bounds, and lets windows end.
//!
//! Invariant: a plan that passes keeps no event for ever; its state grows with devices, vehicles and the like, with open
//! windows, or with the tables it reads.

use std::sync::Arc;

use datafusion::common::JoinType;
use datafusion::error::Result;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};
use operators::geofences::Rules;

use super::geofences;
use super::lower::refused;
use super::meet::{self, Meets, Times};
use super::{Expression, Join, Kind, Node, Op, Retention, types};

/// Functions that put times into windows.
const WINDOWS: [&str; 2] = ["date_bin", "date_trunc"];

/// What of a column is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// An id: there are as many values as things it names.
    Entity,
    /// The start of a window.
    Window,
    /// The time of an event.
    Time,
    /// A truth value or a constant.
    Few,
    /// Anything.
    Other,
}

/// Columns of what a plan reads.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    /// Their names.
    pub names: Vec<String>,
    /// Which of them is the time of an event.
    pub time: Option<usize>,
}

/// The plan with groups that end and events that are kept for the times that are said, if nothing in it grows for ever.
/// `names` are the columns of what it reads, by the name of that.
///
/// # Errors
/// Which part would grow without bound, and what to do.
pub fn bounded(node: &Arc<Node>, said: Times, names: &dyn Fn(&str) -> Columns) -> Result<Arc<Node>> {
    let done = walk(node, said, names)?;
    if done.node.kind == Kind::Table && done.grows {
        return Err(refused(
            "unbounded: the view would hold every event for ever; group by a window with a retention, keep the newest by \
             DISTINCT ON, or bound it in time by `WHERE ts > now() - interval '1 hour'`",
        ));
    }
    Ok(done.node)
}

struct Walked {
    node: Arc<Node>,
    grows: bool,
    columns: Vec<Known>,
}

fn walk(node: &Arc<Node>, said: Times, names: &dyn Fn(&str) -> Columns) -> Result<Walked> {
    let below = node.inputs().into_iter().map(|input| walk(input, said, names)).collect::<Result<Vec<_>>>()?;
    let any_grows = below.iter().any(|input| input.grows);
    let width = node.schema.fields().len();
    let inputs: Vec<Arc<Node>> = below.iter().map(|input| input.node.clone()).collect();
    let first = below.first();
    let (mut columns, mut grows) = (vec![Known::Other; width], any_grows);
    let (mut retention, mut meets) = (None, None);
    match &node.op {
        Op::Get(name) => {
            let Columns { names, time } = names(name);
            let time = time.filter(|_| node.kind == Kind::Events);
            columns = names.iter().map(|name| known(name)).collect();
            time.into_iter().for_each(|place| columns[place] = Known::Time);
            grows = node.kind == Kind::Events;
        }
        Op::Constant(_) => grows = false,
        Op::Map { project, .. } => {
            let input = &first.expect("a map has an input").columns;
            columns = project.iter().map(|expression| column(expression, input)).collect();
        }
        Op::Join(join) => {
            meets = met(join, &below, said)?;
            let right_alone = matches!(join.kind, JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark);
            let sides = below.iter().skip(usize::from(right_alone));
            columns = sides.flat_map(|input| input.columns.clone()).collect();
            columns.resize(width, Known::Few);
        }
        Op::Reduce { keys, aggregates, .. } => {
            let input = first.expect("a reduction has an input");
            columns[..*keys].copy_from_slice(&input.columns[..*keys]);
            if input.grows {
                let append_only = input.node.append_only;
                retention = ends(&input.columns[..*keys], aggregates, append_only, said.retention)?;
                grows = false;
            }
        }
        Op::Hop { .. } | Op::Unnest { .. } | Op::Window { .. } => {
            let input = first.expect("they have an input");
            columns = passed_on(&node.op, &input.columns, width);
            if input.grows && matches!(node.op, Op::Window { .. }) {
                refuse_corrected(&input.node)?;
            }
        }
        Op::Sessions { keys, aggregates, .. } => {
            let input = first.expect("sessions have an input");
            columns[..*keys].copy_from_slice(&input.columns[..*keys]);
            columns[*keys] = Known::Window;
            if input.grows {
                retention = Some(session_ends(&input.node, *keys, aggregates, said.retention)?);
                grows = false;
            }
        }
        Op::Journeys { .. } => {
            columns[0] = Known::Entity;
            retention = Some(journeys_end(said.retention)?);
            grows = false;
        }
        Op::Geofences { .. } => {
            columns = geofences::names().iter().map(|name| known(name)).collect();
            retention = Some(geofences_end(said.retention)?);
            grows = false;
        }
        Op::TopK { partition, .. } => {
            let input = first.expect("a top has an input");
            columns = input.columns.clone();
            if input.grows {
                few_groups(partition, &input.columns)?;
                refuse_corrected(&input.node)?;
                grows = false;
            }
        }
        Op::Union(_) => columns = united(&below),
        Op::Temporal { bounds, .. } => {
            columns = first.expect("a filter has an input").columns.clone();
            grows = any_grows && !bounds.iter().any(|bound| bound.until);
        }
    }
    let node = match (&node.op, meets) {
        (Op::Join(join), Some(meets)) => meet::joined(node, join, inputs, meets),
        _ => with(node, inputs, retention),
    };
    Ok(Walked { node, grows, columns })
}

/// What is known of the columns of rows that come out with other columns in the place of some, or with more.
fn passed_on(op: &Op, input: &[Known], width: usize) -> Vec<Known> {
    let mut columns = input.to_vec();
    columns.resize(width, Known::Other);
    match op {
        Op::Hop { .. } => columns[width - 1] = Known::Window,
        Op::Unnest { lists, .. } => lists.iter().for_each(|list| columns[*list] = Known::Other),
        _ => {}
    }
    columns
}

/// What is known of the columns of a union: what all inputs agree on.
fn united(below: &[Walked]) -> Vec<Known> {
    let mut columns = below.first().expect("a union has inputs").columns.clone();
    for input in &below[1..] {
        for (column, other) in columns.iter_mut().zip(&input.columns) {
            *column = if column == other { *column } else { Known::Other };
        }
    }
    columns
}

/// What is known of a column by its name.
fn known(name: &str) -> Known {
    match name {
        "kind" | "status" => Known::Entity,
        _ if name.ends_with("_id") => Known::Entity,
        _ => Known::Other,
    }
}

/// How the inputs of a join meet; none if as they are.
fn met(join: &Join, below: &[Walked], said: Times) -> Result<Option<Meets>> {
    let [left, right] = below else { return Ok(None) };
    let growing = [left, right].into_iter().filter(|side| side.grows && side.node.kind == Kind::Table);
    growing.map(|side| &side.node).try_for_each(|node| refuse_corrected(node))?;
    let events = match (left.node.kind, right.node.kind) {
        (Kind::Events, Kind::Events) => return Ok(Some(Meets::Within(meet::within(join, said.retention)?))),
        (Kind::Events, Kind::Table) => left,
        (Kind::Table, Kind::Events) => right,
        (Kind::Table, Kind::Table) => return Ok(None),
    };
    let times = events.columns.iter().enumerate().filter(|(_, column)| **column == Known::Time);
    let meets = meet::looks_up(join.kind, said, &times.map(|(place, _)| place).collect::<Vec<_>>())?;
    Ok((!matches!(meets, Meets::Now)).then_some(meets))
}

/// Rows of events of which it may change whether they have met one come and go: to join them further, or to take the first of
/// them, all would be kept.
fn refuse_corrected(node: &Node) -> Result<()> {
    if node.append_only {
        return Ok(());
    }
    Err(refused(
        "unbounded: events that are corrected, or kept by an outer join or NOT EXISTS while they meet none, come and go, and this \
         would keep them all; join tables with each other first and that with the events, or bound the events in time by \
         `WHERE arrived_at > now() - interval '1 day'` around the join",
    ))
}

fn column(expression: &Expression, input: &[Known]) -> Known {
    if let Some(place) = expression.downcast_ref::<Column>() {
        return input.get(place.index()).copied().unwrap_or(Known::Other);
    }
    if let Some(cast) = expression.downcast_ref::<CastExpr>() {
        return column(cast.expr(), input);
    }
    let called = expression.downcast_ref::<ScalarFunctionExpr>();
    if called.is_some_and(|called| WINDOWS.contains(&called.name())) {
        return Known::Window;
    }
    if expression.children().is_empty() { Known::Few } else { Known::Other }
}

/// When the groups of these keys end.
fn ends(
    keys: &[Known],
    aggregates: &[super::Aggregate],
    append_only: bool,
    retention_ms: Option<i64>,
) -> Result<Option<Retention>> {
    let window = keys.iter().position(|key| *key == Known::Window);
    if let (Some(key), Some(ms)) = (window, retention_ms) {
        return Ok(Some(Retention { key, ms }));
    }
    if window.is_some() {
        return Err(refused(
            "unbounded: windows over events are kept for ever without a retention; add WITH (retention = '7 days')",
        ));
    }
    if keys.iter().any(|key| matches!(key, Known::Other | Known::Time)) {
        return Err(refused(
            "unbounded: nothing bounds the number of groups over events; group by ids, by a window such as date_bin(interval \
             '5 minutes', ts) with a retention, or bound the events in time by `WHERE ts > now() - interval '1 hour'`",
        ));
    }
    if aggregates.iter().any(|aggregate| keeps_rows(aggregate, append_only)) {
        return Err(refused(
            "unbounded: this aggregate keeps its values (count distinct, array_agg and the like) of all events; group by a \
             window with a retention as well",
        ));
    }
    Ok(None)
}

/// Groups of which the first rows are kept have to be few.
fn few_groups(partition: &[Expression], columns: &[Known]) -> Result<()> {
    let known = |by: &Expression| matches!(column(by, columns), Known::Entity | Known::Few);
    if partition.iter().all(known) {
        return Ok(());
    }
    Err(refused(
        "unbounded: the first rows of each group are kept for ever, and nothing bounds the groups; partition by ids, or \
         bound the events in time by `WHERE ts > now() - interval '1 hour'`",
    ))
}

/// When stops and trips leave.
fn journeys_end(retention_ms: Option<i64>) -> Result<Retention> {
    let ms = retention_ms.ok_or_else(|| {
        refused(
            "unbounded: stops and trips are kept for ever without a retention, which also says how late a position may be; \
             add WITH (retention = '12 hours')",
        )
    });
    Ok(Retention { key: 0, ms: ms? })
}

/// When events of fences leave.
fn geofences_end(retention_ms: Option<i64>) -> Result<Retention> {
    let ms = retention_ms.ok_or_else(|| {
        refused(
            "unbounded: what geofence_events() finds is kept for ever without a retention; add WITH (retention = '7 days')",
        )
    });
    Ok(Retention { key: 0, ms: ms? })
}

/// When sessions end whose rows are of this kind.
fn session_ends(
    input: &Node,
    keys: usize,
    aggregates: &[super::Aggregate],
    retention_ms: Option<i64>,
) -> Result<Retention> {
    match (input.kind, retention_ms) {
        (Kind::Events, Some(_)) if aggregates.iter().any(|aggregate| keeps_rows(aggregate, input.append_only)) => {
            Err(refused(
                "unbounded: sessions over events may go on for ever, and this aggregate keeps its values (count distinct, \
                 array_agg and the like); take count, sum, avg, min or max, or group by date_bin",
            ))
        }
        (Kind::Events, Some(ms)) => Ok(Retention { key: keys, ms }),
        (Kind::Events, None) => Err(refused(
            "unbounded: sessions over events are kept for ever without a retention; add WITH (retention = '7 days')",
        )),
        (Kind::Table, _) => Err(refused(
            "unbounded: sessions over events together with rows of a table would keep every event; bound the events in time \
             first, as in `WHERE arrived_at > now() - interval '1 day'`",
        )),
    }
}

/// Whether the aggregate keeps values of its rows: the largest of rows that may leave is known by all of them.
fn keeps_rows(aggregate: &super::Aggregate, append_only: bool) -> bool {
    let name = aggregate.function.fun().name();
    aggregate.function.is_distinct()
        || !match name {
            "count" | "sum" | "avg" => true,
            "min" | "max" => append_only,
            _ => false,
        }
}

/// The node over these inputs.
pub(super) fn with(node: &Arc<Node>, inputs: Vec<Arc<Node>>, retention: Option<Retention>) -> Arc<Node> {
    let same = node.inputs().into_iter().zip(&inputs).all(|(old, new)| old.id == new.id);
    if same && retention.is_none() {
        return node.clone();
    }
    let mut inputs = inputs.into_iter();
    let mut next = || inputs.next().expect("as many inputs as before");
    let op = match &node.op {
        Op::Get(name) => Op::Get(name.clone()),
        Op::Constant(rows) => Op::Constant(rows.clone()),
        Op::Map { filter, project, .. } => Op::Map { input: next(), filter: filter.clone(), project: project.clone() },
        Op::Join(join) => Op::Join(super::Join { left: next(), right: next(), ..join.clone() }),
        Op::Reduce { keys, aggregates, retention: before, .. } => {
            let retention = retention.or(*before);
            Op::Reduce { input: next(), keys: *keys, aggregates: aggregates.clone(), retention }
        }
        Op::Hop { slide_ms, size_ms, .. } => Op::Hop { input: next(), slide_ms: *slide_ms, size_ms: *size_ms },
        Op::Sessions { keys, gap_ms, aggregates, retention: before, .. } => {
            let (aggregates, retention) = (aggregates.clone(), retention.or(*before));
            Op::Sessions { input: next(), keys: *keys, gap_ms: *gap_ms, aggregates, retention }
        }
        Op::Journeys { what, rules, retention: before, .. } => {
            Op::Journeys { input: next(), what: *what, rules: *rules, retention: retention.or(*before) }
        }
        Op::Geofences { rules, .. } => {
            let retention_ms = retention.map_or(rules.retention_ms, |retention| retention.ms);
            let rules = Rules { late_ms: rules.late_ms.min(retention_ms), retention_ms, ..*rules };
            Op::Geofences { positions: next(), fences: next(), rules }
        }
        Op::TopK { partition, order, skip, fetch, .. } => {
            let (partition, order) = (partition.clone(), order.clone());
            Op::TopK { input: next(), partition, order, skip: *skip, fetch: *fetch }
        }
        Op::Window { partition, order, functions, .. } => {
            let (partition, order, functions) = (partition.clone(), order.clone(), functions.clone());
            Op::Window { input: next(), partition, order, functions }
        }
        Op::Unnest { lists, .. } => Op::Unnest { input: next(), lists: lists.clone() },
        Op::Union(_) => Op::Union(inputs.collect()),
        Op::Temporal { bounds, .. } => Op::Temporal { input: next(), bounds: bounds.clone() },
    };
    let (kind, append_only) = match &op {
        Op::Map { input, .. } | Op::Unnest { input, .. } => (input.kind, input.append_only),
        Op::Union(inputs) if inputs.iter().any(|input| input.kind == Kind::Table) => {
            (Kind::Table, inputs.iter().all(|input| input.append_only))
        }
        Op::Reduce { input, .. } => (node.kind, node.append_only && input.append_only),
        _ => (node.kind, node.append_only),
    };
    Node::new(op, &types(&node.schema), kind, append_only, node.rows_max)
}
