//! Which partitions each worker reads: partition p of every topic belongs to worker p modulo the number of workers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::record::Stream;
use operators::time::Tick;
use sources::delivery::{Outlet, Sender};
use sources::kafka::KafkaLog;
use sources::log::{AssignedPartitions, EmbeddedLog};
use sources::reader::{self, Assigned, PartitionedLog, Reader, Repeats};
use sources::{Cursor, SourceError};

use crate::cut::Lane;
use crate::job::Origin;

/// Where a job goes on; by default at the beginning of every partition.
#[derive(Clone, Default)]
pub struct From {
    /// First offset of each partition that was read before.
    pub positions: BTreeMap<Lane, i64>,
    /// No row gets a tick before this one.
    pub floor: Tick,
    /// Ticks that records had when they were read before, and where new ones are noted.
    pub repeats: Option<Repeats>,
}

impl From {
    fn repeating<L: PartitionedLog, O: Outlet>(&self, reader: Reader<L, O>) -> Reader<L, O> {
        match &self.repeats {
            Some(repeats) => reader.repeating(repeats.clone()),
            None => reader,
        }
    }
}

/// The topics of the embedded log.
pub struct Embedded {
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// Topic of each stream that is read.
    pub topics: Vec<(Stream, Arc<str>)>,
    /// How readers read.
    pub options: reader::Options,
    /// Where it goes on.
    pub from: From,
    /// Where each partition ends for this job; `None`: it goes on.
    pub until: Option<Vec<Cursor>>,
}

impl Origin for Embedded {
    fn read(&self, worker: usize, workers: usize, outlet: Sender, stop: Arc<AtomicBool>) -> Result<(), SourceError> {
        let all = self.log.topics();
        let mut assigned = Vec::new();
        for (stream, topic) in &self.topics {
            let partitions = all.iter().find(|(name, _)| **name == **topic).map_or(0, |(_, count)| *count);
            for partition in (0..partitions).filter(|p| *p as usize % workers == worker) {
                let (start, _) = self.log.offsets(topic, partition)?;
                let offset = self.from.positions.get(&(*stream, partition)).copied().unwrap_or(start);
                let (topic, floor) = (topic.clone(), self.from.floor);
                assigned.push(Assigned { stream: *stream, topic, partition, offset, floor });
            }
        }
        let partitions = AssignedPartitions::new(self.log.clone(), assigned)?;
        let reader = self.from.repeating(Reader::new(partitions, outlet, self.options.clone(), stop));
        let reader = reader.carrying(self.topics.iter().map(|(stream, _)| *stream));
        match &self.until {
            Some(ends) => reader.until(ends).run(),
            None => reader.run(),
        }
    }
}

/// The topics of a Kafka cluster.
pub struct Kafka {
    /// The cluster.
    pub connection: operators::connection::Kafka,
    /// Topic of each stream that is read.
    pub topics: Vec<(Stream, Arc<str>)>,
    /// How readers read.
    pub options: reader::Options,
    /// Where it goes on.
    pub from: From,
    /// Whether the job ends where the log ended when its reader started.
    pub bounded: bool,
}

/// Longest pause between attempts to reach the cluster at the start.
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Origin for Kafka {
    fn read(&self, worker: usize, workers: usize, outlet: Sender, stop: Arc<AtomicBool>) -> Result<(), SourceError> {
        let mut pause = Duration::from_millis(100);
        let topic =
            |stream: Stream| self.topics.iter().find(|(of, _)| *of == stream).map(|(_, topic)| topic.to_string());
        let cursor = |(&(stream, partition), &offset): (&Lane, &i64)| {
            topic(stream).map(|topic| Cursor { topic, partition, offset })
        };
        let cursors: Vec<Cursor> = self.from.positions.iter().filter_map(cursor).collect();
        let mut log = loop {
            match KafkaLog::connect(&self.connection, &self.topics, worker, workers, &cursors) {
                Ok(log) => break log.from_tick(self.from.floor),
                Err(why @ SourceError::Unavailable { .. }) => {
                    if stop.load(Ordering::Relaxed) {
                        return Ok(());
                    }
                    tracing::warn!(%why, retry_ms = pause.as_millis() as u64, "Kafka is away");
                    std::thread::park_timeout(pause);
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(why) => return Err(why),
            }
        };
        let ends = if self.bounded { Some(log.ends()?) } else { None };
        let reader = self.from.repeating(Reader::new(log, outlet, self.options.clone(), stop));
        let reader = reader.carrying(self.topics.iter().map(|(stream, _)| *stream));
        match ends {
            Some(ends) => reader.until(&ends).run(),
            None => reader.run(),
        }
    }
}
