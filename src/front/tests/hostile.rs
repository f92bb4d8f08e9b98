//! Garbage, half requests, floods: an error for the sender, nothing for anybody else.

use std::io::{Read, Write};
use std::time::Duration;

use http::Request;

use super::house::{House, call, client, request, wait};
use super::{ECHOED, PUT};
use crate::front::Limits;

/// Checks that the house still serves a decent client.
fn still_serves(house: &House) {
    let answer = client(house, async |client| call(&client, request(PUT), &[ECHOED]).await);
    assert_eq!(answer.expect("an answer").body, ECHOED);
}

#[test]
fn wrong_paths_methods_and_types_get_grpcs_answers() {
    let house = House::open();
    client(&house, async |client| {
        let end = async |request| {
            let answer = call(&client, request, &[ECHOED]).await.expect("an answer");
            let (code, text) = answer.end();
            (answer.status, code, text)
        };
        let expected = |status: u16, code: &str, text: &str| (status, code.into(), text.into());
        assert_eq!(
            end(request("/etcdserverpb.KV/Nope")).await,
            expected(200, "12", "unknown method Nope for service etcdserverpb.KV")
        );
        assert_eq!(end(request("/x.Y/Z")).await, expected(200, "12", "unknown service x.Y"));
        assert_eq!(
            end(request("/foo")).await,
            expected(200, "12", "malformed method name: \"/foo\"")
        );
        let text = Request::post(format!("http://x{PUT}")).header("content-type", "text/plain");
        assert_eq!(
            end(text).await,
            expected(415, "3", "invalid gRPC request content-type \"text/plain\"")
        );
        let get = Request::get(format!("http://x{PUT}")).header("content-type", "application/grpc");
        assert_eq!(
            end(get).await,
            expected(
                405,
                "13",
                "Received a HEADERS frame with :method \"GET\" which should be POST"
            )
        );
        assert_eq!(
            end(request(PUT).header("grpc-encoding", "gzip")).await,
            expected(200, "12", "grpc: Decompressor is not installed for grpc-encoding \"gzip\"")
        );
        let empty = call(&client, request(PUT), &[]).await.expect("an answer");
        assert_eq!(empty.end(), ("2".into(), "EOF".into()));
        let cut = call(&client, request(PUT), &[b"\0\0\0\0\x05ab"]).await.expect("an answer");
        assert_eq!(cut.end(), ("2".into(), "unexpected EOF".into()));
        let large = call(&client, request(PUT), &[b"\0\x7f\0\0\0"]).await.expect("an answer");
        let text = "grpc: received message larger than max (2130706432 vs. 2097152)";
        assert_eq!(large.end(), ("8".into(), text.into()));
    });
    still_serves(&house);
}

#[test]
fn garbage_on_the_port_ends_its_connection_only() {
    let house = House::open();
    for garbage in [
        &b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03 a TLS client"[..],
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then nonsense that is no frame",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /health HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let answer = house.raw(garbage);
        assert!(!answer.contains(" 200 "), "{answer}");
    }
    let long = format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let mut stream = house.connect();
    // The front may close before it has read all of it.
    let _ = stream.write_all(long.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!String::from_utf8_lossy(&answer).contains(" 200 "));
    still_serves(&house);
}

#[test]
fn half_requests_are_given_up_after_their_time() {
    let limits = Limits { head_timeout: Duration::from_millis(100), ..Limits::default() };
    let house = House::with(limits);
    for half in [&b""[..], b"PRI * HTTP", b"GET /health HTTP/1.1\r\nHost:"] {
        let mut stream = house.connect();
        stream.write_all(half).expect("sent");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("closed by the front");
    }
    still_serves(&house);
}

#[test]
fn a_peer_that_never_answers_pings_is_cut_off() {
    let limits = Limits {
        keepalive_interval: Duration::from_millis(50),
        keepalive_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let house = House::with(limits);
    let mut stream = house.connect();
    // A client that has opened HTTP/2 well and is never heard of again.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").expect("sent");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    wait(|| house.open_connections() == 0);
    still_serves(&house);
}

#[test]
fn floods_of_frames_end_the_connection_or_cost_nothing() {
    const OPEN: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let house = House::open();
    // Rapid reset: a request and its reset, ten thousand times. `:method POST`, `:scheme http`,
    // `:path /x`, `:authority x` with an indexed name each.
    let headers = b"\0\0\x09\x01\x04\0\0\0\0\x83\x86\x04\x02/x\x01\x01x";
    let reset = b"\0\0\x04\x03\0\0\0\0\0\0\0\0\x08";
    let mut flood = OPEN.to_vec();
    for stream in (1..20_000_u32).step_by(2) {
        for frame in [&headers[..], &reset[..]] {
            let mut frame = frame.to_vec();
            frame[5..9].copy_from_slice(&stream.to_be_bytes());
            flood.extend_from_slice(&frame);
        }
    }
    let mut stream = house.connect();
    let _ = stream.write_all(&flood);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    // GOAWAY, "enhance your calm".
    let calm = b"\0\0\0\x0b";
    assert!(answer.windows(4).any(|bytes| bytes == calm), "the front says why it closes");
    still_serves(&house);

    // A header block that never ends: CONTINUATION after CONTINUATION.
    let mut flood = [OPEN, b"\0\0\x01\x01\0\0\0\0\x01\x83"].concat();
    for _ in 0..2_000 {
        flood.extend_from_slice(b"\0\0\x06\x09\0\0\0\0\x01\0\x01a\x02bc");
    }
    let mut stream = house.connect();
    let _ = stream.write_all(&flood);
    let _ = stream.read_to_end(&mut Vec::new());
    still_serves(&house);
}

#[test]
fn no_more_connections_than_allowed() {
    let house = House::with(Limits { connections_max: 3, ..Limits::default() });
    let held: Vec<_> = (0..3).map(|_| house.connect()).collect();
    wait(|| house.open_connections() == 3);
    assert_eq!(house.raw(b""), "", "one more is closed at once");
    drop(held);
    wait(|| house.open_connections() == 0);
    still_serves(&house);
}

#[test]
fn streams_beyond_the_limit_are_refused() {
    let house = House::with(Limits { streams_max: 4, ..Limits::default() });
    client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let mut open = Vec::new();
        for _ in 0..4 {
            let request = request("/etcdserverpb.Watch/Watch").body(()).expect("a request");
            let (response, sender) = client.send_request(request, false).expect("sent");
            open.push((response.await.expect("headers"), sender));
            client = client.ready().await.expect("open");
        }
        assert_eq!(client.current_max_send_streams(), 4);
    });
    still_serves(&house);
}
