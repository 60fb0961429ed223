//! Everything in one process: the log, the dataflow, the sinks and the edge, started in the order in which they need each
//! other and stopped in the reverse one, so that what was taken in is written out.

mod checkpoints;
mod inputs;
mod outputs;
pub mod settings;
mod streams;
mod tell;

use std::cell::Cell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sinks::edge::Edge;
use sinks::run::Feed;
use tokio::sync::{mpsc, watch};
use tracing::{error, info};
use warp::Filter;

use crate::admin::{self, Readiness};
use crate::config::{Config, Source};
use crate::job::Job;
use crate::watchdog::{Sample, Watchdog};
use crate::worker::Progress;
use crate::{metrics, schema};

use checkpoints::{Checkpoints, Saving};

use inputs::Inputs;
pub(crate) use inputs::open_log;
use outputs::Outputs;
pub(crate) use outputs::{clickhouse_sink, redis_sink};
use streams::Streams;

/// How often the process looks at itself.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until a signal asks it to stop or something fails for good. `ready` is called with the edge's address.
///
/// # Errors
/// What failed, and what to do.
pub async fn run(config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), String> {
    let figures = admin::install_metrics().map_err(|why| format!("cannot keep metrics: {why}"))?;
    let readiness = Readiness::default();
    let caught_up = readiness.condition("input", "nothing has been read yet");
    let (edge, edge_sink) = Edge::new(config.edge.options.clone());
    let (fatal, refused) = mpsc::channel(16);
    let catalog = schema::catalog_of_source(&config)?;
    let mut inputs = Inputs::open(&config, catalog.declared().collect())?;
    let checkpoints = Checkpoints::open(&config, &inputs).await?;
    let from = checkpoints.as_ref().map(Checkpoints::from).unwrap_or_default();
    let again_from = checkpoints.as_ref().and_then(Checkpoints::again_from);
    let gate = sources::listen::routes(inputs.gate(&config)?);
    let streams = Streams::start(&config, catalog, from.floor > 0).await?;
    let mut extra = admin::routes(readiness.clone(), figures.clone()).or(gate).unify().boxed();
    let mut readers = None;
    if let Some(streams) = &streams {
        streams.engine().set_past(Arc::new(inputs.replay(&config)));
        let reads = streams.serve(&config)?;
        tell::tell(&streams.engine(), &figures);
        extra = extra.or(streams.routes(&config, reads.gate())).unify().or(reads.routes()).unify().boxed();
        readers = Some(reads);
    }
    let addr: SocketAddr =
        config.edge.listen.parse().map_err(|_| format!("edge.listen {} is not an address", config.edge.listen))?;
    let server = edge.bind(addr, extra).map_err(|why| why.to_string())?;
    let outputs = Outputs::start(&config, edge_sink, from.floor, again_from, &readiness, fatal)?;
    let (durability, saving) = match checkpoints {
        Some(checkpoints) => {
            let views = streams.as_ref().map(|streams| Box::new(streams.have_before()) as _);
            let (durability, saving) = checkpoints.start(outputs.feeds(), views)?;
            (Some(durability), Some(saving))
        }
        None => (None, None),
    };
    let resumed = Some(from.floor).filter(|&tick| tick > 0);
    let job = Job::start(
        settings::job(&config),
        inputs.origin(&config, from),
        outputs.ends(),
        streams.as_ref().map(Streams::engine),
        durability,
        metrics::report,
    )?;
    if let Some((streams, from)) = streams.as_ref().zip(resumed) {
        streams.build_again(from);
    }
    inputs.simulate(&config)?;

    let addr = server.addr();
    let (stop_server, stopping) = watch::channel(false);
    let serving = tokio::spawn(server.run(async move {
        let mut stopping = stopping;
        // An error is a sender that is gone: the process is ending.
        let _ = stopping.wait_for(|stop| *stop).await;
    }));
    info!(%addr, workers = config.run.workers, source = ?config.run.source, sinks = outputs.names(), "running");
    ready(addr);

    let patience = Duration::from_millis(config.run.stuck_ms_max);
    let watched =
        Watched { job: &job, inputs: &inputs, feeds: outputs.feeds(), streams: streams.as_ref(), rows: Cell::new(0) };
    let outcome = watch_over(watched, refused, &caught_up, Watchdog::new(patience)).await;
    info!("stopping");
    if let Some(streams) = &streams {
        streams.engine().stop();
    }
    inputs.stop();
    let deadline = Duration::from_millis(config.run.drain_ms_max);
    let saving = match saving {
        Some(saving) => Some(cut(saving, deadline).await?),
        None => None,
    };
    job.stop();
    let ended = tokio::task::spawn_blocking(move || job.join()).await.map_err(|why| why.to_string())?;
    let views = async {
        match streams {
            Some(streams) => streams.stop(deadline).await,
            None => 0,
        }
    };
    let (left, of_views) = futures_util::join!(outputs.drain(deadline), views);
    if let Some(saving) = saving {
        tokio::task::spawn_blocking(move || saving.end()).await.map_err(|why| why.to_string())?;
    }
    stop_server.send_replace(true);
    drop(readers);
    // It has a limit of its own for clients that do not take their leave.
    let _ = serving.await;
    if left + of_views > 0 {
        error!(
            rows = left + of_views,
            "stopped with rows unwritten; they are in the log and come again with the next start"
        );
    }
    info!("stopped");
    outcome.and(ended)
}

/// Has the workers stop where the last checkpoint is cut.
async fn cut(saving: Saving, deadline: Duration) -> Result<Saving, String> {
    let cut = move || {
        saving.cut(deadline);
        saving
    };
    tokio::task::spawn_blocking(cut).await.map_err(|why| why.to_string())
}

/// What is watched while the process runs.
struct Watched<'a> {
    job: &'a Job,
    inputs: &'a Inputs,
    feeds: Vec<Feed>,
    streams: Option<&'a Streams>,
    /// Rows that the workers had taken in at the last look.
    rows: Cell<u64>,
}

impl Watched<'_> {
    /// What hangs, if something does.
    fn hang(&self, watchdog: &mut Watchdog) -> Option<String> {
        use std::sync::atomic::Ordering::Relaxed;
        let sample = |progress: &Arc<Progress>| Sample {
            rounds: progress.rounds.load(Relaxed),
            frontier: progress.frontier.load(Relaxed),
            in_flight: progress.in_flight_rows.load(Relaxed),
        };
        let samples: Vec<Sample> = self.job.progress().iter().map(sample).collect();
        let rows = self.job.progress().iter().map(|progress| progress.rows.load(Relaxed)).sum();
        // A cluster that is away holds some partitions and not others.
        let away = !self.inputs.is_embedded() && self.rows.replace(rows) == rows;
        let excused = away || self.feeds.iter().any(|feed| feed.is_full() || feed.trouble().is_some());
        watchdog.look(Instant::now(), &samples, excused)
    }
}

/// Waits for a reason to stop.
async fn watch_over(
    watched: Watched<'_>,
    mut refused: mpsc::Receiver<sinks::run::Fatal>,
    caught_up: &admin::Condition,
    mut watchdog: Watchdog,
) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};
    let Watched { job, inputs, streams, .. } = watched;
    let mut terminate = signal(SignalKind::terminate()).map_err(|why| format!("cannot wait for signals: {why}"))?;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            Some(fatal) = refused.recv() => {
                return Err(format!("sink {}: {}", fatal.sink, fatal.error));
            }
            _ = look.tick() => {
                if job.is_finished() {
                    return Ok(()); // what it failed with comes from `join`
                }
                if let Some(why) = inputs.failure() {
                    return Err(why);
                }
                if let Some(why) = watched.hang(&mut watchdog) {
                    // Nobody could stop what hangs; a panic ends the process, and the next start goes on from the last checkpoint.
                    panic!("{why}");
                }
                if let Some(streams) = streams {
                    streams.look();
                }
                match inputs.behind_ms(job.frontier()) {
                    behind if behind < 5_000 => {
                        caught_up.met();
                        streams.inspect(|streams| streams.caught_up());
                    }
                    behind => caught_up.waits(format!("{} s behind the log", behind / 1_000)),
                }
            }
        }
    }
}

/// Whether the process reads Kafka.
fn reads_kafka(config: &Config) -> bool {
    config.run.source == Source::Kafka
}
