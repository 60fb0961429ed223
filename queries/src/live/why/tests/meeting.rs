//! Keys of events that meet events, or none: what is left of the streams gives the same rows of the key as all of them, and what
//! is said of it. Would catch a partner that is left out, so that an event seems to be alone, and a reason that tells of a row
//! that went what is true of one that never was.

use datafusion::arrow::datatypes::SchemaRef;

use super::same::{each_alone, has_value, schema, table};
use super::*;
use crate::plan::lineage::Condition;
use crate::plan::{Columns, Inputs, Times, bounded, lower, plan_sql};

const NEAR: &str = "t.a = u.a AND u.ts BETWEEN t.ts - interval '5 ms' AND t.ts + interval '5 ms'";
const STAYS: &str = "coalesce(t.ts, timestamp '1970-01-01T00:00:00') > now() - interval '1 day'";

fn plans() -> Vec<String> {
    let joined = |kind: &str, more: &str| {
        let stays = STAYS.replace("(t.ts", "(t.ts, u.ts");
        format!("SELECT t.a, t.s, u.a AS b, u.s AS z, u.f FROM t {kind} JOIN u ON {NEAR} {more} WHERE {stays}")
    };
    let mut all: Vec<String> = ["INNER", "LEFT", "RIGHT", "FULL"]
        .into_iter()
        .flat_map(|kind| [joined(kind, ""), joined(kind, "AND t.s = u.s"), joined(kind, "AND t.f >= u.f")])
        .collect();
    for not in ["", "NOT "] {
        all.push(format!("SELECT t.a, t.s, t.f FROM t WHERE {not}EXISTS (SELECT 1 FROM u WHERE {NEAR}) AND {STAYS}"));
        all.push(format!(
            "SELECT t.a, t.s FROM t WHERE (t.f > 2 OR {not}EXISTS (SELECT 1 FROM u WHERE {NEAR} AND u.s > t.s)) AND {STAYS}"
        ));
    }
    all.push(format!(
        "SELECT a, count(*) AS n, count(b) AS met FROM (SELECT t.a, u.a AS b FROM t LEFT JOIN u ON {NEAR} WHERE {STAYS}) GROUP BY a"
    ));
    all
}

/// The rows as events of one stream, some at each tick.
fn events(name: &str, seed: u64, rows: u64) -> Input {
    let relation =
        Relation { name: name.to_owned(), schema: schema(), kind: Kind::Events, key: Vec::new(), access: None };
    let mut input = Input::new(&relation);
    let each = table(seed, rows).into_iter().flat_map(|(row, times)| (0..times).map(move |_| row.clone()));
    input.changes = each.enumerate().map(|(at, row)| (100 + (at as u64 * 7 + seed) % TICKS, row, 1)).collect();
    input.changes.sort_by_key(|(tick, ..)| *tick);
    input
}

const TICKS: u64 = 9;

/// Rows of the key that are there at the end.
fn played(node: &Arc<Node>, conditions: Vec<Condition>, inputs: &[Input]) -> BTreeMap<Row, Diff> {
    let trace = Arc::new(trace(node, conditions).expect("a plan").expect("few operators"));
    let (first, names) = (100 + TICKS, inputs.iter().map(|input| input.relation.name.clone()).collect());
    let made = Held::not_kept("why", node.schema.clone(), Kind::Table);
    let feed = Arc::new(Feed::new(names, 0, made.clone(), 1));
    feed.end_at(Cut { before: first, last: BTreeMap::new(), first });
    feed.follow(first);
    let recorded: Arc<dyn Past> = Arc::new(Recorded { inputs: inputs.to_vec(), ticks: (100..first).collect() });
    let reading = Reading(feed.clone(), Some(read(recorded, feed.clone()).expect("a thread")));
    let log = Log { feed, made, keep_up: Box::new(move |feed: &Feed| feed.follow(first)) };
    let deadline = Instant::now() + Duration::from_secs(60);
    let (content, stopped) = (BTreeMap::new(), Arc::default());
    let question = Question { trace, log: Some(log), content, first, deadline, bytes_max: 1 << 30, stopped };
    let followed = play(question).expect("an answer");
    drop(reading);
    assert!(followed.complete);
    followed.noted[0].seen.content().expect("few rows").iter().map(|(row, diff)| (row.clone(), *diff)).collect()
}

#[test]
fn rows_of_a_key_are_the_same_as_without_it() {
    let inputs = Inputs::default().with("t", schema(), Kind::Events).with("u", schema(), Kind::Events);
    let names = |_: &str| Columns { names: names(&schema()), time: None };
    let streams = [events("t", 1, 40), events("u", 2, 25)];
    let mut restricted = 0;
    for sql in plans() {
        let node = lower(&plan_sql(&inputs, &sql).expect(&sql), &inputs).expect(&sql);
        let times = Times { retention: Some(3_600_000), ..Times::default() };
        // Groups by a number would be too many as a view.
        let node = bounded(&node, times, &names).unwrap_or_else(|why| panic!("{why}: {sql}"));
        let all = played(&node, Vec::new(), &streams);
        assert!(all.len() > 2, "{sql}: it shows nothing");
        let rows = Codec::new(node.schema.clone()).and_then(|codec| codec.decode(all.keys())).expect("rows");
        let value = |column: usize, row: usize| has_value(&rows, column, row);
        let mut keys: Vec<Vec<Condition>> = Vec::new();
        for row in (0..rows.num_rows()).step_by(rows.num_rows().div_ceil(4).max(1)) {
            keys.extend((0..rows.num_columns()).map(|column| vec![value(column, row)]));
            keys.push((0..2).map(|column| value(column, row)).collect());
        }
        restricted += each_alone(&node, &sql, keys, &all, |key| played(&node, key, &streams));
    }
    assert!(restricted > 100, "{restricted}: lineage brings hardly anything down");
}

fn names(schema: &SchemaRef) -> Vec<String> {
    let named = |name: &String| if name == "a" { "a_id".to_owned() } else { name.clone() };
    schema.fields().iter().map(|field| named(field.name())).collect()
}

const SILENT: &str =
    "CREATE MATERIALIZED VIEW silent WITH (key = 'device_id', retention = '1 hour') AS SELECT o.device_id FROM
    vehicle_events o WHERE o.kind = 'device.offline' AND o.since > now() - interval '1 day' AND NOT EXISTS (SELECT 1 FROM
    vehicle_events b WHERE b.device_id = o.device_id AND b.kind = 'device.online' AND b.since BETWEEN o.since AND o.since +
    interval '30 minutes')";
const BACK: &str =
    "CREATE MATERIALIZED VIEW back WITH (key = 'device_id, at', retention = '1 hour') AS SELECT o.device_id,
    b.since AS at FROM vehicle_events o LEFT JOIN vehicle_events b ON b.device_id = o.device_id AND b.kind =
    'device.online' AND b.since BETWEEN o.since AND o.since + interval '30 minutes' WHERE o.kind = 'device.offline' AND
    o.since > now() - interval '1 day'";
const SILENCES: &str = "\
rows vehicle_events
kind,device_id,since
device.offline,d1,2026-01-01T10:00:00Z
device.offline,d2,2026-01-01T10:00:00Z
device.offline,d3,2026-01-01T08:00:00Z

advance 2026-01-01T10:00:01Z

rows vehicle_events
kind,device_id,since
device.online,d2,2026-01-01T10:10:00Z

advance 2026-01-01T10:10:01Z
";

#[test]
fn an_event_that_met_one_tells_when() {
    says(&[SILENT], SILENCES, "d1", "in silent since 2026-01-01T10:00:01, made of 1 row of vehicle_events");
    says(
        &[SILENT],
        SILENCES,
        "d2",
        "not in silent: 1 row of vehicle_events meets a row of vehicle_events with device_id = 'd2', which came at \
         2026-01-01T10:10:01: only those that meet none stay",
    );
    assert!(ask(&[SILENT], SILENCES, &asked("d3")).expect("an answer").says.contains("came too late"));
    says(
        &[BACK],
        SILENCES,
        "d2|2026-01-01T10:10:00",
        "in back since 2026-01-01T10:10:01, made of 1 row of vehicle_events",
    );
    says(&[BACK], SILENCES, "d1|%N", "in back since 2026-01-01T10:00:01, made of 1 row of vehicle_events");
    says(
        &[BACK],
        SILENCES,
        "d2|%N",
        "not in back: 1 row of vehicle_events meets a row of vehicle_events with device_id = 'd2', which came at \
         2026-01-01T10:10:01: it is there with nulls only while it meets none",
    );
}
