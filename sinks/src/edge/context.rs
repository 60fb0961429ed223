//! What every connection of one edge shares.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use operators::batch::key_hash;
use operators::time::Tick;
use tokio::sync::Semaphore;

use super::hub::Hub;
use super::metrics::Figures;
use super::options::Options;

/// The shared parts.
pub struct Context {
    /// State and changes.
    pub hub: Arc<Hub>,
    /// Limits.
    pub options: Options,
    /// Figures.
    pub figures: Figures,
    /// Name of this instance.
    pub server_id: String,
    /// Places for WebSocket connections.
    pub connections: Arc<Semaphore>,
    /// Places for readers of HTTP snapshots.
    pub snapshots: Arc<Semaphore>,
}

impl Context {
    pub(super) fn new(hub: Arc<Hub>, options: Options) -> Arc<Self> {
        let server_id = match options.server_id.as_str() {
            "" => format!("{:x}-{:x}", std::process::id(), now_ms()),
            name => name.to_owned(),
        };
        Arc::new(Self {
            hub,
            figures: Figures::new(&server_id),
            server_id,
            connections: Arc::new(Semaphore::new(options.connections_max)),
            snapshots: Arc::new(Semaphore::new(options.snapshots_max)),
            options,
        })
    }

    /// When a client that is sent away should come again, in milliseconds: spread by what tells clients apart.
    #[must_use]
    pub fn retry_after_ms(&self, client: u64) -> u64 {
        let min = self.options.retry_ms_min;
        min + key_hash(&(client ^ now_ms()).to_le_bytes()) % min.max(1)
    }

    /// Time from a tick until now.
    #[must_use]
    pub fn since(&self, version: Tick) -> Duration {
        Duration::from_millis(now_ms().saturating_sub(version))
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
