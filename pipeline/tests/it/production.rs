//! The same program on real Kafka, Redis and ClickHouse, fed over HTTP: every accepted message is in the history once and the
//! state is that of the newest one, whether references came before, in between or after. Would catch rows lost or doubled between
//! gate, log, dataflow and sinks, and state that does not heal when a reference arrives late.

use std::time::Duration;

use serde_json::{Value, json};

use crate::installation::Installation;
use crate::services::wait_until_async;

/// A tracker's trace: device and messages in the order of sending.
struct Trace {
    device: String,
    messages: Vec<Value>,
}

/// Three trackers that drive, with gaps, a repeated message and two that arrive in the wrong order.
fn traces(now_ms: i64) -> Vec<Trace> {
    let message = |device: &str, n: i64| {
        json!({"device_id": device, "ts": now_ms - 600_000 + n * 1_000, "seq": n, "lat": 53.4 + n as f64 * 1e-4,
               "lon": -2.9, "speed_kmh": 30.0 + (n % 20) as f64, "ignition": true})
    };
    let trace = |name: &str, count: i64| {
        let mut messages: Vec<Value> = (0..count).map(|n| message(name, n)).collect();
        messages.swap(5, 6);
        messages.insert(12, messages[3].clone());
        Trace { device: name.to_owned(), messages }
    };
    vec![trace("bus-1", 300), trace("bus-2", 200), trace("car-3", 150)]
}

fn vehicle(installation: &Installation, number: usize, device: &str) {
    let (vehicle, driver) = (format!("v-{number}"), format!("r-{number}"));
    let value = json!({"vehicle_id": vehicle, "device_id": device, "plate": format!("P {number}"),
                       "company_id": "c-1", "driver_id": driver});
    installation.reference("vehicle", &vehicle, &value);
    installation.reference("driver", &driver, &json!({"driver_id": driver, "name": format!("Driver {number}")}));
}

async fn send(url: &str, messages: &[Value]) {
    let client = reqwest::Client::new();
    for part in messages.chunks(50) {
        let answer = client.post(format!("{url}/v1/telemetry")).json(&part).send().await.expect("the gate answers");
        let (status, body) = (answer.status(), answer.text().await.expect("a body"));
        assert_eq!(status.as_u16(), 202, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_message_once_on_real_services() {
    let installation = Installation::new("production", "");
    let now_ms =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let traces = traces(now_ms);
    installation.reference("company", "c-1", &json!({"company_id": "c-1", "name": "First", "tariff_id": "t-1"}));
    // One vehicle is known before its telemetry, one comes in between, one afterwards.
    vehicle(&installation, 1, "bus-1");
    let program = installation.start().await;
    for trace in &traces {
        let (first, rest) = trace.messages.split_at(trace.messages.len() / 2);
        send(&program.url, first).await;
        if trace.device == "bus-2" {
            vehicle(&installation, 2, "bus-2");
        }
        send(&program.url, rest).await;
    }
    vehicle(&installation, 3, "car-3");
    installation.reference("driver", "r-1", &json!({"driver_id": "r-1", "name": "Renamed"}));

    let sent: u64 = traces.iter().map(|trace| trace.messages.len() as u64 - 1).sum();
    let history = "SELECT count() FROM DB.telemetry_history FINAL";
    wait_until_async(Duration::from_secs(60), "the whole history", async || installation.count(history) >= sent).await;
    assert_eq!(installation.count(history), sent);
    assert_eq!(installation.count("SELECT uniqExact(device_id, ts, seq) FROM DB.telemetry_history"), sent);
    assert_eq!(installation.count("SELECT count() FROM DB.telemetry_history FINAL WHERE vehicle_id = 'v-1'"), 300);

    for (number, trace) in traces.iter().enumerate() {
        let number = number + 1;
        let newest = trace.messages.iter().max_by_key(|m| m["ts"].as_i64()).expect("not empty");
        let vehicle = format!("v-{number}");
        let driver = if number == 1 { "Renamed".to_owned() } else { format!("Driver {number}") };
        wait_until_async(Duration::from_secs(30), &format!("{vehicle} with {driver}"), async || {
            installation.vehicle_hash(&vehicle).get("driver_name") == Some(&driver)
        })
        .await;
        let hash = installation.vehicle_hash(&vehicle);
        assert_eq!(hash["ts"], newest["ts"].to_string());
        assert_eq!(hash["lat"].parse::<f64>().ok(), newest["lat"].as_f64());
        assert_eq!((hash["company_name"].as_str(), hash["device_id"].as_str()), ("First", trace.device.as_str()));
    }
    assert_eq!(program.stop(), Some(0));
}
