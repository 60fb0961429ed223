//! The store of checkpoints: what is saved is what is loaded, and nothing else ever is.

mod crash;
mod damage;
mod foreign;
mod kill;
mod round_trip;
mod simulated;

use std::collections::BTreeMap;
use std::path::Path;

use super::*;

const OPTIONS: Options = Options { keep: 3, compact_beside: false };

/// What a checkpoint holds: node and key, route and value.
type State = BTreeMap<(NodeId, Vec<u8>), (u64, Vec<u8>)>;

fn open(directory: &Path) -> Store {
    Store::open(directory, OPTIONS).unwrap_or_else(|why| panic!("{why}"))
}

fn node(name: &str) -> NodeState {
    NodeState { name: name.to_owned(), plan: 7, anew: false }
}

fn id(name: &str) -> NodeId {
    NodeId::of(name, 7)
}

fn at(tick: u64) -> Moment {
    Moment { tick, workers: 2, ..Moment::default() }
}

fn load(archive: &Archive, manifest: &Manifest) -> Result<State, CheckpointError> {
    let mut state = State::new();
    let mut last = None;
    archive.load(manifest, |record| {
        let key = (record.node, record.key.to_vec());
        assert!(last.replace(key.clone()).is_none_or(|last| last < key), "in order, each once");
        state.insert(key, (record.route, record.value.expect("what is deleted is left out").to_vec()));
        Ok(())
    })?;
    Ok(state)
}

fn newest(store: &Store) -> Result<State, CheckpointError> {
    load(store.archive(), store.newest().manifest.as_ref().expect("there is one"))
}
