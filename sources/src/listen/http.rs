//! `POST /v1/telemetry`, `POST /v1/devices/{id}/telemetry`, and `POST /v1/events/{topic}` for topics that the schema declares:
//! one message, an array or lines, packed with gzip or zstd or not at all.
//!
//! A batch is taken item by item: the good ones are written, the bad ones are named with their index and reason (202); if
//! none is good the answer is 422. A body that cannot be taken apart is refused as a whole. 202 is sent only after the log
//! has acknowledged every good item; where it does not, the answer is 503 and the sender sends all of it again, which does
//! no harm to telemetry, since copies of (device, ts, seq) count once, nor to a table.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf;
use futures_util::Stream;
use metrics::counter;
use operators::error::{Refusal, excerpt};
use operators::record::declared::Declared;
use operators::record::telemetry::Limits;
use serde::Deserialize;
use tokio::sync::Semaphore;
use tracing::{debug, warn};
use warp::filters::path::FullPath;
use warp::http::Method;
use warp::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName};
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::answer;
use super::body::{self, BodyLimits, Budget, Encoding, Hold};
use super::items::{self, Form, Items, Reading};
use crate::log::Clock;
use crate::metrics::Metric;
use crate::publish::{Publish, PublishError};

/// Bodies up to this size are taken apart at once, larger ones on a thread of their own.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// What the gate accepts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateOptions {
    /// Bytes of a body as it is sent.
    pub body_bytes_max: usize,
    /// Bytes of a body when it is unpacked.
    pub unpacked_bytes_max: usize,
    /// Milliseconds for a body to arrive.
    pub body_ms_max: u64,
    /// Bytes of all bodies that are held at a time; beyond it requests are answered 503.
    pub held_bytes_max: usize,
    /// Items of a batch.
    pub items_max: usize,
    /// Bytes of path and query.
    pub uri_bytes_max: usize,
    /// Milliseconds that the log may take to acknowledge.
    pub ack_ms_max: u64,
    /// Seconds after which a sender is asked to try again.
    pub retry_after_s: u64,
    /// How old a message may be, in milliseconds.
    pub past_ms_max: i64,
    /// How far ahead of ours a device's clock may be, in milliseconds.
    pub future_ms_max: i64,
}

/// The ingestion gate over HTTP.
pub struct Gate {
    log: Arc<dyn Publish>,
    topic: String,
    declared: Vec<&'static Declared>,
    options: GateOptions,
    clock: Clock,
    budget: Budget,
    /// Large bodies that are taken apart at a time.
    parsers: Arc<Semaphore>,
}

/// What a path means.
#[derive(Clone, Debug)]
enum Target {
    Telemetry,
    /// The same for one device, as its id stands in the path.
    Device(String),
    /// Records of a declared relation, by its topic.
    Events(String),
}

/// What a request's items are.
struct Wanted {
    declared: Option<&'static Declared>,
    device_id: Option<String>,
}

struct Request {
    method: Method,
    path: FullPath,
    target: Target,
    query_bytes: usize,
    headers: HeaderMap,
}

impl Gate {
    /// A gate that publishes telemetry to `topic` of `log`, records of these relations to their topics, and takes the time
    /// from `clock`.
    #[must_use]
    pub fn new(
        log: Arc<dyn Publish>,
        topic: String,
        declared: Vec<&'static Declared>,
        options: GateOptions,
        clock: Clock,
    ) -> Arc<Self> {
        let parsers = Arc::new(Semaphore::new(std::thread::available_parallelism().map_or(2, |n| n.get() * 2)));
        let budget = Budget::new(options.held_bytes_max);
        Arc::new(Self { log, topic, declared, options, clock, budget, parsers })
    }

    async fn answer<B: Buf>(
        self: Arc<Self>,
        request: Request,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Response {
        let path = excerpt(request.path.as_str());
        let taken = self.take(&request, body).await;
        let (response, code) = match &taken {
            Ok(items) if items.records.is_empty() => {
                let first = &items.rejected[0].why;
                if items.single {
                    (answer::failed(&path, first, &[], self.options.retry_after_s), first.code)
                } else {
                    let count = items.rejected.len();
                    let message = format!("all {count} items were refused, the first for {first}");
                    let why = Refusal::new("batch_rejected", message);
                    (answer::failed(&path, &why, &items.rejected, self.options.retry_after_s), why.code)
                }
            }
            Ok(items) => (answer::accepted(items.records.len(), &items.rejected), "accepted"),
            Err(why) => (answer::failed(&path, why, &[], self.options.retry_after_s), why.code),
        };
        debug!(path, code, status = response.status().as_u16(), "request");
        counter!(Metric::HttpRequests.name(), "code" => code).increment(1);
        response
    }

    /// Reads the request, takes it apart, writes what is good and waits for the log.
    async fn take<B: Buf>(
        &self,
        request: &Request,
        body: impl Stream<Item = Result<B, warp::Error>>,
    ) -> Result<Items, Refusal> {
        let header = |name: HeaderName| request.headers.get(name).map(|value| value.as_bytes());
        let uri_bytes = request.path.as_str().len() + request.query_bytes;
        if uri_bytes > self.options.uri_bytes_max {
            let message = format!("path and query have {uri_bytes} bytes, the limit is {}", self.options.uri_bytes_max);
            return Err(Refusal::new("uri_too_long", message));
        }
        if request.method != Method::POST {
            let message = format!("{} is not possible here", excerpt(request.method.as_str()));
            return Err(Refusal::new("method_not_allowed", message).hint("use POST"));
        }
        let wanted = self.wanted(&request.target)?;
        let form = Form::parse(header(CONTENT_TYPE))?;
        let mut encodings = request.headers.get_all(CONTENT_ENCODING).iter();
        let encoding = Encoding::parse(encodings.next().map(|value| value.as_bytes()))?;
        if encodings.next().is_some() {
            let why = Refusal::new("encoding_unsupported", "there is more than one Content-Encoding");
            return Err(why.hint("pack the body once, with gzip or zstd, or not at all"));
        }
        let length = header(CONTENT_LENGTH).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let limits = BodyLimits {
            bytes_max: self.options.body_bytes_max,
            unpacked_bytes_max: self.options.unpacked_bytes_max,
            ms_max: self.options.body_ms_max,
        };
        let mut hold = Hold::new(&self.budget);
        let bytes = body::read(body, length, encoding, limits, &mut hold).await?;
        let declared = wanted.declared;
        let items = self.parse(bytes, form, wanted).await?;
        for item in &items.rejected {
            counter!(Metric::HttpRejected.name(), "code" => item.why.code).increment(1);
        }
        if !items.records.is_empty() {
            self.write(declared.map_or(&self.topic, |declared| &declared.topic), &items).await?;
            counter!(Metric::HttpAccepted.name()).increment(items.records.len() as u64);
        }
        Ok(items)
    }

    fn wanted(&self, target: &Target) -> Result<Wanted, Refusal> {
        let segment = match target {
            Target::Telemetry => return Ok(Wanted { declared: None, device_id: None }),
            Target::Device(segment) => {
                return Ok(Wanted { declared: None, device_id: Some(items::device_of_path(segment)?) });
            }
            Target::Events(segment) => segment,
        };
        let declared = self.declared.iter().find(|declared| declared.topic == *segment);
        let unknown = || {
            Refusal::new(
                "topic_unknown",
                format!("no source or table is declared over a topic \"{}\"", excerpt(segment)),
            )
            .hint("declare it by CREATE SOURCE or CREATE TABLE in the directory of sql.schema")
        };
        Ok(Wanted { declared: Some(declared.ok_or_else(unknown)?), device_id: None })
    }

    async fn parse(&self, bytes: Vec<u8>, form: Form, wanted: Wanted) -> Result<Items, Refusal> {
        let limits = Limits { past_ms_max: self.options.past_ms_max, future_ms_max: self.options.future_ms_max };
        let (server_ms, items_max) = ((self.clock)() as i64, self.options.items_max);
        let small = bytes.len() <= INLINE_BYTES_MAX;
        let parse = move || {
            let Wanted { declared, device_id } = &wanted;
            let reading =
                Reading { declared: *declared, device_id: device_id.as_deref(), server_ms, limits, items_max };
            items::parse(&bytes, form, &reading)
        };
        if small {
            return parse();
        }
        let failed = |_| Refusal::new("log_refused", "the request could not be worked on");
        let permit = self.parsers.clone().acquire_owned().await.map_err(|_| failed(()))?;
        let parsed = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            parse()
        });
        parsed.await.map_err(|_| failed(()))?
    }

    async fn write(&self, topic: &str, items: &Items) -> Result<(), Refusal> {
        let ack = self.log.publish(topic, &items.records);
        let why = match tokio::time::timeout(Duration::from_millis(self.options.ack_ms_max), ack).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(why)) => why,
            Err(_) => PublishError::Unavailable(format!("no acknowledgement after {} ms", self.options.ack_ms_max)),
        };
        let refusal = match &why {
            PublishError::TooLarge { .. } => Refusal::new("payload_too_large", why.to_string()),
            PublishError::Refused(_) => {
                warn!(%why, topic, "the log refuses what the gate accepts");
                Refusal::new(
                    "log_refused",
                    format!("the log does not take records of {topic}; its operator has been told"),
                )
            }
            PublishError::Full { .. } | PublishError::Unavailable(_) => {
                Refusal::new("backlog_full", format!("the log did not take the messages: {why}"))
                    .hint("send the same again later; what was written already counts once")
            }
        };
        Err(refusal)
    }
}

/// Paths of the gate; others are left to other filters.
pub fn routes(
    gate: Arc<Gate>,
) -> impl Filter<Extract = (Response,), Error = Rejection> + Clone + Send + Sync + 'static {
    let query = warp::query::raw().map(|query: String| query.len()).or(warp::any().map(|| 0)).unify();
    warp::path::full()
        .and_then(|path: FullPath| async move {
            let target = match path.as_str().split('/').collect::<Vec<_>>().as_slice() {
                ["", "v1", "telemetry"] => Target::Telemetry,
                ["", "v1", "devices", id, "telemetry"] => Target::Device((*id).to_owned()),
                ["", "v1", "events", topic] => Target::Events((*topic).to_owned()),
                _ => return Err(warp::reject::not_found()),
            };
            Ok((path, target))
        })
        .untuple_one()
        .and(warp::method())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::body::stream())
        .then(move |path, target, method, query_bytes, headers, body| {
            gate.clone().answer(Request { method, path, target, query_bytes, headers }, body)
        })
}

/// Answers whatever no other filter has answered.
pub fn not_found() -> impl Filter<Extract = (Response,), Error = Infallible> + Clone + Send + Sync + 'static {
    warp::path::full().map(|path: FullPath| {
        let path = excerpt(path.as_str());
        let why = Refusal::new("not_found", format!("there is nothing at \"{path}\""));
        answer::failed(&path, &why, &[], 0)
    })
}
