//! Serves filters over HTTP/1.1 with the limits that warp's own server does not have: connections, the time for a request's
//! head, the size of the head. Ends gracefully: requests under way are answered.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics::gauge;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tracing::{debug, warn};
use warp::Filter;
use warp::reply::Reply;

use crate::metrics::Metric;

/// Pause after the system refused to accept a connection, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;

/// Limits of a server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServeOptions {
    /// Connections at a time; more wait to be accepted.
    pub connections_max: usize,
    /// Milliseconds for the head of a request to arrive, and for a connection to stay idle; then it is closed.
    pub head_ms_max: u64,
    /// Bytes of a request's head, at least 8,192.
    pub head_bytes_max: usize,
    /// Header fields of a request.
    pub head_fields_max: usize,
    /// Milliseconds for requests under way when the server is stopped.
    pub stop_ms_max: u64,
}

/// Serves `filter` on `listener` until `stop` completes and what is under way is answered. WebSocket upgrades work.
pub async fn serve<F>(listener: TcpListener, filter: F, options: ServeOptions, stop: impl Future<Output = ()>)
where
    F: Filter<Error = Infallible> + Clone + Send + Sync + 'static,
    F::Extract: Reply,
{
    let service = TowerToHyperService::new(warp::service(filter));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(options.head_ms_max))
        .max_buf_size(options.head_bytes_max.max(8_192))
        .max_headers(options.head_fields_max);
    let slots = Arc::new(Semaphore::new(options.connections_max));
    let (stopping, stopped) = watch::channel(false);
    let mut stop = std::pin::pin!(stop);
    loop {
        let slot = tokio::select! {
            () = &mut stop => break,
            slot = slots.clone().acquire_owned() => slot.expect("the semaphore is never closed"),
        };
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(why) => {
                    warn!(%why, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            },
        };
        let _ = stream.set_nodelay(true); // only a matter of speed
        let connection = http.serve_connection(TokioIo::new(stream), service.clone()).with_upgrades();
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            gauge!(Metric::HttpConnections.name()).increment(1);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = &mut connection => ended,
                _ = stopped.changed() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(why) = ended {
                debug!(%why, "a connection broke");
            }
            gauge!(Metric::HttpConnections.name()).decrement(1);
            drop(slot);
        });
    }
    drop(listener);
    let _ = stopping.send(true); // without a connection nobody listens
    let all = u32::try_from(options.connections_max).unwrap_or(u32::MAX);
    let idle = tokio::time::timeout(Duration::from_millis(options.stop_ms_max), slots.acquire_many(all)).await;
    if idle.is_err() {
        warn!("requests were still under way when the server stopped");
    }
}
