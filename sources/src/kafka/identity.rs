//! Which cluster it is and what its topics hold, asked once before anything is read.

use std::collections::BTreeMap;

use operators::connection::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::REQUEST;
use super::connect::{config, offsets, partitions, unavailable};
use crate::delivery::SourceError;

/// A cluster as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub cluster: String,
    /// By topic and partition the first offset and the one after the last record. Topics that are not there are not in it.
    pub ranges: BTreeMap<(String, i32), (i64, i64)>,
}

/// Asks the cluster.
///
/// # Errors
/// It is not to be reached now: try again later.
pub fn identity(connection: &Kafka, topics: &[String]) -> Result<Identity, SourceError> {
    let brokers = &connection.brokers;
    let probe: BaseConsumer = config(connection, "haulstream-identity")
        .create()
        .map_err(|why| SourceError::Configuration(format!("Kafka consumer for {brokers}: {why}")))?;
    let mut ranges = BTreeMap::new();
    for topic in topics {
        for partition in partitions(&probe, brokers, topic)?.into_iter().flatten() {
            ranges.insert((topic.clone(), partition), offsets(&probe, brokers, topic, partition)?);
        }
    }
    let cluster = probe.client().fetch_cluster_id(REQUEST);
    let away = rdkafka::error::KafkaError::MetadataFetch(rdkafka::types::RDKafkaErrorCode::OperationTimedOut);
    let cluster = cluster.ok_or_else(|| unavailable(brokers, "id of the cluster", &away))?;
    Ok(Identity { cluster, ranges })
}
