//! Live tables as those read them who use them: with the real `psql`, with other clients' bytes, and over HTTP.

pub mod garbage;
mod relations;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pipeline::config::{self, schema};
use pipeline::reads::{Serving, serve};
use serde::Deserialize as _;
use serde_json::Value;

use crate::services::psql::psql;
use crate::services::wait_until;
use relations::Fleet;

/// The defaults with these options of `[reads]` over them, on any free port.
fn options(over: &str) -> config::Reads {
    let mut all = schema::defaults();
    let reads = all.get_mut("reads").and_then(toml::Value::as_table_mut).expect("a section");
    reads.insert("postgres_listen".to_owned(), "127.0.0.1:0".into());
    reads.extend(over.parse::<toml::Table>().expect("options"));
    config::Config::deserialize(all).expect("a whole configuration").reads
}

fn served(over: &str) -> (Arc<Fleet>, Serving, SocketAddr) {
    let fleet = Arc::new(Fleet::new(20));
    let serving = serve(fleet.clone(), None, &options(over), Arc::default()).expect("served");
    let addr = serving.postgres().expect("an address");
    (fleet, serving, addr)
}

/// What `psql` answers, in a form for programs.
fn asked(addr: SocketAddr, sql: &str) -> String {
    let said = psql(addr, None, &["-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    assert!(said.good && said.err.is_empty(), "{sql}: {said:?}");
    said.out
}

/// What lets [`long`] run until its time is up: it may not meet the limit of memory before.
const ROOM: &str = "memory_bytes_max = 8589934592\n";

/// A question that takes 20 to the power of 9 steps.
fn long() -> String {
    let joins = (1..9).map(|n| format!(" JOIN speeds t{n} ON t{n}.version = t0.version"));
    format!("SELECT count(*) FROM speeds t0{}", joins.collect::<String>())
}

/// The complaint about a question, with its code.
fn complaint(addr: SocketAddr, sql: &str) -> String {
    let said = psql(addr, None, &["-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=1", "-c", sql]);
    assert!(!said.good, "{sql}: {said:?}");
    said.err
}

#[test]
fn psql_lists_and_describes_what_there_is() {
    let (_fleet, _serving, addr) = served("");
    let shown = |command: &str| {
        let said = psql(addr, None, &["-v", "ON_ERROR_STOP=1", "-c", command]);
        assert!(said.good && said.err.is_empty(), "{command}: {said:?}");
        said.out
    };
    let all = shown("\\d");
    for line in ["haulstream | streams | table", "public     | speeds  | view", "public     | tariffs | table"] {
        assert!(all.contains(line), "{line} in\n{all}");
    }
    assert!(all.contains("List of relations") && all.contains("(4 rows)"), "{all}");
    let tables = shown("\\dt");
    assert!(tables.contains("tariffs") && !tables.contains("speeds"), "{tables}");
    let views = shown("\\dv");
    assert!(views.contains("speeds") && !views.contains("tariffs"), "{views}");
    let view = shown("\\d speeds");
    assert!(view.contains("View \"public.speeds\""), "{view}");
    for (column, kind) in [
        ("vehicle_id", "text"),
        ("speed", "double precision"),
        ("version", "bigint"),
        ("at", "timestamp without time zone"),
    ] {
        let found = view.lines().any(|line| line.trim_start().starts_with(column) && line.contains(kind));
        assert!(found, "{column} {kind} in\n{view}");
    }
    let table = shown("\\d tariffs");
    assert!(table.contains("Table \"public.tariffs\"") && table.contains("not null"), "{table}");
    assert!(shown("\\d haulstream.streams").contains("Table \"haulstream.streams\""));
    for command in
        ["\\l", "\\dn", "\\du", "\\d+ speeds", "\\d+ tariffs", "\\df", "\\conninfo", "\\dt haulstream.*", "\\dp"]
    {
        shown(command);
    }
    let none = psql(addr, None, &["-c", "\\d nothing"]);
    assert!(none.err.contains("Did not find any relation named \"nothing\""), "{none:?}");
}

#[test]
fn psql_reads_a_view_while_it_changes() {
    let (fleet, _serving, addr) = served("");
    let stop = Arc::new(AtomicBool::new(false));
    let changer = std::thread::Builder::new().name("changer".to_owned()).spawn({
        let (fleet, stop) = (fleet.clone(), stop.clone());
        move || {
            while !stop.load(Ordering::Relaxed) {
                fleet.change();
                std::thread::yield_now();
            }
        }
    });
    // Every row is of one version at any tick, and both tables are of the same one.
    let sql = "SELECT min(s.version), max(s.version), count(*) FROM speeds s JOIN latest l ON l.version = s.version";
    let readers: Vec<_> = (0..2)
        .map(|n| {
            let reader = std::thread::Builder::new().name(format!("reader {n}"));
            let read = move || (0..15).map(|_| asked(addr, sql)).collect::<Vec<_>>();
            reader.spawn(read).expect("a thread")
        })
        .collect();
    let answers: Vec<String> = readers.into_iter().flat_map(|reader| reader.join().expect("it reads")).collect();
    stop.store(true, Ordering::Relaxed);
    changer.expect("a thread").join().expect("it changes");
    let mut versions = BTreeSet::new();
    for answer in &answers {
        let parts: Vec<&str> = answer.trim().split('|').collect();
        assert_eq!((parts[0], parts[2]), (parts[1], "20"), "a mixture of versions: {answer}");
        versions.insert(parts[0].to_owned());
    }
    assert!(versions.len() > 1, "the view changed meanwhile: {answers:?}");
}

#[test]
fn values_have_postgres_forms() {
    let (_fleet, _serving, addr) = served("");
    let row = asked(addr, "SELECT * FROM speeds WHERE vehicle_id = 'v3'");
    assert_eq!(row.trim_end(), "v3|1.5|0|2023-11-14 22:13:23.000000", "a row in text");
    assert_eq!(asked(addr, "SELECT true, NULL, 1.5, array[1,2], 'ä'").trim_end(), "t||1.5|{1,2}|ä");
    assert_eq!(asked(addr, "SELECT 1; SELECT 2").trim_end(), "1\n2");
    let titled = psql(addr, None, &["-A", "-c", "SELECT count(*), 1, upper('x') FROM speeds"]);
    assert!(titled.out.starts_with("count|?column?|upper\n"), "{titled:?}");
    // What clients say before and after.
    let said = "SET extra_float_digits = 3; BEGIN; SHOW search_path; SELECT 1; COMMIT; DISCARD ALL";
    assert!(asked(addr, said).contains("public, haulstream\n1"));
}

#[test]
fn parameters_are_bound() {
    let (_fleet, _serving, addr) = served("");
    let answers = garbage::prepared(
        addr,
        "SELECT vehicle_id FROM speeds WHERE speed > $1 AND vehicle_id <> $2 ORDER BY 1 LIMIT 2",
        &["8.9", "v18"],
    );
    assert_eq!(answers, ["v19"]);
    let wrong = garbage::refused(addr, "SELECT vehicle_id FROM speeds WHERE speed > $1", &["fast"]);
    assert!(wrong.contains("22023") && wrong.contains("fast"), "{wrong}");
}

#[test]
fn rows_are_fetched_in_portions_and_statements_are_limited() {
    let (_fleet, _serving, addr) = served("");
    let mut client = garbage::connected(addr);
    assert_eq!(garbage::portions(&mut client, "SELECT vehicle_id FROM speeds", 8), [8, 8, 4]);
    let refusal = garbage::prepare_many(&mut client, 300).expect("more than are taken");
    assert!(refusal.contains("53400"), "{refusal}");
    assert_eq!(garbage::simple(&mut client, "SELECT 42"), ["42"], "the connection goes on");
}

#[test]
fn complaints_have_code_place_and_hint() {
    let (_fleet, _serving, addr) = served("");
    for (sql, parts) in [
        ("SELECT * FROM speds", ["42P01", "did you mean speeds?"]),
        ("SELECT sped FROM speeds", ["42703", "did you mean speed?"]),
        ("SELECT 1,\n )", ["42601", "LINE 2:  )"]),
        ("DROP TABLE speeds", ["25006", "SELECT"]),
        ("SELECT nope(1)", ["42883", "nope"]),
        ("SELECT 1 / 0", ["22000", "ivide by zero"]),
    ] {
        let told = complaint(addr, sql);
        assert!(parts.iter().all(|part| told.contains(part)), "{sql}: {told}");
    }
}

#[test]
fn rows_and_time_are_limited() {
    let (_fleet, _serving, addr) = served(&format!("{ROOM}rows_max = 10\ntime_ms_max = 700"));
    let said = psql(addr, None, &["-A", "-t", "-c", "SELECT vehicle_id FROM speeds"]);
    assert_eq!(said.out.lines().count(), 10, "{said:?}");
    assert!(said.err.contains("WARNING:  only the first 10 rows"), "{said:?}");
    let long = &long();
    let start = Instant::now();
    assert!(complaint(addr, long).contains("57014"), "given up in time");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(asked(addr, "SELECT count(*) FROM speeds").trim(), "20");
}

#[test]
fn a_question_is_cancelled() {
    let (_fleet, _serving, addr) = served(&format!("{ROOM}time_ms_max = 60000"));
    let long = &long();
    let start = Instant::now();
    let told = garbage::cancelled(addr, long);
    assert!(told.contains("57014"), "{told}");
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[test]
fn connections_are_limited_and_given_up() {
    let (_fleet, _serving, addr) = served("connections_max = 2\nidle_ms_max = 3000\nstartup_ms_max = 1000");
    let held = [garbage::connected(addr), garbage::connected(addr)];
    let refused = psql(addr, None, &["-c", "SELECT 1"]);
    assert!(!refused.good && refused.err.contains("all 2 connections are taken"), "{refused:?}");
    drop(held);
    wait_until(Duration::from_secs(10), "a place is free again", || psql(addr, None, &["-c", "SELECT 1"]).good);
    let mut idle = garbage::connected(addr);
    assert!(garbage::rest(&mut idle).contains("57P05"), "told before it is closed");
    // Who never says who they are.
    let mut silent = std::net::TcpStream::connect(addr).expect("connected");
    garbage::rest(&mut silent);
}

#[test]
fn garbage_hurts_nobody_else() {
    let (_fleet, _serving, addr) = served("");
    let mut neighbour = garbage::connected(addr);
    garbage::throw(addr);
    assert_eq!(garbage::simple(&mut neighbour, "SELECT 42"), ["42"], "a connection beside them");
    assert_eq!(asked(addr, "SELECT count(*) FROM speeds").trim(), "20", "and a new one");
}

#[test]
fn a_password_is_asked_for() {
    let (_fleet, _serving, addr) = served("password = \"opensesame\"");
    let good = psql(addr, Some("opensesame"), &["-A", "-t", "-c", "SELECT 1"]);
    assert_eq!((good.out.as_str(), good.good), ("1\n", true), "{good:?}");
    let wrong = psql(addr, Some("guess"), &["-c", "SELECT 1"]);
    assert!(!wrong.good && wrong.err.contains("authentication failed"), "{wrong:?}");
    assert!(!psql(addr, None, &["-c", "SELECT 1"]).good);
    let open = serve(Arc::new(Fleet::new(1)), None, &options("postgres_listen = \"0.0.0.0:0\""), Arc::default())
        .expect_err("open to all");
    assert_eq!(open.code, "reads_reachable", "{open}");
    let none = serve(Arc::new(Fleet::new(1)), None, &options("postgres_listen = \"\""), Arc::default())
        .expect("nothing is asked for");
    assert_eq!(none.postgres(), None);
}

#[tokio::test]
async fn views_are_read_over_http() {
    let (fleet, serving, _) = served("rows_max = 15");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(warp::serve(serving.routes()).incoming(listener).run());
    let ask = async |path: &str| {
        let answer = reqwest::get(format!("{base}{path}")).await.expect("answered");
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.expect("JSON"))
    };
    let (status, all) = ask("/v1/views").await;
    assert_eq!((status, all["views"].as_array().map(Vec::len)), (200, Some(4)), "{all}");
    let (_, rows) = ask("/v1/views/speeds?limit=3").await;
    assert_eq!((rows["rows"].as_array().map(Vec::len), &rows["truncated"]), (Some(3), &Value::Bool(true)), "{rows}");
    assert_eq!(ask("/v1/views/speeds").await.1["rows"].as_array().map(Vec::len), Some(15), "no more than are allowed");
    assert_eq!(rows["as_of"], fleet.tick());
    let (status, row) = ask("/v1/views/speeds/v7").await;
    assert_eq!((status, &row["rows"][0]["vehicle_id"]), (200, &Value::from("v7")), "{row}");
    fleet.change();
    assert_eq!(ask("/v1/views/speeds/v7").await.1["rows"][0]["version"], 1);
    for path in ["/v1/views/tariffs/t%7C1/2", "/v1/views/streams", "/v1/views/haulstream.streams"] {
        assert_eq!(ask(path).await.0, 200, "{path}");
    }
    assert_eq!(ask("/v1/views/pairs/a%7C2").await.0, 404, "there is no such view");
    for (path, status, code) in [
        ("/v1/views/speds", 404, "sql_unknown_table"),
        ("/v1/views/speeds/v99", 404, "row_unknown"),
        ("/v1/views/speeds/v1/2", 400, "key_invalid"),
        ("/v1/views/tariffs/only", 400, "key_invalid"),
        ("/v1/views/latest/1", 400, "key_unknown"),
        ("/v1/views/speeds?limit=x", 400, "limit_invalid"),
        ("/v1/views/speeds/%ff", 400, "request_invalid"),
    ] {
        let (got, body) = ask(path).await;
        assert_eq!((got, body["code"].as_str()), (status, Some(code)), "{path}: {body}");
    }
    let posted = reqwest::Client::new().post(format!("{base}/v1/views/speeds")).send().await.expect("answered");
    assert_eq!((posted.status().as_u16(), posted.headers()["allow"].as_bytes()), (405, b"GET, HEAD".as_slice()));
}
