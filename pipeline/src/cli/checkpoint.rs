//! `haulstream checkpoint`: the checkpoints of a data directory.
//!
//! Invariant: nothing is changed but by `import`, and by `export` in the directory that it names; all but `import` can be asked of
//! the directory of a process that runs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{ConfigFile, Failure, print};
use crate::checkpoint::{Archive, CheckpointError, Manifest, Options, Store};
use crate::config::{Config, Override};

/// What `checkpoint` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What can be done with checkpoints.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// List the checkpoints, the newest first: tick, files, records in them, bytes, when and by what they were made.
    #[command(after_help = "\
Examples:
  haulstream checkpoint list
  haulstream checkpoint list --data /var/lib/haulstream")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Show what a checkpoint says of itself, as JSON: positions in the log, ticks of the sinks, states, files.
    #[command(after_help = "\
Examples:
  haulstream checkpoint show                       the newest that is good
  haulstream checkpoint show 17 | jq .moment.positions")]
    Show {
        /// Number of the checkpoint; without it, the newest that is good.
        #[arg(value_name = "NUMBER")]
        sequence: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Read all of a checkpoint, or of each, and tell whether it is as it was written; exit code 1 if one is not.
    #[command(after_help = "\
Examples:
  haulstream checkpoint verify                     each of them
  haulstream checkpoint verify 17")]
    Verify {
        /// Number of the checkpoint; without it, each.
        #[arg(value_name = "NUMBER")]
        sequence: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Copy a checkpoint into a directory that has none.
    #[command(after_help = "\
Examples:
  haulstream checkpoint export /backup/monday      the newest that is good
  haulstream checkpoint export /backup/monday --sequence 17")]
    Export {
        /// Directory to copy to; made if it is missing.
        #[arg(value_name = "TO")]
        directory: PathBuf,
        /// Number of the checkpoint; without it, the newest that is good.
        #[arg(long, value_name = "NUMBER")]
        sequence: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// Make a checkpoint of another directory the newest here: the next start goes on from it. No process may be running here.
    #[command(after_help = "\
Examples:
  haulstream checkpoint import /backup/monday      the newest there that is good
  haulstream checkpoint import /backup/monday --sequence 17 --data /var/lib/haulstream")]
    Import {
        /// Directory with checkpoints.
        #[arg(value_name = "FROM")]
        directory: PathBuf,
        /// Number of the checkpoint there; without it, the newest that is good.
        #[arg(long, value_name = "NUMBER")]
        sequence: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
}

/// Whose checkpoints.
#[derive(Args, Clone, Debug)]
pub struct Place {
    #[command(flatten)]
    file: ConfigFile,
    /// Data directory of the process; goes before the file's `run.data`.
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
}

impl Place {
    fn config(&self) -> Result<Config, Failure> {
        Ok(self.file.load([Override::text("--data", "run.data", self.data.as_deref())])?.config)
    }

    fn archive(&self) -> Result<Archive, Failure> {
        Ok(Archive::open(&self.config()?.checkpoints()))
    }
}

impl From<CheckpointError> for Failure {
    fn from(why: CheckpointError) -> Self {
        match why {
            CheckpointError::Unknown { .. } => Failure::Usage(why.to_string()),
            _ => Failure::Runtime(why.to_string()),
        }
    }
}

/// Does what is asked for.
///
/// # Errors
/// A wrong configuration, no such checkpoint, or what is wrong with it.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::List { place } => list(&place.archive()?),
        Action::Show { sequence, place } => {
            let manifest = chosen(&place.archive()?, *sequence)?;
            let text = serde_json::to_string_pretty(&manifest);
            print(&(text.map_err(|why| Failure::Runtime(format!("cannot be shown: {why}")))? + "\n"))
        }
        Action::Verify { sequence, place } => verify(&place.archive()?, *sequence),
        Action::Export { directory, sequence, place } => {
            let from = place.archive()?;
            let exported = from.export(&chosen(&from, *sequence)?, directory)?;
            print(&format!("{} with {}\n", Archive::open(directory).place(), about(&exported)))
        }
        Action::Import { directory, sequence, place } => {
            let config = place.config()?;
            let from = Archive::open(directory);
            let manifest = chosen(&from, *sequence)?;
            let options = Options { keep: config.checkpoint.keep, compact_beside: false };
            let imported = Store::open(&config.checkpoints(), options)?.import(&from, &manifest)?;
            print(&format!("{} with {}\n", config.checkpoints().display(), about(&imported)))
        }
    }
}

/// The checkpoint of this number, or the newest that is good. What is wrong with newer ones goes to standard error.
fn chosen(archive: &Archive, sequence: Option<u64>) -> Result<Manifest, Failure> {
    if let Some(sequence) = sequence {
        return Ok(archive.manifest(sequence)?);
    }
    let newest = archive.newest()?;
    for why in newest.passed_over {
        let _ = writeln!(std::io::stderr(), "{why}");
    }
    newest.manifest.ok_or_else(|| none(archive))
}

fn none(archive: &Archive) -> Failure {
    Failure::Usage(format!("checkpoint: there are none in {}", archive.place()))
}

fn about(manifest: &Manifest) -> String {
    let Manifest { sequence, moment, files, .. } = manifest;
    format!("checkpoint {sequence} at tick {}: {} files, {} bytes", moment.tick, files.len(), manifest.bytes())
}

fn list(archive: &Archive) -> Result<(), Failure> {
    let all = archive.list()?;
    if all.is_empty() {
        return print(&format!("no checkpoints in {}\n", archive.place()));
    }
    let mut out = format!(
        "{:>10}  {:>14}  {:>5}  {:>12}  {:>14}  {:<20}  program\n",
        "checkpoint", "tick", "files", "records", "bytes", "made"
    );
    for listed in all {
        match listed.manifest {
            Ok(manifest) => {
                let records: u64 = manifest.files.iter().map(|file| file.records).sum();
                let made =
                    i64::try_from(manifest.created_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
                let made =
                    made.map_or_else(|| "unknown".to_owned(), |made| made.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
                let (tick, files, bytes) = (manifest.moment.tick, manifest.files.len(), manifest.bytes());
                let program = operators::error::excerpt(&manifest.program);
                let _ = writeln!(
                    out,
                    "{:>10}  {tick:>14}  {files:>5}  {records:>12}  {bytes:>14}  {made:<20}  {program}",
                    listed.sequence
                );
            }
            Err(why) => {
                let _ = writeln!(out, "{:>10}  {why}", listed.sequence);
            }
        }
    }
    print(&out)
}

fn verify(archive: &Archive, sequence: Option<u64>) -> Result<(), Failure> {
    let sequences = match sequence {
        Some(sequence) => {
            vec![archive.manifest(sequence).map(|manifest| manifest.sequence).or_else(|why| match why {
                CheckpointError::Unknown { .. } => Err(Failure::from(why)),
                _ => Ok(sequence),
            })?]
        }
        None => archive.list()?.iter().map(|listed| listed.sequence).collect(),
    };
    if sequences.is_empty() {
        return Err(none(archive));
    }
    let mut bad = 0;
    for sequence in &sequences {
        let verified = archive.manifest(*sequence).and_then(|manifest| archive.verify(&manifest));
        // The process that writes them takes old ones away meanwhile.
        if verified.is_err() && matches!(archive.manifest(*sequence), Err(CheckpointError::Unknown { .. })) {
            print(&format!("{sequence}: taken away meanwhile, as there are newer ones\n"))?;
            continue;
        }
        match verified {
            Ok(of) => print(&format!("{sequence}: good, {} records in {} bytes\n", of.records, of.bytes))?,
            Err(why) => {
                bad += 1;
                print(&format!("{sequence}: {why}\n"))?;
            }
        }
    }
    match bad {
        0 => Ok(()),
        _ => Err(Failure::Runtime(format!("checkpoint: {bad} of {} cannot be used", sequences.len()))),
    }
}
