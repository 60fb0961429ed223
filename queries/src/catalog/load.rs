//! Files of derived streams, in whatever order: each is planned when what it reads is there.
//!
//! Invariant: what can be added is added, and everything that is wrong is told at once; a stream that only stands on a
//! refused one is told so, not refused twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::Path;

use operators::error::Refusal;

use super::{Catalog, Declaration, View, declaration, place};

/// A file with a declaration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path, as it is shown.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: File,
    /// What is wrong.
    pub why: Refusal,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { code, message, hint, .. } = &self.why;
        let at = place::place(&self.file.text, &self.why);
        match at {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {code}: {message}", self.file.name)?,
            None => write!(f, "{}: {code}: {message}", self.file.name)?,
        }
        if let Some((line, column)) = at
            && let Some(text) = self.file.text.lines().nth(line.saturating_sub(1))
        {
            let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            write!(f, "\n  {text}\n  {}^", " ".repeat(column.saturating_sub(1)))?;
        }
        match hint {
            Some(hint) => write!(f, "\n  = help: {hint}"),
            None => Ok(()),
        }
    }
}

/// The files of a directory that end with `.sql`, by name; or the one file.
///
/// # Errors
/// It cannot be read.
pub fn files(path: &Path, ending: &str) -> io::Result<Vec<File>> {
    let mut paths = vec![path.to_owned()];
    if path.is_dir() {
        paths = std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        paths.retain(|path| path.is_file() && path.extension().is_some_and(|found| found == ending));
        paths.sort();
    }
    let read =
        |path: &std::path::PathBuf| Ok(File { name: path.display().to_string(), text: std::fs::read_to_string(path)? });
    paths.iter().map(read).collect()
}

impl Catalog {
    /// Adds the streams of these files. Tells what could not be added, by file.
    pub fn load(&mut self, files: &[File]) -> Vec<Problem> {
        self.load_each(files, |_| Ok(()))
    }

    /// The same, and does something with each stream before it is added: after what it reads, before what reads it.
    pub(crate) fn load_each(
        &mut self,
        files: &[File],
        mut each: impl FnMut(&View) -> Result<(), Refusal>,
    ) -> Vec<Problem> {
        let mut problems: Vec<Problem> = Vec::new();
        let mut waiting: BTreeMap<String, (&File, Declaration)> = BTreeMap::new();
        let problem = |file: &File, why| Problem { file: file.clone(), why };
        for file in files {
            match declaration::parse(&file.text) {
                Err(why) => problems.push(problem(file, why)),
                Ok(declaration) => match waiting.get(&declaration.name) {
                    Some((other, _)) => {
                        let message = format!("{} declares {} already", other.name, declaration.name);
                        problems.push(problem(file, Refusal::new("name_invalid", message).at("name")));
                    }
                    None => drop(waiting.insert(declaration.name.clone(), (file, declaration))),
                },
            }
        }
        let mut refused: BTreeSet<String> = BTreeSet::new();
        while let Some(name) = next(&waiting) {
            let (file, declaration) = waiting.remove(&name).expect("just found");
            if let Some(below) = declaration.uses.iter().find(|used| refused.contains(*used)) {
                let why = Refusal::new("stream_refused", format!("{name} reads {below}, which is refused"));
                problems.push(problem(file, why.at(below.as_str())));
                refused.insert(name);
                continue;
            }
            let planned = self.plan(&file.text);
            if let Err(why) = planned.and_then(|view| each(&view).and_then(|()| self.add(view))) {
                problems.push(problem(file, why));
                refused.insert(name);
            }
        }
        for (name, (file, _)) in &waiting {
            let why = Refusal::new("stream_cycle", circle(name, &waiting)).hint("a view cannot be made of itself");
            problems.push(problem(file, why));
        }
        problems.sort_by(|a, b| a.file.name.cmp(&b.file.name));
        problems
    }
}

/// A stream that reads none of those that wait.
fn next(waiting: &BTreeMap<String, (&File, Declaration)>) -> Option<String> {
    let ready =
        |(_, declaration): &(&File, Declaration)| !declaration.uses.iter().any(|used| waiting.contains_key(used));
    waiting.iter().find(|(_, stream)| ready(stream)).map(|(name, _)| name.clone())
}

/// The way from a stream back to itself, or to others that go in a circle.
fn circle(name: &str, waiting: &BTreeMap<String, (&File, Declaration)>) -> String {
    let mut way = vec![name];
    loop {
        let last = way.last().copied().unwrap_or(name);
        let uses = waiting.get(last).map(|(_, declaration)| declaration.uses.as_slice()).unwrap_or_default();
        let Some(used) = uses.iter().find(|used| waiting.contains_key(*used)) else { return way.join(" → ") };
        let met = way.contains(&used.as_str());
        way.push(used);
        if met {
            return way.join(" → ");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> File {
        File { name: format!("{name}.sql"), text: text.to_owned() }
    }

    #[test]
    fn the_order_of_files_does_not_matter() {
        let files = [
            file("a", "CREATE MATERIALIZED VIEW a AS SELECT driver_id, count(*) AS n FROM b GROUP BY driver_id"),
            file("b", "CREATE VIEW b AS SELECT driver_id FROM c WHERE driver_id IS NOT NULL"),
            file("c", "CREATE MATERIALIZED VIEW c AS SELECT driver_id, name FROM drivers"),
        ];
        let mut catalog = Catalog::of_the_main_job();
        assert_eq!(catalog.load(&files), []);
        assert_eq!(catalog.view("a").unwrap().node.reads(), ["c"]);
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let files = [
            file("a", "CREATE MATERIALIZED VIEW a AS\nSELECT driver_id,\n       nmae FROM drivers"),
            file("b", "CREATE VIEW b AS SELECT * FROM a"),
            file("c", "CREATE VIEW c AS SELECT * FROM d"),
            file("d", "CREATE VIEW d AS SELECT * FROM c"),
            file("e", "CREATE VIEW e AS SELECT"),
            file("f", "CREATE VIEW a AS SELECT 1 AS one"),
            file("g", "CREATE VIEW g WITH (key = 'one, tow') AS SELECT 1 AS one, 2 AS two"),
            file("h", "CREATE VIEW h AS SELECT 1 AS one"),
        ];
        let mut catalog = Catalog::of_the_main_job();
        let told: Vec<String> = catalog.load(&files).iter().map(ToString::to_string).collect();
        let first: Vec<&str> = told.iter().filter_map(|text| text.lines().next()).collect();
        assert_eq!(
            first,
            [
                "a.sql:3:8: sql_unknown_column: there is no column nmae; did you mean name?",
                "b.sql:1:32: stream_refused: b reads a, which is refused",
                "c.sql:1:32: stream_cycle: c → d → c",
                "d.sql:1:32: stream_cycle: d → c → d",
                first[4],
                "f.sql:1:13: name_invalid: a.sql declares a already",
                "g.sql:1:33: sql_unknown_column: there is no column tow; did you mean two?",
            ]
        );
        assert!(first[4].starts_with("e.sql") && first[4].contains("sql_syntax"), "{}", first[4]);
        assert_eq!(
            told[0],
            "a.sql:3:8: sql_unknown_column: there is no column nmae; did you mean name?\n         nmae FROM drivers\n         ^"
        );
        assert!(catalog.view("h").is_some(), "what is right is there");
    }
}
