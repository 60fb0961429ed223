//! One HTTP request over a plain socket, for asking the servers under test without the clients under test.
//!
//! Invariant: independent of the project's own HTTP and ClickHouse clients, so a fault of theirs can't hide itself.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// No answer of a server under test takes longer.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Sends `method path` with `body` to 127.0.0.1:`port`; the status code and the body of the answer.
pub fn request(port: u16, method: &str, path: &str, body: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = BufReader::new(stream);
    let status_line = line(&mut answer)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| io::Error::other(format!("not an HTTP answer: {status_line:.64}")))?;
    let (mut length, mut chunked) = (u64::MAX, false);
    loop {
        let header = line(&mut answer)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        match header.split_once(':').map(|(name, value)| (name, value.trim())) {
            Some(("content-length", value)) => length = number(value, 10)?,
            Some(("transfer-encoding", value)) => chunked = value == "chunked",
            _ => {}
        }
    }
    let mut bytes = Vec::new();
    if chunked {
        loop {
            let size = number(&line(&mut answer)?, 16)?;
            answer.by_ref().take(size).read_to_end(&mut bytes)?;
            line(&mut answer)?;
            if size == 0 {
                break;
            }
        }
    } else {
        answer.take(length).read_to_end(&mut bytes)?;
    }
    let text = String::from_utf8(bytes).map_err(io::Error::other)?;
    Ok((status, text))
}

fn number(text: &str, radix: u32) -> io::Result<u64> {
    u64::from_str_radix(text, radix).map_err(|_| io::Error::other(format!("not a size: {text:.64}")))
}

fn line(answer: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    answer.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
