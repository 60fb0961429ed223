//! What happens to the program and its servers, in order.

use crate::restart::Dice;

/// One fault.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The program is killed and started again, with another number of workers.
    Kill,
    /// It is asked to stop, and started again.
    Stop,
    /// It is killed, and so many times again soon after its start.
    KillAtStart(u64),
    /// Redis is killed, and started again with its file.
    KillRedis,
    /// The program is killed, Redis loses everything, and the program is started again.
    EmptyRedis,
    /// ClickHouse is killed, and started again.
    KillClickHouse,
    /// The broker stands still.
    StopBroker {
        /// For so many milliseconds.
        ms: u64,
    },
}

/// So many faults, each kind in turn, each turn in another order.
pub fn mixed(seed: u64, count: usize) -> Vec<Fault> {
    let mut dice = Dice(seed);
    let mut schedule = Vec::with_capacity(count);
    while schedule.len() < count {
        let mut turn = vec![
            Fault::Stop,
            Fault::KillAtStart(3),
            Fault::KillRedis,
            Fault::EmptyRedis,
            Fault::KillClickHouse,
            Fault::StopBroker { ms: 1_000 + dice.below(5_000) },
            Fault::Kill,
        ];
        while !turn.is_empty() {
            schedule.push(turn.swap_remove(dice.below(turn.len() as u64) as usize));
        }
    }
    schedule.truncate(count);
    schedule
}
