//! The one thread that writes. It takes all appends that wait, gives them one append time and their offsets, writes and
//! syncs them together, then makes them visible and acknowledges them. Nothing is visible or acknowledged before it is durable.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, PersistMode};
use metrics::{counter, histogram};
use tokio::sync::oneshot;
use tracing::{error, info};

use super::block::BlockBuilder;
use super::partition::Partition;
use super::{Clock, Options, storage};
use crate::SourceError;
use crate::metrics::Metric;
use crate::publish::PublishError;

/// How often retention is looked at, in milliseconds.
const RETENTION_MS: u64 = 1_000;
/// Most bytes of records in one commit, so that one sync never waits for too much.
const COMMIT_BYTES_MAX: usize = 16 * 1_024 * 1_024;

/// What an append became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Append time of all its records, in milliseconds since the epoch.
    pub append_ms: u64,
    /// Where the records went, in their order within each partition.
    pub ranges: Vec<Range>,
}

/// Records of one append in one partition; their offsets follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Partition.
    pub partition: i32,
    /// Offset of the first record.
    pub offset: i64,
    /// Number of records.
    pub count: u32,
}

/// Records of one append that go to one partition.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) partition: Arc<Partition>,
    pub(super) count: u32,
    pub(super) records: Vec<u8>,
}

/// An append that waits to be written.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) shares: Vec<Share>,
    pub(super) bytes: usize,
    pub(super) done: Done,
}

/// Who is told of the end of an append.
#[derive(Debug)]
pub(super) enum Done {
    Position(oneshot::Sender<Result<Appended, PublishError>>),
    Ack(oneshot::Sender<Result<(), PublishError>>),
}

impl Done {
    pub(super) fn tell(self, result: Result<Appended, PublishError>) {
        // Who does not wait any more need not be told.
        match self {
            Done::Position(sender) => {
                let _ = sender.send(result);
            }
            Done::Ack(sender) => {
                let _ = sender.send(result.map(|_| ()));
            }
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    requests: VecDeque<Request>,
    bytes: usize,
    closing: bool,
    /// Why nothing can be written any more.
    failed: Option<String>,
}

#[derive(Debug, Default)]
struct Times {
    /// No later append gets a time before this.
    floor_ms: u64,
    /// Append time of the commit that is being written.
    in_flight_ms: Option<u64>,
}

/// Appends on their way, and the times that they get.
pub(super) struct Committer {
    clock: Clock,
    queue_bytes_max: usize,
    waiting: Mutex<Waiting>,
    work: Condvar,
    times: Mutex<Times>,
    /// Number of commits, for readers that wait for the next.
    commits: Mutex<u64>,
    committed: Condvar,
}

impl Committer {
    pub(super) fn new(clock: Clock, floor_ms: u64, queue_bytes_max: usize) -> Self {
        Self {
            clock,
            queue_bytes_max,
            waiting: Mutex::default(),
            work: Condvar::new(),
            times: Mutex::new(Times { floor_ms, in_flight_ms: None }),
            commits: Mutex::new(0),
            committed: Condvar::new(),
        }
    }

    /// Queues an append; tells it of its end at once if it cannot be queued.
    pub(super) fn submit(&self, request: Request) {
        let mut waiting = lock(&self.waiting);
        let refused = if let Some(why) = &waiting.failed {
            PublishError::Unavailable(why.clone())
        } else if waiting.closing {
            PublishError::Unavailable("the log is closing".to_owned())
        } else if waiting.bytes > 0 && waiting.bytes + request.bytes > self.queue_bytes_max {
            PublishError::Full { waiting_bytes: waiting.bytes, bytes_max: self.queue_bytes_max }
        } else {
            waiting.bytes += request.bytes;
            waiting.requests.push_back(request);
            drop(waiting);
            self.work.notify_one();
            return;
        };
        drop(waiting);
        request.done.tell(Err(refused));
    }

    /// Every later append, and every one that is not visible yet, has a time that is not before this.
    pub(super) fn complete_until_ms(&self) -> u64 {
        let mut times = lock(&self.times);
        if let Some(ms) = times.in_flight_ms {
            return ms;
        }
        times.floor_ms = times.floor_ms.max((self.clock)());
        times.floor_ms
    }

    /// Waits until there were more commits than `seen`, at most `timeout`; returns how many there were.
    pub(super) fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        let commits = lock(&self.commits);
        let waited = self.committed.wait_timeout_while(commits, timeout, |commits| *commits <= seen);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Why the log cannot be written any more, if so.
    pub(super) fn failure(&self) -> Option<String> {
        lock(&self.waiting).failed.clone()
    }

    /// Lets [`Self::run`] end when everything that waits is written.
    pub(super) fn close(&self) {
        lock(&self.waiting).closing = true;
        self.work.notify_one();
    }

    /// Writes until it is closed. `partitions` tells all partitions that exist, for retention; `keep` stores what was
    /// promised of the time, so that a process that starts with a clock that was set back keeps it too.
    pub(super) fn run(
        &self,
        db: &Database,
        options: &Options,
        partitions: impl Fn() -> Vec<Arc<Partition>>,
        keep: impl Fn(u64),
    ) {
        let mut retained_ms = 0;
        while let Some(requests) = self.take() {
            if !requests.is_empty() {
                self.write(db, options, requests);
            }
            let now = self.complete_until_ms();
            if now.saturating_sub(retained_ms) >= RETENTION_MS {
                retained_ms = now;
                retain(db, options, &partitions(), now);
                keep(now);
            }
        }
        keep(self.complete_until_ms());
    }

    /// The next appends to commit together, none if it is time to look at retention, `None` at the end.
    fn take(&self) -> Option<Vec<Request>> {
        let waiting = lock(&self.waiting);
        let timeout = Duration::from_millis(RETENTION_MS);
        let idle = |waiting: &mut Waiting| waiting.requests.is_empty() && !waiting.closing;
        let (mut waiting, _) =
            self.work.wait_timeout_while(waiting, timeout, idle).unwrap_or_else(PoisonError::into_inner);
        if waiting.requests.is_empty() && waiting.closing {
            return None;
        }
        let (mut requests, mut bytes) = (Vec::with_capacity(waiting.requests.len()), 0);
        while let Some(request) = waiting.requests.front() {
            if bytes > 0 && bytes + request.bytes > COMMIT_BYTES_MAX {
                break;
            }
            bytes += request.bytes;
            requests.extend(waiting.requests.pop_front());
        }
        Some(requests)
    }

    fn write(&self, db: &Database, options: &Options, requests: Vec<Request>) {
        let append_ms = {
            let mut times = lock(&self.times);
            times.floor_ms = times.floor_ms.max((self.clock)());
            times.in_flight_ms = Some(times.floor_ms);
            times.floor_ms
        };
        let bytes: usize = requests.iter().map(|request| request.bytes).sum();
        let started = Instant::now();
        match commit(db, options, &requests, append_ms) {
            Ok(ranges) => {
                histogram!(Metric::LogCommit.name()).record(started.elapsed());
                let records = ranges.iter().flatten().map(|range| u64::from(range.count)).sum();
                counter!(Metric::LogRecords.name()).increment(records);
                lock(&self.times).in_flight_ms = None;
                lock(&self.waiting).bytes -= bytes;
                *lock(&self.commits) += 1;
                self.committed.notify_all();
                for (request, ranges) in requests.into_iter().zip(ranges) {
                    request.done.tell(Ok(Appended { append_ms, ranges }));
                }
            }
            Err(why) => {
                // The store takes nothing more after a failed write or sync, and neither do we: what reached the disk is
                // known only after opening it again. In-flight time stays, so that no promise is made beyond it.
                error!(%why, "the embedded log cannot be written any more");
                let mut waiting = lock(&self.waiting);
                waiting.failed = Some(why.to_string());
                waiting.bytes = 0;
                let rest = std::mem::take(&mut waiting.requests);
                drop(waiting);
                for request in requests.into_iter().chain(rest) {
                    request.done.tell(Err(PublishError::Unavailable(why.to_string())));
                }
            }
        }
    }
}

/// The records of one partition in a commit.
struct Pending {
    partition: Arc<Partition>,
    blocks: Keyspace,
    builder: BlockBuilder,
}

/// Writes and syncs the requests as one batch, then makes them visible. Returns where each went.
fn commit(
    db: &Database,
    options: &Options,
    requests: &[Request],
    append_ms: u64,
) -> Result<Vec<Vec<Range>>, SourceError> {
    let mut pending: Vec<Pending> = Vec::new();
    let mut slots: Vec<Option<usize>> = Vec::new();
    let mut all = Vec::with_capacity(requests.len());
    for request in requests {
        let mut ranges = Vec::with_capacity(request.shares.len());
        for share in &request.shares {
            let id = share.partition.id;
            if slots.len() <= id {
                slots.resize(id + 1, None);
            }
            let slot = match slots[id] {
                Some(slot) => slot,
                None => {
                    pending.push(begin(db, options, &share.partition, append_ms)?);
                    *slots[id].insert(pending.len() - 1)
                }
            };
            let offset = pending[slot].builder.push(&share.records, share.count);
            ranges.push(Range { partition: share.partition.index, offset, count: share.count });
        }
        all.push(ranges);
    }
    let mut batch = db.batch().durability(Some(PersistMode::SyncData));
    for Pending { blocks, builder, .. } in &mut pending {
        builder.cut();
        for (base, block) in builder.blocks.drain(..) {
            batch.insert(blocks, base.to_be_bytes(), block);
        }
    }
    batch.commit().map_err(storage)?;
    for Pending { partition, builder, .. } in pending {
        partition.advance(builder.next, builder.log_bytes, append_ms);
    }
    Ok(all)
}

fn begin(db: &Database, options: &Options, partition: &Arc<Partition>, append_ms: u64) -> Result<Pending, SourceError> {
    let blocks = partition.active(db, options, append_ms)?;
    let log_bytes = lock(&partition.tail).log_bytes;
    let builder = BlockBuilder::new(partition.end(), log_bytes, append_ms, options.block_bytes_max);
    Ok(Pending { partition: partition.clone(), blocks, builder })
}

fn retain(db: &Database, options: &Options, partitions: &[Arc<Partition>], now_ms: u64) {
    for partition in partitions {
        let (topic, index) = (&partition.topic, partition.index);
        match partition.retain(db, options, now_ms) {
            Ok(0) => {}
            Ok(segments) => {
                info!(%topic, partition = index, segments, start = partition.start(), "dropped old segments")
            }
            Err(why) => error!(%topic, partition = index, %why, "cannot drop old segments"),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
