//! A stream that has begun elsewhere, as the input of a new dataflow.
//!
//! Invariant: a table is its content before the first tick, given at that tick by one worker, and then every change; events
//! are those from the first tick on. Nothing is missed and nothing comes twice.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use datafusion::arrow::array::{BooleanArray, RecordBatch};
use datafusion::arrow::compute::{concat_batches, filter_record_batch};
use differential_dataflow::AsCollection;
use operators::batch::Batch;
use operators::row::{Diff, Row};
use operators::time::Tick;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Scope;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::operator::source;

use super::command::{Begin, Install};
use super::port::{Parcel, Queue};
use crate::plan::Kind;
use crate::render::{Rendered, ticks};

/// Rows that are given at once, so that what has piled up holds nothing else up for long.
const ROWS_AT_ONCE: usize = 4_000;
/// More batches than this are put together first: each costs its operators as much as many rows.
const BATCHES_AT_ONCE: usize = 8;

/// The way of a queue into a dataflow.
struct Inlet {
    worker: usize,
    port: String,
    queue: Rc<Queue>,
    install: Arc<Install>,
    begin: Option<Arc<Begin>>,
    /// What was taken from the queue and not given yet.
    waiting: VecDeque<Parcel>,
    held: Option<Capability<Tick>>,
}

impl Inlet {
    /// Whether it has begun; the first time with the tick at which.
    fn begins(&mut self) -> Option<bool> {
        if self.begin.is_some() {
            return Some(false);
        }
        let begin = self.install.start.begun()?;
        if let Some(held) = &mut self.held {
            held.downgrade(&begin.tick);
        }
        self.begin = Some(begin);
        Some(true)
    }

    /// What there is of the past, and the first tick that more of it can have. Whether it has begun is asked before: then
    /// nothing of the past comes any more.
    fn past(&self, begun: bool) -> (VecDeque<Parcel>, Tick) {
        match &self.install.past {
            Some(feed) if self.begin.is_none() => feed.take(self.worker, &self.port, begun),
            _ => (VecDeque::new(), 0),
        }
    }

    fn passed(&mut self, frontier: Tick) {
        if let Some(held) = &mut self.held
            && frontier > *held.time()
        {
            held.downgrade(&frontier);
        }
    }

    fn first(&self) -> Tick {
        self.begin.as_ref().map_or(0, |begin| begin.tick)
    }

    /// What is to be given now of what has come.
    fn take(&mut self) -> Vec<Parcel> {
        self.waiting.append(&mut self.queue.parcels.borrow_mut());
        let (mut taken, mut rows) = (Vec::new(), 0);
        while rows < ROWS_AT_ONCE {
            let Some(parcel) = self.waiting.pop_front() else { break };
            rows += parcel.rows();
            taken.push(parcel);
        }
        taken
    }

    /// Passes on how far the stream is, once everything before is given.
    fn advance(&mut self) {
        if !self.waiting.is_empty() {
            if let Some(activator) = &*self.queue.activator.borrow() {
                activator.activate();
            }
            return;
        }
        let frontier = self.queue.frontier.get();
        match frontier {
            Tick::MAX => self.held = None,
            frontier => self.passed(frontier),
        }
    }
}

/// Brings a port's stream into a dataflow.
pub fn subscribe<'s>(
    scope: Scope<'s, Tick>,
    port: String,
    kind: Kind,
    queue: Rc<Queue>,
    install: Arc<Install>,
) -> Rendered<'s> {
    match kind {
        Kind::Events => events(scope, port, queue, install),
        Kind::Table => table(scope, port, queue, install),
    }
}

fn events<'s>(scope: Scope<'s, Tick>, port: String, queue: Rc<Queue>, install: Arc<Install>) -> Rendered<'s> {
    let worker = scope.index();
    let stream = source::<_, CapacityContainerBuilder<Batch>, _, _>(scope, "Subscription", move |capability, info| {
        *queue.activator.borrow_mut() = Some(scope.activator_for(info.address));
        let mut inlet =
            Inlet { worker, port, queue, install, begin: None, waiting: VecDeque::new(), held: Some(capability) };
        move |output| {
            let begun = inlet.install.start.begun().is_some();
            let (past, frontier) = inlet.past(begun);
            for parcel in past {
                if let (Parcel::Events(rows), Some(held)) = (parcel, &inlet.held) {
                    output.session(held).give_container(&mut rows.into());
                }
            }
            inlet.passed(frontier);
            if !begun || inlet.begins().is_none() {
                return;
            }
            let taken = inlet.take();
            let first = inlet.first();
            let rows = taken.into_iter().filter_map(|parcel| match parcel {
                Parcel::Events(rows) => from(&rows, first),
                Parcel::Updates(_) => None,
            });
            for rows in together(rows.collect()) {
                if let Some(held) = &inlet.held {
                    output.session(held).give_container(&mut rows.into());
                }
            }
            inlet.advance();
        }
    });
    Rendered::Events(stream)
}

/// Many small batches as one.
fn together(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    match batches.first() {
        Some(first) if batches.len() > BATCHES_AT_ONCE => {
            vec![concat_batches(&first.schema(), &batches).expect("batches of one stream")]
        }
        _ => batches,
    }
}

/// The events from a tick on.
fn from(rows: &RecordBatch, first: Tick) -> Option<RecordBatch> {
    let ticks = ticks(rows);
    if ticks.values().iter().all(|tick| *tick >= first) {
        return Some(rows.clone());
    }
    let later: BooleanArray = ticks.values().iter().map(|tick| Some(*tick >= first)).collect();
    Some(filter_record_batch(rows, &later).expect("as many flags as rows")).filter(|rows| rows.num_rows() > 0)
}

fn table<'s>(scope: Scope<'s, Tick>, port: String, queue: Rc<Queue>, install: Arc<Install>) -> Rendered<'s> {
    let worker = scope.index();
    type Out = CapacityContainerBuilder<Vec<(Row, Tick, Diff)>>;
    let stream = source::<_, Out, _, _>(scope, "Subscription", move |capability, info| {
        *queue.activator.borrow_mut() = Some(scope.activator_for(info.address));
        let mut inlet =
            Inlet { worker, port, queue, install, begin: None, waiting: VecDeque::new(), held: Some(capability) };
        move |output| {
            let begun = inlet.install.start.begun().is_some();
            let (past, frontier) = inlet.past(begun);
            for parcel in past {
                if let (Parcel::Updates(mut updates), Some(held)) = (parcel, &inlet.held) {
                    output.session(held).give_container(&mut updates);
                }
            }
            inlet.passed(frontier);
            let Some(now) = begun.then(|| inlet.begins()).flatten() else { return };
            let first = inlet.first();
            if let (true, 0, Some(begin)) = (now, worker, &inlet.begin) {
                let rows = begin.content.get(&inlet.port).map_or(&[][..], Vec::as_slice);
                let given = |(row, diff): &(Row, Diff)| (row.clone(), first, *diff);
                let parcel = |rows: &[(Row, Diff)]| Parcel::Updates(rows.iter().map(given).collect());
                inlet.waiting = rows.chunks(ROWS_AT_ONCE).map(parcel).collect();
            }
            if now {
                // The content is large, and only needed once.
                inlet.begin = Some(Arc::new(Begin { tick: first, ..Begin::default() }));
            }
            for parcel in inlet.take() {
                if let (Parcel::Updates(mut updates), Some(held)) = (parcel, &inlet.held) {
                    updates.retain(|(_, tick, _)| *tick >= first);
                    if !updates.is_empty() {
                        output.session(held).give_container(&mut updates);
                    }
                }
            }
            inlet.advance();
        }
    });
    Rendered::Table(stream.as_collection())
}
