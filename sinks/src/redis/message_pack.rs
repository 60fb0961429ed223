//! The few MessagePack values that the scripts read. Numbers go as text: hashes hold text anyway, and Lua's own numbers
//! would lose digits.

/// Appends a text.
pub(super) fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    let length = text.len();
    match length {
        0..32 => out.push(0xa0 | length as u8),
        32..256 => out.extend([0xd9, length as u8]),
        256..65_536 => {
            out.push(0xda);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0xdb);
            out.extend((length as u32).to_be_bytes());
        }
    }
    out.extend_from_slice(text);
}

/// Appends a whole number.
pub(super) fn put_u32(out: &mut Vec<u8>, number: u32) {
    out.push(0xce);
    out.extend(number.to_be_bytes());
}

/// Appends true or false.
pub(super) fn put_flag(out: &mut Vec<u8>, flag: bool) {
    out.push(if flag { 0xc3 } else { 0xc2 });
}

/// Appends nil.
pub(super) fn put_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends the head of a list of that many values.
pub(super) fn put_list_head(out: &mut Vec<u8>, values: u16) {
    out.push(0xdc);
    out.extend(values.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_carry_their_length() {
        for (length, head) in [
            (0, &[0xa0][..]),
            (31, &[0xbf]),
            (32, &[0xd9, 32]),
            (255, &[0xd9, 255]),
            (256, &[0xda, 1, 0]),
            (65_535, &[0xda, 255, 255]),
            (65_536, &[0xdb, 0, 1, 0, 0]),
        ] {
            let text = vec![b'x'; length];
            let mut out = Vec::new();
            put_text(&mut out, &text);
            assert_eq!(out[..head.len()], *head, "{length}");
            assert_eq!(out[head.len()..], text);
        }
    }
}
