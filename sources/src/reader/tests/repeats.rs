//! Records that are read again get the ticks that they had when they were read live, also those that came behind a frontier. Would
//! catch a tick that is not noted before its record goes on, or given to another record, and a running maximum that forgets it.

use super::*;

#[derive(Default)]
struct Noted(Mutex<Ticks>);

impl Journal for Noted {
    fn note(&self, topic: &str, partition: i32, ticks: &[(i64, Tick)]) -> Result<(), SourceError> {
        let mut noted = self.0.lock().expect("nobody panicked");
        let of = noted.entry((topic.to_owned(), partition)).or_default();
        for &(offset, tick) in ticks {
            assert!(of.insert(offset, tick).is_none(), "offset {offset} is noted twice");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_again_has_the_ticks_it_had(
        mut stored in stored(), delays in prop::collection::vec(0..60u64, 1..40), seed in 1..u64::MAX, from in 0..200usize,
    ) {
        for (_, records) in &mut stored {
            let mut visible = 0;
            for (record, delay) in records.iter_mut().zip(delays.iter().cycle()) {
                visible = visible.max(record.append_ms + delay);
                record.visible_ms = visible;
            }
        }
        let (time, whims) = (Time::at(START_MS - 50), Whims { seed, exact: false });
        let end = stored.iter().flat_map(|s| s.1.last()).map(|r| r.visible_ms).max().unwrap_or(START_MS) + 1_000;
        let (live, stop) = (Checked::default(), Arc::new(AtomicBool::new(false)));
        let mut log = Scripted::new(time.clone(), &stored, whims);
        log.stop = Some((end, stop.clone()));
        let journal = Arc::new(Noted::default());
        let repeats = Repeats { known: Arc::default(), journal: journal.clone() };
        let reader = Reader::with_clock(log, live.clone(), options(), stop, time.clone()).repeating(repeats);
        reader.run().expect("it reads until it is stopped");
        let live = std::mem::take(&mut live.0.lock().expect("nobody panicked").rows);

        // Again, each partition from somewhere on.
        let mut log = Scripted::new(time.clone(), &stored, Whims { seed: seed ^ 1, exact: false });
        for (index, assigned) in log.assigned.iter_mut().enumerate() {
            let first = from.min(stored[index].1.len());
            (assigned.offset, log.next[index]) = (first as i64, first);
            // As a checkpoint says: nothing from there on had an earlier tick.
            let tick = live.get(&(assigned.stream, assigned.partition, first as i64)).map_or(0, |row| row.0);
            assigned.floor = tick.saturating_sub(1);
        }
        let ends = log.ends();
        let again = Checked::default();
        let known = Arc::new(journal.0.lock().expect("nobody panicked").clone());
        // A record below the floor from which it is read on is an exception of its own, with the tick that it had.
        let repeats = Repeats { known, journal: Arc::new(Noted::default()) };
        let stop = Arc::new(AtomicBool::new(false));
        let reader = Reader::with_clock(log, again.clone(), options(), stop, time).repeating(repeats);
        reader.until(&ends).run().expect("it reads to the end");
        let again = std::mem::take(&mut again.0.lock().expect("nobody panicked").rows);
        let expected: BTreeMap<_, _> = live.into_iter().filter(|((_, _, offset), _)| *offset >= from as i64).collect();
        prop_assert_eq!(again, expected);
    }
}
