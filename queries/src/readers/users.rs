//! The users of a process: what is kept of their passwords, and what each may do.
//!
//! Invariant: who has a wrong password and who is no user at all get the same answer after the same work.

use std::collections::BTreeMap;

use operators::connection::Secret;

use super::scram::{Exchange, Key, Malformed, Verifier, keyed, random};
use super::{Companies, Reader};

/// Longest password that is looked at, in bytes.
const PASSWORD_BYTES_MAX: usize = 1_024;

/// A user as configured.
#[derive(Clone, Debug)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Secret,
    /// Whose rows they see.
    pub companies: Companies,
    /// Whether they may add, replace and drop streams.
    pub may_change: bool,
}

/// All users.
#[derive(Debug, Default)]
pub struct Users {
    known: BTreeMap<String, Known>,
    /// Makes salts of names, also of those that nobody has.
    secret: Hidden,
}

#[derive(Debug)]
struct Known {
    verifier: Verifier,
    reader: Reader,
}

/// A key that is never shown.
#[derive(Default)]
struct Hidden(Key);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Users {
    /// These. Takes a millisecond or a few for each.
    #[must_use]
    pub fn new(all: impl IntoIterator<Item = User>) -> Users {
        let mut users = Users { known: BTreeMap::new(), secret: Hidden(random()) };
        for User { name, password, companies, may_change } in all {
            let verifier = Verifier::of(password.expose(), users.nobody(&name).salt);
            let reader = Reader { name: Some(name.clone()), companies, may_change };
            users.known.insert(name, Known { verifier, reader });
        }
        users
    }

    /// Whether there are none, and nobody is asked who they are.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many there are, and how many of them see the rows of some companies only.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.known.len(), self.known.values().filter(|known| known.reader.is_restricted()).count())
    }

    /// The user with this name and password. Takes a millisecond or a few, whether there is one or not.
    #[must_use]
    pub fn login(&self, name: &str, password: &str) -> Option<Reader> {
        if password.len() > PASSWORD_BYTES_MAX {
            return None;
        }
        let (verifier, reader) = self.find(name);
        Some(reader).filter(|_| verifier.is(password)).flatten()
    }

    /// Begins an exchange with a client that has told a name: the exchange, and the reader whom it is if it ends well.
    pub(crate) fn begin(&self, name: &str, message: &[u8]) -> Result<(Exchange, Option<Reader>), Malformed> {
        let (verifier, reader) = self.find(name);
        Ok((Exchange::begin(verifier, message)?, reader))
    }

    fn find(&self, name: &str) -> (Verifier, Option<Reader>) {
        let nobody = self.nobody(name);
        match self.known.get(name) {
            Some(known) => (known.verifier.clone(), Some(known.reader.clone())),
            None => (nobody, None),
        }
    }

    /// What nobody has the password for, with the salt that a user of this name has.
    fn nobody(&self, name: &str) -> Verifier {
        let of = |what: &str| keyed(&self.secret.0, &[what.as_bytes(), name.as_bytes()]);
        let mut salt = [0; 16];
        salt.copy_from_slice(&of("salt:")[..16]);
        Verifier { salt, stored: of("stored:"), server: of("server:") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        let (password, companies) = (Secret::new(password), Companies::only(["c1"]));
        User { name: name.to_owned(), password, companies, may_change: false }
    }

    #[test]
    fn only_the_password_of_the_name_opens() {
        let users = Users::new([user("ada", "one"), user("bob", "two")]);
        assert_eq!(users.login("ada", "one").and_then(|reader| reader.name).as_deref(), Some("ada"));
        for (name, password) in [
            ("ada", "two"),
            ("ada", ""),
            ("ada", "one "),
            ("Ada", "one"),
            ("", ""),
            ("eve", "one"),
            ("ada", &"one".repeat(1_000)),
        ] {
            assert_eq!(users.login(name, password), None, "{name}");
        }
        assert_eq!(users.count(), (2, 2));
        let shown = format!("{users:?}");
        assert!(shown.contains("ada") && !shown.contains("one") && !shown.contains("two"), "{shown}");
    }

    #[test]
    fn who_is_no_user_is_asked_like_one() {
        let users = Users::new([user("ada", "one")]);
        let first = |name: &str| {
            let (exchange, reader) = users.begin(name, b"n,,n=,r=abc").unwrap();
            let salt = exchange.first.split(',').nth(1).unwrap().to_owned();
            (salt, exchange.first.len(), reader.is_some())
        };
        let (known, unknown) = (first("ada"), first("eve"));
        assert_eq!((known.1, known.2), (unknown.1, true), "the same form");
        assert!(!unknown.2 && known.0 != unknown.0);
        assert_eq!((first("ada").0, first("eve").0), (known.0, unknown.0), "a name keeps its salt, whosever it is");
    }
}
