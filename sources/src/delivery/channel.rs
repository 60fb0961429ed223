//! The bounded channel between a reader and its worker, in memory. What waits in it is limited by rows and by bytes; one
//! delivery that is larger than the limit passes alone.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, counter, gauge};
use serde::Deserialize;

use super::{Closed, Delivery, Outlet};
use crate::metrics::Metric;

/// How much may wait in a channel.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    /// Rows (a frontier counts as one).
    pub rows_max: usize,
    /// Bytes of the rows' columns.
    pub bytes_max: usize,
}

/// A channel of this capacity. `wake` is called, from the reader's thread, whenever something was put into the empty
/// channel and when the reader has ended: it should make the worker look.
pub fn channel(capacity: Capacity, wake: impl Fn() + Send + Sync + 'static) -> (Sender, Receiver) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        changed: Condvar::new(),
        wake: Box::new(wake),
        pressed: AtomicBool::new(false),
    });
    let sender = Sender {
        shared: shared.clone(),
        capacity,
        waited: counter!(Metric::OutletWait.name()),
        waited_ms: 0,
        held: gauge!(Metric::OutletBytes.name()),
    };
    (sender, Receiver { shared, held: gauge!(Metric::OutletBytes.name()) })
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    wake: Box<dyn Fn() + Send + Sync>,
    pressed: AtomicBool,
}

#[derive(Default)]
struct Queue {
    deliveries: VecDeque<(Delivery, usize, usize)>,
    rows: usize,
    bytes: usize,
    closed: bool,
}

impl Shared {
    /// A panic while the lock is held leaves the queue sound: each change of it is complete before anything can fail.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

/// The reader's end.
pub struct Sender {
    shared: Arc<Shared>,
    capacity: Capacity,
    waited: Counter,
    /// Waited, and not yet counted as a whole second.
    waited_ms: u64,
    held: Gauge,
}

impl Outlet for Sender {
    fn send(&mut self, delivery: Delivery) -> Result<(), Closed> {
        let (rows, bytes) = size(&delivery);
        let mut queue = self.shared.lock();
        if queue.is_full(self.capacity, rows, bytes) {
            let since = Instant::now();
            while queue.is_full(self.capacity, rows, bytes) && !queue.closed {
                queue = self.shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            }
            self.waited_ms += u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.waited.increment(self.waited_ms / 1_000);
            self.waited_ms %= 1_000;
        }
        if queue.closed {
            return Err(Closed);
        }
        let first = queue.deliveries.is_empty();
        queue.rows += rows;
        queue.bytes += bytes;
        queue.deliveries.push_back((delivery, rows, bytes));
        drop(queue);
        self.held.increment(bytes as f64);
        if first {
            self.shared.changed.notify_all();
            (self.shared.wake)();
        }
        Ok(())
    }

    fn is_pressed(&self) -> bool {
        self.shared.pressed.load(Ordering::Relaxed)
    }
}

impl Queue {
    fn is_full(&self, capacity: Capacity, rows: usize, bytes: usize) -> bool {
        !self.deliveries.is_empty() && (self.rows + rows > capacity.rows_max || self.bytes + bytes > capacity.bytes_max)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.shared.close();
        (self.shared.wake)();
    }
}

/// The worker's end.
pub struct Receiver {
    shared: Arc<Shared>,
    held: Gauge,
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// Nothing is there now.
    Yet,
    /// The reader has ended and all that it sent was received.
    Ever,
}

impl Receiver {
    /// The next delivery if there is one.
    ///
    /// # Errors
    /// Whether it is worth asking again.
    pub fn try_recv(&mut self) -> Result<Delivery, Nothing> {
        let mut queue = self.shared.lock();
        let Some((delivery, rows, bytes)) = queue.deliveries.pop_front() else {
            return Err(if queue.closed { Nothing::Ever } else { Nothing::Yet });
        };
        queue.rows -= rows;
        queue.bytes -= bytes;
        drop(queue);
        self.shared.changed.notify_all();
        self.held.decrement(bytes as f64);
        Ok(delivery)
    }

    /// The next delivery, waiting for up to `timeout`.
    ///
    /// # Errors
    /// Nothing came in time, or nothing will come.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Delivery, Nothing> {
        let queue = self.shared.lock();
        let empty = |queue: &mut Queue| queue.deliveries.is_empty() && !queue.closed;
        drop(self.shared.changed.wait_timeout_while(queue, timeout, empty));
        self.try_recv()
    }

    /// Tells the reader whether the worker holds more than it should: see [`Outlet::is_pressed`].
    pub fn press(&self, pressed: bool) {
        self.shared.pressed.store(pressed, Ordering::Relaxed);
    }

    /// Rows and bytes that wait.
    #[must_use]
    pub fn waiting(&self) -> (usize, usize) {
        let queue = self.shared.lock();
        (queue.rows, queue.bytes)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.close();
        let bytes = std::mem::take(&mut self.shared.lock().bytes);
        self.held.decrement(bytes as f64);
    }
}

fn size(delivery: &Delivery) -> (usize, usize) {
    match delivery {
        Delivery::Rows(_, batch) | Delivery::Rejected(_, batch) => (batch.num_rows(), batch.get_array_memory_size()),
        Delivery::Frontier(..) => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use operators::record::Stream;

    use super::*;

    fn frontier(tick: u64) -> Delivery {
        Delivery::Frontier(Stream::Telemetry, Some(tick))
    }

    fn tick(delivery: Delivery) -> Option<u64> {
        match delivery {
            Delivery::Frontier(_, tick) => tick,
            other => panic!("not a frontier: {other:?}"),
        }
    }

    #[test]
    fn a_full_channel_holds_the_sender_until_something_is_taken() {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let wake = move || {
            count.fetch_add(1, Ordering::SeqCst);
        };
        let (mut sender, mut receiver) = channel(Capacity { rows_max: 2, bytes_max: 1 << 20 }, wake);
        let sent = Arc::new(AtomicUsize::new(0));
        let progress = sent.clone();
        let named = std::thread::Builder::new().name("sender".into());
        let send = move || {
            for tick in 1..=10 {
                sender.send(frontier(tick)).expect("the receiver is there");
                progress.store(tick as usize, Ordering::SeqCst);
            }
        };
        let thread = named.spawn(send).expect("a thread");
        for expected in 1..=10 {
            let got = receiver.recv_timeout(Duration::from_secs(10)).expect("the sender goes on");
            assert_eq!(tick(got), Some(expected));
            // Two may wait, and one more may be on its way in.
            assert!(sent.load(Ordering::SeqCst) <= expected as usize + 3);
            assert!(receiver.waiting().0 <= 2);
        }
        thread.join().expect("the sender ends");
        assert_eq!(receiver.try_recv().expect_err("all were taken"), Nothing::Ever);
        assert!(woken.load(Ordering::SeqCst) >= 2, "once for the first delivery, once for the end");
    }

    #[test]
    fn a_sender_that_waits_is_told_of_the_end() {
        let (mut sender, receiver) = channel(Capacity { rows_max: 1, bytes_max: 1 }, || {});
        sender.send(frontier(1)).expect("an empty channel takes anything");
        let named = std::thread::Builder::new().name("sender".into());
        let thread = named.spawn(move || sender.send(frontier(2))).expect("a thread");
        drop(receiver);
        assert!(thread.join().expect("no panic").is_err());
    }
}
