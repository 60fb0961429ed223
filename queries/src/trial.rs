//! Unit tests of derived streams: a text with rows, times, and what has to come of them.
//!
//! Invariant: every text is run on one worker, on two, and with a restart in the middle, and has to be right each time.

pub(crate) mod cells;
mod input;
mod parse;
mod play;
mod verdict;

use std::collections::BTreeMap;
use std::fmt;

use operators::time::Tick;

use crate::catalog::{Catalog, File};
pub(crate) use input::Input;
use parse::{Block, Trial};
use play::{Output, Played};

/// What is wrong with a test, or with what it tests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong; more lines show the difference.
    pub why: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.why)
    }
}

/// A line of the text and what is wrong with it.
type Fault = (usize, String);

/// The ways in which each test is run.
const RUNS: [(&str, usize, bool); 3] =
    [("on one worker", 1, false), ("on two workers", 2, false), ("on two workers after a restart", 2, true)];

/// Runs a test over the streams of a catalog.
///
/// # Errors
/// Everything that is wrong, by line.
pub fn run(file: &File, catalog: &Catalog) -> Result<(), Vec<Wrong>> {
    let wrong = |faults: Vec<Fault>| {
        let of = |(line, why)| Wrong { file: file.name.clone(), line, why };
        faults.into_iter().map(of).collect::<Vec<_>>()
    };
    let ready = Ready::new(&file.text, catalog).map_err(|fault| wrong(vec![fault]))?;
    for (name, workers, restart) in RUNS {
        let outputs = ready.play(workers, restart).map_err(|fault| wrong(vec![fault]))?;
        let since = if restart { ready.middle } else { 0 };
        let faults = verdict::judge(&ready, &outputs, since, name);
        if !faults.is_empty() {
            return Err(wrong(faults));
        }
    }
    Ok(())
}

/// The text with what really comes in the place of what was expected.
///
/// # Errors
/// The text itself is wrong, or a view cannot be run.
pub fn update(file: &File, catalog: &Catalog) -> Result<String, Wrong> {
    let of = |(line, why)| Wrong { file: file.name.clone(), line, why };
    let ready = Ready::new(&file.text, catalog).map_err(of)?;
    let outputs = ready.play(1, false).map_err(of)?;
    verdict::rewritten(&ready, &file.text, &outputs).map_err(of)
}

/// The rows that a text gives, and its ticks.
#[cfg(test)]
pub(crate) fn given(text: &str, catalog: &Catalog) -> Result<(Vec<Input>, Vec<Tick>), (usize, String)> {
    let ready = Ready::new(text, catalog)?;
    Ok((ready.inputs, ready.ticks))
}

/// A test whose names are known and whose rows are read.
struct Ready<'a> {
    catalog: &'a Catalog,
    trial: Trial,
    inputs: Vec<Input>,
    /// The views to build, each after those that it reads.
    views: Vec<String>,
    ticks: Vec<Tick>,
    /// The tick of the restart.
    middle: Tick,
}

impl<'a> Ready<'a> {
    fn new(text: &str, catalog: &'a Catalog) -> Result<Self, Fault> {
        let trial = parse::parse(text)?;
        let mut views = Vec::new();
        for block in &trial.blocks {
            if let Block::Expect(expect) = block {
                if catalog.view(&expect.name).is_none() {
                    return Err((expect.line, catalog.unknown(&expect.name).message));
                }
                below(catalog, &expect.name, &mut views);
            }
        }
        let reads = views.iter().filter_map(|name| catalog.view(name)).flat_map(|view| view.node.reads());
        let mut inputs: BTreeMap<String, Input> = BTreeMap::new();
        for name in reads.filter(|name| catalog.view(name).is_none()) {
            if let Some(relation) = catalog.relation(name) {
                inputs.insert(name.to_owned(), Input::new(relation));
            }
        }
        let (mut ticks, mut restart): (Vec<Tick>, Option<Tick>) = (Vec::new(), None);
        for block in &trial.blocks {
            match block {
                Block::Rows(rows) => {
                    if catalog.view(&rows.name).is_some() {
                        return Err((rows.line, format!("{} is a view: rows are given to what it reads", rows.name)));
                    }
                    let input = match (inputs.remove(&rows.name), catalog.relation(&rows.name)) {
                        (Some(input), _) => input,
                        (None, Some(relation)) => Input::new(relation),
                        (None, None) => {
                            let known: Vec<&str> = catalog.relations().map(|known| known.name.as_str()).collect();
                            return Err((rows.line, crate::plan::unknown_name("table", &rows.name, &known).message));
                        }
                    };
                    inputs.entry(rows.name.clone()).or_insert(input).take(rows)?;
                }
                Block::Advance { line, tick } => {
                    if ticks.last().is_some_and(|last| last >= tick) {
                        return Err((*line, "time goes forward only".into()));
                    }
                    ticks.push(*tick);
                    for input in inputs.values_mut() {
                        input.arrive(*tick).map_err(|why| (*line, why))?;
                    }
                }
                Block::Restart => restart = ticks.last().copied(),
                Block::Expect(expect) if ticks.is_empty() => {
                    return Err((expect.line, "there is no time yet: advance first".into()));
                }
                Block::Expect(_) => {}
            }
        }
        if let Some(line) = inputs.values().find_map(Input::waiting) {
            return Err((line, "these rows never arrive: advance after them".into()));
        }
        let middle = restart.or_else(|| ticks.get(ticks.len().saturating_sub(1) / 2).copied()).unwrap_or_default();
        Ok(Self { catalog, trial, inputs: inputs.into_values().collect(), views, ticks, middle })
    }

    fn play(&self, workers: usize, restart: bool) -> Result<BTreeMap<String, Output>, Fault> {
        let inputs: Vec<Input> = self
            .inputs
            .iter()
            .map(|input| if restart { input.collapsed(self.middle) } else { input.clone() })
            .collect();
        let nodes = self.views.iter().filter_map(|name| Some((name.clone(), self.catalog.view(name)?.node.clone())));
        let played = Played { inputs, views: nodes.collect(), ticks: self.ticks.clone() };
        let first = self.trial.blocks.iter().find_map(|block| match block {
            Block::Expect(expect) => Some(expect.line),
            _ => None,
        });
        play::play(&played, workers).map_err(|why| (first.unwrap_or(1), why))
    }
}

/// Adds a view after the views that it reads.
fn below(catalog: &Catalog, name: &str, views: &mut Vec<String>) {
    if views.iter().any(|known| known == name) {
        return;
    }
    let Some(view) = catalog.view(name) else { return };
    for read in view.node.reads() {
        below(catalog, read, views);
    }
    views.push(name.to_owned());
}

#[cfg(test)]
mod tests;
