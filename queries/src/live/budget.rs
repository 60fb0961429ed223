//! Budgets of streams: rows, memory, and a share of a worker's time.
//!
//! Invariant: a stream that passes a budget is taken down with all that read it, and says which and by how much; no other
//! stream is touched.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use operators::error::Refusal;

use super::engine::{Engine, Options, Running, readers};
use super::keep::Held;
use crate::catalog::View;
use crate::metrics;
use crate::plan::Kind;
use crate::render::Size;

/// How often figures are shown.
const SHOW: Duration = Duration::from_secs(1);

/// What a stream may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Rows of its content.
    pub rows: usize,
    /// Bytes that it keeps.
    pub bytes: u64,
    /// Percent of one worker's time.
    pub time_pct: u32,
}

/// A stream that has been taken down, or a table that is kept no more.
#[derive(Clone, Debug)]
pub struct Suspended {
    /// Its name.
    pub name: String,
    /// Which budget it passed: `rows`, `memory` or `time`; `input` where what it reads was taken down.
    pub budget: &'static str,
    /// By how much.
    pub reason: String,
}

/// What is known of a stream's use of its budget; shared by all who look at it.
#[derive(Debug)]
pub(super) struct Watch {
    pub budget: Budget,
    time: Mutex<Time>,
    suspended: OnceLock<Suspended>,
}

/// A stretch of time over which a worker's share is measured.
#[derive(Debug)]
struct Time {
    begin: Instant,
    busy_ns: Vec<u64>,
    /// The share of the last stretch that is over.
    share_pct: f64,
}

impl Watch {
    pub fn new(budget: Budget) -> Self {
        let time = Time { begin: Instant::now(), busy_ns: Vec::new(), share_pct: 0.0 };
        Self { budget, time: Mutex::new(time), suspended: OnceLock::new() }
    }

    /// Why it was taken down, if it was.
    pub fn suspended(&self) -> Option<&Suspended> {
        self.suspended.get()
    }

    /// Percent of the busiest worker's time in the last stretch.
    pub fn share_pct(&self) -> f64 {
        self.time.lock().unwrap_or_else(PoisonError::into_inner).share_pct
    }

    /// Measures a stretch that is over; a share that is too large.
    fn too_busy(&self, busy_ns: Vec<u64>, stretch: Duration) -> Option<f64> {
        let mut time = self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = time.begin.elapsed();
        if passed < stretch {
            return None;
        }
        time.busy_ns.resize(busy_ns.len(), 0);
        let most = busy_ns.iter().zip(&time.busy_ns).map(|(now, before)| now.saturating_sub(*before)).max();
        let share_pct = 100.0 * most.unwrap_or(0) as f64 / passed.as_nanos() as f64;
        *time = Time { begin: Instant::now(), busy_ns, share_pct };
        // A step that began in the stretch before can make it more than the whole.
        (share_pct > f64::from(self.budget.time_pct) && self.budget.time_pct < 100).then_some(share_pct)
    }
}

impl Running {
    /// What it keeps for itself and what it shares, with what is kept for readers.
    pub(super) fn size<'a>(&'a self, parts: impl Iterator<Item = &'a Running>) -> Size {
        parts.chain([self]).fold(Size::default(), |sum, one| {
            sum + one.usage.total() + Size::bytes(one.rows.size().bytes + one.faults.size().bytes)
        })
    }

    /// Nanoseconds of each worker for it and what it shares.
    fn busy_ns<'a>(&'a self, parts: impl Iterator<Item = &'a Running>) -> Vec<u64> {
        parts.fold(self.usage.busy_ns(), |sum, part| {
            sum.iter().zip(part.usage.busy_ns()).map(|(mine, its)| mine + its).collect()
        })
    }
}

impl Engine {
    /// What a view may take.
    pub(super) fn budget(&self, view: &View) -> Budget {
        let (declaration, options) = (&view.declaration, &self.options);
        Budget {
            rows: options.rows_max,
            bytes: declaration.memory_bytes.unwrap_or(options.bytes_max),
            time_pct: declaration.time_pct.unwrap_or(options.time_pct_max),
        }
    }

    /// Which budget a stream has passed, and by how much.
    pub(super) fn passed(&self, running: &Running) -> Option<(&'static str, String)> {
        let parts: Vec<Running> = {
            let state = self.state();
            running.shares.iter().filter_map(|part| Some(state.parts.get(part)?.0.clone())).collect()
        };
        let Budget { rows, bytes, time_pct } = running.watch.budget;
        let kept = running.size(parts.iter()).bytes;
        if running.rows.is_exceeded() {
            let held = running.rows.figures().0;
            return Some(("rows", format!("it held {held} rows, its budget is {rows} (sql.stream_rows_max)")));
        }
        if kept > bytes as i64 {
            let place = "sql.bytes_max, or memory in WITH";
            return Some(("memory", format!("it kept {kept} bytes, its budget is {bytes} ({place})")));
        }
        let stretch = Duration::from_millis(self.options.time_window_ms);
        let share = running.watch.too_busy(running.busy_ns(parts.iter()), stretch)?;
        let (place, seconds) = ("sql.time_pct_max, or time in WITH", stretch.as_secs());
        let took = format!("it took {share:.0} % of a worker's time over {seconds} s");
        Some(("time", format!("{took}, its budget is {time_pct} % ({place})")))
    }

    /// Refuses a stream that passes its budget while it is being built.
    pub(super) fn within_budget(&self, running: &Running) -> Result<(), Refusal> {
        match self.passed(running) {
            None => Ok(()),
            Some((budget, why)) => Err(Refusal::new("sql_budget_exceeded", format!("while it was built {why}"))
                .at(budget)
                .hint("make it keep less: fewer rows, a shorter retention, a join on a key that tells rows apart")),
        }
    }

    /// Takes streams down that take more than they may, and those that read them.
    pub fn suspend_exceeded(&self) -> Vec<Suspended> {
        let all: Vec<(String, Running)> =
            self.state().running.iter().map(|(name, running)| (name.clone(), running.clone())).collect();
        let mut suspended = Vec::new();
        for (name, held) in self.bases.iter().filter(|(_, held)| held.given_up().is_none()) {
            let Some((budget, reason)) = self.passed_by_table(name, held) else { continue };
            self.suspend_readers(name, &all, &mut suspended);
            let why = Suspended { name: name.clone(), budget, reason };
            held.give_up(why.clone());
            self.keeper.remove(&held.port);
            metrics::suspended(budget);
            suspended.push(why);
        }
        for (name, running) in all.iter().filter(|(_, running)| running.watch.suspended().is_none()) {
            let Some((budget, reason)) = self.passed(running) else { continue };
            self.suspend_readers(name, &all, &mut suspended);
            self.suspend(running, Suspended { name: name.clone(), budget, reason }, &mut suspended);
        }
        suspended
    }

    /// Which budget a table has passed that is declared over a topic, and by how much.
    fn passed_by_table(&self, name: &str, held: &Held) -> Option<(&'static str, String)> {
        let Options { table_rows_max, bytes_max, .. } = self.options;
        if !self.declared.iter().any(|declared| declared.name == name) {
            return None;
        }
        let (rows, bytes) = (held.figures().0, held.size().bytes);
        if held.is_exceeded() {
            return Some(("rows", format!("it held {rows} rows, its budget is {table_rows_max} (sql.table_rows_max)")));
        }
        // Once for readers, and once on the worker that owns the row.
        let bytes = bytes.saturating_mul(2);
        let over = held.kind == Kind::Table && bytes > bytes_max as i64;
        over.then(|| ("memory", format!("it kept {bytes} bytes, its budget is {bytes_max} (sql.bytes_max)")))
    }

    /// Those that read it would wait for it for ever, and hold up the time of all.
    fn suspend_readers(&self, name: &str, all: &[(String, Running)], suspended: &mut Vec<Suspended>) {
        let readers = readers(&self.state().catalog, name);
        for reader in readers.iter().rev() {
            if let Some((_, running)) = all.iter().find(|(name, _)| name == reader) {
                let reason = format!("it reads {name}, which is suspended");
                self.suspend(running, Suspended { name: reader.clone(), budget: "input", reason }, suspended);
            }
        }
    }

    /// Shows how all streams do, once a second.
    pub fn report(&self) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.0.is_some_and(|at| at.elapsed() < SHOW) {
            return;
        }
        let all = self.list();
        let names: Vec<String> = all.iter().map(|stream| stream.name.clone()).collect();
        let gone: Vec<String> = shown.1.iter().filter(|name| !names.contains(name)).cloned().collect();
        metrics::streams(&all, &gone);
        *shown = (Some(Instant::now()), names);
    }

    fn suspend(&self, running: &Running, why: Suspended, all: &mut Vec<Suspended>) {
        if running.watch.suspended().is_none() {
            self.take_down(running);
            metrics::suspended(why.budget);
            all.push(why.clone());
            running.watch.suspended.get_or_init(|| why);
        }
    }
}
