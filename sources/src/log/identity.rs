//! Which log it is: a number drawn when it was made, so that another one in its place is not taken for it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use crate::SourceError;

/// Name of the file.
const FILE: &str = "ID";
/// Digits of the number.
const DIGITS: usize = 32;

/// The number of the log in `directory`, which is drawn if there is none. Nobody else may have the log.
pub(super) fn identity(directory: &Path) -> Result<String, SourceError> {
    let path = directory.join(FILE);
    let fail = |why: std::io::Error| SourceError::Storage(format!("{}: {why}", path.display()));
    let mut known = String::new();
    match File::open(&path) {
        Ok(file) => drop(file.take(DIGITS as u64 + 2).read_to_string(&mut known).map_err(fail)?),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
        Err(why) => return Err(fail(why)),
    }
    let known = known.trim();
    if known.len() == DIGITS && known.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return Ok(known.to_owned());
    }
    let mut drawn = [0; DIGITS / 2];
    getrandom::fill(&mut drawn).map_err(|why| SourceError::Storage(format!("{}: {why}", path.display())))?;
    let drawn: String = drawn.iter().map(|byte| format!("{byte:02x}")).collect();
    // A file that was cut off by an end of the process names nothing: it is written over.
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).map_err(fail)?;
    writeln!(file, "{drawn}").and_then(|()| file.sync_all()).map_err(fail)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(fail)?;
    Ok(drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_keeps_its_number_and_another_has_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = identity(one.path()).unwrap();
        assert_eq!(identity(one.path()).unwrap(), first);
        assert_ne!(identity(other.path()).unwrap(), first);
        std::fs::write(one.path().join(FILE), "0123").unwrap();
        assert_ne!(identity(one.path()).unwrap(), first);
    }
}
