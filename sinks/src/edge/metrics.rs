//! The figures that the edge gives out. A name is written here and nowhere else.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Every figure of the edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// WebSocket connections, by server_id.
    Connections,
    /// Subscriptions of all connections.
    Subscriptions,
    /// Messages sent, by type and channel.
    MessagesSent,
    /// Bytes of those messages, by type and channel.
    BytesSent,
    /// Time from the newest tick of a delta to its write to the socket.
    DeliverySeconds,
    /// Changes that were merged into a later one of the same vehicle before they were sent.
    DeltasMerged,
    /// Deltas given up for a new snapshot, as the client was later than the ring is long.
    Resnapshots,
    /// Connections closed as they stayed slow.
    SlowClosed,
    /// Connections closed by the server, by code.
    Closed,
    /// Connections and requests refused, by code.
    Refused,
    /// Messages of clients refused, by code.
    MessagesRefused,
    /// Vehicles in the current state.
    StateRows,
    /// Bytes of the current state.
    StateBytes,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 13] = [
        Metric::Connections,
        Metric::Subscriptions,
        Metric::MessagesSent,
        Metric::BytesSent,
        Metric::DeliverySeconds,
        Metric::DeltasMerged,
        Metric::Resnapshots,
        Metric::SlowClosed,
        Metric::Closed,
        Metric::Refused,
        Metric::MessagesRefused,
        Metric::StateRows,
        Metric::StateBytes,
    ];

    /// Upper bounds of the buckets of [`Metric::DeliverySeconds`].
    pub const DELIVERY_SECONDS_BUCKETS: [f64; 7] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

    /// Name under which the figure is published.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Connections => "haulstream_ws_connections_active",
            Metric::Subscriptions => "haulstream_edge_subscriptions",
            Metric::MessagesSent => "haulstream_messages_sent_total",
            Metric::BytesSent => "haulstream_edge_sent_bytes_total",
            Metric::DeliverySeconds => "haulstream_message_delivery_duration_seconds",
            Metric::DeltasMerged => "haulstream_edge_changes_merged_total",
            Metric::Resnapshots => "haulstream_edge_resnapshots_total",
            Metric::SlowClosed => "haulstream_edge_slow_closed_total",
            Metric::Closed => "haulstream_edge_closed_total",
            Metric::Refused => "haulstream_edge_refused_total",
            Metric::MessagesRefused => "haulstream_edge_messages_refused_total",
            Metric::StateRows => "haulstream_edge_state_rows",
            Metric::StateBytes => "haulstream_edge_state_bytes",
        }
    }

    /// What the figure counts.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Metric::Connections => "WebSocket connections",
            Metric::Subscriptions => "subscriptions of all connections",
            Metric::MessagesSent => "messages sent to clients",
            Metric::BytesSent => "bytes of messages sent to clients",
            Metric::DeliverySeconds => "time from the newest append time in a delta to its write to the socket",
            Metric::DeltasMerged => "changes merged into a later one of the same vehicle before they were sent",
            Metric::Resnapshots => "deltas given up for a new snapshot",
            Metric::SlowClosed => "connections closed as they stayed slow",
            Metric::Closed => "connections closed by the server",
            Metric::Refused => "connections and requests refused",
            Metric::MessagesRefused => "messages of clients refused",
            Metric::StateRows => "vehicles in the current state",
            Metric::StateBytes => "bytes of the current state",
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Metric::BytesSent | Metric::StateBytes => Unit::Bytes,
            Metric::DeliverySeconds => Unit::Seconds,
            _ => Unit::Count,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Metric::DeliverySeconds => Kind::Histogram,
            Metric::Connections | Metric::Subscriptions | Metric::StateRows | Metric::StateBytes => Kind::Gauge,
            _ => Kind::Counter,
        }
    }
}

/// Tells the recorder unit and help of every figure; called once when the program starts.
pub fn describe() {
    for metric in Metric::ALL {
        match metric.kind() {
            Kind::Counter => describe_counter!(metric.name(), metric.unit(), metric.help()),
            Kind::Gauge => describe_gauge!(metric.name(), metric.unit(), metric.help()),
            Kind::Histogram => describe_histogram!(metric.name(), metric.unit(), metric.help()),
        }
    }
}

/// Counts one refusal of a connection or a request.
pub fn count_refused(code: &'static str) {
    counter!(Metric::Refused.name(), "code" => code).increment(1);
}

/// Counts one refused message of a client.
pub fn count_message_refused(code: &'static str) {
    counter!(Metric::MessagesRefused.name(), "code" => code).increment(1);
}

/// Counts one connection closed by the server.
pub fn count_closed(code: &'static str) {
    counter!(Metric::Closed.name(), "code" => code).increment(1);
}

/// What is counted for every message, looked up once.
pub struct Sent {
    messages: Counter,
    bytes: Counter,
}

impl Sent {
    fn new(kind: &'static str, channel: &'static str) -> Self {
        Self {
            messages: counter!(Metric::MessagesSent.name(), "type" => kind, "channel" => channel),
            bytes: counter!(Metric::BytesSent.name(), "type" => kind, "channel" => channel),
        }
    }

    /// Counts a message of this many bytes.
    pub fn count(&self, bytes: usize) {
        self.messages.increment(1);
        self.bytes.increment(bytes as u64);
    }
}

/// The figures of the hot paths, looked up once.
pub struct Figures {
    /// Connections.
    pub connections: Gauge,
    /// Subscriptions.
    pub subscriptions: Gauge,
    /// Snapshots over WebSocket.
    pub snapshot: Sent,
    /// Snapshots over HTTP.
    pub http_snapshot: Sent,
    /// Deltas.
    pub delta: Sent,
    /// All other messages.
    pub control: Sent,
    /// Delivery of deltas.
    pub delivery: Histogram,
    /// Merged changes.
    pub merged: Counter,
    /// Snapshots instead of deltas.
    pub resnapshots: Counter,
    /// Slow clients closed.
    pub slow_closed: Counter,
    /// Vehicles.
    pub state_rows: Gauge,
    /// Bytes of the state.
    pub state_bytes: Gauge,
}

impl Figures {
    /// Looks them up in the recorder that is installed.
    #[must_use]
    pub fn new(server_id: &str) -> Self {
        Self {
            connections: gauge!(Metric::Connections.name(), "server_id" => server_id.to_owned()),
            subscriptions: gauge!(Metric::Subscriptions.name()),
            snapshot: Sent::new("snapshot", "ws"),
            http_snapshot: Sent::new("snapshot", "http"),
            delta: Sent::new("delta", "ws"),
            control: Sent::new("control", "ws"),
            delivery: histogram!(Metric::DeliverySeconds.name()),
            merged: counter!(Metric::DeltasMerged.name()),
            resnapshots: counter!(Metric::Resnapshots.name()),
            slow_closed: counter!(Metric::SlowClosed.name()),
            state_rows: gauge!(Metric::StateRows.name()),
            state_bytes: gauge!(Metric::StateBytes.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_and_are_given_once() {
        let names: std::collections::BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(name.starts_with("haulstream_"), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(metric.kind(), Kind::Counter), "{name}");
        }
    }
}
