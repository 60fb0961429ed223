//! What operators and their tools ask a running process: is it alive, is it ready, what are its figures.
//!
//! Invariant: an answer is made from what is in memory; no request waits for a source, a sink or a worker.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use serde_json::json;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::{Reply, Response};

/// How often figures are folded together, so that a process that nobody scrapes keeps its memory.
const UPKEEP: Duration = Duration::from_secs(5);
/// Upper bounds of the buckets of times, in seconds.
const SECONDS: [f64; 14] = [0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];
/// Upper bounds of the buckets of sizes, in rows or bytes.
const SIZES: [f64; 12] = [1.0, 10.0, 100.0, 1_000.0, 4_000.0, 16_000.0, 64_000.0, 256_000.0, 1e6, 4e6, 16e6, 64e6];

/// Whether the process serves what it was started for. Cheap to clone; all clones are one.
///
/// It is ready when something waits for nothing: every [`Condition`] that was made is met, and there is at least one.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Option<String>>>>);

/// One thing that the process has to wait for, such as `sink redis` or `input`.
#[derive(Clone, Debug)]
pub struct Condition {
    all: Readiness,
    what: String,
}

impl Readiness {
    /// A new condition, not yet met. `why` tells what is missing.
    #[must_use]
    pub fn condition(&self, what: impl Into<String>, why: impl Into<String>) -> Condition {
        let condition = Condition { all: self.clone(), what: what.into() };
        condition.waits(why);
        condition
    }

    /// What the process waits for and why; `None` if it is ready.
    #[must_use]
    pub fn waiting(&self) -> Option<BTreeMap<String, String>> {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if conditions.is_empty() {
            return Some(BTreeMap::from([("start".to_owned(), "the process is starting".to_owned())]));
        }
        let waiting: BTreeMap<String, String> =
            conditions.iter().filter_map(|(what, why)| Some((what.clone(), why.clone()?))).collect();
        (!waiting.is_empty()).then_some(waiting)
    }
}

impl Condition {
    /// It is met.
    pub fn met(&self) {
        self.set(None);
    }

    /// It is not, or no longer, met. `why` tells what is missing, with figures.
    pub fn waits(&self, why: impl Into<String>) {
        self.set(Some(why.into()));
    }

    fn set(&self, why: Option<String>) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.what.clone(), why);
    }
}

/// The figures of all crates, from the call of [`install_metrics`] on.
#[derive(Clone)]
pub struct Figures(PrometheusHandle);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

/// Starts keeping figures. A second call gives the same ones.
///
/// # Errors
/// The process keeps figures elsewhere already.
pub fn install_metrics() -> Result<Figures, BuildError> {
    static INSTALLED: OnceLock<Figures> = OnceLock::new();
    static INSTALLING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(figures) = INSTALLED.get() {
        return Ok(figures.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_rows".to_owned()), &SIZES)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &SIZES)?
        .install_recorder()?;
    describe();
    let figures = Figures(handle);
    let kept = figures.0.clone();
    let upkeep = std::thread::Builder::new().name("metrics-upkeep".to_owned());
    // Without the thread figures are right all the same, and cost memory until the next scrape.
    let _ = upkeep.spawn(move || {
        loop {
            std::thread::park_timeout(UPKEEP);
            kept.run_upkeep();
        }
    });
    Ok(INSTALLED.get_or_init(|| figures).clone())
}

/// Tells unit and help of every figure of every crate.
pub fn describe() {
    sources::metrics::describe();
    sinks::metrics::describe();
    sinks::edge::metrics::describe();
    queries::metrics::describe();
    crate::metrics::describe();
}

impl Figures {
    /// All figures in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// `GET /healthz`, `/readyz` and `/metrics`.
#[must_use]
pub fn routes(readiness: Readiness, figures: Figures) -> BoxedFilter<(Response,)> {
    let healthz = warp::path!("healthz")
        .map(|| json_response(StatusCode::OK, &json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })));
    let readyz = warp::path!("readyz").map(move || match readiness.waiting() {
        None => json_response(StatusCode::OK, &json!({ "ready": true })),
        Some(waiting) => json_response(StatusCode::SERVICE_UNAVAILABLE, &json!({ "ready": false, "waiting": waiting })),
    });
    let metrics = warp::path!("metrics").map(move || {
        let text = figures.render();
        warp::reply::with_header(text, "content-type", "text/plain; version=0.0.4; charset=utf-8").into_response()
    });
    let wrong_method = warp::path!("healthz").or(warp::path!("readyz")).unify().or(warp::path!("metrics")).unify();
    let wrong_method = wrong_method.and(warp::path::full()).map(|path: warp::path::FullPath| {
        let body = json!({
            "code": "method_not_allowed",
            "message": "this path is only for GET",
            "where": { "interface": "http", "path": path.as_str() },
        });
        let response = json_response(StatusCode::METHOD_NOT_ALLOWED, &body);
        warp::reply::with_header(response, "allow", "GET, HEAD").into_response()
    });
    // A probe may ask for the head alone.
    let asks = warp::get().or(warp::head()).unify();
    asks.and(healthz.or(readyz).unify().or(metrics).unify()).or(wrong_method).unify().boxed()
}

fn json_response(status: StatusCode, body: &impl Serialize) -> Response {
    warp::reply::with_status(warp::reply::json(body), status).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        base: String,
        client: reqwest::Client,
    }

    impl Server {
        async fn start(readiness: Readiness) -> Self {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            let routes = routes(readiness, install_metrics().unwrap());
            tokio::spawn(warp::serve(routes).incoming(listener).run());
            Self { base, client: reqwest::Client::new() }
        }

        async fn ask(&self, method: &str, path: &str) -> (u16, String, reqwest::header::HeaderMap) {
            let method = method.parse().unwrap();
            let answer = self.client.request(method, format!("{}{path}", self.base)).send().await.unwrap();
            let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
            (status, answer.text().await.unwrap(), headers)
        }
    }

    #[tokio::test]
    async fn readiness_tells_what_is_missing() {
        let readiness = Readiness::default();
        let server = Server::start(readiness.clone()).await;
        let ready = async || server.ask("GET", "/readyz").await;
        assert_eq!(ready().await.0, 503, "nothing was said yet");
        let (sink, input) = (readiness.condition("sink redis", "connecting"), readiness.condition("input", "lag 7"));
        let (status, body, _) = ready().await;
        assert_eq!(status, 503);
        assert_eq!(body, r#"{"ready":false,"waiting":{"input":"lag 7","sink redis":"connecting"}}"#);
        sink.met();
        assert_eq!(ready().await.1, r#"{"ready":false,"waiting":{"input":"lag 7"}}"#);
        input.met();
        assert_eq!(ready().await.1, r#"{"ready":true}"#);
        sink.waits("connection lost");
        assert_eq!(ready().await.0, 503);
        assert_eq!(server.ask("GET", "/healthz").await.0, 200, "alive all the same");
    }

    #[tokio::test]
    async fn figures_carry_help_and_unit() {
        let server = Server::start(Readiness::default()).await;
        metrics::counter!(sources::metrics::Metric::Records.name(), "topic" => "t").increment(3);
        let (status, text, headers) = server.ask("GET", "/metrics").await;
        assert_eq!(
            (status, &headers["content-type"]),
            (200, &"text/plain; version=0.0.4; charset=utf-8".parse().unwrap())
        );
        let name = sources::metrics::Metric::Records.name();
        assert!(
            text.contains(&format!("# HELP {name} ")) && text.contains(&format!("{name}{{topic=\"t\"}} 3")),
            "{text}"
        );
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_not_answered() {
        let server = Server::start(Readiness::default()).await;
        let (status, body, headers) = server.ask("POST", "/healthz").await;
        assert_eq!((status, &headers["allow"]), (405, &"GET, HEAD".parse().unwrap()));
        assert!(body.contains(r#""code":"method_not_allowed""#) && body.contains(r#""path":"/healthz""#), "{body}");
        assert_eq!(server.ask("HEAD", "/healthz").await.0, 200);
        assert_eq!(server.ask("GET", "/healthz/x").await.0, 404);
    }
}
