//! How to reach each outside service, as plain data: one definition for the sources that read, the sinks that write and the
//! configuration that fills it in. Secrets print as `***`.

use std::fmt;

use serde::Deserialize;

/// A password or token. Neither `Debug` nor `Display` shows it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether no secret was configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "***" })
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A Kafka cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Kafka {
    /// Comma-separated `host:port` of the bootstrap brokers.
    pub brokers: String,
    /// Group under which offsets are committed for lag tools; no group membership is ever taken.
    pub group: String,
    /// Bytes of fetched records kept per reader before fetching pauses.
    pub prefetch_bytes_max: usize,
    /// Milliseconds that a fetch may wait at the broker for data.
    pub fetch_wait_ms: u64,
    /// Milliseconds that the producer waits to fill a batch.
    pub linger_ms: u64,
    /// Bytes of unacknowledged records in the producer before it refuses more.
    pub produce_bytes_max: usize,
}

/// A Redis server.
#[derive(Clone, Debug, Deserialize)]
pub struct Redis {
    /// `redis://[user@]host:port/db`, without the password.
    pub url: String,
    /// Password, if the server asks for one.
    pub password: Secret,
    /// Prefix of every key, with the version of the key layout.
    pub prefix: String,
}

/// A ClickHouse server, by HTTP.
#[derive(Clone, Debug, Deserialize)]
pub struct ClickHouse {
    /// `http://host:port`.
    pub url: String,
    /// Database that holds our tables; made if it is missing.
    pub database: String,
    /// User name.
    pub user: String,
    /// Password.
    pub password: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_never_print() {
        let redis = Redis { url: "redis://h:1/0".into(), password: Secret::new("hunter2"), prefix: "hs:1".into() };
        assert!(!format!("{redis:?} {}", redis.password).contains("hunter2"));
        assert_eq!(redis.password.expose(), "hunter2");
    }
}
