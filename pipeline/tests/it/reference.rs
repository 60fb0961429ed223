//! The pages of the reference against the program, and the table of error codes against the sources.
//!
//! Invariant: whoever changes an option, a flag, a figure or an error code is told to make the pages anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use pipeline::reference::{ERRORS, pages};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

#[test]
fn the_pages_are_fresh() {
    let folder = root().join("pipeline/docs/reference");
    for (name, text) in pages() {
        let present = fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(
            present == text,
            "pipeline/docs/reference/{name} is not what the program says: \
             cargo run -- reference --dir pipeline/docs/reference"
        );
    }
    let names: BTreeSet<_> = pages().into_iter().map(|(name, _)| name.to_owned()).collect();
    for entry in fs::read_dir(folder).expect("the folder was just read") {
        let name = entry.expect("readable").file_name().into_string().expect("UTF-8");
        assert!(names.contains(&name), "pipeline/docs/reference/{name} is made by nothing");
    }
}

/// All Rust files of the product, without their tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["operators", "sources", "sinks", "queries", "pipeline"].map(|name| root().join(name).join("src")).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let text = fs::read_to_string(&path).expect("source text is UTF-8");
                let product = text.split("#[cfg(test)]").next().unwrap_or_default().to_owned();
                files.push((path, product));
            }
        }
    }
    assert!(files.len() > 50, "the sources are where they were");
    files
}

/// The first string that follows each `call(` in `text`.
fn first_strings<'a>(text: &'a str, call: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(call).skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
}

#[test]
fn every_error_code_is_explained() {
    let known: BTreeSet<&str> = ERRORS.iter().map(|error| error.code).collect();
    assert_eq!(known.len(), ERRORS.len(), "a code stands in the table once");
    let (mut used, mut everything) = (BTreeSet::new(), String::new());
    for (path, text) in sources() {
        for call in ["Refusal::new(", "unknown(", "Problem::error(", "Problem::warning("] {
            used.extend(first_strings(&text, call).map(str::to_owned));
        }
        if !path.ends_with("reference/errors.rs") {
            everything.push_str(&text);
        }
    }
    assert!(used.len() > 40, "codes are found by how they are written: {used:?}");
    let missing: Vec<_> = used.iter().filter(|code| !known.contains(code.as_str())).collect();
    assert!(missing.is_empty(), "add to pipeline/src/reference/errors.rs: {missing:?}");
    let written =
        |code: &&&str| [format!("\"{code}\""), format!("\"{code}: ")].iter().any(|text| everything.contains(text));
    let gone: Vec<_> = known.iter().filter(|code| !written(code)).collect();
    assert!(gone.is_empty(), "no longer used, take out of pipeline/src/reference/errors.rs: {gone:?}");
}
