//! Reads the partitions of a log that one worker was given, in step, and hands decoded rows and frontiers to the worker.
//!
//! Invariants: a delivered row's tick is never before the last delivered frontier of its stream; frontiers never go back;
//! which tick a record gets does not depend on how partitions were interleaved or batched (but for the exceptions of
//! [`operators::time::Exception`], which are counted). A partition that is ahead is not polled, so that memory is bounded
//! by what one partition may be ahead of another.

mod journal;
mod measure;
mod partition;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use operators::record::Stream;
use operators::time::{BrokerClock, Tick};
use serde::Deserialize;

use crate::codec::Record;
use crate::delivery::{Cursor, Delivery, Outlet, SourceError};
pub use journal::{Journal, Repeats, Ticks};
use measure::Measure;
use partition::{Partition, State};

/// Longest time without a look at the stop signal.
const WAIT_MAX: Duration = Duration::from_millis(50);

/// How a reader reads.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Length of a tick in milliseconds.
    pub tick_ms: u64,
    /// How far ahead of the log's clock an append time may lie before it is taken for broken, in milliseconds.
    pub future_ms_max: u64,
    /// Least time that an idle partition's frontier stays behind the log's clock, in milliseconds.
    pub slack_ms_min: u64,
    /// Most time that an idle partition's frontier stays behind the log's clock, in milliseconds.
    pub slack_ms_max: u64,
    /// How far a partition may be ahead of the slowest one that is not at its end, in milliseconds of ticks.
    pub ahead_ms_max: u64,
    /// Most rows of one batch.
    pub batch_rows_max: usize,
    /// Most bytes of keys and values that go into one batch (a single larger record is a batch of its own).
    pub batch_bytes_max: usize,
    /// Least time between two rounds over the partitions when they gave less than full batches, in milliseconds: what a
    /// record may wait so that records travel together.
    pub pace_ms: u64,
}

/// A partition that a reader was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Stream that the topic carries.
    pub stream: Stream,
    /// Topic.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: i32,
    /// First offset to read.
    pub offset: i64,
    /// No row of the partition gets a tick before this one: 0, or where an earlier run had come to.
    pub floor: Tick,
}

/// What there is after the records that a call of [`PartitionedLog::poll`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polled {
    /// There may be more at once.
    More,
    /// Nothing more at once, but the end of the log was not seen: records are under way.
    Pending,
    /// The end of the partition was seen after the last record.
    CaughtUp {
        /// Every record with an append time before this (milliseconds since the epoch) was given. `None` where the log
        /// can't tell and the reader has to estimate.
        complete_until_ms: Option<u64>,
    },
}

/// A log whose assigned partitions are read each at its own pace. Partitions are named by their place in
/// [`assigned`](Self::assigned).
pub trait PartitionedLog {
    /// The partitions, fixed from the start.
    fn assigned(&self) -> &[Assigned];

    /// Gives up to `records_max` records of one partition to `each`, in offset order and each once, without waiting. A
    /// record for which `each` breaks was taken; the next call goes on behind it.
    ///
    /// # Errors
    /// The source cannot go on. What heals by itself is not an error but [`Polled::Pending`].
    fn poll(
        &mut self,
        index: usize,
        records_max: usize,
        each: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Polled, SourceError>;

    /// Waits until a partition may have records, or until `timeout` has passed. May return early.
    ///
    /// # Errors
    /// The source cannot go on.
    fn wait(&mut self, timeout: Duration) -> Result<(), SourceError>;

    /// The offset after the partition's last record as it stands now.
    ///
    /// # Errors
    /// The log is not to be reached.
    fn end(&mut self, index: usize) -> Result<i64, SourceError>;

    /// The offset after the partition's last record as last heard, without asking anybody; for the lag.
    fn end_known(&self, index: usize) -> Option<i64>;

    /// Everything before these offsets (one a partition) was handed to the worker. For tools that show lag; nothing is
    /// resumed from it.
    fn progress(&mut self, next: &[i64]) {
        let _ = next;
    }
}

/// The reader's sense of time, given from outside so that tests own it.
pub trait Clock {
    /// Milliseconds since the epoch.
    fn now_ms(&mut self) -> u64;
    /// Lets time pass.
    fn pause(&mut self, time: Duration);
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&mut self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn pause(&mut self, time: Duration) {
        std::thread::park_timeout(time);
    }
}

/// Reads until stopped, or up to given offsets.
pub struct Reader<L, O, C = SystemClock> {
    log: L,
    outlet: O,
    clock: C,
    options: Options,
    stop: Arc<AtomicBool>,
    partitions: Vec<Partition>,
    broker: BrokerClock,
    /// Last frontier sent for each stream that has partitions here.
    sent: BTreeMap<Stream, Option<Tick>>,
    /// Streams that the worker waits for beside those of the main job.
    declared: Vec<Stream>,
    journal: Option<Arc<dyn Journal>>,
    /// Places in `partitions`, in the order in which the round polls them.
    order: Vec<usize>,
    measure: Measure,
}

impl<L: PartitionedLog, O: Outlet> Reader<L, O> {
    /// A reader of all partitions that `log` was given, by the machine's clock. It ends when `stop` is set.
    pub fn new(log: L, outlet: O, options: Options, stop: Arc<AtomicBool>) -> Self {
        Reader::with_clock(log, outlet, options, stop, SystemClock)
    }
}

impl<L: PartitionedLog, O: Outlet, C: Clock> Reader<L, O, C> {
    /// [`new`](Reader::new) by another clock.
    pub fn with_clock(log: L, outlet: O, options: Options, stop: Arc<AtomicBool>, clock: C) -> Self {
        let partitions: Vec<_> = log.assigned().iter().map(|a| Partition::new(a, &options)).collect();
        Reader {
            broker: BrokerClock::new(options.slack_ms_min, options.slack_ms_max),
            sent: partitions.iter().map(|p| (p.stream, Some(0))).collect(),
            declared: Vec::new(),
            journal: None,
            order: Vec::with_capacity(partitions.len()),
            measure: Measure::new(log.assigned()),
            log,
            outlet,
            clock,
            options,
            stop,
            partitions,
        }
    }

    /// Gives records that were read before the ticks that they had then, and notes those that could not be found again.
    #[must_use]
    pub fn repeating(mut self, repeats: Repeats) -> Self {
        for (partition, assigned) in self.partitions.iter_mut().zip(self.log.assigned()) {
            let known = repeats.known.get(&(assigned.topic.to_string(), assigned.partition));
            partition.known =
                known.map(|known| known.range(assigned.offset..).map(|(&at, &tick)| (at, tick)).collect());
        }
        self.journal = Some(repeats.journal);
        self
    }

    /// Tells the worker also of these streams that there are none, where no partition of theirs is read here.
    #[must_use]
    pub fn carrying(mut self, streams: impl IntoIterator<Item = Stream>) -> Self {
        self.declared.extend(streams.into_iter().filter(|stream| matches!(stream, Stream::Declared(_))));
        self
    }

    /// Makes the reader end by itself: of each partition it reads the records before the offset given here, of one that is
    /// not given none. Afterwards the frontiers of its streams are `None`.
    #[must_use]
    pub fn until(mut self, ends: &[Cursor]) -> Self {
        for (partition, assigned) in self.partitions.iter_mut().zip(self.log.assigned()) {
            let end = ends.iter().find(|end| end.partition == assigned.partition && *end.topic == *assigned.topic);
            partition.stop_at(end.map_or(0, |end| end.offset));
        }
        self
    }

    /// Reads until the stop signal, or until the end that [`until`](Self::until) has set.
    ///
    /// # Errors
    /// The log cannot go on, or the worker has ended.
    pub fn run(mut self) -> Result<(), SourceError> {
        for stream in Stream::ALL.into_iter().chain(std::mem::take(&mut self.declared)) {
            if !self.sent.contains_key(&stream) {
                self.outlet.send(Delivery::Frontier(stream, None))?;
            }
        }
        while !self.stop.load(Ordering::Relaxed) {
            let started = self.clock.now_ms();
            let (records, more) = self.round()?;
            self.send_frontiers()?;
            if self.partitions.iter().all(|p| p.state == State::Ended) {
                break;
            }
            let now = self.clock.now_ms();
            if self.measure.is_due(now) {
                self.measure.report(now, &self.partitions, &self.sent, |index| self.log.end_known(index));
                let next: Vec<i64> = self.partitions.iter().map(|p| p.next).collect();
                self.log.progress(&next);
            }
            let elapsed = now.saturating_sub(started);
            if more {
                continue;
            } else if records && elapsed < self.options.pace_ms {
                self.clock.pause(Duration::from_millis(self.options.pace_ms - elapsed));
            } else if !records {
                self.log.wait(self.until_next_frontier(now))?;
            }
        }
        let next: Vec<i64> = self.partitions.iter().map(|p| p.next).collect();
        self.log.progress(&next);
        Ok(())
    }

    /// Polls each partition once, the slowest first, but for those that are too far ahead. Tells whether there were records
    /// and whether there may be more at once.
    fn round(&mut self) -> Result<(bool, bool), SourceError> {
        let (mut records, mut more) = (false, false);
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend((0..self.partitions.len()).filter(|index| self.partitions[*index].state != State::Ended));
        order.sort_unstable_by_key(|index| self.partitions[*index].clock.frontier());
        for index in &order {
            let behind = self.partitions.iter().filter(|p| p.state == State::Behind);
            let slowest = behind.map(|p| p.clock.frontier()).min();
            let ahead_ms = if self.outlet.is_pressed() { 0 } else { self.options.ahead_ms_max };
            let limit = slowest.map_or(Tick::MAX, |tick| tick.saturating_add(ahead_ms));
            if self.partitions[*index].clock.frontier() > limit {
                continue;
            }
            let (read, polled) = self.poll(*index)?;
            records |= read > 0;
            more |= polled == Polled::More;
        }
        self.order = order;
        Ok((records, more))
    }

    /// Polls one partition and delivers what came; tells how many records came.
    fn poll(&mut self, index: usize) -> Result<(usize, Polled), SourceError> {
        // Before the poll: what is appended while it runs is not promised.
        let now_ms = self.clock.now_ms();
        let broker_ms = self.broker.now(now_ms);
        let partition = &mut self.partitions[index];
        let live = partition.state == State::CaughtUp;
        let bytes_max = self.options.batch_bytes_max;
        let mut batch = partition::Tally::default();
        let polled = self.log.poll(index, self.options.batch_rows_max, &mut |record| {
            if partition.is_past_end(record.offset) {
                partition.state = State::Ended;
                return ControlFlow::Break(());
            }
            if live && batch.records == 0 {
                self.broker.observe(record.append_ms, now_ms);
            }
            partition.take(&record, broker_ms, &mut batch);
            if batch.bytes >= bytes_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if let Some(journal) = self.journal.as_ref().filter(|_| !batch.late.is_empty()) {
            let assigned = &self.log.assigned()[index];
            journal.note(&assigned.topic, assigned.partition, &batch.late)?;
        }
        let ended = partition.state == State::Ended || partition.is_past_end(partition.next);
        let stream = partition.stream;
        let decoded = partition.decoder.finish();
        if let Some(rows) = decoded.rows {
            self.measure.batch(index, rows.num_rows());
            self.outlet.send(Delivery::Rows(stream, rows))?;
        }
        if let Some(rejected) = decoded.rejected {
            self.outlet.send(Delivery::Rejected(stream, rejected))?;
        }
        self.measure.tally(index, &batch);
        match polled {
            _ if ended => self.partitions[index].state = State::Ended,
            Polled::CaughtUp { complete_until_ms } => self.caught_up(index, now_ms, complete_until_ms)?,
            // The end was seen before: nothing since means that nothing was appended.
            Polled::Pending if batch.records == 0 => {}
            Polled::More | Polled::Pending => self.partitions[index].state = State::Behind,
        }
        Ok((batch.records, polled))
    }

    fn caught_up(&mut self, index: usize, now_ms: u64, complete_until_ms: Option<u64>) -> Result<(), SourceError> {
        let partition = &mut self.partitions[index];
        let newly = partition.state != State::CaughtUp;
        partition.state = State::CaughtUp;
        partition.clock.idle_until(complete_until_ms.unwrap_or_else(|| self.broker.seen_until(now_ms)));
        // Offsets may have gaps: the last ones before the end need not be records.
        if newly && partition.has_end() {
            let end = self.log.end(index)?;
            if self.partitions[index].is_past_end(end) {
                self.partitions[index].state = State::Ended;
            }
        }
        Ok(())
    }

    /// Sends the frontier of each stream that has moved.
    fn send_frontiers(&mut self) -> Result<(), SourceError> {
        for (stream, sent) in &mut self.sent {
            let open = self.partitions.iter().filter(|p| p.stream == *stream && p.state != State::Ended);
            let frontier = open.map(|p| p.clock.frontier()).min();
            if frontier != *sent {
                *sent = frontier;
                self.outlet.send(Delivery::Frontier(*stream, frontier))?;
            }
        }
        Ok(())
    }

    /// How long nothing happens by itself: until the clock takes the first idle partition into its next tick.
    fn until_next_frontier(&self, now_ms: u64) -> Duration {
        let idle = self.partitions.iter().filter(|p| p.state == State::CaughtUp);
        let Some(frontier) = idle.map(|p| p.clock.frontier()).min() else { return WAIT_MAX };
        let wait_ms = (frontier + 1).saturating_sub(self.broker.seen_until(now_ms));
        Duration::from_millis(wait_ms.max(1)).min(WAIT_MAX)
    }
}

#[cfg(test)]
mod tests;
