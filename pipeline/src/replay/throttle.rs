//! How fast the log is read beside what is live: faster as long as that is no further behind than it was before, and at once much
//! slower when it is.
//!
//! Additive increase, multiplicative decrease, as in D. Chiu and R. Jain, *Analysis of the Increase and Decrease Algorithms for
//! Congestion Avoidance in Computer Networks*, Computer Networks and ISDN Systems 17, 1989.

use std::time::{Duration, Instant};

/// Samples of how far what is live is behind before anything is read.
const SAMPLES: usize = 5;
/// Samples are taken, and the rate is set, at most this often.
const SAMPLE: Duration = Duration::from_millis(10);
const WINDOW: Duration = Duration::from_millis(100);
/// What is read at once after a pause.
const BURST: Duration = Duration::from_millis(50);
/// Shares of the greatest rate: with which it begins, which is added in a window that goes well, and which it never falls below.
const FIRST: f64 = 0.1;
const STEP: f64 = 0.02;
const LEAST: f64 = 0.01;
/// What is left of the rate after a window that does not go well.
const AFTER: f64 = 0.5;
/// What is live may be behind by so much of what it was before, and by so many milliseconds more.
const MORE: f64 = 1.5;
const MORE_MS: f64 = 10.0;

/// Says when rows may be read.
pub struct Throttle {
    most: f64,
    rate: f64,
    /// Rows that may be read now; less than none after a large batch.
    allowed: f64,
    since: Instant,
    sampled: Option<Instant>,
    /// How far what is live was behind before anything was read; whole when there are enough.
    before: Vec<u64>,
    window: Instant,
    worst: u64,
}

impl Throttle {
    /// One that allows for at most so many rows a second.
    pub fn new(rows_per_s: u64, now: Instant) -> Self {
        let most = rows_per_s as f64;
        let before = Vec::with_capacity(SAMPLES);
        Self { most, rate: most * FIRST, allowed: 0.0, since: now, sampled: None, before, window: now, worst: 0 }
    }

    /// Whether more rows may be read, when what is live is so many milliseconds behind.
    pub fn allows(&mut self, now: Instant, behind_ms: u64) -> bool {
        if self.before.len() < SAMPLES {
            if self.sampled.is_none_or(|sampled| now.duration_since(sampled) >= SAMPLE) {
                self.sampled = Some(now);
                self.before.push(behind_ms);
            }
            (self.since, self.window) = (now, now);
            return false;
        }
        self.worst = self.worst.max(behind_ms);
        if now.duration_since(self.window) >= WINDOW {
            self.rate = match self.worst as f64 > self.limit_ms() {
                true => self.rate * AFTER,
                false => self.rate + self.most * STEP,
            };
            self.rate = self.rate.clamp((self.most * LEAST).max(1.0), self.most);
            (self.window, self.worst) = (now, 0);
        }
        self.allowed += self.rate * now.duration_since(self.since).as_secs_f64();
        self.allowed = self.allowed.min((self.rate * BURST.as_secs_f64()).max(1.0));
        self.since = now;
        self.allowed > 0.0
    }

    /// So many rows were read.
    pub fn take(&mut self, rows: usize) {
        self.allowed -= rows as f64;
    }

    fn limit_ms(&self) -> f64 {
        let before = self.before.iter().copied().max().unwrap_or(0);
        before as f64 * MORE + MORE_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u64 = 100_000;

    /// Rows that are read in so many seconds, in batches, while what is live is so far behind.
    fn read(throttle: &mut Throttle, now: &mut Instant, seconds: u64, behind_ms: u64) -> usize {
        let (mut rows, end) = (0, *now + Duration::from_secs(seconds));
        while *now < end {
            *now += Duration::from_millis(1);
            if throttle.allows(*now, behind_ms) {
                throttle.take(500);
                rows += 500;
            }
        }
        rows
    }

    #[test]
    fn it_reads_at_its_rate_while_all_goes_well() {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(MOST, now);
        assert_eq!(read(&mut throttle, &mut now, 0, 12), 0);
        let first = read(&mut throttle, &mut now, 1, 12);
        assert!((5_000..30_000).contains(&first), "it begins slowly: {first}");
        read(&mut throttle, &mut now, 5, 20);
        let rows = read(&mut throttle, &mut now, 10, 25);
        assert!((980_000..=1_010_000).contains(&rows), "{rows}");
    }

    #[test]
    fn it_gives_way_and_never_stops() {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(MOST, now);
        read(&mut throttle, &mut now, 10, 12);
        let slow = read(&mut throttle, &mut now, 1, 40);
        assert!(slow < 35_000, "{slow}");
        let slow = read(&mut throttle, &mut now, 10, 400);
        assert!((5_000..=15_000).contains(&slow), "{slow}");
        let again = read(&mut throttle, &mut now, 10, 12);
        assert!(again > 400_000, "{again}");
    }

    #[test]
    fn what_was_far_behind_before_holds_nothing_up() {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(MOST, now);
        read(&mut throttle, &mut now, 5, 900);
        assert!(read(&mut throttle, &mut now, 10, 1_000) > 900_000);
    }

    #[test]
    fn a_rate_of_one_row_a_second_is_one() {
        let mut now = Instant::now();
        let mut throttle = Throttle::new(1, now);
        let mut rows = 0;
        for _ in 0..100_000 {
            now += Duration::from_millis(1);
            if throttle.allows(now, 0) {
                throttle.take(1);
                rows += 1;
            }
        }
        assert!((90..=101).contains(&rows), "{rows}");
    }
}
