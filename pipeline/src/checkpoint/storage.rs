//! Where checkpoints are kept: whole objects under names, as a directory and an object store both have them.
//!
//! Contract: an object is there whole or not at all, and durably, once its upload has finished; it is never changed afterwards.

use std::fmt;
use std::io::{self, Read, Write};

/// A place for objects. Names are `folder/name`.
pub(super) trait Storage: fmt::Debug + Send + Sync {
    /// A name as people find it.
    fn place(&self, name: &str) -> String;
    /// The objects of a folder, by name; of one that is not there, none.
    fn list(&self, folder: &str) -> io::Result<Vec<Object>>;
    /// Reads an object from its beginning; its length comes with it.
    fn open(&self, name: &str) -> io::Result<(u64, Box<dyn Read + Send>)>;
    /// Begins an object, which must not be there yet. Dropped without being finished it leaves nothing.
    fn begin(&self, name: &str) -> io::Result<Box<dyn Upload>>;
    /// Removes objects of one folder, durably; those that are not there are passed over.
    fn remove(&self, folder: &str, names: &[String]) -> io::Result<()>;
    /// Removes what unfinished uploads have left. Nobody else may be uploading.
    fn remove_unfinished(&self, folder: &str) -> io::Result<()>;
}

/// An object that is being written.
pub(super) trait Upload: Write + Send {
    /// Makes it whole, durable and visible. After an error it is not known to be there; it is begun again under another name.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What a folder holds under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Object {
    /// Without its folder.
    pub(super) name: String,
    /// Length, if it is a file.
    pub(super) bytes: Option<u64>,
}
