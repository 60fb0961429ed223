//! Tests of lineage. Would catch: a row left out that the key is made of (an outer join that makes up nulls, a first row that
//! others push out, NOT IN), and a condition that does not go down, so that all is read for one key.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Field, Schema};

use super::*;
use crate::plan::{Columns, Inputs, Kind, Times, bounded, columns, lower, now_type, plan_sql, text};

const COLUMNS: [&str; 5] = ["device_id", "company_id", "ts", "speed_kmh", "seq"];

fn plan(sql: &str) -> Arc<Node> {
    let kinds = [DataType::Utf8View, DataType::Utf8View, now_type(), DataType::Float64, DataType::Int64];
    let fields: Vec<Field> = COLUMNS.iter().zip(kinds).map(|(name, kind)| Field::new(*name, kind, true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let inputs = Inputs::default()
        .with("e", schema.clone(), Kind::Events)
        .with("telemetry_enriched", enriched(), Kind::Events)
        .with("geofences", fences(), Kind::Table)
        .with("t", schema.clone(), Kind::Table)
        .with("u", schema, Kind::Table);
    let node = lower(&plan_sql(&inputs, sql).expect(sql), &inputs).expect(sql);
    let times = Times { retention: Some(3_600_000), ..Times::default() };
    bounded(&node, times, &names).unwrap_or(node)
}

fn enriched() -> Arc<Schema> {
    let (text, float) = (DataType::Utf8View, DataType::Float64);
    let kinds = [text.clone(), now_type(), DataType::Int64, float.clone(), float.clone(), float, text];
    schema(["vehicle_id", "ts", "seq", "lat", "lon", "speed_kmh", "company_id"].into_iter().zip(kinds))
}

fn fences() -> Arc<Schema> {
    let texts = ["name", "company_id", "fence_id", "kind", "shape"].map(|name| (name, DataType::Utf8View));
    schema(texts.into_iter().chain([("radius_m", DataType::Float64)]))
}

fn schema<'a>(fields: impl Iterator<Item = (&'a str, DataType)>) -> Arc<Schema> {
    Arc::new(Schema::new(fields.map(|(name, kind)| Field::new(name, kind, true)).collect::<Vec<_>>()))
}

fn names(name: &str) -> Columns {
    let own = |schema: &Schema| schema.fields().iter().map(|field| field.name().clone()).collect();
    let names = match name {
        "telemetry_enriched" => own(&enriched()),
        "geofences" => own(&fences()),
        _ => COLUMNS.map(str::to_owned).to_vec(),
    };
    Columns { names, time: None }
}

/// What is wanted of each source, as `name: rows of the key / what is needed`, `-` where that is everything.
fn sources(sql: &str, key: &[(usize, &str)]) -> Vec<String> {
    let node = plan(sql);
    let condition = |(at, text): &(usize, &str)| {
        let text = if *text == "null" { None } else { Some((*text).to_owned()) };
        let values = crate::trial::cells::column(&[text], node.schema.field(*at).data_type()).expect("a value");
        Condition { of: place(*at), is: Is::Value(ScalarValue::try_from_array(&values, 0).expect("a value")) }
    };
    let mut found = Vec::new();
    walk(&node, &Wanted::of(key.iter().map(condition).collect()), &mut found);
    found
}

fn walk(node: &Node, wanted: &Wanted, found: &mut Vec<String>) {
    if let Op::Get(name) = &node.op {
        let names = columns(node, &|name| names(name).names);
        let told = |conditions: &[Condition]| {
            let one = |condition: &Condition| match &condition.is {
                Is::Value(value) => format!("{} = {value}", text(&condition.of, &names)),
                Is::Within(from, until) => format!("{} in {from}..{until}", text(&condition.of, &names)),
            };
            let all = conditions.iter().map(one).collect::<Vec<_>>().join(" and ");
            if all.is_empty() { "-".to_owned() } else { all }
        };
        let (rows, needed) = (told(&wanted.rows), told(&wanted.needed));
        found.push(if rows == needed { format!("{name}: {rows}") } else { format!("{name}: {rows} / {needed}") });
    }
    let below = below(node, wanted).expect("a plan");
    assert_eq!(below.len(), node.inputs().len());
    node.inputs().into_iter().zip(below).for_each(|(input, wanted)| walk(input, &wanted, found));
}

#[track_caller]
fn check(sql: &str, key: &[(usize, &str)], wanted: &[&str]) {
    assert_eq!(sources(sql, key), wanted, "{sql}");
}

#[test]
fn filters_projections_and_groups() {
    check(
        "SELECT device_id AS d, seq + 1 AS n FROM e WHERE speed_kmh > 5",
        &[(0, "d1"), (1, "7")],
        &["e: device_id = d1 and seq + 1 = 7"],
    );
    let minute = "SELECT company_id, date_bin(interval '1 minute', ts) AS m, count(*) AS n FROM e GROUP BY 1, 2";
    let told = sources(minute, &[(0, "c1"), (1, "60000"), (2, "3")]);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("e: company_id = c1 and date_bin(") && told[0].ends_with(", ts) = 60000"), "{told:?}");
    check("SELECT count(*) AS n FROM t", &[(0, "3")], &["t: -"]);
    check("SELECT DISTINCT device_id, company_id FROM t", &[(0, "null")], &["t: device_id = NULL"]);
    check("SELECT device_id, max(ts) AS ts FROM e GROUP BY 1", &[(1, "5")], &["e: -"]);
}

#[test]
fn joins_of_tables() {
    let join = |kind: &str| {
        format!(
            "SELECT t.device_id AS a, u.device_id AS b, u.seq AS s, t.seq AS r FROM t {kind} JOIN u ON t.device_id = u.device_id"
        )
    };
    let (both, left, right, none) =
        (["t: device_id = d", "u: device_id = d"], ["t: seq = 1", "u: -"], ["t: -", "u: seq = 1"], ["t: -", "u: -"]);
    for (kind, key, wanted) in [
        ("", (0, "d"), &both),
        ("", (1, "d"), &both),
        ("", (2, "1"), &right),
        ("", (3, "1"), &left),
        ("LEFT", (0, "d"), &both),
        // A row that meets none has null there, whatever stands in the table.
        ("LEFT", (1, "d"), &both),
        ("LEFT", (1, "null"), &none),
        ("LEFT", (2, "1"), &right),
        ("LEFT", (2, "null"), &none),
        ("LEFT", (3, "null"), &["t: seq = NULL", "u: -"]),
        ("RIGHT", (0, "null"), &none),
        ("RIGHT", (0, "d"), &both),
        ("RIGHT", (3, "null"), &none),
        ("RIGHT", (2, "1"), &right),
        ("FULL", (0, "d"), &both),
        ("FULL", (0, "null"), &none),
        ("FULL", (3, "1"), &left),
    ] {
        check(&join(kind), &[key], wanted);
    }
    check("SELECT coalesce(u.device_id, 'none') AS d FROM t LEFT JOIN u ON t.seq = u.seq", &[(0, "none")], &none);
    check("SELECT t.seq + u.seq AS n FROM t JOIN u ON t.device_id = u.device_id", &[(0, "3")], &none);
    check(
        "SELECT concat(t.device_id, u.device_id) AS n FROM t JOIN u ON t.device_id = u.device_id",
        &[(0, "dd")],
        &["t: concat(device_id, device_id) = dd", "u: concat(device_id, device_id) = dd"],
    );
}

#[test]
fn joins_that_ask_whether_there_is_one() {
    let (both, one) = (["t: device_id = d", "u: device_id = d"], ["t: seq = 1", "u: -"]);
    for (condition, wanted) in [
        ("device_id IN (SELECT device_id FROM u)", [&both, &one]),
        ("EXISTS (SELECT 1 FROM u WHERE u.device_id = t.device_id AND u.seq > t.seq)", [&both, &one]),
        ("NOT EXISTS (SELECT 1 FROM u WHERE u.device_id = t.device_id)", [&both, &one]),
        // A null on the right leaves nothing of the left.
        ("device_id NOT IN (SELECT device_id FROM u)", [&["t: device_id = d", "u: -"], &one]),
        ("device_id IN (SELECT device_id FROM u) OR speed_kmh > 3", [&both, &one]),
    ] {
        let sql = format!("SELECT device_id, seq FROM t WHERE {condition}");
        check(&sql, &[(0, "d")], wanted[0]);
        check(&sql, &[(1, "1")], wanted[1]);
    }
}

#[test]
fn events_that_meet() {
    check(
        "SELECT e.device_id, t.company_id FROM e JOIN t ON t.device_id = e.device_id",
        &[(0, "d")],
        &["e: device_id = d", "t: device_id = d"],
    );
    let near = "SELECT a.device_id, b.seq FROM e a JOIN e b ON a.device_id = b.device_id AND b.ts BETWEEN a.ts AND a.ts + interval '1 minute'";
    check(near, &[(0, "d"), (1, "3")], &["e: device_id = d", "e: device_id = d and seq = 3"]);
}

#[test]
fn rows_that_depend_on_others() {
    let first = "SELECT DISTINCT ON (device_id) device_id, seq FROM e ORDER BY device_id, ts DESC";
    check(first, &[(0, "d"), (1, "3")], &["e: device_id = d and seq = 3 / device_id = d"]);
    check("SELECT device_id, seq FROM t ORDER BY seq LIMIT 3", &[(0, "d")], &["t: device_id = d / -"]);
    let placed = "SELECT * FROM (SELECT company_id, device_id, row_number() OVER (PARTITION BY company_id ORDER BY seq) AS place FROM t) WHERE place <= 3";
    check(placed, &[(0, "c"), (1, "d")], &["t: company_id = c and device_id = d / company_id = c"]);
    let lag = "SELECT device_id, seq, lag(seq) OVER (PARTITION BY device_id ORDER BY ts) AS before FROM t";
    check(lag, &[(0, "d"), (1, "3"), (2, "2")], &["t: device_id = d and seq = 3 / device_id = d"]);
}

#[test]
fn windows_sessions_and_journeys() {
    let hop =
        "SELECT device_id, hop(ts, interval '1 minute', interval '5 minutes') AS w, count(*) AS n FROM e GROUP BY 1, 2";
    check(hop, &[(0, "d"), (1, "60000")], &["e: device_id = d and ts in 60000..360000"]);
    check(hop, &[(1, "null")], &["e: -"]);
    let session = "SELECT device_id, session(ts, interval '1 minute') AS s, count(*) AS n FROM e GROUP BY 1, 2";
    check(session, &[(0, "d"), (1, "60000")], &["e: device_id = d"]);
    check(
        "SELECT vehicle_id, started_at FROM stops()",
        &[(0, "v"), (1, "60000")],
        &["telemetry_enriched: vehicle_id = v"],
    );
}

#[test]
fn fences_and_what_happens_at_them() {
    check(
        "SELECT vehicle_id, fence_id, kind FROM geofence_events()",
        &[(0, "v"), (1, "f"), (2, "enter")],
        &["telemetry_enriched: vehicle_id = v", "geofences: fence_id = f"],
    );
    check(
        "SELECT company_id, ts FROM geofence_events()",
        &[(0, "c"), (1, "60000")],
        &["telemetry_enriched: -", "geofences: company_id = c"],
    );
}

#[test]
fn elements_of_lists() {
    check("SELECT device_id, unnest(make_array(seq, 1)) AS e FROM t", &[(0, "d"), (1, "3")], &["t: device_id = d"]);
}

#[test]
fn unions_and_times() {
    check(
        "SELECT device_id AS d, 'a' AS k FROM t UNION ALL SELECT company_id, 'b' FROM u",
        &[(0, "d"), (1, "b")],
        &["t: device_id = d and 'a' = b", "u: company_id = d and 'b' = b"],
    );
    check("SELECT device_id FROM e WHERE ts > now() - interval '1 hour'", &[(0, "d")], &["e: device_id = d"]);
    check(
        "SELECT device_id FROM t EXCEPT SELECT device_id FROM u",
        &[(0, "d")],
        &["t: device_id = d", "u: device_id = d"],
    );
}
