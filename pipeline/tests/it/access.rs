//! Who sees what, of a running program with users: by the real `psql`, over HTTP, by changes as they happen, and in what is written
//! as files. Would catch: a way to another company's row (a text of SQL, a key, a count, an error, a change, a list of what there
//! is), somebody who comes in without the password, a password that is shown.

mod fleet;
mod login;

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::reads::garbage;
use fleet::{Fleet, PASSWORDS};

/// Questions whose answers are of rows of one company each, with that of the reader of the first.
const OWN: [(&str, &str); 15] = [
    ("SELECT vehicle_id FROM fleet ORDER BY 1", "v-1\nv-2"),
    ("SELECT vehicle_id, company_id FROM vehicles ORDER BY 1", "v-1|c-1\nv-2|c-1"),
    ("SELECT driver_id FROM drivers", "r-1"),
    ("SELECT company_id, name FROM companies", "c-1|One"),
    ("SELECT company_id, n FROM per_company", "c-1|3"),
    ("SELECT count(*), min(company_id), max(company_id) FROM fleet", "2|c-1|c-1"),
    ("WITH x AS (SELECT * FROM fleet), y AS (SELECT * FROM x) SELECT count(*) FROM y", "2"),
    ("SELECT count(*) FROM (SELECT plate FROM fleet UNION ALL SELECT plate FROM vehicles) AS x", "4"),
    ("SELECT count(*) FROM fleet WHERE vehicle_id IN (SELECT vehicle_id FROM vehicles WHERE company_id <> 'c-1')", "0"),
    ("SELECT (SELECT max(vehicle_id) FROM vehicles) AS m", "v-2"),
    ("SELECT f.vehicle_id FROM fleet f FULL JOIN vehicles v ON v.vehicle_id = f.vehicle_id ORDER BY 1", "v-1\nv-2"),
    (
        "SELECT count(*) FROM fleet a JOIN public.fleet b ON a.vehicle_id <> b.vehicle_id AND a.company_id = b.company_id",
        "2",
    ),
    ("SELECT vehicle_id, count(*) OVER () FROM fleet ORDER BY 1", "v-1|2\nv-2|2"),
    ("SELECT count(*) FROM (SELECT vehicle_id FROM vehicles EXCEPT SELECT vehicle_id FROM fleet) AS x", "0"),
    // That of another is no number, and an error would show it.
    ("SELECT sum(CAST(plate AS BIGINT)) FROM fleet WHERE CAST(plate AS BIGINT) > 0", "203"),
];

/// What a reader of one company has not, and what nobody has, each with a place for the name.
const NOT: [&str; 6] = ["totals", "tariffs", "haulstream.errors", "haulstream.late_rows", "haulstream.sinks", "nobody"];
const SHAPES: [&str; 5] = [
    "SELECT * FROM NAME",
    "WITH x AS (SELECT count(*) AS n FROM NAME) SELECT n FROM x",
    "SELECT vehicle_id FROM fleet UNION SELECT 'x' FROM NAME",
    "SELECT (SELECT count(*) FROM NAME) AS n FROM fleet",
    "SELECT 1 FROM fleet f LEFT JOIN NAME x ON true WHERE EXISTS (SELECT 1 FROM NAME)",
];

#[tokio::test(flavor = "multi_thread")]
async fn everybody_sees_what_is_theirs() {
    let fleet = Fleet::start().await;
    questions_are_answered_by_company(&fleet);
    lists_tell_nothing_of_others(&fleet);
    questions_in_parts_and_given_up(&fleet);
    views_over_http(&fleet).await;
    streams_over_http(&fleet).await;
    fleet.commands();
    login::nobody_comes_in_without_a_password(&fleet).await;
    changes_go_to_their_company(&fleet).await;
    history_is_of_companies(&fleet);
    for line in fleet.running.program.log() {
        assert!(PASSWORDS.iter().all(|(_, password)| !line.contains(password)), "a password in the log: {line}");
    }
    assert_eq!(fleet.running.program.stop(), Some(0));
}

fn questions_are_answered_by_company(fleet: &Fleet) {
    for (sql, answer) in OWN {
        assert_eq!(fleet.sql("one", sql), *answer, "{sql}");
    }
    for (user, count, least) in [("one", "2", "v-1"), ("two", "2", "v-3"), ("both", "4", "v-1"), ("all", "5", "v-1")] {
        assert_eq!(
            fleet.sql(user, "SELECT count(*), min(vehicle_id) FROM fleet"),
            format!("{count}|{least}"),
            "{user}"
        );
    }
    // Whose company is not known belongs to nobody.
    assert_eq!(fleet.sql("all", "SELECT vehicle_id FROM fleet WHERE company_id IS NULL"), "v-5");
    assert_eq!(fleet.sql("both", "SELECT count(*) FROM fleet WHERE company_id IS NULL"), "0");
    let shown = fleet.refused("all", "SELECT sum(CAST(plate AS BIGINT)) FROM fleet");
    assert!(shown.contains("SECRET"), "the test would not see it otherwise: {shown}");
    for name in NOT {
        for shape in SHAPES {
            let told = fleet.refused("one", &shape.replace("NAME", name));
            assert!(told.contains("42501") && told.contains("you may read no table"), "{shape} {name}: {told}");
            assert!(!told.contains("SECRET") && (name == "totals" || !told.contains("totals")), "{told}");
        }
    }
    assert_eq!(fleet.sql("all", "SELECT count(*) FROM totals JOIN haulstream.errors ON true"), "1");
    // What is not asked for as a query is refused to all.
    for sql in ["EXPLAIN SELECT * FROM fleet", "EXPLAIN ANALYZE SELECT * FROM totals", "SELECT 1; COPY fleet TO 'x'"] {
        let told = fleet.refused("one", sql);
        assert!(told.contains("25006") || told.contains("42501"), "{sql}: {told}");
    }
}

fn lists_tell_nothing_of_others(fleet: &Fleet) {
    let listed = fleet.said("one", &["-c", "\\d"]).out;
    for (name, there) in
        [("fleet", true), ("per_company", true), ("streams", true), ("totals", false), ("tariffs", false)]
    {
        assert_eq!(listed.contains(name), there, "{name} in\n{listed}");
    }
    assert!(fleet.said("one", &["-c", "\\d totals"]).err.contains("Did not find any relation named"));
    for (sql, answer) in [
        ("SELECT count(*) FROM pg_class WHERE relname IN ('totals', 'tariffs', 'errors', 'sinks', 'rejected')", "0"),
        (
            "SELECT count(*) FROM pg_attribute WHERE attname IN ('tariff_id', 'limits', 'payload') AND attrelid = 'tariffs'::regclass",
            "0",
        ),
        ("SELECT 'totals'::regclass IS NULL AS no", "t"),
        (
            "SELECT string_agg(table_name, ',') FROM information_schema.tables WHERE table_name IN ('totals', 'tariffs')",
            "",
        ),
        ("SELECT string_agg(name, ',' ORDER BY name) FROM haulstream.streams", "drove,faulty,fleet,per_company"),
        ("SELECT count(*) FROM pg_user WHERE usename IN ('one', 'two', 'boss')", "0"),
    ] {
        assert_eq!(fleet.sql("one", sql), answer, "{sql}");
    }
    assert!(fleet.refused("one", "SELECT sql, rows FROM haulstream.streams").contains("42703"));
    assert!(fleet.sql("all", "SELECT sql FROM haulstream.streams WHERE name = 'totals'").contains("SELECT"));
    // Rows that have no result are told of with their values, to who sees all.
    assert_eq!(fleet.sql("all", "SELECT count(*) FROM haulstream.errors WHERE stream = 'faulty'"), "1");
}

fn questions_in_parts_and_given_up(fleet: &Fleet) {
    let addr = fleet.running.postgres;
    let login = |user| garbage::logged_in(addr, user, fleet::password(user));
    let sql = "SELECT vehicle_id FROM fleet WHERE company_id <> $1 ORDER BY 1";
    for (user, answer) in
        [("one", &["v-1", "v-2"][..]), ("two", &["v-3", "v-4"]), ("boss", &["v-1", "v-2", "v-3", "v-4"])]
    {
        assert_eq!(garbage::prepared_by(login(user), sql, &["other"]), answer, "{user}");
    }
    let told = garbage::refused_to(login("one"), "SELECT * FROM totals WHERE n > $1", &["1"]);
    assert!(told.contains("42501"), "already when it is prepared: {told}");
    let joins = (1..9).map(|n| format!(" JOIN vehicles t{n} ON t{n}.company_id = t0.company_id")).collect::<String>();
    let more = (0..7).map(|n| format!(" JOIN (SELECT 1 AS k UNION ALL SELECT 1 UNION ALL SELECT 1 UNION ALL SELECT 1 UNION ALL SELECT 1 UNION ALL SELECT 1) k{n} ON k{n}.k = length(t0.company_id) - 2")).collect::<String>();
    let long = format!("SELECT count(*) FROM vehicles t0{joins}{more}");
    let told = garbage::cancelled_by(addr, "one", fleet::password("one"), &long);
    assert!(told.contains("57014"), "{told}");
    assert_eq!(fleet.sql("one", "SELECT count(*) FROM fleet"), "2", "the next one is not disturbed");
}

async fn views_over_http(fleet: &Fleet) {
    let (status, all) = fleet.get("one", "/v1/views").await;
    let names: Vec<&str> =
        all["views"].as_array().expect("a list").iter().filter_map(|view| view["name"].as_str()).collect();
    assert_eq!(status, 200);
    assert!(names.contains(&"fleet") && !names.contains(&"totals") && !names.contains(&"tariffs"), "{names:?}");
    let ids = |rows: &Value| -> Vec<String> {
        let rows = rows["rows"].as_array().expect("rows").iter();
        let mut ids: Vec<String> = rows.filter_map(|row| Some(row["vehicle_id"].as_str()?.to_owned())).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(&fleet.get("two", "/v1/views/fleet").await.1), ["v-3", "v-4"]);
    assert_eq!(ids(&fleet.get("one", "/v1/views/vehicles?limit=1").await.1).len(), 1);
    assert_eq!(ids(&fleet.get("two", "/v1/views/fleet/v-3").await.1), ["v-3"]);
    for (user, path, status, code) in [
        ("one", "/v1/views/fleet/v-3", 404, "row_unknown"),
        ("one", "/v1/views/fleet/v-99", 404, "row_unknown"),
        ("one", "/v1/views/fleet/v-5", 404, "row_unknown"),
        ("one", "/v1/views/totals", 403, "access_denied"),
        ("one", "/v1/views/haulstream.errors", 403, "access_denied"),
        ("one", "/v1/views/nobody", 403, "access_denied"),
        ("one", "/v1/views/nobody/x", 403, "access_denied"),
        ("all", "/v1/views/nobody", 404, "sql_unknown_table"),
    ] {
        let (got, body) = fleet.get(user, path).await;
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{user} {path}: {body}");
        assert!(!body.to_string().contains("SECRET"), "{body}");
    }
    assert_eq!(fleet.get("all", "/v1/views/totals").await.0, 200);
}

async fn streams_over_http(fleet: &Fleet) {
    let (_, all) = fleet.get("one", "/v1/streams").await;
    let names: Vec<&str> =
        all.as_array().expect("a list").iter().filter_map(|stream| stream["name"].as_str()).collect();
    assert_eq!(names, ["drove", "faulty", "fleet", "per_company"], "{all}");
    assert!(all.to_string().find("SELECT").is_none() && all[0].get("rows").is_none(), "{all}");
    assert_eq!(fleet.get("all", "/v1/streams").await.1.as_array().map(Vec::len), Some(5));
    for path in [
        "totals",
        "nobody",
        "totals/changes",
        "nobody/changes",
        "tariffs/changes",
        "telemetry/changes",
        "faulty/faults",
        "nobody/faults",
    ] {
        let (status, told) = fleet.get("one", &format!("/v1/streams/{path}")).await;
        assert_eq!((status, told["code"].as_str()), (403, Some("access_denied")), "{path}: {told}");
    }
    assert!(fleet.get("all", "/v1/streams/faulty/faults").await.1.to_string().contains("ivide"));
    let view =
        "CREATE MATERIALIZED VIEW mine WITH (access = 'company_id') AS SELECT 'c-1' AS company_id, plate FROM vehicles";
    for user in ["one", "both", "all"] {
        for (method, path, body) in [
            (Method::POST, "", view),
            (Method::PUT, "/totals", "CREATE MATERIALIZED VIEW totals AS SELECT 1 AS n FROM vehicles"),
            (Method::DELETE, "/fleet", ""),
            (Method::POST, "", "no SQL at all"),
        ] {
            let (status, told) = fleet.ask(Some(user), method, &format!("/v1/streams{path}"), body).await;
            assert_eq!((status, told["code"].as_str()), (403, Some("access_denied")), "{user} {path}: {told}");
        }
    }
    let number = "CREATE MATERIALIZED VIEW wrong WITH (access = 'n') AS SELECT count(*) AS n FROM vehicles";
    let (status, told) = fleet.ask(Some("boss"), Method::POST, "/v1/streams", number).await;
    assert_eq!((status, told["field"].as_str()), (400, Some("access")), "{told}");
    let (status, told) = fleet.ask(Some("boss"), Method::POST, "/v1/streams", view).await;
    assert_eq!(status, 201, "{told}");
    // Who declares a view decides whose its rows are.
    assert_eq!(fleet.sql("one", "SELECT count(*) FROM mine"), "5");
    for (access, seen) in
        [("WITH (access = 'owner') ", Some("0")), ("", None), ("WITH (access = 'company_id') ", Some("5"))]
    {
        let sql = view.replace("WITH (access = 'company_id') ", access).replace("SELECT", "SELECT 'c-2' AS owner,");
        assert_eq!(fleet.ask(Some("boss"), Method::PUT, "/v1/streams/mine", &sql).await.0, 200, "{sql}");
        match seen {
            Some(count) => assert_eq!(fleet.sql("one", "SELECT count(*) FROM mine"), count, "{access}"),
            None => assert!(fleet.refused("one", "SELECT count(*) FROM mine").contains("42501")),
        }
    }
    assert_eq!(fleet.ask(Some("boss"), Method::DELETE, "/v1/streams/mine", "").await.0, 200);
}

/// A vehicle that goes over to another company leaves one reader and comes to the other.
async fn changes_go_to_their_company(fleet: &Fleet) {
    let (mut one, mut two) = (fleet.watch("one", "fleet").await, fleet.socket("two", "fleet").await);
    let mut core = fleet.watch("two", "vehicles").await;
    let mut events = fleet.watch("one", "drove").await;
    let mut enriched = fleet.watch("two", "telemetry_enriched").await;
    one.until("the content", |rows| rows.len() == 2).await;
    two.until("the content", |rows| rows.len() == 2).await;
    assert_eq!((one.begun["rows"].as_u64(), two.begun["rows"].as_u64()), (Some(2), Some(2)), "and no count of others");

    fleet.vehicle("v-2", "102", Some("c-2"));
    one.until("v-2 has gone", |rows| rows.keys().all(|row| !row.contains("v-2"))).await;
    two.until("v-2 has come", |rows| rows.keys().any(|row| row.contains("v-2"))).await;
    core.until("v-2 has come", |rows| rows.keys().any(|row| row.contains("v-2"))).await;
    assert_eq!(fleet.sql("one", "SELECT vehicle_id FROM fleet"), "v-1");
    fleet.vehicle("v-2", "102", None);
    two.until("v-2 is nobody's", |rows| rows.len() == 2).await;
    fleet.vehicle("v-2", "102", Some("c-1"));
    one.until("v-2 is back", |rows| rows.len() == 2).await;

    // What others do is not even a line.
    fleet.vehicle("v-3", "SECRET2", Some("c-2"));
    fleet.drive("v-3", 50, 66.5).await;
    fleet.drive("v-1", 50, 77.5).await;
    two.until("the new plate", |rows| rows.keys().any(|row| row.contains("SECRET2"))).await;
    events.until("its own", |rows| rows.keys().any(|row| row.contains("77.5"))).await;
    enriched.until("its own", |rows| rows.keys().any(|row| row.contains("66.5"))).await;
    fleet.vehicle("v-1", "111", Some("c-1"));
    one.until("the new plate", |rows| rows.keys().any(|row| row.contains("111"))).await;
    for (watched, stranger) in [(&one, "c-2"), (&two, "c-1"), (&core, "c-1"), (&events, "c-2"), (&enriched, "c-1")] {
        assert!(watched.lines.iter().all(|line| !line.contains(stranger)), "{stranger} in {:#?}", watched.lines);
    }
}

fn history_is_of_companies(fleet: &Fleet) {
    let count = "SELECT count(*) FROM history.telemetry";
    fleet.wait_for("all", "history is written", count, |n| n.parse::<i64>().is_ok_and(|n| n >= fleet.sent()));
    assert_eq!(fleet.sql("one", "SELECT DISTINCT company_id FROM history.telemetry"), "c-1");
    let all = fleet.sql("all", &format!("{count} WHERE company_id = 'c-1'"));
    assert_eq!(fleet.sql("one", count), all);
    let own = "WITH h AS (SELECT * FROM history.telemetry) SELECT count(*), min(h.plate) FROM h JOIN fleet f \
               ON f.vehicle_id = h.vehicle_id WHERE h.speed_kmh > 0 AND h.company_id <> 'c-2' GROUP BY h.company_id";
    assert!(fleet.sql("one", own).starts_with(&format!("{all}|1")), "{own}");
    // Computed on none of the others' rows, however it is written.
    let fails = "SELECT count(*) FROM history.telemetry WHERE CAST(plate AS BIGINT) > 0";
    assert!(fleet.refused("all", fails).contains("SECRET"));
    assert_eq!(fleet.sql("one", fails), all);
    assert_eq!(
        fleet.sql("two", "SELECT count(*) FROM history.telemetry WHERE company_id = 'c-1' OR true"),
        fleet.sql("all", &format!("{count} WHERE company_id = 'c-2'"))
    );
    fleet.wait_for(
        "all",
        "windows are written",
        "SELECT count(DISTINCT company_id) FROM history.company_minute",
        |n| n == "2",
    );
    assert_eq!(fleet.sql("one", "SELECT DISTINCT company_id FROM history.company_minute"), "c-1");
    assert!(fleet.refused("one", "SELECT * FROM history.rejected").contains("42501"));
    assert_eq!(fleet.said("one", &["-c", "\\d history.rejected"]).out, "");
}

/// Longest wait for what comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);
