//! What clients may say, and what is said to them: JSON objects with a `type`. Whatever a client sends gives a message or a
//! refusal that names the mistake; nothing is guessed.

use operators::error::{Refusal, excerpt};
use serde_json::{Map, Value, json};

use super::filter::Bounds;
use super::options::Options;
use super::selection::{Patch, unknown};

/// The stream that the edge gives out.
pub const STREAM: &str = "vehicle_state";
/// Longest id of a subscription, in characters.
pub const ID_CHARS_MAX: usize = 64;
/// Longest pause between deltas that a client may ask for, in milliseconds.
pub const MAX_RATE_MS_MAX: u64 = 60_000;

const TYPES: [&str; 4] = ["subscribe", "update", "unsubscribe", "ping"];
const FILTERS: [&str; 6] = ["company", "group", "vehicle", "bounds", "fields", "max_rate_ms"];

/// A message of a client.
#[derive(Debug)]
pub enum ClientMessage {
    /// Wants a snapshot, then deltas.
    Subscribe {
        /// Its name for the subscription.
        id: String,
        /// What it wants.
        patch: Patch,
        /// Shortest pause between deltas, in milliseconds.
        max_rate_ms: Option<u64>,
    },
    /// Wants something else under the same id.
    Update {
        /// The subscription.
        id: String,
        /// What is to be different.
        patch: Patch,
        /// Shortest pause between deltas, in milliseconds.
        max_rate_ms: Option<u64>,
    },
    /// Wants no more.
    Unsubscribe {
        /// The subscription.
        id: String,
    },
    /// Wants an answer.
    Ping,
}

/// A message that was refused, and the subscription that it was about, if it said so.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub why: Refusal,
    /// The id in the message.
    pub id: Option<String>,
}

/// Reads a message.
///
/// # Errors
/// What is wrong with it.
pub fn parse(text: &str) -> Result<ClientMessage, Refused> {
    let bad = |why| Refused { why, id: None };
    let value: Value = serde_json::from_str(text).map_err(|error| {
        let place = format!("{}:{}", error.line(), error.column());
        bad(bad_message(format!("not JSON: {}", excerpt(text))).at(place).hint("each message is one JSON object"))
    })?;
    let Value::Object(mut object) = value else {
        return Err(bad(bad_message("not an object".to_owned()).hint("each message is one JSON object")));
    };
    let id = object.get("id").and_then(Value::as_str).filter(|id| is_id(id)).map(str::to_owned);
    parse_object(&mut object).map_err(|why| Refused { why, id })
}

fn parse_object(object: &mut Map<String, Value>) -> Result<ClientMessage, Refusal> {
    let kind = match object.remove("type") {
        Some(Value::String(kind)) => kind,
        Some(_) => return Err(bad_message("type is not a string".to_owned()).at("type")),
        None => return Err(bad_message("no type".to_owned()).at("type").hint("type is subscribe, update, …")),
    };
    let message = match kind.as_str() {
        "subscribe" => {
            let id = take_id(object)?;
            take_stream(object)?;
            let (patch, max_rate_ms) = take_patch(object)?;
            ClientMessage::Subscribe { id, patch, max_rate_ms }
        }
        "update" => {
            let id = take_id(object)?;
            let (patch, max_rate_ms) = take_patch(object)?;
            ClientMessage::Update { id, patch, max_rate_ms }
        }
        "unsubscribe" => ClientMessage::Unsubscribe { id: take_id(object)? },
        "ping" => ClientMessage::Ping,
        other => return Err(unknown("ws_bad_message", "message type", other, TYPES).at("type")),
    };
    // Everything that the message may have was taken out.
    match object.keys().next() {
        None => Ok(message),
        Some(name) => {
            let known = ["type", "id", "stream"].into_iter().chain(FILTERS);
            let why = unknown("field_unknown", "member", name, known);
            let message = format!("{} in a {kind} message", why.message);
            Err(Refusal { message, ..why }.at(excerpt(name)))
        }
    }
}

fn bad_message(message: String) -> Refusal {
    Refusal::new("ws_bad_message", message)
}

fn is_id(id: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&id.chars().count()) && !id.chars().any(char::is_control)
}

fn take_id(object: &mut Map<String, Value>) -> Result<String, Refusal> {
    const HINT: &str = "id is a string of 1 to 64 characters that names the subscription";
    match object.remove("id") {
        Some(Value::String(id)) if is_id(&id) => Ok(id),
        Some(other) => Err(bad_message(format!("{} is no id", excerpt(&other.to_string()))).at("id").hint(HINT)),
        None => Err(bad_message("no id".to_owned()).at("id").hint(HINT)),
    }
}

fn take_stream(object: &mut Map<String, Value>) -> Result<(), Refusal> {
    match object.remove("stream") {
        None => Ok(()),
        Some(Value::String(name)) if name == STREAM => Ok(()),
        Some(Value::String(name)) => Err(unknown("stream_unknown", "stream", &name, [STREAM]).at("stream")),
        Some(other) => Err(wrong("stream", &other, "a string")),
    }
}

fn take_patch(object: &mut Map<String, Value>) -> Result<(Patch, Option<u64>), Refusal> {
    let patch = Patch {
        company: take_texts(object, "company")?,
        group: take_texts(object, "group")?,
        vehicle: take_texts(object, "vehicle")?,
        bounds: take_bounds(object)?,
        fields: take_texts(object, "fields")?,
    };
    let max_rate_ms = match object.remove("max_rate_ms") {
        None => None,
        Some(Value::Null) => Some(0),
        Some(value) => match value.as_u64() {
            Some(ms) if ms <= MAX_RATE_MS_MAX => Some(ms),
            _ => return Err(wrong("max_rate_ms", &value, "a whole number from 0 to 60000")),
        },
    };
    Ok((patch, max_rate_ms))
}

/// A list of strings; one string counts as a list of it, null as an empty one.
fn take_texts(object: &mut Map<String, Value>, name: &'static str) -> Result<Option<Vec<String>>, Refusal> {
    let value = match object.remove(name) {
        None => return Ok(None),
        Some(value) => value,
    };
    match value {
        Value::Null => Ok(Some(Vec::new())),
        Value::String(text) => Ok(Some(vec![text])),
        Value::Array(values) => {
            let texts = values.into_iter().map(|value| match value {
                Value::String(text) => Ok(text),
                other => Err(wrong(name, &other, "a list of strings")),
            });
            texts.collect::<Result<_, _>>().map(Some)
        }
        other => Err(wrong(name, &other, "a list of strings")),
    }
}

fn take_bounds(object: &mut Map<String, Value>) -> Result<Option<Option<Bounds>>, Refusal> {
    let value = match object.remove("bounds") {
        None => return Ok(None),
        Some(Value::Null) => return Ok(Some(None)),
        Some(value) => value,
    };
    let numbers = value.as_array().and_then(|numbers| numbers.iter().map(Value::as_f64).collect::<Option<Vec<_>>>());
    match numbers.and_then(|numbers| <[f64; 4]>::try_from(numbers).ok()) {
        Some(numbers) => Bounds::new(numbers).map(|bounds| Some(Some(bounds))),
        None => {
            let message = format!("{} is not four numbers", excerpt(&value.to_string()));
            Err(Refusal::new("bounds_invalid", message).at("bounds").hint("bounds are [minLon,minLat,maxLon,maxLat]"))
        }
    }
}

fn wrong(name: &'static str, value: &Value, wanted: &str) -> Refusal {
    bad_message(format!("{name} is {wanted}, not {}", excerpt(&value.to_string()))).at(name)
}

/// `hello`: what the client can count on.
#[must_use]
pub fn hello(server_id: &str, options: &Options) -> String {
    let limits = json!({
        "message_bytes_max": options.message_bytes_max,
        "messages_per_minute_max": options.messages_per_minute_max,
        "subscriptions_max": options.subscriptions_max,
        "vehicles_max": options.vehicles_max,
        "outbox_bytes_max": options.outbox_bytes_max,
        "slow_ms": options.slow_ms,
        "idle_ms": options.idle_ms,
        "delta_ms": options.delta_ms,
    });
    json!({ "type": "hello", "server_id": server_id, "heartbeat_ms": options.heartbeat_ms, "limits": limits })
        .to_string()
}

/// `error`: what was refused, and why.
#[must_use]
pub fn error(why: &Refusal, id: Option<&str>) -> String {
    let mut object = json!({ "type": "error", "code": why.code, "message": why.message });
    for (name, value) in [("id", id), ("field", why.field.as_deref()), ("hint", why.hint)] {
        if let Some(value) = value {
            object[name] = value.into();
        }
    }
    object.to_string()
}

/// `pong`.
#[must_use]
pub fn pong() -> String {
    json!({ "type": "pong" }).to_string()
}

/// `bye`: the connection ends, and when to come again.
#[must_use]
pub fn bye(reason: &str, retry_after_ms: u64) -> String {
    json!({ "type": "bye", "reason": reason, "retry_after_ms": retry_after_ms }).to_string()
}

/// How a `snapshot` or `delta` message of a subscription begins: everything up to and with its id and a comma.
#[must_use]
pub fn head(kind: &str, id: &str) -> Box<str> {
    format!("{{\"type\":\"{kind}\",\"id\":{},", Value::from(id)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn refused(text: &str, code: &str, word: &str) {
        let refused = parse(text).unwrap_err();
        assert_eq!(refused.why.code, code, "{text}");
        assert!(refused.why.message.contains(word), "{text}: {}", refused.why.message);
    }

    #[test]
    fn mistakes_are_named() {
        refused("{", "ws_bad_message", "not JSON");
        refused("[]", "ws_bad_message", "not an object");
        refused("{}", "ws_bad_message", "no type");
        refused(r#"{"type":1}"#, "ws_bad_message", "not a string");
        refused(r#"{"type":"subcribe"}"#, "ws_bad_message", "did you mean \"subscribe\"?");
        refused(r#"{"type":"subscribe"}"#, "ws_bad_message", "no id");
        refused(r#"{"type":"update","id":""}"#, "ws_bad_message", "is no id");
        refused(r#"{"type":"update","id":7}"#, "ws_bad_message", "7 is no id");
        refused(r#"{"type":"subscribe","id":"1","stream":"vehicle_stat"}"#, "stream_unknown", "vehicle_state");
        refused(r#"{"type":"subscribe","id":"1","compny":[]}"#, "field_unknown", "did you mean \"company\"?");
        refused(r#"{"type":"ping","id":"1"}"#, "field_unknown", "in a ping message");
        refused(r#"{"type":"subscribe","id":"1","company":[1]}"#, "ws_bad_message", "a list of strings");
        refused(r#"{"type":"subscribe","id":"1","bounds":[1,2,3]}"#, "bounds_invalid", "not four numbers");
        refused(r#"{"type":"subscribe","id":"1","bounds":[1,5,3,4]}"#, "bounds_invalid", "minLat first");
        refused(r#"{"type":"subscribe","id":"1","max_rate_ms":-1}"#, "ws_bad_message", "0 to 60000");
        let deep = "[".repeat(60_000);
        refused(&deep, "ws_bad_message", "not JSON");
        assert_eq!(parse(r#"{"type":"update","id":"x","nope":1}"#).unwrap_err().id.as_deref(), Some("x"));
    }

    #[test]
    fn messages_are_read() {
        let text = r#"{"type":"update","id":"a","company":"c1","bounds":null,"fields":["lat"],"max_rate_ms":1000}"#;
        let ClientMessage::Update { id, patch, max_rate_ms } = parse(text).unwrap() else { panic!("an update") };
        assert_eq!((id.as_str(), max_rate_ms), ("a", Some(1_000)));
        assert_eq!(patch.company, Some(vec!["c1".to_owned()]));
        assert_eq!((patch.bounds, patch.vehicle), (Some(None), None));
        assert_eq!(&*head("delta", "a\"b"), r#"{"type":"delta","id":"a\"b","#);
    }

    proptest! {
        #[test]
        fn any_text_gives_a_message_or_a_short_refusal(text in any::<String>(), cut in 0..200usize) {
            let good = r#"{"type":"subscribe","id":"1","company":["a"],"bounds":[0,1,2,3],"fields":["lat"],"max_rate_ms":5}"#;
            let mutated: String = good.chars().take(cut).chain(text.chars()).chain(good.chars().skip(cut)).collect();
            for text in [text, mutated] {
                if let Err(refused) = parse(&text) {
                    prop_assert!(error(&refused.why, refused.id.as_deref()).len() < 2_000);
                }
            }
        }
    }
}
