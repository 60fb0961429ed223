//! `haulstream reference`: writes the generated pages of the reference.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, print};
use crate::reference;

/// What `reference` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Directory to write the pages to.
    #[arg(long, value_name = "DIR", default_value = "pipeline/docs/reference")]
    dir: PathBuf,
}

/// Writes the pages that differ.
///
/// # Errors
/// A page cannot be written.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let dir = &arguments.dir;
    let failed = |what: &std::path::Path, why| Failure::Runtime(format!("cannot write {}: {why}", what.display()));
    std::fs::create_dir_all(dir).map_err(|why| failed(dir, why))?;
    for (name, text) in reference::pages() {
        let path = dir.join(name);
        if std::fs::read_to_string(&path).is_ok_and(|present| present == text) {
            continue;
        }
        std::fs::write(&path, text).map_err(|why| failed(&path, why))?;
        print(&format!("{}\n", path.display()))?;
    }
    Ok(())
}
