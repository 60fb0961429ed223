//! The task that brings one view to one sink.
//!
//! Invariant: it takes from its tap no more than the sink's queue has room for, so what a sink that is away costs is bounded: of
//! a table the changes are given up and the difference to its content follows later, of events those that do not fit are
//! counted. Ticks of what is handed over only grow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use metrics::counter;
use operators::time::Tick;
use queries::live::{Change, Content, Engine, Sending, Sent, Tap, Tapped};
use queries::plan::Kind;
use sinks::metrics::Metric;
use sinks::{Feed, Rows, Running};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::standing::Standing;

/// How often a task looks whether its sink has room again, and whether it has lost what it had.
const LOOK: Duration = Duration::from_millis(20);

/// What the task tells of itself.
#[derive(Debug, Default)]
pub struct Told {
    missed: AtomicU64,
    resynchronised: AtomicU64,
    broken: Mutex<Option<String>>,
    /// The tick before which everything was handed over to the sink's queue.
    handed: AtomicU64,
    /// Of events: where they come from, and how many changes of it were.
    events: Mutex<Option<(Arc<Tap>, u64)>>,
}

impl Told {
    /// Changes come from this version from now on.
    fn take_from(&self, version: &Version) {
        let events = (version.sending.kind == Kind::Events).then(|| (version.tap.clone(), 0));
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = events;
    }

    /// One more change is handed over.
    fn one_more(&self) {
        if let Some((_, done)) = &mut *self.events.lock().unwrap_or_else(PoisonError::into_inner) {
            *done += 1;
        }
    }
}

/// A view on its way to a sink.
pub struct Sender {
    /// The version of the view that is sent.
    target: watch::Sender<Option<Version>>,
    pub port: String,
    pub sink: String,
    feed: Feed,
    opened: watch::Receiver<bool>,
    told: Arc<Told>,
    task: JoinHandle<()>,
    running: Running,
}

/// One version of a view, and the way of its changes.
#[derive(Clone)]
pub struct Version {
    pub sending: Sending,
    pub tap: Arc<Tap>,
}

/// What is started.
pub struct Start {
    pub version: Version,
    pub sink: String,
    pub standing: Standing,
    pub feed: Feed,
    pub running: Running,
    /// Turns true when the target has lost what was written.
    pub lost: Arc<AtomicBool>,
}

impl Sender {
    /// Begins.
    pub fn start(engine: Arc<Engine>, start: Start) -> Sender {
        let Start { version, sink, standing, feed, running, lost } = start;
        let (port, told) = (version.sending.port.clone(), Arc::<Told>::default());
        let opened = running.opening();
        let stream = feed.routes()[0].stream;
        let (target, wanted) = watch::channel(Some(version.clone()));
        told.take_from(&version);
        let work = Work {
            engine,
            version,
            wanted,
            standing: Some(standing),
            feed: feed.clone(),
            stream,
            lost,
            next: 0,
            told: told.clone(),
        };
        let task = tokio::spawn(work.run());
        Sender { target, port, sink, feed, opened, told, task, running }
    }

    /// Goes on with another version of the view, which has the same columns and key.
    pub fn go_on(&mut self, version: Version) {
        self.port = version.sending.port.clone();
        self.target.send_replace(Some(version));
    }

    /// Whether the sink has every event before this tick; `shown` is the tick before which all were put into the tap. Not asked of
    /// tables, whose content is sent again, nor of what cannot be sent.
    pub fn has_before(&self, tick: Tick, shown: Tick) -> bool {
        let events = self.told.events.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((tap, done)) = &*events else { return true };
        if self.told.broken.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return true;
        }
        let handed = self.told.handed.load(Ordering::Acquire);
        if handed >= tick {
            return self.feed.durable_min() >= tick;
        }
        let idle = shown >= tick && *done == tap.given();
        // Changes come in the order of ticks: what was handed over is all there is.
        idle && self.feed.queued_rows() == 0
    }

    /// Ends it; what was handed over is written within the deadline. Returns the rows that were not.
    pub async fn stop(self, deadline: Duration) -> u64 {
        self.target.send_replace(None);
        // A panic there has ended the process already.
        let _ = self.task.await;
        self.running.drain(deadline).await
    }

    /// How it does.
    pub fn sent(&self) -> Sent {
        let broken = self.told.broken.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let state = match (broken, self.feed.trouble(), *self.opened.borrow()) {
            (Some(why), ..) => format!("stopped: {why}"),
            (_, Some(why), _) => format!("trying again: {why}"),
            (_, _, false) => "opening".to_owned(),
            _ => "running".to_owned(),
        };
        let missed = self.told.missed.load(Ordering::Relaxed);
        let resynchronised = self.told.resynchronised.load(Ordering::Relaxed);
        counter!(Metric::RowsMissed.name(), "sink" => self.feed.sink()).absolute(missed);
        counter!(Metric::Resynchronised.name(), "sink" => self.feed.sink()).absolute(resynchronised);
        Sent { sink: self.sink.clone(), state, queued: self.feed.queued_rows(), missed, resynchronised }
    }
}

struct Work {
    engine: Arc<Engine>,
    version: Version,
    wanted: watch::Receiver<Option<Version>>,
    /// Elsewhere while it is worked on.
    standing: Option<Standing>,
    feed: Feed,
    stream: &'static str,
    lost: Arc<AtomicBool>,
    /// The tick that what is handed over next has, at least.
    next: Tick,
    told: Arc<Told>,
}

/// What there is to do.
enum Todo {
    Change(Arc<Change>),
    Content(Content),
    End,
}

impl Work {
    async fn run(mut self) {
        let mut content = self.kind() == Kind::Table;
        loop {
            let todo = self.wait(content).await;
            content = false;
            let done = match todo {
                Todo::Change(change) => {
                    let done = self.hand_over(Given::Change(change)).await;
                    self.told.one_more();
                    done
                }
                Todo::Content(rows) => self.hand_over(Given::Content(rows)).await,
                Todo::End => return,
            };
            if let Err(why) = done {
                tracing::error!(view = self.version.sending.name, sink = self.feed.sink(), %why, "a view cannot be sent");
                *self.told.broken.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
                return;
            }
        }
    }

    fn kind(&self) -> Kind {
        self.version.sending.kind
    }

    /// Waits for something to do, and for room for it.
    async fn wait(&mut self, mut content: bool) -> Todo {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let Some(wanted) = wanted else { return Todo::End };
            self.told.missed.store(self.version.tap.missed(), Ordering::Relaxed);
            let table = self.kind() == Kind::Table;
            let newer = wanted.sending.port != self.version.sending.port;
            let drained = table || !self.feed.is_full() && self.version.tap.is_empty();
            if newer && drained {
                self.version = wanted;
                self.told.take_from(&self.version);
                content = table;
            }
            if table && self.lost.swap(false, Ordering::Relaxed) {
                self.standing.as_mut().expect("it is here between two steps").forget();
                self.told.resynchronised.fetch_add(1, Ordering::Relaxed);
                content = true;
            }
            if content
                && !self.feed.is_full()
                && let Some(content) = self.engine.refill(&self.version.sending.port, &self.version.tap)
            {
                return Todo::Content(content);
            }
            // Where there is no content this version is gone: another one comes, or the end.
            let room = !content && !self.feed.is_full();
            tokio::select! {
                _ = self.wanted.changed() => {}
                tapped = self.version.tap.next(), if room => match tapped {
                    Tapped::Change(change) => return Todo::Change(change),
                    Tapped::Lost => {
                        self.told.resynchronised.fetch_add(1, Ordering::Relaxed);
                        content = true;
                    }
                },
                _ = look.tick() => {}
            }
        }
    }

    /// Makes rows of it off the runtime's threads, and hands them to the sink.
    async fn hand_over(&mut self, given: Given) -> Result<(), ArrowError> {
        let (events, next) = (self.kind() == Kind::Events, self.next);
        let mut standing = self.standing.take().expect("it is here between two steps");
        let made = tokio::task::spawn_blocking(move || {
            let made = given.batches(&mut standing, events, next);
            (standing, made)
        });
        let (standing, made) = made.await.map_err(|why| ArrowError::ComputeError(why.to_string()))?;
        self.standing = Some(standing);
        let (tick, batches) = made?;
        for batch in batches {
            self.feed.push(self.stream, 0, if events { Rows::Append(batch) } else { self.upsert(batch) });
        }
        self.feed.close(self.stream, 0, tick + 1);
        self.next = self.next.max(tick + 1);
        self.told.handed.fetch_max(tick, Ordering::Release);
        Ok(())
    }

    /// A changelog is a stream of rows that are kept; else a key's newest row stands.
    fn upsert(&self, batch: RecordBatch) -> Rows {
        if self.feed.routes()[0].keys.is_empty() { Rows::Append(batch) } else { Rows::Upsert(batch) }
    }
}

enum Given {
    Change(Arc<Change>),
    Content(Content),
}

impl Given {
    fn batches(
        self,
        standing: &mut Standing,
        events: bool,
        next: Tick,
    ) -> Result<(Tick, Vec<RecordBatch>), ArrowError> {
        match self {
            // Handed over already by the version before.
            Given::Change(change) if events && change.tick < next => Ok((change.tick, Vec::new())),
            Given::Change(change) if events => Ok((change.tick, standing.events(&change.rows, change.tick)?)),
            Given::Change(change) => {
                let tick = change.tick.max(next);
                Ok((tick, standing.turn(&change.rows, tick)?))
            }
            Given::Content(content) => {
                let tick = content.as_of.max(next);
                Ok((tick, standing.become_content(&content.rows, tick)?))
            }
        }
    }
}
