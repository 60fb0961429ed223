//! Who asks over HTTP: a configured user by `Authorization: Basic`; anybody where there are no users.
//!
//! Invariant: a path that reads or changes streams asks here first, and goes on with the reader that it is given. Tokens will be
//! made into readers here as well.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use operators::error::Refusal;
use queries::readers::{Reader, Users};
use tokio::sync::Semaphore;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use warp::reply::Response;

/// Code of a request that does not say who asks.
pub const UNKNOWN: &str = "not_authenticated";
/// Passwords that are looked at at a time: each takes a core for a millisecond or a few.
const CHECKED_MAX: usize = 2;
/// Longest header that is looked at, in bytes.
const HEADER_BYTES_MAX: usize = 4_096;
/// How a client that has not said who asks is told to.
const CHALLENGE: &str = "Basic realm=\"haulstream\", charset=\"UTF-8\"";

/// Tells who asks.
#[derive(Clone, Debug)]
pub struct Gate {
    users: Arc<Users>,
    turns: Arc<Semaphore>,
}

impl Gate {
    /// For these users, or for anybody if there are none.
    #[must_use]
    pub fn new(users: Arc<Users>) -> Gate {
        Gate { users, turns: Arc::new(Semaphore::new(CHECKED_MAX)) }
    }

    /// Whether everybody is let in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.users.is_empty()
    }

    /// Gives the reader of a request, or why there is none.
    #[must_use]
    pub fn reader(&self) -> BoxedFilter<(Result<Reader, Refusal>,)> {
        let gate = self.clone();
        let asked = warp::header::headers_cloned().then(move |headers: HeaderMap| {
            let gate = gate.clone();
            async move { gate.find(&headers).await }
        });
        asked.boxed()
    }

    async fn find(&self, headers: &HeaderMap) -> Result<Reader, Refusal> {
        if self.users.is_empty() {
            return Ok(Reader::anybody());
        }
        let (name, password) = told(headers)?;
        let wrong = || unauthenticated("user or password is wrong");
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| wrong())?;
        let users = self.users.clone();
        let check = move || {
            // Also for a client that has gone meanwhile.
            let _turn = turn;
            users.login(&name, &password)
        };
        tokio::task::spawn_blocking(check).await.ok().flatten().ok_or_else(wrong)
    }
}

/// Adds to an answer that refuses what a client needs to come again.
pub fn challenge(code: &str, response: &mut Response) {
    if code == UNKNOWN {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
    }
}

fn unauthenticated(message: &str) -> Refusal {
    Refusal::new(UNKNOWN, message).hint("send Authorization: Basic with a user of the section [users]")
}

/// Name and password of a request.
fn told(headers: &HeaderMap) -> Result<(String, String), Refusal> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let header = all.next().ok_or_else(|| unauthenticated("this path is for users only"))?;
    if all.next().is_some() {
        return Err(unauthenticated("there is more than one Authorization header"));
    }
    let malformed = || unauthenticated("the Authorization header is not Basic with base64 of NAME:PASSWORD in UTF-8");
    let text = header.to_str().ok().filter(|text| text.len() <= HEADER_BYTES_MAX).ok_or_else(malformed)?;
    let (scheme, encoded) = text.split_once(' ').ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Err(unauthenticated("tokens are not taken yet"));
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
    let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(malformed)?;
    let (name, password) = text.split_once(':').ok_or_else(malformed)?;
    Ok((name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_or_refused() {
        let read = |texts: &[&str]| {
            let mut headers = HeaderMap::new();
            for text in texts {
                headers.append(AUTHORIZATION, HeaderValue::from_bytes(text.as_bytes()).expect("a header"));
            }
            told(&headers).map_err(|why| why.message)
        };
        let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        let named = |name: &str, password: &str| Ok((name.to_owned(), password.to_owned()));
        assert_eq!(read(&[&basic("ada:a:b")]), named("ada", "a:b"));
        assert_eq!(read(&[&basic("ada:")]), named("ada", ""));
        assert_eq!(read(&[&basic("ada:ö").replace("Basic", "bAsIc")]), named("ada", "ö"));
        for (texts, part) in [
            (vec![], "users only"),
            (vec!["Basic"], "not Basic"),
            (vec!["Basic !"], "not Basic"),
            (vec!["Digest YTpi"], "not Basic"),
            (vec!["Bearer x.y.z"], "tokens"),
            (vec!["Basic YWRh"], "not Basic"),
            (vec!["Basic /w=="], "not Basic"),
            (vec!["Basic ö"], "not Basic"),
            (vec!["Basic YTpi", "Basic YTpi"], "more than one"),
        ] {
            let told = read(&texts).expect_err("refused");
            assert!(told.contains(part), "{texts:?}: {told}");
        }
        assert!(read(&[&basic(&format!("a:{}", "b".repeat(HEADER_BYTES_MAX)))]).is_err());
    }
}
