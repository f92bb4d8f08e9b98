//! `O_DIRECT` files over an io_uring ring. It knows files, descriptors and the order of background
//! chores, but nothing of what is in a group.
//!
//! Group writes carry `RWF_DSYNC`, so a completion means that the bytes are on the medium; zero
//! filling does without, with one fsync at its end. Chores (see `chore.rs`) run one after the other and one
//! operation at a time beside the group writes; files that only have blocks to give back wait for the rest.
//!
//! **A killed process may still write.** Requests that were in flight when a process died can reach
//! the device a little later, when its successor has already read the log. Each segment is locked
//! through the same open file that the writes use, and the kernel holds that file until they have
//! ended; [`Disk::list`] waits for each segment's lock before anything is read.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::mem::{self, ManuallyDrop};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use io_uring::{opcode, squeue, types};

use crate::area::{Area, Arrived};
use crate::buffer::{BLOCK_BYTES, Buffer};
use crate::disk::{Completion, Disk, SegmentFile, is_full};
use crate::error::Error;
use crate::segment;

mod chore;
mod directory;
mod ring;

pub use directory::Directory;

use chore::{Chore, Outcome, Running, Spare};
use ring::Ring;

/// Only the owner reads a log: it holds what clients store.
const FILE_MODE: u32 = 0o600;

/// Retired files kept for reuse. The log prepares one segment at a time.
const SPARES_MAX: usize = 2;

/// Files that may wait with what they have to give back. With more, space would come back too late.
const LEISURELY_MAX: usize = 16;

/// Reads of the start: so many at a time, so much each.
const READS_MAX: usize = 8;
const READ_BYTES: usize = 1 << 20;

/// User data of a chore's operation; those of writes count from 1.
const CHORE: u64 = 0;

/// The files of one log in a [`Directory`].
///
/// It may be opened on one thread and used on another. Dropping it waits for what is under way.
pub struct DirectDisk {
    directory: Arc<Directory>,
    log: u16,
    ring: Ring,
    files: BTreeMap<u64, SegmentHandle>,
    spares: Vec<Spare>,
    keeps_spares: bool,
    writes: BTreeMap<u64, Write>,
    writes_started: u64,
    chores: VecDeque<Chore>,
    running: Option<Running>,
    /// What goes on when there is no other chore.
    leisurely: VecDeque<Running>,
    /// Nothing is done by and by: there is no room, or the end is near.
    hurries: bool,
    /// A segment found no room, so what is given back by and by comes first, and at once.
    short: bool,
    /// A chore failed, so none is begun any more: a gap between segments would look like damage.
    chores_over: bool,
    /// Makes the names that were found durable.
    names_sync: Option<JoinHandle<io::Result<()>>>,
}

struct SegmentHandle {
    file: OwnedFd,
    bytes: u64,
}

/// A group write under way. The buffer stays here until the kernel is done with it.
struct Write {
    token: u64,
    entry: squeue::Entry,
    buffer: Buffer,
}

impl DirectDisk {
    /// The disk of log `log` in `directory`. Changes nothing but a probe file that it removes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if io_uring is missing or forbidden or the filesystem refuses direct
    /// or durable writes; [`Error::Io`] for anything else.
    pub fn open(directory: &Arc<Directory>, log: u16) -> Result<DirectDisk, Error> {
        let mut disk = DirectDisk {
            directory: directory.clone(),
            log,
            ring: Ring::new(&directory.name())?,
            files: BTreeMap::new(),
            spares: Vec::new(),
            keeps_spares: true,
            writes: BTreeMap::new(),
            writes_started: 0,
            chores: VecDeque::new(),
            running: None,
            leisurely: VecDeque::new(),
            hurries: false,
            short: false,
            chores_over: false,
            names_sync: None,
        };
        disk.probe()?;
        Ok(disk)
    }

    /// Tries one direct and durable write, so that a filesystem that can not do it is named now and
    /// not at the first commit. One that is full has not said no: what is there may do.
    fn probe(&mut self) -> Result<(), Error> {
        let name = self.name(0, "new");
        let removed = self.directory.remove(&name);
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(Error::io("remove", name, 0, error));
        }
        let opened = self.directory.open_direct(&name, true);
        if opened.as_ref().is_err_and(is_full) {
            return Ok(());
        }
        let file = opened.map_err(|error| self.refused("O_DIRECT", error))?;
        self.files.insert(0, SegmentHandle { file: file.into(), bytes: 0 });
        let started = self.start_write(0, 0, 0, Buffer::zeroed(BLOCK_BYTES));
        let ended = started.and_then(|()| self.reap_one(true));
        self.files.remove(&0);
        let removed = self.directory.remove(&name);
        let written = ended.and_then(|completion| match completion {
            Some(Completion::Written { result, .. }) => result.map(drop),
            _ => unreachable!("only a write was asked for"),
        });
        if !written.as_ref().is_err_and(is_full) {
            written.map_err(|error| self.refused("a direct write with RWF_DSYNC", error))?;
        }
        removed.map_err(|error| Error::io("remove", name, 0, error))
    }

    fn refused(&self, what: &'static str, error: io::Error) -> Error {
        let directory = self.directory.name();
        match error.raw_os_error() {
            Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS) => {
                Error::Unsupported { what, directory, source: Arc::new(error) }
            }
            _ => Error::io("write into", directory, 0, error),
        }
    }

    fn start_write(
        &mut self,
        token: u64,
        segment: u64,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> io::Result<()> {
        let bytes = u32::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.writes_started += 1;
        let id = self.writes_started;
        let entry = opcode::Write::new(self.fd(segment)?, buffer.as_ptr(), bytes)
            .offset(offset_bytes)
            .rw_flags(libc::RWF_DSYNC)
            .build()
            .user_data(id);
        let write = Write { token, entry: entry.clone(), buffer };
        self.writes.insert(id, write);
        // SAFETY: the buffer stays in `writes`, and its file in `files` (a segment is retired only
        // when its writes have ended), until the completion was taken; `drop` sees to the rest.
        unsafe { self.ring.start(&entry) }
    }

    /// Takes one completion of the ring, and returns it if it is of interest to the log.
    fn reap_one(&mut self, wait: bool) -> io::Result<Option<Completion>> {
        while let Some((id, result)) = self.ring.next(wait)? {
            let cancelled = result.as_ref().is_err_and(is_cancelled);
            if id == CHORE {
                if let Some(completion) = self.chore_ended(result, cancelled)? {
                    return Ok(Some(completion));
                }
                continue;
            }
            if cancelled {
                let entry = self.writes[&id].entry.clone();
                // SAFETY: as in `start_write`; the buffer was not let go.
                unsafe { self.ring.start(&entry) }?;
                continue;
            }
            let write = self.writes.remove(&id).expect("each write ends once");
            return Ok(Some(Completion::Written {
                token: write.token,
                buffer: write.buffer,
                result,
            }));
        }
        Ok(None)
    }

    /// Starts the next chore if none is running.
    fn start_chores(&mut self) -> io::Result<()> {
        if self.running.is_some() || self.chores_over {
            return Ok(());
        }
        self.short &= !self.leisurely.is_empty();
        let chore = if self.short { None } else { self.chores.pop_front() };
        self.running = match chore {
            Some(Chore::Prepare { segment, bytes, header }) => {
                Some(self.begin_prepare(segment, bytes, header))
            }
            Some(Chore::Retire { segment }) => Some(self.begin_retire(segment)?),
            Some(Chore::Discard { spare: Spare { segment, name, bytes, file } }) => {
                Some(self.begin_remove(segment, bytes, file, &name))
            }
            None => self.leisurely.pop_front(),
        };
        self.go_on()
    }

    /// Starts the next step of the running chore, unless that can wait and another one can not.
    fn go_on(&mut self) -> io::Result<()> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        if self.hurries || self.short || self.leisurely.len() >= LEISURELY_MAX {
            running.hurry();
        }
        if !running.can_wait() || self.chores.is_empty() {
            return self.start_step();
        }
        self.leisurely.extend(self.running.take());
        self.start_chores()
    }

    fn begin_prepare(&mut self, segment: u64, bytes: u64, header: Buffer) -> Running {
        let fits = self.spares.iter().position(|spare| spare.bytes == bytes);
        let spare = fits.map(|index| self.spares.remove(index));
        let new_name = self.name(segment, "new");
        Running::prepare(segment, bytes, header, spare, &new_name, &self.name(segment, "wal"))
    }

    fn begin_retire(&mut self, segment: u64) -> io::Result<Running> {
        let handle = self.files.remove(&segment).ok_or(io::ErrorKind::NotFound)?;
        let SegmentHandle { file, bytes } = handle;
        let name = self.name(segment, "wal");
        if !self.keeps_spares || self.spares.len() >= SPARES_MAX {
            return Ok(self.begin_remove(segment, bytes, file, &name));
        }
        Ok(Running::put_by(segment, bytes, file, &name, &self.name(segment, "spare")))
    }

    fn begin_remove(&self, segment: u64, bytes: u64, file: OwnedFd, name: &str) -> Running {
        Running::remove(segment, bytes, file, name, &self.name(segment, "new"))
    }

    fn start_step(&mut self) -> io::Result<()> {
        let running = self.running.as_ref().expect("a chore is running");
        let entry = running.entry(self.directory.fd()).user_data(CHORE);
        // SAFETY: what the entry points to belongs to `running`, which is only let go when the
        // completion was taken; `drop` sees to the rest.
        unsafe { self.ring.start(&entry) }
    }

    fn chore_ended(
        &mut self,
        result: io::Result<usize>,
        cancelled: bool,
    ) -> io::Result<Option<Completion>> {
        let mut running = self.running.take().expect("a chore is running");
        let more = if cancelled { Ok(true) } else { running.advance(result) };
        let result = match more {
            Ok(true) => {
                self.running = Some(running);
                return self.go_on().map(|()| None);
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error),
        };
        let full = result.as_ref().is_err_and(is_full);
        if full && running.prepares() && !self.leisurely.is_empty() {
            self.short = true;
            self.chores.push_front(running.again());
            return self.start_chores().map(|()| None);
        }
        let bytes = running.bytes();
        let outcome = running.finish(result);
        self.chores_over |= outcome.is_fatal();
        let completion = match outcome {
            Outcome::Prepared { segment, result } => {
                let result = result.map(|file| {
                    self.files.insert(segment, SegmentHandle { file, bytes });
                });
                Completion::Prepared { segment, result }
            }
            Outcome::Retired { segment, result } => {
                let result = result.map(|spare| self.spares.extend(spare));
                Completion::Retired { segment, result }
            }
        };
        self.start_chores()?;
        Ok(Some(completion))
    }

    fn name(&self, segment: u64, suffix: &str) -> String {
        segment::name(self.log, segment, suffix)
    }

    fn fd(&self, segment: u64) -> io::Result<types::Fd> {
        let handle = self.files.get(&segment).ok_or(io::ErrorKind::NotFound)?;
        Ok(types::Fd(handle.file.as_raw_fd()))
    }

    /// Reads up to `bytes` of a segment from `offset_bytes` on to `start`, and says how much is there
    /// whenever that is more, until `arrived` says `false`. Several reads at a time: one alone leaves the
    /// device idle between two, and while what is there is looked at.
    ///
    /// # Safety
    /// The memory is the caller's until this returns; what was said to be there is not written to again.
    unsafe fn read_into(
        &mut self,
        segment: u64,
        offset_bytes: u64,
        start: *mut u8,
        bytes: usize,
        arrived: &mut dyn FnMut(usize) -> bool,
    ) -> io::Result<usize> {
        assert_eq!(self.ring.under_way(), 0, "reading is for the start");
        let fd = self.fd(segment)?;
        let (mut asked, mut end, mut failed) = (0, bytes, None);
        // What has come, of the parts from `upto` on.
        let (mut upto, mut parts) = (0, VecDeque::new());
        loop {
            while asked < end && failed.is_none() && self.ring.under_way() < READS_MAX {
                let part = READ_BYTES.min(end - asked);
                let entry = opcode::Read::new(fd, start.wrapping_add(asked), part as u32)
                    .offset(offset_bytes + asked as u64)
                    .build()
                    .user_data(asked as u64);
                // SAFETY: the range is the caller's, no two overlap, and this loop takes every
                // completion before it ends.
                if let Err(error) = unsafe { self.ring.start(&entry) } {
                    failed = Some(error);
                }
                asked += part;
                parts.push_back(false);
            }
            let next = self.ring.next(true);
            match next.unwrap_or_else(|error| abort_reading(&error)) {
                None => break,
                Some((at, Ok(read))) => {
                    let at = at as usize;
                    if read < READ_BYTES.min(bytes - at) {
                        end = end.min(at + read);
                    }
                    parts[(at - upto) / READ_BYTES] = true;
                }
                Some((_, Err(error))) => failed = Some(error),
            }
            let before = upto;
            while parts.front() == Some(&true) {
                parts.pop_front();
                upto += READ_BYTES;
            }
            if upto.min(end) > before.min(end) && failed.is_none() && !arrived(upto.min(end)) {
                // What is under way still has to end.
                end = upto.min(end);
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(end),
        }
    }

    /// Waits until the names that were found are durable.
    fn sync_names(&mut self) -> io::Result<()> {
        let Some(sync) = self.names_sync.take() else { return Ok(()) };
        let ended = sync.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")));
        let name = self.directory.name();
        ended.map_err(|error| io::Error::new(error.kind(), format!("sync {name}: {error}")))
    }

    /// Opens a file of an earlier process, when no request of that process can touch it any more.
    fn adopt(&self, name: &str) -> io::Result<SegmentHandle> {
        let file = self.directory.open_direct(name, false)?;
        directory::lock(file.as_raw_fd(), 0)?;
        let bytes = file.metadata()?.len();
        let file = file.into();
        Ok(SegmentHandle { file, bytes })
    }
}

impl Disk for DirectDisk {
    fn list(&mut self) -> io::Result<Vec<SegmentFile>> {
        let named =
            |name: &str, error: io::Error| io::Error::new(error.kind(), format!("{name}: {error}"));
        self.files.clear();
        self.spares.clear();
        for name in self.directory.names()? {
            let Some((log, segment, suffix)) = segment::parse_name(&name) else {
                continue;
            };
            if log != self.log {
                continue;
            }
            let result = match suffix {
                "wal" => self.adopt(&name).map(|handle| {
                    self.files.insert(segment, handle);
                }),
                "spare" if self.spares.len() < SPARES_MAX => {
                    self.adopt(&name).map(|SegmentHandle { file, bytes }| {
                        let name = name.clone();
                        self.spares.push(Spare { segment, name, bytes, file });
                    })
                }
                "spare" | "new" => self.directory.remove(&name),
                _ => Ok(()),
            };
            result.map_err(|error| named(&name, error))?;
        }
        // A name that the last process made or took away may not be safe yet. That takes a commit of the file
        // system, for which reading need not wait.
        let directory = Arc::clone(&self.directory);
        self.names_sync = Some(std::thread::Builder::new().spawn(move || directory.sync())?);
        if self.files.is_empty() {
            // Nothing is there to be read or to be synced.
            self.sync_names()?;
        }
        let files = self.files.iter();
        Ok(files.map(|(&segment, handle)| SegmentFile { segment, bytes: handle.bytes }).collect())
    }

    fn read(&mut self, segment: u64, offset_bytes: u64, buffer: &mut Buffer) -> io::Result<usize> {
        let wanted = buffer.len();
        // Whole blocks, as direct reads want them; the capacity of a buffer always is.
        let rounded = wanted.next_multiple_of(BLOCK_BYTES);
        let start = buffer.as_mut_ptr();
        // SAFETY: the range lies in the buffer's capacity, and the buffer is borrowed until this is over.
        let read = unsafe { self.read_into(segment, offset_bytes, start, rounded, &mut |_| true) }?;
        Ok(read.min(wanted))
    }

    fn read_through(
        &mut self,
        segment: u64,
        area: Area,
        look: &mut dyn FnMut(&mut Arrived<'_>) -> bool,
    ) -> io::Result<(usize, Area)> {
        // Should the look panic, the kernel still writes.
        let mut area = ManuallyDrop::new(area);
        let (start, capacity) = (area.target(0), area.capacity());
        // SAFETY: the range is the area's, of which nothing was handed out, and the area lives until
        // all reads have ended. What has been read is not written to any more.
        let read = unsafe {
            self.read_into(segment, 0, start, capacity, &mut |upto| look(&mut area.arrived(upto)))
        };
        let area = ManuallyDrop::into_inner(area);
        Ok((read?, area))
    }

    fn sync(&mut self, segment: u64) -> io::Result<()> {
        self.sync_names()?;
        let fd = self.fd(segment)?.0;
        // SAFETY: the call takes no memory.
        match unsafe { libc::fdatasync(fd) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn prepare(&mut self, segment: u64, bytes: u64, header: Buffer) -> io::Result<()> {
        self.chores.push_back(Chore::Prepare { segment, bytes, header });
        self.start_chores()
    }

    fn retire(&mut self, segment: u64) -> io::Result<()> {
        self.chores.push_back(Chore::Retire { segment });
        self.start_chores()
    }

    fn keep_spares(&mut self, keep: bool) -> io::Result<()> {
        self.keeps_spares = keep;
        // Others wait for the room.
        self.hurries = !keep;
        if !keep {
            self.chores.extend(self.spares.drain(..).map(|spare| Chore::Discard { spare }));
        }
        self.start_chores()
    }

    fn hurry(&mut self) {
        self.hurries = true;
    }

    fn write(
        &mut self,
        token: u64,
        segment: u64,
        offset_bytes: u64,
        buffer: Buffer,
    ) -> io::Result<()> {
        self.start_write(token, segment, offset_bytes, buffer)
    }

    fn reap(&mut self, wait: bool) -> io::Result<Option<Completion>> {
        self.reap_one(wait)
    }

    fn wait(&mut self, at_most: Duration) -> io::Result<()> {
        self.ring.wait(at_most)
    }

    fn is_busy(&self) -> bool {
        self.ring.under_way() > 0
    }

    /// A blocking eventfd. Whoever waits for it also reads it; the disk never does.
    fn wake_fd(&self) -> Option<RawFd> {
        Some(self.ring.wake_fd())
    }
}

impl Drop for DirectDisk {
    fn drop(&mut self) {
        // It has the directory's lock with it.
        self.names_sync.take().map(JoinHandle::join);
        self.chores.clear();
        while self.ring.under_way() > 0 {
            if let Ok(Some((id, result))) = self.ring.next(true) {
                match self.running.as_mut().filter(|_| id == CHORE) {
                    // A file that was opened just now is taken, so that it is closed.
                    Some(running) => drop(running.advance(result)),
                    None => drop(self.writes.remove(&id)),
                }
                continue;
            }
            // The kernel may still read this memory. Losing it is harmless, freeing it is not.
            let _writes = ManuallyDrop::new(mem::take(&mut self.writes));
            let _running = ManuallyDrop::new(self.running.take());
            return;
        }
    }
}

impl std::fmt::Debug for DirectDisk {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "log {} in {}", self.log, self.directory.path().display())
    }
}

/// A request is cancelled when the thread that started it ends; it is then begun again.
fn is_cancelled(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ECANCELED | libc::EINTR))
}

/// The kernel may still write into a buffer that the caller is about to free, and does not say when
/// it is done. Not even unwinding is safe then.
fn abort_reading(error: &io::Error) -> ! {
    eprintln!("the ring of a log does not answer while reads are under way: {error}");
    std::process::abort();
}
