//! The rules about the source tree that no compiler checks: crate graph, file shape, names, what must not be in it.
//!
//! Invariant: a rule names the file, the line and what to do instead; the breaches of a rule are listed together.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The crates, and which siblings each may stand on.
const CRATES: [(&str, &[&str]); 5] = [
    ("operators", &[]),
    ("sources", &["operators"]),
    ("sinks", &["operators"]),
    ("queries", &["operators"]),
    ("pipeline", &["operators", "sources", "sinks", "queries"]),
];
/// What a visitor sees at the top; everything else there begins with a dot.
const TOP_LEVEL: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "README.md", "operators", "sources", "sinks", "queries", "pipeline"];
/// Names that say nothing and so gather everything.
const SAYS_NOTHING: [&str; 8] = ["util", "utils", "common", "manager", "controller", "helpers", "helper", "misc"];
/// How many breaches of one rule are listed.
const LISTED_MAX: usize = 30;
const FILE_LINES_MAX: usize = 800;
const FILE_LINES_WARN: usize = 450;
const FUNCTION_LINES_MAX: usize = 150;
const FUNCTION_LINES_WARN: usize = 70;
/// Larger files are read for no rule: generated or data, not written by hand.
const TEXT_BYTES_MAX: u64 = 4 << 20;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// The files of the tree, relative to its root: tracked ones and new ones that git does not ignore.
fn files() -> Vec<PathBuf> {
    let git = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root())
        .output()
        .expect("git is needed to tell the tree's files from build output: install git");
    assert!(git.status.success(), "git ls-files: {}", String::from_utf8_lossy(&git.stderr));
    let names = String::from_utf8(git.stdout).expect("file names here are UTF-8");
    // Listed twice during a merge, still listed when deleted but not committed.
    let names: BTreeSet<&str> = names.split_terminator('\0').filter(|name| root().join(name).is_file()).collect();
    assert!(names.contains("Cargo.toml"), "{} is not the workspace's git checkout", root().display());
    names.into_iter().map(PathBuf::from).collect()
}

fn is_rust(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "rs")
}

/// The Rust files with their text.
fn rust_files() -> Vec<(PathBuf, String)> {
    files().into_iter().filter(|file| is_rust(file)).map(|file| (file.clone(), read(&file))).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[track_caller]
fn none(breaches: &[String], instead: &str) {
    let mut list = String::new();
    for breach in breaches.iter().take(LISTED_MAX) {
        let _ = writeln!(list, "  {breach}");
    }
    if breaches.len() > LISTED_MAX {
        let _ = writeln!(list, "  and {} more", breaches.len() - LISTED_MAX);
    }
    assert!(breaches.is_empty(), "{instead}\n{list}");
}

/// Lines on which one of `needles` stands, as `file:line: text`.
fn lines_with(file: &Path, text: &str, needles: &[&str]) -> Vec<String> {
    let found = text.lines().enumerate().filter(|(_, line)| needles.iter().any(|needle| line.contains(needle)));
    found.map(|(number, line)| format!("{}:{}: {:.100}", file.display(), number + 1, line.trim())).collect()
}

#[test]
fn crates_stand_only_on_the_crates_below_them() {
    let mut breaches = Vec::new();
    for (name, allowed) in CRATES {
        let manifest: toml::Table =
            read(&Path::new(name).join("Cargo.toml")).parse().expect("a manifest that cargo has read");
        assert_eq!(manifest["package"]["name"].as_str(), Some(name), "a package is named as its folder");
        for dependency in dependencies(&manifest) {
            let sibling = CRATES.iter().any(|(other, _)| *other == dependency);
            if sibling && !allowed.contains(&dependency.as_str()) {
                breaches.push(format!("{name} uses {dependency}"));
            }
            if dependency.starts_with("datafusion") && name != "queries" {
                breaches.push(format!("{name} uses {dependency}, which belongs to queries alone"));
            }
        }
    }
    none(&breaches, "crates depend on each other only so: operators <- sources, sinks, queries <- pipeline");
}

/// Names of all packages a manifest asks for, whatever for.
fn dependencies(manifest: &toml::Table) -> Vec<String> {
    let targets = manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::values);
    let tables = targets.filter_map(toml::Value::as_table).chain([manifest]);
    let kinds =
        tables.flat_map(|table| ["dependencies", "dev-dependencies", "build-dependencies"].map(|kind| table.get(kind)));
    let entries = kinds.flatten().filter_map(toml::Value::as_table).flatten();
    // A dependency can be renamed: then its package is named inside.
    entries.map(|(name, entry)| entry.get("package").and_then(toml::Value::as_str).unwrap_or(name).to_owned()).collect()
}

#[test]
fn versions_are_chosen_in_one_place() {
    let mut breaches = Vec::new();
    for (name, _) in CRATES {
        let manifest: toml::Table =
            read(&Path::new(name).join("Cargo.toml")).parse().expect("a manifest that cargo has read");
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let entries = manifest.get(kind).and_then(toml::Value::as_table).into_iter().flatten();
            let own = entries.filter(|(_, entry)| entry.get("workspace").is_none());
            breaches.extend(own.map(|(dependency, _)| format!("{name}/Cargo.toml: {dependency}")));
        }
    }
    none(
        &breaches,
        "versions stand in [workspace.dependencies] of the root's Cargo.toml; write `NAME.workspace = true`",
    );
}

#[test]
fn the_top_level_is_kept_small() {
    let files = files();
    let top = files.iter().filter_map(|file| file.iter().next()?.to_str()).collect::<BTreeSet<_>>();
    let odd = top.into_iter().filter(|name| !name.starts_with('.') && !TOP_LEVEL.contains(name));
    none(
        &odd.map(str::to_owned).collect::<Vec<_>>(),
        "docs, deployment and scripts belong under pipeline/, tool files begin with a dot",
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent = rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!"));
    none(
        &silent.map(|(file, _)| file.display().to_string()).collect::<Vec<_>>(),
        "a Rust file begins with `//!`: what it is for, and the invariant it keeps",
    );
}

#[test]
fn files_and_functions_are_short() {
    let (mut breaches, mut warnings) = (Vec::new(), Vec::new());
    let mut judge = |length: usize, max: usize, warn: usize, what: String| {
        if length > max {
            breaches.push(format!("{what} has {length} lines, {max} at most"));
        } else if length > warn {
            warnings.push(format!("{what} has {length} lines, better {warn}"));
        }
    };
    for (file, text) in rust_files() {
        judge(text.lines().count(), FILE_LINES_MAX, FILE_LINES_WARN, file.display().to_string());
        for (line, name, length) in functions(&text) {
            judge(length, FUNCTION_LINES_MAX, FUNCTION_LINES_WARN, format!("{}:{line}: fn {name}", file.display()));
        }
    }
    for warning in warnings {
        println!("warning: {warning}");
    }
    none(&breaches, "split by what the parts are for");
}

/// First line, name and number of lines of each function. Rests on rustfmt: a body ends with a brace as far in as its `fn`.
fn functions(text: &str) -> Vec<(usize, &str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else {
            continue;
        };
        let closes = |line: &&str| {
            line.trim_end().len() == indent + 1 && line.ends_with('}') && line[..indent].trim().is_empty()
        };
        // A declaration without a body ends with `;` as far in as its `fn`, before any such brace; so does a body on one line.
        let ends = |line: &&str| {
            closes(line) || (line.len() - line.trim_start().len() == indent && line.ends_with([';', '}']))
        };
        let last = lines[first..].iter().position(ends).map_or(lines.len(), |length| first + length);
        found.push((first + 1, name, last + 1 - first));
    }
    found
}

fn function_name(code: &str) -> Option<&str> {
    let (before, after) = code.split_once("fn ")?;
    let words = ["pub", "pub(crate)", "pub(super)", "const", "async", "unsafe", "extern", "\"C\""];
    if !before.split_whitespace().all(|word| words.contains(&word)) || !(before.is_empty() || before.ends_with(' ')) {
        return None;
    }
    let end = after.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    Some(&after[..end]).filter(|name| !name.is_empty())
}

#[test]
fn functions_are_measured_rightly() {
    let text = "trait T {\n    fn declared(\n        a: u8,\n    );\n    fn short() {}\n}\npub async fn long<A>(\n    a: A,\n) -> u8\nwhere\n    A: B,\n{\n    if a {\n    }\n}\nlet f: fn (u8);\n";
    assert_eq!(functions(text), [(2, "declared", 3), (5, "short", 1), (7, "long", 9)]);
}

#[test]
fn names_say_something() {
    let mut breaches = Vec::new();
    for file in files().into_iter().filter(|file| is_rust(file)) {
        // The crate's own folder may have the crate's name.
        for part in file.with_extension("").iter().skip(1).filter_map(|part| part.to_str()) {
            if CRATES.iter().any(|(name, _)| *name == part) {
                breaches.push(format!("{}: '{part}' would hide the crate of that name", file.display()));
            } else if SAYS_NOTHING.contains(&part) {
                breaches.push(format!("{}: '{part}' says nothing of what is in it", file.display()));
            }
        }
    }
    for (file, text) in rust_files() {
        let hiding = CRATES.map(|(name, _)| format!("mod {name} {{"));
        breaches.extend(lines_with(&file, &text, &hiding.each_ref().map(String::as_str)));
    }
    none(&breaches, "name a module for what it holds");
}

#[test]
fn nothing_is_left_undone_or_skipped() {
    // Written in two halves, or this file would break its own rule.
    let needles = [concat!("#[ig", "nore"), concat!("to", "do!("), concat!("unimple", "mented!(")];
    let breaches: Vec<String> = rust_files().iter().flat_map(|(file, text)| lines_with(file, text, &needles)).collect();
    none(&breaches, "a test that can't run is mended or deleted; what is missing is built, or is not announced");
}

#[test]
fn operators_do_no_io_and_read_no_clock() {
    let needles = [
        "std::fs",
        "std::net",
        "std::process",
        "std::env",
        "SystemTime::now",
        "Instant::now",
        "thread::sleep",
        "tokio::",
        "rand::",
    ];
    let mut breaches = Vec::new();
    for (file, text) in rust_files().iter().filter(|(file, _)| file.starts_with("operators/src")) {
        // Tests stand last in a file.
        let product = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code: String = product
            .lines()
            .map(|line| if line.trim_start().starts_with("//") { "\n".to_owned() } else { format!("{line}\n") })
            .collect();
        breaches.extend(lines_with(file, &code, &needles));
    }
    none(
        &breaches,
        "an operator's output depends on its input alone; time comes as ticks, the outside through sources and sinks",
    );
}

#[test]
fn the_tree_holds_no_paths_or_hosts_of_one_machine() {
    // In halves, as above. A clone must build behind any mirror, so no file names where packages come from.
    let needles = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("registry.npm", "js.org"),
        concat!("repo1.ma", "ven.org"),
        concat!("repo.ma", "ven.apache.org"),
        concat!("deb.deb", "ian.org"),
        concat!("files.pytho", "nhosted.org"),
        concat!("proxy.gol", "ang.org"),
    ];
    let mut breaches = Vec::new();
    for file in files() {
        let path = root().join(&file);
        let small = fs::metadata(&path).is_ok_and(|m| m.len() <= TEXT_BYTES_MAX);
        // Pictures and the like are not text.
        if let Some(text) =
            small.then(|| fs::read(&path).ok()).flatten().and_then(|bytes| String::from_utf8(bytes).ok())
        {
            breaches.extend(lines_with(&file, &text, &needles));
        }
    }
    none(&breaches, "paths are relative or made at run time; package hosts come from the clients' own settings");
}
