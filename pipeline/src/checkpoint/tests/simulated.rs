//! A disk in memory that forgets what was not synchronised when it crashes, as far as POSIX allows for it.
//!
//! Of a file everything since its last synchronisation is kept or lost in pieces, of a directory each change of a name by itself.
//! After a failed synchronisation what was written is lost and the next one succeeds, as Linux has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::checkpoint::disk::Disk;
use crate::checkpoint::storage::Object;

/// Bytes that survive a crash or are lost together.
const PIECE: usize = 64;

/// Numbers that look like chance, the same for the same seed.
#[derive(Clone, Debug)]
pub struct Chance(u64, u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed, 0)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.1 += 1;
        xxh3_64_with_seed(&self.1.to_le_bytes(), self.0) % limit
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// From this operation on nothing is done any more.
    Crash(u64),
    /// Operations from the first number to before the second fail with this error.
    Error(u64, u64, i32),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    bytes: Vec<u8>,
    durable: Vec<u8>,
    /// A synchronisation failed: those after it do nothing and succeed.
    lost: bool,
}

#[derive(Clone, Debug)]
enum Naming {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf, usize),
}

impl Naming {
    fn apply(self, names: &mut BTreeMap<PathBuf, usize>) {
        match self {
            Naming::Link(path, inode) => drop(names.insert(path, inode)),
            Naming::Unlink(path) => drop(names.remove(&path)),
            Naming::Rename(from, to, inode) => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Contents {
    directories: BTreeSet<PathBuf>,
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable: BTreeMap<PathBuf, usize>,
    /// Changes of names since the last synchronisation of their directories.
    unsynced: Vec<Naming>,
    operations: u64,
    fault: Option<Fault>,
}

/// The disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<Contents>>);

impl SimulatedDisk {
    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().expect("a test that panics has failed already")
    }

    /// Operations that change something so far.
    pub fn operations(&self) -> u64 {
        self.contents().operations
    }

    /// The same disk as it is now, on which this will go wrong.
    pub fn copy(&self, fault: Option<Fault>) -> Arc<Self> {
        let mut contents = self.contents().clone();
        contents.fault = fault;
        Arc::new(Self(Arc::new(Mutex::new(contents))))
    }

    /// The disk after a loss of power.
    pub fn after_crash(&self, seed: u64) -> Arc<Self> {
        let mut chance = Chance::new(seed);
        let contents = self.contents().clone();
        let mut after = Contents { names: contents.durable, directories: contents.directories, ..Contents::default() };
        for naming in contents.unsynced {
            if chance.below(2) == 0 {
                continue;
            }
            naming.apply(&mut after.names);
        }
        for inode in contents.inodes {
            let mut bytes = inode.durable.clone();
            let more = if inode.lost { 0 } else { inode.bytes.len() - bytes.len() };
            let length = bytes.len() + chance.below(more as u64 + 1) as usize;
            for start in (bytes.len()..length).step_by(PIECE) {
                let piece = &inode.bytes[start..length.min(start + PIECE)];
                match chance.below(3) {
                    // The length is there, and the bytes are not.
                    0 => bytes.extend(std::iter::repeat_n(0, piece.len())),
                    _ => bytes.extend_from_slice(piece),
                }
            }
            after.inodes.push(Inode { durable: bytes.clone(), bytes, lost: false });
        }
        after.durable.clone_from(&after.names);
        Arc::new(Self(Arc::new(Mutex::new(after))))
    }

    /// Names of all files.
    pub fn files(&self) -> Vec<PathBuf> {
        self.contents().names.keys().cloned().collect()
    }
}

impl Contents {
    /// Counts an operation, and fails it if it is to fail.
    fn operate(&mut self) -> io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(Fault::Crash(at)) if number >= at => Err(io::Error::other("the machine is off")),
            Some(Fault::Error(from, to, error)) if (from..to).contains(&number) => {
                Err(io::Error::from_raw_os_error(error))
            }
            _ => Ok(()),
        }
    }
}

/// A file that is open for writing.
#[derive(Debug)]
pub struct SimulatedFile(SimulatedDisk, usize);

impl Write for SimulatedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut contents = self.0.contents();
        if let Err(why) = contents.operate() {
            // A part may have been written before there was no more room.
            contents.inodes[self.1].bytes.extend_from_slice(&bytes[..bytes.len() / 2]);
            return Err(why);
        }
        contents.inodes[self.1].bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    type File = SimulatedFile;

    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.operate()?;
        contents.directories.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<SimulatedFile> {
        let mut contents = self.contents();
        contents.operate()?;
        assert!(contents.directories.contains(path.parent().expect("in a directory")), "{}", path.display());
        if contents.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = contents.inodes.len();
        contents.inodes.push(Inode::default());
        contents.names.insert(path.to_owned(), inode);
        contents.unsynced.push(Naming::Link(path.to_owned(), inode));
        Ok(SimulatedFile(self.clone(), inode))
    }

    fn sync(&self, file: &mut SimulatedFile) -> io::Result<()> {
        let mut contents = self.contents();
        let operated = contents.operate();
        let inode = &mut contents.inodes[file.1];
        inode.lost |= operated.is_err();
        if !inode.lost {
            inode.durable.clone_from(&inode.bytes);
        }
        operated
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.operate()?;
        let within = |name: &Path| name.parent() == Some(path);
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut contents.unsynced).into_iter().partition(|naming| match naming {
                Naming::Link(name, _) | Naming::Unlink(name) | Naming::Rename(_, name, _) => within(name),
            });
        contents.unsynced = later;
        for naming in now {
            naming.apply(&mut contents.durable);
        }
        Ok(())
    }

    fn open(&self, path: &Path) -> io::Result<(u64, Box<dyn Read + Send>)> {
        let contents = self.contents();
        let inode = *contents.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let bytes = contents.inodes[inode].bytes.clone();
        Ok((bytes.len() as u64, Box::new(Cursor::new(bytes))))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.contents().names.contains_key(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.operate()?;
        assert!(!contents.names.contains_key(to), "{} would be written over", to.display());
        let inode = contents.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        contents.names.insert(to.to_owned(), inode);
        contents.unsynced.push(Naming::Rename(from.to_owned(), to.to_owned(), inode));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut contents = self.contents();
        contents.operate()?;
        contents.names.remove(path).ok_or(io::ErrorKind::NotFound)?;
        contents.unsynced.push(Naming::Unlink(path.to_owned()));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Object>> {
        let contents = self.contents();
        let within = contents.names.iter().filter(|(name, _)| name.parent() == Some(path));
        let object = |(name, inode): (&PathBuf, &usize)| {
            let name = name.file_name().expect("a file").to_string_lossy().into_owned();
            Object { name, bytes: Some(contents.inodes[*inode].bytes.len() as u64) }
        };
        Ok(within.map(object).collect())
    }
}
