//! The values of `$1`, `$2` and so on, as a client sends them.
//!
//! Invariant: whatever the bytes are, they become a value or a refusal.

use bytes::Bytes;
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use operators::error::{Refusal, excerpt};
use pgwire::api::Type;
use pgwire::api::portal::Format;

/// Microseconds from 1970 to 2000, from which Postgres counts.
const EPOCH_US: i64 = 946_684_800_000_000;

/// The values; `types` are what the client was told or told us.
///
/// # Errors
/// A value is not of its type, or has a form that is not understood.
pub fn values(given: &[Option<Bytes>], format: &Format, types: &[Type]) -> Result<Vec<ScalarValue>, Refusal> {
    if let Format::Individual(formats) = format
        && formats.len() != given.len()
    {
        let message = format!("{} values were given, and formats of {}", given.len(), formats.len());
        return Err(Refusal::new("sql_parameter", message));
    }
    let value = |(n, value): (usize, &Option<Bytes>)| {
        let kind = types.get(n).unwrap_or(&Type::UNKNOWN);
        let value = match value {
            None => Ok(ScalarValue::Utf8(None)),
            Some(bytes) if format.is_binary(n) => binary(bytes, kind),
            Some(bytes) => text(bytes),
        };
        value.map_err(|why| Refusal::new("sql_parameter", format!("${}: {why}", n + 1)).hint("send values as text"))
    };
    given.iter().enumerate().map(value).collect()
}

fn text(bytes: &[u8]) -> Result<ScalarValue, String> {
    let text = std::str::from_utf8(bytes).map_err(|why| format!("not UTF-8: {why}"))?;
    Ok(ScalarValue::from(text))
}

fn binary(bytes: &[u8], kind: &Type) -> Result<ScalarValue, String> {
    let wrong = || format!("{} bytes are no {kind}", bytes.len());
    Ok(match *kind {
        Type::BOOL => ScalarValue::from(i8::from_be_bytes(bytes.try_into().map_err(|_| wrong())?) != 0),
        Type::INT2 => ScalarValue::from(i16::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::INT4 => ScalarValue::from(i32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::OID => ScalarValue::from(i64::from(u32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?))),
        Type::INT8 => ScalarValue::from(i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::FLOAT4 => ScalarValue::from(f32::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::FLOAT8 => ScalarValue::from(f64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?)),
        Type::TIMESTAMP | Type::TIMESTAMPTZ => {
            let since = i64::from_be_bytes(bytes.try_into().map_err(|_| wrong())?);
            let zone = (*kind == Type::TIMESTAMPTZ).then(|| "UTC".into());
            ScalarValue::TimestampMicrosecond(Some(since.checked_add(EPOCH_US).ok_or_else(wrong)?), zone)
        }
        Type::TEXT | Type::VARCHAR | Type::NAME | Type::BPCHAR | Type::UNKNOWN => text(bytes)?,
        Type::BYTEA => ScalarValue::Binary(Some(bytes.to_vec())),
        _ => return Err(format!("a value of type {} cannot be read", excerpt(kind.name()))),
    })
}

/// The type that a client is asked to send for a parameter.
pub fn type_for(wanted: Option<&DataType>) -> Type {
    match wanted {
        Some(DataType::Boolean) => Type::BOOL,
        Some(DataType::Int8 | DataType::Int16 | DataType::UInt8) => Type::INT2,
        Some(DataType::Int32 | DataType::UInt16) => Type::INT4,
        Some(DataType::Int64 | DataType::UInt32) => Type::INT8,
        Some(DataType::Float16 | DataType::Float32) => Type::FLOAT4,
        Some(DataType::Float64) => Type::FLOAT8,
        Some(DataType::Timestamp(
            TimeUnit::Second | TimeUnit::Millisecond | TimeUnit::Microsecond | TimeUnit::Nanosecond,
            zone,
        )) => {
            if zone.is_some() {
                Type::TIMESTAMPTZ
            } else {
                Type::TIMESTAMP
            }
        }
        Some(DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => Type::BYTEA,
        _ => Type::TEXT,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(bytes: &[u8], format: &Format, kind: Type) -> Result<ScalarValue, Refusal> {
        values(&[Some(Bytes::copy_from_slice(bytes))], format, &[kind]).map(|mut all| all.remove(0))
    }

    #[test]
    fn values_are_read_by_format_and_type() {
        assert_eq!(one(b"7", &Format::UnifiedText, Type::INT4), Ok(ScalarValue::from("7")));
        assert_eq!(one(&7_i32.to_be_bytes(), &Format::UnifiedBinary, Type::INT4), Ok(ScalarValue::from(7_i32)));
        let zero = ScalarValue::TimestampMicrosecond(Some(EPOCH_US), None);
        assert_eq!(one(&[0; 8], &Format::Individual(vec![1]), Type::TIMESTAMP), Ok(zero));
        assert_eq!(values(&[None], &Format::UnifiedText, &[]), Ok(vec![ScalarValue::Utf8(None)]));
        let why = one(b"123", &Format::UnifiedBinary, Type::INT4).unwrap_err();
        assert_eq!(why.message, "$1: 3 bytes are no int4");
        assert!(one(&i64::MAX.to_be_bytes(), &Format::UnifiedBinary, Type::TIMESTAMPTZ).is_err());
        assert!(one(b"x", &Format::Individual(vec![]), Type::TEXT).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_value_or_a_refusal(bytes in proptest::collection::vec(any::<u8>(), 0..20), oid in 0_u32..3000) {
            let kind = Type::from_oid(oid).unwrap_or(Type::UNKNOWN);
            for format in [Format::UnifiedText, Format::UnifiedBinary] {
                if let Err(why) = one(&bytes, &format, kind.clone()) {
                    prop_assert_eq!(why.code, "sql_parameter");
                }
            }
        }
    }
}
