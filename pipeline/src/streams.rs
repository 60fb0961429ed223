//! Derived streams over HTTP: listed, added, replaced, dropped, and their changes as they happen.
//!
//! Invariant: whoever asks sees what their rights let them see, and changes nothing without the right to. A request changes what is declared or nothing; its answer comes once the change holds for every reader.

mod why;

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use futures_util::SinkExt as _;
use futures_util::stream::{self, Stream, StreamExt as _};
use operators::error::{Refusal, excerpt};
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use queries::Answer;
use queries::catalog::duration_ms;
use queries::live::{Engine, History, Status, Watched};
use queries::readers::{DENIED, Reader, Sieve, denied};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use crate::reads::login::{self, Gate};
use crate::view_sinks::ViewSinks;

pub use why::route as why;

/// Longest text of a declaration, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Longest message of a client that watches: it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// What a request is about: the engine, and who asks.
type Asked = Result<Reader, Refusal>;

/// The routes below `/v1/streams`, for whom the gate lets in.
#[must_use]
pub fn routes(engine: Arc<Engine>, sinks: ViewSinks, gate: &Gate) -> BoxedFilter<(Response,)> {
    let with_sinks = warp::any().map(move || sinks.clone());
    let with = warp::any().map(move || engine.clone());
    let who = gate.reader();
    let root = warp::path!("v1" / "streams").and(who.clone());
    let one = warp::path!("v1" / "streams" / String).and(who.clone());
    let text = warp::body::content_length_limit(TEXT_BYTES_MAX).and(warp::body::bytes());
    let list = warp::get()
        .and(root.clone())
        .and(with.clone())
        .map(|asked: Asked, engine: Arc<Engine>| answered(StatusCode::OK, asked.map(|reader| list(&engine, &reader))));
    let status = warp::get().and(one.clone()).and(with.clone());
    let status = status.map(|name: String, asked: Asked, engine: Arc<Engine>| {
        answered(StatusCode::OK, asked.and_then(|reader| status_of(&engine, &name, &reader)))
    });
    let how = warp::query::<How>();
    let add = warp::post().and(root).and(how).and(text).and(with.clone());
    let add = add.then(|asked: Asked, how: How, text: bytes::Bytes, engine: Arc<Engine>| async move {
        let done = async {
            asked?.changes()?;
            engine.add(utf8(&text)?, how.history()?, !how.detach).await
        };
        answered(how.status(StatusCode::CREATED), done.await.map(|status| json!(status)))
    });
    let replace = warp::put().and(one.clone()).and(how).and(text).and(with.clone());
    let replace =
        replace.then(|name: String, asked: Asked, how: How, text: bytes::Bytes, engine: Arc<Engine>| async move {
            let done = async {
                asked?.changes()?;
                engine.replace(&name, utf8(&text)?, how.history()?, !how.detach).await
            };
            answered(how.status(StatusCode::OK), done.await.map(|status| json!(status)))
        });
    let how = warp::query::<Dropping>();
    let remove = warp::delete().and(one).and(how).and(with.clone()).and(with_sinks).then(drop_stream);
    let changes =
        warp::get().and(warp::path!("v1" / "streams" / String / "changes")).and(who.clone()).and(with.clone());
    let changes = changes.map(|name: String, asked: Asked, engine: Arc<Engine>| {
        let body = |watched| {
            let lines = lines(watched).map(|line| Ok::<_, Infallible>(bytes::Bytes::from(line)));
            warp::reply::with_header(warp::reply::stream(lines), "content-type", "application/x-ndjson").into_response()
        };
        asked.and_then(|reader| engine.watch(&name, &reader)).map_or_else(|why| refused(&why), body)
    });
    let socket = warp::path!("v1" / "streams" / String / "ws").and(warp::ws()).and(who.clone()).and(with.clone());
    let socket = socket.map(|name: String, upgrade: warp::ws::Ws, asked: Asked, engine: Arc<Engine>| {
        let serve = |watched| {
            let serve = move |socket| serve(socket, lines(watched));
            upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(serve).into_response()
        };
        asked.and_then(|reader| engine.watch(&name, &reader)).map_or_else(|why| refused(&why), serve)
    });
    let faults = warp::get().and(warp::path!("v1" / "streams" / String / "faults")).and(who).and(with);
    let faults = faults.map(|name: String, asked: Asked, engine: Arc<Engine>| {
        answered(StatusCode::OK, asked.and_then(|reader| faults_of(&engine, &name, &reader)))
    });
    let all = list.or(status).unify().or(add).unify().or(replace).unify().or(remove).unify();
    all.or(changes).unify().or(socket).unify().or(faults).unify().boxed()
}

/// How all streams do; who sees the rows of some companies is told of the streams that say whose their rows are, and of these
/// nothing that tells of other rows.
fn list(engine: &Engine, reader: &Reader) -> Value {
    let all = engine.list();
    if !reader.is_restricted() {
        return json!(all);
    }
    all.iter().filter(|status| status.access.is_some()).map(seen).collect()
}

fn seen(status: &Status) -> Value {
    let Status { name, state, kind, key, access, as_of, .. } = status;
    json!({ "name": name, "state": state, "kind": kind, "key": key, "access": access, "as_of": as_of })
}

fn status_of(engine: &Engine, name: &str, reader: &Reader) -> Result<Value, Refusal> {
    let status = engine.status(name);
    if !reader.is_restricted() {
        return status.map(|status| json!(status));
    }
    status.ok().filter(|status| status.access.is_some()).map(|status| seen(&status)).ok_or_else(|| denied(name))
}

fn faults_of(engine: &Engine, name: &str, reader: &Reader) -> Result<Value, Refusal> {
    // A fault quotes values, and says of no company.
    reader.sees_all("faults")?;
    let content = engine.faults(name).ok_or_else(|| engine.catalog().unknown(name))?;
    Ok(rows(&Codec::new(content.schema).expect("a schema of rows"), &content.rows))
}

/// How a stream is dropped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dropping {
    /// Whether what it wrote to its sinks goes too.
    #[serde(default)]
    purge: bool,
}

async fn drop_stream(name: String, asked: Asked, how: Dropping, engine: Arc<Engine>, sinks: ViewSinks) -> Response {
    let done = async {
        asked?.changes()?;
        engine.remove(&name).await?;
        let purged = if how.purge { sinks.purge(&name).await? } else { Vec::new() };
        Ok(json!({ "dropped": name, "purged": purged }))
    };
    answered(StatusCode::OK, done.await)
}

/// How a stream is to be built.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct How {
    /// `all`, `none`, or a time such as `7 days`.
    #[serde(default)]
    history: Option<String>,
    /// Answer at once, not when it has caught up.
    #[serde(default)]
    detach: bool,
}

impl How {
    fn history(&self) -> Result<History, Refusal> {
        history(self.history.as_deref())
    }

    fn status(&self, done: StatusCode) -> StatusCode {
        if self.detach { StatusCode::ACCEPTED } else { done }
    }
}

/// How much of the past is meant.
fn history(text: Option<&str>) -> Result<History, Refusal> {
    match text {
        None | Some("all") => Ok(History::All),
        Some("none") => Ok(History::No),
        Some(text) => match duration_ms(text).and_then(|ms| u64::try_from(ms).ok()) {
            Some(ms) => Ok(History::Last(ms)),
            None => Err(Refusal::new("history_invalid", format!("{} is no length of time", excerpt(text)))
                .at("history")
                .hint("write all, none, or a time such as 7 days, 12 hours, 30 minutes")),
        },
    }
}

fn utf8(text: &[u8]) -> Result<&str, Refusal> {
    std::str::from_utf8(text).map_err(|why| Refusal::new("utf8_invalid", format!("the text is not UTF-8: {why}")))
}

fn answered(status: StatusCode, done: Result<Value, Refusal>) -> Response {
    match done {
        Ok(body) => warp::reply::with_status(warp::reply::json(&body), status).into_response(),
        Err(why) => refused(&why),
    }
}

fn refused(why: &Refusal) -> Response {
    let status = match why.code {
        "sql_unknown_stream" => StatusCode::NOT_FOUND,
        login::UNKNOWN => StatusCode::UNAUTHORIZED,
        "sql_statement_not_allowed" | DENIED => StatusCode::FORBIDDEN,
        "stream_has_dependants" | "stream_building" | "stream_build_stopped" | "sql_stream_suspended" => {
            StatusCode::CONFLICT
        }
        "sql_budget_exceeded" => StatusCode::UNPROCESSABLE_ENTITY,
        "why_busy" => StatusCode::TOO_MANY_REQUESTS,
        "why_failed" => StatusCode::INTERNAL_SERVER_ERROR,
        "why_too_large" => StatusCode::UNPROCESSABLE_ENTITY,
        "sink_not_purged" => StatusCode::BAD_GATEWAY,
        "why_stopped" | "sql_not_caught_up" | "stream_past_unreadable" | "sql_too_many_streams" => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        _ => StatusCode::BAD_REQUEST,
    };
    let mut response = warp::reply::with_status(warp::reply::json(why), status).into_response();
    login::challenge(why.code, &mut response);
    response
}

/// Sends what there is, and each change, until the client goes.
async fn serve(socket: warp::ws::WebSocket, lines: impl Stream<Item = String> + Send) {
    let (mut out, mut input) = socket.split();
    let mut lines = std::pin::pin!(lines);
    loop {
        tokio::select! {
            line = lines.next() => match line {
                // A client that does not read is behind by the channel's length at most, and told what it missed.
                Some(line) => if out.send(warp::ws::Message::text(line)).await.is_err() { return },
                None => return,
            },
            message = input.next() => match message {
                Some(Ok(message)) if !message.is_close() => {}
                _ => return,
            },
        }
    }
}

/// The content in one go, then the changes of each tick, as far as the reader sees them: a line each with the tick, how often the
/// row comes (or goes, where negative), and the row. A row that goes over to another company goes for the one and comes for the
/// other.
fn lines(watched: Watched) -> impl Stream<Item = String> {
    let Watched { content, changes, sieve } = watched;
    let codec = Codec::new(content.schema.clone()).expect("a schema of rows");
    let there: Vec<(Row, Diff)> = content.rows.iter().map(|row| (row.clone(), 1)).collect();
    let there = sieved(&codec, &sieve, &there);
    let begin = format!("{}\n", json!({ "as_of": content.as_of, "rows": there.len() }));
    let first = begin + &changed(&codec, content.as_of, &there);
    let later = stream::unfold((codec, sieve, changes), |(codec, sieve, mut changes)| async move {
        let text = loop {
            match changes.recv().await {
                Ok(change) => {
                    let seen = sieved(&codec, &sieve, &change.rows);
                    // That others' rows change is not told either.
                    if !seen.is_empty() {
                        break changed(&codec, change.tick, &seen);
                    }
                }
                Err(RecvError::Lagged(missed)) => {
                    let missed = (!sieve.keeps_back()).then_some(missed);
                    let hint = "connect again for the content as it is";
                    break format!("{}\n", json!({ "missed_ticks": missed, "hint": hint }));
                }
                Err(RecvError::Closed) => return None,
            }
        };
        Some((text, (codec, sieve, changes)))
    });
    stream::once(async { first }).chain(later)
}

/// The changes of rows that are seen.
fn sieved<'a>(codec: &Codec, sieve: &Sieve, changes: &'a [(Row, Diff)]) -> Cow<'a, [(Row, Diff)]> {
    if !sieve.keeps_back() {
        return Cow::Borrowed(changes);
    }
    let rows = codec.decode(changes.iter().map(|(row, _)| row)).expect("rows of the stream");
    let Some(seen) = sieve.seen(&rows) else { return Cow::Borrowed(changes) };
    changes.iter().zip(seen.iter()).filter(|(_, seen)| *seen == Some(true)).map(|(change, _)| change.clone()).collect()
}

fn changed(codec: &Codec, tick: Tick, changes: &[(Row, Diff)]) -> String {
    let only: Vec<Row> = changes.iter().map(|(row, _)| row.clone()).collect();
    let Value::Array(rows) = rows(codec, &only) else { return String::new() };
    let line =
        |((_, diff), row): (&(Row, Diff), Value)| format!("{}\n", json!({ "tick": tick, "diff": diff, "row": row }));
    changes.iter().zip(rows).map(line).collect()
}

fn rows(codec: &Codec, rows: &[Row]) -> Value {
    let batch = codec.decode(rows).expect("rows of the stream");
    let answer = Answer { schema: codec.schema().clone(), batches: vec![batch], truncated: false, as_of: None };
    let text = answer.to_json().unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}
