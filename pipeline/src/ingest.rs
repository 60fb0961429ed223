//! An ingestion gate in a process of its own: telemetry, and records of declared topics, come in over HTTP and are acknowledged once Kafka has it.
//!
//! Invariant: the process keeps nothing. It may end at any moment, and any number of it may run side by side.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use operators::connection;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use sources::listen::{self, Gate};
use sources::log::system_clock;
use sources::publish::KafkaPublisher;
use tracing::info;
use warp::Filter;
use warp::reply::Response;

use crate::admin::{self, Condition, Readiness};
use crate::config::Config;
use crate::schema;

/// How often the gate looks whether Kafka has its topic.
const LOOK: Duration = Duration::from_secs(5);
/// Longest time that the look may take.
const LOOK_MAX: Duration = Duration::from_secs(3);
/// Longest time for records under way when the process stops, in milliseconds.
const FLUSH_MS_MAX: u64 = 5_000;

/// Serves until `stop` completes and what is under way is answered. `ready` is called with the address.
///
/// # Errors
/// What failed, and what to do.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(SocketAddr),
    stop: impl Future<Output = ()>,
) -> Result<(), String> {
    let figures = admin::install_metrics().map_err(|why| format!("cannot keep metrics: {why}"))?;
    let ack_ms_max = config.ingest.gate.ack_ms_max;
    let producer = Arc::new(KafkaPublisher::new(&config.kafka, ack_ms_max).map_err(|why| why.to_string())?);
    let topic = config.topics.telemetry.clone();
    let declared = schema::catalog(&config)?.declared().collect();
    let gate = Gate::new(producer.clone(), topic.clone(), declared, config.ingest.gate.clone(), system_clock());
    let readiness = Readiness::default();
    let condition = readiness.condition("kafka", "not asked yet");
    let look = tokio::task::spawn(look(config.kafka.clone(), topic, condition));

    let listener = tokio::net::TcpListener::bind(&config.ingest.listen).await;
    let listener = listener.map_err(|why| format!("ingest.listen {}: {why}", config.ingest.listen))?;
    let addr = listener.local_addr().map_err(|why| format!("ingest.listen: {why}"))?;
    info!(%addr, kafka = config.kafka.brokers, "the gate takes telemetry");
    ready(addr);
    let all = filters(gate, readiness, figures);
    listen::serve(listener, all, config.ingest.serve(), stop).await;
    info!("stopping");
    look.abort();
    let flushed = tokio::task::spawn_blocking(move || producer.flush(FLUSH_MS_MAX)).await;
    flushed.map_err(|why| why.to_string())?.map_err(|why| why.to_string())
}

fn filters(
    gate: Arc<Gate>,
    readiness: Readiness,
    figures: admin::Figures,
) -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    let served = listen::routes(gate).or(admin::routes(readiness, figures)).unify();
    served.or(listen::not_found()).unify()
}

/// Keeps the condition in step with whether Kafka has the topic.
async fn look(kafka: connection::Kafka, topic: String, condition: Condition) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        let (kafka, topic) = (kafka.clone(), topic.clone());
        let asked = tokio::task::spawn_blocking(move || has_topic(&kafka, &topic)).await;
        match asked {
            Ok(Ok(())) => condition.met(),
            Ok(Err(why)) => condition.waits(why),
            Err(why) => condition.waits(why.to_string()),
        }
    }
}

fn has_topic(kafka: &connection::Kafka, topic: &str) -> Result<(), String> {
    let away = |why| format!("{}: {why}", kafka.brokers);
    let probe: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        .set("allow.auto.create.topics", "false")
        .set("log_level", "0")
        .create()
        .map_err(away)?;
    let found = probe.fetch_metadata(Some(topic), LOOK_MAX).map_err(away)?;
    let there = found.topics().iter().any(|t| t.name() == topic && t.error().is_none() && !t.partitions().is_empty());
    if there { Ok(()) } else { Err(format!("{} has no topic {topic}: haulstream topics apply", kafka.brokers)) }
}
