//! What a stranger sees: the program alone, a map in a real browser, vehicles that move. Would catch anything that breaks the
//! way from the simulator to the page, and a process that does not stop when asked.

use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::program::Program;
use crate::services::{chromium_with_webgl, wait_until_async};

async fn snapshot(url: &str) -> Vec<Value> {
    let answer = reqwest::get(format!("{url}/realtime/snapshot")).await.expect("the edge answers");
    let body: Value = answer.json().await.expect("JSON");
    body["rows"].as_array().expect("rows").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_moves_on_the_map() {
    let data = TempDir::new().expect("a directory");
    let program = Program::start(&["--data", data.path().to_str().expect("a plain path")]);
    let url = program.url.clone();
    wait_until_async(Duration::from_secs(60), "all vehicles in the snapshot", async || {
        snapshot(&url).await.len() == 1_000
    })
    .await;
    println!("1,000 vehicles in the snapshot {:.1} s after the start", program.started.elapsed().as_secs_f64());
    let browser = chromium_with_webgl();
    let mut page = browser.open(&format!("{url}/"), 1_280, 800).await;
    let number = |name: &str| format!("Number(document.documentElement?.dataset.{name} || 0)");
    page.wait_for(Duration::from_secs(60), &format!("{} === 1000", number("vehicles"))).await;
    page.wait_for(Duration::from_secs(60), &format!("{} > 100", number("moved"))).await;
    page.wait_for(Duration::from_secs(60), "document.documentElement?.dataset.drawn === 'true'").await;
    assert_eq!(page.evaluate("document.documentElement.dataset.connection").await, Value::from("live"));
    let picture = data.path().join("map.png");
    let bytes = page.screenshot(&picture).await;
    assert!(bytes.len() > 50_000, "a map with vehicles is more than {} bytes", bytes.len());
    assert!(page.errors().is_empty(), "{:?}", page.errors());
    #[expect(clippy::disallowed_methods, reason = "only where to leave a copy for a person to look at")]
    let keep = std::env::var_os("HAULSTREAM_SCREENSHOTS");
    if let Some(keep) = keep {
        std::fs::copy(&picture, std::path::Path::new(&keep).join("map.png")).expect("a copy of the picture");
    }
    let asked = Instant::now();
    assert_eq!(program.stop(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(10), "stopping took {:?}", asked.elapsed());
}

/// Links that are lost show on the map, and only after every vehicle was heard of: with links lost by all and a short
/// patience, some vehicles are offline at once and none is missing.
#[tokio::test(flavor = "multi_thread")]
async fn vehicles_that_fall_silent_show_as_offline() {
    let data = TempDir::new().expect("a directory");
    let config = data.path().join("fleet.toml");
    let text =
        "[silence]\noffline_after_s = 3\n[simulator]\nvehicles = 200\nrate_per_s = 200.0\nlost_link_pct = 100.0\n";
    std::fs::write(&config, text).expect("a configuration file");
    let path = |path: &std::path::Path| path.to_str().expect("a plain path").to_owned();
    let program = Program::start(&["--data", &path(data.path()), "--config", &path(&config)]);
    let url = program.url.clone();
    wait_until_async(Duration::from_secs(60), "offline vehicles among all", async || {
        let rows = snapshot(&url).await;
        let offline = rows.iter().filter(|row| row["status"] == "offline" && row["offline_since"].is_i64()).count();
        rows.len() == 200 && (5..150).contains(&offline)
    })
    .await;
    assert_eq!(program.stop(), Some(0));
}
