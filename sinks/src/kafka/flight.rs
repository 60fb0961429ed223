//! How far the records of the steps at hand have come, flight by flight.
//!
//! Invariant: a record is handed to a producer once, and again only after it was reported as failed; that holds over
//! attempts that were cut off.

use std::collections::VecDeque;
use std::ops::Range;

use operators::time::Tick;
use rdkafka::error::RDKafkaErrorCode;

use super::delivery::{Goal, Reports};
use super::id::Serial;
use crate::step::Step;

/// Which step, whatever is in it.
type Number = (&'static str, usize, Tick, Tick);

fn numbers(steps: &[Step]) -> impl Iterator<Item = Number> {
    steps.iter().map(|step| (step.stream, step.worker, step.from, step.upto))
}

/// The flights under way, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Flights {
    air: VecDeque<Flight>,
    next: Serial,
    /// Records of all flights handed over, repetitions included: as many reports will come.
    handed: u64,
}

impl Flights {
    pub(super) fn is_empty(&self) -> bool {
        self.air.is_empty()
    }

    /// Begins a flight behind all others.
    pub(super) fn board(&mut self, steps: &[Step], reports: &Reports) {
        reports.begin(self.next);
        self.air.push_back(Flight { steps: numbers(steps).collect(), ..Flight::new(self.next) });
        self.next = self.next.following();
    }

    /// Makes the oldest flight that of these steps: it is already, if they were tried before, or nobody wants any more what is
    /// under way.
    pub(super) fn resume(&mut self, steps: &[Step], reports: &Reports) {
        if self.air.front().is_some_and(|flight| flight.steps.iter().copied().eq(numbers(steps))) {
            return;
        }
        self.air.clear();
        reports.forget_failed();
        self.board(steps, reports);
    }

    pub(super) fn oldest(&self) -> Option<&Flight> {
        self.air.front()
    }

    pub(super) fn oldest_mut(&mut self) -> Option<&mut Flight> {
        self.air.front_mut()
    }

    /// The flight that records are handed over from.
    pub(super) fn boarding(&mut self, which: Which) -> &mut Flight {
        let flight = match which {
            Which::Oldest => self.air.front_mut(),
            Which::Newest => self.air.back_mut(),
        };
        flight.expect("boarded before")
    }

    /// The record that [`next_in`](Flight::next_in) of this flight named is with the producer.
    pub(super) fn handed(&mut self, which: Which, index: usize) {
        self.handed += 1;
        self.boarding(which).handed(index);
    }

    /// The record that [`next_in`](Flight::next_in) of this flight named is in the topic already.
    pub(super) fn found(&mut self, which: Which, index: usize) {
        self.boarding(which).done(index);
    }

    /// Records handed over by this and former flights.
    pub(super) fn handed_over(&self) -> u64 {
        self.handed
    }

    /// All records of the oldest flight are acknowledged.
    pub(super) fn land(&mut self) -> Option<Flight> {
        self.air.pop_front()
    }
}

/// One of the flights under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Which {
    Oldest,
    Newest,
}

#[derive(Debug, Default)]
pub(super) struct Flight {
    serial: Serial,
    steps: Vec<Number>,
    /// Records handed over in their order.
    sent: usize,
    /// Records before `sent` that failed and are to be handed over again, ascending.
    again: Vec<usize>,
    /// Records handed over, repetitions included.
    handed: u64,
    /// Records made, by topic.
    pub(super) tally: Vec<(String, u64)>,
}

impl Flight {
    fn new(serial: Serial) -> Self {
        Self { serial, ..Self::default() }
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
        self.serial.id(index)
    }

    fn handed(&mut self, index: usize) {
        self.handed += 1;
        self.done(index);
    }

    fn done(&mut self, index: usize) {
        match self.again.binary_search(&index) {
            Ok(place) => drop(self.again.remove(place)),
            Err(_) => self.sent = index + 1,
        }
    }

    /// That everything handed over is reported.
    pub(super) fn goal(&self) -> Goal {
        Goal::Flight(self.serial, self.handed)
    }

    /// Notes the failed records of this flight for another time; returns why the first failed.
    pub(super) fn take_failed(&mut self, reports: &Reports) -> Option<RDKafkaErrorCode> {
        let mut why = None;
        for (index, code) in reports.take_failed(self.serial) {
            why = Some(weightier(why, code));
            self.again.push(index);
        }
        self.again.sort_unstable();
        why
    }
}

/// Of two reasons the one that says more.
pub(super) fn weightier(known: Option<RDKafkaErrorCode>, code: RDKafkaErrorCode) -> RDKafkaErrorCode {
    // That others of the batch or the producer fell gives the least reason.
    let weak = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::Fatal);
    known.filter(|_| weak).unwrap_or(code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(upto: Tick) -> Step {
        Step { stream: "s", worker: 0, from: 0, upto, rows: Vec::new() }
    }

    /// Hands over what the flight wants of the range, `most` records at most.
    fn hand(flights: &mut Flights, which: Which, range: Range<usize>, most: usize) -> Vec<usize> {
        let mut handed = Vec::new();
        while let Some(index) = flights.boarding(which).next_in(range.clone()).filter(|_| handed.len() < most) {
            flights.handed(which, index);
            handed.push(index);
        }
        handed
    }

    fn reached(flights: &Flights, reports: &Reports) -> bool {
        reports.is_reached(flights.oldest().expect("a flight").goal())
    }

    #[test]
    fn a_flight_goes_on_where_it_was_cut_off() {
        let (mut flights, reports) = (Flights::default(), Reports::default());
        flights.resume(&[step(10)], &reports);
        assert_eq!(hand(&mut flights, Which::Oldest, 0..4, 9), [0, 1, 2, 3]);
        assert_eq!(hand(&mut flights, Which::Oldest, 4..9, 2), [4, 5]);
        flights.resume(&[step(10)], &reports);
        assert!(!flights.boarding(Which::Oldest).wants(0..4));
        assert_eq!(hand(&mut flights, Which::Oldest, 4..9, 9), [6, 7, 8]);
        assert_eq!(flights.handed_over(), 9);
        let flight = flights.boarding(Which::Oldest);
        flight.again = vec![1, 7];
        assert!(flight.wants(0..4) && flight.wants(4..9));
        assert_eq!(hand(&mut flights, Which::Oldest, 0..4, 9), [1]);
        assert_eq!(hand(&mut flights, Which::Oldest, 4..9, 9), [7]);
        let before = flights.boarding(Which::Oldest).id(0);
        flights.land();
        flights.resume(&[step(20)], &reports);
        assert_ne!(flights.boarding(Which::Oldest).id(0), before);
        assert_eq!(hand(&mut flights, Which::Oldest, 0..2, 9), [0, 1]);
        assert_eq!(flights.handed_over(), 13);
    }

    #[test]
    fn reports_come_to_the_flight_that_they_are_of() {
        let (mut flights, reports) = (Flights::default(), Reports::default());
        for upto in [10, 20, 30] {
            flights.board(&[step(upto)], &reports);
            hand(&mut flights, Which::Newest, 0..3, 9);
        }
        let ids: Vec<Vec<usize>> =
            flights.air.iter().map(|flight| (0..3).map(|index| flight.id(index)).collect()).collect();
        // The later ones are complete first, one with a failure.
        ids[1].iter().for_each(|&id| reports.note(id, (id == ids[1][1]).then_some(RDKafkaErrorCode::InvalidRecord)));
        ids[2].iter().for_each(|&id| reports.note(id, None));
        reports.note(ids[0][2], Some(RDKafkaErrorCode::PurgeQueue));
        assert!(!reached(&flights, &reports) && reports.has_failed());
        assert_eq!(reports.outstanding(flights.handed_over()), 2);
        ids[0][..2].iter().for_each(|&id| reports.note(id, None));
        assert!(reached(&flights, &reports));
        let oldest = flights.oldest_mut().expect("a flight");
        assert_eq!(oldest.take_failed(&reports), Some(RDKafkaErrorCode::PurgeQueue));
        assert_eq!(hand(&mut flights, Which::Oldest, 0..3, 9), [2], "only what failed is handed over again");
        assert!(!reached(&flights, &reports));
        reports.note(ids[0][2], None);
        assert!(reached(&flights, &reports));
        flights.land();
        assert!(reached(&flights, &reports));
        let oldest = flights.oldest_mut().expect("a flight");
        assert_eq!(oldest.take_failed(&reports), Some(RDKafkaErrorCode::InvalidRecord));
        assert_eq!(oldest.again, [1]);
        assert!(!reports.has_failed());
    }

    #[test]
    fn a_flight_that_is_given_up_is_forgotten() {
        let (mut flights, reports) = (Flights::default(), Reports::default());
        flights.board(&[step(10)], &reports);
        hand(&mut flights, Which::Newest, 0..2, 9);
        let old = flights.boarding(Which::Oldest).id(0);
        reports.note(old, Some(RDKafkaErrorCode::InvalidRecord));
        flights.resume(&[step(20)], &reports);
        assert!(!reports.has_failed());
        // Until others have come to the same slot.
        for _ in 0..super::super::id::SLOTS - 1 {
            flights.land();
            flights.board(&[step(30)], &reports);
        }
        hand(&mut flights, Which::Newest, 0..1, 9);
        reports.note(old + 1, None);
        assert!(!reached(&flights, &reports), "a late report counts for nobody");
        reports.note(flights.boarding(Which::Oldest).id(0), None);
        assert!(reached(&flights, &reports));
        assert_eq!(reports.outstanding(flights.handed_over()), 0);
    }

    #[test]
    fn of_the_reasons_the_one_that_tells_most_is_kept() {
        use RDKafkaErrorCode::{InvalidRecord, PurgeQueue};
        assert_eq!(weightier(None, PurgeQueue), PurgeQueue);
        assert_eq!(weightier(Some(PurgeQueue), InvalidRecord), InvalidRecord);
        assert_eq!(weightier(Some(InvalidRecord), PurgeQueue), InvalidRecord);
    }

    #[tokio::test]
    async fn waits_that_are_cut_off_share_their_patience() {
        let (mut flights, reports) = (Flights::default(), Reports::default());
        flights.board(&[step(10)], &reports);
        hand(&mut flights, Which::Newest, 0..2, 9);
        let flight = flights.boarding(Which::Oldest);
        let (mut patience, began) = (reports.patience(), std::time::Instant::now());
        let stalled = loop {
            let wait = reports.wait(flight.goal(), &mut patience, 100, || false);
            match tokio::time::timeout(Duration::from_millis(5), wait).await {
                Ok(stalled) => break stalled.expect_err("nothing is reported"),
                Err(_) => assert!(began.elapsed() < Duration::from_secs(20), "it never ends"),
            }
        };
        assert!(began.elapsed() >= Duration::from_millis(100));
        assert_eq!(stalled.to_string(), "2 records wait, none acknowledged for 100 ms");
        reports.note(flight.id(0), None);
        let wait = reports.wait(flight.goal(), &mut patience, 10_000, || false);
        assert!(tokio::time::timeout(Duration::from_millis(5), wait).await.is_err(), "each report is worth a new wait");
        reports.note(flight.id(1), None);
        reports.wait(flight.goal(), &mut patience, 10_000, || false).await.expect("all are reported");
    }

    #[tokio::test]
    async fn a_wait_ends_early_only_if_all_others_fail_as_well() {
        let (mut flights, reports) = (Flights::default(), Reports::default());
        flights.board(&[step(10)], &reports);
        hand(&mut flights, Which::Newest, 0..3, 9);
        let flight = flights.boarding(Which::Oldest);
        reports.note(flight.id(1), Some(RDKafkaErrorCode::UnknownTopic));
        let mut patience = reports.patience();
        assert!(reports.wait(flight.goal(), &mut patience, 10, || false).await.is_err());
        assert!(reports.wait(flight.goal(), &mut patience, 10, || true).await.is_ok());
        assert!(!reports.is_reached(flight.goal()));
    }
}
