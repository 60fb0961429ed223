//! `haulstream sql add | replace | drop | list | why | tail`: derived streams of a running pipeline, over its HTTP interface.
//!
//! Invariant: the pipeline decides; what it answers is shown as it is, and an error of it is the command's.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde_json::Value;

use super::super::{Failure, print};
use super::why;

/// How long a pipeline may take to take a connection.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// How often it is asked how far a stream is.
const PROGRESS: Duration = Duration::from_millis(500);

/// What can be asked of a running pipeline.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Add a stream to a running pipeline; done when it answers.
    #[command(after_help = "\
Examples:
  haulstream sql add queries/streams/overspeed.sql
  haulstream sql add overspeed.sql --since '7 days'
  haulstream sql add overspeed.sql --no-history --server http://127.0.0.1:9000
A stream over events is built from the log in the background, as if it had been there from the start.")]
    Add {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        past: Past,
        #[command(flatten)]
        server: Server,
    },
    /// Put a new version in the place of a stream. The old one answers until the new one has caught up.
    Replace {
        /// The file.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        past: Past,
        #[command(flatten)]
        server: Server,
    },
    /// Take a stream down and free what it holds. What it wrote to its sinks stays there, unless it is purged.
    Drop {
        /// The stream.
        #[arg(value_name = "NAME")]
        name: String,
        /// Delete what it wrote too: its topic, its table, its keys, its files.
        #[arg(long)]
        purge: bool,
        #[command(flatten)]
        server: Server,
    },
    /// List the streams: state, rows, bytes, what they keep, their share of a worker's time, changes, rows with errors, and the
    /// time that they are of; of a suspended one why it is.
    List {
        #[command(flatten)]
        server: Server,
    },
    /// Follow one key: through which filter, join or window its rows went, and where they stop. The log is read again for it.
    #[command(after_help = "\
Examples:
  haulstream sql why overspeed 'c1|ada|2026-01-31T10:05:00'
  haulstream sql why overspeed ada --by driver_id --since '1 hour'
  haulstream sql why overspeed 'c1|%N' --by company_id,driver_id --json
A key is the values of its columns with | between: %7C is a | and %25 a % in a value, %N is null.")]
    Why {
        /// The stream.
        #[arg(value_name = "NAME")]
        name: String,
        /// The key.
        #[arg(value_name = "KEY", allow_negative_numbers = true)]
        key: String,
        /// Columns that the values are of, with commas between; without it those of the stream's key.
        #[arg(long, value_name = "COLUMNS")]
        by: Option<String>,
        /// Take events of so much time only, such as '1 hour'; without it, all that the log has.
        #[arg(long, value_name = "TIME")]
        since: Option<String>,
        /// Show the answer as JSON.
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        server: Server,
    },
    /// Show a stream's content and then its changes as they happen, a line of JSON each.
    #[command(after_help = "\
Examples:
  haulstream sql tail overspeed
  haulstream sql tail overspeed --changes 100      end after so many lines")]
    Tail {
        /// The stream.
        #[arg(value_name = "NAME")]
        name: String,
        /// Lines after which it ends; without it, when it is interrupted.
        #[arg(long, value_name = "N")]
        changes: Option<usize>,
        #[command(flatten)]
        server: Server,
    },
}

/// How much of the past a stream has, and whether it is waited for.
#[derive(Args, Clone, Debug)]
pub struct Past {
    /// Take events of so much time only, such as '7 days'; without it, all that the log has.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Take only events from now on.
    #[arg(long, conflicts_with = "since")]
    no_history: bool,
    /// Do not wait until it is built.
    #[arg(long)]
    detach: bool,
}

impl Past {
    fn query(&self) -> Vec<(&'static str, String)> {
        let history = if self.no_history { Some("none".to_owned()) } else { self.since.clone() };
        let detach = self.detach.then(|| ("detach", "true".to_owned()));
        history.map(|history| ("history", history)).into_iter().chain(detach).collect()
    }
}

/// Where the pipeline is.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// Address of the pipeline's edge.
    #[arg(long = "server", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Who asks, where the pipeline has users; the password is that of the environment variable HAULSTREAM_PASSWORD.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

impl Server {
    /// The request as the user's.
    fn signed(&self, request: RequestBuilder) -> Result<RequestBuilder, Failure> {
        let Some(user) = &self.user else { return Ok(request) };
        #[expect(
            clippy::disallowed_methods,
            reason = "a password on the command line would be seen by the whole machine"
        )]
        let password = std::env::var("HAULSTREAM_PASSWORD").map_err(|_| {
            Failure::Usage("--user needs the environment variable HAULSTREAM_PASSWORD with the password".to_owned())
        })?;
        Ok(request.basic_auth(user, Some(password)))
    }
}

/// Does what is asked.
///
/// # Errors
/// What the pipeline refuses, or why it cannot be asked.
pub fn run(action: &Action) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| Failure::Runtime(format!("cannot start the runtime: {why}")))?;
    runtime.block_on(async {
        match action {
            Action::Add { file, past, server } => {
                let text = text(file)?;
                let name = queries::catalog::declared(&text);
                let told = server.built(name.as_deref(), server.send(Method::POST, "", &past.query(), text)).await?;
                print(&table(&[told]))
            }
            Action::Replace { file, past, server } => {
                let text = text(file)?;
                let name = queries::catalog::declared(&text).ok_or_else(|| {
                    Failure::Usage(format!("{}: no CREATE MATERIALIZED VIEW name AS …", file.display()))
                })?;
                let path = format!("/{name}");
                let told = server.built(Some(&name), server.send(Method::PUT, &path, &past.query(), text)).await?;
                print(&table(&[told]))
            }
            Action::Drop { name, purge, server } => {
                let how = if *purge { "?purge=true" } else { "" };
                let told = server.json(Method::DELETE, &format!("/{name}{how}"), String::new()).await?;
                let purged = told["purged"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let purged: String = purged.map(|sink| format!(", taken out of {sink}")).collect();
                print(&format!("{name} is dropped{purged}\n"))
            }
            Action::List { server } => {
                let told = server.json(Method::GET, "", String::new()).await?;
                print(&table(told.as_array().map_or(&[][..], Vec::as_slice)))
            }
            Action::Why { name, key, by, since, json, server } => {
                let query = [("key", Some(key)), ("by", by.as_ref()), ("history", since.as_ref())];
                let query: Vec<(&str, String)> =
                    query.into_iter().filter_map(|(part, value)| Some((part, value?.clone()))).collect();
                let path = format!("/{name}/why");
                let answer = server.send(Method::GET, &path, &query, String::new());
                let told = server.answered(Some(name), ("following", "reading the log"), beside, answer).await?;
                print(&if *json { format!("{told:#}\n") } else { why::shown(&told) })
            }
            Action::Tail { name, changes, server } => server.tail(name, changes.unwrap_or(usize::MAX)).await,
        }
    })
}

/// Says it where it is in nobody's way who reads the answer.
fn beside(text: &str) -> Result<(), Failure> {
    // An answer is worth more than what is said before it.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
    Ok(())
}

fn text(file: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(file).map_err(|why| Failure::Usage(format!("cannot read {}: {why}", file.display())))
}

impl Server {
    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Response, Failure> {
        self.send(method, path, &[], body).await
    }

    /// Waits for the answer, and tells meanwhile how far the stream is.
    async fn built(
        &self,
        name: Option<&str>,
        answer: impl Future<Output = Result<Response, Failure>>,
    ) -> Result<Value, Failure> {
        self.answered(name, ("percent", "building"), print, answer).await
    }

    /// Waits for the answer, and tells meanwhile how far this is of what the stream tells of itself.
    async fn answered(
        &self,
        name: Option<&str>,
        (figure, doing): (&str, &str),
        say: fn(&str) -> Result<(), Failure>,
        answer: impl Future<Output = Result<Response, Failure>>,
    ) -> Result<Value, Failure> {
        let mut answer = std::pin::pin!(answer);
        let mut told = None;
        let answer = loop {
            match tokio::time::timeout(PROGRESS, &mut answer).await {
                Ok(answer) => break answer?,
                Err(_) => {
                    let Some(name) = name else { continue };
                    // One that is refused is not there.
                    let Ok(status) = self.json(Method::GET, &format!("/{name}"), String::new()).await else { continue };
                    let percent = status[figure].as_u64();
                    if let Some(percent) = percent.filter(|percent| Some(*percent) != told) {
                        say(&format!("{name}: {doing} {percent} %\n"))?;
                    }
                    if percent.is_some() {
                        told = percent;
                    }
                }
            }
        };
        answer.json().await.map_err(|why| Failure::Runtime(format!("the answer is no JSON: {}", why.without_url())))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: String,
    ) -> Result<Response, Failure> {
        let url = format!("{}/v1/streams{path}", self.url.trim_end_matches('/'));
        let mut url = Url::parse(&url).map_err(|why| Failure::Usage(format!("--server {}: {why}", self.url)))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let client = Client::builder().connect_timeout(CONNECT_WAIT).build();
        let client = client.map_err(|why| Failure::Runtime(format!("cannot make a client: {why}")))?;
        let answer = self.signed(client.request(method, url).body(body))?.send().await;
        let answer = answer.map_err(|why| {
            let message = format!("no pipeline answers at {}: {}", self.url, why.without_url());
            Failure::Runtime(format!(
                "{message}; is it running, with sql.enabled, and is this the address of edge.listen?"
            ))
        })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let told: Value = answer.json().await.unwrap_or_default();
        let part = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
        let mut message = match told["code"].as_str() {
            Some(code) => format!("{code}: {}", part("message")),
            None => format!("the pipeline answers {status}"),
        };
        for (name, before) in [("field", " (at "), ("hint", "\nhint: ")] {
            if let Some(text) = told[name].as_str() {
                message += &format!("{before}{text}{}", if name == "field" { ")" } else { "" });
            }
        }
        Err(Failure::Runtime(message))
    }

    async fn json(&self, method: Method, path: &str, body: String) -> Result<Value, Failure> {
        let answer = self.ask(method, path, body).await?;
        answer.json().await.map_err(|why| Failure::Runtime(format!("the answer is no JSON: {}", why.without_url())))
    }

    async fn tail(&self, name: &str, most: usize) -> Result<(), Failure> {
        let mut answer = self.ask(Method::GET, &format!("/{name}/changes"), String::new()).await?;
        let (mut rest, mut shown): (Vec<u8>, usize) = (Vec::new(), 0);
        loop {
            let chunk = answer.chunk().await;
            let chunk =
                chunk.map_err(|why| Failure::Runtime(format!("the pipeline went away: {}", why.without_url())))?;
            let Some(chunk) = chunk else {
                return Err(Failure::Runtime("the stream has ended: dropped or replaced".into()));
            };
            rest.extend_from_slice(&chunk);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                print(&String::from_utf8_lossy(&line))?;
                shown += 1;
                if shown >= most {
                    return Ok(());
                }
            }
        }
    }
}

/// How a stream goes to a sink.
fn sent_line(name: &str, sent: &Value) -> String {
    let text = |part: &str| sent[part].as_str().unwrap_or_default();
    let mut line = format!("sink: {name} -> {}: {}", text("sink"), text("state"));
    for (part, meaning) in [
        ("queued", "rows wait"),
        ("missed", "events were missed"),
        ("resynchronised", "times taken again from the content"),
    ] {
        if let Some(count) = sent[part].as_u64().filter(|count| *count > 0) {
            line += &format!(", {count} {meaning}");
        }
    }
    line + "\n"
}

/// The streams as lines with columns.
fn table(streams: &[Value]) -> String {
    let head = [
        "NAME",
        "STATE",
        "KIND",
        "ROWS",
        "BYTES",
        "STATE ROWS",
        "STATE BYTES",
        "BUSY %",
        "CHANGES",
        "ERRORS",
        "SHARED",
        "READS",
        "AS OF",
    ];
    let mut lines: Vec<Vec<String>> = vec![head.iter().map(|word| (*word).to_owned()).collect()];
    let mut notes = String::new();
    for stream in streams {
        for sent in stream["sinks"].as_array().into_iter().flatten() {
            notes += &sent_line(stream["name"].as_str().unwrap_or_default(), sent);
        }
        if let Some(why) = stream["reason"].as_str() {
            notes += &format!("suspended: {}: {why}\n", stream["name"].as_str().unwrap_or_default());
        }
        for note in stream["notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            notes += &format!("note: {}: {note}\n", stream["name"].as_str().unwrap_or_default());
        }
        let text = |name: &str| match &stream[name] {
            Value::String(text) => text.clone(),
            Value::Array(all) => all.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
            Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or_default()),
            // What this reader is not told.
            Value::Null => String::new(),
            other => other.to_string(),
        };
        let at = stream["as_of"].as_i64().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        let names = [
            "name",
            "state",
            "kind",
            "rows",
            "bytes",
            "state_rows",
            "state_bytes",
            "busy_pct",
            "changes",
            "faults",
            "shares",
            "reads",
        ];
        let mut line: Vec<String> = names.map(text).to_vec();
        line.push(at.map_or_else(String::new, |at| at.to_string()));
        lines.push(line);
    }
    let widths: Vec<usize> =
        (0..head.len()).map(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0)).collect();
    let shown = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    lines.iter().map(shown).collect::<String>() + &notes
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_says_how_streams_go_to_their_sinks() {
        let sinks = json!([
            {"sink": "kafka", "state": "running", "queued": 0, "missed": 0, "resynchronised": 0},
            {"sink": "redis", "state": "trying again: away", "queued": 7, "missed": 0, "resynchronised": 2},
        ]);
        let shown = table(&[json!({"name": "fleet", "state": "running", "sinks": sinks, "notes": ["a note"]})]);
        let lines: Vec<&str> = shown.lines().skip(2).collect();
        let wanted = [
            "sink: fleet -> kafka: running",
            "sink: fleet -> redis: trying again: away, 7 rows wait, 2 times taken again from the content",
            "note: fleet: a note",
        ];
        assert_eq!(lines, wanted);
    }
}
