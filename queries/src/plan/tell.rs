//! Plans as text for people: columns by the names of what is read, operators as a tree.
//!
//! Invariant: names are for the eye only; what a node computes stays told by its id.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{JoinType, ScalarValue};
use datafusion::physical_expr::expressions::{Column, Literal};
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;

use super::{Aggregate, Bound, Expression, Id, Join, Kind, Meets, Node, Op, Retention};

/// Names of the columns of what a plan reads, by the name of that.
pub type Names<'a> = &'a dyn Fn(&str) -> Vec<String>;
/// Where else a node is used, if it is.
pub type Elsewhere<'a> = &'a dyn Fn(Id) -> Option<String>;

/// Names of a node's columns: those of what it reads, or the expression that makes them.
#[must_use]
pub fn columns(node: &Node, names: Names<'_>) -> Vec<String> {
    let width = node.schema.fields().len();
    let mut all = match &node.op {
        Op::Get(name) => names(name),
        Op::Constant(_) => Vec::new(),
        Op::Map { input, project, .. } => {
            let below = columns(input, names);
            project.iter().map(|expression| text(expression, &below)).collect()
        }
        Op::Join(join) => {
            let (mut left, right) = (columns(&join.left, names), columns(&join.right, names));
            match join.kind {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => left = right,
                JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {}
                _ => left.extend(right),
            }
            left
        }
        Op::Reduce { input, keys, aggregates, .. } => {
            let below = columns(input, names);
            let told = aggregates.iter().map(|one| aggregate(one, &below[*keys..]));
            below[..*keys].iter().cloned().chain(told).collect()
        }
        Op::Hop { input, slide_ms, size_ms } => {
            let mut below = columns(input, names);
            let time = below.pop().unwrap_or_default();
            below.push(format!("hop({time}, {}, {})", written(*slide_ms), written(*size_ms)));
            below
        }
        Op::Sessions { input, keys, gap_ms, aggregates, .. } => {
            let below = columns(input, names);
            let start = format!("session({}, {})", below[*keys], written(*gap_ms));
            let told = aggregates.iter().map(|one| aggregate(one, &below[*keys..]));
            below[..*keys].iter().cloned().chain([start]).chain(told).collect()
        }
        Op::Journeys { what, .. } => what.names(),
        Op::Geofences { .. } => super::geofences::names(),
        Op::TopK { input, .. } | Op::Temporal { input, .. } => columns(input, names),
        Op::Window { input, functions, .. } => {
            let mut below = columns(input, names);
            let told: Vec<String> = functions.iter().map(|one| function(one, &below)).collect();
            below.extend(told);
            below
        }
        Op::Unnest { input, lists } => {
            let mut below = columns(input, names);
            lists.iter().for_each(|list| below[*list] = format!("unnest({})", below[*list]));
            below
        }
        Op::Union(inputs) => inputs.first().map(|input| columns(input, names)).unwrap_or_default(),
    };
    all.extend((all.len()..width).map(|place| format!("column {}", place + 1)));
    all.truncate(width);
    all
}

/// The expression with these columns.
#[must_use]
pub fn text(expression: &Expression, columns: &[String]) -> String {
    // A column is shown by its name alone, so what is to be shown otherwise becomes one.
    let name = |part: Expression| {
        let known = part.downcast_ref::<Column>().and_then(|column| columns.get(column.index()).cloned());
        match known.or_else(|| part.downcast_ref::<Literal>().and_then(|literal| constant(literal.value()))) {
            Some(name) => Ok(Transformed::yes(Arc::new(Column::new(&name, 0)) as Expression)),
            None => Ok(Transformed::no(part)),
        }
    };
    let named = expression.clone().transform_up(name).map_or_else(|_| expression.clone(), |done| done.data);
    fmt_sql(named.as_ref()).to_string()
}

/// Constants that the library shows otherwise than they are written.
fn constant(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(Some(text)) | ScalarValue::Utf8View(Some(text)) | ScalarValue::LargeUtf8(Some(text)) => {
            Some(format!("'{}'", text.replace('\'', "''")))
        }
        ScalarValue::IntervalMonthDayNano(Some(length)) if length.months == 0 => {
            let ms = i64::from(length.days) * 86_400_000 + length.nanoseconds / 1_000_000;
            Some(written(ms))
        }
        _ => None,
    }
}

/// An aggregate over these columns, which stand after the keys.
pub(super) fn aggregate(aggregate: &Aggregate, values: &[String]) -> String {
    let name = |place: &usize| values.get(*place).cloned().unwrap_or_default();
    let mut arguments: Vec<String> = aggregate.arguments.iter().map(name).collect();
    let function = &aggregate.function;
    if function.fun().name() == "count" && arguments == ["1"] {
        arguments = vec!["*".to_owned()];
    }
    let distinct = if function.is_distinct() { "DISTINCT " } else { "" };
    let filter = aggregate.filter.as_ref().map(|place| format!(" where {}", name(place))).unwrap_or_default();
    format!("{}({distinct}{}){filter}", function.fun().name(), arguments.join(", "))
}

/// A window function without its window.
fn function(function: &Arc<dyn WindowExpr>, columns: &[String]) -> String {
    let name = function.name().split('(').next().unwrap_or_default();
    let arguments: Vec<String> = function.expressions().iter().map(|one| text(one, columns)).collect();
    format!("{name}({})", arguments.join(", "))
}

/// A comparison with `now()` over these columns.
pub(crate) fn bound(bound: &Bound, columns: &[String]) -> String {
    let sign = match (bound.until, bound.including) {
        (true, false) => "<",
        (true, true) => "<=",
        (false, false) => ">",
        (false, true) => ">=",
    };
    format!("now() {sign} {}", text(&bound.at, columns))
}

/// Milliseconds as they are written in SQL.
fn written(ms: i64) -> String {
    format!("interval '{}'", spoken(ms))
}

/// Milliseconds as people say them.
#[must_use]
pub fn spoken(ms: i64) -> String {
    let units = [(86_400_000, "day"), (3_600_000, "hour"), (60_000, "minute"), (1_000, "second"), (1, "millisecond")];
    let (length, unit) = units.into_iter().find(|(length, _)| ms % length == 0).unwrap_or((1, "millisecond"));
    let count = ms / length;
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// The operators as a tree, what is read last. A node that several use stands once.
#[must_use]
pub fn physical(node: &Node, names: Names<'_>, elsewhere: Elsewhere<'_>) -> String {
    let mut uses: HashMap<Id, usize> = HashMap::new();
    node.visit(&mut |node| *uses.entry(node.id).or_default() += 1);
    let mut tree = Tree { names, elsewhere, uses, shown: HashSet::new(), out: String::new() };
    tree.show(node, 0);
    tree.out
}

struct Tree<'a> {
    names: Names<'a>,
    elsewhere: Elsewhere<'a>,
    uses: HashMap<Id, usize>,
    shown: HashSet<Id>,
    out: String,
}

impl Tree<'_> {
    fn show(&mut self, node: &Node, depth: usize) {
        let (operator, what) = told(node, self.names);
        let kind = if node.kind == Kind::Events { "events" } else { "table" };
        let _ = write!(self.out, "{}{operator} {} {kind}", "  ".repeat(depth), node.id);
        let is_read = matches!(node.op, Op::Get(_));
        if self.uses[&node.id] > 1 && !is_read {
            self.out.push_str(" shared");
        }
        if let Some(other) = (self.elsewhere)(node.id).filter(|_| !is_read) {
            let _ = write!(self.out, " shared with {other}");
        }
        if !self.shown.insert(node.id) && !is_read {
            self.out.push_str(": as above\n");
            return;
        }
        let _ = writeln!(self.out, "{}{what}", if what.is_empty() { "" } else { ": " });
        for input in node.inputs() {
            self.show(input, depth + 1);
        }
    }
}

/// Name and particulars of an operator.
pub(crate) fn told(node: &Node, names: Names<'_>) -> (&'static str, String) {
    let below = || node.inputs().first().map(|input| columns(input, names)).unwrap_or_default();
    let list =
        |all: &[Expression], below: &[String]| all.iter().map(|one| text(one, below)).collect::<Vec<_>>().join(", ");
    match &node.op {
        Op::Get(name) => ("Get", name.clone()),
        Op::Constant(rows) => ("Constant", format!("{} rows", rows.num_rows())),
        Op::Map { filter, project, .. } => {
            let below = below();
            let filter = filter.as_ref().map(|filter| format!("where {} → ", text(filter, &below))).unwrap_or_default();
            ("Map", format!("{filter}{}", list(project, &below)))
        }
        Op::Join(join) => joined(node, join, names),
        Op::Reduce { keys, aggregates, retention, .. } => {
            let below = below();
            let mut parts = vec![format!("by {}", below[..*keys].join(", "))];
            parts.extend(aggregates.iter().map(|one| aggregate(one, &below[*keys..])));
            parts.extend(retention.map(|retention| kept(retention, &below)));
            ("Reduce", parts.join(" | "))
        }
        Op::Journeys { what, rules, retention, .. } => {
            let lasting = written(rules.lasting_ms);
            let call = format!(
                "{}(speed_kmh => {}, radius_m => {}, lasting => {lasting})",
                what.name(),
                rules.speed_kmh,
                rules.radius_m
            );
            let until = retention.map(|retention| format!(" | until {} after the end", spoken(retention.ms)));
            ("Journeys", format!("{call}{}", until.unwrap_or_default()))
        }
        Op::Geofences { rules, .. } => {
            let (dwell, late) = (written(rules.dwell_ms), written(rules.late_ms));
            let call = format!("geofence_events(dwell => {dwell}, margin_m => {}, late => {late})", rules.margin_m);
            ("Geofences", format!("{call} | until {} after each", spoken(rules.retention_ms)))
        }
        Op::Hop { .. } => ("Hop", columns(node, names).pop().unwrap_or_default()),
        Op::Sessions { keys, aggregates, retention, .. } => {
            let all = columns(node, names);
            let mut parts = vec![format!("by {}", all[..=*keys].join(", "))];
            parts.extend(all[*keys + 1..].iter().take(aggregates.len()).cloned());
            parts
                .extend(retention.map(|retention| format!("until {} after the end and the gap", spoken(retention.ms))));
            ("Sessions", parts.join(" | "))
        }
        Op::TopK { partition, order, skip, fetch, .. } => {
            let below = below();
            let by: Vec<Expression> = order.iter().map(|(by, _)| by.clone()).collect();
            let skipped = if *skip > 0 { format!(" after {skip}") } else { String::new() };
            let (groups, by) = (list(partition, &below), list(&by, &below));
            ("TopK", format!("{fetch}{skipped} of each ({groups}) in the order of ({by})"))
        }
        Op::Window { partition, functions, .. } => {
            let below = below();
            let told: Vec<String> = functions.iter().map(|one| function(one, &below)).collect();
            ("Window", format!("{} over each ({})", told.join(", "), list(partition, &below)))
        }
        Op::Unnest { lists, .. } => {
            let all = columns(node, names);
            ("Unnest", lists.iter().map(|list| all[*list].clone()).collect::<Vec<_>>().join(", "))
        }
        Op::Union(inputs) => ("Union", format!("of {}", inputs.len())),
        Op::Temporal { bounds, .. } => {
            let below = below();
            ("Temporal", bounds.iter().map(|one| bound(one, &below)).collect::<Vec<_>>().join(" and "))
        }
    }
}

fn joined(node: &Node, join: &Join, names: Names<'_>) -> (&'static str, String) {
    let (left, right) = (columns(&join.left, names), columns(&join.right, names));
    let on = join.on.iter().map(|(l, r)| format!("{} = {}", text(l, &left), text(r, &right)));
    let on: Vec<String> = on.collect();
    let both: Vec<String> = left.into_iter().chain(right).collect();
    let filter = join.filter.as_ref().map(|filter| format!(" and {}", text(filter, &both))).unwrap_or_default();
    let (operator, when) = match &join.meets {
        Meets::Now if node.kind == Kind::Events => ("Lookup", String::new()),
        Meets::Now => ("Join", String::new()),
        Meets::AsOf { horizon_ms, .. } => ("Lookup", format!(" as of event time, of the last {}", spoken(*horizon_ms))),
        Meets::Corrected { horizon_ms } => ("Correct", format!(" corrected for {}", spoken(*horizon_ms))),
        Meets::Within(within) => ("Meet", format!(" until {} late", spoken(within.retention_ms))),
    };
    (operator, format!("{} on {}{filter}{when}", join.kind.to_string().to_lowercase(), on.join(" and ")))
}

/// How long groups are kept.
pub(super) fn kept(retention: Retention, keys: &[String]) -> String {
    let key = keys.get(retention.key).map_or("its time", String::as_str);
    format!("until {} after {key}", spoken(retention.ms))
}
