//! Track points from GPX. A point without a place or a time is left out and named by its number.

use operators::error::{Refusal, excerpt};

use super::{Point, Trace, number, time};
use crate::SourceError;

/// Most elements of a document.
const NODES_MAX: u32 = 50_000_000;

/// Reads all track points into `trace` as the journey of `device`.
pub(super) fn read(bytes: &[u8], device: &str, trace: &mut Trace) -> Result<(), SourceError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|why| SourceError::Configuration(format!("not UTF-8 at byte {}", why.valid_up_to())))?;
    let options = roxmltree::ParsingOptions { nodes_limit: NODES_MAX, ..Default::default() };
    let document = roxmltree::Document::parse_with_options(text.trim_start_matches('\u{feff}'), options)
        .map_err(|why| SourceError::Configuration(format!("not XML: {why}")))?;
    if document.root_element().tag_name().name() != "gpx" {
        let name = excerpt(document.root_element().tag_name().name());
        return Err(SourceError::Configuration(format!("the document is <{name}>, not <gpx>")));
    }
    let points = document.descendants().filter(|node| node.has_tag_name_of("trkpt"));
    for (index, node) in points.enumerate() {
        let row = index as u64 + 1;
        match point(node) {
            Ok(point) => trace.push(row, device, point),
            Err(why) => trace.refuse(row, why),
        }
    }
    Ok(())
}

trait Named {
    fn has_tag_name_of(&self, name: &str) -> bool;
}

impl Named for roxmltree::Node<'_, '_> {
    /// By the local name: namespaces differ from version to version.
    fn has_tag_name_of(&self, name: &str) -> bool {
        self.is_element() && self.tag_name().name() == name
    }
}

fn point(node: roxmltree::Node<'_, '_>) -> Result<Point, Refusal> {
    let missing = |name: &'static str| Refusal::new("field_missing", format!("the point has no {name}")).at(name);
    let attribute = |name: &'static str| node.attribute(name).ok_or_else(|| missing(name));
    let child = |name: &str| node.children().find(|child| child.has_tag_name_of(name)).and_then(|child| child.text());
    Ok(Point {
        device: 0,
        ts: time(child("time").ok_or_else(|| missing("time"))?)?,
        seq: 0,
        lat: number("lat", attribute("lat")?)?,
        lon: number("lon", attribute("lon")?)?,
        altitude_m: child("ele").map(|text| number("ele", text)).transpose()?,
        heading_deg: child("course").map(|text| number("course", text)).transpose()?,
        // GPX 1.0 has metres per second.
        speed_kmh: child("speed").map(|text| number("speed", text)).transpose()?.map(|speed| speed * 3.6),
        attributes: None,
    })
}
