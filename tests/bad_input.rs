//! What a server must survive from the network: an error for the sender, bounded memory, nothing
//! for the others. Each test has a bystander, a connection opened before, that must not notice.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;
use prost::Message;
use serde_json::json;

use common::grpc::{self, Reply, Request, frame};
use common::http::{b64, number};
use common::{Http, Server};

const RANGE: &str = "/etcdserverpb.KV/Range";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MIB: u64 = 1 << 20;

/// A server with somebody who uses it all along.
struct Scene {
    server: Server,
    bystander: Http,
    memory_bytes: u64,
}

impl Scene {
    fn new() -> Scene {
        let server = Server::start();
        let mut bystander = server.http();
        for i in 0..200 {
            bystander
                .put(&format!("bystander/{}", i % 10), "x")
                .expect("answered")
                .expect("accepted");
        }
        let memory_bytes = server.memory_bytes();
        Scene { server, bystander, memory_bytes }
    }

    fn port(&self) -> u16 {
        self.server.place.client
    }

    /// The bystander, and anybody new, is served as before.
    fn assert_unharmed(&mut self, what: &str) {
        let put = self.bystander.put("bystander/k", what);
        let put = put.unwrap_or_else(|e| panic!("{what} cost a bystander its connection: {e}"));
        put.unwrap_or_else(|refusal| panic!("{what} cost a bystander its put: {refusal}"));
        assert_eq!(self.bystander.get("bystander/k").expect("answered").as_deref(), Some(what));
        self.server.assert_serves();
    }

    /// The server's memory grew by no more than this since the beginning.
    fn assert_grew_less_than(&self, bytes: u64, what: &str) {
        let now = self.server.memory_bytes();
        let grown = now.saturating_sub(self.memory_bytes);
        println!("{what}: grew by {} KiB to {} MiB", grown >> 10, now / MIB);
        // A garbage collector's memory says little about bounds.
        assert!(grown < bytes || common::stand_in(), "{what}: memory grew by {} MiB", grown / MIB);
    }
}

/// Reads until the other side closes; what it sent, or `None` when it never closed.
fn drain(mut socket: TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match socket.read(&mut piece) {
            Ok(0) => return Some(bytes),
            Ok(n) => bytes.extend_from_slice(&piece[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return Some(bytes),
            Err(_) => return None,
        }
    }
}

#[test]
fn garbage_on_the_port() {
    let mut scene = Scene::new();
    let noise: Vec<u8> =
        (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for (name, bytes) in [
        ("noise", noise),
        ("zeros", vec![0; 5_000]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec()),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec()),
        ("an unknown version", b"GET / HTTP/7.3\r\n\r\n".to_vec()),
        ("spaces in the target", b"GET /a b c HTTP/1.1\r\n\r\n".to_vec()),
        ("a bare line feed", b"\n\n\n\n".to_vec()),
        ("a broken header", b"GET /health HTTP/1.1\r\nhost localhost\r\n\r\n".to_vec()),
        ("two lengths", b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n{}  ".to_vec()),
        ("a negative length", b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: -3\r\n\r\n{}".to_vec()),
        ("a bad chunk", b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}".to_vec()),
        ("a preface with a fault", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX".to_vec()),
        ("frames on stream 0", [&settings[..], &[0, 0, 1, 0, 0, 0, 0, 0, 0, 7]].concat()),
        ("a frame of 16 MiB", [&settings[..], &[255, 255, 255, 0, 0, 0, 0, 0, 1]].concat()),
        ("headers that do not decode", [&settings[..], &[0, 0, 4, 1, 5, 0, 0, 0, 1, 255, 255, 255, 255]].concat()),
        ("a window of nothing", [&settings[..], &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat()),
        ("settings on a stream", [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 1]].concat()),
        ("data before headers", [&settings[..], &[0, 0, 1, 0, 1, 0, 0, 0, 1, 7]].concat()),
    ] {
        let mut socket = scene.server.socket();
        // The server may close while we still send: that is an answer too.
        let _ = socket.write_all(&bytes);
        let _ = socket.shutdown(Shutdown::Write);
        assert!(drain(socket).is_some(), "{name}: the connection stays open");
        scene.assert_unharmed(name);
    }
    scene.assert_grew_less_than(32 * MIB, "garbage");
}

#[test]
fn malformed_grpc() {
    let mut scene = Scene::new();
    let good = pb::RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec();
    let raw = |body: &[u8]| {
        grpc::call(scene.server.place.client, &Request::raw(RANGE, Bytes::copy_from_slice(body)))
    };
    let broken = "grpc: error unmarshalling request";
    for (name, reply, code, text) in [
        ("a bad tag", raw(&frame(0, b"\xff\xff")), 13, broken),
        ("a length beyond the end", raw(&frame(0, b"\x0a\x7fa")), 13, broken),
        ("a group without a beginning", raw(&frame(0, b"\x0a\x01a\x0c")), 13, broken),
        ("field 0", raw(&frame(0, b"\x02\x01a")), 13, broken),
        (
            "an endless varint",
            raw(&frame(0, b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")),
            13,
            broken,
        ),
        (
            "compressed without an encoding",
            raw(&frame(1, &good)),
            13,
            "grpc: compressed flag set with identity or empty encoding",
        ),
        (
            "4 GiB announced",
            raw(b"\0\xff\xff\xff\xff\x0a\x01a"),
            8,
            "grpc: received message larger than max (4294967295 vs. 2097152)",
        ),
        (
            "one byte too large",
            raw(b"\0\0\x20\0\x01\x0a\x01a"),
            8,
            "grpc: received message larger than max (2097153 vs. 2097152)",
        ),
    ] {
        assert_eq!(reply.code, code, "{name}: {reply:?}");
        assert!(reply.text.starts_with(text), "{name}: {reply:?}");
        assert_eq!(reply.http_status, 200, "{name}: {reply:?}");
    }
    for (name, body) in [
        ("nothing", vec![]),
        ("half a frame header", vec![0, 0]),
        ("half a message", [&frame(0, &good)[..], b""].concat()[..6].to_vec()),
        ("an unknown flag", frame(7, &good).to_vec()),
    ] {
        let reply = raw(&body);
        assert!(reply.code > 0 && reply.messages.is_empty(), "{name}: {reply:?}");
    }
    // Unknown fields are a newer client's, and no fault; nor is an unknown suffix of the type.
    let reply = raw(&frame(0, &[&good[..], b"\xf8\x3f\x01"].concat()));
    assert_eq!(reply.code, 0, "an unknown field: {reply:?}");
    scene.assert_unharmed("malformed gRPC");
    // Deep nesting: a transaction in a transaction in a transaction…
    for depth in [10, 90, 5_000, 100_000] {
        let reply = grpc::call(scene.port(), &Request::new("/etcdserverpb.KV/Txn", &nested(depth)));
        assert!(reply.broken.is_none() && reply.code >= 0, "depth {depth}: {reply:?}");
        scene.assert_unharmed("deep nesting");
    }
}

/// An encoded transaction with `depth` others inside each other.
fn nested(depth: usize) -> Vec<u8> {
    // success = 2, request_txn = 4: both length-delimited. Built from the inside without recursion.
    let mut bytes = Vec::new();
    for _ in 0..depth {
        for tag in [0x22, 0x12] {
            let mut outer = vec![tag];
            prost::encoding::encode_varint(bytes.len() as u64, &mut outer);
            if outer.len() + bytes.len() > 1_500_000 {
                return bytes;
            }
            outer.append(&mut bytes);
            bytes = outer;
        }
    }
    bytes
}

#[test]
fn wrong_requests() {
    let mut scene = Scene::new();
    let good = pb::RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec();
    let call = |change: &dyn Fn(&mut Request<'static>)| {
        let mut request = Request::new(RANGE, &good);
        change(&mut request);
        grpc::call(scene.server.place.client, &request)
    };
    let unsupported = call(&|r| r.content_type = "application/grpcx");
    assert_eq!(unsupported.http_status, 415, "{unsupported:?}");
    for good_type in ["application/grpc", "application/grpc+proto"] {
        let reply = call(&|r| r.content_type = good_type);
        assert_eq!((reply.code, reply.http_status), (0, 200), "{good_type}: {reply:?}");
    }
    let get = call(&|r| r.method = "GET");
    assert!(get.http_status == 405 && get.code != 0, "{get:?}");
    let timeout = call(&|r| r.headers.push(("grpc-timeout", "banana")));
    assert!(timeout.http_status == 400 || timeout.code > 0, "{timeout:?}");
    let encoding = call(&|r| r.headers.push(("grpc-encoding", "snappy")));
    assert_eq!(encoding.code, 12, "{encoding:?}");
    let over = call(&|r| r.headers.push(("grpc-timeout", "0n")));
    assert_eq!((over.code, over.text.as_str()), (4, "context deadline exceeded"), "{over:?}");
    for path in ["/", "/etcdserverpb.KV", "/etcdserverpb.KV/", "/a/b"] {
        let reply = call(&|r| r.path = path);
        assert_eq!(reply.code, 12, "{path}: {reply:?}");
    }

    let mut http = scene.server.http();
    for (method, path, body, status) in [
        ("GET", "/v3/kv/range", "", 501),
        ("DELETE", "/v3/kv/put", "", 501),
        ("POST", "/v3/nothing", "{}", 404),
        ("POST", "/v3/kv/range", "{", 400),
        ("POST", "/v3/kv/range", "[]", 400),
        ("POST", "/v3/kv/range", "{\"key\":7}", 400),
        ("POST", "/v3/kv/range", "{\"key\":\"!\"}", 400),
        ("POST", "/v3/kv/range", "{\"key\":\"YQ==\",\"limit\":\"x\"}", 400),
        ("POST", "/v3/kv/range", "{\"key\":\"YQ==\"", 400),
        ("POST", "/v3/kv/range", "nonsense", 400),
        ("POST", "/health", "", 405),
        ("PUT", "/version", "", 405),
        ("GET", "/nothing", "", 404),
        ("GET", "/v2/keys", "", 404),
    ] {
        let response = http.request(method, path, body.as_bytes()).expect("an answer");
        assert_eq!(response.status, status, "{method} {path} {body}: {}", response.text());
    }
    let deep = format!("{{\"compare\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
    let response = http.request("POST", "/v3/kv/txn", deep.as_bytes()).expect("an answer");
    assert_eq!(response.status, 400, "{}", response.text());
    scene.assert_unharmed("wrong requests");
}

/// Larger than allowed: refused while it comes in, on both doors, not kept.
#[test]
fn oversize_requests() {
    let mut scene = Scene::new();
    let huge = pb::PutRequest {
        key: "k".into(),
        value: vec![b'v'; 30 << 20].into(),
        ..Default::default()
    };
    let reply =
        grpc::call(scene.port(), &Request::new("/etcdserverpb.KV/Put", &huge.encode_to_vec()));
    assert!(reply.code == 8 || reply.broken.is_some(), "{reply:?}");
    // An endless body: the server need not read it to its end.
    let mut socket = scene.server.socket();
    socket
        .write_all(b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        .expect("the head is taken");
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 65_536], b"\r\n".to_vec()].concat();
    for _ in 0..2_000 {
        if socket.write_all(&chunk).is_err() {
            break;
        }
    }
    scene.assert_unharmed("an endless body");
    drop(socket);
    // A head without end.
    let mut socket = scene.server.socket();
    socket.write_all(b"GET /health HTTP/1.1\r\n").expect("the first line is taken");
    let line = format!("x-{}: {}\r\n", "n".repeat(100), "v".repeat(8_000));
    let refused = (0..4_000).any(|_| socket.write_all(line.as_bytes()).is_err());
    assert!(refused, "32 MB of headers were taken");
    scene.assert_unharmed("an endless head");
    scene.assert_grew_less_than(64 * MIB, "oversize");
}

/// Requests that never end, on many connections, beside one that works.
#[test]
fn half_requests() {
    let mut scene = Scene::new();
    let mut open = Vec::new();
    for _ in 0..100 {
        for part in [
            &b""[..],
            b"G",
            b"PRI * HT",
            b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\n",
            b"POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"key\":",
            PREFACE,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x04\0\0\0\x01",
        ] {
            let mut socket = scene.server.socket();
            socket.write_all(part).expect("taken");
            open.push(socket);
        }
    }
    scene.assert_unharmed("half requests");
    scene.assert_grew_less_than(128 * MIB, "700 half requests");
    drop(open);
    scene.assert_unharmed("half requests, abandoned");
}

#[test]
fn ten_thousand_idle_connections() {
    let limit = raise_nofile();
    let wanted = common::count("CORED_IDLE", 10_000)
        .min(usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(500));
    let mut scene = Scene::new();
    let mut idle = Vec::new();
    for i in 0..wanted {
        let mut socket = TcpStream::connect(scene.server.address())
            .unwrap_or_else(|e| panic!("connection {i} of {wanted}: {e}"));
        if i % 2 == 0 {
            // A client that once said hello, as pools of clients do.
            socket.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()).expect("taken");
        }
        idle.push(socket);
        if i % 2_000 == 0 {
            scene.assert_unharmed("idle connections");
        }
    }
    scene.assert_unharmed("all idle connections");
    scene.assert_grew_less_than(
        wanted as u64 * 64 * 1024 + 64 * MIB,
        &format!("{wanted} idle connections"),
    );
    drop(idle);
    scene.assert_unharmed("the end of the idle connections");
}

/// The limit on open files, raised as far as this process may; the server inherits it.
fn raise_nofile() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a local struct.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max;
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    limit.rlim_cur
}

/// CVE-2023-44487: streams opened and reset as fast as they go.
#[test]
fn rapid_reset() {
    let mut scene = Scene::new();
    let good = Request::new(
        RANGE,
        &pb::RangeRequest { key: "a".into(), ..Default::default() }.encode_to_vec(),
    )
    .body;
    grpc::runtime().block_on(async {
        for _ in 0..3 {
            let mut send = grpc::connect(scene.server.place.client).await.expect("a connection");
            for _ in 0..20_000 {
                let Ok(ready) = send.clone().ready().await else { break };
                send = ready;
                let head = http::Request::post(format!("http://localhost{RANGE}"))
                    .header("content-type", "application/grpc")
                    .body(())
                    .expect("a request");
                let Ok((response, mut body)) = send.send_request(head, false) else { break };
                let _ = body.send_data(good.clone(), true);
                tokio::task::yield_now().await;
                body.send_reset(h2::Reason::CANCEL);
                drop(response);
            }
        }
    });
    scene.assert_unharmed("rapid resets");
    scene.assert_grew_less_than(64 * MIB, "rapid resets");
}

/// More streams at once than a connection may have, all left open.
#[test]
fn streams_without_end() {
    let mut scene = Scene::new();
    grpc::runtime().block_on(async {
        let mut send = grpc::connect(scene.server.place.client).await.expect("a connection");
        let mut open = Vec::new();
        let flood = async {
            for _ in 0..20_000 {
                let Ok(ready) = send.clone().ready().await else { break };
                send = ready;
                let head = http::Request::post("http://localhost/etcdserverpb.Watch/Watch")
                    .header("content-type", "application/grpc")
                    .body(())
                    .expect("a request");
                let Ok(stream) = send.send_request(head, false) else { break };
                open.push(stream);
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), flood).await;
        // The connection's task goes on while the streams are held.
        tokio::time::sleep(Duration::from_millis(500)).await;
        println!("{} streams were opened", open.len());
    });
    scene.assert_unharmed("streams without end");
    scene.assert_grew_less_than(128 * MIB, "streams without end");
}

/// Frames that cost the sender nothing and must not cost the server memory: the answers are never
/// read, and a header block never ends.
#[test]
fn frame_floods() {
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8].to_vec();
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 255, 255].to_vec();
    let headers = [0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82].to_vec();
    let more = [
        vec![0, 64, 0, 9, 0, 0, 0, 0, 1],
        [0x00, 0x01, b'a', 0x01, b'b'].repeat(16_384 / 5 + 1)[..16_384].to_vec(),
    ]
    .concat();
    let empty = [0, 0, 0, 9, 0, 0, 0, 0, 1].to_vec();
    let mut scene = Scene::new();
    for (name, first, again, times) in [
        ("pings", vec![], ping, 400_000),
        ("settings", vec![], settings, 400_000),
        ("continuations", headers.clone(), more, 4_000),
        ("empty continuations", headers, empty, 400_000),
    ] {
        let mut socket = scene.server.socket();
        socket.set_write_timeout(Some(Duration::from_secs(3))).expect("an option");
        socket.write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0], &first].concat()).expect("taken");
        let block = again.repeat((65_536 / again.len()).max(1));
        let mut sent = 0;
        while sent < again.len() * times && socket.write_all(&block).is_ok() {
            sent += block.len();
        }
        scene.assert_unharmed(name);
        scene.assert_grew_less_than(96 * MIB, name);
    }
}

/// A watcher that reads nothing, with thousands of watches on its stream: its events wait, but not
/// all of them in memory, and writers do not wait for it.
#[test]
fn a_watcher_that_does_not_read() {
    let mut scene = Scene::new();
    let mut deaf = scene.server.socket();
    let mut body = String::new();
    for _ in 0..500 {
        body += &json!({"create_request": {"key": b64("flood/"), "range_end": b64("flood0")}})
            .to_string();
    }
    let head =
        format!("POST /v3/watch HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    deaf.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("taken");
    let value = "v".repeat(64 << 10);
    for i in 0..64 {
        scene.bystander.put(&format!("flood/{i}"), &value).expect("answered").expect("accepted");
    }
    // 500 watches × 64 values × 64 KiB would be 2 GiB.
    scene.assert_unharmed("a watcher that does not read");
    scene.assert_grew_less_than(512 * MIB, "a watcher that does not read");
    drop(deaf);
    scene.assert_unharmed("the end of a watcher that did not read");
}

/// A reader that asks for much and takes nothing.
#[test]
fn readers_that_do_not_read() {
    let mut scene = Scene::new();
    let value = "v".repeat(1 << 20);
    for i in 0..20 {
        scene.bystander.put(&format!("big/{i:02}"), &value).expect("answered").expect("accepted");
    }
    scene.memory_bytes = scene.server.memory_bytes();
    let body = json!({"key": b64("big/"), "range_end": b64("big0")}).to_string();
    let head =
        format!("POST /v3/kv/range HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let mut socket = scene.server.socket();
        // Many requests behind each other on one connection, none of the answers read.
        for _ in 0..50 {
            socket.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("taken");
        }
        deaf.push(socket);
    }
    scene.assert_unharmed("readers that do not read");
    // One answer each (27 MB as JSON) may wait in memory, all 400 may not.
    scene.assert_grew_less_than(1_500 * MIB, "readers that do not read");
    drop(deaf);
    scene.assert_unharmed("the end of readers that did not read");
}

/// Whoever leaves in the middle of its call leaves nothing behind.
#[test]
fn callers_that_leave() {
    let mut scene = Scene::new();
    for i in 0..300 {
        let mut socket = scene.server.socket();
        let body = json!({"key": b64(format!("leave/{i}")), "value": b64("x")}).to_string();
        let head = format!(
            "POST /v3/kv/put HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(head.as_bytes()).expect("taken");
        drop(socket);
        let mut watch = scene.server.socket();
        let body = json!({"create_request": {"key": b64("leave/")}}).to_string();
        let head = format!(
            "POST /v3/watch HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        watch.write_all(head.as_bytes()).expect("taken");
        drop(watch);
    }
    scene.assert_unharmed("callers that leave");
    // What was written was written whole and once: the revision tells.
    let range = json!({"key": b64("leave/"), "range_end": b64("leave0")});
    let (_, answer) = scene.server.call("/v3/kv/range", &range);
    for kv in answer["kvs"].as_array().into_iter().flatten() {
        assert_eq!(number(&kv["version"]), 1, "{kv}");
    }
    scene.assert_grew_less_than(64 * MIB, "callers that leave");
}

/// Services that are not served yet say so, and do no harm.
#[test]
fn what_is_not_served_says_so() {
    if common::stand_in() {
        return;
    }
    let mut scene = Scene::new();
    for path in [
        "/etcdserverpb.Cluster/MemberAdd",
        "/etcdserverpb.Maintenance/MoveLeader",
        "/etcdserverpb.Maintenance/Downgrade",
        "/etcdserverpb.Auth/AuthEnable",
        "/etcdserverpb.Auth/UserAdd",
    ] {
        let Reply { code, text, .. } = grpc::call(scene.port(), &Request::new(path, &[]));
        assert_eq!(code, 12, "{path}: {text}");
    }
    scene.assert_unharmed("calls that are not served");
}
