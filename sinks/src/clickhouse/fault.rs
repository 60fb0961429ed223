//! What went wrong, told apart by what helps: waiting, or somebody's hand.

use ::clickhouse::error::Error;
use operators::error::excerpt;

use crate::step::SinkError;

/// Codes of a server that is there but cannot do it now: too many parts, memory, queries or time; shutting down, starting
/// up, full or read-only disks, lost connections between servers.
const TRANSIENT: [u32; 19] =
    [159, 173, 198, 202, 209, 210, 236, 241, 242, 243, 252, 279, 285, 289, 319, 394, 425, 745, 999];
const WRONG_USER: [u32; 4] = [192, 193, 194, 516];
const NOT_ALLOWED: [u32; 2] = [164, 497];

/// What the error means for somebody who did `doing` at `target`.
pub(super) fn of(target: &str, doing: &str, error: &Error) -> SinkError {
    match error {
        Error::BadResponse(answer) => of_answer(target, doing, answer),
        Error::Network(cause) => unavailable(target, doing, &format!("{error}: {}", innermost(cause.as_ref()))),
        Error::TimedOut => unavailable(target, doing, "no answer in time"),
        // The connection broke while the answer was read.
        Error::NotEnoughData | Error::Decompression(_) => unavailable(target, doing, &error.to_string()),
        Error::InvalidParams(_) | Error::Unsupported(_) => {
            refused(target, doing, &error.to_string(), "clickhouse.url is http://host:port")
        }
        _ => refused(target, doing, &error.to_string(), "is this a ClickHouse of version 24 or newer?"),
    }
}

fn of_answer(target: &str, doing: &str, answer: &str) -> SinkError {
    let Some(code) = code(answer) else {
        // Not from ClickHouse itself: a proxy, or a server that is just ending.
        let known = ["400", "401", "403", "404"].iter().any(|status| answer.starts_with(status));
        return if known {
            refused(target, doing, answer, "does clickhouse.url name ClickHouse's HTTP port?")
        } else {
            unavailable(target, doing, answer)
        };
    };
    if TRANSIENT.contains(&code) {
        unavailable(target, doing, answer)
    } else if WRONG_USER.contains(&code) {
        refused(target, doing, answer, "check clickhouse.user and clickhouse.password")
    } else if NOT_ALLOWED.contains(&code) {
        refused(target, doing, answer, "allow the user to create tables in the database, to insert and to select")
    } else {
        refused(target, doing, answer, "compare the table with the migrations in sinks/src/clickhouse/migrations")
    }
}

/// The number in `Code: 241. DB::Exception: …`, wherever in the answer it stands.
fn code(answer: &str) -> Option<u32> {
    let (_, rest) = answer.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error.to_string()
}

pub(super) fn unavailable(target: &str, doing: &str, why: &str) -> SinkError {
    SinkError::Unavailable { target: target.to_owned(), why: format!("{doing}: {}", shown(why)) }
}

pub(super) fn refused(target: &str, doing: &str, why: &str, hint: &str) -> SinkError {
    SinkError::Refused { target: target.to_owned(), why: format!("{doing}: {} ({hint})", shown(why)) }
}

/// Short enough for a log line, and free of control characters.
fn shown(why: &str) -> String {
    const PARTS_MAX: usize = 6;
    let characters: Vec<char> = why.trim().chars().collect();
    characters.chunks(64).take(PARTS_MAX).map(|part| excerpt(&part.iter().collect::<String>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_is_waited_for_and_a_wrong_column_is_not() {
        for answer in [
            "Code: 252. DB::Exception: Too many parts (3000). (TOO_MANY_PARTS)",
            "Code: 241. DB::Exception: Memory limit (total) exceeded",
            "503 Service Unavailable",
        ] {
            assert!(matches!(of_answer("clickhouse", "insert", answer), SinkError::Unavailable { .. }), "{answer}");
        }
        for (answer, hint) in [
            ("Code: 16. DB::Exception: No such column x in table t. (NO_SUCH_COLUMN_IN_TABLE)", "migrations"),
            ("Code: 516. DB::Exception: default: Authentication failed", "clickhouse.password"),
            ("Code: 497. DB::Exception: x: Not enough privileges", "allow the user"),
            ("404 Not Found", "HTTP port"),
        ] {
            let SinkError::Refused { why, .. } = of_answer("clickhouse", "insert into t", answer) else {
                panic!("{answer}")
            };
            assert!(why.starts_with("insert into t: ") && why.contains(hint), "{why}");
        }
    }
}
