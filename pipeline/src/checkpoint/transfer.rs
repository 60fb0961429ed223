//! One checkpoint to another directory: for a backup, another machine, or a look at it elsewhere.

use std::path::Path;

use super::archive::{Archive, FILES};
use super::file;
use super::manifest::Manifest;
use super::{CheckpointError, Options, Store};

impl Archive {
    /// Copies a checkpoint into a directory that has none. Answers what it is there.
    ///
    /// # Errors
    /// The directory has checkpoints or cannot be written, or the checkpoint is not as it was written.
    pub fn export(&self, manifest: &Manifest, directory: &Path) -> Result<Manifest, CheckpointError> {
        let there = Archive::open(directory).sequences()?;
        if let Some(newest) = there.last() {
            let why = format!("{} has checkpoints already, the newest is {newest}", directory.display());
            return Err(CheckpointError::Unsaveable(why));
        }
        let mut store = Store::open(directory, Options { keep: 1, compact_beside: false })?;
        store.import(self, manifest)
    }
}

impl Store {
    /// Makes a checkpoint of another directory the newest of this one. Answers what it is here: its files have new names, and its
    /// number is greater than those that are here.
    ///
    /// # Errors
    /// It is not as it was written, or cannot be written. What is here is as it was.
    pub fn import(&mut self, from: &Archive, manifest: &Manifest) -> Result<Manifest, CheckpointError> {
        from.verify(manifest)?;
        let mut imported = manifest.clone();
        imported.sequence = self.next_sequence(manifest.sequence);
        imported.generation = self.generation();
        for file in &mut imported.files {
            let name = self.next_name();
            let path = format!("{FILES}/{name}");
            let upload = self.archive().storage.begin(&path);
            let upload =
                upload.map_err(|why| CheckpointError::storage("write", self.archive().storage.place(&path), why))?;
            file::copy(&*from.storage, FILES, file, upload)?;
            file.name = name;
        }
        self.put_manifest(imported.clone())?;
        self.go_on_from(Some(imported.clone()));
        Ok(imported)
    }
}
