//! Rows as JSON text. Everything is appended to a buffer of the caller; nothing is allocated a row.

use crate::memory::{Kind, RowView};

/// Appends a whole row: its key, its version, and of `fields` those that have a value.
pub fn put_row(out: &mut Vec<u8>, row: &RowView<'_>, fields: u64) {
    put_head(out, row);
    let mut rest = fields & row.present() & !(1 << row.layout().key());
    while rest != 0 {
        let column = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        out.push(b',');
        out.extend_from_slice(row.layout().columns()[column].label.as_bytes());
        put_value(out, row, column);
    }
    out.push(b'}');
}

/// Appends what of `fields` differs between two rows of one key: a field that lost its value is null. Appends nothing and
/// returns false if none differs.
pub fn put_difference(out: &mut Vec<u8>, old: &RowView<'_>, new: &RowView<'_>, fields: u64) -> bool {
    let mut rest = old.changed(new) & fields & !(1 << new.layout().key());
    if rest == 0 {
        return false;
    }
    put_head(out, new);
    while rest != 0 {
        let column = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        out.push(b',');
        out.extend_from_slice(new.layout().columns()[column].label.as_bytes());
        if new.has(column) {
            put_value(out, new, column);
        } else {
            out.extend_from_slice(b"null");
        }
    }
    out.push(b'}');
    true
}

/// Appends the key of a row alone.
pub fn put_key(out: &mut Vec<u8>, row: &RowView<'_>) {
    put_text(out, row.key_bytes());
}

/// Appends a whole number.
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_head(out: &mut Vec<u8>, row: &RowView<'_>) {
    out.push(b'{');
    out.extend_from_slice(row.layout().columns()[row.layout().key()].label.as_bytes());
    put_key(out, row);
    out.extend_from_slice(b",\"version\":");
    put_number(out, row.version());
}

fn put_value(out: &mut Vec<u8>, row: &RowView<'_>, column: usize) {
    match row.layout().columns()[column].kind {
        Kind::Text => put_text(out, row.text_bytes(column)),
        Kind::Json => out.extend_from_slice(row.text_bytes(column)),
        Kind::Float => match row.float(column) {
            Some(value) if value.is_finite() => {
                out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
            }
            _ => out.extend_from_slice(b"null"),
        },
        Kind::Long | Kind::Int => {
            let value = row.long(column).unwrap_or_default();
            out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        }
        Kind::Flag => out.extend_from_slice(if row.flag(column) == Some(true) { b"true" } else { b"false" }),
    }
}

/// Appends a text in quotes.
pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    let plain = |&b: &u8| b >= 0x20 && b != b'"' && b != b'\\';
    let mut rest = text;
    while let Some(stop) = rest.iter().position(|b| !plain(b)) {
        out.extend_from_slice(&rest[..stop]);
        match rest[stop] {
            quoted @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', quoted]),
            control => {
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(control >> 4), digit(control & 15)]);
            }
        }
        rest = &rest[stop + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn texts_come_back_as_they_were(text in any::<String>()) {
            let mut out = Vec::new();
            put_text(&mut out, text.as_bytes());
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }
    }
}
