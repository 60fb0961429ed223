//! Checkpoints in a directory: an object is written under a name of its own, made durable, and then given its name.
//!
//! Invariant: nobody else writes into the directory, which `lock` sees to; so a name that is free stays free until it is taken.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::Disk;
use super::storage::{Object, Storage, Upload};

/// Ending of names of what is not finished.
const UNFINISHED: &str = ".tmp";

/// A directory of checkpoints.
#[derive(Debug)]
pub(super) struct Directory<D> {
    root: PathBuf,
    disk: Arc<D>,
    /// Uploads that were begun.
    begun: AtomicU64,
}

impl<D: Disk> Directory<D> {
    /// One that is there, or is read as if it were empty.
    pub(super) fn new(root: &Path, disk: Arc<D>) -> Self {
        Self { root: root.to_owned(), disk, begun: AtomicU64::new(0) }
    }

    /// Makes the directory and its folders, durably.
    pub(super) fn make(root: &Path, folders: &[&str], disk: Arc<D>) -> io::Result<Self> {
        for folder in folders {
            disk.make_directory(&root.join(folder))?;
        }
        disk.sync_directory(root)?;
        if let Some(parent) = root.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            disk.sync_directory(parent)?;
        }
        Ok(Self::new(root, disk))
    }
}

impl<D: Disk> Storage for Directory<D> {
    fn place(&self, name: &str) -> String {
        if name.is_empty() { self.root.display().to_string() } else { self.root.join(name).display().to_string() }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Object>> {
        let mut objects = match self.disk.list(&self.root.join(folder)) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        objects.retain(|object| !object.name.ends_with(UNFINISHED));
        objects.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(objects)
    }

    fn open(&self, name: &str) -> io::Result<(u64, Box<dyn Read + Send>)> {
        self.disk.open(&self.root.join(name))
    }

    fn begin(&self, name: &str) -> io::Result<Box<dyn Upload>> {
        let path = self.root.join(name);
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.root.join(format!("{name}.{begun}{UNFINISHED}"));
        let file = self.disk.create(&unfinished)?;
        Ok(Box::new(Unfinished { disk: self.disk.clone(), path, unfinished, file: Some(file) }))
    }

    fn remove(&self, folder: &str, names: &[String]) -> io::Result<()> {
        let folder = self.root.join(folder);
        for name in names {
            match self.disk.remove(&folder.join(name)) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
        }
        if names.is_empty() { Ok(()) } else { self.disk.sync_directory(&folder) }
    }

    fn remove_unfinished(&self, folder: &str) -> io::Result<()> {
        let folder = self.root.join(folder);
        let left = self.disk.list(&folder)?.into_iter().filter(|object| object.name.ends_with(UNFINISHED));
        for object in left.filter(|object| object.bytes.is_some()) {
            self.disk.remove(&folder.join(object.name))?;
        }
        Ok(())
    }
}

/// A file that has not got its name yet.
struct Unfinished<D: Disk> {
    disk: Arc<D>,
    path: PathBuf,
    unfinished: PathBuf,
    /// None once it has its name.
    file: Option<D::File>,
}

impl<D: Disk> Unfinished<D> {
    fn file(&mut self) -> &mut D::File {
        self.file.as_mut().expect("it is finished once, and then gone")
    }
}

impl<D: Disk> Write for Unfinished<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file().flush()
    }
}

impl<D: Disk> Upload for Unfinished<D> {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        let disk = self.disk.clone();
        disk.sync(self.file())?;
        if disk.exists(&self.path)? {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something of this name is there already"));
        }
        disk.rename(&self.unfinished, &self.path)?;
        self.file = None;
        disk.sync_directory(self.path.parent().expect("it is in a folder"))
    }
}

impl<D: Disk> Drop for Unfinished<D> {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = self.disk.remove(&self.unfinished); // the next start takes away what stays
        }
    }
}
