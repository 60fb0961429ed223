//! The reader's deliveries as far as they may be taken in: no further than what is live, and no faster than it can bear.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::RecordBatch;
use operators::batch::{TICK, u64s};
use operators::record::Stream;
use operators::record::declared::Declared;
use operators::time::Tick;
use queries::live::Feed;
use sources::Delivery;
use sources::delivery::{Nothing, Receiver};
use sources::log::system_clock;

use super::throttle::Throttle;

/// Rows that wait for the limit to move before no more are taken in.
const STASH_ROWS_MAX: usize = 50_000;

/// The reader's deliveries as far as they may be taken in.
pub(super) struct Intake {
    receiver: Receiver,
    feed: Arc<Feed>,
    throttle: Throttle,
    stash: BTreeMap<Stream, VecDeque<RecordBatch>>,
    stashed_rows: usize,
    /// How far the reader is with each stream, and what of it was told on.
    frontiers: BTreeMap<Stream, (Option<Tick>, Tick)>,
    /// Whether the reader has, and nothing of it is left.
    ended: bool,
}

impl Intake {
    /// Of the main job's streams, and of these.
    pub fn new(receiver: Receiver, feed: Arc<Feed>, rows_per_s: u64, declared: &[&'static Declared]) -> Self {
        let streams = Stream::ALL.into_iter().chain(declared.iter().map(|declared| Stream::Declared(declared)));
        Self {
            receiver,
            feed,
            throttle: Throttle::new(rows_per_s, Instant::now()),
            stash: BTreeMap::new(),
            stashed_rows: 0,
            frontiers: streams.map(|stream| (stream, (Some(0), 0))).collect(),
            ended: false,
        }
    }

    /// The next delivery, if there is one and the rate allows for it.
    pub fn next(&mut self) -> Option<Delivery> {
        if !self.throttle.allows(Instant::now(), system_clock()().saturating_sub(self.feed.live())) {
            return None;
        }
        loop {
            if let Some(delivery) = self.due() {
                return Some(delivery);
            }
            if self.stashed_rows > STASH_ROWS_MAX && self.feed.cut().is_none() {
                return None;
            }
            match self.receiver.try_recv() {
                // Of topics that are not asked for: they take their time all the same.
                Ok(Delivery::Rows(stream, rows)) if !self.frontiers.contains_key(&stream) => {
                    self.throttle.take(rows.num_rows());
                }
                Ok(Delivery::Frontier(stream, _)) if !self.frontiers.contains_key(&stream) => {}
                Ok(Delivery::Rows(stream, rows)) => {
                    self.stashed_rows += rows.num_rows();
                    self.stash.entry(stream).or_default().push_back(rows);
                }
                Ok(Delivery::Frontier(stream, frontier)) => {
                    self.frontiers.entry(stream).or_insert((Some(0), 0)).0 = frontier;
                }
                Ok(Delivery::Rejected(..)) => {}
                Err(Nothing::Yet) => return None,
                Err(Nothing::Ever) => {
                    self.ended = self.stash.values().all(VecDeque::is_empty);
                    return None;
                }
            }
        }
    }

    /// What may be taken in of what has come: rows before the limit, and frontiers up to it.
    fn due(&mut self) -> Option<Delivery> {
        let (limit, cut) = (self.feed.limit(), self.feed.cut());
        for (stream, stash) in &mut self.stash {
            while let Some(rows) = stash.front() {
                let first = u64s(rows, TICK).values().first().copied().unwrap_or(0);
                let newest = u64s(rows, TICK).values().iter().copied().max().unwrap_or(0);
                if newest >= limit && cut.is_none() {
                    break;
                }
                let rows = stash.pop_front()?;
                self.stashed_rows -= rows.num_rows();
                let name = match stream {
                    Stream::Declared(declared) => &declared.name,
                    _ => "telemetry",
                };
                let rows = match &cut {
                    Some(cut) if stream.is_table() => cut.table(&rows),
                    Some(cut) => cut.events(name, &rows),
                    None => rows,
                };
                if rows.num_rows() > 0 {
                    if !stream.is_table() {
                        self.feed.count(rows.num_rows(), first);
                    }
                    self.throttle.take(rows.num_rows());
                    return Some(Delivery::Rows(*stream, rows));
                }
            }
        }
        for (stream, (frontier, told)) in &mut self.frontiers {
            // Not past what waits.
            let first = |rows: &RecordBatch| u64s(rows, TICK).values().iter().copied().min();
            let waits = self.stash.get(stream).into_iter().flatten().filter_map(first).min();
            let wanted = frontier.unwrap_or(limit).min(limit).min(waits.unwrap_or(limit));
            if wanted > *told {
                *told = wanted;
                return Some(Delivery::Frontier(*stream, Some(wanted)));
            }
        }
        None
    }

    /// Whether the reader has come to its end, and nothing of it is left.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether everything before the limit was taken in.
    pub fn is_parked(&self) -> bool {
        let limit = self.feed.limit();
        self.frontiers.iter().all(|(stream, (frontier, told))| {
            let waits = self.stash.get(stream).is_some_and(|stash| !stash.is_empty());
            *told >= limit || waits || frontier.is_none_or(|frontier| frontier >= limit)
        })
    }
}
