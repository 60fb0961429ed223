//! Recorded journeys, from CSV or GPX, played as the trackers would have sent them: in order of time, at their own speed, a
//! multiple of it, or as fast as they are taken; with their own times or shifted to now. What a file holds that is no
//! position is left out and named.

mod csv;
mod gpx;

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use operators::error::{Refusal, excerpt};
use operators::record::Stream;
use operators::record::telemetry::Telemetry;
use serde::Deserialize;

use crate::SourceError;
use crate::codec::json::write_telemetry;
use crate::publish::{Message, Timetable};

/// Largest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Most bad rows of which the reason is kept.
const REFUSALS_MAX: usize = 1_000;

/// How a file is read.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceOptions {
    /// Put before each device id.
    pub device_prefix: String,
    /// Names of a CSV file's columns.
    pub columns: Columns,
}

/// Names of a CSV file's columns, as its first line has them.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Device.
    pub device: String,
    /// Time in UTC: `YYYY-MM-DD HH:MM:SS`, RFC 3339, or seconds or milliseconds since the epoch.
    pub time: String,
    /// Degrees north.
    pub lat: String,
    /// Degrees east.
    pub lon: String,
    /// Degrees clockwise from north; empty for none.
    pub heading: String,
    /// Kilometres per hour; empty for none.
    pub speed: String,
    /// Columns that become attributes of the messages.
    pub attributes: Vec<String>,
}

/// How a trace is played.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlayOptions {
    /// How many times faster than recorded; 0 for as fast as the messages are taken.
    pub speed: f64,
    /// Whether times are shifted so that the journey happens now: with a speed it begins now, without it ends now.
    pub shift_to_now: bool,
}

/// A position of a journey.
#[derive(Clone, Debug, PartialEq)]
struct Point {
    /// Place in [`Trace::devices`].
    device: usize,
    ts: i64,
    seq: i64,
    lat: f64,
    lon: f64,
    altitude_m: Option<f64>,
    heading_deg: Option<f64>,
    speed_kmh: Option<f64>,
    attributes: Option<Box<str>>,
}

/// Journeys of one or several devices.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    devices: Vec<String>,
    /// In order of time; positions of the same time as in the file.
    points: Vec<Point>,
    refused: Vec<(u64, Refusal)>,
    refused_count: u64,
}

impl Trace {
    /// Reads a `.csv` or `.gpx` file.
    ///
    /// # Errors
    /// The file cannot be read, or is not what its name says.
    pub fn open(path: &Path, options: &TraceOptions) -> Result<Self, SourceError> {
        let shown = path.display();
        let fail = |why: std::io::Error| SourceError::Storage(format!("trace {shown}: {why}"));
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(fail)?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(fail)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(SourceError::Configuration(format!("trace {shown} is larger than {FILE_BYTES_MAX} bytes")));
        }
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let kind = path.extension().map(|kind| kind.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        let trace = match kind.as_str() {
            "csv" => Self::from_csv(&bytes, options),
            "gpx" => Self::from_gpx(&bytes, &stem, options),
            _ => Err(SourceError::Configuration("its name ends neither in .csv nor in .gpx".to_owned())),
        };
        trace.map_err(|why| SourceError::Configuration(format!("trace {shown}: {why}")))
    }

    /// Reads positions from CSV with a line of names.
    ///
    /// # Errors
    /// A column that is needed is not there.
    pub fn from_csv(bytes: &[u8], options: &TraceOptions) -> Result<Self, SourceError> {
        let mut trace = Self::default();
        csv::read(bytes, options, &mut trace)?;
        Ok(trace.ordered())
    }

    /// Reads the track points of a GPX document as the journey of `device`.
    ///
    /// # Errors
    /// It is not GPX.
    pub fn from_gpx(bytes: &[u8], device: &str, options: &TraceOptions) -> Result<Self, SourceError> {
        let mut trace = Self::default();
        gpx::read(bytes, &format!("{}{device}", options.device_prefix), &mut trace)?;
        Ok(trace.ordered())
    }

    /// Both traces as one.
    #[must_use]
    pub fn merge(mut self, other: Trace) -> Self {
        for mut point in other.points {
            point.device = self.device(&other.devices[point.device]);
            self.points.push(point);
        }
        self.refused.extend(other.refused);
        self.refused.truncate(REFUSALS_MAX);
        self.refused_count += other.refused_count;
        self.ordered()
    }

    /// Number of positions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there is no position.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Devices that move.
    #[must_use]
    pub fn devices(&self) -> &[String] {
        &self.devices
    }

    /// Times of the first and the last position, in milliseconds since the epoch.
    #[must_use]
    pub fn span_ms(&self) -> Option<(i64, i64)> {
        Some((self.points.first()?.ts, self.points.last()?.ts))
    }

    /// Rows that are no positions: how many, and the first ones with their line or number and the reason.
    #[must_use]
    pub fn refused(&self) -> (u64, &[(u64, Refusal)]) {
        (self.refused_count, &self.refused)
    }

    fn device(&mut self, id: &str) -> usize {
        // Files hold few devices, mostly many rows of one after the other.
        if let Some(at) = self.devices.iter().rposition(|known| known == id) {
            return at;
        }
        self.devices.push(id.to_owned());
        self.devices.len() - 1
    }

    /// Adds a position if it is sound.
    fn push(&mut self, row: u64, device: &str, mut point: Point) {
        let message = Telemetry {
            device_id: device,
            lat: Some(point.lat),
            lon: Some(point.lon),
            heading_deg: point.heading_deg,
            speed_kmh: point.speed_kmh,
            altitude_m: point.altitude_m,
            ..Telemetry::default()
        };
        match message.validate(None, &Default::default()) {
            Ok(()) => {
                point.device = self.device(device);
                self.points.push(point);
            }
            Err(why) => self.refuse(row, why),
        }
    }

    fn refuse(&mut self, row: u64, why: Refusal) {
        self.refused_count += 1;
        if self.refused.len() < REFUSALS_MAX {
            self.refused.push((row, why));
        }
    }

    /// In order of time, each device's messages counted from 1.
    fn ordered(mut self) -> Self {
        self.points.sort_by_key(|point| point.ts);
        let mut last: HashMap<usize, i64> = HashMap::new();
        for point in &mut self.points {
            let seq = last.entry(point.device).or_default();
            *seq += 1;
            point.seq = *seq;
        }
        self
    }
}

/// A time in UTC, in milliseconds since the epoch.
fn time(text: &str) -> Result<i64, Refusal> {
    let text = text.trim();
    if let Ok(number) = text.parse::<i64>() {
        // Seconds until the year 5138, milliseconds from 1973 on.
        return Ok(if number.unsigned_abs() < 100_000_000_000 { number * 1_000 } else { number });
    }
    if let Ok(timestamp) = text.parse::<jiff::Timestamp>() {
        return Ok(timestamp.as_millisecond());
    }
    let civil = text.parse::<jiff::civil::DateTime>().ok();
    let zoned = civil.and_then(|civil| civil.to_zoned(jiff::tz::TimeZone::UTC).ok());
    zoned.map(|zoned| zoned.timestamp().as_millisecond()).ok_or_else(|| {
        Refusal::new("field_type", format!("\"{}\" is not a time", excerpt(text)))
            .hint("write YYYY-MM-DD HH:MM:SS, in UTC")
    })
}

fn number(field: &'static str, text: &str) -> Result<f64, Refusal> {
    let refused = || Refusal::new("field_type", format!("{field} \"{}\" is not a number", excerpt(text))).at(field);
    text.trim().parse::<f64>().map_err(|_| refused())
}

/// Plays a trace.
#[derive(Debug)]
pub struct Player {
    trace: Trace,
    next: usize,
    /// When the first message is due.
    start_ms: i64,
    /// Added to each recorded time; with a speed, only to the first one, from which the others follow.
    first_ms: i64,
    speed: f64,
    shift: bool,
    value: Vec<u8>,
}

impl Player {
    /// Plays `trace` from `now_ms` (milliseconds since the epoch) on.
    ///
    /// # Errors
    /// The speed cannot be one.
    pub fn new(trace: Trace, options: &PlayOptions, now_ms: i64) -> Result<Self, SourceError> {
        if !(options.speed >= 0.0 && options.speed <= 1_000_000.0) {
            let why = format!("trace.speed is {}, not 0…1,000,000", options.speed);
            return Err(SourceError::Configuration(why));
        }
        let first_ms = trace.points.first().map_or(0, |point| point.ts);
        let (speed, shift) = (options.speed, options.shift_to_now);
        Ok(Self { trace, next: 0, start_ms: now_ms, first_ms, speed, shift, value: Vec::new() })
    }

    fn due_ms(&self, point: &Point) -> i64 {
        if self.speed == 0.0 {
            return self.start_ms;
        }
        self.start_ms + ((point.ts - self.first_ms) as f64 / self.speed) as i64
    }

    fn ts(&self, point: &Point) -> i64 {
        match self.trace.span_ms() {
            Some((_, last_ms)) if self.shift && self.speed == 0.0 => point.ts + self.start_ms - last_ms,
            _ if self.shift => self.due_ms(point),
            _ => point.ts,
        }
    }
}

impl Timetable for Player {
    fn next_until(&mut self, until_ms: i64) -> Option<Message<'_>> {
        let point = self.trace.points.get(self.next)?;
        let due_ms = self.due_ms(point);
        if due_ms > until_ms {
            return None;
        }
        let device_id = self.trace.devices[point.device].as_str();
        let message = Telemetry {
            device_id,
            ts: self.ts(point),
            seq: point.seq,
            lat: Some(point.lat),
            lon: Some(point.lon),
            altitude_m: point.altitude_m,
            heading_deg: point.heading_deg,
            speed_kmh: point.speed_kmh,
            attributes: point.attributes.as_deref(),
            ..Telemetry::default()
        };
        self.value.clear();
        write_telemetry(&message, &mut self.value);
        self.next += 1;
        Some(Message { stream: Stream::Telemetry, key: device_id.as_bytes(), value: Some(&self.value), due_ms })
    }

    fn next_due_ms(&self) -> Option<i64> {
        self.trace.points.get(self.next).map(|point| self.due_ms(point))
    }

    fn is_paced(&self) -> bool {
        self.speed > 0.0
    }
}

#[cfg(test)]
mod tests;
