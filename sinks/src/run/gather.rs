//! Rows of one (stream, worker) between their hand-over and their step.
//!
//! Invariant: a row enters exactly one step, that of the first frontier beyond its tick; steps leave in the order of their
//! ticks and do not overlap.

use std::collections::VecDeque;

use arrow::array::RecordBatch;
use arrow::compute::filter_record_batch;
use operators::time::Tick;
use tokio::time::Instant;

use super::{Options, Pushed, Route, conflate, row_bytes, tick_range, ticks};
use crate::step::{Rows, Step};

/// Rows between two frontiers.
struct Segment {
    upto: Tick,
    rows: Vec<Rows>,
    count: usize,
    bytes: u64,
}

/// A step and what it settles in the accounts of the queue.
pub(super) struct Taken {
    pub(super) step: Step,
    /// Rows as they were handed over, before any were left out.
    pub(super) rows: u64,
    /// Bytes that were counted for them.
    pub(super) bytes: u64,
}

/// What the target has already of some rows just handed over.
#[derive(Default)]
pub(super) struct Known {
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

pub(super) struct Gather {
    route: Route,
    worker: usize,
    /// First tick of the next step.
    from: Tick,
    /// Rows beyond the frontier.
    open: Vec<Pushed>,
    closed: VecDeque<Segment>,
    closed_rows: usize,
    closed_bytes: u64,
    /// When the first closed row was closed.
    since: Option<Instant>,
}

impl Gather {
    pub(super) fn new(route: Route, worker: usize) -> Self {
        Self {
            route,
            worker,
            from: 0,
            open: Vec::new(),
            closed: VecDeque::new(),
            closed_rows: 0,
            closed_bytes: 0,
            since: None,
        }
    }

    /// Rows before this tick are in the target; called before the first rows.
    pub(super) fn resume(&mut self, applied: Tick) {
        self.from = applied;
    }

    /// Takes in rows, without those that the target is known to have.
    pub(super) fn push(&mut self, pushed: Pushed) -> Known {
        if pushed.tick_min >= self.from {
            self.open.push(pushed);
            return Known::default();
        }
        let rows = pushed.rows.batch().num_rows() as u64;
        if pushed.tick_max < self.from {
            return Known { rows, bytes: pushed.bytes };
        }
        let (known, kept) = split(pushed, self.from);
        let known = Known { rows: known.rows.batch().num_rows() as u64, bytes: known.bytes };
        self.open.push(kept);
        known
    }

    /// The frontier has come to `upto`.
    pub(super) fn close(&mut self, upto: Tick, now: Instant) {
        let mut segment = Segment { upto, rows: Vec::new(), count: 0, bytes: 0 };
        let mut newest = 0;
        let mut open = Vec::new();
        for pushed in self.open.drain(..) {
            let closed = if pushed.tick_max < upto {
                pushed
            } else if pushed.tick_min >= upto {
                open.push(pushed);
                continue;
            } else {
                let (closed, kept) = split(pushed, upto);
                open.push(kept);
                closed
            };
            newest = newest.max(closed.tick_max);
            segment.count += closed.rows.batch().num_rows();
            segment.bytes += closed.bytes;
            segment.rows.push(closed.rows);
        }
        self.open = open;
        if segment.count == 0 {
            return;
        }
        if upto == Tick::MAX {
            // The stream has ended for now; a later start must not take every later row for written.
            segment.upto = newest + 1;
        }
        self.closed_rows += segment.count;
        self.closed_bytes += segment.bytes;
        self.closed.push_back(segment);
        self.since.get_or_insert(now);
    }

    /// When a step has to be taken though it is small; `None` if nothing is closed.
    pub(super) fn due(&self, options: &Options) -> Option<Instant> {
        let since = self.since?;
        let full = self.closed_rows >= options.rows_max || self.closed_bytes >= options.bytes_max as u64;
        Some(if full { since } else { since + std::time::Duration::from_millis(options.flush_ms) })
    }

    /// The next step, if anything is closed.
    pub(super) fn take(&mut self, options: &Options, now: Instant) -> Option<Taken> {
        let table = !self.route.keys.is_empty();
        let rows_max = if table { options.conflate_rows_max.max(options.rows_max) } else { options.rows_max };
        let mut taken: Option<(Tick, Vec<Rows>, usize, u64)> = None;
        while let Some(next) = self.closed.front() {
            if let Some((_, _, count, bytes)) = &taken
                && (count + next.count > rows_max || bytes + next.bytes > options.bytes_max as u64)
            {
                break;
            }
            let next = self.closed.pop_front()?;
            let (upto, rows, count, bytes) = taken.get_or_insert((0, Vec::new(), 0, 0));
            *upto = next.upto;
            rows.extend(next.rows);
            *count += next.count;
            *bytes += next.bytes;
        }
        let (upto, rows, count, bytes) = taken?;
        self.closed_rows -= count;
        self.closed_bytes -= bytes;
        self.since = (!self.closed.is_empty()).then_some(now);
        let rows = if table { conflated(rows, self.route.keys) } else { rows };
        let step = Step { stream: self.route.stream, worker: self.worker, from: self.from, upto, rows };
        self.from = upto;
        Some(Taken { step, rows: count as u64, bytes })
    }
}

/// Upserts of a step become the newest of each key; appends among them stay as they are.
fn conflated(rows: Vec<Rows>, keys: &[&str]) -> Vec<Rows> {
    let (mut upserts, mut result) = (Vec::new(), Vec::new());
    for rows in rows {
        match rows {
            Rows::Upsert(batch) => upserts.push(batch),
            append @ Rows::Append(_) => result.push(append),
        }
    }
    result.extend(conflate::newest(upserts, keys).into_iter().map(Rows::Upsert));
    result
}

/// Rows before `tick`, and the others; both exist.
fn split(pushed: Pushed, tick: Tick) -> (Pushed, Pushed) {
    let part = |before: bool| {
        let ticks = ticks(pushed.rows.batch());
        let mask = ticks.values().iter().map(|&row| Some((row < tick) == before)).collect();
        let batch = filter_record_batch(pushed.rows.batch(), &mask).expect("a mask as long as the batch");
        let (tick_min, tick_max) = tick_range(&batch);
        (tick_min, tick_max, batch)
    };
    let whole: u64 = pushed.bytes;
    let rebuild = |rows: &Rows, batch: RecordBatch| match rows {
        Rows::Append(_) => Rows::Append(batch),
        Rows::Upsert(_) => Rows::Upsert(batch),
    };
    let (low, high) = (part(true), part(false));
    // Together they must settle what was counted for the whole.
    let bytes = (row_bytes(&low.2) as u64).min(whole);
    let first = Pushed { rows: rebuild(&pushed.rows, low.2), tick_min: low.0, tick_max: low.1, bytes };
    let second =
        Pushed { rows: rebuild(&pushed.rows, high.2), tick_min: high.0, tick_max: high.1, bytes: whole - bytes };
    (first, second)
}
