//! A derived stream as a table of ClickHouse, made of the view's columns.
//!
//! Invariant: a table with another key or other columns is never written to, changed or dropped. A row's identity is in its
//! columns, so whatever is written again replaces itself: read with `FINAL`.
//!
//! | the view is | the table has beside its columns | engine |
//! | --- | --- | --- |
//! | a table | `version`, `is_deleted` | `ReplacingMergeTree(version, is_deleted)` ordered by the key |
//! | events | `tick`, `row_id` | `ReplacingMergeTree` ordered by the key, or by `tick, row_id` if there is none |

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use operators::batch::{DELETED, TICK, bools, u64s};
use operators::connection;
use operators::time::Tick;

use super::{ClickHouseSink, Options, fault};
use crate::run::tick_range;
use crate::step::{Sink, SinkError, Step};
use crate::view::{self, ID};

/// Columns of ours.
const OURS: [&str; 4] = ["version", "is_deleted", "tick", "row_id"];

/// The sink of one derived stream.
#[derive(Debug)]
pub struct ViewTable {
    base: ClickHouseSink,
    table: String,
    is_table: bool,
    /// Empty for events that nothing else is known again by.
    key: Vec<String>,
    /// Name, type there, and type on the way there.
    columns: Vec<(String, String, DataType)>,
    /// What is on the way.
    sent: SchemaRef,
}

impl ViewTable {
    /// A sink of the view of this name, with these columns.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if what is configured cannot work, or a column cannot be kept there.
    pub fn new(
        clickhouse: &connection::ClickHouse,
        options: Options,
        name: &str,
        schema: &Schema,
        is_table: bool,
        key: &[String],
    ) -> Result<Self, SinkError> {
        let base = ClickHouseSink::new(clickhouse, options)?;
        let mut columns = Vec::new();
        for field in schema.fields() {
            let refuse =
                |why: &str, hint: &str| fault::refused(&base.target, &format!("column {}", field.name()), why, hint);
            if OURS.contains(&field.name().as_str()) {
                return Err(refuse("this is the name of a column of ours there", "give it another name by AS"));
            }
            let (kind, sent) = column_type(field.data_type()).ok_or_else(|| {
                refuse(&format!("type {} has no form there", field.data_type()), "cast it, to text for example")
            })?;
            columns.push((field.name().clone(), format!("Nullable({kind})"), sent));
        }
        let ours = match is_table {
            true => [("version", "UInt64", DataType::UInt64), ("is_deleted", "UInt8", DataType::UInt8)],
            false => [("tick", "UInt64", DataType::UInt64), ("row_id", "UInt64", DataType::UInt64)],
        };
        let own = columns.iter().map(|(name, _, sent)| Field::new(name, sent.clone(), true));
        let sent = Schema::new(
            own.chain(ours.iter().map(|(name, _, sent)| Field::new(*name, sent.clone(), false))).collect::<Vec<_>>(),
        );
        columns.extend(ours.map(|(name, kind, sent)| (name.to_owned(), kind.to_owned(), sent)));
        let key = key.to_vec();
        Ok(Self { base, table: table(name), is_table, key, columns, sent: Arc::new(sent) })
    }

    /// What the table says of itself, by which it is known again.
    fn comment(&self) -> String {
        let kind = if self.is_table { "rows" } else { "events" };
        let by = if self.key.is_empty() { "tick".to_owned() } else { self.key.join(", ") };
        format!("haulstream: {kind} by {by}")
    }

    fn create(&self) -> String {
        let columns: Vec<String> =
            self.columns.iter().map(|(name, kind, _)| format!("{} {kind}", quoted(name))).collect();
        let engine = if self.is_table { "ReplacingMergeTree(version, is_deleted)" } else { "ReplacingMergeTree" };
        let order =
            if self.key.is_empty() { "tick, row_id".to_owned() } else { list(self.key.iter().map(String::as_str)) };
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = {engine} ORDER BY ({order}) \
             SETTINGS allow_nullable_key = 1, non_replicated_deduplication_window = 1000 COMMENT {}",
            quoted(&self.table),
            columns.join(", "),
            text(&self.comment())
        )
    }

    /// Whether the table that is there is the one that would be made.
    async fn check(&self) -> Result<(), SinkError> {
        let (base, doing) = (&self.base, "looking at the view's table");
        let found = base
            .client
            .query("SELECT name, type FROM system.columns WHERE database = ? AND table = ? ORDER BY position");
        let found = found.bind(&base.database).bind(&self.table).fetch_all::<(String, String)>();
        let found = base.within(doing, found).await?;
        let comment = base.client.query("SELECT comment FROM system.tables WHERE database = ? AND name = ?");
        let comment = comment.bind(&base.database).bind(&self.table).fetch_one::<String>();
        let comment = base.within(doing, comment).await?;
        let wanted: Vec<(String, String)> =
            self.columns.iter().map(|(name, kind, _)| (name.clone(), kind.clone())).collect();
        let hint = "it is not touched: rename it or drop it there, or give the view another name";
        let differs = |why: String| fault::refused(&base.target, &format!("table {}", self.table), &why, hint);
        if comment != self.comment() {
            return Err(differs(format!(
                "it has another key, or is not ours: '{comment}' instead of '{}'",
                self.comment()
            )));
        }
        let other = wanted
            .iter()
            .find(|column| !found.contains(column))
            .or(found.iter().find(|column| !wanted.contains(column)));
        match other {
            Some((name, kind)) => {
                Err(differs(format!("the view has other columns: {name} {kind} is on one side only")))
            }
            None => Ok(()),
        }
    }

    fn rows(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let column = |(name, _, sent): &(String, String, DataType)| -> Result<ArrayRef, ArrowError> {
            let found = |name: &str| {
                rows.column_by_name(name)
                    .ok_or_else(|| ArrowError::SchemaError(format!("the rows have no column {name}")))
            };
            match name.as_str() {
                "version" => {
                    let (ticks, deleted) = (u64s(rows, TICK).values(), bools(rows, DELETED));
                    let version = |(row, tick): (usize, &u64)| version(*tick, deleted.value(row));
                    Ok(Arc::new(UInt64Array::from_iter_values(ticks.iter().enumerate().map(version))))
                }
                "is_deleted" => cast(found(DELETED)?, sent),
                "tick" => Ok(found(TICK)?.clone()),
                "row_id" => Ok(found(ID)?.clone()),
                name => cast(found(name)?, sent),
            }
        };
        RecordBatch::try_new(self.sent.clone(), self.columns.iter().map(column).collect::<Result<_, _>>()?)
    }

    /// Takes away what an earlier life has left that does not stand any more: everything that is older than the first step.
    async fn take_away_others(&self, first: Tick) -> Result<(), SinkError> {
        let (table, keys) = (quoted(&self.table), list(self.key.iter().map(String::as_str)));
        let version = version(first, true);
        let statement = format!(
            "INSERT INTO {table} ({keys}, version, is_deleted) SELECT {keys}, {version}, 1 FROM {table} FINAL \
             WHERE is_deleted = 0 AND version < {version}"
        );
        self.base.within("taking away old rows", self.base.client.query_raw(&statement).execute()).await
    }
}

/// Of one tick deletes count before upserts.
fn version(tick: Tick, deleted: bool) -> u64 {
    tick * 2 + u64::from(!deleted)
}

/// Name of a view's table.
fn table(name: &str) -> String {
    format!("view_{name}")
}

/// A type of Arrow as one of ClickHouse's, and what it is cast to on the way there.
fn column_type(kind: &DataType) -> Option<(String, DataType)> {
    use DataType as Kind;
    let plain = |name: &str| Some((name.to_owned(), kind.clone()));
    match kind {
        Kind::Utf8 | Kind::Utf8View | Kind::LargeUtf8 => Some(("String".to_owned(), Kind::Utf8)),
        Kind::Boolean => plain("Bool"),
        Kind::Int8 => plain("Int8"),
        Kind::Int16 => plain("Int16"),
        Kind::Int32 => plain("Int32"),
        Kind::Int64 => plain("Int64"),
        Kind::UInt8 => plain("UInt8"),
        Kind::UInt16 => plain("UInt16"),
        Kind::UInt32 => plain("UInt32"),
        Kind::UInt64 => plain("UInt64"),
        Kind::Float32 => plain("Float32"),
        Kind::Float64 => plain("Float64"),
        Kind::Date32 => plain("Date32"),
        Kind::Decimal128(precision, scale) => plain(&format!("Decimal({precision}, {scale})")),
        Kind::Timestamp(unit, _) => {
            let digits = match unit {
                TimeUnit::Second | TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            let unit = if *unit == TimeUnit::Second { TimeUnit::Millisecond } else { *unit };
            Some((format!("DateTime64({digits}, 'UTC')"), Kind::Timestamp(unit, Some("UTC".into()))))
        }
        _ => None,
    }
}

/// A name between backquotes, whatever is in it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(quoted).collect::<Vec<_>>().join(", ")
}

/// Drops the table of a view, if it is ours.
///
/// # Errors
/// The server does not let us, or is not to be reached; the table is not ours.
pub async fn purge(clickhouse: &connection::ClickHouse, options: Options, name: &str) -> Result<(), SinkError> {
    let base = ClickHouseSink::new(clickhouse, options)?;
    let comment = base.client.query("SELECT comment FROM system.tables WHERE database = ? AND name = ?");
    let comment = comment.bind(&base.database).bind(table(name)).fetch_optional::<String>();
    match base.within("looking at the view's table", comment).await? {
        None => Ok(()),
        Some(comment) if comment.starts_with("haulstream: ") => {
            let statement = format!("DROP TABLE IF EXISTS {}", quoted(&table(name)));
            base.within("dropping the view's table", base.client.query_raw(&statement).execute()).await
        }
        Some(_) => {
            Err(fault::refused(&base.target, &table(name), "the table is not ours", "drop it there, if it is to go"))
        }
    }
}

impl Sink for ViewTable {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.base.make_database().await?;
        self.base.within("making the view's table", self.base.client.query_raw(&self.create()).execute()).await?;
        self.check().await
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        let broken = |error: ArrowError| {
            fault::refused(&self.base.target, &format!("rows for {}", self.table), &error.to_string(), "this is a bug")
        };
        let statement = format!(
            "INSERT INTO {} ({}) FORMAT ArrowStream",
            quoted(&self.table),
            list(self.columns.iter().map(|column| column.0.as_str()))
        );
        for (part, rows) in step.rows.iter().enumerate() {
            let rows = self.rows(rows.batch()).map_err(broken)?;
            let mut writer = StreamWriter::try_new(Vec::new(), &self.sent).map_err(broken)?;
            writer.write(&rows).map_err(broken)?;
            let bytes = writer.into_inner().map_err(broken)?;
            self.base.insert(&self.table, statement.clone(), step, part, bytes).await?;
        }
        if self.is_table && view::is_first(step) {
            let ticks = step.rows.iter().map(|rows| tick_range(rows.batch()).0);
            self.take_away_others(ticks.min().unwrap_or(0)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(quoted("a`b\\c"), "`a\\`b\\\\c`");
        assert_eq!(text("it's \\"), "'it\\'s \\\\'");
    }

    #[test]
    fn what_was_deleted_and_came_back_in_one_tick_is_there() {
        assert!(version(7, false) > version(7, true) && version(8, true) > version(7, false));
    }
}
