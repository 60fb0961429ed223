//! A simulated message as JSON, written digit by digit: the generator has to outrun what it feeds.

use super::reference::device_id;
use super::vehicle::Measured;

/// Appends one telemetry message of tracker `index`.
pub(super) fn message(index: u64, ts: i64, server_time: Option<i64>, seq: u32, m: &Measured, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"device_id\":\"");
    device_id(index, out);
    out.extend_from_slice(b"\",\"ts\":");
    whole(ts, out);
    if let Some(ms) = server_time {
        out.extend_from_slice(b",\"server_time\":");
        whole(ms, out);
    }
    out.extend_from_slice(b",\"seq\":");
    whole(i64::from(seq), out);
    out.extend_from_slice(b",\"lat\":");
    decimal::<6>(m.lat, out);
    out.extend_from_slice(b",\"lon\":");
    decimal::<6>(m.lon, out);
    out.extend_from_slice(b",\"speed_kmh\":");
    decimal::<1>(m.speed_kmh, out);
    out.extend_from_slice(b",\"heading_deg\":");
    // 359.97 must not become 360.0, which is north again.
    decimal::<1>(if m.heading_deg >= 359.95 { 0.0 } else { m.heading_deg }, out);
    out.extend_from_slice(b",\"satellites\":");
    whole(i64::from(m.satellites), out);
    out.extend_from_slice(if m.ignition { b",\"ignition\":true" } else { b",\"ignition\":false" });
    out.extend_from_slice(b",\"fuel_level_pct\":");
    decimal::<1>(m.fuel_pct, out);
    out.extend_from_slice(b",\"engine_temp_c\":");
    decimal::<1>(m.engine_c, out);
    out.extend_from_slice(b",\"odometer_km\":");
    decimal::<3>(m.odometer_km, out);
    out.extend_from_slice(b",\"battery_v\":");
    decimal::<2>(m.battery_v, out);
    out.push(b'}');
}

/// A whole number in decimal.
pub(super) fn whole(number: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A number with exactly `PLACES` decimal places, rounded; below a billion.
pub(super) fn decimal<const PLACES: usize>(number: f64, out: &mut Vec<u8>) {
    let scale = const { 10i64.pow(PLACES as u32) };
    let scaled = (number * scale as f64).round() as i64;
    if scaled < 0 {
        out.push(b'-');
    }
    let (units, mut rest) = (scaled.unsigned_abs() / scale as u64, scaled.unsigned_abs() % scale as u64);
    out.extend_from_slice(itoa::Buffer::new().format(units).as_bytes());
    let mut digits = [b'0'; PLACES];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    out.push(b'.');
    out.extend_from_slice(&digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn decimals_are_the_nearest(number in -1_000_000.0f64..1_000_000.0) {
            let mut out = Vec::new();
            decimal::<6>(number, &mut out);
            let text = String::from_utf8(out).unwrap();
            let back: f64 = text.parse().unwrap();
            assert!((back - number).abs() <= 0.000_000_501, "{text} for {number}");
            assert_eq!(text.len() - text.find('.').unwrap(), 7);
        }
    }

    #[test]
    fn messages_read_back() {
        let measured = Measured {
            lat: -0.000_001,
            lon: 179.999_999_9,
            speed_kmh: 0.04,
            heading_deg: 359.99,
            satellites: 9,
            ignition: false,
            fuel_pct: 55.55,
            engine_c: 88.0,
            odometer_km: 12.345_6,
            battery_v: 25.1,
        };
        let mut out = Vec::new();
        message(42, 1_700_000_000_000, Some(5), 7, &measured, &mut out);
        let message = crate::codec::json::Message::parse(&out).unwrap();
        let t = message.telemetry();
        assert_eq!((t.device_id, t.ts, t.server_time, t.seq), ("sim-0000042", 1_700_000_000_000, Some(5), 7));
        assert_eq!((t.lat, t.lon, t.speed_kmh, t.heading_deg), (Some(-0.000_001), Some(180.0), Some(0.0), Some(0.0)));
        assert_eq!((t.odometer_km, t.ignition), (Some(12.346), Some(false)));
        t.validate(Some(1_700_000_000_000), &Default::default()).unwrap();
    }
}
