//! Which partitions each worker reads: partition p of every topic belongs to worker p modulo the number of workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use operators::record::Stream;
use sources::delivery::Sender;
use sources::kafka::KafkaLog;
use sources::log::{AssignedPartitions, EmbeddedLog};
use sources::reader::{self, Assigned, Reader};
use sources::{Cursor, SourceError};

use crate::job::Origin;

/// The topics of the embedded log.
pub struct Embedded {
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// Topic of each stream that is read.
    pub topics: Vec<(Stream, Arc<str>)>,
    /// How readers read.
    pub options: reader::Options,
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
                let (offset, _) = self.log.offsets(topic, partition)?;
                assigned.push(Assigned { stream: *stream, topic: topic.clone(), partition, offset, floor: 0 });
            }
        }
        let partitions = AssignedPartitions::new(self.log.clone(), assigned)?;
        let reader = Reader::new(partitions, outlet, self.options.clone(), stop);
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
    /// Whether the job ends where the log ended when its reader started.
    pub bounded: bool,
}

/// Longest pause between attempts to reach the cluster at the start.
const RETRY_MAX: Duration = Duration::from_secs(5);

impl Origin for Kafka {
    fn read(&self, worker: usize, workers: usize, outlet: Sender, stop: Arc<AtomicBool>) -> Result<(), SourceError> {
        let mut pause = Duration::from_millis(100);
        let mut log = loop {
            match KafkaLog::connect(&self.connection, &self.topics, worker, workers, &[]) {
                Ok(log) => break log,
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
        let reader = Reader::new(log, outlet, self.options.clone(), stop);
        let reader = reader.carrying(self.topics.iter().map(|(stream, _)| *stream));
        match ends {
            Some(ends) => reader.until(&ends).run(),
            None => reader.run(),
        }
    }
}
