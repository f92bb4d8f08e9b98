//! Gives space back to the filesystem, a little at a time.
//!
//! To free a gigabyte at once holds up every durable write of the machine: ext4 that is mounted with
//! `discard` had the log wait for 0.4 to 0.6 s. So files shrink in steps, each made durable before the
//! next, with pauses in which the log has the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;

use super::Pace;

/// Bytes that are freed at once.
const STEP_BYTES: u64 = 1 << 20;

/// Removes a file, which nobody may have mapped.
pub(super) fn remove(path: &Path, pace: &mut Pace) -> io::Result<()> {
    // What can not be made smaller, a directory with the name of a file say, shows when it is removed.
    if let Ok(file) = OpenOptions::new().write(true).open(path) {
        let mut len = file.metadata()?.len();
        while len > STEP_BYTES {
            len -= STEP_BYTES;
            file.set_len(len)?;
            step(&file, pace)?;
        }
    }
    fs::remove_file(path)
}

/// Gives the disk back what lies between the used parts of a file, where the filesystem can.
/// `used` has their starts and ends, ascending.
pub(super) fn punch(path: &Path, used: &[(u64, u64)], pace: &mut Pace) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let end = file.metadata()?.len();
    let mut from = 0;
    for &(start, until) in used.iter().chain([&(end, end)]) {
        while let Some(at) = data(&file, from)?.filter(|at| *at < start) {
            from = start.min(at + STEP_BYTES);
            let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let (offset, len) = (at as libc::off_t, (from - at) as libc::off_t);
            // SAFETY: the call takes no memory.
            if unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) } != 0 {
                let error = io::Error::last_os_error();
                let unable = error.raw_os_error() == Some(libc::EOPNOTSUPP);
                return if unable { Ok(()) } else { Err(error) };
            }
            step(&file, pace)?;
        }
        from = from.max(until);
    }
    Ok(())
}

/// The first byte from `from` on that takes space on the disk.
fn data(file: &File, from: u64) -> io::Result<Option<u64>> {
    // SAFETY: the call takes no memory.
    let at = unsafe { libc::lseek(file.as_raw_fd(), from as libc::off_t, libc::SEEK_DATA) };
    match u64::try_from(at) {
        Ok(at) => Ok(Some(at)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Has what was freed reach the disk, in the portion that it is.
fn step(file: &File, pace: &mut Pace) -> io::Result<()> {
    file.sync_all()?;
    pace.pause();
    Ok(())
}
