//! Derived streams on a running program, from outside: declared over HTTP while vehicles drive, read by `psql` and by who
//! watches changes, replaced, dropped, and there again after a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::Value;

use crate::program::Program;
use crate::services::psql::{Said, psql};
use crate::services::wait_until;

const PER_COMPANY: &str = "CREATE MATERIALIZED VIEW per_company WITH (key = 'company_id') AS
    SELECT company_id, count(*) AS n, max(speed_kmh) AS top FROM telemetry_enriched GROUP BY company_id";
const TOTAL: &str = "CREATE MATERIALIZED VIEW total AS SELECT sum(n) AS n, count(*) AS companies FROM per_company";
const FLEET: &str = "CREATE MATERIALIZED VIEW fleet WITH (key = 'vehicle_id') AS
    SELECT v.vehicle_id, v.plate, c.name AS company, d.name AS driver FROM vehicles v
    LEFT JOIN companies c ON c.company_id = v.company_id LEFT JOIN drivers d ON d.driver_id = v.driver_id";
const BY_COMPANY: &str = "CREATE MATERIALIZED VIEW by_company AS
    SELECT c.name AS company, count(*) AS n FROM vehicles v
    LEFT JOIN companies c ON c.company_id = v.company_id LEFT JOIN drivers d ON d.driver_id = v.driver_id GROUP BY c.name";

/// A program with simulated vehicles and derived streams.
pub struct Running {
    pub program: Program,
    pub postgres: SocketAddr,
    client: Client,
}

impl Running {
    pub fn start(directory: &Path, streams: &str) -> Running {
        Running::start_with(directory, streams, "")
    }

    /// The same with further lines of the section `sql`, and sections after it.
    pub fn start_with(directory: &Path, streams: &str, more: &str) -> Running {
        Running::with(
            directory,
            &format!("[simulator]\nvehicles = 200\nrate_per_s = 500.0\n[sql]\nstreams = \"{streams}\"\n{more}"),
        )
    }

    /// With these options.
    pub fn with(directory: &Path, options: &str) -> Running {
        let file = directory.join("fleet.toml");
        let run = if options.contains("[run]") { "" } else { "[run]\nworkers = 2\n" };
        let text = format!("{run}[reads]\npostgres_listen = \"127.0.0.1:0\"\n[logging]\nformat = \"json\"\n{options}");
        std::fs::write(&file, text).expect("as it should be");
        let data = directory.join("data");
        let program = Program::start(&[
            "--config",
            file.to_str().expect("as it should be"),
            "--data",
            data.to_str().expect("as it should be"),
        ]);
        Running::of(program)
    }

    /// A program that tells its log as JSON, and serves `psql`.
    pub fn of(program: Program) -> Running {
        let mut served = None;
        wait_until(Duration::from_secs(30), "Postgres clients are served", || {
            served = program.log().iter().find(|line| line.contains("Postgres clients are served")).cloned();
            served.is_some()
        });
        let served = served.expect("as it should be");
        let line: Value = serde_json::from_str(&served).expect("as it should be");
        let postgres = line["addr"].as_str().expect("as it should be").parse().expect("as it should be");
        Running { program, postgres, client: Client::new() }
    }

    pub async fn ask(&self, method: Method, path: &str, body: &str) -> (u16, Value) {
        let url = format!("{}/v1/streams{path}", self.program.url);
        let answer = self.client.request(method, url).body(body.to_owned()).send().await.expect("as it should be");
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.expect("as it should be")).unwrap_or_default())
    }

    pub async fn add(&self, sql: &str) -> Value {
        let (status, told) = self.ask(Method::POST, "", sql).await;
        assert_eq!(status, 201, "{told}");
        told
    }

    /// What `psql` answers, in a form for programs.
    pub fn sql(&self, sql: &str) -> String {
        let said = self.said(sql);
        assert!(said.good, "{sql}: {said:?}");
        said.out.trim().to_owned()
    }

    fn said(&self, sql: &str) -> Said {
        psql(self.postgres, None, &["-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
    }

    pub fn wait_for(&self, what: &str, sql: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut answer = String::new();
        wait_until(Duration::from_secs(60), what, || {
            let said = self.said(sql);
            if said.err.contains("is being built again") {
                return false;
            }
            assert!(said.good, "{sql}: {said:?}");
            answer = said.out.trim().to_owned();
            wanted(&answer)
        });
        answer
    }

    /// The content of a stream folded from its changes, until it holds what is wanted.
    async fn watched(&self, name: &str, enough: impl Fn(&BTreeMap<String, i64>) -> bool) -> BTreeMap<String, i64> {
        let url = format!("{}/v1/streams/{name}/changes", self.program.url);
        let mut body = self.client.get(url).send().await.expect("as it should be");
        let (mut rows, mut rest): (BTreeMap<String, i64>, Vec<u8>) = (BTreeMap::new(), Vec::new());
        while !enough(&rows) {
            rest.extend(body.chunk().await.expect("as it should be").expect("it goes on"));
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Value = serde_json::from_slice(&rest[..end]).expect("as it should be");
                rest.drain(..=end);
                if let Some(diff) = line["diff"].as_i64() {
                    *rows.entry(line["row"].to_string()).or_default() += diff;
                    rows.retain(|_, count| *count != 0);
                }
            }
        }
        rows
    }
}

/// A number that `psql` said; 0 if it is none.
pub fn number(text: &str) -> i64 {
    text.parse().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_come_change_and_go_while_vehicles_drive() {
    let directory = tempfile::tempdir().expect("as it should be");
    let running = Running::start(directory.path(), "");
    running.wait_for("vehicles are there", "SELECT count(*) FROM vehicles", |n| n == "200");
    running.add(PER_COMPANY).await;
    running.add(TOTAL).await;
    running.wait_for("events are counted", "SELECT n FROM total", |n| number(n) > 300);
    // As of one tick, whatever arrives meanwhile.
    for _ in 0..20 {
        let both = running.sql("SELECT (SELECT sum(n) FROM per_company) AS a, (SELECT n FROM total) AS b");
        let (left, right) = both.split_once('|').expect("as it should be");
        assert_eq!(left, right);
    }

    // A join of tables that were there before it, and one that shares it.
    running.add(FLEET).await;
    let told = running.add(BY_COMPANY).await;
    assert_eq!(told["shares"], 1, "the join is built once for both: {told}");
    let batch = "SELECT v.vehicle_id, v.plate, c.name AS company, d.name AS driver FROM vehicles v
        LEFT JOIN companies c ON c.company_id = v.company_id LEFT JOIN drivers d ON d.driver_id = v.driver_id";
    let differs = format!("SELECT count(*) FROM ({batch} EXCEPT SELECT * FROM fleet)");
    assert_eq!(running.sql(&differs), "0");
    assert_eq!(running.sql("SELECT count(*) FROM fleet"), "200");
    assert_eq!(running.sql("SELECT sum(n) FROM by_company"), "200");
    let listed = psql(running.postgres, None, &["-c", "\\dv"]).out;
    assert!(["by_company", "fleet", "per_company", "total"].iter().all(|name| listed.contains(name)), "{listed}");

    // Changes from the content on: nothing is there less than never, and as many rows as the view has.
    let rows = running.watched("per_company", |rows| rows.len() >= 3).await;
    assert!(rows.values().all(|count| *count == 1), "{rows:?}");

    refuses(&running).await;
    replaces(&running).await;
    for name in ["total", "per_company", "by_company", "fleet"] {
        assert_eq!(running.ask(Method::DELETE, &format!("/{name}"), "").await.0, 200, "{name}");
    }
    assert_eq!(running.ask(Method::GET, "", "").await.1, Value::Array(Vec::new()));
    assert_eq!(running.program.stop(), Some(0));
}

async fn refuses(running: &Running) {
    for (method, path, body, status, code) in [
        (Method::POST, "", PER_COMPANY, 400, "name_invalid"),
        (Method::POST, "", "DROP TABLE vehicles", 403, "sql_statement_not_allowed"),
        (Method::POST, "", "CREATE VIEW x AS SELECT * FROM '/etc/passwd'", 400, "sql_unknown_table"),
        (Method::POST, "", "CREATE MATERIALIZED VIEW x AS SELECT DISTINCT ts FROM telemetry", 400, "sql_unbounded"),
        (Method::DELETE, "/per_company", "", 409, "stream_has_dependants"),
        (Method::DELETE, "/nobody", "", 404, "sql_unknown_stream"),
        (Method::PUT, "/total", PER_COMPANY, 400, "name_invalid"),
        (Method::GET, "/nobody/changes", "", 404, "sql_unknown_stream"),
    ] {
        let (found, told) = running.ask(method.clone(), path, body).await;
        assert_eq!((found, told["code"].as_str()), (status, Some(code)), "{method} {path} {body}: {told}");
    }
}

/// A new version of a stream that another one reads.
async fn replaces(running: &Running) {
    let moving = PER_COMPANY.replace("GROUP BY", "WHERE speed_kmh < 0 GROUP BY");
    let (status, told) = running.ask(Method::PUT, "/per_company", &moving).await;
    assert_eq!(status, 200, "{told}");
    assert_eq!(running.sql("SELECT count(*) FROM per_company"), "0", "nobody drives slower than not at all");
    assert_eq!(running.sql("SELECT companies FROM total"), "0", "who reads it reads the new version");
    let other = "CREATE MATERIALIZED VIEW per_company AS SELECT company_id FROM companies";
    let (status, told) = running.ask(Method::PUT, "/per_company", other).await;
    assert_eq!((status, told["code"].as_str()), (409, Some("stream_has_dependants")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn declared_streams_see_everything_after_a_restart() {
    let directory = tempfile::tempdir().expect("as it should be");
    let streams = directory.path().join("streams");
    std::fs::create_dir(&streams).expect("as it should be");
    // Read before what it reads.
    std::fs::write(streams.join("a.sql"), TOTAL).expect("as it should be");
    std::fs::write(streams.join("b.sql"), PER_COMPANY).expect("as it should be");
    let all = "CREATE MATERIALIZED VIEW everything AS SELECT count(*) AS n FROM telemetry_enriched";
    std::fs::write(streams.join("c.sql"), all).expect("as it should be");
    let streams = streams.to_str().expect("as it should be");
    let running = Running::start(directory.path(), streams);
    let both = "SELECT (SELECT n FROM total) AS a, (SELECT n FROM everything) AS b";
    let whole = |answer: &str| answer.split_once('|').is_some_and(|(left, right)| left == right && number(left) > 300);
    let before = running.wait_for("events are counted", both, whole);
    assert_eq!(running.program.stop(), Some(0));

    let again = Running::start(directory.path(), streams);
    let (before, _) = before.split_once('|').expect("as it should be");
    again.wait_for("events of before and now are counted", both, |answer| {
        whole(answer) && answer.split_once('|').is_some_and(|(left, _)| number(left) > number(before) + 300)
    });
    assert_eq!(again.program.stop(), Some(0));
}
