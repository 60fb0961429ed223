//! The files of the map page, as they were when the program was built. Nothing is read from disk.

use std::sync::LazyLock;

use hashbrown::HashMap;
use operators::batch::key_hash;
use warp::http::header::{self, HeaderMap, HeaderValue};
use warp::http::{Response, StatusCode};
use warp::reply::Response as Reply;

static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// What the page may load: nothing but itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; worker-src 'self' blob:; img-src 'self' data: blob:; \
     style-src 'self' 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    bytes: &'static [u8],
    content_type: &'static str,
    /// Tells this content from any other.
    tag: String,
}

static ASSETS: LazyLock<HashMap<&'static str, Asset>> = LazyLock::new(|| {
    let asset = |&(name, bytes): &(&'static str, &'static [u8])| {
        let asset = Asset { bytes, content_type: content_type(name), tag: format!("\"{:016x}\"", key_hash(bytes)) };
        (name, asset)
    };
    FILES.iter().map(asset).collect()
});

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or("", |(_, extension)| extension) {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" => "application/json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "pbf" => "application/x-protobuf",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// The file at a path of the page, `/` being its index.
#[must_use]
pub fn find(path: &str) -> Option<&'static Asset> {
    match path.strip_prefix('/')? {
        "" => ASSETS.get("index.html"),
        name => ASSETS.get(name),
    }
}

impl Asset {
    /// The answer to a request with these headers.
    #[must_use]
    pub fn reply(&self, headers: &HeaderMap) -> Reply {
        let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
        let unchanged = known.is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == self.tag));
        let mut response = Response::new(if unchanged { "".into() } else { self.bytes.into() });
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let tag = HeaderValue::from_str(&self.tag).expect("a tag is hexadecimal in quotes");
        let fixed = [
            (header::CONTENT_TYPE, self.content_type),
            // Names stay while contents change with the program, so a browser has to ask each time.
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
        ];
        response.headers_mut().insert(header::ETAG, tag);
        response.headers_mut().extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_type_of_its_own() {
        assert!(FILES.iter().any(|(name, _)| *name == "index.html"));
        for (name, _) in FILES {
            assert_ne!(content_type(name), "application/octet-stream", "{name}");
            assert!(!name.contains("make-") && !name.ends_with(".md"), "{name} is no part of the page");
        }
    }

    #[test]
    fn a_known_file_is_not_sent_again() {
        let asset = find("/").unwrap();
        let mut headers = HeaderMap::new();
        assert_eq!(asset.reply(&headers).status(), StatusCode::OK);
        headers.insert(header::IF_NONE_MATCH, asset.tag.parse().unwrap());
        assert_eq!(asset.reply(&headers).status(), StatusCode::NOT_MODIFIED);
        assert!(find("/no-such-file").is_none() && find("/../edge.rs").is_none() && find("").is_none());
    }
}
