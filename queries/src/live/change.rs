//! Streams added, replaced and taken down while the dataflow works.
//!
//! Invariant: a name answers with its old version until the new one has caught up, and a change that fails or is stopped leaves
//! everything as it was. What a stream on its way reads is neither changed nor dropped meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;

use operators::error::Refusal;

use super::backfill::{Building, History, LOOK};
use super::engine::{Engine, Running, State, Status, readers};
use crate::catalog::View;

impl Engine {
    /// Adds a stream to the running dataflow. Returns once it is on its way, or with `wait` once it has caught up; it goes on
    /// if nobody waits any more.
    ///
    /// # Errors
    /// The text is no declaration that can be kept up to date, the log cannot be read, or it does not catch up.
    pub async fn add(self: &Arc<Self>, text: &str, history: History, wait: bool) -> Result<Status, Refusal> {
        let one = self.changing.lock().await;
        let (view, building) = {
            let mut state = self.state();
            let view = state.catalog.plan(text)?;
            state.catalog.clone().add(view.clone())?;
            state.is_still(&view)?;
            state.catalog.add(view.clone())?;
            let building = Arc::new(Building::of(std::slice::from_ref(&view)));
            if view.declaration.materialized {
                state.building.insert(view.relation.name.clone(), building.clone());
            }
            (view, building)
        };
        drop(one);
        let name = view.relation.name.clone();
        if !view.declaration.materialized {
            return self.status(&name);
        }
        let engine = self.clone();
        let work = async move {
            let built = engine.build(&view, &BTreeMap::new(), history, &building).await;
            let name = view.relation.name;
            let mut state = engine.state();
            state.building.remove(&name);
            match built {
                Ok(running) => {
                    state.running.insert(name, running);
                    Ok(())
                }
                Err(why) => {
                    // Nothing can read it yet.
                    let _ = state.catalog.drop(&name);
                    Err(why)
                }
            }
        };
        self.carry_out(&name, work, wait).await
    }

    /// Puts a new version in the place of a stream, and of all that read it. The old ones answer until all have caught up.
    ///
    /// # Errors
    /// As for [`add`](Self::add); the text declares another stream; or others depend on what would change.
    pub async fn replace(
        self: &Arc<Self>,
        name: &str,
        text: &str,
        history: History,
        wait: bool,
    ) -> Result<Status, Refusal> {
        let one = self.changing.lock().await;
        let (views, building) = {
            let mut state = self.state();
            let view = state.catalog.plan(text)?;
            if view.relation.name != name {
                let message = format!("the text declares {}, the path says {name}", view.relation.name);
                return Err(Refusal::new("name_invalid", message).at("name"));
            }
            let mut catalog = state.catalog.clone();
            catalog.replace(view.clone())?;
            let mut views = vec![view];
            for reader in readers(&catalog, name) {
                let text = catalog.view(&reader).map(|view| view.declaration.text.clone()).unwrap_or_default();
                let again = catalog.plan(&text)?;
                catalog.replace(again.clone())?;
                views.push(again);
            }
            views.iter().try_for_each(|view| state.is_still(view))?;
            let building = Arc::new(Building::of(&views));
            for view in &views {
                state.building.insert(view.relation.name.clone(), building.clone());
            }
            (views, building)
        };
        drop(one);
        let engine = self.clone();
        let work = async move {
            let made = engine.build_all(&views, history, &building).await;
            let old = {
                let mut state = engine.state();
                views.iter().for_each(|view| drop(state.building.remove(&view.relation.name)));
                let made = made?;
                let mut old = Vec::new();
                for view in &views {
                    old.extend(state.running.remove(&view.relation.name));
                    // Its columns and key are those of before, or nothing else reads it.
                    let _ = state.catalog.replace(view.clone());
                }
                state.running.extend(made);
                old
            };
            old.iter().rev().for_each(|old| engine.take_down(old));
            Ok(())
        };
        self.carry_out(name, work, wait).await
    }

    /// Builds these, each over the new versions of those before it.
    async fn build_all(
        &self,
        views: &[View],
        history: History,
        building: &Building,
    ) -> Result<BTreeMap<String, Running>, Refusal> {
        let mut made: BTreeMap<String, Running> = BTreeMap::new();
        for view in views.iter().filter(|view| view.declaration.materialized) {
            match self.build(view, &made, history, building).await {
                Ok(running) => drop(made.insert(view.relation.name.clone(), running)),
                Err(why) => {
                    made.values().for_each(|running| self.take_down(running));
                    return Err(why);
                }
            }
        }
        Ok(made)
    }

    /// Does it on a task of its own: who asked may go away.
    async fn carry_out(
        self: &Arc<Self>,
        name: &str,
        work: impl Future<Output = Result<(), Refusal>> + Send + 'static,
        wait: bool,
    ) -> Result<Status, Refusal> {
        let task = tokio::spawn(work);
        if wait {
            let ended = |why| Refusal::new("stream_build_stopped", format!("the build has ended: {why}"));
            task.await.map_err(ended)??;
        } else {
            let name = name.to_owned();
            tokio::spawn(async move {
                match task.await {
                    Ok(Ok(())) => tracing::info!(stream = name, "built"),
                    Ok(Err(why)) => tracing::warn!(stream = name, code = why.code, why = why.message, "not built"),
                    Err(why) => tracing::error!(stream = name, %why, "not built"),
                }
            });
        }
        self.status(name)
    }

    /// Takes a stream down and frees what it held. One that is on its way is stopped first.
    ///
    /// # Errors
    /// There is none of this name, or others read it.
    pub async fn remove(&self, name: &str) -> Result<(), Refusal> {
        let building = self.state().building.get(name).cloned();
        if let Some(building) = building {
            building.stop("the stream was dropped while it was built");
            while self.state().building.contains_key(name) {
                tokio::time::sleep(LOOK).await;
            }
            if self.state().catalog.view(name).is_none() {
                return Ok(());
            }
        }
        let _one = self.changing.lock().await;
        let running = {
            let mut state = self.state();
            state.is_unused(name)?;
            state.catalog.drop(name)?;
            state.running.remove(name)
        };
        if let Some(running) = running {
            self.take_down(&running);
        }
        Ok(())
    }

    /// Gives up what is on its way: the process ends.
    pub fn stop(&self) {
        self.stop_following();
        self.state()
            .building
            .values()
            .for_each(|building| building.stop("the process ended while the stream was built"));
    }
}

impl State {
    /// Refuses a change of, or over, what is on its way.
    fn is_still(&self, view: &View) -> Result<(), Refusal> {
        let uses = view.uses().chain([view.relation.name.as_str()]);
        match uses.into_iter().find(|name| self.building.contains_key(*name)) {
            None => self.is_unused(&view.relation.name),
            Some(name) => Err(Refusal::new("stream_building", format!("{name} is being built"))
                .hint("wait until it is done (haulstream sql list), or drop it")),
        }
    }

    /// Refuses a change of what a stream on its way reads.
    fn is_unused(&self, name: &str) -> Result<(), Refusal> {
        match self.building.iter().find(|(_, building)| building.uses.contains(name)) {
            None => Ok(()),
            Some((reader, _)) => {
                Err(Refusal::new("stream_building", format!("{reader}, which reads {name}, is being built"))
                    .hint("wait until it is done (haulstream sql list), or drop it"))
            }
        }
    }
}
