//! The edge over real sockets: what clients are told, what they are refused, and how they are sent away. Each family names
//! the mistake that it would catch at its top.
#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test is the failed test")]

#[path = "edge/clients.rs"]
mod clients;
#[path = "edge/fleet.rs"]
mod fleet;
#[path = "edge/http.rs"]
mod http;
#[path = "edge/limits.rs"]
mod limits;
#[path = "edge/server.rs"]
mod server;
#[path = "edge/slow.rs"]
mod slow;
#[path = "edge/state.rs"]
mod state;
