//! How far the records of the steps at hand have come.
//!
//! Invariant: a record is handed to a producer once, and again only after it was reported as failed; that holds over
//! attempts that were cut off.

use std::ops::Range;

use operators::time::Tick;
use rdkafka::error::RDKafkaErrorCode;

use super::delivery::Reports;
use crate::step::Step;

/// Which step, whatever is in it.
type Number = (&'static str, usize, Tick, Tick);

#[derive(Debug, Default)]
pub(super) struct Flight {
    steps: Vec<Number>,
    /// Id of the flight's first record; ids go on over all flights.
    base: usize,
    /// Records of the flight handed over in their order.
    sent: usize,
    /// Records before `sent` that failed and are to be handed over again, ascending.
    again: Vec<usize>,
    /// Records of all flights handed over, repetitions included.
    handed: u64,
}

impl Flight {
    /// Begins a flight of these steps, or goes on with it if they are the ones that were tried before.
    pub(super) fn board(&mut self, steps: &[Step]) {
        let number = |step: &Step| (step.stream, step.worker, step.from, step.upto);
        if self.steps.iter().copied().eq(steps.iter().map(number)) {
            return;
        }
        self.land();
        self.steps = steps.iter().map(number).collect();
    }

    /// All records are acknowledged.
    pub(super) fn land(&mut self) {
        self.base += self.sent;
        self.sent = 0;
        self.steps.clear();
        self.again.clear();
    }

    /// Whether any record of the range is to be handed over.
    pub(super) fn wants(&self, range: Range<usize>) -> bool {
        self.next_in(range).is_some()
    }

    /// The first record of the range that is to be handed over.
    pub(super) fn next_in(&self, range: Range<usize>) -> Option<usize> {
        let first = self.again.partition_point(|index| *index < range.start);
        let again = self.again.get(first).copied().filter(|index| range.contains(index));
        again.or_else(|| (self.sent < range.end).then(|| self.sent.max(range.start)))
    }

    /// Id of the record at `index` in the flight.
    pub(super) fn id(&self, index: usize) -> usize {
        self.base + index
    }

    /// The record that [`next_in`](Self::next_in) named is with the producer.
    pub(super) fn handed(&mut self, index: usize) {
        self.handed += 1;
        match self.again.binary_search(&index) {
            Ok(place) => drop(self.again.remove(place)),
            Err(_) => self.sent = index + 1,
        }
    }

    /// Records handed over so far, in this and former flights: as many reports will come.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed
    }

    /// Notes the failed records of this flight for another time; returns why the first failed.
    pub(super) fn take_failed(&mut self, reports: &Reports) -> Option<RDKafkaErrorCode> {
        let failed = reports.take_failed();
        let mine = failed.into_iter().filter(|(id, _)| *id >= self.base);
        let mut why = None;
        for (id, code) in mine {
            // That others of the batch or the producer fell gives the least reason.
            let weak = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
            why = if weak { why.or(Some(code)) } else { Some(code) };
            self.again.push(id - self.base);
        }
        self.again.sort_unstable();
        why
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(upto: Tick) -> Step {
        Step { stream: "s", worker: 0, from: 0, upto, rows: Vec::new() }
    }

    fn hand(flight: &mut Flight, range: Range<usize>, most: usize) -> Vec<usize> {
        let mut handed = Vec::new();
        while let Some(index) = flight.next_in(range.clone()).filter(|_| handed.len() < most) {
            flight.handed(index);
            handed.push(index);
        }
        handed
    }

    #[test]
    fn a_flight_goes_on_where_it_was_cut_off() {
        let mut flight = Flight::default();
        flight.board(&[step(10)]);
        assert_eq!(hand(&mut flight, 0..4, 9), [0, 1, 2, 3]);
        assert_eq!(hand(&mut flight, 4..9, 2), [4, 5]);
        flight.board(&[step(10)]);
        assert!(!flight.wants(0..4));
        assert_eq!(hand(&mut flight, 4..9, 9), [6, 7, 8]);
        assert_eq!(flight.handed_over(), 9);
        flight.again = vec![1, 7];
        assert!(flight.wants(0..4) && flight.wants(4..9));
        assert_eq!((hand(&mut flight, 0..4, 9), hand(&mut flight, 4..9, 9)), (vec![1], vec![7]));
        assert_eq!(flight.id(8), 8);
        flight.land();
        flight.board(&[step(20)]);
        assert_eq!(flight.id(0), 9);
        assert_eq!(hand(&mut flight, 0..2, 9), [0, 1]);
        assert_eq!(flight.handed_over(), 13);
    }
}
