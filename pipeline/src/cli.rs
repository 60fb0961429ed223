//! The command line: what can be asked of the program, and the exit codes.
//!
//! Invariant: exit code 0 means that it was done, 1 that it failed on the way, 2 that the command line or the configuration
//! is wrong and nothing was begun. What a command answers goes to standard output, everything else to standard error.

mod check;
mod checkpoint;
mod history;
mod ingest;
mod reference;
mod run;
mod simulate;
mod sql;
mod topics;

use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, ConfigError, Loaded, Override};
use crate::logging;

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed on the way; 2 the command line or the configuration is wrong.
Any option of the configuration file: `haulstream check` prints all of them with their values.";

/// Live state, history and a map of a fleet from its raw streams.
#[derive(Debug, Parser)]
#[command(name = "haulstream", version, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; without it, `run`.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What `run` is told when it is left out.
    #[command(flatten)]
    pub run: run::Arguments,
}

/// What can be asked of the program.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process: log, dataflow, sinks, and the live map at the address of `edge.listen`.
    #[command(after_help = "\
Examples:
  haulstream run                              simulated vehicles on a map at http://127.0.0.1:8080
  haulstream run --listen 127.0.0.1:9000 --data /var/lib/haulstream
  haulstream run --config fleet.toml          Kafka, Redis, ClickHouse as configured")]
    Run(run::Arguments),
    /// Run an ingestion gate alone: telemetry comes in over HTTP and goes to Kafka.
    #[command(after_help = "\
Examples:
  haulstream ingest --config fleet.toml --listen 0.0.0.0:8081
  curl -H 'content-type: application/json' http://127.0.0.1:8081/v1/telemetry \\
       -d '{\"device_id\":\"d1\",\"ts\":1760000000000,\"lat\":52.5,\"lon\":13.4}'")]
    Ingest(ingest::Arguments),
    /// Send simulated vehicles, or recorded journeys, to Kafka, a gate or the embedded log; counts as JSON at the end.
    #[command(after_help = "\
Examples:
  haulstream simulate --to http --vehicles 100 --rate 100
  haulstream simulate --to kafka --config fleet.toml --rate 0 --count 1000000 --late-pct 1 --garbage-pct 0.1
  haulstream simulate --to log --data /var/lib/haulstream --duration 60
  haulstream simulate --to http --trace drive.gpx --speed 10
  haulstream simulate --to kafka --trace buses.csv --columns device=vehicle_id,time=timestamp,lat=latitude,lon=longitude")]
    Simulate(simulate::Arguments),
    /// Compare Kafka's topics with those of the configuration, and make them so.
    #[command(after_help = "\
Examples:
  haulstream topics plan --config fleet.toml     what would be done
  haulstream topics apply --config fleet.toml    do it: topics are made and grown, never shrunk or deleted")]
    Topics(topics::Arguments),
    /// Check the configuration: all mistakes with line and column, or `ok` and every option in force.
    #[command(after_help = "\
Examples:
  haulstream check                            every option with its default
  haulstream check --config fleet.toml        the mistakes in fleet.toml, or the options in force
  haulstream check --config fleet.toml --connect
                                              also whether its Kafka, Redis and ClickHouse answer")]
    Check(check::Arguments),
    /// Ask the Parquet history one question in SQL; without a question, list its tables.
    #[command(after_help = "\
Examples:
  haulstream history                          the tables and their columns
  haulstream history \"SELECT plate, max(speed_kmh) AS top FROM telemetry_history GROUP BY plate ORDER BY top DESC LIMIT 10\"
  haulstream history --format csv \"SELECT to_timestamp_millis(window_start) AS minute, * FROM company_minute\"
Only SELECT is answered. Memory, rows and time of a question are limited by the options of the section [history].")]
    History(history::Arguments),
    /// Checkpoints: list, show and check them, take one to another directory and bring it back.
    #[command(after_help = "\
Examples:
  haulstream checkpoint list                   the checkpoints of the data directory, the newest first
  haulstream checkpoint verify --data /var/lib/haulstream
  haulstream checkpoint export /backup/monday")]
    Checkpoint(checkpoint::Arguments),
    /// Derived streams in SQL: check, explain and test them, and show which reads which.
    #[command(after_help = "\
Examples:
  haulstream sql check queries/streams
  haulstream sql explain --physical overspeed
  haulstream sql test --update queries/tests/slt/overspeed.slt")]
    Sql(sql::Arguments),
    /// Write the generated pages of the reference.
    #[command(hide = true)]
    Reference(reference::Arguments),
}

/// The configuration file.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigFile {
    /// Configuration file (TOML). Without one everything is at its default.
    #[arg(long, value_name = "FILE", env = "HAULSTREAM_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl ConfigFile {
    /// The configuration in force, with what flags say over it. Warnings go to standard error.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, flags: impl IntoIterator<Item = Option<Override>>) -> Result<Loaded, Failure> {
        let loaded = config::load(self.config.as_deref(), flags.into_iter().flatten().collect())?;
        if !loaded.warnings.is_empty() {
            let _ = writeln!(std::io::stderr(), "{}\n", loaded.warnings);
        }
        Ok(loaded)
    }
}

/// Where options come from beside the defaults.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    #[command(flatten)]
    file: ConfigFile,
    /// Directory for the embedded log and history; goes before the file's `run.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Worker threads; goes before the file's `run.workers`.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    workers: Option<i64>,
}

impl Options {
    /// The configuration in force, with what these and other flags say over it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, other: Option<Override>) -> Result<Loaded, Failure> {
        let data = Override::text("--data", "run.data", self.data.as_deref());
        let workers = self.workers.map(|n| Override { key: "run.workers", flag: "--workers", value: n.into() });
        self.file.load([data, workers, other])
    }
}

impl Override {
    fn text(flag: &'static str, key: &'static str, value: Option<&str>) -> Option<Override> {
        value.map(|value| Override { key, flag, value: value.into() })
    }
}

/// Why a command was not done.
#[derive(Debug)]
pub enum Failure {
    /// The command line or the configuration is wrong; nothing was begun.
    Usage(String),
    /// It failed on the way.
    Runtime(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Failure::Usage(why) | Failure::Runtime(why)) = self;
        f.write_str(why)
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::Usage(error.to_string())
    }
}

impl Failure {
    fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Usage(_) => config::EXIT_CODE,
            Failure::Runtime(_) => 1,
        })
    }
}

/// Reads the command line and does what it asks for.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command.unwrap_or(Command::Run(cli.run)) {
        Command::Run(arguments) => run::run(&arguments),
        Command::Ingest(arguments) => ingest::run(&arguments),
        Command::Simulate(arguments) => simulate::run(&arguments),
        Command::Topics(arguments) => topics::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::History(arguments) => history::run(&arguments),
        Command::Checkpoint(arguments) => checkpoint::run(&arguments),
        Command::Sql(arguments) => sql::run(&arguments),
        Command::Reference(arguments) => reference::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "{failure}");
            failure.code()
        }
    }
}

/// Starts the log lines and a runtime, and drives `work` to its end.
fn block_on<T>(config: &config::Config, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    logging::start(&config.logging).map_err(|why| Failure::Usage(format!("logging.level: {why}")))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.map_err(|why| Failure::Runtime(format!("cannot start the runtime: {why}")))?.block_on(work)
}

/// Completes when the process is asked to stop: SIGINT (Ctrl-C) or SIGTERM.
async fn asked_to_stop() -> Result<(), Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).map_err(|why| Failure::Runtime(format!("cannot wait for signals: {why}")));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Prints an answer. A reader that has gone away (`| head`) ends the command, without complaint.
fn print(answer: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(answer.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Runtime(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
