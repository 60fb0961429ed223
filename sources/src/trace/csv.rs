//! Positions from CSV: the first line names the columns, in any order. A bad row is left out and named by its line.

use operators::error::{Refusal, excerpt};

use super::{Point, Trace, TraceOptions, number, time};
use crate::SourceError;

/// Places of the columns.
struct Places {
    device: usize,
    time: usize,
    lat: usize,
    lon: usize,
    heading: Option<usize>,
    speed: Option<usize>,
    attributes: Vec<(String, usize)>,
}

/// Reads all rows into `trace`.
pub(super) fn read(bytes: &[u8], options: &TraceOptions, trace: &mut Trace) -> Result<(), SourceError> {
    let mut reader = ::csv::ReaderBuilder::new().flexible(true).trim(::csv::Trim::All).from_reader(bytes);
    let names = reader.byte_headers().map_err(|why| SourceError::Configuration(format!("no line of names: {why}")))?;
    let places = places(names, options)?;
    let mut row = ::csv::ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut row) {
            Ok(false) => return Ok(()),
            Ok(true) => {
                let line = row.position().map_or(0, ::csv::Position::line);
                match point(&row, &places) {
                    Ok((device, point)) => trace.push(line, &format!("{}{device}", options.device_prefix), point),
                    Err(why) => trace.refuse(line, why),
                }
            }
            Err(why) => return Err(SourceError::Configuration(format!("not CSV: {why}"))),
        }
    }
}

fn places(names: &::csv::ByteRecord, options: &TraceOptions) -> Result<Places, SourceError> {
    let columns = &options.columns;
    // A file may begin with a byte order mark.
    let plain = |name: &[u8]| String::from_utf8_lossy(name).trim_start_matches('\u{feff}').trim_matches('"').to_owned();
    let names: Vec<String> = names.iter().map(plain).collect();
    let place = |wanted: &str| names.iter().position(|name| name.eq_ignore_ascii_case(wanted));
    let needed = |option: &str, wanted: &str| {
        place(wanted).ok_or_else(|| {
            let known = excerpt(&names.join(", "));
            SourceError::Configuration(format!("there is no column \"{wanted}\" (columns.{option}); there are {known}"))
        })
    };
    let wanted = |option: &str, wanted: &str| match wanted {
        "" => Ok(None),
        name => needed(option, name).map(Some),
    };
    let mut attributes = Vec::new();
    for name in &columns.attributes {
        attributes.push((name.clone(), needed("attributes", name)?));
    }
    Ok(Places {
        device: needed("device", &columns.device)?,
        time: needed("time", &columns.time)?,
        lat: needed("lat", &columns.lat)?,
        lon: needed("lon", &columns.lon)?,
        heading: wanted("heading", &columns.heading)?,
        speed: wanted("speed", &columns.speed)?,
        attributes,
    })
}

fn point<'r>(row: &'r ::csv::ByteRecord, places: &Places) -> Result<(&'r str, Point), Refusal> {
    let text = |place: usize| {
        let field = row.get(place).ok_or_else(|| Refusal::new("field_missing", "the row is too short"))?;
        std::str::from_utf8(field).map_err(|_| Refusal::new("utf8_invalid", "a field is not UTF-8"))
    };
    let optional = |name: &'static str, place: Option<usize>| match place.map(text).transpose()? {
        None | Some("") => Ok(None),
        Some(text) => number(name, text).map(Some),
    };
    let mut attributes = serde_json::Map::new();
    for (name, place) in &places.attributes {
        attributes.insert(name.clone(), text(*place)?.into());
    }
    let attributes = (!attributes.is_empty()).then(|| serde_json::Value::Object(attributes).to_string().into());
    let point = Point {
        device: 0,
        ts: time(text(places.time)?)?,
        seq: 0,
        lat: number("lat", text(places.lat)?)?,
        lon: number("lon", text(places.lon)?)?,
        altitude_m: None,
        heading_deg: optional("heading_deg", places.heading)?,
        speed_kmh: optional("speed_kmh", places.speed)?,
        attributes,
    };
    Ok((text(places.device)?, point))
}
