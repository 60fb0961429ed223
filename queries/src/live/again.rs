//! The streams of a process that goes on from a checkpoint, which has tables and what the main job keeps and nothing of derived
//! streams: each is built from the log while the dataflow works, as one that is added.
//!
//! Invariant: what a stream reads is there before it is built, and one that cannot be built keeps back only those that read it.

use std::collections::BTreeMap;
use std::sync::Arc;

use operators::time::Tick;
use tokio::task::JoinHandle;

use super::backfill::{History, LOOK};
use super::engine::Engine;
use crate::catalog::{File, Problem};

impl Engine {
    /// Builds the streams of these files one after the other, once the dataflow has come beyond tick `from`, where it goes on: what is
    /// before that is the past of them all. Tells what is wrong with them before any is built.
    ///
    /// # Errors
    /// Files that declare nothing that can be kept up to date: none is built.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn build_again(self: &Arc<Self>, files: &[File], from: Tick) -> Result<JoinHandle<()>, Vec<Problem>> {
        let (mut texts, mut again) = (Vec::new(), BTreeMap::new());
        let problems = self.catalog().load_each(files, |view| {
            texts.push((view.relation.name.clone(), view.declaration.text.clone()));
            if view.declaration.materialized {
                again.insert(view.relation.name.clone(), view.relation.clone());
            }
            Ok(())
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        self.state().again = again;
        let engine = self.clone();
        Ok(tokio::spawn(async move {
            while engine.keeper.as_of() <= from {
                tokio::time::sleep(LOOK).await;
            }
            for (stream, text) in texts {
                let added = engine.add(&text, History::All, true).await;
                engine.state().again.remove(&stream);
                match added {
                    Ok(_) => tracing::info!(stream, "built again"),
                    Err(why) => tracing::warn!(stream, code = why.code, why = why.message, "not built again"),
                }
            }
        }))
    }
}
