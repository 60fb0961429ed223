//! Reading live tables from outside: over the Postgres wire and over HTTP.
//!
//! Invariant: what is read comes through [`Reads`] as one reader sees it, so both interfaces have the same rights, limits and refusals.

pub mod http;
pub mod login;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use operators::error::Refusal;
use queries::Reads;
use queries::readers::Users;
use queries::reads::{Relations, wire};
use tracing::info;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::config;
use login::Gate;

/// Reads, served as long as this lives.
#[derive(Debug)]
pub struct Serving {
    reads: Arc<Reads>,
    gate: Gate,
    postgres: Option<wire::Server>,
}

/// Serves `relations`, and the history below a directory, to these users (to everybody if there are none), as configured: the
/// Postgres wire at its own address, HTTP by [`Serving::routes`].
///
/// # Errors
/// The address is taken or needs a password, or threads cannot be started.
pub fn serve(
    relations: Arc<dyn Relations>,
    history: Option<PathBuf>,
    options: &config::Reads,
    users: Arc<Users>,
) -> Result<Serving, Refusal> {
    let reads = Reads::new(relations, options.options.clone())?;
    let reads = Arc::new(match history {
        Some(directory) => reads.with_history(directory),
        None => reads,
    });
    let postgres = match options.postgres_listen.as_str() {
        "" => None,
        listen => {
            let unusable =
                || Refusal::new("reads_unusable", format!("reads.postgres_listen {listen} is not an address"));
            let addr: SocketAddr = listen.parse().map_err(|_| unusable())?;
            let server = wire::Server::listen(reads.clone(), users.clone(), addr, options.wire.clone())?;
            info!(addr = %server.addr(), "Postgres clients are served");
            Some(server)
        }
    };
    Ok(Serving { reads, gate: Gate::new(users), postgres })
}

impl Serving {
    /// Answers questions of the process itself.
    #[must_use]
    pub fn reads(&self) -> &Arc<Reads> {
        &self.reads
    }

    /// Where Postgres clients connect to.
    #[must_use]
    pub fn postgres(&self) -> Option<SocketAddr> {
        self.postgres.as_ref().map(wire::Server::addr)
    }

    /// The routes of HTTP.
    #[must_use]
    pub fn routes(&self) -> BoxedFilter<(Response,)> {
        http::routes(self.reads.clone(), &self.gate)
    }

    /// Tells who asks over HTTP.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}
