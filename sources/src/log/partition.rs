//! One partition of a topic: its segments, each a keyspace of its own in the store. Offsets are dense over all segments;
//! whole segments are dropped from the old end, and the last one that holds anything never is.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions};

use super::block::Block;
use super::{Options, storage};
use crate::SourceError;

/// Bytes of a data block in the store's files: the unit of reading and of compression.
const DATA_BLOCK_BYTES: u32 = 64 * 1_024;

/// A partition as readers and the committer share it.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) topic: Arc<str>,
    pub(super) index: i32,
    /// Number of the partition over all topics of this log.
    pub(super) id: usize,
    /// Whether nothing is dropped.
    table: AtomicBool,
    /// Offset after the last durable record.
    end: AtomicI64,
    /// Segments that readers see, oldest first.
    view: RwLock<Arc<[Segment]>>,
    /// What only the committer changes.
    pub(super) tail: Mutex<Tail>,
}

/// A run of offsets in one keyspace.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) base: i64,
    pub(super) blocks: Keyspace,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({})", self.base)
    }
}

/// State of the partition's end, and of its segments for retention.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Bytes of the log ever.
    pub(super) log_bytes: u64,
    /// Append time of the last record; 0 if there is none.
    pub(super) last_ms: u64,
    /// For each segment the bytes of the log and the time at its beginning.
    begins: std::collections::VecDeque<Begin>,
}

#[derive(Clone, Copy, Debug)]
struct Begin {
    log_bytes: u64,
    /// Append time of the first record; `None` while there is none.
    first_ms: Option<u64>,
    /// Append time of the last record.
    last_ms: u64,
}

impl Partition {
    /// An existing or new partition with the segments found in the store, in any order.
    pub(super) fn open(topic: Arc<str>, index: i32, id: usize, segments: Vec<Segment>) -> Result<Self, SourceError> {
        let mut segments = segments;
        segments.sort_by_key(|segment| segment.base);
        let mut tail = Tail::default();
        let mut end = segments.first().map_or(0, |segment| segment.base);
        for segment in &segments {
            if segment.base != end {
                return Err(SourceError::Storage(format!(
                    "{topic}[{index}]: the log has nothing between offsets {end} and {}",
                    segment.base
                )));
            }
            let first = edge(segment.blocks.first_key_value())?;
            let last = edge(segment.blocks.last_key_value())?;
            let mut begin = Begin { log_bytes: tail.log_bytes, first_ms: None, last_ms: tail.last_ms };
            if let (Some(first), Some(last)) = (first, last) {
                begin = Begin { log_bytes: first.log_bytes, first_ms: Some(first.append_ms), last_ms: last.append_ms };
                tail.log_bytes = last.log_bytes_end();
                tail.last_ms = last.append_ms;
                end = last.end();
            }
            tail.begins.push_back(begin);
        }
        Ok(Self {
            topic,
            index,
            id,
            table: AtomicBool::new(false),
            end: AtomicI64::new(end),
            view: RwLock::new(segments.into()),
            tail: Mutex::new(tail),
        })
    }

    /// Offset after the last durable record.
    pub(super) fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// Whether nothing is dropped.
    pub(super) fn is_table(&self) -> bool {
        self.table.load(Ordering::Relaxed)
    }

    /// Lets nothing be dropped from now on.
    pub(super) fn set_table(&self) {
        self.table.store(true, Ordering::Relaxed);
    }

    /// First offset that is kept.
    pub(super) fn start(&self) -> i64 {
        self.segments().first().map_or_else(|| self.end(), |segment| segment.base)
    }

    /// The segments at this moment, oldest first.
    pub(super) fn segments(&self) -> Arc<[Segment]> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keyspace for the next append, a new one if the last is full or old.
    pub(super) fn active(&self, db: &Database, options: &Options, now_ms: u64) -> Result<Keyspace, SourceError> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let segments = self.segments();
        if let (Some(begin), Some(segment)) = (tail.begins.back(), segments.last()) {
            let full = tail.log_bytes - begin.log_bytes >= options.segment_bytes_max;
            let old = begin.first_ms.is_some_and(|first| now_ms.saturating_sub(first) >= options.segment_ms_max);
            if !full && !old {
                return Ok(segment.blocks.clone());
            }
            // What is still in memory of it goes to disk now: nothing will be added.
            segment.blocks.rotate_memtable().map_err(storage)?;
        }
        let base = self.end();
        let memtable_bytes_max = options.memtable_bytes_max;
        let blocks = db
            .keyspace(&name(&self.topic, self.index, base), || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(memtable_bytes_max)
                    .data_block_size_policy(BlockSizePolicy::all(DATA_BLOCK_BYTES))
                    .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
            })
            .map_err(storage)?;
        let begin = Begin { log_bytes: tail.log_bytes, first_ms: None, last_ms: tail.last_ms };
        tail.begins.push_back(begin);
        let mut all = segments.to_vec();
        all.push(Segment { base, blocks: blocks.clone() });
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = all.into();
        Ok(blocks)
    }

    /// Makes what was written up to `end` visible.
    pub(super) fn advance(&self, end: i64, log_bytes: u64, append_ms: u64) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.log_bytes = log_bytes;
        tail.last_ms = append_ms;
        if let Some(begin) = tail.begins.back_mut() {
            begin.first_ms.get_or_insert(append_ms);
            begin.last_ms = append_ms;
        }
        drop(tail);
        self.end.store(end, Ordering::Release);
    }

    /// Drops the oldest segments that are beyond what is to be kept; returns how many.
    pub(super) fn retain(&self, db: &Database, options: &Options, now_ms: u64) -> Result<usize, SourceError> {
        if self.is_table() {
            return Ok(0);
        }
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let mut segments = self.segments();
        let mut dropped = 0;
        while let (Some(oldest), Some(second)) = (tail.begins.front(), tail.begins.get(1)) {
            let kept_bytes = tail.log_bytes - second.log_bytes;
            let too_large = kept_bytes >= options.retention_bytes_max;
            let too_old = now_ms.saturating_sub(oldest.last_ms) >= options.retention_ms_max;
            // An empty last segment knows its offset by its base, but not the time and bytes before it.
            let needed = tail.begins.len() == 2 && second.first_ms.is_none();
            if needed || !(too_large || too_old) {
                break;
            }
            let gone = segments[0].clone();
            segments = segments[1..].into();
            *self.view.write().unwrap_or_else(PoisonError::into_inner) = segments.clone();
            tail.begins.pop_front();
            db.delete_keyspace(gone.blocks).map_err(storage)?;
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Bytes that are kept, before compression.
    pub(super) fn kept_bytes(&self) -> u64 {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.begins.front().map_or(0, |oldest| tail.log_bytes - oldest.log_bytes)
    }
}

fn edge(guard: Option<fjall::Guard>) -> Result<Option<Block>, SourceError> {
    let Some(guard) = guard else { return Ok(None) };
    let (key, value) = guard.into_inner().map_err(storage)?;
    Block::parse(&key, value).map(Some)
}

/// Name of a segment's keyspace. A topic's name has no `#`.
fn name(topic: &str, index: i32, base: i64) -> String {
    format!("{topic}#{index}#{base:019}")
}

/// Topic, partition and base offset of a segment from its keyspace's name.
pub(super) fn parse_name(name: &str) -> Option<(&str, i32, i64)> {
    let mut parts = name.split('#');
    let (topic, index, base) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    Some((topic, index.parse().ok()?, base.parse().ok()?))
}
