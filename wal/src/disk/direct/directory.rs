//! The directory of the logs: made, locked and read. It knows names, not what is in the files.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::Error;
use crate::segment;

/// A directory of logs that this process holds alone.
///
/// The lock is on the directory itself, so nothing is left behind when the process dies, and it is
/// shared by the disks of all logs in it.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    file: File,
    /// Opened apart from `file`, for the lock alone: a request of the ring on `file` may outlive a
    /// killed process by a moment, and would keep its successor out.
    _lock: File,
}

impl Directory {
    /// Opens the directory, making it (mode 0700) and those above it if they are missing, and locks
    /// it until the last [`super::DirectDisk`] on it is gone.
    ///
    /// # Errors
    /// - [`Error::Locked`] if another process, or another part of this one, has it.
    /// - [`Error::Io`] if it can not be made or opened.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Directory>, Error> {
        let path = path.as_ref().to_path_buf();
        let name = path.display().to_string();
        let failed = |op: &'static str| {
            let name = name.clone();
            move |source| Error::io(op, name, 0, source)
        };
        if !path.is_dir() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&path);
            made.map_err(failed("make directory"))?;
            sync_parent(&path).map_err(failed("sync the parent of"))?;
        }
        let file = File::open(&path).map_err(failed("open directory"))?;
        let own = File::open(&path).map_err(failed("open directory"))?;
        match lock(own.as_raw_fd(), libc::LOCK_NB) {
            Ok(()) => Ok(Arc::new(Directory { path, file, _lock: own })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(Error::Locked { directory: name })
            }
            Err(error) => Err(failed("lock directory")(error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The numbers of the logs that have at least one segment here, ascending.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory can not be read.
    pub fn logs(&self) -> Result<Vec<u16>, Error> {
        let names = self.names().map_err(|source| {
            Error::io("list directory", self.path.display().to_string(), 0, source)
        })?;
        let mut logs: Vec<u16> = names
            .iter()
            .filter_map(|name| segment::parse_name(name))
            .filter(|(_, _, suffix)| *suffix == "wal")
            .map(|(log, _, _)| log)
            .collect();
        logs.sort_unstable();
        logs.dedup();
        Ok(logs)
    }

    /// The names of everything in it, ascending. Names that are not text are none of ours.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Opens a file for direct reads and writes.
    pub(super) fn open_direct(&self, name: &str, create: bool) -> io::Result<File> {
        fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(create)
            .mode(super::FILE_MODE)
            .custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW)
            .open(self.path.join(name))
    }

    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    /// Makes names that were added and removed durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    pub(super) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    pub(super) fn name(&self) -> String {
        self.path.display().to_string()
    }
}

/// Takes the exclusive lock of an open file. `how` may be [`libc::LOCK_NB`].
pub(super) fn lock(file: RawFd, how: i32) -> io::Result<()> {
    loop {
        // SAFETY: flock takes no memory of ours; a bad descriptor is an error, not undefined.
        if unsafe { libc::flock(file, libc::LOCK_EX | how) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
