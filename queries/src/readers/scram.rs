//! Passwords by SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: what is kept of a password, and the exchange in which a
//! client shows that it knows it.
//!
//! Invariant: the password itself is kept nowhere, and what is kept does not let anybody log in. Secrets are compared in the
//! same time wherever they differ.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

/// Rounds of hashing, those that Postgres and its clients take.
const ROUNDS: u32 = 4_096;
/// Longest message of a client, in bytes.
const MESSAGE_BYTES_MAX: usize = 4_096;

/// 32 bytes of a hash.
pub(super) type Key = [u8; 32];

/// The keyed hash of a text that comes in parts.
pub(super) fn keyed(key: &[u8], parts: &[&[u8]]) -> Key {
    let mut hash = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length is one");
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into_bytes().into()
}

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system has random numbers");
    bytes
}

/// Whether two secrets are the same.
fn same(left: &Key, right: &Key) -> bool {
    left.iter().zip(right).fold(0, |differs, (left, right)| differs | (left ^ right)) == 0
}

/// What is kept of a password.
#[derive(Clone)]
pub(super) struct Verifier {
    pub salt: [u8; 16],
    pub stored: Key,
    pub server: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(***)")
    }
}

impl Verifier {
    /// Of a password. Takes a millisecond or a few, on purpose.
    pub fn of(password: &str, salt: [u8; 16]) -> Verifier {
        // As Postgres does: one that cannot be prepared is taken as it is.
        let prepared = stringprep::saslprep(password).unwrap_or(Cow::Borrowed(password));
        let salted = salted(prepared.as_bytes(), &salt);
        let client = keyed(&salted, &[b"Client Key"]);
        Verifier { salt, stored: Sha256::digest(client).into(), server: keyed(&salted, &[b"Server Key"]) }
    }

    /// Whether this is the password. Takes as long as making one.
    pub fn is(&self, password: &str) -> bool {
        same(&Verifier::of(password, self.salt).stored, &self.stored)
    }
}

/// `Hi` of RFC 5802: PBKDF2 with one block.
fn salted(password: &[u8], salt: &[u8; 16]) -> Key {
    let keyed = Hmac::<Sha256>::new_from_slice(password).expect("a key of any length is one");
    let next = |text: &[&[u8]]| -> Key {
        let mut hash = keyed.clone();
        text.iter().for_each(|part| hash.update(part));
        hash.finalize().into_bytes().into()
    };
    let mut last = next(&[salt, &1_u32.to_be_bytes()]);
    let mut all = last;
    for _ in 1..ROUNDS {
        last = next(&[&last]);
        all.iter_mut().zip(&last).for_each(|(all, last)| *all ^= last);
    }
    all
}

/// An exchange whose first message has come.
pub(crate) struct Exchange {
    verifier: Verifier,
    /// The client's first message without its head.
    client_first: String,
    /// The head as the client has to repeat it.
    head: String,
    nonce: String,
    /// Our answer to it.
    pub first: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exchange(***)")
    }
}

/// What a client says that is not SCRAM: which part of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed(pub &'static str);

impl Exchange {
    /// Begins with a client's first message: `n,,n=NAME,r=NONCE`. The name in it is not looked at, as the protocol around it has
    /// told one already.
    pub(super) fn begin(verifier: Verifier, message: &[u8]) -> Result<Exchange, Malformed> {
        let text = text(message)?;
        let mut parts = text.splitn(3, ',');
        let (flag, identity) = (parts.next().unwrap_or_default(), parts.next().ok_or(Malformed("head"))?);
        let bare = parts.next().ok_or(Malformed("first message"))?;
        if !matches!(flag, "n" | "y") || !(identity.is_empty() || identity.starts_with("a=")) {
            return Err(Malformed("channel binding"));
        }
        // An extension that has to be understood would stand first.
        let (name, nonce) = bare.split_once(",r=").ok_or(Malformed("nonce"))?;
        if !name.starts_with("n=") || name.contains(',') {
            return Err(Malformed("name"));
        }
        let nonce = nonce.split(',').next().unwrap_or_default();
        if nonce.is_empty() || !nonce.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Malformed("nonce"));
        }
        let nonce = format!("{nonce}{}", BASE64_STANDARD.encode(random::<18>()));
        let first = format!("r={nonce},s={},i={ROUNDS}", BASE64_STANDARD.encode(verifier.salt));
        let head = format!("{flag},{identity},");
        Ok(Exchange { verifier, client_first: bare.to_owned(), head, nonce, first })
    }

    /// Ends with a client's last message, `c=HEAD,r=NONCE,p=PROOF`: our last one if the client knows the password.
    pub fn finish(&self, message: &[u8]) -> Result<Option<String>, Malformed> {
        let text = text(message)?;
        let (without, proof) = text.rsplit_once(",p=").ok_or(Malformed("proof"))?;
        let proof = BASE64_STANDARD.decode(proof).map_err(|_| Malformed("proof"))?;
        let proof: Key = proof.try_into().map_err(|_| Malformed("proof"))?;
        let (head, nonce) = without.split_once(",r=").ok_or(Malformed("nonce"))?;
        let head = head.strip_prefix("c=").ok_or(Malformed("head"))?;
        if BASE64_STANDARD.decode(head).ok().as_deref() != Some(self.head.as_bytes()) {
            return Err(Malformed("head"));
        }
        if nonce.split(',').next() != Some(&self.nonce) {
            return Err(Malformed("nonce"));
        }
        let said = [&self.client_first, ",", &self.first, ",", without].concat();
        let signature = keyed(&self.verifier.stored, &[said.as_bytes()]);
        let mut client = proof;
        client.iter_mut().zip(&signature).for_each(|(proof, signature)| *proof ^= signature);
        let known = same(&Sha256::digest(client).into(), &self.verifier.stored);
        let ours = keyed(&self.verifier.server, &[said.as_bytes()]);
        Ok(known.then(|| format!("v={}", BASE64_STANDARD.encode(ours))))
    }
}

fn text(message: &[u8]) -> Result<&str, Malformed> {
    let short = Some(message).filter(|message| message.len() <= MESSAGE_BYTES_MAX);
    short.and_then(|message| std::str::from_utf8(message).ok()).ok_or(Malformed("message"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The exchange of RFC 7677, section 3.
    #[test]
    fn the_example_of_the_standard() {
        let salt: [u8; 16] = BASE64_STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap().try_into().unwrap();
        let verifier = Verifier::of("pencil", salt);
        let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
        let exchange = Exchange {
            verifier,
            client_first: "n=user,r=rOprNGfwEbeRWgbNEkqO".to_owned(),
            head: "n,,".to_owned(),
            nonce: nonce.to_owned(),
            first: format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        };
        let last = |proof: &str| exchange.finish(format!("c=biws,r={nonce},p={proof}").as_bytes());
        assert_eq!(
            last("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="),
            Ok(Some("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".to_owned()))
        );
        assert_eq!(last("eHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), Ok(None), "another proof");
        assert_eq!(last("dHzb"), Err(Malformed("proof")));
        let other = exchange.finish(b"c=biws,r=x,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
        assert_eq!(other, Err(Malformed("nonce")), "an exchange that was overheard does not serve again");
        let other = exchange.finish(format!("c=eSws,r={nonce},p=").as_bytes());
        assert_eq!(other, Err(Malformed("proof")));
    }

    #[test]
    fn passwords_are_known_again() {
        let verifier = Verifier::of("paſs wörd", random());
        assert!(verifier.is("paſs wörd") && !verifier.is("paſs word") && !verifier.is(""));
        assert!(!format!("{verifier:?}").contains("wörd"));
    }

    #[test]
    fn messages_that_are_none_are_told() {
        let begin = |message: &[u8]| Exchange::begin(Verifier::of("x", [0; 16]), message).map(|begun| begun.first);
        assert!(begin(b"n,,n=,r=abc").unwrap().starts_with("r=abc"));
        assert!(begin(b"y,a=other,n=x,r=abc,ext=1").is_ok());
        for (message, part) in [
            (&b""[..], "head"),
            (b"n,", "first message"),
            (b"p=tls-server-end-point,,n=,r=abc", "channel binding"),
            (b"n,x,n=,r=abc", "channel binding"),
            (b"n,,m=x,n=,r=abc", "name"),
            (b"n,,n=,r=", "nonce"),
            (b"n,,n=,r=\xc3\xa9", "nonce"),
            (b"n,,n=", "nonce"),
            (b"\xff", "message"),
        ] {
            assert_eq!(begin(message), Err(Malformed(part)), "{message:?}");
        }
        assert_eq!(begin(&[b'n'; MESSAGE_BYTES_MAX + 1]), Err(Malformed("message")));
    }

    proptest! {
        #[test]
        fn no_message_lets_anybody_in(first in "\\PC{0,60}", last in "\\PC{0,60}") {
            let verifier = Verifier { salt: [1; 16], stored: [2; 32], server: [3; 32] };
            let first = format!("n,,n=,r={first}");
            if let Ok(exchange) = Exchange::begin(verifier, first.as_bytes()) {
                let said = exchange.finish(format!("c=biws,r={},p={last}", exchange.nonce).as_bytes());
                prop_assert!(!matches!(said, Ok(Some(_))));
            }
        }
    }
}
