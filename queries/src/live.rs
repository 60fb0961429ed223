//! Derived streams on a running dataflow: added, replaced and dropped while it works, and kept to be read.
//!
//! Invariant: the dataflow waits for nobody here. Workers hand changes over and go on; who reads, reads what one thread keeps.

mod again;
mod backfill;
mod budget;
mod build;
mod change;
mod command;
mod engine;
mod export;
mod feed;
mod keep;
mod port;
mod relations;
mod send;
mod subscribe;
mod tap;
mod why;
mod worker;

pub use backfill::History;
pub use budget::Suspended;
pub use engine::{Engine, Options, Status, Watched};
pub use export::{export_declared, export_events, export_table};
pub use feed::{Cut, Feed, Past, Taps};
pub use keep::{Change, Content, Keeper};
pub use port::Ports;
pub use send::{Sending, Sent};
pub use tap::{TAP_BYTES_MAX, Tap, Tapped};
pub use why::{Asked, Check, Fault, Line, Read, Why};
pub use worker::Live;
