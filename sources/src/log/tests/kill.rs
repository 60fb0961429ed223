//! The log in a process that is killed: nothing that it had acknowledged is lost, nothing stands at a wrong offset.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Set in the process that is to be killed: the directory of its log.
const CHILD: &str = "HAULSTREAM_TEST_LOG_DIRECTORY";

/// Appends until it is killed and prints what was acknowledged.
fn append_until_killed(directory: &Path) -> ! {
    let options = Options { segment_bytes_max: 200_000, memtable_bytes_max: 1 << 20, ..options(directory) };
    let log = EmbeddedLog::open(options, system_clock()).unwrap();
    log.create_topic("t", 2).unwrap();
    std::thread::scope(|scope| {
        for partition in 0..2 {
            let log = &log;
            scope.spawn(move || {
                loop {
                    let next = log.offsets("t", partition).unwrap().1;
                    let values: Vec<String> = (next..next + 1 + next % 40).map(|at| value(partition, at)).collect();
                    let values: Vec<&str> = values.iter().map(String::as_str).collect();
                    let end = next + values.len() as i64;
                    log.append_to("t", partition, &records(&values)).blocking_recv().unwrap().unwrap();
                    println!("acked {partition} {end}");
                }
            });
        }
    });
    unreachable!("both threads append for ever")
}

fn value(partition: i32, offset: i64) -> String {
    format!("{partition}:{offset}:{}", "#".repeat((offset % 300) as usize))
}

/// Kills a process that appends, several times at random moments: whatever it had said to be acknowledged is there, and
/// nothing stands at a wrong offset.
#[test]
fn kill_9_loses_nothing_that_was_acknowledged() {
    #[expect(clippy::disallowed_methods, reason = "a process of this test's own is told so what it is")]
    let child = std::env::var_os(CHILD);
    if let Some(directory) = child {
        append_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let mut ends = [0i64; 2];
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "log::tests::kill::kill_9_loses_nothing_that_was_acknowledged", "--nocapture"])
            .env(CHILD, directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acked = 0;
        for line in lines {
            let line = line.unwrap();
            // The test harness prints its own beginning of a line before ours.
            let Some((_, told)) = line.split_once("acked ") else { continue };
            let (partition, end) = told.split_once(' ').unwrap();
            let end: i64 = end.parse().unwrap();
            let known = &mut ends[partition.parse::<usize>().unwrap()];
            *known = end.max(*known);
            acked += 1;
            if acked == 20 + round * 37 {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "it ended by itself");
        let log = open(directory.path());
        for partition in 0..2 {
            let all = read_all(&log, "t", partition, 0);
            assert!(all.len() as i64 >= ends[partition as usize], "{} of {ends:?}", all.len());
            for (at, (offset, _, found)) in all.iter().enumerate() {
                assert_eq!((*offset, found), (at as i64, &value(partition, at as i64)));
            }
            ends[partition as usize] = all.len() as i64;
        }
    }
    assert!(ends[0] > 1_000 && ends[1] > 1_000, "{ends:?}");
}
