//! An io_uring ring of a log's own, with an eventfd that tells of its completions. It knows
//! descriptors and numbers, not what the operations are for.
//!
//! Nothing is registered but the eventfd, so the limit on locked memory does not matter. The ring
//! uses none of the task-run flags: completions then appear without a call into the kernel, and the
//! ring may be made on one thread and used on another.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, Probe, opcode, squeue, types};

use crate::error::Error;

/// Entries of the submission queue: two writes, a chore, the reads of the start.
const ENTRIES: u32 = 16;

/// What a log needs, with the release of Linux that brought it.
const NEEDED: [(u8, &str); 8] = [
    (opcode::Read::CODE, "io_uring read (Linux 5.6)"),
    (opcode::Write::CODE, "io_uring write (Linux 5.6)"),
    (opcode::Fsync::CODE, "io_uring fsync (Linux 5.1)"),
    (opcode::OpenAt::CODE, "io_uring openat (Linux 5.6)"),
    (opcode::Fallocate::CODE, "io_uring fallocate (Linux 5.6)"),
    (opcode::RenameAt::CODE, "io_uring renameat (Linux 5.11)"),
    (opcode::UnlinkAt::CODE, "io_uring unlinkat (Linux 5.11)"),
    (opcode::Nop::CODE, "io_uring nop (Linux 5.1)"),
];

pub(super) struct Ring {
    ring: IoUring,
    wake: OwnedFd,
    /// Operations pushed whose completion was not taken.
    under_way: usize,
}

impl Ring {
    /// # Errors
    /// [`Error::Unsupported`] if the kernel has no io_uring, forbids it, or lacks an operation.
    pub(super) fn new(directory: &str) -> Result<Ring, Error> {
        let unsupported = |what| {
            let directory = directory.to_string();
            move |source| Error::Unsupported { what, directory, source: Arc::new(source) }
        };
        let ring = IoUring::new(ENTRIES).map_err(|source| unsupported(reason(&source))(source))?;
        let mut probe = Probe::new();
        let probed = ring.submitter().register_probe(&mut probe);
        probed.map_err(unsupported("io_uring (Linux 5.11 or newer)"))?;
        for (code, what) in NEEDED {
            if !probe.is_supported(code) {
                return Err(unsupported(what)(io::ErrorKind::Unsupported.into()));
            }
        }
        let wake = eventfd().map_err(unsupported("eventfd"))?;
        let registered = ring.submitter().register_eventfd(wake.as_raw_fd());
        registered.map_err(unsupported("io_uring with an eventfd"))?;
        Ok(Ring { ring, wake, under_way: 0 })
    }

    pub(super) fn wake_fd(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way
    }

    /// Begins an operation. An error leaves it queued or not; either way it is `under_way` exactly
    /// if its completion will come.
    ///
    /// # Safety
    /// All memory and descriptors that `entry` names must stay valid until its completion was taken
    /// from [`Ring::next`].
    pub(super) unsafe fn start(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        // SAFETY: the caller's promise.
        while unsafe { self.ring.submission().push(entry) }.is_err() {
            // The queue is full of what was never submitted.
            self.submit(0)?;
        }
        self.under_way += 1;
        self.submit(0)
    }

    /// The next completion: what the entry carried as user data, and the result. With `wait` it
    /// waits for one if anything is under way; without, it makes no system call.
    pub(super) fn next(&mut self, wait: bool) -> io::Result<Option<(u64, io::Result<usize>)>> {
        loop {
            if let Some(entry) = self.ring.completion().next() {
                self.under_way -= 1;
                return Ok(Some((entry.user_data(), result(entry.result()))));
            }
            if !wait || self.under_way == 0 {
                return Ok(None);
            }
            self.submit(1)?;
        }
    }

    /// Waits for a completion, but not longer than `at_most`.
    pub(super) fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        if self.under_way == 0 || !self.ring.completion().is_empty() {
            return Ok(());
        }
        let at_most = types::Timespec::from(at_most);
        let args = types::SubmitArgs::new().timespec(&at_most);
        match self.ring.submitter().submit_with_args(1, &args) {
            Err(error) if !is_no_failure(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn submit(&mut self, want: usize) -> io::Result<()> {
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waiting in vain, or not to the end, is no failure.
fn is_no_failure(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR))
}

fn result(value: i32) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::Error::from_raw_os_error(-value))
}

/// Why there is no ring, in words that help.
fn reason(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => "io_uring (this kernel has none)",
        Some(libc::EPERM | libc::EACCES) => {
            "io_uring (forbidden: see kernel.io_uring_disabled and the container's seccomp profile)"
        }
        Some(libc::ENOMEM) => "io_uring (not enough memory, or the memlock limit is too low)",
        Some(libc::EMFILE | libc::ENFILE) => "io_uring (too many open files)",
        _ => "io_uring",
    }
}

/// Blocking, so that a read of it through another ring waits instead of failing.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: the call takes no memory; the descriptor it returns is ours alone.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}
