//! Tests of traces with small files of their own, and of playing them into an embedded log and a gate.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::codec::json::Message as Decoded;
use crate::publish::{FeedOptions, HttpOptions, HttpPublisher, feed};

const CSV: &str = r#""id","vehicle_id","trip_id","timestamp","latitude","longitude","bearing","origin"
1,"4716","1091","2026-01-26 15:57:02",53.44451,-2.925173,,Queen_Square
2,"4716","1091","2026-01-26 15:57:24",53.445026,-2.923543,53,Queen_Square
3,"4718","1092","2026-01-26 15:57:10",53.4,-2.9,361,Queen_Square
4,"4718","1092","yesterday",53.4,-2.9,71,Queen_Square
5,"4718","1092","2026-01-26 15:57:11",north,-2.9,71,Queen_Square
6,"4718"
7,"4718","1092","2026-01-26 15:57:12",53.4,-2.9,71,"Queen ""Sq"", x"
"#;

const GPX: &str = r#"<?xml version="1.0"?><gpx xmlns="http://www.topografix.com/GPX/1/1"><trk><trkseg>
<trkpt lat="45.5" lon="13.7"><ele>211.15</ele><time>2020-12-18T06:15:50Z</time></trkpt>
<trkpt lat="45.6" lon="13.8"><time>2020-12-18T06:16:00.500Z</time></trkpt>
<trkpt lat="45.6"><time>2020-12-18T06:16:01Z</time></trkpt>
<trkpt lat="45.6" lon="13.8"/>
</trkseg></trk></gpx>"#;

fn options() -> TraceOptions {
    let name = |text: &str| text.to_owned();
    let columns = Columns {
        device: name("vehicle_id"),
        time: name("timestamp"),
        lat: name("latitude"),
        lon: name("longitude"),
        heading: name("bearing"),
        speed: String::new(),
        attributes: vec![name("trip_id"), name("origin")],
    };
    TraceOptions { device_prefix: name("bus-"), columns }
}

fn play(trace: Trace, speed: f64, shift_to_now: bool, now_ms: i64) -> Vec<(i64, String)> {
    let mut player = Player::new(trace, &PlayOptions { speed, shift_to_now }, now_ms).unwrap();
    let mut all = Vec::new();
    while let Some(message) = player.next_until(i64::MAX) {
        all.push((message.due_ms, String::from_utf8(message.value.unwrap().to_vec()).unwrap()));
    }
    assert_eq!(player.next_due_ms(), None);
    all
}

#[test]
fn csv_becomes_messages_in_order_of_time() {
    let trace = Trace::from_csv(CSV.as_bytes(), &options()).unwrap();
    assert_eq!(trace.devices(), ["bus-4716", "bus-4718"]);
    let (count, refused) = trace.refused();
    let refused: Vec<_> = refused.iter().map(|(line, why)| (*line, why.code)).collect();
    assert_eq!(count, 4);
    assert_eq!(refused, [(4, "field_out_of_range"), (5, "field_type"), (6, "field_type"), (7, "field_missing")]);
    let values: Vec<String> = play(trace, 0.0, false, 5).into_iter().map(|(_, value)| value).collect();
    assert_eq!(
        values,
        [
            r#"{"device_id":"bus-4716","ts":1769443022000,"seq":1,"lat":53.44451,"lon":-2.925173,"attributes":{"origin":"Queen_Square","trip_id":"1091"}}"#,
            r#"{"device_id":"bus-4718","ts":1769443032000,"seq":1,"lat":53.4,"lon":-2.9,"heading_deg":71.0,"attributes":{"origin":"Queen \"Sq\", x","trip_id":"1092"}}"#,
            r#"{"device_id":"bus-4716","ts":1769443044000,"seq":2,"lat":53.445026,"lon":-2.923543,"heading_deg":53.0,"attributes":{"origin":"Queen_Square","trip_id":"1091"}}"#,
        ]
    );
}

#[test]
fn gpx_becomes_messages() {
    let trace = Trace::from_gpx(GPX.as_bytes(), "car", &options()).unwrap();
    let refused: Vec<_> = trace.refused().1.iter().map(|(row, why)| (*row, why.field.clone())).collect();
    assert_eq!(refused, [(3, Some("lon".to_owned())), (4, Some("time".to_owned()))]);
    let all = play(trace, 0.0, false, 5);
    assert_eq!(
        all[0].1,
        r#"{"device_id":"bus-car","ts":1608272150000,"seq":1,"lat":45.5,"lon":13.7,"altitude_m":211.15}"#
    );
    assert_eq!(all[1].1, r#"{"device_id":"bus-car","ts":1608272160500,"seq":2,"lat":45.6,"lon":13.8}"#);
}

#[test]
fn time_passes_as_it_is_told_to() {
    let gpx = || Trace::from_gpx(GPX.as_bytes(), "car", &options()).unwrap();
    let times = |speed, shift| -> Vec<(i64, i64)> {
        let ts = |value: &str| Decoded::parse(value.as_bytes()).unwrap().telemetry().ts;
        play(gpx(), speed, shift, 1_000_000).iter().map(|(due_ms, value)| (*due_ms, ts(value))).collect()
    };
    assert_eq!(times(1.0, false), [(1_000_000, 1_608_272_150_000), (1_010_500, 1_608_272_160_500)]);
    assert_eq!(times(10.0, false)[1], (1_001_050, 1_608_272_160_500));
    assert_eq!(times(1.0, true), [(1_000_000, 1_000_000), (1_010_500, 1_010_500)]);
    assert_eq!(times(10.0, true)[1], (1_001_050, 1_001_050), "no message is from the future");
    assert_eq!(times(0.0, true), [(1_000_000, 989_500), (1_000_000, 1_000_000)], "the journey ends now");
    assert!(Player::new(gpx(), &PlayOptions { speed: -1.0, shift_to_now: true }, 0).is_err());
    let mut player = Player::new(gpx(), &PlayOptions { speed: 1.0, shift_to_now: true }, 1_000).unwrap();
    assert!(player.next_until(1_000).is_some());
    assert!(player.next_until(11_499).is_none());
    assert_eq!(player.next_due_ms(), Some(11_500));
}

#[test]
fn files_that_are_something_else_are_named() {
    let csv = |text: &str| Trace::from_csv(text.as_bytes(), &options()).unwrap_err().to_string();
    assert!(csv("a,b\n1,2\n").contains("no column \"trip_id\""));
    assert!(csv("trip_id,origin,vehicle_id,timestamp\n").contains("no column \"latitude\" (columns.lat)"));
    let gpx = |text: &str| Trace::from_gpx(text.as_bytes(), "x", &options()).unwrap_err().to_string();
    assert!(gpx("<gpx>").contains("not XML"));
    assert!(gpx("<kml/>").contains("<kml>, not <gpx>"));
    assert!(gpx("<!DOCTYPE x [<!ENTITY a 'b'>]><gpx/>").contains("not XML"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journey.GPX");
    assert!(Trace::open(&path, &options()).unwrap_err().to_string().contains("journey.GPX"));
    std::fs::write(&path, GPX).unwrap();
    assert_eq!(Trace::open(&path, &options()).unwrap().devices(), ["bus-journey"]);
    let path = directory.path().join("journey.txt");
    std::fs::write(&path, GPX).unwrap();
    assert!(Trace::open(&path, &options()).unwrap_err().to_string().contains("neither"));
}

proptest::proptest! {
    #[test]
    fn no_file_makes_it_panic(text in "(vehicle_id,trip_id,origin,timestamp,latitude,longitude,bearing\n)?[-,0-9a-z\"\n :.<>/=]{0,200}") {
        let _ = Trace::from_csv(text.as_bytes(), &options());
        let _ = Trace::from_gpx(text.as_bytes(), "x", &options());
    }
}

/// Two traces played over HTTP through the gate: every position is on the log once.
#[test]
fn traces_are_played_over_http() {
    let directory = tempfile::tempdir().unwrap();
    let log_options = crate::log::Options {
        directory: directory.path().to_owned(),
        segment_bytes_max: 1 << 30,
        segment_ms_max: u64::MAX,
        retention_bytes_max: u64::MAX,
        retention_ms_max: u64::MAX,
        block_bytes_max: 1 << 16,
        record_bytes_max: 1 << 20,
        queue_bytes_max: 1 << 20,
        memtable_bytes_max: 8 << 20,
        journal_bytes_max: 64 << 20,
        cache_bytes_max: 1 << 20,
    };
    let clock = crate::log::system_clock();
    let log = Arc::new(crate::log::EmbeddedLog::open(log_options, clock.clone()).unwrap());
    log.create_topic("telemetry.raw", 1).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let gate_options = crate::listen::GateOptions {
        body_bytes_max: 1 << 20,
        unpacked_bytes_max: 1 << 20,
        body_ms_max: 10_000,
        held_bytes_max: 1 << 20,
        items_max: 2,
        uri_bytes_max: 1_000,
        ack_ms_max: 10_000,
        retry_after_s: 1,
        past_ms_max: i64::MAX / 2, // recorded long ago
        future_ms_max: 300_000,
    };
    let limits = crate::listen::ServeOptions {
        connections_max: 10,
        head_ms_max: 10_000,
        head_bytes_max: 16_384,
        head_fields_max: 64,
        stop_ms_max: 1_000,
    };
    let gate =
        crate::listen::Gate::new(log.clone(), "telemetry.raw".to_owned(), Vec::new(), gate_options, clock.clone());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    use warp::Filter;
    let filter = crate::listen::routes(gate).or(crate::listen::not_found()).unify();
    let served = runtime.spawn(crate::listen::serve(listener, filter, limits, async {
        let _ = stopped.await;
    }));

    let http =
        HttpOptions { url, items_max: 2, body_bytes_max: 10_000, queue_bytes_max: 1 << 20, request_ms_max: 10_000 };
    let publisher = HttpPublisher::new(http, "telemetry.raw".to_owned(), runtime.handle()).unwrap();
    let trace = Trace::from_csv(CSV.as_bytes(), &options()).unwrap();
    let trace = trace.merge(Trace::from_gpx(GPX.as_bytes(), "car", &options()).unwrap());
    assert_eq!((trace.len(), trace.refused().0), (5, 6));
    let mut player = Player::new(trace, &PlayOptions { speed: 0.0, shift_to_now: false }, clock() as i64).unwrap();
    let feeding = FeedOptions { batch_bytes_max: 100_000, in_flight_bytes_max: 100_000, pace_ms: 5, retry_ms_max: 50 };
    let topic = |stream: Stream| Some(stream.topic().to_owned());
    feed(&mut player, &publisher, topic, &feeding, &clock, &AtomicBool::new(false)).unwrap();
    assert_eq!((publisher.counts().accepted(), publisher.counts().rejected()), (5, 0));
    assert_eq!(log.offsets("telemetry.raw", 0).unwrap(), (0, 5));

    // What the gate refuses is counted, and not sent for ever.
    let mut bad = crate::publish::Records::default();
    bad.push(Some(b"x"), Some(b"{half a packet"));
    bad.push(Some(b"x"), Some(br#"{"device_id":"x","ts":1,"lat":100,"lon":0}"#));
    use crate::publish::{Publish, PublishError};
    publisher.publish("telemetry.raw", &bad).wait().unwrap();
    assert_eq!(publisher.counts().rejected(), 2);
    assert!(matches!(publisher.publish("vehicle.updated", &bad).wait(), Err(PublishError::Refused(_))));
    drop(stop);
    runtime.block_on(served).unwrap();
    assert!(matches!(publisher.publish("telemetry.raw", &bad).wait(), Err(PublishError::Unavailable(_))));
}
