//! One subscription of a connection: how far its client is, and what it has to be told next. Messages are made only when
//! there is room for them, so that whatever a client is too slow for merges while it waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use operators::time::Tick;
use tokio::time::Instant;

use super::context::Context;
use super::hub::{Hold, News, Position};
use super::message::head;
use super::outbox::{Kind, Outgoing};
use super::publication::{Chunk, Encoding, Publication, Scan, delta};
use super::selection::{Selection, Shared};
use crate::memory::Change;

/// A message that is being made chunk by chunk.
#[derive(Debug)]
enum Work {
    /// Everything selected.
    Snapshot(Scan),
    /// One publication, chunks of which other clients use too.
    Whole { publication: Arc<Publication>, encoding: Arc<Encoding>, chunk: usize },
    /// Changes merged for this client, told under the selection that it had.
    Merged { changes: Vec<Change>, next: usize, version: Tick, selection: Shared },
    /// What a new filter brings and takes away.
    Transition { scan: Scan, before: Shared },
}

/// What a subscription has for its client.
#[derive(Debug)]
pub enum Next {
    /// A message.
    Message(Outgoing),
    /// Nothing yet, though there is more to look at.
    Looking,
    /// Nothing.
    Nothing,
}

/// A subscription.
pub struct Subscription {
    id: String,
    context: Arc<Context>,
    hold: Hold,
    position: Position,
    selection: Shared,
    /// The selection that the client wants, until it is turned to.
    wanted: Option<Shared>,
    work: VecDeque<Work>,
    snapshot_head: Arc<str>,
    delta_head: Arc<str>,
    /// Shortest pause between deltas.
    pause: Duration,
    not_before: Instant,
}

impl Subscription {
    /// Subscribes under `id`; a snapshot comes first.
    #[must_use]
    pub fn new(context: &Arc<Context>, id: String, selection: Selection, pause: Duration) -> Self {
        let (hold, pin, position) = context.hub.subscribe();
        context.figures.subscriptions.increment(1);
        Self {
            snapshot_head: head("snapshot", &id).into(),
            delta_head: head("delta", &id).into(),
            id,
            context: context.clone(),
            hold,
            position,
            selection: Shared(Arc::new(selection)),
            wanted: None,
            work: VecDeque::from([Work::Snapshot(Scan::new(pin))]),
            pause,
            not_before: Instant::now(),
        }
    }

    /// The client's name for it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the client asked for last.
    #[must_use]
    pub fn wanted(&self) -> &Selection {
        &self.wanted.as_ref().unwrap_or(&self.selection).0
    }

    /// Changes what the client is told; a pause of `None` stays as it is.
    pub fn update(&mut self, selection: Selection, pause: Option<Duration>) {
        self.wanted = Some(Shared(Arc::new(selection)));
        if let Some(pause) = pause {
            self.pause = pause;
            self.not_before = self.not_before.min(Instant::now() + pause);
        }
    }

    /// Whether there is something to make a message of now.
    #[must_use]
    pub fn is_pending(&self, now: Instant) -> bool {
        !self.work.is_empty() || self.wanted.is_some() || (now >= self.not_before && self.has_news())
    }

    /// When there will be something, if only time is missing.
    #[must_use]
    pub fn wakes_at(&self, now: Instant) -> Option<Instant> {
        (now < self.not_before && self.has_news()).then_some(self.not_before)
    }

    fn has_news(&self) -> bool {
        self.context.hub.has_news(self.position)
    }

    /// The next message, or a part of the way to it.
    pub fn next(&mut self, now: Instant) -> Next {
        while let Some(work) = self.work.front_mut() {
            let (chunk, done) = work.advance(&self.selection, &self.context);
            let kind = if matches!(work, Work::Snapshot(_)) { Kind::Snapshot } else { Kind::Delta };
            let version = match work {
                Work::Whole { publication, .. } => Some(publication.version),
                Work::Merged { version, .. } => Some(*version),
                Work::Snapshot(_) | Work::Transition { .. } => None,
            };
            if done {
                self.work.pop_front();
            }
            match chunk {
                Some(chunk) => {
                    let head = if kind == Kind::Snapshot { &self.snapshot_head } else { &self.delta_head };
                    return Next::Message(Outgoing { kind, head: Some(head.clone()), body: chunk.body, version });
                }
                None if !done => return Next::Looking,
                None => {}
            }
        }
        if let Some(wanted) = self.wanted.take() {
            self.turn_to(wanted);
        } else if now >= self.not_before && self.has_news() {
            self.take_news();
            self.not_before = now + self.pause;
        }
        if self.work.is_empty() { Next::Nothing } else { Next::Looking }
    }

    fn take_news(&mut self) {
        match self.context.hub.news(&mut self.position) {
            None => {}
            Some(News::Whole(publication)) => {
                let encoding = publication.encoding(&self.selection);
                self.work.push_back(Work::Whole { publication, encoding, chunk: 0 });
            }
            Some(News::Merged { changes, version, dropped }) => {
                self.context.figures.merged.increment(dropped as u64);
                let selection = self.selection.clone();
                self.work.push_back(Work::Merged { changes, next: 0, version, selection });
            }
            Some(News::Gap) => self.restart(),
        }
    }

    /// Goes over from what the client has to another selection: first up to now under the old one, then the difference
    /// of the two as of now.
    fn turn_to(&mut self, wanted: Shared) {
        let before = std::mem::replace(&mut self.selection, wanted);
        if before.0.fields() != self.selection.0.fields() {
            return self.restart();
        }
        match self.context.hub.catch_up(&mut self.position) {
            None => self.restart(),
            Some((pin, changes)) => {
                let version = pin.version();
                self.work.push_back(Work::Merged { changes, next: 0, version, selection: before.clone() });
                self.work.push_back(Work::Transition { scan: Scan::new(pin), before });
            }
        }
    }

    /// Starts again from the current state.
    fn restart(&mut self) {
        self.context.figures.resnapshots.increment(1);
        let (pin, position) = self.context.hub.restart(&self.hold);
        self.position = position;
        self.work.push_back(Work::Snapshot(Scan::new(pin)));
    }
}

impl Work {
    /// The next chunk, if one was found, and whether that was the last.
    fn advance(&mut self, selection: &Shared, context: &Context) -> (Option<Chunk>, bool) {
        let reader = context.hub.reader();
        let chunk = match self {
            Work::Snapshot(scan) => scan.snapshot(&selection.0),
            Work::Transition { scan, before } => scan.transition(&before.0, &selection.0),
            Work::Whole { publication, encoding, chunk } => {
                let found = publication.chunk(encoding, *chunk, selection, reader);
                *chunk += 1;
                let done = found.as_ref().is_none_or(|chunk| !chunk.more);
                return (found, done);
            }
            Work::Merged { changes, next, version, selection } => {
                let found = delta(changes, next, &selection.0, reader, *version);
                let done = *next >= changes.len();
                return (found, done);
            }
        };
        let done = chunk.as_ref().is_some_and(|chunk| !chunk.more);
        (chunk, done)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.context.figures.subscriptions.decrement(1);
    }
}
