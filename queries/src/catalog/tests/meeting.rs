//! What is said of events that are joined with events. Would catch a join that keeps every event, and a refusal that does not say
//! what to write instead.

use super::*;

const BOUND: &str = "AND b.since BETWEEN a.ts - interval '5 minutes' AND a.ts + interval '1 minute'";
const HOUR: &str = "WITH (retention = '1 hour')";

fn select(join: &str, on: &str) -> String {
    format!("SELECT a.ts, b.since FROM telemetry a {join} vehicle_events b ON a.device_id = b.device_id {on}")
}

fn text(options: &str, select: String) -> String {
    format!("CREATE MATERIALIZED VIEW p {options} AS {select}")
}

#[test]
fn events_meet_events_within_a_bound_only() {
    let left_of = |bound: &str| select("LEFT JOIN", bound).replace("SELECT a.ts", "SELECT a.device_id, a.ts");
    for (text, words) in [
        (text(HOUR, select("JOIN", "")), "b.ts BETWEEN a.ts - interval"),
        (text(HOUR, select("JOIN", "AND b.since > a.ts")), "from both sides"),
        (text(HOUR, select("JOIN", "AND b.since BETWEEN a.ts AND a.ts + interval '1 month'")), "from both sides"),
        (text("", select("JOIN", BOUND)), "add WITH (retention = '1 hour')"),
        (text(HOUR, select("LEFT JOIN", "")), "b.ts BETWEEN a.ts - interval"),
        (text("", select("FULL JOIN", BOUND)), "add WITH (retention = '1 hour')"),
        (text(HOUR, select("LEFT JOIN", BOUND)), "hold every event for ever"),
        (text(HOUR, select("LEFT ANTI JOIN", BOUND).replace(", b.since", "")), "hold every event for ever"),
        (
            text(
                HOUR,
                "SELECT ts FROM telemetry WHERE device_id NOT IN (SELECT device_id FROM vehicle_events)".to_owned(),
            ),
            "write NOT EXISTS",
        ),
        (
            text(
                HOUR,
                format!("SELECT DISTINCT ON (ts) ts, since FROM ({}) ORDER BY ts, since", select("LEFT JOIN", BOUND)),
            ),
            "partition by ids",
        ),
        (
            text(
                HOUR,
                format!(
                    "SELECT v.plate, e.ts FROM vehicles v JOIN ({}) e ON v.device_id = e.device_id",
                    left_of(BOUND)
                ),
            ),
            "join tables with each other first",
        ),
        (
            text(
                HOUR,
                format!("SELECT t.seq, e.ts FROM telemetry t JOIN ({}) e ON t.device_id = e.device_id", left_of(BOUND)),
            ),
            "join tables with each other first",
        ),
        (
            text(
                HOUR,
                format!(
                    "SELECT * FROM (SELECT ts, row_number() OVER (PARTITION BY device_id ORDER BY ts) AS n FROM ({})) WHERE ts > \
                     now() - interval '1 hour'",
                    left_of(BOUND)
                ),
            ),
            "join tables with each other first",
        ),
    ] {
        let why = refused(&text);
        assert!(why.to_string().contains(words), "{text}: {why}");
    }
}

#[test]
fn what_comes_out_of_events_and_what_is_kept_of_them() {
    let catalog = Catalog::of_the_main_job();
    let met = view(&catalog, &text(HOUR, select("JOIN", BOUND)));
    assert_eq!((met.relation.kind, met.node.append_only), (Kind::Events, true));
    let any = select("LEFT SEMI JOIN", BOUND).replace(", b.since", "");
    let any = view(&catalog, &text(HOUR, any));
    assert_eq!((any.relation.kind, any.node.append_only), (Kind::Events, true));
    let alone = format!("{} WHERE a.ts > now() - interval '1 day'", select("LEFT JOIN", BOUND));
    let alone = view(&catalog, &text(HOUR, alone));
    assert_eq!((alone.relation.kind, alone.node.append_only), (Kind::Table, false));
    let told = "and of each of telemetry whether it has met one";
    let state = catalog.explain_state(&alone);
    assert!(state.contains(told), "{state}");
    let state = catalog.explain_state(&met);
    assert!(!state.contains(told), "{state}");
    let told = "rows of telemetry for 61 minutes after ts; rows of vehicle_events for 65 minutes after since";
    assert!(state.contains(told), "{state}");
}
