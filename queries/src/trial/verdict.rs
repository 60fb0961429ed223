//! What came out of the views against what a test expects.
//!
//! Invariant: rows are compared as their types write them and without an order; a fault that no block speaks of is wrong.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use datafusion::arrow::datatypes::DataType;
use operators::row::{Codec, Diff, Row};
use operators::time::Tick;

use super::cells::{self, Cell};
use super::parse::{Block, Expect, What};
use super::play::Output;
use super::{Fault, Ready};
use crate::plan::Kind;
use crate::render::Fault as Failed;

/// What one block looks at.
struct Found {
    names: Vec<String>,
    kinds: Vec<DataType>,
    rows: Vec<Vec<Cell>>,
}

/// Blocks that expect something, each with its tick and that of the last one before that looked at the same.
fn expectations<'a>(ready: &'a Ready<'_>) -> Vec<(&'a Expect, Tick, Tick)> {
    let (mut now, mut last) = (0, BTreeMap::new());
    let mut all = Vec::new();
    for block in &ready.trial.blocks {
        match block {
            Block::Advance { tick, .. } => now = *tick,
            Block::Expect(expect) => {
                let before = last.insert((expect.name.as_str(), expect.what as u8), now).unwrap_or(0);
                all.push((expect, now, before));
            }
            Block::Rows(_) | Block::Restart => {}
        }
    }
    all
}

/// Everything that is not as expected from a tick on.
pub fn judge(ready: &Ready<'_>, outputs: &BTreeMap<String, Output>, since: Tick, run: &str) -> Vec<Fault> {
    let mut wrong = Vec::new();
    for (expect, tick, before) in expectations(ready).into_iter().filter(|(_, tick, _)| *tick >= since) {
        let judged = found(ready, outputs, expect, tick, before).and_then(|found| differs(expect, &found));
        match judged {
            Err(why) => wrong.push((expect.line, why)),
            Ok(None) => {}
            Ok(Some(difference)) => {
                let at = cells::shown_time(tick);
                wrong.push((expect.line, format!("{} at {at}, {run}:\n{difference}", expect.name)));
            }
        }
    }
    wrong.extend(unspoken(ready, outputs));
    wrong
}

fn found(
    ready: &Ready<'_>,
    outputs: &BTreeMap<String, Output>,
    expect: &Expect,
    tick: Tick,
    before: Tick,
) -> Result<Found, String> {
    let nothing = Output::default();
    let output = outputs.get(&expect.name).unwrap_or(&nothing);
    let view = ready.catalog.view(&expect.name).ok_or("the view is not there")?;
    let text = |names: &[&str]| Found {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        kinds: vec![DataType::Utf8; names.len()],
        rows: Vec::new(),
    };
    let (failed, late) = faults(output, tick);
    Ok(match expect.what {
        What::View => {
            // Of events those since the last look.
            let from = if view.relation.kind == Kind::Events { before } else { 0 };
            let fields = view.relation.schema.fields();
            let codec = Codec::new(view.node.schema.clone()).map_err(|why| why.to_string())?;
            let rows = net(output.rows.iter().filter(|(_, at, _)| *at > from && *at <= tick || from == 0 && *at == 0));
            if rows.values().any(|count| *count < 0) {
                return Err(format!("{} takes rows away that are not there", expect.name));
            }
            let all = rows.iter().flat_map(|(row, count)| std::iter::repeat_n(*row, *count as usize));
            let batch = codec.decode(all.collect::<Vec<_>>()).map_err(|why| why.to_string())?;
            Found {
                names: fields.iter().map(|field| field.name().clone()).collect(),
                kinds: fields.iter().map(|field| field.data_type().clone()).collect(),
                rows: cells::rows(&batch)?,
            }
        }
        What::Faults => {
            let row = |(fault, count): (Failed, Diff)| {
                vec![Some(fault.operator), Some(fault.message), Some(count.to_string())]
            };
            Found { rows: failed.into_iter().map(row).collect(), ..text(&["operator", "message", "rows"]) }
        }
        What::Late => {
            let rows = if late == 0 { Vec::new() } else { vec![vec![Some(late.to_string())]] };
            Found { rows, ..text(&["rows"]) }
        }
    })
}

fn net<'a>(updates: impl Iterator<Item = &'a (Row, Tick, Diff)>) -> BTreeMap<&'a Row, Diff> {
    let mut rows: BTreeMap<&Row, Diff> = BTreeMap::new();
    for (row, _, diff) in updates {
        *rows.entry(row).or_default() += diff;
    }
    rows.retain(|_, count| *count != 0);
    rows
}

/// Rows that failed, and how many were late.
fn faults(output: &Output, tick: Tick) -> (BTreeMap<Failed, Diff>, Diff) {
    let mut failed = BTreeMap::new();
    let mut late = 0;
    for (row, count) in net(output.faults.iter().filter(|(_, at, _)| *at <= tick)) {
        let fault = Failed::of(row);
        if fault.operator == "Late" {
            late += count;
        } else {
            failed.insert(fault, count);
        }
    }
    (failed, late)
}

/// The places of the columns that a block names; without a header all of them.
fn chosen(expect: &Expect, found: &Found) -> Result<Vec<usize>, String> {
    if expect.header.is_empty() {
        return Ok((0..found.names.len()).collect());
    }
    let known: Vec<&str> = found.names.iter().map(String::as_str).collect();
    let place = |name: &String| {
        let at = found.names.iter().position(|column| column == name);
        at.ok_or_else(|| crate::plan::unknown_name("column", name, &known).message)
    };
    expect.header.iter().map(place).collect()
}

fn picked(rows: &[Vec<Cell>], places: &[usize]) -> Vec<Vec<Cell>> {
    rows.iter().map(|row| places.iter().map(|place| row[*place].clone()).collect()).collect()
}

/// Lines of rows that are missing and that are too many.
fn differs(expect: &Expect, found: &Found) -> Result<Option<String>, String> {
    let places = chosen(expect, found)?;
    let mut counts: BTreeMap<Vec<Cell>, i64> = BTreeMap::new();
    for given in &expect.rows {
        let cells = given.cells.iter().zip(&places).map(|(cell, place)| cells::normal(cell, &found.kinds[*place]));
        let cells = cells.collect::<Result<Vec<_>, _>>().map_err(|why| format!("line {}: {why}", given.line))?;
        *counts.entry(cells).or_default() -= 1;
    }
    for row in picked(&found.rows, &places) {
        *counts.entry(row).or_default() += 1;
    }
    let mut out = String::new();
    for (row, count) in counts.iter().filter(|(_, count)| **count != 0) {
        let sign = if *count < 0 { "expected" } else { "found   " };
        for _ in 0..count.abs() {
            let _ = writeln!(out, "  {sign} {}", cells::joined(row));
        }
    }
    let names: Vec<&str> = places.iter().map(|place| found.names[*place].as_str()).collect();
    Ok((!out.is_empty()).then(|| format!("           {}\n{}", names.join(","), out.trim_end())))
}

/// Faults and late rows that no block looks at.
fn unspoken(ready: &Ready<'_>, outputs: &BTreeMap<String, Output>) -> Vec<Fault> {
    let expects = expectations(ready);
    let line = expects.last().map_or(1, |(expect, ..)| expect.line);
    let looked = |name: &str, what| expects.iter().any(|(expect, ..)| expect.name == name && expect.what == what);
    let mut wrong = Vec::new();
    for (name, output) in outputs {
        let (failed, late) = faults(output, Tick::MAX);
        if !failed.is_empty() && !looked(name, What::Faults) {
            let told: Vec<String> =
                failed.keys().map(|fault| format!("  {}: {}", fault.operator, fault.message)).collect();
            wrong.push((line, format!("{name} has faults, and no block `faults {name}`:\n{}", told.join("\n"))));
        }
        if late != 0 && !looked(name, What::Late) {
            wrong.push((line, format!("{late} rows of {name} are late, and there is no block `late {name}`")));
        }
    }
    wrong
}

/// The text with what was found in the place of what was expected.
pub fn rewritten(ready: &Ready<'_>, text: &str, outputs: &BTreeMap<String, Output>) -> Result<String, Fault> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut out, mut at) = (String::new(), 0);
    for (expect, tick, before) in expectations(ready) {
        let of = |why| (expect.line, why);
        let found = found(ready, outputs, expect, tick, before).map_err(of)?;
        let places = chosen(expect, &found).map_err(of)?;
        put(&mut out, &lines[at..expect.answer.start]);
        let comments = lines[expect.answer.clone()].iter().filter(|line| line.trim_start().starts_with('#'));
        put(&mut out, &comments.copied().collect::<Vec<_>>());
        let names: Vec<&str> = places.iter().map(|place| found.names[*place].as_str()).collect();
        let _ = writeln!(out, "{}", names.join(","));
        for row in picked(&found.rows, &places) {
            let _ = writeln!(out, "{}", cells::joined(&row));
        }
        at = expect.answer.end;
    }
    put(&mut out, &lines[at..]);
    Ok(out)
}

fn put(out: &mut String, lines: &[&str]) {
    for line in lines {
        out.push_str(line);
        out.push('\n');
    }
}
