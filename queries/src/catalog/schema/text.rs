//! The words of a declaration, one after the other, with their places.

use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::ast::{DataType, ObjectName};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use operators::error::{Refusal, excerpt};

use super::HINT;
use crate::question::{SQL_BYTES_MAX, SQL_TOKENS_MAX, refuse};

/// A name and where it stands.
pub struct Name {
    pub text: String,
    /// `line:column`.
    pub at: String,
}

/// What of a text has not been read yet.
pub struct Text<'a> {
    parser: Parser<'a>,
}

fn refusal(error: ParserError) -> Refusal {
    refuse::refusal(&DataFusionError::SQL(Box::new(error), None), &[])
}

fn tokens(sql: &str) -> Result<Vec<TokenWithSpan>, Refusal> {
    Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(|why| refusal(why.into()))
}

/// Whether the second word of the text, after CREATE, is this one.
pub fn begins(sql: &str, word: &str) -> bool {
    let words = tokens(sql).unwrap_or_default();
    let mut words = words.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    words.next().is_some_and(|first| is(&first.token, "create"))
        && words.next().is_some_and(|second| is(&second.token, word))
}

/// Whether the word is in the text.
pub fn has(sql: &str, word: &str) -> bool {
    tokens(sql).unwrap_or_default().iter().any(|token| is(&token.token, word))
}

fn is(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(found) if found.quote_style.is_none() && found.value.eq_ignore_ascii_case(word))
}

impl<'a> Text<'a> {
    /// A text of bearable length.
    pub fn new(sql: &str) -> Result<Text<'a>, Refusal> {
        let too_long = |message: String| Err(Refusal::new("sql_too_complex", message));
        if sql.len() > SQL_BYTES_MAX {
            return too_long(format!("the text has {} bytes, the limit is {SQL_BYTES_MAX}", sql.len()));
        }
        let tokens = tokens(sql)?;
        let count = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).count();
        if count == 0 {
            return Err(Refusal::new("sql_syntax", "there is no statement in the text").hint(HINT));
        }
        if count > SQL_TOKENS_MAX {
            return too_long(format!("the text has {count} words and signs, the limit is {SQL_TOKENS_MAX}"));
        }
        Ok(Text { parser: Parser::new(&GenericDialect {}).with_tokens_with_locations(tokens) })
    }

    /// Where what comes next stands.
    pub fn place(&self) -> String {
        let start = self.parser.peek_token().span.start;
        format!("{}:{}", start.line, start.column)
    }

    /// Where the third word stands: the name that is declared.
    pub fn third(mut self) -> String {
        self.parser.next_token();
        self.parser.next_token();
        self.place()
    }

    fn unexpected(&self, wanted: &str) -> Refusal {
        let found = self.parser.peek_token().token;
        let found = if found == Token::EOF { "the end".to_owned() } else { excerpt(&found.to_string()) };
        // The end has no place of its own.
        let refusal = Refusal::new("sql_syntax", format!("expected {wanted}, found {found}")).hint(HINT);
        if self.parser.peek_token().token == Token::EOF { refusal } else { refusal.at(self.place()) }
    }

    /// One of these words.
    pub fn expect<'w>(&mut self, words: &[&'w str]) -> Result<&'w str, Refusal> {
        let next = self.parser.peek_token().token;
        let found = words.iter().copied().find(|word| is(&next, word)).ok_or_else(|| {
            let words: Vec<String> = words.iter().map(|word| word.to_uppercase()).collect();
            self.unexpected(&words.join(" or "))
        })?;
        self.parser.next_token();
        Ok(found)
    }

    /// Whether this word is next, which then is read.
    pub fn optional(&mut self, word: &str) -> bool {
        let next = is(&self.parser.peek_token().token, word);
        if next {
            self.parser.next_token();
        }
        next
    }

    pub fn open(&mut self, what: &str) -> Result<(), Refusal> {
        if self.parser.consume_token(&Token::LParen) { Ok(()) } else { Err(self.unexpected(what)) }
    }

    /// Whether the list ends here; otherwise a comma is read.
    pub fn close_or_comma(&mut self, wanted: &str) -> Result<bool, Refusal> {
        if self.parser.consume_token(&Token::RParen) {
            return Ok(true);
        }
        if self.parser.consume_token(&Token::Comma) { Ok(false) } else { Err(self.unexpected(wanted)) }
    }

    /// A name; one that is not quoted is read in lower case, as everywhere.
    pub fn name(&mut self, what: &str) -> Result<Name, Refusal> {
        let at = self.place();
        let Token::Word(_) = self.parser.peek_token().token else { return Err(self.unexpected(what)) };
        let ident = self.parser.parse_identifier().map_err(refusal)?;
        let text = if ident.quote_style.is_some() { ident.value } else { ident.value.to_lowercase() };
        Ok(Name { text, at })
    }

    /// What is declared, by a name that `valid` takes.
    pub fn object_name(&mut self, valid: impl Fn(&ObjectName) -> Result<String, Refusal>) -> Result<String, Refusal> {
        let at = self.place();
        let Token::Word(_) = self.parser.peek_token().token else { return Err(self.unexpected("a name")) };
        valid(&self.parser.parse_object_name(false).map_err(refusal)?).map_err(|why| why.at(at))
    }

    pub fn data_type(&mut self) -> Result<DataType, Refusal> {
        self.parser.parse_data_type().map_err(refusal)
    }

    /// A text in quotes.
    pub fn literal(&mut self, what: &str) -> Result<String, Refusal> {
        let Token::SingleQuotedString(text) = self.parser.peek_token().token else { return Err(self.unexpected(what)) };
        self.parser.next_token();
        Ok(text)
    }

    /// Nothing comes any more.
    pub fn end(mut self) -> Result<(), Refusal> {
        let ended = self.parser.consume_token(&Token::SemiColon);
        match self.parser.peek_token().token {
            Token::EOF => Ok(()),
            _ if ended => Err(Refusal::new("sql_syntax", "there is more than one statement in the text")
                .at(self.place())
                .hint(HINT)),
            _ => Err(self.unexpected("the end of the statement")),
        }
    }
}
