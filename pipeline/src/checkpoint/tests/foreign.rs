//! What does not belong there, is newer than this program, or is somebody else's.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

/// A directory with one checkpoint.
fn one() -> (tempfile::TempDir, Manifest) {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(directory.path());
    let mut changes = Changes::new();
    changes.put(id("a"), 1, b"k", Some(b"v"));
    store.save(at(1), &[node("a")], vec![changes]).unwrap();
    let manifest = store.newest().manifest.clone().unwrap();
    (directory, manifest)
}

#[test]
fn an_empty_directory_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let below = directory.path().join("not").join("there");
    let archive = Archive::open(&below);
    assert!(archive.newest().unwrap().manifest.is_none() && archive.list().unwrap().is_empty());
    assert!(!below.exists(), "reading makes nothing");
    assert!(open(&below).newest().manifest.is_none());
}

#[test]
fn foreign_files_are_named() {
    let (directory, manifest) = one();
    let file = directory.path().join("files").join(&manifest.files[0].name);
    let manifest = directory.path().join("manifests").join("00000000000000000001.json");
    let elsewhere = directory.path().join("elsewhere");
    for path in [&file, &manifest] {
        let good = fs::read(path).unwrap();
        let refused = |what: &str| {
            let why = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
            assert!(why.contains(path.to_str().unwrap()) && why.contains(what), "{what}: {why}");
        };
        fs::write(path, b"PK\x03\x04 an archive, which is longer than any header of ours would be").unwrap();
        refused("is not a checkpoint (magic \"PK\\u{3}\\u{4}");
        fs::write(path, b"").unwrap();
        refused("empty");
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        refused("is not a checkpoint (it is a directory)");
        fs::remove_dir(path).unwrap();
        fs::write(&elsewhere, &good).unwrap();
        symlink(&elsewhere, path).unwrap();
        refused("is not a checkpoint (it is a symbolic link)");
        fs::remove_file(path).unwrap();
        fs::write(path, &good).unwrap();
        open(directory.path());
    }
    fs::rename(&manifest, directory.path().join("manifests").join("notes.txt")).unwrap();
    let why = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
    assert!(why.contains("notes.txt is not a checkpoint (its name"), "{why}");
}

#[test]
fn foreign_files_are_left_alone() {
    let (directory, _) = one();
    let names = ["files/notes.txt", "manifests/notes.txt", "owners/notes.txt", "files/1-1.data.bak"];
    for name in names {
        fs::write(directory.path().join(name), b"mine").unwrap();
    }
    let orphan = directory.path().join("files/0000000001-0000000099.data");
    let unfinished = directory.path().join("files/0000000001-0000000098.data.7.tmp");
    fs::write(&orphan, b"ours").unwrap();
    fs::write(&unfinished, b"ours").unwrap();
    let mut store = open(directory.path());
    for tick in 2..6 {
        assert_eq!(store.save(at(tick), &[node("a")], vec![]).unwrap().left_undone.len(), 0);
    }
    assert!(!orphan.exists() && !unfinished.exists());
    assert!(names.iter().all(|name| directory.path().join(name).exists()));
    assert_eq!(newest(&store).unwrap().len(), 1);
    for _ in 0..5 {
        drop(store);
        store = open(directory.path());
    }
    assert_eq!(store.generation(), 7);
    assert_eq!(fs::read_dir(directory.path().join("owners")).unwrap().count(), 4, "three of ours and the note");
}

#[test]
fn a_newer_program_s_checkpoint_is_not_passed_over() {
    let (directory, manifest) = one();
    let body = serde_json::to_string(&manifest).unwrap();
    let newer = manifest::sealed(3, &body);
    fs::write(directory.path().join("manifests").join("00000000000000000002.json"), newer).unwrap();
    let why = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
    assert!(why.contains("00000000000000000002.json: made by v3, this build reads v1"), "{why}");
}

#[test]
fn names_of_files_cannot_lead_out_of_the_directory() {
    let (directory, good) = one();
    for name in ["../../secret.data", "/etc/passwd", "0000000001-000000001.data", "", "0000000001-0000000001.data/x"] {
        let mut manifest = good.clone();
        name.clone_into(&mut manifest.files[0].name);
        fs::write(directory.path().join("manifests").join("00000000000000000001.json"), manifest.to_text()).unwrap();
        let why = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
        assert!(why.contains("is no name of a file"), "{name}: {why}");
    }
}

#[test]
fn what_may_not_be_read_is_named_and_nothing_older_is_used() {
    let (directory, manifest) = one();
    let mut store = open(directory.path());
    store.save(at(2), &[node("a")], vec![]).unwrap();
    drop(store);
    let path = directory.path().join("manifests").join("00000000000000000002.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Somebody who may read everything reads this too.
    if fs::File::open(&path).is_ok() {
        assert_eq!(open(directory.path()).newest().manifest.as_ref().map(|m| m.sequence), Some(2));
        assert_eq!(manifest.sequence, 1);
        return;
    }
    let why = Store::open(directory.path(), OPTIONS).unwrap_err().to_string();
    assert!(why.contains(path.to_str().unwrap()) && why.contains("denied"), "{why}");
}

#[test]
fn a_checkpoint_goes_to_another_directory_and_back() {
    let (directory, first) = one();
    let backup = directory.path().join("backup");
    let archive = Archive::open(directory.path());
    let exported = archive.export(&first, &backup).unwrap();
    assert_eq!((exported.sequence, &exported.moment, &exported.nodes), (1, &first.moment, &first.nodes));
    let why = archive.export(&first, &backup).unwrap_err().to_string();
    assert!(why.contains("has checkpoints already, the newest is 1"), "{why}");

    let mut store = open(directory.path());
    let mut changes = Changes::new();
    changes.put(id("a"), 1, b"k", Some(b"later"));
    store.save(at(2), &[node("a")], vec![changes]).unwrap();
    let imported = store.import(&Archive::open(&backup), &exported).unwrap();
    assert_eq!((imported.sequence, imported.moment.tick), (3, 1));
    let expected: State = [((id("a"), b"k".to_vec()), (1, b"v".to_vec()))].into();
    assert_eq!(newest(&store).unwrap(), expected);
    let mut changes = Changes::new();
    changes.put(id("a"), 2, b"k2", Some(b"v2"));
    store.save(at(3), &[node("a")], vec![changes]).unwrap();
    drop(store);
    assert_eq!(newest(&open(directory.path())).unwrap().len(), 2);

    let copy = backup.join("files").join(&exported.files[0].name);
    let mut bytes = fs::read(&copy).unwrap();
    bytes[50] ^= 4;
    fs::write(&copy, bytes).unwrap();
    let mut store = open(directory.path());
    let why = store.import(&Archive::open(&backup), &exported).unwrap_err().to_string();
    assert!(why.contains(copy.to_str().unwrap()), "{why}");
    assert_eq!(newest(&store).unwrap().len(), 2);
}

/// A checkpoint as the first version of the format wrote it is read for as long as that version is.
#[test]
fn the_first_version_is_read() {
    let archive = Archive::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src/checkpoint/tests/v1"));
    let manifest = archive.newest().unwrap().manifest.unwrap();
    assert_eq!((manifest.sequence, manifest.moment.tick, manifest.files.len()), (2, 1_760_000_000_005, 2));
    assert_eq!(manifest.moment.positions[0].offset, 42);
    assert_eq!(manifest.moment.sinks["redis"]["vehicle_state"], 1_760_000_000_000);
    let expected: State = [
        ((id("silence"), b"d1".to_vec()), (11, b"online ".repeat(30))),
        ((id("vehicle"), b"".to_vec()), (0, b"".to_vec())),
    ]
    .into();
    assert_eq!(load(&archive, &manifest).unwrap(), expected);
}
