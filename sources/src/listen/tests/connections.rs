//! Connections that are slow, many, or in the midst of something when the gate stops.

use std::time::Instant;

use super::*;

/// Sends a byte from time to time until the other side has closed.
fn drip(mut stream: &TcpStream, byte: &[u8], started: Instant) {
    while stream.write_all(byte).is_ok() && started.elapsed().as_secs() < 10 {
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

#[test]
fn slow_heads_are_closed() {
    let rig = rig();
    let started = Instant::now();
    let mut stream = rig.server.connect();
    stream.write_all(b"POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n").unwrap();
    let slow = stream.try_clone().unwrap();
    // One byte after the other keeps nothing alive: the time is for the whole head.
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| drip(&slow, b"X", started));
        Answer::read(&mut stream)
    });
    assert!(matches!(answer.status, 0 | 408), "{answer:?}");
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(600) && waited < Duration::from_secs(5), "{waited:?}");
}

#[test]
fn slow_bodies_are_answered_408_and_closed() {
    let rig = rig();
    let started = Instant::now();
    let mut stream = rig.server.connect();
    let head = format!("POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 1000\r\n\r\n{{");
    stream.write_all(head.as_bytes()).unwrap();
    let slow = stream.try_clone().unwrap();
    let answer = std::thread::scope(|scope| {
        scope.spawn(|| drip(&slow, b" ", started));
        Answer::read(&mut stream)
    });
    assert_eq!(answer.error(), (408, "body_timeout".to_owned()));
    assert!(answer.head.contains("connection: close"));
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn bodies_that_end_early_are_not_taken() {
    let rig = rig();
    let mut stream = rig.server.connect();
    let head = format!("POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{LINES}Content-Length: 1000\r\n\r\n{GOOD}\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let answer = Answer::read(&mut stream);
    assert!(matches!(answer.status, 0 | 400), "{answer:?}");
    assert!(rig.values().is_empty());
}

/// Hundreds of connections that only wait do not keep others from being served.
#[test]
fn slow_clients_do_not_hold_up_others() {
    let rig =
        rig_with(gate_options(), ServeOptions { head_ms_max: 10_000, ..serve_options() }, system_clock(), 1 << 24);
    let slow: Vec<TcpStream> = (0..400)
        .map(|_| {
            let mut stream = rig.server.connect();
            stream.write_all(b"POST /v1/telemetry HTTP/1.1\r\nHo").unwrap();
            stream
        })
        .collect();
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(rig.server.post("/v1/telemetry", JSON, GOOD.as_bytes()).status, 202);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(rig.values().len(), 20);
    drop(slow);
}

#[test]
fn connections_over_the_limit_wait_for_their_turn() {
    let limits = ServeOptions { connections_max: 2, ..serve_options() };
    let rig = rig_with(gate_options(), limits, system_clock(), 1 << 24);
    let _idle = [rig.server.connect(), rig.server.connect()];
    // The idle ones are closed when their time is over; then ours is served.
    assert_eq!(rig.server.post("/v1/telemetry", JSON, GOOD.as_bytes()).status, 202);
}

#[test]
fn a_connection_serves_several_requests() {
    let rig = rig();
    let mut stream = rig.server.connect();
    let request =
        format!("POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: {}\r\n\r\n{GOOD}", GOOD.len());
    let last = request.replace("Host: x", "Host: x\r\nConnection: close");
    stream.write_all(format!("{request}{request}{last}").as_bytes()).unwrap();
    let answer = Answer::read(&mut stream);
    assert_eq!(answer.status, 202);
    assert_eq!(answer.body.matches("HTTP/1.1 202").count(), 2);
    assert_eq!(rig.values().len(), 3);
}

/// A stop waits for what is under way, and what was answered is on the log.
#[test]
fn stopping_answers_what_is_under_way() {
    let mut rig =
        rig_with(GateOptions { body_ms_max: 10_000, ..gate_options() }, serve_options(), system_clock(), 1 << 24);
    let mut stream = rig.server.connect();
    let (first, second) = GOOD.split_at(20);
    let head = format!(
        "POST /v1/telemetry HTTP/1.1\r\nHost: x\r\n{JSON}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        GOOD.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut told = [0; 25];
    stream.read_exact(&mut told).unwrap();
    assert!(told.starts_with(b"HTTP/1.1 100 Continue"), "the request is under way");
    stream.write_all(first.as_bytes()).unwrap();
    let stopping = std::thread::scope(|scope| {
        let server = &mut rig.server;
        let stopping = scope.spawn(|| {
            let started = Instant::now();
            server.stop();
            started.elapsed()
        });
        stream.write_all(second.as_bytes()).unwrap();
        let answer = Answer::read(&mut stream);
        assert_eq!(answer.status, 202, "{answer:?}");
        stopping.join().unwrap()
    });
    assert!(stopping < Duration::from_secs(5), "{stopping:?}");
    assert!(TcpStream::connect(rig.server.address).is_err(), "nobody listens any more");
    assert_eq!(rig.values().len(), 1);
}
