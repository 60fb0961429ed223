//! Who comes in, and who does not, and that the two who do not cannot be told apart.

use reqwest::{Client, Method};
use serde_json::Value;

use super::fleet::{Fleet, password};
use crate::reads::garbage;
use crate::services::psql;

pub async fn nobody_comes_in_without_a_password(fleet: &Fleet) {
    over_the_wire(fleet);
    over_http(fleet).await;
}

fn over_the_wire(fleet: &Fleet) {
    let addr = fleet.running.postgres;
    let said = |user: &str, password: Option<&str>| {
        psql::said(psql::command(addr, password).env("PGUSER", user).args(["-c", "SELECT count(*) FROM fleet"]))
    };
    for (user, password) in [
        ("one", "guess"),
        ("one", password("two")),
        ("nobody", "guess"),
        ("", password("one")),
        ("One", password("one")),
    ] {
        let told = said(user, Some(password));
        assert!(!told.good && told.out.is_empty(), "{user}: {told:?}");
        // An empty name is the machine's own for psql.
        let shown = format!("password authentication failed for user \"{user}\"");
        assert!(user.is_empty() || told.err.contains(&shown), "{told:?}");
    }
    let strip = |told: String, user: &str| told.replace(user, "USER");
    let (wrong, unknown) = (said("one", Some("guess")).err, said("nobody", Some("guess")).err);
    assert_eq!(strip(wrong, "one"), strip(unknown, "nobody"), "nobody learns who there is");
    let none = said("one", None);
    assert!(!none.good && none.err.contains("no password supplied"), "{none:?}");
    // What stands before the exchange, in its place, and after it.
    for told in garbage::without_login(addr, "one") {
        assert!(told.contains("08P01") || told.contains("28P01") || told.is_empty(), "{told}");
        assert!(!told.contains("v-1") && !told.contains("SECRET"), "{told}");
    }
}

async fn over_http(fleet: &Fleet) {
    let url = &fleet.running.program.url;
    let client = Client::new();
    let told = async |request: reqwest::RequestBuilder| {
        let answer = request.send().await.expect("an answer");
        let challenge = answer.headers().get("www-authenticate").map(|value| value.as_bytes().to_vec());
        (answer.status().as_u16(), challenge.is_some(), answer.json::<Value>().await.unwrap_or_default())
    };
    for path in [
        "/v1/views",
        "/v1/views/fleet",
        "/v1/views/nobody",
        "/v1/streams",
        "/v1/streams/fleet",
        "/v1/streams/nobody/changes",
        "/v1/streams/faulty/faults",
    ] {
        let (status, challenge, body) = told(client.get(format!("{url}{path}"))).await;
        assert_eq!(
            (status, challenge, body["code"].as_str()),
            (401, true, Some("not_authenticated")),
            "{path}: {body}"
        );
    }
    for (method, path) in [(Method::POST, ""), (Method::PUT, "/fleet"), (Method::DELETE, "/fleet")] {
        let body = "CREATE VIEW x AS SELECT 1 AS n";
        let (status, ..) = told(client.request(method.clone(), format!("{url}/v1/streams{path}")).body(body)).await;
        assert_eq!(status, 401, "{method} {path}");
    }
    let mut answers = Vec::new();
    for (user, password) in [("one", "guess"), ("nobody", "guess"), ("one", ""), ("", "")] {
        let (status, challenge, mut body) =
            told(client.get(format!("{url}/v1/views/fleet")).basic_auth(user, Some(password))).await;
        assert_eq!((status, challenge), (401, true), "{user}: {body}");
        body["id"] = Value::Null;
        answers.push(body);
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "nobody learns who there is: {answers:?}");
    for header in ["Basic", "Basic !!!", "Bearer abc.def.ghi", "Digest username=\"one\"", "basic b25l"] {
        let (status, ..) = told(client.get(format!("{url}/v1/views")).header("Authorization", header)).await;
        assert_eq!(status, 401, "{header}");
    }
    // What is not for users alone is there as before.
    for path in ["/healthz", "/readyz", "/metrics", "/"] {
        super::fleet::until_status(&format!("{url}{path}"), 200).await;
    }
}
