//! A growing piece of JSON text, written by fixed-size copies wherever the source allows it: most cells of a row are shorter
//! than a call to copy them takes.
//!
//! Invariant: `bytes[..len]` is what was written; what lies behind it is room to write into and means nothing.

use arrow::array::StringViewArray;

/// Longest field name, with its quotes and signs, that is copied in one piece.
const NAME_BYTES: usize = 32;
/// Longest string that a view holds in itself.
const INLINE_BYTES: usize = 12;

/// `,"name":` in a form that is copied quickly.
#[derive(Clone, Debug)]
pub(super) struct Name {
    short: [u8; NAME_BYTES],
    length: usize,
    /// The whole of it where it is too long for `short`.
    long: Vec<u8>,
}

impl Name {
    pub(super) fn new(name: &str) -> Self {
        let mut quoted = Text::new();
        quoted.string(name);
        let whole = [b",", quoted.as_bytes(), b":"].concat();
        let mut short = [0; NAME_BYTES];
        let long = match short.get_mut(..whole.len()) {
            Some(room) => {
                room.copy_from_slice(&whole);
                Vec::new()
            }
            None => whole.clone(),
        };
        Self { short, length: whole.len(), long }
    }
}

/// JSON text in a buffer that keeps its room when it is cleared.
#[derive(Clone, Debug, Default)]
pub struct Text {
    bytes: Vec<u8>,
    len: usize,
}

impl Text {
    /// An empty text.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets the text, keeps the room.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// Bytes written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What is written.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Appends bytes as they are, such as the separator between objects.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        self.room(bytes.len());
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    /// Appends a string with its quotes.
    pub fn string(&mut self, value: &str) {
        let bytes = value.as_bytes();
        if is_plain(bytes) {
            let end = self.len + bytes.len() + 2;
            self.room(bytes.len() + 2);
            self.bytes[self.len] = b'"';
            self.bytes[self.len + 1..end - 1].copy_from_slice(bytes);
            self.bytes[end - 1] = b'"';
            self.len = end;
        } else {
            self.escaped(bytes);
        }
    }

    /// Room for `more` bytes behind what is written.
    #[inline]
    fn room(&mut self, more: usize) {
        if self.bytes.len() < self.len + more {
            self.grow(more);
        }
    }

    #[cold]
    fn grow(&mut self, more: usize) {
        let wanted = (self.len + more).next_power_of_two().max(4_096);
        self.bytes.resize(wanted, 0);
    }

    /// Begins an object; its fields are [`name`](Self::name)s followed by values.
    #[inline]
    pub(super) fn begin(&mut self) -> usize {
        self.len
    }

    /// Ends the object that began at `start`: its first comma becomes the brace.
    #[inline]
    pub(super) fn end(&mut self, start: usize) {
        if self.len == start {
            self.raw(b"{");
        }
        self.bytes[start] = b'{';
        self.raw(b"}");
    }

    #[inline]
    pub(super) fn name(&mut self, name: &Name) {
        if name.long.is_empty() {
            self.room(NAME_BYTES);
            self.bytes[self.len..self.len + NAME_BYTES].copy_from_slice(&name.short);
            self.len += name.length;
        } else {
            self.raw(&name.long);
        }
    }

    /// Appends a string of a view column with its quotes.
    #[inline]
    pub(super) fn view(&mut self, values: &StringViewArray, row: usize) {
        let view = values.views()[row];
        let length = (view as u32) as usize;
        if length > INLINE_BYTES {
            return self.string(values.value(row));
        }
        let inline = (view >> 32) as u64;
        let rest = (view >> 96) as u32;
        // Bytes behind the string's end are zero in a view; here they count as letters.
        let plain = if length >= 8 {
            word_is_plain(inline) && word_is_plain(u64::from(rest) | (SPACES << (8 * (length - 8))))
        } else {
            word_is_plain(inline | (SPACES << (8 * length)))
        };
        if !plain {
            return self.escaped(values.value(row).as_bytes());
        }
        self.room(INLINE_BYTES + 2);
        let room = &mut self.bytes[self.len..self.len + INLINE_BYTES + 2];
        room[0] = b'"';
        room[1..9].copy_from_slice(&inline.to_le_bytes());
        room[9..13].copy_from_slice(&rest.to_le_bytes());
        room[length + 1] = b'"';
        self.len += length + 2;
    }

    /// Appends a number; what is not finite has no JSON form and becomes `null`.
    #[inline]
    pub(super) fn float<F: zmij::Float + Into<f64> + Copy>(&mut self, value: F) {
        if value.into().is_finite() {
            self.raw(zmij::Buffer::new().format_finite(value).as_bytes());
        } else {
            self.raw(b"null");
        }
    }

    #[inline]
    pub(super) fn integer<I: itoa::Integer>(&mut self, value: I) {
        self.raw(itoa::Buffer::new().format(value).as_bytes());
    }

    #[cold]
    fn escaped(&mut self, bytes: &[u8]) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        self.raw(b"\"");
        let mut plain = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let unicode;
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                b'\t' => b"\\t",
                0..0x20 => {
                    unicode = [b'\\', b'u', b'0', b'0', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]];
                    &unicode
                }
                _ => continue,
            };
            self.raw(&bytes[plain..at]);
            self.raw(escape);
            plain = at + 1;
        }
        self.raw(&bytes[plain..]);
        self.raw(b"\"");
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const SPACES: u64 = 0x2020_2020_2020_2020;

/// Whether none of eight bytes has to be escaped: control characters, quote, backslash. May say no to a word that is plain
/// (a byte above 0x7f beside one that borrows), never yes to one that is not.
#[inline]
fn word_is_plain(word: u64) -> bool {
    let control = word.wrapping_sub(SPACES) & !word;
    let quote = word ^ (ONES * b'"' as u64);
    let slash = word ^ (ONES * b'\\' as u64);
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    (control | zero(quote) | zero(slash)) & HIGHS == 0
}

#[inline]
fn is_plain(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(8);
    let plain = words.all(|word| word_is_plain(u64::from_le_bytes(word.try_into().expect("eight bytes"))));
    plain && words.remainder().iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\')
}
