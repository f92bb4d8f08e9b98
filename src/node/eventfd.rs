//! Waits for a log's eventfd in the executor: a read of it through the executor's own ring, so that
//! a finished write costs no extra system call and no thread. One read is always under way; the
//! log's completion queue is looked at before anybody waits here.

use std::future::Future;
use std::os::fd::{FromRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use glommio::io::BufferedFile;

/// The size of an eventfd's counter.
pub(super) const COUNTER_BYTES: usize = 8;

type Read = Pin<Box<dyn Future<Output = bool>>>;

/// A log's eventfd on this executor.
pub(super) struct EventFd {
    file: Rc<BufferedFile>,
    read: Option<Read>,
}

impl EventFd {
    /// Waits for `fd`, which is blocking and stays the log's own: this holds a duplicate.
    ///
    /// # Panics
    /// If the process has no descriptor left: nothing works without this one.
    pub(super) fn new(fd: RawFd) -> EventFd {
        // SAFETY: the call takes no memory, and a bad descriptor is an error.
        let own = unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0) };
        assert!(own >= 0, "duplicate an eventfd: {}", std::io::Error::last_os_error());
        // SAFETY: just made, so nobody else closes it.
        let file = Rc::new(unsafe { BufferedFile::from_raw_fd(own) });
        EventFd { file, read: None }
    }

    /// Whether it was readable since the last time; it has been read then. If not, the task is woken
    /// when it is.
    ///
    /// # Panics
    /// If it can not be read. Its only errors are a wrong descriptor and a wrong size.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut readable = false;
        loop {
            let read = self.read.get_or_insert_with(|| {
                let file = Rc::clone(&self.file);
                Box::pin(async move { file.read_at(0, COUNTER_BYTES).await.is_ok() })
            });
            match read.as_mut().poll(cx) {
                Poll::Pending if readable => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
                Poll::Ready(read) => {
                    assert!(read, "the eventfd of a log can not be read");
                    self.read = None;
                    readable = true;
                }
            }
        }
    }
}
