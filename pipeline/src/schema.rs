//! The sources and tables that the configured directory declares over topics of one's own.
//!
//! Invariant: they are known before anything is opened, and stay the same as long as the process runs.

use std::path::Path;

use operators::record::declared::Log;
use queries::catalog::{Catalog, File, files};

use crate::config::{Config, Source};

/// What streams can read: the main job's, and what is declared.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn catalog(config: &Config) -> Result<Catalog, String> {
    let mut catalog = Catalog::of_the_main_job();
    if !config.sql.enabled || config.sql.schema.is_empty() {
        return Ok(catalog);
    }
    let directory = Path::new(&config.sql.schema);
    let read = files(directory, "sql");
    let read: Vec<File> = read.map_err(|why| format!("sql.schema: cannot read {}: {why}", directory.display()))?;
    let named = config.topics.named();
    let what: Vec<(String, &str)> = named.iter().map(|(key, topic)| (format!("that of {key}"), *topic)).collect();
    let taken: Vec<(&str, &str)> = what.iter().map(|(what, topic)| (*topic, what.as_str())).collect();
    let problems = catalog.declare(&read, &taken);
    if !problems.is_empty() {
        return Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    Ok(catalog)
}

/// The same of a process that reads the log of `run.source`.
///
/// # Errors
/// Also if a topic is said to be in another log.
pub fn catalog_of_source(config: &Config) -> Result<Catalog, String> {
    let catalog = catalog(config)?;
    let elsewhere = catalog.declared().find(|declared| declared.log == Log::Kafka);
    match elsewhere.filter(|_| config.run.source == Source::Log) {
        Some(declared) => Err(format!(
            "sql.schema: {} is declared FROM KAFKA, and the process reads the embedded log (run.source = \"log\"); write FROM \
             LOG, which is the log that the process reads, or set run.source = \"kafka\"",
            declared.name
        )),
        None => Ok(catalog),
    }
}
