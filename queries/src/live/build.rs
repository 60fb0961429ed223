//! The way of a stream into the running dataflow, and out of it again.
//!
//! Invariant: a part of a plan that two streams have is built once, and goes with the last of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use operators::error::Refusal;
use operators::time::Tick;

use super::backfill::{Building, History, of_the_main_job, reads_events, with_a_past};
use super::budget::{Budget, Watch};
use super::command::{Begin, Command, Install, Start};
use super::engine::{Engine, Options, Running, State};
use super::feed::Feed;
use super::keep::Held;
use super::send::Ways;
use super::worker::reads;
use crate::catalog::View;
use crate::plan::{Id, Kind, Node, renamed, shareable, substitute};
use crate::render::{Usage, fault_codec};

/// How often a change looks whether it may go on.
const LOOK: Duration = Duration::from_millis(2);

/// A stream that is ready to be installed.
pub(super) struct Made {
    pub install: Arc<Install>,
    pub running: Running,
    /// Parts that became shared for it, each to be put up before it.
    pub parts: Vec<Arc<Install>>,
}

impl Engine {
    /// Builds a stream on the running dataflow.
    pub(super) async fn build(
        &self,
        view: &View,
        overlay: &BTreeMap<String, Running>,
        history: History,
        building: &Building,
    ) -> Result<Running, Refusal> {
        let mut made = self.make(view, overlay, history, &|| Start::after(self.options.workers))?;
        for part in &made.parts {
            self.put_up(part.clone());
            self.start(part, &made.running, building).await.inspect_err(|_| self.take_down(&made.running))?;
            if let Some((part, _)) = self.state().parts.get_mut(&part.port) {
                part.ready = true;
            }
        }
        self.put_up(made.install.clone());
        let first = self.start(&made.install, &made.running, building).await;
        let first = first.inspect_err(|_| self.take_down(&made.running))?;
        if history == History::No && reads_events(&view.node) {
            made.running.since = first;
        }
        Ok(made.running)
    }

    /// Chooses what the stream shares, and with it the plan that is built.
    pub(super) fn make(
        &self,
        view: &View,
        overlay: &BTreeMap<String, Running>,
        history: History,
        start: &dyn Fn() -> Start,
    ) -> Result<Made, Refusal> {
        let since = match history {
            History::Last(ms) => self.keeper.as_of().saturating_sub(ms),
            History::All | History::No => 0,
        };
        let mut state = self.state();
        if state.running.len() + state.parts.len() >= self.options.streams_max {
            let message = format!("there are {} streams (sql.streams_max)", self.options.streams_max);
            return Err(Refusal::new("sql_too_many_streams", message).hint("drop one first"));
        }
        let budget = self.budget(view);
        let there = |name: &str| overlay.get(name).or_else(|| state.running.get(name));
        let given_up = |name: &str| self.bases.get(name).is_some_and(|held| held.given_up().is_some());
        let suspended = |name: &&str| given_up(name) || there(name).is_some_and(|one| one.watch.suspended().is_some());
        if let Some(name) = view.node.reads().into_iter().find(|name| suspended(name)) {
            return Err(Refusal::new("sql_stream_suspended", format!("{name}, which it reads, is suspended"))
                .hint("replace or drop that one first: sql list says why it is"));
        }
        let at_once = start().begun().is_some();
        let plan = match history {
            History::No => view.node.clone(),
            _ if at_once => view.node.clone(),
            _ => of_the_main_job(&state, overlay, &view.node, since)?,
        };
        let known = |name: &str| overlay.get(name).or_else(|| state.running.get(name)).cloned();
        let of_before = view.node.reads().into_iter().filter_map(known).map(|running| running.since).max().unwrap_or(0);
        let since = since.max(if view.relation.kind == Kind::Events { of_before } else { 0 });
        let node = renamed(&plan, &|name| known(name).map_or_else(|| name.to_owned(), |running| running.port));
        let (node, shares, parts) = self.share(&mut state, &node, (history, since), budget, start);
        state.versions += 1;
        let port = format!("{}.{}", view.relation.name, state.versions);
        drop(state);
        let made = self.stream(&port, view.relation.schema.clone(), node, shares, start(), (history, since, budget));
        let ways = Ways::of(view, &made.running.rows);
        Ok(Made { parts, running: Running { plan: view.node.clone(), ways, ..made.running }, ..made })
    }

    /// Finds what others have of a plan too: what is built of it then, the parts that it shares, and those that are new.
    fn share(
        &self,
        state: &mut State,
        node: &Arc<Node>,
        (history, since): (History, Tick),
        budget: Budget,
        start: &dyn Fn() -> Start,
    ) -> (Arc<Node>, BTreeSet<String>, Vec<Arc<Install>>) {
        // A part that is there has to be what it would be if it was made now.
        let alike = |part: &Running| {
            let same = history != History::No && part.since == since;
            part.ready && part.watch.suspended().is_none() && (same || !reads_events(&part.node))
        };
        let mine: BTreeSet<Id> = shareable(node).into_iter().map(|(id, _)| id).collect();
        let there = state.parts.iter().filter(|(_, (part, _))| alike(part));
        let mut ports: BTreeMap<Id, String> = there.map(|(port, (part, _))| (part.node.id, port.clone())).collect();
        // A part that another stream has inside of it becomes a stream of its own.
        let others = state.running.values().flat_map(|running| shareable(&running.node));
        let others = others.filter(|(id, _)| mine.contains(id) && !ports.contains_key(id));
        let common: BTreeMap<Id, Arc<Node>> =
            others.filter(|(_, part)| history != History::No || !reads_events(part)).collect();
        let mut installs = Vec::new();
        for (id, part) in outermost(&common, node) {
            state.versions += 1;
            let port = format!("={id}.{}", state.versions);
            let made =
                self.stream(&port, part.schema.clone(), part, BTreeSet::new(), start(), (history, since, budget));
            ports.insert(id, port.clone());
            let ready = made.install.start.begun().is_some();
            state.parts.insert(port, (Running { ready, ..made.running }, 0));
            installs.push(made.install);
        }
        let whole = ports.get(&node.id).cloned();
        let shared = std::cell::RefCell::new(BTreeSet::new());
        let node = substitute(node, &|part| {
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
        (node, shares, installs)
    }

    fn stream(
        &self,
        port: &str,
        schema: datafusion::arrow::datatypes::SchemaRef,
        node: Arc<Node>,
        shares: BTreeSet<String>,
        start: Start,
        (history, since, budget): (History, Tick, Budget),
    ) -> Made {
        let Options { workers, rows_max, .. } = self.options;
        let rows = Held::new(port, schema, node.kind, workers, rows_max);
        let fault_schema = fault_codec().schema().clone();
        let faults = Held::new(&format!("{port}!"), fault_schema, Kind::Table, workers, rows_max);
        let names: Vec<String> = with_a_past(&node).into_iter().collect();
        let wanted = history != History::No && start.begun().is_none() && !names.is_empty();
        let past = wanted.then(|| Arc::new(Feed::new(names, since, rows.clone(), workers)));
        let (usage, watch) = (Arc::new(Usage::new(workers)), Arc::new(Watch::new(budget)));
        let install = Install {
            port: port.to_owned(),
            node: node.clone(),
            start,
            past,
            rows: rows.clone(),
            faults: faults.clone(),
            usage: usage.clone(),
        };
        let (plan, port, ready) = (node.clone(), port.to_owned(), true);
        let running = Running { port, plan, node, ready, since, rows, faults, shares, usage, watch, ways: None };
        Made { install: Arc::new(install), running, parts: Vec::new() }
    }

    pub(super) fn put_up(&self, install: Arc<Install>) {
        self.keeper.add(install.rows.clone());
        self.keeper.add(install.faults.clone());
        self.commands.push(Command::Install(install));
    }

    pub(super) fn take_down(&self, running: &Running) {
        if running.watch.suspended().is_some() {
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
    async fn start(&self, install: &Install, whole: &Running, building: &Building) -> Result<Tick, Refusal> {
        let first = match &install.past {
            Some(feed) => self.begin_with_past(install, feed, whole, building).await?,
            None => self.begin(install, whole).await?,
        };
        self.until(whole, || self.keeper.is_caught_up(&install.port, first).then_some(())).await?;
        install.start.forget();
        Ok(first)
    }

    /// Waits until the workers have everything, and lets them begin with the content of what the stream reads. Returns the
    /// first tick.
    async fn begin(&self, install: &Install, whole: &Running) -> Result<Tick, Refusal> {
        let whole_from = self.until(whole, || install.start.whole_from()).await?;
        self.until(whole, || (self.keeper.as_of() + 1 >= whole_from).then_some(())).await?;
        let ports: Vec<String> = reads(install).into_iter().map(|(name, _)| name).collect();
        let (as_of, content) = self.keeper.rows(&ports);
        install.start.begin(Begin { tick: as_of + 1, content });
        self.commands.wake();
        Ok(as_of + 1)
    }

    /// Waits for this, as long as the stream that is being built keeps within its budget.
    async fn until<T>(&self, building: &Running, mut look: impl FnMut() -> Option<T>) -> Result<T, Refusal> {
        let most = self.options.catch_up_ms_max;
        let found = tokio::time::timeout(Duration::from_millis(most), async {
            loop {
                if let Some(found) = look() {
                    return Ok(found);
                }
                self.within_budget(building)?;
                tokio::time::sleep(LOOK).await;
            }
        });
        let late = |_| {
            let message = format!("the stream has not caught up within {most} ms (sql.catch_up_ms_max)");
            Refusal::new("sql_not_caught_up", message)
                .hint("is the dataflow behind its input? look at its lag, and try again")
        };
        found.await.map_err(late)?
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
