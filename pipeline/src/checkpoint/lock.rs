//! One process per directory: an advisory lock on a file that names its holder. The lock goes with the process, however it
//! ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use super::CheckpointError;

/// Name of the lock's file.
const FILE: &str = "LOCK";

/// Held for as long as checkpoints are written to the directory.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock of `directory`, which must exist.
    pub(super) fn take(directory: &Path) -> Result<Self, CheckpointError> {
        let path = directory.join(FILE);
        let fail = |why: std::io::Error| CheckpointError::storage("lock", path.display().to_string(), why);
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
                return Err(CheckpointError::InUse(format!(
                    "{} is in use by {holder}; stop it, or choose another directory",
                    directory.display()
                )));
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
