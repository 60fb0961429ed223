//! The store in a process that is killed, with merges on a thread beside: what it had said to be saved is there, and whole.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::simulated::Chance;
use super::*;

/// Set in the process that is to be killed: its directory.
const CHILD: &str = "HAULSTREAM_TEST_CHECKPOINT_DIRECTORY";
const KEYS: u64 = 200;

/// The value of a key at a tick: that of the last tick in which it changed.
fn value(key: u64, tick: u64) -> Option<Vec<u8>> {
    let changed = tick - (tick + key) % 7;
    let mut chance = Chance::new(key * 1_000_003 + changed);
    (chance.below(5) > 0).then(|| (0..100 + chance.below(200)).map(|_| chance.below(256) as u8).collect())
}

fn changes(tick: u64, all: bool) -> Changes {
    let mut changes = Changes::new();
    for key in (0..KEYS).filter(|key| all || (tick + key).is_multiple_of(7)) {
        changes.put(id("a"), key, &key.to_le_bytes(), value(key, tick).as_deref());
    }
    changes
}

fn state(tick: u64) -> State {
    (0..KEYS).filter_map(|key| Some(((id("a"), key.to_le_bytes().to_vec()), (key, value(key, tick)?)))).collect()
}

fn save_until_killed(directory: &Path) -> ! {
    let mut store = Store::open(directory, Options { keep: 2, compact_beside: true }).unwrap();
    let mut tick = store.newest().manifest.as_ref().map_or(99, |manifest| manifest.moment.tick);
    loop {
        tick += 1;
        let saved = store.save(at(tick), &[node("a")], vec![changes(tick, tick == 100)]).unwrap();
        assert!(saved.left_undone.is_empty(), "{:?}", saved.left_undone);
        println!("saved {tick} {}", saved.files);
    }
}

#[test]
fn kill_9_loses_nothing_that_was_saved() {
    #[expect(clippy::disallowed_methods, reason = "a process of this test's own is told so what it is")]
    let child = std::env::var_os(CHILD);
    if let Some(directory) = child {
        save_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut told, mut files_before, mut merges) = (0, 0, 0);
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "checkpoint::tests::kill::kill_9_loses_nothing_that_was_saved", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut saved = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            // The test harness prints its own beginning of a line before ours.
            let Some((_, rest)) = line.split_once("saved ") else { continue };
            let (tick, files) = rest.split_once(' ').unwrap();
            let (tick, files): (u64, usize) = (tick.parse().unwrap(), files.parse().unwrap());
            merges += usize::from(files < files_before);
            (told, files_before) = (tick, files);
            saved += 1;
            if saved == 3 {
                let refused = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
                assert!(refused.contains(&format!("is in use by process {}", child.id())), "{refused}");
                let newest = Archive::open(directory.path()).list().unwrap();
                assert!(!newest.is_empty(), "it can be read meanwhile");
            }
            if saved == 5 + round * 4 {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it ended by itself");
        let store = open(directory.path());
        let tick = store.newest().manifest.as_ref().map_or(0, |manifest| manifest.moment.tick);
        assert!(tick >= told, "tick {tick}, {told} was saved");
        assert_eq!(store.newest().passed_over.len(), 0);
        assert!(newest(&store).unwrap() == state(tick), "not the state of tick {tick}");
    }
    assert!(merges > 5, "files were merged meanwhile: {merges} times");
}
