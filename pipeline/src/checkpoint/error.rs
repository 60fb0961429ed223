//! What can be wrong with a checkpoint, said with the place and what to do.

use std::fmt;
use std::io;

/// Why a checkpoint was not written, read or accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The storage did not do what it was asked for; trying again later may help.
    #[error("checkpoint: cannot {action} {path}: {why}")]
    Storage {
        /// What was tried, such as `write`.
        action: &'static str,
        /// Where.
        path: String,
        /// What the system said.
        why: io::Error,
    },
    /// Another process has the directory.
    #[error("checkpoint: {0}")]
    InUse(String),
    /// A file that is not as it was written.
    #[error("checkpoint: {0}")]
    Damaged(Damage),
    /// A file that nobody here wrote stands where one of ours should.
    #[error("checkpoint: {path} is not a checkpoint ({found})")]
    Foreign {
        /// Where.
        path: String,
        /// What is there instead.
        found: String,
    },
    /// A file of a newer program.
    #[error("checkpoint: {path}: made by v{made}, this build reads v{VERSION}; use the program that made it, or a newer one", VERSION = super::VERSION)]
    Version {
        /// Where.
        path: String,
        /// Version of its format.
        made: u32,
    },
    /// There are checkpoints, and none of them can be used.
    #[error("checkpoint: none of the checkpoints in {directory} is good, and nothing is begun without them:{}\n  \
             = help: import an exported checkpoint into an empty directory, or move this directory away to begin from the log",
            list(.damaged))]
    NoneGood {
        /// Where they are.
        directory: String,
        /// What is wrong with each, the newest first.
        damaged: Vec<String>,
    },
    /// There is no checkpoint of this number.
    #[error("checkpoint: there is no checkpoint {sequence} in {directory}")]
    Unknown {
        /// Where it was looked for.
        directory: String,
        /// Its number.
        sequence: u64,
    },
    /// What should be saved cannot be.
    #[error("checkpoint: {0}")]
    Unsaveable(String),
    /// Whom records were given to would not take them.
    #[error("checkpoint: {0}")]
    Refused(String),
}

fn list(damaged: &[String]) -> String {
    damaged.iter().map(|one| format!("\n  {one}")).collect()
}

/// Where a file is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: String,
    /// Offset in bytes of what is wrong.
    pub offset: u64,
    /// What is there, and what should be.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at byte {}: {}", self.path, self.offset, self.what)
    }
}

impl CheckpointError {
    pub(super) fn storage(action: &'static str, path: impl Into<String>, why: io::Error) -> Self {
        Self::Storage { action, path: path.into(), why }
    }

    pub(super) fn damaged(path: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged(Damage { path: path.to_owned(), offset, what: what.into() })
    }

    /// Whether an older checkpoint may be used instead. Not where somebody has to do something first: a newer program's
    /// checkpoint, or one that the process may not read.
    pub(super) fn allows_older(&self) -> bool {
        match self {
            Self::Damaged(_) | Self::Foreign { .. } => true,
            Self::Storage { why, .. } => why.kind() != io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }
}
