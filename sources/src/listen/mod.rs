//! Where trackers send to: the ingestion gate. What it accepts is on the log before it says so; it keeps nothing that
//! matters, and can die and come back anywhere.

mod answer;
mod body;
mod http;
mod items;
mod serve;

pub use http::{Gate, GateOptions, not_found, routes};
pub use serve::{ServeOptions, serve};

#[cfg(test)]
mod tests;
