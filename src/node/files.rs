//! Files that change as a whole: a crash leaves the old content or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// Only the owner reads what a member keeps.
pub(super) const FILE_MODE: u32 = 0o600;
pub(super) const DIRECTORY_MODE: u32 = 0o700;

/// Stands before each step that a checkpoint takes on the disk. In a test it can fail there, or the process
/// can end.
pub(super) fn step() -> io::Result<()> {
    #[cfg(test)]
    steps::next()?;
    Ok(())
}

/// Gives the file `path` this content, durably; it is written as `new`, beside it, first.
pub(super) fn replace(path: &Path, new: &Path, content: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(FILE_MODE);
    step()?;
    let mut file = options.open(new)?;
    step()?;
    file.write_all(content)?;
    step()?;
    file.sync_all()?;
    step()?;
    fs::rename(new, path)?;
    step()?;
    sync_directory(path.parent().unwrap_or(path))
}

/// Makes the names in a directory durable; an empty path is the current one.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let here = Path::new(".");
    File::open(if path.as_os_str().is_empty() { here } else { path })?.sync_all()
}

/// What is read of this file is read as it is asked for, with no readahead of the kernel's: that reads 8 MiB at
/// once on some machines, and the log would have to wait for it.
pub(super) fn without_readahead(file: &impl AsRawFd) {
    // SAFETY: the call takes no memory. That it fails would only cost time.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

#[cfg(test)]
pub(super) mod steps {
    use std::cell::Cell;
    use std::io;

    /// What happens at a step of this thread.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in crate::node) enum Happens {
        /// The disk is full.
        Full,
        /// The process ends, as by `kill -9`.
        Killed,
    }

    thread_local! {
        static TAKEN: Cell<u64> = const { Cell::new(0) };
        static PLANNED: Cell<Option<(u64, Happens)>> = const { Cell::new(None) };
    }

    /// Plans what happens at the step with this number from now on, counted from 0.
    pub(in crate::node) fn plan(planned: Option<(u64, Happens)>) {
        TAKEN.set(0);
        PLANNED.set(planned);
    }

    /// How many steps were taken since something was planned.
    pub(in crate::node) fn taken() -> u64 {
        TAKEN.get()
    }

    pub(super) fn next() -> io::Result<()> {
        let step = TAKEN.replace(TAKEN.get() + 1);
        match PLANNED.get() {
            Some((at, Happens::Full)) if at == step => {
                Err(io::Error::from_raw_os_error(libc::ENOSPC))
            }
            Some((at, Happens::Killed)) if at == step => {
                // SAFETY: it ends this process, which is a child of a test, and touches nothing.
                unsafe { libc::_exit(9) }
            }
            _ => Ok(()),
        }
    }
}
