//! Real servers for the integration tests: Kafka, Redis, ClickHouse and a browser, on free ports of 127.0.0.1.
//!
//! `kafka()`, `redis()` and `clickhouse()` are shared by all tests of this process and started by the first that asks.
//! So each test keeps to names of its own: [`unique`] topics, a Redis database, a ClickHouse database. A test that stops
//! or kills a server starts a private one (`Kafka::private` and its like): the shared ones can't be stopped, as they are
//! only lent out as `&'static`.
//!
//! Invariant: a server that is missing, fails to install or to start fails the test that asked for it, with the reason and
//! the end of the server's log; no test is skipped for it. What is started is gone when the process is: see [`server`].

pub mod browser;
pub mod clickhouse;
pub mod http;
pub mod kafka;
pub mod psql;
pub mod redis;
pub mod server;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use browser::Browser;
pub use clickhouse::ClickHouse;
pub use kafka::Kafka;
pub use redis::Redis;

/// How long to wait between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// The Kafka broker that all tests share.
pub fn kafka() -> &'static Kafka {
    static SHARED: OnceLock<Result<Kafka, String>> = OnceLock::new();
    shared(&SHARED, || Kafka::launch(&[]))
}

/// The Redis server that all tests share.
pub fn redis() -> &'static Redis {
    static SHARED: OnceLock<Result<Redis, String>> = OnceLock::new();
    shared(&SHARED, || Redis::launch(&[]))
}

/// The ClickHouse server that all tests share.
pub fn clickhouse() -> &'static ClickHouse {
    static SHARED: OnceLock<Result<ClickHouse, String>> = OnceLock::new();
    shared(&SHARED, || ClickHouse::launch(&[]))
}

/// A headless Chromium of the caller's own.
pub fn chromium() -> Browser {
    Browser::private(false)
}

/// A headless Chromium with WebGL, drawn by software.
pub fn chromium_with_webgl() -> Browser {
    Browser::private(true)
}

/// A failed start is remembered, so that the other tests fail at once and with the same reason.
fn shared<T>(cell: &'static OnceLock<Result<T, String>>, launch: impl FnOnce() -> Result<T, String>) -> &'static T {
    cell.get_or_init(launch).as_ref().unwrap_or_else(|why| panic!("{why}"))
}

/// `name` with a number that no other call in this process gets: for topics, groups, keys, databases.
pub fn unique(name: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    format!("{name}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `condition` holds and panics with `what` should have come about if it has not after `deadline`.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(poll_until(deadline, condition), "not within {deadline:?}: {what}");
}

/// [`wait_until`] for an asynchronous condition.
pub async fn wait_until_async(deadline: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition().await {
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Whether `condition` came to hold before `deadline`. The one place where a test sleeps.
#[expect(clippy::disallowed_methods, reason = "this is the wait with a deadline that the ban points to")]
fn poll_until(deadline: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
