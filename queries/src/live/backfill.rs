//! A stream that is added later is built from the log, so that it has what it would have if it had been there from the start.
//!
//! Invariant: what is read again ends where what is live begins, at one tick; until then nobody sees the stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use operators::error::Refusal;
use operators::time::Tick;

use super::command::{Begin, Command, Install};
use super::engine::{Engine, Running, State};
use super::feed::{Cut, Feed, Past, read};
use super::worker::reads;
use crate::catalog::View;
use crate::plan::{Kind, Node, Op, inlined};

/// How often a build looks whether it may go on.
pub(super) const LOOK: Duration = Duration::from_millis(10);
/// How long before the first live tick what is live is noted, in milliseconds: no record comes so late that it would be taken
/// for one of before.
const OVERLAP_MS: u64 = 1_000;

/// How much of the past a new stream has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum History {
    /// All that the log has.
    #[default]
    All,
    /// Events of the last milliseconds.
    Last(u64),
    /// No event of before.
    No,
}

/// A stream that is on its way.
#[derive(Debug, Default)]
pub(super) struct Building {
    /// Names that it uses.
    pub uses: BTreeSet<String>,
    /// Why it is given up.
    stopped: OnceLock<&'static str>,
    percent: AtomicU64,
}

impl Building {
    /// Of these views.
    pub fn of(views: &[View]) -> Self {
        let mut uses: BTreeSet<String> = views.iter().flat_map(View::uses).map(str::to_owned).collect();
        uses.retain(|name| views.iter().all(|view| view.relation.name != *name));
        Self { uses, ..Self::default() }
    }

    pub fn stop(&self, why: &'static str) {
        // The first reason stands.
        let _ = self.stopped.set(why);
    }

    /// How far it is, in hundredths.
    pub fn percent(&self) -> u64 {
        self.percent.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<(), Refusal> {
        self.stopped.get().map_or(Ok(()), |why| Err(Refusal::new("stream_build_stopped", *why)))
    }
}

/// Names of events, and of tables that events meet, in a plan that makes a table of events: their past matters.
pub(super) fn with_a_past(node: &Node) -> BTreeSet<String> {
    let (mut names, mut kept) = (BTreeSet::new(), false);
    node.visit(&mut |node| kept |= node.kind == Kind::Table && reads_events(node));
    if kept {
        see(node, false, &mut names);
    }
    names
}

/// Whether there are events in what it is made of.
pub(super) fn reads_events(node: &Node) -> bool {
    let mut any = false;
    node.visit(&mut |node| any |= node.kind == Kind::Events);
    any
}

pub(super) fn see(node: &Node, events: bool, names: &mut BTreeSet<String>) {
    // Positions meet fences as they stood when they came, although a table comes of it.
    let events = events || node.kind == Kind::Events || matches!(node.op, Op::Geofences { .. });
    if let (true, Op::Get(name)) = (events, &node.op) {
        names.insert(name.clone());
    }
    node.inputs().into_iter().for_each(|input| see(input, events, names));
}

/// The plan with derived streams whose past matters replaced by what they are made of.
pub(super) fn of_the_main_job(
    state: &State,
    overlay: &BTreeMap<String, Running>,
    node: &Arc<Node>,
    since: Tick,
) -> Result<Arc<Node>, Refusal> {
    let mut node = node.clone();
    loop {
        let names = with_a_past(&node);
        let known = |name: &String| overlay.get(name).or_else(|| state.running.get(name));
        let derived: Vec<(&String, &Running)> = names.iter().filter_map(|name| Some((name, known(name)?))).collect();
        if derived.is_empty() {
            return Ok(node);
        }
        if let Some((name, _)) = derived.iter().find(|(_, running)| running.since > since) {
            let message = format!("{name} has no events of before it was added, so none of them can be taken from it");
            return Err(Refusal::new("stream_without_past", message)
                .hint("add this stream with --no-history, or replace that one with its history first"));
        }
        node = inlined(&node, &|name| {
            derived.iter().find(|(derived, _)| *derived == name).map(|(_, running)| running.plan.clone())
        });
    }
}

impl Engine {
    /// Sets where the past is read from.
    pub fn set_past(&self, past: Arc<dyn Past>) {
        // The first one stays.
        let _ = self.past.set(past);
    }

    /// Builds an installed stream from the log, and lets it go on with what is live. Returns the first tick that is.
    pub(super) async fn begin_with_past(
        &self,
        install: &Install,
        feed: &Arc<Feed>,
        whole: &Running,
        building: &Building,
    ) -> Result<Tick, Refusal> {
        let one = loop {
            building.check()?;
            match self.reading.try_lock() {
                Ok(one) => break one,
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        };
        let done = self.read_past(install, feed, whole, building).await;
        feed.stop();
        self.marked(feed).for_each(|(_, held)| held.mark(false));
        drop(one);
        done
    }

    fn telemetry(&self) -> &super::keep::Held {
        self.bases.get("telemetry").expect("a stream of the main job")
    }

    /// Events that a topic has, by their names: telemetry, of which the other streams of the main job are made, and what is
    /// declared.
    fn marked(&self, feed: &Feed) -> impl Iterator<Item = (&str, &super::keep::Held)> {
        let sources = self.declared.iter().filter(|declared| !declared.table && feed.names.contains(&declared.name));
        let names = sources.map(|declared| declared.name.as_str()).chain(["telemetry"]);
        names.filter_map(|name| Some((name, &**self.bases.get(name)?)))
    }

    async fn read_past(
        &self,
        install: &Install,
        feed: &Arc<Feed>,
        whole: &Running,
        building: &Building,
    ) -> Result<Tick, Refusal> {
        let past =
            self.past.get().cloned().ok_or_else(|| unreadable("this process keeps no log that could be read"))?;
        feed.follow(self.keeper.as_of());
        read(past, feed.clone()).map_err(|why| unreadable(&format!("no thread can be started: {why}")))?;
        let told = AtomicUsize::new(0);
        let look = async |done: &(dyn Fn() -> bool + Sync)| {
            while !done() {
                building.check()?;
                if let Some(why) = feed.failure() {
                    return Err(unreadable(&why));
                }
                self.within_budget(whole)?;
                let live = self.keeper.as_of();
                feed.follow(live);
                if feed.cut().is_none() && !self.telemetry().is_marking() {
                    feed.read_until(live.saturating_sub(OVERLAP_MS));
                }
                let (percent, rows) = (feed.percent(), feed.rows());
                building.percent.store(percent, Ordering::Relaxed);
                crate::metrics::past(percent, (rows - told.swap(rows, Ordering::Relaxed)) as u64);
                self.commands.wake();
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        look(&|| feed.is_parked()).await?;
        self.marked(feed).for_each(|(_, held)| held.mark(true));
        self.commands.push(Command::Follow(install.port.clone()));
        look(&|| install.start.whole_from().is_some()).await?;
        let before = install.start.whole_from().unwrap_or(0);
        look(&|| self.keeper.as_of() >= before + OVERLAP_MS).await?;
        let ports: Vec<String> = reads(install).into_iter().map(|(name, _)| name).collect();
        let (as_of, mut content) = self.keeper.rows(&ports);
        let first = as_of + 1;
        let last = self.marked(feed).map(|(name, held)| (name.to_owned(), held.marked(first))).collect();
        feed.end_at(Cut { before, last, first });
        look(&|| feed.is_finished()).await?;
        for (name, rows) in &mut content {
            if feed.names.contains(name) {
                *rows = feed.correction(name, std::mem::take(rows));
            }
        }
        crate::metrics::past(100, 0);
        install.start.begin(Begin { tick: first, content });
        self.commands.wake();
        Ok(first)
    }
}

fn unreadable(why: &str) -> Refusal {
    Refusal::new("stream_past_unreadable", format!("the log cannot be read again: {why}"))
        .hint("add the stream with --no-history, or mend what is wrong with the log and try again")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, File};

    /// Would catch a stream that is added later and takes a table as it stands now for what events of before met.
    #[test]
    fn the_past_of_what_events_meet_matters() {
        let mut catalog = Catalog::of_the_main_job();
        let columns = "fence_id TEXT, company_id TEXT, name TEXT, kind TEXT, shape TEXT, radius_m INT";
        let text = format!("CREATE TABLE geofences ({columns}) FROM LOG 'f' FORMAT JSON KEY (fence_id)");
        assert_eq!(catalog.declare(&[File { name: "f.sql".into(), text }], &[]), []);
        for (sql, past) in [
            ("SELECT vehicle_id, kind FROM geofence_events()", vec!["geofences", "telemetry_enriched"]),
            (
                "SELECT e.kind, v.model FROM geofence_events() e JOIN vehicles v USING (vehicle_id)",
                vec!["geofences", "telemetry_enriched"],
            ),
            ("SELECT vehicle_id FROM stops()", vec!["telemetry_enriched"]),
            (
                "SELECT t.vehicle_id, max(v.plate) AS plate FROM telemetry_enriched t JOIN vehicles v USING (vehicle_id) GROUP BY 1",
                vec!["telemetry_enriched", "vehicles"],
            ),
            ("SELECT plate FROM vehicles JOIN companies USING (company_id)", vec![]),
        ] {
            let view = catalog.plan(&format!("CREATE VIEW p WITH (retention = '1 day') AS {sql}"));
            let view = view.unwrap_or_else(|why| panic!("{sql}: {why}"));
            assert_eq!(with_a_past(&view.node).into_iter().collect::<Vec<_>>(), past, "{sql}");
        }
    }
}
