//! Reading live tables from outside: over the Postgres wire and over HTTP.
//!
//! Invariant: what is read comes through [`Reads`], so both interfaces have the same limits and refusals.

pub mod http;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use operators::error::Refusal;
use queries::Reads;
use queries::reads::{Relations, wire};
use tracing::info;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::config;

/// Reads, served as long as this lives.
#[derive(Debug)]
pub struct Serving {
    reads: Arc<Reads>,
    postgres: Option<wire::Server>,
}

/// Serves `relations`, and the history below a directory, as configured: the Postgres wire at its own address, HTTP by [`Serving::routes`].
///
/// # Errors
/// The address is taken or needs a password, or threads cannot be started.
pub fn serve(
    relations: Arc<dyn Relations>,
    history: Option<PathBuf>,
    options: &config::Reads,
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
            let server = wire::Server::listen(reads.clone(), addr, options.wire.clone())?;
            info!(addr = %server.addr(), "Postgres clients are served");
            Some(server)
        }
    };
    Ok(Serving { reads, postgres })
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
        http::routes(self.reads.clone())
    }
}
