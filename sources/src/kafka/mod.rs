//! Kafka as a partitioned log: partitions are assigned by the program, never by a consumer group, and start at explicit
//! offsets.
//!
//! Invariants: no record is skipped silently (an offset that the log does not have ends the source with the real numbers);
//! a partition that is not polled is fetched no further than its share of `prefetch_bytes_max`; committed offsets are for
//! tools that show lag, nothing is ever resumed from them.

mod connect;
mod context;
mod identity;
mod signal;
pub mod topics;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use operators::connection::Kafka;
use operators::record::Stream;
use operators::time::Tick;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message, Offset, Timestamp, TopicPartitionList};

use crate::codec::Record;
use crate::delivery::{Cursor, SourceError};
use crate::reader::{Assigned, PartitionedLog, Polled};
use context::Context;
pub use identity::{Identity, identity};
use signal::Signal;

/// How long a question to the brokers may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Longest time between two looks at errors, statistics and other news of the client.
const NEWS: Duration = Duration::from_millis(5);
/// How long a broker may say that it does not know a topic before the topic counts as gone.
const UNKNOWN_MAX: Duration = Duration::from_secs(30);
/// How often offsets are committed for lag tools.
const COMMIT: Duration = Duration::from_secs(3);

/// The partitions of some topics that one reader reads.
///
/// ```no_run
/// # use std::sync::{Arc, atomic::AtomicBool};
/// # fn example(kafka: operators::connection::Kafka, options: sources::reader::Options) -> Result<(), sources::SourceError> {
/// use operators::record::Stream;
/// use sources::{delivery, kafka::KafkaLog, reader::Reader};
/// let (worker, workers) = (0, 2);
/// let log = KafkaLog::connect(&kafka, &[(Stream::Telemetry, "telemetry.raw".into())], worker, workers, &[])?;
/// let capacity = delivery::Capacity { rows_max: 100_000, bytes_max: 64 << 20 };
/// let (outlet, receiver) = delivery::channel(capacity, || {});
/// let stop = Arc::new(AtomicBool::new(false));
/// std::thread::Builder::new().spawn(move || Reader::new(log, outlet, options, stop).run()).expect("a thread");
/// # drop(receiver); Ok(()) }
/// ```
pub struct KafkaLog {
    consumer: Arc<BaseConsumer<Context>>,
    /// Where the cluster is, for errors.
    brokers: String,
    assigned: Vec<Assigned>,
    partitions: Vec<PartitionState>,
    signal: Arc<Signal>,
    news_at: Instant,
    commit_at: Instant,
    committed: Vec<i64>,
    /// Since when a topic has been said to be unknown. A broker that starts says so of any topic, for a while.
    unknown_since: Option<Instant>,
}

struct PartitionState {
    queue: PartitionQueue<Context>,
    /// The end of the partition was seen after the last record.
    at_end: bool,
    /// Offset after the last record taken.
    next: i64,
}

impl KafkaLog {
    /// Connects and assigns: of every topic the partitions p with p modulo `workers` = `worker`, from the cursor given for
    /// them, else from the log's first record.
    ///
    /// # Errors
    /// [`SourceError::Unavailable`] if the cluster is not to be reached now: try again later. A topic that is missing, a
    /// cursor of a partition that is missing, or an offset that the log does not have.
    pub fn connect(
        connection: &Kafka,
        topics: &[(Stream, Arc<str>)],
        worker: usize,
        workers: usize,
        resume: &[Cursor],
    ) -> Result<Self, SourceError> {
        let assigned = connect::assign(connection, topics, worker, workers, resume)?;
        let consumer = connect::consumer(connection, assigned.len(), worker)?;
        let signal = Arc::new(Signal::default());
        let brokers = connection.brokers.clone();
        let mut list = TopicPartitionList::with_capacity(assigned.len());
        for a in &assigned {
            list.add_partition_offset(&a.topic, a.partition, Offset::Offset(a.offset))
                .map_err(|why| SourceError::Configuration(format!("{}[{}]: {why}", a.topic, a.partition)))?;
        }
        let consumer = Arc::new(consumer);
        if !assigned.is_empty() {
            consumer.assign(&list).map_err(|why| SourceError::Configuration(format!("cannot assign: {why}")))?;
        }
        // What comes before a partition has its own queue goes to another: it is left there, and the partition begins anew. Had
        // it not begun before, the queue would be put aside when it does.
        connect::begin(&consumer, &brokers, &assigned)?;
        let split = |a: &Assigned| {
            let queue = consumer.split_partition_queue(&a.topic, a.partition);
            let mut queue = queue.ok_or_else(|| {
                SourceError::Configuration(format!("{}[{}] cannot be read on its own", a.topic, a.partition))
            })?;
            let signal = signal.clone();
            queue.set_nonempty_callback(move || signal.raise());
            Ok(PartitionState { queue, at_end: false, next: a.offset })
        };
        let partitions = assigned.iter().map(split).collect::<Result<Vec<_>, SourceError>>()?;
        connect::begin(&consumer, &brokers, &assigned)?;
        tracing::info!(brokers, worker, workers, partitions = partitions.len(), "reading from Kafka");
        Ok(Self {
            committed: assigned.iter().map(|a| a.offset).collect(),
            consumer,
            brokers,
            assigned,
            partitions,
            signal,
            news_at: Instant::now(),
            commit_at: Instant::now() + COMMIT,
            unknown_since: None,
        })
    }

    /// No row gets a tick before this one: an earlier run had come to it.
    #[must_use]
    pub fn from_tick(mut self, floor: Tick) -> Self {
        self.assigned.iter_mut().for_each(|assigned| assigned.floor = floor);
        self
    }

    /// The ends of the assigned partitions as they stand now, for [`crate::reader::Reader::until`].
    ///
    /// # Errors
    /// The cluster is not to be reached.
    pub fn ends(&mut self) -> Result<Vec<Cursor>, SourceError> {
        let ends = (0..self.assigned.len()).map(|index| {
            let offset = self.end(index)?;
            let a = &self.assigned[index];
            Ok(Cursor { topic: a.topic.to_string(), partition: a.partition, offset })
        });
        ends.collect()
    }

    /// Lets the client tell its news: errors, statistics, answers to commits.
    fn hear_news(&mut self) -> Result<(), SourceError> {
        self.news_at = Instant::now() + NEWS;
        while let Some(news) = self.consumer.poll(Duration::ZERO) {
            match news {
                // Every partition has its own queue, and began anew when it had.
                Ok(record) => {
                    let (topic, partition) = (record.topic(), record.partition());
                    let message = format!("{topic}[{partition}]: a record outside of its partition's queue");
                    return Err(SourceError::Configuration(message));
                }
                Err(why) => self.trouble(&why, None)?,
            }
        }
        if self.unknown_since.is_some_and(|since| since.elapsed() > UNKNOWN_MAX) {
            self.unknown_since = None;
            let all = (0..self.assigned.len()).try_for_each(|index| self.out_of_range(index));
            return all.map_err(|why| SourceError::Configuration(format!("a topic or partition is gone: {why}")));
        }
        Ok(())
    }

    /// Decides what an error of the client means: most heal by themselves.
    fn trouble(&mut self, why: &KafkaError, index: Option<usize>) -> Result<(), SourceError> {
        use RDKafkaErrorCode as Code;
        let what = || match index.map(|index| &self.assigned[index]) {
            Some(a) => format!("Kafka at {}, {}[{}]", self.brokers, a.topic, a.partition),
            None => format!("Kafka at {}", self.brokers),
        };
        match why.rdkafka_error_code() {
            _ if matches!(why, KafkaError::MessageConsumptionFatal(_)) => {
                Err(SourceError::Unavailable { what: what(), why: why.to_string() })
            }
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => match index {
                Some(index) => self.out_of_range(index),
                None => (0..self.assigned.len()).try_for_each(|index| self.out_of_range(index)),
            },
            Some(Code::TopicAuthorizationFailed | Code::SaslAuthenticationFailed) => {
                Err(SourceError::Configuration(format!("{}: {why}", what())))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
                tracing::warn!(what = what(), %why, "the broker does not know the topic; waiting for it");
                self.unknown_since.get_or_insert_with(Instant::now);
                Ok(())
            }
            // Counted and logged by the context.
            _ => Ok(()),
        }
    }

    /// The error for a partition whose next record is not in the log; nothing if it is.
    fn out_of_range(&self, index: usize) -> Result<(), SourceError> {
        let (a, wanted) = (&self.assigned[index], self.partitions[index].next);
        let (start, end) = connect::offsets(&self.consumer, &self.brokers, &a.topic, a.partition)?;
        connect::check_range(&a.topic, a.partition, wanted, start, end)
    }
}

impl PartitionedLog for KafkaLog {
    fn assigned(&self) -> &[Assigned] {
        &self.assigned
    }

    fn poll(
        &mut self,
        index: usize,
        records_max: usize,
        each: &mut impl FnMut(Record<'_>) -> ControlFlow<()>,
    ) -> Result<Polled, SourceError> {
        let mut trouble = None;
        let partition = &mut self.partitions[index];
        for _ in 0..records_max {
            match partition.queue.poll(Duration::ZERO) {
                Some(Ok(message)) => {
                    partition.at_end = false;
                    partition.next = message.offset() + 1;
                    let append_ms = match message.timestamp() {
                        Timestamp::NotAvailable => 0,
                        Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => ms,
                    };
                    let record =
                        Record { offset: message.offset(), append_ms, key: message.key(), value: message.payload() };
                    if each(record).is_break() {
                        return Ok(Polled::More);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => partition.at_end = true,
                Some(Err(why)) => {
                    trouble = Some(why);
                    break;
                }
                None if partition.at_end && self.consumer.client().context().is_connected(&self.assigned[index]) => {
                    return Ok(Polled::CaughtUp { complete_until_ms: None });
                }
                None => return Ok(Polled::Pending),
            }
        }
        if let Some(why) = trouble {
            self.trouble(&why, Some(index))?;
        }
        Ok(Polled::More)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), SourceError> {
        if Instant::now() >= self.news_at {
            self.hear_news()?;
        }
        self.signal.wait(timeout);
        Ok(())
    }

    fn end(&mut self, index: usize) -> Result<i64, SourceError> {
        let a = &self.assigned[index];
        connect::offsets(&self.consumer, &self.brokers, &a.topic, a.partition).map(|(_, end)| end)
    }

    fn end_known(&self, index: usize) -> Option<i64> {
        self.consumer.client().context().end(&self.assigned[index])
    }

    fn progress(&mut self, next: &[i64]) {
        if Instant::now() < self.commit_at || next == self.committed {
            return;
        }
        self.commit_at = Instant::now() + COMMIT;
        let mut list = TopicPartitionList::with_capacity(next.len());
        for (a, offset) in self.assigned.iter().zip(next) {
            // An offset that the client does not take is not shown by lag tools: no reason to stop.
            let _ = list.add_partition_offset(&a.topic, a.partition, Offset::Offset(*offset));
        }
        match self.consumer.commit(&list, CommitMode::Async) {
            Ok(()) => self.committed = next.to_vec(),
            Err(why) => context::commit_failed(&why),
        }
    }
}
