//! What the brokers say of produced records, counted instead of kept: a record's report costs one addition, and whoever waits
//! is woken once.
//!
//! Invariant: every record handed to a producer is reported exactly once, also when its producer is dropped.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use tokio::sync::Notify;

/// Reports of all producers of one sink.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Records reported, good or bad.
    count: AtomicU64,
    /// The count at which the sink wants to be woken.
    goal: AtomicU64,
    reached: Notify,
    /// Records that failed, by their ids; empty but in trouble.
    failed: Mutex<Vec<(usize, RDKafkaErrorCode)>>,
    /// What librdkafka last said of its connections.
    trouble: Mutex<Option<String>>,
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

impl Reports {
    /// Records of the `handed` ones that are not reported yet.
    pub(super) fn outstanding(&self, handed: u64) -> u64 {
        handed.saturating_sub(self.count.load(Ordering::SeqCst))
    }

    /// Waits until `goal` records are reported, however long it takes as long as some are every `stall_ms_max`.
    pub(super) async fn wait(&self, goal: u64, stall_ms_max: u64) -> Result<(), Stalled> {
        self.goal.store(goal, Ordering::SeqCst);
        let mut before = self.count.load(Ordering::SeqCst);
        while before < goal {
            let stall = tokio::time::sleep(Duration::from_millis(stall_ms_max));
            tokio::select! {
                () = self.reached.notified() => before = self.count.load(Ordering::SeqCst),
                () = stall => {
                    let now = self.count.load(Ordering::SeqCst);
                    if now == before {
                        let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
                        return Err(Stalled { outstanding: goal - now, stall_ms: stall_ms_max, trouble });
                    }
                    before = now;
                }
            }
        }
        Ok(())
    }

    /// Records that failed since the last call.
    pub(super) fn take_failed(&self) -> Vec<(usize, RDKafkaErrorCode)> {
        std::mem::take(&mut *self.failed.lock().unwrap_or_else(PoisonError::into_inner))
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
        if let Err((error, _)) = result {
            let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
            self.0.failed.lock().unwrap_or_else(PoisonError::into_inner).push((id, code));
        }
        // After the failure is noted: who finds the count complete finds all failures.
        let count = self.0.count.fetch_add(1, Ordering::SeqCst) + 1;
        if count == self.0.goal.load(Ordering::SeqCst) {
            self.0.reached.notify_one();
        }
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
