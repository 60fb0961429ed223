//! The figures that sources give out. A name is written here and nowhere else; labels are bounded (topic, partition, stream,
//! code), never a device or another key of the data.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Every figure of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Metric {
    /// Records read, by topic.
    Records,
    /// Bytes of their keys and values, by topic.
    Bytes,
    /// Records refused, by topic and code.
    Rejected,
    /// Share of a partition's records that were refused in the last second with any, by topic and partition.
    RefusedShare,
    /// Records that did not get the tick of their own append time, by topic and code.
    TimeExceptions,
    /// Rows of a batch handed to the worker, by stream.
    BatchRows,
    /// Records of a partition that are in the log and not read, by topic and partition.
    Lag,
    /// How far a stream's frontier is behind the clock, by stream; the slowest reader's where there are several.
    FrontierDelay,
    /// Time that a reader waited for its worker.
    OutletWait,
    /// Bytes handed over and not yet taken by the worker.
    OutletBytes,
    /// Errors of a source that did not end it, by code.
    Errors,
    /// Requests to the ingestion gate, by code (`accepted`, or that of the error).
    HttpRequests,
    /// Messages that the gate has accepted.
    HttpAccepted,
    /// Messages of otherwise good requests that the gate has refused, by code.
    HttpRejected,
    /// Open connections.
    HttpConnections,
    /// Records that the embedded log has made durable.
    LogRecords,
    /// Time of a commit of the embedded log, with its sync.
    LogCommit,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 17] = [
        Metric::Records,
        Metric::Bytes,
        Metric::Rejected,
        Metric::RefusedShare,
        Metric::TimeExceptions,
        Metric::BatchRows,
        Metric::Lag,
        Metric::FrontierDelay,
        Metric::OutletWait,
        Metric::OutletBytes,
        Metric::Errors,
        Metric::HttpRequests,
        Metric::HttpAccepted,
        Metric::HttpRejected,
        Metric::HttpConnections,
        Metric::LogRecords,
        Metric::LogCommit,
    ];

    /// Name under which the figure is published.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Records => "haulstream_source_records_total",
            Metric::Bytes => "haulstream_source_bytes_total",
            Metric::Rejected => "haulstream_source_rejected_total",
            Metric::RefusedShare => "haulstream_source_refused_share",
            Metric::TimeExceptions => "haulstream_source_time_exceptions_total",
            Metric::BatchRows => "haulstream_source_batch_rows",
            Metric::Lag => "haulstream_source_lag_records",
            Metric::FrontierDelay => "haulstream_source_frontier_delay_seconds",
            Metric::OutletWait => "haulstream_source_outlet_wait_seconds_total",
            Metric::OutletBytes => "haulstream_source_outlet_bytes",
            Metric::Errors => "haulstream_source_errors_total",
            Metric::HttpRequests => "haulstream_source_http_requests_total",
            Metric::HttpAccepted => "haulstream_source_http_accepted_total",
            Metric::HttpRejected => "haulstream_source_http_rejected_total",
            Metric::HttpConnections => "haulstream_source_http_connections",
            Metric::LogRecords => "haulstream_source_log_records_total",
            Metric::LogCommit => "haulstream_source_log_commit_seconds",
        }
    }

    /// What the figure counts.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Metric::Records => "records read",
            Metric::Bytes => "bytes of keys and values read",
            Metric::Rejected => "records refused, each of them a dead letter",
            Metric::RefusedShare => {
                "share of a partition's records that were refused in the last second with any, 0 to 1"
            }
            Metric::TimeExceptions => "records that did not get the tick of their own append time",
            Metric::BatchRows => "rows of a batch handed to the worker",
            Metric::Lag => "records in the log that are not read",
            Metric::FrontierDelay => "how far a stream's frontier is behind the clock",
            Metric::OutletWait => "time that readers waited for their workers",
            Metric::OutletBytes => "bytes handed over and not yet taken by the worker",
            Metric::Errors => "errors that did not end the source",
            Metric::HttpRequests => "requests to the ingestion gate",
            Metric::HttpAccepted => "messages that the gate has accepted",
            Metric::HttpRejected => "messages of otherwise good requests that the gate has refused",
            Metric::HttpConnections => "open connections",
            Metric::LogRecords => "records that the embedded log has made durable",
            Metric::LogCommit => "time of a commit of the embedded log, with its sync",
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Metric::Bytes | Metric::OutletBytes => Unit::Bytes,
            Metric::FrontierDelay | Metric::OutletWait | Metric::LogCommit => Unit::Seconds,
            _ => Unit::Count,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Metric::BatchRows | Metric::LogCommit => Kind::Histogram,
            Metric::RefusedShare
            | Metric::Lag
            | Metric::FrontierDelay
            | Metric::OutletBytes
            | Metric::HttpConnections => Kind::Gauge,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_and_are_given_once() {
        let names: std::collections::BTreeSet<_> = Metric::ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), Metric::ALL.len());
        for metric in Metric::ALL {
            let name = metric.name();
            assert!(name.starts_with("haulstream_source_"), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(metric.kind(), Kind::Counter), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        }
    }
}
