//! Distances on the Earth, taken for a sphere: at most 0.5 % off.

/// Mean radius of the Earth in kilometres (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.008_8;

/// Kilometres between two positions, each degrees north and east, by the haversine formula (R. W. Sinnott, "Virtues of the
/// Haversine", Sky & Telescope 68, 1984).
///
/// ```
/// let (berlin, munich) = ([52.520, 13.405], [48.137, 11.575]);
/// assert!((operators::distance::distance_km(berlin, munich) - 504.4).abs() < 0.5);
/// ```
#[must_use]
pub fn distance_km(from: [f64; 2], to: [f64; 2]) -> f64 {
    let [lat1, lon1] = from.map(f64::to_radians);
    let [lat2, lon2] = to.map(f64::to_radians);
    let half = |angle: f64| (angle / 2.0).sin().powi(2);
    let a = half(lat2 - lat1) + lat1.cos() * lat2.cos() * half(lon2 - lon1);
    2.0 * EARTH_RADIUS_KM * a.sqrt().min(1.0).asin()
}
