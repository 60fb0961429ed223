//! What the sinks of derived streams have in common: the columns that their rows have beside those of the view, and names that
//! are made while the process runs.
//!
//! Invariant: of a table the first step of a process (`from` is 0) holds every row that stands. Whatever else the target has of
//! the view is of an earlier life, and is taken away with that step.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use operators::time::Tick;

use crate::step::{Sink, SinkError, Step};

/// Column with the key of a table's row as one text: see [`operators::key_text`].
pub const KEY: &str = "__key";
/// Column with the row as a JSON object, where the target takes rows so.
pub const JSON: &str = "__json";
/// Column with the number of an event, by which it is known again: equal rows of one tick have different ones.
pub const ID: &str = "__id";

/// The name as one that lives as long as the process. Each different name is kept once and for ever.
#[must_use]
pub fn lasting(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let made: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(made);
    made
}

/// Whether the step is the first of its process.
pub(crate) fn is_first(step: &Step) -> bool {
    step.from == 0
}

/// A sink under a name of its own, for logs and metrics: one of many of its kind.
pub struct Named<S> {
    name: &'static str,
    inner: S,
}

impl<S: Sink> Named<S> {
    /// `kind/stream`.
    #[must_use]
    pub fn new(kind: &str, stream: &str, inner: S) -> Self {
        Self { name: lasting(&format!("{kind}/{stream}")), inner }
    }
}

impl<S: Sink> Sink for Named<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn open(&mut self) -> impl Future<Output = Result<(), SinkError>> + Send {
        self.inner.open()
    }

    fn applied(
        &mut self,
        stream: &'static str,
        worker: usize,
    ) -> impl Future<Output = Result<Option<Tick>, SinkError>> + Send {
        self.inner.applied(stream, worker)
    }

    fn apply(&mut self, step: &Step) -> impl Future<Output = Result<(), SinkError>> + Send {
        self.inner.apply(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_once() {
        assert!(std::ptr::eq(lasting("kafka/x"), lasting(&["kafka", "x"].join("/"))));
    }
}
