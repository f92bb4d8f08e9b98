//! The two ends of a call that streams: messages of the client coming in, messages for it going
//! out. Both are queues of encoded protobuf messages between two tasks of one core. They know no
//! framing: the front puts gRPC frames or JSON lines around what passes here.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::status::Status;

/// Responses that may wait for a slow connection before [`Responses::ready`] holds its caller.
pub const WAITING_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Default)]
struct Shared {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// The producer has said its last word: `Ok` for a clean end.
    end: Option<Result<(), Status>>,
    /// The consumer has gone.
    closed: bool,
    consumer: Option<Waker>,
    producer: Option<Waker>,
}

impl Shared {
    fn wake_consumer(&mut self) {
        if let Some(waker) = self.consumer.take() {
            waker.wake();
        }
    }

    fn wake_producer(&mut self) {
        if let Some(waker) = self.producer.take() {
            waker.wake();
        }
    }
}

/// A pair of ends of one queue.
#[must_use]
pub fn pair() -> (Responses, Requests) {
    let shared = Rc::new(RefCell::new(Shared::default()));
    (Responses(Rc::clone(&shared)), Requests(shared))
}

/// The reading end: what arrives, in order. For a handler, the client's messages; for the front,
/// the handler's responses.
#[derive(Debug)]
pub struct Requests(Rc<RefCell<Shared>>);

impl Requests {
    /// The next message; `None` after the other side ended cleanly.
    pub async fn next(&mut self) -> Option<Result<Bytes, Status>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Requests::next`], for use inside a `poll` function.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Status>>> {
        let mut shared = self.0.borrow_mut();
        if let Some(message) = shared.queue.pop_front() {
            shared.bytes -= message.len();
            if shared.bytes <= WAITING_BYTES_MAX {
                shared.wake_producer();
            }
            return Poll::Ready(Some(Ok(message)));
        }
        match shared.end.clone() {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(status)) => {
                shared.end = Some(Ok(()));
                Poll::Ready(Some(Err(status)))
            }
            None => {
                shared.consumer = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        shared.closed = true;
        shared.queue.clear();
        shared.wake_producer();
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Responses(Rc<RefCell<Shared>>);

impl Responses {
    /// Queues a message. Never blocks: who can produce without end waits for [`Responses::ready`].
    pub fn push(&self, message: Bytes) {
        let mut shared = self.0.borrow_mut();
        if !shared.closed {
            shared.bytes += message.len();
            shared.queue.push_back(message);
            shared.wake_consumer();
        }
    }

    /// Waits until less than [`WAITING_BYTES_MAX`] waits, or the reader has gone. Returns whether
    /// it is still there.
    pub async fn ready(&self) -> bool {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// As [`Responses::ready`], for use inside a `poll` function.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut shared = self.0.borrow_mut();
        if shared.closed || shared.bytes <= WAITING_BYTES_MAX {
            return Poll::Ready(!shared.closed);
        }
        shared.producer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the reader has gone. Not together with [`Responses::ready`] from another task.
    pub async fn closed(&self) {
        poll_fn(|cx| {
            let mut shared = self.0.borrow_mut();
            if shared.closed {
                return Poll::Ready(());
            }
            shared.producer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Ends the stream: `Ok` cleanly, else with a status. Only the first end counts; dropping this
    /// end without one is a clean end.
    pub fn end(&self, end: Result<(), Status>) {
        let mut shared = self.0.borrow_mut();
        shared.end.get_or_insert(end);
        shared.wake_consumer();
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.end(Ok(()));
    }
}
