//! The derived streams of a process: what is declared, what runs, and the way from one to the other.
//!
//! Invariant: one change at a time; a name answers with its old version until the new one has caught up, and a change that
//! fails leaves everything as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use operators::error::Refusal;
use operators::time::Tick;
use serde::Serialize;
use tokio::sync::broadcast;

use super::Live;
use super::command::{Begin, Command, Commands, Install, Start};
use super::keep::{Change, Content, Held, Keeper};
use super::worker::reads;
use crate::catalog::{Catalog, View};
use crate::plan::{Id, Kind, Node, renamed, shareable, substitute};
use crate::render::fault_codec;

/// How often a change looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

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
    /// What was declared.
    pub sql: String,
}

#[derive(Clone)]
struct Running {
    port: String,
    node: Arc<Node>,
    rows: Arc<Held>,
    faults: Arc<Held>,
    /// Ports of parts that others have too.
    shares: BTreeSet<String>,
    state: String,
}

#[derive(Default)]
struct State {
    catalog: Catalog,
    running: BTreeMap<String, Running>,
    /// Parts that several streams have, by their ports, and how many do.
    parts: BTreeMap<String, (Running, usize)>,
    versions: u64,
}

/// The derived streams of a process.
pub struct Engine {
    state: Mutex<State>,
    changing: tokio::sync::Mutex<()>,
    commands: Arc<Commands>,
    keeper: Keeper,
    bases: Arc<BTreeMap<String, Arc<Held>>>,
    options: Options,
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
        let (changing, commands) = (tokio::sync::Mutex::default(), Arc::default());
        Self { state, changing, commands, keeper, bases, options }
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Declares a stream before the workers read anything, so that it sees everything.
    ///
    /// # Errors
    /// The text is no declaration that can be kept up to date.
    pub fn declare(&self, text: &str) -> Result<String, Refusal> {
        let view = self.state().catalog.plan(text)?;
        let name = view.relation.name.clone();
        if view.declaration.materialized {
            let made = self.make(&view, &Start::at_once)?;
            self.put_up(made.install);
            self.state().running.insert(name.clone(), made.running);
        }
        self.state().catalog.add(view)?;
        Ok(name)
    }

    /// Adds a stream to the running dataflow, and waits until it has caught up.
    ///
    /// # Errors
    /// The text is no declaration that can be kept up to date, or it does not catch up in time.
    pub async fn add(&self, text: &str) -> Result<Status, Refusal> {
        let _one = self.changing.lock().await;
        let view = {
            let state = self.state();
            let view = state.catalog.plan(text)?;
            state.catalog.clone().add(view.clone())?;
            view
        };
        let name = view.relation.name.clone();
        if view.declaration.materialized {
            let running = self.build(&view).await?;
            self.state().running.insert(name.clone(), running);
        }
        self.state().catalog.add(view)?;
        self.status(&name)
    }

    /// Puts a new version in the place of a stream, and of all that read it. The old ones answer until all have caught up.
    ///
    /// # Errors
    /// As for [`add`](Self::add); or others depend on what would change.
    pub async fn replace(&self, text: &str) -> Result<Status, Refusal> {
        let _one = self.changing.lock().await;
        let (view, mut catalog, readers) = {
            let state = self.state();
            let view = state.catalog.plan(text)?;
            let mut catalog = state.catalog.clone();
            catalog.replace(view.clone())?;
            let readers = readers(&catalog, &view.relation.name);
            (view, catalog, readers)
        };
        let name = view.relation.name.clone();
        let mut views = vec![view];
        for reader in readers {
            let text = catalog.view(&reader).map(|view| view.declaration.text.clone()).unwrap_or_default();
            let again = catalog.plan(&text)?;
            catalog.replace(again.clone())?;
            views.push(again);
        }
        let old = self.state().running.clone();
        let mut made: Vec<(String, Running)> = Vec::new();
        for view in views.iter().filter(|view| view.declaration.materialized) {
            match self.build(view).await {
                Ok(running) => {
                    // What comes after it in the list reads the new version.
                    let name = view.relation.name.clone();
                    self.state().running.insert(name.clone(), running.clone());
                    made.push((name, running));
                }
                Err(why) => {
                    self.state().running = old;
                    made.into_iter().rev().for_each(|(_, running)| self.take_down(&running));
                    return Err(why);
                }
            }
        }
        self.state().catalog = catalog;
        for view in views.iter().rev() {
            if let Some(old) = old.get(&view.relation.name) {
                self.take_down(old);
            }
        }
        if !views[0].declaration.materialized {
            self.state().running.remove(&name);
        }
        self.status(&name)
    }

    /// Takes a stream down and frees what it held.
    ///
    /// # Errors
    /// There is none of this name, or others read it.
    pub async fn remove(&self, name: &str) -> Result<(), Refusal> {
        let _one = self.changing.lock().await;
        self.state().catalog.drop(name)?;
        let running = self.state().running.remove(name);
        if let Some(running) = running {
            self.take_down(&running);
        }
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
        let (rows, bytes, changes) = running.map_or((0, 0, 0), |running| running.rows.figures());
        Status {
            name: view.relation.name.clone(),
            state: running.map_or_else(|| "a name for its plan".to_owned(), |running| running.state.clone()),
            kind: if view.relation.kind == Kind::Events { "events" } else { "table" },
            key: view.relation.key.clone(),
            reads: view.node.reads().into_iter().map(str::to_owned).collect(),
            rows,
            bytes,
            changes,
            faults: running.map_or(0, |running| running.faults.figures().0),
            as_of: self.keeper.as_of(),
            shares: running.map_or(0, |running| running.shares.len()),
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

const RUNNING: &str = "running";

/// Materialised streams that read a name, themselves or through others, each after what it reads.
fn readers(catalog: &Catalog, name: &str) -> Vec<String> {
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

/// A stream that is ready to be installed.
struct Made {
    install: Arc<Install>,
    running: Running,
    /// Parts that became shared for it.
    parts: Vec<Arc<Install>>,
}

impl Engine {
    /// Builds a stream on the running dataflow.
    async fn build(&self, view: &View) -> Result<Running, Refusal> {
        let made = self.make(view, &|| Start::after(self.options.workers))?;
        for part in &made.parts {
            self.start(part).await.inspect_err(|_| self.take_down(&made.running))?;
        }
        self.put_up(made.install.clone());
        self.start(&made.install).await.inspect_err(|_| self.take_down(&made.running))?;
        Ok(made.running)
    }

    /// Chooses what the stream shares, and with it the plan that is built. Parts that become shared are installed.
    fn make(&self, view: &View, start: &dyn Fn() -> Start) -> Result<Made, Refusal> {
        let mut state = self.state();
        if state.running.len() + state.parts.len() >= self.options.streams_max {
            let message = format!("there are {} streams (sql.streams_max)", self.options.streams_max);
            return Err(Refusal::new("sql_too_many_streams", message).hint("drop one first"));
        }
        let node = renamed(&view.node, &|name| {
            state.running.get(name).map_or_else(|| name.to_owned(), |running| running.port.clone())
        });
        let mine: BTreeSet<Id> = shareable(&node).into_iter().map(|(id, _)| id).collect();
        let mut ports: BTreeMap<Id, String> = BTreeMap::new();
        for (port, (part, _)) in &state.parts {
            ports.insert(part.node.id, port.clone());
        }
        // A part that another stream has inside of it becomes a stream of its own.
        let others = state.running.values().flat_map(|running| shareable(&running.node));
        let common: BTreeMap<Id, Arc<Node>> =
            others.filter(|(id, _)| mine.contains(id) && !ports.contains_key(id)).collect();
        let mut installs = Vec::new();
        for (id, part) in outermost(&common, &node) {
            state.versions += 1;
            let port = format!("={id}.{}", state.versions);
            let made = self.stream(&port, part.schema.clone(), part, BTreeSet::new(), start());
            ports.insert(id, port.clone());
            state.parts.insert(port, (made.running.clone(), 0));
            installs.push(made.install);
        }
        let whole = ports.get(&node.id).cloned();
        let shared = std::cell::RefCell::new(BTreeSet::new());
        let node = substitute(&node, &|part| {
            let port = ports.get(&part.id).or(whole.as_ref().filter(|_| part.id == node.id))?;
            shared.borrow_mut().insert(port.clone());
            Some(port.clone())
        });
        let shares = shared.into_inner();
        for port in &shares {
            if let Some((_, users)) = state.parts.get_mut(port) {
                *users += 1;
            }
        }
        state.versions += 1;
        let port = format!("{}.{}", view.relation.name, state.versions);
        drop(state);
        for install in &installs {
            self.put_up(install.clone());
        }
        let made = self.stream(&port, view.relation.schema.clone(), node, shares, start());
        Ok(Made { parts: installs, ..made })
    }

    fn stream(
        &self,
        port: &str,
        schema: datafusion::arrow::datatypes::SchemaRef,
        node: Arc<Node>,
        shares: BTreeSet<String>,
        start: Start,
    ) -> Made {
        let Options { workers, rows_max, .. } = self.options;
        let rows = Held::new(port, schema, node.kind, workers, rows_max);
        let fault_schema = fault_codec().schema().clone();
        let faults = Held::new(&format!("{port}!"), fault_schema, Kind::Table, workers, rows_max);
        let install =
            Install { port: port.to_owned(), node: node.clone(), start, rows: rows.clone(), faults: faults.clone() };
        let running = Running { port: port.to_owned(), node, rows, faults, shares, state: RUNNING.to_owned() };
        Made { install: Arc::new(install), running, parts: Vec::new() }
    }

    fn put_up(&self, install: Arc<Install>) {
        self.keeper.add(install.rows.clone());
        self.keeper.add(install.faults.clone());
        self.commands.push(Command::Install(install));
    }

    fn take_down(&self, running: &Running) {
        if running.state != RUNNING {
            return;
        }
        self.commands.push(Command::Drop(running.port.clone()));
        self.keeper.remove(&running.rows.port);
        self.keeper.remove(&running.faults.port);
        for part in &running.shares {
            let mut state = self.state();
            let Some((_, users)) = state.parts.get_mut(part) else { continue };
            *users -= 1;
            if *users == 0
                && let Some((unused, _)) = state.parts.remove(part)
            {
                drop(state);
                self.take_down(&unused);
            }
        }
    }

    /// Brings an installed stream to where the others are.
    async fn start(&self, install: &Install) -> Result<(), Refusal> {
        let first = self.begin(install).await?;
        self.until(|| self.keeper.is_caught_up(&install.port, first).then_some(())).await?;
        install.start.forget();
        Ok(())
    }

    /// Waits until the workers have everything, and lets them begin with the content of what the stream reads. Returns the
    /// first tick.
    async fn begin(&self, install: &Install) -> Result<Tick, Refusal> {
        let whole_from = self.until(|| install.start.whole_from()).await?;
        self.until(|| (self.keeper.as_of() + 1 >= whole_from).then_some(())).await?;
        let ports: Vec<String> = reads(install).into_iter().map(|(name, _)| name).collect();
        let (as_of, content) = self.keeper.rows(&ports);
        install.start.begin(Begin { tick: as_of + 1, content });
        self.commands.wake();
        Ok(as_of + 1)
    }

    async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> Result<T, Refusal> {
        let most = self.options.catch_up_ms_max;
        let found = tokio::time::timeout(Duration::from_millis(most), async {
            loop {
                match look() {
                    Some(found) => return found,
                    None => tokio::time::sleep(LOOK).await,
                }
            }
        });
        found.await.map_err(|_| {
            Refusal::new(
                "sql_not_caught_up",
                format!("the stream has not caught up within {most} ms (sql.catch_up_ms_max)"),
            )
            .hint("is the dataflow behind its input? look at its lag, and try again")
        })
    }
}

/// Of the common parts those that lie in no other, in the order of the plan.
fn outermost(common: &BTreeMap<Id, Arc<Node>>, node: &Arc<Node>) -> Vec<(Id, Arc<Node>)> {
    let mut found: Vec<(Id, Arc<Node>)> = Vec::new();
    let mut see = vec![node.clone()];
    while let Some(node) = see.pop() {
        if common.contains_key(&node.id) {
            if found.iter().all(|(id, _)| *id != node.id) {
                found.push((node.id, node));
            }
            continue;
        }
        see.extend(node.inputs().into_iter().cloned());
    }
    found
}
