//! The derived streams of the process: those of the configured directory from the start, others as they are asked for.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use operators::time::Tick;
use queries::catalog::{Catalog, files};
use queries::live::{Engine, Options, Suspended};
use queries::readers::Users;
use tracing::{error, info, warn};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::config::{self, Config};
use crate::reads::login::Gate;
use crate::reads::{self, Serving};
use crate::streams;
use crate::view_sinks::ViewSinks;

/// The running engine.
pub struct Streams {
    engine: Arc<Engine>,
    keeping: JoinHandle<()>,
    sinks: ViewSinks,
}

impl Streams {
    /// Declares the streams of the configured directory over what the catalog has, and starts their sinks. None if there can't be
    /// any. In a process that goes on from a checkpoint those whose past matters are [built again](Self::build_again).
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub async fn start(config: &Config, catalog: Catalog, goes_on: bool) -> Result<Option<Self>, String> {
        if !config.sql.enabled {
            return Ok(None);
        }
        let options = Options {
            workers: config.run.workers,
            rows_max: config.sql.stream_rows_max,
            table_rows_max: config.sql.table_rows_max,
            bytes_max: config.sql.bytes_max,
            time_pct_max: config.sql.time_pct_max,
            time_window_ms: config.sql.time_window_ms,
            streams_max: config.sql.streams_max,
            catch_up_ms_max: config.sql.catch_up_ms_max,
            why_ms_max: config.sql.why_ms_max,
        };
        let engine = Arc::new(Engine::new(catalog, options));
        if !config.sql.streams.is_empty() {
            declare_all(&engine, Path::new(&config.sql.streams), goes_on)?;
        }
        let keeping = engine.keeper().start().map_err(|why| format!("cannot start a thread: {why}"))?;
        let sinks = ViewSinks::start(engine.clone(), config).await;
        Ok(Some(Self { engine, keeping, sinks }))
    }

    /// Builds the streams whose past matters from the log, once the dataflow works beyond the tick at which it goes on.
    pub fn build_again(&self, from: Tick) {
        // It ends with the engine.
        drop(self.engine.build_again(from));
    }

    /// Whether the sinks of streams of events have everything before this tick. Those of tables get their content anyway.
    pub fn have_before(&self) -> impl Fn(Tick) -> bool + Send + 'static {
        let sinks = self.sinks.clone();
        move |tick| sinks.have_before(tick)
    }

    /// The engine.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.clone()
    }

    /// The routes. Where nobody is asked who they are, a process that others can reach only lists.
    pub fn routes(&self, config: &Config, gate: &Gate) -> BoxedFilter<(Response,)> {
        let near = config.edge.listen.parse::<std::net::SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback());
        let all = streams::routes(self.engine.clone(), self.sinks.clone(), gate);
        // Following a key reads the log again, which is not for everybody.
        let why = streams::why(self.engine.clone(), gate);
        if near || !gate.is_open() { all.or(why).unify().boxed() } else { warp::get().and(all).boxed() }
    }

    /// Serves readers, who are these users if there are any. A port that somebody else has costs the Postgres clients, not the process.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn serve(&self, config: &Config) -> Result<Serving, String> {
        let options = &config.reads;
        let history = config.parquet.enabled.then(|| config.run.data.join("history"));
        let users = Arc::new(config::users(&config.users));
        tell(&users);
        reads::serve(self.engine(), history.clone(), options, users.clone()).or_else(|why| {
            error!(%why, "Postgres clients are not served");
            let without = config::Reads { postgres_listen: String::new(), ..options.clone() };
            reads::serve(self.engine(), history, &without, users).map_err(|why| why.to_string())
        })
    }

    /// Takes streams down that take too much, and shows how all do.
    pub fn look(&self) {
        for Suspended { name, budget, reason } in self.engine.suspend_exceeded() {
            warn!(stream = name, budget, reason, "suspended");
        }
        self.engine.report();
    }

    /// The log has been read to its end.
    pub fn caught_up(&self) {
        self.sinks.caught_up();
    }

    /// Ends the sinks, which write what they were handed over within the deadline, and the keeping of content. Returns the rows
    /// that are not written.
    pub async fn stop(self, deadline: Duration) -> u64 {
        let left = self.sinks.drain(deadline).await;
        self.engine.keeper().stop();
        // A panic there has ended the process already.
        let _ = self.keeping.join();
        left
    }
}

/// Says who can read what, and what nobody is asked for.
fn tell(users: &Users) {
    let (all, restricted) = users.count();
    if all == 0 {
        info!("there are no users: whoever reaches the Postgres wire and /v1 reads everything");
        return;
    }
    info!(users = all, restricted, "the Postgres wire, /v1/views and /v1/streams are for users");
    warn!("nobody is asked who they are at the map and /realtime (all vehicles), /metrics and the ingestion gate");
}

/// Declares every file of a directory.
fn declare_all(engine: &Engine, directory: &Path, goes_on: bool) -> Result<(), String> {
    let read = files(directory, "sql");
    let read = read.map_err(|why| format!("sql.streams: cannot read {}: {why}", directory.display()))?;
    let problems = if goes_on { engine.declare_again(&read) } else { engine.declare(&read) };
    if !problems.is_empty() {
        return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    for stream in engine.list() {
        info!(stream = stream.name, notes = stream.notes.join("; "), "declared");
    }
    Ok(())
}
