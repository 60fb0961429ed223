//! Positions as Redis keeps them in a geo set: the score that `GEOADD` would compute, so that a batch goes in by one `ZADD`.

/// Highest latitude of a geo set (that of the Mercator projection), in degrees north and south.
const LAT_MAX: f64 = 85.051_128_78;
const LON_MAX: f64 = 180.0;
/// Bits of each coordinate.
const STEP: u32 = 26;

/// The 52-bit score of a position, or `None` for one that a geo set cannot hold.
pub(super) fn score(lat: f64, lon: f64) -> Option<u64> {
    if !(lat.abs() <= LAT_MAX && lon.abs() <= LON_MAX) {
        return None;
    }
    let cell = |value: f64, max: f64| {
        let share = (value + max) / (2.0 * max) * f64::from(1u32 << STEP);
        share as u32
    };
    Some(spread(cell(lat, LAT_MAX)) | spread(cell(lon, LON_MAX)) << 1)
}

/// Moves the bits of `x` to the even places.
fn spread(x: u32) -> u64 {
    let mut x = u64::from(x);
    x = (x | x << 16) & 0x0000_FFFF_0000_FFFF;
    x = (x | x << 8) & 0x00FF_00FF_00FF_00FF;
    x = (x | x << 4) & 0x0F0F_0F0F_0F0F_0F0F;
    x = (x | x << 2) & 0x3333_3333_3333_3333;
    (x | x << 1) & 0x5555_5555_5555_5555
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_redis() {
        // ZSCORE after GEOADD of Redis' own documentation.
        assert_eq!(score(38.115_556, 13.361_389), Some(3_479_099_956_230_698));
        assert_eq!(score(37.502_669, 15.087_269), Some(3_479_447_370_796_909));
        assert_eq!(score(0.0, 0.0), Some(3_377_699_720_527_872));
        assert_eq!(score(85.06, 0.0), None);
        assert_eq!(score(f64::NAN, 0.0), None);
    }
}
