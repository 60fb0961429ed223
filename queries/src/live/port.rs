//! Where a stream can be joined after it has begun: within one worker, from an operator that has it to dataflows that want
//! it.
//!
//! Invariant: who has subscribed gets everything from then on, and what a port says of its past tells where "then" is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};

use datafusion::arrow::array::RecordBatch;
use operators::row::{Diff, Row};
use operators::time::Tick;
use timely::scheduling::Activator;

/// Rows that come and go at ticks.
pub type Updates = Vec<(Row, Tick, Diff)>;

/// Rows on their way through a port.
#[derive(Clone, Debug)]
pub enum Parcel {
    /// Events: columns, and the tick.
    Events(RecordBatch),
    /// Changes of a table.
    Updates(Updates),
}

impl Parcel {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        match self {
            Self::Events(rows) => rows.num_rows(),
            Self::Updates(updates) => updates.len(),
        }
    }
}

/// What a subscriber has not taken yet.
#[derive(Default)]
pub struct Queue {
    pub parcels: RefCell<VecDeque<Parcel>>,
    /// No row before it comes any more.
    pub frontier: Cell<Tick>,
    pub activator: RefCell<Option<Activator>>,
}

/// One stream of this worker.
#[derive(Default)]
pub struct Port {
    subscribers: RefCell<Vec<Weak<Queue>>>,
    frontier: Cell<Tick>,
    /// Nothing after it has been put through yet.
    newest: Cell<Tick>,
}

impl Port {
    /// Whether anybody wants rows.
    pub fn is_wanted(&self) -> bool {
        !self.subscribers.borrow().is_empty()
    }

    /// Rows with ticks up to `newest` have come.
    pub fn seen(&self, newest: Tick) {
        self.newest.set(self.newest.get().max(newest));
    }

    pub fn put(&self, parcel: &Parcel) {
        self.each(|queue| queue.parcels.borrow_mut().push_back(parcel.clone()));
    }

    pub fn advance(&self, frontier: Tick) {
        self.frontier.set(frontier);
        self.each(|queue| queue.frontier.set(frontier));
    }

    fn each(&self, act: impl Fn(&Queue)) {
        self.subscribers.borrow_mut().retain(|queue| {
            let Some(queue) = queue.upgrade() else { return false };
            act(&queue);
            if let Some(activator) = &*queue.activator.borrow() {
                activator.activate();
            }
            true
        });
    }

    /// Lets all subscribers look again.
    pub fn nudge(&self) {
        self.each(|_| {});
    }

    /// A queue of everything from now on, and the first tick that is whole in it.
    pub fn subscribe(&self) -> (Rc<Queue>, Tick) {
        let queue = Rc::new(Queue::default());
        let from = self.attach(&queue);
        (queue, from)
    }

    /// The same with a queue that is there already.
    pub fn attach(&self, queue: &Rc<Queue>) -> Tick {
        queue.frontier.set(self.frontier.get());
        self.subscribers.borrow_mut().push(Rc::downgrade(queue));
        let begun = self.newest.get().checked_add(1).filter(|_| self.newest.get() > 0).unwrap_or(0);
        self.frontier.get().max(begun)
    }
}

/// The ports of one worker by name.
#[derive(Clone, Default)]
pub struct Ports(Rc<RefCell<BTreeMap<String, Rc<Port>>>>);

impl Ports {
    /// A new port of this name.
    pub(super) fn open(&self, name: &str) -> Rc<Port> {
        let port = Rc::new(Port::default());
        self.0.borrow_mut().insert(name.to_owned(), port.clone());
        port
    }

    /// The port of this name.
    pub(super) fn get(&self, name: &str) -> Option<Rc<Port>> {
        self.0.borrow().get(name).cloned()
    }

    /// Nobody can subscribe to it any more.
    pub(super) fn close(&self, name: &str) {
        self.0.borrow_mut().remove(name);
    }
}
