//! The one binary of all integration tests: real servers, real sockets, real files.
//!
//! Invariant: every test passes alone, with all others beside it and in any order.

mod access;
mod backfill;
mod bad_records;
mod budgets;
mod cli;
mod clickhouse_sink;
mod config;
mod demo;
mod embedded;
mod faults;
mod fleet_streams;
mod history_reads;
mod installation;
mod kafka_flights;
mod kafka_publish;
mod kafka_sink;
mod kafka_source;
mod live_client;
mod main_job;
mod own_topics;
mod production;
mod program;
mod reads;
mod redis_sink;
mod reference;
mod restart;
mod rows;
mod service_smoke;
mod services;
mod sql;
mod streams;
mod tidy;
mod traces;
mod view_sinks;
mod why;
