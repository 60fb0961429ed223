//! What the real program says to a wrong configuration: each case of the matrix of bad input, by exit code and text.
//!
//! Invariant: exit code 2 and a message that names file, line, column, key and remedy; never a secret; nothing was begun.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::services;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join("f.toml");
        fs::write(&path, content).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our file");
        path
    }
}

struct Answer {
    code: Option<i32>,
    out: String,
    err: String,
}

fn answer(output: Output) -> Answer {
    let text = |bytes| String::from_utf8(bytes).expect("the program speaks UTF-8");
    Answer { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn haulstream(arguments: &[&str], environment: &[(&str, &str)]) -> Answer {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haulstream"));
    command.args(arguments).env_remove("HAULSTREAM_CONFIG").envs(environment.iter().copied());
    answer(command.output().expect("the program starts"))
}

fn check(file: &Path) -> Answer {
    haulstream(&["check", "--config", file.to_str().expect("UTF-8")], &[])
}

/// Checks `content` and wants it refused with all of `parts` in the message; the message.
#[track_caller]
fn refused(content: &str, parts: &[&str]) -> String {
    let folder = Folder::new();
    let answer = check(&folder.file(content));
    assert_eq!((answer.code, answer.out.as_str()), (Some(2), ""), "{}", answer.err);
    for part in parts {
        assert!(answer.err.contains(part), "{part}\nis not in\n{}", answer.err);
    }
    answer.err
}

#[test]
fn files_that_cannot_be_read() {
    let folder = Folder::new();
    let missing = folder.0.path().join("none.toml");
    let unreadable = |path: &Path, why: &str| {
        let answer = check(path);
        assert_eq!(answer.code, Some(2), "{}", answer.err);
        assert_eq!(answer.err, format!("config: cannot read {}: {why}\n", path.display()));
        assert_eq!(answer.out, "");
    };
    unreadable(&missing, "no such file");
    unreadable(folder.0.path(), "it is a directory: name the file in it");
    unreadable(&folder.file(b"[run]\n# \xff\n"), "it is not UTF-8: byte 8, on line 2");
    unreadable(&folder.file(b"\xef\xbb\xbf[run]\n"), "it begins with a byte order mark: save it as UTF-8 without one");
    unreadable(&folder.file(b"\xff\xfe[\0r\0"), "it is UTF-16: save it as UTF-8");
    unreadable(&folder.file(vec![b'\n'; (1 << 20) + 1]), "it is longer than 1048576 bytes");
    unreadable(Path::new("/dev/null"), "it is not a regular file");
    let secret = folder.file("");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).expect("our file");
    // Whom no permission stops may read it: then it is an empty configuration.
    if fs::File::open(&secret).is_err() {
        unreadable(&secret, "permission denied");
    } else {
        assert_eq!(check(&secret).code, Some(0));
    }
}

#[test]
fn the_longest_file_is_read() {
    let folder = Folder::new();
    let answer = check(&folder.file(vec![b'\n'; 1 << 20]));
    assert_eq!(answer.code, Some(0), "{}", answer.err);
}

#[test]
fn syntax() {
    refused("[run]\nworkers = \n", &["f.toml:2:", "2 | workers = \n", "^"]);
    refused("[run\nworkers = 1\n", &["error[syntax]: not TOML", "f.toml:1:5", "1 | [run\n  |     ^"]);
    refused("[run]\nworkers = 1\nworkers = 2\n", &["duplicate key", "f.toml:3:1", "3 | workers = 2\n  | ^^^^^^^"]);
    refused("[run]\nworkers = 1\n[run]\ntick = 1\n", &["duplicate key", "f.toml:3:2"]);
    refused("run:\n  workers: 1\n", &["f.toml:1:"]);
    // Tabs are white space in TOML, and count as one column.
    refused("[run]\n\tworkers\t=\t0\n", &["f.toml:2:12", "2 |  workers = 0\n  |            ^"]);
    let deep = format!("a = {}1{}\n", "[".repeat(10_000), "]".repeat(10_000));
    refused(&deep, &["f.toml:1:"]);
}

#[test]
fn unknown_keys() {
    refused(
        "[kafka]\nbroker = \"h:1\"\n",
        &["error[unknown_key]: unknown key kafka.broker; did you mean kafka.brokers", "f.toml:2:1", "  | ^^^^^^"],
    );
    refused("[kafak]\nbrokers = \"h:1\"\n", &["unknown key kafak; did you mean kafka", "f.toml:1:2"]);
    refused("brokers = \"h:1\"\n", &["unknown key brokers; did you mean kafka.brokers"]);
    let err = refused("[run]\nqqqqqq = 1\n", &["unknown key run.qqqqqq\n"]);
    assert!(!err.contains("did you mean"), "{err}");
    refused("kafka = 1\n", &["kafka: expected a section", "write [kafka]"]);
}

#[test]
fn wrong_values() {
    refused(
        "[kafka]\nfetch_wait_ms = \"10 sec\"\n",
        &[
            "error[wrong_type]: kafka.fetch_wait_ms: expected a whole number of milliseconds from 1 to 10000 like 10, got a text",
            "f.toml:2:17",
            "  |                 ^^^^^^^^",
            "help: a plain number; its name says the unit: milliseconds",
        ],
    );
    refused("[run]\nworkers = 0\n", &["run.workers: expected a whole number from 1 to 64 like 2, got 0"]);
    refused("[run]\nworkers = -1\n", &["got -1"]);
    refused("[run]\nworkers = 2.5\n", &["error[wrong_type]", "got a number"]);
    refused("[run]\nworkers = 99999999999999999999\n", &["got 99999999999999999999 beyond 64 bits"]);
    refused("[run]\nsource = \"files\"\n", &["run.source: expected one of \"log\", \"kafka\", got \"files\""]);
    refused("[redis]\nenabled = \"yes\"\n", &["redis.enabled: expected true or false, got a text"]);
    refused("[kafka]\nbrokers = \"\"\n[kafka_sink]\nenabled = true\n", &["kafka.brokers: expected addresses like"]);
    refused("[kafka]\nbrokers = \"h:70000\"\n", &["kafka.brokers: expected addresses like", "got \"h:70000\""]);
    refused("[clickhouse]\nurl = \"http://h:70000\"\n", &["clickhouse.url: expected a URL"]);
    refused("[redis]\nurl = \"http://h:1\"\n", &["redis.url: expected a URL like \"redis://user@host:6379/0\""]);
    refused("[redis]\nprefix = \"a b\"\n", &["redis.prefix: expected 1 to 64 of A-Z a-z 0-9 . _ : -, got \"a b\""]);
    refused("[edge]\nlisten = \"localhost:8080\"\n", &["edge.listen: expected an IP address and a port like", "2:10"]);
    refused("[edge]\norigins = \"fleet.example.com\"\n", &["edge.origins: expected origins like"]);
    refused("[logging]\nlevel = \"inof\"\n", &["logging.level: expected one of trace, debug, info", "got \"inof\""]);
    refused("[sinks.live]\nrows_max = 0\n", &["sinks.live.rows_max: expected a whole number", "f.toml:2:12"]);
    refused("[sinks]\nrows_max = 0\n", &["unknown key sinks.rows_max"]);
    refused("[topics]\ntelemetry = \"a b\"\n", &["topics.telemetry: expected a topic's name"]);
    refused("[run]\ndata = \"\"\n", &["run.data: expected a path"]);
    refused("[run]\ndata = [\"a\"]\n", &["run.data: expected a path, got a list"]);
    let answer = haulstream(&["check", "--workers", "0"], &[]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.err.contains("run.workers: expected a whole number from 1 to 64 like 2, got 0"), "{}", answer.err);
    assert!(answer.err.contains(" --> command line, --workers"), "{}", answer.err);
}

#[test]
fn settings_that_contradict_each_other() {
    refused(
        "[time]\nslack_ms_min = 500\n",
        &[
            "error[slack_min_above_max]: time.slack_ms_min = 500 is above time.slack_ms_max = 100",
            "f.toml:2:16",
            "help:",
        ],
    );
    for (content, code) in [
        ("[time]\ntick_ms = 600\n", "tick_above_window"),
        ("[window]\nemit_ms = 20\n[time]\ntick_ms = 50\n", "tick_above_emit"),
        ("[edge]\nlisten = \"0.0.0.0:8080\"\n", "edge_reachable"),
        ("[reads]\npostgres_listen = \"0.0.0.0:5433\"\n", "reads_reachable"),
        ("[edge]\nconnections_max = 20000\n", "edge_connections"),
        ("[ingest]\nbody_bytes_max = 1000000000\n", "body_above_held"),
        ("[sinks.live]\nretry_ms_max = 50\n", "live_retry"),
        ("[sinks.history]\nretry_ms_max = 50\n", "history_retry"),
        ("[sinks.live]\nqueue_bytes_max = 2000000\n", "live_step_above_queue"),
        ("[sinks.history]\nqueue_bytes_max = 2000000\n", "history_step_above_queue"),
        ("[kafka_sink]\nrecord_bytes_max = 100000000\n", "record_above_producer"),
    ] {
        let err = refused(content, &[&format!("error[{code}]"), " --> ", "help: "]);
        assert!(err.ends_with("config: 1 error\n"), "{err}");
    }
    refused(
        "[topics]\ndead_letters = \"telemetry.raw\"\n",
        &[
            "error[topic_used_twice]: topics.telemetry and topics.dead_letters are both \"telemetry.raw\"",
            "f.toml:2:16",
        ],
    );
    refused(
        "[topics]\nvehicle_state = \"vehicle.updated\"\n",
        &["topics.vehicle and topics.vehicle_state are both \"vehicle.updated\"", "f.toml:2:17"],
    );
}

/// Whatever `run` would refuse before it connects anywhere, `check` says, and `run` says the same and begins nothing.
#[test]
fn run_refuses_nothing_that_check_has_not_told() {
    let folder = Folder::new();
    let file = folder.file(
        "[logging]\nlevel = \"loud\"\n[edge]\nlisten = \"localhost:8080\"\n[run]\ndata = \"never-made\"\n\
         [redis]\nenabled = true\nurl = \"redis://h:1/first\"\n[clickhouse]\nenabled = true\nurl = \"https://h\"\n\
         database = \"a-b\"\n[kafka]\nbrokers = \"h\"\n[sinks.history]\nretry_ms_min = 20000\n",
    );
    let told = check(&file);
    for key in ["logging.level", "edge.listen", "redis.url", "clickhouse.url", "clickhouse.database", "kafka.brokers"] {
        assert!(told.err.contains(&format!(": {key}: expected ")), "{key}\n{}", told.err);
    }
    assert!(told.err.contains("error[history_retry]: sinks.history.retry_ms_min = 20000 is above"), "{}", told.err);
    assert!(told.err.ends_with("config: 7 errors\n"), "{}", told.err);
    for command in ["run", "ingest"] {
        let answer = haulstream(&[command, "--config", file.to_str().expect("UTF-8")], &[]);
        assert_eq!((answer.code, answer.err.as_str()), (Some(2), told.err.as_str()), "{command}");
    }
    assert!(!Path::new("never-made").exists());
    let answer = haulstream(&["run", "--listen", "0.0.0.0:0"], &[]);
    assert_eq!(answer.code, Some(2));
    assert!(answer.err.contains("error[edge_reachable]") && answer.err.contains("--listen"), "{}", answer.err);
}

#[test]
fn all_errors_at_once() {
    let err = refused(
        "[run]\nworkers = 0\nqqqqqq = 1\n[kafka\nbrokers = 5\n[time]\nslack_ms_min = 500\n[redis]\npassword = \"${HAULSTREAM_TEST_NONE}\"\n",
        &["f.toml:2:", "f.toml:3:", "f.toml:4:", "f.toml:7:", "f.toml:9:", "config: "],
    );
    let lines: Vec<usize> =
        err.lines().filter_map(|line| line.split_once("f.toml:")?.1.split(':').next()?.parse().ok()).collect();
    assert!(lines.is_sorted() && lines.len() >= 5, "in the order of the file: {lines:?}");
    let answer = haulstream(&["check"], &[]);
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    assert!(answer.out.starts_with("ok\n") && answer.out.contains("[run]\nsource = \"log\"\n"), "{}", answer.out);
    let (_, effective) = answer.out.split_once("\n\n").expect("ok, then the options");
    assert_eq!(check(&Folder::new().file(effective)).code, Some(0), "what is printed is itself a configuration");
}

#[test]
fn secrets() {
    let err = refused(
        "[redis]\npassword = \"${HAULSTREAM_TEST_NONE}\"\n[clickhouse]\npassword = \"${HAULSTREAM_TEST_EMPTY}\"\n",
        &["redis.password: the environment variable HAULSTREAM_TEST_NONE is not set", "f.toml:2:12"],
    );
    assert!(err.contains("clickhouse.password: the environment variable HAULSTREAM_TEST_EMPTY is not set"), "{err}");
    let folder = Folder::new();
    let file = folder.file("[redis]\npassword = \"${HAULSTREAM_TEST_SET}\"\n[clickhouse]\npassword = \"opensesame\"\n");
    let set =
        |value| haulstream(&["check", "--config", file.to_str().expect("UTF-8")], &[("HAULSTREAM_TEST_SET", value)]);
    let answer = set("");
    assert_eq!(answer.code, Some(2));
    assert!(
        answer.err.contains("redis.password: the environment variable HAULSTREAM_TEST_SET is empty"),
        "{}",
        answer.err
    );
    let answer = set("hunter2");
    assert_eq!((answer.code, answer.err.as_str()), (Some(0), ""));
    assert!(!answer.out.contains("hunter2") && !answer.out.contains("opensesame"), "{}", answer.out);
    assert!(answer.out.contains("password = \"***\""), "{}", answer.out);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("our file");
    let answer = set("hunter2");
    assert_eq!(answer.code, Some(0));
    assert!(answer.err.contains("warning[secret_permissions]: clickhouse.password stands in a file"), "{}", answer.err);
    assert!(answer.err.contains("f.toml:4:12") && !answer.err.contains("redis"), "{}", answer.err);
    assert!(!answer.err.contains("opensesame"), "{}", answer.err);
    let answer = check(&folder.file("[redis]\npassword = \"\"\n"));
    assert_eq!(answer.code, Some(0));
    assert!(answer.err.contains("warning[secret_empty]: redis.password"), "{}", answer.err);
    let err = refused(
        "[redis]\nurl = \"redis://u:opensesame@h:1\"\npassword = \"opensesame\" x\n",
        &["redis.url", "f.toml:3:"],
    );
    assert!(!err.contains("sesame"), "{err}");
}

#[test]
fn services_that_are_away_or_keep_us_out() {
    let folder = Folder::new();
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let connect = |content: String| {
        let file = folder.file(content);
        haulstream(&["check", "--connect", "--config", file.to_str().expect("UTF-8")], &[])
    };
    let answer = connect(format!(
        "[run]\nsource = \"kafka\"\n[kafka]\nbrokers = \"127.0.0.1:{closed}\"\n[redis]\nenabled = true\nurl = \"redis://127.0.0.1:{closed}\"\n[clickhouse]\nenabled = true\nurl = \"http://127.0.0.1:{closed}\"\n"
    ));
    assert_eq!(answer.code, Some(1), "{}", answer.err);
    for service in ["kafka", "redis", "clickhouse"] {
        let line = answer.out.lines().find(|line| line.starts_with(&format!("{service} "))).expect(service);
        assert!(line.contains(": dependency_unavailable: "), "{line}");
    }
    let redis = services::redis().database();
    let clickhouse = services::clickhouse().url();
    let answer = connect(format!(
        "[run]\nsource = \"kafka\"\n[kafka]\nbrokers = \"{}\"\n[redis]\nenabled = true\nurl = \"{redis}\"\n[clickhouse]\nenabled = true\nurl = \"{clickhouse}\"\n",
        services::kafka().bootstrap()
    ));
    assert_eq!(answer.code, Some(0), "{}\n{}", answer.out, answer.err);
    assert_eq!(answer.out.lines().filter(|line| line.ends_with(": ok")).count(), 3, "{}", answer.out);
    let answer = connect(format!(
        "[redis]\nenabled = true\nurl = \"{redis}\"\npassword = \"opensesame\"\n[clickhouse]\nenabled = true\nurl = \"{clickhouse}\"\npassword = \"opensesame\"\n"
    ));
    assert_eq!(answer.code, Some(1), "{}", answer.err);
    assert_eq!(answer.out.lines().filter(|line| line.contains(": auth_failed: ")).count(), 2, "{}", answer.out);
    assert!(!answer.out.contains("opensesame") && !answer.err.contains("opensesame"));
}

#[test]
fn users() {
    let folder = Folder::new();
    let good = folder.file(
        "[users.ada]\npassword = \"${ADA}\"\ncompanies = \"all\"\nmay_change = true\n\
         [users.bob-2]\npassword = \"opensesame\"\ncompanies = [\"c-1\", \"all\"]\n[reads]\npostgres_listen = \"0.0.0.0:5433\"\n",
    );
    let shown = haulstream(&["check", "--config", good.to_str().expect("UTF-8")], &[("ADA", "hunter2")]);
    assert_eq!(
        (shown.code, shown.err.as_str()),
        (Some(0), ""),
        "others than this machine's may come: each has a password"
    );
    for part in [
        "[users.ada]\npassword = \"***\"  # from the file and the environment\ncompanies = \"all\"  # from the file\nmay_change = true",
        "[users.bob-2]\npassword = \"***\"  # from the file\ncompanies = [\"c-1\", \"all\"]  # from the file\nmay_change = false\n",
    ] {
        assert!(shown.out.contains(part), "{part}\nnot in\n{}", shown.out);
    }
    assert!(
        !shown.out.contains("hunter2") && !shown.out.contains("sesame") && !shown.out.contains("NAME"),
        "{}",
        shown.out
    );
    let user = |lines: &str| format!("[users.ada]\npassword = \"opensesame\"\ncompanies = [\"c\"]\n{lines}");
    for (content, parts) in [
        (
            user("pasword = \"opensesame2\"\n"),
            ["unknown key users.ada.pasword; did you mean users.ada.password", "f.toml:4:1"],
        ),
        (user("[users.ada]\npassword = \"opensesame\"\n"), ["not TOML: duplicate key", "f.toml:4:"]),
        (user("[users.eve]\ncompanies = \"all\"\n"), ["error[user_without_password]: the user eve", "f.toml:4:"]),
        (user("[users.eve]\n"), ["error[user_without_companies]: the user eve", "error[user_without_password]"]),
        (user("may_change = true\n"), ["error[user_changes_unseen]: the user ada", "f.toml:4:14"]),
        (user("may_change = \"yes\"\n"), ["users.ada.may_change: expected true or false, got a text", "f.toml:4:14"]),
        (
            user("[users.\"e v\"]\npassword = \"x\"\ncompanies = \"all\"\n"),
            ["error[user_misnamed]: a user cannot be called e v", "f.toml:4:"],
        ),
        (user("[users.\"e.v\"]\npassword = \"opensesame2\"\n"), ["unknown key users.e.v", "f.toml:4:"]),
        (user("[reads]\npassword = \"opensesame2\"\n"), ["error[password_and_users]", "f.toml:5:12"]),
        (
            "[users.ada]\npassword = \"\"\ncompanies = \"all\"\n".to_owned(),
            ["error[user_without_password]", "f.toml:2:12"],
        ),
        (
            "[users.ada]\npassword = \"opensesame\"\ncompanies = []\n".to_owned(),
            ["error[user_without_companies]", "f.toml:3:13"],
        ),
        (
            "[users.ada]\npassword = \"opensesame\"\ncompanies = \"some\"\n".to_owned(),
            ["expected a list of ids like", "f.toml:3:13"],
        ),
        (
            "[users.ada]\npassword = \"opensesame\"\ncompanies = [1, \"c\"]\n".to_owned(),
            ["expected a list of ids like", "f.toml:3:13"],
        ),
        (
            "[users.ada]\npassword = \"opensesame\"\ncompanies = [\"\"]\n".to_owned(),
            ["expected a list of ids like", "f.toml:3:13"],
        ),
        (
            "[users.ada]\npassword = [\"opensesame\"]\ncompanies = \"all\"\n".to_owned(),
            ["expected a secret", "f.toml:2:12"],
        ),
        ("[users]\nada = \"opensesame\"\n".to_owned(), ["users.ada: expected a section", "f.toml:2:1"]),
        (
            "[users.ada]\npassword = \"${NOT_SET}\"\ncompanies = \"all\"\n".to_owned(),
            ["NOT_SET is not set", "f.toml:2:12"],
        ),
    ] {
        let told = refused(&content, &parts);
        assert!(!told.contains("sesame"), "{content}\n{told}");
    }
}
