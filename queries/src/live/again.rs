//! The streams of a process that goes on from a checkpoint, which has tables and what the main job keeps and nothing of derived
//! streams: those whose past matters are built from the log while the dataflow works, as ones that are added; the others need no past
//! and are there from the start.
//!
//! Invariant: a stream of events sees every event from where the job goes on; what a stream reads is there before it is built, and
//! one that cannot be built keeps back only those that read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use operators::time::Tick;
use tokio::task::JoinHandle;

use super::backfill::{History, LOOK, with_a_past};
use super::engine::Engine;
use crate::catalog::{File, Problem, Relation};

/// Streams that wait to be built, in the order in which they can be.
#[derive(Default)]
pub(super) struct Again {
    /// Their names and texts.
    pub texts: Vec<(String, String)>,
    /// What they will be, by name, of those that can be read.
    pub relations: BTreeMap<String, Relation>,
}

impl Engine {
    /// Declares the streams of these files before the workers read anything, in a process that goes on from a checkpoint. Those whose
    /// past matters wait for [`build_again`](Self::build_again). Tells what is wrong with them.
    pub fn declare_again(&self, files: &[File]) -> Vec<Problem> {
        let mut catalog = self.catalog();
        let (mut again, mut names) = (Again::default(), BTreeSet::new());
        let problems = catalog.load_each(files, |view| {
            let name = &view.relation.name;
            let waits = view.uses().any(|used| names.contains(used)) || !with_a_past(&view.node).is_empty();
            if waits {
                names.insert(name.clone());
                again.texts.push((name.clone(), view.declaration.text.clone()));
                if view.declaration.materialized {
                    again.relations.insert(name.clone(), view.relation.clone());
                }
            } else if view.declaration.materialized {
                self.stand(view)?;
            }
            Ok(())
        });
        // They are declared when their turn comes.
        for (name, _) in again.texts.iter().rev() {
            let _ = catalog.drop(name);
        }
        let mut state = self.state();
        (state.catalog, state.again) = (catalog, again);
        problems
    }

    /// Builds the streams that wait one after the other, once the dataflow has come beyond tick `from`, where it goes on: what is
    /// before that is the past of them all.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build_again(self: &Arc<Self>, from: Tick) -> JoinHandle<()> {
        let texts = std::mem::take(&mut self.state().again.texts);
        let engine = self.clone();
        tokio::spawn(async move {
            while !texts.is_empty() && engine.keeper.as_of() <= from {
                tokio::time::sleep(LOOK).await;
            }
            for (stream, text) in texts {
                let added = engine.add(&text, History::All, true).await;
                engine.state().again.relations.remove(&stream);
                match added {
                    Ok(_) => tracing::info!(stream, "built again"),
                    Err(why) => tracing::warn!(stream, code = why.code, why = why.message, "not built again"),
                }
            }
        })
    }
}
