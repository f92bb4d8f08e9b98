//! hyper's view of a glommio socket. Writes are gathered: hyper's go to a buffer, and the driver of
//! the connection sends it once it has polled hyper, so that all responses of a turn leave in one
//! system call. It knows no HTTP.

use std::cell::RefCell;
use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::ReadBufCursor;

/// Bytes gathered before a write waits for the socket.
const GATHERED_MAX: usize = 128 << 10;

/// A write of this size goes to the socket by itself when nothing is gathered: copying it would cost
/// more than the system call.
const DIRECT_MIN: usize = 64 << 10;

/// Most bytes that one read brings.
const READ_MAX: usize = 64 << 10;

/// Emptied output buffers that are kept for the next connection with something to say.
const SPARE_MAX: usize = 64;

/// An output buffer that has grown beyond this is not kept.
const SPARE_BYTES_MAX: usize = 2 * GATHERED_MAX;

/// What the sockets of a core share: an idle connection owns no buffer here.
#[derive(Debug)]
pub(super) struct Buffers {
    read: RefCell<Box<[u8]>>,
    spare: RefCell<Vec<Vec<u8>>>,
}

impl Default for Buffers {
    fn default() -> Self {
        Buffers { read: RefCell::new(vec![0; READ_MAX].into()), spare: RefCell::default() }
    }
}

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.spare.borrow_mut().pop().unwrap_or_default()
    }

    fn give(&self, mut buffer: Vec<u8>) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE_MAX && (1..=SPARE_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// A socket with two handles: hyper's, and that of the connection's driver.
pub(super) struct Socket<O> {
    owner: Rc<O>,
    state: Rc<RefCell<State>>,
}

impl<O> Clone for Socket<O> {
    fn clone(&self) -> Self {
        Socket { owner: Rc::clone(&self.owner), state: Rc::clone(&self.state) }
    }
}

struct State {
    stream: TcpStream,
    /// What was read while looking at the first bytes; hyper reads it again.
    unread: Bytes,
    /// Gathered output, and how much of it has been sent.
    out: Vec<u8>,
    sent: usize,
    /// hyper has asked for more than there was.
    starved: bool,
    /// Something can be read, though the executor has not noticed yet.
    readable: bool,
    closed: bool,
}

/// Who owns the shared buffers and counts the bytes.
pub(super) trait Owner {
    fn buffers(&self) -> &Buffers;
    fn received(&self, bytes: usize);
    fn sent(&self, bytes: usize);
}

impl<O: Owner> Socket<O> {
    pub(super) fn new(owner: Rc<O>, stream: StdStream) -> Socket<O> {
        // SAFETY: the descriptor is a connected socket that nobody else owns any more.
        let stream = unsafe { TcpStream::from_raw_fd(stream.into_raw_fd()) };
        let state = State {
            stream,
            unread: Bytes::new(),
            out: Vec::new(),
            sent: 0,
            starved: false,
            readable: false,
            closed: false,
        };
        Socket { owner, state: Rc::new(RefCell::new(state)) }
    }

    /// Reads at most `buffer.len()` bytes; 0 means that the peer is done.
    pub(super) fn poll_peer(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        let count = ready!(Pin::new(&mut state.stream).poll_read(cx, buffer))?;
        self.owner.received(count);
        Poll::Ready(Ok(count))
    }

    /// Has hyper read these bytes first.
    pub(super) fn put_back(&self, bytes: Bytes) {
        self.state.borrow_mut().unread = bytes;
    }

    /// Sends what is gathered; ready when nothing is left.
    pub(super) fn poll_send(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.state.borrow_mut().poll_send(cx, &*self.owner)
    }

    /// Whether something is gathered.
    pub(super) fn has_output(&self) -> bool {
        self.state.borrow().gathered() > 0
    }

    /// If hyper has nothing left to look at, sees with `wait` whether the peer sends something. If so, the next
    /// read does not ask the executor.
    pub(super) fn linger(&self, wait: impl FnOnce(RawFd) -> bool) -> bool {
        let mut state = self.state.borrow_mut();
        state.readable = state.starved && wait(state.stream.as_raw_fd());
        state.readable
    }
}

impl State {
    fn poll_send(&mut self, cx: &mut Context<'_>, owner: &impl Owner) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let rest = &self.out[self.sent..];
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            owner.sent(count);
            self.sent += count;
        }
        if self.sent > 0 {
            self.sent = 0;
            owner.buffers().give(std::mem::take(&mut self.out));
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what [`Socket::linger`] has seen, past the executor: as long as that waits for this socket it
    /// would not look itself. `None` if there is nothing after all.
    fn read_at_once(&mut self, buffer: &mut [u8]) -> Option<io::Result<usize>> {
        if !std::mem::take(&mut self.readable) {
            return None;
        }
        let (fd, into) = (self.stream.as_raw_fd(), buffer.as_mut_ptr().cast());
        // SAFETY: the kernel writes into the buffer alone, and no more than its length.
        let count = unsafe { libc::recv(fd, into, buffer.len(), libc::MSG_DONTWAIT) };
        match usize::try_from(count).map_err(|_| io::Error::last_os_error()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            read => Some(read),
        }
    }

    fn gathered(&self) -> usize {
        self.out.len() - self.sent
    }
}

impl<O: Owner> hyper::rt::Read for Socket<O> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        if !state.unread.is_empty() {
            let count = state.unread.len().min(into.remaining());
            into.put_slice(&state.unread[..count]);
            state.unread.advance(count);
            return Poll::Ready(Ok(()));
        }
        let mut buffer = self.owner.buffers().read.borrow_mut();
        let most = buffer.len().min(into.remaining());
        let read = match state.read_at_once(&mut buffer[..most]) {
            Some(read) => Poll::Ready(read),
            None => Pin::new(&mut state.stream).poll_read(cx, &mut buffer[..most]),
        };
        state.starved = read.is_pending();
        let count = ready!(read)?;
        self.owner.received(count);
        into.put_slice(&buffer[..count]);
        Poll::Ready(Ok(()))
    }
}

impl<O: Owner> hyper::rt::Write for Socket<O> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        if state.gathered() >= GATHERED_MAX {
            ready!(state.poll_send(cx, &*self.owner))?;
        }
        if state.out.is_empty() && bytes.len() >= DIRECT_MIN {
            let count = ready!(Pin::new(&mut state.stream).poll_write(cx, bytes))?;
            self.owner.sent(count);
            return Poll::Ready(Ok(count));
        }
        if state.out.capacity() == 0 {
            state.out = self.owner.buffers().take();
        }
        if state.sent >= GATHERED_MAX {
            // A slow reader takes bytes without ever emptying the buffer.
            state.out.drain(..state.sent);
            state.sent = 0;
        }
        let count = bytes.len().min(GATHERED_MAX);
        state.out.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    /// Says yes although nothing was sent: the driver sends after each poll of hyper.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        ready!(state.poll_send(cx, &*self.owner))?;
        if !state.closed {
            state.closed = true;
            return Pin::new(&mut state.stream).poll_close(cx);
        }
        Poll::Ready(Ok(()))
    }
}
