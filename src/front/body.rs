//! What responses are made of: nothing, a whole page, one framed message with its trailers, or what
//! a call that streams says over time ([`Relay`]). It knows how gRPC frames look, not what is in
//! them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::grpc;
use super::relay::Relay;

/// Bytes of a gRPC frame before its message: one of flags, four of length.
pub(super) const FRAME_HEAD_BYTES: usize = 5;

/// A piece of a body: a frame's head and its message side by side, so that the message need not be
/// copied to stand behind the head.
#[derive(Debug)]
pub struct Chunk {
    head: [u8; FRAME_HEAD_BYTES],
    /// Bytes of the head that were consumed.
    at: u8,
    rest: Bytes,
}

impl Chunk {
    /// A message in its frame.
    #[must_use]
    pub fn framed(message: Bytes) -> Chunk {
        Chunk { head: frame_head(message.len()), at: 0, rest: message }
    }

    /// Bytes as they are.
    pub(super) fn plain(bytes: Bytes) -> Chunk {
        Chunk { head: [0; FRAME_HEAD_BYTES], at: FRAME_HEAD_BYTES as u8, rest: bytes }
    }
}

/// The head of the frame of an uncompressed message.
pub(super) fn frame_head(len_bytes: usize) -> [u8; FRAME_HEAD_BYTES] {
    let len = u32::try_from(len_bytes).expect("messages are far below 4 GiB").to_be_bytes();
    [0, len[0], len[1], len[2], len[3]]
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        FRAME_HEAD_BYTES - usize::from(self.at) + self.rest.len()
    }

    fn chunk(&self) -> &[u8] {
        match usize::from(self.at) {
            FRAME_HEAD_BYTES => &self.rest,
            at => &self.head[at..],
        }
    }

    fn advance(&mut self, count: usize) {
        let of_head = count.min(FRAME_HEAD_BYTES - usize::from(self.at));
        self.at += of_head as u8;
        self.rest.advance(count - of_head);
    }
}

/// The body of a response.
pub(super) enum Body {
    /// None, or nothing more.
    Nothing,
    /// All of it at once.
    Whole(Bytes),
    /// The one message of a call that went well.
    Message(Bytes),
    /// The trailers after it.
    Trailers,
    /// A call that streams.
    Stream(Box<Relay>),
}

impl HttpBody for Body {
    type Data = Chunk;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, Infallible>>> {
        if let Body::Stream(relay) = &mut *self {
            return relay.poll_frame(cx).map(|frame| frame.map(Ok));
        }
        let (frame, next) = match std::mem::replace(&mut *self, Body::Nothing) {
            Body::Nothing | Body::Stream(_) => return Poll::Ready(None),
            Body::Whole(bytes) => (Frame::data(Chunk::plain(bytes)), Body::Nothing),
            Body::Message(message) => (Frame::data(Chunk::framed(message)), Body::Trailers),
            Body::Trailers => {
                let mut trailers = HeaderMap::with_capacity(1);
                grpc::status_headers(None, &mut trailers);
                (Frame::trailers(trailers), Body::Nothing)
            }
        };
        *self = next;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Nothing)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Nothing => SizeHint::with_exact(0),
            Body::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            // gRPC responses go without a length, as gRPC servers send them.
            _ => SizeHint::default(),
        }
    }
}
