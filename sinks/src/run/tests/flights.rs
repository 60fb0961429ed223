//! Several flights under way. They would catch: a flight settled before it is written or before an older one; one that is
//! lost or doubled when another fails, when it gives no answer or when the wait for it is cut off; upserts beside flights.

use std::time::Instant;

use super::*;

fn grounded(outcomes: Vec<Outcome>) -> Arc<Mutex<Target>> {
    Arc::new(Mutex::new(Target { outcomes, grounded: true, ..Target::default() }))
}

/// Hands over one event for each tick and closes it, so that each is a step of its own as long as there is room.
fn send(life: &Bench, ticks: std::ops::Range<u64>) {
    for tick in ticks {
        let before = life.target.lock().unwrap().air.len();
        life.feed.push("events", 0, events(&[(tick as i64, tick)]));
        life.feed.close("events", 0, tick + 1);
        wait("it is launched if there is room", || before == 4 || life.target.lock().unwrap().air.len() > before);
    }
}

fn each_once(target: &Mutex<Target>, count: i64) {
    let target = target.lock().unwrap();
    assert_eq!(target.events, (0..count).map(|id| (id, 1)).collect());
}

#[test]
fn steps_are_launched_while_others_are_under_way_and_wait_where_there_is_no_room() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), options());
    send(&life, 0..9);
    assert_eq!((life.feed.durable("events", 0), life.feed.queued_rows()), (0, 9));
    target.lock().unwrap().grounded = false;
    wait("all is written", || life.feed.durable("events", 0) == 9);
    each_once(&target, 9);
    let target = target.lock().unwrap();
    assert_eq!((target.air_max, target.opened), (4, 1));
    let rows: Vec<usize> = target.steps.iter().map(|step| step.2).collect();
    assert_eq!(rows, [1, 1, 1, 1, 5], "what found no room became one step");
}

#[test]
fn a_flight_that_fails_is_written_before_those_behind_it() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for failure in [Outcome::Away, Outcome::Half, Outcome::AnswerLost, Outcome::Refused] {
        // From the last to the first: four are launched, one lands, the second does not, nor when it is applied.
        let mut outcomes = vec![Outcome::Away, failure, Outcome::Written];
        outcomes.extend([Outcome::Written; 4]);
        let target = grounded(outcomes);
        let mut life = bench_of::<4>(target.clone(), options());
        send(&life, 0..4);
        target.lock().unwrap().grounded = false;
        wait("all is written", || life.feed.queued_rows() == 0);
        assert_eq!(life.feed.durable("events", 0), 4);
        each_once(&target, 4);
        assert_eq!(target.lock().unwrap().opened, 3, "anew after each failure");
        let reports = usize::from(matches!(failure, Outcome::Refused));
        assert_eq!(std::iter::from_fn(|| life.fatal.try_recv().ok()).count(), reports);
        // And it goes on with flights.
        target.lock().unwrap().grounded = true;
        send(&life, 4..8);
        target.lock().unwrap().grounded = false;
        assert_eq!(runtime.block_on(life.running.drain(WAIT)), 0);
        each_once(&target, 8);
    }
}

#[test]
fn a_launch_that_fails_lets_those_before_it_be_written_first() {
    let runtime = runtime();
    let _inside = runtime.enter();
    for failure in [Outcome::Away, Outcome::AnswerLost, Outcome::Silent] {
        let target = grounded(vec![failure, Outcome::Written, Outcome::Written]);
        let life = bench_of::<4>(target.clone(), Options { apply_ms_max: 200, ..options() });
        for tick in 0..3 {
            life.feed.push("events", 0, events(&[(tick, tick as Tick)]));
            life.feed.close("events", 0, tick as Tick + 1);
            // The third is applied at once, after the first two.
            wait("it is taken", || target.lock().unwrap().air.len() > tick as usize || life.feed.queued_rows() == 0);
        }
        wait("all is written", || life.feed.queued_rows() == 0);
        each_once(&target, 3);
        assert!(target.lock().unwrap().opened >= 2);
    }
}

#[test]
fn a_flight_without_an_answer_is_applied() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), Options { apply_ms_max: 200, ..options() });
    let began = Instant::now();
    send(&life, 0..2);
    // Messages that come meanwhile cut off the wait for it, and do not prolong it.
    let mut tick = 1_000;
    wait("all is written", || {
        tick += 1;
        life.feed.push("table", 1, changes(&[("beyond the frontier".to_owned(), None, tick)]));
        life.feed.durable("events", 0) == 2
    });
    assert!(began.elapsed() >= Duration::from_millis(200));
    each_once(&target, 2);
    assert_eq!(target.lock().unwrap().opened, 2);
}

#[test]
fn a_table_is_written_alone() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), options());
    send(&life, 0..2);
    life.feed.push("table", 0, changes(&[("one".to_owned(), Some(1), 1)]));
    life.feed.close("table", 0, 2);
    life.feed.push("events", 0, events(&[(2, 2)]));
    life.feed.close("events", 0, 3);
    target.lock().unwrap().grounded = false;
    wait("all is written", || life.feed.queued_rows() == 0);
    each_once(&target, 3);
    let target = target.lock().unwrap();
    assert_eq!(target.table["one"], (1, Some(1)));
    let streams: Vec<&str> = target.steps.iter().map(|step| step.0).collect();
    assert_eq!(streams[..2], ["events", "events"], "what was launched before has landed");
}

#[test]
fn a_drain_waits_for_what_is_under_way_until_its_deadline() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), options());
    send(&life, 0..6);
    let began = Instant::now();
    assert_eq!(runtime.block_on(life.running.drain(Duration::from_millis(100))), 6);
    assert!(began.elapsed() < WAIT / 2, "{:?}", began.elapsed());
    assert_eq!(life.feed.durable("events", 0), 0);

    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), options());
    send(&life, 0..6);
    let draining = runtime.spawn(life.running.drain(WAIT));
    target.lock().unwrap().grounded = false;
    assert_eq!(runtime.block_on(draining).unwrap(), 0);
    each_once(&target, 6);
}

#[test]
fn the_intake_waits_for_what_is_under_way() {
    let runtime = runtime();
    let _inside = runtime.enter();
    let target = grounded(Vec::new());
    let life = bench_of::<4>(target.clone(), Options { queue_bytes_max: 6_000, ..options() });
    send(&life, 0..3);
    assert!(life.feed.is_full(), "no frontier has to move for what is under way");
    target.lock().unwrap().grounded = false;
    wait("all is written", || !life.feed.is_full());
}
