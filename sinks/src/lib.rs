//! Where rows go: Kafka, Redis, ClickHouse, Parquet, memory and the edge, each behind the one [`Sink`] contract of numbered
//! steps. A sink knows nothing of what the rows were computed from.

pub mod clickhouse;
pub mod edge;
pub mod json;
pub mod kafka;
pub mod memory;
pub mod metrics;
pub mod parquet;
pub mod redis;
pub mod run;
pub mod step;
pub mod view;

pub use run::{Feed, Options, Route, Running};
pub use step::{Rows, Sink, SinkError, Step};
