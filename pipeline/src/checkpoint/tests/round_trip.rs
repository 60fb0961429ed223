//! What is put in comes out: over many checkpoints, merges and starts.

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
