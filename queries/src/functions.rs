//! SQL functions of ours, for what fleets ask and DataFusion has no function for.
//!
//! Invariant: each is a function of its arguments alone. A null argument gives null; an argument that makes no sense fails
//! that row, which becomes a fault.

use std::sync::Arc;

use datafusion::arrow::array::timezone::Tz;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, Float64Array, TimestampMillisecondArray};
use datafusion::arrow::datatypes::{DataType, Float64Type, TimeUnit, TimestampMillisecondType};
use datafusion::arrow::temporal_conversions::as_datetime_with_timezone;
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{ColumnarValue, ScalarUDF, Volatility, create_udf};
use operators::distance;
use operators::error::excerpt;

/// Name, arguments and meaning of each, for the pages.
pub const FUNCTIONS: [(&str, &str); 3] = [
    (
        "distance_km(lat1, lon1, lat2, lon2)",
        "Kilometres between two positions on a sphere, by the haversine formula (R. W. Sinnott, Virtues of the Haversine, \
         1984); at most 0.5 % off.",
    ),
    ("local_time(ts, zone)", "What a clock shows in a time zone such as `Europe/Berlin`, which may be a column."),
    ("json_number(json, key)", "The number under a key of a JSON object; null if there is none."),
];

/// All of them.
#[must_use]
pub fn functions() -> Vec<ScalarUDF> {
    let (float, text) = (DataType::Float64, DataType::Utf8View);
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let of = |name, arguments, result, body: fn(&[ArrayRef]) -> Result<ArrayRef>| {
        create_udf(name, arguments, result, Volatility::Immutable, Arc::new(move |given| over_rows(given, body)))
    };
    vec![
        of("distance_km", vec![float.clone(); 4], float.clone(), distance_km),
        of("local_time", vec![time.clone(), text.clone()], time, local_time),
        of("json_number", vec![text.clone(), text], float, json_number),
    ]
}

/// Calls a function of columns; constants alone give a constant.
fn over_rows(given: &[ColumnarValue], body: fn(&[ArrayRef]) -> Result<ArrayRef>) -> Result<ColumnarValue> {
    let out = body(&ColumnarValue::values_to_arrays(given)?)?;
    let constant = given.iter().all(|value| matches!(value, ColumnarValue::Scalar(_)));
    Ok(match constant {
        true => ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&out, 0)?),
        false => ColumnarValue::Array(out),
    })
}

fn distance_km(given: &[ArrayRef]) -> Result<ArrayRef> {
    let columns: Vec<&Float64Array> = given.iter().map(|column| column.as_primitive::<Float64Type>()).collect();
    let rows = columns[0].len();
    let at = |row: usize| {
        let there = columns.iter().all(|column| column.is_valid(row));
        let value = |index: usize| columns[index].value(row);
        there.then(|| distance::distance_km([value(0), value(1)], [value(2), value(3)]))
    };
    Ok(Arc::new((0..rows).map(at).collect::<Float64Array>()))
}

fn local_time(given: &[ArrayRef]) -> Result<ArrayRef> {
    let (times, zones) = (given[0].as_primitive::<TimestampMillisecondType>(), given[1].as_string_view());
    let mut known: Option<(&str, Tz)> = None;
    let mut out = TimestampMillisecondArray::builder(times.len());
    for row in 0..times.len() {
        if times.is_null(row) || zones.is_null(row) {
            out.append_null();
            continue;
        }
        let name = zones.value(row);
        let zone = match known {
            Some((last, zone)) if last == name => zone,
            _ => name.parse::<Tz>().map_err(|_| wrong(format!("there is no time zone '{}'", excerpt(name))))?,
        };
        known = Some((name, zone));
        let there = as_datetime_with_timezone::<TimestampMillisecondType>(times.value(row), zone)
            .ok_or_else(|| wrong(format!("{} is no time", times.value(row))))?;
        out.append_value(there.naive_local().and_utc().timestamp_millis());
    }
    Ok(Arc::new(out.finish()))
}

fn json_number(given: &[ArrayRef]) -> Result<ArrayRef> {
    let (texts, keys) = (given[0].as_string_view(), given[1].as_string_view());
    let at = |row: usize| {
        if texts.is_null(row) || keys.is_null(row) {
            return None;
        }
        let value: serde_json::Value = serde_json::from_str(texts.value(row)).ok()?;
        value.get(keys.value(row))?.as_f64()
    };
    Ok(Arc::new((0..texts.len()).map(at).collect::<Float64Array>()))
}

fn wrong(why: String) -> DataFusionError {
    DataFusionError::Execution(why)
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::StringViewArray;

    use super::*;

    #[test]
    fn distances_on_the_sphere() {
        // Berlin to Munich; a quarter of a meridian; nothing.
        let km = distance::distance_km([52.520, 13.405], [48.137, 11.575]);
        assert!((km - 504.4).abs() < 0.5, "{km}");
        let quarter = distance::distance_km([0.0, 0.0], [90.0, 0.0]);
        assert!((quarter - 10_007.557).abs() < 0.01, "{quarter}");
        assert_eq!(distance::distance_km([1.0, 2.0], [1.0, 2.0]), 0.0);
        let opposite = distance::distance_km([0.0, 0.0], [0.0, 180.0]);
        assert!((opposite - 20_015.115).abs() < 0.01, "{opposite}");
    }

    #[test]
    fn clocks_of_zones() {
        // Before and after the clocks of Berlin go forward: 2026-03-29 01:00 UTC.
        let before = 1_774_745_999_000;
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(vec![before, before + 1_000, before]));
        let berlin = "Europe/Berlin";
        let zones: ArrayRef = Arc::new(StringViewArray::from(vec![Some(berlin), Some(berlin), None]));
        let local = local_time(&[times.clone(), zones]).unwrap();
        let hour = 3_600_000;
        let wanted = TimestampMillisecondArray::from(vec![Some(before + hour), Some(before + 1_000 + 2 * hour), None]);
        assert_eq!(local.as_primitive::<TimestampMillisecondType>(), &wanted);
        let nowhere: ArrayRef = Arc::new(StringViewArray::from(vec!["Europe/Atlantis"; 3]));
        let why = local_time(&[times, nowhere]).unwrap_err().to_string();
        assert!(why.contains("there is no time zone 'Europe/Atlantis'"), "{why}");
    }

    #[test]
    fn numbers_in_json() {
        let texts = [r#"{"speed_kmh": 80.5}"#, r#"{"speed_kmh": "x"}"#, "[]", "no"];
        let texts: ArrayRef = Arc::new(StringViewArray::from(texts.to_vec()));
        let keys: ArrayRef = Arc::new(StringViewArray::from(vec!["speed_kmh"; 4]));
        let found = json_number(&[texts, keys]).unwrap();
        let found: Vec<_> = found.as_primitive::<Float64Type>().iter().collect();
        assert_eq!(found, [Some(80.5), None, None, None]);
    }
}
