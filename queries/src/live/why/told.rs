//! The answer to why a key is, or is not, in a stream.
//!
//! Invariant: the sentence says nothing that the operators below do not show.

use operators::row::Row;
use operators::time::Tick;
use serde::Serialize;
use serde_json::{Map, Value};

use super::play::Followed;
use super::point::{Point, Speech, first, objects, rows};
use super::reason::stop;
use super::seen::EXAMPLES;
use super::sieve::Sieve;
use super::{Kept, Prepared};
use crate::plan::{Kind, Node, told_operator};
use crate::trial::cells::shown_time;

/// Rows of the stream itself that are shown.
const ROWS_SHOWN: usize = 10;
/// Rows that are looked through at a time.
const CHUNK: usize = 4_096;

/// What became of a key.
#[derive(Clone, Debug, Serialize)]
pub struct Why {
    /// The stream.
    pub stream: String,
    /// The values that were asked for, by column.
    pub key: Map<String, Value>,
    /// Whether rows of the stream have them.
    pub found: bool,
    /// In a sentence: since when, made of what; or where the rows end, and why.
    pub says: String,
    /// The tick that all of this is of, milliseconds since the epoch.
    pub as_of: Tick,
    /// Rows of the stream that have them; at most ten.
    pub rows: Vec<Map<String, Value>>,
    /// What was read of the log, if anything had to be.
    pub read: Option<Read>,
    /// What else is to be known.
    pub notes: Vec<String>,
    /// The operators.
    pub plan: Line,
}

/// What was read of the log.
#[derive(Clone, Debug, Serialize)]
pub struct Read {
    /// Messages.
    pub messages: usize,
    /// Events before it were left out.
    pub since: Tick,
    /// Up to this tick.
    pub until: Tick,
    /// Whether that is all that there is.
    pub complete: bool,
}

/// One operator.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub operator: &'static str,
    /// What it does.
    pub does: String,
    /// `events` or `table`.
    pub kind: &'static str,
    /// What holds for rows of the key there; none if that cannot be told of single rows.
    pub of: Option<String>,
    /// Of a source all rows that were read.
    pub read: Option<i64>,
    /// Rows of the key that came.
    pub came: i64,
    /// Of a table those that are there now.
    pub now: Option<i64>,
    /// When the first came. None where it came before the question and that is not known: of rows that are kept.
    pub first: Option<Tick>,
    /// Since when there is always one.
    pub since: Option<Tick>,
    /// When the last came.
    pub last: Option<Tick>,
    /// When the last left.
    pub left: Option<Tick>,
    /// Whether it is here that they end.
    pub stops: bool,
    /// A few of them: the columns that are used.
    pub rows: Vec<Map<String, Value>>,
    /// The conditions of its filter.
    pub checks: Vec<Check>,
    /// Rows that have no result here.
    pub faults: Vec<Fault>,
    /// What it reads.
    pub inputs: Vec<Line>,
}

/// One condition of a filter.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// The condition; of a comparison that was false also both sides where it was nearest to being true.
    pub condition: String,
    /// Rows for which it was true.
    pub passed: i64,
    /// Rows for which it was null.
    pub unknown: i64,
    /// All rows of the key.
    pub of: i64,
}

/// Rows without a result.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// Who met them.
    pub operator: String,
    /// Why there is none.
    pub message: String,
    /// How many.
    pub rows: i64,
}

/// Tells what was found.
pub(super) fn told(prepared: &Prepared, kept: &Kept, followed: &Followed, messages: Option<usize>) -> Why {
    let Prepared { relation, key, trace, columns, since, .. } = prepared;
    let (root, speech) = (Point::root(trace, followed), Speech { columns, end: 0 });
    let names: Vec<String> = relation.schema.fields().iter().map(|field| field.name().clone()).collect();
    let mine = kept.own.as_ref().map(|own| chosen(&trace.root.node, prepared, own));
    let found = mine.as_ref().map_or_else(|| root.is_there(), |mine| !mine.is_empty());
    let mut notes = prepared.notes.clone();
    let shown = mine.unwrap_or_else(|| root.noted.seen.examples());
    if shown.len() > ROWS_SHOWN {
        notes.push(format!("{ROWS_SHOWN} of {} are shown", rows(shown.len() as i64)));
    }
    let shown = &shown[..shown.len().min(ROWS_SHOWN)];
    let complete = followed.complete;
    if !complete {
        let at = shown_time(followed.until);
        notes.push(format!("the log was read up to {at} only: the time for it was over (sql.why_ms_max)"));
    }
    if complete && found != root.is_there() && kept.own.is_some() {
        let (holds, comes) = if found { ("holds", "does not come") } else { ("does not hold", "comes") };
        notes.push(format!(
            "the stream {holds} it, and it {comes} out of the log as it is read again: messages that were late have other \
             ticks then, and what the log has lost is missing"
        ));
    }
    let stop = (!root.is_there()).then(|| stop(&root));
    // What is kept came in last; since when it is there is not known.
    let speech = Speech { end: followed.until.saturating_sub(1), ..speech };
    let says = match (found, stop) {
        (true, _) => speech.made_of(&root, &relation.name),
        (false, Some(stop)) => format!("not in {}: {}", relation.name, speech.reason(stop)),
        (false, None) => format!("not in {}", relation.name),
    };
    let plan = line(&root, &speech, stop);
    let read = messages.map(|messages| Read { messages, since: *since, until: followed.until, complete });
    let value = |(at, value): &(usize, datafusion::common::ScalarValue)| {
        let told = value.to_array().map_or(Value::Null, |values| json(&values));
        (names[*at].clone(), told)
    };
    Why {
        stream: relation.name.clone(),
        key: key.0.iter().map(value).collect(),
        found,
        says,
        as_of: kept.as_of,
        rows: objects(&trace.root.node, &names, &(0..names.len()).collect(), shown),
        read,
        notes,
        plan,
    }
}

fn json(values: &datafusion::arrow::array::ArrayRef) -> Value {
    match first(values) {
        (Some(text), true) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        (text, _) => text.map_or(Value::Null, Value::String),
    }
}

/// Rows of the stream that have the key.
fn chosen(node: &Node, prepared: &Prepared, own: &[(Row, i64)]) -> Vec<Row> {
    let mut sieve = Sieve::new(&prepared.key.conditions());
    let codec = operators::row::Codec::new(node.schema.clone()).expect("a schema of rows");
    let mut found = Vec::new();
    for chunk in own.chunks(CHUNK) {
        let rows = codec.decode(chunk.iter().map(|(row, _)| row)).expect("rows of the stream");
        let stays = sieve.stays(&rows, |_| 1).expect("columns of the stream");
        found.extend(chunk.iter().enumerate().filter(|(at, _)| stays.value(*at)).map(|(_, (row, _))| row.clone()));
    }
    found
}

impl Speech<'_> {
    /// Since when it is there, and of what it is made.
    fn made_of(&self, root: &Point<'_>, name: &str) -> String {
        let mut sources: Vec<String> = Vec::new();
        root.made_of(&mut |point| {
            // Of other sources it is not known which of their rows have to do with the key.
            if point.is_there() && !point.step.rows.is_empty() {
                let told = format!("{} of {}", point.count(), point.source());
                if !sources.contains(&told) {
                    sources.push(told);
                }
            }
        });
        let since = self.known(root.noted.seen.since.or(root.noted.seen.first));
        let since = since.map(|since| format!(" since {}", shown_time(since))).unwrap_or_default();
        let made = if sources.is_empty() { String::new() } else { format!(", made of {}", sources.join(" and ")) };
        format!("in {name}{since}{made}")
    }
}

fn line(point: &Point<'_>, speech: &Speech<'_>, stop: Option<&Point<'_>>) -> Line {
    let (node, noted) = (&point.step.node, point.noted);
    let (operator, does) = told_operator(node, &|name| speech.columns.get(name).cloned().unwrap_or_default());
    let below = point.inputs.first().map(|input| speech.columns(&input.step.node)).unwrap_or_default();
    let check = |check: &super::seen::Check| Check {
        condition: Speech::check(check, &below),
        passed: check.passed,
        unknown: check.unknown,
        of: check.of,
    };
    let faults = noted.seen.faults.iter().map(|(fault, count)| Fault {
        operator: fault.operator.clone(),
        message: fault.message.clone(),
        rows: *count,
    });
    let seen = &noted.seen;
    let mut shown = seen.examples();
    shown.truncate(EXAMPLES);
    Line {
        operator,
        does,
        kind: if node.kind == Kind::Events { "events" } else { "table" },
        of: speech.conditions(&point.step.rows, node),
        read: point.gate.map(|(_, through)| through.seen),
        came: seen.came,
        now: (node.kind == Kind::Table).then(|| seen.now()),
        first: speech.known(seen.first),
        since: speech.known(seen.since),
        last: speech.known(seen.last),
        left: seen.left,
        stops: stop.is_some_and(|stop| std::ptr::eq(stop, point)),
        rows: objects(node, &speech.columns(node), &point.told_columns(), &shown),
        checks: noted.checks.iter().map(check).collect(),
        faults: faults.collect(),
        inputs: point.inputs.iter().map(|input| line(input, speech, stop)).collect(),
    }
}
