//! A merge on a thread of its own, with the time that others leave.

use std::sync::mpsc::{Receiver, sync_channel};

use super::CheckpointError;
use super::compaction::{Compacted, Compaction};

/// A merge under way.
#[derive(Debug)]
pub(super) struct Beside {
    name: String,
    result: Receiver<Result<Compacted, CheckpointError>>,
    waiting: Option<Result<Compacted, CheckpointError>>,
}

impl Beside {
    /// Starts it. Without a thread for it, it fails.
    pub(super) fn start(compaction: Compaction) -> Self {
        let name = compaction.name.clone();
        let place = compaction.archive.place();
        let (done, result) = sync_channel(1);
        let work = move || {
            crate::replay::yield_to_others();
            let _ = done.send(compaction.run()); // nobody waits any more where the store is gone
        };
        let started = std::thread::Builder::new().name("checkpoint-merge".to_owned()).spawn(work);
        let waiting = started.err().map(|why| Err(CheckpointError::storage("start a thread for", place, why)));
        Self { name, result, waiting }
    }

    /// The file that it makes.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether waiting for it takes no time.
    pub(super) fn is_done(&mut self) -> bool {
        if self.waiting.is_none() {
            self.waiting = self.result.try_recv().ok();
        }
        self.waiting.is_some()
    }

    /// Its result.
    pub(super) fn wait(mut self) -> Result<Compacted, CheckpointError> {
        let ended = || Err(CheckpointError::Unsaveable("the thread that merges files has ended".to_owned()));
        self.waiting.take().unwrap_or_else(|| self.result.recv().unwrap_or_else(|_| ended()))
    }
}
