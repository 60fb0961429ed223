//! Figures of the workers and their operators. Names, units and meanings stand here and nowhere else.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use operators::counters::Counters;

use crate::worker::Progress;

/// A figure of this crate. All have the label `worker`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Telemetry rows taken in.
    Rows,
    /// Rows that operators hold.
    InFlight,
    /// Frontier of the outputs.
    Frontier,
    /// Events that operators took in.
    Events,
    /// Duplicates removed.
    Duplicates,
    /// Events of devices that no vehicle has.
    UnknownDevices,
    /// Events older than the state.
    Outdated,
    /// Events too late for their window.
    Late,
    /// Devices in state.
    Devices,
    /// Rows of the links table.
    Links,
    /// Windows open.
    Windows,
    /// Rows waiting for their tick to close.
    Waiting,
}

impl Metric {
    /// All figures.
    pub const ALL: [Metric; 12] = [
        Metric::Rows,
        Metric::InFlight,
        Metric::Frontier,
        Metric::Events,
        Metric::Duplicates,
        Metric::UnknownDevices,
        Metric::Outdated,
        Metric::Late,
        Metric::Devices,
        Metric::Links,
        Metric::Windows,
        Metric::Waiting,
    ];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Metric::Rows => "haulstream_worker_rows_total",
            Metric::InFlight => "haulstream_worker_in_flight_rows",
            Metric::Frontier => "haulstream_worker_frontier_seconds",
            Metric::Events => "haulstream_deduplicate_events_total",
            Metric::Duplicates => "haulstream_deduplicate_duplicates_total",
            Metric::UnknownDevices => "haulstream_enrich_unknown_devices_total",
            Metric::Outdated => "haulstream_vehicle_state_outdated_total",
            Metric::Late => "haulstream_window_late_total",
            Metric::Devices => "haulstream_deduplicate_devices",
            Metric::Links => "haulstream_links_rows",
            Metric::Windows => "haulstream_window_open",
            Metric::Waiting => "haulstream_waiting_rows",
        }
    }

    /// What it means.
    #[must_use]
    pub fn help(self) -> &'static str {
        match self {
            Metric::Rows => "Telemetry rows that the worker took in.",
            Metric::InFlight => "Rows taken in that operators still hold.",
            Metric::Frontier => "Tick before which the sinks' queues were handed everything, as time since the epoch.",
            Metric::Events => "Events that came to deduplication.",
            Metric::Duplicates => "Events removed because they came before.",
            Metric::UnknownDevices => "Events whose device no vehicle has.",
            Metric::Outdated => "Events older than the state that they would have changed.",
            Metric::Late => "Events that came after their window was sealed, or far ahead of it.",
            Metric::Devices => "Devices whose last events are remembered.",
            Metric::Links => "Vehicles that carry a device.",
            Metric::Windows => "Windows that can still be corrected.",
            Metric::Waiting => "Rows that wait for their tick to close.",
        }
    }

    fn is_counter(self) -> bool {
        self.name().ends_with("_total")
    }

    fn unit(self) -> Unit {
        if self == Metric::Frontier { Unit::Seconds } else { Unit::Count }
    }
}

/// A figure of the checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpointing {
    /// Checkpoints saved.
    Saved,
    /// Attempts that failed.
    Failures,
    /// Records written.
    Records,
    /// Bytes written.
    Bytes,
    /// Bytes of all files of the newest one.
    Size,
    /// The tick of the newest one.
    Tick,
    /// Time from its beginning to its end.
    Seconds,
}

impl Checkpointing {
    /// All figures.
    pub const ALL: [Checkpointing; 7] = [
        Checkpointing::Saved,
        Checkpointing::Failures,
        Checkpointing::Records,
        Checkpointing::Bytes,
        Checkpointing::Size,
        Checkpointing::Tick,
        Checkpointing::Seconds,
    ];

    /// The name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Checkpointing::Saved => "haulstream_checkpoint_saved_total",
            Checkpointing::Failures => "haulstream_checkpoint_failures_total",
            Checkpointing::Records => "haulstream_checkpoint_records_total",
            Checkpointing::Bytes => "haulstream_checkpoint_written_bytes_total",
            Checkpointing::Size => "haulstream_checkpoint_bytes",
            Checkpointing::Tick => "haulstream_checkpoint_timestamp_seconds",
            Checkpointing::Seconds => "haulstream_checkpoint_seconds",
        }
    }

    fn describe(self) {
        let name = self.name();
        match self {
            Checkpointing::Saved => describe_counter!(name, Unit::Count, "Checkpoints saved."),
            Checkpointing::Failures => {
                describe_counter!(name, Unit::Count, "Attempts to save one that failed; the next one has what it had.");
            }
            Checkpointing::Records => describe_counter!(name, Unit::Count, "Records written to checkpoints."),
            Checkpointing::Bytes => describe_counter!(name, Unit::Bytes, "Bytes written to checkpoints."),
            Checkpointing::Size => describe_gauge!(name, Unit::Bytes, "Bytes of all files of the newest checkpoint."),
            Checkpointing::Tick => {
                describe_gauge!(name, Unit::Seconds, "Tick of the newest checkpoint, as time since the epoch.");
            }
            Checkpointing::Seconds => {
                describe_histogram!(name, Unit::Seconds, "Time of a checkpoint, with the wait for the sinks.");
            }
        }
    }
}

/// Tells unit and help of every figure.
pub fn describe() {
    Checkpointing::ALL.into_iter().for_each(Checkpointing::describe);
    for metric in Metric::ALL {
        if metric.is_counter() {
            describe_counter!(metric.name(), metric.unit(), metric.help());
        } else {
            describe_gauge!(metric.name(), metric.unit(), metric.help());
        }
    }
}

/// Shows what one worker has counted.
pub fn report(worker: usize, counters: &Counters, progress: &Progress) {
    use std::sync::atomic::Ordering::Relaxed;
    let frontier_ms = progress.frontier.load(Relaxed);
    let values = [
        (Metric::Rows, progress.rows.load(Relaxed)),
        (Metric::InFlight, progress.in_flight_rows.load(Relaxed)),
        (Metric::Events, counters.events.get()),
        (Metric::Duplicates, counters.duplicates.get()),
        (Metric::UnknownDevices, counters.unknown_devices.get()),
        (Metric::Outdated, counters.outdated.get()),
        (Metric::Late, counters.late.get()),
        (Metric::Devices, counters.devices.get()),
        (Metric::Links, counters.links.get()),
        (Metric::Windows, counters.windows.get()),
        (Metric::Waiting, counters.waiting_rows.get()),
    ];
    let label = worker.to_string();
    for (metric, value) in values {
        if metric.is_counter() {
            counter!(metric.name(), "worker" => label.clone()).absolute(value);
        } else {
            gauge!(metric.name(), "worker" => label.clone()).set(value as f64);
        }
    }
    if frontier_ms != u64::MAX {
        gauge!(Metric::Frontier.name(), "worker" => label).set(frontier_ms as f64 / 1_000.0);
    }
}
