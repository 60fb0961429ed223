//! Calls of functions in FROM: what is refused with which words, and what they keep.

use super::*;

#[test]
fn parameters_of_table_functions_are_refused_with_a_place_and_a_way_out() {
    for (text, told) in [
        (
            "stops(speed_kh => 5)",
            "p.sql:2:21: sql_unsupported: there is no parameter speed_kh of stops(); did you mean speed_kmh? it takes speed_kmh, \
             radius_m, lasting",
        ),
        (
            "trips(radius_m => 'far')",
            "p.sql:2:21: sql_unsupported: the value of parameter radius_m is a number greater than 0",
        ),
        (
            "trips(speed_kmh => 0)",
            "p.sql:2:21: sql_unsupported: the value of parameter speed_kmh is a number greater than 0",
        ),
        (
            "stops(lasting => 5)",
            "p.sql:2:21: sql_unsupported: the value of parameter lasting is a length of whole milliseconds that stands in the \
             text, such as interval '5 minutes'",
        ),
        ("stops(5)", "p.sql:2:15: sql_unsupported: stops() takes its parameters by name, as in stops(speed_kmh => 5"),
        ("stops()", "p.sql:2:15: sql_unbounded: stops and trips are kept for ever without a retention"),
        (
            "stops(lasting => interval '1 minute', lasting => interval '2 minutes')",
            "p.sql:2:15: sql_unsupported: stops() has its parameter lasting twice; leave one out",
        ),
        (
            "silence(after => interval '2 minutes')",
            "p.sql:2:23: sql_unsupported: there is no parameter after of silence(); it takes lasting",
        ),
        (
            "silence(1)",
            "p.sql:2:15: sql_unsupported: silence() takes its parameters by name, as in silence(lasting => ",
        ),
        (
            "geofence_events(margin => 5)",
            "p.sql:2:31: sql_unsupported: there is no parameter margin of geofence_events(); did you mean margin_m? it takes dwell, \
             margin_m, late",
        ),
        (
            "geofence_events(margin_m => 20000)",
            "p.sql:2:31: sql_unsupported: the value of parameter margin_m is a number from 0 to 10000 that stands in the text",
        ),
        (
            "geofence_events(dwell => 'long')",
            "p.sql:2:31: sql_unsupported: the value of parameter dwell is a length of whole milliseconds",
        ),
        (
            "geofence_events('yard')",
            "p.sql:2:15: sql_unsupported: geofence_events() takes its parameters by name, as in geofence_events(dwell => ",
        ),
        (
            "geofence_events()",
            "p.sql:2:15: sql_unsupported: geofence_events() reads the table geofences, which is not in the catalog; declare it in \
             the directory of sql.schema",
        ),
        ("halts()", "p.sql"),
    ] {
        let text = format!("CREATE MATERIALIZED VIEW p AS\nSELECT * FROM {text}");
        let problems = Catalog::of_the_main_job().load(&[File { name: "p.sql".into(), text }]);
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(found.len() == 1 && found[0].starts_with(told), "found {found:?}\nwanted {told}");
    }
}

/// A catalog with a table of fences of these columns.
fn with_fences(columns: &str) -> Catalog {
    let text = format!("CREATE TABLE geofences ({columns}) FROM LOG 'f' FORMAT JSON KEY (fence_id)");
    let mut catalog = Catalog::of_the_main_job();
    assert_eq!(catalog.declare(&[File { name: "f.sql".into(), text }], &[]), []);
    catalog
}

#[test]
fn fences_are_a_table_with_columns_that_fit() {
    let call = "CREATE MATERIALIZED VIEW p WITH (retention = '7 days') AS SELECT * FROM geofence_events()";
    let good = "fence_id TEXT, company_id TEXT, name TEXT, kind TEXT, shape TEXT, radius_m";
    for number in ["INT", "BIGINT", "DOUBLE", "DECIMAL(8, 2)"] {
        let catalog = with_fences(&format!("{good} {number}, colour TEXT"));
        let found = view(&catalog, call);
        assert_eq!(found.node.reads(), ["geofences", "telemetry_enriched"]);
        let kept: Vec<String> =
            catalog.state(&found).into_iter().map(|kept| format!("{}: {}", kept.operator, kept.grows)).collect();
        assert_eq!(
            kept,
            [
                "Geofences: rows of geofences, whole on every worker; for each vehicle_id positions of the last 1 hour, what the \
              vehicle is in, and events of the last 7 days"
            ]
        );
    }
    for (columns, wanted) in [
        (format!("{good} TEXT"), "reads the column radius_m of geofences, a number, which is not there"),
        (
            good.replace("shape TEXT", "shape INT") + " DOUBLE",
            "reads the column shape of geofences, a text, which is not there",
        ),
        (good.replace("company_id TEXT, ", "") + " DOUBLE", "reads the column company_id of geofences, a text"),
    ] {
        let why = with_fences(&columns).plan(call).expect_err("a column is missing");
        assert!(why.message.contains(wanted), "{why}");
    }
    let why =
        with_fences(&format!("{good} DOUBLE")).plan("CREATE MATERIALIZED VIEW p AS SELECT * FROM geofence_events()");
    let why = why.expect_err("it has no retention");
    assert!(why.code == "sql_unbounded" && why.message.contains("add WITH (retention = '7 days')"), "{why}");
}

#[test]
fn a_stream_may_have_the_name_of_a_table_function() {
    let mut catalog = Catalog::of_the_main_job();
    let stops = view(
        &catalog,
        "CREATE MATERIALIZED VIEW stops WITH (key = 'vehicle_id, started_at', retention = '2 hours') AS SELECT * FROM \
         stops(radius_m => 50.5) AS s WHERE fixes > 2",
    );
    assert_eq!(stops.node.reads(), ["telemetry_enriched"]);
    let kept: Vec<String> =
        catalog.state(&stops).into_iter().map(|kept| format!("{}: {}", kept.operator, kept.grows)).collect();
    assert_eq!(
        kept,
        [
            "Journeys: positions of the last 2 hours and the stops of the last 2 hours for each vehicle_id; of older ones a sum"
        ]
    );
    catalog.add(stops).unwrap();
    let read = view(&catalog, "CREATE MATERIALIZED VIEW long_stops AS SELECT * FROM stops WHERE fixes > 100");
    assert_eq!(read.node.reads(), ["stops"]);
    catalog.add(read).unwrap();
    assert_eq!(catalog.dependants("stops"), ["long_stops"]);
}
