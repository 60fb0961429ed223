//! The derived streams of a process: what is declared, what runs, and the way from one to the other.
//!
//! Invariant: one change at a time; a name answers with its old version until the new one has caught up, and a change that
//! fails leaves everything as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use operators::error::Refusal;
use operators::time::Tick;
use serde::Serialize;
use tokio::sync::broadcast;

use super::Live;
use super::backfill::{Building, History};
use super::command::{Commands, Start};
use super::feed::Past;
use super::keep::{Change, Content, Held, Keeper};
use crate::catalog::{Catalog, File, Problem, View};
use crate::plan::{Kind, Node};

/// What derived streams may take.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Workers of the dataflow.
    pub workers: usize,
    /// Rows that one stream may hold; one that passes it is suspended.
    pub rows_max: usize,
    /// Derived streams, those included that only others use.
    pub streams_max: usize,
    /// Milliseconds that a new stream may take to catch up.
    pub catch_up_ms_max: u64,
}

/// How a stream does.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `running`, or why it is not.
    pub state: String,
    /// `events` or `table`.
    pub kind: &'static str,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// What it reads.
    pub reads: Vec<String>,
    /// How much of it is built, in hundredths, while it is.
    pub percent: Option<u64>,
    /// Rows it holds.
    pub rows: usize,
    /// Bytes of these rows.
    pub bytes: usize,
    /// Changes since it runs.
    pub changes: u64,
    /// Rows that no result could be computed for.
    pub faults: usize,
    /// The tick that its content is of, milliseconds since the epoch.
    pub as_of: Tick,
    /// Parts that it shares with others.
    pub shares: usize,
    /// What its declaration asks for that is not done yet.
    pub notes: Vec<String>,
    /// What was declared.
    pub sql: String,
}

#[derive(Clone)]
pub(super) struct Running {
    pub port: String,
    /// What was declared, by the names that it uses.
    pub plan: Arc<Node>,
    /// What is built of it.
    pub node: Arc<Node>,
    /// Events before it were not seen; 0 if all were.
    pub since: Tick,
    pub rows: Arc<Held>,
    pub faults: Arc<Held>,
    /// Ports of parts that others have too.
    pub shares: BTreeSet<String>,
    pub state: String,
}

#[derive(Default)]
pub(super) struct State {
    pub catalog: Catalog,
    pub running: BTreeMap<String, Running>,
    /// Parts that several streams have, by their ports, and how many do.
    pub parts: BTreeMap<String, (Running, usize)>,
    pub versions: u64,
    /// Streams, or new versions of them, that are on their way.
    pub building: BTreeMap<String, Arc<Building>>,
}

/// The derived streams of a process.
pub struct Engine {
    state: Mutex<State>,
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The log is read again by one at a time.
    pub(super) reading: tokio::sync::Mutex<()>,
    pub(super) past: OnceLock<Arc<dyn Past>>,
    pub(super) commands: Arc<Commands>,
    pub(super) keeper: Keeper,
    pub(super) bases: Arc<BTreeMap<String, Arc<Held>>>,
    pub(super) options: Options,
}

impl Engine {
    /// An engine over the relations of a catalog, which has no views yet.
    #[must_use]
    pub fn new(catalog: Catalog, options: Options) -> Self {
        let keeper = Keeper::default();
        let base = |relation: &crate::catalog::Relation| {
            let held = Held::new(&relation.name, relation.schema.clone(), relation.kind, options.workers, usize::MAX);
            keeper.add(held.clone());
            (relation.name.clone(), held)
        };
        let bases = Arc::new(catalog.relations().map(base).collect());
        let state = Mutex::new(State { catalog, ..State::default() });
        let (changing, reading) = (tokio::sync::Mutex::default(), tokio::sync::Mutex::default());
        let commands = Arc::new(Commands::new(options.workers));
        Self { state, changing, reading, past: OnceLock::new(), commands, keeper, bases, options }
    }

    /// The part of a worker; called on its thread.
    #[must_use]
    pub fn live(&self, index: usize) -> Live {
        Live::new(index, self.keeper.clone(), self.commands.clone(), self.bases.clone())
    }

    /// The kept streams.
    #[must_use]
    pub fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares the streams of these files, in any order, before the workers read anything, so that they see everything.
    /// Tells what is wrong with them.
    pub fn declare(&self, files: &[File]) -> Vec<Problem> {
        let mut catalog = self.catalog();
        let problems = catalog.load_each(files, |view| {
            if view.declaration.materialized {
                let made = self.make(view, &BTreeMap::new(), History::All, &Start::at_once)?;
                made.parts.into_iter().chain([made.install]).for_each(|install| self.put_up(install));
                self.state().running.insert(view.relation.name.clone(), made.running);
            }
            Ok(())
        });
        self.state().catalog = catalog;
        problems
    }

    /// How all streams do.
    #[must_use]
    pub fn list(&self) -> Vec<Status> {
        let state = self.state();
        state.catalog.views().map(|view| self.told(&state, view)).collect()
    }

    /// How one stream does.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn status(&self, name: &str) -> Result<Status, Refusal> {
        let state = self.state();
        let view = state.catalog.view(name).ok_or_else(|| state.catalog.unknown(name))?;
        Ok(self.told(&state, view))
    }

    fn told(&self, state: &State, view: &View) -> Status {
        let running = state.running.get(&view.relation.name);
        let building = state.building.get(&view.relation.name);
        let (rows, bytes, changes) = running.map_or((0, 0, 0), |running| running.rows.figures());
        Status {
            name: view.relation.name.clone(),
            state: match (building, running) {
                (Some(building), None) => building.state(),
                (Some(building), Some(running)) => format!("{}, new version {}", running.state, building.state()),
                (None, Some(running)) => running.state.clone(),
                (None, None) => "a name for its plan".to_owned(),
            },
            percent: building.map(|building| building.percent()),
            kind: if view.relation.kind == Kind::Events { "events" } else { "table" },
            key: view.relation.key.clone(),
            reads: view.node.reads().into_iter().map(str::to_owned).collect(),
            rows,
            bytes,
            changes,
            faults: running.map_or(0, |running| running.faults.figures().0),
            as_of: self.keeper.as_of(),
            shares: running.map_or(0, |running| running.shares.len()),
            notes: notes(view),
            sql: view.declaration.text.clone(),
        }
    }

    /// What is declared, as it stands.
    #[must_use]
    pub fn catalog(&self) -> Catalog {
        self.state().catalog.clone()
    }

    /// The content of streams and tables by name, all as of one tick; none for what is not kept.
    #[must_use]
    pub fn content(&self, names: &[&str]) -> Vec<Option<Content>> {
        let ports: Vec<String> = {
            let state = self.state();
            let port =
                |name: &&str| state.running.get(*name).map_or((*name).to_owned(), |running| running.port.clone());
            names.iter().map(port).collect()
        };
        self.keeper.content(&ports.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The rows of a stream that have no result, with the operator and the reason.
    #[must_use]
    pub fn faults(&self, name: &str) -> Option<Content> {
        let port = self.state().running.get(name)?.faults.port.clone();
        self.keeper.content(&[&port]).pop().flatten()
    }

    /// The content of a stream, and its changes from there on as they happen.
    ///
    /// # Errors
    /// There is no such stream, or it is only a name for its plan.
    pub fn watch(&self, name: &str) -> Result<(Content, broadcast::Receiver<Arc<Change>>), Refusal> {
        let state = self.state();
        let held = state.running.get(name).map(|running| &running.rows).or_else(|| self.bases.get(name));
        held.and_then(|held| self.keeper.watch(&held.port)).ok_or_else(|| state.catalog.unknown(name))
    }

    /// Takes streams down that hold more than they may; returns their names.
    pub fn suspend_exceeded(&self) -> Vec<String> {
        let over = |(name, running): (&String, &Running)| {
            (running.rows.is_exceeded() && running.state == RUNNING).then(|| (name.clone(), running.clone()))
        };
        let exceeded: Vec<_> = self.state().running.iter().filter_map(over).collect();
        for (name, running) in &exceeded {
            self.take_down(running);
            if let Some(running) = self.state().running.get_mut(name) {
                let most = self.options.rows_max;
                running.state =
                    format!("suspended: it held more than {most} rows (sql.stream_rows_max); replace it or drop it");
            }
        }
        exceeded.into_iter().map(|(name, _)| name).collect()
    }
}

pub(super) const RUNNING: &str = "running";
pub(super) const SUSPENDED: &str = "suspended";

/// What is understood and checked, and does nothing yet.
fn notes(view: &View) -> Vec<String> {
    let mut notes = Vec::new();
    if !view.declaration.sinks.is_empty() {
        notes.push(format!("changes do not go to {} yet", view.declaration.sinks.join(", ")));
    }
    if view.declaration.access.is_some() {
        notes.push("every reader sees all rows: rights are not checked yet".to_owned());
    }
    notes
}
