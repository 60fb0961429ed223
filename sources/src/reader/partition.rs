//! What a reader keeps of one partition: its clock, its decoder, how far it was read.

use std::collections::BTreeMap;

use operators::record::Stream;
use operators::time::{Exception, PartitionClock, Tick};

use super::{Assigned, Options};
use crate::codec::{Decoder, Record};

/// Where a partition stands in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Records lie ahead, or it is not known that none do.
    Behind,
    /// The end was seen; whatever comes is new.
    CaughtUp,
    /// All records that were asked for are read.
    Ended,
}

/// What one poll has read.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub records: usize,
    pub bytes: usize,
    /// Codes of refused records, and of exceptions of time.
    pub rejected: Vec<&'static str>,
    pub exceptions: Vec<Exception>,
    /// Offsets and ticks of records whose tick is not that of their append time.
    pub late: Vec<(i64, Tick)>,
}

pub(super) struct Partition {
    pub stream: Stream,
    pub clock: PartitionClock,
    pub decoder: Decoder,
    pub state: State,
    /// Offset after the last record read.
    pub next: i64,
    /// Ticks by offset of records that were read before, if any is left.
    pub known: Option<BTreeMap<i64, Tick>>,
    /// First offset not to be read, if the reader is to end.
    end: Option<i64>,
}

impl Partition {
    pub fn new(assigned: &Assigned, options: &Options) -> Self {
        let mut clock = PartitionClock::new(options.tick_ms, options.future_ms_max);
        clock.idle_until(assigned.floor);
        Partition {
            stream: assigned.stream,
            clock,
            decoder: Decoder::new(assigned.stream, assigned.topic.clone(), assigned.partition),
            state: State::Behind,
            next: assigned.offset,
            known: None,
            end: None,
        }
    }

    pub fn stop_at(&mut self, end: i64) {
        self.end = Some(end);
        if self.next >= end {
            self.state = State::Ended;
        }
    }

    pub fn has_end(&self) -> bool {
        self.end.is_some()
    }

    pub fn is_past_end(&self, offset: i64) -> bool {
        self.end.is_some_and(|end| offset >= end)
    }

    pub fn take(&mut self, record: &Record<'_>, broker_ms: u64, tally: &mut Tally) {
        let tick = match self.known.as_mut().and_then(|known| known.remove(&record.offset)) {
            Some(tick) => self.clock.repeat(tick),
            None => {
                let (tick, exception) = self.clock.assign(record.append_ms, broker_ms);
                if let Some(exception) = exception {
                    tally.exceptions.push(exception);
                    tally.late.push((record.offset, tick));
                }
                tick
            }
        };
        if self.known.as_ref().is_some_and(BTreeMap::is_empty) {
            self.known = None;
        }
        tally.rejected.extend(self.decoder.push(record, tick).err());
        tally.records += 1;
        tally.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        self.next = record.offset + 1;
    }
}
