//! The embedded log: topics with partitions in a directory, for running without Kafka. What was acknowledged survives a
//! crash, offsets are dense, append times never go back within the log, and one process at a time uses the directory.
//!
//! ```text
//! append -> queue -> committer (one thread: append time, offsets, one sync for all that waits) -> visible, acknowledged
//! partition = segments = keyspaces of blocks; reader: any offset, whole blocks, borrowed records
//! ```

mod block;
mod commit;
mod identity;
mod partition;
mod read;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use serde::Deserialize;
use tokio::sync::oneshot;
use tracing::debug;

use crate::SourceError;
use crate::lock::{DirectoryLock, NotTaken};
pub use commit::{Appended, Range};
pub use read::{AssignedPartitions, PartitionReader};

use crate::publish::{Ack, Publish, PublishError, Records, partition_of, split};
use commit::{Committer, Done, Request, Share};
use partition::{Partition, Segment};

/// Keyspace of the topics' own data: name -> number of partitions, and whether nothing is dropped.
const TOPICS: &str = "topics";
/// Keyspace and key of the time that was promised.
const CLOCK: &str = "clock";
/// Longest name of a topic, as in Kafka less what segment names need.
const TOPIC_CHARS_MAX: usize = 200;
/// Most partitions of a topic.
const PARTITIONS_MAX: i32 = 1_024;

/// Now, in milliseconds since the epoch. It may go back: the log makes up for it.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The computer's clock.
#[must_use]
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| since.as_millis() as u64)
    })
}

/// How the embedded log keeps its data.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Directory of the log; made if it is missing.
    pub directory: PathBuf,
    /// Bytes of records (before compression) after which a partition begins a new segment.
    pub segment_bytes_max: u64,
    /// Milliseconds after its first record when a partition begins a new segment.
    pub segment_ms_max: u64,
    /// Bytes of records (before compression) that each partition keeps at least, in whole segments; older ones are dropped.
    pub retention_bytes_max: u64,
    /// Milliseconds after its last record when a segment is dropped.
    pub retention_ms_max: u64,
    /// Bytes of records that are stored under one key.
    pub block_bytes_max: usize,
    /// Bytes of key and value of one record.
    pub record_bytes_max: usize,
    /// Bytes of appends that may wait to be written before more are refused.
    pub queue_bytes_max: usize,
    /// Bytes of a partition's newest blocks in memory before they go to a file.
    pub memtable_bytes_max: u64,
    /// Bytes of write-ahead journals on disk; at least 64 MiB.
    pub journal_bytes_max: u64,
    /// Bytes of blocks cached for readers.
    pub cache_bytes_max: u64,
}

/// The log of one directory. Dropping it writes what waits and frees the directory.
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    committer: Option<JoinHandle<()>>,
}

/// Partitions of each topic, by its name.
type Topics = BTreeMap<String, Arc<[Arc<Partition>]>>;

struct Shared {
    db: Database,
    options: Options,
    topics_keyspace: Keyspace,
    topics: RwLock<Topics>,
    committer: Committer,
    identity: String,
    _lock: DirectoryLock,
}

impl EmbeddedLog {
    /// Opens the log of a directory, which nobody else may have open.
    ///
    /// # Errors
    /// The directory is in use (named with the holder's process id), not readable, or damaged.
    pub fn open(options: Options, clock: Clock) -> Result<Self, SourceError> {
        if options.journal_bytes_max < 64 * 1_024 * 1_024 {
            let why = format!("log.journal_bytes_max is {}, the least is 64 MiB", options.journal_bytes_max);
            return Err(SourceError::Configuration(why));
        }
        let directory = &options.directory;
        std::fs::create_dir_all(directory).map_err(|why| {
            SourceError::Storage(format!("cannot make the log's directory {}: {why}", directory.display()))
        })?;
        let lock = DirectoryLock::take(directory).map_err(|why| match why {
            NotTaken::InUse { .. } => SourceError::Configuration(format!("the log in {why}")),
            NotTaken::Failed { .. } => SourceError::Storage(why.to_string()),
        })?;
        let identity = identity::identity(directory)?;
        let db = Database::builder(directory.join("store"))
            .manual_journal_persist(true) // each commit says itself how durable it is
            .max_journaling_size(options.journal_bytes_max)
            .cache_size(options.cache_bytes_max)
            .open()
            .map_err(|why| SourceError::Storage(format!("cannot open the log in {}: {why}", directory.display())))?;
        let topics_keyspace = db.keyspace(TOPICS, KeyspaceCreateOptions::default).map_err(storage)?;
        let topics = recover(&db, &topics_keyspace)?;
        let partitions = topics.values().flat_map(|partitions| partitions.iter());
        let last_ms = partitions.map(|partition| commit::lock(&partition.tail).last_ms).max().unwrap_or(0);
        let clock_keyspace = db.keyspace(CLOCK, KeyspaceCreateOptions::default).map_err(storage)?;
        let promised = clock_keyspace.get(CLOCK).map_err(storage)?;
        let promised_ms = promised.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes);
        let floor_ms = last_ms.max(promised_ms);
        let committer = Committer::new(clock, floor_ms, options.queue_bytes_max);
        let topics = RwLock::new(topics);
        let shared = Arc::new(Shared { db, options, topics_keyspace, topics, committer, identity, _lock: lock });
        let writer = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log-commit".to_owned())
            .spawn(move || {
                let keep = |ms: u64| {
                    if let Err(why) = clock_keyspace.insert(CLOCK, ms.to_be_bytes()) {
                        debug!(%why, "cannot store the log's time");
                    }
                };
                writer.committer.run(&writer.db, &writer.options, || writer.partitions(), keep);
            })
            .map_err(|why| SourceError::Storage(format!("cannot start the log's thread: {why}")))?;
        Ok(Self { shared, committer: Some(thread) })
    }

    /// Tells the log from every other one.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.shared.identity
    }

    /// Makes a topic of events, of which old ones are dropped as the options say; or gives an existing topic more
    /// partitions. With more partitions keys move, as in Kafka.
    ///
    /// # Errors
    /// The name or number cannot be, or the topic has more partitions already.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), SourceError> {
        self.create(name, partitions, false)
    }

    /// Makes a topic for the changelog of a table, of which nothing is dropped; else as
    /// [`create_topic`](Self::create_topic). A topic that exists becomes one of this kind, and stays so.
    ///
    /// # Errors
    /// As there.
    pub fn create_table(&self, name: &str, partitions: i32) -> Result<(), SourceError> {
        self.create(name, partitions, true)
    }

    fn create(&self, name: &str, partitions: i32, table: bool) -> Result<(), SourceError> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > TOPIC_CHARS_MAX || !name.bytes().all(safe) {
            let shown = operators::error::excerpt(name);
            let why = format!("topic \"{shown}\" is not 1 to {TOPIC_CHARS_MAX} of A-Z a-z 0-9 . _ -");
            return Err(SourceError::Configuration(why));
        }
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            let why = format!("topic {name}: {partitions} partitions are not within 1…{PARTITIONS_MAX}");
            return Err(SourceError::Configuration(why));
        }
        let mut topics = self.shared.topics.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = topics.get(name).map_or_else(Vec::new, |existing| existing.to_vec());
        if all.len() > partitions as usize {
            let has = all.len();
            let why = format!("topic {name} has {has} partitions and cannot shrink to {partitions}");
            return Err(SourceError::Configuration(why));
        }
        let was_table = all.first().is_some_and(|partition| partition.is_table());
        let table = table || was_table;
        if all.len() == partitions as usize && table == was_table {
            return Ok(());
        }
        let [a, b, c, d] = partitions.to_be_bytes();
        let mut batch = self.shared.db.batch().durability(Some(PersistMode::SyncAll));
        batch.insert(&self.shared.topics_keyspace, name, [a, b, c, d, u8::from(table)]);
        batch.commit().map_err(storage)?;
        let first_id = topics.values().map(|partitions| partitions.len()).sum::<usize>();
        let topic: Arc<str> = name.into();
        for (id, index) in (first_id..).zip(all.len() as i32..partitions) {
            all.push(Arc::new(Partition::open(topic.clone(), index, id, Vec::new())?));
        }
        all.iter().filter(|_| table).for_each(|partition| partition.set_table());
        topics.insert(name.to_owned(), all.into());
        Ok(())
    }

    /// Names of the topics with their numbers of partitions.
    #[must_use]
    pub fn topics(&self) -> Vec<(String, i32)> {
        let topics = self.shared.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.iter().map(|(name, partitions)| (name.clone(), partitions.len() as i32)).collect()
    }

    /// Appends records, each to the partition of its key (those without a key to partition 0), and tells where they went
    /// once they are durable.
    pub fn append(&self, topic: &str, records: &Records) -> oneshot::Receiver<Result<Appended, PublishError>> {
        self.append_to(topic, None, records)
    }

    /// Appends records to one partition, whatever their keys.
    pub fn append_to(
        &self,
        topic: &str,
        partition: impl Into<Option<i32>>,
        records: &Records,
    ) -> oneshot::Receiver<Result<Appended, PublishError>> {
        let (sender, receiver) = oneshot::channel();
        self.submit(topic, partition.into(), records, Done::Position(sender));
        receiver
    }

    fn submit(&self, topic: &str, partition: Option<i32>, records: &Records, done: Done) {
        match self.shared.split(topic, partition, records) {
            Ok(shares) => self.shared.committer.submit(Request { shares, bytes: records.bytes(), done }),
            Err(why) => done.tell(Err(why)),
        }
    }

    /// A reader of one partition from `offset` on.
    ///
    /// # Errors
    /// There is no such partition or offset.
    pub fn reader(&self, topic: &str, partition: i32, offset: i64) -> Result<PartitionReader, SourceError> {
        PartitionReader::new(self.partition(topic, partition)?, offset)
    }

    /// First offset that the partition keeps, and the offset after the last durable record.
    ///
    /// # Errors
    /// There is no such partition.
    pub fn offsets(&self, topic: &str, partition: i32) -> Result<(i64, i64), SourceError> {
        let partition = self.partition(topic, partition)?;
        // The start is read first: it may only move up, and never beyond the end.
        let start = partition.start();
        Ok((start, partition.end()))
    }

    /// Bytes of records that the partition keeps, before compression.
    ///
    /// # Errors
    /// There is no such partition.
    pub fn kept_bytes(&self, topic: &str, partition: i32) -> Result<u64, SourceError> {
        Ok(self.partition(topic, partition)?.kept_bytes())
    }

    fn partition(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, SourceError> {
        let topics = self.shared.topics.read().unwrap_or_else(PoisonError::into_inner);
        let found = topics.get(topic).and_then(|all| all.get(usize::try_from(partition).ok()?));
        found
            .cloned()
            .ok_or_else(|| SourceError::Configuration(format!("the log has no partition {topic}[{partition}]")))
    }

    /// The log's clock: every record that is not visible yet will have an append time that is not before this. So when a
    /// reader asks this first and then reads to the end, it has seen everything with an earlier time.
    #[must_use]
    pub fn complete_until_ms(&self) -> u64 {
        self.shared.committer.complete_until_ms()
    }

    /// Waits until there were more commits than `seen` (0 at first), at most `timeout`; returns how many there were. Costs
    /// nothing while nothing is written.
    pub fn wait(&self, seen: u64, timeout: Duration) -> u64 {
        self.shared.committer.wait(seen, timeout)
    }

    /// Why the log cannot be written any more, if so; reading goes on.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.shared.committer.failure()
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn disk_bytes(&self) -> Result<u64, SourceError> {
        self.shared.db.disk_space().map_err(storage)
    }
}

impl Shared {
    fn partitions(&self) -> Vec<Arc<Partition>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        topics.values().flat_map(|partitions| partitions.iter().cloned()).collect()
    }

    /// Divides records by partition, in order.
    fn split(&self, topic: &str, only: Option<i32>, records: &Records) -> Result<Vec<Share>, PublishError> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let refused =
            || PublishError::Refused(format!("the log has no topic {topic} with partition {}", only.unwrap_or(0)));
        let partitions = topics.get(topic).ok_or_else(refused)?.clone();
        drop(topics);
        let count = partitions.len() as i32;
        if only.is_some_and(|partition| !(0..count).contains(&partition)) {
            return Err(refused());
        }
        let mut shares: Vec<Option<Share>> = Vec::new();
        shares.resize_with(partitions.len(), || None);
        let mut rest = records.as_bytes();
        while let Some((record, raw, tail)) = split(rest) {
            rest = tail;
            if raw.len() > self.options.record_bytes_max {
                return Err(PublishError::TooLarge { bytes: raw.len(), bytes_max: self.options.record_bytes_max });
            }
            let index = only.unwrap_or_else(|| record.key.map_or(0, |key| partition_of(key, count))) as usize;
            let share = shares[index].get_or_insert_with(|| Share {
                partition: partitions[index].clone(),
                count: 0,
                records: Vec::with_capacity(records.bytes() / partitions.len()),
            });
            share.records.extend_from_slice(raw);
            share.count += 1;
        }
        Ok(shares.into_iter().flatten().collect())
    }
}

impl Publish for EmbeddedLog {
    fn publish(&self, topic: &str, records: &Records) -> Ack {
        let (sender, receiver) = oneshot::channel();
        self.submit(topic, None, records, Done::Ack(sender));
        Ack::pending(receiver)
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        self.shared.committer.close();
        if let Some(thread) = self.committer.take() {
            let _ = thread.join(); // a panic there has been reported by its own thread
        }
    }
}

/// Topics and partitions as the store has them.
fn recover(db: &Database, topics: &Keyspace) -> Result<Topics, SourceError> {
    let mut segments: HashMap<(String, i32), Vec<Segment>> = HashMap::new();
    for keyspace in db.list_keyspace_names() {
        if let Some((topic, index, base)) = partition::parse_name(&keyspace) {
            let blocks = db.keyspace(&keyspace, KeyspaceCreateOptions::default).map_err(storage)?;
            segments.entry((topic.to_owned(), index)).or_default().push(Segment { base, blocks });
        }
    }
    let (mut found, mut id) = (BTreeMap::new(), 0);
    for guard in topics.iter() {
        let (name, count) = guard.into_inner().map_err(storage)?;
        let damaged = || SourceError::Storage("the log's list of topics is damaged".to_owned());
        let name = std::str::from_utf8(&name).map_err(|_| damaged())?.to_owned();
        let [a, b, c, d, table] = *<&[u8; 5]>::try_from(count.as_ref()).map_err(|_| damaged())?;
        let count = i32::from_be_bytes([a, b, c, d]);
        let topic: Arc<str> = name.as_str().into();
        let mut partitions = Vec::new();
        for index in 0..count {
            let segments = segments.remove(&(name.clone(), index)).unwrap_or_default();
            let partition = Partition::open(topic.clone(), index, id, segments)?;
            if table != 0 {
                partition.set_table();
            }
            partitions.push(Arc::new(partition));
            id += 1;
        }
        found.insert(name, partitions.into());
    }
    Ok(found)
}

fn storage(why: fjall::Error) -> SourceError {
    SourceError::Storage(format!("the embedded log's store: {why}"))
}

#[cfg(test)]
mod tests;
