//! What this process takes of the machine.

use std::time::Instant;

/// Measures a stretch of work of the calling thread.
pub struct Clock {
    wall: Instant,
    cpu_s: f64,
}

impl Clock {
    pub fn start() -> Self {
        Self { wall: Instant::now(), cpu_s: thread_cpu_s() }
    }

    /// Seconds that the thread was on a core since the start.
    pub fn cpu_s(&self) -> f64 {
        thread_cpu_s() - self.cpu_s
    }

    /// Seconds since the start.
    pub fn wall_s(&self) -> f64 {
        self.wall.elapsed().as_secs_f64()
    }
}

fn thread_cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells what a thread has run");
    let nanoseconds = stat.split_whitespace().next().and_then(|first| first.parse::<f64>().ok());
    nanoseconds.expect("the first number is nanoseconds on a core") / 1e9
}

/// Resident memory of the process.
pub fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells what a process holds");
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.expect("the second number is resident pages") * 4_096
}
