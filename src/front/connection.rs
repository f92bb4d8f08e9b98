//! One connection: looks at its first bytes to tell HTTP/2 from HTTP/1.1, drives hyper, sends once
//! a turn what hyper has written, and ends it well when the member stops. It knows no request.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use super::clock::Sleep;
use super::socket::{Buffers, Owner, Socket};
use super::stop::{Stage, Ticket};
use super::{Calls, Front, Told, route, spawn};

/// What a client that speaks HTTP/2 at once begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes that a client may send on a stream, and on a connection, before we have read them.
const WINDOW_BYTES: u32 = 1 << 20;

/// Response bytes that hyper holds for a stream whose client is slow.
const SEND_BYTES_MAX: usize = 64 << 10;

/// Bytes of all headers of a request: as grpc-go's default allows far more than any client sends,
/// this is what a token and some metadata need.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// Streams that a client has reset and we have not looked at: more end the connection ("rapid
/// reset").
const RESETS_MAX: usize = 100;

/// How long the last bytes of a connection may take.
const FAREWELL: Duration = Duration::from_secs(5);

impl<C> Owner for Front<C> {
    fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    fn received(&self, count: usize) {
        self.tell(Told::BytesReceived { count });
    }

    fn sent(&self, count: usize) {
        self.tell(Told::BytesSent { count });
    }
}

/// Runs hyper's tasks, one for each HTTP/2 stream, and counts them.
#[derive(Clone, Debug)]
struct Tasks(Rc<Cell<usize>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let counted = Counted::new(&self.0);
        spawn(async move {
            future.await;
            drop(counted);
        })
        .detach();
    }
}

/// Counts until it is dropped.
struct Counted(Rc<Cell<usize>>);

impl Counted {
    fn new(count: &Rc<Cell<usize>>) -> Counted {
        count.update(|count| count + 1);
        Counted(Rc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.update(|count| count - 1);
    }
}

/// Serves a connection until it is over.
pub(super) async fn serve<C: Calls>(front: Rc<Front<C>>, stream: TcpStream) {
    let mut ticket = front.stop.join();
    let socket = Socket::new(Rc::clone(&front), stream);
    let head = front.clock.sleep(front.config.limits.head_timeout);
    let Some(first) = first_bytes(&socket, &mut ticket, head).await else {
        return;
    };
    let version2 = first.starts_with(PREFACE);
    socket.put_back(first);
    let calls = Rc::clone(&front);
    let service = service_fn(move |request| route::answer(Rc::clone(&calls), request));
    let served = if version2 {
        let connection = http2_settings(&front).serve_connection(socket.clone(), service);
        let goodbye = http2::Connection::graceful_shutdown;
        drive(&front, pin!(connection), goodbye, &socket, &mut ticket).await
    } else {
        let connection = http1_settings(&front).serve_connection(socket.clone(), service);
        let goodbye = http1::Connection::graceful_shutdown;
        drive(&front, pin!(connection), goodbye, &socket, &mut ticket).await
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
    let mut farewell = front.clock.sleep(FAREWELL);
    poll_fn(|cx| match (socket.poll_send(cx), ticket.stage(cx)) {
        (Poll::Ready(_), _) | (_, Stage::Cut) => Poll::Ready(()),
        _ => Pin::new(&mut farewell).poll(cx),
    })
    .await;
}

fn http2_settings<C>(front: &Front<C>) -> http2::Builder<Tasks> {
    let limits = &front.config.limits;
    let mut settings = http2::Builder::new(Tasks(Rc::clone(&front.streams)));
    settings
        .timer(front.clock.clone())
        .auto_date_header(false)
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(SEND_BYTES_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .keep_alive_timeout(limits.keepalive_timeout);
    if !limits.keepalive_interval.is_zero() {
        settings.keep_alive_interval(limits.keepalive_interval);
    }
    settings
}

fn http1_settings<C>(front: &Front<C>) -> http1::Builder {
    let mut settings = http1::Builder::new();
    settings
        .timer(front.clock.clone())
        .header_read_timeout(front.config.limits.head_timeout)
        .max_buf_size(HEADER_BYTES_MAX as usize);
    settings
}

/// The first bytes, enough of them to know the protocol; `None` when nothing sensible comes.
async fn first_bytes<O: Owner>(
    socket: &Socket<O>,
    ticket: &mut Ticket,
    mut late: Sleep,
) -> Option<Bytes> {
    let mut have = BytesMut::with_capacity(PREFACE.len());
    let mut buffer = [0; 64];
    while have.len() < PREFACE.len() && PREFACE.starts_with(&have) {
        let missing = PREFACE.len() - have.len();
        let read = poll_fn(|cx| {
            if ticket.stage(cx) != Stage::Serving || Pin::new(&mut late).poll(cx).is_ready() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            socket.poll_peer(cx, &mut buffer[..missing])
        });
        match read.await {
            Ok(count) if count > 0 => have.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
    Some(have.freeze())
}

/// Polls hyper's side of a connection to its end, and sends after each poll what it has written.
async fn drive<F, C>(
    front: &Front<C>,
    mut connection: Pin<&mut F>,
    goodbye: impl Fn(Pin<&mut F>),
    socket: &Socket<Front<C>>,
    ticket: &mut Ticket,
) -> Result<(), Ended>
where
    F: Future<Output = hyper::Result<()>>,
{
    let mut told = false;
    poll_fn(|cx: &mut Context<'_>| {
        match ticket.stage(cx) {
            Stage::Serving => {}
            Stage::Draining if told => {}
            Stage::Draining => {
                told = true;
                goodbye(connection.as_mut());
            }
            Stage::Cut => return Poll::Ready(Err(Ended::Cut)),
        }
        loop {
            let polled = connection.as_mut().poll(cx).map_err(Ended::Protocol);
            let answers = socket.has_output();
            let sent = match socket.poll_send(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ended::Socket(error))),
                sent => sent.is_ready(),
            };
            // A client that waited for this often sends its next request in a moment. Streams whose tasks
            // run have something to say or to ask first.
            let lone = front.incoming.is_single() && front.streams.get() == 0;
            let waits = polled.is_pending() && answers && sent && lone;
            if !waits || !socket.linger(&front.config.linger) {
                return polled;
            }
        }
    })
    .await
}

/// Why a connection ended before its client wanted it to.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the member stops")]
    Cut,
    #[error("the peer broke the protocol or went away")]
    Protocol(#[source] hyper::Error),
    #[error("the socket failed")]
    Socket(#[source] io::Error),
}
