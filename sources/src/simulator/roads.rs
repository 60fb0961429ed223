//! Roads between neighbouring cities, each a gently curved line of points. The same network in every run: a seed decides
//! who drives, not where roads are.

use super::cities::{CITIES, City, LINKS, WATER, zone};
use super::random::Random;

/// Mean radius of the earth, in kilometres.
const EARTH_KM: f64 = 6_371.0;
/// Distance between two points of a road, in kilometres.
const SPACING_KM: f64 = 4.0;

/// A point of a road.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// Degrees north.
    pub(super) lat: f64,
    /// Degrees east.
    pub(super) lon: f64,
    /// Kilometres from the road's beginning.
    pub(super) at_km: f64,
}

/// A road.
#[derive(Debug)]
pub(super) struct Road {
    /// Cities at both ends, as places in [`CITIES`].
    pub(super) ends: [u16; 2],
    pub(super) points: Vec<Point>,
}

impl Road {
    /// Length in kilometres.
    pub(super) fn km(&self) -> f64 {
        self.points.last().map_or(0.0, |point| point.at_km)
    }
}

/// Cities with the roads that lead there.
#[derive(Debug)]
pub(super) struct Roads {
    pub(super) roads: Vec<Road>,
    /// For each place in [`CITIES`] the roads that end there.
    pub(super) at_city: Vec<Vec<u16>>,
    /// Cities that have a road.
    pub(super) cities: Vec<u16>,
}

impl Roads {
    /// The network of the given countries (ISO codes); of all of Europe if there are none given. `None` if no road lies
    /// within them.
    pub(super) fn new(countries: &[String]) -> Option<Self> {
        let wanted = |city: &City| countries.is_empty() || countries.iter().any(|country| country == city.country);
        let mut roads = Vec::new();
        let mut at_city = vec![Vec::new(); CITIES.len()];
        for (from, a) in CITIES.iter().enumerate() {
            for (to, b) in CITIES.iter().enumerate().skip(from + 1) {
                if wanted(a) && wanted(b) && joined(a, b) {
                    at_city[from].push(roads.len() as u16);
                    at_city[to].push(roads.len() as u16);
                    roads.push(Road { ends: [from as u16, to as u16], points: line(from, to) });
                }
            }
        }
        let cities: Vec<u16> =
            (0..CITIES.len() as u16).filter(|city| !at_city[usize::from(*city)].is_empty()).collect();
        (!cities.is_empty()).then_some(Self { roads, at_city, cities })
    }
}

fn listed(pairs: &[(&str, &str)], a: &City, b: &City) -> bool {
    pairs.iter().any(|(x, y)| (a.name, b.name) == (*x, *y) || (b.name, a.name) == (*x, *y))
}

/// Two cities are joined by a road if no third one lies in the circle between them.
fn joined(a: &City, b: &City) -> bool {
    if listed(LINKS, a, b) {
        return true;
    }
    if zone(a.country) != zone(b.country) || listed(WATER, a, b) {
        return false;
    }
    let square = |x: &City, y: &City| {
        let east = (x.lon - y.lon) * ((x.lat + y.lat) / 2.0).to_radians().cos();
        (x.lat - y.lat).powi(2) + east.powi(2)
    };
    let all = square(a, b);
    let between = |c: &&City| c.name != a.name && c.name != b.name && zone(c.country) == zone(a.country);
    !CITIES.iter().filter(between).any(|c| square(a, c) + square(b, c) < all)
}

/// A line from city to city that swings to both sides by a few per cent of its length.
fn line(from: usize, to: usize) -> Vec<Point> {
    let (a, b) = (&CITIES[from], &CITIES[to]);
    let mut random = Random::new((from * 1_000 + to) as u64);
    let swings: [f64; 3] = std::array::from_fn(|mode| (random.unit() - 0.5) * 0.10 / (mode + 1) as f64);
    let squeeze = ((a.lat + b.lat) / 2.0).to_radians().cos();
    let (north, east) = (b.lat - a.lat, (b.lon - a.lon) * squeeze);
    let count = (distance_km(a.lat, a.lon, b.lat, b.lon) / SPACING_KM).ceil().max(2.0) as usize;
    let mut points: Vec<Point> = Vec::with_capacity(count + 1);
    for index in 0..=count {
        let part = index as f64 / count as f64;
        let wave = |(mode, swing): (usize, &f64)| swing * (std::f64::consts::PI * (mode + 1) as f64 * part).sin();
        let side: f64 = swings.iter().enumerate().map(wave).sum();
        let lat = a.lat + north * part - east * side;
        let lon = a.lon + (east * part + north * side) / squeeze;
        let at_km = points.last().map_or(0.0, |last| last.at_km + distance_km(last.lat, last.lon, lat, lon));
        points.push(Point { lat, lon, at_km });
    }
    points
}

/// Great-circle distance in kilometres between two places in degrees.
pub(super) fn distance_km(lat_a: f64, lon_a: f64, lat_b: f64, lon_b: f64) -> f64 {
    let (a, b) = (lat_a.to_radians(), lat_b.to_radians());
    let half = ((b - a) / 2.0).sin().powi(2) + a.cos() * b.cos() * ((lon_b - lon_a).to_radians() / 2.0).sin().powi(2);
    2.0 * EARTH_KM * half.sqrt().min(1.0).asin()
}

/// Degrees clockwise from north, 0 to 360, of the way from one place to a near one.
pub(super) fn heading_deg(from: Point, to: Point) -> f64 {
    let east = (to.lon - from.lon) * ((from.lat + to.lat) / 2.0).to_radians().cos();
    east.atan2(to.lat - from.lat).to_degrees().rem_euclid(360.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_continent_hangs_together_and_every_city_has_a_road() {
        let roads = Roads::new(&[]).unwrap();
        assert_eq!(roads.cities.len(), CITIES.len());
        let start = CITIES.iter().position(|city| city.name == "Berlin").unwrap();
        let (mut seen, mut next) = (vec![false; CITIES.len()], vec![start]);
        while let Some(city) = next.pop() {
            if !std::mem::replace(&mut seen[city], true) {
                let ends = roads.at_city[city].iter().flat_map(|road| roads.roads[usize::from(*road)].ends);
                next.extend(ends.map(usize::from));
            }
        }
        for (city, seen) in CITIES.iter().zip(seen) {
            assert_eq!(seen, !matches!(city.country, "GB" | "IE"), "{}", city.name);
        }
    }

    #[test]
    fn roads_lead_from_city_to_city_without_jumps() {
        let roads = Roads::new(&[]).unwrap();
        for road in &roads.roads {
            let [from, to] = road.ends.map(|end| &CITIES[usize::from(end)]);
            let (first, last) = (road.points[0], road.points[road.points.len() - 1]);
            assert!(distance_km(first.lat, first.lon, from.lat, from.lon) < 0.001);
            assert!(distance_km(last.lat, last.lon, to.lat, to.lon) < 0.001);
            let straight = distance_km(from.lat, from.lon, to.lat, to.lon);
            assert!(road.km() >= straight * 0.999 && road.km() < straight * 1.2, "{} {}", from.name, to.name);
            assert!(road.points.windows(2).all(|pair| pair[1].at_km - pair[0].at_km < SPACING_KM * 1.5));
        }
        assert!(roads.roads.len() > 300);
    }

    #[test]
    fn regions_are_countries() {
        let roads = Roads::new(&["DE".to_owned(), "AT".to_owned()]).unwrap();
        assert!(roads.cities.iter().all(|city| matches!(CITIES[usize::from(*city)].country, "DE" | "AT")));
        assert!(Roads::new(&["XX".to_owned()]).is_none());
    }

    #[test]
    fn distances_and_headings() {
        assert!((distance_km(52.52, 13.405, 48.8566, 2.3522) - 877.5).abs() < 2.0);
        let at = |lat, lon| Point { lat, lon, at_km: 0.0 };
        for (to, heading) in
            [(at(51.0, 10.0), 0.0), (at(50.0, 11.0), 90.0), (at(49.0, 10.0), 180.0), (at(50.0, 9.0), 270.0)]
        {
            assert!((heading_deg(at(50.0, 10.0), to) - heading).abs() < 1e-9);
        }
    }
}
