//! Operators against oracles: random logs through real dataflows of one, two and four workers, batches cut and frontiers held
//! back at random, compared at every tick with a naive fold over the same log in canonical order.
#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test is the failed test")]

mod cell;
mod drive;
mod log;
mod main_job;
mod oracle;
mod restart;
