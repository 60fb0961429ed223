//! The dataflow itself: records, time, rows and operators. Nothing in this crate does I/O, reads a clock,
//! draws a random number or depends on hash order, so the same log always gives the same answer.

pub mod batch;
pub mod changes;
pub mod columns;
pub mod conflate;
pub mod connection;
pub mod counters;
pub mod deduplicate;
pub mod device_links;
pub mod devices;
pub mod distance;
pub mod durable;
pub mod enrich;
pub mod error;
pub mod exact_sum;
pub mod geofences;
pub mod history_file;
pub mod journeys;
pub mod key_text;
pub mod keyed;
pub mod latest;
pub mod link;
pub mod look_up_table;
pub mod newest;
pub mod pending;
#[cfg(test)]
mod random;
pub mod record;
pub mod row;
pub mod silence;
pub mod string_table;
pub mod time;
pub mod vehicle_state;
pub mod window;
