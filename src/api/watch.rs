//! The Watch service: carries messages between a client and its core's watch hub, which does the
//! rest. Knows of their contents only that they must be messages.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use cored_proto::etcdserverpb as pb;

use super::door::WatchStream;
use super::status::Status;
use super::stream::{Requests, Responses};
use super::{Api, Caller, decode_streamed};

impl Api {
    pub(super) async fn watch(
        &self,
        caller: &Caller,
        requests: &mut Requests,
        responses: &Responses,
    ) -> Result<(), Status> {
        if caller.requires_leader {
            self.current().await?;
        }
        let stream = self.door.watch();
        let mut relay = Relay { stream, requests, responses, asks: true };
        poll_fn(|cx| relay.poll(cx)).await
    }
}

struct Relay<'a> {
    stream: WatchStream,
    requests: &'a mut Requests,
    responses: &'a Responses,
    /// The client may still ask for something. When it has sent its last message its watches stay.
    asks: bool,
}

impl Relay<'_> {
    /// Moves what there is, both ways, until nothing moves. A client that does not read is not
    /// listened to either: whatever it asks for would be answered, and the answers would pile up.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            if let Poll::Ready(end) = self.poll_responses(cx) {
                return Poll::Ready(end);
            }
            if !ready!(self.responses.poll_ready(cx)) {
                return Poll::Ready(Ok(()));
            }
            if !self.asks {
                return Poll::Pending;
            }
            match ready!(self.requests.poll_next(cx)) {
                Some(request) => self.stream.send(decode_streamed::<pb::WatchRequest>(request?)?),
                None => self.asks = false,
            }
        }
    }

    /// Passes on what the hub has for the client, as long as the client takes it; what was passed
    /// on is reported once for all of it. Ready at the end of the stream only.
    fn poll_responses(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        let mut sent_bytes = 0;
        let mut end = Poll::Pending;
        while self.responses.poll_ready(cx) == Poll::Ready(true) {
            match self.stream.poll_next(cx) {
                Poll::Ready(Some(response)) => {
                    sent_bytes += response.len();
                    self.responses.push(response);
                }
                // The member stops. The client finds another, or this one when it is back.
                Poll::Ready(None) => {
                    end = Poll::Ready(Err(Status::STOPPED));
                    break;
                }
                Poll::Pending => break,
            }
        }
        if sent_bytes > 0 {
            self.stream.sent(sent_bytes);
        }
        end
    }
}
