//! What is asked of all workers, in one order.
//!
//! Invariant: every worker does the same commands in the same sequence, so the dataflows that they make are the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;

use operators::row::{Diff, Row};
use operators::time::Tick;

use super::feed::Feed;
use super::keep::Held;
use crate::plan::Node;
use crate::render::Usage;

/// One command.
#[derive(Clone)]
pub enum Command {
    /// Build a stream.
    Install(Arc<Install>),
    /// From now on, have everything of what the stream with this name of a port reads.
    Follow(String),
    /// Take the stream with this name of a port down.
    Drop(String),
}

/// A stream to be built.
pub struct Install {
    /// Name of its port: each version of a stream has one of its own.
    pub port: String,
    pub node: Arc<Node>,
    pub start: Start,
    /// What came before it, if it begins with that.
    pub past: Option<Arc<Feed>>,
    /// Where its rows are kept.
    pub rows: Arc<Held>,
    /// Where its faults are kept.
    pub faults: Arc<Held>,
    /// What it takes, told by its operators.
    pub usage: Arc<Usage>,
}

/// From which tick on a stream is computed; the workers and their inputs agree on it.
pub struct Start {
    /// Reports still to come: one of each worker.
    missing: AtomicUsize,
    agreed: Mutex<Agreed>,
}

#[derive(Default)]
struct Agreed {
    /// The first tick that all workers have whole.
    least: Tick,
    begin: Option<Arc<Begin>>,
}

/// Where a stream begins.
#[derive(Default)]
pub struct Begin {
    /// Its first tick.
    pub tick: Tick,
    /// What its tables held before it, by the names of their ports.
    pub content: BTreeMap<String, Vec<(Row, Diff)>>,
}

impl Start {
    /// At the beginning of time: nothing has been read yet.
    pub fn at_once() -> Self {
        let begin = Some(Arc::default());
        Self { missing: AtomicUsize::new(0), agreed: Mutex::new(Agreed { least: 0, begin }) }
    }

    /// When `workers` have told from where they have everything.
    pub fn after(workers: usize) -> Self {
        Self { missing: AtomicUsize::new(workers), agreed: Mutex::default() }
    }

    fn agreed(&self) -> std::sync::MutexGuard<'_, Agreed> {
        self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker has everything from this tick on.
    pub fn report(&self, whole_from: Tick) {
        let mut agreed = self.agreed();
        agreed.least = agreed.least.max(whole_from);
        drop(agreed);
        self.missing.fetch_sub(1, Ordering::AcqRel);
    }

    /// The first tick that all workers have whole, once all have told.
    pub fn whole_from(&self) -> Option<Tick> {
        (self.missing.load(Ordering::Acquire) == 0).then(|| self.agreed().least)
    }

    /// Lets the workers begin.
    pub fn begin(&self, begin: Begin) {
        self.agreed().begin = Some(Arc::new(begin));
    }

    /// Where to begin, once it is known.
    pub fn begun(&self) -> Option<Arc<Begin>> {
        self.agreed().begin.clone()
    }

    /// Lets go of the content once it is not needed any more.
    pub fn forget(&self) {
        let mut agreed = self.agreed();
        if let Some(begin) = &mut agreed.begin {
            *begin = Arc::new(Begin { tick: begin.tick, content: BTreeMap::new() });
        }
    }
}

/// Commands on their way to the workers.
pub struct Commands {
    /// One for each worker.
    queues: Mutex<Vec<Vec<Command>>>,
    /// Whether there are any for a worker.
    waiting: Vec<AtomicBool>,
    threads: Mutex<Vec<Thread>>,
}

impl Commands {
    pub fn new(workers: usize) -> Self {
        let waiting = (0..workers).map(|_| AtomicBool::new(false)).collect();
        Self { queues: Mutex::new(vec![Vec::new(); workers]), waiting, threads: Mutex::default() }
    }

    fn queues(&self) -> std::sync::MutexGuard<'_, Vec<Vec<Command>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, command: Command) {
        // Under one lock, so that all workers have the same sequence.
        let mut queues = self.queues();
        queues.iter_mut().for_each(|queue| queue.push(command.clone()));
        self.waiting.iter().for_each(|waiting| waiting.store(true, Ordering::Release));
        drop(queues);
        self.wake();
    }

    /// Workers sleep when there is nothing to do.
    pub fn wake(&self) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(Thread::unpark);
    }

    pub fn join(&self, worker: Thread) {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(worker);
    }

    /// What is new for a worker; cheap while there is nothing.
    pub fn take(&self, worker: usize) -> Vec<Command> {
        if !self.waiting[worker].load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut queues = self.queues();
        self.waiting[worker].store(false, Ordering::Release);
        std::mem::take(&mut queues[worker])
    }
}
