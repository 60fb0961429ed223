//! Feeds records that fall due over time (a simulation, a recorded trace) to a log, at the speed that they ask for. Nothing
//! is given up while the log is away: what was not acknowledged is published again, so that a record may be written twice
//! but is never missing.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::record::Stream;
use serde::Deserialize;
use tracing::warn;

use super::{Ack, Publish, PublishError, Records};
use crate::log::Clock;

/// Records that fall due over time.
pub trait Timetable {
    /// The next record if it is due until `until_ms` (milliseconds since the epoch).
    fn next_until(&mut self, until_ms: i64) -> Option<Message<'_>>;

    /// When the next record is due, in milliseconds since the epoch; `None` when there is none any more.
    fn next_due_ms(&self) -> Option<i64>;

    /// Whether time is to pass as the records say, rather than as fast as they are taken.
    fn is_paced(&self) -> bool;
}

/// A record to publish, borrowed until the next one is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Stream that the record belongs to.
    pub stream: Stream,
    /// Key.
    pub key: &'a [u8],
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// When it is sent, in milliseconds since the epoch; never before an earlier record.
    pub due_ms: i64,
}

/// How records are handed to the log.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeedOptions {
    /// Bytes of records that are published together.
    pub batch_bytes_max: usize,
    /// Bytes of records that are published and not yet acknowledged.
    pub in_flight_bytes_max: usize,
    /// Milliseconds for which due records are gathered when time passes as they say.
    pub pace_ms: u64,
    /// Longest wait before records are published again, in milliseconds.
    pub retry_ms_max: u64,
}

struct InFlight {
    stream: Stream,
    records: Records,
    ack: Ack,
}

/// Publishes records until there are no more or `stop` is set (unparking the thread makes it look at once); returns when all of them are acknowledged. `topic` names the
/// topic of each stream; streams without one are left out.
///
/// # Errors
/// The log refuses records for good.
pub fn feed(
    timetable: &mut impl Timetable,
    log: &dyn Publish,
    topic: impl Fn(Stream) -> Option<String>,
    options: &FeedOptions,
    clock: &Clock,
    stop: &AtomicBool,
) -> Result<(), PublishError> {
    let topics = Stream::ALL.map(|stream| (stream, topic(stream)));
    let topic_of = |stream: Stream| topics.iter().find(|(s, _)| *s == stream).and_then(|(_, topic)| topic.as_deref());
    let mut feeder = Feeder { log, options, in_flight: VecDeque::new(), in_flight_bytes: 0, spare: Vec::new() };
    let mut batches: Vec<(Stream, Records)> = Vec::new();
    let paced = timetable.is_paced();
    while !stop.load(Ordering::Relaxed) {
        let until_ms = if paced { clock() as i64 } else { i64::MAX };
        let mut bytes = 0;
        while bytes < options.batch_bytes_max
            && let Some(message) = timetable.next_until(until_ms)
        {
            if topic_of(message.stream).is_none() {
                continue;
            }
            let batch = match batches.iter_mut().find(|(stream, _)| *stream == message.stream) {
                Some((_, batch)) => batch,
                None => {
                    batches.push((message.stream, feeder.spare.pop().unwrap_or_default()));
                    let last = batches.len() - 1;
                    &mut batches[last].1
                }
            };
            let before = batch.bytes();
            batch.push(Some(message.key), message.value);
            bytes += batch.bytes() - before;
        }
        // In the order in which streams came up: what others refer to was made first.
        for (stream, records) in batches.drain(..) {
            if let Some(topic) = topic_of(stream) {
                feeder.publish(stream, topic, records, &topic_of, stop)?;
            }
        }
        feeder.reap(usize::MAX, &topic_of, stop)?;
        let Some(due_ms) = timetable.next_due_ms() else { break };
        if paced && bytes < options.batch_bytes_max {
            let wait_ms = (due_ms - clock() as i64).max(options.pace_ms as i64).clamp(1, 1_000);
            std::thread::park_timeout(Duration::from_millis(wait_ms as u64));
        }
    }
    feeder.drain(&topic_of, stop)
}

struct Feeder<'a> {
    log: &'a dyn Publish,
    options: &'a FeedOptions,
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// Buffers to use again.
    spare: Vec<Records>,
}

impl Feeder<'_> {
    fn publish<'t>(
        &mut self,
        stream: Stream,
        topic: &str,
        records: Records,
        topic_of: &impl Fn(Stream) -> Option<&'t str>,
        stop: &AtomicBool,
    ) -> Result<(), PublishError> {
        let ack = self.log.publish(topic, &records);
        self.in_flight_bytes += records.bytes();
        self.in_flight.push_back(InFlight { stream, records, ack });
        self.reap(self.options.in_flight_bytes_max, topic_of, stop)
    }

    fn drain<'t>(
        &mut self,
        topic_of: &impl Fn(Stream) -> Option<&'t str>,
        stop: &AtomicBool,
    ) -> Result<(), PublishError> {
        while !self.in_flight.is_empty() {
            self.settle(topic_of, stop)?;
        }
        Ok(())
    }

    /// Waits for the oldest records while more than `bytes_max` are in flight, and takes back what is done.
    fn reap<'t>(
        &mut self,
        bytes_max: usize,
        topic_of: &impl Fn(Stream) -> Option<&'t str>,
        stop: &AtomicBool,
    ) -> Result<(), PublishError> {
        while self.in_flight_bytes > bytes_max || self.in_flight.front_mut().is_some_and(|oldest| oldest.ack.is_done())
        {
            self.settle(topic_of, stop)?;
        }
        Ok(())
    }

    /// Waits for the oldest records, and publishes them again until they are written.
    fn settle<'t>(
        &mut self,
        topic_of: &impl Fn(Stream) -> Option<&'t str>,
        stop: &AtomicBool,
    ) -> Result<(), PublishError> {
        let Some(InFlight { stream, mut records, mut ack }) = self.in_flight.pop_front() else { return Ok(()) };
        self.in_flight_bytes -= records.bytes();
        let mut wait_ms = 10;
        while let Err(why) = ack.wait() {
            if !why.is_temporary() || stop.load(Ordering::Relaxed) {
                return Err(why);
            }
            if wait_ms >= 1_000 {
                warn!(%why, wait_ms, "records are published again");
            }
            std::thread::park_timeout(Duration::from_millis(wait_ms));
            wait_ms = (wait_ms * 2).min(self.options.retry_ms_max.max(1));
            let Some(topic) = topic_of(stream) else { break };
            ack = self.log.publish(topic, &records);
        }
        if self.spare.len() < 16 {
            records.clear();
            self.spare.push(records);
        }
        Ok(())
    }
}
