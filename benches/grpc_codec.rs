//! What does a put cost between HTTP/2 and the service: the frame found, the message decoded, the
//! answer encoded and framed? Key 8 bytes, value 256 bytes; whole in one piece as clients send it,
//! and cut in three.

#![allow(missing_docs, reason = "criterion's macros make functions that have none")]

use std::collections::VecDeque;
use std::convert::Infallible;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use cored::front::budget::Budget;
use cored::front::grpc::{Chunk, Messages};
use cored_proto::etcdserverpb::{PutRequest, PutResponse, ResponseHeader};
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use futures_lite::future::block_on;
use http_body::{Body, Frame};
use prost::Message;

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

fn request() -> Bytes {
    let put = PutRequest { key: "12345678".into(), value: vec![7; 256].into(), ..<_>::default() };
    let mut frame = Chunk::framed(put.encode_to_vec().into());
    frame.copy_to_bytes(frame.remaining())
}

fn put(pieces: Pieces, budget: &Budget) -> Chunk {
    let mut messages = Messages::new(pieces, 2 << 20, budget);
    let message = block_on(messages.next()).expect("a frame").expect("a message");
    black_box(PutRequest::decode(message).expect("a put"));
    let header =
        ResponseHeader { cluster_id: 1 << 60, member_id: 1 << 61, revision: 1 << 20, raft_term: 2 };
    let response = PutResponse { header: Some(header), prev_kv: None };
    Chunk::framed(response.encode_to_vec().into())
}

fn grpc_codec(criterion: &mut Criterion) {
    let frame = request();
    let budget = Budget::new(1 << 20);
    let whole = || Pieces(VecDeque::from([frame.clone()]));
    let cut = || Pieces(VecDeque::from([frame.slice(..3), frame.slice(3..90), frame.slice(90..)]));
    criterion.bench_function("grpc_codec/put", |bencher| {
        bencher.iter_batched(whole, |body| put(body, &budget), BatchSize::SmallInput);
    });
    criterion.bench_function("grpc_codec/put_cut_in_three", |bencher| {
        bencher.iter_batched(cut, |body| put(body, &budget), BatchSize::SmallInput);
    });
}

criterion_group!(benches, grpc_codec);
criterion_main!(benches);
