//! `haulstream run`, and `haulstream` alone: everything in one process, until it is asked to stop.

use clap::Args;

use super::{Failure, Options, block_on};
use crate::config::Override;

/// What `run` can be told.
#[derive(Args, Clone, Debug, Default)]
pub struct Arguments {
    #[command(flatten)]
    options: Options,
    /// Address of the edge and its map; goes before the file's `edge.listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// A wrong configuration, or what the process failed with.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let listen = Override::text("--listen", "edge.listen", arguments.listen.as_deref());
    let config = arguments.options.load(listen)?.config;
    block_on(&config.clone(), async {
        crate::run::run(config, |addr| eprintln!("The map: http://{addr}/")).await.map_err(Failure::Runtime)
    })
}
