//! One real server under `supervise.sh`: started on a free port of 127.0.0.1, signalled, and gone with this process.
//!
//! Invariant: a server never outlives the test process that started it, however that process ends. The supervising shell
//! holds the other end of a pipe of ours; the pipe closes, the server is killed and its data removed. Statics are never
//! dropped in Rust, which is why this does not rest on `Drop`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::{poll_until, wait_until};

/// A server that has not answered within this time has failed.
const START_DEADLINE: Duration = Duration::from_secs(90);
/// A server that has not ended this long after TERM has failed to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How much of a failed server's log goes into the panic message.
const LOG_TAIL_LINES: usize = 25;
/// Logs, and data of processes that died with their supervisor, are swept away after this time.
const LEFTOVERS_KEPT: Duration = Duration::from_secs(24 * 3600);
/// Below the range from which the kernel takes outgoing connections' ports: a client that keeps trying to reach a stopped
/// server can otherwise get that server's port for its own end, connect to itself, and keep the server from starting again.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What kind of server, and how to tell that it answers.
pub struct Kind {
    /// Name of the script under `tests/scripts`, and of the log.
    pub name: &'static str,
    /// How many ports from the server's own on it takes for itself.
    pub ports: u16,
    /// Does the server on this port answer a real request?
    pub ready: fn(u16) -> bool,
}

/// A running, or for a while stopped, server of this process.
///
/// What ends or stops it takes `&mut self`, so only the owner of a private server can do it, never a test that shares one.
pub struct Server {
    kind: &'static Kind,
    port: u16,
    folder: PathBuf,
    supervisor: Mutex<Supervisor>,
    /// Locked as long as the ports are ours.
    _reserved: Vec<File>,
}

struct Supervisor {
    process: Child,
    /// `None` only while being dropped.
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Server {
    /// Installs what the server needs, starts it and waits until it answers; the error says what went wrong, with the end of the log.
    pub fn launch(kind: &'static Kind, environment: &[(&str, &str)]) -> Result<Server, String> {
        install(kind)?;
        let (port, reserved) = reserve_ports(kind.ports);
        let folder = new_folder(kind.name);
        let log = File::create(folder.with_extension("log")).expect("the folder was just made beside it");
        let mut process = Command::new("setsid")
            .arg("bash")
            .arg(script("supervise"))
            .arg(&folder)
            .arg("bash")
            .arg(script(kind.name))
            .arg("run")
            .arg(&folder)
            .arg(port.to_string())
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot run bash under setsid (package util-linux): {e}"))?;
        let orders = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("stdout is piped above"));
        let supervisor = Mutex::new(Supervisor { process, orders, answers });
        let server = Server { kind, port, folder, supervisor, _reserved: reserved };
        server.start_and_wait()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where the server keeps its data; removed with the server.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The server's own output; kept after its end.
    pub fn log(&self) -> PathBuf {
        self.folder.with_extension("log")
    }

    /// Whether the process is there (it may be paused).
    pub fn is_running(&self) -> bool {
        self.order("status") == "running"
    }

    /// Starts a stopped or killed server again, on the same port with the same data, and waits until it answers.
    pub fn start(&mut self) {
        if let Err(why) = self.start_and_wait() {
            panic!("{why}");
        }
    }

    /// Ends the server in its orderly way.
    pub fn stop(&mut self) {
        self.order("signal TERM");
        wait_until(STOP_DEADLINE, &format!("{} has stopped", self.kind.name), || !self.is_running());
    }

    /// Ends the server as a crash does, without a chance to write anything.
    pub fn kill9(&mut self) {
        assert_eq!(self.order("signal KILL"), "signalled", "{} had ended before it was killed", self.kind.name);
        self.order("wait");
    }

    /// Freezes the server: its connections stay open and nothing answers.
    pub fn pause(&mut self) {
        assert_eq!(self.order("signal STOP"), "signalled", "{} had ended before it was paused", self.kind.name);
        // The signal reaches each thread when that next runs.
        let tasks = format!("/proc/{}/task", self.pid());
        let is_stopped = |task: std::fs::DirEntry| {
            let state = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // A thread that has ended is none that answers.
            state.rsplit(") ").next().is_none_or(|rest| !rest.starts_with(['R', 'S', 'D']))
        };
        super::wait_until(std::time::Duration::from_secs(10), "every thread is stopped", || {
            std::fs::read_dir(&tasks).is_ok_and(|mut all| all.all(|task| task.is_ok_and(is_stopped)))
        });
    }

    /// Lets a paused server go on.
    pub fn resume(&mut self) {
        assert_eq!(self.order("signal CONT"), "signalled", "{} had ended while it was paused", self.kind.name);
    }

    /// The process id, as long as the server has not been started anew.
    pub fn pid(&self) -> u32 {
        self.order("pid").parse().expect("the supervisor answers with a number")
    }

    fn start_and_wait(&self) -> Result<(), String> {
        let answer = self.order("start");
        if !answer.starts_with("started ") {
            return Err(format!("{} was not started: {answer}", self.kind.name));
        }
        let mut ended = false;
        let answers = poll_until(START_DEADLINE, || {
            // Looked at first: a server that has ended cannot have been the one that answers.
            ended = !self.is_running();
            ended || (self.kind.ready)(self.port)
        });
        match (answers, ended) {
            (true, false) => Ok(()),
            (_, true) => Err(self.failure("ended before it answered")),
            (false, _) => Err(self.failure(&format!("did not answer within {} s", START_DEADLINE.as_secs()))),
        }
    }

    fn failure(&self, what: &str) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
        format!(
            "{} on port {} {what}; its log, kept in {}, ends with\n{tail}",
            self.kind.name,
            self.port,
            self.log().display()
        )
    }

    fn order(&self, order: &str) -> String {
        // A test that panicked while it held the lock has not broken the line-by-line exchange.
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        supervisor.order(order).unwrap_or_else(|e| panic!("{}", self.failure(&format!("lost its supervisor ({e})"))))
    }
}

impl Supervisor {
    fn order(&mut self, order: &str) -> std::io::Result<String> {
        let orders = self.orders.as_mut().expect("only taken in drop");
        writeln!(orders, "{order}")?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.orders.take());
        // The supervisor ends by itself once the pipe is closed; waiting for it keeps the next test's machine free.
        let _ = self.process.wait();
    }
}

/// Where servers of this build keep data and logs.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("services");
        fs::create_dir_all(&root).unwrap_or_else(|e| panic!("cannot make {}: {e}", root.display()));
        sweep(&root);
        root
    })
}

/// Removes what runs of days before left behind.
fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let old = entry
            .metadata()
            .and_then(|m| m.modified())
            .ok()
            .and_then(|t| t.elapsed().ok())
            .is_some_and(|age| age > LEFTOVERS_KEPT);
        if old {
            // Another process may be sweeping the same things: what is gone already is no failure.
            let _ =
                if entry.path().is_dir() { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        }
    }
}

fn new_folder(name: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = root().join(format!("{name}-{}-{number}", std::process::id()));
    // A former process can have had our id and died together with its supervisor.
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("cannot make {}: {e}", folder.display()));
    fs::write(folder.join(".service"), "made by tests/it/services, removed by supervise.sh\n")
        .unwrap_or_else(|e| panic!("cannot write into {}: {e}", folder.display()));
    folder
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(format!("{name}.sh"))
}

fn install(kind: &Kind) -> Result<(), String> {
    let output = Command::new("bash")
        .arg(script(kind.name))
        .arg("install")
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot run bash: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{} is not installed and could not be:\n{}", kind.name, String::from_utf8_lossy(&output.stderr)))
}

/// Takes `count` neighbouring ports that nobody listens on, and keeps other test processes of this build from taking them.
fn reserve_ports(count: u16) -> (u16, Vec<File>) {
    let spread = u16::try_from(std::process::id() % 1_000).expect("below 1000") * 10;
    for step in 0..PORTS.end - PORTS.start - count {
        let first = PORTS.start + (spread + step) % (PORTS.end - PORTS.start - count);
        let reserved: Vec<File> = (first..first + count).map_while(reserve_port).collect();
        if reserved.len() == usize::from(count) {
            return (first, reserved);
        }
    }
    panic!("no {count} free ports next to each other between {} and {} on 127.0.0.1", PORTS.start, PORTS.end);
}

fn reserve_port(port: u16) -> Option<File> {
    let lock = root().join(format!("port-{port}"));
    let file = File::create(&lock).unwrap_or_else(|e| panic!("cannot write {}: {e}", lock.display()));
    file.try_lock().ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok()?;
    Some(file)
}
