//! A derived stream in Redis: the newest row under each key, and every change on a channel; of events the channel alone.
//!
//! Invariant: rows, what is told of them and the mark that says how far the stream is are written in one transaction, so a
//! step that is tried again goes on behind the mark and tells nothing twice.
//!
//! | key | type | what |
//! | --- | --- | --- |
//! | `hs:1:view:{name}:{key}` | string | the row as a JSON object |
//! | `hs:1:view:{name}` | string | the mark; ours |
//! | `hs:1:view:{name}` | channel | `{"version":…,"upsert":[row…],"remove":[key…]}`, of events `{"version":…,"append":[row…]}` |
//!
//! `hs:1` is the configured prefix. Parts of a key are encoded as [ids are](super::key), with `|` between them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redis::aio::MultiplexedConnection;
use ::redis::{Client, Pipeline, RedisError, Value, cmd, pipe};
use arrow::array::{AsArray, RecordBatch};
use operators::batch::{DELETED, TICK, bools, u64s};
use operators::connection;
use operators::key_text::SEPARATOR;
use operators::time::Tick;

use super::{Options, connect, fault, key};
use crate::json::Text;
use crate::step::{Sink, SinkError, Step};
use crate::view::{self, JSON, KEY};

/// Keys that one look at the server may go through.
const SCANNED: usize = 1_000;

/// The sink of one derived stream.
pub struct ViewKeys {
    options: Options,
    client: Client,
    /// What errors call the server.
    target: String,
    /// What its keys begin with, and its mark and channel.
    base: String,
    is_table: bool,
    /// Tells this life of the process from others.
    life: String,
    connection: Option<MultiplexedConnection>,
    /// The mark that was written last, and that of which it is not known whether it was.
    marks: [Option<String>; 2],
    lost: Arc<AtomicBool>,
}

/// One row's change.
struct Change<'a> {
    /// None for an event.
    key: Option<&'a str>,
    /// None if the row is gone.
    row: Option<&'a str>,
}

impl ViewKeys {
    /// A sink of the view of this name that is not connected yet. `life` is another one each time the process starts; `lost` turns
    /// true when the server has lost what was written.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if what is configured cannot work.
    pub fn new(
        redis: &connection::Redis,
        options: Options,
        name: &str,
        is_table: bool,
        life: String,
        lost: Arc<AtomicBool>,
    ) -> Result<Self, SinkError> {
        let (client, target) = super::client(redis).map_err(|error| fault::of_client("redis", &error))?;
        let base = base(redis, name);
        Ok(Self { options, client, target, base, is_table, life, connection: None, marks: [None, None], lost })
    }

    fn failed(&self, error: &RedisError) -> SinkError {
        fault::of_client(&self.target, error)
    }

    /// Whether the server has the mark that it should have; else it has lost what was written.
    fn compare(&self, found: Option<&String>) {
        let known = self.marks.iter().flatten().any(|mark| Some(mark) == found);
        if self.marks[0].is_some() && !known {
            tracing::error!(
                target = self.target,
                key = self.base,
                "Redis has lost rows of a view; they are written again"
            );
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    async fn mark(&self, connection: &mut MultiplexedConnection) -> Result<Option<String>, SinkError> {
        cmd("GET").arg(&self.base).query_async(connection).await.map_err(|error| self.failed(&error))
    }

    async fn write(&mut self, step: &Step, connection: &mut MultiplexedConnection) -> Result<(), SinkError> {
        let mut changes = Vec::new();
        for rows in &step.rows {
            changes.extend(read(rows.batch()).map_err(|why| fault::refused(&self.target, why, "this is a bug"))?);
        }
        let mark = |part: usize| format!("{}/{}/{part}", self.life, step.upto);
        let parts: Vec<_> = changes.chunks(self.options.script_vehicles_max).collect();
        let found = self.mark(connection).await?;
        self.compare(found.as_ref());
        let done = (0..parts.len()).find(|part| found.as_deref() == Some(&mark(*part))).map_or(0, |part| part + 1);
        for (index, part) in parts.iter().enumerate().skip(done) {
            let mark = mark(index);
            let mut together = self.transaction(part, step.upto);
            together.cmd("SET").arg(&self.base).arg(&mark).ignore();
            self.marks[1] = Some(mark.clone());
            let _: Value = together.query_async(connection).await.map_err(|error| self.failed(&error))?;
            self.marks[0] = Some(mark);
        }
        if self.is_table && view::is_first(step) {
            self.take_away_others(&changes, step.upto, connection).await?;
        }
        Ok(())
    }

    fn transaction(&self, changes: &[Change<'_>], upto: Tick) -> Pipeline {
        let mut together = pipe();
        together.atomic();
        for change in changes {
            let Some(key) = change.key.map(|key| self.key(key)) else { continue };
            match change.row {
                Some(row) => together.cmd("SET").arg(key).arg(row).ignore(),
                None => together.cmd("DEL").arg(key).ignore(),
            };
        }
        together.cmd("PUBLISH").arg(&self.base).arg(message(changes, upto).as_bytes()).ignore();
        together
    }

    fn key(&self, key: &str) -> String {
        let parts: Vec<_> = key.split(SEPARATOR).map(key::encode).collect();
        format!("{}:{}", self.base, parts.join("|"))
    }

    /// Takes away what an earlier life has left that does not stand any more.
    async fn take_away_others(
        &self,
        changes: &[Change<'_>],
        upto: Tick,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), SinkError> {
        let standing: BTreeSet<String> =
            changes.iter().filter_map(|change| change.key).map(|key| self.key(key)).collect();
        let found = keys(connection, &self.base).await.map_err(|error| self.failed(&error))?;
        let stale: Vec<String> = found.into_iter().filter(|key| !standing.contains(key)).collect();
        for part in stale.chunks(self.options.script_vehicles_max) {
            let mut together = pipe();
            together.atomic();
            together.cmd("DEL").arg(part).ignore();
            let gone: Vec<String> = part.iter().map(|key| decode(&key[self.base.len() + 1..])).collect();
            let gone: Vec<_> = gone.iter().map(|key| Change { key: Some(key), row: None }).collect();
            together.cmd("PUBLISH").arg(&self.base).arg(message(&gone, upto).as_bytes()).ignore();
            let _: Value = together.query_async(connection).await.map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }
}

/// What a view's keys begin with.
fn base(redis: &connection::Redis, name: &str) -> String {
    format!("{}:view:{name}", redis.prefix)
}

fn read(rows: &RecordBatch) -> Result<Vec<Change<'_>>, String> {
    let text = |name: &str| rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    let values = text(JSON).ok_or_else(|| format!("the rows have no column {JSON}"))?;
    let keys = text(KEY);
    let deleted = keys.map(|_| bools(rows, DELETED));
    debug_assert_eq!(u64s(rows, TICK).len(), rows.num_rows());
    let change = |row: usize| Change {
        key: keys.map(|keys| keys.value(row)),
        row: (!deleted.is_some_and(|deleted| deleted.value(row))).then(|| values.value(row)),
    };
    Ok((0..rows.num_rows()).map(change).collect())
}

/// What is told of changes.
fn message(changes: &[Change<'_>], upto: Tick) -> Text {
    let mut out = Text::new();
    out.raw(format!("{{\"version\":{}", upto.saturating_sub(1)).as_bytes());
    let list = |out: &mut Text, name: &str, each: &mut dyn Iterator<Item = (bool, &str)>| {
        out.raw(format!(",\"{name}\":[").as_bytes());
        for (index, (is_json, text)) in each.enumerate() {
            if index > 0 {
                out.raw(b",");
            }
            if is_json { out.raw(text.as_bytes()) } else { out.string(text) }
        }
        out.raw(b"]");
    };
    if changes.iter().any(|change| change.key.is_none()) {
        list(&mut out, "append", &mut changes.iter().filter_map(|change| Some((true, change.row?))));
    } else {
        list(&mut out, "upsert", &mut changes.iter().filter_map(|change| Some((true, change.row?))));
        let gone = changes.iter().filter(|change| change.row.is_none());
        list(&mut out, "remove", &mut gone.filter_map(|change| Some((false, change.key?))));
    }
    out.raw(b"}");
    out
}

/// The keys of a view's rows.
async fn keys(connection: &mut MultiplexedConnection, base: &str) -> Result<BTreeSet<String>, RedisError> {
    // A prefix and a view's name hold no character of a pattern.
    let pattern = format!("{base}:*");
    let (mut found, mut cursor) = (BTreeSet::new(), 0u64);
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
        let (next, some): (u64, Vec<String>) = scan.query_async(connection).await?;
        found.extend(some);
        cursor = next;
        if cursor == 0 {
            return Ok(found);
        }
    }
}

/// What [`key::encode`] has made of a text.
fn decode(name: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((first, more)) = rest.split_first() {
        let digits =
            (*first == b'%').then(|| more.get(..2)).flatten().and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Deletes all keys of a view.
///
/// # Errors
/// The server does not let us, or is not to be reached.
pub async fn purge(redis: &connection::Redis, timeout_ms: u64, name: &str) -> Result<(), SinkError> {
    let (client, target) = super::client(redis).map_err(|error| fault::of_client("redis", &error))?;
    let failed = |error: RedisError| fault::of_client(&target, &error);
    let mut connection = connect(&client, timeout_ms).await.map_err(failed)?;
    let base = base(redis, name);
    let mut all: Vec<String> = keys(&mut connection, &base).await.map_err(failed)?.into_iter().collect();
    all.push(base);
    for part in all.chunks(SCANNED) {
        let () = cmd("UNLINK").arg(part).query_async(&mut connection).await.map_err(failed)?;
    }
    Ok(())
}

impl Sink for ViewKeys {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.connection = None;
        let connection = connect(&self.client, self.options.timeout_ms).await;
        let mut connection = connection.map_err(|error| self.failed(&error))?;
        let found = self.mark(&mut connection).await?;
        self.compare(found.as_ref());
        self.connection = Some(connection);
        Ok(())
    }

    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        let Some(mut connection) = self.connection.take() else {
            return Err(fault::unavailable(&self.target, "not connected".to_owned()));
        };
        // An error leaves it closed, so that answers still under way are not taken for later ones'.
        self.write(step, &mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_json_whatever_the_keys_hold() {
        let changes = [
            Change { key: Some("a"), row: Some("{\"a\":1}") },
            Change { key: Some("quote \" and\nline"), row: None },
            Change { key: Some("b"), row: Some("{}") },
        ];
        let told: serde_json::Value = serde_json::from_slice(message(&changes, 8).as_bytes()).unwrap();
        let wanted = serde_json::json!({"version": 7, "upsert": [{"a": 1}, {}], "remove": ["quote \" and\nline"]});
        assert_eq!(told, wanted);
        let events = [Change { key: None, row: Some("{\"a\":1}") }];
        let told: serde_json::Value = serde_json::from_slice(message(&events, 8).as_bytes()).unwrap();
        assert_eq!(told, serde_json::json!({"version": 7, "append": [{"a": 1}]}));
    }

    #[test]
    fn a_key_comes_back_from_its_name() {
        for key in ["c-1", "a b*{c}", "é%25\u{1f600}", ""] {
            assert_eq!(decode(&key::encode(key)), key);
        }
    }
}
