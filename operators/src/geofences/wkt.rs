//! Shapes as text: `POINT`, `LINESTRING` and `POLYGON` of well-known text (OGC 06-103r4), longitude before latitude.
//!
//! Invariant: what is read has no more points than are allowed, and all lie on the Earth.

use super::shape::Point;
use crate::error::excerpt;

/// Most points of one shape.
pub const POINTS_MAX: usize = 1_000;

/// What a text says.
#[derive(Clone, Debug, PartialEq)]
pub enum Wkt {
    /// One position.
    Point(Point),
    /// Positions one after the other.
    Line(Vec<Point>),
    /// Rings: the border, and then holes.
    Polygon(Vec<Vec<Point>>),
}

/// Reads a text.
///
/// # Errors
/// What is wrong with it, in words.
pub fn parse(text: &str) -> Result<Wkt, String> {
    let mut reader = Reader { rest: text, points: 0 };
    let word = reader.word();
    let shape = match word.to_ascii_uppercase().as_str() {
        "POINT" => {
            let points = reader.points()?;
            let [point] = points.as_slice() else { return Err("a POINT has one position".into()) };
            Wkt::Point(*point)
        }
        "LINESTRING" => Wkt::Line(reader.points()?),
        "POLYGON" => Wkt::Polygon(reader.rings()?),
        "" => return Err(format!("it begins with POINT, LINESTRING or POLYGON; found {}", excerpt(text))),
        _ => return Err(format!("{} is no POINT, LINESTRING or POLYGON", excerpt(word))),
    };
    if !reader.peek().is_empty() {
        return Err(format!("it ends with its last bracket; found {}", excerpt(reader.rest)));
    }
    Ok(shape)
}

struct Reader<'a> {
    rest: &'a str,
    points: usize,
}

impl<'a> Reader<'a> {
    fn peek(&mut self) -> &'a str {
        self.rest = self.rest.trim_start();
        self.rest
    }

    /// What stands before the first character that is none of these.
    fn part(&mut self, is: impl Fn(char) -> bool) -> &'a str {
        let rest = self.peek();
        let end = rest.find(|c| !is(c)).unwrap_or(rest.len());
        self.rest = &rest[end..];
        &rest[..end]
    }

    fn word(&mut self) -> &'a str {
        self.part(|c| c.is_ascii_alphabetic())
    }

    fn has(&mut self, sign: char) -> bool {
        let found = self.peek().strip_prefix(sign);
        found.into_iter().for_each(|rest| self.rest = rest);
        found.is_some()
    }

    fn expect(&mut self, sign: char) -> Result<(), String> {
        if self.has(sign) {
            return Ok(());
        }
        let found = if self.rest.is_empty() { "the end".to_owned() } else { excerpt(self.rest) };
        Err(format!("there should be a {sign}; found {found}"))
    }

    fn rings(&mut self) -> Result<Vec<Vec<Point>>, String> {
        self.expect('(')?;
        let mut rings = vec![self.points()?];
        while self.has(',') {
            rings.push(self.points()?);
        }
        self.expect(')')?;
        Ok(rings)
    }

    fn points(&mut self) -> Result<Vec<Point>, String> {
        self.expect('(')?;
        let mut points = vec![self.point()?];
        while self.has(',') {
            points.push(self.point()?);
        }
        self.expect(')')?;
        Ok(points)
    }

    fn point(&mut self) -> Result<Point, String> {
        self.points += 1;
        if self.points > POINTS_MAX {
            return Err(format!("it has more than {POINTS_MAX} points; simplify it, or make several fences of it"));
        }
        let (lon, lat) = (self.degrees("longitude", 180.0)?, self.degrees("latitude", 90.0)?);
        Ok(Point { lat, lon })
    }

    fn degrees(&mut self, what: &str, most: f64) -> Result<f64, String> {
        let text = self.part(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+'));
        let number = text.parse::<f64>().ok().filter(|number| number.abs() <= most);
        number.ok_or_else(|| {
            let found = if text.is_empty() { excerpt(self.rest) } else { excerpt(text) };
            format!("a {what} is a number from -{most} to {most}, first longitude and then latitude; found {found}")
        })
    }
}
