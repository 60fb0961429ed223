//! A WebSocket client of the live edge that keeps what it is told, as a page does: a snapshot, then deltas on top of it.
//!
//! Invariant: a message that the protocol does not allow is the failed test: a delta before the snapshot, a row that goes back
//! in version, a row removed that was not there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::services::wait_until_async;

/// Rows by vehicle, without their versions and without fields that have no value.
pub type Rows = BTreeMap<String, Map<String, Value>>;

/// What a client knows.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub rows: Rows,
    /// Deltas that were applied.
    pub deltas: usize,
    versions: BTreeMap<String, u64>,
    /// Whether a snapshot is complete.
    ready: bool,
    in_snapshot: bool,
}

impl Known {
    fn take(&mut self, message: &Value) {
        let (list, removed) = match message["type"].as_str() {
            Some("snapshot") => {
                if !std::mem::replace(&mut self.in_snapshot, true) {
                    self.rows.clear();
                }
                self.in_snapshot = message["more"].as_bool().expect("snapshots tell whether more follows");
                self.ready = !self.in_snapshot;
                ("rows", [].as_slice())
            }
            Some("delta") => {
                assert!(self.ready, "a delta before the snapshot: {message}");
                self.deltas += 1;
                ("upsert", message["remove"].as_array().expect("deltas list what is removed").as_slice())
            }
            Some("error" | "bye") => panic!("the edge is not content: {message}"),
            _ => return,
        };
        for row in message[list].as_array().expect("rows") {
            let row = row.as_object().expect("a row is an object");
            let (id, version) =
                (row["vehicle_id"].as_str().expect("an id"), row["version"].as_u64().expect("a version"));
            let last = self.versions.insert(id.to_owned(), version).unwrap_or(0);
            assert!(version >= last, "{id} went back from version {last} to {version}");
            let known = self.rows.entry(id.to_owned()).or_default();
            for (name, value) in row.iter().filter(|(name, _)| *name != "version") {
                if value.is_null() {
                    known.remove(name)
                } else {
                    known.insert(name.clone(), value.clone())
                };
            }
        }
        for id in removed {
            let id = id.as_str().expect("an id");
            assert!(self.rows.remove(id).is_some(), "{id} was removed, but not there");
        }
    }
}

/// A connected client, which listens until it is dropped.
pub struct LiveClient {
    known: Arc<Mutex<Known>>,
    listening: JoinHandle<()>,
}

impl LiveClient {
    /// Connects to the edge at `url`, subscribes to all vehicles and waits for the whole snapshot.
    pub async fn connect(url: &str) -> Self {
        let mut request = format!("ws{}/realtime/ws", url.strip_prefix("http").expect("http://…"))
            .into_client_request()
            .expect("an address");
        request.headers_mut().insert("Sec-WebSocket-Protocol", "haulstream.v1.json".parse().expect("plain text"));
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.expect("the edge takes the client");
        let wish = json!({"type": "subscribe", "id": "1", "stream": "vehicle_state"});
        socket.send(Message::text(wish.to_string())).await.expect("the edge reads");
        let known = Arc::<Mutex<Known>>::default();
        let told = known.clone();
        let listening = tokio::spawn(async move {
            while let Some(Ok(message)) = socket.next().await {
                if let Message::Text(text) = message {
                    let message = serde_json::from_str(&text).expect("the edge speaks JSON");
                    told.lock().expect("not poisoned").take(&message);
                }
            }
        });
        let client = Self { known, listening };
        client.until(Duration::from_secs(30), "the snapshot", |known| known.ready).await;
        client
    }

    /// What it knows now.
    pub fn known(&self) -> Known {
        self.known.lock().expect("the listener panicked: see its message above").clone()
    }

    /// Waits until `condition` holds for what it knows.
    pub async fn until(&self, deadline: Duration, what: &str, condition: impl Fn(&Known) -> bool) {
        wait_until_async(deadline, what, async || {
            let holds = condition(&self.known.lock().expect("the listener panicked: see its message above"));
            assert!(holds || !self.listening.is_finished(), "the connection has ended before {what}");
            holds
        })
        .await;
    }
}

impl Drop for LiveClient {
    fn drop(&mut self) {
        self.listening.abort();
    }
}
