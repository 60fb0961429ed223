//! Where a start goes on: a pure decision from what the checkpoints say and what the log is, then the state in parts, one a worker.
//!
//! Invariant: a job goes on from a checkpoint whole, or says why not; it never begins anew because one could not be used.

use std::collections::BTreeMap;
use std::fmt;

use operators::durable::worker_of;
use operators::record::Stream;
use operators::row::Row;
use operators::time::Tick;

use crate::checkpoint::{Archive, CheckpointError, LogIdentity, Manifest, NodeId, NodeState};
use crate::cut::Lane;
use crate::job::Share;
use crate::tables::TableRows;

/// What a start knows.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The checkpoint to go on from, if there is one.
    pub newest: Option<Manifest>,
    /// The log as it is now.
    pub log: LogIdentity,
    /// Of each partition that there is, the first offset and the one after the last.
    pub ranges: BTreeMap<(String, i32), (i64, i64)>,
    /// The states that the program keeps.
    pub states: Vec<NodeState>,
}

/// What a start does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is no checkpoint: it reads the log from its beginning.
    New,
    /// It goes on from this one.
    Resume(Box<Manifest>),
    /// Something is not as the checkpoint says.
    Refuse(Refusal),
}

/// Why a checkpoint is not gone on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The log is another one.
    Log {
        /// Its id in the checkpoint.
        expected: String,
        /// Its id now.
        got: String,
    },
    /// A topic was made anew.
    Topic {
        /// The topic.
        topic: String,
        /// Its id in the checkpoint.
        expected: String,
        /// Its id now.
        got: String,
    },
    /// A topic or partition is gone.
    Missing {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
    },
    /// Records that were not read are gone.
    Lost {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Next offset in the checkpoint.
        wanted: i64,
        /// First offset of the log.
        start: i64,
    },
    /// The log ends before what was read of it.
    Ahead {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Next offset in the checkpoint.
        wanted: i64,
        /// Offset after the last record of the log.
        end: i64,
    },
    /// A state was made by other rules.
    Rules {
        /// The state.
        state: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Log { expected, got } => write!(
                f,
                "checkpoint_log: the checkpoint is of log {expected}, this one is {got}: point the configuration at the log that it \
                 was made from, or choose another checkpoint.directory"
            ),
            Refusal::Topic { topic, expected, got } => write!(
                f,
                "checkpoint_topic: topic {topic} was made anew (id {expected} in the checkpoint, {got} now), so its offsets mean other \
                 records: choose another checkpoint.directory to read it from its beginning"
            ),
            Refusal::Missing { topic, partition } => write!(
                f,
                "checkpoint_partition: {topic}[{partition}] is in the checkpoint and not in the log: was the topic made anew?"
            ),
            Refusal::Lost { topic, partition, wanted, start } => write!(
                f,
                "checkpoint_lost: {topic}[{partition}]: offset {wanted} < log start {start}: {} records are lost. Nothing is skipped \
                 by itself: restore the log, or choose another checkpoint.directory to go on with what is left",
                start - wanted
            ),
            Refusal::Ahead { topic, partition, wanted, end } => write!(
                f,
                "checkpoint_ahead: {topic}[{partition}]: offset {wanted} > log end {end}: the log lost {} records that were read, or is \
                 another one",
                wanted - end
            ),
            Refusal::Rules { state } => write!(
                f,
                "checkpoint_rules: the state {state} was made with other settings or by another version: set them back, or choose \
                 another checkpoint.directory to make it anew from the log"
            ),
        }
    }
}

/// Decides what a start does.
#[must_use]
pub fn decide(facts: &Facts) -> Decision {
    match &facts.newest {
        None => Decision::New,
        Some(manifest) => match refusal(manifest, facts) {
            Some(why) => Decision::Refuse(why),
            None => Decision::Resume(Box::new(manifest.clone())),
        },
    }
}

fn refusal(manifest: &Manifest, facts: &Facts) -> Option<Refusal> {
    let moment = &manifest.moment;
    if moment.log.cluster != facts.log.cluster {
        return Some(Refusal::Log { expected: moment.log.cluster.clone(), got: facts.log.cluster.clone() });
    }
    for known in &moment.log.topics {
        let now = facts.log.topics.iter().find(|topic| topic.name == known.name);
        if let Some(now) = now.filter(|now| now.id != known.id) {
            let (topic, expected, got) = (known.name.clone(), known.id.clone(), now.id.clone());
            return Some(Refusal::Topic { topic, expected, got });
        }
    }
    for position in &moment.positions {
        let (topic, partition, wanted) = (position.topic.clone(), position.partition, position.offset);
        match facts.ranges.get(&(topic.clone(), partition)) {
            None => return Some(Refusal::Missing { topic, partition }),
            Some(&(start, _)) if wanted < start => return Some(Refusal::Lost { topic, partition, wanted, start }),
            Some(&(_, end)) if wanted > end => return Some(Refusal::Ahead { topic, partition, wanted, end }),
            Some(_) => {}
        }
    }
    let is_kept =
        |state: &NodeState| manifest.nodes.iter().any(|node| node.name == state.name && node.plan == state.plan);
    let other = facts.states.iter().find(|state| !is_kept(state));
    other.map(|state| Refusal::Rules { state: state.name.clone() })
}

/// Reads a checkpoint's state for so many workers. What it is of is before tick `manifest.moment.tick`.
///
/// # Errors
/// It is damaged.
pub fn load(
    archive: &Archive,
    manifest: &Manifest,
    states: &[NodeState],
    tables: &[TableRows],
    workers: usize,
) -> Result<Vec<Share>, CheckpointError> {
    let mut shares = vec![Share::default(); workers];
    let of_states: BTreeMap<NodeId, &str> =
        states.iter().map(|state| (NodeId::of(&state.name, state.plan), &*state.name)).collect();
    let of_tables: BTreeMap<NodeId, usize> =
        tables.iter().enumerate().map(|(at, table)| (NodeId::of(&table.node.name, table.node.plan), at)).collect();
    let mut rows: Vec<Vec<Vec<Row>>> = vec![vec![Vec::new(); workers]; tables.len()];
    archive.load(manifest, |record| {
        let Some(value) = record.value else { return Ok(()) };
        let worker = worker_of(record.key, workers).map_err(|why| why.to_string())?;
        if let Some(&table) = of_tables.get(&record.node) {
            rows[table][worker].push(Row::new(value));
        } else if let Some(&state) = of_states.get(&record.node) {
            shares[worker].states.entry(state.to_owned()).or_default().push((record.key.into(), value.into()));
        }
        Ok(())
    })?;
    let tick = before(manifest.moment.tick);
    for (table, by_worker) in tables.iter().zip(rows) {
        for (share, rows) in shares.iter_mut().zip(by_worker).filter(|(_, rows)| !rows.is_empty()) {
            let rows = table.changes(&rows, tick);
            let rows = rows.map_err(|why| CheckpointError::Refused(format!("rows of {}: {why}", table.stream)))?;
            share.tables.insert(table.stream, vec![rows]);
        }
    }
    Ok(shares)
}

/// The last tick before a cut: what comes again of tables has it.
fn before(tick: Tick) -> Tick {
    tick.saturating_sub(1)
}

/// Where partitions stand in a checkpoint, of streams with these topics.
#[must_use]
pub fn positions(manifest: &Manifest, topics: &[(Stream, String)]) -> BTreeMap<Lane, i64> {
    let stream = |topic: &str| topics.iter().find(|(_, name)| name == topic).map(|(stream, _)| *stream);
    let of = |position: &crate::checkpoint::Position| {
        Some(((stream(&position.topic)?, position.partition), position.offset))
    };
    manifest.moment.positions.iter().filter_map(of).collect()
}
