//! What bounds the state of a plan over events: refuses what nothing bounds, and lets windows end.
//!
//! Invariant: a plan that passes keeps no event for ever; its state grows with devices, vehicles and the like, with open
//! windows, or with the tables it reads.

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::physical_expr::ScalarFunctionExpr;
use datafusion::physical_expr::expressions::{CastExpr, Column};

use super::lower::refused;
use super::{Expression, Kind, Node, Op, Retention, types};

/// Functions that put times into windows.
const WINDOWS: [&str; 2] = ["date_bin", "date_trunc"];

/// What of a column is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// An id: there are as many values as things it names.
    Entity,
    /// The start of a window.
    Window,
    /// A truth value or a constant.
    Few,
    /// Anything.
    Other,
}

/// The plan with groups that end after `retention_ms`, if nothing in it grows for ever. `names` are the columns of what it
/// reads, by the name of that.
///
/// # Errors
/// Which part would grow without bound, and what to do.
pub fn bounded(node: &Arc<Node>, retention_ms: Option<i64>, names: &dyn Fn(&str) -> Vec<String>) -> Result<Arc<Node>> {
    let done = walk(node, retention_ms, names)?;
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

fn walk(node: &Arc<Node>, retention_ms: Option<i64>, names: &dyn Fn(&str) -> Vec<String>) -> Result<Walked> {
    let below = node.inputs().into_iter().map(|input| walk(input, retention_ms, names)).collect::<Result<Vec<_>>>()?;
    let any_grows = below.iter().any(|input| input.grows);
    let width = node.schema.fields().len();
    let inputs: Vec<Arc<Node>> = below.iter().map(|input| input.node.clone()).collect();
    let first = below.first();
    let (mut columns, mut grows, mut retention) = (vec![Known::Other; width], any_grows, None);
    match &node.op {
        Op::Get(name) => {
            let named = names(name);
            columns = named.iter().map(|name| if is_entity(name) { Known::Entity } else { Known::Other }).collect();
            grows = node.kind == Kind::Events;
        }
        Op::Constant(_) => grows = false,
        Op::Map { project, .. } => {
            let input = &first.expect("a map has an input").columns;
            columns = project.iter().map(|expression| column(expression, input)).collect();
        }
        Op::Join(_) => {
            columns = below.iter().flat_map(|input| input.columns.clone()).collect();
            columns.resize(width, Known::Few);
        }
        Op::Reduce { keys, aggregates, .. } => {
            let input = first.expect("a reduction has an input");
            columns[..*keys].copy_from_slice(&input.columns[..*keys]);
            if input.grows {
                retention = ends(&input.columns[..*keys], aggregates, retention_ms)?;
                grows = false;
            }
        }
        Op::Hop { .. } => {
            let input = &first.expect("hops have an input").columns;
            columns.copy_from_slice(input);
            columns[width - 1] = Known::Window;
        }
        Op::Sessions { keys, aggregates, .. } => {
            let input = first.expect("sessions have an input");
            columns[..*keys].copy_from_slice(&input.columns[..*keys]);
            columns[*keys] = Known::Window;
            if input.grows {
                retention = Some(session_ends(input.node.kind, *keys, aggregates, retention_ms)?);
                grows = false;
            }
        }
        Op::Journeys { .. } => {
            columns[0] = Known::Entity;
            retention = Some(journeys_end(retention_ms)?);
            grows = false;
        }
        Op::TopK { partition, .. } => {
            let input = first.expect("a top has an input");
            columns = input.columns.clone();
            if input.grows {
                few_groups(partition, &input.columns)?;
                grows = false;
            }
        }
        Op::Window { .. } => columns[..first.map_or(0, |input| input.columns.len())]
            .copy_from_slice(&first.expect("a window has an input").columns),
        Op::Union(_) => {
            columns = first.expect("a union has inputs").columns.clone();
            let same = |(column, other): (&Known, &Known)| if column == other { *column } else { Known::Other };
            let both = |all: Vec<Known>, input: &Walked| all.iter().zip(&input.columns).map(same).collect();
            columns = below[1..].iter().fold(columns, both);
        }
        Op::Temporal { bounds, .. } => {
            columns = first.expect("a filter has an input").columns.clone();
            grows = any_grows && !bounds.iter().any(|bound| bound.until);
        }
    }
    Ok(Walked { node: with(node, inputs, retention), grows, columns })
}

fn is_entity(name: &str) -> bool {
    name.ends_with("_id") || name == "kind" || name == "status"
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
fn ends(keys: &[Known], aggregates: &[super::Aggregate], retention_ms: Option<i64>) -> Result<Option<Retention>> {
    let window = keys.iter().position(|key| *key == Known::Window);
    if let (Some(key), Some(ms)) = (window, retention_ms) {
        return Ok(Some(Retention { key, ms }));
    }
    if window.is_some() {
        return Err(refused(
            "unbounded: windows over events are kept for ever without a retention; add WITH (retention = '7 days')",
        ));
    }
    if keys.contains(&Known::Other) {
        return Err(refused(
            "unbounded: nothing bounds the number of groups over events; group by ids, by a window such as date_bin(interval \
             '5 minutes', ts) with a retention, or bound the events in time by `WHERE ts > now() - interval '1 hour'`",
        ));
    }
    if aggregates.iter().any(keeps_rows) {
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

/// When sessions end whose rows are of this kind.
fn session_ends(
    kind: Kind,
    keys: usize,
    aggregates: &[super::Aggregate],
    retention_ms: Option<i64>,
) -> Result<Retention> {
    match (kind, retention_ms) {
        (Kind::Events, Some(_)) if aggregates.iter().any(keeps_rows) => Err(refused(
            "unbounded: sessions over events may go on for ever, and this aggregate keeps its values (count distinct, array_agg \
             and the like); take count, sum, avg, min or max, or group by date_bin",
        )),
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

fn keeps_rows(aggregate: &super::Aggregate) -> bool {
    let name = aggregate.function.fun().name();
    aggregate.function.is_distinct() || !matches!(name, "count" | "sum" | "avg" | "min" | "max")
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
        Op::Join(join) => Op::Join(super::Join {
            left: next(),
            right: next(),
            on: join.on.clone(),
            filter: join.filter.clone(),
            ..*join
        }),
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
        Op::TopK { partition, order, skip, fetch, .. } => {
            let (partition, order) = (partition.clone(), order.clone());
            Op::TopK { input: next(), partition, order, skip: *skip, fetch: *fetch }
        }
        Op::Window { partition, order, functions, .. } => {
            let (partition, order, functions) = (partition.clone(), order.clone(), functions.clone());
            Op::Window { input: next(), partition, order, functions }
        }
        Op::Union(_) => Op::Union(inputs.collect()),
        Op::Temporal { bounds, .. } => Op::Temporal { input: next(), bounds: bounds.clone() },
    };
    Node::new(op, &types(&node.schema), node.kind, node.append_only, node.rows_max)
}
