//! The figures that sinks give out. A name is written here and nowhere else; labels are bounded (sink, stream, topic, code),
//! never a device or another key of the data.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Every figure of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Rows written, by sink and stream.
    Rows,
    /// Rows left out because a newer version of their key stood in the same step, by sink and stream.
    RowsConflated,
    /// Rows left out at a restart because the target showed to have them, by sink and stream.
    RowsKnown,
    /// Rows that the target did not take because it had the same or a newer version, by sink.
    RowsStale,
    /// Events of a derived stream that there was no room for while its sink was away, by sink.
    RowsMissed,
    /// Times that a derived stream was compared with its content and brought up to date, by sink.
    Resynchronised,
    /// Steps written, by sink and stream.
    Steps,
    /// Rows of a written step, by sink and stream.
    StepRows,
    /// Rows handed over and not yet written, by sink.
    QueueRows,
    /// Bytes of those rows, by sink.
    QueueBytes,
    /// Failed attempts, by sink and code (`unavailable`, `refused`).
    Errors,
    /// Attempts that repeated a failed one, by sink.
    Retries,
    /// Time that one successful write took, by sink.
    ApplySeconds,
    /// Every row of the stream before this time is written, by sink and stream; the least of all workers.
    DurableSeconds,
    /// Records that the broker acknowledged, by topic.
    KafkaRecords,
    /// Times that Redis was found without the data that it had.
    RedisEmptied,
    /// Parquet files made, by stream.
    ParquetFiles,
    /// Bytes of Parquet files that are kept, by stream.
    ParquetBytes,
    /// Bytes of Parquet files removed to keep within the limit, by stream.
    ParquetBytesRemoved,
}

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 19] = [
        Metric::Rows,
        Metric::RowsConflated,
        Metric::RowsKnown,
        Metric::RowsStale,
        Metric::RowsMissed,
        Metric::Resynchronised,
        Metric::Steps,
        Metric::StepRows,
        Metric::QueueRows,
        Metric::QueueBytes,
        Metric::Errors,
        Metric::Retries,
        Metric::ApplySeconds,
        Metric::DurableSeconds,
        Metric::KafkaRecords,
        Metric::RedisEmptied,
        Metric::ParquetFiles,
        Metric::ParquetBytes,
        Metric::ParquetBytesRemoved,
    ];

    /// Name under which the figure is published.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Rows => "haulstream_sink_rows_total",
            Metric::RowsConflated => "haulstream_sink_rows_conflated_total",
            Metric::RowsKnown => "haulstream_sink_rows_known_total",
            Metric::RowsStale => "haulstream_sink_rows_stale_total",
            Metric::RowsMissed => "haulstream_sink_rows_missed_total",
            Metric::Resynchronised => "haulstream_sink_resynchronised_total",
            Metric::Steps => "haulstream_sink_steps_total",
            Metric::StepRows => "haulstream_sink_step_rows",
            Metric::QueueRows => "haulstream_sink_queue_rows",
            Metric::QueueBytes => "haulstream_sink_queue_bytes",
            Metric::Errors => "haulstream_sink_errors_total",
            Metric::Retries => "haulstream_sink_retries_total",
            Metric::ApplySeconds => "haulstream_sink_apply_seconds",
            Metric::DurableSeconds => "haulstream_sink_durable_timestamp_seconds",
            Metric::KafkaRecords => "haulstream_sink_kafka_records_total",
            Metric::RedisEmptied => "haulstream_sink_redis_emptied_total",
            Metric::ParquetFiles => "haulstream_sink_parquet_files_total",
            Metric::ParquetBytes => "haulstream_sink_parquet_bytes",
            Metric::ParquetBytesRemoved => "haulstream_sink_parquet_bytes_removed_total",
        }
    }

    /// What the figure counts.
    #[must_use]
    pub const fn help(self) -> &'static str {
        match self {
            Metric::Rows => "rows written to the target",
            Metric::RowsConflated => "rows left out as a newer version of their key was in the same step",
            Metric::RowsKnown => "rows left out at a restart as the target had them",
            Metric::RowsStale => "rows that the target had in the same or a newer version",
            Metric::RowsMissed => "events of a derived stream that there was no room for while its sink was away",
            Metric::Resynchronised => "times that a derived stream was taken again from its content",
            Metric::Steps => "steps written to the target",
            Metric::StepRows => "rows of a written step",
            Metric::QueueRows => "rows handed over and not yet written",
            Metric::QueueBytes => "bytes of rows handed over and not yet written",
            Metric::Errors => "failed attempts to write",
            Metric::Retries => "attempts to write that repeated a failed one",
            Metric::ApplySeconds => "time of a successful write",
            Metric::DurableSeconds => "every row before this time is written",
            Metric::KafkaRecords => "records acknowledged by the broker",
            Metric::RedisEmptied => "times that Redis was found without the data that it had",
            Metric::ParquetFiles => "Parquet files made",
            Metric::ParquetBytes => "bytes of Parquet files kept",
            Metric::ParquetBytesRemoved => "bytes of Parquet files removed to keep within the limit",
        }
    }

    /// Unit of the figure.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Metric::QueueBytes | Metric::ParquetBytes | Metric::ParquetBytesRemoved => Unit::Bytes,
            Metric::ApplySeconds | Metric::DurableSeconds => Unit::Seconds,
            _ => Unit::Count,
        }
    }

    const fn kind(self) -> Kind {
        match self {
            Metric::StepRows | Metric::ApplySeconds => Kind::Histogram,
            Metric::QueueRows | Metric::QueueBytes | Metric::DurableSeconds | Metric::ParquetBytes => Kind::Gauge,
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
            assert!(name.starts_with("haulstream_sink_"), "{name}");
            assert_eq!(name.ends_with("_total"), matches!(metric.kind(), Kind::Counter), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        }
    }
}
