//! Redis for tests.
//!
//! Invariant: tests that share the server never share a numbered database.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::server::{Kind, Server};

/// As many as the script configures.
const DATABASES: u32 = 512;

static KIND: Kind = Kind { name: "redis", ports: 1, ready };

/// A Redis server.
pub struct Redis {
    /// The process, for stopping and killing a private one.
    pub server: Server,
    next_database: AtomicU32,
}

impl Redis {
    /// A server of the caller's own, gone when dropped; with more options on its command line.
    pub fn private(options: &str) -> Redis {
        Redis::launch(&[("REDIS_EXTRA", options)]).unwrap_or_else(|why| panic!("{why}"))
    }

    pub(super) fn launch(environment: &[(&str, &str)]) -> Result<Redis, String> {
        let server = Server::launch(&KIND, environment)?;
        Ok(Redis { server, next_database: AtomicU32::new(0) })
    }

    /// The URL of a numbered database that no other test gets.
    pub fn database(&self) -> String {
        let number = self.next_database.fetch_add(1, Ordering::Relaxed);
        assert!(
            number < DATABASES,
            "all {DATABASES} Redis databases are given out: raise the number here and in redis.sh"
        );
        format!("redis://{}/{number}", self.server.address())
    }
}

fn ready(port: u16) -> bool {
    let ping = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        // While it reads its file after a restart it answers -LOADING.
        Ok(&answer == b"+PONG")
    };
    ping().unwrap_or(false)
}
