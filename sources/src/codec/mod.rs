//! From the bytes of a record to Arrow rows. A record that cannot be decoded becomes a row of the rejected batch with its
//! reason and never stops the records around it; what a record decodes to depends on its bytes and position alone.

pub mod declared;
pub mod json;

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::RecordBatch;
use operators::error::{Position, Refusal, RejectedBuilder};
use operators::record::Stream;
use operators::record::declared::{Declared, DeclaredBuilder};
use operators::record::registry::RegistryBuilder;
use operators::record::telemetry::{Limits, TelemetryBuilder};
use operators::time::Tick;

/// Largest value of a telemetry record, in bytes.
pub const TELEMETRY_BYTES_MAX: usize = 64 << 10;
/// Largest value of a reference record, in bytes.
pub const REFERENCE_BYTES_MAX: usize = 1 << 20;
/// Largest key of any record that is looked at, in bytes; a longer one cannot be an id.
const KEY_BYTES_MAX: usize = 1 << 10;

/// How far ahead of its append time a message's own time may lie, in milliseconds: a day, more than a wrong time zone makes.
/// A later one would be its device's newest for ever.
const AHEAD_MS_MAX: i64 = 86_400_000;
/// An append time before this one, in 2001, is none.
const APPEND_MS_MIN: i64 = 1_000_000_000_000;

/// One record of a log, borrowed for the time of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset in the partition.
    pub offset: i64,
    /// When the log took it, in milliseconds since the epoch; 0 or less where the log does not tell.
    pub append_ms: i64,
    /// Key, if it has one.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// What a decoder has made since it was last asked.
#[derive(Debug, Default)]
pub struct Decoded {
    /// Rows of the stream's schema, in offset order.
    pub rows: Option<RecordBatch>,
    /// Records that were refused (columns of `operators::error::rejected_schema`).
    pub rejected: Option<RecordBatch>,
}

/// Decodes the records of one partition of one stream.
///
/// ```
/// use operators::record::Stream;
/// use sources::codec::{Decoder, Record};
/// let mut decoder = Decoder::new(Stream::Telemetry, "telemetry.raw".into(), 0);
/// let value = br#"{"device_id":"d-1","ts":1700000000000,"lat":54.1,"lon":11.2}"#;
/// decoder.push(&Record { offset: 7, append_ms: 1, key: Some(b"d-1"), value: Some(value) }, 10).expect("a good record");
/// let tombstone = Record { offset: 8, append_ms: 2, key: Some(b"d-1"), value: None };
/// assert_eq!(decoder.push(&tombstone, 10), Err("unexpected_tombstone"));
/// let decoded = decoder.finish();
/// assert_eq!(decoded.rows.map(|rows| rows.num_rows()), Some(1));
/// assert_eq!(decoded.rejected.map(|rows| rows.num_rows()), Some(1));
/// ```
#[derive(Debug)]
pub struct Decoder {
    topic: Arc<str>,
    partition: i32,
    rows: Rows,
    rejected: RejectedBuilder,
}

#[derive(Debug)]
enum Rows {
    Telemetry(json::Parser, Box<TelemetryBuilder>),
    Reference(Stream, Box<RegistryBuilder>),
    Declared(&'static Declared, Box<DeclaredBuilder>),
}

impl Decoder {
    /// A decoder for the records of `partition` of the topic that carries `stream`.
    #[must_use]
    pub fn new(stream: Stream, topic: Arc<str>, partition: i32) -> Self {
        let rows = match stream {
            Stream::Telemetry => Rows::Telemetry(json::Parser::default(), Box::default()),
            Stream::Declared(declared) => Rows::Declared(declared, Box::new(DeclaredBuilder::new(declared))),
            reference => Rows::Reference(reference, Box::new(RegistryBuilder::new(reference))),
        };
        Self { topic, partition, rows, rejected: RejectedBuilder::default() }
    }

    /// Decodes one record that was given `tick`: a row more, or a rejected record more.
    ///
    /// # Errors
    /// The code of the refusal, for counting; the record is in the rejected batch.
    pub fn push(&mut self, record: &Record<'_>, tick: Tick) -> Result<(), &'static str> {
        let at = Position { partition: self.partition, offset: record.offset, tick };
        let done = match &mut self.rows {
            Rows::Telemetry(parser, builder) => telemetry(parser, builder, record, at),
            Rows::Reference(stream, builder) => reference(*stream, builder, record, at),
            Rows::Declared(of, builder) => declared::push(of, builder, record, at),
        };
        done.map_err(|why| {
            // A value over the limit is kept only in part: the record itself is still in its log.
            let value = record.value.map(|v| &v[..v.len().min(REFERENCE_BYTES_MAX)]);
            self.rejected.push(&self.topic, at, record.key, value, &why);
            why.code
        })
    }

    /// Rows and rejected records since the last [`finish`](Self::finish).
    #[must_use]
    pub fn len(&self) -> usize {
        self.rejected.len()
            + match &self.rows {
                Rows::Telemetry(_, builder) => builder.len(),
                Rows::Reference(_, builder) => builder.len(),
                Rows::Declared(_, builder) => builder.len(),
            }
    }

    /// Whether nothing was decoded since the last [`finish`](Self::finish).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was decoded so far; the decoder is empty again.
    pub fn finish(&mut self) -> Decoded {
        let rows = match &mut self.rows {
            Rows::Telemetry(_, builder) => (!builder.is_empty()).then(|| builder.finish()),
            Rows::Reference(_, builder) => (!builder.is_empty()).then(|| builder.finish()),
            Rows::Declared(_, builder) => (!builder.is_empty()).then(|| builder.finish()),
        };
        Decoded { rows, rejected: (!self.rejected.is_empty()).then(|| self.rejected.finish()) }
    }
}

fn telemetry(
    parser: &mut json::Parser,
    builder: &mut TelemetryBuilder,
    record: &Record<'_>,
    at: Position,
) -> Result<(), Refusal> {
    let value = record.value.ok_or_else(|| {
        Refusal::new("unexpected_tombstone", "a null value on a stream of events")
            .hint("telemetry is never deleted; send nothing instead")
    })?;
    sized(value, TELEMETRY_BYTES_MAX)?;
    let key = keyed(record.key)?;
    let message = guard(|| parser.parse(value))?;
    let message = message.telemetry();
    message.validate(None, &Limits::default())?;
    if record.append_ms >= APPEND_MS_MIN && message.ts > record.append_ms.saturating_add(AHEAD_MS_MAX) {
        let why = format!("ts {} is more than a day ahead of {}, when the log took it", message.ts, record.append_ms);
        let why = Refusal::new("event_time_implausible", why).at("ts");
        return Err(why.hint("ts is milliseconds since 1970-01-01 UTC: set the device's clock"));
    }
    if key != message.device_id.as_bytes() {
        return Err(mismatch(key, "device_id", message.device_id));
    }
    builder.push(&message, at);
    Ok(())
}

fn reference(stream: Stream, builder: &mut RegistryBuilder, record: &Record<'_>, at: Position) -> Result<(), Refusal> {
    let key = keyed(record.key)?;
    let Some(value) = record.value else {
        builder.delete(json::tombstone_id(stream, key)?, at);
        return Ok(());
    };
    sized(value, REFERENCE_BYTES_MAX)?;
    let row = guard(|| json::Reference::parse(stream, value))?;
    if !row.is_keyed_by(key) {
        return Err(mismatch(key, row.key_name(), row.key()));
    }
    row.with_values(|values| builder.upsert(values, at));
    Ok(())
}

fn keyed(key: Option<&[u8]>) -> Result<&[u8], Refusal> {
    match key {
        Some(key) if key.len() > KEY_BYTES_MAX => {
            Err(Refusal::new("key_mismatch", format!("a key of {} bytes is no id", key.len())))
        }
        Some(key) if !key.is_empty() => Ok(key),
        _ => Err(Refusal::new("key_missing", "the record has no key").hint("key each record by its id")),
    }
}

fn sized(value: &[u8], bytes_max: usize) -> Result<(), Refusal> {
    if value.len() > bytes_max {
        let message = format!("a value of {} bytes is over the limit of {bytes_max}", value.len());
        return Err(Refusal::new("record_too_large", message));
    }
    Ok(())
}

fn mismatch(key: &[u8], field: &'static str, id: &str) -> Refusal {
    let key = operators::error::excerpt(&String::from_utf8_lossy(key));
    let message = format!("key \"{key}\" is not the {field} \"{}\" of the value", operators::error::excerpt(id));
    Refusal::new("key_mismatch", message).at(field)
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread is inside a decoder, whose panics are caught and become dead letters: a panic hook that ends the
/// process must let these pass.
#[must_use]
pub fn is_guarded() -> bool {
    GUARDED.get()
}

/// Turns a panic of `decode` into a refusal. A net, not a plan: decoders are written and tested not to panic.
pub(crate) fn guard<T>(decode: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(decode));
    GUARDED.set(false);
    done.unwrap_or_else(|_| {
        Err(Refusal::new("decoder_panic", "the decoder failed on this record").hint("report it with the record"))
    })
}

#[cfg(test)]
mod tests;
