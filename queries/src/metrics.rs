//! Figures of this crate. Names, units and meanings stand here and nowhere else; no label is of the data.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Every figure of this crate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Questions to live tables, by interface and outcome.
    Questions,
    /// Time that they took, by interface.
    Seconds,
    /// Connections of the Postgres wire.
    Connections,
    /// Connections that were refused or given up, by reason.
    Closed,
    /// Rows of the log read again.
    PastRows,
    /// How much of the stream that is built from the log is.
    PastPercent,
}

/// Where a question came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interface {
    /// The Postgres wire.
    Postgres,
    /// HTTP.
    Http,
    /// This process.
    Process,
}

impl Interface {
    fn name(self) -> &'static str {
        match self {
            Interface::Postgres => "postgres",
            Interface::Http => "http",
            Interface::Process => "process",
        }
    }
}

impl Metric {
    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Metric::Questions => "haulstream_reads_questions_total",
            Metric::Seconds => "haulstream_reads_seconds",
            Metric::Connections => "haulstream_reads_connections",
            Metric::Closed => "haulstream_reads_connections_closed_total",
            Metric::PastRows => "haulstream_streams_build_rows_total",
            Metric::PastPercent => "haulstream_streams_build_percent",
        }
    }

    /// What it means.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Metric::Questions => "Questions to live tables, by interface and outcome (`answered`, or an error code).",
            Metric::Seconds => "Time from a question to its answer, waiting for its turn included, by interface.",
            Metric::Connections => "Connections of the Postgres wire that are open.",
            Metric::PastRows => "Messages read again from the log for streams that were added.",
            Metric::PastPercent => {
                "How much is built of the stream that the log is read again for, in hundredths of the log's time."
            }
            Metric::Closed => {
                "Connections of the Postgres wire that we ended, by reason (`limit`, `idle`, `stalled`, `broken`, `fault`)."
            }
        }
    }
}

/// Tells unit and help of every figure.
pub fn describe() {
    describe_counter!(Metric::Questions.name(), Unit::Count, Metric::Questions.help());
    describe_histogram!(Metric::Seconds.name(), Unit::Seconds, Metric::Seconds.help());
    describe_gauge!(Metric::Connections.name(), Unit::Count, Metric::Connections.help());
    describe_counter!(Metric::Closed.name(), Unit::Count, Metric::Closed.help());
    describe_counter!(Metric::PastRows.name(), Unit::Count, Metric::PastRows.help());
    describe_gauge!(Metric::PastPercent.name(), Unit::Percent, Metric::PastPercent.help());
}

/// Tells how far a stream is that is built from the log, and counts rows of it.
pub(crate) fn past(percent: u64, rows: u64) {
    counter!(Metric::PastRows.name()).increment(rows);
    gauge!(Metric::PastPercent.name()).set(percent as f64);
}

/// Counts a question.
pub(crate) fn question(interface: Interface, outcome: &'static str, took: Duration) {
    counter!(Metric::Questions.name(), "interface" => interface.name(), "outcome" => outcome).increment(1);
    histogram!(Metric::Seconds.name(), "interface" => interface.name()).record(took.as_secs_f64());
}

/// Counts a connection of the Postgres wire as long as it is kept.
#[derive(Debug)]
pub(crate) struct Connected(());

impl Connected {
    /// From now on.
    pub fn new() -> Connected {
        gauge!(Metric::Connections.name()).increment(1);
        Connected(())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        gauge!(Metric::Connections.name()).decrement(1);
    }
}

/// Counts a connection that we ended.
pub(crate) fn closed(reason: &'static str) {
    counter!(Metric::Closed.name(), "reason" => reason).increment(1);
}
