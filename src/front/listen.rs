//! Takes connections from the listening sockets and gives each to the core with the fewest, the first of several.
//! One thread for each socket waits in `accept`, and nothing else: with few connections the kernel's own
//! spreading (SO_REUSEPORT) hashes several of them onto one core and leaves another idle, while this is
//! even from the second connection on, and clients that come one after the other all meet the first core, which
//! has lane 0 and is warm. It knows no protocol.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::Poll;
use std::thread::JoinHandle;
use std::time::Duration;

use atomic_waker::AtomicWaker;

/// Connections that the kernel may complete before we accept them.
const BACKLOG: libc::c_int = 4096;

/// Seconds of silence before the kernel asks a peer whether it is there, between two such
/// questions, and how many of them may stay unanswered: a half-open connection is gone in 2 minutes.
const PROBE_IDLE_S: libc::c_int = 30;
const PROBE_INTERVAL_S: libc::c_int = 30;
const PROBES: libc::c_int = 3;

/// How long `accept` is left alone when the process is out of descriptors or memory and none of our
/// own connections closes meanwhile.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(250);

/// A listening socket at `address`, with a backlog for bursts of clients.
///
/// # Errors
/// The kernel's: the port is taken, the address is not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // SAFETY: listening again on a listening socket only sets its backlog.
    match unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) } {
        0 => Ok(listener),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The threads that accept. Dropping it stops them.
#[derive(Debug)]
pub struct Acceptor {
    shared: Arc<Shared>,
    threads: Vec<(Arc<TcpListener>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Shared {
    connections_max: usize,
    stopping: AtomicBool,
    cores: Vec<Arc<Handoff>>,
    open: Arc<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: Mutex<usize>,
    closed: Condvar,
}

/// From the accepting thread to one core; bounded by the connections the process may have.
#[derive(Debug, Default)]
struct Handoff {
    queue: Mutex<VecDeque<(TcpStream, Admission)>>,
    /// Connections of this core that are open, those in the queue too.
    open: Arc<AtomicUsize>,
    waker: AtomicWaker,
    ended: AtomicBool,
}

/// A connection counts as open until this is dropped.
#[derive(Debug)]
pub struct Admission {
    all: Arc<Open>,
    /// Those of its core.
    core: Arc<AtomicUsize>,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.core.fetch_sub(1, Ordering::Relaxed);
        *self.all.count.lock().expect("never poisoned") -= 1;
        self.all.closed.notify_one();
    }
}

impl Acceptor {
    /// Accepts from `listeners` for so many cores; at most `connections_max` are open at once. Each
    /// [`Incoming`] belongs to one core.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn start(
        listeners: Vec<TcpListener>,
        cores: usize,
        connections_max: usize,
    ) -> io::Result<(Acceptor, Vec<Incoming>)> {
        let shared = Arc::new(Shared {
            connections_max,
            stopping: AtomicBool::new(false),
            cores: (0..cores).map(|_| Arc::default()).collect(),
            open: Arc::default(),
        });
        let incoming = shared.cores.iter().map(|core| Incoming(Arc::clone(core))).collect();
        let mut acceptor = Acceptor { shared, threads: Vec::new() };
        for listener in listeners {
            let listener = Arc::new(listener);
            let (socket, shared) = (Arc::clone(&listener), Arc::clone(&acceptor.shared));
            let thread = std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || shared.accept(&socket))?;
            acceptor.threads.push((listener, thread));
        }
        Ok((acceptor, incoming))
    }

    /// Connections that are open now, on all cores.
    #[must_use]
    pub fn open(&self) -> usize {
        *self.shared.open.count.lock().expect("never poisoned")
    }

    /// Accepts no more: each [`Incoming`] ends after what it already holds.
    pub fn stop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        for (listener, thread) in self.threads.drain(..) {
            // SAFETY: the descriptor is open; on a listening socket this ends a waiting `accept`.
            unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RD) };
            self.shared.open.closed.notify_all();
            if thread.join().is_err() {
                tracing::error!("an accepting thread had panicked");
            }
        }
        for core in &self.shared.cores {
            core.ended.store(true, Ordering::SeqCst);
            core.waker.wake();
        }
    }
}

impl Drop for Acceptor {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn accept(&self, listener: &TcpListener) {
        while !self.stopping.load(Ordering::SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) if self.stopping.load(Ordering::SeqCst) => {
                    tracing::debug!(%error, "the listener is closed");
                }
                Err(error) => self.survive(&error),
            }
        }
    }

    /// Hands a connection to the core with the fewest, or closes it when there are too many.
    fn admit(&self, stream: TcpStream) {
        {
            let mut open = self.open.count.lock().expect("never poisoned");
            if *open >= self.connections_max {
                return;
            }
            *open += 1;
        }
        let fewest = self.cores.iter().min_by_key(|core| core.open.load(Ordering::Relaxed));
        let core = fewest.expect("there is a core");
        core.open.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { all: Arc::clone(&self.open), core: Arc::clone(&core.open) };
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "a connection was gone before it was served");
            return;
        }
        core.queue.lock().expect("never poisoned").push_back((stream, admission));
        core.waker.wake();
    }

    fn survive(&self, error: &io::Error) {
        let exhausted = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        if error.raw_os_error().is_some_and(|code| exhausted.contains(&code)) {
            tracing::warn!(%error, "cannot accept a connection");
            // Trying again at once would spin: the connection still waits in the backlog.
            let open = self.open.count.lock().expect("never poisoned");
            drop(self.open.closed.wait_timeout(open, EXHAUSTED_WAIT).expect("never poisoned"));
        }
        // Anything else concerns one connection that is gone already.
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    set(stream, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, PROBE_IDLE_S)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, PROBE_INTERVAL_S)?;
    set(stream, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, PROBES)
}

fn set(stream: &TcpStream, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let len = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option's value is an integer that outlives the call.
    let done = unsafe {
        libc::setsockopt(stream.as_raw_fd(), level, name, (&raw const value).cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The connections of one core.
#[derive(Debug)]
pub struct Incoming(Arc<Handoff>);

impl Incoming {
    /// Whether this core has no connection but one.
    pub(super) fn is_single(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) == 1
    }

    /// The next connection; `None` once the acceptor has stopped.
    pub async fn next(&self) -> Option<(TcpStream, Admission)> {
        poll_fn(|cx| {
            self.0.waker.register(cx.waker());
            let ended = self.0.ended.load(Ordering::SeqCst);
            match self.0.queue.lock().expect("never poisoned").pop_front() {
                Some(connection) => Poll::Ready(Some(connection)),
                None if ended => Poll::Ready(None),
                None => Poll::Pending,
            }
        })
        .await
    }
}
