//! Damaged files: every bit, every length, every mixture is noticed, told with its place, and the checkpoint before is used.

use std::fs;
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use super::simulated::Chance;
use super::*;

/// Two checkpoints of one file each that is its own: the second says anew what is in it.
fn two(directory: &Path) -> (Manifest, Manifest) {
    let mut store = open(directory);
    for tick in [1, 2] {
        let mut changes = Changes::new();
        for key in 0..5u8 {
            changes.put(id("a"), u64::from(key), &[key], Some(format!("value {key} at {tick}").as_bytes()));
        }
        store.save(at(tick), &[NodeState { anew: true, ..node("a") }], vec![changes]).unwrap();
        // The files of the first are not those of the second.
        store.go_on_from(None);
    }
    let all = store.archive().list().unwrap();
    let mut all = all.into_iter().map(|listed| listed.manifest.unwrap());
    let (second, first) = (all.next().unwrap(), all.next().unwrap());
    assert_ne!(first.files, second.files);
    (first, second)
}

fn data(directory: &Path, manifest: &Manifest) -> PathBuf {
    directory.join("files").join(&manifest.files[0].name)
}

fn manifest_path(directory: &Path, manifest: &Manifest) -> PathBuf {
    directory.join("manifests").join(manifest::manifest_name(manifest.sequence))
}

/// The second is found damaged, with the file named, and the first is used.
#[track_caller]
fn falls_back(directory: &Path, file: &Path, what: &str) -> String {
    let newest = Archive::open(directory).newest().unwrap_or_else(|why| panic!("{what}: {why}"));
    assert_eq!(newest.manifest.map(|manifest| manifest.sequence), Some(1), "{what} goes unnoticed");
    let [why] = newest.passed_over.as_slice() else { panic!("{what}: {:?}", newest.passed_over) };
    let why = why.to_string();
    assert!(why.contains(file.to_str().unwrap()), "{what}: {why}");
    why
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (_, second) = two(directory);
    let archive = Archive::open(directory);
    for file in [data(directory, &second), manifest_path(directory, &second)] {
        let good = fs::read(&file).unwrap();
        let is_data = file == data(directory, &second);
        let check = |bytes: &[u8], what: &str| {
            fs::write(&file, bytes).unwrap();
            falls_back(directory, &file, what);
            if is_data {
                let loaded = load(&archive, &second);
                assert!(loaded.is_err(), "{what} is not noticed when it is loaded");
            }
        };
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            check(&bytes, &format!("bit {bit} of {}", file.display()));
        }
        for length in 0..good.len() {
            check(&good[..length], &format!("{length} bytes of {}", file.display()));
            let mut zeroed = good.clone();
            zeroed[length..].fill(0);
            // A byte of nothing at the end is no change where there was one already.
            if zeroed != good {
                check(&zeroed, &format!("zeroes from byte {length} of {}", file.display()));
            }
        }
        check(&[good.as_slice(), b"\0"].concat(), "a byte more");
        check(&[good.as_slice(), good.as_slice()].concat(), "the same twice");
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(archive.newest().unwrap().manifest, Some(second));
}

#[test]
fn where_none_is_good_nothing_is_begun() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (first, second) = two(directory);
    let path = data(directory, &second);
    let mut bytes = fs::read(&path).unwrap();
    bytes[40] ^= 1;
    fs::write(&path, bytes).unwrap();
    fs::remove_file(data(directory, &first)).unwrap();
    let why = Store::open(directory, OPTIONS).unwrap_err().to_string();
    for part in
        ["none of the checkpoints", &first.files[0].name, "missing", &second.files[0].name, "checksum", "= help:"]
    {
        assert!(why.contains(part), "{part} is not in {why}");
    }
    fs::remove_dir_all(directory.join("manifests")).unwrap();
    assert!(open(directory).newest().manifest.is_none(), "without manifests there never was one");
}

#[test]
fn what_follows_a_damaged_one_pushes_it_out() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (_, second) = two(directory);
    let path = manifest_path(directory, &second);
    fs::write(&path, b"{\"haulstream_checkpoint\":").unwrap();
    let mut store = open(directory);
    assert_eq!(store.newest().passed_over.len(), 1);
    let before = newest(&store).unwrap();
    for tick in 3..6 {
        assert!(path.exists(), "it stays for as long as one before it may be needed");
        let saved = store.save(at(tick), &[node("a")], vec![]).unwrap();
        assert_eq!((saved.sequence, saved.left_undone.len()), (tick, 0), "its number is not used again");
    }
    assert!(!path.exists());
    assert_eq!(newest(&store).unwrap(), before);
}

#[test]
fn swapped_files_are_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (first, second) = two(directory);
    let (a, b) = (data(directory, &first), data(directory, &second));
    let (of_a, of_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    // In place of the second's: whole in itself, and not what the manifest is of.
    fs::write(&b, &of_a).unwrap();
    let why = falls_back(directory, &b, "the file of another checkpoint");
    assert!(why.contains("another file") || why.contains("bytes instead of"), "{why}");
    fs::write(&a, &of_b).unwrap();
    let why = Archive::open(directory).newest().unwrap_err().to_string();
    assert!(why.contains(a.to_str().unwrap()) && why.contains(b.to_str().unwrap()), "{why}");
    fs::write(&a, &of_a).unwrap();
    fs::write(&b, &of_b).unwrap();
    let (a, b) = (manifest_path(directory, &first), manifest_path(directory, &second));
    fs::copy(a, &b).unwrap();
    let why = falls_back(directory, &b, "the manifest of another checkpoint");
    assert!(why.contains("it is checkpoint 1, under the name of 2"), "{why}");
}

/// Writes the checksums again, as somebody would who makes a file to do harm; the manifest's as well.
fn sealed(mut bytes: Vec<u8>, manifest: &mut Manifest) -> Vec<u8> {
    let seal = |bytes: &mut [u8], from: usize, to: usize| {
        let checksum = xxh3_64(&bytes[from..to]);
        bytes[to..to + 8].copy_from_slice(&checksum.to_le_bytes());
    };
    let end = bytes.len() - 48;
    seal(&mut bytes, 0, 24);
    let block = [&bytes[32..48], &bytes[56..end]].concat();
    bytes[48..56].copy_from_slice(&xxh3_64(&block).to_le_bytes());
    let whole = xxh3_64(&bytes[..end]);
    bytes[end + 32..end + 40].copy_from_slice(&whole.to_le_bytes());
    seal(&mut bytes, end, end + 40);
    (manifest.files[0].checksum, manifest.files[0].bytes) = (whole, bytes.len() as u64);
    bytes
}

#[test]
fn lengths_are_believed_only_after_they_were_checked() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (_, second) = two(directory);
    let (path, archive) = (data(directory, &second), Archive::open(directory));
    let good = fs::read(&path).unwrap();
    let mut checked = second.clone();
    assert_eq!(sealed(good.clone(), &mut checked), good, "the seals of a good file are these");
    let patched = |at: usize, number: u32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
        let mut manifest = second.clone();
        fs::write(&path, sealed(bytes, &mut manifest)).unwrap();
        load(&archive, &manifest).unwrap_err().to_string()
    };
    assert!(patched(32, u32::MAX).contains("a block of 4294967295 bytes, where "), "stored length");
    assert!(patched(36, u32::MAX).contains("records in 4294967295 bytes"), "length");
    assert!(patched(36, 1 << 20).contains("has not the 1048576 bytes"), "a length that the content has not");
    assert!(patched(40, u32::MAX).contains("a block of 4294967295 records"), "records");
    assert!(patched(40, 6).contains("no record in its place"), "records that are not there");
    assert!(patched(40, 4).contains("more bytes than records"), "records that are not counted");
    assert!(patched(44, 9).contains("compression 9"), "compression");
    assert!(patched(8, 3).contains("made by v3, this build reads v1"), "version");
}

/// A file that was changed anywhere and sealed again is refused or read, and neither hangs nor takes the process down.
#[test]
fn hostile_files_are_read_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut store = open(directory);
    let mut changes = Changes::new();
    for key in 0..6u8 {
        // Too little and too mixed to be compressed: lengths of records are in reach.
        let value: Vec<u8> = (0..9u8).map(|n| n.wrapping_mul(83).wrapping_add(key * 31)).collect();
        changes.put(id(if key < 3 { "a" } else { "b" }), u64::from(key), &[key], Some(&value));
    }
    store.save(at(1), &[node("a"), node("b")], vec![changes]).unwrap();
    let manifest = store.newest().manifest.clone().unwrap();
    let path = data(directory, &manifest);
    let good = fs::read(&path).unwrap();
    let (mut refused, mut chance) = (0, Chance::new(3));
    for _ in 0..4_000 {
        let (mut bytes, mut manifest) = (good.clone(), manifest.clone());
        for _ in 0..=chance.below(3) {
            let at = 56 + chance.below(good.len() as u64 - 48 - 56) as usize;
            bytes[at] = match chance.below(3) {
                0 => 0xff,
                1 => bytes[at] ^ (1 << chance.below(8)),
                _ => chance.below(256) as u8,
            };
        }
        fs::write(&path, sealed(bytes, &mut manifest)).unwrap();
        refused += u32::from(load(store.archive(), &manifest).is_err());
    }
    assert!(refused > 300, "{refused} were refused");
}
