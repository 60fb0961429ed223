//! `haulstream check`: is the configuration right, and with `--connect`, do the services that it names answer?
//!
//! Invariant: nothing is written anywhere but to the terminal, and no service is changed.

use std::fmt;
use std::time::Duration;

use clap::Args;
use operators::connection;
use operators::error::excerpt;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::{Failure, Options, print};
use crate::config::{Config, Source};
use crate::schema;

/// Longest time that a service may take to answer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(5);
/// ClickHouse's own code for a wrong user or password.
const CLICKHOUSE_AUTHENTICATION_FAILED: &str = "516";

/// Flags of `haulstream check`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Also try each service that the configuration uses.
    #[arg(long)]
    connect: bool,
}

/// How a service answered.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Ok,
    /// Trying again later may help.
    Unavailable(String),
    /// It is there and does not let us in.
    AuthFailed(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (code, why) = match self {
            Answer::Ok => return f.write_str("ok"),
            Answer::Unavailable(why) => ("dependency_unavailable", why),
            Answer::AuthFailed(why) => ("auth_failed", why),
        };
        write!(f, "{code}: {why}")
    }
}

/// Prints what is in force, then how the services answer.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let loaded = arguments.options.load(None)?;
    let catalog = schema::catalog_of_source(&loaded.config).map_err(Failure::Usage)?;
    print(&format!("ok\n\n{}", loaded.effective))?;
    let kind = |table| if table { "table" } else { "source" };
    let declared = catalog.declared().map(|one| format!("{} {} of topic {}\n", kind(one.table), one.name, one.topic));
    let declared: String = declared.collect();
    if !declared.is_empty() {
        print(&format!("\n{declared}"))?;
    }
    if arguments.connect { connect(&loaded.config) } else { Ok(()) }
}

fn connect(config: &Config) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Runtime(format!("cannot start: {e}")))?;
    let mut answers = Vec::new();
    if config.run.source == Source::Kafka {
        answers.push((format!("kafka {}", config.kafka.brokers), kafka(&config.kafka)));
    }
    if config.redis.enabled {
        let redis = &config.redis.connection;
        answers.push((format!("redis {}", redis.url), runtime.block_on(within(ask_redis(redis)))));
    }
    if config.clickhouse.enabled {
        let clickhouse = &config.clickhouse.connection;
        answers.push((format!("clickhouse {}", clickhouse.url), runtime.block_on(within(ask_clickhouse(clickhouse)))));
    }
    if answers.is_empty() {
        return print("\nno outside service is configured\n");
    }
    let lines: String = answers.iter().map(|(service, answer)| format!("{service}: {answer}\n")).collect();
    print(&format!("\n{lines}"))?;
    let bad = answers.iter().filter(|(_, answer)| *answer != Answer::Ok).count();
    if bad == 0 { Ok(()) } else { Err(Failure::Runtime(format!("{bad} of {} services cannot be used", answers.len()))) }
}

async fn within(answer: impl Future<Output = Answer>) -> Answer {
    let late = || Answer::Unavailable(format!("no answer within {} s", ANSWER_TIME_MAX.as_secs()));
    tokio::time::timeout(ANSWER_TIME_MAX, answer).await.unwrap_or_else(|_| late())
}

fn kafka(kafka: &connection::Kafka) -> Answer {
    let consumer: Result<BaseConsumer, KafkaError> = ClientConfig::new()
        .set("bootstrap.servers", &kafka.brokers)
        // Its own lines would only repeat what we say.
        .set("log_level", "0")
        .create();
    match consumer.and_then(|consumer| consumer.fetch_metadata(None, ANSWER_TIME_MAX)) {
        Ok(_) => Answer::Ok,
        Err(e) => match e.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                Answer::AuthFailed(excerpt(&e.to_string()))
            }
            _ => Answer::Unavailable(excerpt(&e.to_string())),
        },
    }
}

async fn ask_redis(redis: &connection::Redis) -> Answer {
    let ping = async {
        let info = redis::IntoConnectionInfo::into_connection_info(redis.url.as_str())?;
        let mut settings = info.redis_settings().clone();
        if !redis.password.is_empty() {
            settings = settings.set_password(redis.password.expose());
        }
        let client = redis::Client::open(info.set_redis_settings(settings))?;
        let limits = redis::AsyncConnectionConfig::new().set_connection_timeout(Some(ANSWER_TIME_MAX));
        let mut connection = client.get_multiplexed_async_connection_with_config(&limits).await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await
    };
    match ping.await {
        Ok(()) => Answer::Ok,
        Err(e) => {
            let refused = e.kind() == redis::ErrorKind::AuthenticationFailed
                || matches!(e.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"));
            let why = excerpt(&e.to_string());
            if refused { Answer::AuthFailed(why) } else { Answer::Unavailable(why) }
        }
    }
}

async fn ask_clickhouse(clickhouse: &connection::ClickHouse) -> Answer {
    let request = reqwest::Client::new()
        .post(&clickhouse.url)
        .header("X-ClickHouse-User", &clickhouse.user)
        .header("X-ClickHouse-Key", clickhouse.password.expose())
        .body("SELECT 1");
    match request.send().await {
        Ok(answer) if answer.status().is_success() => Answer::Ok,
        Ok(answer) => {
            let status = answer.status();
            let code = answer.headers().get("X-ClickHouse-Exception-Code");
            if code.is_some_and(|code| code == CLICKHOUSE_AUTHENTICATION_FAILED) || status.as_u16() == 401 {
                return Answer::AuthFailed(format!("user {} or its password is wrong", excerpt(&clickhouse.user)));
            }
            Answer::Unavailable(format!("HTTP status {status}"))
        }
        // The cause says more than "error sending request".
        Err(e) => {
            Answer::Unavailable(excerpt(&std::error::Error::source(&e).map_or(e.to_string(), ToString::to_string)))
        }
    }
}
