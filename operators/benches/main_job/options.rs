//! What both sides are told.

use operators::{silence, window};

use crate::fleet::TICK_MS;

pub const HORIZON_MS: u64 = 3_600_000;
pub const SILENCE: silence::Options =
    silence::Options { offline_after_ms: 5_000, online_after_messages: 2, tick_ms: TICK_MS };
pub const WINDOW: window::Options =
    window::Options { size_ms: 60_000, retention_ms: 86_400_000, ahead_ms_max: 3_600_000, emit_ms: 1_000 };
pub const CONFLATE_MS: u64 = 500;
