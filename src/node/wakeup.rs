//! A wake-up for a core that waits in place, where no waker reaches it: an eventfd that it looks at together
//! with the descriptor it waits for.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::eventfd::COUNTER_BYTES;

/// Given by any thread, heard by the one that waits. It stays until it was heard.
#[derive(Debug)]
pub(super) struct Wakeup(OwnedFd);

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// What was waited for can be read.
    Readable,
    /// Somebody wants this core.
    Woken,
    /// Nothing came.
    InVain,
}

impl Wakeup {
    /// # Panics
    /// If the process has no descriptor left: it has just begun.
    pub(super) fn new() -> Wakeup {
        // SAFETY: the call takes no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        assert!(fd >= 0, "make an eventfd: {}", io::Error::last_os_error());
        // SAFETY: just made, so nobody else closes it.
        Wakeup(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(super) fn give(&self) {
        let one = 1_u64;
        // SAFETY: the kernel reads the eight bytes of `one`. All that can go wrong is a full counter, which is
        // heard too.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), COUNTER_BYTES) };
    }

    /// Blocks until `fd` can be read or has failed, which a read will tell; until a wake-up is heard, or
    /// `at_most` is over.
    pub(super) fn wait_for(&self, fd: RawFd, at_most: Duration) -> Ended {
        let look = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut looks = [look(fd), look(self.0.as_raw_fd())];
        let timeout = libc::timespec {
            tv_sec: at_most.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let (start, count) = (looks.as_mut_ptr(), looks.len() as libc::nfds_t);
        // SAFETY: the kernel writes into `looks` and reads `timeout`; no signal mask is given.
        let ready = unsafe { libc::ppoll(start, count, &raw const timeout, std::ptr::null()) };
        let [readable, woken] = looks.map(|look| ready > 0 && look.revents != 0);
        if woken {
            let mut counter = 0_u64;
            // SAFETY: the kernel writes the eight bytes of `counter`. It does not block.
            unsafe { libc::read(self.0.as_raw_fd(), (&raw mut counter).cast(), COUNTER_BYTES) };
        }
        match (readable, woken) {
            (true, _) => Ended::Readable,
            (false, true) => Ended::Woken,
            (false, false) => Ended::InVain,
        }
    }
}
