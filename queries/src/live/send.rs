//! What of the derived streams goes to sinks, and the ways there.
//!
//! Invariant: a sink of events gets every event of its stream, for its tap is there before the stream's first row; a sink of a
//! table gets the content and every change after it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};

use datafusion::arrow::datatypes::SchemaRef;
use serde::Serialize;

use super::engine::{Engine, Running};
use super::keep::{Content, Held};
use super::tap::{TAP_BYTES_MAX, Tap};
use crate::catalog::{Relation, View};
use crate::plan::Kind;

/// Where one version of a stream goes.
#[derive(Clone)]
pub(super) struct Ways {
    relation: Relation,
    sinks: Vec<String>,
    /// Of events by sink, made with the stream. A table needs none yet: its content is there later too.
    taps: BTreeMap<String, Arc<Tap>>,
}

impl Ways {
    /// Of a stream that is about to begin.
    pub(super) fn of(view: &View, rows: &Held) -> Option<Ways> {
        // At the edge whoever comes watches for himself.
        let sinks: Vec<String> = view.declaration.sinks.iter().filter(|sink| *sink != EDGE).cloned().collect();
        let tap = |sink: &String| {
            let tap = Tap::new(Kind::Events, TAP_BYTES_MAX);
            rows.tap(&tap);
            (sink.clone(), tap)
        };
        let taps = sinks.iter().filter(|_| rows.kind == Kind::Events).map(tap).collect();
        (!sinks.is_empty()).then(|| Ways { relation: view.relation.clone(), sinks, taps })
    }
}

/// The sink that needs nothing done: everything can be watched there.
pub(super) const EDGE: &str = "edge";

/// A running stream that has sinks.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Its name.
    pub name: String,
    /// The port of its present version.
    pub port: String,
    /// Its columns.
    pub schema: SchemaRef,
    /// Columns that tell its rows apart.
    pub key: Vec<String>,
    /// What its rows are.
    pub kind: Kind,
    /// Where it goes.
    pub sinks: Vec<String>,
}

/// How a stream goes to one sink.
#[derive(Clone, Debug, Serialize)]
pub struct Sent {
    /// The sink.
    pub sink: String,
    /// In a few words.
    pub state: String,
    /// Rows handed over and not yet written.
    pub queued: u64,
    /// Events that there was no room for while the sink was away.
    pub missed: u64,
    /// Times that a table was taken again from its content.
    pub resynchronised: u64,
}

impl Sent {
    /// Only a state.
    #[must_use]
    pub fn only(sink: &str, state: &str) -> Self {
        Self { sink: sink.to_owned(), state: state.to_owned(), queued: 0, missed: 0, resynchronised: 0 }
    }
}

impl Engine {
    /// The running streams that have sinks to be fed.
    #[must_use]
    pub fn sending(&self) -> Vec<Sending> {
        let state = self.state();
        let sending = |running: &Running| {
            // As this version was declared: the catalogue may be ahead of it or behind.
            let Ways { relation, sinks, .. } = running.ways.as_ref().filter(|_| running.watch.suspended().is_none())?;
            Some(Sending {
                name: relation.name.clone(),
                port: running.port.clone(),
                schema: relation.schema.clone(),
                key: relation.key.clone(),
                kind: relation.kind,
                sinks: sinks.clone(),
            })
        };
        state.running.values().filter_map(sending).collect()
    }

    /// The way of a version of a stream to a sink, for one who keeps it as long as it is wanted: for events that which was
    /// made with the stream. That of a table means something once its content is [taken](Self::refill).
    #[must_use]
    pub fn tap(&self, sending: &Sending, sink: &str) -> Option<Arc<Tap>> {
        let mut state = self.state();
        let running = state.running.get_mut(&sending.name).filter(|running| running.port == sending.port)?;
        let prepared = running.ways.as_mut().and_then(|ways| ways.taps.remove(sink));
        Some(prepared.unwrap_or_else(|| {
            let tap = Tap::new(sending.kind, TAP_BYTES_MAX);
            running.rows.tap(&tap);
            tap
        }))
    }

    /// The content of a table, after which the tap gives every change; none if this version is gone.
    #[must_use]
    pub fn refill(&self, port: &str, tap: &Arc<Tap>) -> Option<Content> {
        self.keeper.refill(port, tap)
    }

    fn all_sent(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Sent>>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how streams go to their sinks, by the names of the streams.
    pub fn show_sent(&self, sent: BTreeMap<String, Vec<Sent>>) {
        *self.all_sent() = sent;
    }

    pub(super) fn sent(&self, name: &str) -> Vec<Sent> {
        self.all_sent().get(name).cloned().unwrap_or_default()
    }
}
