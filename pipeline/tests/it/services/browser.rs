//! A headless Chromium, driven through its debugging port: opens a page, evaluates expressions in it, takes pictures.
//!
//! Invariant: everything has a deadline, and a page is never judged before a condition on it holds ([`Page::wait_for`]):
//! a picture of a live page taken "when loaded" shows whatever had come in by then.

use std::path::Path;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::server::{Kind, Server};
use super::{http, wait_until_async};

/// The longest that one command to the browser may take; software drawing of a full map is slow.
const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

static KIND: Kind = Kind { name: "chromium", ports: 1, ready };

/// A browser process; ends when dropped.
pub struct Browser {
    server: Server,
}

impl Browser {
    pub(super) fn private(webgl: bool) -> Browser {
        let environment: &[(&str, &str)] = if webgl { &[("CHROMIUM_WEBGL", "1")] } else { &[] };
        let server = Server::launch(&KIND, environment).unwrap_or_else(|why| panic!("{why}"));
        Browser { server }
    }

    /// Opens `url` in a new tab of `width` by `height` pixels, without waiting for it to load.
    pub async fn open(&self, url: &str, width: u32, height: u32) -> Page {
        let (status, answer) =
            http::request(self.server.port(), "PUT", "/json/new?about:blank", "").expect("the browser answers");
        assert_eq!(status, 200, "the browser refused a new tab: {answer}");
        let tab: Value = serde_json::from_str(&answer).expect("the browser describes its tab in JSON");
        let address = tab["webSocketDebuggerUrl"].as_str().expect("a tab has a debugging address");
        // A picture of a large page is more than the client's usual limit for a message.
        let config = WebSocketConfig::default().max_message_size(Some(256 << 20)).max_frame_size(Some(256 << 20));
        let (socket, _) = tokio_tungstenite::connect_async_with_config(address, Some(config), false)
            .await
            .expect("the browser takes a connection");
        let mut page = Page { socket, last_id: 0, errors: Vec::new() };
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            page.command(domain, json!({})).await;
        }
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        page.command("Emulation.setDeviceMetricsOverride", size).await;
        page.command("Page.navigate", json!({ "url": url })).await;
        page
    }
}

/// An open page.
pub struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    last_id: u64,
    errors: Vec<String>,
}

impl Page {
    /// The value of a JavaScript expression (awaited if it is a promise); panics if it throws.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let answer = self.command("Runtime.evaluate", parameters).await;
        assert!(answer.get("exceptionDetails").is_none(), "{expression} threw {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until a JavaScript expression is true in the page.
    pub async fn wait_for(&mut self, deadline: Duration, expression: &str) {
        wait_until_async(deadline, expression, async || self.evaluate(expression).await == Value::Bool(true)).await;
    }

    /// The page as it is now, as HTML.
    pub async fn dom(&mut self) -> String {
        self.evaluate("document.documentElement.outerHTML").await.as_str().expect("outerHTML is text").to_owned()
    }

    /// Writes a picture of what the page shows now as a PNG file, and returns its bytes.
    pub async fn screenshot(&mut self, file: &Path) -> Vec<u8> {
        let answer = self.command("Page.captureScreenshot", json!({ "format": "png" })).await;
        let picture = decode_base64(answer["data"].as_str().expect("a picture is base64 text"));
        std::fs::write(file, &picture).unwrap_or_else(|e| panic!("cannot write {}: {e}", file.display()));
        picture
    }

    /// What went wrong in the page so far: uncaught exceptions, failed requests, errors on the console.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }

    async fn command(&mut self, method: &str, parameters: Value) -> Value {
        let deadline = tokio::time::timeout(COMMAND_DEADLINE, self.exchange(method, parameters));
        deadline.await.unwrap_or_else(|_| panic!("the browser did not answer {method} within {COMMAND_DEADLINE:?}"))
    }

    async fn exchange(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let command = json!({ "id": self.last_id, "method": method, "params": parameters });
        self.socket.send(Message::text(command.to_string())).await.expect("the browser takes a command");
        loop {
            let message =
                self.socket.next().await.expect("the browser is there").expect("the connection to the browser holds");
            let Message::Text(text) = message else {
                continue;
            };
            let mut message: Value = serde_json::from_str(&text).expect("the browser speaks JSON");
            if message["id"] == self.last_id {
                assert!(message.get("error").is_none(), "{method} failed: {}", message["error"]);
                return message["result"].take();
            }
            self.note(&message);
        }
    }

    fn note(&mut self, event: &Value) {
        let parameters = &event["params"];
        let error = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => &parameters["exceptionDetails"],
            Some("Runtime.consoleAPICalled") if parameters["type"] == "error" => &parameters["args"],
            Some("Log.entryAdded") if parameters["entry"]["level"] == "error" => &parameters["entry"],
            _ => return,
        };
        self.errors.push(error.to_string());
    }
}

fn ready(port: u16) -> bool {
    http::request(port, "GET", "/json/version", "").is_ok_and(|(status, _)| status == 200)
}

/// Standard base64, as the debugging protocol sends it.
fn decode_base64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0_u32, 0);
    for letter in text.bytes().filter(|&b| b != b'=') {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            b'a'..=b'z' => letter - b'a' + 26,
            b'0'..=b'9' => letter - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => panic!("not base64: byte {letter}"),
        };
        (bits, count) = (bits << 6 | u32::from(value), count + 6);
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    bytes
}
