//! Reading checkpoints: listing, checking and loading them, also those of a process that runs.
//!
//! Invariant: nothing is written, no lock is taken.

use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;

use super::changes::Record;
use super::directory::Directory;
use super::disk::LocalDisk;
use super::file::{self, FileRun};
use super::manifest::{MANIFEST_BYTES_MAX, Manifest, manifest_name, manifest_sequence};
use super::merge::Merge;
use super::recovery::{self, Newest};
use super::storage::{Object, Storage};
use super::{CheckpointError, DataFile};

/// Folder of the files with records.
pub(super) const FILES: &str = "files";
/// Folder of the manifests.
pub(super) const MANIFESTS: &str = "manifests";
/// Folder in which each start of the program leaves its number.
pub(super) const OWNERS: &str = "owners";

/// A directory of checkpoints, to be read.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) storage: Arc<dyn Storage>,
}

/// What a directory of checkpoints has under the name of one.
#[derive(Debug)]
pub struct Listed {
    /// Its number.
    pub sequence: u64,
    /// What it says of itself, or what is wrong with that. Its files are another matter: see [`Archive::verify`].
    pub manifest: Result<Manifest, CheckpointError>,
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Records that are in the checkpoint.
    pub records: u64,
    /// Records that were read for it: also those that newer ones replace, and deletes.
    pub read: u64,
    /// Bytes of its files.
    pub bytes: u64,
}

impl Archive {
    /// Opens the directory; one that is not there is read as an empty one.
    #[must_use]
    pub fn open(directory: &Path) -> Self {
        Self { storage: Arc::new(Directory::new(directory, Arc::new(LocalDisk))) }
    }

    /// Where it is.
    #[must_use]
    pub fn place(&self) -> String {
        self.storage.place("")
    }

    /// All checkpoints, the newest first.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, CheckpointError> {
        let sequences = self.sequences()?.into_iter().rev();
        Ok(sequences.map(|sequence| Listed { sequence, manifest: self.manifest(sequence) }).collect())
    }

    /// What checkpoint `sequence` says of itself.
    ///
    /// # Errors
    /// There is none, it is damaged, or of a newer program.
    pub fn manifest(&self, sequence: u64) -> Result<Manifest, CheckpointError> {
        let name = format!("{MANIFESTS}/{}", manifest_name(sequence));
        let path = self.storage.place(&name);
        let (bytes, input) = match self.storage.open(&name) {
            Ok(opened) => opened,
            Err(why) if why.kind() == io::ErrorKind::NotFound => {
                return Err(CheckpointError::Unknown { directory: self.place(), sequence });
            }
            Err(why) if why.kind() == io::ErrorKind::InvalidData => {
                return Err(CheckpointError::Foreign { path, found: why.to_string() });
            }
            Err(why) => return Err(CheckpointError::storage("read", path, why)),
        };
        if bytes > MANIFEST_BYTES_MAX {
            let what = format!("a manifest of {bytes} bytes, {MANIFEST_BYTES_MAX} at most");
            return Err(CheckpointError::damaged(&path, MANIFEST_BYTES_MAX, what));
        }
        let mut text = Vec::new();
        let read = input.take(MANIFEST_BYTES_MAX).read_to_end(&mut text);
        read.map_err(|why| CheckpointError::storage("read", &path, why))?;
        Manifest::from_text(&path, sequence, &text)
    }

    /// The newest checkpoint whose manifest and files are as they were written, and what is wrong with those newer than it.
    ///
    /// # Errors
    /// There are checkpoints and none is good, or one is of a newer program, or the process may not read them.
    pub fn newest(&self) -> Result<Newest, CheckpointError> {
        recovery::newest(self)
    }

    /// Gives each record of the checkpoint once, with its newest value, in order of node and key; those that were deleted are left
    /// out. Takes the memory of a block (about 128 KiB) for each file.
    ///
    /// # Errors
    /// A file is not as it was written, or `each` refused a record. What was given until then is not to be used.
    pub fn load(
        &self,
        manifest: &Manifest,
        mut each: impl FnMut(&Record<'_>) -> Result<(), String>,
    ) -> Result<Verified, CheckpointError> {
        let living = manifest.living();
        let runs: Result<Vec<FileRun>, _> = manifest.files.iter().map(|file| self.run(file)).collect();
        let to: Vec<u64> = manifest.files.iter().map(|file| file.to).collect();
        let mut merge = Merge::new(runs?);
        let mut records = 0;
        while let Some((run, record)) = merge.next()? {
            if record.value.is_some() && living.counts(record.node, to[run]) {
                each(&record).map_err(CheckpointError::Refused)?;
                records += 1;
            }
        }
        let read = manifest.files.iter().map(|file| file.records).sum();
        Ok(Verified { records, read, bytes: manifest.bytes() })
    }

    /// Reads all of a checkpoint.
    ///
    /// # Errors
    /// A file is not as it was written.
    pub fn verify(&self, manifest: &Manifest) -> Result<Verified, CheckpointError> {
        self.load(manifest, |_| Ok(()))
    }

    /// Compares the files of a checkpoint with their checksums: as sure as [`Archive::verify`] of what is stored, and faster.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<(), CheckpointError> {
        manifest.files.iter().try_for_each(|file| file::check(&*self.storage, FILES, file))
    }

    pub(super) fn run(&self, file: &DataFile) -> Result<FileRun, CheckpointError> {
        FileRun::open(&*self.storage, FILES, file)
    }

    /// Numbers of all checkpoints, ascending.
    pub(super) fn sequences(&self) -> Result<Vec<u64>, CheckpointError> {
        Ok(self.objects(MANIFESTS)?.iter().filter_map(|object| manifest_sequence(&object.name)).collect())
    }

    pub(super) fn objects(&self, folder: &str) -> Result<Vec<Object>, CheckpointError> {
        self.storage.list(folder).map_err(|why| CheckpointError::storage("read", self.storage.place(folder), why))
    }
}
