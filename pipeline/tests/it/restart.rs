//! A process that is killed again and again, and goes on from its checkpoints, against one that reads the same log and is never
//! killed: the same history, and the same state on the map. Would catch anything that is lost, doubled or made of other state
//! where one process ends and the next goes on, with any number of workers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::program::Program;
use crate::services::{wait_until, wait_until_async};

/// Numbers from a seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// A directory of data with a configuration of its own.
struct Place {
    directory: PathBuf,
}

impl Place {
    fn new(directory: &Path, name: &str) -> Self {
        let directory = directory.join(name);
        std::fs::create_dir_all(directory.join("data")).expect("a directory");
        Self { directory }
    }

    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn start(&self, workers: u64, more: &str) -> Program {
        let file = self.directory.join("fleet.toml");
        let text = format!(
            "[run]\nworkers = {workers}\n[parquet]\nflush_ms = 200\n[reads]\npostgres_listen = \"127.0.0.1:0\"\n\
             [silence]\noffline_after_s = 2\n{more}"
        );
        std::fs::write(&file, text).expect("a file");
        Program::start(&["--config", path(&file), "--data", path(&self.data())])
    }

    /// The newest manifest, without its checksum.
    fn newest(&self) -> Option<Value> {
        let manifests = std::fs::read_dir(self.data().join("checkpoints/manifests")).ok()?;
        let newest = manifests.filter_map(|entry| Some(entry.ok()?.path())).max()?;
        let text = std::fs::read_to_string(newest).ok()?;
        Some(serde_json::from_str::<Value>(&text).ok()?["manifest"].take())
    }

    fn sequence(&self) -> u64 {
        self.newest().and_then(|manifest| manifest["sequence"].as_u64()).unwrap_or(0)
    }

    /// The lines that the history answers with.
    fn history(&self, sql: &str) -> Vec<String> {
        let output = Command::new(env!("CARGO_BIN_EXE_haulstream"))
            .args(["history", "--format", "csv", "--data", path(&self.data()), sql])
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").lines().skip(1).map(str::to_owned).collect()
    }

    fn count(&self, sql: &str) -> u64 {
        self.history(sql).first().and_then(|line| line.parse().ok()).unwrap_or(0)
    }
}

async fn figure(url: &str, name: &str) -> u64 {
    let Ok(answer) = reqwest::get(format!("{url}/metrics")).await else { return 0 };
    let text = answer.text().await.unwrap_or_default();
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum::<f64>() as u64
}

/// The vehicles on the map by id, without what depends on the moment.
async fn vehicles(url: &str) -> BTreeMap<String, Value> {
    let answer = reqwest::get(format!("{url}/realtime/snapshot")).await.expect("the edge answers");
    let body: Value = answer.json().await.expect("JSON");
    let rows = body["rows"].as_array().expect("rows").clone();
    let row = |mut row: Value| {
        let of = row["vehicle_id"].as_str().expect("an id").to_owned();
        for name in ["version", "status", "offline_since"] {
            row.as_object_mut().expect("an object").remove(name);
        }
        (of, row)
    };
    rows.into_iter().map(row).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

const DRIVING: &str = "[simulator]\nvehicles = 300\nrate_per_s = 1500.0\nchanges_per_s = 20.0\nlost_link_pct = 20.0\n\
                       [checkpoint]\nevery_ms = 100\n";
const STILL: &str = "[simulator]\nenabled = false\n";
const ALL: &str = "SELECT * FROM telemetry_history ORDER BY \"__partition\", \"__offset\"";
const KILLS: u64 = 8;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_process_goes_on_as_if_it_had_not_been() {
    let (directory, seed) = (tempfile::tempdir().expect("a directory"), 20_261_125);
    let (killed, whole) = (Place::new(directory.path(), "killed"), Place::new(directory.path(), "whole"));
    let mut dice = Dice(seed);
    for number in 0..KILLS {
        let program = killed.start(1 + dice.below(3), DRIVING);
        // At times before the first checkpoint of a start, mostly some after it.
        let (saved, more) = (killed.sequence(), dice.below(4));
        wait_until_async(Duration::from_secs(60), "checkpoints", async || killed.sequence() >= saved + more).await;
        let rows = figure(&program.url, "haulstream_worker_rows_total").await + dice.below(900);
        wait_until_async(Duration::from_secs(60), "rows", async || {
            figure(&program.url, "haulstream_worker_rows_total").await >= rows
        })
        .await;
        println!("kill {number} (seed {seed}): {more} checkpoints and {rows} rows after the start");
        drop(program); // with SIGKILL
    }
    let last = killed.start(2, DRIVING);
    let saved = killed.sequence();
    wait_until(Duration::from_secs(60), "a checkpoint", || killed.sequence() > saved);
    assert_eq!(last.stop(), Some(0));
    let end = killed.newest().expect("a checkpoint")["moment"]["tick"].as_u64().expect("a tick");

    copy(&killed.data().join("log"), &whole.data().join("log"));
    let reference = whole.start(2, &format!("{STILL}[checkpoint]\nenabled = false\n"));
    let frontier = "haulstream_worker_frontier_seconds{worker=\"0\"}";
    wait_until_async(Duration::from_secs(60), "the whole log", async || {
        figure(&reference.url, frontier).await > end / 1_000 + 1
    })
    .await;
    let again = killed.start(3, STILL);
    let expected = vehicles(&reference.url).await;
    assert_eq!(expected.len(), 300);
    wait_until_async(Duration::from_secs(60), "all vehicles", async || vehicles(&again.url).await.len() == 300).await;
    let found = vehicles(&again.url).await;
    let other = expected.iter().find(|(id, row)| found.get(*id) != Some(row));
    assert!(other.is_none(), "{other:?} is {:?}", other.and_then(|(id, _)| found.get(id)));
    assert_eq!((again.stop(), reference.stop()), (Some(0), Some(0)));

    let events = format!("SELECT * FROM vehicle_events WHERE \"__tick\" < {end} ORDER BY \"__tick\", device_id, kind");
    let minutes =
        "SELECT company_id, window_start, fixes, average_speed_kmh, top_speed_kmh FROM company_minute ORDER BY 1, 2";
    let refused = "SELECT topic, \"partition\", \"offset\", code FROM rejected ORDER BY 1, 2, 3";
    for (sql, least) in [(ALL, 3_000), (&events, 100), (minutes, 3), (refused, 1)] {
        let (found, expected) = (killed.history(sql), whole.history(sql));
        let at = (0..found.len().max(expected.len())).find(|&at| found.get(at) != expected.get(at));
        let (count, other) = ((found.len(), expected.len()), at.map(|at| (found.get(at), expected.get(at))));
        assert!(other.is_none(), "{sql}: {count:?} rows, the first that differ are {other:#?}");
        assert!(found.len() >= least, "{sql}: only {} rows", found.len());
    }
    let doubled = "SELECT count(*) - count(DISTINCT CAST(\"__partition\" AS VARCHAR) || '/' || CAST(\"__offset\" AS VARCHAR)) \
                   FROM telemetry_history";
    assert_eq!(killed.count(doubled), 0);
}

/// Nothing is read again that was done before an orderly end, and what cannot be gone on from is said, with the numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_goes_on_from_the_last_checkpoint_or_says_why_not() {
    let directory = tempfile::tempdir().expect("a directory");
    let place = Place::new(directory.path(), "place");
    let first = place.start(2, DRIVING);
    wait_until(Duration::from_secs(60), "a checkpoint", || place.sequence() > 1);
    assert_eq!(first.stop(), Some(0));
    let second = place.start(2, STILL);
    wait_until_async(Duration::from_secs(60), "vehicles", async || vehicles(&second.url).await.len() == 300).await;
    assert_eq!(figure(&second.url, "haulstream_worker_rows_total").await, 0, "everything was done");
    let other = Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args(["run", "--listen", "127.0.0.1:0", "--config", path(&place.directory.join("fleet.toml"))])
        .args(["--data", path(&place.data())])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && said.contains(&format!("process {}", second.pid())), "{said}");
    assert_eq!(second.stop(), Some(0));

    // Another log in the place of the one that the checkpoint is of.
    std::fs::remove_dir_all(place.data().join("log")).expect("it is there");
    let refused = Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args(["run", "--listen", "127.0.0.1:0", "--config", path(&place.directory.join("fleet.toml"))])
        .args(["--data", path(&place.data())])
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("checkpoint_log"), "{said}");
}
