//! The text of a test as blocks.
//!
//! Invariant: every line belongs to a block, is empty or a comment; what is not understood is refused with its line.

use operators::error::excerpt;
use operators::time::Tick;

use super::{Fault, cells};

/// A test.
#[derive(Debug)]
pub struct Trial {
    pub blocks: Vec<Block>,
}

#[derive(Debug)]
pub enum Block {
    /// Rows that arrive at the next tick.
    Rows(Rows),
    /// The clock moves on.
    Advance { line: usize, tick: Tick },
    /// The place of the restart.
    Restart,
    /// What has to be there.
    Expect(Expect),
}

/// Rows of a stream or table.
#[derive(Debug)]
pub struct Rows {
    pub line: usize,
    pub name: String,
    pub header: Vec<String>,
    pub rows: Vec<Given>,
}

/// One row.
#[derive(Debug)]
pub struct Given {
    pub line: usize,
    /// Whether it leaves.
    pub gone: bool,
    pub cells: Vec<Option<String>>,
}

/// Which side of a view is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// Its rows.
    View,
    /// Rows that could not be computed.
    Faults,
    /// How many rows came after their window was sealed.
    Late,
}

/// What has to be there.
#[derive(Debug)]
pub struct Expect {
    pub line: usize,
    pub what: What,
    pub name: String,
    /// The lines after `----`, counted from 0, and where they end.
    pub answer: std::ops::Range<usize>,
    pub header: Vec<String>,
    pub rows: Vec<Given>,
}

/// Reads a test.
pub fn parse(text: &str) -> Result<Trial, Fault> {
    let lines: Vec<&str> = text.lines().collect();
    let mut blocks = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at].trim();
        if line.is_empty() || line.starts_with('#') {
            at += 1;
            continue;
        }
        let number = at + 1;
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        at += 1;
        let what = match word {
            "rows" => {
                let end = end(&lines, at);
                blocks.push(Block::Rows(rows(&lines, at..end, number, rest)?));
                at = end;
                continue;
            }
            "advance" => {
                let tick = cells::time(rest)
                    .filter(|ms| *ms > 0)
                    .ok_or_else(|| (number, format!("'{}' is no time: write 2026-01-01T10:00:00Z", excerpt(rest))))?;
                blocks.push(Block::Advance { line: number, tick: tick as Tick });
                continue;
            }
            "restart" if rest.is_empty() => {
                blocks.push(Block::Restart);
                continue;
            }
            "view" => What::View,
            "faults" => What::Faults,
            "late" => What::Late,
            _ => {
                let message = format!("'{}' is none of rows, advance, restart, view, faults, late", excerpt(line));
                return Err((number, message));
            }
        };
        if lines.get(at).map(|line| line.trim()) != Some("----") {
            return Err((number, "after this line stands ---- and then what is expected".into()));
        }
        let answer = at + 1..end(&lines, at + 1);
        at = answer.end;
        blocks.push(Block::Expect(expect(&lines, answer, number, what, rest)?));
    }
    Ok(Trial { blocks })
}

fn end(lines: &[&str], from: usize) -> usize {
    lines[from..].iter().position(|line| line.trim().is_empty()).map_or(lines.len(), |length| from + length)
}

fn table(lines: &[&str], range: std::ops::Range<usize>) -> Result<(Vec<String>, Vec<Given>), Fault> {
    let mut header = Vec::new();
    let mut rows = Vec::new();
    for at in range {
        let line = lines[at];
        if line.trim_start().starts_with('#') {
            continue;
        }
        if header.is_empty() {
            header = line.split(',').map(|name| name.trim().to_owned()).collect();
            continue;
        }
        let (gone, text) = match line.strip_prefix('-') {
            Some(text) if !text.starts_with(|c: char| c.is_ascii_digit()) => (true, text),
            _ => (false, line),
        };
        let cells = cells::split(text).map_err(|why| (at + 1, why))?;
        if cells.len() != header.len() {
            return Err((at + 1, format!("{} values under {} names", cells.len(), header.len())));
        }
        rows.push(Given { line: at + 1, gone, cells });
    }
    Ok((header, rows))
}

fn rows(lines: &[&str], range: std::ops::Range<usize>, line: usize, name: &str) -> Result<Rows, Fault> {
    let (header, rows) = table(lines, range)?;
    if name.is_empty() || header.is_empty() {
        return Err((line, "rows NAME, then a line of column names, then a line for each row".into()));
    }
    Ok(Rows { line, name: name.to_owned(), header, rows })
}

fn expect(
    lines: &[&str],
    answer: std::ops::Range<usize>,
    line: usize,
    what: What,
    name: &str,
) -> Result<Expect, Fault> {
    let (header, rows) = table(lines, answer.clone())?;
    Ok(Expect { line, what, name: name.to_owned(), answer, header, rows })
}
