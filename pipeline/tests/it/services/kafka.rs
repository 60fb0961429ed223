//! Kafka for tests.
//!
//! Invariant: no topic exists that a test did not make: the broker creates none by itself.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::server::{Kind, Server};
use super::{unique, wait_until};

/// One for the broker, the next for its controller.
static KIND: Kind = Kind { name: "kafka", ports: 2, ready };

/// A Kafka broker.
pub struct Kafka {
    /// The process, for stopping and killing a private one.
    pub server: Server,
}

impl Kafka {
    /// A broker of the caller's own, gone when dropped; with more lines in its `server.properties`.
    pub fn private(properties: &str) -> Kafka {
        Kafka::launch(&[("KAFKA_EXTRA", properties)]).unwrap_or_else(|why| panic!("{why}"))
    }

    pub(super) fn launch(environment: &[(&str, &str)]) -> Result<Kafka, String> {
        Ok(Kafka { server: Server::launch(&KIND, environment)? })
    }

    /// The `bootstrap.servers` of clients.
    pub fn bootstrap(&self) -> String {
        self.server.address()
    }

    /// A client configuration that reaches this broker.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.bootstrap());
        config
    }

    /// Makes a topic that no other test has and that stamps records with the broker's time; `name` is the beginning of its name.
    pub fn topic(&self, name: &str, partitions: i32) -> String {
        let name = unique(name);
        self.create_topic(&name, partitions, &[("message.timestamp.type", "LogAppendTime")]);
        name
    }

    /// Makes a topic with this very name and configuration.
    pub fn create_topic(&self, name: &str, partitions: i32, configuration: &[(&str, &str)]) {
        let topic = configuration
            .iter()
            .fold(NewTopic::new(name, partitions, TopicReplication::Fixed(1)), |topic, (key, value)| {
                topic.set(key, value)
            });
        // On a thread of its own, as callers may or may not be inside an asynchronous runtime.
        let made = std::thread::scope(|scope| {
            let create = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime needs no resources but a pipe");
                let admin: AdminClient<DefaultClientContext> =
                    self.client().create().expect("an address is all the client needs");
                runtime.block_on(
                    admin
                        .create_topics([&topic], &AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)))),
                )
            };
            scope.spawn(create).join().expect("panics above are of this test harness itself")
        });
        match made.as_deref() {
            Ok([Ok(_)]) => {}
            other => panic!("cannot create topic {name}: {other:?}"),
        }
        // The broker answers before its own view of the cluster has the topic.
        let probe: BaseConsumer = self.client().create().expect("an address is all the client needs");
        wait_until(Duration::from_secs(30), &format!("topic {name} is led by the broker"), || {
            probe.fetch_metadata(Some(name), Duration::from_secs(5)).is_ok_and(|m| {
                m.topics().iter().all(|t| {
                    t.partitions().len() == partitions as usize && t.partitions().iter().all(|p| p.leader() >= 0)
                })
            })
        });
    }
}

/// The broker lists itself: it is registered with the controller and, after a crash, no longer fenced.
fn ready(port: u16) -> bool {
    if std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        return false;
    }
    let probe: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", format!("127.0.0.1:{port}"))
        .create()
        .expect("an address is all the client needs");
    probe
        .fetch_metadata(None, Duration::from_secs(1))
        .is_ok_and(|m| m.brokers().iter().any(|b| b.port() == i32::from(port)))
}
