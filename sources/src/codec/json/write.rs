//! Telemetry to JSON, as the ingestion gate and the simulator put it on the log: what is written reads back equal.

use operators::record::telemetry::Telemetry;

/// Appends the message as one JSON object without line breaks of its own. Fields without a value are left out.
///
/// `events` and `attributes` are written as they stand and must be JSON; a number that is not finite is left out.
///
/// ```
/// use operators::record::telemetry::Telemetry;
/// let mut out = Vec::new();
/// let message = Telemetry { device_id: "d-1", ts: 5, speed_kmh: Some(0.5), ..Default::default() };
/// sources::codec::json::write_telemetry(&message, &mut out);
/// assert_eq!(out, br#"{"device_id":"d-1","ts":5,"seq":0,"speed_kmh":0.5}"#);
/// ```
pub fn write_telemetry(message: &Telemetry<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"device_id\":");
    string(message.device_id, out);
    let mut to = Fields { out, whole: itoa::Buffer::new(), float: zmij::Buffer::new() };
    to.whole("ts", Some(message.ts));
    to.whole("server_time", message.server_time);
    to.whole("seq", Some(message.seq));
    to.number("lat", message.lat);
    to.number("lon", message.lon);
    to.number("altitude_m", message.altitude_m);
    to.number("speed_kmh", message.speed_kmh);
    to.number("heading_deg", message.heading_deg);
    to.whole("satellites", message.satellites.map(i64::from));
    to.number("hdop", message.hdop);
    to.raw("ignition", message.ignition.map(|on| if on { "true" } else { "false" }));
    to.number("fuel_level_pct", message.fuel_level_pct);
    to.number("engine_temp_c", message.engine_temp_c);
    to.number("odometer_km", message.odometer_km);
    to.number("battery_v", message.battery_v);
    to.raw("events", message.events);
    to.raw("attributes", message.attributes);
    out.push(b'}');
}

struct Fields<'a> {
    out: &'a mut Vec<u8>,
    whole: itoa::Buffer,
    float: zmij::Buffer,
}

impl Fields<'_> {
    fn name(&mut self, name: &str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn whole(&mut self, name: &str, value: Option<i64>) {
        let Some(value) = value else { return };
        self.name(name);
        self.out.extend_from_slice(self.whole.format(value).as_bytes());
    }

    fn number(&mut self, name: &str, value: Option<f64>) {
        let Some(value) = value.filter(|value| value.is_finite()) else { return };
        self.name(name);
        self.out.extend_from_slice(self.float.format_finite(value).as_bytes());
    }

    fn raw(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else { return };
        self.name(name);
        self.out.extend_from_slice(value.as_bytes());
    }
}

fn string(text: &str, out: &mut Vec<u8>) {
    if text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("memory takes the bytes");
    }
}
