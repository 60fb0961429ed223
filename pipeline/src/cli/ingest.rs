//! `haulstream ingest`: an ingestion gate in a process of its own.

use clap::Args;

use super::{ConfigFile, Failure, asked_to_stop, block_on};
use crate::config::{Override, Source};

/// What `ingest` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(flatten)]
    file: ConfigFile,
    /// Address to listen on; goes before the file's `ingest.listen`.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

/// Runs until SIGINT or SIGTERM.
///
/// # Errors
/// A wrong configuration, or what the process failed with.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let listen = Override::text("--listen", "ingest.listen", arguments.listen.as_deref());
    let config = arguments.file.load([listen])?.config;
    if config.run.source != Source::Kafka {
        return Err(Failure::Usage(
            "ingest: a gate of its own writes to Kafka, and run.source is \"log\"\n  \
             = help: set run.source = \"kafka\", or use `haulstream run`, which takes telemetry in itself"
                .to_owned(),
        ));
    }
    block_on(&config.clone(), async {
        let stop = async {
            // A process that cannot hear signals must not run on for ever.
            let _ = asked_to_stop().await;
        };
        crate::ingest::serve(config, |addr| eprintln!("The gate: http://{addr}/v1/telemetry"), stop)
            .await
            .map_err(Failure::Runtime)
    })
}
