//! From a row to the record of a topic: key, value and headers.
//!
//! Invariant: the same row makes the same record, byte for byte, whenever and however often it is written.

use std::io::Write;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt64Array,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type, SchemaRef, UInt64Type};
use operators::batch::{DELETED, OFFSET, PARTITION, TICK};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::BaseRecord;

use super::{Target, Topic};
use crate::json::{self, Encoder, Text, Unsupported};
use crate::step::Rows;
use crate::view;

/// Header with a record's identity.
pub(super) const IDENTITY: &str = "hs-id";
/// Room for headers and the batch's own fields within `record_bytes_max`.
const HEADERS_BYTES: usize = 4_096;

/// What is kept from record to record: encoders by stream, buffers, counts by topic.
#[derive(Default)]
pub(super) struct Formats {
    identity: bool,
    record_bytes_max: usize,
    encoders: Vec<(&'static str, SchemaRef, Encoder)>,
    key: Vec<u8>,
    id: Vec<u8>,
    topic: String,
    value: Text,
    tally: Vec<(String, u64)>,
}

/// A record that is ready but for its id.
pub(super) struct Record<'a> {
    topic: &'a str,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Option<OwnedHeaders>,
    /// Empty if records carry none.
    id: &'a [u8],
}

impl<'a> Record<'a> {
    /// Its topic and identity.
    pub(super) fn identity(&self) -> (&'a str, &'a [u8]) {
        (self.topic, self.id)
    }

    pub(super) fn opaque(self, id: usize) -> BaseRecord<'a, [u8], [u8], usize> {
        let mut record = BaseRecord::with_opaque_to(self.topic, id);
        (record.key, record.payload, record.headers) = (self.key, self.value, self.headers);
        record
    }
}

impl Formats {
    pub(super) fn new(identity: bool, record_bytes_max: usize) -> Self {
        Self { identity, record_bytes_max, ..Self::default() }
    }

    /// Makes the encoder for these rows, unless it is there.
    pub(super) fn prepare(&mut self, topic: &Topic, rows: &Rows) -> Result<(), Unsupported> {
        let schema = rows.batch().schema_ref();
        let known = self.encoders.iter().any(|(stream, known, _)| *stream == topic.stream && known == schema);
        if known || matches!(topic.target, Target::DeadLetters(_)) {
            return Ok(());
        }
        let encoder = Encoder::new(schema, topic.nulls, topic.meta)?;
        self.encoders.retain(|(stream, ..)| *stream != topic.stream);
        self.encoders.push((topic.stream, schema.clone(), encoder));
        Ok(())
    }

    /// The records of a batch that was [`prepare`](Self::prepare)d.
    pub(super) fn batch<'a>(&'a mut self, topic: &'a Topic, rows: &'a Rows) -> Batch<'a> {
        let columns = match &topic.target {
            Target::DeadLetters(name) => Columns::Refused(Refused::of(rows.batch(), name)),
            target => {
                let encoder = self.encoders.iter().find(|(stream, ..)| *stream == topic.stream);
                let encoder = &encoder.expect("prepared before").2;
                Columns::Row(Row::of(encoder, topic, target, rows))
            }
        };
        let (key, id, value) = (&mut self.key, &mut self.id, &mut self.value);
        let own = Buffers { key, id, value, topic: &mut self.topic, tally: &mut self.tally };
        Batch {
            columns,
            own,
            identity: self.identity,
            value_bytes_max: self.record_bytes_max.saturating_sub(HEADERS_BYTES),
        }
    }

    /// Records made since the last call, by topic.
    pub(super) fn take_tally(&mut self) -> Vec<(String, u64)> {
        std::mem::take(&mut self.tally)
    }
}

struct Buffers<'a> {
    key: &'a mut Vec<u8>,
    id: &'a mut Vec<u8>,
    value: &'a mut Text,
    topic: &'a mut String,
    tally: &'a mut Vec<(String, u64)>,
}

/// The rows of one batch as records.
pub(super) struct Batch<'a> {
    columns: Columns<'a>,
    own: Buffers<'a>,
    identity: bool,
    value_bytes_max: usize,
}

enum Columns<'a> {
    Row(Row<'a>),
    Refused(Refused<'a>),
}

impl Batch<'_> {
    /// The record of one row.
    pub(super) fn record(&mut self, row: usize) -> Result<Record<'_>, String> {
        let record = match &self.columns {
            Columns::Row(columns) => columns.record(row, &mut self.own, self.identity)?,
            Columns::Refused(columns) => columns.record(row, &mut self.own, self.value_bytes_max),
        };
        Ok(record)
    }
}

fn count(tally: &mut Vec<(String, u64)>, topic: &str) {
    match tally.iter_mut().find(|(name, _)| name == topic) {
        Some((_, count)) => *count += 1,
        None => tally.push((topic.to_owned(), 1)),
    }
}

/// Columns of a stream whose rows become JSON.
struct Row<'a> {
    stream: &'static str,
    topic: Names<'a>,
    keys: Vec<&'a ArrayRef>,
    values: json::Rows<'a>,
    /// The values, where they are ready.
    ready: Option<&'a StringArray>,
    /// Numbers of events that have no place in a log.
    ids: Option<&'a UInt64Array>,
    deleted: Option<&'a BooleanArray>,
    place: Option<(&'a Int32Array, &'a Int64Array)>,
    ticks: Option<&'a UInt64Array>,
}

enum Names<'a> {
    One(&'a str),
    By(&'a ArrayRef, &'a [(String, String)]),
}

impl<'a> Row<'a> {
    fn of(encoder: &'a Encoder, topic: &'a Topic, target: &'a Target, rows: &'a Rows) -> Self {
        let batch = rows.batch();
        let column = |name: &str| {
            batch.column_by_name(name).unwrap_or_else(|| panic!("stream {} has no column {name}", topic.stream))
        };
        let table = matches!(rows, Rows::Upsert(_));
        let place = batch.column_by_name(PARTITION).zip(batch.column_by_name(OFFSET)).filter(|_| !table);
        Self {
            stream: topic.stream,
            topic: match target {
                Target::Topic(name) | Target::DeadLetters(name) => Names::One(name),
                Target::ByColumn(by, names) => Names::By(column(by), names),
            },
            keys: topic.keys.iter().map(|name| column(name)).collect(),
            values: encoder.rows(batch),
            ready: batch.column_by_name(view::JSON).map(|ready| ready.as_string()),
            ids: batch.column_by_name(view::ID).map(|ids| ids.as_primitive::<UInt64Type>()),
            deleted: table.then(|| column(DELETED).as_boolean()),
            place: place
                .map(|(partition, offset)| (partition.as_primitive::<Int32Type>(), offset.as_primitive::<Int64Type>())),
            ticks: batch.column_by_name(TICK).map(|ticks| ticks.as_primitive::<UInt64Type>()),
        }
    }

    fn record<'b>(&'b self, row: usize, own: &'b mut Buffers<'_>, identity: bool) -> Result<Record<'b>, String> {
        let topic = match &self.topic {
            Names::One(name) => *name,
            Names::By(column, names) => {
                let value = text(column, row).unwrap_or("");
                let name = names.iter().find(|(of, _)| of == value);
                let missing =
                    || format!("no topic for {:?} of stream {}", operators::error::excerpt(value), self.stream);
                &name.ok_or_else(missing)?.1
            }
        };
        let key = match self.keys[..] {
            [] => None,
            [column] if text(column, row).is_some() => text(column, row).map(str::as_bytes),
            _ => {
                own.key.clear();
                joined(&self.keys, row, own.key);
                Some(own.key.as_slice())
            }
        };
        let headers = identity.then(|| {
            own.id.clear();
            self.identify(row, key, own.id);
            OwnedHeaders::new_with_capacity(1).insert(Header { key: IDENTITY, value: Some(own.id.as_slice()) })
        });
        let gone = self.deleted.is_some_and(|deleted| deleted.value(row));
        if !gone {
            own.value.clear();
            match self.ready {
                Some(ready) => own.value.raw(ready.value(row).as_bytes()),
                None => self.values.write(row, own.value),
            }
        }
        count(own.tally, topic);
        let id = if identity { own.id.as_slice() } else { &[] };
        Ok(Record { topic, key, value: (!gone).then(|| own.value.as_bytes()), headers, id })
    }

    /// `stream/partition/offset` of an event with a place in a log, `stream/number` of one that has a
    /// number, `stream/key/tick` of anything else.
    fn identify(&self, row: usize, key: Option<&[u8]>, out: &mut Vec<u8>) {
        out.extend_from_slice(self.stream.as_bytes());
        let mut number = itoa::Buffer::new();
        match self.place {
            Some((partition, offset)) => {
                out.push(b'/');
                out.extend_from_slice(number.format(partition.value(row)).as_bytes());
                out.push(b'/');
                out.extend_from_slice(number.format(offset.value(row)).as_bytes());
            }
            None => {
                out.push(b'/');
                if let Some(ids) = self.ids {
                    return out.extend_from_slice(number.format(ids.value(row)).as_bytes());
                }
                out.extend_from_slice(key.unwrap_or_default());
                out.push(b'/');
                out.extend_from_slice(number.format(self.ticks.map_or(0, |ticks| ticks.value(row))).as_bytes());
            }
        }
    }
}

fn text(column: &ArrayRef, row: usize) -> Option<&str> {
    if column.is_null(row) {
        return None;
    }
    match column.data_type() {
        DataType::Utf8View => Some(column.as_string_view().value(row)),
        DataType::Utf8 => Some(column.as_string::<i32>().value(row)),
        _ => None,
    }
}

fn joined(keys: &[&ArrayRef], row: usize, out: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    for (index, column) in keys.iter().enumerate() {
        if index > 0 {
            out.push(b'|');
        }
        match column.data_type() {
            _ if column.is_null(row) => {}
            DataType::Int64 => {
                out.extend_from_slice(number.format(column.as_primitive::<Int64Type>().value(row)).as_bytes());
            }
            DataType::Int32 => {
                out.extend_from_slice(number.format(column.as_primitive::<Int32Type>().value(row)).as_bytes());
            }
            DataType::UInt64 => {
                out.extend_from_slice(number.format(column.as_primitive::<UInt64Type>().value(row)).as_bytes());
            }
            _ => out.extend_from_slice(text(column, row).unwrap_or_default().as_bytes()),
        }
    }
}

/// Columns of refused records.
struct Refused<'a> {
    target: &'a str,
    topics: &'a ArrayRef,
    partitions: &'a Int32Array,
    offsets: &'a Int64Array,
    ticks: &'a UInt64Array,
    /// Header names and their texts.
    reasons: [(&'static str, &'a ArrayRef); 4],
    keys: &'a BinaryArray,
    values: &'a BinaryArray,
}

impl<'a> Refused<'a> {
    fn of(rows: &'a RecordBatch, target: &'a str) -> Self {
        let column =
            |name: &str| rows.column_by_name(name).unwrap_or_else(|| panic!("refused records have no column {name}"));
        let reasons = ["code", "message", "field", "hint"].map(|name| (name, column(name)));
        let ticks = crate::run::ticks(rows);
        Self {
            target,
            topics: column("topic"),
            partitions: column("partition").as_primitive(),
            offsets: column("offset").as_primitive(),
            ticks,
            reasons,
            keys: column("key").as_binary(),
            values: column("value").as_binary(),
        }
    }

    fn record<'b>(&'b self, row: usize, own: &'b mut Buffers<'_>, value_bytes_max: usize) -> Record<'b> {
        let from = text(self.topics, row).unwrap_or_default();
        own.topic.clear();
        own.topic.push_str(&self.target.replace("{topic}", from));
        let (partition, offset) = (self.partitions.value(row), self.offsets.value(row));
        own.id.clear();
        let _ = write!(own.id, "{from}/{partition}/{offset}");
        let mut headers = OwnedHeaders::new_with_capacity(12)
            .insert(Header { key: IDENTITY, value: Some(own.id.as_slice()) })
            .insert(Header { key: "topic", value: Some(from) })
            .insert(Header { key: "partition", value: Some(&partition.to_string()) })
            .insert(Header { key: "offset", value: Some(&offset.to_string()) })
            .insert(Header { key: "tick", value: Some(&self.ticks.value(row).to_string()) });
        for (name, column) in self.reasons {
            if let Some(reason) = text(column, row) {
                headers = headers.insert(Header { key: name, value: Some(reason) });
            }
        }
        let key = self.keys.is_valid(row).then(|| self.keys.value(row));
        let value = self.values.is_valid(row).then(|| self.values.value(row));
        let room = value_bytes_max.saturating_sub(key.map_or(0, <[u8]>::len));
        let value = value.map(|whole| {
            if whole.len() <= room {
                return whole;
            }
            // Cut rather than kept out: the headers tell where the whole of it is.
            let length = whole.len().to_string();
            let old = std::mem::take(&mut headers);
            headers = old.insert(Header { key: "value-bytes", value: Some(&length) });
            &whole[..room]
        });
        count(own.tally, own.topic);
        Record { topic: own.topic, key, value, headers: Some(headers), id: own.id }
    }
}
