//! The few operations on files that a directory of checkpoints is made of, so that tests can make each of them fail.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use super::storage::Object;

/// File operations, with the meaning that POSIX gives them.
pub(super) trait Disk: fmt::Debug + Send + Sync + 'static {
    /// A file being written.
    type File: Write + Send;

    /// Makes a directory and those above it.
    fn make_directory(&self, path: &Path) -> io::Result<()>;
    /// Makes a file that must not be there.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Makes what was written durable. A file whose synchronisation failed is given up: the next one might seem to succeed.
    fn sync(&self, file: &mut Self::File) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;
    /// Opens a file, with its length. What is no file is refused.
    fn open(&self, path: &Path) -> io::Result<(u64, Box<dyn Read + Send>)>;
    /// Whether there is anything of this name.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Gives a file another name, under which nothing may be.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// What is in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<Object>>;
}

/// The machine's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalDisk;

impl Disk for LocalDisk {
    type File = File;

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create_new(path)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open(&self, path: &Path) -> io::Result<(u64, Box<dyn Read + Send>)> {
        // Asked before it is opened: opening a pipe would wait for its writer.
        let about = fs::symlink_metadata(path)?;
        if !about.is_file() {
            let what = match () {
                () if about.is_dir() => "a directory",
                () if about.is_symlink() => "a symbolic link",
                () => "no file",
            };
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is {what}")));
        }
        let file = File::open(path)?;
        Ok((file.metadata()?.len(), Box::new(file)))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        match fs::symlink_metadata(path) {
            Ok(_) => Ok(true),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Object>> {
        let mut objects = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let about = fs::symlink_metadata(entry.path());
            let bytes = about.ok().filter(fs::Metadata::is_file).map(|about| about.len());
            objects.push(Object { name: entry.file_name().to_string_lossy().into_owned(), bytes });
        }
        Ok(objects)
    }
}
