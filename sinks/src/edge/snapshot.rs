//! `GET /realtime/snapshot`: the selected rows of the current state as one JSON document, written as fast as the reader takes
//! it from a state that stays as it was at the request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use operators::error::{Refusal, excerpt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use warp::Reply as _;
use warp::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use warp::reply::Response;

use super::context::Context;
use super::encode::put_number;
use super::filter::Bounds;
use super::publication::Scan;
use super::selection::{Patch, Selection, unknown};

/// Bytes of the document that are made at a time.
const PIECE_BYTES: usize = 64 * 1024;
const PARAMETERS: [&str; 5] = ["bounds", "company", "group", "vehicle", "fields"];

/// Answers a request with these parameters.
///
/// # Errors
/// A parameter is wrong, or too many snapshots are being read.
pub fn answer(context: &Arc<Context>, parameters: &[(String, String)]) -> Result<Response, Refusal> {
    let patch = patch(parameters)?;
    let hub = &context.hub;
    let all = Selection::all(hub.reader().layout());
    let selection = all.patched(&patch, hub.reader().layout(), context.options.vehicles_max)?;
    let permit = context.snapshots.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{} snapshots are being read", context.options.snapshots_max);
        Refusal::new("snapshot_limit", message).hint("try again after the time in Retry-After")
    })?;
    let body = Body {
        context: context.clone(),
        scan: Scan::new(hub.pin()),
        selection,
        deadline: Instant::now() + Duration::from_millis(context.options.snapshot_ms_max),
        stage: Stage::Head,
        first: true,
        sent_bytes: 0,
        _permit: permit,
    };
    let mut response = warp::reply::stream(body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Lists may be given as one parameter with commas, as several parameters, or both.
fn patch(parameters: &[(String, String)]) -> Result<Patch, Refusal> {
    let mut patch = Patch::default();
    for (name, value) in parameters {
        let list = match name.as_str() {
            "bounds" if patch.bounds.is_some() => {
                return Err(Refusal::new("bounds_invalid", "bounds are given twice").at("bounds"));
            }
            "bounds" => {
                patch.bounds = Some(Some(Bounds::parse(value)?));
                continue;
            }
            "company" => &mut patch.company,
            "group" => &mut patch.group,
            "vehicle" => &mut patch.vehicle,
            "fields" => &mut patch.fields,
            other => {
                let why = unknown("field_unknown", "parameter", other, PARAMETERS).at(excerpt(other));
                return Err(why.hint("the parameters are bounds, company, group, vehicle and fields"));
            }
        };
        list.get_or_insert_default().extend(value.split(',').map(str::to_owned));
    }
    Ok(patch)
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Rows,
    Done,
}

/// The document, made piece by piece.
struct Body {
    context: Arc<Context>,
    scan: Scan,
    selection: Selection,
    deadline: Instant,
    stage: Stage,
    /// Whether no row was written yet.
    first: bool,
    sent_bytes: usize,
    _permit: OwnedSemaphorePermit,
}

impl Body {
    /// The next piece; empty if nothing was found this time.
    fn piece(&mut self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PIECE_BYTES + 1_024);
        if self.stage == Stage::Head {
            out.extend_from_slice(b"{\"version\":");
            put_number(&mut out, self.scan.version());
            out.extend_from_slice(b",\"rows\":[");
            self.stage = Stage::Rows;
        }
        self.scan.put_rows(&self.selection, &mut out, &mut self.first, PIECE_BYTES);
        if self.scan.is_done() {
            out.extend_from_slice(b"]}");
            self.stage = Stage::Done;
        }
        out
    }
}

impl Stream for Body {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Self::Item>> {
        if self.stage == Stage::Done {
            self.context.figures.http_snapshot.count(self.sent_bytes);
            return Poll::Ready(None);
        }
        if Instant::now() >= self.deadline {
            // The document breaks off, which tells the reader that it is not whole.
            return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, "the snapshot was read too slowly"))));
        }
        let piece = self.piece();
        if piece.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sent_bytes += piece.len();
        Poll::Ready(Some(Ok(piece.into())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Result<Patch, Refusal> {
        patch(&pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>())
    }

    #[test]
    fn lists_may_be_split_any_way() {
        let patch = of(&[("company", "a,b"), ("company", "c"), ("fields", "lat")]).unwrap();
        assert_eq!(patch.company.unwrap(), ["a", "b", "c"]);
        assert_eq!((patch.fields.unwrap(), patch.vehicle), (vec!["lat".to_owned()], None));
    }

    #[test]
    fn wrong_parameters_are_named() {
        let error = of(&[("compnay", "a")]).unwrap_err();
        assert_eq!(error.message, "no parameter \"compnay\"; did you mean \"company\"?");
        assert_eq!(of(&[("bounds", "1,2,3,4"), ("bounds", "1,2,3,4")]).unwrap_err().code, "bounds_invalid");
        assert_eq!(of(&[("bounds", "")]).unwrap_err().code, "bounds_invalid");
    }
}
