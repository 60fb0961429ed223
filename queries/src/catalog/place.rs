//! Where in the text of a declaration a refusal points to.
//!
//! Invariant: a place is told only where the refused word itself stands; where several could be meant, none is.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use operators::error::Refusal;

/// What messages say before the name that is wrong.
const BEFORE: [&str; 10] = [
    "there is no table ",
    "there is no column ",
    "there is no sink ",
    "there is no option ",
    "there is no stream ",
    "several tables have a column ",
    "two columns are called ",
    "Invalid function '",
    "there is no parameter ",
    "the value of parameter ",
];
/// Words of messages, and the word of SQL that they are about, if it stands in the text once.
const ABOUT: [(&str, &str); 22] = [
    ("WITH RECURSIVE", "recursive"),
    ("LIMIT", "limit"),
    ("OFFSET", "offset"),
    ("window functions", "over"),
    ("now()", "now"),
    ("windows over events", "date_bin"),
    ("windows over events", "date_trunc"),
    ("windows over events", "hop"),
    ("hop()", "hop"),
    ("session()", "session"),
    ("sessions over events", "session"),
    ("stops()", "stops"),
    ("trips()", "trips"),
    ("silence()", "silence"),
    ("geofence_events()", "geofence_events"),
    ("stops and trips", "stops"),
    ("stops and trips", "trips"),
    ("number of groups", "by"),
    ("group by ids", "distinct"),
    ("join", "join"),
    ("unnest", "unnest"),
    ("CUBE", "cube"),
];

/// Line and column, both from 1, of what is refused.
#[must_use]
pub fn place(text: &str, why: &Refusal) -> Option<(usize, usize)> {
    let field = why.field.as_deref();
    let numbers = field.and_then(|field| field.split_once(':'));
    if let Some((Ok(line), Ok(column))) = numbers.map(|(line, column)| (line.parse(), column.parse())) {
        return Some((line, column));
    }
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().ok()?;
    if field == Some("name") {
        return after_view(&tokens);
    }
    let message = why.message.as_str();
    let named = BEFORE.iter().find_map(|before| message.strip_prefix(before)).map(word);
    let called = (why.code == "sql_nondeterministic").then(|| word(message));
    let circle = (why.code == "stream_cycle").then(|| message.split(" → ").nth(1).unwrap_or_default());
    let statement = (why.code == "sql_statement_not_allowed").then(|| word(message));
    if let Some(name) = field.or(named).or(called).or(circle).or(statement).filter(|name| !name.is_empty()) {
        let own = after_view(&tokens);
        return find(&tokens, name).find(|at| Some(*at) != own);
    }
    let about = ABOUT.iter().filter(|(part, _)| message.contains(part));
    about
        .map(|(_, keyword)| find(&tokens, keyword))
        .find_map(|mut found| found.next().filter(|_| found.next().is_none()))
}

/// The name at the beginning, without what qualifies it.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).unwrap_or(text.len());
    text[..end].rsplit('.').next().unwrap_or_default()
}

fn after_view(tokens: &[TokenWithSpan]) -> Option<(usize, usize)> {
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    let name = words.skip_while(|token| !is(&token.token, "view")).nth(1)?;
    Some((name.span.start.line as usize, name.span.start.column as usize))
}

fn is(token: &Token, name: &str) -> bool {
    matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(name))
}

/// Where the word stands: by itself, or in the text of an option.
fn find<'a>(tokens: &'a [TokenWithSpan], name: &'a str) -> impl Iterator<Item = (usize, usize)> {
    tokens.iter().filter_map(move |token| {
        let (line, column) = (token.span.start.line as usize, token.span.start.column as usize);
        match &token.token {
            Token::SingleQuotedString(text) => {
                let before = inside(text, name)?;
                Some((line, column + 1 + text[..before].chars().count()))
            }
            token if is(token, name) => Some((line, column)),
            _ => None,
        }
    })
}

/// Where a name stands in a list of names.
fn inside(text: &str, name: &str) -> Option<usize> {
    let mut start = 0;
    for part in text.split(',') {
        if part.trim() == name {
            return Some(start + part.len() - part.trim_start().len());
        }
        start += part.len() + 1;
    }
    None
}
