//! What the sinks of derived streams have in common: the columns that their rows have beside those of the view, and names that
//! are made while the process runs.
//!
//! Invariant: of a table the first step of a process (`from` is 0) holds every row that stands. Whatever else the target has of
//! the view is of an earlier life, and is taken away with that step.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use operators::time::Tick;

use crate::step::{Sink, SinkError, Step};

/// Column with the key of a table's row as one text: see [`key_part`].
pub const KEY: &str = "__key";
/// Column with the row as a JSON object, where the target takes rows so.
pub const JSON: &str = "__json";
/// Column with the number of an event, by which it is known again: equal rows of one tick have different ones.
pub const ID: &str = "__id";

/// What stands between the parts of a key.
pub const SEPARATOR: char = '|';

/// Appends one part of a key so that the parts can be told apart whatever they hold: `%` and `|` are percent-encoded, and a
/// missing value is `%N`.
pub fn key_part(part: Option<&str>, out: &mut String) {
    let Some(part) = part else { return out.push_str("%N") };
    for c in part.chars() {
        match c {
            '%' => out.push_str("%25"),
            SEPARATOR => out.push_str("%7C"),
            c => out.push(c),
        }
    }
}

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

    fn key(parts: &[Option<&str>]) -> String {
        let mut key = String::new();
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                key.push(SEPARATOR);
            }
            key_part(*part, &mut key);
        }
        key
    }

    #[test]
    fn different_keys_are_different_texts() {
        assert_eq!(key(&[Some("c-1"), Some("ada")]), "c-1|ada");
        let all = [
            key(&[Some("a|b"), Some("c")]),
            key(&[Some("a"), Some("b|c")]),
            key(&[Some("a"), None]),
            key(&[Some("a"), Some("%N")]),
            key(&[Some("a"), Some("")]),
            key(&[Some("a%7Cb"), Some("c")]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }

    #[test]
    fn a_name_is_kept_once() {
        assert!(std::ptr::eq(lasting("kafka/x"), lasting(&["kafka", "x"].join("/"))));
    }
}
