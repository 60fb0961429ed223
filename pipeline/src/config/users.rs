//! Users, each a section `[users.NAME]` of its own: what is wrong with one, and what the program makes of it.
//!
//! Invariant: a user has a password, and says whose rows are seen: nobody comes in or sees more because a line is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use operators::connection::Secret;
use queries::readers;
use serde::Deserialize;
use toml::Value;

use super::check::Checked;
use super::problem::{Place, Problem};

/// How many there may be: a start makes a slow hash of each password.
pub const USERS_MAX: usize = 256;

/// A section of users.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// The password.
    pub password: Secret,
    /// Whose rows are seen.
    pub companies: Companies,
    /// Whether streams may be changed.
    pub may_change: bool,
}

/// The companies of a user.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Companies {
    /// These.
    Only(BTreeSet<String>),
    /// All; the check takes no other word.
    All(String),
}

/// What is kept of the users of a configuration. Takes a millisecond or a few for each.
#[must_use]
pub fn known(users: &BTreeMap<String, User>) -> readers::Users {
    readers::Users::new(users.iter().map(|(name, user)| readers::User {
        name: name.clone(),
        password: user.password.clone(),
        companies: match &user.companies {
            Companies::Only(ids) => readers::Companies::Only(Arc::new(ids.clone())),
            Companies::All(_) => readers::Companies::All,
        },
        may_change: user.may_change,
    }))
}

/// Tells what is missing, and what cannot stand together.
pub fn check(checked: &mut Checked) {
    let mut problems = Vec::new();
    for (name, section) in &checked.users {
        let option = |option: &str| {
            let key = format!("users.{name}.{option}");
            let place = checked.values.get(&key).map_or(section, |set| &set.place).clone();
            // Of a wrong value it is told already.
            (!checked.wrong.contains(&key)).then(|| (checked.values.get(&key).map(|set| &set.value), place))
        };
        let empty =
            |value: &Value| value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        if let Some((password, place)) = option("password")
            && password.is_none_or(empty)
        {
            let message = format!("the user {name} has no password");
            problems.push(
                Problem::error("user_without_password", message, place)
                    .help("write password = \"${NAME}\" and set the environment variable NAME"),
            );
        }
        let companies = option("companies");
        if let Some((companies, place)) = companies.clone()
            && companies.is_none_or(empty)
        {
            let message = format!("the user {name} has no companies, and would see nothing");
            problems.push(
                Problem::error("user_without_companies", message, place)
                    .help("write companies = [\"c1\", \"c2\"], or companies = \"all\""),
            );
        }
        if let (Some((Some(Value::Boolean(true)), place)), Some((Some(Value::Array(_)), _))) =
            (option("may_change"), companies)
        {
            let message =
                format!("the user {name} may change streams, which show rows of all companies, and sees some");
            problems.push(
                Problem::error("user_changes_unseen", message, place)
                    .help("set companies = \"all\", or leave may_change out"),
            );
        }
    }
    if let Some((_, place)) = checked.users.iter().nth(USERS_MAX) {
        let message = format!("there are {} users; at most {USERS_MAX} can be", checked.users.len());
        problems.push(Problem::error("users_too_many", message, place.clone()).help("leave some out"));
    }
    if let Some(set) = checked.values.get("reads.password")
        && !checked.users.is_empty()
        && set.value.as_str().is_some_and(|password| !password.is_empty())
    {
        let message = "reads.password is everybody's, and the users have their own";
        problems.push(
            Problem::error("password_and_users", message, set.place.clone())
                .help("leave reads.password out: each user is asked for the own password"),
        );
    }
    checked.problems.append(&mut problems);
}

/// The name of the user whose section this is: `users.NAME`.
#[must_use]
pub fn section(key: &str) -> Option<&str> {
    key.strip_prefix("users.").filter(|name| !name.contains('.'))
}

/// Whether somebody can be called so.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c))
}

/// The problem with a name that nobody can have.
#[must_use]
pub fn misnamed(name: &str, place: Place) -> Problem {
    let message = format!("a user cannot be called {}: 1 to 64 of A-Z a-z 0-9 _ -", operators::error::excerpt(name));
    Problem::error("user_misnamed", message, place).help("write [users.NAME]")
}
