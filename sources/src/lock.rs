//! One process per directory: an advisory lock on a file that names its holder. The lock goes with the process, however it
//! ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Name of the lock's file.
const FILE: &str = "LOCK";

/// Held for as long as the directory is used.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

/// Why a directory is not had.
#[derive(Debug, Error)]
pub enum NotTaken {
    /// Another process has it.
    #[error("{} is in use by {holder}; stop it, or choose another directory", .directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// Who has it, as far as it is known.
        holder: String,
    },
    /// The lock's file cannot be read or written.
    #[error("{}: {why}", .path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: std::io::Error,
    },
}

impl DirectoryLock {
    /// Takes the lock of `directory`, which must exist.
    ///
    /// # Errors
    /// Another process has it, or its file cannot be written.
    pub fn take(directory: &Path) -> Result<Self, NotTaken> {
        let path = directory.join(FILE);
        let fail = |why: std::io::Error| NotTaken::Failed { path: path.clone(), why };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(fail)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.read_to_string(&mut holder); // the name of the holder is only a help
                let holder = match holder.trim().parse::<u32>() {
                    Ok(pid) => format!("process {pid}"),
                    Err(_) => "another process".to_owned(),
                };
                return Err(NotTaken::InUse { directory: directory.to_owned(), holder });
            }
            Err(TryLockError::Error(why)) => return Err(fail(why)),
        }
        file.set_len(0).map_err(fail)?;
        file.rewind().map_err(fail)?;
        writeln!(file, "{}", std::process::id()).map_err(fail)?;
        Ok(Self { file })
    }
}

impl Drop for DirectoryLock {
    /// Closing the file is not enough: a process that is being started has it open too, until its own program begins.
    fn drop(&mut self) {
        let _ = self.file.unlock(); // it is closed next in any case
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let refused = DirectoryLock::take(directory.path()).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
