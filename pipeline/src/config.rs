//! Configuration: one TOML file over embedded defaults, flags of the command line over both.
//!
//! Invariant: a program that runs has a configuration in which every value was checked; one that does not run has told
//! everything that is wrong with it, with file, line and column, and no secret was shown on the way.

mod check;
mod effective;
mod environment;
mod options;
mod problem;
mod rules;
pub mod schema;
mod text;
mod users;

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use toml::Value;
use toml::de::DeTable;

pub use options::*;
pub use problem::{Place, Problem, Severity};
pub use users::known as users;

use check::Checked;
use text::Text;

/// Exit code of the process when its configuration or its command line is wrong.
pub const EXIT_CODE: u8 = 2;

/// A value from the command line, which goes before the file's.
#[derive(Clone, Debug)]
pub struct Override {
    /// The option.
    pub key: &'static str,
    /// The flag that set it, such as `--listen`.
    pub flag: &'static str,
    /// The value.
    pub value: Value,
}

/// A configuration that the program can run with.
#[derive(Debug)]
pub struct Loaded {
    /// The options.
    pub config: Config,
    /// Every option with its value as TOML text; secrets as `***`.
    pub effective: String,
    /// What somebody should know, ready to print; empty if there is nothing.
    pub warnings: String,
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable(String),
    /// This is wrong with it: all problems, ready to print, and how many of them are errors.
    Wrong(String, usize),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable(why) => f.write_str(why),
            ConfigError::Wrong(problems, 1) => write!(f, "{problems}\n\nconfig: 1 error"),
            ConfigError::Wrong(problems, errors) => write!(f, "{problems}\n\nconfig: {errors} errors"),
        }
    }
}

impl std::error::Error for ConfigError {}

/// Reads the configuration: the defaults, over them the file if one is given, over both `overrides`.
///
/// # Errors
/// Everything that is wrong with the file and the overrides, or why the file cannot be read.
pub fn load(path: Option<&Path>, overrides: Vec<Override>) -> Result<Loaded, ConfigError> {
    let read = |path: &Path| {
        Text::read(path)
            .map_err(|why| ConfigError::Unreadable(format!("config: cannot read {}: {why}", path.display())))
    };
    let text = path.map(read).transpose()?;
    #[expect(clippy::disallowed_methods, reason = "this is where ${NAME} of the configuration is read")]
    let variable = |name: &str| std::env::var(name).ok();
    build(text, overrides, &variable)
}

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

fn build(mut text: Option<Text>, overrides: Vec<Override>, variable: Variable<'_>) -> Result<Loaded, ConfigError> {
    let mut checked = Checked::default();
    if let Some(text) = &mut text {
        check_file(text, &mut checked, variable);
    }
    for Override { key, flag, value } in overrides {
        let entry = schema::entry(key).expect("flags are made for options that exist");
        checked.value(&entry, value, Place::Flag(flag), variable);
    }
    let config = merge(&checked);
    for rule in rules::RULES {
        // With a wrong value among them nothing can be said of how they stand together.
        if rule.keys.iter().any(|key| checked.wrong.iter().any(|wrong| wrong == key)) {
            continue;
        }
        if let Some(message) = (rule.broken)(&config) {
            let place = rule.keys.iter().find_map(|key| Some(checked.values.get(*key)?.place.clone()));
            let problem = Problem::error(rule.name, message, place.unwrap_or(Place::Nowhere)).help(rule.help);
            checked.problems.push(problem);
        }
    }
    users::check(&mut checked);
    secrets(text.as_ref(), &mut checked);
    let errors = checked.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    let rendered = problem::render(&checked.problems, text.as_ref());
    if errors > 0 {
        return Err(ConfigError::Wrong(rendered, errors));
    }
    Ok(Loaded { config, effective: effective::render(&checked), warnings: rendered })
}

/// Syntax errors, then everything that is wrong with the part that could be read.
fn check_file(text: &mut Text, checked: &mut Checked, variable: Variable<'_>) {
    let (table, errors) = DeTable::parse_recoverable(&text.content);
    let mut problems: Vec<Problem> = Vec::new();
    let mut broken: Vec<usize> = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(text.content.len()..text.content.len());
        let line = text.line_column(span.start).0;
        // One mistake often makes the rest of its line unreadable.
        if broken.contains(&line) {
            continue;
        }
        broken.push(line);
        let message = format!("not TOML: {}", error.message());
        problems.push(Problem::error("syntax", message, Place::File(span, false)));
    }
    checked.table(table.get_ref(), "", variable);
    checked.problems.retain(
        |problem| !matches!(&problem.place, Place::File(span, _) if broken.contains(&text.line_column(span.start).0)),
    );
    checked.problems.append(&mut problems);
    text.hidden = std::mem::take(&mut checked.hidden);
}

/// The defaults with the good values over them.
fn merge(checked: &Checked) -> Config {
    let mut all = schema::defaults();
    for name in checked.users.keys() {
        let users = all.get_mut("users").and_then(Value::as_table_mut).expect("the defaults have the section");
        users.insert(name.clone(), Value::Table(schema::user()));
    }
    for (key, set) in &checked.values {
        let mut at = &mut all;
        let mut parts = key.split('.').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), set.value.clone());
                break;
            }
            at = at.get_mut(part).and_then(Value::as_table_mut).expect("the defaults have every section");
        }
    }
    Config::deserialize(all).expect("a unit test reads the defaults, and values keep their types and limits")
}

/// Warns of secrets that others can read or that are empty.
fn secrets(text: Option<&Text>, checked: &mut Checked) {
    let Some(text) = text else { return };
    let mut warnings = Vec::new();
    for (key, set) in &checked.values {
        if !schema::entry(key).is_some_and(|entry| entry.is_secret())
            || set.template.is_some()
            || !matches!(set.place, Place::File(..))
        {
            continue;
        }
        let warning = if set.value.as_str().is_some_and(str::is_empty) {
            Problem::warning("secret_empty", format!("{key} is set and empty"), set.place.clone())
                .help("leave it out where no secret is needed")
        } else if text.world_readable {
            let message = format!("{key} stands in a file that everybody on this machine can read");
            Problem::warning("secret_permissions", message, set.place.clone())
                .help("chmod 600 the file, or write \"${NAME}\" and set the environment variable NAME")
        } else {
            continue;
        };
        warnings.push(warning);
    }
    checked.problems.append(&mut warnings);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str) -> Option<String> {
        match name {
            "REDIS_PASSWORD" => Some("hunter2".to_owned()),
            "BROKERS" => Some("k1:9092,k2:9092".to_owned()),
            _ => None,
        }
    }

    fn loaded(content: &str) -> Result<Loaded, String> {
        let text =
            Text { path: "f.toml".into(), content: content.to_owned(), world_readable: true, hidden: Vec::new() };
        build(Some(text), Vec::new(), &variable).map_err(|e| e.to_string())
    }

    #[test]
    fn the_file_goes_over_the_defaults_and_flags_over_both() {
        let text = "[run]\nworkers = 3\ndata = \"here\"\n[kafka]\nbrokers = \"${BROKERS}\"\n";
        let text = Text { path: "f".into(), content: text.to_owned(), world_readable: false, hidden: Vec::new() };
        let flag = Override { key: "run.workers", flag: "--workers", value: Value::Integer(4) };
        let loaded = build(Some(text), vec![flag], &variable).expect("good");
        assert_eq!((loaded.config.run.workers, loaded.config.run.data.as_path()), (4, Path::new("here")));
        assert_eq!(loaded.config.kafka.brokers, "k1:9092,k2:9092");
        assert_eq!(loaded.config.time.tick_ms, 5);
        assert!(loaded.effective.contains("brokers = \"${BROKERS}\""), "{}", loaded.effective);
        assert!(!loaded.effective.contains("k1"), "{}", loaded.effective);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let wrong = loaded(
            "[kafka]\nbroker = \"h:1\"\nfetch_wait_ms = \"10 sec\"\ngroup = \"\"\n[run]\nworkers = 0\nworkers = 1\n[time]\nslack_ms_min = 500\n[topics]\nvehicle = \"driver.updated\"\n[redis]\npassword = 5\n",
        )
        .expect_err("wrong");
        for part in [
            "unknown key kafka.broker; did you mean kafka.brokers\n --> f.toml:2:1",
            "kafka.fetch_wait_ms: expected a whole number of milliseconds from 1 to 10000 like 10, got a text\n --> f.toml:3:17",
            "kafka.group: expected a text that is not empty",
            "run.workers: expected a whole number from 1 to 64 like 2, got 0\n --> f.toml:6:11",
            "f.toml:7:1",
            "error[slack_min_above_max]: time.slack_ms_min = 500 is above time.slack_ms_max = 100\n --> f.toml:9:16",
            "error[topic_used_twice]",
            "redis.password: expected a secret",
            "config: 8 errors",
        ] {
            assert!(wrong.contains(part), "{part}\nnot in\n{wrong}");
        }
    }

    #[test]
    fn secrets_never_show() {
        let good = loaded("[redis]\npassword = \"${REDIS_PASSWORD}\"\n[clickhouse]\npassword = \"opensesame\"\n")
            .expect("good");
        assert_eq!(good.config.redis.connection.password.expose(), "hunter2");
        assert!(
            good.warnings.contains("secret_permissions") && good.warnings.contains("f.toml:4:12"),
            "{}",
            good.warnings
        );
        assert!(!good.warnings.contains("opensesame") && !good.warnings.contains("redis"), "{}", good.warnings);
        assert!(!good.effective.contains("hunter2") && !good.effective.contains("opensesame"), "{}", good.effective);
        for content in [
            "[redis]\npassword = \"opensesame\" x\n",
            "[redis]\npassword = \"opensesame\n",
            "[redis]\npasswort = \"opensesame\"\n",
            "[redis]\npassword = [\"opensesame\"]\n",
            "redis = { password = \"opensesame\", url = 1 }\n",
            "[redis]\nurl = \"redis://u:opensesame@h:1\"\n[run]\nworkers = 0\n",
            "[redis]\npassword = \"open\\u0007sesame\"\n",
            "[redis]\npassword = \"a\"\npassword = \"opensesame\"\n",
        ] {
            let wrong = loaded(content).expect_err(content);
            assert!(!wrong.contains("sesame"), "{wrong}");
        }
    }
}
