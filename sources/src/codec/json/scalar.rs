//! Values that JSON has no form of its own for: times, days, decimal numbers. Read from the raw text of a JSON value.

use std::str::FromStr as _;

use jiff::civil::{Date, DateTime};
use jiff::{Timestamp, tz::TimeZone};

/// Why a text is no decimal number of the wanted size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::codec) enum Misfit {
    /// It is no number, or has an exponent.
    Form,
    /// It has more digits than there is room for.
    Range,
}

/// What stands between the quotes of a JSON text without escapes.
fn quoted(raw: &str) -> Option<&str> {
    raw.strip_prefix('"')?.strip_suffix('"').filter(|text| !text.contains(['\\', '"']))
}

/// Milliseconds since the epoch.
pub(in crate::codec) fn time(raw: &str) -> Option<i64> {
    match quoted(raw) {
        Some(text) => time_of_text(text),
        None => raw.parse().ok().filter(|ms| Timestamp::from_millisecond(*ms).is_ok()),
    }
}

/// The same of a text: RFC 3339, in UTC where it has no offset.
pub(in crate::codec) fn time_of_text(text: &str) -> Option<i64> {
    // Names of zones, as in 2026-01-31T12:00:00+01:00[Europe/Berlin], would make it depend on a database.
    if text.len() > 64 || text.contains('[') {
        return None;
    }
    let utc = |text: &str| DateTime::from_str(text)?.to_zoned(TimeZone::UTC).map(|time| time.timestamp());
    let time = Timestamp::from_str(text).or_else(|_| utc(text)).ok();
    // A day alone is no time.
    time.map(Timestamp::as_millisecond).filter(|_| text.len() > 10)
}

/// Days since the epoch.
pub(in crate::codec) fn day(raw: &str) -> Option<i64> {
    day_of_text(quoted(raw)?)
}

/// The same of a text: `2026-01-31`.
pub(in crate::codec) fn day_of_text(text: &str) -> Option<i64> {
    let date = Date::from_str(text).ok().filter(|_| text.len() == 10)?;
    Some(i64::from((date - jiff::civil::date(1970, 1, 1)).get_days()))
}

/// The digits of a number, as a JSON number or a text, without the point: `12.5` of a scale of 2 is 1250.
pub(in crate::codec) fn decimal(raw: &str, precision: u8, scale: u8) -> Result<i128, Misfit> {
    let text = quoted(raw).unwrap_or(raw);
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(Misfit::Form);
    }
    // Zeros that mean nothing take no room.
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let (scale, precision) = (usize::from(scale), usize::from(precision));
    if fraction.len() > scale || whole.len() > precision - scale {
        return Err(Misfit::Range);
    }
    let mut sum: i128 = 0;
    for digit in whole.bytes().chain(fraction.bytes()).chain((fraction.len()..scale).map(|_| b'0')) {
        sum = sum * 10 + i128::from(digit - b'0');
    }
    Ok(if negative { -sum } else { sum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_unless_they_say_otherwise() {
        let noon = Some(1_769_860_800_000);
        for text in [
            "1769860800000",
            "\"2026-01-31T12:00:00Z\"",
            "\"2026-01-31T13:00:00+01:00\"",
            "\"2026-01-31T12:00:00\"",
            "\"2026-01-31 12:00:00\"",
            "\"2026-01-31T12:00:00.0004Z\"",
        ] {
            assert_eq!(time(text), noon, "{text}");
        }
        for text in [
            "1.5",
            "\"2026-01-31\"",
            "\"yesterday\"",
            "\"\"",
            "true",
            "9999999999999999",
            "\"2026-02-30T12:00:00Z\"",
            "\"2026-01-31T12:00:00+01:00[Europe/Berlin]\"",
            "\"1769860800000\"",
        ] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn days_are_counted_from_1970() {
        assert_eq!(
            (day("\"1970-01-01\""), day("\"2026-01-31\""), day("\"1969-12-31\"")),
            (Some(0), Some(20_484), Some(-1))
        );
        for text in ["\"2026-02-30\"", "\"20260131\"", "20484", "\"2026-01-31T00:00:00Z\"", "\"\""] {
            assert_eq!(day(text), None, "{text}");
        }
    }

    #[test]
    fn decimals_are_exact_or_refused() {
        for (text, digits) in [
            ("12.5", 1250),
            ("\"12.50\"", 1250),
            ("-0.01", -1),
            ("007", 700),
            ("1.5000", 150),
            ("0", 0),
            ("999.99", 99999),
        ] {
            assert_eq!(decimal(text, 5, 2), Ok(digits), "{text}");
        }
        for text in ["1000", "1.005", "-1000.00", "99999999999999999999999999999999999999999999"] {
            assert_eq!(decimal(text, 5, 2), Err(Misfit::Range), "{text}");
        }
        for text in ["1e2", "", "\"\"", ".5", "5.", "--1", "\"1,5\"", "true", "+1", "\"a\""] {
            assert_eq!(decimal(text, 5, 2), Err(Misfit::Form), "{text}");
        }
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Ok(10i128.pow(38) - 1));
    }
}
