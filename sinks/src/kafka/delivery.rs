//! What the brokers say of produced records, counted instead of kept: a record's report costs two additions, and whoever waits
//! is woken once.
//!
//! Invariant: every record handed to a producer is reported exactly once, also when its producer is dropped; a report counts
//! for the flight that the record belongs to, and for no other that comes to have its slot.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::id::{SLOTS, Serial};

/// Reports of all producers of one sink.
#[derive(Debug)]
pub(super) struct Reports {
    /// Records reported, good or bad.
    all: Counter,
    /// The same by flight, each number together with the flight's.
    flights: [Counter; SLOTS],
    reached: Notify,
    /// Records that failed, by their ids; empty but in trouble.
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    /// What librdkafka last said of its connections.
    trouble: Mutex<Option<String>>,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    /// The count at which the sink wants to be woken.
    goal: AtomicU64,
}

/// What the sink waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goal {
    /// So many reports in all.
    All(u64),
    /// So many reports of a flight.
    Flight(Serial, u64),
}

/// Since when nothing was reported. It outlives waits that are cut off and begun anew.
#[derive(Debug)]
pub(super) struct Patience {
    count: u64,
    since: Instant,
}

/// Nothing was acknowledged for too long.
#[derive(Debug)]
pub(super) struct Stalled {
    outstanding: u64,
    stall_ms: u64,
    trouble: Option<String>,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Stalled { outstanding, stall_ms, trouble } = self;
        write!(f, "{outstanding} records wait, none acknowledged for {stall_ms} ms")?;
        if let Some(trouble) = trouble {
            write!(f, "; {trouble}")?;
        }
        Ok(())
    }
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            all: Counter::default(),
            flights: std::array::from_fn(|_| Counter::default()),
            reached: Notify::new(),
            failed: Mutex::default(),
            trouble: Mutex::default(),
        }
    }
}

impl Reports {
    /// A flight is about to begin that has the slot of one that is over.
    pub(super) fn begin(&self, flight: Serial) {
        self.flights[flight.slot()].count.store(flight.with(0), Ordering::SeqCst);
    }

    /// Records of the `handed` ones that are not reported yet.
    pub(super) fn outstanding(&self, handed: u64) -> u64 {
        handed.saturating_sub(self.all.count.load(Ordering::SeqCst))
    }

    /// To be asked for a report from now on.
    pub(super) fn patience(&self) -> Patience {
        Patience { count: self.all.count.load(Ordering::SeqCst), since: Instant::now() }
    }

    /// Waits until the goal is reached, however long it takes as long as some records are reported every `stall_ms_max`; no
    /// longer than until one has failed because all others will (`lost`).
    pub(super) async fn wait(
        &self,
        goal: Goal,
        patience: &mut Patience,
        stall_ms_max: u64,
        lost: impl Fn() -> bool,
    ) -> Result<(), Stalled> {
        let (counter, goal) = self.counter(goal);
        counter.goal.store(goal, Ordering::SeqCst);
        loop {
            let left = goal.saturating_sub(counter.count.load(Ordering::SeqCst));
            if left == 0 || self.has_failed() && lost() {
                return Ok(());
            }
            let all = self.all.count.load(Ordering::SeqCst);
            if patience.count != all {
                *patience = Patience { count: all, since: Instant::now() };
            }
            let stall = patience.since + Duration::from_millis(stall_ms_max);
            if Instant::now() >= stall {
                let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                return Err(Stalled { outstanding: left, stall_ms: stall_ms_max, trouble });
            }
            tokio::select! {
                () = self.reached.notified() => {}
                () = sleep_until(stall) => {}
            }
        }
    }

    pub(super) fn is_reached(&self, goal: Goal) -> bool {
        let (counter, goal) = self.counter(goal);
        counter.count.load(Ordering::SeqCst) >= goal
    }

    fn counter(&self, goal: Goal) -> (&Counter, u64) {
        match goal {
            Goal::All(goal) => (&self.all, goal),
            Goal::Flight(flight, goal) => (&self.flights[flight.slot()], flight.with(goal)),
        }
    }

    /// Whether any record has failed of which nobody has taken note.
    pub(super) fn has_failed(&self) -> bool {
        !self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Why records failed that nobody has taken note of.
    pub(super) fn why_failed(&self) -> Vec<RDKafkaErrorCode> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|(_, code)| *code).collect()
    }

    /// Records of a flight that failed since the last call, by their place in it.
    pub(super) fn take_failed(&self, flight: Serial) -> Vec<(usize, RDKafkaErrorCode)> {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = failed.extract_if(.., |(id, _)| Serial::split(*id as u64).0 == flight);
        mine.map(|(id, code)| (Serial::split(id as u64).1 as usize, code)).collect()
    }

    /// Nobody wants any more to know of the records that failed so far.
    pub(super) fn forget_failed(&self) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Notes the report of a record.
    pub(super) fn note(&self, id: usize, failure: Option<RDKafkaErrorCode>) {
        // Before the record counts: who finds the count complete finds all failures.
        if let Some(code) = failure {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).push((id, code));
        }
        let flight = Serial::split(id as u64).0;
        let own = &self.flights[flight.slot()];
        let counted = own.count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| {
            // Otherwise the flight is one that nobody waits for any more.
            (Serial::split(count).0 == flight).then_some(count + 1)
        });
        let reached = counted.is_ok_and(|before| before + 1 == own.goal.load(Ordering::SeqCst));
        let all = self.all.count.fetch_add(1, Ordering::SeqCst) + 1;
        if reached || all == self.all.goal.load(Ordering::SeqCst) || failure.is_some() {
            self.reached.notify_one();
        }
    }
}

/// The context of one producer.
pub(super) struct Delivery(Arc<Reports>);

impl Delivery {
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self(reports)
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, id: usize) {
        let failure = result.as_ref().err();
        self.0.note(id, failure.map(|(error, _)| error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)));
    }
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        *self.0.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
    }
}
