//! A key of several parts as one text, as it stands in Kafka, in Redis and on the command line.
//!
//! Invariant: different keys are different texts, whatever their parts hold.

/// What stands between the parts.
pub const SEPARATOR: char = '|';
/// A part that is missing.
pub const NULL: &str = "%N";

/// Appends one part so that the parts can be told apart: `%` and `|` are percent-encoded, and a missing value is [`NULL`].
pub fn push(part: Option<&str>, out: &mut String) {
    let Some(part) = part else { return out.push_str(NULL) };
    for c in part.chars() {
        match c {
            '%' => out.push_str("%25"),
            SEPARATOR => out.push_str("%7C"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(parts: &[Option<&str>]) -> String {
        let mut key = String::new();
        for (index, part) in parts.iter().enumerate() {
            if index > 0 {
                key.push(SEPARATOR);
            }
            push(*part, &mut key);
        }
        key
    }

    #[test]
    fn different_keys_are_different_texts() {
        assert_eq!(key(&[Some("c-1"), Some("ada")]), "c-1|ada");
        let all = [
            key(&[Some("a|b"), Some("c")]),
            key(&[Some("a"), Some("b|c")]),
            key(&[Some("a"), None]),
            key(&[Some("a"), Some("%N")]),
            key(&[Some("a"), Some("")]),
            key(&[Some("a%7Cb"), Some("c")]),
        ];
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }
}
