//! Publishing to Kafka with an idempotent producer that waits for all in-sync replicas. Bytes in flight are bounded here, so
//! that a buffer of records is taken as a whole or not at all as far as our own limits go.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use countdown::Countdown;
use operators::connection::Kafka;
use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::oneshot;
use tracing::{debug, error, warn};

use super::{Ack, Publish, PublishError, Records};
use crate::SourceError;

/// A producer for one cluster.
pub struct KafkaPublisher {
    producer: ThreadedProducer<Deliveries>,
    in_flight_bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

impl KafkaPublisher {
    /// A producer for `cluster`; `ack_ms_max` bounds how long a record is tried before it is given up. Connects in the
    /// background: a cluster that is away shows as failed acknowledgements.
    ///
    /// # Errors
    /// The configuration cannot work.
    pub fn new(cluster: &Kafka, ack_ms_max: u64) -> Result<Self, SourceError> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &cluster.brokers)
            .set("client.id", "haulstream-publish")
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("compression.type", "zstd")
            // Kafka's own default for keys, so that a device has the same partition whoever writes it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", cluster.linger_ms.to_string())
            .set("message.timeout.ms", ack_ms_max.to_string())
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "1000")
            .set("allow.auto.create.topics", "false")
            // Our own limit comes first.
            .set("queue.buffering.max.messages", "10000000")
            .set("queue.buffering.max.kbytes", (cluster.produce_bytes_max.div_ceil(1_024) * 4).to_string())
            .set_log_level(RDKafkaLogLevel::Warning);
        let producer = config
            .create_with_context(Deliveries)
            .map_err(|why| SourceError::Configuration(format!("kafka producer for {}: {why}", cluster.brokers)))?;
        Ok(Self { producer, in_flight_bytes: Arc::default(), bytes_max: cluster.produce_bytes_max })
    }

    /// Waits until everything that was published is acknowledged or given up, at most `ms_max`.
    ///
    /// # Errors
    /// Something is still in flight.
    pub fn flush(&self, ms_max: u64) -> Result<(), PublishError> {
        let flushed = self.producer.flush(Duration::from_millis(ms_max));
        flushed.map_err(|why| PublishError::Unavailable(format!("kafka flush: {why}")))
    }
}

impl Publish for KafkaPublisher {
    fn publish(&self, topic: &str, records: &Records) -> Ack {
        let bytes = records.bytes();
        let waiting = self.in_flight_bytes.fetch_add(bytes, Ordering::AcqRel);
        let (sender, receiver) = oneshot::channel();
        let countdown = Countdown::new(sender, bytes, self.in_flight_bytes.clone());
        if waiting > 0 && waiting + bytes > self.bytes_max {
            countdown.fail(PublishError::Full { waiting_bytes: waiting, bytes_max: self.bytes_max });
            return Ack::pending(receiver);
        }
        for record in records.iter() {
            let mut out = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, countdown.clone());
            out.key = record.key;
            out.payload = record.value;
            if let Err((why, _)) = self.producer.send(out) {
                countdown.fail(refused(
                    topic,
                    &why,
                    record.key.map_or(0, <[u8]>::len),
                    record.value.map_or(0, <[u8]>::len),
                ));
                break; // the acknowledgement fails as a whole: the rest would only be written twice
            }
        }
        Ack::pending(receiver)
    }
}

fn refused(topic: &str, why: &KafkaError, key_bytes: usize, value_bytes: usize) -> PublishError {
    match why.rdkafka_error_code() {
        Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
            PublishError::TooLarge { bytes: key_bytes + value_bytes, bytes_max: 1_000_000 }
        }
        Some(
            RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::InvalidTopic,
        ) => PublishError::Refused(format!("kafka topic {topic}: {why}")),
        _ => PublishError::Unavailable(format!("kafka topic {topic}: {why}")),
    }
}

struct Deliveries;

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        debug!(?level, facility, message, "kafka producer");
    }

    fn error(&self, why: KafkaError, reason: &str) {
        if why.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            error!(%why, reason, "kafka producer cannot go on");
        } else {
            warn!(%why, reason, "kafka producer");
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Countdown>;

    fn delivery(&self, result: &DeliveryResult<'_>, countdown: Self::DeliveryOpaque) {
        if let Err((why, message)) = result {
            use rdkafka::Message;
            let (key, value) = (message.key_len(), message.payload_len());
            countdown.fail(refused(message.topic(), why, key, value));
        }
        // The last clone that is dropped tells the publisher.
    }
}

mod countdown {
    //! Counts the records of one buffer down by its clones.

    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    use tokio::sync::oneshot;

    use super::PublishError;

    /// Tells the end when its last clone is dropped: `Ok` unless a record failed.
    pub struct Countdown {
        /// The first failure.
        end: Mutex<Result<(), PublishError>>,
        sender: Option<oneshot::Sender<Result<(), PublishError>>>,
        bytes: usize,
        in_flight_bytes: Arc<AtomicUsize>,
    }

    impl Countdown {
        pub fn new(
            sender: oneshot::Sender<Result<(), PublishError>>,
            bytes: usize,
            in_flight_bytes: Arc<AtomicUsize>,
        ) -> Arc<Self> {
            Arc::new(Self { end: Mutex::new(Ok(())), sender: Some(sender), bytes, in_flight_bytes })
        }

        /// Notes the first failure.
        pub fn fail(&self, why: PublishError) {
            let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
            if end.is_ok() {
                *end = Err(why);
            }
        }
    }

    impl Drop for Countdown {
        fn drop(&mut self) {
            self.in_flight_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
            let end = self.end.get_mut().unwrap_or_else(PoisonError::into_inner);
            if let Some(sender) = self.sender.take() {
                let _ = sender.send(end.clone()); // nobody may wait any more
            }
        }
    }
}
