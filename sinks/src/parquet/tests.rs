//! The history on a real disk. The tests would catch: a row lost or doubled by a kill, by another number of workers, by files
//! put together or by a step over midnight; a file that can be seen and not be read; a limit that removes what tells how far
//! the writing is.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringViewArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use operators::batch::HASH;
use operators::batch::{OFFSET, PARTITION, TICK, i64s};
use operators::history_file::current;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tempfile::TempDir;

use super::*;
use crate::run::{self, Feed, Route, Running};
use crate::step::Rows;

const WAIT: Duration = Duration::from_secs(60);
const STREAM: &str = "telemetry_enriched";
/// A second before midnight, so that what follows lies in two days.
const BEGIN: Tick = 1_767_225_599_000;

fn options(directory: &Path) -> Options {
    Options {
        directory: directory.to_owned(),
        merge_files: 4,
        file_bytes_max: 1 << 20,
        retention_bytes_max: 1 << 40,
        row_group_rows_max: 1_000,
    }
}

fn table() -> Table {
    Table { stream: STREAM, identity: &[PARTITION, OFFSET] }
}

fn sink(directory: &Path, workers: usize) -> ParquetSink {
    ParquetSink::new(options(directory), workers, vec![table()])
}

/// Rows with these offsets, ten milliseconds from each to the next.
fn rows(offsets: impl Iterator<Item = i64>) -> RecordBatch {
    let offsets: Vec<i64> = offsets.collect();
    let columns: Vec<(&str, DataType, ArrayRef)> = vec![
        (
            "device_id",
            DataType::Utf8View,
            Arc::new(StringViewArray::from_iter_values(offsets.iter().map(|o| format!("device number {}", o % 100)))),
        ),
        (PARTITION, DataType::Int32, Arc::new(Int32Array::from_iter_values(offsets.iter().map(|_| 3)))),
        (OFFSET, DataType::Int64, Arc::new(Int64Array::from(offsets.clone()))),
        (HASH, DataType::UInt64, Arc::new(UInt64Array::from_iter_values(offsets.iter().map(|o| *o as u64)))),
        (TICK, DataType::UInt64, Arc::new(UInt64Array::from_iter_values(offsets.iter().map(|&o| tick(o))))),
    ];
    let fields: Vec<Field> = columns.iter().map(|(name, kind, _)| Field::new(*name, kind.clone(), false)).collect();
    let columns = columns.into_iter().map(|(_, _, column)| column).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn tick(offset: i64) -> Tick {
    BEGIN + 10 * offset as u64
}

fn step(worker: usize, from: i64, upto: i64) -> Step {
    let rows = vec![Rows::Append(rows(from..upto))];
    Step { stream: STREAM, worker, from: tick(from), upto: tick(upto), rows }
}

/// All files that a reader takes, and how often each offset is in them. Every file that can be seen must be readable.
fn read(directory: &Path) -> (Vec<Name>, BTreeMap<i64, u32>) {
    loop {
        let files = list(directory);
        // Files were put together while they were listed: neither the parts nor the whole may be in the list.
        if files != list(directory) {
            continue;
        }
        let offsets = files.iter().map(|(path, name)| offsets(path, name)).collect::<Option<Vec<_>>>();
        // ... or between then and now.
        let Some(offsets) = offsets else { continue };
        let mut times = BTreeMap::new();
        offsets.into_iter().flatten().for_each(|offset| *times.entry(offset).or_default() += 1);
        return (files.into_iter().map(|(_, name)| name).collect(), times);
    }
}

fn list(directory: &Path) -> Vec<(PathBuf, Name)> {
    let mut all = Vec::new();
    for folder in fs::read_dir(directory.join(STREAM)).into_iter().flatten() {
        let folder = folder.unwrap().path();
        let seen = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let parquet: Vec<String> = seen.filter(|name| name.ends_with(".parquet")).collect();
        let names = current(parquet.iter().map(|name| Name::parse(name).expect(name)).collect(), |name| *name);
        all.extend(names.into_iter().map(|name| (folder.join(name.to_string()), name)));
    }
    all
}

/// The offsets in a file; `None` if it is not there any more.
fn offsets(path: &Path, name: &Name) -> Option<Vec<i64>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        file => file.unwrap(),
    };
    let folder = path.parent().unwrap().file_name().unwrap().to_str().unwrap();
    let mut offsets = Vec::new();
    for batch in ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap() {
        let batch = batch.unwrap();
        assert!(batch.column_by_name(HASH).is_none());
        for (&offset, &tick) in i64s(&batch, OFFSET).values().iter().zip(ticks(&batch).values()) {
            assert!((name.from..name.upto).contains(&tick));
            assert_eq!(file::date(tick / DAY_MS * DAY_MS), folder);
            offsets.push(offset);
        }
    }
    Some(offsets)
}

#[track_caller]
fn each_once(directory: &Path, count: i64) -> Vec<Name> {
    let (names, offsets) = read(directory);
    let doubled: Vec<_> = offsets.iter().filter(|(_, times)| **times != 1).take(5).collect();
    assert!(doubled.is_empty(), "offsets and how often they are there: {doubled:?}");
    assert_eq!(offsets.len() as i64, count);
    assert!(offsets.keys().copied().eq(0..count));
    names
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {WAIT:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[tokio::test]
async fn a_step_over_midnight_is_two_files_and_the_names_tell_how_far_it_is() {
    let directory = TempDir::new().unwrap();
    let mut sink = sink(directory.path(), 2);
    sink.open().await.unwrap();
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), None);
    sink.apply(&step(0, 0, 300)).await.unwrap();
    sink.apply(&step(0, 0, 300)).await.unwrap();
    let mut names: Vec<String> = each_once(directory.path(), 300).iter().map(Name::to_string).collect();
    names.sort();
    assert_eq!(
        names,
        ["0001767225599000-0001767225600000-0of2.parquet", "0001767225600000-0001767225602000-0of2.parquet"]
    );
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(tick(300)));
    assert_eq!(sink.applied(STREAM, 1).await.unwrap(), None);
    drop(sink);
    // As if the process had ended between the two: the second day has to come again.
    let second = directory.path().join(STREAM).join("date=2026-01-01");
    fs::remove_file(second.join(&names[1])).unwrap();
    fs::write(second.join(format!("{}.7.tmp", names[1])), b"PAR1").unwrap();
    let mut sink = self::sink(directory.path(), 2);
    sink.open().await.unwrap();
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(1_767_225_600_000));
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0, "what was not finished is removed");
    sink.apply(&step(0, 100, 300)).await.unwrap();
    each_once(directory.path(), 300);
}

#[tokio::test]
async fn another_number_of_workers_writes_only_what_is_not_there() {
    let directory = TempDir::new().unwrap();
    let mut two = sink(directory.path(), 2);
    two.open().await.unwrap();
    two.apply(&step(0, 0, 100)).await.unwrap();
    two.apply(&step(1, 100, 150)).await.unwrap();
    drop(two);
    let mut three = sink(directory.path(), 3);
    three.open().await.unwrap();
    assert_eq!(three.applied(STREAM, 1).await.unwrap(), None);
    three.apply(&step(1, 50, 200)).await.unwrap();
    each_once(directory.path(), 200);
    drop(three);
    let mut two = sink(directory.path(), 2);
    two.open().await.unwrap();
    assert_eq!(two.applied(STREAM, 0).await.unwrap(), Some(tick(100)));
    // The rows from 100 to 150 are the other worker's; those up to 200 are there from the three.
    two.apply(&step(0, 150, 250)).await.unwrap();
    each_once(directory.path(), 250);
}

#[tokio::test]
async fn many_files_become_few_and_their_rows_stay() {
    let directory = TempDir::new().unwrap();
    let mut sink = sink(directory.path(), 1);
    sink.open().await.unwrap();
    for number in 0..100 {
        sink.apply(&step(0, number * 10, number * 10 + 10)).await.unwrap();
        read(directory.path()).1.into_iter().for_each(|(offset, times)| assert_eq!(times, 1, "offset {offset}"));
        if let Some(merging) = sink.merging.take_if(|_| number % 2 == 0) {
            merging.await.unwrap();
        }
    }
    let names = each_once(directory.path(), 1_000);
    assert!(names.len() < 20, "{} files", names.len());
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(tick(1_000)));
    if let Some(merging) = sink.merging.take() {
        merging.await.unwrap();
    }
    drop(sink);
    // As if the process had ended before the parts were removed.
    let folder = directory.path().join(STREAM).join("date=2026-01-01");
    let whole = names.iter().max_by_key(|name| name.upto - name.from).unwrap();
    let part = Name { upto: whole.from + 10, ..*whole };
    fs::copy(folder.join(whole.to_string()), folder.join(part.to_string())).unwrap();
    let mut sink = self::sink(directory.path(), 1);
    sink.open().await.unwrap();
    assert!(!folder.join(part.to_string()).exists());
    each_once(directory.path(), 1_000);
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_and_the_oldest_go_first() {
    let directory = TempDir::new().unwrap();
    let small = Options { merge_files: 1_000, retention_bytes_max: 20_000, ..options(directory.path()) };
    let mut sink = ParquetSink::new(small.clone(), 1, vec![table()]);
    sink.open().await.unwrap();
    for number in 10..40 {
        sink.apply(&step(0, number * 10, number * 10 + 10)).await.unwrap();
    }
    let (names, offsets) = read(directory.path());
    assert!((2..20).contains(&names.len()), "{} files", names.len());
    assert!(offsets.keys().copied().eq(400 - offsets.len() as i64..400), "the newest are kept");
    let bytes: u64 = names.iter().map(|name| fs::metadata(path_of(directory.path(), name)).unwrap().len()).sum();
    assert!(bytes <= 20_000, "{bytes}");
    drop(sink);
    let oldest = names.iter().min_by_key(|name| name.from).unwrap();
    let torn = path_of(directory.path(), oldest);
    fs::write(&torn, &fs::read(&torn).unwrap()[..100]).unwrap();
    let mut sink = ParquetSink::new(Options { retention_bytes_max: 1, ..small }, 1, vec![table()]);
    sink.open().await.unwrap();
    assert!(!torn.exists() && torn.with_extension("damaged").exists());
    sink.apply(&step(0, 400, 410)).await.unwrap();
    assert_eq!(read(directory.path()).1.len(), 10, "only the newest file is left");
    assert_eq!(sink.applied(STREAM, 0).await.unwrap(), Some(tick(410)));
}

fn path_of(directory: &Path, name: &Name) -> PathBuf {
    directory.join(STREAM).join(file::date(name.from / DAY_MS * DAY_MS)).join(name.to_string())
}

#[tokio::test]
async fn only_one_process_writes_to_a_directory() {
    let directory = TempDir::new().unwrap();
    let mut first = sink(directory.path(), 1);
    first.open().await.unwrap();
    first.open().await.unwrap();
    let mut second = sink(directory.path(), 1);
    let error = second.open().await.unwrap_err();
    assert!(error.to_string().ends_with("cannot be opened: another process writes to it"), "{error}");
    drop(first);
    second.open().await.unwrap();
}

/// How many rows the log of the kill test has.
const LOG_ROWS: i64 = 6_000;

/// Replays the log from its start, spread over so many workers, as a process does that comes up.
fn replay(directory: &Path, workers: usize) -> (Feed, Running) {
    let feeding = run::Options {
        rows_max: 100,
        bytes_max: 1 << 20,
        flush_ms: 1,
        conflate_rows_max: 100,
        queue_bytes_max: 1 << 30,
        retry_ms_min: 1,
        retry_ms_max: 20,
        apply_ms_max: 60_000,
    };
    let (tell, _) = tokio::sync::mpsc::channel(1);
    let route = Route { stream: STREAM, keys: &[] };
    let (feed, running) = run::start(sink(directory, workers), feeding, vec![route], workers, 0, tell);
    for from in (0..LOG_ROWS).step_by(50) {
        for worker in 0..workers {
            let mine = (from..from + 50).filter(|offset| *offset as usize / 7 % workers == worker);
            feed.push(STREAM, worker, Rows::Append(rows(mine)));
            feed.close(STREAM, worker, tick(from + 50));
        }
    }
    (feed, running)
}

/// Processes of different numbers of workers are killed in the middle of writing, one after the other; a last one comes to
/// the end of the log. A killed process is this test's own binary, told by a variable to be one.
#[test]
fn a_kill_loses_and_doubles_nothing() {
    #[expect(clippy::disallowed_methods, reason = "how this test tells the process that it starts what to be")]
    let role = std::env::var("HAULSTREAM_TEST_PARQUET").ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _inside = runtime.enter();
    if let Some((workers, directory)) = role.as_deref().and_then(|role| role.split_once(' ')) {
        let (_feed, _running) = replay(Path::new(directory), workers.parse().unwrap());
        wait("the kill", || false);
    }
    let directory = TempDir::new().unwrap();
    let files = |directory: &Path| read(directory).0.len();
    for (life, workers) in [2, 1, 3, 3, 2].into_iter().enumerate() {
        let before = read(directory.path()).1.len();
        let mut child = Killed::start(&format!("{workers} {}", directory.path().display()));
        wait("the process writes", || {
            assert!(child.0.try_wait().unwrap().is_none(), "the process ended by itself");
            // Reading all the while checks that no file is seen before it is whole.
            files(directory.path()) > 0
                && read(directory.path()).1.len() > (before + 200 + life * 37).min(LOG_ROWS as usize - 1)
        });
    }
    let (feed, running) = replay(directory.path(), 2);
    wait("the whole log is written", || feed.durable_min() == tick(LOG_ROWS) && feed.queued_rows() == 0);
    assert_eq!(runtime.block_on(running.drain(WAIT)), 0);
    each_once(directory.path(), LOG_ROWS);
}

struct Killed(Child);

impl Killed {
    fn start(role: &str) -> Killed {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "parquet::tests::a_kill_loses_and_doubles_nothing", "--nocapture"]);
        command.env("HAULSTREAM_TEST_PARQUET", role).stdout(Stdio::null()).stderr(Stdio::null());
        Killed(command.spawn().unwrap())
    }
}

impl Drop for Killed {
    /// KILL, which leaves it no chance to finish anything.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
