//! A user's values against the options there are: type, limits, spelling.
//!
//! Invariant: every wrong key and value is told, not the first one only; a wrong value leaves the default in its place, so
//! that the rest can still be judged.

use std::collections::BTreeMap;
use std::ops::Range;

use operators::error::excerpt;
use toml::Value;
use toml::de::{DeTable, DeValue};

use super::environment;
use super::problem::{Place, Problem};
use super::schema::{self, Entry, Kind, Rule};
use super::users;

/// How alike two names must be for one to be suggested for the other, 0 to 1.
const LIKENESS_MIN: f64 = 0.75;
/// Longest name of a topic that Kafka takes.
const TOPIC_CHARS_MAX: usize = 249;
/// Longest name of a database, and longest prefix of keys.
const NAME_CHARS_MAX: usize = 64;

/// Companies of one user.
const COMPANIES_MAX: usize = 10_000;
/// Longest id of a company, in bytes.
const ID_BYTES_MAX: usize = 64;

/// What the user set, and what was wrong with it.
#[derive(Debug, Default)]
pub struct Checked {
    /// Good values by key.
    pub values: BTreeMap<String, Set>,
    /// What was wrong.
    pub problems: Vec<Problem>,
    /// Bytes of the file that must not be quoted.
    pub hidden: Vec<Range<usize>>,
    /// Keys with a wrong value, which still stand at their defaults.
    pub wrong: Vec<String>,
    /// Users that have a section, by name, and where.
    pub users: BTreeMap<String, Place>,
}

/// One value that the user set.
#[derive(Clone, Debug)]
pub struct Set {
    /// The value, with variables filled in.
    pub value: Value,
    /// The text as it stands in the file, if part of it came from the environment.
    pub template: Option<String>,
    /// Where it was set.
    pub place: Place,
}

impl Checked {
    /// Checks all keys of a parsed file.
    pub fn table(&mut self, table: &DeTable<'_>, prefix: &str, variable: &dyn Fn(&str) -> Option<String>) {
        for (name, value) in table {
            let key = if prefix.is_empty() { name.as_ref().to_string() } else { format!("{prefix}.{}", name.as_ref()) };
            let (name_span, value_span) = (name.span(), value.span());
            if let Some(entry) = schema::entry(&key) {
                let place = Place::File(value_span.clone(), true);
                match plain(value.as_ref()) {
                    Ok(value) => self.value(&entry, value, place, variable),
                    Err(got) => {
                        if entry.is_secret() {
                            self.hidden.push(value_span);
                        }
                        self.mismatch(&entry, &got, place);
                    }
                }
            } else if is_section(&key) || users::section(&key).is_some() {
                if let Some(user) = users::section(&key) {
                    let place = Place::File(name_span.clone(), true);
                    if !users::is_name(user) {
                        self.hidden.push(value_span);
                        self.problems.push(users::misnamed(user, place));
                        continue;
                    }
                    self.users.insert(user.to_owned(), place);
                }
                match value.as_ref().as_table() {
                    Some(inner) => self.table(inner, &key, variable),
                    None => {
                        // It may be the password itself.
                        self.hidden.push(value_span);
                        let message = format!("{key}: expected a section");
                        let problem = Problem::error("wrong_type", message, Place::File(name_span, true));
                        self.problems.push(problem.help(format!("write [{key}] and its options below it")));
                    }
                }
            } else {
                // What stands in a misspelt option may be a secret.
                if !value.as_ref().is_table() {
                    self.hidden.push(value_span);
                }
                self.unknown(&key, Place::File(name_span, true));
            }
        }
    }

    fn unknown(&mut self, key: &str, place: Place) {
        let shown = excerpt(key);
        let message = match suggestion(key) {
            Some(known) => format!("unknown key {shown}; did you mean {known}"),
            None => format!("unknown key {shown}"),
        };
        self.problems.push(
            Problem::error("unknown_key", message, place)
                .help("`haulstream check` without a file prints every option with its default"),
        );
    }

    /// Checks one value and keeps it if it is good. `place` is where it was set.
    pub fn value(&mut self, entry: &Entry, value: Value, place: Place, variable: &dyn Fn(&str) -> Option<String>) {
        let (mut value, mut template) = (value, None);
        if let Value::String(text) = &value {
            match environment::fill(text, variable) {
                Ok(filled) => {
                    template = filled.from_environment.then(|| text.clone());
                    value = Value::String(filled.text);
                }
                Err(wrong) => {
                    for why in wrong {
                        let message = format!("{}: {why}", entry.key);
                        self.problems.push(Problem::error("environment", message, place.clone()));
                    }
                    self.wrong.push(entry.key.clone());
                    return;
                }
            }
        }
        // Neither secrets nor what came from the environment is ever shown, nor what may be user:password@host.
        let private = entry.is_secret() || value.as_str().is_some_and(|text| text.contains('@'));
        let shown = !private && template.is_none();
        if let (true, Place::File(span, _)) = (private, &place) {
            self.hidden.push(span.clone());
        }
        match judge(&entry.rule, &value) {
            Ok(value) => {
                self.values.insert(entry.key.clone(), Set { value, template, place });
            }
            Err(Wrong::Type) => self.mismatch(entry, type_name(&value), place),
            Err(Wrong::Value(code)) => {
                let got = if shown { format!(", got {}", excerpt(&value.to_string())) } else { String::new() };
                let message = format!("{}: expected {}{got}", entry.key, expected(entry));
                self.problems.push(Problem::error(code, message, place));
                self.wrong.push(entry.key.clone());
            }
        }
    }

    fn mismatch(&mut self, entry: &Entry, got: &str, place: Place) {
        let message = format!("{}: expected {}, got {got}", entry.key, expected(entry));
        let mut problem = Problem::error("wrong_type", message, place);
        if let (Rule::Whole(..) | Rule::Real(..), Some(unit)) = (&entry.rule, entry.unit()) {
            problem = problem.help(format!("a plain number; its name says the unit: {unit}"));
        }
        self.problems.push(problem);
        self.wrong.push(entry.key.clone());
    }
}

enum Wrong {
    Type,
    Value(&'static str),
}

fn judge(rule: &Rule, value: &Value) -> Result<Value, Wrong> {
    let within = |good: bool, code: &'static str| if good { Ok(value.clone()) } else { Err(Wrong::Value(code)) };
    match (rule, value) {
        (Rule::Flag, Value::Boolean(_)) => Ok(value.clone()),
        (Rule::Whole(low, high), Value::Integer(n)) => within((low..=high).contains(&n), "out_of_range"),
        (Rule::Real(low, high), Value::Float(n)) => within((low..=high).contains(&n), "out_of_range"),
        (Rule::Real(low, high), Value::Integer(n)) => {
            let n = *n as f64;
            if (*low..=*high).contains(&n) { Ok(Value::Float(n)) } else { Err(Wrong::Value("out_of_range")) }
        }
        (Rule::Choice(words), Value::String(text)) => within(words.contains(text), "not_a_choice"),
        (Rule::Companies, Value::String(text)) => within(text == "all", "malformed"),
        (Rule::Companies, Value::Array(ids)) => within(are_companies(ids), "malformed"),
        (Rule::Text(kind), Value::String(text)) => within(fits(*kind, text), "malformed"),
        _ => Err(Wrong::Type),
    }
}

/// Whether all are ids of companies, and not too many.
fn are_companies(ids: &[Value]) -> bool {
    let good = |id: &str| !id.is_empty() && id.len() <= ID_BYTES_MAX && !id.chars().any(char::is_control);
    ids.len() <= COMPANIES_MAX && ids.iter().all(|id| id.as_str().is_some_and(good))
}

fn fits(kind: Kind, text: &str) -> bool {
    if text.chars().any(char::is_control) {
        return false;
    }
    match kind {
        Kind::Any | Kind::Secret => true,
        Kind::NotEmpty | Kind::Path => !text.trim().is_empty(),
        Kind::Address => text.parse::<std::net::SocketAddr>().is_ok(),
        Kind::AddressOrNone => text.is_empty() || text.parse::<std::net::SocketAddr>().is_ok(),
        Kind::Addresses => text.split(',').all(|one| address(one.trim()).is_some_and(|port| port > 0)),
        Kind::HttpUrl => text.starts_with("http://") && url(text) && !text.contains(['@', '?', '#']),
        Kind::RedisUrl => text.starts_with("redis://") && url(text) && database(text),
        Kind::Origins => text.split(',').map(str::trim).all(|one| one.is_empty() || origin(one)),
        Kind::Name => made_of(text, NAME_CHARS_MAX, "_") && !text.starts_with(|c: char| c.is_ascii_digit()),
        Kind::Prefix => made_of(text, NAME_CHARS_MAX, "._:-"),
        Kind::Level => crate::logging::is_level(text) && !text.trim().is_empty(),
        Kind::Topic => made_of(text, TOPIC_CHARS_MAX, "._-") && text != "." && text != "..",
    }
}

/// Whether there are 1 to `chars_max` letters, digits and these others.
fn made_of(text: &str, chars_max: usize, others: &str) -> bool {
    (1..=chars_max).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// Whether the path of the URL is nothing or a database's number.
fn database(url: &str) -> bool {
    let path = url.splitn(4, '/').nth(3).unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    path.is_empty() || path.parse::<u32>().is_ok()
}

/// `http[s]://host[:port]`, with nothing behind it but a slash.
fn origin(text: &str) -> bool {
    let text = text.strip_suffix('/').unwrap_or(text);
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| url(text) && !host.contains(['/', '@', '?', '#']))
}

/// The port of `host:port`.
fn address(text: &str) -> Option<u16> {
    let (host, port) = text.rsplit_once(':')?;
    let named = !host.is_empty() && !host.contains(':') && !host.contains(['/', '@', ' ']);
    let numbered = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = named || numbered.is_some_and(|host| host.parse::<std::net::Ipv6Addr>().is_ok());
    if !good || !port.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    port.parse().ok()
}

/// `scheme://[user@]host[:port][/…]`, without a password.
fn url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    let port_given = host.rfind(':').is_some_and(|at| !host[at..].contains(']'));
    let host_good = if port_given { address(host).is_some_and(|port| port > 0) } else { !host.is_empty() };
    !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !user.contains(':')
        && host_good
        && !text.contains(char::is_whitespace)
}

/// What an option wants, with its unit.
fn expected(entry: &Entry) -> String {
    match (&entry.rule, entry.unit()) {
        (Rule::Whole(low, high), Some(unit)) => {
            format!("a whole number of {unit} from {low} to {high} like {}", entry.default)
                .replace("of a second", "a second")
        }
        (rule @ (Rule::Whole(..) | Rule::Real(..)), _) => format!("{rule} like {}", entry.default),
        (rule, _) => rule.to_string(),
    }
}

/// The value without its place; or what it is, when no option can be of such a kind.
fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    match value {
        DeValue::String(text) => Ok(Value::String(text.to_string())),
        DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix())
            .map(Value::Integer)
            .map_err(|_| format!("{} beyond 64 bits", excerpt(n.as_str()))),
        DeValue::Float(n) => n.as_str().parse().map(Value::Float).map_err(|_| "a number beyond 64 bits".to_owned()),
        DeValue::Boolean(flag) => Ok(Value::Boolean(*flag)),
        DeValue::Datetime(_) => Err("a date".to_owned()),
        DeValue::Array(all) => all.iter().map(|one| plain(one.get_ref())).collect::<Result<_, _>>().map(Value::Array),
        DeValue::Table(_) => Err("a section".to_owned()),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

fn is_section(key: &str) -> bool {
    let inner = format!("{key}.");
    schema::sections().iter().any(|section| section.name == key || section.name.starts_with(&inner))
}

/// The option or section that was probably meant.
fn suggestion(key: &str) -> Option<String> {
    // Of a user's section only its own options are meant.
    if let Some((user, name)) = key.strip_prefix("users.").and_then(|rest| rest.split_once('.')) {
        let of_users = schema::entries().filter(|entry| entry.key.starts_with(schema::USER));
        let names: Vec<&str> = of_users.map(|entry| entry.name.as_str()).collect();
        return nearest(name, names).map(|known| format!("users.{user}.{known}"));
    }
    // The right name in the wrong section, if only one section has it.
    let name = key.rsplit('.').next().unwrap_or(key);
    let mut elsewhere = schema::entries().filter(|entry| entry.name == name);
    if let (Some(entry), None) = (elsewhere.next(), elsewhere.next()) {
        return Some(entry.key.clone());
    }
    let options = schema::entries().map(|entry| entry.key.as_str());
    nearest(key, options.chain(schema::sections().iter().map(|section| section.name.as_str())))
}

/// The one that is most like this one, if one is alike.
fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let key = key.to_lowercase();
    let known = known.into_iter();
    known
        .map(|known| (strsim::normalized_damerau_levenshtein(&key, known), known))
        .filter(|(likeness, _)| *likeness >= LIKENESS_MIN)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_urls() {
        let all = |kind, good: &[&str], bad: &[&str]| {
            good.iter().for_each(|text| assert!(fits(kind, text), "{kind:?} {text}"));
            bad.iter().for_each(|text| assert!(!fits(kind, text), "{kind:?} {text}"));
        };
        let (good, bad) =
            (["127.0.0.1:0", "[::1]:8080", "0.0.0.0:65535"], ["localhost:80", "127.0.0.1", "::1:80", ":1"]);
        all(Kind::Address, &good, &bad);
        all(Kind::AddressOrNone, &["", "127.0.0.1:0", "[::1]:5433"], &[" ", "localhost:80", "none"]);
        let bad = ["", "h", "h:", ":1", "h:70000", "h:-1", "h:+1", "::1:80", "http://h:1", "a:1,", "a:0"];
        all(Kind::Addresses, &["h:1", "127.0.0.1:1", "[::1]:8080", "a-b.c:65535", "a:1, b:2"], &bad);
        let bad = ["h:1", "redis://u:p@h:1", "redis://", "redis://h:1/x", "redis://h:1/0/1", "http://h", "redis://h h"];
        all(Kind::RedisUrl, &["redis://h:1/0", "redis://u@h:1", "redis://h/", "redis://[::1]:1/3"], &bad);
        let bad = ["https://h", "http://", "http://h:70000", "http://u@h", "http://h?user=u", "://h", "h:8123"];
        all(Kind::HttpUrl, &["http://h", "http://[::1]:8123/x"], &bad);
        let bad = ["fleet.example.com", "https://h/map", "https://", "*", "https://u@h", "ftp://h"];
        all(Kind::Origins, &["", "https://h", "https://h:8443/, http://i"], &bad);
        all(Kind::Name, &["fleet_1"], &["", "1a", "a-b", "a b", &"a".repeat(65)]);
        all(Kind::Prefix, &["hs:1"], &["", "a b", "ä"]);
        all(Kind::Topic, &["a.b_c-1"], &["a b", "..", ".", ""]);
    }

    #[test]
    fn near_misses_are_suggested() {
        assert_eq!(suggestion("kafka.broker").as_deref(), Some("kafka.brokers"));
        assert_eq!(suggestion("kafak").as_deref(), Some("kafka"));
        assert_eq!(suggestion("brokers").as_deref(), Some("kafka.brokers"));
        assert_eq!(suggestion("run.brokers").as_deref(), Some("kafka.brokers"));
        assert_eq!(suggestion("zzz"), None);
        assert_eq!(suggestion("run.password"), None, "two sections have one, and none is near");
    }
}
