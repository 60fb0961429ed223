//! Who may talk to the edge before rights exist: pages of its own origin or a listed one, and on a loopback address only by
//! the names of that address, so that no foreign page reaches it through a name that it points there.

use std::net::IpAddr;

use operators::error::{Refusal, excerpt};
use warp::http::HeaderMap;
use warp::http::header::{HOST, HeaderName, ORIGIN};

use super::options::Options;

/// Decides from the head of a request.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Origins that are listed, in lower case.
    origins: Vec<String>,
    /// Hosts by which the edge is reached, in lower case and without a port; `None` for any.
    hosts: Option<Vec<String>>,
}

impl Admission {
    /// The admission of an edge that listens on `ip`.
    #[must_use]
    pub fn new(options: &Options, ip: IpAddr) -> Self {
        let origins: Vec<String> =
            options.origins.iter().map(|origin| origin.trim_end_matches('/').to_lowercase()).collect();
        let hosts = ip.is_loopback().then(|| {
            let own = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned).into_iter();
            let listed = origins.iter().filter_map(|origin| Some(without_port(origin.split_once("://")?.1).to_owned()));
            own.chain(listed).chain([ip.to_string()]).collect()
        });
        Self { origins, hosts }
    }

    /// Whether a request with these headers may go on.
    ///
    /// # Errors
    /// `host_not_allowed` or `origin_not_allowed`.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let host = text(headers, HOST).unwrap_or_default();
        if let Some(hosts) = &self.hosts
            && !hosts.iter().any(|allowed| allowed == without_port(&host))
        {
            return Err(Refusal::new(
                "host_not_allowed",
                format!("this server is not known as \"{}\"", excerpt(&host)),
            )
            .at("Host")
            .hint("use localhost, or list the page's origin in the configuration"));
        }
        let Some(origin) = text(headers, ORIGIN) else { return Ok(()) };
        let same = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
        if same || self.origins.contains(&origin) {
            return Ok(());
        }
        Err(Refusal::new("origin_not_allowed", format!("pages of \"{}\" may not use this server", excerpt(&origin)))
            .at("Origin")
            .hint("list the origin in the configuration"))
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).to_lowercase())
}

/// The host of an authority; the port begins at the last colon after any bracket.
fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if authority.rfind(']').is_none_or(|bracket| bracket < colon) => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(remote: bool, host: &str, origin: Option<&str>) -> Result<(), &'static str> {
        let mut options = super::super::tests::options();
        options.origins = vec!["https://Fleet.example.com/".to_owned()];
        let ip = if remote { [192, 168, 0, 1] } else { [127, 0, 0, 1] };
        let mut headers = HeaderMap::new();
        headers.insert(HOST, host.parse().unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        Admission::new(&options, ip.into()).admit(&headers).map_err(|why| why.code)
    }

    #[test]
    fn own_and_listed_origins_pass() {
        assert_eq!(admit(false, "localhost:8080", None), Ok(()));
        assert_eq!(admit(false, "[::1]:8080", Some("http://[::1]:8080")), Ok(()));
        assert_eq!(admit(false, "127.0.0.1", Some("http://127.0.0.1")), Ok(()));
        assert_eq!(admit(false, "localhost:8080", Some("https://fleet.example.com")), Ok(()));
        assert_eq!(admit(false, "fleet.example.com", Some("https://fleet.example.com")), Ok(()));
        assert_eq!(admit(true, "anything:1", Some("http://anything:1")), Ok(()));
    }

    #[test]
    fn foreign_pages_do_not() {
        for origin in
            ["null", "", "http://localhost:8081", "http://localhost", "https://evil.example", "localhost:8080"]
        {
            assert_eq!(admit(false, "localhost:8080", Some(origin)), Err("origin_not_allowed"), "{origin}");
        }
        for host in ["evil.example:8080", "", "127.0.0.1.evil.example", "localhost.evil.example:8080", "0.0.0.0:8080"] {
            assert_eq!(admit(false, host, Some(&format!("http://{host}"))), Err("host_not_allowed"), "{host}");
        }
        assert_eq!(admit(true, "a:1", Some("http://b:1")), Err("origin_not_allowed"));
    }
}
