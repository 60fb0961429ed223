//! Removes events that came before: same device, device time and sequence number. Bounded: a device's last few events are
//! remembered, and a device that stays silent for the horizon is forgotten.

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use serde::{Deserialize, Serialize};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::operator::Operator;

use crate::batch::{Batch, TICK, i64s, u64s};
use crate::counters::{Counters, add};
use crate::devices::{ByDevice, Devices, FETCH_ROWS, numbers};
use crate::durable::{self, Damaged, Dirty, Durable, Give, States};
use crate::pending::{Closed, Pending};
use crate::time::{Tick, closed_before};

/// Events remembered for each device.
pub const REMEMBERED: usize = 16;

/// The last events of one device: a ring of (device time, sequence number).
#[derive(Clone, Debug)]
struct Seen {
    /// No event in the ring is greater, so nearly every new one need not be searched for.
    greatest: (i64, i64),
    last: Tick,
    length: u8,
    next: u8,
    ring: [(i64, i64); REMEMBERED],
}

impl Seen {
    fn new() -> Self {
        Self { greatest: (i64::MIN, i64::MIN), last: 0, length: 0, next: 0, ring: [(0, 0); REMEMBERED] }
    }

    /// Whether the event is new; it is remembered then. After `horizon_ms` without any event nothing is remembered.
    fn insert(&mut self, event: (i64, i64), tick: Tick, horizon_ms: u64) -> bool {
        if self.last + horizon_ms <= tick {
            (self.length, self.next) = (0, 0);
        }
        self.last = tick;
        if event > self.greatest {
            self.greatest = event;
        } else if self.ring[..self.length as usize].contains(&event) {
            return false;
        }
        self.ring[self.next as usize] = event;
        self.next = (self.next + 1) % REMEMBERED as u8;
        self.length = self.length.max(self.next).max(if self.next == 0 { REMEMBERED as u8 } else { 0 });
        true
    }
}

/// What is remembered of each device that was heard of within the horizon.
#[derive(Debug)]
struct Remembered {
    ids: Devices,
    seen: ByDevice<Option<Box<Seen>>>,
    known: u64,
    dirty: Dirty,
}

/// [`Seen`] in a checkpoint: events as what they are before the greatest one, which takes a quarter of the space.
#[derive(Serialize, Deserialize)]
struct Written {
    last: Tick,
    next: u8,
    greatest: (i64, i64),
    before: Vec<(i64, i64)>,
}

impl From<&Seen> for Written {
    fn from(seen: &Seen) -> Self {
        let (ts, seq) = seen.greatest;
        let before = |event: &(i64, i64)| (ts.wrapping_sub(event.0), seq.wrapping_sub(event.1));
        let before = seen.ring[..seen.length as usize].iter().map(before).collect();
        Self { last: seen.last, next: seen.next, greatest: seen.greatest, before }
    }
}

impl TryFrom<Written> for Seen {
    type Error = Damaged;

    fn try_from(written: Written) -> Result<Self, Damaged> {
        let Written { last, next, greatest, before } = written;
        if before.len() > REMEMBERED || next as usize >= REMEMBERED || next as usize > before.len() {
            return Err(Damaged::new(format!("{} events and the next at {next}", before.len())));
        }
        let mut seen = Self { greatest, last, length: before.len() as u8, next, ring: [(0, 0); REMEMBERED] };
        for (event, (ts, seq)) in seen.ring.iter_mut().zip(before) {
            *event = (greatest.0.wrapping_sub(ts), greatest.1.wrapping_sub(seq));
        }
        Ok(seen)
    }
}

impl Durable for Remembered {
    fn changed(&mut self, give: &mut Give<'_>) {
        let (ids, mut key, mut value) = (self.ids.ids(), Vec::new(), Vec::new());
        for number in self.dirty.take() {
            durable::write_key(&mut key, ids.text(number).as_bytes(), &[]);
            let seen = self.seen.get(number).and_then(Option::as_ref);
            value.clear();
            seen.into_iter().for_each(|seen| durable::write(&mut value, &Written::from(&**seen)));
            give(&key, seen.map(|_| &value[..]));
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
        let device = self.ids.number(durable::text(durable::read_key(key)?.0)?);
        let seen = durable::read::<Written>(value)?.try_into()?;
        self.seen.reserve(&[device], || None);
        self.known += 1;
        *self.seen.at(device) = Some(Box::new(seen));
        Ok(())
    }
}

impl Remembered {
    fn new(ids: Devices, is_kept: bool) -> Self {
        Self { ids, seen: ByDevice::default(), known: 0, dirty: Dirty::new(is_kept) }
    }

    fn seen(&mut self, device: u32) -> &mut Seen {
        self.dirty.mark(device);
        let known = &mut self.known;
        self.seen.at(device).get_or_insert_with(|| {
            *known += 1;
            Box::new(Seen::new())
        })
    }

    fn forget(&mut self, is_over: impl Fn(&Seen) -> bool) {
        for (number, seen) in (0..).zip(self.seen.iter_mut()) {
            if seen.as_ref().is_some_and(|seen| is_over(seen)) {
                *seen = None;
                self.known -= 1;
                self.dirty.mark(number);
            }
        }
    }
}

/// Telemetry without duplicates. Of equal events the first in canonical order stays.
///
/// `events` must lie with the owners of their devices (see [`crate::devices::own`]); `horizon_ms` is how long a silent device is
/// remembered, in ticks' milliseconds. What is remembered is the state `deduplicate`.
pub fn deduplicate<'s>(
    events: Stream<'s, Tick, Batch>,
    horizon_ms: u64,
    devices: &Devices,
    counters: Counters,
    states: &States,
) -> Stream<'s, Tick, Batch> {
    let remembered = states.keep("deduplicate", Remembered::new(devices.clone(), states.are_kept()));
    events.unary_frontier::<CapacityContainerBuilder<Batch>, _, _, _>(Pipeline, "Deduplicate", move |capability, _| {
        let mut capability = Some(capability);
        let mut pending = Pending::default();
        let mut sweep = 0;
        move |(input, frontier), output| {
            input.for_each(|_, batch| {
                if let Some(rows) = batch.take() {
                    add(&counters.events, rows.num_rows());
                    pending.push(rows);
                }
            });
            let Some(held) = &mut capability else { return };
            let devices = &mut *remembered.borrow_mut();
            let upto = closed_before(frontier.frontier());
            if upto > *held.time() {
                let closed = pending.close(upto);
                if !closed.runs.is_empty() {
                    let mut session = output.session(held);
                    for rows in distinct(&closed, devices, horizon_ms, &counters) {
                        session.give_container(&mut rows.into());
                    }
                }
                if upto != Tick::MAX && upto >= sweep + horizon_ms {
                    // Frees what the next event would forget anyway, so it may happen at any time.
                    devices.forget(|seen| seen.last + horizon_ms <= upto);
                    sweep = upto;
                }
                counters.devices.set(devices.known);
                counters.waiting_rows.set(pending.rows() as u64);
                if upto == Tick::MAX { capability = None } else { held.downgrade(&upto) }
            }
        }
    })
}

fn distinct(closed: &Closed, devices: &mut Remembered, horizon_ms: u64, counters: &Counters) -> Vec<RecordBatch> {
    let mut repeated: Vec<(usize, usize)> = Vec::new();
    for run in &closed.runs {
        let rows = &closed.portions[run.portion];
        let (devices_of, ticks) = (numbers(rows), u64s(rows, TICK).values());
        let (ts, seq) = (i64s(rows, "ts").values(), i64s(rows, "seq").values());
        devices.seen.reserve(&devices_of[run.start..run.end], || None);
        for row in run.start..run.end {
            if (row - run.start).is_multiple_of(FETCH_ROWS) {
                let block = &devices_of[row..run.end.min(row + FETCH_ROWS)];
                devices.seen.fetch(block, |seen| seen.as_ref().map_or(0, |seen| seen.greatest.0));
            }
            if !devices.seen(devices_of[row]).insert((ts[row], seq[row]), ticks[row], horizon_ms) {
                repeated.push((run.portion, row));
            }
        }
    }
    if repeated.is_empty() {
        return closed.portions.clone();
    }
    add(&counters.duplicates, repeated.len());
    let mut keep: Vec<Vec<bool>> = closed.portions.iter().map(|rows| vec![true; rows.num_rows()]).collect();
    for (portion, row) in repeated {
        keep[portion][row] = false;
    }
    let filtered = closed.portions.iter().zip(keep).map(|(rows, keep)| {
        if keep.iter().all(|&k| k) {
            return rows.clone();
        }
        filter_record_batch(rows, &BooleanArray::from(keep)).expect("one flag a row")
    });
    filtered.filter(|rows| rows.num_rows() > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_remembers_its_last_events_only() {
        let mut seen = Seen::new();
        for seq in 0..100 {
            assert!(seen.insert((seq, seq), 10, 100));
            assert!(!seen.insert((seq, seq), 10, 100));
            assert!(!seen.insert(((seq - 15).max(0), (seq - 15).max(0)), 10, 100));
        }
        assert!(seen.insert((83, 83), 10, 100), "forgotten after sixteen others");
    }

    #[test]
    fn a_silent_device_is_forgotten_at_a_tick() {
        let mut seen = Seen::new();
        assert!(seen.insert((1, 1), 10, 100));
        assert!(!seen.insert((1, 1), 109, 100));
        assert!(!seen.insert((1, 1), 208, 100), "the duplicate before was heard of too");
        assert!(seen.insert((1, 1), 308, 100));
    }
}
