//! Shapes of fences on the Earth: circles, polygons, and corridors along a line.
//!
//! Invariant: a shape has a border of its own on both sides of which there are positions, and does not reach over a pole or the
//! antimeridian. Edges are straight in degrees. A polygon is what an odd number of its edges is left of.

use super::wkt::{self, Wkt};
use crate::distance::distance_km;
use crate::error::excerpt;

/// Metres of a degree of latitude, on the sphere of [`distance_km`].
const DEGREE_M: f64 = 6_371_008.8 * std::f64::consts::PI / 180.0;
/// The greatest radius of a circle in metres.
const CIRCLE_M_MAX: f64 = 100_000.0;
/// The greatest half width of a corridor in metres: up to it the Earth may be taken for flat around a position.
const CORRIDOR_M_MAX: f64 = 10_000.0;
/// Degrees of latitude beyond which there are no fences: a degree of longitude is next to nothing there.
const LATITUDE_MAX: f64 = 89.0;

/// A position in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Degrees north.
    pub lat: f64,
    /// Degrees east.
    pub lon: f64,
}

/// Where positions can be that have to do with a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The corner in the south-west.
    pub least: Point,
    /// The corner in the north-east.
    pub most: Point,
}

impl Bounds {
    fn of(points: &[Point]) -> Bounds {
        let nothing = (Point { lat: f64::MAX, lon: f64::MAX }, Point { lat: f64::MIN, lon: f64::MIN });
        let (least, most) = points.iter().fold(nothing, |(least, most), point| {
            let least = Point { lat: least.lat.min(point.lat), lon: least.lon.min(point.lon) };
            (least, Point { lat: most.lat.max(point.lat), lon: most.lon.max(point.lon) })
        });
        Bounds { least, most }
    }

    /// The same and what is this far around it.
    #[must_use]
    pub fn widened(self, by_m: f64) -> Bounds {
        let lat = by_m / DEGREE_M;
        let highest = (self.most.lat + lat).abs().max((self.least.lat - lat).abs());
        let lon = lat / highest.to_radians().cos();
        let least = Point { lat: self.least.lat - lat, lon: self.least.lon - lon };
        Bounds { least, most: Point { lat: self.most.lat + lat, lon: self.most.lon + lon } }
    }

    /// Whether a position is in it.
    #[must_use]
    pub fn has(&self, at: Point) -> bool {
        self.least.lat <= at.lat && at.lat <= self.most.lat && self.least.lon <= at.lon && at.lon <= self.most.lon
    }
}

/// The shape of a fence.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    form: Form,
    bounds: Bounds,
}

#[derive(Clone, Debug, PartialEq)]
enum Form {
    Circle { centre: Point, radius_m: f64 },
    Polygon { rings: Box<[Box<[Point]>]> },
    Corridor { line: Box<[Point]>, radius_m: f64 },
}

impl Shape {
    /// The shape of this kind (`circle`, `polygon`, `corridor`) that a text (see [`wkt`]) and a radius in metres describe.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn read(kind: Option<&str>, text: Option<&str>, radius_m: Option<f64>) -> Result<Shape, String> {
        let kind = kind.ok_or("it has no kind: circle, polygon or corridor")?;
        let text = text.ok_or("it has no shape")?;
        let read = wkt::parse(text).map_err(|why| format!("its shape is not to be read: {why}"))?;
        let (form, points, reach_m) = match (kind, read) {
            ("circle", Wkt::Point(centre)) => {
                let radius_m = radius(radius_m, CIRCLE_M_MAX)?;
                (Form::Circle { centre, radius_m }, vec![centre], radius_m)
            }
            ("corridor", Wkt::Line(line)) => {
                let radius_m = radius(radius_m, CORRIDOR_M_MAX)?;
                straight(&line)?;
                if line.len() < 2 {
                    return Err("the line of a corridor has two points or more".into());
                }
                (Form::Corridor { line: line.clone().into(), radius_m }, line, radius_m)
            }
            ("polygon", Wkt::Polygon(rings)) => {
                rings.iter().try_for_each(|ring| closed(ring))?;
                let border = rings[0].clone();
                let rings = rings.into_iter().map(Vec::into_boxed_slice).collect();
                (Form::Polygon { rings }, border, 0.0)
            }
            ("circle", _) => return Err("the shape of a circle is a POINT".into()),
            ("corridor", _) => return Err("the shape of a corridor is a LINESTRING".into()),
            ("polygon", _) => return Err("the shape of a polygon is a POLYGON".into()),
            (other, _) => return Err(format!("its kind is circle, polygon or corridor; found {}", excerpt(other))),
        };
        let bounds = Bounds::of(&points).widened(reach_m);
        if bounds.least.lat < -LATITUDE_MAX || bounds.most.lat > LATITUDE_MAX {
            return Err(format!("it reaches beyond {LATITUDE_MAX} degrees of latitude"));
        }
        if bounds.least.lon < -180.0 || bounds.most.lon > 180.0 {
            return Err(ANTIMERIDIAN.into());
        }
        Ok(Shape { form, bounds })
    }

    /// Where it is.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Where its parts are, with what is this far around each: of a corridor its edges.
    #[must_use]
    pub fn parts(&self, margin_m: f64) -> Vec<Bounds> {
        match &self.form {
            Form::Corridor { line, radius_m } => {
                line.windows(2).map(|edge| Bounds::of(edge).widened(radius_m + margin_m)).collect()
            }
            _ => vec![self.bounds.widened(margin_m)],
        }
    }

    /// Whether a position is inside, or else (`false`) not further from the border than the margin; none if it is further.
    #[must_use]
    pub fn locate(&self, at: Point, margin_m: f64) -> Option<bool> {
        match &self.form {
            Form::Circle { centre, radius_m } => {
                let far_m = distance_km([centre.lat, centre.lon], [at.lat, at.lon]) * 1_000.0;
                (far_m <= radius_m + margin_m).then_some(far_m <= *radius_m)
            }
            Form::Polygon { rings } => {
                let inside = rings.iter().fold(false, |inside, ring| inside ^ crossed(ring, at));
                let near = || rings.iter().any(|ring| nearest_m2(ring, at, margin_m) <= margin_m * margin_m);
                (inside || near()).then_some(inside)
            }
            Form::Corridor { line, radius_m } => {
                let (far_m2, most_m) = (nearest_m2(line, at, *radius_m), radius_m + margin_m);
                (far_m2 <= most_m * most_m).then_some(far_m2 <= radius_m * radius_m)
            }
        }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let points = match &self.form {
            Form::Circle { .. } => 0,
            Form::Polygon { rings } => rings.iter().map(|ring| ring.len() + 1).sum(),
            Form::Corridor { line, .. } => line.len(),
        };
        size_of::<Shape>() + points * size_of::<Point>()
    }
}

const ANTIMERIDIAN: &str = "it crosses the antimeridian (180 degrees of longitude); make a fence on each side of it";

fn radius(radius_m: Option<f64>, most_m: f64) -> Result<f64, String> {
    let radius_m = radius_m.ok_or("it has no radius_m")?;
    if radius_m.is_finite() && radius_m > 0.0 && radius_m <= most_m {
        return Ok(radius_m);
    }
    Err(format!("its radius_m is more than 0 and at most {most_m}; found {radius_m}"))
}

/// No edge goes around the Earth the other way.
fn straight(points: &[Point]) -> Result<(), String> {
    let crosses = points.windows(2).any(|pair| (pair[1].lon - pair[0].lon).abs() > 180.0);
    if crosses { Err(ANTIMERIDIAN.into()) } else { Ok(()) }
}

fn closed(ring: &[Point]) -> Result<(), String> {
    straight(ring)?;
    if ring.len() < 4 {
        return Err("a ring of a polygon has four points or more, the last of which is the first".into());
    }
    if ring.first() != ring.last() {
        return Err("a ring of the polygon does not end where it begins".into());
    }
    let bounds = Bounds::of(ring);
    let flat = |pair: &[Point]| {
        let (a, b, c) = (ring[0], pair[0], pair[1]);
        (b.lon - a.lon) * (c.lat - a.lat) == (c.lon - a.lon) * (b.lat - a.lat)
    };
    if bounds.least.lat == bounds.most.lat || bounds.least.lon == bounds.most.lon || ring.windows(2).all(flat) {
        return Err("a ring of the polygon has no area".into());
    }
    Ok(())
}

/// Whether a line from the position to the east crosses the ring an odd number of times.
fn crossed(ring: &[Point], at: Point) -> bool {
    let mut odd = false;
    for pair in ring.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        if (a.lat > at.lat) != (b.lat > at.lat) {
            let lon = a.lon + (at.lat - a.lat) / (b.lat - a.lat) * (b.lon - a.lon);
            odd ^= at.lon < lon;
        }
    }
    odd
}

/// Square of the distance in metres to a line, on the plane that touches the Earth at the position. It is exact enough
/// up to some ten kilometres. The first that is near enough is taken.
fn nearest_m2(line: &[Point], at: Point, enough_m: f64) -> f64 {
    let east_m = DEGREE_M * at.lat.to_radians().cos();
    let plane = |point: Point| ((point.lon - at.lon) * east_m, (point.lat - at.lat) * DEGREE_M);
    let mut nearest = f64::MAX;
    let mut from = plane(line[0]);
    for point in &line[1..] {
        let upto = plane(*point);
        let way = (upto.0 - from.0, upto.1 - from.1);
        let length2 = way.0 * way.0 + way.1 * way.1;
        let along = -(from.0 * way.0 + from.1 * way.1) / length2;
        // An edge without length is a point.
        let along = if along.is_finite() { along.clamp(0.0, 1.0) } else { 0.0 };
        let foot = (from.0 + along * way.0, from.1 + along * way.1);
        nearest = nearest.min(foot.0 * foot.0 + foot.1 * foot.1);
        if nearest <= enough_m * enough_m {
            return nearest;
        }
        from = upto;
    }
    nearest
}

#[cfg(test)]
mod tests;
