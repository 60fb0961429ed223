//! Writing checkpoints.
//!
//! Invariants: a manifest is put after its files are durable, and files are taken away only after the manifests that name them;
//! what could not be saved is in the next checkpoint; a number is used once, also for an attempt that failed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use sources::lock::{DirectoryLock, NotTaken};

use super::archive::{Archive, FILES, MANIFESTS, OWNERS};
use super::beside::Beside;
use super::changes::Changes;
use super::compaction::{Compacted, Compaction, choose};
use super::directory::Directory;
use super::disk::LocalDisk;
use super::file::FileWriter;
use super::manifest::{DataFile, FILES_MAX, Manifest, Moment, Node, data_name, manifest_name};
use super::merge::{Living, Merge};
use super::recovery::Newest;
use super::storage::Storage;
use super::{CheckpointError, NodeId};

/// Changes of checkpoints that failed, which wait as they are for the next; more are put together.
const PENDING_MAX: usize = 8;
/// Starts of the program whose numbers are kept.
const OWNERS_KEPT: usize = 3;
/// Files of a checkpoint from which on saving waits for their merging.
const FILES_WAIT: usize = 64;

/// How checkpoints are kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Checkpoints that are kept, the newest; at least one.
    pub keep: usize,
    /// Whether files are merged by a thread beside; otherwise only where [`Store::compact`] is called, and where there are too
    /// many.
    pub compact_beside: bool,
}

/// A piece of state that a checkpoint is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// Hash of the plan that makes it: what another plan made is not part of it.
    pub plan: u128,
    /// Whether the changes hold all of it, and nothing of it that was saved before counts.
    pub anew: bool,
}

/// What was saved.
#[derive(Debug)]
pub struct Saved {
    /// Number of the checkpoint.
    pub sequence: u64,
    /// Records that were written.
    pub records: u64,
    /// Bytes of the file with them.
    pub bytes: u64,
    /// Files that the checkpoint is made of.
    pub files: usize,
    /// Bytes of all of them.
    pub bytes_of_all: u64,
    /// Why older files were not merged or taken away. The checkpoint is good; this is tried again with the next.
    pub left_undone: Vec<CheckpointError>,
}

impl Default for Options {
    fn default() -> Self {
        Self { keep: 3, compact_beside: true }
    }
}

/// A directory of checkpoints that this process writes to, and no other.
#[derive(Debug)]
pub struct Store {
    pub(super) archive: Archive,
    options: Options,
    pub(super) generation: u64,
    /// Number of the next checkpoint, and of the next file.
    sequence: u64,
    file: u64,
    /// What the next checkpoint goes on from.
    files: Vec<DataFile>,
    living: Arc<Living>,
    /// Changes of checkpoints that failed, sorted, the oldest first.
    pending: Vec<Changes>,
    /// Files that the manifests name, by number; none where a manifest cannot be read.
    named: BTreeMap<u64, Option<Vec<String>>>,
    compaction: Option<Beside>,
    newest: Newest,
    /// Goes last.
    _lock: Option<DirectoryLock>,
}

impl Store {
    /// Opens the directory, which is made if it is missing, takes its lock and finds the checkpoint to begin with.
    ///
    /// # Errors
    /// It cannot be made or read, another process has it, or there are checkpoints and none can be used.
    pub fn open(directory: &Path, options: Options) -> Result<Self, CheckpointError> {
        let failed = |why| CheckpointError::storage("make", directory.display().to_string(), why);
        let made = Directory::make(directory, &[FILES, MANIFESTS, OWNERS], Arc::new(LocalDisk)).map_err(failed)?;
        let lock = DirectoryLock::take(directory).map_err(|why| match why {
            NotTaken::InUse { .. } => CheckpointError::InUse(why.to_string()),
            NotTaken::Failed { path, why } => CheckpointError::storage("lock", path.display().to_string(), why),
        })?;
        Self::begin(Arc::new(made), options, Some(lock))
    }

    /// Opens a storage that nobody else writes to.
    pub(super) fn begin(
        storage: Arc<dyn Storage>,
        options: Options,
        lock: Option<DirectoryLock>,
    ) -> Result<Self, CheckpointError> {
        let archive = Archive { storage };
        for folder in [FILES, MANIFESTS, OWNERS] {
            let failed = |why| CheckpointError::storage("clear", archive.storage.place(folder), why);
            archive.storage.remove_unfinished(folder).map_err(failed)?;
        }
        let newest = archive.newest()?;
        let last = archive.sequences()?.last().copied().unwrap_or(0);
        let mut store = Self {
            archive,
            options,
            generation: 0,
            sequence: last + 1,
            file: 0,
            files: Vec::new(),
            living: Arc::default(),
            pending: Vec::new(),
            named: BTreeMap::new(),
            compaction: None,
            newest: Newest { manifest: None, passed_over: newest.passed_over },
            _lock: lock,
        };
        store.own(newest.manifest.as_ref())?;
        store.go_on_from(newest.manifest);
        Ok(store)
    }

    /// What reads the same directory.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// The checkpoint that the next one goes on from: the newest that is good, then each that is saved. What was wrong with newer
    /// ones when the store was opened comes with it.
    #[must_use]
    pub fn newest(&self) -> &Newest {
        &self.newest
    }

    /// Number of this start of the program: greater than those of all starts before. What a process of a smaller number still
    /// writes anywhere can be refused by it.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Number of the files that the next checkpoint goes on from.
    #[must_use]
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Goes on from this checkpoint, or from nothing, instead of the newest. Those after it stay until newer ones push them out.
    pub fn go_on_from(&mut self, manifest: Option<Manifest>) {
        self.files = manifest.as_ref().map_or_else(Vec::new, |manifest| manifest.files.clone());
        self.living = Arc::new(manifest.as_ref().map_or_else(Living::default, Manifest::living));
        self.pending.clear();
        self.compaction = None;
        self.newest.manifest = manifest;
    }

    /// Saves what has changed since the last checkpoint, by whichever workers; of a key that is in several of `changes` the last
    /// counts. States that are not in `nodes` are forgotten. Where it fails, the changes are kept for the next call.
    ///
    /// # Errors
    /// Why it is not saved. The last checkpoint is as it was.
    pub fn save(
        &mut self,
        moment: Moment,
        nodes: &[NodeState],
        changes: Vec<Changes>,
    ) -> Result<Saved, CheckpointError> {
        let sequence = self.next_sequence(0);
        let nodes = self.keep_pending(nodes, changes, sequence)?;
        let saved = self.save_pending(moment, nodes, sequence);
        if saved.is_err() && self.pending.len() > PENDING_MAX {
            self.pending = vec![Changes::merged(&self.pending)];
        }
        saved
    }

    fn save_pending(&mut self, moment: Moment, nodes: Vec<Node>, sequence: u64) -> Result<Saved, CheckpointError> {
        self.pending.iter().try_for_each(Changes::check)?;
        let mut left_undone = Vec::new();
        self.adopt_beside(&mut left_undone);
        if self.files.len() >= FILES_WAIT {
            left_undone.extend(self.compact().err());
        }
        if self.files.len() + 1 >= FILES_MAX {
            let why = format!("there are {} files, which could not be merged", self.files.len());
            return Err(left_undone.pop().unwrap_or(CheckpointError::Unsaveable(why)));
        }
        let delta = self.write_pending(sequence)?;
        let mut files = self.files.clone();
        files.extend(delta.clone());
        let manifest = Manifest {
            sequence,
            generation: self.generation,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            created_ms: now_ms(),
            moment,
            nodes,
            files,
        };
        self.put_manifest(manifest)?;
        self.pending.clear();
        left_undone.extend(self.collect().err());
        if self.options.compact_beside && self.compaction.is_none() {
            self.compaction = self.plan().map(Beside::start);
        }
        Ok(Saved {
            sequence,
            records: delta.as_ref().map_or(0, |file| file.records),
            bytes: delta.as_ref().map_or(0, |file| file.bytes),
            files: self.files.len(),
            bytes_of_all: self.files.iter().map(|file| file.bytes).sum(),
            left_undone,
        })
    }

    /// Merges files until there are few, none much larger than it needs to be. The next checkpoint is made of the result.
    ///
    /// # Errors
    /// A file is not as it was written, or the result cannot be written. What is saved is as it was.
    pub fn compact(&mut self) -> Result<(), CheckpointError> {
        if let Some(beside) = self.compaction.take() {
            let compacted = beside.wait()?;
            self.adopt(compacted);
        }
        while let Some(compaction) = self.plan() {
            let compacted = compaction.run()?;
            self.adopt(compacted);
        }
        Ok(())
    }

    /// Leaves the number of this start, so that the next one has another.
    fn own(&mut self, newest: Option<&Manifest>) -> Result<(), CheckpointError> {
        #[derive(Serialize)]
        struct Owner {
            pid: u32,
            program: &'static str,
            started_ms: u64,
        }
        let owners = self.archive.objects(OWNERS)?;
        let number = |name: &str| name.strip_suffix(".json").and_then(|digits| digits.parse::<u64>().ok());
        let last = owners.iter().filter_map(|owner| number(&owner.name)).max();
        // Also those of files that were imported are passed, or a name could be there already.
        let files = self.archive.objects(FILES)?;
        let made = files.iter().filter_map(|file| file.name.split('-').next()?.parse::<u64>().ok()).max();
        let saved = newest.map(|newest| newest.generation);
        self.generation = [last, made, saved].into_iter().flatten().max().unwrap_or(0) + 1;
        let owner = Owner { pid: std::process::id(), program: env!("CARGO_PKG_VERSION"), started_ms: now_ms() };
        let text = serde_json::to_string(&owner).expect("numbers and text");
        self.put(OWNERS, &format!("{:010}.json", self.generation), text.as_bytes())?;
        let old = owners.iter().filter(|owner| number(&owner.name).is_some()).rev().skip(OWNERS_KEPT - 1);
        let old: Vec<String> = old.map(|owner| owner.name.clone()).collect();
        self.remove(OWNERS, &old)
    }

    /// Notes which states there are from this checkpoint on, and puts the changes to those that wait.
    fn keep_pending(
        &mut self,
        nodes: &[NodeState],
        mut changes: Vec<Changes>,
        sequence: u64,
    ) -> Result<Vec<Node>, CheckpointError> {
        let mut known = Vec::with_capacity(nodes.len());
        let mut kept = BTreeSet::new();
        for node in nodes {
            let id = NodeId::of(&node.name, node.plan);
            let before = self.living.since(id).filter(|_| !node.anew);
            if before.is_some() {
                kept.insert(id);
            }
            known.push(Node { name: node.name.clone(), plan: node.plan, since: before.unwrap_or(sequence) });
        }
        known.sort_by(|a, b| a.name.cmp(&b.name).then(a.plan.cmp(&b.plan)));
        if let Some(twice) = known.windows(2).find(|pair| pair[0].id() == pair[1].id()) {
            return Err(CheckpointError::Unsaveable(format!("the state {} is there twice", twice[0].name)));
        }
        self.living = Arc::new(Living::new(known.iter().map(|node| (node.id(), node.since))));
        for pending in &mut self.pending {
            pending.retain(|node| kept.contains(&node));
        }
        for one in &mut changes {
            one.sort();
        }
        self.pending.extend(changes);
        self.pending.retain(|pending| !pending.is_empty() || pending.check().is_err());
        Ok(known)
    }

    /// Writes the changes that wait into one file.
    fn write_pending(&mut self, sequence: u64) -> Result<Option<DataFile>, CheckpointError> {
        if self.pending.is_empty() {
            return Ok(None);
        }
        let name = self.next_name();
        let path = format!("{FILES}/{name}");
        let failed = |why| CheckpointError::storage("write", self.archive.storage.place(&path), why);
        let upload = self.archive.storage.begin(&path).map_err(failed)?;
        let mut writer = FileWriter::begin(upload, sequence).map_err(failed)?;
        let mut merge = Merge::new(self.pending.iter().map(Changes::run).collect());
        while let Some((_, record)) = merge.next()? {
            writer.push(&record).map_err(failed)?;
        }
        let written = writer.finish().map_err(failed)?;
        let (bytes, checksum, records) = (written.bytes, written.checksum, written.records);
        Ok(Some(DataFile { name, bytes, checksum, records, base: false, from: sequence, to: sequence }))
    }

    pub(super) fn put_manifest(&mut self, manifest: Manifest) -> Result<(), CheckpointError> {
        self.put(MANIFESTS, &manifest_name(manifest.sequence), manifest.to_text().as_bytes())?;
        let names = manifest.files.iter().map(|file| file.name.clone()).collect();
        self.named.insert(manifest.sequence, Some(names));
        self.files.clone_from(&manifest.files);
        self.newest.manifest = Some(manifest);
        Ok(())
    }

    /// Takes the result of the thread beside, if it has one.
    fn adopt_beside(&mut self, left_undone: &mut Vec<CheckpointError>) {
        if let Some(beside) = self.compaction.take_if(|beside| beside.is_done()) {
            match beside.wait() {
                Ok(compacted) => self.adopt(compacted),
                Err(why) => left_undone.push(why),
            }
        }
    }

    /// Puts the result of a merge in the place of what was merged.
    fn adopt(&mut self, compacted: Compacted) {
        let first = &compacted.instead_of[0].name;
        let at = self.files.iter().position(|file| file.name == *first).expect("only what is merged takes files away");
        let place = at..at + compacted.instead_of.len();
        debug_assert_eq!(self.files[place.clone()], compacted.instead_of);
        self.files.splice(place, compacted.file);
    }

    fn plan(&mut self) -> Option<Compaction> {
        let sizes: Vec<u64> = self.files.iter().map(|file| file.bytes).collect();
        let chosen = choose(&sizes)?;
        Some(Compaction {
            archive: self.archive.clone(),
            base: chosen.start == 0,
            files: self.files[chosen].to_vec(),
            name: self.next_name(),
            living: self.living.clone(),
        })
    }

    /// Takes away old manifests, and files that none of those left names.
    fn collect(&mut self) -> Result<(), CheckpointError> {
        let there: BTreeSet<u64> = self.archive.sequences()?.into_iter().collect();
        self.named.retain(|sequence, _| there.contains(sequence));
        for &sequence in &there {
            self.named.entry(sequence).or_insert_with(|| {
                let manifest = self.archive.manifest(sequence).ok()?;
                Some(manifest.files.into_iter().map(|file| file.name).collect())
            });
        }
        let mut good = self.named.iter().rev().filter(|(_, files)| files.is_some()).map(|(sequence, _)| *sequence);
        let Some(oldest) = good.nth(self.options.keep.max(1) - 1) else { return Ok(()) };
        let kept = self.named.split_off(&oldest);
        let old: Vec<String> = std::mem::replace(&mut self.named, kept).into_keys().map(manifest_name).collect();
        self.remove(MANIFESTS, &old)?;
        // What an unreadable one names is not known: it is left until that one is out of the way.
        let Some(named) = self.named.values().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return Ok(()) };
        let mut named: BTreeSet<&str> = named.into_iter().flatten().map(String::as_str).collect();
        named.extend(self.files.iter().map(|file| file.name.as_str()));
        named.extend(self.compaction.as_ref().map(Beside::name));
        let files = self.archive.objects(FILES)?.into_iter().map(|file| file.name);
        let orphans: Vec<String> =
            files.filter(|name| super::manifest::is_data_name(name) && !named.contains(name.as_str())).collect();
        self.remove(FILES, &orphans)
    }

    /// A number that none has yet, at least this one.
    pub(super) fn next_sequence(&mut self, least: u64) -> u64 {
        let sequence = self.sequence.max(least);
        self.sequence = sequence.saturating_add(1);
        sequence
    }

    pub(super) fn next_name(&mut self) -> String {
        self.file += 1;
        data_name(self.generation, self.file)
    }

    fn put(&self, folder: &str, name: &str, content: &[u8]) -> Result<(), CheckpointError> {
        let name = format!("{folder}/{name}");
        let put = || -> io::Result<()> {
            let mut upload = self.archive.storage.begin(&name)?;
            upload.write_all(content)?;
            upload.finish()
        };
        put().map_err(|why| CheckpointError::storage("write", self.archive.storage.place(&name), why))
    }

    fn remove(&self, folder: &str, names: &[String]) -> Result<(), CheckpointError> {
        let removed = self.archive.storage.remove(folder, names);
        removed.map_err(|why| CheckpointError::storage("remove old files in", self.archive.storage.place(folder), why))
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
