//! What a log needs of a disk. It knows no frames: a disk moves blocks of numbered files and says
//! when they are safe. There are two, since production and simulation really differ here.

use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

use crate::area::{Area, Arrived};
use crate::buffer::Buffer;

pub mod direct;
pub mod memory;

/// Whether an error says that the disk is full, or what its user may have of it.
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A segment file as it is found at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentFile {
    /// Its number.
    pub segment: u64,
    /// Its size.
    pub bytes: u64,
}

/// What became of something that was started.
#[derive(Debug)]
pub enum Completion {
    /// A write ended: how many bytes are safely on the disk, and the buffer back.
    Written {
        /// As given to [`Disk::write`].
        token: u64,
        /// As given to [`Disk::write`].
        buffer: Buffer,
        /// Bytes written and durable; fewer than asked is as bad as an error.
        result: io::Result<usize>,
    },
    /// A segment is ready to be written to, or could not be made.
    Prepared {
        /// As given to [`Disk::prepare`].
        segment: u64,
        /// Whether it worked.
        result: io::Result<()>,
    },
    /// A segment is gone, or could not be taken away.
    Retired {
        /// As given to [`Disk::retire`].
        segment: u64,
        /// Whether it worked.
        result: io::Result<()>,
    },
}

/// The files of one log.
///
/// `list`, `read` and `sync` serve the start and may wait. The others only begin something, whose
/// end `reap` reports; ends come in any order.
pub trait Disk {
    /// The segments that exist, in any order. Files that were never finished are no segments and
    /// are removed or reused.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn list(&mut self) -> io::Result<Vec<SegmentFile>>;

    /// Reads a segment from `offset_bytes` on, a block's beginning, into `buffer`, up to the buffer's
    /// length or the end of the file, and returns how much that was.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn read(&mut self, segment: u64, offset_bytes: u64, buffer: &mut Buffer) -> io::Result<usize>;

    /// Reads a segment into `area`, and shows how much of it has arrived whenever that is more: the disk
    /// is not idle meanwhile. Ends when all has been seen that fits, or a look says that it was enough
    /// (`false`). Returns how much the last look saw, and the area.
    ///
    /// # Errors
    /// Whatever the operating system says. Some may have been shown before.
    fn read_through(
        &mut self,
        segment: u64,
        area: Area,
        look: &mut dyn FnMut(&mut Arrived<'_>) -> bool,
    ) -> io::Result<(usize, Area)>;

    /// Makes what an earlier process wrote to this segment durable, and the names that `list` found. A write
    /// that was in flight when that process died may be readable without being safe.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn sync(&mut self, segment: u64) -> io::Result<()>;

    /// Begins to make a segment: a file of `bytes`, all of it written once (zeros, or the remains
    /// of a retired segment), that begins with `header`. When it is reported prepared, file,
    /// header and name survive a power cut; before that the name does not exist. When it is
    /// reported that the disk [is full](is_full), nothing is left of it, and it may be asked for again.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn prepare(&mut self, segment: u64, bytes: u64, header: Buffer) -> io::Result<()>;

    /// Begins to take a segment away, keeping the file for a later `prepare` if that is useful.
    /// The room of what is taken away may come back later, but before a preparation fails for want of it.
    /// Preparations and retirements take effect in the order in which they were asked; when one
    /// fails, and not for want of room, those after it are not done and need not be reported.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn retire(&mut self, segment: u64) -> io::Result<()>;

    /// Whether to keep files from now on, as `retire` says. Those that were kept are not needed any
    /// more if not, and go like segments: each may be reported as one.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn keep_spares(&mut self, keep: bool) -> io::Result<()>;

    /// What else would be done by and by, so that writes do not wait for it, is done at once from now on.
    fn hurry(&mut self) {}

    /// Begins a durable write of whole blocks. `token` comes back with its completion.
    ///
    /// # Errors
    /// Whatever the operating system says. The caller then treats the write as failed.
    fn write(
        &mut self,
        token: u64,
        segment: u64,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> io::Result<()>;

    /// The next completion. With `wait` it waits for one as long as anything is under way;
    /// without, it makes no system call when there is none.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn reap(&mut self, wait: bool) -> io::Result<Option<Completion>>;

    /// Waits until something ends, but not longer than `at_most`; may return early and for no reason.
    /// A disk whose completions do not come by themselves returns at once.
    ///
    /// # Errors
    /// Whatever the operating system says.
    fn wait(&mut self, at_most: Duration) -> io::Result<()>;

    /// Whether anything is under way that `reap` will report.
    fn is_busy(&self) -> bool;

    /// A descriptor that becomes readable (an eventfd of 8 bytes) when `reap` has something.
    fn wake_fd(&self) -> Option<RawFd>;
}
