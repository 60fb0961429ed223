//! How long a connection is borne with: its rate of messages, its mistakes, its answers to pings, its idleness, its slowness.
//! All of it decided from the times that are handed in.

use std::time::Duration;

use tokio::time::Instant;

use super::options::Options;

/// Why the server ends a connection: the close code, and the reason that `bye` and the figures name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Code of the close frame.
    pub code: u16,
    /// Reason in words of the protocol.
    pub reason: &'static str,
}

impl Ending {
    /// The server stops.
    pub const SHUTDOWN: Ending = Ending { code: 1001, reason: "shutdown" };
    /// The frames break the protocol.
    pub const PROTOCOL: Ending = Ending { code: 1002, reason: "protocol_error" };
    /// A text is no UTF-8.
    pub const UTF8: Ending = Ending { code: 1007, reason: "utf8_invalid" };
    /// Too many bad messages.
    pub const BAD_MESSAGES: Ending = Ending { code: 1008, reason: "ws_bad_message" };
    /// Too many messages.
    pub const RATE_LIMITED: Ending = Ending { code: 1008, reason: "rate_limited" };
    /// A message is too large.
    pub const TOO_LARGE: Ending = Ending { code: 1009, reason: "message_too_large" };
    /// More waits than the outbox holds, for too long.
    pub const SLOW: Ending = Ending { code: 1013, reason: "slow_consumer" };
    /// No subscription for too long.
    pub const IDLE: Ending = Ending { code: 4408, reason: "idle" };
    /// Two pings were not answered.
    pub const SILENT: Ending = Ending { code: 4409, reason: "heartbeat_missed" };
}

/// Allows so many a minute, all at once if need be.
#[derive(Debug)]
pub struct Allowance {
    left: f64,
    per_minute: f64,
    at: Instant,
}

impl Allowance {
    /// A full allowance.
    #[must_use]
    pub fn new(per_minute: u32, now: Instant) -> Self {
        Self { left: f64::from(per_minute), per_minute: f64::from(per_minute), at: now }
    }

    /// Takes one; false if none is left.
    pub fn take(&mut self, now: Instant) -> bool {
        let minutes = now.saturating_duration_since(self.at).as_secs_f64() / 60.0;
        self.at = now;
        self.left = (self.left + minutes * self.per_minute).min(self.per_minute);
        let has_one = self.left >= 1.0;
        self.left -= f64::from(u8::from(has_one));
        has_one
    }
}

/// The clocks of a connection.
#[derive(Debug)]
pub struct Clocks {
    heartbeat: Duration,
    pong: Duration,
    idle: Duration,
    slow: Duration,
    ping_at: Instant,
    /// Until when the last ping has to be answered.
    pong_by: Option<Instant>,
    missed: u32,
    idle_since: Option<Instant>,
    slow_since: Option<Instant>,
}

/// What the clocks call for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// A ping.
    Ping,
    /// The end.
    End(Ending),
    /// Nothing before this time.
    At(Instant),
}

impl Clocks {
    /// The clocks of a connection that begins now.
    #[must_use]
    pub fn new(options: &Options, now: Instant) -> Self {
        let heartbeat = Duration::from_millis(options.heartbeat_ms);
        Self {
            heartbeat,
            pong: Duration::from_millis(options.pong_ms_max),
            idle: Duration::from_millis(options.idle_ms),
            slow: Duration::from_millis(options.slow_ms),
            ping_at: now + heartbeat,
            pong_by: None,
            missed: 0,
            idle_since: Some(now),
            slow_since: None,
        }
    }

    /// The client gave a sign of life.
    pub fn heard(&mut self) {
        self.pong_by = None;
        self.missed = 0;
    }

    /// Whether the client has a subscription.
    pub fn set_idle(&mut self, idle: bool, now: Instant) {
        self.idle_since = if idle { self.idle_since.or(Some(now)) } else { None };
    }

    /// Whether more waits for the client than its outbox holds.
    pub fn set_slow(&mut self, slow: bool, now: Instant) {
        self.slow_since = if slow { self.slow_since.or(Some(now)) } else { None };
    }

    /// What is due. A ping that is given is taken as sent.
    pub fn due(&mut self, now: Instant) -> Due {
        if self.pong_by.is_some_and(|by| now >= by) {
            self.pong_by = None;
            self.missed += 1;
        }
        let ends = [
            (self.slow_since.map(|since| since + self.slow), Ending::SLOW),
            (self.idle_since.map(|since| since + self.idle), Ending::IDLE),
        ];
        if self.missed >= 2 {
            return Due::End(Ending::SILENT);
        }
        if let Some((_, ending)) = ends.iter().find(|(at, _)| at.is_some_and(|at| now >= at)) {
            return Due::End(*ending);
        }
        if now >= self.ping_at {
            self.ping_at = now + self.heartbeat;
            self.pong_by = Some(now + self.pong);
            return Due::Ping;
        }
        let times = ends.iter().filter_map(|(at, _)| *at).chain(self.pong_by).chain([self.ping_at]);
        Due::At(times.min().unwrap_or(self.ping_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn clocks(now: Instant) -> Clocks {
        let mut options = super::super::tests::options();
        (options.heartbeat_ms, options.pong_ms_max) = (25_000, 10_000);
        (options.idle_ms, options.slow_ms) = (60_000, 30_000);
        Clocks::new(&options, now)
    }

    /// Lets time pass until something is due, and says what and when.
    fn next(clocks: &mut Clocks, start: Instant, now: &mut Instant) -> (u64, Due) {
        loop {
            match clocks.due(*now) {
                Due::At(at) => *now = at,
                due => return ((*now - start).as_millis() as u64, due),
            }
        }
    }

    #[test]
    fn a_silent_client_is_given_up_within_a_minute() {
        let start = Instant::now();
        let (mut clocks, mut now) = (clocks(start), start);
        clocks.set_idle(false, now);
        assert_eq!(next(&mut clocks, start, &mut now), (25_000, Due::Ping));
        assert_eq!(next(&mut clocks, start, &mut now), (50_000, Due::Ping));
        assert_eq!(next(&mut clocks, start, &mut now), (60_000, Due::End(Ending::SILENT)));
    }

    #[test]
    fn a_client_that_answers_stays() {
        let start = Instant::now();
        let (mut clocks, mut now) = (clocks(start), start);
        clocks.set_idle(false, now);
        for n in 1..100 {
            assert_eq!(next(&mut clocks, start, &mut now), (n * 25_000, Due::Ping));
            now += ms(9_000);
            clocks.heard();
            now -= ms(9_000);
        }
    }

    #[test]
    fn idle_and_slow_clients_are_sent_away_and_recover_in_time() {
        let start = Instant::now();
        let (mut clocks, mut now) = (clocks(start), start);
        clocks.set_idle(false, now);
        clocks.set_slow(true, start + ms(1_000));
        clocks.set_slow(true, start + ms(2_000));
        assert_eq!(next(&mut clocks, start, &mut now).1, Due::Ping);
        clocks.heard();
        assert_eq!(next(&mut clocks, start, &mut now), (31_000, Due::End(Ending::SLOW)));
        clocks.set_slow(false, now);
        clocks.set_idle(true, now);
        while next(&mut clocks, start, &mut now).1 == Due::Ping {
            clocks.heard();
        }
        assert_eq!(next(&mut clocks, start, &mut now), (91_000, Due::End(Ending::IDLE)));
    }

    #[test]
    fn the_allowance_fills_up_again_by_the_minute() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, start);
        assert_eq!((0..1_000).filter(|_| allowance.take(start)).count(), 100);
        assert_eq!((0..1_000).filter(|_| allowance.take(start + ms(6_000))).count(), 10);
        assert_eq!((0..1_000).filter(|_| allowance.take(start + ms(600_000))).count(), 100);
    }
}
