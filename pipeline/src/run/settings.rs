//! What the components are told, made from the configuration.

use sources::delivery::Capacity;
use sources::{log, reader, simulator};

use crate::config::Config;
use crate::job::Settings;
use crate::topology;

/// Of the dataflow.
pub fn job(config: &Config) -> Settings {
    Settings {
        workers: config.run.workers,
        in_flight_rows_max: config.run.in_flight_rows_max,
        capacity: Capacity { rows_max: config.run.channel_rows_max, bytes_max: config.run.channel_bytes_max },
        topology: topology::Options {
            deduplicate_ms: Some(config.deduplicate.horizon_ms),
            silence: operators::silence::Options {
                offline_after_ms: config.silence.offline_after_s * 1_000,
                online_after_messages: config.silence.online_after_messages,
                tick_ms: config.time.tick_ms,
            },
            window: operators::window::Options {
                size_ms: config.window.size_ms,
                retention_ms: config.window.retention_ms,
                ahead_ms_max: config.window.ahead_ms_max,
                emit_ms: config.window.emit_ms,
            },
            conflate_ms: config.conflate.window_ms,
        },
    }
}

/// Of the readers.
pub fn reader(config: &Config) -> reader::Options {
    reader::Options {
        tick_ms: config.time.tick_ms,
        future_ms_max: config.time.future_ms_max,
        slack_ms_min: config.time.slack_ms_min,
        slack_ms_max: config.time.slack_ms_max,
        ahead_ms_max: config.reader.ahead_ms_max,
        batch_rows_max: config.reader.batch_rows_max,
        batch_bytes_max: config.reader.batch_bytes_max,
        pace_ms: config.reader.pace_ms,
    }
}

/// Of the embedded log.
pub fn log(config: &Config) -> log::Options {
    let options = &config.log;
    log::Options {
        directory: config.run.data.join("log"),
        segment_bytes_max: options.segment_bytes_max,
        segment_ms_max: options.segment_ms_max,
        retention_bytes_max: options.retention_bytes_max,
        retention_ms_max: options.retention_ms_max,
        block_bytes_max: options.block_bytes_max,
        record_bytes_max: options.record_bytes_max,
        queue_bytes_max: options.queue_bytes_max,
        memtable_bytes_max: options.memtable_bytes_max,
        journal_bytes_max: options.journal_bytes_max,
        cache_bytes_max: options.cache_bytes_max,
    }
}

/// Of the simulated fleet of the embedded demo.
pub fn simulator(config: &Config) -> simulator::Options {
    let options = &config.simulator;
    simulator::Options {
        vehicles: options.vehicles,
        rate_per_s: options.rate_per_s,
        interval_ms: 1_000,
        messages_max: 0,
        seed: options.seed,
        countries: Vec::new(),
        late_pct: 1.0,
        late_ms_max: 30_000,
        duplicate_pct: 0.1,
        garbage_pct: 0.1,
        out_of_order_pct: 0.1,
        lost_link_pct: options.lost_link_pct,
        wrong_clock_pct: 0.0,
        stuck_pct: 1.0,
        changes_per_s: options.changes_per_s,
        stamp_server_time: true,
    }
}

/// How the demo's records are handed to the log.
pub fn feed() -> sources::publish::FeedOptions {
    sources::publish::FeedOptions {
        batch_bytes_max: 1 << 20,
        in_flight_bytes_max: 8 << 20,
        pace_ms: 20,
        retry_ms_max: 1_000,
    }
}

/// Milliseconds that the log may take to acknowledge what the gate has taken in.
pub const ACK_MS_MAX: u64 = 10_000;
