//! Crashes and errors at each operation on the disk: what is loaded afterwards is one of the checkpoints, whole, and none older than
//! the last that was said to be saved.

use std::sync::Arc;

use super::simulated::{Chance, Fault, SimulatedDisk};
use super::*;
use crate::checkpoint::archive::{FILES, MANIFESTS, OWNERS};
use crate::checkpoint::directory::Directory;

const ROOT: &str = "/data/checkpoints";
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

fn begin(disk: &Arc<SimulatedDisk>) -> Result<Store, CheckpointError> {
    let made = Directory::make(Path::new(ROOT), &[FILES, MANIFESTS, OWNERS], disk.clone());
    let made = made.map_err(|why| CheckpointError::storage("make", ROOT, why))?;
    Store::begin(Arc::new(made), OPTIONS, None)
}

/// What is done tick by tick, the same each time: the changes of a tick are a function of it.
#[derive(Clone, Default)]
struct Script {
    /// The state at each tick so far.
    states: Vec<State>,
    /// The last tick of which it was said that it is saved.
    saved: u64,
}

impl Script {
    fn state(&self, tick: u64) -> State {
        if tick == 0 { State::new() } else { self.states[tick as usize - 1].clone() }
    }

    /// Changes some keys, some of them to nothing, and saves.
    fn save(&mut self, store: &mut Store) -> Result<Saved, CheckpointError> {
        let tick = self.states.len() as u64 + 1;
        let mut chance = Chance::new(tick);
        let mut state = self.state(tick - 1);
        let mut changes = [Changes::new(), Changes::new()];
        for _ in 0..12 {
            let key = chance.below(20);
            let node = if key.is_multiple_of(3) { "a" } else { "b" };
            let bytes = format!("key {key}").into_bytes();
            let value: Vec<u8> = (0..chance.below(30)).map(|_| chance.below(256) as u8).collect();
            let put = chance.below(4) > 0;
            changes[(key % 2) as usize].put(id(node), key, &bytes, put.then_some(&value));
            match put {
                true => drop(state.insert((id(node), bytes), (key, value))),
                false => drop(state.remove(&(id(node), bytes))),
            }
        }
        self.states.push(state);
        let saved = store.save(at(tick), &[node("a"), node("b")], changes.into());
        if saved.is_ok() {
            self.saved = tick;
        }
        saved
    }

    /// What the store has to begin with is the state of one tick, and of none before the last that is saved.
    fn check(&self, store: &Store, what: &str) {
        let Some(manifest) = &store.newest().manifest else {
            assert_eq!(self.saved, 0, "{what}: there is none");
            return;
        };
        let tick = manifest.moment.tick;
        assert!(tick >= self.saved, "{what}: tick {tick}, {} was saved", self.saved);
        let loaded = newest(store).unwrap_or_else(|why| panic!("{what}: {why}"));
        assert_eq!(loaded, self.state(tick), "{what}: not the state of tick {tick}");
    }

    /// Opens the store and does a bit of everything, until something fails.
    fn run(&mut self, disk: &Arc<SimulatedDisk>) -> Result<(), CheckpointError> {
        let mut store = begin(disk)?;
        self.save(&mut store)?;
        self.save(&mut store)?;
        store.compact()?;
        self.save(&mut store)?;
        self.save(&mut store)?;
        Ok(())
    }
}

/// A disk with some checkpoints, so many that files are merged next.
fn prepared(checkpoints: usize) -> (Arc<SimulatedDisk>, Script) {
    let (disk, mut script) = (Arc::new(SimulatedDisk::default()), Script::default());
    if checkpoints > 0 {
        let mut store = begin(&disk).unwrap();
        for _ in 0..checkpoints {
            script.save(&mut store).unwrap();
        }
    }
    (disk, script)
}

fn operations(checkpoints: usize) -> (Arc<SimulatedDisk>, Script, std::ops::Range<u64>) {
    let (disk, script) = prepared(checkpoints);
    let tried = disk.copy(None);
    let first = tried.operations();
    script.clone().run(&tried).unwrap();
    let last = tried.operations();
    assert!(last - first > 60, "the script does things: {}", last - first);
    (disk, script, first..last)
}

#[test]
fn a_crash_at_any_operation_leaves_one_checkpoint_or_the_next() {
    let mut older = 0;
    for checkpoints in [0, 1, 7] {
        let (disk, script, operations) = operations(checkpoints);
        for at in operations {
            let crashed = disk.copy(Some(Fault::Crash(at)));
            let mut script = script.clone();
            // The last operations take old files away, and fail without harm.
            if let Err(why) = script.run(&crashed) {
                assert!(why.to_string().contains("the machine is off"), "{why}");
            }
            for seed in 0..8 {
                let what = format!("{checkpoints} checkpoints, operation {at}, seed {seed}");
                let after = crashed.after_crash(seed);
                let mut script = script.clone();
                let mut store = begin(&after).unwrap_or_else(|why| panic!("{what}: {why}"));
                script.check(&store, &what);
                let tick = store.newest().manifest.as_ref().map_or(0, |manifest| manifest.moment.tick);
                older += usize::from(tick < script.states.len() as u64);
                // It goes on from there, and after another loss of power what was saved is still there.
                script.states.truncate(tick as usize);
                script.save(&mut store).unwrap_or_else(|why| panic!("{what}: {why}"));
                script.check(&begin(&after.after_crash(seed + 100)).unwrap(), &what);
            }
        }
    }
    assert!(older > 100, "crashes did lose something: {older}");
}

/// A process that is killed loses nothing that it had written; one that is killed again while it starts neither.
#[test]
fn crashes_while_it_starts_change_nothing() {
    let (disk, script, operations) = operations(7);
    for at in operations {
        let crashed = disk.copy(Some(Fault::Crash(at)));
        let mut script = script.clone();
        let _ = script.run(&crashed); // told above
        let mut left = crashed.after_crash(1);
        for again in 0..20 {
            let again = left.copy(Some(Fault::Crash(again)));
            drop(begin(&again));
            left = again.after_crash(at);
        }
        script.check(&begin(&left).unwrap(), &format!("operation {at}"));
    }
}

#[test]
fn after_an_error_the_last_checkpoint_is_there_and_the_next_has_everything() {
    let (disk, script, operations) = operations(7);
    let mut failures = 0;
    for at in operations {
        for (error, length) in [(ENOSPC, 1), (EIO, 1), (ENOSPC, 40)] {
            let what = format!("operation {at}, {length} times error {error}");
            let failing = disk.copy(Some(Fault::Error(at, at + length, error)));
            let mut script = script.clone();
            let Ok(mut store) = begin(&failing) else {
                failures += 1;
                script.check(&begin(&failing.copy(None)).unwrap(), &what);
                continue;
            };
            // Long enough for the errors to end.
            for step in 0..if length == 1 { 8 } else { 60 } {
                let before = script.saved;
                match script.save(&mut store) {
                    Ok(saved) => failures += saved.left_undone.len(),
                    Err(why) => {
                        failures += 1;
                        assert!(why.to_string().contains("/data/checkpoints/"), "it names the place: {why}");
                        assert_eq!(script.saved, before);
                        // The last one is as it was, for a process that starts now, whatever was written meanwhile.
                        script.check(&begin(&failing.after_crash(at)).unwrap(), &what);
                    }
                }
                if step == 1 {
                    failures += usize::from(store.compact().is_err());
                }
            }
            assert_eq!(script.saved, script.states.len() as u64, "{what}: it goes on");
            script.check(&store, &what);
            script.check(&begin(&failing.after_crash(at)).unwrap(), &what);
            let left: Vec<_> = failing.files();
            assert!(left.len() <= store.files() + 16, "{what}: what failed is cleared away: {left:?}");
        }
    }
    assert!(failures > 300, "{failures} errors did something");
}
