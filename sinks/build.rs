//! Lists the files of the map page, so that whatever lies in its folder is part of the program. Tools for making the page
//! (`make-*`) and notes (`*.md`) stay out.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    // Asked when the script runs: a build cache may bring a script that was compiled in another clone.
    #[expect(clippy::disallowed_methods, reason = "the build tells its scripts where they are by this variable")]
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("set by the build");
    let page = Path::new(&here).join("src/edge/page");
    println!("cargo::rerun-if-changed={}", page.display());
    let mut files = Vec::new();
    collect(&page, &mut files);
    files.sort();
    let mut list = String::from("&[\n");
    for file in files {
        let name = file.strip_prefix(&page).expect("the files lie in the folder").to_str().expect("names are UTF-8");
        writeln!(list, "({name:?}, include_bytes!({:?})),", file.display().to_string()).expect("a string takes all");
    }
    list.push(']');
    #[expect(clippy::disallowed_methods, reason = "the build tells its scripts where to write by this variable")]
    let out = std::env::var_os("OUT_DIR").expect("set by the build");
    std::fs::write(Path::new(&out).join("page.rs"), list).expect("the build's own folder can be written");
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the page's folder can be read") {
        let path = entry.expect("the page's folder can be read").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        match path.is_dir() {
            true => collect(&path, files),
            false if name.starts_with("make-") || name.starts_with('.') || name.ends_with(".md") => {}
            false => files.push(path),
        }
    }
}
