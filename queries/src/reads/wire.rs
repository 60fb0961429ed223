//! Live tables over the Postgres wire: what `psql`, DBeaver and Grafana speak.
//!
//! Invariant: what comes over one connection, be it garbage, harms no other and not the process: its messages are small, its
//! answers limited, its panics caught, and it is given up when it stands still.

mod connection;
mod faults;
mod handlers;
mod limited;
mod login;
mod parameters;
mod said;
mod startup;
mod values;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use operators::connection::Secret;
use operators::error::Refusal;
use pgwire::api::ConnectionManager;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{error, warn};

use super::Reads;
use crate::metrics::{self, Connected};
use crate::question::Threads;
use crate::readers::Users;

/// Version of Postgres whose clients we answer. They ask in the SQL of the server's version.
const POSTGRES: &str = "15.0";
/// Connections beyond the limit that are told so; and which can still cancel a question.
const TURNED_AWAY_MAX: usize = 16;
/// Wait after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What clients ask about the server, and what it is set to. Setting it to something else is taken and changes nothing.
pub(super) const SETTINGS: [(&str, &str); 17] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, YMD"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("intervalstyle", "postgres"),
    ("max_identifier_length", "63"),
    ("search_path", "public, haulstream"),
    ("server_encoding", "UTF8"),
    ("server_version", POSTGRES),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "Etc/UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
];

/// What `version()` says.
pub(super) fn version() -> String {
    format!("PostgreSQL {POSTGRES} (Haulstream {})", env!("CARGO_PKG_VERSION"))
}

/// What clients may take.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    /// Password of everybody where there are no users; empty if none is asked for, which only this machine may then reach.
    pub password: Secret,
    /// Connections at a time.
    pub connections_max: usize,
    /// Milliseconds until a client has told who it is.
    pub startup_ms_max: u64,
    /// Milliseconds without a message after which a connection is closed.
    pub idle_ms_max: u64,
    /// Milliseconds without any progress of a write after which a connection is given up.
    pub stall_ms_max: u64,
}

/// Whether clients may come at this address: others than this machine's have to be asked for a password.
///
/// # Errors
/// Why not.
pub fn may_listen(addr: SocketAddr, asked: bool) -> Result<(), Refusal> {
    if addr.ip().is_loopback() || asked {
        return Ok(());
    }
    let message = format!("{addr} is reached by other machines, and without a password all could read everything");
    Err(Refusal::new("reads_reachable", message).hint("listen on 127.0.0.1, or configure users"))
}

/// Takes in clients as long as it lives.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    /// Its own, of one thread: clients are heard while questions are computed.
    _threads: Threads,
}

impl Server {
    /// Listens at `addr`, for these users, or for everybody if there are none.
    ///
    /// # Errors
    /// The address is not free, or needs a password.
    pub fn listen(reads: Arc<Reads>, users: Arc<Users>, addr: SocketAddr, options: Options) -> Result<Server, Refusal> {
        may_listen(addr, !users.is_empty() || !options.password.is_empty())?;
        let unusable = |why: std::io::Error| {
            Refusal::new("reads_unusable", format!("cannot listen on {addr}: {why}"))
                .hint("is another instance running? choose another port")
        };
        let listener = std::net::TcpListener::bind(addr).map_err(unusable)?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let addr = listener.local_addr().map_err(unusable)?;
        let threads = Threads::start("reads-wire", 1).map_err(unusable)?;
        let entered = threads.handle().enter();
        let listener = TcpListener::from_std(listener).map_err(unusable)?;
        drop(entered);
        let door = Door {
            reads,
            users,
            places: Arc::new(Semaphore::new(options.connections_max)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_MAX)),
            manager: Arc::new(ConnectionManager::new()),
            options: Arc::new(options),
        };
        threads.handle().spawn(door.take_in(listener));
        Ok(Server { addr, _threads: threads })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Decides who comes in.
struct Door {
    reads: Arc<Reads>,
    users: Arc<Users>,
    places: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    manager: Arc<ConnectionManager>,
    options: Arc<Options>,
}

impl Door {
    async fn take_in(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => self.open(socket, peer),
                Err(why) => {
                    warn!(%why, "cannot accept a connection of the Postgres wire");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn open(&self, socket: TcpStream, peer: SocketAddr) {
        let place = self.places.clone().try_acquire_owned().ok();
        let admitted = place.is_some();
        let Some(permit) = place.or_else(|| self.turned_away.clone().try_acquire_owned().ok()) else {
            metrics::closed("limit");
            return;
        };
        let guest = connection::Guest {
            reads: self.reads.clone(),
            users: self.users.clone(),
            manager: self.manager.clone(),
            options: self.options.clone(),
            peer,
            admitted,
        };
        tokio::spawn(attend(socket, guest, permit));
    }
}

/// Serves one connection to its end, also to a bad one.
async fn attend(socket: TcpStream, guest: connection::Guest, permit: OwnedSemaphorePermit) {
    let (peer, _connected) = (guest.peer, Connected::new());
    let ended = tokio::spawn(connection::serve(socket, guest)).await;
    drop(permit);
    match ended {
        Ok(None) => {}
        Ok(Some(reason)) => metrics::closed(reason),
        Err(why) => {
            metrics::closed("fault");
            error!(%peer, %why, "a connection of the Postgres wire ended abruptly");
        }
    }
}
