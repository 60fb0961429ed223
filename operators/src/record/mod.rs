//! The records that the streams carry: their columns as Arrow schemas, and builders that fill them. A schema here is the
//! one definition that sources decode into, operators compute on and sinks write out.

pub mod declared;
pub mod output;
mod places;
pub mod registry;
pub mod telemetry;

use std::fmt;

use declared::Declared;

/// The streams that a job reads. A stream is one topic of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Positions and measurements of the trackers: events.
    Telemetry,
    /// Changelog of vehicles, keyed by vehicle_id.
    Vehicle,
    /// Changelog of drivers, keyed by driver_id.
    Driver,
    /// Changelog of companies, keyed by company_id.
    Company,
    /// Changelog of tariffs, keyed by tariff_id.
    Tariff,
    /// A topic that a file of the schema declares.
    Declared(&'static Declared),
}

impl Stream {
    /// The streams of the main job, in the order in which the dataflow's inputs are built.
    pub const ALL: [Stream; 5] = [Stream::Telemetry, Stream::Vehicle, Stream::Driver, Stream::Company, Stream::Tariff];

    /// The topic's name; of the main job's streams unless configured otherwise.
    #[must_use]
    pub fn topic(self) -> &'static str {
        match self {
            Stream::Telemetry => "telemetry.raw",
            Stream::Vehicle => "vehicle.updated",
            Stream::Driver => "driver.updated",
            Stream::Company => "company.updated",
            Stream::Tariff => "tariff.updated",
            Stream::Declared(declared) => &declared.topic,
        }
    }

    /// Whether the stream is a changelog of a table rather than a sequence of events.
    #[must_use]
    pub fn is_table(self) -> bool {
        match self {
            Stream::Telemetry => false,
            Stream::Declared(declared) => declared.table,
            _ => true,
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.topic())
    }
}
