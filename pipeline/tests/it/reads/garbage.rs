//! The Postgres wire byte by byte: what `psql` does not say, and what nobody should.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

fn open(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).expect("the port is open");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn startup() -> Vec<u8> {
    startup_of("somebody")
}

fn startup_of(user: &str) -> Vec<u8> {
    let names = format!("user\0{user}\0database\0haulstream\0\0");
    let body = [&196_608_u32.to_be_bytes()[..], names.as_bytes()].concat();
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}

fn message(letter: u8, body: &[u8]) -> Vec<u8> {
    [&[letter][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// The next message.
fn next(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).ok()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).ok()?;
    Some((head[0], body))
}

/// Messages until the server is ready again.
fn until_ready(stream: &mut TcpStream) -> Vec<(u8, Vec<u8>)> {
    let mut all = Vec::new();
    while let Some((letter, body)) = next(stream) {
        all.push((letter, body));
        if letter == b'Z' {
            return all;
        }
    }
    panic!("the connection ended after {all:?}");
}

/// First columns of the rows among messages.
fn firsts(messages: &[(u8, Vec<u8>)]) -> Vec<String> {
    let rows = messages.iter().filter(|(letter, _)| *letter == b'D');
    let first = |body: &[u8]| {
        let length = u32::from_be_bytes([body[2], body[3], body[4], body[5]]) as usize;
        String::from_utf8_lossy(&body[6..6 + length]).into_owned()
    };
    rows.map(|(_, body)| first(body)).collect()
}

fn error(messages: &[(u8, Vec<u8>)]) -> String {
    let error = messages.iter().find(|(letter, _)| *letter == b'E').unwrap_or_else(|| panic!("no error: {messages:?}"));
    String::from_utf8_lossy(&error.1).replace('\0', " ")
}

/// A connection that has said who it is.
pub fn connected(addr: SocketAddr) -> TcpStream {
    let mut stream = open(addr);
    stream.write_all(&startup()).expect("taken");
    until_ready(&mut stream);
    stream
}

/// A connection of a user with a password, by another's side of the exchange.
pub fn logged_in(addr: SocketAddr, user: &str, password: &str) -> TcpStream {
    login(addr, user, password).0
}

fn login(addr: SocketAddr, user: &str, password: &str) -> (TcpStream, Vec<(u8, Vec<u8>)>) {
    let mut stream = open(addr);
    stream.write_all(&startup_of(user)).expect("taken");
    let mut scram = ScramSha256::new(password.as_bytes(), ChannelBinding::unsupported());
    let first = scram.message().to_vec();
    let (_, asked) = next(&mut stream).expect("a method");
    assert_eq!(asked, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    stream.write_all(&first_of_scram(&first)).expect("taken");
    let (_, challenge) = next(&mut stream).expect("a challenge");
    scram.update(&challenge[4..]).expect("a good challenge");
    stream.write_all(&message(b'p', scram.message())).expect("taken");
    let (_, last) = next(&mut stream).expect("an end");
    scram.finish(&last[4..]).expect("the server knows the password too");
    let told = until_ready(&mut stream);
    (stream, told)
}

fn first_of_scram(first: &[u8]) -> Vec<u8> {
    message(b'p', &[b"SCRAM-SHA-256\0", &(first.len() as u32).to_be_bytes()[..], first].concat())
}

/// What a user is told who asks before the exchange, in its place or after one that failed, or who leaves it out.
pub fn without_login(addr: SocketAddr, user: &str) -> Vec<String> {
    let question = message(b'Q', b"SELECT * FROM fleet\0");
    let parse = [message(b'P', b"\0SELECT * FROM fleet\0\0\0"), message(b'S', b"")].concat();
    let last = message(b'p', b"c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    let first = first_of_scram(b"n,,n=,r=abc");
    let all = [
        question.clone(),
        parse,
        message(b'p', b"sesame\0"),
        first_of_scram(b"p=tls-server-end-point,,n=,r=abc"),
        [message(b'p', b"PLAIN\0\0\0\0\x03abc")].concat(),
        last.clone(),
        [first.clone(), question.clone()].concat(),
        [first.clone(), last.clone(), question.clone()].concat(),
        [first.clone(), first, last, question].concat(),
        [startup_of("two"), message(b'Q', b"SELECT 1\0")].concat(),
    ];
    let told = all.into_iter().map(|bytes| {
        let mut stream = open(addr);
        stream.write_all(&startup_of(user)).expect("taken");
        let (_, asked) = next(&mut stream).expect("a method");
        assert_eq!(asked, b"\0\0\0\x0aSCRAM-SHA-256\0\0");
        // The server may have closed it already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        rest(&mut stream).replace('\0', " ")
    });
    told.collect()
}

/// The first column of a question's rows.
pub fn simple(stream: &mut TcpStream, sql: &str) -> Vec<String> {
    stream.write_all(&message(b'Q', &[sql.as_bytes(), b"\0"].concat())).expect("taken");
    firsts(&until_ready(stream))
}

/// All that still comes until the server closes the connection.
pub fn rest(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

fn bind(values: &[&str]) -> Vec<u8> {
    let mut body = b"\0\0\0\0".to_vec();
    body.extend((values.len() as u16).to_be_bytes());
    for value in values {
        body.extend((value.len() as u32).to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 0]);
    body
}

fn extended(addr: SocketAddr, sql: &str, values: &[&str]) -> Vec<(u8, Vec<u8>)> {
    extended_on(connected(addr), sql, values)
}

fn extended_on(mut stream: TcpStream, sql: &str, values: &[&str]) -> Vec<(u8, Vec<u8>)> {
    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    let all = [
        message(b'P', &parse),
        message(b'D', b"S\0"),
        message(b'B', &bind(values)),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ];
    stream.write_all(&all.concat()).expect("taken");
    until_ready(&mut stream)
}

/// The first column of a prepared question's rows, with these values.
pub fn prepared(addr: SocketAddr, sql: &str, values: &[&str]) -> Vec<String> {
    prepared_by(connected(addr), sql, values)
}

/// The same on this connection.
pub fn prepared_by(stream: TcpStream, sql: &str, values: &[&str]) -> Vec<String> {
    let messages = extended_on(stream, sql, values);
    assert!(messages.iter().all(|(letter, _)| *letter != b'E'), "{}", error(&messages));
    firsts(&messages)
}

/// The error that a prepared question is refused with.
pub fn refused(addr: SocketAddr, sql: &str, values: &[&str]) -> String {
    error(&extended(addr, sql, values))
}

/// The same on this connection.
pub fn refused_to(stream: TcpStream, sql: &str, values: &[&str]) -> String {
    error(&extended_on(stream, sql, values))
}

/// How many rows each of the portions has in which a question's rows are fetched.
pub fn portions(stream: &mut TcpStream, sql: &str, most: u32) -> Vec<usize> {
    let parse = [b"\0", sql.as_bytes(), b"\0\0\0"].concat();
    let execute = message(b'E', &[&[0][..], &most.to_be_bytes()].concat());
    let all = [message(b'P', &parse), message(b'B', &bind(&[])), execute.repeat(3), message(b'S', b"")];
    stream.write_all(&all.concat()).expect("taken");
    let messages = until_ready(stream);
    let ends = |letter: u8| matches!(letter, b's' | b'C');
    let portions = messages.split(|(letter, _)| ends(*letter));
    let counts = portions.map(|portion| portion.iter().filter(|(letter, _)| *letter == b'D').count());
    counts.take(messages.iter().filter(|(letter, _)| ends(*letter)).count()).collect()
}

/// Prepares so many statements under names; the error of the first that is refused.
pub fn prepare_many(stream: &mut TcpStream, count: usize) -> Option<String> {
    (0..count).find_map(|n| {
        let parse = format!("s{n}\0SELECT 1\0\0\0");
        stream.write_all(&[message(b'P', parse.as_bytes()), message(b'S', b"")].concat()).expect("taken");
        let messages = until_ready(stream);
        messages.iter().any(|(letter, _)| *letter == b'E').then(|| error(&messages))
    })
}

/// The error of a question that is cancelled from another connection.
pub fn cancelled(addr: SocketAddr, sql: &str) -> String {
    let mut stream = open(addr);
    stream.write_all(&startup()).expect("taken");
    let told = until_ready(&mut stream);
    cancelled_on(addr, stream, &told, sql)
}

/// The same of a user.
pub fn cancelled_by(addr: SocketAddr, user: &str, password: &str, sql: &str) -> String {
    let (stream, told) = login(addr, user, password);
    cancelled_on(addr, stream, &told, sql)
}

fn cancelled_on(addr: SocketAddr, mut stream: TcpStream, told: &[(u8, Vec<u8>)], sql: &str) -> String {
    let (_, key) = told.iter().find(|(letter, _)| *letter == b'K').expect("the connection's key");
    stream.write_all(&message(b'Q', &[sql.as_bytes(), b"\0"].concat())).expect("taken");
    let asks = [&16_u32.to_be_bytes()[..], &80_877_102_u32.to_be_bytes(), key].concat();
    // It may not have begun when the first one comes.
    stream.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    for _ in 0..100 {
        let mut other = open(addr);
        other.write_all(&asks).expect("taken");
        rest(&mut other);
        let mut first = [0; 1];
        if stream.peek(&mut first).is_ok() {
            break;
        }
    }
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    error(&until_ready(&mut stream))
}

/// Sends what no client should, each on a connection of its own, and waits for its end.
pub fn throw(addr: SocketAddr) {
    let begun = |more: &[u8]| [startup(), more.to_vec()].concat();
    let parse = |sql: &str| message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    let sync = message(b'S', b"");
    let mut all: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3],
        vec![0; 64],
        vec![0xff; 64],
        // Lengths of nothing, of less than nothing, and of everything.
        begun(b"Q\0\0\0\0"),
        begun(b"Q\0\0\0\x03"),
        begun(b"Q\x7f\xff\xff\xff"),
        begun(b"Q\xff\xff\xff\xff"),
        begun(b"\0\0\0\0\x04"),
        // A text without an end, and one that is no UTF-8.
        begun(&message(b'Q', b"SELECT 1")),
        begun(&message(b'Q', b"SELECT '\xff\xfe'\0")),
        // More rows than there is memory, or fewer than none; fewer formats than columns; counts that lie.
        begun(
            &[
                parse("SELECT 1, 2"),
                message(b'B', b"\0\0\0\0\0\0\0\0"),
                message(b'E', b"\0\x7f\xff\xff\xff"),
                sync.clone(),
            ]
            .concat(),
        ),
        begun(
            &[
                parse("SELECT 1, 2"),
                message(b'B', b"\0\0\0\0\0\0\0\0"),
                message(b'E', b"\0\xff\xff\xff\xff"),
                sync.clone(),
            ]
            .concat(),
        ),
        begun(
            &[
                parse("SELECT 1, 2, 3"),
                message(b'B', b"\0\0\0\0\0\0\0\x02\0\x01\0\x01"),
                message(b'D', b"P\0"),
                sync.clone(),
            ]
            .concat(),
        ),
        begun(&[parse("SELECT $1"), message(b'B', b"\0\0\xff\xff\0\0"), sync.clone()].concat()),
        begun(
            &[
                parse("SELECT $1"),
                message(b'B', b"\0\0\0\x02\0\x01\0\x01\0\x01\0\0\0\x01x\0\0"),
                message(b'E', b"\0\0\0\0\0"),
                sync.clone(),
            ]
            .concat(),
        ),
        begun(&[message(b'P', b"\0SELECT 1\0\xff\xff"), sync.clone()].concat()),
        begun(&[message(b'D', b"X\0"), message(b'C', b""), message(b'E', b""), sync].concat()),
        begun(&message(b'p', b"secret\0")),
        begun(&message(b'd', b"copied")),
        begun(&message(b'F', b"\0\0\0\0")),
    ];
    // Any bytes at all, the same in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    for n in 0..60 {
        let bytes: Vec<u8> = (0..200).map(|_| random()).collect();
        // Some of it in the form of a message, so that it is looked into.
        let letters = b"QPBDECSHXpdcfF";
        let letter = letters[usize::from(random()) % letters.len()];
        let body = &bytes[..usize::from(random()) % 40];
        all.push(if n % 3 == 0 { bytes } else { begun(&message(letter, body)) });
    }
    for bytes in all {
        let mut stream = open(addr);
        // The server may have closed it already.
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        rest(&mut stream);
    }
}
