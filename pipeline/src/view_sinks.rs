//! Views on their way to their sinks: compared again and again with what is declared, started, told of a new version, stopped.
//!
//! Invariant: a sink never holds up the dataflow, and what a stream wrote is taken away only by a purge that was asked for.

mod open;
mod sender;
mod standing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::error::Refusal;
use operators::time::Tick;
use queries::live::{Engine, Sending, Sent};
use queries::plan::Kind;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::config::Config;
use open::Opening;
use sender::{Sender, Version};

/// How often it is looked at what is declared.
const LOOK: Duration = Duration::from_millis(50);

/// The sinks of all views.
#[derive(Clone)]
pub struct ViewSinks(Arc<Shared>);

struct Shared {
    engine: Arc<Engine>,
    config: Config,
    /// The log has been read to its end.
    caught_up: AtomicBool,
    stopping: AtomicBool,
    /// The end has come before everything was written.
    left: AtomicBool,
    state: Mutex<State>,
    /// Tells this life of the process from others.
    life: String,
}

#[derive(Default)]
struct State {
    /// By view and sink.
    senders: BTreeMap<(String, String), Sender>,
    /// Those that write what they were handed over before they are gone.
    ending: BTreeMap<(String, String), JoinHandle<u64>>,
    /// What cannot be started, and of which version that was found out.
    refused: BTreeMap<(String, String), (String, String)>,
    /// Views as they were sent, so that a purge knows where a dropped one was.
    shapes: BTreeMap<String, Sending>,
}

impl ViewSinks {
    /// Starts what the declared streams want, and goes on looking.
    pub async fn start(engine: Arc<Engine>, config: &Config) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let shared = Shared {
            engine,
            config: config.clone(),
            caught_up: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            left: AtomicBool::new(false),
            state: Mutex::default(),
            life: now.as_nanos().to_string(),
        };
        let sinks = Self(Arc::new(shared));
        // Before the first record is read: streams of events have to be taken from their beginning.
        sinks.reconcile().await;
        let looking = sinks.clone();
        tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK);
            while !looking.0.stopping.load(Ordering::Relaxed) {
                look.tick().await;
                looking.reconcile().await;
            }
        });
        sinks
    }

    /// The log has been read to its end: tables are as they are now, and not as they once were.
    pub fn caught_up(&self) {
        self.0.caught_up.store(true, Ordering::Relaxed);
    }

    /// Whether the sinks of events have everything before this tick: what a checkpoint may leave behind. Not while it cannot be told.
    pub fn have_before(&self, tick: Tick) -> bool {
        let shared = &self.0;
        let shown = shared.engine.keeper().as_of().saturating_add(1);
        let Ok(state) = shared.state.try_lock() else { return false };
        !shared.left.load(Ordering::Relaxed) && state.senders.values().all(|sender| sender.has_before(tick, shown))
    }

    /// Makes it so that exactly the declared streams are sent.
    async fn reconcile(&self) {
        let shared = &self.0;
        let mut state = shared.state.lock().await;
        if shared.stopping.load(Ordering::Relaxed) {
            return;
        }
        let wanted = shared.engine.sending();
        let is_wanted = |key: &(String, String)| {
            wanted.iter().any(|sending| sending.name == key.0 && sending.sinks.contains(&key.1))
        };
        let gone: Vec<_> = state.senders.keys().filter(|key| !is_wanted(key)).cloned().collect();
        for key in gone {
            self.end(&mut state, &key);
        }
        let mut sent: BTreeMap<String, Vec<Sent>> = BTreeMap::new();
        for sending in &wanted {
            for sink in &sending.sinks {
                let told = self.bring(&mut state, sending, sink);
                sent.entry(sending.name.clone()).or_default().push(told);
            }
            state.shapes.insert(sending.name.clone(), sending.clone());
        }
        shared.engine.show_sent(sent);
    }

    /// Sees to one view on its way to one sink, and says how it does.
    fn bring(&self, state: &mut State, sending: &Sending, sink: &str) -> Sent {
        let shared = &self.0;
        let key = (sending.name.clone(), sink.to_owned());
        let before = state.shapes.get(&sending.name);
        let same = before.is_some_and(|before| {
            before.schema == sending.schema && before.key == sending.key && before.kind == sending.kind
        });
        if let Some(sender) = state.senders.get_mut(&key) {
            if sender.port == sending.port {
                return sender.sent();
            }
            if same && let Some(tap) = shared.engine.tap(sending, sink) {
                sender.go_on(Version { sending: sending.clone(), tap });
                return sender.sent();
            }
            self.end(state, &key);
        }
        if let Some((port, why)) = state.refused.get(&key)
            && *port == sending.port
        {
            return Sent::only(sink, why);
        }
        if sending.kind == Kind::Table && !shared.caught_up.load(Ordering::Relaxed) {
            return Sent::only(sink, "waits until the log has been read");
        }
        if state.ending.get(&key).is_some_and(|ending| !ending.is_finished()) {
            return Sent::only(sink, "waits until the version before it is written");
        }
        state.ending.remove(&key);
        let Some(tap) = shared.engine.tap(sending, sink) else { return Sent::only(sink, "is being replaced") };
        let opening = Opening { config: &shared.config, sending, life: &shared.life };
        match opening.open(sink, tap) {
            Ok(start) => {
                info!(view = sending.name, sink, "a view is sent");
                let sender = Sender::start(shared.engine.clone(), start);
                let told = sender.sent();
                state.senders.insert(key, sender);
                told
            }
            Err(why) => {
                error!(view = sending.name, sink, why, "a view cannot be sent");
                let why = format!("refused: {why}");
                state.refused.insert(key, (sending.port.clone(), why.clone()));
                Sent::only(sink, &why)
            }
        }
    }

    /// Stops a sender. It writes what it was handed over; nothing else writes there meanwhile.
    fn end(&self, state: &mut State, key: &(String, String)) {
        state.refused.remove(key);
        if let Some(sender) = state.senders.remove(key) {
            let deadline = Duration::from_millis(self.0.config.run.drain_ms_max);
            state.ending.insert(key.clone(), tokio::spawn(sender.stop(deadline)));
        }
    }

    /// Takes away what a stream that is dropped has written, wherever it was written in this life of the process.
    ///
    /// # Errors
    /// A target does not let us or is away; what was done before stays done.
    pub async fn purge(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let shared = &self.0;
        let mut state = shared.state.lock().await;
        let Some(sending) = state.shapes.remove(name) else { return Ok(Vec::new()) };
        let deadline = Duration::from_millis(shared.config.run.drain_ms_max);
        let mut purged = Vec::new();
        for sink in &sending.sinks {
            let key = (name.to_owned(), sink.clone());
            state.refused.remove(&key);
            // Nothing may be written after it.
            if let Some(sender) = state.senders.remove(&key) {
                sender.stop(deadline).await;
            }
            if let Some(ending) = state.ending.remove(&key) {
                // A panic there has ended the process already.
                let _ = ending.await;
            }
            open::purge(&shared.config, name, sink).await.map_err(|why| {
                Refusal::new("sink_not_purged", format!("{name} is dropped, but not taken out of {sink}: {why}"))
                    .hint("take it away there; pipeline/docs/sql.md says where it lies")
            })?;
            purged.push(sink.clone());
        }
        Ok(purged)
    }

    /// Ends all of them; what was handed over is written within the deadline. Returns the rows that were not.
    pub async fn drain(self, deadline: Duration) -> u64 {
        self.0.stopping.store(true, Ordering::Relaxed);
        let mut state = self.0.state.lock().await;
        let drains = std::mem::take(&mut state.senders).into_values().map(|sender| sender.stop(deadline));
        let left: u64 = futures_util::future::join_all(drains).await.into_iter().sum();
        let ending = futures_util::future::join_all(std::mem::take(&mut state.ending).into_values()).await;
        let left = left + ending.into_iter().flatten().sum::<u64>();
        self.0.left.store(left > 0, Ordering::Relaxed);
        left
    }
}
