//! What is put in comes out: over many checkpoints, merges and starts.

use proptest::prelude::*;

use super::*;

#[test]
fn the_newest_value_of_each_key_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    assert!(store.newest().manifest.is_none());
    let (mut first, mut second) = (Changes::new(), Changes::new());
    first.put(id("b"), 3, b"k2", Some(b"v2"));
    first.put(id("b"), 3, b"k1", Some(b"old"));
    second.put(id("a"), 4, b"", Some(b""));
    first.put(id("b"), 3, b"k1", Some(b"v1"));
    let saved = store.save(at(10), &[node("a"), node("b")], vec![first, second]).unwrap();
    assert_eq!((saved.sequence, saved.records, saved.files), (1, 3, 1));
    let mut third = Changes::new();
    third.put(id("b"), 3, b"k2", None);
    third.put(id("b"), 3, b"k3", Some(b"v3"));
    store.save(at(20), &[node("a"), node("b")], vec![third]).unwrap();
    drop(store);
    let store = open(directory.path());
    let manifest = store.newest().manifest.clone().unwrap();
    assert_eq!((manifest.sequence, manifest.moment.tick, store.generation()), (2, 20, 2));
    let expected: State = [
        ((id("a"), b"".to_vec()), (4, b"".to_vec())),
        ((id("b"), b"k1".to_vec()), (3, b"v1".to_vec())),
        ((id("b"), b"k3".to_vec()), (3, b"v3".to_vec())),
    ]
    .into();
    assert_eq!(newest(&store).unwrap(), expected);
    let verified = store.archive().verify(&manifest).unwrap();
    assert_eq!((verified.records, verified.read), (3, 5));
}

/// One thing that a program does with its store.
#[derive(Clone, Debug)]
enum Step {
    /// Changes: node, key, value.
    Save(Vec<(u8, u8, Option<Vec<u8>>)>),
    /// The same, of a node that begins anew first.
    Anew(u8, Vec<(u8, u8, Option<Vec<u8>>)>),
    /// A node goes, or comes back.
    Toggle(u8),
    Compact,
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    let change = (0..4u8, 0..24u8, value);
    let changes = proptest::collection::vec(change, 0..40);
    let step = prop_oneof![
        12 => changes.clone().prop_map(Step::Save),
        1 => (0..4u8, changes).prop_map(|(node, changes)| Step::Anew(node, changes)),
        1 => (0..4u8).prop_map(Step::Toggle),
        2 => Just(Step::Compact),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..60)
}

fn name(node: u8) -> String {
    format!("node {node}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Would catch: an older value that wins in a merge, a delete that is forgotten or kept too long, records of a node that
    /// was forgotten and came back, a wrong order of files after they were merged, files that were taken away too early.
    #[test]
    fn it_is_a_map(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let mut store = open(directory.path());
        let (mut state, mut there, mut tick) = (State::new(), [true; 4], 0);
        for step in steps {
            let (anew, changes) = match step {
                Step::Save(changes) => (None, changes),
                Step::Anew(node, changes) => (Some(node), changes),
                Step::Toggle(node) => {
                    there[usize::from(node)] ^= true;
                    (None, Vec::new())
                }
                Step::Compact => {
                    store.compact().unwrap();
                    prop_assert!(store.files() <= 12);
                    continue;
                }
                Step::Restart => {
                    drop(store);
                    store = open(directory.path());
                    if tick > 0 {
                        prop_assert_eq!(&newest(&store).unwrap(), &state);
                    }
                    continue;
                }
            };
            if let Some(node) = anew {
                state.retain(|(of, _), _| *of != id(&name(node)));
            }
            let mut put = Changes::new();
            for (node, key, value) in changes.iter().filter(|(node, ..)| there[usize::from(*node)]) {
                let (of, bytes) = (id(&name(*node)), vec![*key; usize::from(*key % 3)]);
                put.put(of, u64::from(*key), &bytes, value.as_deref());
                match value {
                    Some(value) => drop(state.insert((of, bytes), (u64::from(*key), value.clone()))),
                    None => drop(state.remove(&(of, bytes))),
                }
            }
            let nodes = (0..4).filter(|node| there[usize::from(*node)]);
            let nodes: Vec<NodeState> = nodes
                .map(|of| NodeState { anew: anew == Some(of), ..node(&name(of)) })
                .collect();
            state.retain(|(of, _), _| nodes.iter().any(|node| id(&node.name) == *of));
            tick += 1;
            store.save(at(tick), &nodes, vec![put]).unwrap();
            prop_assert_eq!(&newest(&store).unwrap(), &state);
        }
        // All that are kept can be read, and no more is there than they need.
        let kept = store.archive().list().unwrap();
        prop_assert!(kept.len() <= 3);
        let mut named = std::collections::BTreeSet::new();
        for listed in kept {
            let manifest = listed.manifest.unwrap();
            store.archive().verify(&manifest).unwrap();
            named.extend(manifest.files.into_iter().map(|file| file.name));
        }
        let files = std::fs::read_dir(directory.path().join("files")).unwrap().count();
        prop_assert!(files <= named.len() + 2, "{} files, {} are named", files, named.len());
    }
}

#[test]
fn another_plan_is_another_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut changes = Changes::new();
    changes.put(NodeId::of("view", 1), 0, b"k", Some(b"old"));
    let view = |plan| NodeState { name: "view".to_owned(), plan, anew: false };
    store.save(at(1), &[view(1)], vec![changes]).unwrap();
    store.save(at(2), &[view(2)], vec![]).unwrap();
    assert!(newest(&store).unwrap().is_empty());
    // What was forgotten stays so, although its records are still in a file.
    store.save(at(3), &[view(1)], vec![]).unwrap();
    assert!(newest(&store).unwrap().is_empty());
    let refused = store.save(at(4), &[view(1), view(1)], vec![]).unwrap_err().to_string();
    assert!(refused.contains("view is there twice"), "{refused}");
}

#[test]
fn what_is_too_large_is_refused_until_the_node_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut changes = Changes::new();
    changes.put(id("a"), 0, b"k", Some(&vec![7; 1 << 24]));
    changes.put(id("b"), 0, &vec![1; 1 << 16], Some(b"v"));
    store.save(at(1), &[node("a"), node("b")], vec![changes]).unwrap();
    assert_eq!(newest(&store).unwrap().len(), 2);
    let mut changes = Changes::new();
    changes.put(id("a"), 0, b"k", Some(&vec![7; (1 << 24) + 1]));
    changes.put(id("b"), 0, b"other", Some(b"v"));
    for changes in [vec![changes], vec![]] {
        let refused = store.save(at(2), &[node("a"), node("b")], changes).unwrap_err().to_string();
        assert!(refused.contains("a value of 16777217"), "{refused}");
    }
    store.save(at(3), &[NodeState { anew: true, ..node("a") }, node("b")], vec![]).unwrap();
    let state = newest(&store).unwrap();
    assert_eq!((state.len(), state.contains_key(&(id("b"), b"other".to_vec()))), (2, true));
}

/// Would catch: deletes that are dropped in a merge without the oldest file, where they have something to delete.
#[test]
fn deletes_are_kept_until_they_meet_what_they_delete() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let key = |at: u64| at.to_be_bytes();
    let mut changes = Changes::new();
    for at in 0..2_000 {
        let mut chance = super::simulated::Chance::new(at);
        let value: Vec<u8> = (0..100).map(|_| chance.below(256) as u8).collect();
        changes.put(id("a"), at, &key(at), Some(&value));
    }
    store.save(at(1), &[node("a")], vec![changes]).unwrap();
    for tick in 0..12 {
        let mut changes = Changes::new();
        changes.put(id("a"), tick, &key(tick), None);
        store.save(at(tick + 2), &[node("a")], vec![changes]).unwrap();
    }
    store.compact().unwrap();
    store.save(at(20), &[node("a")], vec![]).unwrap();
    let files = store.newest().manifest.clone().unwrap().files;
    let [all, deletes] = files.as_slice() else { panic!("the oldest is large and stays as it is: {files:?}") };
    assert_eq!((all.records, deletes.records, deletes.base), (2_000, 12, false));
    let state = newest(&store).unwrap();
    assert!(state.len() == 1_988 && !state.contains_key(&(id("a"), key(3).to_vec())));

    // A second as large as the first takes all into one, and nothing is left to delete.
    let mut changes = Changes::new();
    for at in 3_000..12_000 {
        changes.put(id("a"), at, &key(at), Some(&[super::simulated::Chance::new(at).below(256) as u8; 100]));
    }
    for at in 12..1_000 {
        changes.put(id("a"), at, &key(at), None);
    }
    for at in 1_000..2_000 {
        let mut chance = super::simulated::Chance::new(at + 7);
        let value: Vec<u8> = (0..1_000).map(|_| chance.below(256) as u8).collect();
        changes.put(id("a"), at, &key(at), Some(&value));
    }
    store.save(at(21), &[node("a")], vec![changes]).unwrap();
    let state = newest(&store).unwrap();
    store.compact().unwrap();
    store.save(at(22), &[node("a")], vec![]).unwrap();
    let files = store.newest().manifest.clone().unwrap().files;
    assert!(files.len() == 1 && files[0].base && files[0].records == 10_000, "{files:?}");
    assert_eq!(newest(&store).unwrap(), state);
}
