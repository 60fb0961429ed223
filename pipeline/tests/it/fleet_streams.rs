//! All streams of `queries/streams` over the main job on the running program: over simulated vehicles, and over recorded drives with references and
//! a vehicle of the test's own. What a stream holds must be what its own SELECT answers, as a plain question, over all events
//! and tables as of the same tick. Would catch a stream whose content drifts from its text while vehicles drive, one that
//! stays empty, and a wiring of the program that gives streams other rows than the sinks get.

mod batch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::installation::Installation;
use crate::program::Program;
use crate::services::wait_until;
use crate::streams::{Running, number};
use crate::traces::recording::Recording;
use batch::Stream;

const DEADLINE: Duration = Duration::from_secs(120);
/// The fleet's own streams; those of the core beside them say what the main job computes in Rust.
const FLEET: [&str; 10] = [
    "active_by_hour",
    "daily_mileage",
    "fuel_drop",
    "harsh_braking",
    "idling",
    "offline_share",
    "overspeed",
    "telemetry_gaps",
    "top_distance",
    "utilisation",
];

/// What is declared in `queries/schema`.
const OVER_TOPICS: [&str; 3] = ["fuel_cards", "fuel_purchases", "geofence_events"];

/// What SQL sees of the events, kept for the test.
const EVENTS: [&str; 3] = ["telemetry", "telemetry_enriched", "vehicle_events"];

/// All streams of the project, and those that keep all events.
fn streams(folder: &Path) -> (PathBuf, Vec<Stream>) {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../queries/streams");
    let directory = folder.join("streams");
    std::fs::create_dir(&directory).expect("a directory");
    let mut all = Vec::new();
    for file in std::fs::read_dir(own).expect("the streams") {
        let path = file.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("a file");
        // Those over topics of one's own have a test of their own.
        if OVER_TOPICS.iter().any(|name| text.contains(name)) {
            continue;
        }
        let name = path.file_stem().and_then(|name| name.to_str()).expect("a plain name");
        std::fs::write(directory.join(format!("{name}.sql")), &text).expect("a file");
        all.push(Stream::new(name, &text));
    }
    for name in EVENTS {
        let text = format!(
            "CREATE MATERIALIZED VIEW all_{name} AS SELECT * FROM {name} WHERE arrived_at > now() - interval '1 day'"
        );
        std::fs::write(directory.join(format!("all_{name}.sql")), text).expect("a file");
    }
    (directory, all)
}

/// Waits until every stream holds what its SELECT answers, and gives those that hold any row.
fn compare(running: &Running, streams: &[Stream]) -> BTreeSet<String> {
    let mut held = BTreeSet::new();
    for stream in streams {
        let kind = format!("SELECT kind FROM haulstream.streams WHERE name = '{}'", stream.name);
        if running.sql(&kind) == "events" {
            println!("{}: events, of which nothing is kept to be compared", stream.name);
            continue;
        }
        if !stream.is_a_question() {
            println!("{}: {} rows", stream.name, running.sql(&format!("SELECT count(*) FROM {}", stream.name)));
            continue;
        }
        let question = stream.question(&running.sql(&stream.columns()));
        let mut said = String::new();
        wait_until(DEADLINE, &format!("{} is what its text says", stream.name), || {
            said = running.sql(&question);
            let good = said.starts_with("0|0|");
            if !good {
                println!("{}: missing, not expected, there: {said}", stream.name);
            }
            good
        });
        let rows = said.rsplit('|').next().map_or(0, number);
        println!("{}: {rows} rows", stream.name);
        if rows > 0 {
            held.insert(stream.name.clone());
        }
    }
    held
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_simulated_vehicles() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, streams) = streams(directory.path());
    // So many that some links are lost at any time.
    let simulated = "[simulator]\nvehicles = 200\nrate_per_s = 500.0\nlost_link_pct = 20.0\n";
    let streams_of = format!("[sql]\nstreams = \"{}\"\n", path.to_str().expect("a plain path"));
    let running = Running::with(directory.path(), &format!("{simulated}{streams_of}[silence]\noffline_after_s = 3\n"));
    let enough = "SELECT count(*) FROM all_telemetry_enriched";
    running.wait_for("many messages", enough, |n| number(n) > 5_000);
    running.wait_for("vehicles fall silent", "SELECT count(*) FROM connectivity WHERE NOT online", |n| number(n) > 0);
    let held = compare(&running, &streams);
    // Nobody drives too fast, brakes hard, empties a tank or is silent for minutes here: the recorded drives show them.
    let elsewhere = ["fuel_drop", "harsh_braking", "overspeed", "telemetry_gaps"];
    for name in FLEET.iter().filter(|name| !elsewhere.contains(name)) {
        assert!(held.contains(*name), "{name} holds no row");
    }
    assert_eq!(running.program.stop(), Some(0));
}

/// What the recordings do not have: ignition, fuel and odometer, a driver who brakes hard, a tank that is emptied.
fn own_vehicle(now_ms: i64) -> Vec<Value> {
    let message = |seq: i64, seconds: i64, speed: f64, fuel: f64, odometer: f64| {
        json!({"device_id": "own-1", "seq": seq, "ts": now_ms - 600_000 + seconds * 1_000, "lat": 53.0 + seq as f64 / 1_000.0,
               "lon": -2.9, "speed_kmh": speed, "ignition": true, "fuel_level_pct": fuel, "odometer_km": odometer})
    };
    vec![
        message(1, 0, 121.0, 80.0, 1_000.0),
        message(2, 10, 118.0, 80.0, 1_000.3),
        message(3, 14, 20.0, 80.0, 1_000.4),
        message(4, 60, 0.0, 79.0, 1_000.5),
        message(5, 120, 0.0, 60.0, 1_000.5),
        message(6, 500, 95.0, 59.0, 1_001.5),
    ]
}

/// Companies and tariffs come before the drives and stay as they are, so that the last ones are those of arrival too; vehicles
/// and drivers change meanwhile.
fn references(installation: &Installation, devices: &[String]) {
    for (key, tariff) in [("c-1", "t-1"), ("c-2", "t-2")] {
        let record = json!({"company_id": key, "name": format!("Company {key}"), "tariff_id": tariff});
        installation.reference("company", key, &record);
    }
    installation.reference("tariff", "t-1", &json!({"tariff_id": "t-1", "name": "Slow", "limits": {"speed_kmh": 15}}));
    installation.reference("tariff", "t-2", &json!({"tariff_id": "t-2", "name": "Any"}));
    for (number, device) in devices.iter().enumerate() {
        let (vehicle, driver) = (format!("v-{number}"), format!("r-{number}"));
        installation.reference("driver", &driver, &json!({"driver_id": driver, "name": format!("Driver {number}")}));
        vehicle_of(installation, &vehicle, device, ["c-1", "c-2"][number % 2], &driver);
    }
}

fn vehicle_of(installation: &Installation, vehicle: &str, device: &str, company: &str, driver: &str) {
    let record = json!({"vehicle_id": vehicle, "device_id": device, "plate": vehicle, "company_id": company,
                        "driver_id": driver});
    installation.reference("vehicle", vehicle, &record);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_over_recorded_drives() {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, streams) = streams(folder.path());
    let settings = format!(
        "[ingest]\npast_ms_max = 3155760000000\n[silence]\noffline_after_s = 3\n[reads]\npostgres_listen = \"127.0.0.1:0\"\n\
         time_ms_max = 120000\n[logging]\nformat = \"json\"\n[sql]\nstreams = \"{}\"\n",
        path.to_str().expect("a plain path")
    );
    let installation = Installation::new("fleet", &settings);
    let recording = Recording::find(installation.folder());
    println!("played: {recording}");
    let drives = recording.expected(&[]);
    let devices: Vec<String> = drives.devices().into_iter().chain(["own-1".to_owned()]).collect();
    references(&installation, &devices);
    let running = Running::of(installation.start().await);
    let own = own_vehicle(jiff::Timestamp::now().as_millisecond());
    send(&running.program, &own).await;
    let played = recording.play_now(&running.program.url);
    vehicle_of(&installation, "v-0", &devices[0], "c-2", "r-1");
    installation.reference("driver", "r-2", &Value::Null);
    assert_eq!(played.finish(), drives.messages(), "messages that the gate accepted");
    let all = drives.messages() as i64 + own.len() as i64;
    running.wait_for("all messages", "SELECT count(*) FROM all_telemetry", |n| number(n) == all);
    running.wait_for("all are silent", "SELECT count(*) FROM connectivity WHERE NOT online", |n| {
        number(n) == devices.len() as i64
    });
    let held = compare(&running, &streams);
    for name in FLEET {
        assert!(held.contains(name), "{name} holds no row");
    }
    // One by hand: the tank lost 19 % while the vehicle stood, at the fifth message.
    assert_eq!(running.sql("SELECT seq, before_pct, after_pct FROM fuel_drop"), "5|79.0|60.0");
    assert_eq!(running.sql("SELECT seq, after_kmh FROM harsh_braking WHERE seq = 3 AND before_kmh = 118"), "3|20.0");
    assert_eq!(running.sql("SELECT km FROM daily_mileage"), "1.5");
    assert_eq!(running.program.stop(), Some(0));
}

async fn send(program: &Program, messages: &[Value]) {
    let url = format!("{}/v1/telemetry", program.url);
    let answer = reqwest::Client::new().post(url).json(&messages).send().await.expect("the gate answers");
    let status = answer.status();
    let text = answer.text().await.unwrap_or_default();
    assert!(status.is_success() && !text.contains("\"code\""), "{status}: {text}");
}
