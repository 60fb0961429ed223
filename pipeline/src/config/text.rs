//! The user's configuration file as text: read once, and quoted in messages line by line.
//!
//! Invariant: a quoted line never shows the value of a secret, of an option that does not exist, or of a line that looks as
//! if it held a password.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A configuration file is never longer, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// A quoted line is cut after this many characters.
const QUOTE_CHARS_MAX: usize = 160;
/// Names on a line that cannot be parsed that make us hide what follows them.
const TELLTALES: [&str; 6] = ["pass", "secret", "token", "credential", "api_key", "private"];

/// A configuration file.
#[derive(Debug)]
pub struct Text {
    /// Where it was read from.
    pub path: PathBuf,
    /// What it says.
    pub content: String,
    /// Whether everybody on the machine may read the file.
    pub world_readable: bool,
    /// Bytes that are never quoted.
    pub hidden: Vec<Range<usize>>,
}

impl Text {
    /// Reads the file.
    ///
    /// # Errors
    /// Why it cannot be a configuration, in words that follow `config: cannot read PATH:`.
    pub fn read(path: &Path) -> Result<Text, String> {
        let metadata = std::fs::metadata(path).map_err(|e| why(&e))?;
        if metadata.is_dir() {
            return Err("it is a directory: name the file in it".to_owned());
        }
        if !metadata.is_file() {
            return Err("it is not a regular file".to_owned());
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(|e| why(&e))?;
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| why(&e))?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(format!("it is longer than {FILE_BYTES_MAX} bytes"));
        }
        let content = decode(bytes)?;
        Ok(Text { path: path.to_owned(), content, world_readable: world_readable(&metadata), hidden: Vec::new() })
    }

    /// Line and column of a byte, both from 1; the column counts characters.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let before = &self.content[..self.floor(offset)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The line of `span`'s beginning with carets under the span.
    #[must_use]
    pub fn quote(&self, span: &Range<usize>, parsed: bool) -> String {
        let start = self.floor(span.start);
        let line_start = self.content[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = self.content[start..].find('\n').map_or(self.content.len(), |at| start + at);
        let (number, _) = self.line_column(start);
        let secret_from = if parsed { None } else { telltale(&self.content[line_start..line_end]) };
        let hidden = |at: usize| {
            secret_from.is_some_and(|from| at >= line_start + from) || self.hidden.iter().any(|h| h.contains(&at))
        };
        let (mut shown, mut carets, mut masked) = (String::new(), String::new(), false);
        for (at, c) in self.content[line_start..line_end].char_indices().map(|(at, c)| (line_start + at, c)) {
            if c == '\r' {
                continue;
            }
            let below = if at >= start && at < span.end.max(start + 1) { '^' } else { ' ' };
            let piece = match (hidden(at), masked) {
                (true, true) => continue,
                (true, false) => "***".to_owned(),
                (false, _) if c == '\t' => " ".to_owned(),
                (false, _) if c.is_control() => c.escape_default().to_string(),
                (false, _) => c.to_string(),
            };
            masked = hidden(at);
            carets.extend(std::iter::repeat_n(below, piece.chars().count()));
            shown.push_str(&piece);
        }
        if !carets.contains('^') {
            carets.push('^');
        }
        // A hidden value is masked as one: the carets may begin inside of it.
        if shown.chars().count() > QUOTE_CHARS_MAX {
            shown = shown.chars().take(QUOTE_CHARS_MAX).chain(['…']).collect();
            carets = carets.chars().take(QUOTE_CHARS_MAX).collect();
        }
        let gutter = " ".repeat(number.to_string().len());
        format!("{gutter} |\n{number} | {shown}\n{gutter} | {}", carets.trim_end())
    }

    /// The nearest character boundary at or before `offset`.
    fn floor(&self, offset: usize) -> usize {
        self.content.floor_char_boundary(offset.min(self.content.len()))
    }
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return Err("it begins with a byte order mark: save it as UTF-8 without one".to_owned());
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err("it is UTF-16: save it as UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let line = e.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        format!("it is not UTF-8: byte {at}, on line {line}")
    })
}

/// What the system said, without its number.
fn why(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::NotFound => "no such file".to_owned(),
        ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string(),
    }
}

#[cfg(unix)]
fn world_readable(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o004 != 0
}

#[cfg(not(unix))]
fn world_readable(_: &std::fs::Metadata) -> bool {
    false
}

/// Where a line that cannot be parsed begins to be private: after the `=` that follows a telltale name.
fn telltale(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let name = TELLTALES.iter().filter_map(|name| lower.find(name)).min()?;
    let after = line[name..].find(['=', '"', '\''])?;
    Some(name + after + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(content: &str) -> Text {
        Text { path: "f.toml".into(), content: content.to_owned(), world_readable: false, hidden: Vec::new() }
    }

    #[test]
    fn carets_stand_under_the_span() {
        let t = text("a = 1\n\tкл = \"ю\" # x\r\n");
        let at = t.content.find('"').expect("there");
        assert_eq!(t.line_column(at), (2, 7));
        assert_eq!(t.quote(&(at..at + 4), true), "  |\n2 |  кл = \"ю\" # x\n  |       ^^^");
        assert_eq!(t.quote(&(5..5), true), "  |\n1 | a = 1\n  |      ^");
        assert_eq!(t.quote(&(99..120), true).lines().last(), Some("  | ^"), "after the end");
    }

    #[test]
    fn hidden_bytes_are_never_quoted() {
        let mut t = text("r = { password = \"hunter2\", url = 1 }\n");
        let at = t.content.find("\"h").expect("there");
        t.hidden.push(at..at + 9);
        let url = t.content.find('1').expect("there");
        assert_eq!(t.quote(&(url..url + 1), true).lines().nth(1), Some("1 | r = { password = ***, url = 1 }"));
        let quote = t.quote(&(at..at + 9), true);
        assert_eq!(quote, "  |\n1 | r = { password = ***, url = 1 }\n  |                  ^^^");
        assert_eq!(
            text("password = \"hunter2\nx = 1").quote(&(11..19), false).lines().nth(1),
            Some("1 | password =***")
        );
    }

    #[test]
    fn what_is_not_utf_8_is_refused() {
        assert!(decode(b"a\n\xff".to_vec()).expect_err("bad").contains("byte 2, on line 2"));
        assert!(decode(b"\xef\xbb\xbfa = 1".to_vec()).expect_err("bad").contains("byte order mark"));
        assert!(decode(b"\xff\xfea\0".to_vec()).expect_err("bad").contains("UTF-16"));
    }
}
