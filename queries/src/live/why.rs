//! One key of a stream, followed: through which operators its rows went, and where they stop
//! ([decision 19](../../../pipeline/docs/decisions/0019-why-runs-the-plan-again.md)).
//!
//! Invariant: what runs is not touched and keeps nothing for it. The plan is run again, on a thread of its own, over the log and
//! over what tables hold, with everything left out that cannot be of the key.

mod key;
mod play;
mod point;
mod reason;
mod seen;
mod sieve;
mod told;
mod trace;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use operators::error::Refusal;
use operators::row::{Diff, Row};
use operators::time::Tick;

use super::backfill::{History, LOOK, see};
use super::engine::{Engine, State};
use super::feed::{Cut, Feed, Past, read};
use super::keep::{Held, Keeper};
use crate::catalog::{Relation, View};
use crate::plan::{Kind, Node, inlined};
use crate::question::{STACK_BYTES, guard};
use key::Key;
use play::{Log, Question, play};
use point::Columns;
use trace::{STEPS_MAX, Trace, trace};

pub use told::{Check, Fault, Line, Read, Why};

/// What is asked.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Values with `|` between.
    pub key: String,
    /// Names of their columns with commas between; without them the stream's key.
    pub by: Option<String>,
    /// Of how much time events are taken.
    pub history: History,
}

/// What is followed, and over what.
struct Prepared {
    relation: Relation,
    key: Key,
    trace: Arc<Trace>,
    /// Streams and tables that are read from the log.
    names: Vec<String>,
    /// Ports of tables that are taken as they are kept, by name.
    ports: BTreeMap<String, String>,
    /// The port of the stream itself, if it is a table that is kept.
    own: Option<String>,
    columns: Columns,
    /// Events before it are left out.
    since: Tick,
    notes: Vec<String>,
}

/// What tables hold, all as of one tick.
struct Kept {
    as_of: Tick,
    tables: BTreeMap<String, Vec<(Row, Diff)>>,
    own: Option<Vec<(Row, Diff)>>,
}

impl Engine {
    /// Follows one key of a stream. Ends when nobody waits for it any more.
    ///
    /// # Errors
    /// There is no such stream or key, another one is followed, the log cannot be read, or it takes too much.
    pub async fn why(&self, name: &str, asked: &Asked) -> Result<Why, Refusal> {
        let prepared = self.prepare(name, asked)?;
        let following = self.following.clone().try_lock_owned().map_err(|_| busy("another key is being followed"))?;
        let reads_log = !prepared.names.is_empty();
        let reading = match reads_log {
            true => {
                Some(self.reading.clone().try_lock_owned().map_err(|_| busy("a stream is being built from the log"))?)
            }
            false => None,
        };
        let past = self.past.get().cloned().filter(|_| reads_log);
        if reads_log && past.is_none() {
            let message = "this process keeps no log that could be read again";
            return Err(Refusal::new("stream_past_unreadable", message));
        }
        let deadline = Instant::now() + Duration::from_millis(self.options.why_ms_max);
        let (keeper, ports) = (self.keeper.clone(), prepared.all_ports());
        // Large tables take their time.
        let rows = tokio::task::spawn_blocking(move || keeper.rows(&ports)).await;
        let rows = rows.map_err(|why| Refusal::new("why_failed", format!("the tables cannot be read: {why}")))?;
        let kept = Kept::of(&prepared, rows);
        // Whatever is read has to be over for what runs.
        while reads_log && self.keeper.as_of() <= kept.as_of {
            if Instant::now() >= deadline {
                return Err(busy("the dataflow does not move"));
            }
            tokio::time::sleep(LOOK).await;
        }
        let stopped = StopOnDrop::default();
        let past = past.map(|past| (past, log(&prepared, &self.keeper, kept.as_of + 1)));
        if let Some((_, log)) = &past {
            let followed = Some((name.to_owned(), Arc::downgrade(&log.feed)));
            *self.followed.lock().unwrap_or_else(PoisonError::into_inner) = followed;
        }
        let (bytes_max, stop) = (self.options.bytes_max, stopped.0.clone());
        let work = Work { prepared, past, kept, deadline, bytes_max, stopped: stop };
        let (tell, told) = tokio::sync::oneshot::channel();
        let give_way = self.past.get().cloned();
        let thread = std::thread::Builder::new().name("why".into()).stack_size(STACK_BYTES).spawn(move || {
            guard();
            if let Some(past) = give_way {
                past.give_way();
            }
            let done = work.run();
            drop((following, reading));
            // Nobody may wait any more.
            let _ = tell.send(done);
        });
        thread.map_err(|why| no_thread(&why))?;
        told.await
            .unwrap_or_else(|_| Err(Refusal::new("why_failed", "following the key ended abruptly: a fault of ours")))
    }

    /// How much of the log is read for a key of this stream, while one is followed.
    pub(super) fn following(&self, name: &str) -> Option<u64> {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, feed) = followed.as_ref().filter(|(followed, _)| followed == name)?;
        Some(feed.upgrade().filter(|feed| !feed.is_stopped())?.percent())
    }

    /// Gives up what is being followed: the process ends.
    pub(super) fn stop_following(&self) {
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(feed) = followed.as_ref().and_then(|(_, feed)| feed.upgrade()) {
            feed.stop();
        }
    }

    fn prepare(&self, name: &str, asked: &Asked) -> Result<Prepared, Refusal> {
        let state = self.state();
        let view = state.catalog.view(name).ok_or_else(|| state.catalog.unknown(name))?;
        let key = key::parsed(&view.relation, &asked.key, asked.by.as_deref())?;
        let mut notes = notes(&state, view);
        let (node, mut since) = of_the_log(&state, view);
        if since > 0 {
            let at = crate::trial::cells::shown_time(since);
            notes.push(format!("it was added without all of its past: no event of before {at} is in it"));
        }
        if let History::Last(ms) = asked.history {
            since = since.max(self.keeper.as_of().saturating_sub(ms));
            notes.push(format!("events of before {} were left out", crate::trial::cells::shown_time(since)));
        }
        let traced = trace(&node, key.conditions()).map_err(|why| Refusal::new("why_failed", why.strip_backtrace()))?;
        let trace = traced.ok_or_else(|| {
            let message = format!("with all that it reads the stream has more than {STEPS_MAX} operators");
            Refusal::new("why_too_large", message).hint("ask for what it reads")
        })?;
        let mut names = BTreeSet::new();
        see(&node, false, &mut names);
        let reads: BTreeSet<String> = node.reads().into_iter().map(str::to_owned).collect();
        let columns = reads.iter().filter_map(|name| {
            let fields = state.catalog.relation(name)?.schema.fields();
            Some((name.clone(), fields.iter().map(|field| field.name().clone()).collect()))
        });
        let columns = columns.collect();
        let running = state.running.get(name).filter(|running| running.watch.suspended().is_none());
        let own = running.filter(|_| view.relation.kind == Kind::Table).map(|running| running.port.clone());
        let mut tables: BTreeSet<String> = BTreeSet::new();
        node.visit(&mut |node| {
            if let (crate::plan::Op::Get(name), Kind::Table) = (&node.op, node.kind) {
                tables.insert(name.clone());
            }
        });
        let port = |name: String| {
            let port = state.running.get(&name).map_or_else(|| name.clone(), |running| running.port.clone());
            (name, port)
        };
        Ok(Prepared {
            relation: view.relation.clone(),
            key,
            trace: Arc::new(trace),
            names: names.into_iter().collect(),
            ports: tables.into_iter().map(port).collect(),
            own,
            columns,
            since,
            notes,
        })
    }
}

fn busy(why: &str) -> Refusal {
    Refusal::new("why_busy", format!("the log is not free to be read: {why}")).hint("ask again in a moment")
}

/// What an answer has to say of how the stream does.
fn notes(state: &State, view: &View) -> Vec<String> {
    let name = &view.relation.name;
    let suspended = state.running.get(name).and_then(|running| running.watch.suspended());
    match (suspended, state.building.contains_key(name), state.running.contains_key(name)) {
        (Some(suspended), ..) => vec![format!("the stream is suspended and holds nothing: {}", suspended.reason)],
        (None, true, false) => vec!["the stream is still being built, and nobody sees its rows yet".to_owned()],
        (None, false, false) => vec!["the name stands for a plan and holds nothing itself".to_owned()],
        _ => Vec::new(),
    }
}

/// The plan with derived streams whose events matter replaced by what they are made of, and since when all of these have
/// their events.
fn of_the_log(state: &State, view: &View) -> (Arc<Node>, Tick) {
    let mut node = view.node.clone();
    let since = |name: &str| state.running.get(name).map_or(0, |running| running.since);
    let mut since_all = since(&view.relation.name);
    loop {
        let mut names = BTreeSet::new();
        see(&node, false, &mut names);
        let derived: BTreeMap<&String, &View> =
            names.iter().filter_map(|name| Some((name, state.catalog.view(name)?))).collect();
        if derived.is_empty() {
            return (node, since_all);
        }
        since_all = derived.keys().map(|name| since(name)).max().unwrap_or(0).max(since_all);
        node = inlined(&node, &|name| {
            derived.iter().find(|(known, _)| **known == name).map(|(_, view)| view.node.clone())
        });
    }
}

impl Prepared {
    fn all_ports(&self) -> Vec<String> {
        self.ports.values().chain(&self.own).cloned().collect()
    }
}

impl Kept {
    fn of(prepared: &Prepared, (as_of, mut rows): (Tick, BTreeMap<String, Vec<(Row, Diff)>>)) -> Kept {
        let own = prepared.own.as_ref().and_then(|port| rows.remove(port));
        let table = |(name, port): (&String, &String)| (name.clone(), rows.remove(port).unwrap_or_default());
        Kept { as_of, tables: prepared.ports.iter().map(table).collect(), own }
    }
}

/// Tells the work that nobody waits for it.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The log up to this tick.
fn log(prepared: &Prepared, keeper: &Keeper, first: Tick) -> Log {
    let Prepared { names, relation, since, .. } = prepared;
    let made = Held::not_kept("why", relation.schema.clone(), Kind::Table);
    let feed = Arc::new(Feed::new(names.clone(), *since, made.clone(), 1));
    // What comes from then on is not asked for.
    feed.end_at(Cut { before: first, last: BTreeMap::new(), first });
    feed.follow(keeper.as_of());
    let keeper = keeper.clone();
    let keep_up = move |feed: &Feed| feed.follow(keeper.as_of());
    Log { feed, made, keep_up: Box::new(keep_up) }
}

/// All that the thread needs.
struct Work {
    prepared: Prepared,
    past: Option<(Arc<dyn Past>, Log)>,
    kept: Kept,
    deadline: Instant,
    bytes_max: u64,
    stopped: Arc<AtomicBool>,
}

impl Work {
    fn run(self) -> Result<Why, Refusal> {
        let Work { prepared, past, mut kept, deadline, bytes_max, stopped } = self;
        let (first, trace) = (kept.as_of + 1, prepared.trace.clone());
        let content = std::mem::take(&mut kept.tables);
        let Some((past, log)) = past else {
            let question = Question { trace, log: None, content, first, deadline, bytes_max, stopped };
            return Ok(told::told(&prepared, &kept, &play(question)?, None));
        };
        let feed = log.feed.clone();
        let reading = Reading(feed.clone(), Some(read(past, feed.clone()).map_err(|why| no_thread(&why))?));
        let followed = play(Question { trace, log: Some(log), content, first, deadline, bytes_max, stopped });
        drop(reading);
        Ok(told::told(&prepared, &kept, &followed?, Some(feed.rows())))
    }
}

/// The log that is being read; no longer than this is there.
struct Reading(Arc<Feed>, Option<std::thread::JoinHandle<()>>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.stop();
        // What went wrong with it stands in the feed.
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

fn no_thread(why: &std::io::Error) -> Refusal {
    Refusal::new("why_failed", format!("no thread can be started: {why}"))
}

#[cfg(test)]
mod tests;
