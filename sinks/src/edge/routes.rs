//! The edge's routes: the page, the snapshot, the WebSocket. Every refusal is a JSON object of one shape.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper_util::rt::TokioIo;
use operators::batch::key_hash;
use operators::error::Refusal;
use serde_json::json;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use warp::filters::BoxedFilter;
use warp::http::header::{
    CONNECTION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use warp::http::{self, StatusCode};
use warp::hyper::upgrade::OnUpgrade;
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use super::admission::Admission;
use super::connection::Connection;
use super::context::Context;
use super::metrics::count_refused;
use super::{assets, snapshot};

/// The subprotocol that the edge speaks.
pub const SUBPROTOCOL: &str = "haulstream.v1.json";
/// Bytes read from a client at a time: clients say little.
const READ_BUFFER_BYTES: usize = 4 * 1024;

static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// All routes: the edge's own, then the caller's, then the page's files. Connections end when `stop` says so.
pub fn routes(
    context: Arc<Context>,
    admission: Admission,
    extra: BoxedFilter<(Response,)>,
    stop: watch::Receiver<bool>,
) -> BoxedFilter<(Response,)> {
    let admission = Arc::new(admission);
    let guarded = |context: &Arc<Context>| {
        let (context, admission) = (context.clone(), admission.clone());
        warp::path::full().and(warp::header::headers_cloned()).map(move |path: FullPath, headers: HeaderMap| {
            let admitted = admission.admit(&headers).map_err(|why| refuse(&context, &why, path.as_str()));
            Request { context: context.clone(), path, headers, admitted }
        })
    };
    let get = || warp::get().or(warp::head()).unify();
    let snapshot = warp::path!("realtime" / "snapshot")
        .and(warp::get())
        .and(guarded(&context))
        .and(warp::query::<Vec<(String, String)>>())
        .map(|request: Request, parameters: Vec<(String, String)>| {
            request.answer(|context, _| snapshot::answer(context, &parameters))
        });
    let socket = warp::path!("realtime" / "ws")
        .and(warp::get())
        .and(guarded(&context))
        .and(warp::ext::optional::<OnUpgrade>())
        .map(move |request: Request, upgrade: Option<OnUpgrade>| {
            request.answer(|context, headers| open_socket(context, headers, upgrade, &stop))
        });
    let page = get().and(guarded(&context)).and_then(|request: Request| async move {
        match assets::find(request.path.as_str()) {
            Some(asset) => Ok(request.answer(|_, headers| Ok(asset.reply(headers)))),
            None => Err(warp::reject::not_found()),
        }
    });
    let refusing = warp::path::full().map(move |path: FullPath| (context.clone(), path));
    let routes = snapshot.or(socket).unify().or(extra).unify().or(page).unify();
    refusing
        .and(routes.map(Ok).or_else(|rejection: Rejection| async { Ok::<_, Rejection>((Err(rejection),)) }))
        .map(|(context, path): (Arc<Context>, FullPath), answer: Result<Response, Rejection>| {
            answer.unwrap_or_else(|rejection| refuse(&context, &refusal_of(&rejection), path.as_str()))
        })
        .boxed()
}

/// A request on its way to a route of the edge.
struct Request {
    context: Arc<Context>,
    path: FullPath,
    headers: HeaderMap,
    /// The answer to one that may not be here.
    admitted: Result<(), Response>,
}

impl Request {
    fn answer(self, answer: impl FnOnce(&Arc<Context>, &HeaderMap) -> Result<Response, Refusal>) -> Response {
        if let Err(refused) = self.admitted {
            return refused;
        }
        answer(&self.context, &self.headers).unwrap_or_else(|why| refuse(&self.context, &why, self.path.as_str()))
    }
}

fn status_of(code: &str) -> StatusCode {
    match code {
        "host_not_allowed" | "origin_not_allowed" => StatusCode::FORBIDDEN,
        "connection_limit" | "snapshot_limit" | "shutting_down" => StatusCode::SERVICE_UNAVAILABLE,
        "upgrade_required" => StatusCode::UPGRADE_REQUIRED,
        "not_found" => StatusCode::NOT_FOUND,
        "method_not_allowed" => StatusCode::METHOD_NOT_ALLOWED,
        "body_too_large" => StatusCode::PAYLOAD_TOO_LARGE,
        "internal_error" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    }
}

fn refuse(context: &Context, why: &Refusal, path: &str) -> Response {
    count_refused(why.code);
    let mut place = json!({ "interface": "http", "path": operators::error::excerpt(path) });
    if let Some(field) = &why.field {
        place["field"] = field.as_str().into();
    }
    let mut object = json!({ "code": why.code, "message": why.message, "where": place });
    if let Some(hint) = why.hint {
        object["hint"] = hint.into();
    }
    let mut response = http::Response::new(object.to_string().into());
    *response.status_mut() = status_of(why.code);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if why.code == "upgrade_required" {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if status_of(why.code) == StatusCode::SERVICE_UNAVAILABLE {
        let client = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        headers.insert(RETRY_AFTER, context.retry_after_ms(client).div_ceil(1_000).into());
    }
    response
}

/// What the web framework has to say of a request that no route took.
fn refusal_of(rejection: &Rejection) -> Refusal {
    if rejection.is_not_found() {
        return Refusal::new("not_found", "nothing is here").hint("the map is at /");
    }
    if rejection.find::<warp::reject::PayloadTooLarge>().is_some() {
        return Refusal::new("body_too_large", "the body is too large");
    }
    if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        return Refusal::new("method_not_allowed", "this path does not take that method");
    }
    Refusal::new("request_invalid", operators::error::excerpt(&format!("{rejection:?}")))
}

/// Whether a header's comma-separated list holds a word, in any case.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// Opens a WebSocket, or says why not. The connection runs in a task of its own.
fn open_socket(
    context: &Arc<Context>,
    headers: &HeaderMap,
    upgrade: Option<OnUpgrade>,
    stop: &watch::Receiver<bool>,
) -> Result<Response, Refusal> {
    let asks = lists(headers, &UPGRADE, "websocket")
        && lists(headers, &CONNECTION, "upgrade")
        && lists(headers, &SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| key.len() == 24);
    let (Some(upgrade), Some(key), true) = (upgrade, key, asks) else {
        return Err(Refusal::new("upgrade_required", "this path speaks WebSocket, version 13")
            .hint("without WebSocket, GET /realtime/snapshot tells the current state"));
    };
    let offered = headers.contains_key(SEC_WEBSOCKET_PROTOCOL);
    let spoken = lists(headers, &SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL);
    if offered && !spoken {
        return Err(Refusal::new("subprotocol_unknown", format!("this server speaks {SUBPROTOCOL}"))
            .at("Sec-WebSocket-Protocol"));
    }
    if *stop.borrow() {
        return Err(Refusal::new("shutting_down", "the server is stopping"));
    }
    let permit = context.connections.clone().try_acquire_owned().map_err(|_| {
        let message = format!("{} connections are open", context.options.connections_max);
        Refusal::new("connection_limit", message).hint("try again after the time in Retry-After")
    })?;
    let (context, stop, accept) = (context.clone(), stop.clone(), derive_accept_key(key.as_bytes()));
    tokio::spawn(async move {
        let _permit = permit;
        let Ok(upgraded) = upgrade.await else { return };
        let message_bytes_max = context.options.message_bytes_max;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let number = key_hash(&CONNECTIONS.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        Connection::new(context, socket, number).run(stop).await;
    });
    let mut response = http::Response::new("".into());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64 is fit for a header"));
    if spoken {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}
