//! What is wrong with a configuration, and where, as one message each.

use std::fmt::Write as _;
use std::ops::Range;

use super::text::Text;

/// No more problems of one file are printed.
const SHOWN_MAX: usize = 100;

/// Whether the program can run with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but somebody should know.
    Warning,
}

/// Where the mistake was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// These bytes of the file; `parsed` tells whether the line could be read as TOML.
    File(Range<usize>, bool),
    /// This flag of the command line.
    Flag(&'static str),
    /// Not to be said.
    Nowhere,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Whether it keeps the program from running.
    pub severity: Severity,
    /// Stable identifier such as `unknown_key`.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// What to do.
    pub help: Option<String>,
}

impl Problem {
    /// An error.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), place, help: None }
    }

    /// A warning.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>, place: Place) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message, place) }
    }

    /// Says what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The problem with file, line, column and the line itself.
    #[must_use]
    pub fn render(&self, text: Option<&Text>) -> String {
        let severity = if self.severity == Severity::Error { "error" } else { "warning" };
        let mut out = format!("{severity}[{}]: {}", self.code, self.message);
        match (&self.place, text) {
            (Place::File(span, parsed), Some(text)) => {
                let (line, column) = text.line_column(span.start);
                let _ = write!(out, "\n --> {}:{line}:{column}\n{}", text.path.display(), text.quote(span, *parsed));
            }
            (Place::Flag(flag), _) => {
                let _ = write!(out, "\n --> command line, {flag}");
            }
            _ => {}
        }
        if let Some(help) = &self.help {
            let _ = write!(out, "\n  = help: {help}");
        }
        out
    }
}

/// All problems of a kind in the order of the file.
#[must_use]
pub fn render(problems: &[Problem], text: Option<&Text>) -> String {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|problem| match &problem.place {
        Place::File(span, _) => span.start,
        Place::Flag(_) | Place::Nowhere => usize::MAX,
    });
    let mut out: Vec<String> = sorted.iter().take(SHOWN_MAX).map(|problem| problem.render(text)).collect();
    if sorted.len() > SHOWN_MAX {
        out.push(format!("and {} more", sorted.len() - SHOWN_MAX));
    }
    out.join("\n\n")
}
