//! The program's own log lines on standard error, and the end of the process at a panic.
//!
//! Invariant: a panic in any thread ends the whole process with a message, but where a net is under it; there is no half-dead
//! process.

use std::io::{IsTerminal as _, Write as _};
use std::panic::PanicHookInfo;
use std::time::Duration;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Longest time that reporting a panic may take before the process ends without it.
const REPORT_TIME_MAX: Duration = Duration::from_secs(1);

/// Section `logging`.
#[derive(Clone, Debug, Deserialize)]
pub struct Options {
    /// How lines look.
    pub format: Format,
    /// Least level, or directives such as `info,sinks=debug`.
    pub level: String,
}

/// How lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Sends log lines to standard error from now on. A second call changes nothing.
///
/// # Errors
/// The level cannot be read.
pub fn start(options: &Options) -> Result<(), String> {
    let filter = filter(&options.level)?;
    let terminal = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // The first one stays: a test binary may start several times.
    let _ = if options.format == Format::Json || (options.format == Format::Auto && !terminal) {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(terminal).try_init()
    };
    Ok(())
}

/// Whether `level` can be read as a level or as directives.
#[must_use]
pub fn is_level(level: &str) -> bool {
    filter(level).is_ok()
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    // The parser takes a misspelt level for the name of a module, and then no line at all is logged.
    let bare = level.split(',').map(str::trim).filter(|part| !part.contains(['=', '[', ']']));
    if let Some(odd) = bare.into_iter().find(|part| part.parse::<LevelFilter>().is_err()) {
        return Err(format!("\"{odd}\" is none of trace, debug, info, warn, error, off"));
    }
    EnvFilter::builder().parse(level).map_err(|why| why.to_string())
}

#[expect(clippy::disallowed_methods, reason = "this is the panic hook")]
fn end() -> ! {
    // Not `exit`: it would wait for what other threads hold.
    std::process::abort()
}

/// From now on a panic of any thread is logged and ends the process (SIGABRT, 134 to a shell) within two seconds; but not
/// one that a decoder's net catches, which becomes a dead letter, nor one of a thread that answers questions, where it ends a
/// question or a connection.
pub fn end_process_at_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if sources::codec::is_guarded() {
            report(panic, "the record is refused");
            return;
        }
        if queries::is_guarded() {
            report(panic, "the question, or its connection, is given up");
            return;
        }
        // Writing the message may hang on a standard error that nobody reads.
        let watchdog = std::thread::Builder::new().name("panic-watchdog".to_owned());
        let _ = watchdog.spawn(|| {
            std::thread::park_timeout(REPORT_TIME_MAX);
            end()
        });
        report(panic, "the process ends");
        end()
    }));
}

fn report(panic: &PanicHookInfo<'_>, outcome: &str) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or("no message");
    if tracing::dispatcher::has_been_set() {
        tracing::error!(thread, location, "panic: {message}; {outcome}");
    } else {
        let _ = writeln!(std::io::stderr(), "haulstream: panic in thread {thread} at {location}: {message}; {outcome}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_no_level() {
        for good in
            ["info", "WARN", "off", "info,sinks=debug", "sinks=debug, info", "[batch]=trace", "sinks[a{b=1}]=info"]
        {
            assert!(is_level(good), "{good}");
        }
        for bad in ["inof", "info,sinks", "sinks=loud", "info;debug", "=info,"] {
            assert!(!is_level(bad), "{bad}");
        }
    }
}
