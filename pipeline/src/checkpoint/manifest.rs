//! The manifest of a checkpoint: what it is of and which files it is made of.
//!
//! Invariant: the text is checked by a checksum over the version and every byte, in exactly the form in which it is written, so a
//! changed manifest is never read as another one. It is one JSON object:
//! `{"haulstream_checkpoint":1,"checksum":"0123456789abcdef","manifest":{…}}`.

use std::collections::{BTreeMap, BTreeSet};

use operators::error::excerpt;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::merge::Living;
use super::{CheckpointError, NodeId};

/// Version of the format that this program writes.
pub const VERSION: u32 = 1;
/// Most bytes of a manifest.
pub(super) const MANIFEST_BYTES_MAX: u64 = 64 << 20;
/// Most files of one checkpoint.
pub(super) const FILES_MAX: usize = 1_024;

const MAGIC: &str = "{\"haulstream_checkpoint\":";
const CHECKSUM: &str = ",\"checksum\":\"";
const BODY: &str = "\",\"manifest\":";
const END: &str = "}\n";

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Its number; the greatest is the newest.
    pub sequence: u64,
    /// Number of the start of the program that made it.
    pub generation: u64,
    /// Version of the program that made it.
    pub program: String,
    /// When it was made, in milliseconds since 1970, by that machine's clock. For people: nothing goes by it.
    pub created_ms: u64,
    /// What it is of.
    pub moment: Moment,
    /// The states in it.
    pub nodes: Vec<Node>,
    /// Its files, the oldest first: of each key the last record counts.
    pub files: Vec<DataFile>,
}

/// What the program had read and written at the tick of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The checkpoint holds all that is before or at this tick.
    pub tick: u64,
    /// Workers of the process that made it. Another number of them can load it.
    pub workers: usize,
    /// The log that it was made from.
    pub log: LogIdentity,
    /// How far each partition was read.
    pub positions: Vec<Position>,
    /// Name of a sink, name of a stream: the tick up to which it is written.
    pub sinks: BTreeMap<String, BTreeMap<String, u64>>,
}

/// A log, so that another one behind the same address is not taken for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdentity {
    /// Id of the cluster.
    pub cluster: String,
    /// Its topics.
    pub topics: Vec<Topic>,
}

/// A topic of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its id, which a topic that is made again under the same name does not have; empty where the log has none.
    pub id: String,
}

/// How far a partition was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// Offset of the next record.
    pub offset: i64,
    /// No record from there on has an earlier tick.
    pub floor: u64,
}

/// A piece of state in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Hash of the plan that made it.
    #[serde(with = "hex128")]
    pub plan: u128,
    /// Number of the checkpoint with which it began: records of older files are not part of it.
    pub since: u64,
}

impl Node {
    /// What its records are found by.
    #[must_use]
    pub fn id(&self) -> NodeId {
        NodeId::of(&self.name, self.plan)
    }
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataFile {
    /// Its name in the folder `files`.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Checksum of all of it.
    #[serde(with = "hex64")]
    pub checksum: u64,
    /// Records in it.
    pub records: u64,
    /// Whether it holds all there was before it too, and so no deletes.
    pub base: bool,
    /// Number of the first checkpoint whose changes it holds.
    pub from: u64,
    /// Number of the last checkpoint whose changes it holds.
    pub to: u64,
}

impl Manifest {
    /// Bytes of all its files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The states whose records count.
    pub(super) fn living(&self) -> Living {
        Living::new(self.nodes.iter().map(|node| (node.id(), node.since)))
    }

    /// The text that is stored.
    pub(super) fn to_text(&self) -> String {
        let body = serde_json::to_string(self).expect("a manifest is made of what JSON has");
        sealed(VERSION, &body)
    }

    /// Reads what is stored at `path` as checkpoint `sequence`.
    ///
    /// # Errors
    /// It is not a manifest, not as it was written, or of a newer program.
    pub(super) fn from_text(path: &str, sequence: u64, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let damaged = |offset: usize, what: &str| CheckpointError::damaged(path, offset as u64, what);
        if bytes.is_empty() {
            return Err(damaged(0, "it is empty"));
        }
        let shared = bytes.iter().zip(MAGIC.as_bytes()).take_while(|(a, b)| a == b).count();
        if shared < MAGIC.len() {
            // One that was cut off or changed a little is damaged; one that has nothing of ours was never ours.
            if shared == bytes.len() || shared >= MAGIC.len() / 2 {
                return Err(damaged(shared, "it does not begin as a manifest"));
            }
            let head = String::from_utf8_lossy(&bytes[..bytes.len().min(8)]).into_owned();
            return Err(CheckpointError::Foreign {
                path: path.to_owned(),
                found: format!("magic \"{}\"", excerpt(&head)),
            });
        }
        let text = std::str::from_utf8(bytes).map_err(|why| damaged(why.valid_up_to(), "it is not text"))?;
        let parts = || {
            let (version, rest) = text[MAGIC.len()..].split_once(CHECKSUM)?;
            let (checksum, rest) = rest.split_once(BODY)?;
            Some((version.parse::<u32>().ok()?, checksum, rest.strip_suffix(END)?))
        };
        let Some((version, checksum, body)) = parts() else {
            return Err(damaged(bytes.len(), "it is not whole"));
        };
        let actual = seal(version, body);
        // Written again it has to be the same, or something was changed that the checksum does not see.
        if checksum != actual || sealed(version, body) != text {
            let at = body.as_ptr() as usize - text.as_ptr() as usize;
            return Err(damaged(at, &format!("checksum {actual} instead of {}", excerpt(checksum))));
        }
        if version != VERSION {
            return Err(CheckpointError::Version { path: path.to_owned(), made: version });
        }
        let manifest: Manifest =
            serde_json::from_str(body).map_err(|why| damaged(0, &format!("cannot be read: {why}")))?;
        manifest.check(sequence).map_err(|what| damaged(0, &what))?;
        Ok(manifest)
    }

    /// What a checksum does not tell: whether it makes sense, and stays within its directory.
    fn check(&self, sequence: u64) -> Result<(), String> {
        if self.sequence != sequence {
            return Err(format!("it is checkpoint {}, under the name of {sequence}", self.sequence));
        }
        if self.files.len() > FILES_MAX {
            return Err(format!("it has {} files, {FILES_MAX} at most", self.files.len()));
        }
        let mut names = BTreeSet::new();
        for file in &self.files {
            if !is_data_name(&file.name) {
                return Err(format!("{:?} is no name of a file of a checkpoint", excerpt(&file.name)));
            }
            if !names.insert(&file.name) {
                return Err(format!("{} is in it twice", file.name));
            }
            if file.from > file.to || file.to > self.sequence {
                return Err(format!("{} has changes of checkpoints {} to {}", file.name, file.from, file.to));
            }
        }
        let ids: BTreeSet<NodeId> = self.nodes.iter().map(Node::id).collect();
        if ids.len() < self.nodes.len() {
            return Err("two of its states cannot be told apart".to_owned());
        }
        Ok(())
    }
}

fn seal(version: u32, body: &str) -> String {
    format!("{:016x}", xxh3_64_with_seed(body.as_bytes(), u64::from(version)))
}

pub(super) fn sealed(version: u32, body: &str) -> String {
    format!("{MAGIC}{version}{CHECKSUM}{}{BODY}{body}{END}", seal(version, body))
}

/// Name of the file with the manifest of a checkpoint.
pub(super) fn manifest_name(sequence: u64) -> String {
    format!("{sequence:020}.json")
}

/// The checkpoint whose manifest has this name.
pub(super) fn manifest_sequence(name: &str) -> Option<u64> {
    name.strip_suffix(".json").filter(|digits| digits.len() == 20)?.parse().ok()
}

/// Name of a file with records.
pub(super) fn data_name(generation: u64, number: u64) -> String {
    format!("{generation:010}-{number:010}.data")
}

/// Whether a file with records can be called so.
pub(super) fn is_data_name(name: &str) -> bool {
    let digits = |part: &str| (10..=20).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let parts = name.strip_suffix(".data").and_then(|name| name.split_once('-'));
    parts.is_some_and(|(generation, number)| digits(generation) && digits(number))
}

/// Numbers that JSON's readers would round, as text.
mod hex64 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:016x}"))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<u64, D::Error> {
        u64::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}

/// The same of twice the length.
mod hex128 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:032x}"))
    }

    pub fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<u128, D::Error> {
        u128::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}
