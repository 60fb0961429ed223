//! The reader's figures. Handles of counters are kept, so that counting a batch is a few additions; gauges are set once a
//! second.

use std::collections::BTreeMap;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use operators::record::Stream;
use operators::time::{Exception, Tick};

use super::partition::{Partition, Tally};
use super::{Assigned, State};
use crate::metrics::Metric;

/// How often gauges are set and progress is told, in milliseconds.
const REPORT_MS: u64 = 1_000;
/// Records of a second of which more than half are refused before that is told in the log, and how often it is.
const ALARM_RECORDS_MIN: u64 = 100;
const ALARM_MS: u64 = 60_000;

pub(super) struct Measure {
    partitions: Vec<Of>,
    frontier_delay: BTreeMap<Stream, Gauge>,
    next_ms: u64,
}

struct Of {
    topic: String,
    records: Counter,
    bytes: Counter,
    batch_rows: Histogram,
    lag: Gauge,
    refused_share: Gauge,
    partition: i32,
    /// Since the last report.
    read: u64,
    refused: u64,
    /// When the log may be told again.
    alarm_ms: u64,
}

impl Of {
    /// A topic of little but garbage is a sender's mistake that somebody has to see; it is read on, for a stopped partition
    /// would hold up every other.
    fn report_refused(&mut self, now_ms: u64) {
        let (read, refused) = (std::mem::take(&mut self.read), std::mem::take(&mut self.refused));
        if read == 0 {
            return;
        }
        self.refused_share.set(refused as f64 / read as f64);
        if read >= ALARM_RECORDS_MIN && refused * 2 > read && now_ms >= self.alarm_ms {
            self.alarm_ms = now_ms + ALARM_MS;
            let Of { topic, partition, .. } = self;
            tracing::warn!(
                topic,
                partition,
                read,
                refused,
                "most records of the last second are refused: see the dead letters"
            );
        }
    }
}

fn code(exception: Exception) -> &'static str {
    match exception {
        Exception::Broken => "timestamp_broken",
        Exception::Future => "timestamp_future",
        Exception::Late => "timestamp_late",
    }
}

impl Measure {
    pub fn new(assigned: &[Assigned]) -> Self {
        let of = |a: &Assigned| {
            let topic = a.topic.to_string();
            let partition = a.partition.to_string();
            Of {
                records: counter!(Metric::Records.name(), "topic" => topic.clone()),
                bytes: counter!(Metric::Bytes.name(), "topic" => topic.clone()),
                batch_rows: histogram!(Metric::BatchRows.name(), "stream" => a.stream.topic()),
                lag: gauge!(Metric::Lag.name(), "topic" => topic.clone(), "partition" => partition.clone()),
                refused_share: gauge!(Metric::RefusedShare.name(), "topic" => topic.clone(), "partition" => partition),
                topic,
                partition: a.partition,
                read: 0,
                refused: 0,
                alarm_ms: 0,
            }
        };
        let delay = |s: Stream| (s, gauge!(Metric::FrontierDelay.name(), "stream" => s.topic()));
        Measure {
            partitions: assigned.iter().map(of).collect(),
            frontier_delay: assigned.iter().map(|a| delay(a.stream)).collect(),
            next_ms: 0,
        }
    }

    pub fn batch(&self, index: usize, rows: usize) {
        self.partitions[index].batch_rows.record(rows as f64);
    }

    pub fn tally(&mut self, index: usize, tally: &Tally) {
        let of = &mut self.partitions[index];
        if tally.records == 0 {
            return;
        }
        of.read += tally.records as u64;
        of.refused += tally.rejected.len() as u64;
        of.records.increment(tally.records as u64);
        of.bytes.increment(tally.bytes as u64);
        let mut codes: BTreeMap<(Metric, &'static str), u64> = BTreeMap::new();
        for code in &tally.rejected {
            *codes.entry((Metric::Rejected, code)).or_default() += 1;
        }
        for exception in &tally.exceptions {
            *codes.entry((Metric::TimeExceptions, code(*exception))).or_default() += 1;
        }
        for ((metric, code), count) in codes {
            counter!(metric.name(), "topic" => of.topic.clone(), "code" => code).increment(count);
        }
    }

    pub fn is_due(&mut self, now_ms: u64) -> bool {
        let due = now_ms >= self.next_ms;
        if due {
            self.next_ms = now_ms + REPORT_MS;
        }
        due
    }

    pub fn report(
        &mut self,
        now_ms: u64,
        partitions: &[Partition],
        frontiers: &BTreeMap<Stream, Option<Tick>>,
        end: impl Fn(usize) -> Option<i64>,
    ) {
        for (index, (of, partition)) in self.partitions.iter_mut().zip(partitions).enumerate() {
            of.report_refused(now_ms);
            let lag = match partition.state {
                State::Ended => Some(0),
                State::Behind | State::CaughtUp => end(index).map(|end| (end - partition.next).max(0)),
            };
            if let Some(lag) = lag {
                of.lag.set(lag as f64);
            }
        }
        for (stream, gauge) in &self.frontier_delay {
            let delay_ms = frontiers.get(stream).copied().flatten().map_or(0, |tick| now_ms.saturating_sub(tick));
            gauge.set(delay_ms as f64 / 1_000.0);
        }
    }
}
