//! History and the process's own tables in questions over the Postgres wire, of a running program. Would catch a history that
//! a question cannot join with what is live, one that goes past its limits, a file that a path reaches, and a table of the
//! process that tells nothing.

use std::process::Command;

use crate::services::psql::psql;
use crate::streams::{Running, number};

/// A small answer and little memory; files are written each second.
const SETTINGS: &str = "[parquet]\nflush_ms = 1000\n[history]\nrows_max = 1000\n";
const PER_COMPANY: &str = "CREATE MATERIALIZED VIEW per_company WITH (key = 'company_id') AS
    SELECT company_id, count(*) AS n FROM telemetry_enriched GROUP BY company_id";

fn refused(running: &Running, sql: &str) -> String {
    let said = psql(running.postgres, None, &["-v", "VERBOSITY=verbose", "-c", sql]);
    assert!(!said.good, "{sql}: {said:?}");
    said.err
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_read_beside_live_views() {
    let directory = tempfile::tempdir().expect("a directory");
    let running = Running::start_with(directory.path(), "", SETTINGS);
    running.wait_for("history is written", "SELECT count(*) FROM history.telemetry", |n| number(n) > 1_000);
    running.add(PER_COMPANY).await;

    // Joined with a table, and with a view.
    let vehicles = "SELECT count(DISTINCT v.vehicle_id) FROM history.telemetry h JOIN vehicles v ON v.vehicle_id = h.vehicle_id \
                    WHERE v.plate = h.plate";
    running.wait_for("vehicles have a history", vehicles, |n| number(n) > 190);
    let companies = "SELECT count(*) FROM (SELECT DISTINCT company_id FROM history.telemetry) h JOIN per_company p \
                     ON p.company_id = h.company_id WHERE p.n > 0";
    let all = running.sql("SELECT count(DISTINCT company_id) FROM vehicles");
    running.wait_for("every company has", companies, |n| n == all);
    running.wait_for("windows are written", "SELECT count(*) FROM history.company_minute WHERE fixes > 0", |n| {
        number(n) > 0
    });

    // The same that the command reads from the same files: rows until a time at which all is written.
    let until = running.sql("SELECT max(ts) - 60000 FROM history.telemetry");
    let mine = running.sql(&format!("SELECT count(*), sum(seq) FROM history.telemetry WHERE ts < {until}"));
    let asked = format!("SELECT count(*) AS n, sum(seq) AS s FROM telemetry_history WHERE ts < {until}");
    let data = directory.path().join("data");
    let output = Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args(["history", "--format", "csv", "--data", data.to_str().expect("a plain path"), &asked])
        .output()
        .expect("the program starts");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().nth(1).map(|line| line.replace(',', "|")), Some(mine), "{text}");

    let listed = psql(running.postgres, None, &["-c", "\\d history.*"]).out;
    assert!(
        ["telemetry", "company_minute", "vehicle_events", "rejected"].iter().all(|name| listed.contains(name)),
        "{listed}"
    );
    nothing_else_is_read(&running, &data);
    the_process_tells_of_itself(&running);
    assert_eq!(running.program.stop(), Some(0));
}

/// Only the tables, by their names; and within limits.
fn nothing_else_is_read(running: &Running, data: &std::path::Path) {
    let folder = data.join("history/telemetry_enriched");
    let folder = folder.to_str().expect("a plain path");
    for (sql, code) in [
        (format!("SELECT * FROM '{folder}'"), "sql_"),
        (format!("SELECT * FROM \"{folder}\""), "sql_unknown_table"),
        (format!("SELECT * FROM \"file://{folder}\""), "sql_unknown_table"),
        ("SELECT * FROM '/etc/passwd'".to_owned(), "sql_"),
        (format!("SELECT * FROM history.\"{folder}\""), "sql_unknown_table"),
        ("SELECT * FROM history.\"../../fleet.toml\"".to_owned(), "sql_unknown_table"),
        ("SELECT * FROM history.telemetry_enriched".to_owned(), "sql_unknown_table"),
        ("SELECT * FROM telemetry_history".to_owned(), "sql_unknown_table"),
        (format!("SELECT * FROM read_parquet('{folder}')"), "sql_"),
        (format!("COPY history.telemetry TO '{folder}/x'"), ""),
        (format!("CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '{folder}'"), ""),
        ("DELETE FROM history.telemetry".to_owned(), ""),
    ] {
        let said = refused(running, &sql);
        assert!(said.contains(code), "{sql}: {said}");
        assert!(!said.contains("root:"), "{sql}: {said}");
    }
    let many = "SELECT a.seq FROM history.telemetry a JOIN history.telemetry b ON a.seq < b.seq";
    let said = psql(running.postgres, None, &["-c", many]);
    assert!(!said.good || said.err.contains("only the first 100000 rows"), "{}", said.err);
}

fn the_process_tells_of_itself(running: &Running) {
    for (sql, least) in [
        ("SELECT count(DISTINCT name) FROM haulstream.workers", 2),
        ("SELECT CAST(sum(value) AS bigint) FROM haulstream.workers WHERE figure = 'rows_total'", 1_000),
        (
            "SELECT CAST(sum(value) AS bigint) FROM haulstream.sources WHERE figure = 'records_total' AND name = 'telemetry.raw'",
            1_000,
        ),
        (
            "SELECT CAST(sum(value) AS bigint) FROM haulstream.sinks WHERE figure = 'rows_total' AND name = 'parquet'",
            1_000,
        ),
        ("SELECT count(*) FROM haulstream.streams WHERE state = 'running' AND state_bytes > 0 AND busy_pct < 100", 1),
    ] {
        running.wait_for(sql, sql, |n| number(n) >= least);
    }
    assert_eq!(running.sql("SELECT count(*) FROM haulstream.errors"), "0");
    assert_eq!(running.sql("SELECT * FROM haulstream.late_rows"), "");
}
