//! Messages that wait for a client, up to a number of bytes. Their texts are shared with other connections; what is counted
//! is what the client still has to take.

use std::collections::VecDeque;
use std::sync::Arc;

use operators::time::Tick;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

/// Kind of a message, for the figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Part of a snapshot.
    Snapshot,
    /// Part of a delta.
    Delta,
    /// Anything else.
    Control,
}

/// A message to a client.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Its kind.
    pub kind: Kind,
    /// Its beginning, if it differs from connection to connection.
    pub head: Option<Arc<str>>,
    /// The rest, or all of it.
    pub body: Utf8Bytes,
    /// Version of a delta, from which its delivery is timed.
    pub version: Option<Tick>,
}

impl Outgoing {
    /// A message that stands for itself.
    #[must_use]
    pub fn control(text: String) -> Self {
        Self { kind: Kind::Control, head: None, body: text.into(), version: None }
    }

    /// Bytes of its text.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.head.as_ref().map_or(0, |head| head.len()) + self.body.len()
    }

    /// The text in one piece, as it goes over the wire.
    #[must_use]
    pub fn into_message(self) -> Message {
        let Some(head) = self.head else { return Message::Text(self.body) };
        let mut text = String::with_capacity(head.len() + self.body.len());
        text.push_str(&head);
        text.push_str(&self.body);
        Message::Text(text.into())
    }
}

/// The queue.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Outgoing>,
    bytes: usize,
    bytes_max: usize,
}

impl Outbox {
    /// An empty outbox that is full from `bytes_max` on.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { queue: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Whether nothing more should be made for this client.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes >= self.bytes_max
    }

    /// Adds a message.
    pub fn push(&mut self, message: Outgoing) {
        self.bytes += message.size_bytes();
        self.queue.push_back(message);
    }

    /// Takes the oldest message.
    pub fn pop(&mut self) -> Option<Outgoing> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.size_bytes();
        Some(message)
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}
