//! When a worker has states put out: always, unless it races through a log that is far ahead of it. Then now and then, and
//! versions that nobody would see before the next are left out.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use operators::time::Tick;

/// Whoever is no further behind the clock than this is not catching up.
const BEHIND_MS: u64 = 2_000;
/// How often it is looked at how fast the frontier moves, and how many times as fast as the clock is racing.
const LOOK: Duration = Duration::from_millis(250);
const RACING: u128 = 2;
/// While racing, states are put out so often, and for at least so long: a step of the operators may take some of it.
const EVERY: Duration = Duration::from_secs(1);
const AT_LEAST: Duration = Duration::from_millis(20);

/// Decides it from the frontier of a worker's inputs.
pub struct Pace {
    conflate_ms: u64,
    looked: Instant,
    looked_at: Tick,
    racing: bool,
    /// While racing: when states began to be put out the last time, and where the frontier was.
    begun: Option<(Instant, Tick)>,
}

impl Pace {
    /// For states that are put together over windows of so many milliseconds of ticks.
    #[must_use]
    pub fn new(conflate_ms: u64) -> Self {
        Self { conflate_ms, looked: Instant::now(), looked_at: 0, racing: false, begun: None }
    }

    /// Whether states are put out in this round.
    pub fn puts_out(&mut self, frontier: Tick) -> bool {
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        self.decide(frontier, now_ms, Instant::now())
    }

    fn decide(&mut self, frontier: Tick, now_ms: u64, now: Instant) -> bool {
        let elapsed = now.duration_since(self.looked);
        if elapsed >= LOOK {
            let moved = u128::from(frontier.saturating_sub(self.looked_at));
            // By its speed, not by the clock alone: a broker whose clock is slow is not a backlog.
            self.racing = self.looked_at > 0 && moved > RACING * elapsed.as_millis();
            (self.looked, self.looked_at) = (now, frontier);
        }
        if !self.racing || now_ms.saturating_sub(frontier) < BEHIND_MS {
            self.begun = None;
            return true;
        }
        let (begun, from) = *self.begun.get_or_insert((now, frontier));
        let since = now.duration_since(begun);
        // A window has to end meanwhile, or what is put together over windows would never be put out.
        if since < AT_LEAST || frontier < from + 2 * self.conflate_ms {
            return true;
        }
        if since >= EVERY {
            self.begun = Some((now, frontier));
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rounds of a second, ten milliseconds each, in which states are put out when the frontier moves by `step_ms` a round.
    fn rounds(pace: &mut Pace, start: Instant, frontier: &mut Tick, now_ms: u64, step_ms: u64) -> usize {
        let round = |round: u64| {
            *frontier += step_ms;
            pace.decide(*frontier, now_ms + 10 * round, start + Duration::from_millis(10 * round))
        };
        (0..100).map(round).filter(|&out| out).count()
    }

    #[test]
    fn only_a_race_leaves_versions_out() {
        let (start, now_ms) = (Instant::now(), 1_000_000_000);
        let mut pace = Pace::new(500);
        let mut frontier = now_ms - 100;
        assert_eq!(rounds(&mut pace, start, &mut frontier, now_ms, 10), 100, "at the end of the log");
        let mut frontier = now_ms - 3_600_000;
        let second = start + Duration::from_secs(1);
        rounds(&mut pace, second, &mut frontier, now_ms, 10);
        let third = start + Duration::from_secs(2);
        assert_eq!(rounds(&mut pace, third, &mut frontier, now_ms, 10), 100, "an hour behind, as fast as the clock");
        let later = start + Duration::from_secs(3);
        rounds(&mut pace, later, &mut frontier, now_ms, 1_000);
        let last = start + Duration::from_secs(4);
        let out = rounds(&mut pace, last, &mut frontier, now_ms, 1_000);
        assert!((1..=5).contains(&out), "racing: {out} rounds of a hundred");
    }

    #[test]
    fn a_slow_race_has_each_window_end() {
        let (start, now_ms) = (Instant::now(), 1_000_000_000);
        let (mut pace, mut frontier) = (Pace::new(500), now_ms - 3_600_000);
        rounds(&mut pace, start, &mut frontier, now_ms, 30);
        let out = rounds(&mut pace, start + Duration::from_secs(1), &mut frontier, now_ms, 30);
        assert!(out * 30 >= 1_000, "{out} rounds are two windows of ticks");
    }
}
