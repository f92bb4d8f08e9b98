//! The JSON gateway over real sockets.

use std::io::{Read, Write};

use super::house::{House, client};

const JSON: &str = "content-type: application/json";

#[test]
fn a_json_call_is_answered_in_json() {
    let house = House::open();
    // The service says back what it hears: bytes of a request read as a response of as many fields.
    let (status, head, body) = house.http1("POST", "/v3/lease/leases", r#"{"anything":["else"]}"#);
    assert_eq!((status, body.as_str()), (200, "{}"));
    assert!(head.contains(JSON) && head.contains("grpc-metadata-content-type: application/grpc"));
    assert!(head.contains("access-control-allow-origin: *"), "{head}");
    let (status, _, body) = house.http1("POST", "/v3beta/lease/leases", "");
    assert_eq!((status, body.as_str()), (200, "{}"), "no body is an empty message");
    let heard = house.heard.lock().expect("whole").clone();
    assert!(heard[0].starts_with("LeaseLeases") && heard[0].contains("json: true"), "{heard:?}");
}

#[test]
fn errors_have_etcds_statuses_and_bodies() {
    let house = House::open();
    for (verb, path, body, status, answer) in [
        ("POST", "/v3/nope", "", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("GET", "/v3/kv/put", "", 501, r#"{"code":12,"message":"Method Not Allowed"}"#),
        ("GET", "/v3/nope", "", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("POST", "/v3/kv/put/", "", 404, r#"{"code":5,"message":"Not Found"}"#),
        ("POST", "/v3/kv/put", "{", 400, r#"{"code":3,"message":"unexpected EOF"}"#),
        (
            "POST",
            "/v3/kv/deleterange",
            "{}",
            404,
            "{\"code\":5,\"message\":\"no such k\u{e9}y: 100%\"}",
        ),
        (
            "POST",
            "/v3/election/observe",
            "{}",
            503,
            "{\"error\":{\"code\":14,\"message\":\"not now\"}}\n",
        ),
        (
            "POST",
            "/v3/lease/keepalive",
            "[",
            400,
            "{\"error\":{\"code\":3,\"message\":\"Failed to decode request: unexpected EOF\"}}\n",
        ),
    ] {
        let (got_status, head, got) = house.http1(verb, path, body);
        assert_eq!((got_status, got.as_str()), (status, answer), "{verb} {path} {body}");
        assert!(head.contains(JSON), "{head}");
    }
}

#[test]
fn a_message_beyond_the_limit_is_refused() {
    let house = House::open();
    let value = "QUFB".repeat((2 << 20) / 3 + 1);
    let (status, _, body) =
        house.http1("POST", "/v3/kv/put", &format!("{{\"value\":\"{value}\"}}"));
    assert_eq!(status, 429);
    assert!(body.contains("grpc: received message larger than max (20971"), "{body}");
}

#[test]
fn a_stream_of_json_goes_both_ways_line_by_line() {
    let house = House::open();
    let mut stream = house.connect();
    stream
        .write_all(
            b"POST /v3/lease/keepalive HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
              Transfer-Encoding: chunked\r\n\r\n",
        )
        .expect("sent");
    let mut answer = String::new();
    // The echo reads the request's ID (field 1) as a header, which a varint is not: so send none.
    for piece in [&b"{}"[..], b" {\"x\":", b"1}\n{}"] {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).expect("sent");
        stream.write_all(piece).expect("sent");
        stream.write_all(b"\r\n").expect("sent");
        if answer.is_empty() {
            // The first answer comes while the request is still open.
            let mut buffer = [0; 4096];
            while !answer.contains("{\"result\":{}}\n") {
                let count = stream.read(&mut buffer).expect("an answer");
                assert!(count > 0, "closed too early: {answer}");
                answer.push_str(std::str::from_utf8(&buffer[..count]).expect("text"));
            }
        }
    }
    stream.write_all(b"0\r\n\r\n").expect("sent");
    stream.read_to_string(&mut answer).expect("the rest");
    assert_eq!(answer.matches("{\"result\":{}}\n").count(), 3, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("0\r\n\r\n"));
}

#[test]
fn json_is_served_over_http2_too() {
    let house = House::open();
    let answer = client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let request = http::Request::post("http://x/v3/lease/leases").body(()).expect("a request");
        let (response, mut sender) = client.send_request(request, false).expect("sent");
        sender.send_data("{}".into(), true).expect("open");
        super::house::answer(response).await.expect("an answer")
    });
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{}"[..]));
}
