//! Ids as parts of keys and channels. Two ids never share a name, and no name holds a character that a key pattern, a
//! cluster's hash tag or a terminal takes for its own.

use std::borrow::Cow;

/// Stands in a key for "no company"; no id is encoded so.
pub(super) const NONE: &str = "%none";

/// The id with every byte other than `A-Z a-z 0-9 . _ : -` as `%` and two upper-case hexadecimal digits.
pub(super) fn encode(id: &str) -> Cow<'_, str> {
    let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.bytes().all(safe) {
        return Cow::Borrowed(id);
    }
    let mut name = String::with_capacity(id.len() + 16);
    for b in id.bytes() {
        if safe(b) {
            name.push(char::from(b));
        } else {
            let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
            name.extend(['%', digit(b >> 4), digit(b & 15)]);
        }
    }
    Cow::Owned(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_of_devices_stay_as_they_are() {
        assert!(matches!(encode("a.B_c:d-9"), Cow::Borrowed("a.B_c:d-9")));
        assert_eq!(encode("a b*{c}\n%é"), "a%20b%2A%7Bc%7D%0A%25%C3%A9");
    }

    proptest! {
        #[test]
        fn names_are_unambiguous(id in any::<String>()) {
            let name = encode(&id);
            let mut bytes = Vec::new();
            let mut rest = name.as_bytes();
            while let Some((&first, more)) = rest.split_first() {
                rest = more;
                if first == b'%' {
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
                    rest = &rest[2..];
                } else {
                    bytes.push(first);
                }
            }
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), id.clone());
            prop_assert_ne!(name, NONE);
        }
    }
}
