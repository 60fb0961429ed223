//! Sums of floating-point numbers without rounding: whatever is added and taken away again, in whatever order, the sum is
//! that of the numbers at hand, rounded once.
//!
//! A number is cut into its mantissa and exponent, and added to an integer that belongs to a range of 32 exponents (a
//! superaccumulator; R. M. Neal, "Fast exact summation using small and large superaccumulators", 2015).
//!
//! Invariant: equal multisets of numbers have equal sums, bit for bit.

/// Exponents that one integer takes.
const SPAN: i32 = 32;
/// Exponent of the least bit of any number: that of the smallest subnormal.
const LEAST: i32 = -1_074;

/// An exact sum. NaN and the infinities are counted apart.
///
/// ```
/// use operators::exact_sum::ExactSum;
/// let mut sum = ExactSum::default();
/// sum.add(1e100, 1);
/// sum.add(0.1, 1);
/// sum.add(1e100, -1);
/// assert_eq!(sum.value(), 0.1);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExactSum {
    /// Integers by their range, ascending; none is zero.
    parts: Vec<(i16, i128)>,
    nans: i64,
    infinities: [i64; 2],
}

impl ExactSum {
    /// Adds `value` as often as `times` says; takes it away where that is negative.
    pub fn add(&mut self, value: f64, times: i64) {
        if !value.is_finite() {
            match value.is_nan() {
                true => self.nans += times,
                false => self.infinities[usize::from(value < 0.0)] += times,
            }
            return;
        }
        let bits = value.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7FF) as i32, (bits & ((1 << 52) - 1)) as i128);
        let (mantissa, shift) = if exponent == 0 { (fraction, 0) } else { (fraction | 1 << 52, exponent - 1) };
        let signed = if value.is_sign_negative() { -mantissa } else { mantissa };
        let (range, within) = (shift / SPAN, shift % SPAN);
        self.add_part(range as i16, (signed << within) * i128::from(times));
    }

    fn add_part(&mut self, range: i16, amount: i128) {
        if amount == 0 {
            return;
        }
        match self.parts.binary_search_by_key(&range, |(range, _)| *range) {
            Err(at) => self.parts.insert(at, (range, amount)),
            Ok(at) => {
                self.parts[at].1 += amount;
                if self.parts[at].1 == 0 {
                    self.parts.remove(at);
                } else if self.parts[at].1.unsigned_abs() >> 120 != 0 {
                    self.carry(at);
                }
            }
        }
    }

    /// Moves what lies above a range's own bits into the next ranges, long before the integer is full.
    fn carry(&mut self, at: usize) {
        let (range, amount) = self.parts[at];
        let high = amount >> SPAN;
        self.parts[at].1 = amount - (high << SPAN);
        if self.parts[at].1 == 0 {
            self.parts.remove(at);
        }
        self.add_part(range + 1, high);
    }

    /// Adds another sum.
    pub fn merge(&mut self, other: &ExactSum) {
        for &(range, amount) in &other.parts {
            self.add_part(range, amount);
        }
        self.nans += other.nans;
        self.infinities[0] += other.infinities[0];
        self.infinities[1] += other.infinities[1];
    }

    /// The number nearest to the sum, halves to even. The sum of nothing is 0.
    #[must_use]
    pub fn value(&self) -> f64 {
        if self.nans > 0 || self.infinities.iter().all(|count| *count > 0) {
            return f64::NAN;
        }
        match self.infinities {
            [positive, _] if positive > 0 => return f64::INFINITY,
            [_, negative] if negative > 0 => return f64::NEG_INFINITY,
            _ => {}
        }
        let (negative, digits) = self.digits();
        let magnitude = rounded(&digits);
        if negative { -magnitude } else { magnitude }
    }

    /// The sign, and 32-bit digits of the magnitude from the least on.
    fn digits(&self) -> (bool, Vec<u32>) {
        let mut digits = vec![0u32; 72];
        let mut carry: i128 = 0;
        let mut parts = self.parts.iter().peekable();
        for (range, digit) in digits.iter_mut().enumerate() {
            while let Some((_, amount)) = parts.next_if(|(at, _)| *at as usize == range) {
                carry += amount;
            }
            *digit = carry as u32;
            carry >>= SPAN;
        }
        let negative = carry < 0;
        if negative {
            let mut one = true;
            for digit in &mut digits {
                (*digit, one) = (!*digit).overflowing_add(u32::from(one));
            }
        }
        (negative, digits)
    }
}

/// The nearest number to the magnitude with these digits.
fn rounded(digits: &[u32]) -> f64 {
    let Some(top) = digits.iter().rposition(|digit| *digit != 0) else { return 0.0 };
    let bits = top as i32 * SPAN + (32 - digits[top].leading_zeros() as i32);
    let bit = |at: i32| digits[(at / SPAN) as usize] >> (at % SPAN) & 1;
    // The 53 highest bits, or all there are: the least has the exponent of the smallest subnormal.
    let low = (bits - 53).max(0);
    let mut mantissa = (low..bits).rev().fold(0u64, |value, at| value << 1 | u64::from(bit(at)));
    if low > 0 && bit(low - 1) == 1 {
        let rest = (0..low - 1).rev().any(|at| bit(at) == 1);
        mantissa += u64::from(rest || mantissa & 1 == 1);
    }
    scaled(mantissa, low)
}

/// `mantissa` × 2^(low + LEAST), exact: the mantissa has at most 54 bits and is even where it has.
fn scaled(mantissa: u64, low: i32) -> f64 {
    let value = mantissa as f64;
    // In two steps: the power alone may be too small or too large for a number of its own.
    let exponent = low + LEAST;
    let half = exponent / 2;
    value * power(half) * power(exponent - half)
}

fn power(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1_023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(values: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        values.iter().for_each(|value| sum.add(*value, 1));
        sum
    }

    #[test]
    fn single_numbers_come_out_as_they_went_in() {
        for value in [0.0, 1.0, -1.0, 0.1, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, -5e-324, 1e-310, 1e308] {
            assert_eq!(sum(&[value]).value(), value, "{value:e}");
        }
        assert_eq!(sum(&[-0.0]).value().to_bits(), 0.0f64.to_bits());
        assert!(sum(&[f64::NAN, 1.0]).value().is_nan());
        assert_eq!(sum(&[f64::INFINITY, 1.0]).value(), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).value().is_nan());
        assert_eq!(sum(&[f64::MAX, f64::MAX]).value(), f64::INFINITY);
    }

    #[test]
    fn nothing_is_lost_between_large_numbers() {
        assert_eq!(sum(&[1e300, 1.0, -1e300]).value(), 1.0);
        assert_eq!(sum(&[0.1; 10]).value(), 1.0);
        let mut many = ExactSum::default();
        many.add(f64::MAX, 1 << 40);
        many.add(f64::MAX, -(1 << 40));
        many.add(-2.5, 3);
        assert_eq!(many.value(), -7.5);
    }

    proptest! {
        #[test]
        fn what_leaves_leaves_no_trace(
            kept in prop::collection::vec(any::<f64>(), 0..20),
            passing in prop::collection::vec(any::<f64>(), 0..20),
        ) {
            let mut with = ExactSum::default();
            passing.iter().for_each(|value| with.add(*value, 1));
            kept.iter().rev().for_each(|value| with.add(*value, 1));
            passing.iter().rev().for_each(|value| with.add(*value, -1));
            prop_assert_eq!(with.value().to_bits(), sum(&kept).value().to_bits());
        }

        #[test]
        fn of_integers_it_is_the_integers_sum(values in prop::collection::vec(-(1i64 << 50)..1 << 50, 0..50)) {
            let whole: i64 = values.iter().sum();
            let floats: Vec<f64> = values.iter().map(|value| *value as f64).collect();
            prop_assert_eq!(sum(&floats).value(), whole as f64);
        }

        #[test]
        fn of_two_it_is_the_rounded_sum(a in any::<f64>(), b in any::<f64>()) {
            prop_assume!(a.is_finite() && b.is_finite());
            // The processor's own addition is correctly rounded.
            prop_assert_eq!(sum(&[a, b]).value(), a + b);
        }
    }
}
