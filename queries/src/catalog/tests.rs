//! Declarations that are understood, and what is refused with which words.

use super::*;

mod calls;
mod meeting;

fn refused(text: &str) -> Refusal {
    Catalog::of_the_main_job().plan(text).expect_err("a refusal")
}

fn view(catalog: &Catalog, text: &str) -> View {
    catalog.plan(text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

#[test]
fn the_example_of_the_documents_is_understood() {
    let catalog = Catalog::of_the_main_job();
    let text = "-- Overspeeding per company and driver, per 5 minutes of device time
        CREATE MATERIALIZED VIEW overspeed_5m
        WITH (key = 'company_id, driver_id, window_start', retention = '7 days', sinks = 'clickhouse, kafka, edge',
              access = 'company_id')
        AS
        SELECT e.company_id, e.driver_id, date_bin(interval '5 minutes', e.ts) AS window_start,
               count(*) AS fixes, max(e.speed_kmh) AS top_speed
        FROM telemetry_enriched e JOIN tariffs t ON t.tariff_id = e.tariff_id
        WHERE e.speed_kmh > 90
        GROUP BY 1, 2, 3;";
    let view = view(&catalog, text);
    assert_eq!(view.relation.key, ["company_id", "driver_id", "window_start"]);
    assert_eq!(view.declaration.retention_ms, Some(7 * 86_400_000));
    assert_eq!(view.declaration.access.as_deref(), Some("company_id"));
    assert_eq!(view.node.reads(), ["tariffs", "telemetry_enriched"]);
    let names: Vec<_> = view.relation.schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["company_id", "driver_id", "window_start", "fixes", "top_speed"]);
}

#[test]
fn views_stand_on_views() {
    let mut catalog = Catalog::of_the_main_job();
    let plain = view(&catalog, "CREATE VIEW fast AS SELECT * FROM telemetry_enriched WHERE speed_kmh > 100");
    catalog.add(plain).unwrap();
    let counted = view(
        &catalog,
        "CREATE MATERIALIZED VIEW fast_by_driver AS SELECT driver_id, count(*) AS n FROM fast GROUP BY driver_id",
    );
    assert_eq!(counted.node.reads(), ["telemetry_enriched"], "what is not materialized stands for its plan");
    catalog.add(counted).unwrap();
    let top = view(
        &catalog,
        "CREATE MATERIALIZED VIEW worst AS SELECT driver_id, n FROM fast_by_driver ORDER BY n DESC, driver_id LIMIT 3",
    );
    assert_eq!(top.node.reads(), ["fast_by_driver"]);
    catalog.add(top).unwrap();
    let why = catalog.drop("fast").expect_err("it is used");
    assert_eq!((why.code, why.message.as_str()), ("stream_has_dependants", "fast_by_driver read fast"));
    let why = catalog.plan("CREATE VIEW fast AS SELECT driver_id FROM worst").expect_err("a cycle");
    assert_eq!(why.message, "fast → worst → fast_by_driver → fast");
    let other = view(&catalog, "CREATE MATERIALIZED VIEW fast_by_driver AS SELECT driver_id FROM drivers");
    assert_eq!(catalog.replace(other).expect_err("others read it").code, "stream_has_dependants");
    assert_eq!(catalog.drop("wrost").expect_err("no such").message, "there is no stream wrost; did you mean worst?");
    for name in ["worst", "fast_by_driver", "fast"] {
        catalog.drop(name).unwrap();
    }
}

#[test]
fn what_is_no_declaration_is_refused() {
    for (text, code) in [
        ("", "sql_syntax"),
        ("-- nothing", "sql_syntax"),
        ("CREATE VIEW a AS SELECT 'x", "sql_syntax"),
        ("CREATE VIEW a AS SELECT 1; CREATE VIEW b AS SELECT 1", "sql_syntax"),
        ("COPY telemetry TO '/tmp/x'", "sql_statement_not_allowed"),
        ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'", "sql_statement_not_allowed"),
        ("INSERT INTO telemetry VALUES (1)", "sql_statement_not_allowed"),
        ("SET datafusion.execution.batch_size = 1", "sql_statement_not_allowed"),
        ("EXPLAIN ANALYZE SELECT 1", "sql_statement_not_allowed"),
        ("SELECT 1", "sql_statement_not_allowed"),
        ("PREPARE p AS SELECT 1", "sql_statement_not_allowed"),
        ("UPDATE vehicles SET plate = 'x'", "sql_statement_not_allowed"),
        ("CREATE TABLE p AS SELECT 1 AS a", "sql_statement_not_allowed"),
        ("CREATE VIEW p AS SELECT * FROM '/etc/passwd'", "sql_unknown_table"),
        ("CREATE VIEW p AS SELECT * FROM information_schema.tables", "sql_unknown_table"),
        ("CREATE VIEW p AS SELECT spede_kmh FROM telemetry", "sql_unknown_column"),
        ("CREATE VIEW p AS SELECT \"Device_Id\" FROM telemetry", "sql_unknown_column"),
        ("CREATE VIEW p AS SELECT device_id FROM Telemetri", "sql_unknown_table"),
        ("CREATE VIEW p AS SELECT unnest(named_struct('a', 1, 'b', seq)) FROM telemetry", "sql_unsupported"),
        (
            "CREATE VIEW p AS SELECT unnest(unnest(make_array(make_array(1), make_array(seq)))) AS n FROM telemetry",
            "sql_unsupported",
        ),
        (
            "CREATE VIEW p AS SELECT n, count(*) FROM (SELECT unnest(make_array(1, seq)) AS n FROM telemetry) GROUP BY n",
            "sql_unbounded",
        ),
        ("CREATE VIEW p AS SELECT uper(device_id) FROM telemetry", "sql_unknown_function"),
        ("CREATE VIEW p AS SELECT ts FROM telemetry WHERE sum(seq) > 1", "sql_invalid"),
        ("CREATE VIEW p AS SELECT device_id, ts FROM telemetry GROUP BY device_id", "sql_invalid"),
        ("CREATE VIEW p AS SELECT random() FROM telemetry", "sql_nondeterministic"),
        ("CREATE VIEW p AS SELECT uuid() AS u FROM telemetry", "sql_nondeterministic"),
        ("CREATE VIEW p AS SELECT now() AS n FROM telemetry", "sql_unsupported"),
        ("CREATE VIEW p AS SELECT 1 AS a, 2 AS a", "sql_invalid"),
        (
            "CREATE VIEW p AS SELECT a.name, b.name FROM drivers a JOIN companies b ON a.company_id = b.company_id",
            "sql_ambiguous_column",
        ),
        (
            "CREATE VIEW p AS SELECT name FROM drivers a JOIN companies b ON a.company_id = b.company_id",
            "sql_ambiguous_column",
        ),
        ("CREATE VIEW p AS SELECT repeat('x', 1000000000) AS a", "sql_unknown_function"),
        ("CREATE VIEW p AS SELECT * FROM generate_series(1, 9876543210)", "sql_unknown_function"),
        ("CREATE VIEW telemetry AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW \"; DROP\" AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW Größe AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW x.y AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW vehicl\u{0435}s AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW order AS SELECT 1 AS a", "name_invalid"),
        ("CREATE VIEW p WITH (memory = 'all') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE VIEW p WITH (time = '2') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE VIEW p WITH (kee = 'a') AS SELECT 1 AS a", "sql_option_unknown"),
        ("CREATE VIEW p WITH (key = 'b') AS SELECT 1 AS a", "sql_unknown_column"),
        ("CREATE VIEW p WITH (retention = 'soon') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE VIEW p WITH (correct_for = 'ever') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE VIEW p WITH (as_of = 'yesterday') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE MATERIALIZED VIEW p WITH (sinks = 'disk') AS SELECT 1 AS a", "sql_option_invalid"),
        ("CREATE MATERIALIZED VIEW p WITH (sinks = 'kafka') AS SELECT * FROM drivers", "sql_key_missing"),
        (
            "CREATE VIEW p AS WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT * FROM r",
            "sql_unsupported",
        ),
    ] {
        let why = refused(text);
        assert_eq!(why.code, code, "{text}: {why}");
    }
    let long = format!("CREATE VIEW {} AS SELECT 1 AS a", "x".repeat(300));
    assert_eq!(refused(&long).code, "name_invalid");
    let union = vec!["SELECT 1 AS a"; 3_000].join(" UNION ALL ");
    assert_eq!(refused(&format!("CREATE VIEW p AS {union}")).code, "sql_too_complex");
    let huge = format!("CREATE VIEW p AS SELECT '{}' AS a", "x".repeat(1 << 20));
    assert_eq!(refused(&huge).code, "sql_too_complex");
    let alternatives = vec!["seq = 1"; 10_000].join(" OR ");
    let why = refused(&format!("CREATE VIEW p AS SELECT seq FROM telemetry WHERE {alternatives}"));
    assert_eq!(why.code, "sql_too_complex");
    let nested = format!("CREATE VIEW p AS SELECT {}1{} AS a", "(".repeat(500), ")".repeat(500));
    assert!(["sql_too_complex", "sql_syntax"].contains(&refused(&nested).code));
}

#[test]
fn what_nothing_bounds_is_refused() {
    for text in [
        "SELECT DISTINCT speed_kmh FROM telemetry",
        "SELECT speed_kmh, count(*) AS n FROM telemetry GROUP BY speed_kmh",
        "SELECT date_bin(interval '1 minute', ts) AS w, count(*) AS n FROM telemetry GROUP BY 1",
        "SELECT device_id, count(DISTINCT ts) AS n FROM telemetry GROUP BY device_id",
        "SELECT a.device_id FROM telemetry a JOIN telemetry b ON a.device_id = b.device_id",
        "SELECT v.vehicle_id, e.ts FROM vehicles v LEFT JOIN telemetry e ON v.device_id = e.device_id",
        "SELECT device_id FROM telemetry UNION ALL SELECT device_id FROM vehicles",
        "SELECT DISTINCT ON (ts) device_id, ts FROM telemetry ORDER BY ts",
        "SELECT device_id, lag(ts) OVER (PARTITION BY device_id ORDER BY ts) AS l FROM telemetry",
        "SELECT * FROM vehicles, drivers",
    ] {
        let why = refused(&format!("CREATE MATERIALIZED VIEW p AS {text}"));
        assert!(["sql_unbounded", "sql_unsupported"].contains(&why.code), "{text}: {why}");
    }
    let catalog = Catalog::of_the_main_job();
    for text in [
        "SELECT device_id, count(*) AS n, max(speed_kmh) AS top FROM telemetry GROUP BY device_id",
        "SELECT count(*) AS n FROM telemetry",
        "SELECT DISTINCT ON (device_id) device_id, ts, speed_kmh FROM telemetry ORDER BY device_id, ts DESC, seq DESC",
        "SELECT DISTINCT speed_kmh FROM telemetry WHERE arrived_at > now() - interval '1 hour'",
        "SELECT device_id, speed_kmh FROM telemetry WHERE speed_kmh > 100",
        "SELECT e.device_id, v.plate FROM telemetry e LEFT JOIN vehicles v ON e.device_id = v.device_id",
        "SELECT device_id, lag(ts) OVER (PARTITION BY device_id ORDER BY ts) AS l FROM telemetry \
         WHERE arrived_at > now() - interval '10 minutes'",
    ] {
        view(&catalog, &format!("CREATE MATERIALIZED VIEW p AS {text}"));
    }
}

/// Options of a view of messages with their vehicles.
fn with_vehicles(options: &str, rest: &str) -> Result<View, Refusal> {
    let select = "SELECT t.device_id, t.ts, v.plate FROM telemetry t LEFT JOIN vehicles v ON t.device_id = v.device_id";
    Catalog::of_the_main_job().plan(&format!("CREATE MATERIALIZED VIEW p WITH ({options}) AS {select} {rest}"))
}

#[test]
fn options_of_joins_are_refused_where_they_mean_nothing() {
    for (options, rest, code, words) in [
        ("as_of = 'event time'", "", "sql_option_invalid", "as_of needs a horizon"),
        ("horizon = '1 day'", "", "sql_option_invalid", "it goes with as_of"),
        ("as_of = 'event time', horizon = 'long'", "", "sql_option_invalid", "horizon 'long' is not a time"),
        ("as_of = 'event time', horizon = '1 day', correct_for = '1 day'", "", "sql_option_invalid", "not both"),
        ("correct_for = '1 day'", "", "sql_unbounded", "hold every event for ever"),
        (
            "correct_for = '1 day'",
            "LEFT JOIN companies c ON v.company_id = c.company_id",
            "sql_unbounded",
            "join tables with each other first",
        ),
    ] {
        let why = with_vehicles(options, rest).expect_err(options);
        assert_eq!(why.code, code, "{options} {rest}: {why}");
        let text = format!("{why} {:?}", why.hint);
        assert!(text.contains(words), "{options} {rest}: {text}");
    }
    let text = |options: &str, select: &str| format!("CREATE MATERIALIZED VIEW p WITH ({options}) AS {select}");
    for (text, words) in [
        (text("correct_for = '1 day'", "SELECT device_id FROM telemetry"), "here are none"),
        (
            text(
                "correct_for = '1 day'",
                "SELECT device_id FROM telemetry WHERE device_id IN (SELECT device_id FROM vehicles)",
            ),
            "IN and EXISTS are not corrected",
        ),
        (text("as_of = 'event time', horizon = '1 h'", "SELECT vehicle_id FROM vehicles"), "here are none"),
        (
            text(
                "as_of = 'event time', horizon = '1 h'",
                "SELECT e.kind, v.plate FROM vehicle_events e JOIN vehicles v ON e.vehicle_id = v.vehicle_id",
            ),
            "no column of their time",
        ),
        (
            text("correct_for = '1 day'", "SELECT device_id FROM telemetry").replace("MATERIALIZED ", ""),
            "not materialized",
        ),
    ] {
        let why = refused(&text);
        assert!(why.to_string().contains(words), "{text}: {why}");
    }
    assert_eq!(with_vehicles("as_of = 'event time', horizon = '1 day'", "").unwrap().relation.kind, Kind::Events);
    let corrected = with_vehicles("correct_for = '1 day'", "WHERE t.arrived_at > now() - interval '2 days'").unwrap();
    assert_eq!(corrected.relation.kind, Kind::Table);
}

#[test]
fn state_says_what_joins_with_tables_keep() {
    let catalog = Catalog::of_the_main_job();
    let told = |view: View| catalog.explain_state(&view);
    let as_of = told(with_vehicles("as_of = 'event time', horizon = '1 day'", "").unwrap());
    assert!(as_of.contains("rows of vehicles, and those of the last 1 day that are gone"), "{as_of}");
    let rest = "WHERE t.arrived_at > now() - interval '2 days'";
    let corrected = told(with_vehicles("correct_for = '1 day'", rest).unwrap());
    assert!(corrected.contains("rows of telemetry that met none of them, for 1 day"), "{corrected}");
}

#[test]
fn hops_and_sessions_are_refused_with_a_place_and_a_way_out() {
    let file =
        |text: &str| File { name: "p.sql".into(), text: format!("CREATE MATERIALIZED VIEW p AS\nSELECT {text}") };
    for (text, told) in [
        (
            "device_id, hop(ts, interval '1 second', interval '1 hour') AS w, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unsupported: hop() with a slide of 1 second and a size of 1 hour puts each row into 3600 windows, and \
             at most 1000 are taken; write a longer slide",
        ),
        (
            "device_id, hop(ts, interval '1 hour', interval '1 minute') AS w, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unsupported: hop() with a slide of 1 hour and a size of 1 minute: rows between two windows would be in \
             none; write the shorter first",
        ),
        (
            "device_id, hop(ts, interval '1 month', interval '1 year') AS w, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unsupported: hop() takes its slide as a length that stands in the text",
        ),
        (
            "device_id FROM telemetry WHERE hop(ts, interval '1 minute', interval '1 hour') > ts",
            "p.sql:2:39: sql_unsupported: hop() gives several windows of a row: it can stand in GROUP BY and in SELECT only",
        ),
        (
            "device_id, hop(ts, interval '1 minute', interval '1 hour') AS w, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unbounded: windows over events are kept for ever without a retention",
        ),
        (
            "device_id, session(ts, interval '30 minutes') AS s, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unbounded: sessions over events are kept for ever without a retention",
        ),
        (
            "device_id, session(ts, interval '30 minutes') AS s FROM telemetry",
            "p.sql:2:19: sql_unsupported: session() depends on the other rows of its group: it can stand in GROUP BY only",
        ),
        (
            "device_id, date_trunc('day', session(ts, interval '1 minute')) AS s, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:37: sql_unsupported: session() stands alone in GROUP BY, and once",
        ),
        (
            "device_id, session(ts, interval '0 seconds') AS s, count(*) AS n FROM telemetry GROUP BY 1, 2",
            "p.sql:2:19: sql_unsupported: session() takes its gap as a length that stands in the text",
        ),
        (
            "device_id, count(*) AS n FROM telemetry GROUP BY ROLLUP(device_id, session(ts, interval '1 minute'))",
            "p.sql:2:75: sql_unsupported: session() depends on the other rows of its group: it can stand in GROUP BY only",
        ),
    ] {
        let problems = Catalog::of_the_main_job().load(&[file(text)]);
        let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(found.len() == 1 && found[0].starts_with(told), "{text}\nfound {found:?}\nwanted {told}");
    }
}

#[test]
fn sessions_of_events_keep_their_aggregates() {
    let catalog = Catalog::of_the_main_job();
    let view = view(
        &catalog,
        "CREATE MATERIALIZED VIEW p WITH (retention = '7 days') AS SELECT device_id, session(ts, interval '30 minutes') AS \
         started, count(*) AS n, max(ts) AS ended FROM telemetry GROUP BY 1, 2",
    );
    let why = refused(
        "CREATE MATERIALIZED VIEW p WITH (retention = '7 days') AS SELECT device_id, count(DISTINCT seq) AS n FROM telemetry GROUP \
         BY device_id, session(ts, interval '30 minutes')",
    );
    assert!(why.code == "sql_unbounded" && why.message.contains("count, sum, avg, min or max"), "{why}");
    let kept: Vec<String> =
        catalog.state(&view).into_iter().map(|kept| format!("{}: {}", kept.operator, kept.grows)).collect();
    assert_eq!(kept, ["Sessions: a group for each device_id and session, until 7 days and 30 minutes after its end"]);
}
