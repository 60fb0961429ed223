//! Writing records to a log, whichever it is: the buffer they are gathered in, the contract of a publisher, and its
//! acknowledgement. An acknowledgement succeeds only when every record of its buffer is durable.

mod feed;
mod http;
mod kafka;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use thiserror::Error;
use tokio::sync::oneshot;

pub use feed::{FeedOptions, Message, Timetable, feed};
pub use http::{HttpCounts, HttpOptions, HttpPublisher};
pub use kafka::KafkaPublisher;

/// Length that stands for a null key or a null value.
const NULL: u32 = u32::MAX;
/// Bytes before each record's key and value.
const HEAD: usize = 8;

/// Takes records for topics of one log.
pub trait Publish: Send + Sync {
    /// Queues `records` for `topic` without waiting; each goes to the partition of its key. What cannot be queued is
    /// reported by the acknowledgement, so that there is one place to look at.
    fn publish(&self, topic: &str, records: &Records) -> Ack;
}

impl<P: Publish + ?Sized> Publish for std::sync::Arc<P> {
    fn publish(&self, topic: &str, records: &Records) -> Ack {
        (**self).publish(topic, records)
    }
}

impl<P: Publish + ?Sized> Publish for Box<P> {
    fn publish(&self, topic: &str, records: &Records) -> Ack {
        (**self).publish(topic, records)
    }
}

/// Why records were not written. Some records of the buffer may have been written all the same: whoever tries again may
/// write them twice.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// Too much is waiting already; try again when some of it is written.
    #[error("{waiting_bytes} bytes are waiting to be written, the limit is {bytes_max}")]
    Full {
        /// Bytes that wait.
        waiting_bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A record is larger than the log takes.
    #[error("a record of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// Bytes of key and value.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The log has no such topic, or may not be written by us.
    #[error("{0}")]
    Refused(String),
    /// The log is not to be reached, did not answer in time, or cannot write.
    #[error("{0}")]
    Unavailable(String),
}

impl PublishError {
    /// Whether the same records may be taken later.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Full { .. } | Self::Unavailable(_))
    }
}

/// The future of a publication: `Ok` once every record is durable. May also be waited for outside of any runtime.
#[derive(Debug)]
#[must_use = "records are not durable before the acknowledgement"]
pub struct Ack(AckState);

#[derive(Debug)]
enum AckState {
    Known(Option<Result<(), PublishError>>),
    Waiting(oneshot::Receiver<Result<(), PublishError>>),
}

impl Ack {
    /// A publication whose end is known already.
    pub fn known(result: Result<(), PublishError>) -> Self {
        Self(AckState::Known(Some(result)))
    }

    /// A publication whose end `receiver` will tell.
    pub fn pending(receiver: oneshot::Receiver<Result<(), PublishError>>) -> Self {
        Self(AckState::Waiting(receiver))
    }

    /// Whether the end is known, without waiting.
    pub fn is_done(&mut self) -> bool {
        if let AckState::Waiting(receiver) = &mut self.0 {
            match receiver.try_recv() {
                Ok(result) => self.0 = AckState::Known(Some(result)),
                Err(oneshot::error::TryRecvError::Empty) => return false,
                Err(oneshot::error::TryRecvError::Closed) => self.0 = AckState::Known(None),
            }
        }
        true
    }

    /// Waits for the end on a plain thread.
    ///
    /// # Errors
    /// Why the records were not written.
    ///
    /// # Panics
    /// On a thread of an asynchronous runtime, which must not be blocked.
    pub fn wait(self) -> Result<(), PublishError> {
        match self.0 {
            AckState::Known(result) => result.unwrap_or_else(|| Err(gone())),
            AckState::Waiting(receiver) => receiver.blocking_recv().unwrap_or_else(|_| Err(gone())),
        }
    }
}

impl Future for Ack {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            AckState::Known(result) => Poll::Ready(result.take().unwrap_or_else(|| Err(gone()))),
            AckState::Waiting(receiver) => Pin::new(receiver).poll(cx).map(|end| end.unwrap_or_else(|_| Err(gone()))),
        }
    }
}

fn gone() -> PublishError {
    PublishError::Unavailable("the log was closed before it acknowledged".to_owned())
}

/// Records back to back in one buffer: a head of two lengths, the key, the value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Records {
    bytes: Vec<u8>,
    count: usize,
}

/// One record of [`Records`], borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The key, if there is one.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

impl Records {
    /// An empty buffer with room for `bytes`.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), count: 0 }
    }

    /// Adds one record.
    ///
    /// # Panics
    /// If key or value is 4 GiB or longer.
    pub fn push(&mut self, key: Option<&[u8]>, value: Option<&[u8]>) {
        self.bytes.extend_from_slice(&length(key.map(<[u8]>::len)));
        self.bytes.extend_from_slice(&length(value.map(<[u8]>::len)));
        self.bytes.extend_from_slice(key.unwrap_or_default());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.count += 1;
    }

    /// Adds one record whose value `write` appends to the buffer in place.
    pub fn push_with(&mut self, key: &[u8], write: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(&length(Some(key.len())));
        self.bytes.extend_from_slice(&length(None));
        self.bytes.extend_from_slice(key);
        let start = self.bytes.len();
        write(&mut self.bytes);
        let value = length(Some(self.bytes.len() - start));
        let head = start - key.len() - HEAD;
        self.bytes[head + 4..head + HEAD].copy_from_slice(&value);
        self.count += 1;
    }

    /// The records in order.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let (record, _, tail) = split(rest).expect("the buffer was filled by push");
            rest = tail;
            Some(record)
        })
    }

    /// Number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no record.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of all records with their heads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Removes all records and keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// The buffer itself: what the embedded log stores.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The first record of `bytes`, its raw form, and what follows; `None` if the bytes are not whole records.
pub(crate) fn split(bytes: &[u8]) -> Option<(Record<'_>, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (key, rest) = field(number(0), rest)?;
    let (value, rest) = field(number(4), rest)?;
    Some((Record { key, value }, &bytes[..bytes.len() - rest.len()], rest))
}

fn field(length: u32, bytes: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    if length == NULL {
        return Some((None, bytes));
    }
    bytes.split_at_checked(length as usize).map(|(field, rest)| (Some(field), rest))
}

fn length(bytes: Option<usize>) -> [u8; 4] {
    let length = bytes.map_or(NULL, |n| u32::try_from(n).expect("a key or value is far below 4 GiB"));
    length.to_le_bytes()
}

/// The partition of `key` as Kafka's default partitioner chooses it, so that a key has the same partition number in every
/// log with as many partitions.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let positive = murmur2(key) & 0x7fff_ffff;
    (positive % partitions.max(1).unsigned_abs()) as i32
}

/// Murmur2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    for (at, byte) in tail.iter().enumerate() {
        h ^= u32::from(*byte) << (8 * at);
    }
    if !tail.is_empty() {
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_hash_as_in_kafka() {
        // The vectors of Kafka's own UtilsTest.
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn records_come_back_as_they_were_pushed() {
        let mut records = Records::default();
        records.push(Some(b"k"), Some(b"v"));
        records.push(None, Some(b""));
        records.push(Some(b""), None);
        records.push_with(b"key", |out| out.extend_from_slice(b"written in place"));
        let all: Vec<_> = records.iter().collect();
        assert_eq!(all.len(), records.len());
        assert_eq!(all[0], Record { key: Some(b"k"), value: Some(b"v") });
        assert_eq!(all[1], Record { key: None, value: Some(b"") });
        assert_eq!(all[2], Record { key: Some(b""), value: None });
        assert_eq!(all[3], Record { key: Some(b"key"), value: Some(b"written in place") });
    }

    #[test]
    fn cut_buffers_are_not_read() {
        let mut records = Records::default();
        records.push(Some(b"key"), Some(b"value"));
        for end in 0..records.bytes() {
            assert!(split(&records.as_bytes()[..end]).is_none(), "{end}");
        }
    }
}
