//! Options of the edge. Every limit of a connection stands here.

use serde::{Deserialize, Deserializer};

/// How the edge listens and what a client may do.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Whether it may listen on an address that other machines reach. Nobody's rights are checked yet, so everyone who
    /// reaches it sees all vehicles.
    pub allow_remote: bool,
    /// Origins besides its own that pages may connect from, such as `https://fleet.example.com`. Their hosts are accepted
    /// in `Host` headers too. Configured as one text, separated by commas.
    #[serde(deserialize_with = "separated_by_commas")]
    pub origins: Vec<String>,
    /// Name of this instance in `hello` and in metrics; empty for one made up at the start.
    pub server_id: String,
    /// TCP connections that are served at the same time; further ones wait.
    pub http_connections_max: usize,
    /// Milliseconds in which a request's head has to arrive, and after which an unused connection is closed.
    pub head_ms_max: u64,
    /// Milliseconds without any progress of a write after which a TCP connection is given up.
    pub stall_ms_max: u64,
    /// Bytes of the kernel's send buffer of a connection.
    pub send_buffer_bytes: u32,
    /// HTTP snapshots that are read at the same time; further ones are refused with 503.
    pub snapshots_max: usize,
    /// Milliseconds that reading one HTTP snapshot may take.
    pub snapshot_ms_max: u64,
    /// WebSocket connections; further ones are refused with 503.
    pub connections_max: usize,
    /// Subscriptions of a connection.
    pub subscriptions_max: usize,
    /// Ids in one list of a subscription or a snapshot request.
    pub vehicles_max: usize,
    /// Bytes of a message from a client.
    pub message_bytes_max: usize,
    /// Messages from a client a minute, pings too.
    pub messages_per_minute_max: u32,
    /// Refused messages after which a connection is closed.
    pub strikes_max: u32,
    /// Bytes of messages that wait for a client; beyond that, changes wait in the hub and merge by vehicle.
    pub outbox_bytes_max: usize,
    /// Milliseconds for which a client may have more waiting than its outbox holds before it is closed.
    pub slow_ms: u64,
    /// Milliseconds of ticks that the dataflow gathers into one delta. Deltas are published no more often than every
    /// four fifths of it.
    pub delta_ms: u64,
    /// Milliseconds that changes wait for those of the other workers: half of it after each that comes.
    pub gather_ms: u64,
    /// Milliseconds between two pings of the server.
    pub heartbeat_ms: u64,
    /// Milliseconds in which a ping has to be answered; a connection that misses two is closed.
    pub pong_ms_max: u64,
    /// Milliseconds without a subscription after which a connection is closed.
    pub idle_ms: u64,
    /// Changes that are kept for clients that are late; who is later than that gets a new snapshot.
    pub ring_rows_max: usize,
    /// Milliseconds that clients have to take their leave when the server stops.
    pub shutdown_ms_max: u64,
    /// Milliseconds after which clients that are sent away are told to come again, at least; up to twice that, so that
    /// they do not come all at once.
    pub retry_ms_min: u64,
}

fn separated_by_commas<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    Ok(parts.map(str::to_owned).collect())
}
