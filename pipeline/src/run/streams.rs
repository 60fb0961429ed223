//! The derived streams of the process: those of the configured directory from the start, others as they are asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use queries::catalog::Catalog;
use queries::live::{Engine, Options};
use tracing::{error, info, warn};
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::config::{self, Config};
use crate::reads::{self, Serving};
use crate::streams;

/// The running engine.
pub struct Streams {
    engine: Arc<Engine>,
    keeping: JoinHandle<()>,
}

impl Streams {
    /// Declares the streams of the configured directory. None if there can't be any.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn start(config: &Config) -> Result<Option<Self>, String> {
        if !config.sql.enabled {
            return Ok(None);
        }
        let options = Options {
            workers: config.run.workers,
            rows_max: config.sql.stream_rows_max,
            streams_max: config.sql.streams_max,
            catch_up_ms_max: config.sql.catch_up_ms_max,
        };
        let engine = Arc::new(Engine::new(Catalog::of_the_main_job(), options));
        if !config.sql.streams.is_empty() {
            declare_all(&engine, Path::new(&config.sql.streams))?;
        }
        let keeping = engine.keeper().start().map_err(|why| format!("cannot start a thread: {why}"))?;
        Ok(Some(Self { engine, keeping }))
    }

    /// The engine.
    pub fn engine(&self) -> Arc<Engine> {
        self.engine.clone()
    }

    /// The routes. Nobody's rights are checked yet, so a process that others can reach only lists.
    pub fn routes(&self, config: &Config) -> BoxedFilter<(Response,)> {
        let near = config.edge.listen.parse::<std::net::SocketAddr>().is_ok_and(|addr| addr.ip().is_loopback());
        let all = streams::routes(self.engine.clone());
        if near { all } else { warp::get().and(all).boxed() }
    }

    /// Serves readers. A port that somebody else has costs the Postgres clients, not the process.
    ///
    /// # Errors
    /// Threads cannot be started.
    pub fn serve(&self, options: &config::Reads) -> Result<Serving, String> {
        reads::serve(self.engine(), options).or_else(|why| {
            error!(%why, "Postgres clients are not served");
            let without = config::Reads { postgres_listen: String::new(), ..options.clone() };
            reads::serve(self.engine(), &without).map_err(|why| why.to_string())
        })
    }

    /// Takes streams down that hold too much.
    pub fn look(&self) {
        for name in self.engine.suspend_exceeded() {
            warn!(stream = name, "suspended: it holds more rows than sql.stream_rows_max");
        }
    }

    /// Ends the keeping of content.
    pub fn stop(self) {
        self.engine.keeper().stop();
        // A panic there has ended the process already.
        let _ = self.keeping.join();
    }
}

/// Declares every file of a directory; those that others read first.
fn declare_all(engine: &Engine, directory: &Path) -> Result<(), String> {
    let cannot = |why: std::io::Error| format!("sql.streams: cannot read {}: {why}", directory.display());
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    let mut waiting: Vec<(PathBuf, String)> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(cannot)?;
        waiting.push((file, text));
    }
    // A file may read what another one declares: what cannot be planned yet waits for the others.
    loop {
        let before = waiting.len();
        let mut failed = Vec::new();
        waiting.retain(|(file, text)| match engine.declare(text) {
            Ok(name) => {
                let notes = engine.status(&name).map(|status| status.notes.join("; ")).unwrap_or_default();
                info!(stream = name, notes, "declared");
                false
            }
            Err(why) => {
                failed.push(format!("{}: {why}", file.display()));
                true
            }
        });
        if waiting.is_empty() {
            return Ok(());
        }
        if waiting.len() == before {
            return Err(failed.join("\n"));
        }
    }
}
