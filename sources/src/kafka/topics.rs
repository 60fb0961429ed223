//! Topics as they should be, compared with those that a cluster has, and the difference made good. A topic is created or
//! grown; none is ever shrunk or deleted.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use operators::connection::Kafka;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::BaseConsumer;
use rdkafka::types::RDKafkaErrorCode;

use super::connect::{config, partitions, unavailable};
use crate::delivery::SourceError;

/// Settings of ours that a topic may have. Others are left as they are.
const TIMESTAMP_TYPE: &str = "message.timestamp.type";
const RETENTION: &str = "retention.ms";
const CLEANUP: &str = "cleanup.policy";

/// How long the cluster may take to make a topic.
const OPERATION: Duration = Duration::from_secs(30);

/// What a topic does with old records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// Deletes them after the retention time.
    Delete,
    /// Keeps the newest record of each key.
    Compact,
}

impl Cleanup {
    fn policy(self) -> &'static str {
        match self {
            Cleanup::Delete => "delete",
            Cleanup::Compact => "compact",
        }
    }
}

/// A topic as it should be. All of ours stamp records with the broker's time when it takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Partitions, at least.
    pub partitions: i32,
    /// Copies of each partition; `None` for the cluster's default. Of a topic that is there it is not looked at.
    pub replication: Option<i32>,
    /// How long records are kept, in milliseconds; `None` for ever.
    pub retention_ms: Option<i64>,
    /// What is done with old records.
    pub cleanup: Cleanup,
}

impl Topic {
    fn settings(&self) -> [(&'static str, String); 3] {
        [
            (TIMESTAMP_TYPE, "LogAppendTime".to_owned()),
            (CLEANUP, self.cleanup.policy().to_owned()),
            (RETENTION, self.retention_ms.unwrap_or(-1).to_string()),
        ]
    }
}

/// One difference between a topic and how it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// There is no such topic.
    Create(Topic),
    /// It has fewer partitions. Keys go to other partitions from then on.
    Grow {
        /// Topic.
        topic: String,
        /// Partitions that it has.
        from: i32,
        /// Partitions that it should have.
        to: i32,
    },
    /// It has more partitions: left as it is.
    Larger {
        /// Topic.
        topic: String,
        /// Partitions that it has.
        has: i32,
        /// Partitions that it should have.
        wanted: i32,
    },
    /// A setting differs.
    Set {
        /// Topic.
        topic: String,
        /// Setting.
        name: &'static str,
        /// Value that it has.
        from: String,
        /// Value that it should have.
        to: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Create(topic) => {
                write!(f, "+ {}: {} partitions", topic.name, topic.partitions)?;
                topic.settings().iter().try_for_each(|(name, value)| write!(f, ", {name}={value}"))
            }
            Change::Grow { topic, from, to } => {
                write!(f, "~ {topic}: {from} to {to} partitions (keys go to other partitions from then on)")
            }
            Change::Larger { topic, has, wanted } => {
                write!(f, "  {topic}: has {has} partitions, more than {wanted}; left as it is")
            }
            Change::Set { topic, name, from, to } => write!(f, "~ {topic}: {name} from {from} to {to}"),
        }
    }
}

/// What has to be done, in the order of the topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The differences.
    pub changes: Vec<Change>,
}

impl Plan {
    /// Whether applying it would change anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.iter().all(|change| matches!(change, Change::Larger { .. }))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))?;
        if self.is_empty() { writeln!(f, "topics are as they should be") } else { Ok(()) }
    }
}

/// Compares the topics of a cluster with what they should be.
///
/// # Errors
/// The cluster is not to be reached, or does not tell.
pub async fn plan(connection: &Kafka, wanted: &[Topic]) -> Result<Plan, SourceError> {
    let (mut changes, mut present) = (Vec::new(), Vec::new());
    let found = found(connection, wanted).await?;
    for (topic, has) in wanted.iter().zip(found) {
        match has {
            None => changes.push(Change::Create(topic.clone())),
            Some(has) => present.push((topic, has)),
        }
    }
    let names: Vec<&str> = present.iter().map(|(topic, _)| topic.name.as_str()).collect();
    let settings = settings(connection, &names).await?;
    for ((topic, has), settings) in present.into_iter().zip(settings) {
        let name = || topic.name.clone();
        match topic.partitions {
            wanted if wanted > has => changes.push(Change::Grow { topic: name(), from: has, to: wanted }),
            wanted if wanted < has => changes.push(Change::Larger { topic: name(), has, wanted }),
            _ => {}
        }
        for (setting, to) in topic.settings() {
            let from = settings.get(setting).map_or("", |(value, _)| value.as_str());
            if from != to {
                changes.push(Change::Set { topic: name(), name: setting, from: from.to_owned(), to });
            }
        }
    }
    Ok(Plan { changes })
}

/// Number of partitions of each topic that is there.
async fn found(connection: &Kafka, wanted: &[Topic]) -> Result<Vec<Option<i32>>, SourceError> {
    let (names, connection) = (wanted.iter().map(|t| t.name.clone()).collect::<Vec<_>>(), connection.clone());
    let look = move || {
        let probe: BaseConsumer = config(&connection, "haulstream-topics")
            .create()
            .map_err(|why| SourceError::Configuration(format!("Kafka at {}: {why}", connection.brokers)))?;
        let count = |name: &String| Ok(partitions(&probe, &connection.brokers, name)?.map(|p| p.len() as i32));
        names.iter().map(count).collect()
    };
    // The client's metadata request blocks.
    tokio::task::spawn_blocking(look).await.expect("the closure does not panic and is not cancelled")
}

/// Settings of each topic by name, with whether they were set for this topic.
async fn settings(connection: &Kafka, topics: &[&str]) -> Result<Vec<BTreeMap<String, (String, bool)>>, SourceError> {
    if topics.is_empty() {
        return Ok(Vec::new());
    }
    let admin = admin(connection)?;
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let answer = admin.describe_configs(&resources, &options()).await;
    let answer = answer.map_err(|why| unavailable(&connection.brokers, "topic settings", &why))?;
    let of = |resource: Result<rdkafka::admin::ConfigResource, RDKafkaErrorCode>| {
        let resource = resource.map_err(|code| refused(connection, "topic settings", code))?;
        let entry = |e: rdkafka::admin::ConfigEntry| {
            let own = matches!(e.source, ConfigSource::DynamicTopic);
            (e.name, (e.value.unwrap_or_default(), own))
        };
        Ok(resource.entries.into_iter().map(entry).collect())
    };
    answer.into_iter().map(of).collect()
}

/// Carries out a plan.
///
/// # Errors
/// The first change that the cluster refuses, or that it is not to be reached. What was done before stays done; a new plan
/// has only the rest.
pub async fn apply(connection: &Kafka, plan: &Plan) -> Result<(), SourceError> {
    let admin = admin(connection)?;
    for change in &plan.changes {
        match change {
            Change::Create(topic) => create(connection, &admin, topic).await?,
            Change::Grow { topic, to, .. } => {
                let to = usize::try_from(*to).unwrap_or(0);
                let done = admin.create_partitions(&[NewPartitions::new(topic, to)], &options()).await;
                check(connection, &format!("growing {topic}"), done)?;
            }
            Change::Set { topic, name, to, .. } => set(connection, &admin, topic, name, to).await?,
            Change::Larger { .. } => {}
        }
    }
    Ok(())
}

async fn create(
    connection: &Kafka,
    admin: &AdminClient<DefaultClientContext>,
    topic: &Topic,
) -> Result<(), SourceError> {
    let settings = topic.settings();
    let replication = TopicReplication::Fixed(topic.replication.unwrap_or(-1));
    let new = NewTopic::new(&topic.name, topic.partitions, replication);
    let new = settings.iter().fold(new, |new, (name, value)| new.set(name, value));
    let done = admin.create_topics([&new], &options()).await;
    check(connection, &format!("creating {}", topic.name), done)
}

/// Changes one setting. The request replaces all settings of the topic, so those that were made before go with it.
async fn set(
    connection: &Kafka,
    admin: &AdminClient<DefaultClientContext>,
    topic: &str,
    name: &str,
    to: &str,
) -> Result<(), SourceError> {
    let present = settings(connection, &[topic]).await?.pop().unwrap_or_default();
    let mut alter = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (other, (value, own)) in &present {
        if *own {
            alter = alter.set(other, value);
        }
    }
    let done = admin.alter_configs([&alter.set(name, to)], &options()).await;
    let done = done.map_err(|why| unavailable(&connection.brokers, &format!("setting {name} of {topic}"), &why))?;
    for result in done {
        result.map_err(|(_, code)| refused(connection, &format!("setting {name} of {topic}"), code))?;
    }
    Ok(())
}

fn admin(connection: &Kafka) -> Result<AdminClient<DefaultClientContext>, SourceError> {
    let admin = config(connection, "haulstream-topics").create();
    admin.map_err(|why| SourceError::Configuration(format!("Kafka at {}: {why}", connection.brokers)))
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(OPERATION)).request_timeout(Some(OPERATION))
}

fn check(
    connection: &Kafka,
    what: &str,
    done: rdkafka::error::KafkaResult<Vec<rdkafka::admin::TopicResult>>,
) -> Result<(), SourceError> {
    for result in done.map_err(|why| unavailable(&connection.brokers, what, &why))? {
        match result {
            // Somebody else was faster.
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(refused(connection, what, code)),
        }
    }
    Ok(())
}

fn refused(connection: &Kafka, what: &str, code: RDKafkaErrorCode) -> SourceError {
    SourceError::Configuration(format!("Kafka at {}, {what}: {code}", connection.brokers))
}
