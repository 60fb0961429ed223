//! Recorded drives, played by `haulstream simulate` into the gate of a running program on real Kafka, Redis and ClickHouse, with
//! references that come before, during and after the drive. What must come of it is computed by a program that shares no code
//! with ours, `tests/checker/traces.py`. Would catch a message lost, doubled or altered anywhere on the way from the recording
//! to the history, a state that differs from place to place (Redis, map clients that came early or late), and a reference that
//! did not reach all of them.

pub mod recording;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::installation::Installation;
use crate::live_client::{LiveClient, Rows};
use crate::services::wait_until_async;
use recording::{Expected, Recording};

/// Ample for anything that a healthy program does here.
const DEADLINE: Duration = Duration::from_secs(60);
/// The drives are years old: the gate has to take that, and no device falls silent before the test has ended.
const SETTINGS: &str = "[ingest]\npast_ms_max = 3155760000000\n[silence]\noffline_after_s = 3600\n";

/// Reference records, written and remembered for the checker.
struct References<'a> {
    installation: &'a Installation,
    written: Vec<Value>,
}

impl References<'_> {
    fn write(&mut self, stream: &str, key: &str, record: Value) {
        self.installation.reference(stream, key, &record);
        self.written.push(json!([stream, key, record]));
    }

    fn vehicle(&mut self, number: usize, device: &str, company: &str) {
        let (key, driver) = (format!("v-{number}"), format!("r-{number}"));
        let record = json!({"vehicle_id": key, "device_id": device, "plate": format!("LIV {number}"),
                            "company_id": company, "driver_id": driver});
        self.write("vehicle", &key, record);
    }

    fn driver(&mut self, number: usize, name: &str) {
        let key = format!("r-{number}");
        let record =
            json!({"driver_id": key, "name": format!("{name} {number}"), "phone": format!("+44 151 {number}")});
        self.write("driver", &key, record);
    }

    fn company(&mut self, key: &str, tariff: &str) {
        self.write("company", key, json!({"company_id": key, "name": format!("Company {key}"), "tariff_id": tariff}));
    }

    fn tariff(&mut self, key: &str, name: &str) {
        self.write("tariff", key, json!({"tariff_id": key, "name": name}));
    }

    /// Every third vehicle is known with all that belongs to it, the next one without driver, company and tariff.
    fn before(&mut self, devices: &[String]) {
        self.company("c-1", "t-1");
        self.tariff("t-1", "By the mile");
        for (number, device) in devices.iter().enumerate() {
            match number % 3 {
                0 => {
                    self.vehicle(number, device, "c-1");
                    self.driver(number, "Driver");
                }
                1 => self.vehicle(number, device, "c-2"),
                _ => self.driver(number, "Driver"),
            }
        }
    }

    /// What was missing of those comes, and the first ones change drivers' names.
    fn during(&mut self, devices: &[String]) {
        self.company("c-2", "t-2");
        for number in (0..devices.len()).filter(|number| number % 3 != 2) {
            self.driver(number, "Renamed");
        }
    }

    /// The rest comes; a vehicle changes its company, a company its tariff, and a driver is deleted.
    fn after(&mut self, devices: &[String]) {
        self.tariff("t-2", "Flat");
        self.tariff("t-3", "By the hour");
        for (number, device) in devices.iter().enumerate().filter(|(number, _)| number % 3 == 2) {
            self.vehicle(number, device, "c-1");
        }
        self.vehicle(0, &devices[0], "c-2");
        self.company("c-1", "t-3");
        self.write("driver", "r-1", Value::Null);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_drives_arrive_as_they_were() {
    let installation = Installation::new("traces", SETTINGS);
    let recording = Recording::find(installation.folder());
    println!("played: {recording}");
    let drives = recording.expected(&[]);
    let devices = drives.devices();
    let mut references = References { installation: &installation, written: Vec::new() };
    references.before(&devices);
    let program = installation.start().await;
    let early = LiveClient::connect(&program.url).await;
    assert!(early.known().rows.is_empty(), "a vehicle before the drive: {:?}", early.known().rows);

    let mut playing = recording.play(&program.url, &drives);
    let half = drives.histories[&devices[0]].len() as u64 / 2;
    early
        .until(DEADLINE, "half the drive of the first vehicle", |known| {
            known.rows.get("v-0").and_then(|row| row["seq"].as_u64()).is_some_and(|seq| seq >= half)
        })
        .await;
    references.during(&devices);
    assert!(playing.is_running(), "the drive was over before the references of its middle: this machine is too slow");
    assert_eq!(playing.finish(), drives.messages(), "messages that the gate accepted");
    references.after(&devices);

    let expected = recording.expected(&references.written);
    assert_eq!(expected.vehicles.len(), devices.len());
    same_history(&installation, &expected).await;
    let reaches = |rows: &Rows| differences(&expected.vehicles, rows).is_empty();
    for (name, client) in [("early", early), ("late", LiveClient::connect(&program.url).await)] {
        let reached = async { client.until(DEADLINE, "the final state", |known| reaches(&known.rows)).await };
        if tokio::time::timeout(DEADLINE / 2, reached).await.is_err() {
            panic!("the {name} client never shows: {:#?}", differences(&expected.vehicles, &client.known().rows));
        }
        assert!(name == "late" || client.known().deltas > 0);
    }
    same_in_redis(&installation, &expected).await;
    assert_eq!(program.stop(), Some(0));
}

/// Every row of the history once, with the values that the recording has.
async fn same_history(installation: &Installation, expected: &Expected) {
    let all = expected.messages();
    let count = "SELECT count() FROM DB.telemetry_history FINAL";
    wait_until_async(DEADLINE, "the whole history", async || installation.count(count) >= all).await;
    assert_eq!(installation.count(count), all);
    assert_eq!(installation.count("SELECT uniqExact(device_id, ts, seq) FROM DB.telemetry_history"), all);
    for (device, wanted) in &expected.histories {
        let columns = expected.columns.join(", ").replace("ts, ", "toUnixTimestamp64Milli(ts), ");
        let rows = installation.query(&format!(
            "SELECT {columns} FROM DB.telemetry_history FINAL WHERE device_id = '{device}' ORDER BY ts, seq \
             FORMAT JSONCompactEachRow"
        ));
        let rows: Vec<Vec<Value>> = rows.lines().map(|row| serde_json::from_str(row).expect("a list")).collect();
        assert_eq!(rows.len(), wanted.len(), "rows of {device}");
        for (row, wanted) in rows.iter().zip(wanted) {
            let equal = row.len() == wanted.len() && row.iter().zip(wanted).all(|(seen, wanted)| same(wanted, seen));
            assert!(equal, "{device}: {row:?} in the history, {wanted:?} in the recording ({:?})", expected.columns);
        }
    }
    // As of arrival: a vehicle that was known before the drive is in every row.
    let known = "SELECT count() FROM DB.telemetry_history FINAL WHERE plate = 'LIV 0' AND vehicle_id = 'v-0'";
    assert_eq!(installation.count(known), expected.histories[&expected.devices()[0]].len() as u64);
}

async fn same_in_redis(installation: &Installation, expected: &Expected) {
    let read = || -> Rows {
        let hash = |vehicle: &String| {
            let mut hash = installation.vehicle_hash(vehicle);
            hash.retain(|name, _| name != "version" && name != "digest");
            hash.into_iter().map(|(name, text)| (name, Value::String(text))).collect()
        };
        installation.vehicles().into_iter().map(|vehicle| (vehicle.clone(), hash(&vehicle))).collect()
    };
    let reached = async {
        let what = "the final state in Redis";
        wait_until_async(DEADLINE, what, async || differences(&expected.vehicles, &read()).is_empty()).await;
    };
    if tokio::time::timeout(DEADLINE / 2, reached).await.is_err() {
        panic!("Redis never has: {:#?}", differences(&expected.vehicles, &read()));
    }
}

/// Where rows differ from what they should be, one line each; a field without a value is not there.
fn differences(wanted: &Rows, seen: &Rows) -> Vec<String> {
    let mut all = Vec::new();
    let vehicles: BTreeMap<&String, ()> = wanted.keys().chain(seen.keys()).map(|vehicle| (vehicle, ())).collect();
    for vehicle in vehicles.keys() {
        let (Some(wanted), Some(seen)) = (wanted.get(*vehicle), seen.get(*vehicle)) else {
            all.push(format!("{vehicle}: {}", if seen.contains_key(*vehicle) { "not expected" } else { "missing" }));
            continue;
        };
        let names: BTreeMap<&String, ()> = wanted.keys().chain(seen.keys()).map(|name| (name, ())).collect();
        for name in names.keys() {
            let pair = (wanted.get(*name).unwrap_or(&Value::Null), seen.get(*name).unwrap_or(&Value::Null));
            if !same(pair.0, pair.1) {
                all.push(format!("{vehicle}.{name}: {} expected, {} seen", pair.0, pair.1));
            }
        }
    }
    all
}

/// Numbers are read from texts of different writers by a reader that may be off in the last place.
fn same(wanted: &Value, seen: &Value) -> bool {
    let number = |value: &Value| match value {
        Value::String(text) => text.parse::<f64>().ok(),
        other => other.as_f64(),
    };
    match (wanted, number(seen)) {
        (Value::Number(_), Some(seen)) => {
            let wanted = number(wanted).expect("a number is one");
            (wanted - seen).abs() <= wanted.abs() * 1e-15
        }
        _ => wanted == seen,
    }
}
