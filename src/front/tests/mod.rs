//! The front as its clients meet it, well-behaved and otherwise.

mod framing;
mod gateway;
mod hostile;
mod house;
pub(super) mod numbers;

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;

use super::{Limits, Told};
use crate::api::status::Code;
use house::{House, call, client, request, wait};

const PUT: &str = "/etcdserverpb.KV/Put";
const ECHOED: &[u8] = b"\0\0\0\0\x03abc";

#[test]
fn a_unary_call_is_answered_with_a_frame_and_a_status() {
    let house = House::open();
    let answer = client(&house, async |client| call(&client, request(PUT), &[ECHOED]).await);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, &answer.body[..]), (200, ECHOED));
    assert_eq!(answer.headers["content-type"], "application/grpc");
    assert!(answer.headers.get("content-length").is_none());
    assert_eq!(answer.end(), ("0".into(), String::new()));
    assert_eq!(answer.trailers["grpc-status"], "0");
    wait(|| house.told.lock().expect("whole").iter().any(|t| matches!(t, Told::Handled { .. })));
    let told = house.told.lock().expect("whole").clone();
    let calls =
        told.iter().filter(|t| !matches!(t, Told::BytesReceived { .. } | Told::BytesSent { .. }));
    let method = cored_proto::METHODS.iter().position(|m| m.name == "Put").expect("a method");
    let expected = [
        Told::Started { method },
        Told::MessageReceived { method },
        Told::MessageSent { method },
        Told::Handled { method, code: Code::Ok },
    ];
    assert!(calls.eq(&expected), "{told:?}");
}

#[test]
fn an_error_stands_in_the_headers_with_its_text_escaped() {
    let house = House::open();
    let path = "/etcdserverpb.KV/DeleteRange";
    let answer = client(&house, async |client| call(&client, request(path), &[ECHOED]).await);
    let answer = answer.expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers["grpc-status"], "5");
    assert_eq!(answer.headers["grpc-message"], "no such k%C3%A9y: 100%25");
    assert!(answer.trailers.is_empty());
}

#[test]
fn metadata_reach_the_service() {
    let house = House::open();
    client(&house, async |client| {
        let plain = request(PUT).header("token", "t1").header("hasleader", "true");
        call(&client, plain.header("client-api-version", "3.7"), &[ECHOED]).await.expect("ok");
        let bearer = request(PUT).header("authorization", "Bearer t2");
        call(&client, bearer, &[ECHOED]).await.expect("ok");
    });
    let heard = house.heard.lock().expect("whole").clone();
    assert!(heard[0].contains("Some(\"t1\"), requires_leader: true"), "{heard:?}");
    assert!(heard[0].contains("client_api_version: Some(\"3.7\"), json: false"), "{heard:?}");
    assert!(heard[1].contains("Some(\"t2\"), requires_leader: false"), "{heard:?}");
}

#[test]
fn a_bidirectional_stream_answers_while_it_is_open_and_ends_when_the_client_does() {
    let house = House::open();
    client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let request = request("/etcdserverpb.Watch/Watch").body(()).expect("a request");
        let (response, mut sender) = client.send_request(request, false).expect("sent");
        let mut body = response.await.expect("headers at once").into_body();
        for text in ["abc", "xyz"] {
            let frame = [b"\0\0\0\0\x03", text.as_bytes()].concat();
            sender.send_data(frame.clone().into(), false).expect("open");
            assert_eq!(body.data().await.expect("open").expect("whole"), frame);
        }
        sender.send_data(Bytes::new(), true).expect("open");
        assert!(body.data().await.is_none());
        let trailers = body.trailers().await.expect("well").expect("trailers");
        assert_eq!(trailers["grpc-status"], "0");
    });
    wait(|| house.count_heard("dropped") == 1);
}

#[test]
fn a_stream_that_fails_says_so_in_its_trailers() {
    let house = House::open();
    let path = "/v3electionpb.Election/Observe";
    let answer = client(&house, async |client| call(&client, request(path), &[ECHOED]).await);
    assert_eq!(answer.expect("an answer").end(), ("14".into(), "not now".into()));
}

#[test]
fn a_reset_drops_the_call_it_concerns() {
    let house = House::open();
    client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let mut dropped = 0;
        for path in ["/etcdserverpb.KV/Compact", "/etcdserverpb.Watch/Watch"] {
            let request = request(path).body(()).expect("a request");
            let (_response, mut sender) = client.send_request(request, false).expect("sent");
            sender.send_data(ECHOED.into(), false).expect("open");
            // What is answered after it tells that the call has begun.
            call(&client, self::request(PUT), &[ECHOED]).await.expect("answered meanwhile");
            sender.send_reset(h2::Reason::CANCEL);
            dropped += 1;
            while house.count_heard("dropped") < dropped {
                call(&client, self::request(PUT), &[ECHOED]).await.expect("answered meanwhile");
            }
        }
    });
}

#[test]
fn a_slow_reader_holds_its_stream_and_nobody_else() {
    let house = House::open();
    client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let path = "/etcdserverpb.Maintenance/Snapshot";
        let request = request(path).body(()).expect("a request");
        let (response, mut sender) = client.send_request(request, false).expect("sent");
        sender.send_data(ECHOED.into(), true).expect("open");
        for _ in 0..20 {
            call(&client, self::request(PUT), &[ECHOED]).await.expect("answered meanwhile");
        }
        let answer = house::answer(response).await.expect("all of it");
        assert_eq!(answer.body.len(), 200 * 10_005);
        assert_eq!(answer.end().0, "0");
    });
}

#[test]
fn plain_pages_have_etcds_statuses_and_headers() {
    let house = House::open();
    let (status, head, body) = house.http1("GET", "/health?serializable=true", "");
    assert_eq!(status, 503);
    assert_eq!(body, "{\"health\":\"false\",\"reason\":\"serializable=true\"}");
    assert!(head.contains("access-control-allow-origin: *"));
    let (status, head, body) = house.http1("POST", "/health", "");
    assert_eq!((status, body.as_str()), (405, "Method Not Allowed\n"));
    assert!(head.contains("allow: get"));
    let (status, head, body) = house.http1("GET", "/nothing", "");
    assert_eq!((status, body.as_str()), (404, "404 page not found\n"));
    assert!(head.contains("x-content-type-options: nosniff"));
    let (status, head, body) = house.http1("POST", "/metrics", "");
    assert_eq!((status, body.as_str()), (200, "up 1\n"));
    assert!(head.contains("text/plain; version=0.0.4"));
    let (status, head, body) = house.http1("OPTIONS", "/anything", "");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("access-control-allow-methods: post, get, options, put, delete"));
    assert_eq!(house.http1("GET", "/debug/vars", "").2, "{}\n");
    assert_eq!(house.http1("POST", PUT, "").0, 404);
}

#[test]
fn a_stop_ends_what_lasts_lets_the_rest_finish_and_cuts_what_never_does() {
    let limits = Limits { grace: Duration::from_millis(700), ..Limits::default() };
    let house = House::with(limits);
    let idle = house.connect();
    let cut = client(&house, async |client| {
        let mut client = client.ready().await.expect("open");
        let open = request("/etcdserverpb.Watch/Watch").body(()).expect("a request");
        let (response, _sender) = client.send_request(open, false).expect("sent");
        let mut watch = response.await.expect("headers").into_body();
        let sent = |path| {
            let request = request(path).body(()).expect("a request");
            let mut client = client.clone();
            let (response, mut body) = client.send_request(request, false).expect("sent");
            body.send_data(ECHOED.into(), true).expect("open");
            response
        };
        let slow = sent("/etcdserverpb.Maintenance/Status");
        let hanging = sent("/etcdserverpb.KV/Compact");
        call(&client, request(PUT), &[ECHOED]).await.expect("serving");
        house.stop();
        assert!(watch.data().await.is_none());
        let trailers = watch.trailers().await.expect("well").expect("some");
        assert_eq!(trailers["grpc-message"], "etcdserver: server stopped");
        house.heard.lock().expect("whole").push("go on".into());
        let answer = house::answer(slow).await.expect("a call that runs may end well");
        assert_eq!(answer.body, ECHOED);
        hanging.await
    });
    assert!(cut.is_err(), "a call that never ends is cut after the grace period");
    house.closed();
    drop(idle);
    assert!(std::net::TcpStream::connect(house.address).is_err());
}

#[test]
fn the_only_client_is_waited_for_in_place() {
    let house = House::patient(Duration::from_secs(60));
    let lingers = || house.count_heard("lingers");
    client(&house, async |client| {
        for calls in 1..=10 {
            let answer = call(&client, request(PUT), &[ECHOED]).await.expect("an answer");
            assert_eq!(answer.body, ECHOED);
            wait(|| lingers() >= calls);
        }
    });
    // The core learns of the client's end in the same way, else it would wait for a minute.
    wait(|| house.open_connections() == 0);
    let mut stream = house.connect();
    for _ in 0..10 {
        let before = lingers();
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
        wait(|| lingers() > before);
    }
    drop(stream);
    wait(|| house.open_connections() == 0);
}

#[test]
fn a_wait_in_place_that_was_in_vain_or_wrong_harms_nobody() {
    for house in [House::patient(Duration::ZERO), House::credulous()] {
        client(&house, async |client| {
            for _ in 0..10 {
                let answer = call(&client, request(PUT), &[ECHOED]).await.expect("an answer");
                assert_eq!(answer.body, ECHOED);
            }
        });
        wait(|| house.count_heard("lingers") >= 10);
    }
}

#[test]
fn nobody_waits_in_place_with_requests_at_hand() {
    const REQUEST: &[u8] = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n";
    // More than hyper looks at in one go.
    const REQUESTS: usize = 100;
    let house = House::patient(Duration::from_secs(60));
    let mut stream = house.connect();
    stream.write_all(&REQUEST.repeat(REQUESTS)).expect("sent");
    let mut answers = Vec::new();
    while answers.windows(9).filter(|bytes| bytes == b"HTTP/1.1 ").count() < REQUESTS {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).expect("no wait in between");
        answers.extend_from_slice(&buffer[..count]);
    }
}

#[test]
fn nobody_is_waited_for_in_place_while_others_are_there() {
    let house = House::patient(Duration::from_secs(60));
    let lingers = || house.count_heard("lingers");
    let idle = house.connect();
    wait(|| house.open_connections() == 1);
    client(&house, async |client| {
        call(&client, request(PUT), &[ECHOED]).await.expect("an answer");
    });
    assert_eq!(lingers(), 0, "another connection is open");
    drop(idle);
    wait(|| house.open_connections() == 0);
    client(&house, async |mut client| {
        let slow = request("/etcdserverpb.Maintenance/Status").body(()).expect("a request");
        let (slow, mut body) = client.send_request(slow, false).expect("sent");
        body.send_data(ECHOED.into(), true).expect("sent");
        call(&client, request(PUT), &[ECHOED]).await.expect("an answer");
        house.heard.lock().expect("whole").push("go on".into());
        assert_eq!(house::answer(slow).await.expect("an answer").body, ECHOED);
    });
    let heard = house.heard.lock().expect("whole").clone();
    let at = |what| heard.iter().position(|heard| heard.starts_with(what)).expect("heard");
    let meanwhile = &heard[at("Status")..at("go on")];
    assert!(!meanwhile.contains(&"lingers".into()), "a call is being answered: {meanwhile:?}");
}

#[test]
fn connections_go_to_the_core_with_the_fewest() {
    let listener = super::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (mut acceptor, incoming) = super::Acceptor::start(vec![listener], 3, 5).expect("threads");
    let clients: Vec<_> =
        (0..7).map(|_| std::net::TcpStream::connect(address).expect("listening")).collect();
    wait(|| acceptor.open() == 5);
    acceptor.stop();
    let counts = incoming.iter().map(|core| {
        let mut held = Vec::new();
        while let Some(connection) = futures_lite::future::block_on(core.next()) {
            held.push(connection);
        }
        held.len()
    });
    assert_eq!(counts.collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(acceptor.open(), 0);
    drop(clients);
}

#[test]
fn clients_that_come_one_after_the_other_meet_the_same_core() {
    let listener = super::bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (acceptor, incoming) = super::Acceptor::start(vec![listener], 2, 5).expect("threads");
    let [first, second] = [0, 1].map(|core: usize| &incoming[core]);
    let connect = || std::net::TcpStream::connect(address).expect("listening");
    let next =
        |core: &super::Incoming| futures_lite::future::block_on(core.next()).expect("a connection");
    for _ in 0..3 {
        let client = connect();
        let served = next(first);
        assert!(first.is_single() && !second.is_single());
        drop((client, served));
        assert_eq!(acceptor.open(), 0);
    }
    let clients = [connect(), connect()];
    let served = [next(first), next(second)];
    assert!(first.is_single() && second.is_single());
    drop((clients, served));
}
