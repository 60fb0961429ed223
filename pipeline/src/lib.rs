//! The program: configuration, command line, and the wiring of sources, operators and sinks into one process.

pub mod admin;
pub mod barrier;
pub mod checkpoint;
pub mod cli;
pub mod config;
pub mod cut;
pub mod ingest;
pub mod job;
pub mod journal;
pub mod logging;
pub mod metrics;
pub mod origin;
mod pace;
pub mod reads;
pub mod reference;
pub mod replay;
pub mod resume;
pub mod run;
pub mod schema;
pub mod streams;
pub mod tables;
pub mod tap;
pub mod topology;
pub mod view_sinks;
pub mod watchdog;
pub mod worker;
