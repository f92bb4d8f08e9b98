//! Backups of cored's own: the stream of a checkpoint, as a member sends it.
//!
//! Knows what its parts mean together; their bytes are told in [`crate::checkpoint`] and [`crate::mvcc`].

use std::collections::BTreeMap;

use super::backup::Backup;
use super::failure::Failure;
use super::file::BackupFile;
use crate::checkpoint::{self, Manifest, ManifestError};
use crate::keys::{KeyRange, Revision};
use crate::mvcc::base::{Base, Corrupt};
use crate::mvcc::{Digest, VersionRef, push_record};

/// A backup of cored: its control state read, its keys in place.
#[derive(Debug)]
pub struct Snapshot {
    /// All but the keys.
    pub backup: Backup,
    base: Base,
    bytes: u64,
}

/// Why a backup of cored can not be read.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error("control state: {0}")]
    Control(#[from] crate::lane::redo::Malformed),
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    #[error("the file has {found} bytes, {expected} were written")]
    Length { found: u64, expected: u64 },
}

impl Snapshot {
    /// Reads all but the keys.
    ///
    /// # Errors
    /// [`Failure::Damaged`], and [`Failure::Newer`] for what a later release wrote.
    pub fn open(file: &BackupFile) -> Result<Snapshot, Failure> {
        Snapshot::read(file).map_err(|error| match error {
            Error::Manifest(ManifestError::Newer { .. }) => {
                Failure::Newer { path: file.path().to_owned(), why: error.to_string() }
            }
            _ => damaged(file, &error),
        })
    }

    fn read(file: &BackupFile) -> Result<Snapshot, Error> {
        let checkpoint::Snapshot { manifest, bytes } = checkpoint::Snapshot::decode(file.bytes())?;
        let found = file.bytes().len() as u64;
        if found != bytes {
            return Err(Error::Length { found, expected: bytes });
        }
        let Manifest { control, at, compacted, blocks, .. } = manifest;
        let backup = Backup::of_control(&control, at, compacted)?;
        let files = BTreeMap::from([(0, file.mapped())]);
        let base = Base::open(at, blocks, files)?;
        Ok(Snapshot { backup, base, bytes })
    }

    /// The keys.
    #[must_use]
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Bytes of the backup, without the checksum behind it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads every block.
    ///
    /// # Errors
    /// The first that is damaged.
    pub fn check(&self) -> Result<(), Corrupt> {
        (0..self.base.blocks().len()).try_for_each(|number| self.base.check_block(number))
    }

    /// Shows all versions in order of their positions, tombstones too.
    ///
    /// # Errors
    /// Those of `each`, and the first block that is damaged.
    pub fn versions<E: From<Corrupt>>(
        &self,
        mut each: impl FnMut(&VersionRef<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let all = [KeyRange::all()];
        for version in self.base.history(&all, Revision::ZERO, self.backup.revision) {
            each(&version?)?;
        }
        Ok(())
    }

    /// HashKV at the backup's revision: what the member answered then.
    ///
    /// # Errors
    /// The first block that is damaged.
    pub fn hash_kv(&self) -> Result<u32, Corrupt> {
        let Backup { revision, compacted, .. } = self.backup;
        // etcd's exception, which `Store::hash_records` tells of.
        let kept_at = if self.base.live() == 0 { compacted } else { revision };
        let mut digest = Digest::new();
        let mut record = Vec::new();
        self.versions(|version| {
            if version.modified <= compacted {
                let kept = self.base.get_at(version.key, kept_at)?;
                let kept = kept.filter(|kept| !kept.is_tombstone());
                if kept.map(|kept| kept.position()) != Some(version.position()) {
                    return Ok(());
                }
            }
            record.clear();
            push_record(version, &mut record);
            digest.add(&record);
            Ok::<(), Corrupt>(())
        })?;
        Ok(digest.value())
    }
}

/// What is told of a damaged backup.
pub fn damaged(file: &BackupFile, error: &dyn std::error::Error) -> Failure {
    Failure::Damaged { path: file.path().to_owned(), why: error.to_string() }
}
