//! Logical time: how a log's append times become ticks, and how far an idle partition may be taken to have advanced.
//! Nothing here reads a clock; every "now" is an argument.

use std::collections::BTreeMap;
use std::fmt;

use timely::progress::frontier::{AntichainRef, MutableAntichain};

/// Logical time of the whole dataflow: milliseconds since the Unix epoch, a multiple of the configured `tick_ms`.
pub type Tick = u64;

/// Length of a tick unless configured otherwise, in milliseconds.
pub const TICK_MS_DEFAULT: u64 = 10;

/// The smallest tick that is not before `ms`.
#[must_use]
pub fn round_up(ms: u64, tick_ms: u64) -> Tick {
    ms.div_ceil(tick_ms) * tick_ms
}

/// The tick before which nothing comes any more; the last one of all when nothing comes at all.
#[must_use]
pub fn closed_before(frontier: AntichainRef<'_, Tick>) -> Tick {
    frontier.first().copied().unwrap_or(Tick::MAX)
}

/// The same of all inputs of an operator.
#[must_use]
pub fn all_closed_before(frontiers: &[MutableAntichain<Tick>]) -> Tick {
    frontiers.iter().map(|frontier| closed_before(frontier.frontier())).min().unwrap_or(Tick::MAX)
}

/// Takes what waits for ticks before this one, in their order.
pub fn take_before<T>(waiting: &mut BTreeMap<Tick, T>, tick: Tick) -> BTreeMap<Tick, T> {
    let later = waiting.split_off(&tick);
    std::mem::replace(waiting, later)
}

/// The first tick at which `ms` milliseconds have passed since a device's time, which may lie before 1970 and anywhere else.
#[must_use]
pub fn tick_after(time_ms: i64, ms: i64) -> Tick {
    time_ms.saturating_add(ms).max(0) as Tick
}

/// Why a record did not get the tick of its own append time. Such an exception depends on when the record
/// arrived, so a replay has to be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// The timestamp is missing, zero or negative.
    Broken,
    /// The timestamp is further ahead of the broker's clock than `future_ms_max`.
    Future,
    /// The partition's frontier had already passed the record's tick.
    Late,
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Exception::Broken => "timestamp_broken",
            Exception::Future => "timestamp_future",
            Exception::Late => "timestamp_late",
        })
    }
}

/// Assigns ticks to the records of one partition: the append time as a running maximum, rounded up.
///
/// ```
/// use operators::time::PartitionClock;
/// let mut clock = PartitionClock::new(10, 60_000);
/// assert_eq!(clock.assign(1_001, 1_005), (1_010, None));
/// assert_eq!(clock.assign(995, 1_006), (1_010, None)); // never back
/// assert_eq!(clock.frontier(), 1_010); // more records may carry this tick
/// ```
#[derive(Clone, Debug)]
pub struct PartitionClock {
    tick_ms: u64,
    future_ms_max: u64,
    /// The running maximum of accepted ticks.
    last: Tick,
    /// What has been promised to the dataflow: no later record gets a tick before this.
    frontier: Tick,
}

impl PartitionClock {
    /// A partition of which nothing has been read. `future_ms_max` bounds how far ahead of the broker's clock a
    /// timestamp may lie before it is taken for broken.
    #[must_use]
    pub fn new(tick_ms: u64, future_ms_max: u64) -> Self {
        Self { tick_ms, future_ms_max, last: 0, frontier: 0 }
    }

    /// The tick of a record with append time `append_ms` that is seen when the broker's clock shows `broker_now_ms`.
    ///
    /// A log with trustworthy append times never yields an exception but [`Exception::Late`]: a record
    /// behind the frontier that an idle partition was given takes the frontier's tick.
    pub fn assign(&mut self, append_ms: i64, broker_now_ms: u64) -> (Tick, Option<Exception>) {
        let wanted = match u64::try_from(append_ms) {
            Ok(0) | Err(_) => Err(Exception::Broken),
            Ok(ms) if ms > broker_now_ms.saturating_add(self.future_ms_max) => Err(Exception::Future),
            Ok(ms) => Ok(round_up(ms, self.tick_ms)),
        };
        let floor = self.last.max(self.frontier);
        let (tick, exception) = match wanted {
            Err(why) => (floor.max(self.tick_ms), Some(why)),
            Ok(tick) if tick >= floor => (tick, None),
            Ok(tick) if tick < self.frontier && self.frontier > self.last => (floor, Some(Exception::Late)),
            Ok(_) => (floor, None), // out of order within the partition: the running maximum
        };
        self.last = tick;
        self.frontier = self.frontier.max(tick);
        (tick, exception)
    }

    /// The tick of a record that was given this one when it was read before.
    pub fn repeat(&mut self, tick: Tick) -> Tick {
        self.last = self.last.max(self.frontier).max(tick);
        self.frontier = self.last;
        self.last
    }

    /// Tells that every record appended before `append_ms` has been seen; the frontier moves to the smallest tick
    /// that a later record can have. Returns the frontier.
    pub fn idle_until(&mut self, append_ms: u64) -> Tick {
        self.frontier = self.frontier.max(round_up(append_ms, self.tick_ms));
        self.frontier
    }

    /// No later record of this partition gets a tick before this one.
    #[must_use]
    pub fn frontier(&self) -> Tick {
        self.frontier
    }
}

/// An estimate of the broker's clock from what arrives, and the slack that an idle partition is held back by.
///
/// A record appended at `a` and seen at local time `r` shows that the broker's clock is at least `r - (r - a)`;
/// the smallest `r - a` of late is the best bound on clock difference plus transport, and the spread above it is
/// the delay that the slack has to cover.
#[derive(Clone, Debug)]
pub struct BrokerClock {
    slack_ms_min: u64,
    slack_ms_max: u64,
    /// Smallest `received - appended` seen, ageing upwards so that a drifting clock is followed.
    offset_ms: Option<f64>,
    /// About the ninth decile of the delay above `offset_ms`: one record in ten of a reference may come later than it is waited
    /// for, and counts a few milliseconds later then. Waiting for the slowest would make every event wait.
    spread_ms: f64,
}

impl BrokerClock {
    /// An estimator whose slack stays within the two bounds (milliseconds).
    #[must_use]
    pub fn new(slack_ms_min: u64, slack_ms_max: u64) -> Self {
        Self { slack_ms_min, slack_ms_max, offset_ms: None, spread_ms: 0.0 }
    }

    /// Takes note of a record read from the end of its partition. Backlog must not be given here: its delay tells
    /// nothing of the clock.
    pub fn observe(&mut self, append_ms: i64, received_ms: u64) {
        let delay = received_ms as f64 - append_ms as f64;
        let offset = match self.offset_ms {
            Some(old) if delay >= old => old + (delay - old) * 0.0001,
            _ => delay,
        };
        self.offset_ms = Some(offset);
        let above = delay - offset;
        let gain = if above > self.spread_ms { 0.05 } else { 0.005 };
        self.spread_ms += (above - self.spread_ms) * gain;
    }

    /// The broker's clock now, in milliseconds, for local time `now_ms`; the local clock itself until a record was seen.
    #[must_use]
    pub fn now(&self, now_ms: u64) -> u64 {
        let offset = self.offset_ms.unwrap_or(0.0);
        (now_ms as f64 - offset).max(0.0) as u64
    }

    /// How long a record may be under way between append and arrival, in milliseconds.
    #[must_use]
    pub fn slack_ms(&self) -> u64 {
        (self.spread_ms.ceil() as u64).clamp(self.slack_ms_min, self.slack_ms_max)
    }

    /// Every record appended before this time has been seen by a reader at the end of its partition.
    #[must_use]
    pub fn seen_until(&self, now_ms: u64) -> u64 {
        self.now(now_ms).saturating_sub(self.slack_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_and_far_future_timestamps_take_the_running_maximum() {
        let mut clock = PartitionClock::new(10, 1_000);
        assert_eq!(clock.assign(-1, 5_000), (10, Some(Exception::Broken)));
        assert_eq!(clock.assign(5_001, 5_000), (5_010, None));
        assert_eq!(clock.assign(0, 5_000), (5_010, Some(Exception::Broken)));
        assert_eq!(clock.assign(i64::MAX, 5_000), (5_010, Some(Exception::Future)));
        assert_eq!(clock.assign(6_000, 5_000), (6_000, None));
        assert_eq!(clock.assign(6_001, 5_000), (6_000, Some(Exception::Future)));
    }

    #[test]
    fn a_record_behind_the_idle_frontier_takes_its_tick() {
        let mut clock = PartitionClock::new(10, 1_000);
        assert_eq!(clock.idle_until(991), 1_000);
        assert_eq!(clock.assign(1_000, 1_000), (1_000, None));
        assert_eq!(clock.idle_until(1_095), 1_100);
        assert_eq!(clock.assign(1_050, 1_100), (1_100, Some(Exception::Late)));
        assert_eq!(clock.frontier(), 1_100);
    }

    #[test]
    fn slack_follows_the_delay_within_its_bounds() {
        let mut clock = BrokerClock::new(2, 100);
        for i in 0..1_000u64 {
            clock.observe(i as i64, i + 3);
        }
        assert_eq!(clock.slack_ms(), 2);
        assert_eq!(clock.now(2_000), 1_997);
        for i in 0..1_000u64 {
            clock.observe(i as i64, i + 3 + (i % 2) * 500);
        }
        assert_eq!(clock.slack_ms(), 100);
    }
}
