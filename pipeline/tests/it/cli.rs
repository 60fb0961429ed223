//! The commands of the real program: what they print, what they leave behind, how they end.
//!
//! Invariant: a command's answer is on standard output, alone and complete; its exit code tells whether it was done (0), failed
//! (1) or was asked for wrongly (2).

use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::Value;

use super::program::Program;
use super::services::{self, Kafka, http, unique, wait_until};

/// Ample for anything that a healthy program does here.
const DEADLINE: Duration = Duration::from_secs(60);

/// Exit code, standard output and standard error of a command.
fn haulstream(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
    let output = command.args(arguments).env_remove("HAULSTREAM_CONFIG").output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("the program speaks UTF-8");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The answer of a command that is done.
#[track_caller]
fn done(arguments: &[&str]) -> String {
    let (code, out, err) = haulstream(arguments);
    assert_eq!(code, Some(0), "{arguments:?}\n{out}\n{err}");
    out
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn help_and_mistakes_on_the_command_line() {
    let help = done(&["--help"]);
    for command in ["run", "ingest", "simulate", "topics", "check", "history", "checkpoint", "sql"] {
        assert!(help.contains(&format!("\n  {command} ")), "{help}");
        assert!(done(&[command, "--help"]).contains("Examples:"), "{command}");
    }
    assert!(!help.contains("\n  reference "), "not for users");
    assert!(done(&["--version"]).starts_with("haulstream "));
    for (arguments, part) in [
        (["chekc", ""].as_slice(), "'check'"),
        (&["check", "--conect"], "'--connect'"),
        (&["simulate"], "--to"),
        (&["simulate", "--to", "pigeon"], "kafka, http, log"),
        (&["simulate", "--to", "log", "--speed", "2"], "--trace"),
        (&["topics", "delete"], "plan, apply"),
    ] {
        let arguments: Vec<&str> = arguments.iter().copied().filter(|a| !a.is_empty()).collect();
        let (code, out, err) = haulstream(&arguments);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let (code, _, err) = haulstream(&["simulate", "--to", "http", "--vehicles", "0"]);
    assert_eq!(code, Some(2), "{err}");
    let (code, _, err) = haulstream(&["ingest"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("run.source = \"kafka\""), "{err}");
}

#[test]
fn simulated_messages_over_http_end_in_the_history() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let data = data.to_str().expect("UTF-8");
    let config = folder.path().join("f.toml");
    std::fs::write(&config, "[simulator]\nenabled = false\n").expect("a file");
    let program = Program::start(&["--data", data, "--config", config.to_str().expect("UTF-8")]);
    let port: u16 = program.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    wait_until(DEADLINE, "the program is ready", || {
        http::request(port, "GET", "/readyz", "").is_ok_and(|(status, _)| status == 200)
    });
    let (code, _, err) = haulstream(&["simulate", "--to", "log", "--data", data, "--count", "1"]);
    assert_eq!(code, Some(1), "whoever has the log keeps others out: {err}");
    let counts = json(&done(&[
        "simulate",
        "--to",
        "http",
        "--url",
        &program.url,
        "--vehicles",
        "50",
        "--rate",
        "0",
        "--count",
        "2000",
        "--duplicate-pct",
        "5",
        "--garbage-pct",
        "5",
    ]));
    let count = |name: &str| counts[name].as_u64().unwrap_or_else(|| panic!("{name} in {counts}"));
    assert_eq!(count("messages"), count("distinct") + count("duplicates") + count("garbage"), "{counts}");
    assert!(count("duplicates") > 0 && count("garbage") > 0, "{counts}");
    let (accepted, rejected) = (counts["http"]["accepted"].as_u64(), counts["http"]["rejected"].as_u64());
    assert_eq!(accepted.zip(rejected).map(|(a, r)| a + r), Some(count("messages")), "{counts}");
    // What is in the log and not yet computed comes again with the next start: here everything is to be computed first.
    let sum = |name: &str| -> u64 {
        let (_, figures) = http::request(port, "GET", "/metrics", "").expect("an answer");
        let lines = figures.lines().filter(|line| line.starts_with(name));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    wait_until(DEADLINE, "all messages through the dataflow", || {
        Some(sum("haulstream_worker_rows_total")) == accepted && sum("haulstream_worker_in_flight_rows") == 0
    });
    let (status, figures) = http::request(port, "GET", "/metrics", "").expect("an answer");
    assert!(status == 200 && figures.contains("haulstream_"), "{figures}");
    assert_eq!(http::request(port, "GET", "/healthz", "").expect("an answer").0, 200);
    assert_eq!(program.stop(), Some(0), "it ends in good order");

    let ask = |format: &str, sql: &str| done(&["history", "--data", data, "--format", format, sql]);
    let rows = ask("csv", "SELECT count(*) AS n, count(DISTINCT device_id) AS devices FROM telemetry_history");
    assert_eq!(rows, format!("n,devices\n{},50\n", count("distinct")));
    let json_rows = json(&ask("json", "SELECT device_id FROM telemetry_history LIMIT 3"));
    assert_eq!(json_rows.as_array().map(Vec::len), Some(3));
    assert!(ask("table", "SELECT 1 AS one").contains("| one |"));
    assert!(done(&["history"]).contains("telemetry_history: "));
}

#[test]
fn questions_that_are_not_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_str().expect("UTF-8");
    let ask = |sql: &str| haulstream(&["history", "--data", data, sql]);
    let (code, out, err) = ask("SELECT 1");
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(err.contains("history_unreadable: cannot read the history in"), "{err}");
    std::fs::create_dir(folder.path().join("history")).expect("a folder");
    let (code, out, err) = ask("COPY telemetry_history TO '/tmp/out.csv'");
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(err.starts_with("sql_statement_not_allowed: COPY\n  = help: "), "{err}");
    let (code, _, err) = ask("SELECT 1,\n  )");
    assert_eq!(code, Some(2));
    assert!(err.contains("sql_syntax: ") && err.contains("\n2:3\n    )\n    ^\n"), "{err}");
    let (code, _, err) = ask("SELECT * FROM '/etc/passwd'");
    assert_eq!(code, Some(2));
    assert!(err.starts_with("sql_unknown_table: "), "{err}");
}

/// A configuration file for a Kafka whose topics no other test has.
fn kafka_config(folder: &tempfile::TempDir, kafka: &Kafka) -> (String, String) {
    let name = unique("cli");
    let inputs = ["telemetry", "vehicle", "driver", "company", "tariff"];
    let outputs = ["dead_letters", "vehicle_state", "online", "offline", "enriched"];
    let topics = inputs.iter().chain(&outputs).map(|topic| format!("{topic} = \"{name}.{topic}\"\n"));
    let topics: String = topics.collect();
    let brokers = kafka.bootstrap();
    let text = format!(
        "[run]\nsource = \"kafka\"\n[kafka]\nbrokers = \"{brokers}\"\n[kafka_sink]\nenabled = true\nenriched = true\n[kafka_topics]\npartitions = 3\n[topics]\n{topics}"
    );
    let path = folder.path().join("f.toml");
    std::fs::write(&path, text).expect("a file");
    (path.to_str().expect("UTF-8").to_owned(), name)
}

/// Records of a topic.
fn records(kafka: &Kafka, topic: &str, partitions: i32) -> i64 {
    let probe: BaseConsumer = kafka.client().create().expect("an address is all the client needs");
    let ends = (0..partitions).map(|p| probe.fetch_watermarks(topic, p, DEADLINE).expect("the topic is there").1);
    ends.sum()
}

#[test]
fn topics_are_made_and_filled() {
    let kafka = services::kafka();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (config, name) = kafka_config(&folder, kafka);
    let simulate = |more: &[&str]| {
        let fixed = ["simulate", "--to", "kafka", "--config", &config, "--vehicles", "20", "--rate", "0"];
        haulstream(&[fixed.as_slice(), more].concat())
    };
    let plan = done(&["topics", "plan", "--config", &config]);
    assert!(plan.contains(&format!("+ {name}.telemetry: 3 partitions")), "{plan}");
    assert!(plan.contains("message.timestamp.type=LogAppendTime"), "{plan}");
    for output in ["vehicle_state", "online", "offline", "enriched", "dead_letters"] {
        assert!(plan.contains(&format!("+ {name}.{output}: 3 partitions")), "{output} in\n{plan}");
    }
    assert!(done(&["topics", "apply", "--config", &config]).ends_with("done\n"));
    wait_until(DEADLINE, "the topics are as planned", || {
        done(&["topics", "plan", "--config", &config]) == "topics are as they should be\n"
    });

    let (code, out, err) = simulate(&["--count", "500"]);
    assert_eq!(code, Some(0), "{err}");
    let counts = json(&out);
    let telemetry = format!("{name}.telemetry");
    assert_eq!(records(kafka, &telemetry, 3), counts["messages"].as_i64().expect("a count"), "{counts}");
    assert_eq!(counts["messages"], 500);
    let references: i64 = ["vehicle", "driver", "company", "tariff"]
        .map(|topic| records(kafka, &format!("{name}.{topic}"), 4))
        .iter()
        .sum();
    assert_eq!(references, counts["references"].as_i64().expect("a count"), "{counts}");

    // Without an end of its own it ends when it is asked to, with what it sent acknowledged.
    let mut endless = Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args([
            "simulate",
            "--to",
            "kafka",
            "--config",
            &config,
            "--no-references",
            "--vehicles",
            "10",
            "--rate",
            "100",
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    wait_until(DEADLINE, "messages arrive", || records(kafka, &telemetry, 3) > 500);
    terminate(&endless);
    let mut out = String::new();
    endless.stdout.take().expect("piped above").read_to_string(&mut out).expect("UTF-8");
    assert_eq!(endless.wait().expect("our child").code(), Some(0), "{out}");
    let sent = 500 + json(&out)["messages"].as_i64().expect("a count");
    assert_eq!(records(kafka, &telemetry, 3), sent, "{out}");

    // A journey over a gate of its own.
    let gpx = folder.path().join("drive.gpx");
    let points: String = (0..10)
        .map(|n| format!("<trkpt lat=\"52.5{n}\" lon=\"13.4\"><time>2026-01-01T00:00:{n:02}Z</time></trkpt>"))
        .collect();
    std::fs::write(&gpx, format!("<gpx><trk><trkseg>{points}</trkseg></trk></gpx>")).expect("a file");
    let (mut gate, url) = gate(&config);
    let gpx = gpx.to_str().expect("UTF-8");
    let counts =
        json(&done(&["simulate", "--to", "http", "--url", &url, "--config", &config, "--trace", gpx, "--speed", "0"]));
    assert_eq!((&counts["messages"], &counts["http"]["accepted"]), (&10.into(), &10.into()), "{counts}");
    assert_eq!(records(kafka, &telemetry, 3), sent + 10, "what was accepted is in Kafka");
    let port: u16 = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
    wait_until(DEADLINE, "the gate is ready", || {
        http::request(port, "GET", "/readyz", "").is_ok_and(|(status, _)| status == 200)
    });
    assert_eq!(http::request(port, "GET", "/nope", "").expect("an answer").0, 404);
    terminate(&gate);
    assert_eq!(gate.wait().expect("our child").code(), Some(0), "it ends in good order");
}

/// A running `haulstream ingest` and its URL.
fn gate(config: &str) -> (Child, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_haulstream"))
        .args(["ingest", "--config", config, "--listen", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped above")).lines().map_while(Result::ok);
    let url = lines.find_map(|line| Some(line.strip_prefix("The gate: ")?.strip_suffix("/v1/telemetry")?.to_owned()));
    // Somebody has to read on, or the program would wait to write.
    let drain = std::thread::Builder::new().name("gate-log".to_owned());
    drain.spawn(move || lines.for_each(drop)).expect("a thread");
    (child, url.expect("the gate tells where it is"))
}

fn terminate(child: &Child) {
    let told = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill is there");
    assert!(told.success());
}

#[test]
fn a_simulation_ends_when_its_time_is_over() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().to_str().expect("UTF-8");
    let begin = Instant::now();
    let counts = json(&done(&[
        "simulate",
        "--to",
        "log",
        "--data",
        data,
        "--vehicles",
        "10",
        "--rate",
        "100",
        "--duration",
        "1",
    ]));
    assert!(begin.elapsed() >= Duration::from_secs(1) && begin.elapsed() < DEADLINE);
    assert!(counts["messages"].as_u64().expect("a count") > 10 && counts["to"] == "log", "{counts}");
}

/// Set for the child process of the test below.
const PANIC: &str = "HAULSTREAM_TEST_PANIC";

/// As a child of itself: one thread panics, the others would go on for ever. By itself: looks at how the child ends.
#[test]
#[expect(clippy::disallowed_methods, reason = "a test process has no configuration to be told through")]
fn a_panic_of_any_thread_ends_the_process() {
    if std::env::var_os(PANIC).is_some() {
        pipeline::logging::end_process_at_panic();
        let thread = std::thread::Builder::new().name("worker-7".to_owned());
        let panicking = thread.spawn(|| panic!("the arrangement is not sorted")).expect("a thread");
        let _ = panicking.join();
        // A process that lives on after this is half dead.
        loop {
            std::thread::park();
        }
    }
    let mut child = Command::new(std::env::current_exe().expect("a running program has a file"))
        .args(["--exact", "cli::a_panic_of_any_thread_ends_the_process", "--nocapture"])
        .env(PANIC, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test binary runs");
    let begin = Instant::now();
    let mut err = String::new();
    child.stderr.take().expect("piped above").read_to_string(&mut err).expect("UTF-8");
    let status = child.wait().expect("our child");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert_eq!(status.signal(), Some(6), "{status}: {err}");
    assert!(err.contains("panic in thread worker-7 at ") && err.contains("the arrangement is not sorted"), "{err}");
}

#[test]
fn checkpoints_are_listed_verified_and_moved() {
    use pipeline::checkpoint::{Changes, Moment, NodeId, NodeState, Options, Store};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let data = folder.path().join("data");
    let (backup, other) = (folder.path().join("backup"), folder.path().join("other"));
    let [text, backup, other] = [&data, &backup, &other].map(|path| path.to_str().expect("UTF-8"));
    assert!(done(&["checkpoint", "list", "--data", text]).contains("no checkpoints in"));
    let (code, _, err) = haulstream(&["checkpoint", "verify", "--data", text]);
    assert_eq!(code, Some(2), "{err}");
    assert!(!data.exists(), "asking makes nothing");

    let mut store = Store::open(&data.join("checkpoints"), Options::default()).expect("a directory");
    for tick in [100, 200] {
        let mut changes = Changes::new();
        changes.put(NodeId::of("silence", 1), 0, b"d1", Some(&[tick]));
        let moment = Moment { tick: tick.into(), workers: 2, ..Moment::default() };
        let node = NodeState { name: "silence".to_owned(), plan: 1, anew: false };
        store.save(moment, &[node], vec![changes]).expect("saved");
    }
    let listed = done(&["checkpoint", "list", "--data", text]);
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 3 && lines[1].contains(" 200 ") && lines[2].contains(" 100 "), "{listed}");
    let shown = json(&done(&["checkpoint", "show", "--data", text]));
    assert_eq!((&shown["sequence"], &shown["moment"]["tick"]), (&json("2"), &json("200")));
    assert!(done(&["checkpoint", "verify", "--data", text]).contains("2: good, 1 records in "));
    assert!(
        done(&["checkpoint", "export", backup, "--sequence", "1", "--data", text]).contains("checkpoint 1 at tick 100")
    );
    let (code, _, err) = haulstream(&["checkpoint", "export", backup, "--data", text]);
    assert!(code == Some(1) && err.contains("has checkpoints already"), "{err}");
    let (code, _, err) = haulstream(&["checkpoint", "import", backup, "--data", text]);
    assert!(code == Some(1) && err.contains(&format!("in use by process {}", std::process::id())), "{err}");
    drop(store);
    assert!(done(&["checkpoint", "import", backup, "--data", text]).contains("checkpoint 3 at tick 100"));
    assert!(done(&["checkpoint", "import", backup, "--data", other]).contains("checkpoint 1 at tick 100"));
    let (code, _, err) = haulstream(&["checkpoint", "show", "9", "--data", text]);
    assert!(code == Some(2) && err.contains("there is no checkpoint 9"), "{err}");

    let file = shown["files"][1]["name"].as_str().expect("a name");
    let file = data.join("checkpoints").join("files").join(file);
    let mut bytes = std::fs::read(&file).expect("a file");
    bytes[60] ^= 1;
    std::fs::write(&file, bytes).expect("a file");
    let (code, out, err) = haulstream(&["checkpoint", "verify", "--data", text]);
    assert!(code == Some(1) && err.contains("1 of 3 cannot be used"), "{err}");
    assert!(out.contains("3: good") && out.contains("1: good"), "{out}");
    assert!(out.contains(file.to_str().expect("UTF-8")) && out.contains("is damaged at byte 32: checksum"), "{out}");
}
