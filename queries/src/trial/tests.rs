//! Tests of tests: what is right passes, what is wrong is told, what is updated passes.

use super::*;

fn catalog() -> Catalog {
    let mut catalog = Catalog::of_the_main_job();
    let file = |text: &str| File { name: "s.sql".into(), text: text.into() };
    let problems = catalog.load(&[
        file("CREATE MATERIALIZED VIEW named AS SELECT driver_id, name FROM drivers WHERE name IS NOT NULL"),
        file(
            "CREATE MATERIALIZED VIEW fixes WITH (retention = '1 hour') AS SELECT device_id, \
             date_bin(interval '1 minute', ts) AS minute, count(*) AS n, avg(speed_kmh) AS speed FROM telemetry GROUP BY 1, 2",
        ),
        file("CREATE MATERIALIZED VIEW fast AS SELECT device_id, 100 / satellites AS x FROM telemetry WHERE speed_kmh > 90"),
    ]);
    assert_eq!(problems, []);
    catalog
}

const GOOD: &str = "\
# Drivers come and go.
rows drivers
driver_id, name,   phone
d1,        Ada,    1
d2,        \"Bo, jr\",

rows telemetry
device_id,ts,speed_kmh,satellites
v1,2026-01-01T10:00:01Z,50,8
v1,2026-01-01T10:00:31Z,95.5,8

advance 2026-01-01T10:01:00Z

view named
----
name
\"Bo, jr\"
Ada

view fixes
----
device_id,minute,n,speed
v1,2026-01-01T10:00:00,2,72.75

view fast
----
x
12

rows drivers
driver_id,name
- d1,
d2,Bo

rows telemetry
device_id,ts,speed_kmh,satellites
v1,2026-01-01T08:00:00Z,50,8
v2,2026-01-01T10:02:00Z,120,0

advance 2026-01-01T10:03:00Z

view named
----
driver_id,name
d2,Bo

view fast
----
device_id,x

faults fast
----
operator,rows
Map,1

late fixes
----
rows
1
";

fn file(text: &str) -> File {
    File { name: "t.slt".into(), text: text.into() }
}

#[test]
fn what_is_right_passes_and_stays_as_it_is() {
    let catalog = catalog();
    assert_eq!(run(&file(GOOD), &catalog), Ok(()));
    let updated = update(&file(GOOD), &catalog).unwrap();
    assert_eq!(run(&file(&updated), &catalog), Ok(()));
    assert_eq!(update(&file(&updated), &catalog).unwrap(), updated);
}

#[test]
fn what_is_wrong_is_told_with_what_was_found() {
    let catalog = catalog();
    let text = GOOD.replace("2,72.75", "3,72.75").replace("d2,Bo\n\nview", "d2,Bob\n\nview");
    let wrong = run(&file(&text), &catalog).unwrap_err();
    let told: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "t.slt:20: fixes at 2026-01-01T10:01:00, on one worker:\n           device_id,minute,n,speed\n  \
             found    v1,2026-01-01T10:00:00,2,72.75\n  expected v1,2026-01-01T10:00:00,3,72.75",
            "t.slt:42: named at 2026-01-01T10:03:00, on one worker:\n           driver_id,name\n  \
             found    d2,Bo\n  expected d2,Bob",
        ]
    );
    let updated = update(&file(&text), &catalog).unwrap();
    assert_eq!(run(&file(&updated), &catalog), Ok(()));
}

#[test]
fn texts_that_make_no_sense_are_refused() {
    let catalog = catalog();
    for (text, line, part) in [
        ("roes drivers\n", 1, "none of rows"),
        ("rows driver\ndriver_id\nd1\n", 1, "did you mean drivers"),
        ("rows drivers\nname\nAda\n", 2, "the key"),
        ("rows drivers\ndriver_id,nmae\nd1,a\n", 2, "did you mean name"),
        ("rows drivers\ndriver_id,name\nd1\n", 3, "1 values under 2 names"),
        ("rows telemetry\ndevice_id,arrived_at\nd1,1\n", 2, "next tick"),
        ("rows telemetry\ndevice_id,ts\nd1,soon\n", 3, "no time"),
        ("rows telemetry\ndevice_id\n- d1\n", 3, "events only come"),
        ("rows drivers\ndriver_id\nd1\n", 3, "never arrive"),
        ("rows drivers\ndriver_id\n- d1\n\nadvance 1\n", 5, "not there"),
        ("rows named\ndriver_id\nd1\n", 1, "is a view"),
        ("advance soon\n", 1, "no time"),
        ("advance 5\nadvance 5\n", 2, "forward"),
        ("view named\n", 1, "----"),
        ("view named\n----\n", 1, "advance first"),
        ("advance 5\nview nmaed\n----\n", 2, "did you mean named"),
        ("advance 5\nview named\n----\nnmae\n", 2, "did you mean name"),
        ("rows drivers\ndriver_id,name\nd1,\"x\n", 3, "quote"),
    ] {
        let wrong = run(&file(text), &catalog).unwrap_err();
        assert_eq!(wrong[0].line, line, "{text}{}", wrong[0]);
        assert!(wrong[0].why.contains(part), "{text}{}", wrong[0]);
    }
}

#[test]
fn faults_that_no_block_speaks_of_are_wrong() {
    let text = "rows telemetry\ndevice_id,ts,speed_kmh,satellites\nv2,1000,120,0\n\nadvance 5000\nview fast\n----\nx\n";
    let wrong = run(&file(text), &catalog()).unwrap_err();
    assert!(wrong[0].why.starts_with("fast has faults"), "{}", wrong[0]);
}
