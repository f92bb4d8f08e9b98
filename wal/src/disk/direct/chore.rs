//! What happens to files in the background, one step at a time: making a segment, putting one by
//! for reuse, removing one. It says which operation comes next and knows no ring.
//!
//! ```text
//! new segment   open .new ─▶ allocate ─▶ fill with zeros ─▶ header ─▶ fsync ─▶ rename ─▶ fsync dir
//! from a spare                                              header ─▶ fsync ─▶ rename ─▶ fsync dir
//! put by                                                                       rename ─▶ fsync dir
//! remove                                  rename to .new ─▶ fsync dir ─▶ give back ─▶ unlink ─▶ fsync dir
//! no room                                                                             unlink
//! ```
//!
//! To unlink a whole segment frees 64 MiB in one go, which ext4 that is mounted with `discard` makes every
//! durable write wait for, 14 ms. So its blocks go back a little at a time, each portion made durable before the
//! next; other chores may come between, and a start removes what a crash has left of it.
//!
//! A full disk can refuse a segment at any step before its name appears; what there is of it is removed then.
//!
//! A segment's name appears only when all of its blocks were written and are safe: a commit into it
//! changes no metadata, and whoever finds the name finds a whole header.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::{opcode, squeue, types};

use super::directory;
use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::is_full;

/// Zeros are written in pieces of this: small, because the log's own writes queue behind them.
pub(super) const FILL_BYTES: usize = 256 << 10;

/// Bytes that are given back at once: 0.4 ms of the disk's time.
const GIVE_BACK_BYTES: u64 = 1 << 20;

/// What is asked for.
pub(super) enum Chore {
    /// A segment, out of a spare file if one fits.
    Prepare { segment: u64, bytes: u64, header: Buffer },
    /// A segment goes: kept as a spare, or removed.
    Retire { segment: u64 },
    /// A spare goes.
    Discard { spare: Spare },
}

/// A file that waits to become a segment.
pub(super) struct Spare {
    /// The segment that it was.
    pub(super) segment: u64,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) file: OwnedFd,
}

/// What became of a chore.
pub(super) enum Outcome {
    Prepared { segment: u64, result: io::Result<OwnedFd> },
    Retired { segment: u64, result: io::Result<Option<Spare>> },
}

impl Outcome {
    /// Whether no chore may follow. A segment that found no room leaves nothing that could be in the way.
    pub(super) fn is_fatal(&self) -> bool {
        match self {
            Outcome::Prepared { result, .. } => result.as_ref().is_err_and(|error| !is_full(error)),
            Outcome::Retired { result, .. } => result.is_err(),
        }
    }
}

/// A chore that is being done.
pub(super) struct Running {
    kind: Kind,
    segment: u64,
    step: Step,
    bytes: u64,
    from: CString,
    to: CString,
    file: Option<OwnedFd>,
    header: Buffer,
    zeros: Buffer,
    /// Why the file that is being removed did not become a segment.
    no_room: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Prepare,
    PutBy,
    Remove,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Open,
    Allocate,
    Fill {
        at: u64,
    },
    Header,
    Sync,
    Rename,
    /// The name of what is removed is gone.
    SyncRename,
    GiveBack {
        at: u64,
    },
    SyncGivenBack {
        at: u64,
    },
    Unlink,
    SyncDirectory,
}

impl Running {
    /// Makes the segment `to` of `bytes`, from `spare` or from a new file `from`.
    pub(super) fn prepare(
        segment: u64,
        bytes: u64,
        header: Buffer,
        spare: Option<Spare>,
        new_name: &str,
        name: &str,
    ) -> Running {
        assert_eq!(header.len(), BLOCK_BYTES, "a header is one block");
        let step = if spare.is_some() { Step::Header } else { Step::Open };
        let zeros = if spare.is_some() { 0 } else { FILL_BYTES };
        let (from, file) = match spare {
            Some(spare) => (text(&spare.name), Some(spare.file)),
            None => (text(new_name), None),
        };
        Running {
            kind: Kind::Prepare,
            segment,
            step,
            bytes,
            from,
            to: text(name),
            file,
            header,
            zeros: Buffer::zeroed(zeros),
            no_room: None,
        }
    }

    /// Renames a segment to a spare, keeping it open.
    pub(super) fn put_by(segment: u64, bytes: u64, file: OwnedFd, from: &str, to: &str) -> Running {
        Running {
            kind: Kind::PutBy,
            segment,
            step: Step::Rename,
            bytes,
            from: text(from),
            to: text(to),
            file: Some(file),
            header: Buffer::zeroed(0),
            zeros: Buffer::zeroed(0),
            no_room: None,
        }
    }

    /// Removes the file `from` of a segment, by way of the name `to`, which nobody takes for a segment or a
    /// spare.
    pub(super) fn remove(segment: u64, bytes: u64, file: OwnedFd, from: &str, to: &str) -> Running {
        Running {
            kind: Kind::Remove,
            segment,
            step: Step::Rename,
            bytes,
            from: text(from),
            to: text(to),
            file: Some(file),
            header: Buffer::zeroed(0),
            zeros: Buffer::zeroed(0),
            no_room: None,
        }
    }

    /// The operation of the present step. It points into `self`, whose parts stay where they are
    /// until the step has ended, even if `self` is moved.
    pub(super) fn entry(&self, directory: RawFd) -> squeue::Entry {
        let directory = types::Fd(directory);
        match self.step {
            Step::Open => {
                let flags = libc::O_RDWR
                    | libc::O_CREAT
                    | libc::O_EXCL
                    | libc::O_DIRECT
                    | libc::O_NOFOLLOW
                    | libc::O_CLOEXEC;
                opcode::OpenAt::new(directory, self.from.as_ptr())
                    .flags(flags)
                    .mode(super::FILE_MODE)
                    .build()
            }
            Step::Allocate => opcode::Fallocate::new(self.fd(), self.bytes).build(),
            Step::Fill { at } => {
                opcode::Write::new(self.fd(), self.zeros.as_ptr(), self.fill_bytes(at))
                    .offset(at)
                    .build()
            }
            Step::Header => {
                let bytes = BLOCK_BYTES as u32;
                opcode::Write::new(self.fd(), self.header.as_ptr(), bytes).offset(0).build()
            }
            Step::Sync => opcode::Fsync::new(self.fd()).build(),
            Step::Rename => {
                let (from, to) = (self.from.as_ptr(), self.to.as_ptr());
                opcode::RenameAt::new(directory, from, directory, to).build()
            }
            Step::GiveBack { at } => {
                let bytes = GIVE_BACK_BYTES.min(self.bytes - at);
                opcode::Fallocate::new(self.fd(), bytes)
                    .offset(at)
                    .mode(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE)
                    .build()
            }
            Step::SyncGivenBack { .. } => opcode::Fsync::new(self.fd()).build(),
            Step::Unlink => opcode::UnlinkAt::new(directory, self.from.as_ptr()).build(),
            Step::SyncRename | Step::SyncDirectory => opcode::Fsync::new(directory).build(),
        }
    }

    /// Takes the result of the present step and goes on to the next. Returns whether there is one.
    pub(super) fn advance(&mut self, result: io::Result<usize>) -> io::Result<bool> {
        let next = match (self.step, result) {
            // Filling allocates as well: this only finds a full disk early and keeps extents long.
            (Step::Allocate, Err(error)) if is_unsupported(&error) => Step::Fill { at: 0 },
            (Step::Open, Err(error)) => return Err(error),
            // Not every filesystem can, and then all goes at once.
            (Step::GiveBack { .. } | Step::SyncGivenBack { .. }, Err(_)) => self.unlink(),
            (Step::SyncRename | Step::SyncDirectory, Err(error)) => {
                // A name is there or gone already, so this is more than want of room.
                return Err(io::Error::other(format!("sync of the directory: {error}")));
            }
            (Step::Unlink, Err(error)) => return Err(io::Error::other(error)),
            (_, Err(error)) if is_full(&error) => {
                match self.kind {
                    Kind::Prepare => self.no_room = Some(error),
                    Kind::PutBy | Kind::Remove => self.kind = Kind::Remove,
                }
                self.unlink()
            }
            (_, Err(error)) => return Err(error),
            (Step::Open, Ok(fd)) => {
                let fd = RawFd::try_from(fd).expect("the kernel returns a descriptor");
                // SAFETY: the kernel has just opened it for this request; nobody else has it.
                let file = unsafe { OwnedFd::from_raw_fd(fd) };
                directory::lock(file.as_raw_fd(), libc::LOCK_NB)?;
                self.file = Some(file);
                Step::Allocate
            }
            (Step::Allocate, Ok(_)) => Step::Fill { at: 0 },
            (Step::Fill { at }, Ok(written)) => {
                // Short where the room ends: what follows says so.
                if written == 0 || !written.is_multiple_of(BLOCK_BYTES) {
                    check_whole(written, self.fill_bytes(at))?;
                }
                let at = at + written as u64;
                if at < self.bytes { Step::Fill { at } } else { Step::Header }
            }
            (Step::Header, Ok(written)) => {
                check_whole(written, BLOCK_BYTES as u32)?;
                Step::Sync
            }
            (Step::Sync, Ok(_)) => Step::Rename,
            (Step::Unlink, Ok(_)) if self.no_room.is_some() => {
                return self.no_room.take().map_or(Ok(false), Err);
            }
            (Step::Rename, Ok(_)) if self.kind == Kind::Remove => {
                self.from = std::mem::take(&mut self.to);
                Step::SyncRename
            }
            (Step::SyncRename, Ok(_)) => Step::GiveBack { at: 0 },
            (Step::GiveBack { at }, Ok(_)) => Step::SyncGivenBack { at: at + GIVE_BACK_BYTES },
            (Step::SyncGivenBack { at }, Ok(_)) if at < self.bytes => Step::GiveBack { at },
            (Step::SyncGivenBack { .. }, Ok(_)) => self.unlink(),
            (Step::Rename | Step::Unlink, Ok(_)) => Step::SyncDirectory,
            (Step::SyncDirectory, Ok(_)) => return Ok(false),
        };
        self.step = next;
        Ok(true)
    }

    /// Whether a segment is made.
    pub(super) fn prepares(&self) -> bool {
        self.kind == Kind::Prepare
    }

    /// The making of a segment from its beginning: nothing is left of a try that found no room.
    pub(super) fn again(self) -> Chore {
        let Running { segment, bytes, header, .. } = self;
        Chore::Prepare { segment, bytes, header }
    }

    /// Whether it has taken effect, and what is left may wait: the file gives back its blocks.
    pub(super) fn can_wait(&self) -> bool {
        matches!(self.step, Step::GiveBack { .. })
    }

    /// Has what is left go at once.
    pub(super) fn hurry(&mut self) {
        if self.can_wait() {
            self.step = self.unlink();
        }
    }

    /// The file is closed first, so that the kernel's worker frees what is left of it.
    fn unlink(&mut self) -> Step {
        self.file = None;
        Step::Unlink
    }

    /// The size of the file that it is about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is to be said of the chore when it has ended with `result`.
    pub(super) fn finish(self, result: io::Result<()>) -> Outcome {
        let segment = self.segment;
        match self.kind {
            Kind::Prepare => {
                Outcome::Prepared { segment, result: result.map(|()| self.file.expect("opened")) }
            }
            Kind::PutBy => {
                let (bytes, name) = (self.bytes, owned(&self.to));
                let spare = |file| Spare { segment, name, bytes, file };
                Outcome::Retired { segment, result: result.map(|()| self.file.map(spare)) }
            }
            Kind::Remove => Outcome::Retired { segment, result: result.map(|()| None) },
        }
    }

    fn fill_bytes(&self, at: u64) -> u32 {
        (self.bytes - at).min(FILL_BYTES as u64) as u32
    }

    fn fd(&self) -> types::Fd {
        types::Fd(self.file.as_ref().expect("open by now").as_raw_fd())
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS))
}

fn check_whole(written: usize, bytes: u32) -> io::Result<()> {
    if written == bytes as usize {
        return Ok(());
    }
    let text = format!("only {written} of {bytes} bytes were written");
    Err(io::Error::new(io::ErrorKind::WriteZero, text))
}

fn text(name: &str) -> CString {
    CString::new(name).expect("our names hold no zero")
}

fn owned(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}
