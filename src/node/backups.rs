//! Backups: the newest checkpoint as one stream, read from its files through the executor, so that a slow
//! client or disk holds nobody up. Each block is compared with its checksum before it leaves.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use glommio::io::BufferedFile;

use super::checkpoints::{Found, block_file};
use super::files;
use crate::api::backup::{Backup, Later, Source};
use crate::checkpoint::{ALIGN_BYTES, Snapshot};
use crate::mvcc::base::{Base, BlockRef};

/// How often the files of the newest checkpoint may have gone to a newer one when they are opened.
const TRIES: usize = 3;

/// The newest checkpoint, as the thread that builds them leaves it for others.
#[derive(Clone, Debug, Default)]
pub(super) struct Newest(Arc<Mutex<Option<Found>>>);

impl Newest {
    /// There is a newer one.
    pub(super) fn set(&self, found: Option<Found>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }

    fn get(&self) -> Option<Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Opens backups of the checkpoints in a directory.
pub(super) struct Backups {
    path: PathBuf,
    newest: Newest,
}

impl Backups {
    pub(super) fn new(path: PathBuf, newest: Newest) -> Backups {
        Backups { path, newest }
    }

    async fn try_open(&self) -> io::Result<Box<dyn Backup>> {
        let found = self.newest.get().ok_or(io::ErrorKind::NotFound)?;
        let mut files = BTreeMap::new();
        for row in &found.manifest.blocks {
            if let Entry::Vacant(place) = files.entry(row.file) {
                let file = BufferedFile::open(block_file(&self.path, row.file)).await;
                let file = file.map_err(|error| system(&error))?;
                files::without_readahead(&file);
                place.insert(file);
            }
        }
        let snapshot = Snapshot::of(&found.manifest);
        let head = Bytes::from(snapshot.head());
        let rows = found.manifest.blocks.clone().into_iter();
        let len_bytes = snapshot.bytes;
        Ok(Box::new(Reading { _base: found.base, files, head: Some(head), rows, len_bytes }))
    }
}

impl Source for Backups {
    fn open(&self) -> Later<'_, io::Result<Box<dyn Backup>>> {
        Box::pin(async move {
            let mut tries = 1;
            loop {
                match self.try_open().await {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                        tries += 1;
                    }
                    opened => return opened,
                }
            }
        })
    }
}

/// A backup under way.
struct Reading {
    /// As long as somebody has the image, no block of it becomes a hole.
    _base: Arc<Base>,
    files: BTreeMap<u64, BufferedFile>,
    head: Option<Bytes>,
    rows: std::vec::IntoIter<BlockRef>,
    len_bytes: u64,
}

impl Reading {
    async fn block(&self, row: &BlockRef) -> io::Result<Bytes> {
        let file = &self.files[&row.file];
        let read = file.read_at(row.offset, row.len as usize).await;
        let read = read.map_err(|error| system(&error))?;
        if read.len() != row.len as usize || crc32c::crc32c(&read) != row.crc {
            let what = format!("the block at {} of file {} is damaged", row.offset, row.file);
            return Err(io::Error::new(io::ErrorKind::InvalidData, what));
        }
        let mut bytes = BytesMut::from(&read[..]);
        bytes.resize(bytes.len().next_multiple_of(ALIGN_BYTES as usize), 0);
        Ok(bytes.freeze())
    }
}

impl Backup for Reading {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&mut self) -> Later<'_, io::Result<Bytes>> {
        Box::pin(async move {
            if let Some(head) = self.head.take() {
                return Ok(head);
            }
            match self.rows.next() {
                Some(row) => self.block(&row).await,
                None => Ok(Bytes::new()),
            }
        })
    }
}

/// What the executor says of files, as the operating system would.
fn system(error: &glommio::GlommioError<()>) -> io::Error {
    match error {
        glommio::GlommioError::IoError(source) => io::Error::new(source.kind(), source.to_string()),
        glommio::GlommioError::EnhancedIoError { source, .. } => {
            io::Error::new(source.kind(), error.to_string())
        }
        other => io::Error::other(other.to_string()),
    }
}
