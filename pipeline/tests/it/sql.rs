//! The commands that look at derived streams and test them without a running pipeline.
//!
//! Invariant: refusals and failed tests are the answer, on standard output, with exit code 1; what is not there is a mistake of
//! who asks, with exit code 2.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Exit code, standard output and standard error of `haulstream sql …` in the workspace's root.
fn sql(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    let output = command.arg("sql").args(arguments).current_dir(root).output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the program speaks UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn done(arguments: &[&str]) -> String {
    let (code, out, err) = sql(arguments);
    assert_eq!((code, err.as_str()), (Some(0), ""), "{arguments:?}\n{out}");
    out
}

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let put = |(name, text): &(&str, &str)| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let paths = files.iter().map(put).collect();
    (folder, paths)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

#[test]
fn check_tells_columns_and_state_of_all_streams() {
    let out = done(&["check"]);
    assert_eq!(out, done(&["check", "queries/streams"]));
    let one = done(&["check", "queries/streams/overspeed.sql"]);
    assert!(out.contains(&one), "{out}\n{one}");
    for line in [
        "overspeed: table",
        "  columns   company_id     text",
        "            window_start   timestamp",
        "            fixes          bigint",
        "  key       company_id, driver_id, window_start",
        "  reads     tariffs, telemetry_enriched",
        "  retention 7 days",
        "  sinks     clickhouse, kafka, edge",
        "  access    company_id",
        "  state     Lookup: rows of tariffs, whole on every worker",
    ] {
        assert!(one.lines().any(|found| found == line), "{line}\n{one}");
    }
    assert!(one.contains("open window date_bin"), "{one}");
}

#[test]
fn check_tells_everything_that_is_refused_and_where() {
    let (folder, paths) = folder(&[
        ("a.sql", "CREATE MATERIALIZED VIEW a AS\nSELECT vehicle_id, palte FROM vehicles"),
        ("b.sql", "CREATE MATERIALIZED VIEW b AS SELECT vehicle_id FROM vehicles WHERE plate IS NOT NULL"),
        ("c.sql", "CREATE MATERIALIZED VIEW c AS\nSELECT DISTINCT speed_kmh FROM telemetry"),
        ("d.sql", "DROP TABLE vehicles"),
    ]);
    let (code, out, err) = sql(&["check", text(folder.path())]);
    assert_eq!((code, err.as_str()), (Some(1), "3 refused\n"), "{out}");
    assert!(out.starts_with("b: table\n"), "{out}");
    let a = format!(
        "{}:2:20: sql_unknown_column: there is no column palte; did you mean plate?\n  SELECT vehicle_id, palte FROM \
         vehicles\n  {}^\n",
        text(&paths[0]),
        " ".repeat(19)
    );
    assert!(out.contains(&a), "{out}");
    assert!(out.contains(&format!("{}:2:8: sql_unbounded: ", text(&paths[2]))), "{out}");
    assert!(out.contains(&format!("{}:1:1: sql_statement_not_allowed: DROP TABLE vehicles", text(&paths[3]))), "{out}");
    assert!(out.contains("\n  = help: a file holds one statement"), "{out}");
}

#[test]
fn a_changed_stream_is_checked_with_those_that_read_it() {
    let (_folder, paths) = folder(&[(
        "daily_mileage.sql",
        "CREATE MATERIALIZED VIEW daily_mileage AS SELECT company_id, vehicle_id, 1 AS km FROM vehicles",
    )]);
    let (code, out, err) = sql(&["check", text(&paths[0])]);
    assert_eq!((code, err.as_str()), (Some(1), "1 refused\n"), "{out}");
    assert!(out.contains("queries/streams/top_distance.sql:"), "{out}");
    assert!(out.contains("there is no column day"), "{out}");
}

#[test]
fn explain_shows_each_kind_of_plan() {
    let logical = done(&["explain", "overspeed"]);
    assert!(logical.contains("Aggregate: ") && logical.contains("TableScan: telemetry_enriched"), "{logical}");
    let physical = done(&["explain", "--physical", "queries/streams/overspeed.sql"]);
    assert_eq!(physical, done(&["explain", "--physical", "overspeed"]));
    for part in ["Reduce ", "Lookup ", "Get ", " events: telemetry_enriched", "until 7 days after "] {
        assert!(physical.contains(part), "{part}\n{physical}");
    }
    let (_folder, paths) = folder(&[(
        "twice.sql",
        "CREATE MATERIALIZED VIEW twice AS \
         WITH moving AS (SELECT vehicle_id, count(*) AS n FROM telemetry_enriched WHERE speed_kmh > 5 GROUP BY vehicle_id) \
         SELECT a.vehicle_id, a.n FROM moving a JOIN moving b ON a.n = b.n AND a.vehicle_id = b.vehicle_id",
    )]);
    let shared = done(&["explain", "--physical", text(&paths[0])]);
    assert!(shared.contains(" table shared: ") && shared.contains(" shared: as above\n"), "{shared}");
    let state = done(&["explain", "--state", "vehicle_latest"]);
    assert!(state.starts_with("TopK ") && state.ends_with("one row for each vehicle_id\n"), "{state}");
    let (code, out, err) = sql(&["explain", "overspede"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert_eq!(err, "there is no stream overspede; did you mean overspeed?\n");
    let (code, _, err) = sql(&["explain", "--physical", "--state", "overspeed"]);
    assert_eq!(code, Some(2), "{err}");
}

#[test]
fn graph_shows_which_stream_reads_which() {
    let out = done(&["graph"]);
    let line = out.lines().find(|line| line.starts_with("top_distance ")).expect("the stream");
    assert!(line.ends_with(" ← daily_mileage"), "{out}");
    let dot = done(&["graph", "--format", "dot", "queries/streams/top_distance.sql"]);
    assert!(dot.starts_with("digraph streams {\n") && dot.ends_with("}\n"), "{dot}");
    for line in ["\"daily_mileage\" -> \"top_distance\";", "\"telemetry_enriched\" -> \"daily_mileage\";"] {
        assert!(dot.contains(line), "{dot}");
    }
    assert!(!dot.contains("overspeed"), "only what it stands on: {dot}");
    let (_folder, paths) = folder(&[("a.sql", "CREATE VIEW a AS SELECT * FROM a")]);
    let (code, out, _) = sql(&["graph", text(&paths[0])]);
    assert_eq!(code, Some(1));
    assert!(out.contains(":1:32: stream_cycle: a → a"), "{out}");
}

#[test]
fn tests_pass_fail_and_are_updated() {
    let slt = "rows drivers\ndriver_id,name\nd1,Ada\n\nadvance 2026-01-01T10:00:00Z\n\nview named\n----\ndriver_id,name\nd1,Bo\n";
    let (folder, paths) = folder(&[
        ("named.sql", "CREATE MATERIALIZED VIEW named AS SELECT driver_id, name FROM drivers"),
        ("named.slt", slt),
    ]);
    let (streams, test) = (text(folder.path()), text(&paths[1]));
    let (code, out, err) = sql(&["test", "--streams", streams, test]);
    assert_eq!((code, err.as_str()), (Some(1), "1 failed\n"), "{out}");
    assert!(out.starts_with(&format!("{test}:7: named at 2026-01-01T10:00:00, on one worker:\n")), "{out}");
    assert!(out.contains("found    d1,Ada\n") && out.contains("expected d1,Bo\n"), "{out}");
    assert_eq!(done(&["test", "--streams", streams, "--update", test]), format!("{test}: ok, updated\n"));
    assert_eq!(std::fs::read_to_string(&paths[1]).expect("the test"), slt.replace("Bo", "Ada"));
    assert_eq!(done(&["test", "--streams", streams, streams]), format!("{test}: ok\n"));
    for arguments in [["test", "nowhere.slt"], ["check", "nowhere.sql"], ["graph", "README.md/x"]] {
        let (code, out, err) = sql(&arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(arguments[1]), "{err}");
    }
}
