//! ClickHouse: the history of positions and events, and the tables of windows, by few and large inserts.
//!
//! Invariant: a row's identity is in its columns ([`ReplacingMergeTree`](table)), so whatever is written again replaces
//! itself. An insert that is only repeated is not even stored twice: its token names the stream, the worker, the step and
//! the content, and the server remembers the last thousand of each table.
//!
//! Tables are made by the migrations beside this file. Where a row that is just being replaced must not count twice, and
//! for `is_deleted` to hide rows, read with `FINAL`.

mod fault;
mod migration;
mod table;
pub mod view;

use std::future::Future;
use std::time::Duration;

use ::clickhouse::error::Error;
use ::clickhouse::{Client, Compression};
use arrow::error::ArrowError;
use bytes::Bytes;
use operators::batch::key_hash;
use operators::connection;
use operators::time::Tick;
use serde::Deserialize;
use tracing::info;

use self::migration::Failure;
use self::table::{Encoder, TABLES, Table};
use crate::run::Route;
use crate::step::{Sink, SinkError, Step};

/// Streams that this sink takes.
pub const ROUTES: [Route; 4] = [TABLES[0].route, TABLES[1].route, TABLES[2].route, TABLES[3].route];

/// Bytes handed to the connection at a time.
const CHUNK_BYTES: usize = 1 << 20;
const NAME_CHARS_MAX: usize = 64;

/// How ClickHouse is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Topic that rows of `telemetry_history` name as their origin, beside partition and offset. Configured with the topics.
    #[serde(skip)]
    pub topic: String,
    /// Bytes of rows, as an Arrow stream, at which a step is written by more than one insert.
    pub insert_bytes_max: usize,
    /// Whether rows are compressed (LZ4) on their way to the server.
    pub compress: bool,
    /// Milliseconds to wait for the answer to a statement.
    pub timeout_ms: u64,
}

/// Writes `telemetry_enriched`, `vehicle_events`, `company_minute` and `vehicle_links` to ClickHouse.
#[derive(Debug)]
pub struct ClickHouseSink {
    options: Options,
    database: String,
    /// Without a database, to make it.
    server: Client,
    client: Client,
    /// What errors call the server.
    target: String,
}

impl ClickHouseSink {
    /// A sink that has not talked to the server yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if the options, the URL or the database's name cannot work.
    pub fn new(clickhouse: &connection::ClickHouse, options: Options) -> Result<Self, SinkError> {
        let rule = |holds: bool, rule: &str| {
            if holds { Ok(()) } else { Err(fault::refused("clickhouse", "configuration", rule, "correct it")) }
        };
        rule(
            is_name(&clickhouse.database),
            "clickhouse.database must be 1 to 64 of A-Z a-z 0-9 _, not beginning with a digit",
        )?;
        rule(clickhouse.url.starts_with("http://"), "clickhouse.url must be http://host:port")?;
        rule(
            !clickhouse.url.contains(['@', '?']),
            "clickhouse.url must hold no user and no parameters: user and password have their own options",
        )?;
        rule(options.insert_bytes_max > 0, "insert_bytes_max must be above 0")?;
        rule(options.timeout_ms > 0, "timeout_ms must be above 0")?;
        let compression = if options.compress { Compression::Lz4 } else { Compression::None };
        let server = Client::default()
            .with_url(&clickhouse.url)
            .with_user(&clickhouse.user)
            .with_password(clickhouse.password.expose())
            .with_compression(compression)
            // Whatever the server's or the user's profile says.
            .with_setting("session_timezone", "UTC")
            .with_setting("date_time_input_format", "basic")
            .with_setting("async_insert", "0")
            .with_setting("insert_deduplicate", "1")
            // Rows that replace each other are rare within a step: merges find them, and inserts are half as dear.
            .with_setting("optimize_on_insert", "0")
            // Device times may lie in any month; so many partitions are slow, but no reason to stop.
            .with_setting("throw_on_max_partitions_per_insert_block", "0");
        let client = server.clone().with_database(&clickhouse.database);
        let target = format!("clickhouse at {}, database {}", clickhouse.url, clickhouse.database);
        Ok(Self { options, database: clickhouse.database.clone(), server, client, target })
    }

    /// Waits for an answer no longer than the options allow.
    async fn within<T>(&self, doing: &str, statement: impl Future<Output = Result<T, Error>>) -> Result<T, SinkError> {
        match tokio::time::timeout(Duration::from_millis(self.options.timeout_ms), statement).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(fault::of(&self.target, doing, &error)),
            Err(_) => Err(fault::of(&self.target, doing, &Error::TimedOut)),
        }
    }

    async fn make_database(&self) -> Result<(), SinkError> {
        let doing = "looking for the database";
        let there = self.server.query("SELECT count() FROM system.databases WHERE name = ?").bind(&self.database);
        if self.within(doing, there.fetch_one::<u64>()).await? == 0 {
            // Safe to put between backquotes: see `is_name`.
            let make = format!("CREATE DATABASE IF NOT EXISTS `{}`", self.database);
            self.within("creating the database", self.server.query_raw(&make).execute()).await?;
        }
        Ok(())
    }

    /// Whether the tables have the columns that inserts name: they could have been there before us.
    async fn check_columns(&self) -> Result<(), SinkError> {
        let found = self.client.query("SELECT table, name FROM system.columns WHERE database = ?").bind(&self.database);
        let found: Vec<(String, String)> = self.within("reading the tables' columns", found.fetch_all()).await?;
        for table in &TABLES {
            let has = |column: &String| found.iter().any(|(of, name)| of == table.name && name == column);
            let missing: Vec<String> = table.columns().into_iter().filter(|column| !has(column)).collect();
            if !missing.is_empty() {
                let (doing, why) = (format!("table {}", table.name), format!("it lacks {}", missing.join(", ")));
                let hint = "it was not made by this program's migrations: rename it, or choose another database";
                return Err(fault::refused(&self.target, &doing, &why, hint));
            }
        }
        Ok(())
    }

    /// Inserts rows, an Arrow stream, into a table by this statement.
    async fn insert(
        &self,
        table: &str,
        statement: String,
        step: &Step,
        part: usize,
        rows: Vec<u8>,
    ) -> Result<(), SinkError> {
        let doing = format!("insert into {table}");
        let Step { stream, worker, from, upto, .. } = step;
        // With the content: rows of the same step that differ, such as those of a replay, must not be taken for known.
        let token = format!("{stream}/{worker}/{from}-{upto}/{part}/{:016x}", key_hash(&rows));
        let timeout = Some(Duration::from_millis(self.options.timeout_ms));
        let mut insert = self
            .client
            .insert_formatted_with(statement)
            .with_setting("insert_deduplication_token", token)
            .with_timeouts(timeout, timeout);
        let mut rest = Bytes::from(rows);
        let sent = async {
            while !rest.is_empty() {
                insert.send(rest.split_to(rest.len().min(CHUNK_BYTES))).await?;
            }
            insert.end().await
        };
        sent.await.map_err(|error| fault::of(&self.target, &doing, &error))
    }
}

impl Sink for ClickHouseSink {
    fn name(&self) -> &'static str {
        "clickhouse"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.make_database().await?;
        let migrated =
            tokio::time::timeout(Duration::from_millis(self.options.timeout_ms), migration::run(&self.client));
        match migrated.await {
            Ok(Ok(())) => {}
            Ok(Err(Failure::Server(doing, error))) => return Err(fault::of(&self.target, &doing, &error)),
            Ok(Err(Failure::Foreign(why))) => {
                return Err(fault::refused(&self.target, "schema", &why, "nothing was written"));
            }
            Err(_) => return Err(fault::of(&self.target, "migrating", &Error::TimedOut)),
        }
        self.check_columns().await?;
        info!(sink = "clickhouse", target = self.target, "tables are up to date");
        Ok(())
    }

    /// Not kept: rows carry their identity, and a position could not be written together with them.
    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(None)
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        let Some(table) = Table::of(step.stream) else {
            let doing = format!("stream {}", step.stream);
            return Err(fault::refused(&self.target, &doing, "there is no table for it", "send it to another sink"));
        };
        let broken = |error: ArrowError| {
            fault::refused(&self.target, &format!("rows for {}", table.name), &error.to_string(), "this is a bug")
        };
        let mut encoder = Encoder::new(&(table.schema)(), &self.options.topic);
        let mut parts = 0;
        for (index, rows) in step.rows.iter().enumerate() {
            let bytes = encoder.push(rows.batch()).map_err(broken)?;
            if (bytes >= self.options.insert_bytes_max || index + 1 == step.rows.len())
                && let Some(rows) = encoder.finish().map_err(broken)?
            {
                self.insert(table.name, table.insert(), step, parts, rows).await?;
                parts += 1;
            }
        }
        Ok(())
    }
}

/// Whether a name can stand between backquotes: 1 to 64 of `A-Z a-z 0-9 _`, not beginning with a digit.
fn is_name(name: &str) -> bool {
    let safe = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(safe) && !name.as_bytes()[0].is_ascii_digit()
}
