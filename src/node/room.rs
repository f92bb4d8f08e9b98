//! Room on the disk that is kept for the day when there is none. It is a file, `reserve`, whose blocks
//! are real; whoever finds the disk full has it given back, so that the logs and the next checkpoint
//! find room, while the keeper raises `NOSPACE` and nothing grows any more. It is made again when
//! there is room for it and for more.
//!
//! ```text
//! bytes   64 MiB for each core       the next segment of its log
//!         --checkpoint-wal-bytes     the next checkpoint, of what the logs hold; 256 MiB at most
//!         but an eighth of the file system at most, and 64 MiB at least
//! ```
//!
//! When the logs are in another file system than the data directory, each has a reserve for its own part.
//! It knows neither what is written nor what an alarm forbids.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use cored_wal::disk::is_full;
use cored_wal::{Disk, Log, Options};

use super::files::FILE_MODE;

const RESERVE: &str = "reserve";

/// The most that is kept for a checkpoint.
const CHECKPOINT_BYTES_MAX: u64 = 256 << 20;

/// A reserve takes one part in so many of its file system.
const PARTS: u64 = 8;

/// How often somebody looks whether there is room again.
const LOOK: Duration = Duration::from_secs(5);

/// A log whose records wait for room this long waits no longer. A checkpoint that is being swapped in,
/// or somebody who makes room, may come before that.
const STUCK_MS: u64 = 30_000;

/// What is known of the room on the disk; all handles are of the same.
#[derive(Clone)]
pub(super) struct Room {
    state: Arc<State>,
    /// Wakes the thread; one message that waits is as good as many.
    full: SyncSender<()>,
}

struct State {
    /// Locked while any of them changes, and `short` with them.
    reserves: Mutex<Vec<Reserve>>,
    /// Somebody found the disk full, and the thread has not seen to it yet.
    wanted: AtomicBool,
    /// One more each time that the disk is found full.
    found_full: AtomicU64,
    /// One more each time that there may be room again.
    again: AtomicU64,
    /// A reserve is missing.
    short: AtomicBool,
}

/// The way to the thread that minds the reserves, before it is started.
pub(super) struct Minder {
    state: Arc<State>,
    full: Receiver<()>,
}

/// Room in one file system.
#[derive(Debug)]
struct Reserve {
    directory: PathBuf,
    /// For one more segment of each log that is here.
    logs_bytes: u64,
    checkpoint_bytes: u64,
}

impl Room {
    /// Looks at the directories before anything is written to them. Where a segment would find no room
    /// the reserve is given back now, since a start needs some too.
    pub(super) fn open(
        data_dir: &Path,
        wal_dir: &Path,
        cores: u16,
        checkpoint_wal_bytes: u64,
    ) -> (Room, Minder) {
        let logs_bytes = u64::from(cores) * segment_bytes();
        let checkpoint_bytes = checkpoint_wal_bytes.min(CHECKPOINT_BYTES_MAX);
        let data = Reserve { directory: data_dir.to_owned(), logs_bytes, checkpoint_bytes };
        let reserves = if device(data_dir) == device(wal_dir) {
            vec![data]
        } else {
            let logs = Reserve { directory: wal_dir.to_owned(), logs_bytes, checkpoint_bytes: 0 };
            vec![Reserve { logs_bytes: 0, ..data }, logs]
        };
        let (room, minder) = Room::of(reserves);
        let is_full = |reserve: &Reserve| {
            free(existing(&reserve.directory)).is_ok_and(|free| free < segment_bytes())
        };
        if room.state.reserves().iter().any(is_full) {
            room.state.give_back();
        }
        (room, minder)
    }

    fn of(reserves: Vec<Reserve>) -> (Room, Minder) {
        let (full, received) = mpsc::sync_channel(1);
        let state = Arc::new(State {
            reserves: Mutex::new(reserves),
            wanted: AtomicBool::new(false),
            found_full: AtomicU64::new(0),
            again: AtomicU64::new(0),
            short: AtomicBool::new(false),
        });
        (Room { state: Arc::clone(&state), full }, Minder { state, full: received })
    }

    /// Somebody found the disk full who can not wait: the reserve is given back soon.
    fn found_full(&self) {
        self.state.wanted.store(true, SeqCst);
        self.wake();
    }

    fn wake(&self) {
        // A full channel holds the message already; without a thread the process is ending.
        let _ = self.full.try_send(());
    }

    /// Somebody found the disk full who can wait: gives the reserve back, and says whether there was any.
    pub(super) fn give_back(&self) -> bool {
        let given = self.state.give_back();
        // From now on somebody has to look whether there is room again.
        self.wake();
        given
    }
}

impl Minder {
    /// Makes the reserves, now that their directories exist, and starts the thread that minds them.
    /// `ring` is called when cores should look.
    ///
    /// # Errors
    /// There can be no more threads.
    pub(super) fn start(self, ring: impl Fn() + Send + 'static) -> io::Result<()> {
        let Minder { state, full } = self;
        if state.found_full.load(SeqCst) == 0 {
            state.make();
        }
        let mind = move || {
            loop {
                let next = if state.short.load(SeqCst) {
                    full.recv_timeout(LOOK)
                } else {
                    full.recv().map_err(|_| RecvTimeoutError::Disconnected)
                };
                match next {
                    Ok(()) if state.wanted.swap(false, SeqCst) => drop(state.give_back()),
                    Ok(()) => {}
                    Err(RecvTimeoutError::Timeout) => state.look(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                ring();
            }
        };
        thread::Builder::new().name("room".to_owned()).spawn(mind).map(drop)
    }
}

impl State {
    fn reserves(&self) -> std::sync::MutexGuard<'_, Vec<Reserve>> {
        self.reserves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk is full.
    fn give_back(&self) -> bool {
        let mut given = false;
        let reserves = self.reserves();
        for reserve in reserves.iter() {
            match reserve.give_back() {
                Ok(0) => {}
                Ok(bytes) => {
                    given = true;
                    let path = reserve.path();
                    tracing::error!(path = %path.display(), bytes, "the disk is full; gave the reserve back");
                }
                Err(error) => {
                    let path = reserve.path();
                    tracing::error!(path = %path.display(), %error, "can not give the reserve back");
                }
            }
        }
        self.short.store(true, SeqCst);
        drop(reserves);
        self.found_full.fetch_add(1, SeqCst);
        self.again.fetch_add(u64::from(given), SeqCst);
        given
    }

    /// Time has passed without a reserve.
    fn look(&self) {
        self.make();
        let full = |reserve: &Reserve| {
            free(&reserve.directory).is_ok_and(|free| free < segment_bytes()) && !reserve.is_whole()
        };
        if self.reserves().iter().any(full) {
            // As long as that is so, an alarm that somebody ended comes back.
            self.found_full.fetch_add(1, SeqCst);
        }
        self.again.fetch_add(1, SeqCst);
    }

    /// Makes the reserves that are missing where there is room.
    fn make(&self) {
        let mut missing = false;
        let reserves = self.reserves();
        for reserve in reserves.iter().filter(|reserve| !reserve.is_whole()) {
            let path = reserve.path();
            match reserve.make() {
                Ok(Some(bytes)) => tracing::info!(path = %path.display(), bytes, "keeps a reserve"),
                Ok(None) => missing = true,
                Err(error) => {
                    missing = true;
                    if !is_full(&error) {
                        tracing::warn!(path = %path.display(), %error, "can not keep a reserve");
                    }
                }
            }
        }
        if missing && !self.short.load(SeqCst) {
            tracing::warn!("no room for a reserve; it is made as soon as there is some");
        }
        self.short.store(missing, SeqCst);
        drop(reserves);
    }
}

impl Reserve {
    fn path(&self) -> PathBuf {
        self.directory.join(RESERVE)
    }

    fn is_whole(&self) -> bool {
        let blocks = |found: fs::Metadata| found.len() > 0 && found.blocks() * 512 >= found.len();
        fs::metadata(self.path()).is_ok_and(blocks)
    }

    /// Makes it, if the next segments find room beside it; how large it is then.
    fn make(&self) -> io::Result<Option<u64>> {
        let space = space(&self.directory)?;
        let wanted = self.logs_bytes + self.checkpoint_bytes;
        let bytes = wanted.min(space.size / PARTS).max(segment_bytes());
        self.give_back()?;
        if space.free < bytes + self.logs_bytes.max(segment_bytes()) {
            return Ok(None);
        }
        let mut options = OpenOptions::new();
        let options = options.write(true).create(true).truncate(true).mode(FILE_MODE);
        let file = options.open(self.path())?;
        let made = allocate(&file, bytes);
        if made.is_err() {
            // A part of it would be in the way of those who need it.
            self.give_back()?;
        }
        made.map(|()| Some(bytes))
    }

    /// How many bytes that was.
    fn give_back(&self) -> io::Result<u64> {
        let bytes = fs::metadata(self.path()).map_or(0, |found| found.blocks() * 512);
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            removed => removed.map(|()| bytes),
        }
    }
}

/// What one core knows of the room, and its log's part in it.
pub(super) struct Watcher {
    room: Room,
    found_full: u64,
    again: u64,
    refused: u64,
    keeps_spares: bool,
    stuck_since_ms: Option<u64>,
}

impl Watcher {
    pub(super) fn new(room: Room) -> Watcher {
        let (found_full, again, refused, stuck_since_ms) = (0, 0, 0, None);
        Watcher { room, found_full, again, refused, keeps_spares: true, stuck_since_ms }
    }

    /// Once a turn: passes on that the disk has no room for the log's next segment, and tells the log
    /// when there may be some.
    ///
    /// # Errors
    /// The log failed, or has waited for too long for room.
    pub(super) fn turn<D: Disk>(
        &mut self,
        log: &mut Log<D>,
        now_ms: u64,
    ) -> Result<(), cored_wal::Error> {
        let state = &self.room.state;
        let refused = log.stats().segments_refused;
        if refused > self.refused {
            self.refused = refused;
            self.room.found_full();
        }
        // Read before the reserve: whoever comes late finds the room with this number.
        let again = state.again.load(SeqCst);
        if self.keeps_spares == state.short.load(SeqCst) {
            self.keeps_spares = !self.keeps_spares;
            log.keep_spares(self.keeps_spares)?;
        }
        if again > self.again {
            self.again = again;
            log.try_again()?;
        }
        if !log.is_stuck() {
            self.stuck_since_ms = None;
            return Ok(());
        }
        let since_ms = *self.stuck_since_ms.get_or_insert(now_ms);
        if now_ms >= since_ms + STUCK_MS { log.give_up() } else { Ok(()) }
    }

    /// Whether the disk was found full since this was last asked.
    pub(super) fn is_full(&mut self) -> bool {
        let found_full = self.room.state.found_full.load(SeqCst);
        std::mem::replace(&mut self.found_full, found_full) < found_full
    }
}

/// What a file system has.
struct Space {
    size: u64,
    /// For whoever is not root.
    free: u64,
}

fn space(path: &Path) -> io::Result<Space> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero, and the call fills the memory that it is given.
    if unsafe { libc::statvfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it has just been filled.
    let found = unsafe { found.assume_init() };
    if found.f_blocks == 0 {
        // It does not say.
        return Ok(Space { size: 0, free: u64::MAX });
    }
    Ok(Space { size: found.f_blocks * found.f_frsize, free: found.f_bavail * found.f_frsize })
}

fn free(path: &Path) -> io::Result<u64> {
    space(path).map(|space| space.free)
}

/// The directory, or the nearest one above it that exists.
fn existing(path: &Path) -> &Path {
    let found = path.ancestors().find(|path| path.exists());
    found.filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(existing(path)).ok().map(|found| found.dev())
}

fn segment_bytes() -> u64 {
    Options::default().segment_bytes
}

/// Gives a file real blocks.
fn allocate(file: &fs::File, bytes: u64) -> io::Result<()> {
    // SAFETY: the call takes no memory.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, bytes as libc::off_t) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests;
