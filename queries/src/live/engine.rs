//! The derived streams of a process: what is declared, what runs, and the way from one to the other.
//!
//! Invariant: one change at a time; a name answers with its old version until the new one has caught up, and a change that
//! fails leaves everything as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Instant;

use operators::error::Refusal;
use operators::record::declared::Declared;
use operators::time::Tick;
use serde::Serialize;
use tokio::sync::broadcast;

use super::Live;
use super::again::Again;
use super::backfill::{Building, History};
use super::budget::Watch;
use super::command::{Commands, Start};
use super::feed::{Feed, Past};
use super::keep::{Change, Content, Held, Keeper};
use super::send::{Sent, Ways};
use crate::catalog::{Catalog, File, Problem, View};
use crate::plan::{Kind, Node};
use crate::readers::{self, Reader, Sieve};
use crate::reads::SystemTable;
use crate::render::{Size, Usage};

/// What derived streams may take.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Workers of the dataflow.
    pub workers: usize,
    /// Rows that one stream may hold; one that passes it is suspended.
    pub rows_max: usize,
    /// Rows that one table may hold that is declared over a topic; one that passes it is kept no more.
    pub table_rows_max: usize,
    /// Bytes that one may keep, if its declaration does not say otherwise.
    pub bytes_max: u64,
    /// Percent of one worker's time that one may take, likewise; 100 is no limit.
    pub time_pct_max: u32,
    /// Milliseconds over which that share is measured.
    pub time_window_ms: u64,
    /// Derived streams, those included that only others use.
    pub streams_max: usize,
    /// Milliseconds that a new stream may take to catch up.
    pub catch_up_ms_max: u64,
    /// Milliseconds that following one key may take.
    pub why_ms_max: u64,
}

/// How a stream does.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `running`, `building`, `suspended`, or `named`: a name for its plan, which keeps nothing.
    pub state: &'static str,
    /// Why it is suspended: the budget that it passed, and by how much.
    pub reason: Option<String>,
    /// `events` or `table`.
    pub kind: &'static str,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// The column that says whose a row is; without one, readers of some companies do not see it.
    pub access: Option<String>,
    /// What it reads.
    pub reads: Vec<String>,
    /// How much of it is built, in hundredths, while it is.
    pub percent: Option<u64>,
    /// How much of the log is read for a key of it that is followed, in hundredths, while it is.
    pub following: Option<u64>,
    /// Rows it holds.
    pub rows: usize,
    /// Bytes of these rows.
    pub bytes: usize,
    /// Rows that its operators and those of the parts that it shares keep.
    pub state_rows: i64,
    /// Bytes that it takes: what operators keep, what it shares, what is kept for readers, and changes on their way.
    pub state_bytes: i64,
    /// The most of a worker's time that it took, in percent.
    pub busy_pct: f64,
    /// What each of its operators keeps.
    pub operators: Vec<Keeps>,
    /// Changes since it runs.
    pub changes: u64,
    /// Rows that no result could be computed for.
    pub faults: usize,
    /// The tick that its content is of, milliseconds since the epoch.
    pub as_of: Tick,
    /// Parts that it shares with others.
    pub shares: usize,
    /// How it goes to its sinks.
    pub sinks: Vec<Sent>,
    /// What its declaration asks for that is not done yet.
    pub notes: Vec<String>,
    /// What was declared.
    pub sql: String,
}

/// What the operators of one name keep.
#[derive(Clone, Debug, Serialize)]
pub struct Keeps {
    /// Their name.
    pub operator: &'static str,
    /// Rows.
    pub rows: i64,
    /// Bytes.
    pub bytes: i64,
}

#[derive(Clone)]
pub(super) struct Running {
    pub port: String,
    /// What was declared, by the names that it uses.
    pub plan: Arc<Node>,
    /// What is built of it.
    pub node: Arc<Node>,
    /// Whether it has caught up: a part that has not is shared with nobody else.
    pub ready: bool,
    /// Events before it were not seen; 0 if all were.
    pub since: Tick,
    pub rows: Arc<Held>,
    pub faults: Arc<Held>,
    /// Ports of parts that others have too.
    pub shares: BTreeSet<String>,
    /// Where it goes; none if nowhere.
    pub ways: Option<Ways>,
    pub usage: Arc<Usage>,
    pub watch: Arc<Watch>,
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
    /// Streams of an earlier start that are not built again yet.
    pub again: Again,
}

/// The derived streams of a process.
pub struct Engine {
    state: Mutex<State>,
    pub(super) changing: tokio::sync::Mutex<()>,
    /// The log is read again by one at a time.
    pub(super) reading: Arc<tokio::sync::Mutex<()>>,
    /// One key is followed at a time.
    pub(super) following: Arc<tokio::sync::Mutex<()>>,
    /// Of which stream, and how far the log is read for it.
    pub(super) followed: Mutex<Option<(String, Weak<Feed>)>>,
    pub(super) past: OnceLock<Arc<dyn Past>>,
    pub(super) commands: Arc<Commands>,
    pub(super) keeper: Keeper,
    pub(super) bases: Arc<BTreeMap<String, Arc<Held>>>,
    pub(super) declared: Arc<[&'static Declared]>,
    pub(super) options: Options,
    /// How streams go to their sinks, as who feeds them has told.
    pub(super) sent: Mutex<BTreeMap<String, Vec<Sent>>>,
    /// Tables about the rest of the process.
    pub(super) system: RwLock<Vec<SystemTable>>,
    /// When figures were shown last, and of which streams.
    pub(super) shown: Mutex<(Option<Instant>, Vec<String>)>,
}

impl Engine {
    /// An engine over the relations of a catalog, which has no views yet.
    #[must_use]
    pub fn new(catalog: Catalog, options: Options) -> Self {
        let keeper = Keeper::default();
        let declared: Arc<[&Declared]> = catalog.declared().collect();
        let base = |relation: &crate::catalog::Relation| {
            let declared = declared.iter().any(|declared| declared.name == relation.name);
            let rows_max = if declared { options.table_rows_max } else { usize::MAX };
            let held = Held::new(&relation.name, relation.schema.clone(), relation.kind, options.workers, rows_max);
            keeper.add(held.clone());
            (relation.name.clone(), held)
        };
        let bases = Arc::new(catalog.relations().map(base).collect());
        let state = Mutex::new(State { catalog, ..State::default() });
        let (changing, reading, following) = (tokio::sync::Mutex::default(), Arc::default(), Arc::default());
        let commands = Arc::new(Commands::new(options.workers));
        let (past, shown, system, sent) = (OnceLock::new(), Mutex::default(), RwLock::default(), Mutex::default());
        Self {
            state,
            changing,
            reading,
            following,
            followed: Mutex::default(),
            past,
            commands,
            keeper,
            bases,
            declared,
            options,
            shown,
            system,
            sent,
        }
    }

    /// Has another table about the process itself to be read.
    pub fn tell(&self, table: SystemTable) {
        self.system.write().unwrap_or_else(PoisonError::into_inner).push(table);
    }

    /// The part of a worker; called on its thread.
    #[must_use]
    pub fn live(&self, index: usize) -> Live {
        Live::new(index, self.keeper.clone(), self.commands.clone(), self.bases.clone(), self.declared.clone())
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
        let problems =
            catalog.load_each(files, |view| if view.declaration.materialized { self.stand(view) } else { Ok(()) });
        self.state().catalog = catalog;
        problems
    }

    /// Puts a stream up before the workers read anything.
    pub(super) fn stand(&self, view: &View) -> Result<(), Refusal> {
        let made = self.make(view, &BTreeMap::new(), History::All, &Start::at_once)?;
        made.parts.into_iter().chain([made.install]).for_each(|install| self.put_up(install));
        self.state().running.insert(view.relation.name.clone(), made.running);
        Ok(())
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
        let suspended = running.and_then(|running| running.watch.suspended());
        // What a suspended stream kept is freed.
        let kept = running.filter(|_| suspended.is_none()).map(|running| {
            let parts = running.shares.iter().filter_map(|part| Some(&state.parts.get(part)?.0));
            (running.size(parts), running.watch.share_pct(), running.usage.by_operator())
        });
        let (size, busy_pct, operators) = kept.unwrap_or_default();
        let keeps = |(operator, Size { rows, bytes })| Keeps { operator, rows, bytes };
        Status {
            name: view.relation.name.clone(),
            state: match (building, running, suspended) {
                (Some(_), None, _) => "building",
                (None, None, _) => "named",
                (_, Some(_), None) => "running",
                (_, Some(_), Some(_)) => "suspended",
            },
            percent: building.map(|building| building.percent()),
            following: self.following(&view.relation.name),
            reason: suspended.map(|suspended| suspended.reason.clone()),
            state_rows: size.rows,
            state_bytes: size.bytes,
            busy_pct,
            operators: operators.into_iter().map(keeps).collect(),
            kind: if view.relation.kind == Kind::Events { "events" } else { "table" },
            key: view.relation.key.clone(),
            access: view.relation.access.clone(),
            reads: view.node.reads().into_iter().map(str::to_owned).collect(),
            rows,
            bytes,
            changes,
            faults: running.map_or(0, |running| running.faults.figures().0),
            as_of: self.keeper.as_of(),
            shares: running.map_or(0, |running| running.shares.len()),
            sinks: self.sent(&view.relation.name),
            notes: Vec::new(),
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
        self.content_and_access(names).into_iter().map(|(content, _)| content).collect()
    }

    /// The same, each with the column that says whose its rows are, as the version declares it that they are of.
    pub(super) fn content_and_access(&self, names: &[&str]) -> Vec<(Option<Content>, Option<String>)> {
        let (ports, access): (Vec<String>, Vec<Option<String>>) = {
            let state = self.state();
            let port = |name: &str| state.running.get(name).map_or(name.to_owned(), |running| running.port.clone());
            names.iter().map(|name| (port(name), state.catalog.access(name))).unzip()
        };
        let contents = self.keeper.content(&ports.iter().map(String::as_str).collect::<Vec<_>>());
        contents.into_iter().zip(access).collect()
    }

    /// The rows of a stream that have no result, with the operator and the reason.
    #[must_use]
    pub fn faults(&self, name: &str) -> Option<Content> {
        let port = self.state().running.get(name)?.faults.port.clone();
        self.keeper.content(&[&port]).pop().flatten()
    }

    /// The content of a stream, and its changes from there on as they happen, as far as a reader sees them.
    ///
    /// # Errors
    /// There is no such stream, it is only a name for its plan, or the reader sees none of it.
    pub fn watch(&self, name: &str, reader: &Reader) -> Result<Watched, Refusal> {
        let state = self.state();
        let held = state.running.get(name).map(|running| &running.rows).or_else(|| self.bases.get(name));
        let found = held.and_then(|held| self.keeper.watch(&held.port));
        if reader.is_restricted() {
            // The same whether there is such a stream or not.
            let (content, changes) = found.ok_or_else(|| readers::denied(name))?;
            let sieve = reader.sieve(name, &content.schema, state.catalog.access(name).as_deref())?;
            return Ok(Watched { content, changes, sieve });
        }
        let (content, changes) = found.ok_or_else(|| state.catalog.unknown(name))?;
        let sieve = reader.sieve(name, &content.schema, None)?;
        Ok(Watched { content, changes, sieve })
    }
}

/// A stream that is watched.
#[derive(Debug)]
pub struct Watched {
    /// What it holds.
    pub content: Content,
    /// Every change after that, of all rows.
    pub changes: broadcast::Receiver<Arc<Change>>,
    /// Lets through what the reader sees, of both.
    pub sieve: Sieve,
}

/// Streams that read a name, themselves or through others, each after what it reads.
pub(super) fn readers(catalog: &Catalog, name: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut next = vec![name.to_owned()];
    while let Some(name) = next.pop() {
        for reader in catalog.dependants(&name) {
            found.retain(|known| known != reader);
            found.push(reader.to_owned());
            next.insert(0, reader.to_owned());
        }
    }
    found
}
