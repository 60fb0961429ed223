//! Shapes against what they mean: texts that are refused, and positions that are measured on the sphere. Would catch a corner
//! that is cut off, a hole that is inside, degrees of longitude taken for those of latitude, and bounds that are too narrow.

use super::*;

fn shape(kind: &str, text: &str, radius_m: Option<f64>) -> Shape {
    Shape::read(Some(kind), Some(text), radius_m).unwrap_or_else(|why| panic!("{text}: {why}"))
}

fn at(lat: f64, lon: f64) -> Point {
    Point { lat, lon }
}

/// Numbers from 0 up to 1 that follow from a seed (xorshift).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + self.next() * (most - least)
    }
}

#[test]
fn a_circle_is_what_is_near_enough() {
    let depot = shape("circle", "POINT (8.0 50.0)", Some(500.0));
    let north = |metres: f64| at(50.0 + metres / 111_195.0, 8.0);
    assert_eq!(depot.locate(north(499.0), 20.0), Some(true));
    assert_eq!(depot.locate(north(501.0), 20.0), Some(false));
    assert_eq!(depot.locate(north(521.0), 20.0), None);
    // A degree of longitude is shorter up there.
    assert_eq!(depot.locate(at(50.0, 8.0 + 499.0 / 71_475.0), 20.0), Some(true));
    assert_eq!(depot.locate(at(50.0, 8.0 + 501.5 / 71_475.0), 0.0), None);
}

#[test]
fn a_polygon_has_a_border_and_holes() {
    let ring = "polygon((8 50, 8.01 50, 8.01 50.01, 8 50.01, 8 50),(8.004 50.004,8.006 50.004,8.006 50.006,8.004 50.006,8.004 50.004))";
    let yard = shape("polygon", ring, None);
    assert_eq!(yard.locate(at(50.002, 8.002), 25.0), Some(true));
    assert_eq!(yard.locate(at(50.005, 8.005), 25.0), None, "in the middle of the hole");
    assert_eq!(yard.locate(at(50.0042, 8.005), 25.0), Some(false), "in the hole, 22 m from its edge");
    assert_eq!(yard.locate(at(49.9999, 8.005), 25.0), Some(false), "11 m south of it");
    assert_eq!(yard.locate(at(49.9997, 8.005), 25.0), None, "33 m south of it");
    assert_eq!(yard.locate(at(50.005, 8.0102), 25.0), Some(false), "14 m east of it");
    // One that is not convex: the notch is not inside.
    let notched = shape("polygon", "POLYGON ((0 0, 4 0, 4 4, 2 1, 0 4, 0 0))", None);
    assert_eq!(notched.locate(at(3.0, 2.0), 0.0), None);
    assert_eq!(notched.locate(at(0.5, 2.0), 0.0), Some(true));
    assert_eq!(notched.locate(at(3.0, 3.9), 0.0), Some(true));
}

#[test]
fn a_corridor_follows_its_line() {
    let road = shape("corridor", "LINESTRING (8 50, 8.1 50, 8.1 50.1)", Some(100.0));
    assert_eq!(road.locate(at(50.0008, 8.05), 20.0), Some(true), "89 m beside it");
    assert_eq!(road.locate(at(50.001, 8.05), 20.0), Some(false), "111 m beside it");
    assert_eq!(road.locate(at(50.0012, 8.05), 20.0), None);
    assert_eq!(road.locate(at(50.05, 8.1013), 20.0), Some(true), "93 m east of the second edge");
    assert_eq!(road.locate(at(50.1008, 8.1), 20.0), Some(true), "its end is round");
    assert_eq!(road.locate(at(50.1012, 8.1), 20.0), None);
}

/// The distance to a line by very many positions on it.
fn by_hand_m(line: &[Point], from: Point) -> f64 {
    let on = |pair: &[Point], part: f64| {
        [pair[0].lat + part * (pair[1].lat - pair[0].lat), pair[0].lon + part * (pair[1].lon - pair[0].lon)]
    };
    let parts = (0..=2_000).map(|part| f64::from(part) / 2_000.0);
    let all = line.windows(2).flat_map(|pair| parts.clone().map(move |part| on(pair, part)));
    all.map(|point| distance_km(point, [from.lat, from.lon]) * 1_000.0).fold(f64::MAX, f64::min)
}

#[test]
fn distances_to_lines_are_those_on_the_sphere() {
    let mut random = Random(3);
    let mut near = [0; 3];
    for _ in 0..150 {
        let (lat, lon) = (random.between(-70.0, 70.0), random.between(-179.0, 179.0));
        let mut point = || at(lat + random.between(-0.05, 0.05), lon + random.between(-0.05, 0.05));
        let line: Vec<Point> = (0..5).map(|_| point()).collect();
        let text: Vec<String> = line.iter().map(|point| format!("{} {}", point.lon, point.lat)).collect();
        let corridor = shape("corridor", &format!("LINESTRING ({})", text.join(", ")), Some(800.0));
        for _ in 0..10 {
            let from = point();
            let metres = by_hand_m(&line, from);
            let wanted = (metres <= 1_000.0).then_some(metres <= 800.0);
            // Right at the border the two ways to measure may differ.
            if (metres - 800.0).abs() > 8.0 && (metres - 1_000.0).abs() > 8.0 {
                assert_eq!(corridor.locate(from, 200.0), wanted, "{metres} m from {line:?}");
                near[wanted.map_or(0, |inside| 1 + usize::from(inside))] += 1;
            }
            if wanted.is_some() {
                assert!(corridor.bounds().widened(200.0).has(from), "{from:?} is not within the bounds of {line:?}");
            }
        }
    }
    assert!(near.iter().all(|count| *count > 20), "{near:?}");
}

#[test]
fn a_polygon_is_where_a_point_winds_around() {
    let mut random = Random(11);
    let mut inside = 0;
    for _ in 0..300 {
        // A star around its middle: each of its rays has one corner.
        let corner = |turn: f64, far: f64| at(50.0 + far * turn.sin(), 8.0 + far * turn.cos());
        let corners = 3 + (random.next() * 9.0) as usize;
        let turn = std::f64::consts::TAU / corners as f64;
        let far: Vec<f64> = (0..corners).map(|_| random.between(0.01, 0.1)).collect();
        let mut ring: Vec<Point> =
            far.iter().enumerate().map(|(index, far)| corner(turn * index as f64, *far)).collect();
        ring.push(ring[0]);
        let text: Vec<String> = ring.iter().map(|point| format!("{} {}", point.lon, point.lat)).collect();
        let star = shape("polygon", &format!("POLYGON (({}))", text.join(", ")), None);
        let from = at(50.0 + random.between(-0.1, 0.1), 8.0 + random.between(-0.1, 0.1));
        // The sum of the angles under which the edges are seen.
        let angle = |point: &Point| (point.lat - from.lat).atan2(point.lon - from.lon);
        let seen = |pair: &[Point]| {
            let turned = angle(&pair[1]) - angle(&pair[0]);
            turned - std::f64::consts::TAU * (turned / std::f64::consts::TAU).round()
        };
        let winds = ring.windows(2).map(seen).sum::<f64>().abs() > 1.0;
        assert_eq!(star.locate(from, 0.0), winds.then_some(true), "{from:?} in {ring:?}");
        inside += i32::from(winds);
    }
    assert!((50..250).contains(&inside), "{inside} inside");
}

#[test]
fn what_is_no_shape_is_refused_with_the_reason() {
    let many = (0..1_001).map(|number| format!("{} 1", f64::from(number) / 100.0)).collect::<Vec<_>>().join(",");
    for (kind, text, radius_m, why) in [
        (None, Some("POINT (1 2)"), Some(1.0), "it has no kind"),
        (Some("circle"), None, Some(1.0), "it has no shape"),
        (Some("square"), Some("POINT (1 2)"), Some(1.0), "its kind is circle, polygon or corridor; found square"),
        (Some("circle"), Some("POINT (1 2)"), None, "it has no radius_m"),
        (Some("circle"), Some("POINT (1 2)"), Some(0.0), "its radius_m is more than 0 and at most 100000; found 0"),
        (Some("circle"), Some("POINT (1 2)"), Some(f64::NAN), "its radius_m is more than 0"),
        (
            Some("corridor"),
            Some("LINESTRING (1 2, 3 4)"),
            Some(10_001.0),
            "its radius_m is more than 0 and at most 10000",
        ),
        (Some("circle"), Some("LINESTRING (1 2, 3 4)"), Some(5.0), "the shape of a circle is a POINT"),
        (Some("corridor"), Some("LINESTRING (1 2)"), Some(5.0), "the line of a corridor has two points or more"),
        (Some("polygon"), Some("POLYGON ((1 2, 3 4, 1 2))"), None, "a ring of a polygon has four points"),
        (Some("polygon"), Some("POLYGON ((1 2, 3 4, 5 1, 6 7))"), None, "a ring of the polygon does not end where"),
        (Some("polygon"), Some("POLYGON ((1 1, 2 2, 3 3, 1 1))"), None, "a ring of the polygon has no area"),
        (Some("polygon"), Some("POLYGON ((1 1, 1 1, 1 1, 1 1))"), None, "a ring of the polygon has no area"),
        (Some("polygon"), Some("POLYGON ((179 1, -179 1, -179 2, 179 1))"), None, "it crosses the antimeridian"),
        (Some("circle"), Some("POINT (179.999 0)"), Some(500.0), "it crosses the antimeridian"),
        (Some("circle"), Some("POINT (0 88.99)"), Some(5_000.0), "it reaches beyond 89 degrees"),
        (Some("circle"), Some("POINT (50 8 3)"), Some(5.0), "its shape is not to be read: there should be a ); found"),
        (
            Some("circle"),
            Some("POINT (8 91)"),
            Some(5.0),
            "its shape is not to be read: a latitude is a number from -90",
        ),
        (Some("circle"), Some("POINT (nan 9)"), Some(5.0), "its shape is not to be read: a longitude is a number"),
        (Some("circle"), Some("POINT (inf 9)"), Some(5.0), "its shape is not to be read: a longitude is a number"),
        (Some("circle"), Some("POINT EMPTY"), Some(5.0), "its shape is not to be read: there should be a (; found"),
        (
            Some("circle"),
            Some("POINT (1 2"),
            Some(5.0),
            "its shape is not to be read: there should be a ); found the end",
        ),
        (
            Some("circle"),
            Some("POINT (1 2) x"),
            Some(5.0),
            "its shape is not to be read: it ends with its last bracket",
        ),
        (Some("circle"), Some(""), Some(5.0), "its shape is not to be read: it begins with POINT"),
        (Some("polygon"), Some("MULTIPOLYGON (((1 2)))"), None, "its shape is not to be read: MULTIPOLYGON is no"),
        (
            Some("corridor"),
            Some(&format!("LINESTRING ({many})")),
            Some(5.0),
            "its shape is not to be read: it has more than 1000",
        ),
    ] {
        let found = Shape::read(kind, text, radius_m).expect_err("this is no shape");
        assert!(found.starts_with(why), "{text:?}: found {found}\nwanted {why}");
    }
}

#[test]
fn damaged_texts_are_refused_or_understood() {
    let texts =
        ["POLYGON ((8 50, 8.01 50, 8.01 50.01, 8 50))", "LINESTRING(-1.5e1 +2,3 4)", "POINT (8 50)", "ß(−1 \0)"];
    let odd = ['(', ')', ',', ' ', '-', 'e', '9', '\u{202e}', '.', 'P'];
    let mut random = Random(5);
    let mut understood = 0;
    for round in 0..20_000 {
        let mut text: Vec<char> = texts[round % 4].chars().collect();
        for _ in 0..(random.next() * 4.0) as usize {
            let place = (random.next() * text.len() as f64) as usize;
            match random.next() < 0.5 {
                true => text.insert(place, odd[(random.next() * 10.0) as usize]),
                false => drop(text.remove(place)),
            }
        }
        let text: String = text.into_iter().collect();
        for kind in ["circle", "polygon", "corridor"] {
            if let Ok(shape) = Shape::read(Some(kind), Some(&text), Some(100.0)) {
                let bounds = shape.bounds();
                assert!(bounds.least.lat <= bounds.most.lat && bounds.least.lon >= -180.0 && bounds.most.lon <= 180.0);
                let here = at(50.0, 8.0);
                assert!(shape.locate(here, 10.0).is_none() || bounds.widened(10.0).has(here));
                understood += 1;
            }
        }
    }
    assert!(understood > 1_000, "{understood} understood");
}
