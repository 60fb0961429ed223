//! The HTTP server: it accepts connections within limits, hands requests to the routes, and stops in order. Nothing that a
//! client does or leaves undone keeps a connection for ever.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Semaphore, watch};
use warp::filters::BoxedFilter;
use warp::hyper::server::conn::http1;
use warp::reply::Response;

use super::admission::Admission;
use super::connection::stopped;
use super::context::Context;
use super::routes::routes;
use super::stall::Stalling;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1_024;
/// Pause after an error of accept: it says that the process has run out of something.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A server that is bound to its address.
pub struct Server {
    context: Arc<Context>,
    listener: TcpListener,
    addr: SocketAddr,
    routes: BoxedFilter<(Response,)>,
    stop: watch::Sender<bool>,
}

/// Why the server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others could reach it.
    #[error(
        "{0} is reachable from other machines, and there are no rights yet: everyone would see every vehicle; \
         listen on 127.0.0.1, or set allow_remote = true for the edge behind something that checks who comes"
    )]
    Remote(SocketAddr),
    /// The address cannot be had.
    #[error("cannot listen on {addr}: {error}")]
    Address {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

impl Server {
    /// Binds to `addr`; port 0 takes a free one.
    pub(super) fn bind(
        context: Arc<Context>,
        addr: SocketAddr,
        extra: BoxedFilter<(Response,)>,
    ) -> Result<Self, BindError> {
        if !addr.ip().is_loopback() && !context.options.allow_remote {
            return Err(BindError::Remote(addr));
        }
        let listener = listen(addr, context.options.send_buffer_bytes);
        let bound = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
        let (addr, listener) = bound.map_err(|error| BindError::Address { addr, error })?;
        let (stop, stopping) = watch::channel(false);
        let admission = Admission::new(&context.options, addr.ip());
        let routes = routes(context.clone(), admission, extra, stopping);
        Ok(Self { context, listener, addr, routes, stop })
    }

    /// The address that it listens on.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until `shutdown`, then says `bye` to everyone and waits for them as long as the options allow.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let options = &self.context.options;
        let (gather, delta) = (Duration::from_millis(options.gather_ms), Duration::from_millis(options.delta_ms));
        let places = Arc::new(Semaphore::new(options.http_connections_max));
        tokio::select! {
            () = shutdown => {}
            () = self.accept(&places) => {}
            () = self.context.hub.publish_on(gather, delta * 4 / 5) => {}
        }
        let Self { context, listener, stop, .. } = self;
        let all = context.options.connections_max;
        let open = all - context.connections.available_permits();
        tracing::info!(connections = open, "the edge stops listening and says bye");
        drop(listener);
        stop.send_replace(true);
        let gone = async {
            for (places, all) in [(&places, context.options.http_connections_max), (&context.connections, all)] {
                // Acquired only to see that everyone has given theirs back.
                drop(places.acquire_many(u32::try_from(all).unwrap_or(u32::MAX)).await);
            }
        };
        let patience = Duration::from_millis(context.options.shutdown_ms_max);
        if tokio::time::timeout(patience, gone).await.is_err() {
            tracing::warn!("clients were still connected when the edge ended");
        }
    }

    /// Accepts connections for ever, while there are places for them.
    async fn accept(&self, places: &Arc<Semaphore>) {
        loop {
            let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let connection = serve(stream, self.context.clone(), self.routes.clone(), self.stop.subscribe());
                    tokio::spawn(async move {
                        connection.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Serves one TCP connection: HTTP/1.1 until it becomes a WebSocket.
async fn serve(
    stream: TcpStream,
    context: Arc<Context>,
    routes: BoxedFilter<(Response,)>,
    mut stop: watch::Receiver<bool>,
) {
    let options = &context.options;
    // Frames are small and each counts; waiting for more to send would only add delay.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Stalling::new(stream, Duration::from_millis(options.stall_ms_max)));
    let service = TowerToHyperService::new(warp::service(routes));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_millis(options.head_ms_max));
    let mut connection = std::pin::pin!(builder.serve_connection(io, service).with_upgrades());
    // What breaks a connection is the client's affair: the results tell nothing new.
    tokio::select! {
        _ = &mut connection => return,
        () = stopped(&mut stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

fn listen(addr: SocketAddr, send_buffer_bytes: u32) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it: what waits for a slow client waits with us, where it merges.
    socket.set_send_buffer_size(send_buffer_bytes)?;
    socket.bind(addr)?;
    socket.listen(BACKLOG)
}
