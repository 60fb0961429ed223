//! One file, one source or table: `CREATE SOURCE|TABLE name (column TYPE [NOT NULL], …) FROM KAFKA|LOG 'topic' FORMAT JSON
//! KEY (column, …) [EVENT TIME column] [ACCESS column]`.
//!
//! Invariant: nothing else is understood, so a file names a topic and its columns, and can read, create or change nothing.

mod text;

use std::collections::BTreeSet;

use datafusion::sql::sqlparser::ast::{DataType, ExactNumberInfo, TimezoneInfo};
use operators::error::{Refusal, excerpt};
use operators::record::declared::{COLUMNS_MAX, Column, Declared, Log, Type};

use super::core::{ARRIVED, CORE};
use super::load::Problem;
use super::{Catalog, File, Relation, declaration};
use crate::plan::{self, Kind};
use text::{Name, Text};

/// Sources and tables that a process can have.
pub const DECLARED_MAX: usize = 64;
/// Columns of a key.
const KEY_COLUMNS_MAX: usize = 8;
/// Longest name of a column.
const NAME_CHARS_MAX: usize = 63;
/// Longest name of a topic, in the embedded log.
const TOPIC_CHARS_MAX: usize = 200;
/// Digits of a decimal number.
const DIGITS_MAX: u64 = 38;

const HINT: &str = "CREATE SOURCE name (column TYPE [NOT NULL], …) FROM KAFKA|LOG 'topic' FORMAT JSON KEY (column) [EVENT TIME column] \
                    [ACCESS column]";

/// Whether the text begins as a source or a table over a topic does, whatever becomes of the rest.
#[must_use]
pub fn is_schema(text: &str) -> bool {
    text::begins(text, "source") || (text::begins(text, "table") && text::has(text, "format"))
}

/// The name that the text declares a source or table by, if it is a declaration.
#[must_use]
pub fn declares(text: &str) -> Option<String> {
    is_schema(text).then(|| parse(text).ok().map(|(declared, _)| declared.name))?
}

/// Reads a declaration. Also tells where its topic stands.
///
/// # Errors
/// The text is none.
pub(super) fn parse(sql: &str) -> Result<(Declared, String), Refusal> {
    let mut text = Text::new(sql)?;
    let other = |why: Refusal| Refusal { code: "sql_statement_not_allowed", ..why };
    text.expect(&["create"]).map_err(other)?;
    let table = text.expect(&["source", "table"]).map_err(other)? == "table";
    let name = text.object_name(declaration::valid_name)?;
    let columns = columns(&mut text, table)?;
    text.expect(&["from"])?;
    let log = if text.expect(&["kafka", "log"])? == "kafka" { Log::Kafka } else { Log::Any };
    let (topic, topic_at) = topic(&mut text)?;
    text.expect(&["format"])?;
    format(&mut text)?;
    text.expect(&["key"])?;
    let key = key(&mut text, &columns)?;
    let time = time(&mut text, table, &columns)?;
    let access = access(&mut text, &columns)?;
    text.end()?;
    let time = time.map(|place| columns[place].name.clone());
    // Rows begin with their key.
    let (mut first, mut rest) = (Vec::new(), Vec::new());
    for (place, column) in columns.into_iter().enumerate() {
        match key.iter().position(|key| *key == place) {
            Some(at) => first.push((at, Column { required: true, ..column })),
            None => rest.push(column),
        }
    }
    first.sort_by_key(|(at, _)| *at);
    let columns: Vec<Column> = first.into_iter().map(|(_, column)| column).chain(rest).collect();
    let time = time.and_then(|name| columns.iter().position(|column| column.name == name));
    let declared = Declared { name, topic, log, table, columns, keys: key.len(), time, access, text: sql.to_owned() };
    Ok((declared, topic_at))
}

fn columns(text: &mut Text<'_>, table: bool) -> Result<Vec<Column>, Refusal> {
    text.open("the columns in parentheses")?;
    let mut columns: Vec<Column> = Vec::new();
    loop {
        let name = text.name("the name of a column")?;
        valid_column(&name, table)?;
        if columns.iter().any(|column| column.name == name.text) {
            return Err(Refusal::new("name_invalid", format!("there is a column {} already", name.text)).at(name.at));
        }
        if columns.len() == COLUMNS_MAX {
            return Err(Refusal::new("sql_too_complex", format!("there are at most {COLUMNS_MAX} columns")).at(name.at));
        }
        let at = text.place();
        let kind = kind(&text.data_type()?).ok_or_else(|| {
            Refusal::new("sql_type_unknown", format!("column {} has a type that records cannot be read as", name.text))
                .at(at)
                .hint("there are BOOLEAN, INT, BIGINT, DOUBLE, TEXT, TIMESTAMP, DATE, DECIMAL(p, s)")
        })?;
        let required = match text.optional("not") {
            true => {
                text.expect(&["null"])?;
                true
            }
            false => {
                text.optional("null");
                false
            }
        };
        columns.push(Column { name: name.text, kind, required });
        if text.close_or_comma("NOT NULL, a comma, or the end of the columns")? {
            return Ok(columns);
        }
    }
}

fn valid_column(name: &Name, table: bool) -> Result<(), Refusal> {
    let Name { text, at } = name;
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins || text.len() > NAME_CHARS_MAX || !text.chars().all(safe) {
        let message = format!(
            "\"{}\" is not a letter or _ followed by up to {} of A-Z a-z 0-9 _",
            excerpt(text),
            NAME_CHARS_MAX - 1
        );
        return Err(Refusal::new("name_invalid", message).at(at));
    }
    if text.starts_with("__") || (!table && text == ARRIVED) {
        let message = format!("column {text} is called as one of ours");
        return Err(Refusal::new("name_invalid", message)
            .at(at)
            .hint("no column begins with __; of events arrived_at is the tick"));
    }
    Ok(())
}

fn kind(written: &DataType) -> Option<Type> {
    Some(match written {
        DataType::Boolean | DataType::Bool => Type::Boolean,
        DataType::Int(None) | DataType::Integer(None) => Type::Int,
        DataType::BigInt(None) => Type::BigInt,
        DataType::Double(ExactNumberInfo::None) | DataType::DoublePrecision => Type::Double,
        DataType::Text | DataType::Varchar(None) | DataType::String(None) => Type::Text,
        DataType::Timestamp(None | Some(3), TimezoneInfo::None | TimezoneInfo::WithoutTimeZone) => Type::Timestamp,
        DataType::Date => Type::Date,
        DataType::Decimal(digits) | DataType::Numeric(digits) => {
            let (precision, scale) = match digits {
                ExactNumberInfo::PrecisionAndScale(precision, scale) => (*precision, u64::try_from(*scale).ok()?),
                ExactNumberInfo::Precision(precision) => (*precision, 0),
                ExactNumberInfo::None => return None,
            };
            let fits = (1..=DIGITS_MAX).contains(&precision) && scale <= precision;
            fits.then_some(Type::Decimal(precision as u8, scale as u8))?
        }
        _ => return None,
    })
}

fn topic(text: &mut Text<'_>) -> Result<(String, String), Refusal> {
    let at = text.place();
    let topic = text.literal("the topic's name, as 'shop.receipts'")?;
    let safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if topic.is_empty()
        || topic.len() > TOPIC_CHARS_MAX
        || !topic.chars().all(safe)
        || topic.starts_with("..")
        || topic == "."
    {
        let message = format!("\"{}\" is not 1 to {TOPIC_CHARS_MAX} of A-Z a-z 0-9 . _ -", excerpt(&topic));
        return Err(Refusal::new("topic_invalid", message).at(at));
    }
    Ok((topic, at))
}

fn format(text: &mut Text<'_>) -> Result<(), Refusal> {
    let at = text.place();
    match text.expect(&["json", "protobuf", "avro"])? {
        "json" => Ok(()),
        other => {
            let message = format!("FORMAT {} is not there yet", other.to_uppercase());
            Err(Refusal::new("format_unsupported", message).at(at).hint("write FORMAT JSON, and send the records so"))
        }
    }
}

/// Places of the key's columns, in its order.
fn key(text: &mut Text<'_>, columns: &[Column]) -> Result<Vec<usize>, Refusal> {
    text.open("the columns of the key in parentheses")?;
    let mut key: Vec<usize> = Vec::new();
    loop {
        let name = text.name("a column of the key")?;
        let place = place(&name, columns)?;
        let wrong = |message: String| Err(Refusal::new("sql_option_invalid", message).at(&name.at));
        if key.contains(&place) {
            return wrong(format!("{} is in the key twice", name.text));
        }
        if key.len() == KEY_COLUMNS_MAX {
            return wrong(format!("a key has at most {KEY_COLUMNS_MAX} columns"));
        }
        if matches!(columns[place].kind, Type::Double | Type::Decimal(..)) {
            return wrong(format!("{} cannot be in a key: the same number may be written in several ways", name.text));
        }
        key.push(place);
        if text.close_or_comma("a comma, or the end of the key")? {
            return Ok(key);
        }
    }
}

fn time(text: &mut Text<'_>, table: bool, columns: &[Column]) -> Result<Option<usize>, Refusal> {
    let at = text.place();
    if !text.optional("event") {
        return Ok(None);
    }
    text.expect(&["time"])?;
    let name = text.name("the column of the event's time")?;
    let place = place(&name, columns)?;
    if table {
        let message = "EVENT TIME is of events: a row of a table stands until it is replaced";
        return Err(Refusal::new("sql_option_invalid", message).at(at).hint("leave it out, or CREATE SOURCE"));
    }
    if columns[place].kind != Type::Timestamp {
        let message = format!("{} is no TIMESTAMP", name.text);
        return Err(Refusal::new("sql_option_invalid", message).at(name.at));
    }
    Ok(Some(place))
}

/// Name of the column that says whose a row is.
fn access(text: &mut Text<'_>, columns: &[Column]) -> Result<Option<String>, Refusal> {
    if !text.optional("access") {
        return Ok(None);
    }
    let name = text.name("the column that says whose a row is")?;
    let place = place(&name, columns)?;
    if columns[place].kind != Type::Text {
        return Err(Refusal::new("sql_option_invalid", format!("{} is no TEXT", name.text)).at(name.at));
    }
    Ok(Some(name.text))
}

fn place(name: &Name, columns: &[Column]) -> Result<usize, Refusal> {
    columns.iter().position(|column| column.name == name.text).ok_or_else(|| {
        let known: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        plan::unknown_name("column", &name.text, &known).at(&name.at)
    })
}

impl Catalog {
    /// Adds the sources and tables of these files, before any view. Tells what could not be added, by file. `taken` are the
    /// topics that are the process's own, with what they are for.
    pub fn declare(&mut self, files: &[File], taken: &[(&str, &str)]) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut topics: BTreeSet<String> = self.declared().map(|declared| declared.topic.clone()).collect();
        for file in files {
            let done = parse(&file.text).and_then(|(declared, at)| {
                let placed = |why: Refusal| if why.field.as_deref() == Some("topic") { why.at(at) } else { why };
                self.may_have(&declared, &topics, taken).map_err(placed).map(|()| declared)
            });
            match done {
                Ok(declared) => {
                    topics.insert(declared.topic.clone());
                    // Streams of the log are told apart by it on every thread, as long as the process lives.
                    self.put(Box::leak(Box::new(declared)));
                }
                Err(why) => problems.push(Problem { file: file.clone(), why }),
            }
        }
        problems
    }

    /// Nothing but these.
    #[must_use]
    pub fn only_declared(all: &[&'static Declared]) -> Self {
        let mut catalog = Self::default();
        all.iter().for_each(|declared| catalog.put(declared));
        catalog
    }

    /// The sources and tables that are declared over topics, by name.
    pub fn declared(&self) -> impl Iterator<Item = &'static Declared> {
        self.declared.values().copied()
    }

    fn may_have(&self, declared: &Declared, topics: &BTreeSet<String>, taken: &[(&str, &str)]) -> Result<(), Refusal> {
        let Declared { name, topic, text, .. } = declared;
        let name_at = || text::Text::new(text).map(|text| text.third()).unwrap_or_default();
        if CORE.iter().any(|core| core.name == name) {
            return Err(Refusal::new("name_invalid", format!("{name} is a stream of the main job")).at(name_at()));
        }
        if self.relation(name).is_some() {
            return Err(Refusal::new("name_invalid", format!("there is a {name} already")).at(name_at()));
        }
        if let Some((_, what)) = taken.iter().find(|(taken, _)| taken == topic) {
            let message = format!("topic {topic} is {what}");
            return Err(Refusal::new("topic_invalid", message).at("topic").hint("declare a topic of your own"));
        }
        if topics.contains(topic) {
            let message = format!("topic {topic} is declared already");
            return Err(Refusal::new("topic_invalid", message)
                .at("topic")
                .hint("declare it once, and make what differs a view of it"));
        }
        if self.declared.len() >= DECLARED_MAX {
            let message = format!("there are {DECLARED_MAX} sources and tables, which is the limit");
            return Err(Refusal::new("sql_too_many_streams", message).at(name_at()));
        }
        Ok(())
    }

    fn put(&mut self, declared: &'static Declared) {
        let (schema, _) = super::seen(declared);
        let kind = if declared.table { Kind::Table } else { Kind::Events };
        let key = declared.key().iter().map(|column| column.name.clone()).collect();
        let relation = Relation { name: declared.name.clone(), schema, kind, key, access: declared.access.clone() };
        self.relations.insert(declared.name.clone(), relation);
        self.declared.insert(declared.name.clone(), declared);
    }
}

#[cfg(test)]
mod tests;
