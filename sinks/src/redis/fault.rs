//! What went wrong, told apart by what helps: waiting, or somebody's hand.

use ::redis::{ErrorKind, RedisError, ServerError};
use operators::error::excerpt;

use crate::step::SinkError;

/// Answers of a server that is there but cannot take writes now.
const TRANSIENT: [&str; 12] = [
    "OOM",
    "READONLY",
    "LOADING",
    "BUSY",
    "MISCONF",
    "NOREPLICAS",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "UNKILLABLE",
    "NOSCRIPT",
    "max number of clients reached",
];

/// An error of the client or the connection.
pub(super) fn of_client(target: &str, error: &RedisError) -> SinkError {
    match error.kind() {
        ErrorKind::Io => unavailable(target, error.to_string()),
        ErrorKind::AuthenticationFailed => {
            refused(target, error.to_string(), "check redis.password and the user in redis.url")
        }
        ErrorKind::InvalidClientConfig => {
            refused(target, error.to_string(), "redis.url is redis://[user@]host:port/db")
        }
        _ => of_answer(target, error.code().unwrap_or_default(), &error.to_string()),
    }
}

/// An error that the server answered to one command.
pub(super) fn of_server(target: &str, error: &ServerError) -> SinkError {
    let why = format!("{} {}", error.code(), error.details().unwrap_or_default());
    of_answer(target, error.code(), &why)
}

fn of_answer(target: &str, code: &str, why: &str) -> SinkError {
    // Older servers wrap what a script met with: the code then stands within the text.
    let is = |wanted: &str| code == wanted || why.split([' ', ':']).any(|word| word == wanted);
    if TRANSIENT.iter().any(|wanted| is(wanted) || wanted.contains(' ') && why.contains(wanted)) {
        return unavailable(target, why.to_owned());
    }
    let hint = if is("WRONGTYPE") {
        "something else keeps keys under our prefix: remove them, or choose another redis.prefix"
    } else if is("NOAUTH") || is("WRONGPASS") {
        "check redis.password and the user in redis.url"
    } else if is("NOPERM") {
        "allow the user all keys and channels under redis.prefix, and the commands info, get, set, time, script and evalsha with what the scripts call"
    } else if is("MOVED") || is("CROSSSLOT") {
        "this is a node of a Redis Cluster: name a single Redis, or one with replicas"
    } else {
        "is this a Redis of version 5 or newer?"
    };
    refused(target, why.to_owned(), hint)
}

pub(super) fn unavailable(target: &str, why: String) -> SinkError {
    SinkError::Unavailable { target: target.to_owned(), why: shown(&why) }
}

pub(super) fn refused(target: &str, why: String, hint: &str) -> SinkError {
    SinkError::Refused { target: target.to_owned(), why: format!("{} ({hint})", shown(&why)) }
}

/// Short enough for a log line, and free of control characters; answers of the server carry no values of ours.
fn shown(why: &str) -> String {
    const PARTS_MAX: usize = 4;
    let characters: Vec<char> = why.trim().chars().collect();
    characters.chunks(64).take(PARTS_MAX).map(|part| excerpt(&part.iter().collect::<String>())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_server_is_waited_for_and_a_wrong_key_is_not() {
        for (code, why) in [
            ("OOM", "OOM command not allowed when used memory > 'maxmemory'."),
            ("ERR", "ERR Error running script (call to f_1): @user_script:3: OOM command not allowed"),
            ("ERR", "ERR max number of clients reached"),
            ("LOADING", "LOADING Redis is loading the dataset in memory"),
        ] {
            assert!(matches!(of_answer("redis", code, why), SinkError::Unavailable { .. }), "{why}");
        }
        for (code, why, hint) in [
            ("WRONGTYPE", "WRONGTYPE Operation against a key", "redis.prefix"),
            ("NOAUTH", "NOAUTH Authentication required.", "redis.password"),
            ("ERR", "ERR unknown command 'EVALSHA'", "version 5"),
        ] {
            let SinkError::Refused { why, .. } = of_answer("redis", code, why) else { panic!("{why}") };
            assert!(why.contains(hint), "{why}");
        }
    }

    #[test]
    fn answers_are_cut() {
        assert_eq!(shown("a\nb"), "a\\nb");
        assert_eq!(shown(&"x".repeat(1_000)).len(), 256);
    }
}
