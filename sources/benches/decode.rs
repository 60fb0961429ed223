//! How many telemetry messages a second one core decodes: `cargo bench -p sources --bench decode [-- MESSAGES]`.
//!
//! The messages are those of the peers' workload (217 bytes on average, 12 of the 18 fields). Each figure is the median of
//! nine runs, by the time that the thread had on its core; the ratio is to the parser alone, into a struct that is thrown away.

use std::hint::black_box;
use std::time::Instant;

use operators::record::Stream;
use operators::record::telemetry::Telemetry;
use sources::codec::json::{Message, check, write_telemetry};
use sources::codec::{Decoder, Record};

const RUNS: usize = 9;
const BATCH_ROWS: usize = 8_192;

/// The fields of the workload's messages and nothing else: what no decoder can be faster than.
#[derive(serde::Deserialize)]
#[allow(dead_code, reason = "the fields are there to be parsed")]
struct Plain<'a> {
    device_id: &'a str,
    ts: i64,
    seq: i64,
    lat: f64,
    lon: f64,
    speed_kmh: f64,
    heading_deg: f64,
    fuel_level_pct: f64,
    engine_temp_c: f64,
    odometer_km: f64,
    ignition: bool,
    satellites: i32,
}

/// Keys and values, from a fixed seed.
fn messages(count: usize) -> Vec<(String, Vec<u8>)> {
    let mut state = 42u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut one = |index: usize| {
        let tenths = |value: u64| value as f64 / 10.0;
        let device = format!("d{:07}", random(100_000));
        let (lat, lon) = (48_000_000 + random(8_000_000), 6_000_000 + random(9_000_000));
        let value = format!(
            "{{\"device_id\":\"{device}\",\"ts\":{},\"seq\":{},\"lat\":{:.6},\"lon\":{:.6},\"speed_kmh\":{:.1},\
             \"heading_deg\":{:.1},\"fuel_level_pct\":{:.1},\"engine_temp_c\":{:.1},\"odometer_km\":{:.1},\
             \"ignition\":{},\"satellites\":{}}}",
            1_767_225_600_000 + index as u64 / 7,
            1 + random(60),
            lat as f64 / 1e6,
            lon as f64 / 1e6,
            tenths(random(1_300)),
            tenths(random(3_600)),
            tenths(random(1_000)),
            tenths(600 + random(400)),
            tenths(random(9_000_000)),
            random(10) > 0,
            4 + random(10),
        );
        (device, value.into_bytes())
    };
    (0..count).map(&mut one).collect()
}

/// What this thread has had of its core, so that a busy machine does not count; Linux only.
fn cpu_seconds() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse::<f64>().ok().map(|nanoseconds| nanoseconds / 1e9)
}

fn median(count: usize, mut run: impl FnMut()) -> f64 {
    let mut seconds: Vec<f64> = (0..RUNS)
        .map(|_| {
            let (start, wall) = (cpu_seconds(), Instant::now());
            run();
            cpu_seconds().zip(start).map_or_else(|| wall.elapsed().as_secs_f64(), |(end, start)| end - start)
        })
        .collect();
    seconds.sort_unstable_by(f64::total_cmp);
    count as f64 / seconds[RUNS / 2]
}

fn main() {
    let count = std::env::args().find_map(|word| word.parse().ok()).unwrap_or(400_000);
    let messages = messages(count);
    let bytes: usize = messages.iter().map(|(_, value)| value.len()).sum();
    println!("{count} messages of {:.0} bytes", bytes as f64 / count as f64);
    let plain = median(count, || {
        for (_, value) in &messages {
            black_box(sonic_rs::from_slice::<Plain<'_>>(value).expect("a good message"));
        }
    });
    let show = |what: &str, rate: f64| {
        println!("{what:<48} {:>7.2} M/s  {:>6.2} of the parser alone", rate / 1e6, rate / plain);
    };
    show("sonic-rs into a plain struct of 12 fields", plain);
    let checked = median(count, || {
        for (_, value) in &messages {
            black_box(check(value).expect("sound text"));
        }
    });
    show("text, nesting and escapes checked", checked);
    let parsed = median(count, || {
        for (_, value) in &messages {
            black_box(Message::parse(value).expect("a good message"));
        }
    });
    show("Message::parse", parsed);
    let decoded = median(count, || decode(&messages));
    show("Decoder: parse, validate, Arrow batches", decoded);
    let garbage: Vec<_> =
        messages.iter().map(|(key, value)| (key.clone(), value[..value.len() - 1].to_vec())).collect();
    show("Decoder: every record refused", median(count, || decode(&garbage)));
    let telemetry: Vec<Message<'_>> =
        messages.iter().map(|(_, v)| Message::parse(v).expect("a good message")).collect();
    let mut out = Vec::with_capacity(512);
    let written = median(count, || {
        for message in &telemetry {
            out.clear();
            let message: Telemetry<'_> = message.telemetry();
            write_telemetry(&message, &mut out);
            black_box(&out);
        }
    });
    show("write_telemetry", written);
}

fn decode(messages: &[(String, Vec<u8>)]) {
    let mut decoder = Decoder::new(Stream::Telemetry, "telemetry.raw".into(), 0);
    for (index, (key, value)) in messages.iter().enumerate() {
        let record = Record { offset: index as i64, append_ms: 1, key: Some(key.as_bytes()), value: Some(value) };
        let _ = decoder.push(&record, index as u64 / 70);
        if decoder.len() == BATCH_ROWS {
            black_box(decoder.finish());
        }
    }
    black_box(decoder.finish());
}
