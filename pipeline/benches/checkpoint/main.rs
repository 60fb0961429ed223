//! What saving and loading checkpoints takes: `cargo bench -p pipeline --bench checkpoint [DIRECTORY]`.
//!
//! 500,000 records of about 100 bytes, a third of which look like chance and the rest like the last record; saved whole, loaded,
//! then changed by 1 % and by 100 % from one checkpoint to the next.

use std::path::Path;
use std::time::{Duration, Instant};

use pipeline::checkpoint::{Changes, Moment, NodeId, NodeState, Options, Store};
use xxhash_rust::xxh3::xxh3_64;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const RECORDS: u64 = 500_000;
const OPTIONS: Options = Options { keep: 3, compact_beside: false };

fn main() {
    let directory = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    let directory = match &directory {
        Some(directory) => tempfile::tempdir_in(directory),
        None => tempfile::tempdir(),
    };
    let directory = directory.expect("a directory");
    println!(
        "{RECORDS} records, opt-level as the profile has it: {}",
        if cfg!(debug_assertions) { "dev" } else { "release" }
    );
    whole(&directory.path().join("whole"));
    for (share, checkpoints) in [(100, 200), (1, 8)] {
        changing(&directory.path().join(format!("one in {share}")), share, checkpoints);
    }
}

fn whole(directory: &Path) {
    let mut store = Store::open(directory, OPTIONS).expect("a directory");
    let mut changes = Changes::new();
    let (filled, ()) = timed(|| fill(&mut changes, 0, 1));
    let bytes = changes.bytes() as u64;
    println!("put      {}", figures(RECORDS, bytes, filled));
    let (saving, saved) = timed(|| save(&mut store, 1, changes));
    println!("save     {}, {} bytes on disk", figures(RECORDS, bytes, saving), saved.bytes);
    drop(store);
    let (opening, store) = timed(|| Store::open(directory, OPTIONS).expect("a directory"));
    println!("open     {}", figures(RECORDS, saved.bytes, opening));
    let manifest = store.newest().manifest.clone().expect("it was saved");
    let mut content = 0;
    let (loading, loaded) = timed(|| {
        store.archive().load(&manifest, |record| {
            content += (record.key.len() + record.value.map_or(0, <[u8]>::len)) as u64;
            Ok(())
        })
    });
    assert_eq!(loaded.expect("it is good").records, RECORDS);
    println!("load     {}", figures(RECORDS, content, loading));
}

/// Every `share`-th key changes from each checkpoint to the next.
fn changing(directory: &Path, share: u64, checkpoints: u64) {
    let mut store = Store::open(directory, OPTIONS).expect("a directory");
    let mut changes = Changes::new();
    fill(&mut changes, 0, 1);
    let state = save(&mut store, 1, changes).bytes;
    let before = written();
    let (mut deltas, mut saving, mut merging, mut most_bytes, mut most_files) =
        (0, Duration::ZERO, Duration::ZERO, 0, 0);
    for tick in 2..checkpoints + 2 {
        let mut changes = Changes::new();
        fill(&mut changes, tick, share);
        let (took, saved) = timed(|| save(&mut store, tick, changes));
        saving += took;
        deltas += saved.bytes;
        most_bytes = most_bytes.max(saved.bytes_of_all);
        most_files = most_files.max(saved.files);
        let (took, done) = timed(|| store.compact());
        done.expect("merged");
        merging += took;
    }
    println!(
        "1 in {share}: {checkpoints} checkpoints of {} bytes in {:.1} ms each, merges {:.1} ms each; at most {most_files} files and \
         {:.2} times the state's {state} bytes; \
         {:.1} bytes written for each of a delta",
        deltas / checkpoints,
        saving.as_secs_f64() * 1e3 / checkpoints as f64,
        merging.as_secs_f64() * 1e3 / checkpoints as f64,
        most_bytes as f64 / state as f64,
        (written() - before) as f64 / deltas as f64,
    );
}

/// Bytes that this process has written so far, as Linux counts them; elsewhere 0.
fn written() -> u64 {
    let counts = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = counts.lines().find_map(|line| line.strip_prefix("wchar: "));
    line.and_then(|count| count.parse().ok()).unwrap_or(0)
}

fn save(store: &mut Store, tick: u64, changes: Changes) -> pipeline::checkpoint::Saved {
    let nodes = [NodeState { name: "bench".to_owned(), plan: 1, anew: false }];
    let moment = Moment { tick, workers: 1, ..Moment::default() };
    store.save(moment, &nodes, vec![changes]).expect("saved")
}

fn fill(changes: &mut Changes, tick: u64, share: u64) {
    let node = NodeId::of("bench", 1);
    let mut value = [7; 84];
    for key in (0..RECORDS).filter(|key| key % share == tick % share) {
        let hash = xxh3_64(&[key.to_le_bytes(), tick.to_le_bytes()].concat());
        for at in 0..4 {
            value[at * 20..at * 20 + 8].copy_from_slice(&hash.rotate_left(at as u32 * 13).to_le_bytes());
        }
        changes.put(node, hash, format!("vehicle-{key:08}").as_bytes(), Some(&value));
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let done = work();
    (start.elapsed(), done)
}

fn figures(records: u64, bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64();
    let (records, megabytes) = (records as f64 / seconds / 1e6, bytes as f64 / seconds / 1e6);
    format!("{:.0} ms: {records:.2} million records/s, {megabytes:.0} MB/s", seconds * 1e3)
}
