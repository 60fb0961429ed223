//! Figures of this crate. Names, units and meanings stand here and nowhere else; labels are of what was declared, none
//! is of the data.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::live::Status;

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
    /// Derived streams, by state.
    Streams,
    /// Rows of a derived stream's content.
    StreamRows,
    /// Rows that a derived stream keeps.
    StreamStateRows,
    /// Bytes that a derived stream keeps.
    StreamStateBytes,
    /// Share of a worker's time that a derived stream takes.
    StreamBusy,
    /// Derived streams that were suspended, by budget.
    Suspended,
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
            Metric::Streams => "haulstream_streams",
            Metric::StreamRows => "haulstream_stream_rows",
            Metric::StreamStateRows => "haulstream_stream_state_rows",
            Metric::StreamStateBytes => "haulstream_stream_state_bytes",
            Metric::StreamBusy => "haulstream_stream_busy_ratio",
            Metric::Suspended => "haulstream_streams_suspended_total",
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
            Metric::Streams => "Derived streams, by state (`running`, `building`, `suspended`, `named`).",
            Metric::StreamRows => "Rows of a derived stream's content, by stream; 0 for one that is gone.",
            Metric::StreamStateRows => "Rows that the operators of a derived stream keep, by stream.",
            Metric::StreamStateBytes => {
                "Bytes that a derived stream takes, by stream: what its operators keep, its content, changes on their way."
            }
            Metric::StreamBusy => "Share of the busiest worker's time that a derived stream took last, by stream.",
            Metric::Suspended => {
                "Derived streams that were suspended, by the budget (`rows`, `memory`, `time`, `input`)."
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
    for counts in [Metric::Streams, Metric::StreamRows, Metric::StreamStateRows] {
        describe_gauge!(counts.name(), Unit::Count, counts.help());
    }
    describe_gauge!(Metric::StreamStateBytes.name(), Unit::Bytes, Metric::StreamStateBytes.help());
    describe_gauge!(Metric::StreamBusy.name(), Unit::Count, Metric::StreamBusy.help());
    describe_counter!(Metric::Suspended.name(), Unit::Count, Metric::Suspended.help());
}

/// Tells how far a stream is that is built from the log, and counts rows of it.
pub(crate) fn past(percent: u64, rows: u64) {
    counter!(Metric::PastRows.name()).increment(rows);
    gauge!(Metric::PastPercent.name()).set(percent as f64);
}

/// Shows how derived streams do. `gone` are those that were shown before and are not there any more.
pub(crate) fn streams(all: &[Status], gone: &[String]) {
    for state in ["running", "building", "suspended", "named"] {
        let count = all.iter().filter(|stream| stream.state == state).count();
        gauge!(Metric::Streams.name(), "state" => state).set(count as f64);
    }
    let show = |name: &str, rows: f64, state_rows: f64, state_bytes: f64, busy: f64| {
        gauge!(Metric::StreamRows.name(), "stream" => name.to_owned()).set(rows);
        gauge!(Metric::StreamStateRows.name(), "stream" => name.to_owned()).set(state_rows);
        gauge!(Metric::StreamStateBytes.name(), "stream" => name.to_owned()).set(state_bytes);
        gauge!(Metric::StreamBusy.name(), "stream" => name.to_owned()).set(busy);
    };
    for one in all.iter().filter(|stream| stream.state != "named") {
        let rows = if one.state == "running" { one.rows as f64 } else { 0.0 };
        show(&one.name, rows, one.state_rows as f64, one.state_bytes as f64, one.busy_pct / 100.0);
    }
    gone.iter().for_each(|name| show(name, 0.0, 0.0, 0.0, 0.0));
}

/// Counts a stream that was suspended.
pub(crate) fn suspended(budget: &'static str) {
    counter!(Metric::Suspended.name(), "budget" => budget).increment(1);
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
