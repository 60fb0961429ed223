//! Tells when the dataflow hangs: a worker that does not come back from its operators, or a frontier that stands still although rows
//! wait behind it and nobody holds it. A hang is a bug; who hears of it ends the process, and the next start goes on from a
//! checkpoint.
//!
//! Invariant: a service that is away is no hang: sinks that are full and a log that does not answer keep the frontier where it is.

use std::time::{Duration, Instant};

use operators::time::Tick;

/// What is seen of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Rounds of its loop since the start.
    pub rounds: u64,
    /// Its outputs' frontier.
    pub frontier: Tick,
    /// Rows that its operators hold.
    pub in_flight: u64,
}

/// Since when a worker is as it is.
#[derive(Clone, Copy, Debug)]
struct Standing {
    sample: Sample,
    turned: Instant,
    moved: Instant,
}

/// Watches workers.
#[derive(Debug)]
pub struct Watchdog {
    patience: Duration,
    workers: Vec<Standing>,
}

impl Watchdog {
    /// That lets a worker stand still for so long.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self { patience, workers: Vec::new() }
    }

    /// Looks at all workers. `excused`: something outside may hold the frontiers. Gives what hangs, if something does.
    pub fn look(&mut self, now: Instant, samples: &[Sample], excused: bool) -> Option<String> {
        self.workers.truncate(samples.len());
        for (index, &sample) in samples.iter().enumerate() {
            let Some(worker) = self.workers.get_mut(index) else {
                self.workers.push(Standing { sample, turned: now, moved: now });
                continue;
            };
            if sample.rounds != worker.sample.rounds {
                worker.turned = now;
            }
            if sample.frontier != worker.sample.frontier || sample.in_flight == 0 || excused {
                worker.moved = now;
            }
            worker.sample = sample;
            let (stuck, still) = (now - worker.turned, now - worker.moved);
            if stuck >= self.patience {
                let rounds = sample.rounds;
                return Some(format!(
                    "dataflow_stuck: worker {index} has not come back from its operators for {} s (round {rounds}, frontier {}, \
                     {} rows in flight): is a derived stream's query without end? (haulstream sql list tells what each takes)",
                    stuck.as_secs(),
                    sample.frontier,
                    sample.in_flight
                ));
            }
            if still >= self.patience {
                return Some(format!(
                    "frontier_stands: the frontier of worker {index} has been at {} for {} s with {} rows in flight, and no sink \
                     holds it",
                    sample.frontier,
                    still.as_secs(),
                    sample.in_flight
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// What is said at each second of a life.
    fn said(life: impl Fn(u64) -> (Sample, bool), seconds: u64) -> Vec<(u64, String)> {
        let (start, mut watchdog) = (Instant::now(), Watchdog::new(SECOND * 30));
        let moment = |second: u64| {
            let (sample, excused) = life(second);
            let busy = Sample { rounds: second, frontier: second, in_flight: 1 };
            Some((second, watchdog.look(start + SECOND * second as u32, &[busy, sample], excused)?))
        };
        (0..seconds).filter_map(moment).collect()
    }

    #[test]
    fn a_worker_that_does_not_come_back_is_told_after_the_time() {
        let told = said(|second| (Sample { rounds: second.min(5), frontier: 7, in_flight: 0 }, true), 40);
        assert_eq!(told[0].0, 35);
        assert!(told[0].1.contains("worker 1") && told[0].1.starts_with("dataflow_stuck"), "{}", told[0].1);
    }

    #[test]
    fn a_frontier_that_stands_is_told_only_where_rows_wait_and_nothing_holds_it() {
        let standing = |in_flight, excused| {
            said(move |second| (Sample { rounds: second, frontier: second.min(5), in_flight }, excused), 60)
        };
        assert_eq!(standing(3, false)[0].0, 35);
        assert!(standing(3, false)[0].1.starts_with("frontier_stands"));
        assert!(standing(0, false).is_empty(), "there is nothing to do");
        assert!(standing(3, true).is_empty(), "a sink is full");
        let moving = said(|second| (Sample { rounds: second, frontier: second / 20, in_flight: 3 }, false), 100);
        assert!(moving.is_empty(), "{moving:?}");
    }
}
