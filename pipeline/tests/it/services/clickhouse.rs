//! ClickHouse for tests.
//!
//! Invariant: tests that share the server never share a database.

use super::http;
use super::server::{Kind, Server};
use super::unique;

static KIND: Kind = Kind { name: "clickhouse", ports: 1, ready };

/// A ClickHouse server; user `default`, no password.
pub struct ClickHouse {
    /// The process, for stopping and killing a private one.
    pub server: Server,
}

impl ClickHouse {
    /// A server of the caller's own, gone when dropped.
    pub fn private() -> ClickHouse {
        ClickHouse::launch(&[]).unwrap_or_else(|why| panic!("{why}"))
    }

    pub(super) fn launch(environment: &[(&str, &str)]) -> Result<ClickHouse, String> {
        Ok(ClickHouse { server: Server::launch(&KIND, environment)? })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// Makes a database that no other test has; `name` is the beginning of its name.
    pub fn database(&self, name: &str) -> String {
        let name = unique(name);
        self.query(&format!("CREATE DATABASE {name}"));
        name
    }

    /// The answer to a statement, tab-separated, without the client under test; panics on an error with the server's words.
    #[track_caller]
    pub fn query(&self, sql: &str) -> String {
        match http::request(self.server.port(), "POST", "/", sql) {
            Ok((200, answer)) => answer.trim_end().to_owned(),
            Ok((status, answer)) => panic!("ClickHouse answered {status}: {}\nto: {sql}", answer.trim_end()),
            Err(e) => panic!("ClickHouse did not answer ({e}) to: {sql}"),
        }
    }
}

fn ready(port: u16) -> bool {
    http::request(port, "POST", "/", "SELECT 1").is_ok_and(|(status, answer)| status == 200 && answer.trim() == "1")
}
