//! Live tables over HTTP: `GET /v1/views`, `GET /v1/views/NAME` and `GET /v1/views/NAME/KEY`.
//!
//! Invariant: an answer says as of which tick it is; an error has the shape of all errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use operators::error::{Refusal, excerpt};
use queries::readers::{DENIED, Reader};
use queries::reads::{Name, PUBLIC, Relation, SYSTEM};
use queries::{Answer, Reads};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::http::{Response as HttpResponse, StatusCode};
use warp::reply::Response;

use super::login::{self, Gate};

/// Rows of an answer unless `limit` says otherwise.
const LIMIT: usize = 1_000;
/// Seconds after which a question that took too much may be asked again.
const RETRY_AFTER_S: u64 = 5;

#[derive(Debug, Deserialize)]
struct Query {
    /// A text, so that what is no number is told in our own way.
    limit: Option<String>,
}

/// The rows of an answer.
#[derive(Serialize)]
struct Rows<'a> {
    view: &'a str,
    as_of: Option<u64>,
    truncated: bool,
    rows: Box<RawValue>,
}

/// All routes, for whom the gate lets in.
pub fn routes(reads: Arc<Reads>, gate: &Gate) -> BoxedFilter<(Response,)> {
    let path = warp::path("v1").and(warp::path("views"));
    let asked = path
        .and(warp::path::tail())
        .and(warp::query::<Query>().or(warp::any().map(|| Query { limit: None })).unify())
        .and(warp::method())
        .and(gate.reader())
        .then(
            move |tail: warp::path::Tail, query: Query, method: warp::http::Method, reader: Result<Reader, Refusal>| {
                let reads = reads.clone();
                async move {
                    let path = format!("/v1/views/{}", tail.as_str());
                    let answered = match reader {
                        Ok(reader) if method == "GET" || method == "HEAD" => {
                            answer(&reads.seen_by(&reader), tail.as_str(), &query).await
                        }
                        Ok(_) => Err(Refusal::new("method_not_allowed", "this path is only for GET")),
                        Err(why) => Err(why),
                    };
                    answered.unwrap_or_else(|why| failed(&path, &why))
                }
            },
        );
    asked.boxed()
}

async fn answer(reads: &Reads, tail: &str, query: &Query) -> Result<Response, Refusal> {
    let parts = tail.split('/').filter(|part| !part.is_empty()).map(decoded).collect::<Result<Vec<_>, _>>()?;
    match parts.split_first() {
        None => Ok(list(reads)),
        Some((view, [])) => rows(reads, view, limit(query)?).await,
        Some((view, key)) => row(reads, view, key).await,
    }
}

fn list(reads: &Reads) -> Response {
    let shown = |relation: &Relation| {
        let columns = relation.schema.fields().iter();
        let columns: Vec<_> = columns
            .map(|field| json!({ "name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable() }))
            .collect();
        json!({
            "name": relation.name.name,
            "namespace": relation.name.namespace,
            "kind": relation.kind.name(),
            "key": relation.key,
            "columns": columns,
        })
    };
    let views: Vec<_> = reads.list().iter().map(shown).collect();
    response(StatusCode::OK, &json!({ "views": views }))
}

async fn rows(reads: &Reads, view: &str, limit: usize) -> Result<Response, Refusal> {
    let answer = reads.rows(&named(reads, view), limit).await?;
    let (as_of, truncated) = (answer.as_of, answer.truncated);
    let rows = Rows { view, as_of, truncated, rows: texts(answer).await? };
    Ok(response(StatusCode::OK, &rows))
}

async fn row(reads: &Reads, view: &str, key: &[String]) -> Result<Response, Refusal> {
    let name = named(reads, view);
    let columns = reads.list().into_iter().find(|relation| relation.name == name).map_or(0, |found| found.key.len());
    let split;
    // One segment holds all values, or each value has a segment; only the latter has room for `|` in a value.
    let key = match key {
        [all] if columns > 1 => {
            split = all.split('|').map(str::to_owned).collect::<Vec<_>>();
            split.as_slice()
        }
        each => each,
    };
    let answer = reads.row(&name, key).await?;
    if answer.rows() == 0 {
        let message = format!("{} has no row with the key {}", excerpt(view), excerpt(&key.join("|")));
        return Err(Refusal::new("row_unknown", message));
    }
    let (as_of, truncated) = (answer.as_of, answer.truncated);
    let rows = Rows { view, as_of, truncated, rows: texts(answer).await? };
    Ok(response(StatusCode::OK, &rows))
}

/// The relation that is meant: `NAME`, or `NAMESPACE.NAME`.
fn named(reads: &Reads, view: &str) -> Name {
    let plain = Name::new(PUBLIC, view);
    let all = reads.list();
    let there = |name: &Name| all.iter().any(|relation| relation.name == *name);
    let qualified = view.split_once('.').map(|(namespace, name)| Name::new(namespace, name));
    [Some(plain.clone()), Some(Name::new(SYSTEM, view)), qualified].into_iter().flatten().find(there).unwrap_or(plain)
}

fn limit(query: &Query) -> Result<usize, Refusal> {
    let Some(text) = &query.limit else { return Ok(LIMIT) };
    text.parse().ok().filter(|limit| *limit > 0).ok_or_else(|| {
        let message = format!("limit is a whole number from 1, got \"{}\"", excerpt(text));
        Refusal::new("limit_invalid", message).at("limit").hint("leave it out for 1000")
    })
}

/// The rows as JSON, made where it keeps nobody waiting.
async fn texts(answer: Answer) -> Result<Box<RawValue>, Refusal> {
    let failed =
        |why: &dyn std::fmt::Display| Refusal::new("sql_failed", format!("the rows have no form in JSON: {why}"));
    let text = tokio::task::spawn_blocking(move || answer.to_json()).await.map_err(|why| failed(&why))?;
    RawValue::from_string(text.map_err(|why| failed(&why))?).map_err(|why| failed(&why))
}

/// The segment of a path with its `%xx` undone.
fn decoded(segment: &str) -> Result<String, Refusal> {
    let wrong =
        || Refusal::new("request_invalid", format!("\"{}\" in the path is not %-encoded UTF-8", excerpt(segment)));
    let (mut bytes, mut rest) = (Vec::with_capacity(segment.len()), segment.as_bytes());
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte =
            digits.filter(|digits| !digits.starts_with('+')).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or_else(wrong)?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn status(code: &str) -> StatusCode {
    match code {
        "sql_unknown_table" | "row_unknown" => StatusCode::NOT_FOUND,
        "sql_stream_suspended" => StatusCode::CONFLICT,
        login::UNKNOWN => StatusCode::UNAUTHORIZED,
        DENIED => StatusCode::FORBIDDEN,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "key_invalid" | "key_unknown" | "limit_invalid" | "request_invalid" => StatusCode::BAD_REQUEST,
        "sql_time_limit" | "sql_resource_exceeded" => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn failed(path: &str, why: &Refusal) -> Response {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let status = status(why.code);
    let id = format!("{:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    if status.is_server_error() {
        tracing::warn!(id, path, code = why.code, "{}", why.message);
    }
    let mut place = json!({ "interface": "http", "path": path });
    if let Some(field) = &why.field {
        place["field"] = json!(field);
    }
    let mut body = json!({ "code": why.code, "message": why.message, "where": place, "id": id });
    if let Some(hint) = why.hint {
        body["hint"] = json!(hint);
    }
    let mut response = response(status, &body);
    login::challenge(why.code, &mut response);
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        _ => {}
    }
    response
}

fn response(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("strings and numbers have a JSON form");
    let mut response = HttpResponse::new(bytes.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_decoded() {
        assert_eq!(decoded("a%7Cb%C3%A9"), Ok("a|bé".to_owned()));
        for wrong in ["%", "%4", "%zz", "%+1", "%ff", "a%é"] {
            assert_eq!(decoded(wrong).unwrap_err().code, "request_invalid", "{wrong}");
        }
    }
}
