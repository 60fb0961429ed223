//! One file, one derived stream: `CREATE [MATERIALIZED] VIEW name [WITH (…)] AS SELECT …`.
//!
//! Invariant: nothing else is understood, so a file can create, change, copy or read nothing but a view.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, CreateView, Expr, ObjectName, SqlOption, Statement as Sql, TableFactor, Value, Visit, Visitor,
    visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::ALL_KEYWORDS;
use operators::error::{Refusal, excerpt};

use super::budget;
use crate::plan::{self, Meets, Node, Op};

/// Longest name of a stream.
const NAME_CHARS_MAX: usize = 63;
/// Where the rows of a view can go.
pub const SINKS: [&str; 5] = ["clickhouse", "edge", "kafka", "parquet", "redis"];

/// What `WITH` can say.
const OPTIONS: [&str; 9] = ["key", "retention", "sinks", "access", "as_of", "horizon", "correct_for", "memory", "time"];

/// What a file declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declaration {
    /// Name of the stream.
    pub name: String,
    /// Whether its rows are kept, or its plan only stands for the name.
    pub materialized: bool,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// How long after its time a window can be corrected, in milliseconds.
    pub retention_ms: Option<i64>,
    /// Events meet tables as of their own time, if it is not longer ago than this, in milliseconds.
    pub as_of_ms: Option<i64>,
    /// How long an event that met no row waits for one, in milliseconds.
    pub correct_for_ms: Option<i64>,
    /// Where its changes go.
    pub sinks: Vec<String>,
    /// The column that says whose a row is.
    pub access: Option<String>,
    /// Bytes that it may take; none for what the process gives to all.
    pub memory_bytes: Option<u64>,
    /// Percent of a worker's time that it may take, likewise.
    pub time_pct: Option<u32>,
    /// The SELECT.
    pub query: String,
    /// The file.
    pub text: String,
    /// Names that the SELECT uses.
    pub(super) uses: Vec<String>,
}

const HINT: &str = "a file holds one statement: CREATE MATERIALIZED VIEW name WITH (key = '…') AS SELECT …";

/// Reads a declaration.
///
/// # Errors
/// The text is none.
pub fn parse(text: &str) -> Result<Declaration, Refusal> {
    if super::is_schema(text) {
        let message = "sources and tables over topics are there from the start, and no streams are among them";
        return Err(Refusal::new("sql_statement_not_allowed", message)
            .at("1:1")
            .hint("put the file into the directory of sql.schema, and start again"));
    }
    let mut statements = crate::question::statement::parse(text, &GenericDialect {})?;
    match (statements.pop_front(), statements.pop_front()) {
        (None, _) => Err(Refusal::new("sql_syntax", "there is no statement in the text").hint(HINT)),
        (Some(_), Some(_)) => {
            Err(Refusal::new("sql_syntax", "there is more than one statement in the text").hint(HINT))
        }
        (Some(Statement::Statement(statement)), None) => match *statement {
            Sql::CreateView(view) => read(view, text),
            other => Err(not_allowed(&other.to_string())),
        },
        (Some(other), None) => Err(not_allowed(&other.to_string())),
    }
}

/// The name that a text declares, if it is a declaration.
#[must_use]
pub fn declared(text: &str) -> Option<String> {
    parse(text).ok().map(|declaration| declaration.name)
}

fn not_allowed(statement: &str) -> Refusal {
    let words: Vec<&str> = statement.split_whitespace().take(3).collect();
    Refusal::new("sql_statement_not_allowed", excerpt(&words.join(" "))).hint(HINT)
}

fn read(view: CreateView, text: &str) -> Result<Declaration, Refusal> {
    let unusual = view.or_alter || view.or_replace || view.secure || view.if_not_exists || view.temporary;
    if unusual || !view.cluster_by.is_empty() || view.to.is_some() || !view.columns.is_empty() {
        let message = "only CREATE [MATERIALIZED] VIEW name [WITH (…)] AS SELECT … is understood";
        return Err(Refusal::new("sql_statement_not_allowed", message).hint(HINT));
    }
    let name = valid_name(&view.name)?;
    let mut uses = Vec::new();
    let _ = visit_relations(&view.query, |relation| {
        uses.push(relation.to_string().replace('"', ""));
        ControlFlow::<()>::Continue(())
    });
    // Functions that give tables are called as these are named, and are none of them.
    let mut called = Calls::default();
    let _ = view.query.visit(&mut called);
    for name in called.0 {
        uses.iter().position(|used| *used == name).into_iter().for_each(|at| drop(uses.swap_remove(at)));
    }
    let mut declaration = Declaration {
        name,
        materialized: view.materialized,
        key: Vec::new(),
        retention_ms: None,
        as_of_ms: None,
        correct_for_ms: None,
        sinks: Vec::new(),
        access: None,
        memory_bytes: None,
        time_pct: None,
        query: view.query.to_string(),
        text: text.to_owned(),
        uses,
    };
    match view.options {
        CreateTableOptions::None => {}
        CreateTableOptions::With(options) => {
            declaration.set_all(options)?;
        }
        _ => return Err(Refusal::new("sql_option_unknown", "options are written as WITH (key = '…')").hint(HINT)),
    }
    if !declaration.materialized && !declaration.sinks.is_empty() {
        return Err(Refusal::new("sql_option_invalid", "a view that is not materialized has nothing to send")
            .at("sinks")
            .hint("CREATE MATERIALIZED VIEW"));
    }
    Ok(declaration)
}

/// Names of functions that give tables.
#[derive(Default)]
struct Calls(Vec<String>);

impl Visitor for Calls {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: Some(_), .. } = factor {
            self.0.push(name.to_string().replace('"', ""));
        }
        ControlFlow::Continue(())
    }
}

pub(super) fn valid_name(name: &ObjectName) -> Result<String, Refusal> {
    let text = name.to_string();
    let safe = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let plain =
        text.len() <= NAME_CHARS_MAX && text.chars().all(safe) && text.starts_with(|c: char| c.is_ascii_lowercase());
    if !plain {
        return Err(Refusal::new(
            "name_invalid",
            format!("\"{}\" is not a-z followed by up to {} of a-z 0-9 _", excerpt(&text), NAME_CHARS_MAX - 1),
        )
        .at("name"));
    }
    let reserved = ["select", "from", "where", "table", "view", "join", "on", "as", "with", "union", "group", "order"];
    let upper = text.to_uppercase();
    if reserved.contains(&text.as_str()) && ALL_KEYWORDS.binary_search(&upper.as_str()).is_ok() {
        return Err(Refusal::new("name_invalid", format!("{text} is a word of SQL")).at("name"));
    }
    Ok(text)
}

impl Declaration {
    /// What it says of time.
    #[must_use]
    pub fn times(&self) -> plan::Times {
        plan::Times { retention: self.retention_ms, as_of: self.as_of_ms, correct_for: self.correct_for_ms }
    }

    /// Refuses what is said of events that look tables up, if the plan has none.
    pub(super) fn meets(&self, node: &Node) -> Result<(), Refusal> {
        let (mut as_of, mut corrected) = (self.as_of_ms.is_none(), self.correct_for_ms.is_none());
        node.visit(&mut |node| {
            if let Op::Join(join) = &node.op {
                as_of |= matches!(join.meets, Meets::AsOf { .. });
                corrected |= matches!(join.meets, Meets::Corrected { .. });
            }
        });
        let missing = [("as_of", as_of), ("correct_for", corrected)].into_iter().find(|(_, there)| !there);
        let Some((option, _)) = missing else { return Ok(()) };
        let message = format!("{option} is for events that are joined with a table, and here are none");
        Err(Refusal::new("sql_option_invalid", message).at(option).hint("leave it out"))
    }

    fn set_all(&mut self, options: Vec<SqlOption>) -> Result<(), Refusal> {
        let (mut as_of, mut horizon_ms) = (false, None);
        for option in options {
            self.set(option, &mut as_of, &mut horizon_ms)?;
        }
        let wrong = |message: &str, at: &str, hint: &'static str| {
            Err(Refusal::new("sql_option_invalid", message).at(at).hint(hint))
        };
        match (as_of, horizon_ms) {
            (true, None) => {
                return wrong(
                    "as_of needs a horizon: so long the tables' history is kept",
                    "as_of",
                    "add horizon = '24 hours'",
                );
            }
            (false, Some(_)) => {
                return wrong("a horizon of what? it goes with as_of", "horizon", "add as_of = 'event time'");
            }
            _ => self.as_of_ms = horizon_ms,
        }
        if self.as_of_ms.is_some() && self.correct_for_ms.is_some() {
            return wrong(
                "an event meets the rows of its own time or waits for those to come, not both",
                "correct_for",
                "leave out as_of or correct_for",
            );
        }
        if !self.materialized && (self.as_of_ms.is_some() || self.correct_for_ms.is_some()) {
            let at = if self.as_of_ms.is_some() { "as_of" } else { "correct_for" };
            return wrong("a view that is not materialized stands for its text alone", at, "CREATE MATERIALIZED VIEW");
        }
        Ok(())
    }

    fn set(&mut self, option: SqlOption, as_of: &mut bool, horizon_ms: &mut Option<i64>) -> Result<(), Refusal> {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(Refusal::new("sql_option_unknown", format!("{option} is not key = 'value'")).hint(HINT));
        };
        let name = key.value.to_lowercase();
        let value = match value {
            Expr::Value(value) => match value.value {
                Value::SingleQuotedString(text) => text,
                other => other.to_string(),
            },
            other => other.to_string(),
        };
        let list = || value.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect();
        match name.as_str() {
            "key" => self.key = list(),
            "access" => self.access = Some(value.trim().to_owned()),
            "retention" => self.retention_ms = Some(length_ms(&name, &value)?),
            "correct_for" => self.correct_for_ms = Some(length_ms(&name, &value)?),
            "horizon" => *horizon_ms = Some(length_ms(&name, &value)?),
            "as_of" if value.trim().eq_ignore_ascii_case("event time") => *as_of = true,
            "as_of" => {
                let message = format!("as_of '{}' is not 'event time'", excerpt(&value));
                return Err(Refusal::new("sql_option_invalid", message)
                    .at("as_of")
                    .hint("write as_of = 'event time'; as of arrival is what there is without it"));
            }
            "sinks" => {
                self.sinks = list();
                if let Some(wrong) = self.sinks.iter().find(|sink| !SINKS.contains(&sink.as_str())) {
                    return Err(plan::unknown_name("sink", wrong, &SINKS));
                }
            }
            "memory" => self.memory_bytes = Some(budget::memory(&value)?),
            "time" => self.time_pct = Some(budget::time(&value)?),
            _ => return Err(plan::unknown_name("option", &name, &OPTIONS)),
        }
        Ok(())
    }
}

/// Milliseconds of an option that is a length of time.
fn length_ms(name: &str, value: &str) -> Result<i64, Refusal> {
    let why = || {
        Refusal::new("sql_option_invalid", format!("{name} '{}' is not a time", excerpt(value)))
            .at(name)
            .hint("write it as '7 days', '12 hours' or '30 minutes'")
    };
    duration_ms(value).ok_or_else(why)
}

/// Milliseconds of a time such as `7 days`.
#[must_use]
pub fn duration_ms(text: &str) -> Option<i64> {
    let text = text.trim().to_lowercase();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit.trim().trim_end_matches('s') {
        "m" | "millisecond" => 1, // the s of ms is gone
        "" | "second" | "sec" => 1_000,
        "minute" | "min" => 60_000,
        "hour" | "h" => 3_600_000,
        "day" | "d" => 86_400_000,
        "week" | "w" => 604_800_000,
        _ => return None,
    };
    number.parse::<i64>().ok()?.checked_mul(unit_ms).filter(|ms| *ms > 0)
}
