//! A running `haulstream run` of a test: started on a free port, asked to stop, and gone with the test.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// A running `haulstream run`, ended with the test.
pub struct Program {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// `http://address` of the edge.
    pub url: String,
    /// When it was started.
    pub started: Instant,
}

#[allow(dead_code, reason = "the benches that share this file use the rest")]
impl Program {
    /// Starts the program and waits until it tells its address.
    pub fn start(arguments: &[&str]) -> Program {
        let started = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_haulstream"))
            .arg("run")
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = BufReader::new(child.stderr.take().expect("stderr is a pipe"));
        let (tell, told) = mpsc::sync_channel(1_000);
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = log.clone();
        std::thread::Builder::new()
            .name("program-log".into())
            .spawn(move || {
                for line in stderr.lines().map_while(Result::ok) {
                    eprintln!("program: {line}");
                    lines.lock().expect("no panic while held").push(line.clone());
                    if let Some(url) = line.strip_prefix("The map: ") {
                        let _ = tell.send(url.trim_end_matches('/').to_owned());
                    }
                }
            })
            .expect("a thread for the log");
        let url = told.recv_timeout(Duration::from_secs(30)).expect("the program tells its address");
        Program { child, log, url, started }
    }

    /// What it has said so far.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic while held").clone()
    }

    /// Number of the process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it ever had, in kilobytes, where the system tells.
    pub fn memory_kb_max(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        line.split_whitespace().next()?.parse().ok()
    }

    /// Asks it to stop and gives its exit code.
    pub fn stop(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let told = Command::new("kill").args(["-TERM", &pid]).status().expect("kill is there");
        assert!(told.success());
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
