//! A call that streams, as the body of its response: one task runs the handler, feeds it the
//! client's messages and sends what it answers, so that a client's reset ends all three at once.
//! It does not know how messages are written: gRPC frames and JSON lines differ in [`Writing`].

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use cored_proto::{Kind, METHODS};
use http::HeaderMap;
use http_body::Frame;

use super::Call;
use super::body::{Chunk, frame_head};
use super::grpc;
use super::stop::{Stage, Stop, Ticket};
use crate::api::status::{Code, Status};
use crate::api::stream::Requests;

/// Messages that wait together leave together, up to about so many bytes: one HTTP/2 frame.
const TOGETHER_BYTES: usize = 16 << 10;

/// How messages and the end of a stream are written.
pub(super) trait Writing {
    /// One message.
    fn message(&self, message: Bytes, out: &mut BytesMut);

    /// What is said when the stream ends with a status, and with which trailers.
    fn end(&self, status: Option<&Status>, out: &mut BytesMut) -> Option<HeaderMap>;

    /// Whether a lone message may go out in a gRPC frame of its own, without a copy.
    fn framed(&self) -> bool;
}

/// gRPC: frames, and the status in the trailers.
pub(super) struct Frames;

impl Writing for Frames {
    fn message(&self, message: Bytes, out: &mut BytesMut) {
        out.put_slice(&frame_head(message.len()));
        out.put(message);
    }

    fn end(&self, status: Option<&Status>, _out: &mut BytesMut) -> Option<HeaderMap> {
        let mut trailers = HeaderMap::with_capacity(2);
        grpc::status_headers(status, &mut trailers);
        Some(trailers)
    }

    fn framed(&self) -> bool {
        true
    }
}

/// A future that is polled until it is done, then forgotten.
pub(super) type Side = Pin<Box<dyn Future<Output = ()>>>;

/// The body of a streaming response.
pub(super) struct Relay {
    /// The service. It holds the reading end of requests and the writing end of responses.
    handler: Option<Side>,
    /// Reads the client's messages into the handler's queue.
    pump: Option<Side>,
    /// A message that [`Relay::poll_first`] has taken.
    first: Option<Bytes>,
    output: Requests,
    writing: Box<dyn Writing>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Tells of the member's stop, where the stream would not end by itself.
    stop: Option<Ticket>,
    call: Call,
}

impl Relay {
    pub(super) fn new(
        call: Call,
        handler: Side,
        pump: Side,
        output: Requests,
        writing: Box<dyn Writing>,
        stop: &Stop,
    ) -> Relay {
        let (handler, pump) = (Some(handler), Some(pump));
        // What streams one way has an end and may reach it; both ways, it lasts as long as its client.
        let lasting = METHODS[call.method].kind == Kind::BidiStream;
        let stop = lasting.then(|| stop.join());
        Relay {
            handler,
            pump,
            first: None,
            output,
            writing,
            trailers: None,
            ended: false,
            stop,
            call,
        }
    }

    /// Waits for the first message or the end, and keeps it for the body: a gateway's answer has
    /// another status line when a stream fails before it said anything.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<First> {
        match self.poll_output(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(message))) => {
                self.first = Some(message);
                Poll::Ready(First::Message)
            }
            Poll::Ready(Some(Err(status))) => {
                self.call.ends(status.code);
                Poll::Ready(First::Failed(status))
            }
            Poll::Ready(None) => {
                self.call.ends(Code::Ok);
                Poll::Ready(First::Nothing)
            }
        }
    }

    /// The next piece of the body. The sides run only when nothing waits to be sent, so a client
    /// that does not read holds its handler at the queue's bound.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Frame::trailers(trailers)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(message) = self.first.take() {
            return Poll::Ready(Some(self.gather(message, cx)));
        }
        match self.poll_output(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(message))) => Poll::Ready(Some(self.gather(message, cx))),
            Poll::Ready(Some(Err(status))) => Poll::Ready(self.finish(Some(&status))),
            Poll::Ready(None) => Poll::Ready(self.finish(None)),
        }
    }

    fn poll_output(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let ready = self.output.poll_next(cx);
        if ready.is_ready() {
            return ready;
        }
        for side in [&mut self.pump, &mut self.handler] {
            if let Some(future) = side
                && future.as_mut().poll(cx).is_ready()
            {
                *side = None;
            }
        }
        let polled = self.output.poll_next(cx);
        if polled.is_pending()
            && let Some(stop) = &mut self.stop
            && stop.stage(cx) != Stage::Serving
        {
            let text = "etcdserver: server stopped";
            return Poll::Ready(Some(Err(Status::fixed(Code::Unavailable, text))));
        }
        polled
    }

    /// A frame with this message and those that wait behind it.
    fn gather(&mut self, first: Bytes, cx: &mut Context<'_>) -> Frame<Chunk> {
        self.call.message_sent();
        if first.len() >= TOGETHER_BYTES && self.writing.framed() {
            return Frame::data(Chunk::framed(first));
        }
        let mut second = match self.output.poll_next(cx) {
            Poll::Ready(Some(Ok(message))) => Some(message),
            Poll::Ready(end) => return self.last(first, end.and_then(Result::err)),
            Poll::Pending if self.writing.framed() => return Frame::data(Chunk::framed(first)),
            Poll::Pending => None,
        };
        let mut out = BytesMut::with_capacity(TOGETHER_BYTES.min(4 * first.len() + 256));
        self.writing.message(first, &mut out);
        while let Some(message) = second.take() {
            self.call.message_sent();
            self.writing.message(message, &mut out);
            if out.len() < TOGETHER_BYTES {
                match self.output.poll_next(cx) {
                    Poll::Ready(Some(Ok(message))) => second = Some(message),
                    Poll::Ready(end) => self.end(end.and_then(Result::err).as_ref(), &mut out),
                    Poll::Pending => {}
                }
            }
        }
        Frame::data(Chunk::plain(out.freeze()))
    }

    fn last(&mut self, message: Bytes, status: Option<Status>) -> Frame<Chunk> {
        let mut out = BytesMut::with_capacity(message.len() + 256);
        self.writing.message(message, &mut out);
        self.end(status.as_ref(), &mut out);
        Frame::data(Chunk::plain(out.freeze()))
    }

    fn finish(&mut self, status: Option<&Status>) -> Option<Frame<Chunk>> {
        let mut out = BytesMut::new();
        self.end(status, &mut out);
        if !out.is_empty() {
            return Some(Frame::data(Chunk::plain(out.freeze())));
        }
        self.trailers.take().map(Frame::trailers)
    }

    fn end(&mut self, status: Option<&Status>, out: &mut BytesMut) {
        self.call.ends(status.map_or(Code::Ok, |status| status.code));
        self.trailers = self.writing.end(status, out);
        self.ended = true;
        self.handler = None;
        self.pump = None;
    }
}

/// How a stream begins.
pub(super) enum First {
    /// With a message, which the body begins with.
    Message,
    /// It failed before it said anything.
    Failed(Status),
    /// It ended well before it said anything.
    Nothing,
}
