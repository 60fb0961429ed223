//! The pages of the reference, made from what the program itself goes by: options from `default.toml`, the command line from
//! its definition, figures from their descriptions, error codes from their table.
//!
//! Invariant: a page says nothing that the program does not do; a test compares the pages in the tree with these.

mod errors;
mod figures;

use std::fmt::Write as _;

use clap::{Command, CommandFactory as _};

use crate::config::schema;

pub use errors::{ERRORS, ErrorCode};

/// First line of each page.
const MADE: &str = "<!-- Made by `cargo run -- reference --dir pipeline/docs/reference`; do not edit. -->\n\n";

/// File name and text of each page.
#[must_use]
pub fn pages() -> Vec<(&'static str, String)> {
    let pages =
        [("options.md", options()), ("cli.md", cli()), ("metrics.md", figures::page()), ("errors.md", errors::page())];
    pages.map(|(name, text)| (name, format!("{MADE}{text}"))).into()
}

fn options() -> String {
    let mut out = "# Options\n\n\
        All of them, with their defaults. A configuration file (TOML) needs only what differs; `haulstream check` says what \
        is in force. A text may contain `${NAME}`, the environment variable of that name. A number's unit is in its name.\n"
        .to_owned();
    for section in schema::sections() {
        let _ = write!(out, "\n## [{}]\n\n{}\n\n", section.name, cell(&section.meaning));
        out.push_str("| option | default | allowed | meaning |\n| --- | --- | --- | --- |\n");
        for entry in &section.entries {
            let (name, default) = (&entry.name, &entry.default);
            let _ = writeln!(
                out,
                "| `{name}` | `{default}` | {} | {} |",
                cell(&entry.rule.to_string()),
                cell(&entry.meaning)
            );
        }
    }
    out
}

fn cli() -> String {
    let mut out = "# Command line\n\n\
        | exit code | meaning |\n| --- | --- |\n\
        | 0 | done |\n| 1 | failed on the way |\n\
        | 2 | the command line or the configuration is wrong; nothing was begun |\n\
        | 134 | a panic: the message is on standard error (SIGABRT) |\n"
        .to_owned();
    let mut root = crate::cli::Cli::command();
    root.build();
    let help = text(&mut root);
    let _ = write!(out, "\n## haulstream\n\n```text\n{help}\n```\n");
    below(&mut root, "haulstream", &mut out);
    out
}

/// The commands below one, each followed by its own.
fn below(command: &mut Command, parents: &str, out: &mut String) {
    for command in command.get_subcommands_mut() {
        if command.get_name() == "help" || command.is_hide_set() {
            continue;
        }
        let name = format!("{parents} {}", command.get_name());
        let help = text(command);
        let _ = write!(out, "\n## {name}\n\n```text\n{help}\n```\n");
        below(command, &name, out);
    }
}

/// The help without what depends on where it is printed.
fn text(command: &mut Command) -> String {
    let help = command.clone().term_width(100).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    lines.join("\n").trim_end().to_owned()
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
