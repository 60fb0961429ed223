//! Why a key is, or is not, in a stream, over HTTP.
//!
//! Invariant: a client that goes away ends what it asked for, and who sees some companies only is told nothing.

use std::sync::Arc;

use operators::error::Refusal;
use queries::live::{Asked, Engine, History};
use serde::Deserialize;
use serde_json::json;
use warp::Filter;
use warp::filters::BoxedFilter;
use warp::http::StatusCode;
use warp::reply::Response;

use super::{answered, history};
use crate::reads::login::Gate;

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asking {
    /// Values with `|` between.
    key: Option<String>,
    /// The columns that they are of, if not the stream's key.
    by: Option<String>,
    /// `all`, or a time such as `7 days`.
    history: Option<String>,
}

impl Asking {
    fn asked(self) -> Result<Asked, Refusal> {
        let key = self.key.ok_or_else(|| {
            Refusal::new("key_invalid", "no key is given").at("key").hint("write ?key=a|b, percent-encoded: ?key=a%7Cb")
        })?;
        let history = history(self.history.as_deref())?;
        if history == History::No {
            return Err(Refusal::new("history_invalid", "without events there is nothing to be followed")
                .at("history")
                .hint("write all, or a time such as 7 days, 12 hours, 30 minutes"));
        }
        Ok(Asked { key, by: self.by, history })
    }
}

/// The route `/v1/streams/NAME/why`.
pub fn route(engine: Arc<Engine>, gate: &Gate) -> BoxedFilter<(Response,)> {
    let with = warp::any().map(move || engine.clone());
    let path = warp::get().and(warp::path!("v1" / "streams" / String / "why"));
    let why = path.and(warp::query::<Asking>()).and(gate.reader()).and(with);
    let why = why.then(|name: String, asking: Asking, who: super::Asked, engine: Arc<Engine>| async move {
        let done = async {
            // The answer shows rows of everything that the stream is made of.
            who?.sees_all("why")?;
            engine.why(&name, &asking.asked()?).await
        };
        answered(StatusCode::OK, done.await.map(|why| json!(why)))
    });
    why.boxed()
}
