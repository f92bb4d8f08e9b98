//! gRPC frames cut anywhere.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use futures_lite::future::block_on;
use http_body::{Body, Frame};

use crate::api::status::Status;
use crate::front::body::Chunk;
use crate::front::budget::Budget;
use crate::front::grpc::{Messages, is_grpc};

/// A request body that comes in the given pieces.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn read(pieces: &[&[u8]], budget: &Budget) -> (Vec<Bytes>, Option<Status>) {
    let pieces = pieces.iter().map(|piece| Bytes::copy_from_slice(piece)).collect();
    let mut messages = Messages::new(Pieces(pieces), 1000, budget);
    let mut read = Vec::new();
    loop {
        match block_on(messages.next()) {
            Ok(Some(message)) => read.push(message),
            Ok(None) => return (read, None),
            Err(status) => return (read, Some(status)),
        }
    }
}

fn frames(messages: &[&[u8]]) -> Vec<u8> {
    let framed = messages.iter().map(|message| Chunk::framed(Bytes::copy_from_slice(message)));
    framed.flat_map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()).to_vec()).collect()
}

#[test]
fn messages_are_the_same_wherever_the_body_is_cut() {
    let messages: [&[u8]; 4] = [b"one", b"", b"and three", &[9; 300]];
    let bytes = frames(&messages);
    let budget = Budget::new(10_000);
    for first in 0..=bytes.len() {
        for second in first..=bytes.len().min(first + 12) {
            let cut = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(read(&cut, &budget), (messages.map(Bytes::copy_from_slice).into(), None));
        }
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(read(&single, &budget).0, messages);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_body_that_ends_early_is_an_unexpected_end() {
    let bytes = frames(&[b"whole", b"cut off"]);
    let budget = Budget::new(10_000);
    for end in 11..bytes.len() {
        let (read, status) = read(&[&bytes[..end]], &budget);
        assert_eq!(read, ["whole"]);
        assert_eq!(status.expect("cut").message, "unexpected EOF");
    }
    assert_eq!(budget.used(), 0, "what was held is given back");
}

#[test]
fn sizes_and_flags_are_refused_in_grpcs_words() {
    let budget = Budget::new(10_000);
    let refusal = |bytes: &[u8]| {
        let (read, status) = read(&[bytes], &budget);
        assert!(read.is_empty());
        let status = status.expect("refused");
        (status.code as u8, status.message.into_owned())
    };
    let too_large = "grpc: received message larger than max (4294967295 vs. 1000)";
    assert_eq!(refusal(b"\0\xff\xff\xff\xff"), (8, too_large.into()));
    assert_eq!(refusal(&frames(&[&[0; 1001]])).0, 8);
    let compressed = "grpc: compressed flag set with identity or empty encoding";
    assert_eq!(refusal(b"\x01\0\0\0\x01x"), (13, compressed.into()));
    let unknown = "grpc: received unexpected payload format 2";
    assert_eq!(refusal(b"\x02\0\0\0\x01x"), (13, unknown.into()));
    assert_eq!(read(&[&frames(&[&[0; 1000]])], &budget).0.len(), 1, "the bound itself passes");
}

#[test]
fn parts_of_requests_are_held_within_a_budget() {
    let budget = Budget::new(100);
    let bytes = frames(&[&[0; 200]]);
    let (read, status) = read(&[&bytes[..80], &bytes[80..160], &bytes[160..]], &budget);
    assert!(read.is_empty());
    assert_eq!(status.expect("refused").message, "etcdserver: too many requests");
    assert_eq!(budget.used(), 0);
    // What comes whole is never held.
    assert_eq!(self::read(&[&bytes], &budget).0.len(), 1);
}

#[test]
fn content_types_of_grpc_are_told_from_others() {
    let grpc = ["application/grpc", "application/grpc+proto", "application/grpc;x=y"];
    assert!(grpc.iter().all(|text| is_grpc(text.as_bytes())));
    let other = ["application/grpc-web", "application/json", "", "application/grp"];
    assert!(!other.iter().any(|text| is_grpc(text.as_bytes())));
}
