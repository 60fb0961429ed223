//! Which files hold a table's rows: `TABLE/date=YYYY-MM-DD/FROM-UPTO-WORKERofWORKERS.parquet`, as the sink writes them.
//!
//! Invariant: each row is in one of the files. A file whose ticks lie within another's of the same worker has been put
//! together with others into that one, and is left out.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use operators::error::Refusal;
use operators::history_file::{self, Name};

use crate::question::refuse;

/// First and last bytes of a Parquet file.
const MAGIC: [u8; 4] = *b"PAR1";
/// Directories below a table's own.
const DEPTH_MAX: usize = 4;
/// Files that one table may have.
const FILES_MAX: usize = 100_000;

/// The files of a table's directory that hold each row once. Each can be a Parquet file: a reader takes a file's last bytes
/// for a length, and is not asked to where these cannot be one.
///
/// # Errors
/// A directory that can't be read, a file that is not Parquet, or files that changed meanwhile.
pub fn current(directory: &Path) -> Result<Vec<PathBuf>, Refusal> {
    let look = || {
        let mut found = Vec::new();
        if directory.is_dir() {
            walk(directory, 0, &mut found)?;
        }
        Ok(found)
    };
    let found = look()?;
    // A directory that is read while files are put together may show neither the parts nor the whole.
    if found != look()? {
        return Err(refuse::changed());
    }
    found.iter().try_for_each(|path| match is_parquet(path) {
        Ok(true) => Ok(()),
        Ok(false) => Err(unreadable(path, &"it is not a Parquet file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(refuse::changed()),
        Err(e) => Err(unreadable(path, &e)),
    })?;
    Ok(found)
}

fn walk(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), Refusal> {
    if depth > DEPTH_MAX {
        return Err(unreadable(directory, &format!("directories are nested more than {DEPTH_MAX} deep")));
    }
    let mut names = Vec::new();
    for entry in directory.read_dir().map_err(|e| unreadable(directory, &e))? {
        let path = entry.map_err(|e| unreadable(directory, &e))?.path();
        if path.is_dir() {
            walk(&path, depth + 1, found)?;
        } else if let Some(name) = path.file_name().and_then(|name| Name::parse(name.to_str()?)) {
            names.push((name, path));
        }
        if found.len() + names.len() > FILES_MAX {
            return Err(unreadable(directory, &format!("there are more than {FILES_MAX} files")));
        }
    }
    found.extend(history_file::current(names, |(name, _)| *name).into_iter().map(|(_, path)| path));
    Ok(())
}

fn unreadable(path: &Path, why: &dyn fmt::Display) -> Refusal {
    refuse::unreadable(&format!("{}: {why}", path.display()))
}

/// Whether the file begins and ends as Parquet does, with a footer that fits between.
fn is_parquet(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length < 2 * MAGIC.len() as u64 + 4 {
        return Ok(false);
    }
    let (mut head, mut tail) = ([0; 4], [0; 8]);
    file.read_exact(&mut head)?;
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut tail)?;
    let footer = u32::from_le_bytes([tail[0], tail[1], tail[2], tail[3]]);
    Ok(head == MAGIC && tail[4..] == MAGIC && u64::from(footer) + 12 <= length)
}
