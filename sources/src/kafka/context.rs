//! What the Kafka client tells beside records: errors, statistics, answers to commits.
//!
//! Invariant: a partition counts as connected only while its leader has been reachable for [`HEALED_MS`]. Only then does
//! silence mean that nothing was appended, so only then may the partition's frontier follow the clock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use metrics::counter;
use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::types::RDKafkaErrorCode;
use serde::Deserialize;

use crate::metrics::Metric;
use crate::reader::Assigned;

/// How often the client gives statistics, in milliseconds.
pub(super) const STATISTICS_MS: u64 = 500;
/// How long a broker must be up again until silence means that there is nothing, in milliseconds: time for a fetch to come
/// back with what was appended meanwhile.
const HEALED_MS: i64 = 500;

#[derive(Default)]
pub(super) struct Context {
    /// The connection was lost, and no statistics since have shown it to be back.
    lost: AtomicBool,
    commit_failing: AtomicBool,
    partitions: RwLock<HashMap<(Arc<str>, i32), Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    end: Option<i64>,
    connected: bool,
}

impl Context {
    /// Whether the partition's leader can be reached, and could be for a while.
    pub fn is_connected(&self, a: &Assigned) -> bool {
        if self.lost.load(Ordering::Relaxed) {
            return false;
        }
        let seen = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        // Until the first statistics: the end of the partition was seen, so its leader was there.
        seen.get(&(a.topic.clone(), a.partition)).is_none_or(|seen| seen.connected)
    }

    /// The offset after the partition's last record, as of the last answer to a fetch.
    pub fn end(&self, a: &Assigned) -> Option<i64> {
        let seen = self.partitions.read().unwrap_or_else(PoisonError::into_inner);
        seen.get(&(a.topic.clone(), a.partition))?.end
    }
}

#[derive(Deserialize)]
struct Statistics<'a> {
    #[serde(borrow)]
    brokers: HashMap<&'a str, Broker<'a>>,
    #[serde(borrow)]
    topics: HashMap<&'a str, Topic<'a>>,
}

#[derive(Deserialize)]
struct Broker<'a> {
    nodeid: i32,
    state: &'a str,
    /// Microseconds in that state.
    stateage: i64,
}

#[derive(Deserialize)]
struct Topic<'a> {
    #[serde(borrow)]
    partitions: HashMap<&'a str, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: i32,
    leader: i32,
    hi_offset: i64,
}

impl ClientContext for Context {
    fn stats_raw(&self, statistics: &[u8]) {
        let statistics: Statistics<'_> = match sonic_rs::from_slice(statistics) {
            Ok(statistics) => statistics,
            Err(why) => return tracing::warn!(%why, "the Kafka client's statistics cannot be read"),
        };
        let healthy = |id: i32| {
            let leader = statistics.brokers.values().find(|broker| broker.nodeid == id);
            leader.is_some_and(|broker| broker.state == "UP" && broker.stateage > HEALED_MS * 1_000)
        };
        let mut seen = self.partitions.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = true;
        for (topic, Topic { partitions }) in &statistics.topics {
            for p in partitions.values().filter(|p| p.partition >= 0) {
                let connected = healthy(p.leader);
                all &= connected;
                let end = (p.hi_offset >= 0).then_some(p.hi_offset);
                seen.insert((Arc::from(*topic), p.partition), Seen { end, connected });
            }
        }
        drop(seen);
        if all && self.lost.swap(false, Ordering::Relaxed) {
            tracing::info!("connected to Kafka again");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if code == Some(RDKafkaErrorCode::PartitionEOF) {
            return; // no error: the partition's own queue tells it to the reader
        }
        count_error(code);
        let broken = matches!(
            code,
            Some(
                RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::Resolve
            )
        );
        if !broken {
            tracing::warn!(%error, reason, "Kafka error");
        } else if !self.lost.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, reason, "connection to Kafka lost; reading goes on when it is back");
        }
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error, too.
        tracing::debug!(target: "librdkafka", ?level, facility, "{message}");
    }
}

impl ConsumerContext for Context {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            Ok(()) => self.commit_failing.store(false, Ordering::Relaxed),
            Err(why) if !self.commit_failing.swap(true, Ordering::Relaxed) => commit_failed(&why),
            Err(_) => {}
        }
    }
}

fn count_error(code: Option<RDKafkaErrorCode>) {
    let code = code.map_or_else(|| "other".to_owned(), |code| format!("{code:?}"));
    counter!(Metric::Errors.name(), "code" => code).increment(1);
}

pub(super) fn commit_failed(why: &KafkaError) {
    counter!(Metric::Errors.name(), "code" => "commit").increment(1);
    tracing::warn!(%why, "offsets cannot be committed: lag tools show old figures, nothing else depends on it");
}
