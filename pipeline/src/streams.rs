//! Derived streams over HTTP: listed, added, replaced, dropped, and their changes as they happen.
//!
//! Invariant: a request changes what is declared or nothing; its answer comes once the change holds for every reader.

mod why;

use std::convert::Infallible;
use std::sync::Arc;

use futures_util::SinkExt as _;
use futures_util::stream::{self, Stream, StreamExt as _};
use operators::error::{Refusal, excerpt};
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;
use queries::Answer;
use queries::catalog::duration_ms;
use queries::live::{Change, Content, Engine, History};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

use crate::view_sinks::ViewSinks;

pub use why::route as why;

/// Longest text of a declaration, in bytes.
const TEXT_BYTES_MAX: u64 = 64 << 10;

/// Longest message of a client that watches: it has nothing to say.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// The routes below `/v1/streams`.
#[must_use]
pub fn routes(engine: Arc<Engine>, sinks: ViewSinks) -> BoxedFilter<(Response,)> {
    let with_sinks = warp::any().map(move || sinks.clone());
    let with = warp::any().map(move || engine.clone());
    let root = warp::path!("v1" / "streams");
    let one = warp::path!("v1" / "streams" / String);
    let text = warp::body::content_length_limit(TEXT_BYTES_MAX).and(warp::body::bytes());
    let list = warp::get()
        .and(root)
        .and(with.clone())
        .map(|engine: Arc<Engine>| warp::reply::json(&engine.list()).into_response());
    let status = warp::get().and(one).and(with.clone()).map(|name: String, engine: Arc<Engine>| {
        answered(StatusCode::OK, engine.status(&name).map(|status| json!(status)))
    });
    let how = warp::query::<How>();
    let add = warp::post().and(root).and(how).and(text).and(with.clone());
    let add = add.then(|how: How, text: bytes::Bytes, engine: Arc<Engine>| async move {
        let done = async { engine.add(utf8(&text)?, how.history()?, !how.detach).await };
        answered(how.status(StatusCode::CREATED), done.await.map(|status| json!(status)))
    });
    let replace = warp::put().and(one).and(how).and(text).and(with.clone());
    let replace = replace.then(|name: String, how: How, text: bytes::Bytes, engine: Arc<Engine>| async move {
        let done = async { engine.replace(&name, utf8(&text)?, how.history()?, !how.detach).await };
        answered(how.status(StatusCode::OK), done.await.map(|status| json!(status)))
    });
    let asked = warp::query::<Dropping>();
    let remove = warp::delete().and(one).and(asked).and(with.clone()).and(with_sinks).then(drop_stream);
    let changes = warp::get().and(warp::path!("v1" / "streams" / String / "changes")).and(with.clone());
    let changes = changes.map(|name: String, engine: Arc<Engine>| match engine.watch(&name) {
        Ok((content, changes)) => {
            let body =
                warp::reply::stream(lines(content, changes).map(|line| Ok::<_, Infallible>(bytes::Bytes::from(line))));
            warp::reply::with_header(body, "content-type", "application/x-ndjson").into_response()
        }
        Err(why) => refused(&why),
    });
    let socket = warp::path!("v1" / "streams" / String / "ws").and(warp::ws()).and(with.clone());
    let socket = socket.map(|name: String, upgrade: warp::ws::Ws, engine: Arc<Engine>| match engine.watch(&name) {
        Ok((content, changes)) => {
            let serve = move |socket| serve(socket, lines(content, changes));
            upgrade.max_message_size(MESSAGE_BYTES_MAX).on_upgrade(serve).into_response()
        }
        Err(why) => refused(&why),
    });
    let faults = warp::get().and(warp::path!("v1" / "streams" / String / "faults")).and(with);
    let faults = faults.map(|name: String, engine: Arc<Engine>| {
        let content = engine.faults(&name).ok_or_else(|| engine.catalog().unknown(&name));
        answered(
            StatusCode::OK,
            content.map(|content| rows(&Codec::new(content.schema).expect("a schema of rows"), &content.rows)),
        )
    });
    let all = list.or(status).unify().or(add).unify().or(replace).unify().or(remove).unify();
    all.or(changes).unify().or(socket).unify().or(faults).unify().boxed()
}

/// How a stream is dropped.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dropping {
    /// Whether what it wrote to its sinks goes too.
    #[serde(default)]
    purge: bool,
}

async fn drop_stream(name: String, how: Dropping, engine: Arc<Engine>, sinks: ViewSinks) -> Response {
    let done = async {
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
        "sql_statement_not_allowed" => StatusCode::FORBIDDEN,
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
    warp::reply::with_status(warp::reply::json(why), status).into_response()
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

/// The content in one go, then the changes of each tick: a line each with the tick, how often the row comes (or goes, where
/// negative), and the row.
fn lines(content: Content, changes: broadcast::Receiver<Arc<Change>>) -> impl Stream<Item = String> {
    let codec = Codec::new(content.schema.clone()).expect("a schema of rows");
    let there: Vec<(Row, Diff)> = content.rows.iter().map(|row| (row.clone(), 1)).collect();
    let begin = format!("{}\n", json!({ "as_of": content.as_of, "rows": there.len() }));
    let first = begin + &changed(&codec, content.as_of, &there);
    let later = stream::unfold((codec, changes), |(codec, mut changes)| async move {
        let text = match changes.recv().await {
            Ok(change) => changed(&codec, change.tick, &change.rows),
            Err(RecvError::Lagged(missed)) => {
                format!("{}\n", json!({ "missed_ticks": missed, "hint": "connect again for the content as it is" }))
            }
            Err(RecvError::Closed) => return None,
        };
        Some((text, (codec, changes)))
    });
    stream::once(async { first }).chain(later)
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
