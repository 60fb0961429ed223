//! JSON records. Every document is read under the same rules, whoever reads it: strict JSON in UTF-8, nested at most
//! [`DEPTH_MAX`] deep, no field twice, `null` is absent, unknown fields are skipped.
//!
//! The fast parser only decides whether a document is good. Why one is not is found out by a second, slow reading.

mod declared;
mod explain;
mod fast;
mod reference;
mod scalar;
mod telemetry;
mod write;

use operators::error::Refusal;

pub(super) use declared::key_value;
pub use declared::{GONE, Parsed};
pub use explain::syntax;
pub use reference::{Reference, tombstone_id};
pub use telemetry::{Message, Parser};
pub use write::write_telemetry;

/// How deep arrays and objects may be nested.
pub const DEPTH_MAX: usize = 64;

/// What every document must be before a parser sees it: UTF-8 with sound escapes, without NUL or byte order mark, and not
/// nested too deep (parsers recurse).
///
/// # Errors
/// `utf8_invalid` or `json_too_deep`.
pub fn check(bytes: &[u8]) -> Result<&str, Refusal> {
    let text = std::str::from_utf8(bytes).map_err(|e| utf8_invalid(e.valid_up_to(), "not UTF-8"))?;
    let (openings, backslashes) = count(bytes);
    if openings > DEPTH_MAX {
        depth(bytes)?;
    }
    if backslashes {
        escapes(bytes)?;
    }
    Ok(text)
}

/// Opening brackets of both kinds (no more than those can be nested), and whether there is any escape. Written so that it
/// compiles to vector instructions: it runs over every byte of every message.
fn count(bytes: &[u8]) -> (usize, bool) {
    let (mut openings, mut backslashes) = (0, false);
    for chunk in bytes.chunks(128) {
        let (mut open, mut escaped) = (0u8, 0u8);
        for byte in chunk {
            open += u8::from(byte | 0x20 == b'{');
            escaped |= u8::from(*byte == b'\\');
        }
        openings += usize::from(open);
        backslashes |= escaped != 0;
    }
    (openings, backslashes)
}

fn depth(bytes: &[u8]) -> Result<(), Refusal> {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for (at, byte) in bytes.iter().enumerate() {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'{' | b'[') => {
                depth += 1;
                if depth > DEPTH_MAX {
                    let message = format!("nested deeper than the limit of {DEPTH_MAX}");
                    return Err(Refusal::new("json_too_deep", message).at(place(bytes, at)));
                }
            }
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Each escape is whole and each surrogate has its other half. Parsers differ in what they let pass here, above all in
/// values that they skip.
fn escapes(bytes: &[u8]) -> Result<(), Refusal> {
    let unit = |at: usize| -> Option<u16> {
        let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
        let digits = digits.iter().all(u8::is_ascii_hexdigit).then_some(digits)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|b| *b == b'\\') {
        at += next;
        at += match bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') => match unit(at) {
                Some(0xD800..=0xDBFF) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
                Some(0xD800..=0xDFFF) => return Err(utf8_invalid(at, "half of a surrogate pair")),
                Some(_) => 6,
                None => return Err(invalid_escape(bytes, at)),
            },
            _ => return Err(invalid_escape(bytes, at)),
        };
    }
    Ok(())
}

fn invalid_escape(bytes: &[u8], at: usize) -> Refusal {
    Refusal::new("json_invalid", "invalid escape").at(place(bytes, at))
}

fn utf8_invalid(offset: usize, what: &str) -> Refusal {
    Refusal::new("utf8_invalid", format!("{what} at byte {offset}")).hint("send UTF-8 without a byte order mark")
}

/// `line:column` of the byte at `offset`, both from 1.
fn place(bytes: &[u8], offset: usize) -> String {
    let before = &bytes[..offset.min(bytes.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    format!("{line}:{column}")
}

#[cfg(test)]
mod tests;
