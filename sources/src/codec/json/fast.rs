//! A reader for the messages that nearly all trackers send: one flat object of known fields, numbers of at most 15 digits,
//! no escapes. It either reads a message exactly as the general parser would, or gives up without a reason.
//!
//! It takes a third of the general parser's time, and parsing is most of what a message costs.

use operators::record::telemetry::Telemetry;

/// Fields with quotes and colon, as they stand in a document without blanks; in the order of `telemetry::FIELDS`.
pub(super) const NAMES: [&[u8]; 18] = [
    b"\"device_id\":",
    b"\"ts\":",
    b"\"server_time\":",
    b"\"seq\":",
    b"\"lat\":",
    b"\"lon\":",
    b"\"altitude_m\":",
    b"\"speed_kmh\":",
    b"\"heading_deg\":",
    b"\"satellites\":",
    b"\"hdop\":",
    b"\"ignition\":",
    b"\"fuel_level_pct\":",
    b"\"engine_temp_c\":",
    b"\"odometer_km\":",
    b"\"battery_v\":",
    b"\"events\":",
    b"\"attributes\":",
];
const FIELDS: usize = NAMES.len();

/// Of each name all but the colon, as a number, and which of its bits count.
const WORDS: [(u128, u128); FIELDS] = {
    let mut words = [(0, 0); FIELDS];
    let mut field = 0;
    while field < FIELDS {
        let (name, mut at) = (NAMES[field], 0);
        assert!(name.len() <= 17, "a name fits into a word");
        while at + 1 < name.len() {
            words[field].0 |= (name[at] as u128) << (8 * at);
            words[field].1 |= 0xFF << (8 * at);
            at += 1;
        }
        field += 1;
    }
    words
};

/// Powers of ten that a float holds exactly, as far as 15 digits need them.
const POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];
/// A whole number of so many digits is exact as a float, and so is its quotient by a power of ten correctly rounded.
const DIGITS_MAX: usize = 15;

/// Which field came after which the last time. Trackers of one kind send their fields in one order, so the next name needs
/// one comparison; what is read does not depend on it.
#[derive(Clone, Debug)]
pub(super) struct Order([u8; FIELDS + 1]);

impl Default for Order {
    /// The order in which we write.
    fn default() -> Self {
        Order(std::array::from_fn(|index| if index < FIELDS { (index + 1) as u8 } else { 0 }))
    }
}

/// Reads `bytes` if they are a simple message.
pub(super) fn parse<'a>(bytes: &'a [u8], order: &mut Order) -> Option<Telemetry<'a>> {
    let mut at = Place { bytes, next: 0 };
    at.skip_blanks();
    at.take(b'{')?;
    let (mut t, mut seen, mut last) = (Telemetry::default(), 0u32, FIELDS);
    loop {
        at.skip_blanks();
        let field = at.name(order, last)?;
        last = field;
        if seen & (1 << field) != 0 {
            return None;
        }
        at.skip_blanks();
        if at.null() {
            // Absent, but there: the same field again would be the second.
            if field < 2 {
                return None;
            }
        } else {
            at.value(field, &mut t)?;
        }
        seen |= 1 << field;
        at.skip_blanks();
        match at.peek()? {
            b',' => at.next += 1,
            b'}' => break,
            _ => return None,
        }
    }
    at.next += 1;
    at.skip_blanks();
    (at.next == bytes.len() && seen & 0b11 == 0b11).then_some(t)
}

/// The number that the leading digits of eight bytes make, and how many digits these are: all bytes at once, as
/// <https://kholdstare.github.io/technical/2020/05/26/faster-integer-parsing.html> does it.
#[inline]
fn leading_digits(bytes: u64) -> (u64, usize) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    let digits = bytes ^ ZEROS;
    // A byte's high bit is set if it is no digit: above 9, or above 127 before.
    let others = (digits.wrapping_add(0x7676_7676_7676_7676) | digits) & 0x8080_8080_8080_8080;
    // A sum's carry reaches only bytes after one that is no digit itself.
    let count = (others.trailing_zeros() / 8) as usize;
    if count == 0 {
        return (0, 0);
    }
    // The digits at the end of the word, zeros before them.
    let digits = digits << (64 - 8 * count);
    let pairs = (digits & 0x0F0F_0F0F_0F0F_0F0F).wrapping_mul(2_561) >> 8;
    let fours = (pairs & 0x00FF_00FF_00FF_00FF).wrapping_mul(6_553_601) >> 16;
    let eight = (fours & 0x0000_FFFF_0000_FFFF).wrapping_mul(42_949_672_960_001) >> 32;
    (eight, count)
}

struct Place<'a> {
    bytes: &'a [u8],
    next: usize,
}

impl<'a> Place<'a> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.next).copied()
    }

    #[inline]
    fn take(&mut self, byte: u8) -> Option<()> {
        let there = self.peek() == Some(byte);
        self.next += usize::from(there);
        there.then_some(())
    }

    #[inline]
    fn takes(&mut self, word: &[u8]) -> bool {
        let there = self.bytes.get(self.next..).is_some_and(|rest| rest.starts_with(word));
        self.next += if there { word.len() } else { 0 };
        there
    }

    /// Whether the field's name and a colon stand here; both are taken then. Compares a word at once, not byte by byte.
    #[inline]
    fn takes_name(&mut self, field: usize) -> bool {
        let Some(here) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk::<16>) else {
            return self.takes(NAMES[field]);
        };
        let (word, mask) = WORDS[field];
        let length = NAMES[field].len();
        if u128::from_le_bytes(*here) & mask != word || self.bytes.get(self.next + length - 1) != Some(&b':') {
            return false;
        }
        self.next += length;
        true
    }

    #[inline]
    fn skip_blanks(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.next += 1;
        }
    }

    /// The field whose name stands here, with its colon.
    #[inline]
    fn name(&mut self, order: &mut Order, last: usize) -> Option<usize> {
        let likely = usize::from(order.0[last]);
        if likely < FIELDS && self.takes_name(likely) {
            return Some(likely);
        }
        let field = (0..FIELDS).find(|field| self.takes(NAMES[*field]))?;
        order.0[last] = field as u8;
        Some(field)
    }

    #[inline]
    fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.takes(b"null")
    }

    #[inline]
    fn value(&mut self, field: usize, t: &mut Telemetry<'a>) -> Option<()> {
        match field {
            0 => t.device_id = self.text()?,
            1 => t.ts = self.whole()?,
            2 => t.server_time = Some(self.whole()?),
            3 => t.seq = self.whole()?,
            4 => t.lat = Some(self.number()?),
            5 => t.lon = Some(self.number()?),
            6 => t.altitude_m = Some(self.number()?),
            7 => t.speed_kmh = Some(self.number()?),
            8 => t.heading_deg = Some(self.number()?),
            9 => t.satellites = Some(i32::try_from(self.whole()?).ok()?),
            10 => t.hdop = Some(self.number()?),
            11 => t.ignition = Some(self.flag()?),
            12 => t.fuel_level_pct = Some(self.number()?),
            13 => t.engine_temp_c = Some(self.number()?),
            14 => t.odometer_km = Some(self.number()?),
            15 => t.battery_v = Some(self.number()?),
            // Lists and objects are for the general parser.
            _ => return None,
        }
        Some(())
    }

    /// A string of printable ASCII without escapes.
    #[inline]
    fn text(&mut self) -> Option<&'a str> {
        self.take(b'"')?;
        let rest = &self.bytes[self.next..];
        let length = rest.iter().position(|byte| !matches!(byte, b' '..=b'~') || matches!(byte, b'"' | b'\\'))?;
        if rest[length] != b'"' {
            return None;
        }
        self.next += length + 1;
        std::str::from_utf8(&rest[..length]).ok()
    }

    #[inline]
    fn flag(&mut self) -> Option<bool> {
        if self.takes(b"true") {
            return Some(true);
        }
        self.takes(b"false").then_some(false)
    }

    /// Digits as a number, and how many.
    #[inline]
    fn digits(&mut self) -> (u64, usize) {
        let (mut number, mut count) = (0u64, 0);
        if let Some(eight) = self.bytes.get(self.next..).and_then(<[u8]>::first_chunk::<8>) {
            (number, count) = leading_digits(u64::from_le_bytes(*eight));
            if count < 8 {
                self.next += count;
                return (number, count);
            }
        }
        // One digit more than is taken, so that a longer number is seen to be longer.
        while let Some(digit) = self.bytes.get(self.next + count).map(|byte| byte.wrapping_sub(b'0'))
            && digit < 10
            && count <= DIGITS_MAX
        {
            number = number * 10 + u64::from(digit);
            count += 1;
        }
        self.next += count;
        (number, count)
    }

    /// Sign, digits before the point, and how many.
    #[inline]
    fn whole_part(&mut self) -> Option<(bool, u64, usize)> {
        let negative = self.take(b'-').is_some();
        let zero = self.peek() == Some(b'0');
        let (number, count) = self.digits();
        // A leading zero is no JSON.
        ((1..=DIGITS_MAX).contains(&count) && !(zero && count > 1)).then_some((negative, number, count))
    }

    #[inline]
    fn whole(&mut self) -> Option<i64> {
        let (negative, number, _) = self.whole_part()?;
        if let Some(b'.' | b'e' | b'E') = self.peek() {
            return None;
        }
        let number = number as i64;
        Some(if negative { -number } else { number })
    }

    #[inline]
    fn number(&mut self) -> Option<f64> {
        let (negative, whole, count) = self.whole_part()?;
        let mut number = whole as f64;
        if self.take(b'.').is_some() {
            let (fraction, decimals) = self.digits();
            if decimals == 0 || count + decimals > DIGITS_MAX {
                return None;
            }
            let all = whole * 10u64.pow(decimals as u32) + fraction;
            number = all as f64 / POWERS[decimals];
        }
        if let Some(b'e' | b'E') = self.peek() {
            return None;
        }
        // How the general parser takes a whole negative zero is its own affair.
        if negative && number == 0.0 {
            return None;
        }
        Some(if negative { -number } else { number })
    }
}
