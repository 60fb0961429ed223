//! Where all workers stop for a moment, so that what their operators keep is of one tick: a checkpoint is cut there.
//!
//! Invariant: no input is let beyond the first boundary after the slowest one, so a stop at a boundary that lies further ahead finds
//! every input before it. At a boundary no window of changes and no interval of sums is open.

use std::sync::{Mutex, PoisonError};

use operators::time::Tick;

/// Shared by the workers of a process and by who cuts checkpoints.
#[derive(Debug)]
pub struct Barrier {
    boundary_ms: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How far each worker's slowest input could go.
    wanted: Vec<Tick>,
    stop: Option<Stop>,
}

#[derive(Clone, Copy, Debug)]
struct Stop {
    at: Tick,
    /// Workers that have not cut yet.
    left: usize,
    /// Whether nobody goes on afterwards.
    last: bool,
}

impl State {
    /// How far all workers' inputs could go.
    fn slowest(&self) -> Tick {
        self.wanted.iter().copied().min().unwrap_or(Tick::MAX)
    }
}

/// What a worker may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// The tick that its inputs may go to.
    pub limit: Tick,
    /// Where it is to stop, if it is.
    pub stop: Option<Tick>,
}

impl Pass {
    /// No limit.
    pub const FREE: Pass = Pass { limit: Tick::MAX, stop: None };
}

impl Barrier {
    /// For so many workers, with boundaries one tick after the multiples of `boundary_ms`, which has to be one of every interval over
    /// which operators put changes together.
    #[must_use]
    pub fn new(workers: usize, boundary_ms: u64) -> Self {
        Self { boundary_ms, state: Mutex::new(State { wanted: vec![0; workers], stop: None }) }
    }

    /// Has all workers stop before the next boundary that none can have reached, and tells which that is: what they keep then is of
    /// all ticks before it. None if they are stopping already, or there will be no more ticks. After the `last` one nobody goes on.
    pub fn ask(&self, last: bool) -> Option<Tick> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let slowest = state.slowest();
        if state.stop.is_some() || slowest == Tick::MAX {
            return None;
        }
        let at = self.after(self.after(slowest));
        let left = state.wanted.len();
        state.stop = Some(Stop { at, left, last });
        Some(at)
    }

    /// Tells how far a worker's slowest input could go, and gives what it may do.
    pub fn pass(&self, worker: usize, wanted: Tick) -> Pass {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.wanted[worker] = wanted;
        if let Some(stop) = state.stop {
            return Pass { limit: stop.at, stop: Some(stop.at) };
        }
        Pass { limit: self.after(state.slowest()), stop: None }
    }

    /// A worker has cut at the stop. The last one lets all go on.
    pub fn cut(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stop) = &mut state.stop {
            stop.left -= 1;
            if stop.left == 0 && !stop.last {
                state.stop = None;
            }
        }
    }

    /// The first boundary after a tick.
    fn after(&self, tick: Tick) -> Tick {
        match tick {
            Tick::MAX => Tick::MAX,
            tick => (tick.saturating_sub(1) / self.boundary_ms + 1) * self.boundary_ms + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_let_to_the_first_boundary_after_the_slowest() {
        let barrier = Barrier::new(2, 100);
        assert_eq!(barrier.pass(0, 250), Pass { limit: 101, stop: None }, "nothing is known of the other");
        assert_eq!(barrier.pass(1, 150), Pass { limit: 201, stop: None });
        assert_eq!(barrier.pass(1, 200), Pass { limit: 201, stop: None });
        assert_eq!(barrier.pass(1, 201), Pass { limit: 301, stop: None });
        assert_eq!(barrier.pass(0, Tick::MAX), Pass { limit: 301, stop: None });
        assert_eq!(barrier.pass(1, Tick::MAX), Pass { limit: Tick::MAX, stop: None });
        assert_eq!(barrier.ask(false), None, "there will be no more ticks");
    }

    #[test]
    fn a_stop_lies_beyond_what_any_was_let_to_and_ends_with_the_last_cut() {
        let barrier = Barrier::new(2, 100);
        barrier.pass(0, 150);
        let let_to = barrier.pass(1, 130).limit;
        let stop = barrier.ask(false).unwrap();
        assert_eq!((let_to, stop), (201, 301));
        assert_eq!(barrier.ask(false), None);
        assert_eq!(barrier.pass(0, 1_000), Pass { limit: 301, stop: Some(301) });
        barrier.cut();
        assert_eq!(barrier.pass(0, 1_000), Pass { limit: 301, stop: Some(301) });
        barrier.cut();
        assert_eq!(barrier.pass(1, 1_000), Pass { limit: 1_001, stop: None });
        let stop = barrier.ask(true).unwrap();
        barrier.cut();
        barrier.cut();
        assert_eq!(barrier.pass(1, 5_000), Pass { limit: stop, stop: Some(stop) }, "nobody goes on");
    }
}
