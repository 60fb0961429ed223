//! `haulstream sql`: derived streams, looked at and tested without a running pipeline, or changed on one ([`live`]).
//!
//! Invariant: nothing is read but the files named and the directory of streams, and nothing written but tests that are to be
//! updated. Refusals of the files are the answer, on standard output, with exit code 1.

mod live;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use operators::record::Stream;
use queries::catalog::{Catalog, File, Problem, View, declares, files, is_schema};
use queries::trial;

use super::{Failure, print};

/// What `sql` can be told.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What can be done with derived streams.
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Check streams: columns with types, key, what each reads and what its state grows with; or what is refused, and where.
    #[command(after_help = "\
Examples:
  haulstream sql check queries/streams             all streams of a directory, which may use each other
  haulstream sql check overspeed.sql               one file, over the streams of queries/streams
  haulstream sql check queries/schema              sources and tables over topics of one's own")]
    Check {
        /// Files, or directories of them; without any, the directory of streams.
        #[arg(value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        #[command(flatten)]
        streams: Streams,
    },
    /// Show the plan of a stream.
    #[command(after_help = "\
Examples:
  haulstream sql explain overspeed                 what DataFusion understood
  haulstream sql explain --physical overspeed      the operators that keep it up to date; shared ones are marked
  haulstream sql explain --state overspeed.sql     what each operator keeps, and what that grows with")]
    Explain {
        /// A file, or the name of a stream.
        #[arg(value_name = "FILE|NAME")]
        stream: String,
        /// The operators as a tree.
        #[arg(long, conflicts_with = "state")]
        physical: bool,
        /// What each operator keeps.
        #[arg(long)]
        state: bool,
        #[command(flatten)]
        streams: Streams,
    },
    /// Show which stream reads which.
    #[command(after_help = "\
Examples:
  haulstream sql graph
  haulstream sql graph --format dot queries/streams | dot -Tsvg > streams.svg")]
    Graph {
        /// Files, or directories of them; without any, the directory of streams.
        #[arg(value_name = "FILE|DIR")]
        paths: Vec<PathBuf>,
        /// How it is written.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        #[command(flatten)]
        streams: Streams,
    },
    /// Run tests of streams: rows in, rows out, at times that the test sets.
    #[command(after_help = "\
Examples:
  haulstream sql test                              all tests in queries/tests/slt
  haulstream sql test overspeed.slt
  haulstream sql test --update overspeed.slt       write what comes out as what is expected
Each test is run on one worker, on two, and with a restart in the middle.")]
    Test {
        /// Files that end with .slt, or directories of them.
        #[arg(value_name = "FILE|DIR", default_value = "queries/tests/slt")]
        paths: Vec<PathBuf>,
        /// Write what comes out into the tests as what is expected.
        #[arg(long)]
        update: bool,
        #[command(flatten)]
        streams: Streams,
    },
    #[command(flatten)]
    Live(live::Action),
}

/// Where the streams are that others may use, and what they read.
#[derive(Args, Clone, Debug)]
pub struct Streams {
    /// Directory of streams that may be used by their names.
    #[arg(long = "streams", value_name = "DIR", default_value = "queries/streams")]
    directory: PathBuf,
    /// Directory of sources and tables over topics that may be read.
    #[arg(long = "schema", value_name = "DIR", default_value = "queries/schema")]
    schema: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for each stream.
    Text,
    /// Graphviz's language.
    Dot,
}

/// Does what is asked.
///
/// # Errors
/// Files that are not there, refusals, and tests that fail.
pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    match &arguments.action {
        Action::Check { paths, streams } => check(paths, streams),
        Action::Explain { stream, physical, state, streams } => explain(stream, *physical, *state, streams),
        Action::Graph { paths, format, streams } => graph(paths, *format, streams),
        Action::Test { paths, update, streams } => test(paths, *update, streams),
        Action::Live(action) => live::run(action),
    }
}

/// The streams of the directory and of these files, and the names that the files declare.
struct Loaded {
    catalog: Catalog,
    problems: Vec<Problem>,
    names: Vec<String>,
    /// Names of sources and tables that the files declare.
    sources: Vec<String>,
}

impl Streams {
    /// A file stands for the stream of its name: that of the directory is left out.
    fn load(&self, paths: &[PathBuf]) -> Result<Loaded, Failure> {
        let given = match paths {
            [] => read(&self.directory, "sql")?,
            paths => paths.iter().map(|path| read(path, "sql")).collect::<Result<Vec<_>, _>>()?.concat(),
        };
        let declared = |file: &File| queries::catalog::declared(&file.text);
        let mut all = given.clone();
        if self.directory.is_dir() {
            let same = |a: &File, b: &File| {
                Path::new(&a.name).canonicalize().ok() == Path::new(&b.name).canonicalize().ok()
                    || declared(a).is_some_and(|name| Some(name) == declared(b))
            };
            let others = read(&self.directory, "sql")?;
            all.extend(others.into_iter().filter(|other| !given.iter().any(|file| same(file, other))));
        }
        let (schema, streams): (Vec<File>, Vec<File>) = all.into_iter().partition(|file| is_schema(&file.text));
        let mut catalog = Catalog::of_the_main_job();
        let taken = Stream::ALL.map(|stream| (stream.topic(), "that of a stream of the main job"));
        let mut problems = catalog.declare(&self.schema(&given, schema)?, &taken);
        problems.extend(catalog.load(&streams));
        let sources = given.iter().filter_map(|file| declares(&file.text)).collect();
        Ok(Loaded { catalog, problems, sources, names: given.iter().filter_map(declared).collect() })
    }

    /// These files of sources and tables, and those of the directory that they do not stand for.
    fn schema(&self, given: &[File], mut schema: Vec<File>) -> Result<Vec<File>, Failure> {
        if !self.schema.is_dir() {
            return Ok(schema);
        }
        let failed = |why| Failure::Usage(format!("{}: {why}", self.schema.display()));
        let same = |a: &File, b: &File| {
            Path::new(&a.name).canonicalize().ok() == Path::new(&b.name).canonicalize().ok()
                || declares(&a.text).is_some_and(|name| Some(name) == declares(&b.text))
        };
        let others = files(&self.schema, "sql").map_err(failed)?;
        schema.extend(others.into_iter().filter(|other| !given.iter().any(|file| same(file, other))));
        Ok(schema)
    }
}

impl Loaded {
    /// Ends with the refusals, if there are any.
    fn sound(self) -> Result<Self, Failure> {
        if self.problems.is_empty() {
            return Ok(self);
        }
        refused(&self.problems)?;
        Ok(self)
    }

    /// What is to be told of what the files declare.
    fn described(&self) -> Vec<String> {
        let sources = self.catalog.declared().filter(|declared| self.sources.contains(&declared.name));
        let sources = sources.map(|declared| self.catalog.describe_declared(declared));
        sources.chain(self.views().into_iter().map(|view| self.catalog.describe(view))).collect()
    }

    fn views(&self) -> Vec<&View> {
        self.names.iter().filter_map(|name| self.catalog.view(name)).collect()
    }
}

fn read(path: &Path, ending: &str) -> Result<Vec<File>, Failure> {
    let found = files(path, ending).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))?;
    if found.is_empty() {
        return Err(Failure::Usage(format!("{}: no file there ends with .{ending}", path.display())));
    }
    Ok(found)
}

fn refused(problems: &[Problem]) -> Result<(), Failure> {
    let told: Vec<String> = problems.iter().map(|problem| format!("{problem}\n")).collect();
    print(&told.join("\n"))?;
    let count = problems.len();
    Err(Failure::Runtime(format!("{count} refused")))
}

fn check(paths: &[PathBuf], streams: &Streams) -> Result<(), Failure> {
    let loaded = streams.load(paths)?;
    let told = loaded.described();
    print(&told.join("\n"))?;
    if loaded.problems.is_empty() {
        return Ok(());
    }
    if !told.is_empty() {
        print("\n")?;
    }
    refused(&loaded.problems)
}

fn explain(stream: &str, physical: bool, state: bool, streams: &Streams) -> Result<(), Failure> {
    let path = PathBuf::from(stream);
    let paths = if path.is_file() { vec![path] } else { Vec::new() };
    let loaded = streams.load(&paths)?;
    let name = if paths.is_empty() { Some(stream) } else { loaded.names.first().map(String::as_str) };
    let Some(view) = name.and_then(|name| loaded.catalog.view(name)) else {
        if !loaded.problems.is_empty() {
            refused(&loaded.problems)?;
        }
        return Err(Failure::Usage(loaded.catalog.unknown(stream).message));
    };
    print(&match (physical, state) {
        (true, _) => loaded.catalog.explain_physical(view),
        (_, true) => loaded.catalog.explain_state(view),
        _ => loaded.catalog.explain_logical(view),
    })
}

fn graph(paths: &[PathBuf], format: Format, streams: &Streams) -> Result<(), Failure> {
    let loaded = streams.load(paths)?.sound()?;
    let names: Vec<&str> = loaded.names.iter().map(String::as_str).collect();
    print(&match format {
        Format::Text => loaded.catalog.graph_text(&names),
        Format::Dot => loaded.catalog.graph_dot(&names),
    })
}

fn test(paths: &[PathBuf], update: bool, streams: &Streams) -> Result<(), Failure> {
    let tests = paths.iter().map(|path| read(path, "slt")).collect::<Result<Vec<_>, _>>()?.concat();
    let catalog = streams.load(&[])?.sound()?.catalog;
    let (mut out, mut failed) = (String::new(), 0);
    for mut file in tests {
        let mut note = "";
        if update {
            match trial::update(&file, &catalog) {
                Ok(text) if text != file.text => {
                    std::fs::write(&file.name, &text)
                        .map_err(|why| Failure::Runtime(format!("{}: {why}", file.name)))?;
                    file.text = text;
                    note = ", updated";
                }
                Ok(_) => {}
                Err(wrong) => {
                    out.push_str(&format!("{wrong}\n"));
                    failed += 1;
                    continue;
                }
            }
        }
        match trial::run(&file, &catalog) {
            Ok(()) => out.push_str(&format!("{}: ok{note}\n", file.name)),
            Err(all) => {
                failed += 1;
                out.extend(all.iter().map(|wrong| format!("{wrong}\n")));
            }
        }
    }
    print(&out)?;
    if failed > 0 { Err(Failure::Runtime(format!("{failed} failed"))) } else { Ok(()) }
}
