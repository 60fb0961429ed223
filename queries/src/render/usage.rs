//! What the operators of a stream keep and how long they work, as they tell it themselves.
//!
//! Invariant: an operator's figures follow what it keeps: once all that it kept has left, they are what they were without rows.
//! Only their sum over the workers counts: a row may be counted where it comes from and kept elsewhere.

use std::ops::{Add, AddAssign, Mul, Neg, SubAssign};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use differential_dataflow::{AsCollection, Data, VecCollection};
use operators::row::{Diff, Row};
use operators::time::Tick;
use timely::dataflow::operators::InspectCore;

/// Bytes that a row takes beside its own: what points to it, its counts, how often it is there, and the allocator's share.
const ROW_BYTES: i64 = 64;

/// Rows and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Rows, or groups without rows of their own.
    pub rows: i64,
    /// Bytes.
    pub bytes: i64,
}

impl Size {
    /// Of one row.
    #[must_use]
    pub fn of(row: &Row) -> Size {
        Size { rows: 1, bytes: row.bytes().len() as i64 + ROW_BYTES }
    }

    /// Of a row and what it is found by.
    #[must_use]
    pub fn of_pair(key: &Row, row: &Row) -> Size {
        Size::of(row) + Size::bytes(Size::of(key).bytes)
    }

    /// Bytes that belong to rows counted elsewhere.
    #[must_use]
    pub fn bytes(bytes: i64) -> Size {
        Size { rows: 0, bytes }
    }
}

impl Add for Size {
    type Output = Size;
    fn add(self, other: Size) -> Size {
        Size { rows: self.rows + other.rows, bytes: self.bytes + other.bytes }
    }
}

impl AddAssign for Size {
    fn add_assign(&mut self, other: Size) {
        *self = *self + other;
    }
}

impl Neg for Size {
    type Output = Size;
    fn neg(self) -> Size {
        self * -1
    }
}

impl SubAssign for Size {
    fn sub_assign(&mut self, other: Size) {
        *self += -other;
    }
}

impl Mul<Diff> for Size {
    type Output = Size;
    fn mul(self, times: Diff) -> Size {
        Size { rows: self.rows * times, bytes: self.bytes * times }
    }
}

/// What one operator of one worker keeps.
#[derive(Debug, Default)]
pub struct Gauge {
    rows: AtomicI64,
    bytes: AtomicI64,
}

impl Gauge {
    pub(super) fn set(&self, size: Size) {
        self.rows.store(size.rows, Ordering::Relaxed);
        self.bytes.store(size.bytes, Ordering::Relaxed);
    }

    fn add(&self, size: Size) {
        self.rows.fetch_add(size.rows, Ordering::Relaxed);
        self.bytes.fetch_add(size.bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Size {
        Size { rows: self.rows.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// What a stream takes, over all workers.
#[derive(Debug, Default)]
pub struct Usage {
    gauges: Mutex<Vec<(&'static str, Arc<Gauge>)>>,
    /// Nanoseconds that each worker has worked for it.
    busy_ns: Vec<AtomicU64>,
}

impl Usage {
    /// Nothing yet, on this many workers.
    #[must_use]
    pub fn new(workers: usize) -> Usage {
        Usage { gauges: Mutex::default(), busy_ns: (0..workers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// A place for what one operator keeps.
    pub(super) fn gauge(&self, operator: &'static str) -> Arc<Gauge> {
        let gauge = Arc::new(Gauge::default());
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner).push((operator, gauge.clone()));
        gauge
    }

    /// What the operators of each name keep together.
    #[must_use]
    pub fn by_operator(&self) -> Vec<(&'static str, Size)> {
        let mut all: Vec<(&'static str, Size)> = Vec::new();
        for (name, gauge) in self.gauges.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            match all.iter_mut().find(|(known, _)| known == name) {
                Some((_, size)) => *size += gauge.get(),
                None => all.push((name, gauge.get())),
            }
        }
        all
    }

    /// What all operators keep.
    #[must_use]
    pub fn total(&self) -> Size {
        self.by_operator().into_iter().fold(Size::default(), |sum, (_, size)| sum + size)
    }

    /// A worker has worked for it.
    pub(crate) fn worked(&self, worker: usize, nanoseconds: u64) {
        if let Some(busy) = self.busy_ns.get(worker) {
            busy.fetch_add(nanoseconds, Ordering::Relaxed);
        }
    }

    /// Nanoseconds that each worker has worked for it.
    #[must_use]
    pub fn busy_ns(&self) -> Vec<u64> {
        self.busy_ns.iter().map(|busy| busy.load(Ordering::Relaxed)).collect()
    }
}

/// The same rows, counted as what the next operator keeps of them.
pub(super) fn kept<'s, D: Data>(
    rows: VecCollection<'s, Tick, D, Diff>,
    gauge: Arc<Gauge>,
    size: impl Fn(&D) -> Size + 'static,
) -> VecCollection<'s, Tick, D, Diff> {
    let counted = rows.inner.inspect_container(move |event| {
        let Ok((_, updates)) = event else { return };
        gauge.add(updates.iter().fold(Size::default(), |sum, (data, _, diff)| sum + size(data) * *diff));
    });
    counted.as_collection()
}
