//! Keys followed through plans over a log that is played. Would catch: a reason that is not the one, a count that is not what
//! came, a row of another key that is counted, and a key that is said to be there and is not.

use std::rc::Rc;

use datafusion::arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use operators::row::{Codec, count};

use super::*;
use crate::catalog::{Catalog, File};
use crate::live::Options;
use crate::live::feed::Taps;
use crate::live::port::{Parcel, Queue};
use crate::render::event_schema;
use crate::trial::{Input, given};

mod meeting;
mod same;

/// The rows of a test as the log that is read again.
struct Recorded {
    inputs: Vec<Input>,
    ticks: Vec<Tick>,
}

impl Past for Recorded {
    fn read(&self, names: &[String], feed: &Arc<Feed>) -> Result<(), String> {
        let read: Vec<&Input> =
            names.iter().filter_map(|name| self.inputs.iter().find(|one| one.relation.name == *name)).collect();
        let queues: Vec<Rc<Queue>> = names.iter().map(|_| Rc::default()).collect();
        let taps = Taps(names.iter().cloned().zip(queues.iter().cloned()).collect());
        for tick in &self.ticks {
            for input in &read {
                let at = names.iter().position(|name| *name == input.relation.name).expect("one of them");
                let changes: Vec<_> = input.changes.iter().filter(|(at, ..)| at == tick).cloned().collect();
                queues[at].parcels.borrow_mut().extend(parcel(input, changes));
            }
            queues.iter().for_each(|queue| queue.frontier.set(tick + 1));
            taps.pump(feed);
        }
        let first = feed.cut().expect("it is set before").first;
        queues.iter().for_each(|queue| queue.frontier.set(first));
        taps.pump(feed);
        Ok(())
    }
}

fn parcel(input: &Input, changes: Vec<(Tick, Row, Diff)>) -> Option<Parcel> {
    if changes.is_empty() {
        return None;
    }
    if input.relation.kind == Kind::Table {
        return Some(Parcel::Updates(changes.into_iter().map(|(tick, row, diff)| (row, tick, diff)).collect()));
    }
    let codec = Codec::new(input.relation.schema.clone()).expect("a schema of rows");
    let mut columns = codec.decode(changes.iter().map(|(_, row, _)| row)).expect("rows").columns().to_vec();
    columns.push(Arc::new(changes.iter().map(|(tick, ..)| Some(*tick)).collect::<UInt64Array>()) as ArrayRef);
    Some(Parcel::Events(RecordBatch::try_new(event_schema(&input.relation.schema), columns).expect("the columns")))
}

fn engine(views: &[&str]) -> Engine {
    let options = Options {
        workers: 1,
        rows_max: 1_000,
        table_rows_max: 1_000,
        bytes_max: 64 << 20,
        time_pct_max: 100,
        time_window_ms: 1_000,
        streams_max: 10,
        catch_up_ms_max: 1_000,
        why_ms_max: 60_000,
    };
    let mut catalog = Catalog::of_the_main_job();
    let files: Vec<File> = views.iter().map(|text| File { name: "s.sql".into(), text: (*text).to_owned() }).collect();
    assert_eq!(catalog.load(&files), []);
    let engine = Engine::new(catalog.clone(), options);
    engine.state().catalog = catalog;
    engine
}

fn asked(key: &str) -> Asked {
    Asked { key: key.to_owned(), by: None, history: History::All }
}

/// Asks the last of the views, after these rows.
fn ask(views: &[&str], text: &str, asked: &Asked) -> Result<Why, Refusal> {
    let engine = engine(views);
    let (inputs, ticks) = given(text, &engine.catalog()).expect("rows");
    let last = *ticks.last().expect("a tick");
    let name = crate::catalog::declared(views.last().expect("a view")).expect("a declaration");
    let prepared = engine.prepare(&name, asked)?;
    let content = |input: &Input| {
        let mut rows = BTreeMap::new();
        input.changes.iter().for_each(|(_, row, diff)| {
            count(&mut rows, row.clone(), *diff);
        });
        (input.relation.name.clone(), rows.into_iter().collect())
    };
    let tables = inputs.iter().filter(|input| prepared.ports.contains_key(&input.relation.name)).map(content).collect();
    let kept = Kept { as_of: last, tables, own: None };
    let recorded: Arc<dyn Past> = Arc::new(Recorded { inputs, ticks });
    let past = (!prepared.names.is_empty()).then(|| (recorded, log(&prepared, &engine.keeper, last + 1)));
    let deadline = Instant::now() + Duration::from_secs(60);
    Work { prepared, past, kept, deadline, bytes_max: 64 << 20, stopped: Arc::default() }.run()
}

#[track_caller]
fn says(views: &[&str], text: &str, key: &str, wanted: &str) -> Why {
    let why = ask(views, text, &asked(key)).expect("an answer");
    assert_eq!(why.says, wanted, "{:#}", serde_json::to_string_pretty(&why).expect("JSON"));
    assert_eq!(why.found, why.says.starts_with("in "));
    assert_eq!(why.found, !stops(&why.plan), "it ends somewhere, or nowhere");
    why
}

fn stops(line: &Line) -> bool {
    line.stops || line.inputs.iter().any(stops)
}

fn source<'a>(line: &'a Line, name: &str) -> &'a Line {
    fn find<'a>(line: &'a Line, name: &str) -> Option<&'a Line> {
        if line.operator == "Get" && line.does == name {
            Some(line)
        } else {
            line.inputs.iter().find_map(|line| find(line, name))
        }
    }
    find(line, name).expect("a source of that name")
}

const OVERSPEED: &str =
    "CREATE MATERIALIZED VIEW overspeed WITH (key = 'company_id, driver_id, window_start', retention = '1 hour') AS
    SELECT e.company_id, e.driver_id, date_bin(interval '5 minutes', e.ts) AS window_start, count(*) AS fixes
    FROM telemetry_enriched e LEFT JOIN tariffs t ON t.tariff_id = e.tariff_id
    WHERE e.driver_id IS NOT NULL AND e.speed_kmh > coalesce(json_number(t.limits, 'speed_kmh'), 100) GROUP BY 1, 2, 3";
const DRIVEN: &str = "\
rows tariffs
tariff_id,limits
city,\"{\"\"speed_kmh\"\": 50}\"

advance 2026-01-01T10:00:00Z

rows telemetry_enriched
device_id,seq,ts,company_id,driver_id,tariff_id,speed_kmh
d1,1,2026-01-01T10:00:10Z,c1,ada,,120
d1,2,2026-01-01T10:01:10Z,c1,ada,,130
d1,3,2026-01-01T10:02:10Z,c1,ada,,80
d2,1,2026-01-01T10:00:10Z,c1,bob,,87
d2,2,2026-01-01T10:00:20Z,c1,bob,,62
d3,1,2026-01-01T10:00:20Z,c2,eve,city,62
d4,1,2026-01-01T10:00:20Z,c2,,city,62

advance 2026-01-01T10:03:00Z
";

#[test]
fn a_filter_tells_what_was_nearest() {
    let why = says(
        &[OVERSPEED],
        DRIVEN,
        "c1|ada|2026-01-01T10:00:00",
        "in overspeed since 2026-01-01T10:03:00, made of 2 rows of telemetry_enriched",
    );
    assert_eq!(why.rows.len(), 1);
    assert_eq!((&why.rows[0]["driver_id"], &why.rows[0]["fixes"]), (&"ada".into(), &2.into()));
    assert_eq!(why.read.map(|read| read.complete), Some(true));
    let read = source(&why.plan, "telemetry_enriched");
    assert_eq!((read.came, read.read), (3, Some(7)));
    let why = says(
        &[OVERSPEED],
        DRIVEN,
        "c1|bob|2026-01-01T10:00:00",
        "not in overspeed: of 2 rows of telemetry_enriched with company_id = 'c1' and driver_id = 'bob' and \
         date_bin(interval '5 minutes', ts) = '2026-01-01T10:00:00' none passes speed_kmh > CASE WHEN json_number(limits, \
         'speed_kmh') IS NOT NULL THEN json_number(limits, 'speed_kmh') ELSE 100 END (the nearest: 87.0 and 100.0)",
    );
    assert!(!why.found);
    says(
        &[OVERSPEED],
        DRIVEN,
        "c2|eve|2026-01-01T10:00:00",
        "in overspeed since 2026-01-01T10:03:00, made of 1 row of telemetry_enriched",
    );
    says(
        &[OVERSPEED],
        DRIVEN,
        "c2|%N|2026-01-01T10:00:00",
        "not in overspeed: of 1 row of telemetry_enriched with company_id = 'c2' and driver_id is null and \
         date_bin(interval '5 minutes', ts) = '2026-01-01T10:00:00' none passes driver_id IS NOT NULL",
    );
    says(
        &[OVERSPEED],
        DRIVEN,
        "c1|ada|2026-01-01T10:05:00",
        "not in overspeed: no row of telemetry_enriched has company_id = 'c1' and driver_id = 'ada' and \
         date_bin(interval '5 minutes', ts) = '2026-01-01T10:05:00' (of 7 rows: 5 with company_id = 'c1', 3 with driver_id = 'ada', 0 with \
         date_bin(interval '5 minutes', ts) = '2026-01-01T10:05:00')",
    );
}

#[test]
fn a_window_that_has_ended_and_rows_that_came_too_late() {
    let later = format!("{DRIVEN}\nadvance 2026-01-01T11:30:00Z\n");
    says(
        &[OVERSPEED],
        &later,
        "c1|ada|2026-01-01T10:00:00",
        "not in overspeed: it was there until 2026-01-01T11:00:00, and then left: what is older than its time and the retention \
         of 1 hour leaves",
    );
    let late = format!(
        "{later}\nrows telemetry_enriched\ndevice_id,seq,ts,company_id,driver_id,speed_kmh\n\
        d2,3,2026-01-01T10:00:30Z,c1,bob,140\n\nadvance 2026-01-01T11:31:00Z\n"
    );
    let why = says(
        &[OVERSPEED],
        &late,
        "c1|bob|2026-01-01T10:00:00",
        "not in overspeed: 1 row that may have company_id = 'c1' and driver_id = 'bob' and date_bin(interval '5 minutes', ts) = \
         '2026-01-01T10:00:00' came too late: the window has ended and is sealed",
    );
    assert_eq!(why.plan.faults[0].rows, 1);
}

const NAMED: &str =
    "CREATE MATERIALIZED VIEW named AS SELECT e.device_id, e.driver_id, d.name FROM telemetry_enriched e
    JOIN drivers d ON d.driver_id = e.driver_id";

#[test]
fn a_join_tells_which_partner_there_is_not() {
    let by = |key: &str| Asked { by: Some("device_id".into()), ..asked(key) };
    let text = "\
rows drivers
driver_id,name
ada,Ada

rows telemetry_enriched
device_id,driver_id
d2,bob
d3,cid

advance 1000

rows telemetry_enriched
device_id,driver_id
d1,ada
d4,

rows drivers
driver_id,name
bob,Bob

advance 2000
";
    let told = |key: &str| ask(&[NAMED], text, &by(key)).expect("an answer").says;
    assert_eq!(told("d1"), "in named since 1970-01-01T00:00:02, made of 1 row of telemetry_enriched");
    assert_eq!(
        told("d2"),
        "not in named: 1 row of telemetry_enriched meets none of drivers: the row with driver_id = 'bob' came at \
         1970-01-01T00:00:02, and the last of them at 1970-01-01T00:00:01"
    );
    assert_eq!(
        told("d3"),
        "not in named: 1 row of telemetry_enriched meets none of drivers: there is no row with driver_id = 'cid'"
    );
    assert_eq!(
        told("d4"),
        "not in named: 1 row of telemetry_enriched meets none of drivers: there is no row with driver_id = null"
    );
    let pair = "CREATE MATERIALIZED VIEW pairs WITH (key = 'vehicle_id') AS SELECT v.vehicle_id, c.name FROM vehicles v
        JOIN companies c ON c.company_id = v.company_id AND c.name > v.plate";
    let tables = "\
rows vehicles
vehicle_id,company_id,plate
v1,c1,A
v2,c1,Z
v3,c9,A

rows companies
company_id,name
c1,M

advance 1000
";
    says(&[pair], tables, "v1", "in pairs, made of 1 row of vehicles");
    says(
        &[pair],
        tables,
        "v2",
        "not in pairs: of 1 row of vehicles and companies with vehicle_id = 'v2' none passes plate < name (the nearest: 'Z' and 'M')",
    );
    says(
        &[pair],
        tables,
        "v3",
        "not in pairs: 1 row of vehicles meets none of companies: there is no row with company_id = 'c9'",
    );
    says(&[pair], tables, "v4", "not in pairs: no row of vehicles has vehicle_id = 'v4' (of 3 rows)");
    let any = "CREATE MATERIALIZED VIEW any WITH (key = 'vehicle_id') AS SELECT vehicle_id FROM vehicles v
        WHERE EXISTS (SELECT 1 FROM companies c WHERE c.company_id = v.company_id AND c.name > v.plate)";
    says(&[any], tables, "v1", "in any, made of 1 row of vehicles");
    let pairs = "1 row of vehicles meets rows of companies with company_id = 'c1', but for no pair is";
    assert!(ask(&[any], tables, &asked("v2")).expect("an answer").says.contains(pairs));
    let without = "CREATE MATERIALIZED VIEW alone WITH (key = 'vehicle_id') AS SELECT vehicle_id FROM vehicles v
        WHERE NOT EXISTS (SELECT 1 FROM companies c WHERE c.company_id = v.company_id)";
    says(&[without], tables, "v3", "in alone, made of 1 row of vehicles");
    says(
        &[without],
        tables,
        "v1",
        "not in alone: 1 row of vehicles meets a row of companies with company_id = 'c1', and only those that meet none stay",
    );
}

#[test]
fn first_rows_tell_the_place() {
    let top = "CREATE MATERIALIZED VIEW top WITH (key = 'vehicle_id') AS SELECT vehicle_id, plate FROM vehicles
        ORDER BY plate DESC, vehicle_id LIMIT 2";
    let tables = "rows vehicles\nvehicle_id,plate\nv1,A\nv2,C\nv3,B\nv4,B\n\nadvance 1000\n";
    says(&[top], tables, "v3", "in top, made of 1 row of vehicles");
    says(
        &[top],
        tables,
        "v4",
        "not in top: it is number 3 of 4 in its group by (plate, vehicle_id), of which the first 2 stay",
    );
    let each =
        "CREATE MATERIALIZED VIEW newest WITH (key = 'device_id, seq') AS SELECT DISTINCT ON (device_id) device_id, seq
        FROM telemetry ORDER BY device_id, seq DESC";
    let events = "rows telemetry\ndevice_id,seq\nd1,1\nd2,9\n\nadvance 1000\n\nrows telemetry\ndevice_id,seq\nd1,2\n\nadvance 2000\n";
    says(
        &[each],
        events,
        "d1|1",
        "not in newest: it is number 2 of 2 in its group by (device_id, seq), of which the first 1 stay",
    );
    let why = says(&[each], events, "d1|2", "in newest since 1970-01-01T00:00:02, made of 1 row of telemetry");
    assert_eq!(source(&why.plan, "telemetry").came, 1, "the other row of the device is needed, but not of the key");
}

#[test]
fn rows_that_fail_and_rows_whose_time_is_over() {
    let share = "CREATE MATERIALIZED VIEW share WITH (key = 'device_id') AS SELECT device_id, 100 / satellites AS x FROM telemetry";
    let text = "rows telemetry\ndevice_id,satellites\nd1,0\nd2,5\n\nadvance 1000\n\nadvance 5000\n";
    says(
        &[share],
        text,
        "d1",
        "not in share: 1 row that may have device_id = 'd1' without a result: Map: Arrow error: Divide by zero error",
    );
    says(&[share], text, "d2", "in share since 1970-01-01T00:00:01, made of 1 row of telemetry");
    let recent = "CREATE MATERIALIZED VIEW recent WITH (key = 'device_id') AS SELECT device_id FROM telemetry
        WHERE arrived_at > now() - interval '2 seconds'";
    says(
        &[recent],
        text,
        "d2",
        "not in recent: its row is there while now() < arrived_at + interval '2 seconds', which is \
         '1970-01-01T00:00:03'; it left at 1970-01-01T00:00:03",
    );
    // A key that cannot be computed is of no row, and of any.
    let inverse =
        "CREATE MATERIALIZED VIEW inverse WITH (key = 'x') AS SELECT 100 / satellites AS x, device_id FROM telemetry";
    says(&[inverse], text, "20", "in inverse since 1970-01-01T00:00:01, made of 1 row of telemetry");
}

#[test]
fn other_streams_are_read_as_they_are_made() {
    let fast = "CREATE MATERIALIZED VIEW fast AS SELECT device_id, speed_kmh FROM telemetry WHERE speed_kmh > 90";
    let by = "CREATE MATERIALIZED VIEW counted WITH (key = 'device_id') AS SELECT device_id, count(*) AS n FROM fast GROUP BY 1";
    let text = "rows telemetry\ndevice_id,speed_kmh\nd1,95\nd1,99\nd1,20\nd2,30\n\nadvance 1000\n\nadvance 2000\n";
    let why = says(&[fast, by], text, "d1", "in counted since 1970-01-01T00:00:01, made of 2 rows of telemetry");
    assert_eq!(why.rows[0]["n"], 2);
    says(
        &[fast, by],
        text,
        "d2",
        "not in counted: of 1 row of telemetry with device_id = 'd2' none passes speed_kmh > 90 (the nearest: 30.0 and 90.0)",
    );
    let either = "CREATE MATERIALIZED VIEW either WITH (key = 'id, of') AS SELECT vehicle_id AS id, 'vehicle' AS of FROM vehicles
        UNION ALL SELECT driver_id, 'driver' FROM drivers";
    let tables = "rows vehicles\nvehicle_id\na\n\nrows drivers\ndriver_id\nb\n\nadvance 1000\n";
    says(&[either], tables, "b|driver", "in either, made of 1 row of drivers");
    assert!(!ask(&[either], tables, &asked("a|driver")).expect("an answer").found);
    let since = Asked { history: History::Last(10), ..asked("d1") };
    let why = ask(&[fast, by], text, &since).expect("an answer");
    assert!(why.notes.iter().any(|note| note.starts_with("events of before")), "{why:?}");
}

#[test]
fn what_cannot_be_followed_is_refused() {
    for (key, by, code) in [
        ("ada", None, "key_invalid"),
        ("c1|ada|soon", None, "key_invalid"),
        ("x", Some("nobody"), "sql_unknown_column"),
        ("'; DROP TABLE x; --|\u{0}|9", None, "key_found_nothing"),
    ] {
        let asked = Asked { key: key.into(), by: by.map(str::to_owned), history: History::All };
        match ask(&[OVERSPEED], DRIVEN, &asked) {
            Err(why) => assert_eq!(why.code, code, "{key}: {why}"),
            Ok(why) => assert!(code == "key_found_nothing" && !why.found, "{key}: {}", why.says),
        }
    }
    let engine = engine(&[OVERSPEED]);
    assert_eq!(engine.prepare("overspeeds", &asked("x")).err().map(|why| why.code), Some("sql_unknown_stream"));
    let why = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(async {
        let held = engine.following.clone().try_lock_owned().expect("nobody follows");
        let busy = engine.why("overspeed", &asked("c1|ada|0")).await.err();
        drop(held);
        (busy, engine.why("overspeed", &asked("c1|ada|0")).await.err())
    });
    assert_eq!(why.0.map(|why| why.code), Some("why_busy"));
    assert_eq!(why.1.map(|why| why.code), Some("stream_past_unreadable"), "there is no log here");
}

#[test]
fn it_ends_when_nobody_waits_and_when_it_takes_too_much() {
    let ends = |bytes_max: u64, stopped: bool| {
        let engine = engine(&[OVERSPEED]);
        let (inputs, ticks) = given(DRIVEN, &engine.catalog()).expect("rows");
        let last = *ticks.last().expect("a tick");
        let prepared = engine.prepare("overspeed", &asked("c1|ada|2026-01-01T10:00:00")).expect("a key");
        let past: (Arc<dyn Past>, Log) =
            (Arc::new(Recorded { inputs, ticks }), log(&prepared, &engine.keeper, last + 1));
        let kept = Kept { as_of: last, tables: BTreeMap::new(), own: None };
        let deadline = Instant::now() + Duration::from_secs(60);
        let work =
            Work { prepared, past: Some(past), kept, deadline, bytes_max, stopped: Arc::new(AtomicBool::new(stopped)) };
        work.run().err().map(|why| why.code)
    };
    assert_eq!(ends(1 << 30, false), None);
    assert_eq!(ends(1 << 30, true), Some("why_stopped"));
    assert_eq!(ends(10, false), Some("why_too_large"));
}
