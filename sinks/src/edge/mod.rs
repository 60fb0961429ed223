//! The realtime edge: current state and live changes for browsers and programs, over HTTP and WebSocket, and the map page.
//! It is fed as a [`Sink`](crate::Sink) and is no source of truth: what it holds is what it was last told.
//!
//! Invariant: what a client has been sent, put together, is the current state under its filter as of some moment, and that
//! moment never goes back.
//!
//! ```text
//! steps -> EdgeSink -> Hub { CurrentState, open changes, ring } -> publications -> Subscription -> Outbox -> socket
//! ```

mod admission;
mod assets;
mod connection;
mod context;
mod encode;
mod filter;
mod hub;
mod message;
pub mod metrics;
mod options;
mod outbox;
mod patience;
mod publication;
mod routes;
mod selection;
mod server;
mod sink;
mod snapshot;
mod stall;
mod subscription;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;

use warp::filters::BoxedFilter;
use warp::reply::Response;

pub use message::STREAM;
pub use options::Options;
pub use routes::SUBPROTOCOL;
pub use server::{BindError, Server};
pub use sink::EdgeSink;

use crate::memory::{Layout, Pin, RowEncoder};
use context::Context;
use hub::Hub;

/// The edge.
#[derive(Clone)]
pub struct Edge(Arc<Context>);

impl Edge {
    /// An edge without vehicles, and the sink that feeds it. Made after the metrics recorder is installed.
    #[must_use]
    pub fn new(options: Options) -> (Edge, EdgeSink) {
        let encoder = RowEncoder::new(Layout::vehicle_state());
        let hub = Hub::new(&encoder, options.ring_rows_max);
        let context = Context::new(hub, options);
        (Edge(context.clone()), EdgeSink::new(context, encoder))
    }

    /// Listens on `addr` (port 0 takes a free one) for the edge's own routes and, after them, the `extra` ones. One server
    /// an edge: it is also what publishes the changes.
    ///
    /// # Errors
    /// The address is reachable from other machines without `allow_remote`, or cannot be had.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(&self, addr: SocketAddr, extra: BoxedFilter<(Response,)>) -> Result<Server, BindError> {
        Server::bind(self.0.clone(), addr, extra)
    }

    /// The current state, as of now.
    #[must_use]
    pub fn state(&self) -> Pin {
        self.0.hub.pin()
    }

    /// Rows of the current state, and the bytes that it takes.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        self.0.hub.size()
    }
}
