//! The door between a core's connections and its engine: requests go in, answers come out, and a
//! task that waits for one is woken. One per core, used by that core's tasks alone. The drive loop
//! takes what came in, at the end of an executor turn and so in batches, and delivers answers.
//! Nothing here knows HTTP, nor what a request means.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cored_proto::etcdserverpb as pb;

use crate::shard::request::{Answer, Error, Request, RequestId};
use crate::watch::StreamId;
pub use crate::watch::WatchInput;

/// Requests that may be unanswered at once on one core; more are refused, as etcd does when it has
/// fallen behind ("too many requests").
pub const IN_FLIGHT_MAX: usize = 50_000;

/// Who this member is, for response headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's number.
    pub cluster_id: u64,
    /// This member's number.
    pub member_id: u64,
}

/// What comes in between two turns.
#[derive(Debug, Default)]
pub struct Inbox {
    /// New requests, in order.
    pub requests: Vec<(RequestId, Request)>,
    /// What watch streams ask, in order.
    pub watch: Vec<(StreamId, WatchInput)>,
    /// Requests whose caller has gone: they need no answer.
    pub abandoned: Vec<RequestId>,
}

impl Inbox {
    /// Whether nothing came in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.watch.is_empty() && self.abandoned.is_empty()
    }
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
    Answered(Result<Answer, Error>),
}

#[derive(Debug, Default)]
struct Queue {
    responses: VecDeque<Bytes>,
    waker: Option<Waker>,
}

/// The door of one core.
#[derive(Debug)]
pub struct Door {
    identity: Identity,
    term: Cell<u64>,
    next: Cell<u64>,
    inbox: RefCell<Inbox>,
    drive: RefCell<Option<Waker>>,
    slots: RefCell<HashMap<RequestId, Slot>>,
    streams: RefCell<HashMap<StreamId, Queue>>,
    /// Set once: every later request is answered with it.
    closed: Cell<Option<Error>>,
}

impl Door {
    /// A door nobody has passed yet.
    #[must_use]
    pub fn new(identity: Identity) -> Rc<Door> {
        Rc::new(Door {
            identity,
            term: Cell::new(0),
            next: Cell::new(1),
            inbox: RefCell::default(),
            drive: RefCell::default(),
            slots: RefCell::default(),
            streams: RefCell::default(),
            closed: Cell::new(None),
        })
    }

    /// A response header for `revision`.
    #[must_use]
    pub fn header(&self, revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            cluster_id: self.identity.cluster_id,
            member_id: self.identity.member_id,
            revision,
            raft_term: self.term.get(),
        }
    }

    /// Who this member is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// Asks the engine and waits for its answer. Dropping the future abandons the request; whether
    /// it still happens is then open.
    ///
    /// # Errors
    /// As the engine says; [`Error::TooManyRequests`] when too many wait already.
    pub async fn ask(&self, request: Request) -> Result<Answer, Error> {
        if let Some(error) = self.closed.get() {
            return Err(error);
        }
        if self.slots.borrow().len() >= IN_FLIGHT_MAX {
            return Err(Error::TooManyRequests);
        }
        let id = RequestId(self.number());
        self.slots.borrow_mut().insert(id, Slot::Waiting(None));
        self.push(|inbox| inbox.requests.push((id, request)));
        let _abandon = Abandon { door: self, id };
        poll_fn(|cx| {
            let mut slots = self.slots.borrow_mut();
            match slots.get_mut(&id).expect("a slot stays until it is read or abandoned") {
                Slot::Waiting(waker) => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Slot::Answered(_) => {
                    let Some(Slot::Answered(answer)) = slots.remove(&id) else {
                        unreachable!("just seen")
                    };
                    Poll::Ready(answer)
                }
            }
        })
        .await
    }

    /// Asks the engine for something whose answer nobody waits for: what a caller who has gone
    /// leaves to be tidied up.
    pub fn tell(&self, request: Request) {
        if self.closed.get().is_none() {
            let id = RequestId(self.number());
            self.push(|inbox| inbox.requests.push((id, request)));
        }
    }

    /// Opens a watch stream.
    pub fn watch(self: &Rc<Door>) -> WatchStream {
        let id = StreamId(self.number());
        self.streams.borrow_mut().insert(id, Queue::default());
        self.push(|inbox| inbox.watch.push((id, WatchInput::Open)));
        WatchStream { door: Rc::clone(self), id }
    }

    /// For the drive loop: waits until something came in.
    pub async fn arrived(&self) {
        poll_fn(|cx| self.poll_arrived(cx.waker())).await;
    }

    /// For the drive loop: whether something came in; if not, `waker` is woken when it does.
    pub fn poll_arrived(&self, waker: &Waker) -> Poll<()> {
        if !self.inbox.borrow().is_empty() {
            return Poll::Ready(());
        }
        *self.drive.borrow_mut() = Some(waker.clone());
        Poll::Pending
    }

    /// For the drive loop: takes everything that came in.
    #[must_use]
    pub fn take(&self) -> Inbox {
        self.inbox.take()
    }

    /// For the drive loop: gives an answer to whoever waits for it, if anybody still does.
    pub fn deliver(&self, id: RequestId, answer: Result<Answer, Error>) {
        if let Some(slot) = self.slots.borrow_mut().get_mut(&id)
            && let Slot::Waiting(waker) = std::mem::replace(slot, Slot::Answered(answer))
            && let Some(waker) = waker
        {
            waker.wake();
        }
    }

    /// For the drive loop: queues an encoded `WatchResponse` for a stream.
    pub fn deliver_watch(&self, id: StreamId, response: Bytes) {
        if let Some(queue) = self.streams.borrow_mut().get_mut(&id) {
            queue.responses.push_back(response);
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }

    /// For the drive loop: the Raft term that headers carry.
    pub fn set_term(&self, term: u64) {
        self.term.set(term);
    }

    /// For the drive loop: answers everything that waits, and everything that will, with `error`.
    pub fn close(&self, error: Error) {
        self.closed.set(Some(error));
        let waiting: Vec<RequestId> = self.slots.borrow().keys().copied().collect();
        waiting.into_iter().for_each(|id| self.deliver(id, Err(error)));
        for queue in self.streams.borrow_mut().values_mut() {
            if let Some(waker) = queue.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether nobody waits for anything here.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.slots.borrow().is_empty()
            && self.streams.borrow().is_empty()
            && self.inbox.borrow().is_empty()
    }

    /// Requests without an answer so far.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.borrow().len()
    }

    fn number(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    fn push(&self, add: impl FnOnce(&mut Inbox)) {
        add(&mut self.inbox.borrow_mut());
        if let Some(waker) = self.drive.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Tells the engine when a caller goes before its answer.
struct Abandon<'a> {
    door: &'a Door,
    id: RequestId,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if self.door.slots.borrow_mut().remove(&self.id).is_some() {
            self.door.push(|inbox| inbox.abandoned.push(self.id));
        }
    }
}

/// One client's watch stream; dropping it ends its watches.
#[derive(Debug)]
pub struct WatchStream {
    door: Rc<Door>,
    id: StreamId,
}

impl WatchStream {
    /// Passes a message of the client's on.
    pub fn send(&self, request: pb::WatchRequest) {
        let input = (self.id, WatchInput::Request(request));
        self.door.push(|inbox| inbox.watch.push(input));
    }

    /// The next encoded `WatchResponse`; `None` when the member stops.
    pub async fn next(&self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`WatchStream::next`], for use inside a `poll` function.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut streams = self.door.streams.borrow_mut();
        let queue = streams.get_mut(&self.id).expect("open until it is dropped");
        match queue.responses.pop_front() {
            Some(response) => Poll::Ready(Some(response)),
            None if self.door.closed.get().is_some() => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Says that a response of this many bytes has been handed to the connection.
    pub fn sent(&self, bytes: usize) {
        let input = (self.id, WatchInput::Sent { bytes });
        self.door.push(|inbox| inbox.watch.push(input));
    }
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.door.streams.borrow_mut().remove(&self.id);
        let input = (self.id, WatchInput::Close);
        self.door.push(|inbox| inbox.watch.push(input));
    }
}
