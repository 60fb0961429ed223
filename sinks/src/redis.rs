//! Redis: the current state of every vehicle, readable with a plain client, and its changes on channels.
//!
//! Invariant: a key is only written over an older version, in one script with the geo set and the message that tells of it.
//! So the same step again, or a writer that lags behind, changes nothing and publishes nothing.
//!
//! # Keys
//! `hs:1` is the configured prefix, `hs` and the version of this layout. An id in a key has every byte other than
//! `A-Z a-z 0-9 . _ : -` percent-encoded; [`%none`](key) stands for no company.
//!
//! | key | type | what |
//! | --- | --- | --- |
//! | `hs:1:vehicle:{id}` | hash | `version` and the fields of `vehicle_state` that have a value; `digest` is ours |
//! | `hs:1:geo:{company}` | geo set | ids of the company's vehicles (as they are, not encoded) with a position within ±85.05° |
//! | `hs:1:links:{vehicle}` | hash | `version` and the fields of `vehicle_links` that have a value |
//! | `hs:1:epoch` | string | made with the data; another or none means that the data was lost |
//! | `hs:1:server` | string | the run of the server that was written last: after another one a start writes the tables whole |
//! | `hs:1:delta:{company}` | channel | `{"upsert":[row…],"remove":[{"vehicle_id":…,"version":…}…]}` |
//!
//! `version` is the tick of the change. A deleted key is a tombstone for a while: a hash with `version` and `deleted` = `1`
//! and nothing else, so that an older upsert that comes late does not bring it back. A row in a delta is a whole row; a
//! vehicle that comes to another company is removed on the old one's channel.
//!
//! The scripts reach keys that they compute, which a Redis Cluster does not allow: the server is a single Redis, or one
//! with replicas. What Redis acknowledged but had not yet saved when its machine lost power is lost with it; the sink
//! notices a Redis that came back empty (see [`Metric::RedisEmptied`]) and goes on: vehicles appear again as they change.

mod call;
mod fault;
mod geo;
mod key;
mod message_pack;
mod row;
pub mod view;

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection};
use ::redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo, Pipeline, RedisError, Value, cmd};
use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use futures_util::future::join;
use metrics::counter;
use operators::batch::TICK;
use operators::connection;
use operators::time::Tick;
use serde::Deserialize;
use tracing::{error, info, warn};

use self::call::{Calls, Frame};
use self::row::Columns;
use crate::json::{self, Nulls};
use crate::metrics::Metric;
use crate::run::Route;
use crate::step::{Rows, Sink, SinkError, Step};

/// The streams that this sink takes.
pub const ROUTES: [Route; 2] = [
    Route { stream: "vehicle_state", keys: &["vehicle_id"] },
    Route { stream: "vehicle_links", keys: &["vehicle_id"] },
];

const STATE_SCRIPT: &str = include_str!("redis/vehicle_state.lua");
const LINKS_SCRIPT: &str = include_str!("redis/vehicle_links.lua");
/// The scripts pass two values a vehicle from Lua's stack, which holds 8,000.
const SCRIPT_VEHICLES_LIMIT: usize = 2_000;
const PREFIX_CHARS_MAX: usize = 64;

/// How Redis is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Vehicles a script call takes, at most 2,000. Other clients wait while a call runs, 5 to 15 µs a vehicle.
    pub script_vehicles_max: usize,
    /// Bytes of calls that are sent before their answers are waited for.
    pub pipeline_bytes_max: usize,
    /// Milliseconds that a deleted vehicle is remembered, so that older changes that come late do not bring it back.
    pub tombstone_ttl_ms: u64,
    /// Milliseconds to wait for a connection, and for the answer to what was sent.
    pub timeout_ms: u64,
}

/// Writes `vehicle_state` and `vehicle_links` to Redis.
#[derive(Debug)]
pub struct RedisSink {
    options: Options,
    prefix: String,
    client: Client,
    /// What errors call the server.
    target: String,
    session: Option<Session>,
    /// The epoch that the last look found.
    epoch: Option<String>,
    /// Whether the server has not run without a break since it was written last: what it was given then may be gone.
    restarted: bool,
}

/// An open connection and the names under which the server keeps the scripts.
#[derive(Clone, Debug)]
struct Session {
    connection: MultiplexedConnection,
    state_script: String,
    links_script: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    VehicleState,
    VehicleLinks,
}

impl RedisSink {
    /// A sink that is not connected yet.
    ///
    /// # Errors
    /// [`SinkError::Refused`] if the options or the URL cannot work.
    pub fn new(redis: &connection::Redis, options: Options) -> Result<Self, SinkError> {
        let rule = |holds: bool, rule: &str| {
            if holds { Ok(()) } else { Err(fault::refused("redis", rule.to_owned(), "correct the configuration")) }
        };
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
        rule(
            (1..=PREFIX_CHARS_MAX).contains(&redis.prefix.len()) && redis.prefix.bytes().all(safe),
            "redis.prefix must be 1 to 64 of A-Z a-z 0-9 . _ : -",
        )?;
        rule(
            (1..=SCRIPT_VEHICLES_LIMIT).contains(&options.script_vehicles_max),
            "script_vehicles_max must be from 1 to 2000",
        )?;
        rule(options.pipeline_bytes_max > 0, "pipeline_bytes_max must be above 0")?;
        rule(options.tombstone_ttl_ms > 0, "tombstone_ttl_ms must be above 0")?;
        rule(options.timeout_ms > 0, "timeout_ms must be above 0")?;
        let (client, target) = client(redis).map_err(|error| fault::of_client("redis", &error))?;
        Ok(Self { options, prefix: redis.prefix.clone(), client, target, session: None, epoch: None, restarted: false })
    }

    async fn connect(&mut self) -> Result<Session, SinkError> {
        let failed = |error: RedisError| fault::of_client(&self.target, &error);
        let mut connection = connect(&self.client, self.options.timeout_ms).await.map_err(failed)?;
        let server: String = cmd("INFO").query_async(&mut connection).await.map_err(failed)?;
        self.inspect(&server)?;
        self.restarted = !self.is_same_run(&server, &mut connection).await.map_err(failed)?;
        let mut load = async |script: &str| -> Result<String, RedisError> {
            cmd("SCRIPT").arg("LOAD").arg(script).query_async(&mut connection).await
        };
        let state_script = load(STATE_SCRIPT).await.map_err(failed)?;
        let links_script = load(LINKS_SCRIPT).await.map_err(failed)?;
        let epoch = self.found_or_new_epoch(&mut connection).await.map_err(failed)?;
        self.compare(Some(epoch));
        Ok(Session { connection, state_script, links_script })
    }

    /// Looks at what the server says of itself (`INFO`).
    fn inspect(&self, server: &str) -> Result<(), SinkError> {
        let value = |name: &str| server.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        if value("cluster_enabled") == Some("1") {
            let why = "this is a node of a Redis Cluster".to_owned();
            return Err(fault::refused(&self.target, why, "name a single Redis, or one with replicas"));
        }
        let policy = value("maxmemory_policy").unwrap_or("noeviction");
        if value("maxmemory").is_some_and(|bytes| bytes != "0") && policy != "noeviction" {
            warn!(
                sink = "redis",
                policy, "Redis may drop vehicles when its memory is full: set maxmemory-policy noeviction"
            );
        }
        Ok(())
    }

    /// Whether the server's process is the one that was written last; from now on it is.
    async fn is_same_run(&self, server: &str, connection: &mut MultiplexedConnection) -> Result<bool, RedisError> {
        let run = server.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap_or_default();
        let key = format!("{}:server", self.prefix);
        let last: Option<String> = cmd("GET").arg(&key).query_async(connection).await?;
        let () = cmd("SET").arg(&key).arg(run).query_async(connection).await?;
        Ok(last.as_deref() == Some(run))
    }

    fn epoch_key(&self) -> String {
        format!("{}:epoch", self.prefix)
    }

    /// The epoch of the server's data; one is given to a server without.
    async fn found_or_new_epoch(&self, connection: &mut MultiplexedConnection) -> Result<String, RedisError> {
        let (seconds, micros): (String, String) = cmd("TIME").query_async(connection).await?;
        let new = format!("{seconds}.{micros:0>6}");
        let () = cmd("SET").arg(self.epoch_key()).arg(new).arg("NX").query_async(connection).await?;
        cmd("GET").arg(self.epoch_key()).query_async(connection).await
    }

    /// Tells of an epoch that is not the one seen before. Returns whether the epoch has to be made anew.
    fn compare(&mut self, found: Option<String>) -> bool {
        let lost = found.is_none();
        match &self.epoch {
            Some(seen) if found.as_ref() != Some(seen) => {
                counter!(Metric::RedisEmptied.name()).increment(1);
                error!(
                    sink = "redis",
                    target = self.target,
                    "Redis has lost its data (emptied, or restarted without its file): vehicles appear again as they change"
                );
            }
            _ => info!(sink = "redis", target = self.target, epoch = found, "connected"),
        }
        self.epoch = found;
        lost
    }

    /// Sends the calls of all steps, packing the next ones while the server works on those before.
    async fn write(&mut self, steps: &[Step], session: &mut Session) -> Result<(), SinkError> {
        let state = self.encoder(Stream::VehicleState, steps)?;
        let links = self.encoder(Stream::VehicleLinks, steps)?;
        let mut streams =
            [self.calls(Stream::VehicleState, steps, &state)?, self.calls(Stream::VehicleLinks, steps, &links)?];
        let changes: usize = streams.iter().map(Calls::len).sum();
        let mut written = 0;
        let mut filled = self.fill(&mut streams, session);
        while let Some(pipeline) = filled {
            let mut connection = session.connection.clone();
            let sent = connection.req_packed_commands(&pipeline, 0, pipeline.len());
            let (answers, next) = join(sent, async { self.fill(&mut streams, session) }).await;
            let answers = answers.map_err(|error| fault::of_client(&self.target, &error))?;
            let (epoch, accepted) = read(answers).map_err(|error| fault::of_server(&self.target, &error))?;
            written += accepted;
            if epoch != self.epoch && self.compare(epoch) {
                let epoch = self.found_or_new_epoch(&mut connection).await;
                self.epoch = Some(epoch.map_err(|error| fault::of_client(&self.target, &error))?);
            }
            filled = next;
        }
        counter!(Metric::RowsStale.name(), "sink" => "redis").increment((changes as u64).saturating_sub(written));
        Ok(())
    }

    /// Writes the JSON of the stream's rows, which all have the columns of the first batch.
    fn encoder(&self, stream: Stream, steps: &[Step]) -> Result<json::Encoder, SinkError> {
        let schema = batches(stream, steps).next().map_or_else(|| Arc::new(Schema::empty()), RecordBatch::schema);
        json::Encoder::new(&schema, Nulls::Omitted, &[(TICK, "version")])
            .map_err(|why| self.bug(stream, &why.to_string()))
    }

    fn calls<'a>(&self, stream: Stream, steps: &'a [Step], encoder: &'a json::Encoder) -> Result<Calls<'a>, SinkError> {
        let mut columns = Vec::new();
        let mut schema = None;
        for rows in batches(stream, steps) {
            if schema.get_or_insert(rows.schema_ref()) != &rows.schema_ref() {
                return Err(self.bug(stream, "batches of one stream have different columns"));
            }
            columns.push(Columns::of(rows, encoder).map_err(|why| self.bug(stream, &why))?);
        }
        Ok(Calls::new(stream, columns, self.options.script_vehicles_max))
    }

    fn bug(&self, stream: Stream, why: &str) -> SinkError {
        fault::refused(&self.target, format!("{}: {why}", stream.name()), "this is a bug")
    }

    /// The next pipeline: a look at the epoch, then calls up to the limit. `None` once there are no more.
    fn fill(&self, streams: &mut [Calls<'_>], session: &Session) -> Option<Pipeline> {
        let mut pipeline = Pipeline::new();
        let mut bytes = 0;
        for calls in streams {
            let script = match calls.stream() {
                Stream::VehicleState => &session.state_script,
                Stream::VehicleLinks => &session.links_script,
            };
            let frame = Frame { script, prefix: &self.prefix, tombstone_ttl_ms: self.options.tombstone_ttl_ms };
            while bytes < self.options.pipeline_bytes_max
                && let Some(call) = calls.next(&frame)
            {
                if bytes == 0 {
                    let mut look = Cmd::new();
                    look.arg("GET").arg(self.epoch_key());
                    pipeline.add_command(look);
                }
                bytes += call.args_iter().map(size).sum::<usize>();
                pipeline.add_command(call);
            }
        }
        (bytes > 0).then_some(pipeline)
    }
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::VehicleState => ROUTES[0].stream,
            Stream::VehicleLinks => ROUTES[1].stream,
        }
    }
}

impl Sink for RedisSink {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn open(&mut self) -> Result<(), SinkError> {
        self.session = None;
        self.session = Some(self.connect().await?);
        Ok(())
    }

    /// A server that was restarted may have lost the last it was given, and an empty one is new: it gets the tables whole.
    async fn applied(&mut self, _: &'static str, _: usize) -> Result<Option<Tick>, SinkError> {
        Ok(self.restarted.then_some(0))
    }

    async fn apply(&mut self, step: &Step) -> Result<(), SinkError> {
        self.apply_all(std::slice::from_ref(step)).await
    }

    async fn apply_all(&mut self, steps: &[Step]) -> Result<(), SinkError> {
        if let Some(step) = steps.iter().find(|step| ROUTES.iter().all(|route| route.stream != step.stream)) {
            let why = format!("there is no place for stream {}", step.stream);
            return Err(fault::refused(&self.target, why, "send it to another sink"));
        }
        let Some(mut session) = self.session.take() else {
            return Err(fault::unavailable(&self.target, "not connected".to_owned()));
        };
        // An error leaves the session closed, so that answers still under way are not taken for later ones'.
        self.write(steps, &mut session).await?;
        self.session = Some(session);
        Ok(())
    }
}

fn batches(stream: Stream, steps: &[Step]) -> impl Iterator<Item = &RecordBatch> {
    steps.iter().filter(move |step| step.stream == stream.name()).flat_map(|step| &step.rows).map(Rows::batch)
}

fn client(redis: &connection::Redis) -> Result<(Client, String), RedisError> {
    let info = redis.url.as_str().into_connection_info()?;
    let mut settings = info.redis_settings().clone();
    if !redis.password.is_empty() {
        settings = settings.set_password(redis.password.expose());
    }
    let target = format!("redis at {}/{}", info.addr(), settings.db());
    Ok((Client::open(info.set_redis_settings(settings))?, target))
}

/// A connection on which no attempt and no answer takes longer.
async fn connect(client: &Client, timeout_ms: u64) -> Result<MultiplexedConnection, RedisError> {
    let timeout = Some(Duration::from_millis(timeout_ms));
    let config = AsyncConnectionConfig::new().set_connection_timeout(timeout).set_response_timeout(timeout);
    client.get_multiplexed_async_connection_with_config(&config).await
}

/// The epoch and the number of rows written, or the first error.
fn read(answers: Vec<Value>) -> Result<(Option<String>, u64), ::redis::ServerError> {
    let mut epoch = None;
    let mut written = 0;
    for answer in answers {
        match answer {
            Value::ServerError(error) => return Err(error),
            Value::Int(rows) => written += rows.unsigned_abs(),
            Value::BulkString(bytes) => epoch = String::from_utf8(bytes).ok(),
            _ => {}
        }
    }
    Ok((epoch, written))
}

fn size(arg: ::redis::Arg<&[u8]>) -> usize {
    match arg {
        ::redis::Arg::Simple(bytes) => bytes.len() + 16,
        _ => 16,
    }
}
