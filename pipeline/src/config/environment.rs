//! `${NAME}` in texts of the configuration: the environment variable of that name.
//!
//! Invariant: an error names the variable and never shows what is in any.

/// A text with its variables filled in.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled {
    /// The text.
    pub text: String,
    /// Whether any of it came from the environment.
    pub from_environment: bool,
}

/// Fills in `${NAME}` from `variable`; `$${` gives `${`.
///
/// # Errors
/// Everything wrong with the text, one sentence each.
pub fn fill(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Filled, Vec<String>> {
    let (mut out, mut wrong, mut from_environment) = (String::new(), Vec::new(), false);
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at]);
            out.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let Some(end) = rest[at..].find('}').map(|end| at + end) else {
            wrong.push("\"${\" is not closed by \"}\"; write $${ for a plain ${".to_owned());
            rest = "";
            break;
        };
        let name = &rest[at + 2..end];
        rest = &rest[end + 1..];
        if !is_name(name) {
            wrong.push("between ${ and } stands the name of an environment variable: A-Z a-z 0-9 _".to_owned());
            continue;
        }
        match variable(name) {
            Some(value) if !value.is_empty() => out.push_str(&value),
            Some(_) => wrong.push(format!("the environment variable {name} is empty")),
            None => wrong.push(format!("the environment variable {name} is not set, or is not UTF-8")),
        }
        from_environment = true;
    }
    out.push_str(rest);
    if wrong.is_empty() { Ok(Filled { text: out, from_environment }) } else { Err(wrong) }
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(text: &str) -> Result<String, Vec<String>> {
        let variable = |name: &str| match name {
            "HOST" => Some("h1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        fill(text, variable).map(|filled| filled.text)
    }

    #[test]
    fn variables_are_filled_in() {
        assert_eq!(filled("a${HOST}b${HOST}"), Ok("ah1bh1".to_owned()));
        assert_eq!(filled("plain $ and } and $HOST"), Ok("plain $ and } and $HOST".to_owned()));
        assert_eq!(filled("$${HOST}"), Ok("${HOST}".to_owned()));
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let wrong = filled("${HOST} ${NONE} ${EMPTY} ${a-b} ${").expect_err("four");
        assert_eq!(wrong.len(), 4, "{wrong:?}");
        assert!(wrong[0].contains("NONE is not set") && wrong[1].contains("EMPTY is empty"), "{wrong:?}");
        assert!(!wrong.concat().contains("h1"), "{wrong:?}");
    }
}
