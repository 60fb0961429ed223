//! Tables that are declared over topics, from their records to what is kept of them. Would catch: a row that the
//! newest record of its key does not replace, a null value that leaves a row or takes another, a key whose parts run together,
//! and content that depends on the number of workers or on how records were cut into batches.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::Int32Type;
use operators::batch::{Batch, key_hash};
use operators::error::Position;
use operators::record::declared::{Declared, DeclaredBuilder, Value};
use operators::time::Tick;
use proptest::prelude::*;
use queries::catalog::{Catalog, File};
use queries::live::{Engine, Options, export_declared};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::{Input, Probe};
use timely::dataflow::{InputHandle, ProbeHandle};

const PARTITIONS: i32 = 3;
const DEADLINE: Duration = Duration::from_secs(60);
const TILLS: &str = "CREATE TABLE tills (shop TEXT, number INT, city TEXT) FROM LOG 't' FORMAT JSON KEY (number, shop)";

fn engine(workers: usize) -> Engine {
    let mut catalog = Catalog::of_the_main_job();
    let file = File { name: "f.sql".into(), text: TILLS.to_owned() };
    assert_eq!(catalog.declare(&[file], &[]), []);
    let options = Options {
        workers,
        rows_max: 1_000,
        table_rows_max: 1_000,
        bytes_max: 1 << 30,
        time_pct_max: 100,
        time_window_ms: 1_000,
        streams_max: 10,
        catch_up_ms_max: 60_000,
    };
    // Nothing of the main job is read here, so nothing else may hold up the common tick.
    let declared: Vec<&'static Declared> = catalog.declared().collect();
    Engine::new(Catalog::only_declared(&declared), options)
}

/// A record of a till: its key, the city that it is in, or none where it goes.
#[derive(Clone, Debug)]
struct Record {
    partition: i32,
    /// How many ticks after the one before in its partition.
    later: u64,
    number: i32,
    shop: usize,
    city: Option<u8>,
}

/// Names that one after the other could be taken for others.
const SHOPS: [&str; 4] = ["", "a", "a|b", "ab"];

type Content = BTreeMap<(i32, String), String>;

fn records() -> impl Strategy<Value = Vec<Record>> {
    let record = (0..PARTITIONS, 0..3u64, 0..4i32, 0..SHOPS.len(), proptest::option::weighted(0.7, any::<u8>()));
    let record =
        record.prop_map(|(partition, later, number, shop, city)| Record { partition, later, number, shop, city });
    proptest::collection::vec(record, 1..80)
}

/// The records by partition with their ticks, as a log has them.
fn log(records: &[Record]) -> BTreeMap<i32, Vec<(Tick, Record)>> {
    let mut log: BTreeMap<i32, Vec<(Tick, Record)>> = BTreeMap::new();
    for record in records {
        let of = log.entry(record.partition).or_default();
        let tick = of.last().map_or(10, |(tick, _)| *tick) + record.later;
        of.push((tick, record.clone()));
    }
    log
}

/// What the table holds at each tick.
fn oracle(log: &BTreeMap<i32, Vec<(Tick, Record)>>) -> BTreeMap<Tick, Content> {
    let mut all: Vec<(Tick, i32, usize, &Record)> = Vec::new();
    for (partition, records) in log {
        all.extend(records.iter().enumerate().map(|(offset, (tick, record))| (*tick, *partition, offset, record)));
    }
    all.sort_by_key(|(tick, partition, offset, _)| (*tick, *partition, *offset));
    let (mut now, mut content) = (Content::new(), BTreeMap::from([(0, Content::new())]));
    for (tick, _, _, record) in all {
        let key = (record.number, SHOPS[record.shop].to_owned());
        match record.city {
            Some(city) => now.insert(key, format!("city {city}")),
            None => now.remove(&key),
        };
        content.insert(tick, now.clone());
    }
    content
}

fn batch(declared: &Declared, partition: i32, first: usize, records: &[(Tick, Record)]) -> Batch {
    let mut builder = DeclaredBuilder::new(declared);
    for (place, (tick, record)) in records.iter().enumerate() {
        let at = Position { partition, offset: (first + place) as i64, tick: *tick };
        let (number, shop) = (Value::Whole(i64::from(record.number)), Value::Text(SHOPS[record.shop]));
        let city = record.city.map(|city| format!("city {city}"));
        let hash = key_hash(format!("{}|{}", record.number, record.shop).as_bytes());
        let values = [number, shop, city.as_deref().map_or(Value::Null, Value::Text)];
        builder.push(values, hash, city.is_none(), at);
    }
    builder.finish().into()
}

fn content(engine: &Engine) -> (Tick, Content) {
    let found = engine.content(&["tills"]).pop().flatten().expect("the table is kept");
    let mut content = Content::new();
    for rows in found.batches() {
        let (numbers, shops, cities) = (
            rows.column(0).as_primitive::<Int32Type>(),
            rows.column(1).as_string_view(),
            rows.column(2).as_string_view(),
        );
        for row in 0..rows.num_rows() {
            let key = (numbers.value(row), shops.value(row).to_owned());
            assert!(content.insert(key, cities.value(row).to_owned()).is_none(), "two rows of one key");
        }
    }
    (found.as_of, content)
}

/// Plays the log on so many workers, in batches of this size; every content that was seen must be that of its tick.
fn play(log: &BTreeMap<i32, Vec<(Tick, Record)>>, workers: usize, batch_rows: usize) {
    let engine = Arc::new(engine(workers));
    let keeping = engine.keeper().start().expect("a thread");
    let last = log.values().flatten().map(|(tick, _)| *tick).max().unwrap_or(0);
    let (seen, of_all, shared) = (Arc::new(Mutex::new(Vec::new())), log.clone(), engine.clone());
    let found = seen.clone();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let live = shared.live(index);
        let probe = ProbeHandle::new();
        let declared = live.declared()[0];
        let mut tills = InputHandle::<Tick, CapacityContainerBuilder<Batch>>::new_with_builder();
        worker.dataflow::<Tick, _, _>(|scope| {
            export_declared(scope.input_from(&mut tills).probe_with(&probe), declared, &live, &probe);
        });
        let mine: Vec<_> = of_all.iter().filter(|(partition, _)| **partition as usize % peers == index).collect();
        let mut next = vec![0; mine.len()];
        for tick in 10..=last {
            for ((partition, records), next) in mine.iter().zip(&mut next) {
                let end = records.partition_point(|(at, _)| *at <= tick);
                for part in records[*next..end].chunks(batch_rows) {
                    tills.send_batch(&mut batch(declared, **partition, *next, part));
                    *next += part.len();
                }
            }
            tills.advance_to(tick + 1);
            while probe.less_than(&(tick + 1)) {
                worker.step();
            }
            if index == 0 {
                found.lock().expect("no panic").push(content(&shared));
            }
        }
        // Before the inputs end: then time does not go on.
        let begun = Instant::now();
        while index == 0 && content(&shared).0 < last {
            assert!(begun.elapsed() < DEADLINE, "the content stays behind");
            shared.keeper().wake();
            worker.step();
        }
        if index == 0 {
            found.lock().expect("no panic").push(content(&shared));
        }
        drop(tills);
    });
    guards.expect("workers").join().into_iter().for_each(|ended| ended.expect("no panic"));
    engine.keeper().stop();
    keeping.join().expect("no panic");
    let expected = oracle(log);
    for (tick, content) in seen.lock().expect("no panic").iter() {
        let (_, wanted) = expected.range(..=*tick).next_back().expect("nothing at first");
        assert_eq!(content, wanted, "at {tick} on {workers} workers");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_table_holds_the_newest_of_each_key_at_every_tick(records in records(), batch_rows in 1usize..9) {
        let log = log(&records);
        for workers in [1, 2, 4] {
            play(&log, workers, batch_rows);
        }
    }
}
