//! Where rows come from: Kafka, the embedded log, HTTP, the simulator and trace files. A source decodes what it reads into
//! Arrow batches and tells how far its stream is complete; it knows nothing of what is computed from the rows.

pub mod codec;
pub mod delivery;
pub mod kafka;
pub mod listen;
pub mod lock;
pub mod log;
pub mod metrics;
pub mod publish;
pub mod reader;
pub mod simulator;
pub mod trace;

pub use delivery::{Cursor, Delivery, Outlet, SourceError};
