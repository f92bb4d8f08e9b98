//! A backup as a file: mapped, its checksum checked, its kind found out.
//!
//! Knows where a checksum stands, and how the kinds of backups begin.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use sha2::{Digest as _, Sha256};

use super::bbolt::Database;
use super::failure::Failure;
use crate::checkpoint::Snapshot;
use crate::mvcc::base::{Image, Mapped};

/// Bytes of the checksum at the end of a backup.
pub const SHA256_BYTES: usize = 32;

/// Whether a file of this length has a checksum at its end: pages and blocks have multiples of 512.
#[must_use]
pub fn has_checksum(bytes: u64) -> bool {
    bytes % 512 == SHA256_BYTES as u64
}

/// Who wrote a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// etcd.
    Etcd,
    /// cored.
    Own,
}

/// A backup in a file. Nothing may write to the file as long as this lives.
#[derive(Debug)]
pub struct BackupFile {
    path: PathBuf,
    mapped: Arc<Mmap>,
    kind: Kind,
}

impl Image for Mmap {
    fn bytes(&self) -> &[u8] {
        self
    }
}

impl BackupFile {
    /// Maps the file and finds out what it is; reads next to nothing.
    ///
    /// # Errors
    /// [`Failure::File`], and [`Failure::NotOurs`] for what is no backup.
    pub fn open(path: &Path) -> Result<BackupFile, Failure> {
        let map = || -> io::Result<Mmap> {
            let file = File::open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a file"));
            }
            // SAFETY: the file is a backup, which nobody changes once it has its name. Who truncates
            // it all the same ends this process by a signal, and nothing else.
            unsafe { Mmap::map(&file) }
        };
        let mapped = Arc::new(map().map_err(Failure::file(path))?);
        let path = path.to_owned();
        let kind = if Snapshot::is_one(&mapped) {
            Kind::Own
        } else if Database::is_one(&mapped) {
            Kind::Etcd
        } else {
            let why = "it is no backup of a known kind".into();
            return Err(Failure::NotOurs { path, why });
        };
        Ok(BackupFile { path, mapped, kind })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who wrote it.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The file without the checksum at its end.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match has_checksum(self.mapped.len() as u64) {
            true => &self.mapped[..self.mapped.len() - SHA256_BYTES],
            false => &self.mapped,
        }
    }

    /// Whether there is a checksum at its end.
    #[must_use]
    pub fn has_checksum(&self) -> bool {
        has_checksum(self.mapped.len() as u64)
    }

    /// The whole file as the store reads it; blocks lie at the same places.
    #[must_use]
    pub fn mapped(&self) -> Mapped {
        Arc::clone(&self.mapped) as Mapped
    }

    /// Reads the whole file and compares it with its checksum, if it has one.
    ///
    /// # Errors
    /// [`Failure::Damaged`] when they differ.
    pub fn check_checksum(&self) -> Result<(), Failure> {
        self.digest(true).map(drop)
    }

    /// Reads the whole file, compares it with its checksum if it has one and `check` is set, and returns
    /// eight bytes of what the checksum should be.
    ///
    /// # Errors
    /// [`Failure::Damaged`] when they differ.
    pub fn digest(&self, check: bool) -> Result<u64, Failure> {
        let (bytes, checksum) = self.mapped.split_at(self.bytes().len());
        let found = Sha256::digest(bytes);
        if check && !checksum.is_empty() && found[..] != *checksum {
            let why = format!("expected sha256 {}, got {}", hex(checksum), hex(&found));
            return Err(Failure::Damaged { path: self.path.clone(), why });
        }
        let first = found.first_chunk().expect("32 bytes");
        Ok(u64::from_be_bytes(*first))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Has `fill` make the file `path`, for its owner alone, and gives it its name once it is whole and on the
/// disk. A file that had the name is replaced then, and not before; `fill` gets the name for the time being.
///
/// # Errors
/// Those of `fill`, and [`Failure::File`]; nothing is left of the new file then.
pub fn replace<T>(
    path: &Path,
    fill: impl FnOnce(&Path, File) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(true).mode(0o600);
    let file = options.open(&part).map_err(Failure::file(&part))?;
    let done = fill(&part, file).and_then(|made| {
        let synced = File::open(&part).and_then(|file| file.sync_all());
        synced.map_err(Failure::file(&part))?;
        fs::rename(&part, path).map_err(Failure::file(path))?;
        sync_parent(path)?;
        Ok(made)
    });
    if done.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&part);
    }
    done
}

/// Puts the checksum of everything in the file behind it.
///
/// # Errors
/// When the file can not be read or written.
pub fn append_checksum(mut file: File) -> io::Result<()> {
    let mut sum = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    file.seek(SeekFrom::Start(0))?;
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            len => sum.update(&buffer[..len]),
        }
    }
    file.write_all(&sum.finalize())
}

/// Makes the name of a file last.
///
/// # Errors
/// [`Failure::File`].
fn sync_parent(path: &Path) -> Result<(), Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(Failure::file(parent))
}
