//! What an analyst does on a busy program, and what that does to its latency: a stream is added, a late message corrects it, it
//! is asked why a row is as it is, is replaced and dropped; then a hundred streams over one join, and one more.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::fleet::Fleet;
use crate::listen::Latencies;
use crate::program::Program;
use crate::{now_us, resident_mb, wait};

const STREAM: &str = "session_minute";
const FIRST: &str = "count(*) AS fixes, avg(e.speed_kmh) AS speed_kmh";
const SECOND: &str = "count(*) AS fixes, avg(e.speed_kmh) AS speed_kmh, max(e.speed_kmh) AS top_kmh";
/// How long nothing is done between two steps, so that what each leaves is seen by itself.
const PAUSE: Duration = Duration::from_secs(5);
const MINUTE_MS: u64 = 60_000;
const VIEWS: usize = 100;

fn declared(figures: &str) -> String {
    format!(
        "CREATE MATERIALIZED VIEW {STREAM}\nWITH (key = 'company_id, minute', retention = '1 day') AS\nSELECT e.company_id, \
         date_bin(interval '1 minute', e.ts) AS minute, {figures}\nFROM telemetry_enriched e WHERE e.company_id IS NOT NULL\nGROUP BY 1, 2;\n"
    )
}

/// The beginning of the minute that was so many ago, in milliseconds since the epoch.
fn minutes_ago(minutes: u64) -> u64 {
    (now_us() / 1_000 / MINUTE_MS - minutes) * MINUTE_MS
}

fn time(ms: u64) -> String {
    jiff::Timestamp::from_millisecond(ms.cast_signed()).unwrap().to_string()
}

/// A running program and what is measured of it meanwhile.
pub struct Session<'a> {
    pub program: &'a Program,
    pub directory: &'a Path,
    pub rows: &'a Latencies,
    pub edge: &'a Latencies,
}

impl Session<'_> {
    /// Does all of it, and prints how late results were during each step.
    pub fn run(&self, fleet: &Fleet, base: Duration) {
        self.step("nothing", || wait(base));
        let file = self.file(STREAM, &declared(FIRST));
        self.step("sql add", || drop(self.sql(&["add", &file])));
        let minute = minutes_ago(120);
        self.step("a message two hours late", || self.late(fleet, minute));
        self.step("sql why of its minute", || {
            let said = self.sql(&["why", STREAM, &format!("c0000|{}", time(minute))]);
            println!("{}", said.first().map_or("nothing", String::as_str));
        });
        self.file(STREAM, &declared(SECOND));
        self.step("sql replace", || drop(self.sql(&["replace", &file])));
        self.step("sql drop", || drop(self.sql(&["drop", STREAM])));
        self.step("nothing, after it", || wait(base));
        self.step("100 streams over one join", || (0..VIEWS).for_each(|number| self.add(number)));
        self.step("one more", || self.add(VIEWS));
        self.step("nothing, beside them", || wait(base));
    }

    fn step(&self, what: &str, act: impl FnOnce()) {
        self.rows.clear();
        self.edge.clear();
        let begun = Instant::now();
        act();
        let took = begun.elapsed();
        println!("{what}: {:.1} s, {} MB resident", took.as_secs_f64(), resident_mb(self.program.pid()));
        // What was begun shows in results that come a little later.
        wait(Duration::from_secs(1));
        let time = took + Duration::from_secs(1);
        self.rows.print("producer to Redis message", time);
        self.edge.print("end of the edge's window to frame", time);
        self.rows.print_seconds();
        wait(PAUSE);
    }

    fn file(&self, name: &str, text: &str) -> String {
        let file = self.directory.join(format!("{name}.sql"));
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn add(&self, number: usize) {
        let name = format!("joined_{number}");
        let text = format!(
            "CREATE MATERIALIZED VIEW {name} WITH (key = 'vehicle_id') AS\nSELECT v.vehicle_id, c.name, d.name AS driver FROM vehicles v\n\
             JOIN companies c ON c.company_id = v.company_id JOIN drivers d ON d.driver_id = v.driver_id\nWHERE c.company_id = 'c{number:04}';\n"
        );
        let file = self.file(&name, &text);
        self.sql(&["add", &file]);
    }

    /// What a command says, a text a line.
    fn sql(&self, arguments: &[&str]) -> Vec<String> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_haulstream"))
            .arg("sql")
            .args(arguments)
            .args(["--server", &self.program.url])
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let said: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
        assert!(child.wait().unwrap().success(), "sql {arguments:?}: {said:?}");
        said
    }

    /// Sends a message two hours late and waits until its minute tells of it.
    fn late(&self, fleet: &Fleet, minute: u64) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let url = format!("{}/v1/views/{STREAM}/c0000%7C{}", self.program.url, time(minute));
        let status = || runtime.block_on(reqwest::get(&url)).unwrap().status().as_u16();
        assert_eq!(status(), 404, "there is nothing yet at {url}");
        fleet.late(minute);
        let begun = Instant::now();
        while status() != 200 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the late message is not seen at {url}");
            wait(Duration::from_millis(10));
        }
        println!("a message two hours late is in its minute after {} ms", begun.elapsed().as_millis());
    }
}
