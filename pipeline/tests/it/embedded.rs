//! The embedded log for tests: small segments and caches.

use std::path::Path;

/// Options of a log in this directory.
pub fn log_options(directory: &Path) -> sources::log::Options {
    sources::log::Options {
        directory: directory.to_owned(),
        segment_bytes_max: 8 << 20,
        segment_ms_max: 3_600_000,
        retention_bytes_max: 1 << 30,
        retention_ms_max: 86_400_000,
        block_bytes_max: 64 << 10,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 16 << 20,
        memtable_bytes_max: 8 << 20,
        journal_bytes_max: 64 << 20,
        cache_bytes_max: 8 << 20,
    }
}
