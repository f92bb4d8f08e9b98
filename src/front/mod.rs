//! The front of the house: takes connections, speaks HTTP/2 and HTTP/1.1 on one port, frames gRPC,
//! translates JSON, and serves the plain pages. It hands encoded protobuf messages to whoever
//! implements [`Calls`] and knows no service, no key and no revision.
//!
//! ```text
//! listen      one thread accepts and gives connections to the cores
//! connection  looks at the first bytes, drives hyper, writes once a turn
//! route       gRPC, gateway, page or refusal?
//! grpc        frames in and out            json   the same messages as JSON
//! pages       /health /version /metrics …  body   what responses are made of
//! socket      hyper's view of a socket     clock  hyper's view of time
//! ```

mod body;
pub mod budget;
mod clock;
mod connection;
mod deadline;
pub mod grpc;
mod json;
mod listen;
mod pages;
mod relay;
mod route;
mod socket;
mod stop;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cored_proto::{METHODS, Method};

pub use crate::api::pages::Page;
use crate::api::status::{Code, Status};
use crate::api::stream::{Requests, Responses};
use crate::api::{Api, Caller};

pub use listen::{Acceptor, Incoming, bind};

/// What a connection and a core may cost.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of the whole process; one more is closed at once.
    pub connections_max: usize,
    /// Streams that a client may have open on a connection: `--max-concurrent-streams`.
    pub streams_max: u32,
    /// Largest message of a client: `--max-request-bytes` and etcd's 512 KiB on top.
    pub message_bytes_max: usize,
    /// Bytes of requests of which only a part has arrived, all connections of a core together.
    pub partial_bytes_max: usize,
    /// Silence after which a client is asked whether it is still there:
    /// `--grpc-keepalive-interval`; zero never asks.
    pub keepalive_interval: Duration,
    /// How long it has to answer: `--grpc-keepalive-timeout`.
    pub keepalive_timeout: Duration,
    /// How long a client may take to say which protocol it speaks, and for the head of an
    /// HTTP/1.1 request. A connection that is quiet between two requests is closed after it too.
    pub head_timeout: Duration,
    /// How long calls may go on once the member stops.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: 20_000,
            streams_max: 10_000,
            message_bytes_max: (1_536 << 10) + (512 << 10),
            partial_bytes_max: 256 << 20,
            keepalive_interval: Duration::from_secs(2 * 3600),
            keepalive_timeout: Duration::from_secs(20),
            head_timeout: Duration::from_secs(300),
            grace: Duration::from_secs(5),
        }
    }
}

/// Something that happened at the door, for counters. `method` is an index into
/// [`cored_proto::METHODS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants say it")]
pub enum Told {
    Started {
        method: usize,
    },
    Handled {
        method: usize,
        code: Code,
    },
    /// How long a call took; only if [`Config::times`] asks for it.
    Took {
        method: usize,
        took: Duration,
    },
    MessageReceived {
        method: usize,
    },
    MessageSent {
        method: usize,
    },
    BytesReceived {
        count: usize,
    },
    BytesSent {
        count: usize,
    },
}

/// What the front is told by the house around it.
pub struct Config {
    /// Bounds and times.
    pub limits: Limits,
    /// The text of `/metrics`.
    pub metrics: Box<dyn Fn() -> String>,
    /// The text of `/debug/vars`.
    pub vars: Box<dyn Fn() -> String>,
    /// Listens to what happens.
    pub told: Rc<dyn Fn(Told)>,
    /// Whether calls are timed.
    pub times: bool,
    /// Waits in place until this socket has something to read, and says whether it has; asked when the only
    /// client of a core has been answered. It may say no at once, and should not wait for long.
    pub linger: Box<dyn Fn(RawFd) -> bool>,
}

/// Who answers calls: the API of a core; in this room's tests something simpler.
pub trait Calls: 'static {
    /// Answers a call with one request and one response, both encoded messages.
    fn unary(
        self: Rc<Self>,
        method: &'static Method,
        caller: Caller,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, Status>> + 'static;

    /// Serves a call that streams until it is over.
    fn stream(
        self: Rc<Self>,
        method: &'static Method,
        caller: Caller,
        requests: Requests,
        responses: Responses,
    ) -> impl Future<Output = ()> + 'static;

    /// What `path` shows, if it is one of the pages that tell how the member is.
    fn page(
        self: Rc<Self>,
        path: String,
        query: String,
    ) -> impl Future<Output = Option<Page>> + 'static;
}

impl Calls for Api {
    fn unary(
        self: Rc<Self>,
        method: &'static Method,
        caller: Caller,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, Status>> + 'static {
        Api::unary(self, method, caller, request)
    }

    fn stream(
        self: Rc<Self>,
        method: &'static Method,
        caller: Caller,
        requests: Requests,
        responses: Responses,
    ) -> impl Future<Output = ()> + 'static {
        Api::stream(self, method, caller, requests, responses)
    }

    fn page(
        self: Rc<Self>,
        path: String,
        query: String,
    ) -> impl Future<Output = Option<Page>> + 'static {
        Api::page(self, path, query)
    }
}

/// What all connections of a core share.
struct Front<C> {
    config: Config,
    calls: Rc<C>,
    /// gRPC path to index into [`METHODS`].
    methods: HashMap<String, usize>,
    clock: clock::Clock,
    buffers: socket::Buffers,
    stop: stop::Stop,
    /// JSON path below `/v3/` to index into [`METHODS`].
    routes: HashMap<&'static str, usize>,
    partial: budget::Budget,
    incoming: Incoming,
    /// HTTP/2 streams whose task has not ended.
    streams: Rc<Cell<usize>>,
}

impl<C> Front<C> {
    fn tell(&self, told: Told) {
        (self.config.told)(told);
    }
}

/// Serves the connections that `incoming` brings until the [`Acceptor`] stops; then says goodbye
/// (GOAWAY), lets calls finish within the grace period, cuts what is left, and returns. Runs on the
/// current executor.
pub async fn serve<C: Calls>(config: Config, incoming: Incoming, calls: Rc<C>) {
    let grace = config.limits.grace;
    let partial = budget::Budget::new(config.limits.partial_bytes_max);
    let methods = METHODS.iter().enumerate();
    let front = Rc::new(Front {
        config,
        calls,
        methods: methods.map(|(at, m)| (format!("/{}/{}", m.service, m.name), at)).collect(),
        clock: clock::Clock::new(),
        buffers: socket::Buffers::default(),
        stop: stop::Stop::default(),
        routes: json::table(),
        partial,
        incoming,
        streams: Rc::default(),
    });
    let ticking = front.clock.clone();
    let ticker = spawn(async move { ticking.run().await });
    while let Some((stream, admission)) = front.incoming.next().await {
        let front = Rc::clone(&front);
        spawn(async move {
            connection::serve(front, stream).await;
            drop(admission);
        })
        .detach();
    }
    front.stop.drain();
    let mut over = front.clock.sleep(grace);
    poll_fn(|cx| match front.stop.poll_empty(cx) {
        std::task::Poll::Pending => std::pin::Pin::new(&mut over).poll(cx),
        done => done,
    })
    .await;
    front.stop.cut();
    poll_fn(|cx| front.stop.poll_empty(cx)).await;
    ticker.cancel().await;
}

/// A call that has begun; dropping it tells how it ended. A call that was never answered was
/// cancelled by its client.
struct Call {
    told: Rc<dyn Fn(Told)>,
    method: usize,
    code: Code,
    /// When it began, if calls are timed.
    began: Option<Instant>,
}

impl Call {
    fn begin(config: &Config, method: usize) -> Call {
        (config.told)(Told::Started { method });
        let began = config.times.then(Instant::now);
        Call { told: Rc::clone(&config.told), method, code: Code::Canceled, began }
    }

    /// Says with which code it ends. A method and no bare field: a block that owns a call would
    /// else take the field alone and leave the call behind, which then ends too early.
    fn ends(&mut self, code: Code) {
        self.code = code;
    }

    fn message_received(&self) {
        (self.told)(Told::MessageReceived { method: self.method });
    }

    fn message_sent(&self) {
        (self.told)(Told::MessageSent { method: self.method });
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let method = self.method;
        (self.told)(Told::Handled { method, code: self.code });
        if let Some(began) = self.began {
            (self.told)(Told::Took { method, took: began.elapsed() });
        }
    }
}

/// Starts a task behind those that are runnable already. glommio's `spawn_local` would run it at
/// once, in the middle of its maker: then each response would leave in a write of its own.
fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> glommio::Task<T> {
    let queue = glommio::executor().current_task_queue();
    glommio::spawn_local_into(future, queue).expect("the queue of a running task exists")
}
