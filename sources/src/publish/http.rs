//! Publishing telemetry to an ingestion gate over HTTP, as trackers do: lines in batches, one request after the other, so
//! that a device's messages stay in order. What the gate refuses for good is counted and not sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use super::{Ack, Publish, PublishError, Records};
use crate::SourceError;

/// Publications that wait to be sent.
const REQUESTS_MAX: usize = 1_024;

/// How to reach a gate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpOptions {
    /// `http://host:port` of the gate.
    pub url: String,
    /// Messages of one request.
    pub items_max: usize,
    /// Bytes of one request's body.
    pub body_bytes_max: usize,
    /// Bytes of messages that may wait before more are refused.
    pub queue_bytes_max: usize,
    /// Milliseconds for one request.
    pub request_ms_max: u64,
}

/// Sends to one gate.
pub struct HttpPublisher {
    topic: String,
    options: HttpOptions,
    waiting_bytes: Arc<AtomicUsize>,
    requests: mpsc::Sender<Request>,
    counts: Arc<HttpCounts>,
}

/// What a gate has answered so far.
#[derive(Debug, Default)]
pub struct HttpCounts {
    accepted: AtomicU64,
    rejected: AtomicU64,
}

impl HttpCounts {
    /// Messages that the gate has accepted.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Messages that the gate has refused.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

struct Request {
    /// Bodies of whole lines, each with the number of its lines.
    bodies: Vec<(Vec<u8>, usize)>,
    bytes: usize,
    done: oneshot::Sender<Result<(), PublishError>>,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    accepted: u64,
    #[serde(default)]
    rejected: u64,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<serde::de::IgnoredAny>,
}

impl HttpPublisher {
    /// Sends what is published to `topic`, the only one that a gate takes, from a task on `runtime`.
    ///
    /// # Errors
    /// The address cannot be one.
    pub fn new(options: HttpOptions, topic: String, runtime: &Handle) -> Result<Self, SourceError> {
        let fail = |why: reqwest::Error| SourceError::Configuration(format!("http target {}: {why}", options.url));
        let url = reqwest::Url::parse(&format!("{}/v1/telemetry", options.url.trim_end_matches('/')))
            .map_err(|why| SourceError::Configuration(format!("http target \"{}\": {why}", options.url)))?;
        let timeout = Duration::from_millis(options.request_ms_max);
        let client = reqwest::Client::builder().timeout(timeout).build().map_err(fail)?;
        let (requests, mut queue) = mpsc::channel::<Request>(REQUESTS_MAX);
        let (waiting_bytes, counts) = (Arc::<AtomicUsize>::default(), Arc::<HttpCounts>::default());
        let (left, counted) = (waiting_bytes.clone(), counts.clone());
        runtime.spawn(async move {
            while let Some(request) = queue.recv().await {
                let mut result = Ok(());
                for (body, lines) in request.bodies {
                    result = send(&client, url.clone(), body, lines as u64, &counted).await;
                    if result.is_err() {
                        break;
                    }
                }
                left.fetch_sub(request.bytes, Ordering::AcqRel);
                let _ = request.done.send(result); // nobody may wait any more
            }
        });
        Ok(Self { topic, options, waiting_bytes, requests, counts })
    }

    /// What the gate has answered so far.
    #[must_use]
    pub fn counts(&self) -> Arc<HttpCounts> {
        self.counts.clone()
    }
}

impl Publish for HttpPublisher {
    fn publish(&self, topic: &str, records: &Records) -> Ack {
        if topic != self.topic {
            return Ack::known(Err(PublishError::Refused(format!("a gate takes {} only, not {topic}", self.topic))));
        }
        let waiting = self.waiting_bytes.load(Ordering::Acquire);
        if waiting > 0 && waiting + records.bytes() > self.options.queue_bytes_max {
            return Ack::known(Err(PublishError::Full {
                waiting_bytes: waiting,
                bytes_max: self.options.queue_bytes_max,
            }));
        }
        self.waiting_bytes.fetch_add(records.bytes(), Ordering::AcqRel);
        let mut bodies: Vec<(Vec<u8>, usize)> = Vec::new();
        for record in records.iter() {
            let value = record.value.unwrap_or_default();
            match bodies.last_mut() {
                Some((body, lines))
                    if *lines < self.options.items_max && body.len() + value.len() < self.options.body_bytes_max =>
                {
                    body.extend_from_slice(value);
                    body.push(b'\n');
                    *lines += 1;
                }
                _ => bodies.push(([value, b"\n"].concat(), 1)),
            }
        }
        let (done, receiver) = oneshot::channel();
        let request = Request { bodies, bytes: records.bytes(), done };
        let refused = match self.requests.try_send(request) {
            Ok(()) => return Ack::pending(receiver),
            Err(mpsc::error::TrySendError::Full(_)) => {
                PublishError::Full { waiting_bytes: waiting, bytes_max: self.options.queue_bytes_max }
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                PublishError::Unavailable("the runtime of the http target has ended".to_owned())
            }
        };
        self.waiting_bytes.fetch_sub(records.bytes(), Ordering::AcqRel);
        Ack::known(Err(refused))
    }
}

async fn send(
    client: &reqwest::Client,
    url: reqwest::Url,
    body: Vec<u8>,
    lines: u64,
    counts: &HttpCounts,
) -> Result<(), PublishError> {
    let unavailable = |why: reqwest::Error| PublishError::Unavailable(format!("http target: {why}"));
    let request = client.post(url).header("Content-Type", "application/x-ndjson").body(body);
    let response = request.send().await.map_err(unavailable)?;
    let status = response.status().as_u16();
    let bytes = response.bytes().await.map_err(unavailable)?;
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|why| {
        PublishError::Refused(format!("http target: status {status} without a readable answer: {why}"))
    })?;
    let told = format!("http target: {status} {}: {}", answer.code, answer.message);
    match status {
        202 => {
            counts.accepted.fetch_add(answer.accepted, Ordering::Relaxed);
            counts.rejected.fetch_add(answer.rejected, Ordering::Relaxed);
            Ok(())
        }
        422 if answer.errors.len() as u64 == lines => {
            counts.rejected.fetch_add(lines, Ordering::Relaxed);
            Ok(())
        }
        408 | 429 | 500..=599 => Err(PublishError::Unavailable(told)),
        _ => Err(PublishError::Refused(told)),
    }
}
