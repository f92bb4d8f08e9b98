//! A front on an executor of its own with a simple service behind it, and clients to call it.

use std::cell::RefCell;
use std::future::pending;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cored_proto::Method;
use http::{HeaderMap, Request};

use crate::api::Caller;
use crate::api::pages::Page;
use crate::api::status::{Code, Status};
use crate::api::stream::{Requests, Responses};
use crate::front::{Acceptor, Calls, Config, Limits, Told, bind, serve};

/// What the service was asked and what became of it.
pub(super) type Heard = Arc<Mutex<Vec<String>>>;

/// A service that says back what it hears; some methods misbehave in a way of their own.
struct Echo {
    heard: Heard,
}

/// Notes that a call was dropped before it was answered.
struct Dropped(Heard);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.lock().expect("whole").push("dropped".into());
    }
}

impl Calls for Echo {
    async fn unary(
        self: Rc<Self>,
        method: &'static Method,
        caller: Caller,
        request: Bytes,
    ) -> Result<Bytes, Status> {
        self.heard.lock().expect("whole").push(format!("{} {caller:?}", method.name));
        match method.name {
            "DeleteRange" => Err(Status::fixed(Code::NotFound, "no such k\u{e9}y: 100%")),
            "Compact" => {
                let _dropped = Dropped(Arc::clone(&self.heard));
                pending().await
            }
            "Status" => {
                let told = |heard: &Heard| {
                    heard.lock().expect("whole").iter().any(|heard| heard == "go on")
                };
                while !told(&self.heard) {
                    glommio::timer::sleep(Duration::from_millis(1)).await;
                }
                Ok(request)
            }
            _ => Ok(request),
        }
    }

    async fn stream(
        self: Rc<Self>,
        method: &'static Method,
        _caller: Caller,
        mut requests: Requests,
        responses: Responses,
    ) {
        let _dropped = Dropped(Arc::clone(&self.heard));
        match method.name {
            "Snapshot" => {
                for _ in 0..200 {
                    responses.push(Bytes::from(vec![7; 10_000]));
                    if !responses.ready().await {
                        return;
                    }
                }
            }
            "Observe" => responses.end(Err(Status::fixed(Code::Unavailable, "not now"))),
            _ => {
                while let Some(request) = requests.next().await {
                    match request {
                        Ok(message) => responses.push(message),
                        Err(status) => return responses.end(Err(status)),
                    }
                }
            }
        }
    }

    async fn page(self: Rc<Self>, path: String, query: String) -> Option<Page> {
        let page = |status, body: String| {
            Some(Page { status, content_type: "text/plain; charset=utf-8", body })
        };
        match path.as_str() {
            "/health" => page(503, format!("{{\"health\":\"false\",\"reason\":\"{query}\"}}")),
            _ => None,
        }
    }
}

/// Whether a socket has something to read, sooner or later.
type Wait = Box<dyn Fn(RawFd) -> bool + Send>;

/// The front and what is needed to look at it and to stop it.
pub(super) struct House {
    pub(super) address: SocketAddr,
    pub(super) heard: Heard,
    pub(super) told: Arc<Mutex<Vec<Told>>>,
    acceptor: RefCell<Option<Acceptor>>,
    done: mpsc::Receiver<()>,
}

impl House {
    pub(super) fn open() -> House {
        House::with(Limits::default())
    }

    pub(super) fn with(limits: Limits) -> House {
        House::build(limits, None)
    }

    /// One that waits in place so long for its only client, and notes when it begins to.
    pub(super) fn patient(patience: Duration) -> House {
        House::build(Limits::default(), Some(Box::new(move |fd| readable(fd, patience))))
    }

    /// One that believes at once that its only client has sent something.
    pub(super) fn credulous() -> House {
        House::build(Limits::default(), Some(Box::new(|_| true)))
    }

    fn build(limits: Limits, wait: Option<Wait>) -> House {
        let listener = bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (acceptor, mut incoming) =
            Acceptor::start(vec![listener], 1, limits.connections_max).expect("a thread");
        let (heard, told) = (Heard::default(), Arc::new(Mutex::new(Vec::new())));
        let (said, done) = mpsc::channel();
        let (of_echo, of_config) = (Arc::clone(&heard), Arc::clone(&told));
        let of_linger = Arc::clone(&heard);
        let incoming = incoming.remove(0);
        std::thread::spawn(move || {
            let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
                .io_memory(1 << 20)
                .preempt_timer(Duration::from_secs(3600))
                .make()
                .expect("an executor");
            executor.run(async move {
                let config = Config {
                    limits,
                    metrics: Box::new(|| "up 1\n".into()),
                    vars: Box::new(|| "{}\n".into()),
                    told: Rc::new(move |told| of_config.lock().expect("whole").push(told)),
                    times: false,
                    linger: Box::new(move |fd| {
                        wait.as_ref().is_some_and(|wait| {
                            of_linger.lock().expect("whole").push("lingers".into());
                            wait(fd)
                        })
                    }),
                };
                serve(config, incoming, Rc::new(Echo { heard: of_echo })).await;
            });
            said.send(()).expect("the test waits");
        });
        House { address, heard, told, acceptor: RefCell::new(Some(acceptor)), done }
    }

    /// Tells the front to stop.
    pub(super) fn stop(&self) {
        drop(self.acceptor.take());
    }

    /// Connections that are open.
    pub(super) fn open_connections(&self) -> usize {
        self.acceptor.borrow().as_ref().map_or(0, Acceptor::open)
    }

    /// Waits until the front has returned.
    pub(super) fn closed(&self) {
        self.done.recv_timeout(Duration::from_secs(60)).expect("the front returns");
    }

    pub(super) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("the front listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        stream
    }

    /// Sends bytes and reads until the front closes the connection.
    pub(super) fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).expect("sent");
        let mut answer = Vec::new();
        // A reset after the answer is no matter.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// An HTTP/1.1 request; returns status, head and body.
    pub(super) fn http1(&self, verb: &str, path: &str, body: &str) -> (u16, String, String) {
        let answer = self.raw(
            format!(
                "{verb} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    /// How often the service has heard something that begins so.
    pub(super) fn count_heard(&self, what: &str) -> usize {
        let heard = self.heard.lock().expect("whole");
        heard.iter().filter(|heard| heard.starts_with(what)).count()
    }
}

/// Blocks until `fd` can be read, but not longer than `patience`.
fn readable(fd: RawFd, patience: Duration) -> bool {
    let mut look = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let patience_ms = patience.as_millis().try_into().expect("not that long");
    // SAFETY: the kernel writes into `look` alone.
    unsafe { libc::poll(&raw mut look, 1, patience_ms) == 1 }
}

/// Polls a condition that another thread will make true.
pub(super) fn wait(condition: impl Fn() -> bool) {
    let begun = std::time::Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it never came");
        std::thread::yield_now();
    }
}

/// The answer to a gRPC call: headers (with `:status`), messages with their frames, trailers.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: HeaderMap,
}

impl Answer {
    /// The gRPC status and its text, from wherever they stand.
    pub(super) fn end(&self) -> (String, String) {
        let get = |name| {
            let value = self.trailers.get(name).or_else(|| self.headers.get(name));
            value.map_or("", |value| value.to_str().expect("ASCII")).to_owned()
        };
        (get("grpc-status"), get("grpc-message"))
    }
}

pub(super) type Client = h2::client::SendRequest<Bytes>;

/// Runs a client on a small runtime of its own.
pub(super) fn client<T>(house: &House, work: impl AsyncFnOnce(Client) -> T) -> T {
    let address = house.address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        let stream = tokio::net::TcpStream::connect(address).await.expect("the front listens");
        // A stream that is not read must not use up the window of the connection: that would stop
        // the others by HTTP/2's own rules.
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(32 << 10).initial_connection_window_size(4 << 20);
        let (client, connection) = settings.handshake(stream).await.expect("HTTP/2");
        tokio::spawn(async move {
            // It ends in its own way in each test.
            let _ = connection.await;
        });
        work(client).await
    })
}

pub(super) fn request(path: &str) -> http::request::Builder {
    Request::post(format!("http://x{path}")).header("content-type", "application/grpc")
}

/// One call whose body is sent in the given pieces.
pub(super) async fn call(
    client: &Client,
    request: http::request::Builder,
    pieces: &[&[u8]],
) -> Result<Answer, h2::Error> {
    let mut client = client.clone().ready().await?;
    let request = request.body(()).expect("a request");
    let (response, mut sender) = client.send_request(request, pieces.is_empty())?;
    for (at, piece) in pieces.iter().enumerate() {
        // What the front refuses early it no longer reads.
        let _ = sender.send_data(Bytes::copy_from_slice(piece), at + 1 == pieces.len());
    }
    answer(response).await
}

pub(super) async fn answer(response: h2::client::ResponseFuture) -> Result<Answer, h2::Error> {
    let (head, mut body) = response.await?.into_parts();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        bytes.extend_from_slice(&piece);
    }
    let trailers = body.trailers().await?.unwrap_or_default();
    let (status, headers) = (head.status.as_u16(), head.headers);
    Ok(Answer { status, headers, body: bytes.freeze(), trailers })
}
