//! The recordings, the program that plays them and the one that tells what must come of them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde::Deserialize;
use serde_json::{Value, json};

use crate::live_client::Rows;

/// Where recordings of real drives are.
const VARIABLE: &str = "HAULSTREAM_TEST_DATA";
const BUSES: &str = "traces/liverpool_bus_route14_outbound.csv";
const CAR: &str = "traces/around-visnjan-with-car.gpx";
/// How long each drive takes when it is played.
const DRIVE_MS: i64 = 8_000;

/// A file with the positions of several buses, and one with the drive of a car.
pub struct Recording {
    origin: String,
    csv: PathBuf,
    gpx: PathBuf,
    /// Which column of the CSV is what.
    columns: &'static [(&'static str, &'static str)],
}

impl fmt::Display for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} and {})", self.origin, self.csv.display(), self.gpx.display())
    }
}

impl Recording {
    /// Real drives if the variable says where they are, otherwise drives that are written into `folder`.
    pub fn find(folder: &Path) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an option of the test, documented in testing.md")]
        let Some(data) = std::env::var_os(VARIABLE).filter(|data| !data.is_empty()) else {
            return Self::made(folder);
        };
        let data = PathBuf::from(data);
        let recording = Self {
            origin: format!("real drives, from {VARIABLE}"),
            csv: data.join(BUSES),
            gpx: data.join(CAR),
            columns: &[
                ("device", "vehicle_id"),
                ("time", "timestamp"),
                ("lat", "latitude"),
                ("lon", "longitude"),
                ("heading", "bearing"),
            ],
        };
        for file in [&recording.csv, &recording.gpx] {
            let shown = file.display();
            assert!(file.is_file(), "{VARIABLE} is {}, but there is no {shown}: correct or unset it", data.display());
        }
        recording
    }

    /// Drives of the same formats: three buses and a car, with positions repeated, in the wrong order, without a heading, and
    /// some that are none.
    fn made(folder: &Path) -> Self {
        let begin: jiff::Timestamp = "2020-03-01T08:00:00Z".parse().expect("a time");
        let time = |second: i64| begin + jiff::SignedDuration::from_secs(second);
        let mut rows: Vec<String> = Vec::new();
        for n in 0..100_i64 {
            for bus in 1..=3_i64 {
                let at = time(n * 20 + bus * 7).strftime("%Y-%m-%d %H:%M:%S");
                let (lat, lon) = (53.4 + n as f64 * 3.1e-4, -2.9 - (bus * n) as f64 * 1.7e-4);
                let heading = if n % 4 == 0 { String::new() } else { (n * bus % 360).to_string() };
                let speed = if n % 10 == 9 { 0.0 } else { 20.0 + (n % 7) as f64 * 1.3 };
                rows.push(format!("{},\"bus-{bus}\",\"{at}\",{lat:.6},{lon:.6},{heading},{speed}", rows.len()));
            }
        }
        rows.insert(40, rows[7].clone());
        rows.insert(200, rows[199].clone());
        rows.swap(90, 96);
        rows.swap(150, 240);
        rows.insert(120, "999,\"bus-1\",\"2020-03-01 08:10:00\",912.0,-2.9,,10".to_owned());
        rows.insert(121, "999,\"bus-1\",\"yesterday\",53.4,-2.9,,10".to_owned());
        let mut points: Vec<String> = Vec::new();
        for n in 0..60_i64 {
            let at = time(n * 9).strftime("%Y-%m-%dT%H:%M:%SZ");
            let (lat, lon) = (45.27 + n as f64 * 1.13e-4, 13.71 + n as f64 * 0.71e-4);
            let speed = if n % 3 == 0 { format!("<speed>{}</speed>", 7.3 + n as f64 / 11.0) } else { String::new() };
            let height = 200.0 + (n % 13) as f64 / 4.0;
            points.push(format!(
                "<trkpt lat=\"{lat:.10}\" lon=\"{lon:.10}\"><ele>{height}</ele><time>{at}</time>{speed}</trkpt>"
            ));
        }
        points.insert(30, points[12].clone());
        points.swap(20, 25);
        points.insert(50, "<trkpt lat=\"45.0\" lon=\"13.0\"></trkpt>".to_owned());
        let (csv, gpx) = (folder.join("buses.csv"), folder.join("car.gpx"));
        let head = "\"id\",\"bus\",\"when\",\"latitude\",\"longitude\",\"bearing\",\"speed\"";
        std::fs::write(&csv, format!("{head}\n{}\n", rows.join("\n"))).expect("a file");
        let document = format!(
            "<?xml version=\"1.0\"?><gpx xmlns=\"http://www.topografix.com/GPX/1/1\" version=\"1.1\"><trk><trkseg>{}</trkseg></trk></gpx>",
            points.concat()
        );
        std::fs::write(&gpx, document).expect("a file");
        let origin = format!("drives made by the test, as {VARIABLE} is not set");
        let columns = &[
            ("device", "bus"),
            ("time", "when"),
            ("lat", "latitude"),
            ("lon", "longitude"),
            ("heading", "bearing"),
            ("speed", "speed"),
        ];
        Self { origin, csv, gpx, columns }
    }

    /// What must come of the drives with these reference records, `[stream, key, record]` each, in the order of writing.
    pub fn expected(&self, references: &[Value]) -> Expected {
        let columns: BTreeMap<&str, &str> = self.columns.iter().copied().collect();
        let question = json!({"csv": self.csv, "columns": columns, "gpx": self.gpx, "references": references});
        let checker = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checker/traces.py");
        let mut child = Command::new("python3")
            .arg(checker)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| {
                panic!("cannot run python3 ({e}), which computes what this test expects: install it (Debian's package: python3)")
            });
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        stdin.write_all(question.to_string().as_bytes()).expect("the checker reads its question");
        drop(stdin);
        let output = child.wait_with_output().expect("the checker ends");
        assert!(output.status.success(), "the checker failed: see its message above");
        serde_json::from_slice(&output.stdout).expect("the checker answers in JSON")
    }

    /// Begins to play the drives into the gate at `url`, each in its own process.
    pub fn play(&self, url: &str, drives: &Expected) -> Playing {
        let columns = self.columns();
        let columns = ["--columns", columns.as_str()];
        let keep =
            |span_ms: i64| vec!["--keep-times".to_owned(), format!("--speed={}", span_ms as f64 / DRIVE_MS as f64)];
        let csv = play(url, &self.csv, &keep(drives.span_ms(&drives.csv_devices)), &columns);
        let gpx = play(url, &self.gpx, &keep(drives.span_ms(&drives.gpx_devices)), &[]);
        Playing { processes: vec![csv, gpx] }
    }

    /// Plays the drives as fast as they are taken, as if each had just ended.
    pub fn play_now(&self, url: &str) -> Playing {
        let columns = self.columns();
        let fast = ["--speed=0".to_owned()];
        let csv = play(url, &self.csv, &fast, &["--columns", &columns]);
        Playing { processes: vec![csv, play(url, &self.gpx, &fast, &[])] }
    }

    /// The names of the CSV's columns, as the player wants them.
    fn columns(&self) -> String {
        let mut columns = self.columns.iter().fold(String::new(), |mut columns, (name, column)| {
            let _ = write!(columns, "{name}={column},");
            columns
        });
        for name in ["heading", "speed"] {
            if !self.columns.iter().any(|(known, _)| *known == name) {
                columns += &format!("{name}=,");
            }
        }
        columns.trim_end_matches(',').to_owned()
    }
}

fn play(url: &str, file: &Path, pace: &[String], more: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args(["simulate", "--to", "http", "--url", url])
        .args(pace)
        .arg("--trace")
        .arg(file)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts")
}

/// Drives that are being played.
pub struct Playing {
    processes: Vec<Child>,
}

impl Playing {
    /// Whether none of them has ended.
    pub fn is_running(&mut self) -> bool {
        self.processes.iter_mut().all(|process| process.try_wait().expect("our own process").is_none())
    }

    /// Waits for the end of all and gives the number of messages that the gate accepted.
    pub fn finish(mut self) -> u64 {
        let mut accepted = 0;
        for process in std::mem::take(&mut self.processes) {
            let output = process.wait_with_output().expect("it ends");
            assert!(output.status.success(), "the player failed: see its message above");
            let counts: Value = serde_json::from_slice(&output.stdout).expect("counts in JSON");
            assert_eq!(counts["http"]["rejected"], 0, "{counts}");
            accepted += counts["http"]["accepted"].as_u64().expect("a number");
        }
        accepted
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// What the checker says.
#[derive(Deserialize)]
pub struct Expected {
    /// Devices in the order in which they set out.
    csv_devices: Vec<String>,
    gpx_devices: Vec<String>,
    /// Names of the values in a history's row.
    pub columns: Vec<String>,
    /// The rows of each device.
    pub histories: BTreeMap<String, Vec<Vec<Value>>>,
    /// The final state of each vehicle.
    pub vehicles: Rows,
}

impl Expected {
    /// All devices, of each file in the order in which they set out.
    pub fn devices(&self) -> Vec<String> {
        self.csv_devices.iter().chain(&self.gpx_devices).cloned().collect()
    }

    /// Messages of all devices.
    pub fn messages(&self) -> u64 {
        self.histories.values().map(|rows| rows.len() as u64).sum()
    }

    /// From the first message of these devices to the last.
    fn span_ms(&self, devices: &[String]) -> i64 {
        let rows = devices.iter().flat_map(|device| &self.histories[device]);
        let times = || rows.clone().map(|row| row[0].as_i64().expect("a time"));
        times().max().expect("messages") - times().min().expect("messages")
    }
}
