//! The real `psql`, as somebody at a terminal uses it.
//!
//! Invariant: nothing of the machine's own settings for Postgres' clients gets in.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// What `psql` said.
#[derive(Debug)]
pub struct Said {
    /// Whether it was content.
    pub good: bool,
    /// Its answers.
    pub out: String,
    /// Its complaints.
    pub err: String,
}

/// Runs `psql` with these arguments, such as `-c`; with a password if one is given.
pub fn psql(addr: SocketAddr, password: Option<&str>, arguments: &[&str]) -> Said {
    said(command(addr, password).args(arguments))
}

/// Runs this command of [`command`].
pub fn said(command: &mut Command) -> Said {
    let output = command.output().expect("psql was just installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Said { good: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) }
}

/// The command with which `psql` is run.
pub fn command(addr: SocketAddr, password: Option<&str>) -> Command {
    install();
    let mut command = Command::new("psql");
    command.args(["--no-psqlrc", "--no-password"]).stdin(Stdio::null());
    for name in ["PGHOSTADDR", "PGSERVICE", "PGOPTIONS", "PGSSLMODE", "PGPASSFILE", "PGCLIENTENCODING", "PGAPPNAME"] {
        command.env_remove(name);
    }
    command.env("PGHOST", addr.ip().to_string()).env("PGPORT", addr.port().to_string());
    command.env("PGUSER", "somebody").env("PGDATABASE", "haulstream").env("PGCONNECT_TIMEOUT", "20");
    command.env("PAGER", "cat").env("LC_ALL", "C.UTF-8");
    match password {
        Some(password) => command.env("PGPASSWORD", password),
        None => command.env_remove("PGPASSWORD"),
    };
    command
}

fn install() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/psql.sh");
    let installed = Command::new("bash").arg(script).arg("install").stdin(Stdio::null()).output().expect("bash");
    assert!(installed.status.success(), "psql: {}", String::from_utf8_lossy(&installed.stderr));
}
