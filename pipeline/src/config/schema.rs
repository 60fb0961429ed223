//! What options there are: read from `default.toml` itself, whose comments carry each option's meaning and rule.
//!
//! Invariant: an option's type, default, meaning and limits stand in one place, so the check, the reference page and the
//! effective configuration cannot tell different stories. A number always has limits.

use std::borrow::Cow;
use std::fmt;
use std::sync::LazyLock;

use toml::Value;

/// The embedded defaults, as text.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// The section of each user.
pub const USER: &str = "users.NAME";

/// What values an option takes.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// `true` or `false`.
    Flag,
    /// A whole number within both limits.
    Whole(i64, i64),
    /// A number within both limits.
    Real(f64, f64),
    /// One of these words.
    Choice(Vec<String>),
    /// A text of this kind.
    Text(Kind),
    /// A list of companies, or the word for all.
    Companies,
}

/// What a text has to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text, also an empty one.
    Any,
    /// At least one character.
    NotEmpty,
    /// An IP address and a port to listen on.
    Address,
    /// The same, or nothing.
    AddressOrNone,
    /// `host:port`, several separated by commas.
    Addresses,
    /// `http://host:port`.
    HttpUrl,
    /// `redis://[user@]host:port/db`, without a password.
    RedisUrl,
    /// `scheme://host[:port]`, any number of them separated by commas.
    Origins,
    /// A name: letters, digits and `_`.
    Name,
    /// The beginning of Redis keys.
    Prefix,
    /// A level of log lines, or directives.
    Level,
    /// A topic's name as Kafka allows it.
    Topic,
    /// A path; not empty.
    Path,
    /// A password or token; never shown.
    Secret,
}

impl Rule {
    fn read(words: &str, default: &Value) -> Option<Rule> {
        match default {
            Value::Boolean(_) => words.is_empty().then_some(Rule::Flag),
            Value::Integer(_) => {
                let (low, high) = words.split_once(" to ")?;
                Some(Rule::Whole(low.parse().ok()?, high.parse().ok()?))
            }
            Value::Float(_) => {
                let (low, high) = words.split_once(" to ")?;
                Some(Rule::Real(low.parse().ok()?, high.parse().ok()?))
            }
            Value::String(_) if words.starts_with('"') => {
                Some(Rule::Choice(words.split(" | ").map(|word| word.trim_matches('"').to_owned()).collect()))
            }
            Value::String(_) => Some(Rule::Text(match words {
                "" => Kind::Any,
                "not empty" => Kind::NotEmpty,
                "address" => Kind::Address,
                "address or empty" => Kind::AddressOrNone,
                "addresses" => Kind::Addresses,
                "http url" => Kind::HttpUrl,
                "redis url" => Kind::RedisUrl,
                "origins" => Kind::Origins,
                "name" => Kind::Name,
                "prefix" => Kind::Prefix,
                "level" => Kind::Level,
                "topic" => Kind::Topic,
                "path" => Kind::Path,
                "secret" => Kind::Secret,
                _ => return None,
            })),
            Value::Array(_) => (words == "companies").then_some(Rule::Companies),
            _ => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Flag => f.write_str("true or false"),
            Rule::Companies => f.write_str("a list of ids like [\"c1\", \"c2\"], or \"all\""),
            Rule::Whole(low, high) => write!(f, "a whole number from {low} to {high}"),
            Rule::Real(low, high) => write!(f, "a number from {low} to {high}"),
            Rule::Choice(words) => {
                f.write_str("one of ")?;
                for (n, word) in words.iter().enumerate() {
                    write!(f, "{}\"{word}\"", if n > 0 { ", " } else { "" })?;
                }
                Ok(())
            }
            Rule::Text(kind) => f.write_str(match kind {
                Kind::Any => "a text",
                Kind::NotEmpty => "a text that is not empty",
                Kind::Address => "an IP address and a port like \"127.0.0.1:8080\", the port 0 to 65535",
                Kind::AddressOrNone => "an IP address and a port like \"127.0.0.1:5433\", or nothing",
                Kind::Addresses => "addresses like \"kafka-1:9092,kafka-2:9092\", the ports 1 to 65535",
                Kind::HttpUrl => "a URL like \"http://host:8123\", without user and parameters",
                Kind::RedisUrl => "a URL like \"redis://user@host:6379/0\", without a password",
                Kind::Origins => "origins like \"https://fleet.example.com\", separated by commas",
                Kind::Name => "a name: 1 to 64 of A-Z a-z 0-9 _, not beginning with a digit",
                Kind::Prefix => "1 to 64 of A-Z a-z 0-9 . _ : -",
                Kind::Level => "one of trace, debug, info, warn, error, off, or directives like \"info,sinks=debug\"",
                Kind::Topic => "a topic's name: 1 to 249 of A-Z a-z 0-9 . _ -",
                Kind::Path => "a path",
                Kind::Secret => "a secret, best as \"${NAME}\" of an environment variable",
            }),
        }
    }
}

/// One option.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Section and name, such as `kafka.brokers`.
    pub key: String,
    /// Name within the section.
    pub name: String,
    /// What it means and its unit.
    pub meaning: String,
    /// What values it takes.
    pub rule: Rule,
    /// Its value when nothing is configured.
    pub default: Value,
}

impl Entry {
    /// Whether the value must never be shown.
    #[must_use]
    pub fn is_secret(&self) -> bool {
        self.rule == Rule::Text(Kind::Secret)
    }

    /// The unit of a number, as its name says.
    #[must_use]
    pub fn unit(&self) -> Option<&'static str> {
        let bare = self.name.strip_suffix("_max").or_else(|| self.name.strip_suffix("_min")).unwrap_or(&self.name);
        let units = [
            ("_per_s", "a second"),
            ("_ms", "milliseconds"),
            ("_s", "seconds"),
            ("_days", "days"),
            ("_bytes", "bytes"),
            ("_rows", "rows"),
            ("_pct", "per cent"),
        ];
        units.iter().find(|(suffix, _)| bare.ends_with(suffix)).map(|(_, unit)| *unit)
    }
}

/// A section with its options, in the order of `default.toml`.
#[derive(Clone, Debug)]
pub struct Section {
    /// Name, such as `kafka`.
    pub name: String,
    /// What it is for.
    pub meaning: String,
    /// Its options.
    pub entries: Vec<Entry>,
}

/// All sections.
#[must_use]
pub fn sections() -> &'static [Section] {
    static SECTIONS: LazyLock<Vec<Section>> =
        LazyLock::new(|| read(DEFAULTS).expect("a unit test reads the embedded defaults"));
    &SECTIONS
}

/// All options.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    sections().iter().flat_map(|section| &section.entries)
}

/// The option of this key; of a user, that of the section for all of them under the user's own name.
#[must_use]
pub fn entry(key: &str) -> Option<Cow<'static, Entry>> {
    let of_user = key.strip_prefix("users.").and_then(|rest| rest.split_once('.'));
    let Some((_, option)) = of_user else { return entries().find(|entry| entry.key == key).map(Cow::Borrowed) };
    let all = entries().find(|entry| entry.key.strip_prefix(USER).is_some_and(|name| name[1..] == *option))?;
    Some(Cow::Owned(Entry { key: key.to_owned(), ..all.clone() }))
}

/// The defaults as a table: nobody is a user.
#[must_use]
pub fn defaults() -> toml::Table {
    let mut all = with_a_user();
    all.insert("users".to_owned(), Value::Table(toml::Table::new()));
    all
}

/// The defaults of a user.
#[must_use]
pub fn user() -> toml::Table {
    with_a_user()["users"]["NAME"].as_table().cloned().expect("a section")
}

/// The defaults with a user called NAME, as the file has them.
#[must_use]
pub fn with_a_user() -> toml::Table {
    DEFAULTS.parse().expect("a unit test reads the embedded defaults")
}

fn read(text: &str) -> Result<Vec<Section>, String> {
    let mut sections: Vec<Section> = Vec::new();
    let (mut comment, mut words) = (Vec::new(), String::new());
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| format!("default.toml:{}: {what}: {line}", number + 1);
        let line = line.trim();
        if line.is_empty() {
            comment.clear();
        } else if let Some(text) = line.strip_prefix('#') {
            match text.trim().strip_prefix('[').and_then(|rule| rule.strip_suffix(']')) {
                Some(rule) => rule.clone_into(&mut words),
                None => comment.push(text.trim()),
            }
        } else {
            let meaning = std::mem::take(&mut comment).join(" ");
            let rule = std::mem::take(&mut words);
            if meaning.is_empty() {
                return Err(wrong("no comment says what it means"));
            }
            if let Some(name) = line.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
                sections.push(Section { name: name.to_owned(), meaning, entries: Vec::new() });
                continue;
            }
            let section = sections.last_mut().ok_or_else(|| wrong("an option outside a section"))?;
            let (name, value) = line.split_once(" = ").ok_or_else(|| wrong("neither a section nor an option"))?;
            let value: toml::Table = format!("value = {value}").parse().map_err(|_| wrong("not a TOML value"))?;
            let default = value["value"].clone();
            let rule = Rule::read(&rule, &default).ok_or_else(|| wrong("no rule that fits the default"))?;
            let key = format!("{}.{name}", section.name);
            section.entries.push(Entry { key, name: name.to_owned(), meaning, rule, default });
        }
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_defaults_are_complete() {
        let sections = read(DEFAULTS).expect("readable");
        let table = with_a_user();
        let mut count = 0;
        for entry in sections.iter().flat_map(|section| &section.entries) {
            let at = entry.key.split('.').try_fold(&Value::Table(table.clone()), |at, part| at.get(part)).cloned();
            assert_eq!(at.as_ref(), Some(&entry.default), "{}", entry.key);
            count += 1;
        }
        fn leaves(value: &Value) -> usize {
            value.as_table().map_or(1, |table| table.values().map(leaves).sum())
        }
        assert_eq!(count, leaves(&Value::Table(table)), "each option is an entry");
    }

    #[test]
    fn a_default_without_meaning_or_rule_is_refused() {
        for (text, why) in [
            ("[a]\n", "no comment"),
            ("# x\n[a]\nb = 1\n", "no comment"),
            ("# x\n[a]\n# y\nb = 1\n", "no rule"),
            ("# x\n[a]\n# y\n# [1 to many]\nb = 1\n", "no rule"),
            ("# x\n[a]\n# y\n# [shape]\nb = \"\"\n", "no rule"),
            ("# y\nb = true\n", "outside a section"),
        ] {
            assert!(read(text).expect_err(text).contains(why), "{text}");
        }
    }
}
