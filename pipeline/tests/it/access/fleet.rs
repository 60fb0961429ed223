//! A program with users, and a few vehicles of two companies and of none.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::process::Command;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

use super::PATIENCE;
use crate::installation::Installation;
use crate::services::psql::{self, Said};
use crate::services::{wait_until, wait_until_async};
use crate::streams::Running;

/// Users and their passwords.
pub const PASSWORDS: [(&str, &str); 5] = [
    ("boss", "boss: opens & sesame"),
    ("all", "allsesame"),
    ("one", "onesesame"),
    ("two", "zweisesäme"),
    ("both", "bothsesame"),
];

const SETTINGS: &str = "[users.boss]\npassword = \"boss: opens & sesame\"\ncompanies = \"all\"\nmay_change = true\n\
    [users.all]\npassword = \"allsesame\"\ncompanies = \"all\"\n[users.one]\npassword = \"onesesame\"\ncompanies = [\"c-1\"]\n\
    [users.two]\npassword = \"zweisesäme\"\ncompanies = [\"c-2\"]\n\
    [users.both]\npassword = \"bothsesame\"\ncompanies = [\"c-1\", \"c-2\", \"c-9\"]\n\
    [reads]\npostgres_listen = \"127.0.0.1:0\"\nmemory_bytes_max = 8589934592\n[logging]\nformat = \"json\"\n";

const STREAMS: [&str; 5] = [
    "CREATE MATERIALIZED VIEW fleet WITH (key = 'vehicle_id', access = 'company_id') AS
     SELECT vehicle_id, plate, company_id FROM vehicles",
    "CREATE MATERIALIZED VIEW per_company WITH (key = 'company_id', access = 'company_id') AS
     SELECT company_id, count(*) AS n FROM telemetry_enriched GROUP BY company_id",
    "CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS n, max(plate) AS plate FROM fleet",
    "CREATE MATERIALIZED VIEW drove WITH (access = 'company_id') AS
     SELECT company_id, vehicle_id, speed_kmh FROM telemetry_enriched WHERE speed_kmh > 10",
    // Fails on the vehicle with six letters on its plate.
    "CREATE MATERIALIZED VIEW faulty WITH (access = 'company_id') AS
     SELECT company_id, 10 / (6 - length(plate)) AS x FROM vehicles",
];

pub fn password(user: &str) -> &'static str {
    PASSWORDS.iter().find(|(name, _)| *name == user).map(|(_, password)| *password).expect("a user")
}

/// The running program.
pub struct Fleet {
    pub running: Running,
    installation: Installation,
    client: Client,
    sent: Cell<i64>,
}

impl Fleet {
    /// Starts it with two vehicles of each company and one of none, which have driven three, two and one times.
    pub async fn start() -> Fleet {
        let streams = tempfile::tempdir().expect("a directory");
        for sql in STREAMS {
            let name = sql.split(' ').nth(3).expect("a name");
            std::fs::write(streams.path().join(format!("{name}.sql")), sql).expect("a file");
        }
        let settings = format!("{SETTINGS}[sql]\nstreams = \"{}\"\n", streams.path().to_str().expect("a plain path"));
        let installation = Installation::new("access", &settings);
        let text = std::fs::read_to_string(installation.file()).expect("a configuration");
        let data = installation.folder().join("data");
        let text = text
            .replace("[run]\n", &format!("[run]\ndata = \"{}\"\n", data.to_str().expect("a plain path")))
            .replace("[parquet]\nenabled = false", "[parquet]\nenabled = true\nflush_ms = 1000");
        std::fs::write(installation.file(), text).expect("a configuration");
        for (id, name) in [("c-1", "One"), ("c-2", "Two")] {
            let record = json!({"company_id": id, "name": name, "tariff_id": "t-1"});
            installation.reference("company", id, &record);
        }
        installation.reference("tariff", "t-1", &json!({"tariff_id": "t-1", "name": "Any"}));
        for (id, company) in [("r-1", "c-1"), ("r-2", "c-2")] {
            installation.reference("driver", id, &json!({"driver_id": id, "name": id, "company_id": company}));
        }
        let running = Running::of(installation.start().await);
        let fleet = Fleet { running, installation, client: Client::new(), sent: Cell::new(0) };
        for (id, plate, company) in [
            ("v-1", "101", Some("c-1")),
            ("v-2", "102", Some("c-1")),
            ("v-3", "SECRET", Some("c-2")),
            ("v-4", "104", Some("c-2")),
            ("v-5", "105", None),
        ] {
            fleet.vehicle(id, plate, company);
        }
        fleet.wait_for("all", "the vehicles", "SELECT count(*) FROM fleet", |n| n == "5");
        for (id, times) in [("v-1", 3), ("v-3", 2), ("v-5", 1)] {
            for n in 0..times {
                fleet.drive(id, n, 20.0 + n as f64).await;
            }
        }
        fleet.wait_for("all", "the drives", "SELECT sum(n) FROM per_company", |n| n == "6");
        fleet
    }

    pub fn vehicle(&self, id: &str, plate: &str, company: Option<&str>) {
        let mut record = json!({"vehicle_id": id, "device_id": format!("d-{id}"), "plate": plate});
        if let Some(company) = company {
            record["company_id"] = json!(company);
        }
        self.installation.reference("vehicle", id, &record);
    }

    /// Sends a message of a vehicle's device.
    pub async fn drive(&self, id: &str, seq: i64, speed: f64) {
        let ts = jiff::Timestamp::now().as_millisecond() - 60_000 + seq * 1_000;
        let message = json!([{"device_id": format!("d-{id}"), "ts": ts, "seq": seq, "lat": 53.4, "lon": -2.9, "speed_kmh": speed}]);
        let url = format!("{}/v1/telemetry", self.running.program.url);
        let answer = self.client.post(url).json(&message).send().await.expect("the gate answers");
        assert!(answer.status().is_success(), "{}", answer.status());
        self.sent.set(self.sent.get() + 1);
    }

    /// How many messages were sent.
    pub fn sent(&self) -> i64 {
        self.sent.get()
    }

    pub fn said(&self, user: &str, arguments: &[&str]) -> Said {
        let mut command = psql::command(self.running.postgres, Some(password(user)));
        psql::said(command.env("PGUSER", user).args(arguments))
    }

    /// What `psql` answers a user, in a form for programs.
    pub fn sql(&self, user: &str, sql: &str) -> String {
        let said = self.said(user, &["-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        assert!(said.good, "{user}: {sql}: {said:?}");
        said.out.trim().to_owned()
    }

    /// What a user is told who asks for what they may not.
    pub fn refused(&self, user: &str, sql: &str) -> String {
        let said = self.said(user, &["-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=1", "-c", sql]);
        assert!(!said.good && said.out.is_empty(), "{user}: {sql}: {said:?}");
        said.err
    }

    pub fn wait_for(&self, user: &str, what: &str, sql: &str, wanted: impl Fn(&str) -> bool) {
        wait_until(PATIENCE, what, || wanted(&self.sql(user, sql)));
    }

    pub async fn ask(&self, user: Option<&str>, method: Method, path: &str, body: &str) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.running.program.url)).body(body.to_owned());
        let request = match user {
            Some(user) => request.basic_auth(user, Some(password(user))),
            None => request,
        };
        let answer = request.send().await.expect("an answer");
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.expect("a text")).unwrap_or_default())
    }

    pub async fn get(&self, user: &str, path: &str) -> (u16, Value) {
        self.ask(Some(user), Method::GET, path, "").await
    }

    /// Follows a stream by lines.
    pub async fn watch(&self, user: &str, stream: &str) -> Watched {
        let url = format!("{}/v1/streams/{stream}/changes", self.running.program.url);
        let answer = self.client.get(url).basic_auth(user, Some(password(user))).send().await.expect("an answer");
        assert_eq!(answer.status().as_u16(), 200, "{user} {stream}");
        Watched::new(texts(answer)).await
    }

    /// Follows a stream over WebSocket.
    pub async fn socket(&self, user: &str, stream: &str) -> Watched {
        let url =
            format!("ws{}/v1/streams/{stream}/ws", self.running.program.url.strip_prefix("http").expect("http://…"));
        let mut request = url.into_client_request().expect("an address");
        let refused = tokio_tungstenite::connect_async(request.clone()).await.expect_err("nobody said who asks");
        assert!(refused.to_string().contains("401"), "{refused}");
        let signed = self.client.get("http://x").basic_auth(user, Some(password(user))).build().expect("a request");
        request.headers_mut().insert("Authorization", signed.headers()["authorization"].clone());
        let (socket, _) = tokio_tungstenite::connect_async(request).await.expect("let in");
        let texts = socket.filter_map(|message| async {
            match message.expect("the connection holds") {
                Message::Text(text) => Some(text.to_string()),
                _ => None,
            }
        });
        Watched::new(texts.boxed()).await
    }

    /// The commands of the command line.
    pub fn commands(&self) {
        let run = |arguments: &[&str], password: Option<&str>| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
            command.arg("sql").args(arguments).args(["--server", &self.running.program.url]);
            match password {
                Some(password) => command.env("HAULSTREAM_PASSWORD", password),
                None => command.env_remove("HAULSTREAM_PASSWORD"),
            };
            let output = command.output().expect("the program starts");
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            (output.status.code(), text(&output.stdout), text(&output.stderr))
        };
        let (code, out, _) = run(&["list", "--user", "boss"], Some(password("boss")));
        assert!(code == Some(0) && out.contains("totals"), "{out}");
        let (code, out, _) = run(&["list", "--user", "one"], Some(password("one")));
        assert!(code == Some(0) && out.contains("fleet") && !out.contains("totals"), "{out}");
        let (code, _, err) = run(&["list"], None);
        assert!(code == Some(1) && err.contains("not_authenticated"), "{err}");
        let (code, _, err) = run(&["list", "--user", "one"], None);
        assert!(code == Some(2) && err.contains("HAULSTREAM_PASSWORD"), "{err}");
        let (code, _, err) = run(&["drop", "fleet", "--user", "one"], Some(password("one")));
        assert!(code == Some(1) && err.contains("access_denied"), "{err}");
        let (code, out, _) = run(&["tail", "fleet", "--changes", "3", "--user", "two"], Some(password("two")));
        assert!(code == Some(0) && out.contains("SECRET") && !out.contains("c-1"), "{out}");
    }
}

/// The body of an answer as it comes.
fn texts(answer: reqwest::Response) -> BoxStream<'static, String> {
    let next = |mut answer: reqwest::Response| async {
        let chunk = answer.chunk().await.expect("the connection holds")?;
        Some((String::from_utf8_lossy(&chunk).into_owned(), answer))
    };
    futures_util::stream::unfold(answer, next).boxed()
}

/// A stream that is followed: what it holds, and every line that came.
pub struct Watched {
    texts: BoxStream<'static, String>,
    rest: String,
    rows: BTreeMap<String, i64>,
    /// The first line.
    pub begun: Value,
    /// The others.
    pub lines: Vec<String>,
}

impl Watched {
    async fn new(texts: BoxStream<'static, String>) -> Watched {
        let mut watched =
            Watched { texts, rest: String::new(), rows: BTreeMap::new(), begun: Value::Null, lines: Vec::new() };
        while watched.begun.is_null() {
            watched.take().await;
        }
        watched
    }

    async fn take(&mut self) {
        let next = tokio::time::timeout(PATIENCE, self.texts.next()).await;
        self.rest += &next.unwrap_or_else(|_| panic!("nothing comes after {:#?}", self.lines)).expect("it goes on");
        while let Some((line, rest)) = self.rest.split_once('\n') {
            let (line, rest) = (line.to_owned(), rest.to_owned());
            self.rest = rest;
            let told: Value = serde_json::from_str(&line).expect("a line of JSON");
            if self.begun.is_null() {
                self.begun = told;
                continue;
            }
            let diff = told["diff"].as_i64().unwrap_or_else(|| panic!("no change: {line}"));
            let count = self.rows.entry(told["row"].to_string()).or_default();
            *count += diff;
            assert!(*count >= 0, "a row goes that never came: {line}");
            self.rows.retain(|_, count| *count > 0);
            self.lines.push(line);
        }
    }

    /// Waits until what it holds is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&BTreeMap<String, i64>) -> bool) {
        while !wanted(&self.rows) {
            let taken = tokio::time::timeout(PATIENCE, self.take()).await;
            taken.unwrap_or_else(|_| panic!("not {what}: {:#?}", self.rows));
        }
    }
}

/// Waits until a request of nobody gets this status.
pub async fn until_status(url: &str, status: u16) {
    wait_until_async(PATIENCE, "the status", async || {
        reqwest::get(url).await.is_ok_and(|answer| answer.status().as_u16() == status)
    })
    .await;
}
