//! What the gate answers: one shape for every error, with the status that its code stands for.

use std::sync::atomic::{AtomicU64, Ordering};

use operators::error::Refusal;
use serde::Serialize;
use warp::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use warp::http::{Response as HttpResponse, StatusCode};
use warp::reply::Response;

use super::items::Rejected;

/// Answer to a batch of which something was taken, or to a message.
#[derive(Debug, Serialize)]
struct Accepted<'a> {
    accepted: usize,
    rejected: usize,
    errors: Vec<ItemError<'a>>,
}

/// An item that was refused.
#[derive(Debug, Serialize)]
struct ItemError<'a> {
    index: usize,
    #[serde(flatten)]
    why: &'a Refusal,
}

/// An error.
#[derive(Debug, Serialize)]
struct Failed<'a> {
    code: &'a str,
    message: &'a str,
    #[serde(rename = "where")]
    place: Place<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
    id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ItemError<'a>>,
}

#[derive(Debug, Serialize)]
struct Place<'a> {
    interface: &'static str,
    path: &'a str,
    /// Field, or `line:column`.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
}

/// The status of an error's code.
pub(super) fn status(code: &str) -> StatusCode {
    match code {
        "not_found" | "topic_unknown" => StatusCode::NOT_FOUND,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "body_timeout" => StatusCode::REQUEST_TIMEOUT,
        "body_too_large" | "decompressed_too_large" | "batch_too_large" | "payload_too_large" => {
            StatusCode::PAYLOAD_TOO_LARGE
        }
        "uri_too_long" => StatusCode::URI_TOO_LONG,
        "content_type_unsupported" | "encoding_unsupported" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "backlog_full" => StatusCode::SERVICE_UNAVAILABLE,
        "log_refused" => StatusCode::INTERNAL_SERVER_ERROR,
        "body_empty" | "body_incomplete" | "json_invalid" | "json_too_deep" | "json_duplicate_key" | "utf8_invalid"
        | "gzip_corrupt" | "zstd_corrupt" | "id_invalid" => StatusCode::BAD_REQUEST,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// 202 with the counts, and the reason for each item that was refused.
pub(super) fn accepted(accepted: usize, rejected: &[Rejected]) -> Response {
    let errors = rejected.iter().map(|item| ItemError { index: item.index, why: &item.why }).collect();
    json(StatusCode::ACCEPTED, &Accepted { accepted, rejected: rejected.len(), errors })
}

/// An error, with its items if all of a batch were refused.
pub(super) fn failed(path: &str, why: &Refusal, rejected: &[Rejected], retry_after_s: u64) -> Response {
    let status = status(why.code);
    let errors = rejected.iter().map(|item| ItemError { index: item.index, why: &item.why }).collect();
    let place = Place { interface: "http", path, field: why.field.as_deref() };
    let failed = Failed { code: why.code, message: &why.message, place, hint: why.hint, id: request_id(), errors };
    let mut response = json(status, &failed);
    let headers = response.headers_mut();
    match status {
        StatusCode::METHOD_NOT_ALLOWED => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        _ => {}
    }
    // The rest of the body is not read: the connection cannot be used again.
    if matches!(why.code, "body_too_large" | "decompressed_too_large" | "body_timeout" | "body_incomplete") {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let bytes = serde_json::to_vec(body).expect("strings and numbers have a JSON form");
    let mut response = HttpResponse::new(bytes.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Identifies an error in answers and logs; unique for this process and, by its start, beyond.
fn request_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        since.as_micros() as u64 ^ u64::from(std::process::id()) << 44
    });
    format!("{:016x}-{:x}", *START, COUNT.fetch_add(1, Ordering::Relaxed))
}
